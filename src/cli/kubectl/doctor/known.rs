//! What could be read of the cluster, and what could not: a missing right is never taken for a good answer, or for a bad one.

use super::finding::Finding;
use crate::kubernetes::{CallError, call};
use std::error::Error as _;

/// The outcome of a read.
#[derive(Clone, Debug)]
pub(super) enum Known<T> {
    /// It is there.
    There(T),
    /// It is not there.
    Absent,
    /// It could not be read.
    Unknown(Unknown),
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// The right that is missing, such as `get namespaces`.
    Right(String),
    /// What failed, in words.
    Failed(String),
}

impl Unknown {
    /// What it means for a check.
    pub(super) fn finding(&self, check: &'static str) -> Finding {
        match self {
            Self::Right(right) => Finding::skip(
                check,
                format!("not checked: you lack the right to {right}"),
                "have it granted to you, or have somebody run this who has it; docs/doctor.md lists the rights",
            ),
            Self::Failed(reason) => {
                Finding::fail(check, format!("not checked: {reason}"), "try again; if it stays so, look at the API server")
            }
        }
    }

    /// What a failed call means, where `right` is what the call needs.
    pub(super) fn of(error: &CallError, right: &str) -> Self {
        if matches!(error.code(), 401 | 403) {
            return Self::Right(right.to_owned());
        }
        let inner = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::Failed(format!("{error}{inner}"))
    }
}

impl<T> Known<T> {
    /// The value, where it is there.
    pub(super) fn there(&self) -> Option<&T> {
        match self {
            Self::There(value) => Some(value),
            Self::Absent | Self::Unknown(_) => None,
        }
    }
}

/// Reads; `what` completes "failed to …", `right` completes "the right to …".
pub(super) async fn read<T>(what: &'static str, right: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Known<T> {
    match call(what, request).await {
        Ok(value) => Known::There(value),
        Err(error) if error.code() == 404 => Known::Absent,
        Err(error) => Known::Unknown(Unknown::of(&error, right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;

    #[tokio::test]
    async fn a_refusal_is_a_missing_right_and_silence_a_failure() {
        let answer = |code: u16| {
            let status = kube::core::Status { code, message: "no".into(), ..kube::core::Status::default() };
            async move { Err::<(), _>(kube::Error::Api(Box::new(status))) }
        };
        let Known::Unknown(unknown) = read("read the Lease", "get leases", answer(403)).await else { panic!("known") };
        assert_eq!(unknown, Unknown::Right("get leases".into()));
        assert_eq!(unknown.finding("leader").level, Level::Skip);
        assert!(matches!(read("read the Lease", "get leases", answer(404)).await, Known::Absent));
        let Known::Unknown(unknown) = read("read the Lease", "get leases", answer(500)).await else { panic!("known") };
        assert_eq!(unknown.finding("leader").level, Level::Fail);
        assert!(unknown.finding("leader").message.contains("failed to read the Lease"), "{unknown:?}");
    }
}
