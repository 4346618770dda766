//! The time between a login and a linked pod: the user sees what is waited for.

use super::Gateway;
use super::connection::Login;
use super::directory::pod_uid_of;
use super::output::Output;
use crate::api::AnySession;
use crate::api::conditions::OPEN;
use std::time::Duration;

/// Looks again this often, beside every change of sessions and links: the clock moves too.
const TICK: Duration = Duration::from_secs(1);

/// Waits until the session's pod is linked to this replica; `output`, where there is one, shows each new reason once. Ends only with the pod's UID:
/// the connection's own watch cuts whoever waits for a session that is over.
pub async fn linked_pod(gateway: &Gateway, login: &Login, output: Option<&Output>) -> String {
    let mut sessions = gateway.directory.subscribe();
    let mut links = gateway.registry.subscribe();
    let mut told = None;
    loop {
        sessions.mark_unchanged();
        links.mark_unchanged();
        if let Some(object) = gateway.directory.of_uid(&login.session, login.authorized.object_uid()) {
            match pod_uid_of(&object) {
                Some(pod) if gateway.registry.is_ready(pod) => return pod.to_owned(),
                _ => {}
            }
            let reason = reason(&object);
            if let Some(output) = output
                && told.as_ref() != Some(&reason)
            {
                let _ = output.say(&reason).await;
                told = Some(reason);
            }
        }
        tokio::select! {
            _ = sessions.changed() => (),
            _ = links.changed() => (),
            () = tokio::time::sleep(TICK) => (),
        }
    }
}

/// What is waited for, from the session's own `Open` condition.
fn reason(object: &AnySession) -> String {
    let conditions = object.state().map(|state| state.conditions.as_slice()).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == OPEN) {
        Some(open) if open.status == "True" => "waiting for the pod's link to this gateway".into(),
        Some(open) if open.message.is_empty() => format!("waiting: {}", open.reason),
        Some(open) => format!("waiting: {}: {}", open.reason, open.message),
        None => "waiting for the controller to take up the session".into(),
    }
}
