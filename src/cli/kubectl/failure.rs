//! What can go wrong in the plugin: one line each, with the cure, and the exit code it means.

use super::cluster::ConnectError;
use super::keys::KeyError;
use crate::kubernetes::{CallError, Category};

/// Why a command did not do what was asked. The text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// There is no way to the API server: exit code 1.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The public keys cannot be had: exit code 1.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// What was asked for makes no sense: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The session is not open and will not be: exit code 3.
    #[error("{0}")]
    NotOpen(String),
    /// The limit was over: exit code 4.
    #[error("{0}")]
    TimedOut(String),
    /// The API server refused, by rights, schema or admission: exit code 5.
    #[error("{0}")]
    Refused(String),
    /// The user pressed Ctrl-C: exit code 130, as of shells.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// The exit code of the process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Connect(_) | Self::Keys(_) => 1,
            Self::Usage(_) => 2,
            Self::NotOpen(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Refused(_) => 5,
            Self::Interrupted(_) => 130,
        }
    }

    /// What a failed call to the API server means for the user.
    #[must_use]
    pub fn of_call(error: &CallError) -> Self {
        let message = error.message();
        match error.category() {
            Category::Forbidden if error.code() == 401 => {
                Self::Refused(format!("{error}: the API server does not know you: log in again, or choose another --context"))
            }
            Category::Forbidden | Category::Invalid => Self::Refused(format!("{error}: {}", cure(message))),
            Category::NotFound if message.is_empty() || message.contains("could not find the requested resource") => {
                Self::Failed(format!("{error}: the cluster has no such kind: install Sandglass there, or choose another --context"))
            }
            Category::Timeout => Self::TimedOut(format!("{error}: try again")),
            Category::Unavailable if message.is_empty() => {
                Self::Failed(format!("{error}: the API server cannot be reached: look at the server of this context, and at the network"))
            }
            _ if message.is_empty() => Self::Failed(format!("{error}: {}", inner(error))),
            _ => Self::Failed(format!("{error}: {}", one_line(message))),
        }
    }
}

/// Why, where it was not the API server that said no.
fn inner(error: &CallError) -> String {
    std::error::Error::source(error).map_or_else(|| "no reason is known".into(), |source| one_line(&source.to_string()))
}

/// The sentence of a refusal, and what helps where the sentence does not say so itself.
fn cure(message: &str) -> String {
    let sentence = sentence(message);
    if message.contains(" cannot ") && message.contains("in API group") {
        let role = if message.contains("breakglassvms") { "sandglass-breakglass" } else { "sandglass-requester" };
        return format!("{sentence}: have the ClusterRole {role} bound to you in this namespace, or choose another with -n");
    }
    sentence
}

/// What the policy or the schema says, without the object's name and the policy's before it.
#[must_use]
pub fn sentence(message: &str) -> String {
    let after = [" denied request: ", " is invalid: ", " is forbidden: "];
    let found = after.iter().find_map(|mark| message.split_once(mark).map(|(_, sentence)| sentence));
    one_line(found.unwrap_or(message))
}

/// Text in one line, without anything that acts on a terminal.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    super::output::plain(&words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> CallError {
        let status = kube::core::Status { code, message: message.into(), ..kube::core::Status::default() };
        CallError::Refused { what: "create the DebugSession", source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn refusals_show_the_sentence_of_the_policy() {
        let failure = Failure::of_call(&refused(
            403,
            "debugsessions.sandglass.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'sandglass-sessions' with binding 'sandglass-sessions' \
             denied request: spec.ttl is 2h, and this installation allows at most 1h: ask for less",
        ));
        assert_eq!(failure.exit_code(), 5);
        assert_eq!(
            failure.to_string(),
            "failed to create the DebugSession: spec.ttl is 2h, and this installation allows at most 1h: ask for less"
        );
        let failure = Failure::of_call(&refused(422, "DebugSession.sandglass.dev \"x\" is invalid: spec.ttl: Invalid value:\n \"9\""));
        assert_eq!(failure.to_string(), "failed to create the DebugSession: spec.ttl: Invalid value: \"9\"");
        assert_eq!(failure.exit_code(), 5);
    }

    #[test]
    fn a_missing_right_names_the_role() {
        let message = "debugsessions.sandglass.dev is forbidden: User \"jane\" cannot create resource \"debugsessions\" in API group \
                       \"sandglass.dev\" in the namespace \"ci\"";
        let failure = Failure::of_call(&refused(403, message));
        assert_eq!(failure.exit_code(), 5);
        assert!(failure.to_string().contains("ClusterRole sandglass-requester"), "{failure}");
    }

    #[test]
    fn what_is_not_there_and_what_is_slow_have_codes_of_their_own() {
        assert_eq!(Failure::of_call(&refused(404, "the server could not find the requested resource")).exit_code(), 1);
        assert_eq!(Failure::of_call(&CallError::Deadline { what: "list" }).exit_code(), 4);
        assert_eq!(Failure::of_call(&refused(401, "Unauthorized")).exit_code(), 5);
        assert_eq!(one_line("a\u{1b}[31m\n b"), "a?[31m b");
    }
}
