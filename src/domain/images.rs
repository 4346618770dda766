//! Which images may run. A reference is first brought to its full form, as the container runtimes do it, so that `alpine` and
//! `docker.io/library/alpine` are one thing; then it is compared with the allowed prefixes. Odd references are refused.

use super::configuration::AllowedImage;

/// An image reference in its full form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port where given.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// Tag, where given.
    pub tag: Option<String>,
    /// Digest, where given: `sha256:…`. It alone decides what runs.
    pub digest: Option<String>,
}

/// Why a reference is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image reference {reference:?} is refused: {problem}")]
pub struct ReferenceError {
    /// The reference.
    pub reference: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Reference {
    /// Reads a reference (grammar: distribution/reference).
    ///
    /// # Errors
    /// What is odd about it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |problem| ReferenceError { reference: text.chars().take(200).collect(), problem };
        if text.is_empty() || text.len() > 1024 {
            return Err(refuse("it is empty or too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(refuse("its digest is not sha256: and 64 hexadecimal digits"));
        }
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is not valid"));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(refuse("its registry is not a host name with an optional port"));
        }
        if repository.is_empty() || repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(refuse("its repository is not lower-case letters, digits and separators"));
        }
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let short = registry == "docker.io" && !repository.contains('/');
        Ok(Self {
            registry: registry.to_owned(),
            repository: if short { format!("library/{repository}") } else { repository.to_owned() },
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether one of the rules allows it for an object of this namespace.
    #[must_use]
    pub fn is_allowed(&self, namespace: &str, rules: &[AllowedImage]) -> bool {
        rules.iter().any(|rule| {
            let for_namespace = rule.namespaces.is_empty() || rule.namespaces.iter().any(|allowed| allowed == namespace);
            for_namespace && self.begins_with(&rule.prefix)
        })
    }

    /// Whether the full form begins with the prefix, and the prefix ends where a component ends.
    fn begins_with(&self, prefix: &str) -> bool {
        let prefix = full_prefix(prefix);
        let prefix = prefix.trim_end_matches('/');
        let mut full = self.name();
        // Where there is a digest the tag says nothing about what runs.
        match (&self.digest, &self.tag) {
            (Some(digest), _) => full.extend(["@", digest]),
            (None, Some(tag)) => full.extend([":", tag]),
            (None, None) => full.push_str(":latest"),
        }
        let Some(rest) = full.strip_prefix(prefix) else { return false };
        match rest.bytes().next() {
            None | Some(b'/') => true,
            // `registry.example.com` does not stand for `registry.example.com:5000`.
            Some(b':' | b'@') => prefix.contains('/'),
            Some(_) => false,
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

/// The registry is the first component if it looks like a host: it holds a dot or a colon, or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    }
}

/// A prefix in the full form; `team/` is `docker.io/team/`, `alpine` is `docker.io/library/alpine`.
fn full_prefix(prefix: &str) -> String {
    let first = prefix.split('/').next().unwrap_or_default();
    if first.contains(['.', ':']) || first == "localhost" {
        prefix.to_owned()
    } else if prefix.contains('/') {
        format!("docker.io/{prefix}")
    } else {
        format!("docker.io/library/{prefix}")
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128 && text.bytes().next().is_some_and(word) && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_component(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
        && text.bytes().all(|byte| inner(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && !text.contains("..")
        && !text.contains("___")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "0a".repeat(32))
    }

    #[test]
    fn short_references_are_completed() {
        for (short, full) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("team/x", "docker.io/team/x"),
            ("index.docker.io/alpine", "docker.io/library/alpine"),
            ("localhost/x:1", "localhost/x:1"),
            ("registry.example.com:5000/a/b:v1", "registry.example.com:5000/a/b:v1"),
        ] {
            assert_eq!(Reference::parse(short).expect("valid").to_string(), full);
        }
        let pinned = format!("registry.example.com/x:1@{}", digest());
        assert_eq!(Reference::parse(&pinned).expect("valid").to_string(), pinned);
    }

    #[test]
    fn odd_references_are_refused() {
        for odd in [
            "",
            "Alpine",
            "a b",
            "/x",
            "x/",
            "a//b",
            "../x",
            "registry.example.com/../x",
            "x:",
            "x:-1",
            "x@sha256:12",
            "x@md5:00",
            "x@sha256:a@sha256:b",
            "-x",
            "x:1:2/y",
            "registry.example.com:port/x",
            "registry.example.com:0/x",
            "https://x/y",
            "x\n",
            "a___b",
        ] {
            assert!(Reference::parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_component_border() {
        let allowed = |prefix: &str, image: &str| {
            let rules = [AllowedImage { prefix: prefix.into(), namespaces: Vec::new() }];
            Reference::parse(image).expect("valid").is_allowed("ci", &rules)
        };
        assert!(allowed("registry.example.com/team", "registry.example.com/team/x:1"));
        assert!(allowed("registry.example.com/team/", "registry.example.com/team/x:1"));
        assert!(allowed("registry.example.com/team/x", "registry.example.com/team/x:1"));
        assert!(allowed("registry.example.com/team/x:1", "registry.example.com/team/x:1"));
        assert!(allowed("registry.example.com", "registry.example.com/y"));
        assert!(allowed("alpine", "docker.io/library/alpine:3"));
        assert!(allowed("docker.io/library/", "alpine"));
        assert!(allowed("team/", "team/x"));
        assert!(!allowed("registry.example.com/team", "registry.example.com/team2/x"));
        assert!(!allowed("registry.example.com/team/x:1", "registry.example.com/team/x:12"));
        assert!(!allowed("registry.example.com", "registry.example.com:5000/x"));
        assert!(!allowed("registry.example.com", "registry.example.com.evil.example/x"));
        assert!(!allowed("alpine", "evil/alpine"));
        let both = format!("registry.example.com/team/x:1@{}", digest());
        assert!(!allowed("registry.example.com/team/x:1", &both), "the digest decides what runs, not the tag");
        assert!(allowed("registry.example.com/team/x", &both));
    }

    #[test]
    fn a_rule_may_be_for_some_namespaces() {
        let rules = [AllowedImage { prefix: "registry.example.com/".into(), namespaces: vec!["ci".into()] }];
        let image = Reference::parse("registry.example.com/x").expect("valid");
        assert!(image.is_allowed("ci", &rules));
        assert!(!image.is_allowed("other", &rules));
        assert!(!image.is_allowed("ci", &[]));
    }
}
