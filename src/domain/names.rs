//! Names: from an object to its ssh user and its pod, and back.

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// The ssh user name: `<namespace>.<name>`.
    #[must_use]
    pub fn ssh_user(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// Reads an ssh user name. A namespace holds no dot, so the first dot splits.
    #[must_use]
    pub fn from_ssh_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.split_once('.')?;
        let valid = |part: &str, dots: bool| {
            !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || (dots && byte == b'.'))
        };
        (valid(namespace, false) && valid(name, true)).then(|| Self { namespace: namespace.into(), name: name.into() })
    }

    /// Name of this object's pod: readable, and unique by the UID's first part, so that an object created again under the same
    /// name never meets its predecessor's pod.
    #[must_use]
    pub fn pod_name(&self, uid: &str) -> String {
        let short = uid.split('-').next().unwrap_or(uid);
        let readable = format!("{}-{}", self.namespace, self.name.replace('.', "-"));
        let room = 62_usize.saturating_sub(short.len());
        let cut: String = readable.chars().take(room).collect();
        format!("{}-{short}", cut.trim_end_matches('-'))
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_users_split_at_the_first_dot() {
        let name = ObjectName::from_ssh_user("ci.build-42.retry").expect("valid");
        assert_eq!((name.namespace.as_str(), name.name.as_str()), ("ci", "build-42.retry"));
        assert_eq!(name.ssh_user(), "ci.build-42.retry");
        for user in ["ci", ".x", "ci.", "CI.x", "ci.x y", "root", "ci.x/../y", &format!("ci.{}", "a".repeat(64))] {
            assert_eq!(ObjectName::from_ssh_user(user), None, "{user}");
        }
    }

    #[test]
    fn pod_names_are_valid_and_differ_by_uid() {
        let name = ObjectName { namespace: "n".repeat(63), name: "x".repeat(63) };
        let pod = name.pod_name("0f1e2d3c-0000-4000-8000-000000000000");
        assert!(pod.len() <= 63 && pod.ends_with("-0f1e2d3c"));
        let short = ObjectName { namespace: "ci".into(), name: "build.42".into() };
        assert_eq!(short.pod_name("aaaabbbb-1"), "ci-build-42-aaaabbbb");
    }
}
