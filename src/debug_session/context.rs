//! What the steps are given: what both controllers have, and the claims that are held only while a pod is being created.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::DebugSession;
use crate::lifecycle::{Base, Driver, Error};

/// Everything a pass needs.
pub struct Context {
    /// What both controllers have.
    pub base: Base<DebugSession>,
    pub(super) claims: Claims,
}

impl Context {
    /// Puts the parts together.
    #[must_use]
    pub fn new(base: Base<DebugSession>) -> Self {
        Self { base, claims: Claims::default() }
    }
}

impl Driver for Context {
    type Session = DebugSession;

    fn base(&self) -> &Base<DebugSession> {
        &self.base
    }

    async fn reconcile(&self, session: std::sync::Arc<DebugSession>) -> Result<kube::runtime::controller::Action, Error> {
        super::reconcile(session, self).await
    }

    fn waits(&self, session: &DebugSession) -> bool {
        super::turn::waits(session)
    }
}

/// Projects for which a pod is being created right now. Passes run side by side; without this, two sessions of one project
/// could each find the project free and both create their pod.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashSet<String>>);

/// Held while a pod is being created; given back when dropped.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    project: String,
}

impl Claims {
    /// A panic in another task must not spread through a lock.
    fn open(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, project: &str) -> Option<Claim<'_>> {
        self.open().insert(project.to_owned()).then(|| Claim { claims: self, project: project.to_owned() })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.open().remove(&self.project);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_given_back() {
        let claims = Claims::default();
        let held = claims.take("ci/").expect("free");
        assert!(claims.take("ci/").is_none());
        assert!(claims.take("ci/x").is_some());
        drop(held);
        assert!(claims.take("ci/").is_some());
    }
}
