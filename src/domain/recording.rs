//! The part `recording` of the configuration file: whether, and into which store. Pure.

use super::configuration::{ConfigurationError, refuse};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Whether users are recorded, and where to.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recording {
    /// `Required`: no recording, no shell.
    #[serde(default)]
    pub mode: RecordingMode,
    /// Where recordings go.
    #[serde(default)]
    pub store: Option<Store>,
    /// Whether keystrokes are recorded too.
    #[serde(default)]
    pub keystrokes: Keystrokes,
    /// First part of every object's name, without a slash at either end.
    #[serde(default)]
    pub prefix: String,
}

/// Whether keystrokes are recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Keystrokes {
    /// They are not.
    #[default]
    Never,
    /// Those that go into a terminal while its echo is on: no passwords, and nothing while a program does its own echoing.
    Echoed,
}

/// Whether users are recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum RecordingMode {
    /// What cannot be recorded is not shown.
    #[default]
    Required,
    /// Nothing is recorded. Said on purpose: there is no way to get here by leaving something out.
    Off,
}

/// An object store: exactly one of its fields is set.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Store {
    /// S3, or anything that speaks it and knows conditional writes.
    #[serde(default)]
    pub s3: Option<S3>,
    /// Google Cloud Storage.
    #[serde(default)]
    pub gcs: Option<Gcs>,
    /// Azure Blob Storage.
    #[serde(default)]
    pub azure: Option<Azure>,
    /// A folder that all replicas share.
    #[serde(default)]
    pub directory: Option<PathBuf>,
}

/// A bucket of S3 or compatible.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// Name of the bucket.
    pub bucket: String,
    /// Region.
    #[serde(default = "default_region")]
    pub region: String,
    /// Address of the server, where it is not Amazon's: `https://s3.example.com`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the endpoint may be plain HTTP: inside a cluster, for tests.
    #[serde(default)]
    pub allow_http: bool,
    /// Folder with the files `access-key-id` and `secret-access-key`, read again when they change. Default: the identity of the pod (web
    /// identity, container or instance credentials).
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// PEM file of the authorities that sign the endpoint's certificate, beside the public ones.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gcs {
    /// Name of the bucket.
    pub bucket: String,
    /// File with the service account's key. Default: the identity of the pod.
    #[serde(default)]
    pub service_account: Option<PathBuf>,
    /// Address of the server, where it is not Google's public one: `https://storage.example.com`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// As [`S3::allow_http`].
    #[serde(default)]
    pub allow_http: bool,
    /// As [`S3::certificate_authorities`].
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Azure {
    /// Name of the storage account.
    pub account: String,
    /// Name of the container.
    pub container: String,
    /// File with the account's key. Default: the identity of the pod.
    #[serde(default)]
    pub access_key: Option<PathBuf>,
    /// Address of the account, where it is not below `blob.core.windows.net`: `https://account.blob.core.usgovcloudapi.net`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// As [`S3::allow_http`].
    #[serde(default)]
    pub allow_http: bool,
    /// As [`S3::certificate_authorities`].
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
}

fn default_region() -> String {
    "us-east-1".into()
}

impl Recording {
    /// The store, where recording is required.
    #[must_use]
    pub fn required(&self) -> Option<&Store> {
        self.store.as_ref().filter(|_| self.mode == RecordingMode::Required)
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        let whole = |part: &str| !part.is_empty() && part != "." && part != "..";
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        let usable = self.prefix.bytes().all(plain) && self.prefix.split('/').all(whole);
        if !self.prefix.is_empty() && !usable {
            return Err(refuse(
                "recording.prefix",
                "must be letters, digits, - _ . with single slashes between, e.g. sandglass/production",
            ));
        }
        match (self.mode, &self.store) {
            (RecordingMode::Required, None) => Err(refuse(
                "recording.store",
                "must be set: what is not recorded is not shown. To run without recordings, set recording.mode to Off",
            )),
            (RecordingMode::Off, Some(_)) => Err(refuse("recording.store", "must not be set while recording.mode is Off")),
            (RecordingMode::Off, None) => Ok(()),
            (RecordingMode::Required, Some(store)) => store.check(),
        }
    }
}

impl Store {
    fn check(&self) -> Result<(), ConfigurationError> {
        let kinds = [self.s3.is_some(), self.gcs.is_some(), self.azure.is_some(), self.directory.is_some()];
        if kinds.into_iter().filter(|set| *set).count() != 1 {
            return Err(refuse("recording.store", "must have exactly one of s3, gcs, azure and directory"));
        }
        let names = [
            ("s3.bucket", self.s3.as_ref().map(|s3| &s3.bucket)),
            ("gcs.bucket", self.gcs.as_ref().map(|gcs| &gcs.bucket)),
            ("azure.account", self.azure.as_ref().map(|azure| &azure.account)),
            ("azure.container", self.azure.as_ref().map(|azure| &azure.container)),
        ];
        for (field, name) in names {
            if name.is_some_and(String::is_empty) {
                return Err(refuse(format!("recording.store.{field}"), "must not be empty"));
            }
        }
        let endpoints = [
            ("s3", self.s3.as_ref().map(|s3| (&s3.endpoint, s3.allow_http))),
            ("gcs", self.gcs.as_ref().map(|gcs| (&gcs.endpoint, gcs.allow_http))),
            ("azure", self.azure.as_ref().map(|azure| (&azure.endpoint, azure.allow_http))),
        ];
        for (kind, endpoint) in endpoints {
            if let Some((Some(endpoint), allow_http)) = endpoint
                && !(endpoint.starts_with("https://") || allow_http && endpoint.starts_with("http://"))
            {
                let field = format!("recording.store.{kind}.endpoint");
                return Err(refuse(field, "must begin with https://, or with http:// and allowHttp: true"));
            }
        }
        if self.directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
            return Err(refuse("recording.store.directory", "must be an absolute path"));
        }
        Ok(())
    }

    /// The store's address, as it stands in status and events.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self { s3: Some(s3), .. } => format!("s3://{}", s3.bucket),
            Self { gcs: Some(gcs), .. } => format!("gs://{}", gcs.bucket),
            Self { azure: Some(azure), .. } => format!("az://{}", azure.container),
            Self { directory, .. } => format!("file://{}", directory.clone().unwrap_or_default().display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recording, String> {
        let recording: Recording = serde_saphyr::from_str(text).map_err(|failure| failure.to_string())?;
        recording.check().map(|()| recording).map_err(|failure| failure.to_string())
    }

    #[test]
    fn nobody_runs_without_recordings_by_leaving_something_out() {
        assert!(parse("{}").expect_err("refused").contains("recording.mode to Off"));
        assert_eq!(parse("{ mode: Off }").expect("valid").required(), None);
    }

    #[test]
    fn each_store_has_its_address() {
        for (store, address) in [
            ("{ s3: { bucket: b } }", "s3://b"),
            ("{ gcs: { bucket: b } }", "gs://b"),
            ("{ azure: { account: a, container: c } }", "az://c"),
            ("{ directory: /var/lib/recordings }", "file:///var/lib/recordings"),
        ] {
            let recording = parse(&format!("{{ store: {store} }}")).expect("valid");
            assert_eq!(recording.required().map(Store::address).as_deref(), Some(address));
        }
    }

    #[test]
    fn each_mistake_names_its_field() {
        for (text, field) in [
            ("{ store: {} }", "exactly one of"),
            ("{ store: { s3: { bucket: b }, directory: /x } }", "exactly one of"),
            ("{ store: { s3: { bucket: '' } } }", "recording.store.s3.bucket"),
            ("{ store: { s3: { bucket: b, endpoint: 'http://x' } } }", "recording.store.s3.endpoint"),
            ("{ store: { gcs: { bucket: b, endpoint: 'http://x' } } }", "recording.store.gcs.endpoint"),
            ("{ store: { azure: { account: a, container: c, endpoint: 'x' } } }", "recording.store.azure.endpoint"),
            ("{ store: { directory: here } }", "recording.store.directory"),
            ("{ mode: Off, store: { directory: /x } }", "recording.store"),
            ("{ store: { directory: /x }, prefix: /a }", "recording.prefix"),
            ("{ store: { directory: /x }, prefix: a/../b }", "recording.prefix"),
        ] {
            let message = parse(text).expect_err("refused");
            assert!(message.contains(field), "{text}: {message}");
        }
    }
}
