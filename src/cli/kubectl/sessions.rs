//! Objects of both kinds, as the API server has them: found by name, listed, and what their status says.

use super::cluster::Cluster;
use super::failure::{Failure, one_line};
use super::output::short;
use crate::api::session::{Phase, SessionStatus};
use crate::api::{BreakglassVM, DebugSession};
use crate::kubernetes::time::to_chrono;
use crate::kubernetes::{CallError, call, call_or_absent};
use chrono::{DateTime, Utc};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use std::str::FromStr;

/// Which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `DebugSession`.
    Debug,
    /// `BreakglassVM`.
    Vm,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Debug, Self::Vm];

    /// As `kind:` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "DebugSession",
            Self::Vm => "BreakglassVM",
        }
    }

    /// The words that kubectl takes for it.
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Debug => ["debugsession", "debugsessions", "dbg"],
            Self::Vm => ["breakglassvm", "breakglassvms", "bgvm"],
        }
    }

    /// What the API server knows it by.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Debug => ApiResource::erase::<DebugSession>(&()),
            Self::Vm => ApiResource::erase::<BreakglassVM>(&()),
        }
    }

    /// The objects of this kind in a namespace. They are kept as they come, so that fields of another version are not lost.
    #[must_use]
    pub fn api(self, cluster: &Cluster) -> Api<DynamicObject> {
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &self.resource())
    }
}

/// An object as the user names it: `build-42`, or with its kind, `bgvm/devvm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The kind, where it was said.
    pub kind: Option<Kind>,
    /// The name.
    pub name: String,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            None => (None, text),
            Some((word, name)) => {
                let word = word.to_ascii_lowercase();
                let word = word.strip_suffix(".sandglass.dev").unwrap_or(&word);
                let kind = Kind::ALL.into_iter().find(|kind| kind.words().contains(&word));
                (Some(kind.ok_or("a kind is debugsession (dbg) or breakglassvm (bgvm)")?), name)
            }
        };
        let fits = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-' || letter == b'.';
        if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
            return Err("a name has small letters, digits, - and . only".into());
        }
        Ok(Self { kind, name: name.into() })
    }
}

/// An object of either kind.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// As the API server has it.
    pub object: DynamicObject,
}

impl Entry {
    /// Kind and name, as kubectl writes them: `debugsession.sandglass.dev/build-42`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}.sandglass.dev/{}", self.kind.name().to_ascii_lowercase(), self.object.name_any())
    }

    /// What is so; nothing yet where it has no status, or one that this version does not understand.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        let status = self.object.data.get("status").cloned().unwrap_or_default();
        serde_json::from_value(status).unwrap_or_default()
    }

    /// Who asked for it.
    #[must_use]
    pub fn requester(&self) -> String {
        self.object.data.pointer("/spec/requester").and_then(Value::as_str).unwrap_or("-").to_owned()
    }

    /// Whether it is over, or asked to be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let status = self.status();
        status.ended_at.is_some() || self.is_ending() || matches!(status.phase, Some(Phase::Ended | Phase::Failed))
    }

    /// Whether somebody asked to end it.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.object.data.pointer("/spec/end").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The object as JSON, without who wrote which field.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut object = self.object.clone();
        object.metadata.managed_fields = None;
        // Objects of a list come without.
        object
            .types
            .get_or_insert_with(|| kube::core::TypeMeta { api_version: "sandglass.dev/v1alpha1".into(), kind: self.kind.name().into() });
        serde_json::to_value(object).unwrap_or_default()
    }
}

/// The end of a session as people read it: `24m`, `over`.
#[must_use]
pub fn expires_in(status: &SessionStatus, now: DateTime<Utc>) -> String {
    match (&status.ended_at, &status.expires_at) {
        (Some(_), _) => "over".into(),
        (None, Some(end)) => short((to_chrono(end) - now).num_seconds()),
        (None, None) => "-".into(),
    }
}

/// What a condition says, in one line.
#[must_use]
pub fn condition_line(status: &SessionStatus, kind: &str) -> Option<String> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(one_line(&format!("{}: {}", condition.reason, condition.message)))
}

/// The object of this name, of the kind that was said or of the only one that has it.
///
/// # Errors
/// There is none, or there are two; or the API server refused.
pub async fn find(cluster: &Cluster, name: &Name) -> Result<Entry, Failure> {
    let mut found = Vec::new();
    let mut refused = None;
    for kind in Kind::ALL.into_iter().filter(|kind| name.kind.is_none_or(|said| said == *kind)) {
        match call_or_absent("read the session", kind.api(cluster).get(&name.name)).await {
            Ok(Some(object)) => found.push(Entry { kind, object }),
            Ok(None) => {}
            // Many may see one kind only: the other decides.
            Err(error) if error.code() == 403 => refused = Some(error),
            Err(error) => return Err(Failure::of_call(&error)),
        }
    }
    let (Name { name, .. }, namespace) = (name, &cluster.namespace);
    match (found.pop(), found.is_empty(), refused) {
        (Some(entry), true, _) => Ok(entry),
        (Some(_), false, _) => Err(Failure::Usage(format!(
            "there are two objects {name} in namespace {namespace}: say debugsession/{name} or breakglassvm/{name}"
        ))),
        (None, _, Some(error)) => Err(Failure::of_call(&error)),
        (None, _, None) => {
            Err(Failure::Failed(format!("there is no session {name} in namespace {namespace}: see `kubectl sandglass list -A`")))
        }
    }
}

/// The objects of both kinds, of one namespace or of all; and which kinds may not be seen.
///
/// # Errors
/// Neither kind may be seen, or the API server does not answer.
pub async fn list(cluster: &Cluster, everywhere: bool) -> Result<(Vec<Entry>, Vec<Kind>), Failure> {
    let (mut entries, mut hidden): (Vec<Entry>, Vec<(Kind, CallError)>) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let api = if everywhere { Api::all_with(cluster.client.clone(), &kind.resource()) } else { kind.api(cluster) };
        match call("list sessions", api.list(&ListParams::default())).await {
            Ok(objects) => entries.extend(objects.items.into_iter().map(|object| Entry { kind, object })),
            Err(error) if error.code() == 403 => hidden.push((kind, error)),
            Err(error) => return Err(Failure::of_call(&error)),
        }
    }
    if let [(_, error), _, ..] = hidden.as_slice() {
        return Err(Failure::of_call(error));
    }
    let key = |entry: &Entry| (entry.object.namespace(), entry.object.name_any());
    entries.sort_by_key(key);
    Ok((entries, hidden.into_iter().map(|(kind, _)| kind).collect()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// An object with this status.
    pub fn entry(status: &Value) -> Entry {
        let object = json!({ "metadata": { "name": "build-42", "namespace": "ci" }, "spec": { "requester": "octocat" }, "status": status });
        Entry { kind: Kind::Debug, object: serde_json::from_value(object).expect("an object") }
    }

    #[test]
    fn names_may_say_their_kind() {
        let name = |text: &str| text.parse::<Name>();
        assert_eq!(name("build-42"), Ok(Name { kind: None, name: "build-42".into() }));
        assert_eq!(name("bgvm/devvm").expect("a name").kind, Some(Kind::Vm));
        assert_eq!(name("debugsession.sandglass.dev/a.b").expect("a name").kind, Some(Kind::Debug));
        for text in ["", "pod/x", "a b", "-\u{1b}", "bgvm/"] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objects_say_what_they_are_and_when_they_end() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let open = entry(&json!({ "phase": "Open", "expiresAt": "2027-01-15T08:10:00Z" }));
        assert_eq!((open.reference().as_str(), open.is_over()), ("debugsession.sandglass.dev/build-42", false));
        assert_eq!(expires_in(&open.status(), now), "10m");
        assert_eq!(open.json()["kind"], "DebugSession");
        let over = entry(&json!({ "phase": "Ended", "endedAt": "2027-01-15T08:00:00Z" }));
        assert!(over.is_over() && expires_in(&over.status(), now) == "over");
        assert_eq!(expires_in(&entry(&Value::Null).status(), now), "-");
    }
}
