//! One deadline for every call to the API server, and what kind of failure it was.

use std::time::Duration;

/// How long a call may take. kube has no read timeout of its own, so a silent connection would hang a pass for ever.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("failed to {what}: no answer within {} s", DEADLINE.as_secs())]
    Deadline {
        /// What was being done.
        what: &'static str,
    },
    /// Refused, or not understood.
    #[error("failed to {what}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Kinds of failure: a metric label, so a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// No answer in time.
    Timeout,
    /// The object changed meanwhile.
    Conflict,
    /// The rights are missing, or admission refused.
    Forbidden,
    /// The object, or its kind, is not there.
    NotFound,
    /// The API server refused the shape.
    Invalid,
    /// The API server is overloaded or away.
    Unavailable,
    /// The object lacks what every object has.
    Malformed,
    /// Anything else.
    Other,
}

impl Category {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }
}

impl CallError {
    /// HTTP status of the answer; zero where there was none.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code,
                _ => 0,
            },
            Self::Deadline { .. } => 0,
        }
    }

    /// What the API server says about it, in words; empty where it said nothing.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => &status.message,
                _ => "",
            },
            Self::Deadline { .. } => "",
        }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn category(&self) -> Category {
        match self {
            Self::Deadline { .. } => Category::Timeout,
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    401 | 403 => Category::Forbidden,
                    404 => Category::NotFound,
                    409 => Category::Conflict,
                    400 | 413 | 422 => Category::Invalid,
                    429 | 500..=599 => Category::Unavailable,
                    _ => Category::Other,
                },
                kube::Error::HyperError(_) | kube::Error::Service(_) => Category::Unavailable,
                _ => Category::Other,
            },
        }
    }
}

/// Awaits a call to the API server, within [`DEADLINE`].
///
/// # Errors
/// What [`CallError`] says; `what` completes "failed to …".
pub async fn call<T>(what: &'static str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CallError::Refused { what, source: Box::new(source) }),
        Err(_) => Err(CallError::Deadline { what }),
    }
}

/// As [`call`]; "not found" is an answer, not an error.
///
/// # Errors
/// As [`call`].
pub async fn call_or_absent<T>(what: &'static str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, CallError> {
    match call(what, request).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == 404 => Ok(None),
        Err(error) => Err(error),
    }
}
