//! Where recordings are, by a configuration file or by an address.

use crate::domain::recording::{Azure, Gcs, Recording, RecordingMode, S3, Store};
use crate::recording::read::Library;
use crate::store;
use anyhow::{Context as _, bail};
use clap::Args;
use std::path::{Path, PathBuf};

/// Where the recordings are.
#[derive(Args, Debug)]
pub struct Place {
    /// The installation's configuration file, or one with its part `recording` alone.
    #[arg(long, value_name = "FILE", conflicts_with = "store", global = true)]
    config: Option<PathBuf>,
    /// Address of the store. Default: $`SANDGLASS_RECORDINGS`.
    #[arg(
        long,
        value_name = "URL",
        global = true,
        long_help = "Address of the store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://ACCOUNT/CONTAINER/PREFIX or file:///FOLDER.\n\
                     Credentials are those of the environment, as the cloud's own programs take them. Default: $SANDGLASS_RECORDINGS."
    )]
    store: Option<String>,
    /// Address of the server, where it is not the cloud's public one; of Azure the account's: `https://ACCOUNT.blob.core.usgovcloudapi.net`.
    #[arg(long, value_name = "URL", global = true, conflicts_with = "config")]
    endpoint: Option<String>,
}

impl Place {
    pub(super) fn library(&self) -> anyhow::Result<Library> {
        let recording = match (&self.config, &self.store) {
            (Some(file), _) => of_file(file)?,
            (None, Some(url)) => of_url(url, self.endpoint.as_deref())?,
            (None, None) => {
                let url = std::env::var("SANDGLASS_RECORDINGS").ok().filter(|url| !url.is_empty());
                of_url(
                    &url.context("say where the recordings are: --store s3://BUCKET/PREFIX, or --config FILE")?,
                    self.endpoint.as_deref(),
                )?
            }
        };
        recording.check()?;
        let store = recording.required().context("recording.mode is Off: there are no recordings")?;
        Ok(Library::new(store::open(store)?, recording.prefix.clone()))
    }
}

fn of_file(file: &Path) -> anyhow::Result<Recording> {
    #[derive(serde::Deserialize)]
    struct Part {
        recording: Recording,
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let part: Part = serde_saphyr::from_str(&text).with_context(|| format!("{} has no part `recording`", file.display()))?;
    Ok(part.recording)
}

fn of_url(url: &str, endpoint: Option<&str>) -> anyhow::Result<Recording> {
    let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} is no address of a store: s3://BUCKET/PREFIX"))?;
    let (first, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let mut store = Store::default();
    let mut prefix = prefix.trim_matches('/').to_owned();
    let allow_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let endpoint = endpoint.map(str::to_owned);
    match scheme {
        "s3" => {
            let region =
                std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION")).unwrap_or_else(|_| "us-east-1".into());
            store.s3 = Some(S3 { bucket: first.into(), region, endpoint, allow_http, credentials: None, certificate_authorities: None });
        }
        "gs" => store.gcs = Some(Gcs { bucket: first.into(), endpoint, allow_http, ..Gcs::default() }),
        "az" => {
            let (container, rest) = prefix.split_once('/').map_or((prefix.as_str(), ""), |(container, rest)| (container, rest));
            store.azure = Some(Azure { account: first.into(), container: container.into(), endpoint, allow_http, ..Azure::default() });
            prefix = String::from(rest);
        }
        "file" => {
            if endpoint.is_some() {
                bail!("--endpoint is for s3, gs and az");
            }
            store.directory = Some(PathBuf::from(rest));
            prefix.clear();
        }
        other => bail!("{other}:// is no kind of store: there are s3, gs, az and file"),
    }
    Ok(Recording { mode: RecordingMode::Required, store: Some(store), prefix, ..Recording::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_stores_are_understood() {
        let prefix = |url| of_url(url, None).map(|recording| (recording.store.expect("a store").address(), recording.prefix));
        assert_eq!(prefix("s3://bucket/a/b/").expect("understood"), ("s3://bucket".into(), "a/b".into()));
        assert_eq!(prefix("gs://bucket").expect("understood"), ("gs://bucket".into(), String::new()));
        assert_eq!(prefix("az://account/container/x").expect("understood"), ("az://container".into(), "x".into()));
        assert_eq!(prefix("file:///srv/recordings").expect("understood"), ("file:///srv/recordings".into(), String::new()));
        assert!(prefix("ftp://x").expect_err("refused").to_string().contains("there are s3, gs, az and file"));
        assert!(prefix("bucket").is_err());
    }
}
