//! Whose turn it is in a project: sessions of one project wait for each other, in the order of their creation.

use chrono::{DateTime, Utc};

use crate::api::DebugSession;
use crate::api::conditions::STALLED;
use crate::domain::names::ObjectName;
use crate::kubernetes::time::to_chrono;
use crate::lifecycle::Guarded;
use crate::lifecycle::end::{has_ended, has_no_pod_yet, holds_condition, is_over};

/// The project of a session, also as the pods' annotation says it: `<namespace>/<project>`.
pub(super) fn project(namespace: &str, session: &DebugSession) -> String {
    format!("{namespace}/{}", session.spec.project.as_deref().unwrap_or_default())
}

/// Another session of the same project, as the cache has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sibling {
    pub name: ObjectName,
    pub created: DateTime<Utc>,
    /// It has, or may still have, a pod.
    pub holds: bool,
}

/// Whether a session may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody is ahead.
    Mine,
    /// This one is.
    Behind(ObjectName),
}

/// Whether it waits for a pod, and could be woken by another's end.
pub(super) fn waits(session: &DebugSession) -> bool {
    !has_ended(session) && has_no_pod_yet(session)
}

/// The other sessions of `own` project that count: not over, and not held up by a fault of their own.
pub(super) fn siblings<'a>(own: &DebugSession, sessions: impl Iterator<Item = &'a Guarded<DebugSession>>) -> Vec<Sibling> {
    let (Some(namespace), uid) = (own.metadata.namespace.as_deref(), own.metadata.uid.as_deref()) else { return Vec::new() };
    let of_project = project(namespace, own);
    sessions
        .filter_map(|guarded| guarded.0.as_ref().ok())
        .filter(|other| other.metadata.uid.as_deref() != uid)
        .filter(|other| other.metadata.namespace.as_deref() == Some(namespace) && project(namespace, other) == of_project)
        .filter_map(|other| {
            let holds = !has_no_pod_yet(other) && !is_over(other);
            let asks =
                !has_ended(other) && !other.spec.end && other.metadata.deletion_timestamp.is_none() && !holds_condition(other, STALLED);
            let name = ObjectName { namespace: namespace.to_owned(), name: other.metadata.name.clone()? };
            let created = to_chrono(other.metadata.creation_timestamp.as_ref()?);
            (holds || asks).then_some(Sibling { name, created, holds })
        })
        .collect()
}

/// Decides. A sibling is ahead if it holds a pod, or was created earlier (by name within one second).
pub(super) fn turn(name: &ObjectName, created: DateTime<Utc>, siblings: &[Sibling], at_once: u32) -> Turn {
    let mut ahead: Vec<&Sibling> =
        siblings.iter().filter(|sibling| sibling.holds || (sibling.created, &sibling.name) < (created, name)).collect();
    if u32::try_from(ahead.len()).unwrap_or(u32::MAX) < at_once {
        return Turn::Mine;
    }
    ahead.sort_by_key(|sibling| (!sibling.holds, sibling.created, sibling.name.clone()));
    ahead.first().map_or(Turn::Mine, |first| Turn::Behind(first.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "ci".into(), name: name.into() }
    }

    fn sibling(other: &str, second: i64, holds: bool) -> Sibling {
        Sibling { name: name(other), created: DateTime::from_timestamp(second, 0).expect("valid"), holds }
    }

    #[test]
    fn creation_order_decides_and_a_pod_goes_first() {
        let at = |second| DateTime::from_timestamp(second, 0).expect("valid");
        assert_eq!(turn(&name("b"), at(10), &[], 1), Turn::Mine);
        assert_eq!(turn(&name("b"), at(10), &[sibling("a", 11, false)], 1), Turn::Mine);
        assert_eq!(turn(&name("b"), at(10), &[sibling("a", 9, false)], 1), Turn::Behind(name("a")));
        assert_eq!(turn(&name("b"), at(10), &[sibling("a", 10, false)], 1), Turn::Behind(name("a")));
        assert_eq!(turn(&name("b"), at(10), &[sibling("c", 11, true)], 1), Turn::Behind(name("c")));
        assert_eq!(turn(&name("b"), at(10), &[sibling("a", 9, false), sibling("c", 11, true)], 1), Turn::Behind(name("c")));
        assert_eq!(turn(&name("b"), at(10), &[sibling("c", 11, true)], 2), Turn::Mine);
        assert_eq!(turn(&name("b"), at(10), &[sibling("a", 9, false), sibling("c", 11, true)], 2), Turn::Behind(name("c")));
    }
}
