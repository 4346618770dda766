//! The public keys that get into a session: those of the running ssh-agent, or of files. No private key is read further than it
//! takes to see that it is one, and none is ever printed.

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PublicKey};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As many as `spec.access.authorizedKeys` takes.
pub const MOST: usize = 32;
/// Longest file that can be a public key's.
const LONGEST_FILE: u64 = 64 * 1024;
/// How long an agent may take: some ask their user first.
const AGENT_LIMIT: Duration = Duration::from_secs(20);
/// What the schema takes.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A private key was given by mistake.
    #[error("{file} is a private key: nothing of it was sent; give its public half, {file}.pub, or make it by `ssh-keygen -y`", file = .0.display())]
    Private(PathBuf),
    /// A certificate was given as a key.
    #[error("{file} is a certificate: give its principals by --principal, or a plain public key", file = .0.display())]
    Certificate(PathBuf),
    /// Not a public key.
    #[error("{file} is no public key in OpenSSH format (`ssh-ed25519 AAAA… you`): for other formats see `ssh-keygen -i`", file = .0.display())]
    Unreadable(PathBuf),
    /// A kind of key that no session takes.
    #[error("{file} holds a key of a kind that no session takes: make one by `ssh-keygen -t ed25519`", file = .0.display())]
    Kind(PathBuf),
    /// The file cannot be read.
    #[error("failed to read {file}: {reason}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// No ssh-agent runs.
    #[error("no public key: no ssh-agent runs (SSH_AUTH_SOCK is not set): start one and `ssh-add`, or give --key ~/.ssh/id_ed25519.pub")]
    NoAgent,
    /// The agent does not answer.
    #[error("failed to ask the ssh-agent at SSH_AUTH_SOCK ({reason}): start another one, or give --key ~/.ssh/id_ed25519.pub")]
    Agent {
        /// What happened.
        reason: String,
    },
    /// The agent has no key.
    #[error("the ssh-agent holds no key that a session takes: `ssh-add` one, or give --key ~/.ssh/id_ed25519.pub")]
    EmptyAgent,
    /// More than a session takes.
    #[error("there are {0} public keys, and a session takes {MOST}: choose by --key FILE.pub")]
    TooMany(usize),
}

/// The keys of these files, or where there are none, of the ssh-agent; as lines of an OpenSSH `.pub` file.
///
/// # Errors
/// What [`KeyError`] says.
pub async fn public_keys(files: &[PathBuf]) -> Result<Vec<String>, KeyError> {
    let mut lines = Vec::new();
    for file in files {
        lines.extend(of_file(file)?);
    }
    if files.is_empty() {
        lines = of_agent(std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)).await?;
    }
    let mut known = std::collections::HashSet::new();
    lines.retain(|line| known.insert(line.split(' ').take(2).collect::<Vec<_>>().join(" ")));
    if lines.len() > MOST { Err(KeyError::TooMany(lines.len())) } else { Ok(lines) }
}

fn of_file(file: &Path) -> Result<Vec<String>, KeyError> {
    let failed = |reason| KeyError::File { file: file.to_owned(), reason };
    let mut bytes = Vec::new();
    // A pipe may go on for ever, a key does not.
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(LONGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Unreadable(file.to_owned()))?;
    parse(text, file)
}

/// The keys in the text of a file.
fn parse(text: &str, file: &Path) -> Result<Vec<String>, KeyError> {
    if text.contains("PRIVATE KEY-----") || text.starts_with("PuTTY-User-Key-File") {
        return Err(KeyError::Private(file.to_owned()));
    }
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.split(' ').next().is_some_and(|kind| kind.ends_with("-cert-v01@openssh.com")) {
            return Err(KeyError::Certificate(file.to_owned()));
        }
        let key = PublicKey::from_openssh(line).map_err(|_| KeyError::Unreadable(file.to_owned()))?;
        lines.push(in_one_line(&key, key.comment().as_str_lossy()).ok_or_else(|| KeyError::Kind(file.to_owned()))?);
    }
    if lines.is_empty() { Err(KeyError::Unreadable(file.to_owned())) } else { Ok(lines) }
}

async fn of_agent(socket: Option<PathBuf>) -> Result<Vec<String>, KeyError> {
    let socket = socket.filter(|socket| !socket.as_os_str().is_empty()).ok_or(KeyError::NoAgent)?;
    let asked = async {
        let mut agent = AgentClient::connect_uds(&socket).await?;
        agent.request_identities().await
    };
    let failed = |reason: String| KeyError::Agent { reason };
    let identities = tokio::time::timeout(AGENT_LIMIT, asked).await;
    let identities = identities.map_err(|_| failed(format!("no answer within {} s", AGENT_LIMIT.as_secs())))?;
    let identities = identities.map_err(|error| failed(error.to_string()))?;
    let lines: Vec<String> = identities.iter().filter_map(of_identity).collect();
    if lines.is_empty() { Err(KeyError::EmptyAgent) } else { Ok(lines) }
}

/// A plain key of the agent. Its certificates are for `--principal`.
fn of_identity(identity: &AgentIdentity) -> Option<String> {
    match identity {
        AgentIdentity::PublicKey { key, comment } => in_one_line(key, comment),
        AgentIdentity::Certificate { .. } => None,
    }
}

/// Kind, key and comment; nothing for a kind that no session takes.
fn in_one_line(key: &PublicKey, comment: &str) -> Option<String> {
    let algorithm = key.algorithm();
    let kind = TYPES.into_iter().find(|kind| *kind == algorithm.as_str())?;
    let text = key.to_openssh().ok()?;
    let body = text.split_whitespace().nth(1)?;
    let comment: String = super::output::plain(comment).chars().take(255).collect();
    Some(format!("{kind} {body} {comment}").trim_end().to_owned())
}

/// The fingerprint of a line of a `.pub` file, as `ssh-keygen -l` prints it.
#[must_use]
pub fn fingerprint(line: &str) -> Option<String> {
    PublicKey::from_openssh(line.trim()).ok().map(|key| key.fingerprint(HashAlg::Sha256).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::ssh_key::LineEnding;

    fn line() -> String {
        crate::gateway::keys::new_ed25519().expect("a key").public_key().to_openssh().expect("encoded")
    }

    #[test]
    fn public_keys_are_taken_and_everything_else_is_refused_without_a_word_of_it() {
        let (file, key) = (Path::new("id.pub"), line());
        assert_eq!(parse(&format!("\n# mine\n{key} me@here\n"), file).expect("a key"), [format!("{key} me@here")]);
        let private = crate::gateway::keys::new_ed25519().expect("a key").to_openssh(LineEnding::LF).expect("encoded");
        let refused = parse(&private, file).expect_err("refused");
        assert!(matches!(refused, KeyError::Private(_)));
        let words = refused.to_string();
        assert!(private.lines().skip(1).take(3).all(|line| !words.contains(line)), "{words}");
        for (text, expected) in [
            ("PuTTY-User-Key-File-3: ssh-ed25519\n", "private key"),
            ("ssh-ed25519-cert-v01@openssh.com AAAA me", "certificate"),
            ("---- BEGIN SSH2 PUBLIC KEY ----\n", "no public key"),
            ("command=\"x\" ssh-ed25519 AAAA", "no public key"),
            ("", "no public key"),
        ] {
            let words = parse(text, file).expect_err("refused").to_string();
            assert!(words.contains(expected), "{text}: {words}");
        }
    }

    #[tokio::test]
    async fn the_same_key_counts_once_and_too_many_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, many) = (folder.path().join("one.pub"), folder.path().join("many.pub"));
        std::fs::write(&one, line()).expect("written");
        assert_eq!(public_keys(&[one.clone(), one.clone()]).await.expect("keys").len(), 1);
        std::fs::write(&many, (0..33).map(|_| line() + "\n").collect::<String>()).expect("written");
        assert!(matches!(public_keys(&[many]).await, Err(KeyError::TooMany(33))));
        assert!(public_keys(&[folder.path().join("none")]).await.expect_err("refused").to_string().contains("failed to read"));
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_has_its_cure() {
        assert!(matches!(of_agent(None).await, Err(KeyError::NoAgent)));
        let words = of_agent(Some("/nonexistent/agent".into())).await.expect_err("refused").to_string();
        assert!(words.contains("--key"), "{words}");
    }

    #[test]
    fn comments_of_agents_cannot_add_lines() {
        let key = PublicKey::from_openssh(&line()).expect("a key");
        let line = in_one_line(&key, "me\nssh-rsa AAAA").expect("a line");
        assert!(!line.contains('\n') && line.ends_with("me?ssh-rsa AAAA"), "{line}");
    }
}
