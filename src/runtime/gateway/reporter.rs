//! Writes what the gateway reports into the sessions' status: `link` and `connections`, nothing else; and an event that tells
//! where a recording is.
//!
//! Replicas share the list of connections, so it is not applied server-side under one manager each (a dead replica's entries
//! would stay for ever) but patched on top of the version that was read, and read again on conflict.

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::warn;

use crate::api::session::{ConnectionRecord, LinkReport, Session, SessionStatus};
use crate::api::{BreakglassVM, DebugSession, names};
use crate::gateway::report::{Event, Report};
use crate::kubernetes::time::from_chrono;
use crate::kubernetes::{Recorder, call, call_or_absent};

/// Connections that status shows.
const MOST_CONNECTIONS: usize = 10;
const ATTEMPTS: u32 = 6;

/// Writes reports one after the other until `drained`, and then what is left in the queue.
pub async fn write(client: Client, mut reports: mpsc::Receiver<Report>, drained: impl Future<Output = ()>) {
    tokio::pin!(drained);
    let mut draining = false;
    loop {
        let report = tokio::select! {
            report = reports.recv() => report,
            () = &mut drained, if !draining => {
                draining = true;
                // What is in the queue still comes out of it, then the end.
                reports.close();
                continue;
            }
        };
        let Some(report) = report else { return };
        if let Err(failure) = write_one(&client, &report).await {
            warn!(session = %report.session, failure, "a report could not be written into status");
        }
    }
}

async fn write_one(client: &Client, report: &Report) -> Result<(), String> {
    match report.kind {
        BreakglassVM::KIND => write_about::<BreakglassVM>(client, report).await,
        _ => write_about::<DebugSession>(client, report).await,
    }
}

async fn write_about<S: Session>(client: &Client, report: &Report) -> Result<(), String> {
    let api: Api<S> = Api::namespaced(client.clone(), &report.session.namespace);
    let name = &report.session.name;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let object = call_or_absent("read the session", api.get(name)).await.map_err(|failure| failure.to_string())?;
        let Some(object) = object else { return Ok(()) };
        let Some(status) = change(object.state(), &report.event) else { return Ok(()) };
        let patch = json!({ "metadata": { "resourceVersion": object.meta().resource_version }, "status": status });
        let parameters = PatchParams { field_manager: Some(names::GATEWAY_MANAGER.into()), ..PatchParams::default() };
        match call("report into status", api.patch_status(name, &parameters, &Patch::Merge(&patch))).await {
            Ok(object) => {
                announce(client, &object, &report.event).await;
                return Ok(());
            }
            Err(failure) if failure.code() == 409 => last = failure.to_string(),
            Err(failure) => return Err(format!("{failure}: {}", failure.message())),
        }
    }
    Err(last)
}

/// Tells in an event where a connection's recording is.
async fn announce<S: Session>(client: &Client, object: &S, event: &Event) {
    let Event::Connected(ConnectionRecord { key_fingerprint, recording: Some(recording), .. }) = event else { return };
    // A recorder of its own: one that folds would count a second login as a repeat of the first.
    let recorder = Recorder::new(client.clone(), names::GATEWAY_MANAGER, std::env::var("POD_NAME").ok());
    let note = format!("{key_fingerprint} logged in, recorded at {recording}");
    recorder.publish(&object.object_ref(&()), "Recorded", &note, false).await;
}

/// The part of status that an event changes; `None` when it says nothing new. Pure.
fn change(status: Option<&SessionStatus>, event: &Event) -> Option<Value> {
    let connections = status.map(|status| status.connections.clone()).unwrap_or_default();
    match event {
        Event::Link { pod_uid, state, reason, message } => {
            let link = LinkReport { pod_uid: pod_uid.clone(), state: *state, reason: reason.clone(), message: message.clone() };
            let known = status.and_then(|status| status.link.as_ref());
            // A merge keeps what is not named: fields that are gone are named as null.
            let patch = json!({ "podUid": pod_uid, "state": state, "reason": reason, "message": message });
            (known != Some(&link)).then(|| json!({ "link": patch }))
        }
        Event::Connected(record) => {
            let mut connections: Vec<ConnectionRecord> = connections.into_iter().filter(|known| known.id != record.id).collect();
            connections.push(record.clone());
            let superfluous = connections.len().saturating_sub(MOST_CONNECTIONS);
            Some(json!({ "connections": connections.split_off(superfluous) }))
        }
        Event::Disconnected { id, at } => {
            let mut connections = connections;
            connections.iter_mut().find(|known| known.id == *id)?.ended_at = Some(from_chrono(*at));
            Some(json!({ "connections": connections }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::session::LinkState;
    use chrono::DateTime;

    fn record(id: &str) -> ConnectionRecord {
        ConnectionRecord {
            id: id.into(),
            key_fingerprint: "SHA256:x".into(),
            remote_address: "192.0.2.1:5".into(),
            started_at: from_chrono(DateTime::UNIX_EPOCH),
            ended_at: None,
            recording: None,
        }
    }

    #[test]
    fn the_last_ten_connections_stay() {
        let mut status = SessionStatus::default();
        for number in 0..15 {
            let changed = change(Some(&status), &Event::Connected(record(&number.to_string()))).expect("changed");
            status.connections = serde_json::from_value(changed["connections"].clone()).expect("a list");
        }
        let ids: Vec<&str> = status.connections.iter().map(|known| known.id.as_str()).collect();
        assert_eq!(ids, ["5", "6", "7", "8", "9", "10", "11", "12", "13", "14"]);
    }

    #[test]
    fn an_end_is_entered_where_its_beginning_is() {
        let status = SessionStatus { connections: vec![record("a"), record("b")], ..SessionStatus::default() };
        let at = DateTime::from_timestamp(60, 0).expect("valid");
        let changed = change(Some(&status), &Event::Disconnected { id: "a".into(), at }).expect("changed");
        assert_eq!(changed["connections"][0]["endedAt"], "1970-01-01T00:01:00Z");
        assert!(changed["connections"][1]["endedAt"].is_null());
        assert!(change(Some(&status), &Event::Disconnected { id: "c".into(), at }).is_none());
    }

    #[test]
    fn a_second_replica_has_nothing_to_add_about_the_link() {
        let event = Event::Link { pod_uid: "p".into(), state: LinkState::Ready, reason: None, message: None };
        assert!(change(None, &event).is_some());
        let link = LinkReport { pod_uid: "p".into(), state: LinkState::Ready, reason: None, message: None };
        let status = SessionStatus { link: Some(link), ..SessionStatus::default() };
        assert!(change(Some(&status), &event).is_none());
    }
}
