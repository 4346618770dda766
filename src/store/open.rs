//! Opens the store that the configuration names.

use super::Bucket;
use crate::domain::recording::{Azure, Gcs, S3, Store};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum, S3ConditionalPut};
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::{Certificate, CredentialProvider};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Why a store cannot be opened. Says what to change.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that the configuration names.
    #[error("failed to read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The library refuses the settings.
    #[error("recording.store is refused: {0}")]
    Settings(String),
}

fn refused(failure: &object_store::Error) -> OpenError {
    OpenError::Settings(super::one_line(failure))
}

/// Opens it. Nothing is asked of the store yet.
///
/// # Errors
/// See [`OpenError`].
pub fn open(store: &Store) -> Result<Bucket, OpenError> {
    match store {
        Store { s3: Some(s3), .. } => open_s3(s3),
        Store { gcs: Some(gcs), .. } => open_gcs(gcs),
        Store { azure: Some(azure), .. } => open_azure(azure),
        Store { directory, .. } => open_directory(directory.as_deref().unwrap_or(Path::new("/"))),
    }
}

fn open_directory(directory: &Path) -> Result<Bucket, OpenError> {
    let store = LocalFileSystem::new_with_prefix(directory).map_err(|failure| refused(&failure))?;
    Ok(Bucket::new(Arc::new(store), false))
}

fn open_s3(settings: &S3) -> Result<Bucket, OpenError> {
    // The environment has what a cloud's identity webhooks put there.
    let mut builder = if settings.credentials.is_some() { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
    builder = builder
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Buckets with a retention lock demand it.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_client_options(client(settings.certificate_authorities.as_deref(), settings.allow_http)?)
        // One object is deleted at a time, and not every server knows the other way.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(folder) = &settings.credentials {
        let keys = KeyFiles(folder.clone());
        keys.read()?;
        builder = builder.with_credentials(Arc::new(keys));
    }
    bucket(|retry| builder.clone().with_retry(retry).build())
}

fn open_gcs(settings: &Gcs) -> Result<Bucket, OpenError> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&settings.bucket);
    if let Some(file) = &settings.service_account {
        builder = builder.with_service_account_path(file.to_string_lossy());
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let builder = builder.with_client_options(client(settings.certificate_authorities.as_deref(), settings.allow_http)?);
    bucket(|retry| builder.clone().with_retry(retry).build())
}

fn open_azure(settings: &Azure) -> Result<Bucket, OpenError> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_account(&settings.account).with_container_name(&settings.container);
    if let Some(file) = &settings.access_key {
        let key = KeyFile(file.clone());
        key.read().map_err(|failure| OpenError::Settings(super::one_line(&failure)))?;
        builder = builder.with_credentials(Arc::new(key));
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let builder = builder.with_client_options(client(settings.certificate_authorities.as_deref(), settings.allow_http)?);
    bucket(|retry| builder.clone().with_retry(retry).build())
}

/// The public authorities are part of the program: its image has no others.
fn client(more: Option<&Path>, allow_http: bool) -> Result<ClientOptions, OpenError> {
    let mut options =
        ClientOptions::new().with_connect_timeout(Duration::from_secs(5)).with_timeout(super::PATIENCE).with_allow_http(allow_http);
    for authority in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        if let Ok(certificate) = Certificate::from_der(authority) {
            options = options.with_root_certificate(certificate);
        }
    }
    if let Some(file) = more {
        let text = read(file)?;
        for certificate in Certificate::from_pem_bundle(text.as_bytes()).map_err(|failure| refused(&failure))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// A write is tried once: whether and when again is the recorder's decision. A read that fails for a moment is tried again, over a
/// second or so.
fn bucket<S: ObjectStore>(build: impl Fn(RetryConfig) -> object_store::Result<S>) -> Result<Bucket, OpenError> {
    let client = |max_retries| {
        let retry = RetryConfig { max_retries, retry_timeout: super::PATIENCE, ..RetryConfig::default() };
        build(retry).map(Arc::new).map_err(|failure| refused(&failure))
    };
    Ok(Bucket::new(client(0)?, true).reading_with(client(READ_AGAIN)?))
}

/// How often a read is tried again.
const READ_AGAIN: usize = 4;

fn read(path: &Path) -> Result<zeroize::Zeroizing<String>, OpenError> {
    std::fs::read_to_string(path).map(Into::into).map_err(|source| OpenError::File { path: path.into(), source })
}

/// Keys in two files, as a mounted Secret has them. Read for each request: a rotated Secret is used at once.
#[derive(Debug)]
struct KeyFiles(PathBuf);

impl KeyFiles {
    fn read(&self) -> Result<AwsCredential, OpenError> {
        let file = |name| read(&self.0.join(name)).map(|text| text.trim().to_owned());
        Ok(AwsCredential { key_id: file("access-key-id")?, secret_key: file("secret-access-key")?, token: None })
    }
}

#[async_trait::async_trait]
impl CredentialProvider for KeyFiles {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let read = self.read().map_err(|failure| object_store::Error::Generic { store: "S3", source: Box::new(failure) })?;
        Ok(Arc::new(read))
    }
}

/// An account's key in a file, as a mounted Secret has it. Read for each request.
#[derive(Debug)]
struct KeyFile(PathBuf);

impl KeyFile {
    fn read(&self) -> object_store::Result<AzureCredential> {
        let failed = |source| object_store::Error::Generic { store: "Azure", source };
        let text = read(&self.0).map_err(|failure| failed(failure.into()))?;
        // Not what exactly is wrong with it: that would tell of the key.
        let key = AzureAccessKey::try_new(text.trim());
        key.map(AzureCredential::AccessKey).map_err(|_| failed(format!("{} holds no key in base64", self.0.display()).into()))
    }
}

#[async_trait::async_trait]
impl CredentialProvider for KeyFile {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        self.read().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    /// A server that answers the Nth request with the Nth status; tells the heads that came.
    fn answering(statuses: &'static [&'static str]) -> (u16, mpsc::Receiver<Vec<String>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
        let port = listener.local_addr().expect("address").port();
        let (sender, heads) = mpsc::channel();
        std::thread::spawn(move || {
            for (stream, status) in listener.incoming().zip(statuses) {
                let mut stream = BufReader::new(stream.expect("accepted"));
                let head: Vec<String> = stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let _ = sender.send(head);
                let headers = "ETag: \"1\"\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nConnection: close\r\nContent-Length: 2";
                let _ = write!(stream.get_mut(), "HTTP/1.1 {status}\r\n{headers}\r\n\r\nok");
            }
        });
        (port, heads)
    }

    #[tokio::test]
    async fn a_read_is_tried_again_and_a_write_is_not() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("folder");
        for name in ["access-key-id", "secret-access-key"] {
            std::fs::write(folder.path().join(name), "x").expect("written");
        }
        let (port, heads) = answering(&["500 Internal Server Error", "200 OK", "500 Internal Server Error", "200 OK"]);
        let bucket = open_s3(&S3 {
            bucket: "b".into(),
            region: "r".into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            allow_http: true,
            credentials: Some(folder.path().into()),
            certificate_authorities: None,
        })
        .expect("opened");
        assert_eq!(bucket.read("a").await.expect("read the second time"), "ok");
        let written = bucket.create("a", "text".into(), &[]).await;
        assert!(matches!(written, Err(StoreError::Failed { .. })), "{written:?}");
        let methods: Vec<String> = heads.try_iter().map(|head| head[0].split(' ').next().unwrap_or_default().to_owned()).collect();
        assert_eq!(methods, ["GET", "GET", "PUT"]);
    }

    #[test]
    fn a_key_that_is_none_is_refused_without_a_word_of_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "c2Vj~cmV0").expect("written");
        let azure = Azure { account: "a".into(), container: "c".into(), access_key: Some(file.path().into()), ..Azure::default() };
        let refused = open_azure(&azure).expect_err("refused").to_string();
        assert!(refused.contains("holds no key in base64") && !refused.contains('~'), "{refused}");
    }

    /// The server that people test with ignores the condition that counts. So: what is asked of Google's, and that its refusal is understood.
    #[tokio::test]
    async fn google_is_asked_to_write_once_and_to_keep_the_labels() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("folder");
        let account = folder.path().join("account.json");
        let key = r#"{"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": true}"#;
        std::fs::write(&account, key).expect("written");
        let (port, heads) = answering(&["412 Precondition Failed"]);
        let bucket = open_gcs(&Gcs {
            bucket: "b".into(),
            service_account: Some(account),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            allow_http: true,
            certificate_authorities: None,
        })
        .expect("opened");
        let written = bucket.create("a/1", "text".into(), &[("actor", "Zoë".into())]).await;
        assert!(matches!(written, Err(StoreError::AlreadyThere(_))), "{written:?}");
        let head = heads.recv().expect("asked");
        assert!(head[0].starts_with("PUT /b/a%2F1 ") || head[0].starts_with("PUT /b/a/1 "), "{}", head[0]);
        for line in ["x-goog-if-generation-match: 0", "x-goog-meta-actor: Zo%C3%AB"] {
            assert!(head.iter().any(|one| one.eq_ignore_ascii_case(line)), "no {line}: {head:?}");
        }
    }
}
