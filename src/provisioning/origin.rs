//! Which job of which run a session is for: what makes a repeated call find the session of the first one. Pure.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

use crate::domain::provisioning::{Claims, Issuer};

/// Annotation: the [`Origin`] as JSON.
pub(super) const ORIGIN: &str = "sandglass.dev/provisioning-origin";
/// Annotation: names of variables that were dropped before the object was made, separated by commas.
pub(super) const STRIPPED: &str = "sandglass.dev/provisioning-stripped-env";

/// Longest readable part of a name. With the hash a name stays below 48 characters: it becomes part of the ssh user name.
const READABLE: usize = 30;

/// Which job of which run.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Origin {
    /// `iss` of the token.
    pub issuer: String,
    /// The repository, as it stays when it is renamed.
    pub repository_id: String,
    /// The same for people.
    pub repository: String,
    /// The run.
    pub run: String,
    /// Which attempt of it; empty where a run has one.
    pub attempt: String,
    /// The job, as the caller names it.
    pub job: String,
}

/// Who calls: an [`Origin`] without the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub issuer: String,
    pub repository_id: String,
    pub repository: String,
    pub run: String,
    pub attempt: String,
}

impl Caller {
    /// From verified claims.
    ///
    /// # Errors
    /// The name of the first claim that is missing or empty.
    pub(super) fn of(issuer: &Issuer, claims: &Claims) -> Result<Self, String> {
        let names = issuer.claim_names();
        let claim = |name: &String| claims.get(name).filter(|value| !value.is_empty()).cloned().ok_or_else(|| name.clone());
        Ok(Self {
            issuer: issuer.url.clone(),
            repository_id: claim(&names.repository_id)?,
            repository: claim(&names.repository)?,
            run: claim(&names.run)?,
            attempt: names.attempt.as_ref().map(claim).transpose()?.unwrap_or_default(),
        })
    }

    /// The caller's job of this name.
    pub(super) fn job(&self, job: &str) -> Origin {
        let Self { issuer, repository_id, repository, run, attempt } = self.clone();
        Origin { issuer, repository_id, repository, run, attempt, job: job.to_owned() }
    }
}

impl Origin {
    /// Whether both are the same job. A repository that was renamed meanwhile is the same.
    pub(super) fn is_same_job(&self, other: &Self) -> bool {
        self.is_same_repository(&other.issuer, &other.repository_id)
            && (&self.run, &self.attempt, &self.job) == (&other.run, &other.attempt, &other.job)
    }

    /// Whether it is of this repository.
    pub(super) fn is_same_repository(&self, issuer: &str, repository_id: &str) -> bool {
        self.issuer == issuer && self.repository_id == repository_id
    }

    /// Name of the object: readable, and unique by a hash. A valid DNS label.
    pub(super) fn object_name(&self) -> String {
        let repository = self.repository.rsplit('/').next().unwrap_or_default();
        let readable = label(&format!("{repository}-{}", self.job), READABLE);
        let hash = hash(&[&self.issuer, &self.repository_id, &self.run, &self.attempt, &self.job]);
        let hash = hash.get(..16).unwrap_or_default();
        if readable.is_empty() { format!("ci-{hash}") } else { format!("{readable}-{hash}") }
    }
}

/// Lower-case letters, digits and single dashes; what is none of these becomes a dash. May be empty.
fn label(text: &str, most: usize) -> String {
    let mut label = String::new();
    for character in text.chars().map(|character| character.to_ascii_lowercase()) {
        if character.is_ascii_alphanumeric() {
            label.push(character);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
        if label.len() == most {
            break;
        }
    }
    label.trim_end_matches('-').to_owned()
}

/// A project of this name as a label. Where that loses something a hash keeps two projects from becoming one.
pub(super) fn project_label(project: &str) -> String {
    let plain = label(project, 63);
    if plain == project {
        return plain;
    }
    let hash = hash(&[project]);
    let hash = hash.get(..8).unwrap_or_default();
    let readable = label(project, 54);
    if readable.is_empty() { format!("p-{hash}") } else { format!("{readable}-{hash}") }
}

/// SHA-256 of the parts, each behind its length, as hexadecimal digits.
fn hash(parts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(repository: &str, run: &str, attempt: &str, job: &str) -> Origin {
        let caller = Caller {
            issuer: "https://ci.example.com".into(),
            repository_id: "7".into(),
            repository: repository.into(),
            run: run.into(),
            attempt: attempt.into(),
        };
        caller.job(job)
    }

    #[test]
    fn names_are_labels_and_differ_by_every_part() {
        let name = origin("my-org/My.Repo", "42", "1", "build (ubuntu, 3)").object_name();
        assert!(name.starts_with("my-repo-build-ubuntu-3-") && name.len() <= 47, "{name}");
        assert_eq!(name, origin("my-org/My.Repo", "42", "1", "build (ubuntu, 3)").object_name());
        for other in
            [("42", "2", "build (ubuntu, 3)"), ("43", "1", "build (ubuntu, 3)"), ("42", "1", "build (ubuntu; 3)"), ("4", "21", "b")]
        {
            assert_ne!(name, origin("my-org/My.Repo", other.0, other.1, other.2).object_name());
        }
        assert_ne!(origin("a/x", "1", "23", "j").object_name(), origin("a/x", "12", "3", "j").object_name(), "parts do not run together");
        for odd in [origin("", "1", "1", "é"), origin("x/---", "1", "1", "-"), origin(&"x".repeat(300), "1", "1", &"y".repeat(256))] {
            let name = odd.object_name();
            let valid = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            assert!(valid && name.len() <= 47 && !name.starts_with('-') && !name.ends_with('-'), "{name}");
        }
    }

    #[test]
    fn projects_become_labels_and_stay_different() {
        assert_eq!(project_label("frontend"), "frontend");
        let slash = project_label("my-org/a-b");
        assert!(slash.starts_with("my-org-a-b-"), "{slash}");
        assert_ne!(slash, project_label("my-org-a/b"));
        assert_ne!(slash, project_label("My-org/a-b"));
        assert!(project_label(&"x/".repeat(200)).len() <= 63 && project_label("é").starts_with("p-"));
    }
}
