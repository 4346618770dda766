//! What can go wrong in a pass, and what is then done about it.

use crate::kubernetes::{CallError, Category};

use super::apply::ApplyError;
use super::observe::ObserveError;
use super::report::ReportError;

/// A failed pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("failed to observe the session")]
    Observe(#[from] ObserveError),
    /// Writing the pod failed.
    #[error("failed to apply the session")]
    Apply(#[from] ApplyError),
    /// Writing the status failed.
    #[error("failed to report the session")]
    Report(#[from] ReportError),
}

/// What to do after a failed pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The cache is behind: at once, without counting it as a failure.
    Now,
    /// With growing delays.
    Backoff,
}

impl Error {
    fn call(&self) -> Option<&CallError> {
        match self {
            Self::Observe(ObserveError::Call(call)) | Self::Apply(ApplyError::Call(call)) | Self::Report(ReportError::Call(call)) => {
                Some(call)
            }
            Self::Observe(ObserveError::Malformed { .. }) | Self::Apply(ApplyError::Stale) => None,
        }
    }

    /// The metric label.
    #[must_use]
    pub fn category(&self) -> Category {
        match self {
            Self::Observe(ObserveError::Malformed { .. }) => Category::Malformed,
            Self::Apply(ApplyError::Stale) => Category::Conflict,
            _ => self.call().map_or(Category::Other, CallError::category),
        }
    }

    pub(super) fn retry(&self) -> Retry {
        match self.category() {
            Category::Conflict => Retry::Now,
            _ => Retry::Backoff,
        }
    }
}
