//! What the doctor made and must remove: remembered before it is made, so that it is removed from wherever the work is interrupted.

use crate::api::DebugSession;
use crate::kubernetes::call;
use kube::api::DeleteParams;
use kube::{Api, Client};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a creation that was interrupted may still take effect.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// The canary's time to live: the cluster takes it away then, whatever becomes of the doctor; and the object after as long again.
pub(super) const TTL: &str = "1m";

/// The one object that is made, and removed whatever happens.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<Option<Named>>);

/// Which object.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub namespace: String,
    pub name: String,
    /// None while the API server has not answered.
    pub uid: Option<String>,
}

impl Made {
    pub(super) fn set(&self, named: Option<Named>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = named;
    }

    fn get(&self) -> Option<Named> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes what was made. The name is random and so ours.
    ///
    /// # Errors
    /// What was not removed, and how to do it.
    pub(super) async fn remove(&self, client: &Client) -> Result<(), String> {
        let Some(Named { namespace, name, uid }) = self.get() else { return Ok(()) };
        let api: Api<DebugSession> = Api::namespaced(client.clone(), &namespace);
        let parameters = DeleteParams {
            preconditions: uid.clone().map(|uid| kube::api::Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        let began = Instant::now();
        loop {
            let outcome = call("delete the canary", api.delete(&name, &parameters)).await;
            match outcome {
                Ok(_) => break,
                // A creation without an answer may still come.
                Err(error) if error.code() == 404 && (uid.is_some() || began.elapsed() > SETTLES_WITHIN) => break,
                Err(error) if error.code() == 404 => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(error) => {
                    return Err(format!(
                        "{error}: kubectl -n {namespace} delete debugsession {name}; its session ends by itself after {TTL}"
                    ));
                }
            }
        }
        self.set(None);
        Ok(())
    }
}
