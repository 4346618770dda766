//! Who an object is, and when it ends.

use chrono::{DateTime, Utc};
use std::time::Duration;

use super::observe::ObserveError;
use crate::api::session::Session;
use crate::domain::lifetime;
use crate::domain::names::ObjectName;
use crate::kubernetes::time::to_chrono;

/// Who an object is, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: ObjectName,
    /// Its UID.
    pub uid: String,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Identity {
    /// Reads it from an object; `cap` is the longest ttl.
    ///
    /// # Errors
    /// The object lacks what the API server puts on every object.
    pub fn of<S: Session>(session: &S, cap: Duration) -> Result<Self, ObserveError> {
        let metadata = session.meta();
        let missing = |field| ObserveError::Malformed { field };
        let name = metadata.name.clone().ok_or_else(|| missing("name"))?;
        let namespace = metadata.namespace.clone().ok_or_else(|| missing("namespace"))?;
        let uid = metadata.uid.clone().ok_or_else(|| missing("uid"))?;
        let created = to_chrono(metadata.creation_timestamp.as_ref().ok_or_else(|| missing("creationTimestamp"))?);
        let terms = session.terms();
        // The schema refuses anything else; if it ever lets one through, the cap holds.
        let ttl = lifetime::parse_duration(terms.ttl).unwrap_or(cap);
        let expires_at = lifetime::expires_at(created, ttl, cap, terms.not_after.map(to_chrono));
        Ok(Self { name: ObjectName { namespace, name }, uid, created, expires_at })
    }

    /// Name of its pod.
    #[must_use]
    pub fn pod_name(&self) -> String {
        self.name.pod_name(&self.uid)
    }
}
