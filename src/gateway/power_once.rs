//! `spec.power`: a verb that is run once per object, without anybody logging in. Status remembers that it was begun, before it is:
//! no replica begins it again, whatever happens to this one, to the pod, or to the machine.

use super::Gateway;
use super::directory::pod_uid_of;
use super::listener::identifier;
use super::power::{self, Ended};
use super::report::{Event, Report};
use crate::api::BreakglassVM;
use crate::api::breakglass_vm::{PowerState, PowerStatus, Verb};
use crate::api::session::{AnySession, ConnectionRecord, Session as _};
use crate::domain::access::deadline;
use crate::domain::names::ObjectName;
use crate::kubernetes::time::{from_chrono, to_chrono};
use crate::recording::audit::{AuditEvent, Ending, Opening};
use crate::recording::evidence::Evidence;
use crate::recording::format::Kind;
use crate::recording::manifest::About;
use crate::recording::recorder::{Recorder, Shown};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Looks again this often, beside every change.
const TICK: Duration = Duration::from_secs(5);
/// After so long nobody is running it any more.
const FORGOTTEN: TimeDelta = TimeDelta::minutes(15);
/// How long a verb that could not be recorded is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is tried to tell how a verb ended.
const ATTEMPTS: u32 = 12;
/// What stands for an address and a key where nobody logged in.
const NOBODY: &str = "spec.power";

/// Where it is remembered.
pub trait Ledger: Send + Sync + 'static {
    /// Writes `status.power` where there is none, on this very version of the object. False: somebody else wrote first.
    fn begin(&self, session: &BreakglassVM, status: &PowerStatus) -> impl Future<Output = Result<bool, String>> + Send;
    /// Writes how it ended, where it is still the run that was begun then.
    fn end(&self, name: &ObjectName, uid: &str, status: &PowerStatus) -> impl Future<Output = Result<(), String>> + Send;
}

/// What this replica is about.
#[derive(Default)]
struct Mine {
    running: HashSet<String>,
    not_before: HashMap<String, Instant>,
}

/// Runs what is asked for, for ever.
pub async fn run<L: Ledger>(gateway: Arc<Gateway>, ledger: Arc<L>) {
    let mine = Arc::new(Mutex::new(Mine::default()));
    let mut sessions = gateway.directory.subscribe();
    let mut links = gateway.registry.subscribe();
    loop {
        sessions.mark_unchanged();
        links.mark_unchanged();
        for session in gateway.directory.all() {
            look(&gateway, &ledger, &mine, &session);
        }
        tokio::select! {
            _ = sessions.changed() => (),
            _ = links.changed() => (),
            () = tokio::time::sleep(TICK) => (),
        }
    }
}

/// What there is to do about an object. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Begin(Verb),
    /// Whoever began it is gone.
    Forget,
}

fn due(session: &BreakglassVM, end: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Due {
    let power = session.status.as_ref().and_then(|status| status.power.as_ref());
    match (power, &session.spec.power) {
        (Some(power), _) if power.state == PowerState::Running && now > to_chrono(&power.started_at) + FORGOTTEN => Due::Forget,
        (None, Some(asked)) => {
            let ended = session.state().is_some_and(|state| state.ended_at.is_some());
            let alive = !ended && !session.spec.end && session.metadata.deletion_timestamp.is_none() && end.is_some_and(|end| now < end);
            if alive { Due::Begin(asked.verb) } else { Due::Nothing }
        }
        _ => Due::Nothing,
    }
}

fn look<L: Ledger>(gateway: &Arc<Gateway>, ledger: &Arc<L>, mine: &Arc<Mutex<Mine>>, any: &Arc<AnySession>) {
    let AnySession::Vm(session) = &**any else { return };
    let (Some(uid), Some(name)) = (session.metadata.uid.clone(), name_of(session)) else { return };
    let now = (gateway.now)();
    let due = due(session, deadline(any, gateway.configuration.ttl_cap()), now);
    let pod = pod_uid_of(any).filter(|pod| gateway.registry.is_ready(pod)).map(str::to_owned);
    let mut state = mine.lock().unwrap_or_else(PoisonError::into_inner);
    state.not_before.retain(|_, until| Instant::now() < *until);
    let waits = state.not_before.contains_key(&uid);
    if due == Due::Nothing || waits || state.running.contains(&uid) || (due != Due::Forget && pod.is_none()) {
        return;
    }
    state.running.insert(uid.clone());
    drop(state);
    let (gateway, ledger, mine, any) = (Arc::clone(gateway), Arc::clone(ledger), Arc::clone(mine), Arc::clone(any));
    tokio::spawn(async move {
        let AnySession::Vm(session) = &*any else { return };
        let outcome = match (due, pod) {
            (Due::Begin(verb), Some(pod)) => begin(&gateway, &*ledger, session, &name, &uid, verb, &pod).await,
            _ => forget(&*ledger, session, &name, &uid, now).await,
        };
        let mut state = mine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(problem) = outcome {
            tracing::warn!(session = %name, problem, "spec.power could not be run or reported");
            state.not_before.insert(uid.clone(), Instant::now() + PAUSE);
        }
        state.running.remove(&uid);
    });
}

fn name_of(session: &BreakglassVM) -> Option<ObjectName> {
    Some(ObjectName { namespace: session.metadata.namespace.clone()?, name: session.metadata.name.clone()? })
}

async fn forget<L: Ledger>(ledger: &L, session: &BreakglassVM, name: &ObjectName, uid: &str, now: DateTime<Utc>) -> Result<(), String> {
    let Some(mut power) = session.status.as_ref().and_then(|status| status.power.clone()) else { return Ok(()) };
    power.state = PowerState::Unknown;
    power.finished_at = Some(from_chrono(now));
    power.message = Some("the gateway that ran it is gone: whether it took effect is not known; it is not run again".into());
    ledger.end(name, uid, &power).await
}

async fn begin<L: Ledger>(
    gateway: &Arc<Gateway>,
    ledger: &L,
    session: &BreakglassVM,
    name: &ObjectName,
    uid: &str,
    verb: Verb,
    pod: &str,
) -> Result<(), String> {
    let mut power = PowerStatus {
        verb,
        state: PowerState::Running,
        before: None,
        after: None,
        started_at: from_chrono((gateway.now)()),
        finished_at: None,
        evidence: None,
        message: None,
    };
    let (about, id) = (about(session, name, uid), identifier());
    let evidence = gateway.archive.as_ref().map(|archive| archive.evidence(&about, &id, CHANNEL));
    if let Some(evidence) = &evidence {
        // What cannot be recorded is not begun, and may be later.
        evidence.mark(verb.word()).await.map_err(|failure| failure.to_string())?;
    }
    if !ledger.begin(session, &power).await? {
        return Ok(());
    }
    tracing::info!(session = %name, verb = verb.word(), "spec.power begins");
    let attempt = Attempt::new(gateway, name, id, verb, about);
    let ended = attempt.run(pod, evidence).await;
    tracing::info!(session = %name, verb = verb.word(), succeeded = ended.succeeded, message = ended.message, "spec.power ended");
    power.state = match ended.succeeded {
        Some(true) => PowerState::Succeeded,
        Some(false) => PowerState::Failed,
        None => PowerState::Unknown,
    };
    power.before = ended.outcome.as_ref().and_then(|outcome| outcome.before.clone());
    power.after = ended.outcome.as_ref().and_then(|outcome| outcome.after.clone());
    power.finished_at = Some(from_chrono((gateway.now)()));
    power.evidence = ended.evidence;
    power.message = Some(ended.message);
    // The recording is open until then: a replica that is to stop waits for it.
    let told = end(ledger, name, uid, &power).await;
    drop(attempt);
    told
}

/// Tells how it ended; what is known must not be lost to an API server that is away for a while.
async fn end<L: Ledger>(ledger: &L, name: &ObjectName, uid: &str, power: &PowerStatus) -> Result<(), String> {
    let mut attempts = 0;
    loop {
        match ledger.end(name, uid, power).await {
            Err(problem) if attempts < ATTEMPTS => {
                attempts += 1;
                tracing::warn!(session = %name, problem, "status.power could not be written yet");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// The only channel of such a recording.
const CHANNEL: u32 = 0;

fn about(session: &BreakglassVM, name: &ObjectName, uid: &str) -> About {
    About {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        uid: uid.to_owned(),
        requester: session.spec.requester.clone(),
        commit: None,
        pull_request: None,
        run: None,
        remote_address: NOBODY.into(),
        fingerprint: NOBODY.into(),
        certificate: None,
    }
}

/// One run, with its recording.
struct Attempt {
    gateway: Arc<Gateway>,
    name: ObjectName,
    id: String,
    verb: Verb,
    recorder: Option<Recorder>,
}

impl Attempt {
    fn new(gateway: &Arc<Gateway>, name: &ObjectName, id: String, verb: Verb, about: About) -> Self {
        let (recorder, address) = gateway.archive.as_ref().map(|archive| archive.begin(&id, about, &[])).unzip();
        let record = ConnectionRecord {
            id: id.clone(),
            key_fingerprint: NOBODY.into(),
            remote_address: NOBODY.into(),
            started_at: from_chrono((gateway.now)()),
            ended_at: None,
            recording: address,
        };
        gateway.reports.send(Report { kind: BreakglassVM::KIND, session: name.clone(), event: Event::Connected(record) });
        if let Some(recorder) = &recorder {
            let opening = Opening { kind: "Power".into(), command: Some(format!("power {}", verb.word())), terminal: None };
            recorder.note(Kind::Open, CHANNEL, serde_json::to_vec(&opening).unwrap_or_default());
            recorder.audit(&AuditEvent::Channel { channel: CHANNEL, opening });
        }
        Self { gateway: Arc::clone(gateway), name: name.clone(), id, verb, recorder }
    }

    async fn run(&self, pod: &str, evidence: Option<Evidence>) -> Ended {
        let (mut words, ended) = power::start(&self.gateway, pod, self.verb.word(), evidence);
        let told = async {
            while let Some(words) = words.recv().await {
                self.tell(&words).await;
            }
        };
        let (ended, ()) = tokio::join!(ended, told);
        if let Some(recorder) = &self.recorder {
            let how = ended.succeeded.map_or_else(|| Ending::Failure(ended.message.clone()), |done| Ending::Code(u32::from(!done)));
            recorder.note(Kind::Exit, CHANNEL, serde_json::to_vec(&how).unwrap_or_default());
            recorder.audit(&ended.event(CHANNEL));
            recorder.set_end_reason("spec.power is done");
        }
        ended
    }

    /// Into the recording: nobody looks.
    async fn tell(&self, words: &str) {
        if let Some(recorder) = &self.recorder {
            let _ = recorder.shown(CHANNEL, Shown::Error, &Bytes::from(format!("{words}\n"))).await;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let event = Event::Disconnected { id: self.id.clone(), at: (self.gateway.now)() };
        self.gateway.reports.send(Report { kind: BreakglassVM::KIND, session: self.name.clone(), event });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    fn object(power: &serde_json::Value, status: &serde_json::Value) -> BreakglassVM {
        serde_json::from_value(json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "BreakglassVM",
            "metadata": { "name": "devvm", "namespace": "infra", "uid": "u" },
            "spec": { "target": { "address": "192.0.2.1", "user": "b", "hostKeys": ["k"] }, "requester": "r", "access": {}, "power": power,
                "vault": { "address": "https://192.0.2.2", "caBundle": "c", "role": "r", "targetKey": {} } },
            "status": status,
        }))
        .expect("an object")
    }

    #[test]
    fn a_verb_is_begun_once_and_only_while_the_object_lives() {
        let cycle = json!({ "verb": "Cycle" });
        let end = Some(now() + TimeDelta::minutes(10));
        let due = |object: &BreakglassVM, end| due(object, end, now());
        assert_eq!(due(&object(&cycle, &json!({})), end), Due::Begin(Verb::Cycle));
        assert_eq!(due(&object(&json!(null), &json!({})), end), Due::Nothing);
        assert_eq!(due(&object(&cycle, &json!({})), Some(now())), Due::Nothing, "expired");
        assert_eq!(due(&object(&cycle, &json!({})), None), Due::Nothing);
        assert_eq!(due(&object(&cycle, &json!({ "endedAt": "2026-01-01T00:00:00Z" })), end), Due::Nothing);
        let begun = |state: &str, at: DateTime<Utc>| {
            let power = json!({ "verb": "Cycle", "state": state, "startedAt": from_chrono(at) });
            object(&cycle, &json!({ "power": power }))
        };
        for state in ["Running", "Succeeded", "Failed", "Unknown"] {
            assert_eq!(due(&begun(state, now()), end), Due::Nothing, "{state}");
        }
        assert_eq!(due(&begun("Running", now() - TimeDelta::minutes(16)), end), Due::Forget);
        assert_eq!(due(&begun("Failed", now() - TimeDelta::minutes(16)), end), Due::Nothing);
    }
}
