//! What the steps are given.

use kube::runtime::controller::Action;
use std::sync::Arc;

use crate::api::BreakglassVM;
use crate::kubernetes::CallError;
use crate::lifecycle::{Base, Driver, Error};

/// Everything a pass needs.
pub struct Context {
    /// What both controllers have.
    pub base: Base<BreakglassVM>,
}

impl Context {
    /// Puts the parts together.
    #[must_use]
    pub const fn new(base: Base<BreakglassVM>) -> Self {
        Self { base }
    }
}

impl Driver for Context {
    type Session = BreakglassVM;

    fn base(&self) -> &Base<BreakglassVM> {
        &self.base
    }

    async fn reconcile(&self, session: Arc<BreakglassVM>) -> Result<Action, Error> {
        super::reconcile(session, self).await
    }

    async fn collect_guards(&self) -> Result<(), CallError> {
        super::apply::collect(self).await
    }
}
