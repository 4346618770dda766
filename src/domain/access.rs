//! Who may enter a session, and what they may do there: a pure function of what the client proved, the object as it is
//! now, the configuration and the time. Evaluated again whenever the object changes.

use crate::api::AnySession;
use crate::api::breakglass_vm::Verb;
use crate::api::conditions::{OPEN, Reason};
use crate::api::session::{Access, Capability, Phase};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use russh::keys::ssh_key::certificate::{CertType, Certificate};
use russh::keys::{HashAlg, PublicKey};
use std::net::IpAddr;
use std::time::Duration;

use super::configuration::Configuration;
use super::lifetime::{expires_at, parse_duration};

/// What a client proved to hold.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A bare key.
    Key(PublicKey),
    /// A user certificate, and when it was proved. As with sshd, its validity counts at that moment: the session's own deadline
    /// ends a connection, not the certificate's.
    Certificate(Box<Certificate>, DateTime<Utc>),
}

impl Credential {
    /// SHA-256 fingerprint of the key, for the records.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Key(key) => key.fingerprint(HashAlg::Sha256).to_string(),
            Self::Certificate(certificate, _) => certificate.public_key().fingerprint(HashAlg::Sha256).to_string(),
        }
    }

    /// Id and serial of the certificate, for the records.
    #[must_use]
    pub fn certificate(&self) -> Option<String> {
        match self {
            Self::Key(_) => None,
            Self::Certificate(certificate, _) => Some(format!("{} (serial {})", certificate.key_id(), certificate.serial())),
        }
    }
}

/// What an authorized client may do. Only [`authorize`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    object_kind: &'static str,
    object_uid: String,
    expires_at: DateTime<Utc>,
    idle_timeout: Option<Duration>,
    allowed: Vec<Capability>,
    verbs: Vec<Verb>,
    terminal: bool,
    forced_command: Option<String>,
}

impl Authorized {
    /// Kind of the object.
    #[must_use]
    pub const fn object_kind(&self) -> &'static str {
        self.object_kind
    }

    /// UID of the object.
    #[must_use]
    pub fn object_uid(&self) -> &str {
        &self.object_uid
    }

    /// End of the session.
    #[must_use]
    pub const fn expires_at(&self) -> DateTime<Utc> {
        self.expires_at
    }

    /// How long a connection may be without a byte.
    #[must_use]
    pub const fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }

    /// Whether a channel type beyond shell and exec is allowed.
    #[must_use]
    pub fn allows(&self, capability: Capability) -> bool {
        self.allowed.contains(&capability)
    }

    /// The power verbs that may be run.
    #[must_use]
    pub fn verbs(&self) -> &[Verb] {
        &self.verbs
    }

    /// Whether terminals are allowed (a certificate may leave them out).
    #[must_use]
    pub const fn allows_terminal(&self) -> bool {
        self.terminal
    }

    /// The only command that may run, where the certificate names one.
    #[must_use]
    pub fn forced_command(&self) -> Option<&str> {
        self.forced_command.as_deref()
    }
}

/// Why a client is not let in, or not any more. The text is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The time is over.
    #[error("the session has expired")]
    Expired,
    /// The session ended for another reason.
    #[error("the session has ended: {0}")]
    Ended(String),
    /// The object is being deleted, or gone.
    #[error("the session was deleted")]
    Deleted,
    /// No object has the name.
    #[error("no session has this name")]
    Unknown,
    /// Neither key nor certificate gives access.
    #[error("this key has no access to the session")]
    NoAccess,
    /// A certificate that does not count, and why.
    #[error("the certificate is refused: {0}")]
    Certificate(String),
}

impl Denied {
    /// The reason that stands in status for the same thing.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Expired => "Expired",
            Self::Ended(_) => "Ended",
            Self::Deleted => "Deleted",
            Self::Unknown => "Unknown",
            Self::NoAccess => "AccessRemoved",
            Self::Certificate(_) => "CertificateRefused",
        }
    }

    /// Whether the client would get in, were the session not over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Expired | Self::Ended(_) | Self::Deleted)
    }
}

/// The deadline of an object, from its creation and its immutable spec alone. `None` for an object the API server has not stored.
#[must_use]
pub fn deadline(object: &AnySession, cap: Duration) -> Option<DateTime<Utc>> {
    let created = to_chrono(object.metadata().creation_timestamp.as_ref()?)?;
    let terms = object.terms();
    let ttl = parse_duration(terms.ttl)?;
    let limit = match terms.not_after {
        Some(time) => Some(to_chrono(time)?),
        None => None,
    };
    Some(expires_at(created, ttl, cap, limit))
}

fn to_chrono(time: &Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.0.as_second(), 0)
}

/// Decides. Whoever has no access learns nothing of the object, not even that it is over.
///
/// # Errors
/// See [`Denied`].
pub fn authorize(
    credential: &Credential,
    object: &AnySession,
    configuration: &Configuration,
    source: IpAddr,
    now: DateTime<Utc>,
) -> Result<Authorized, Denied> {
    let access = object.terms().access;
    check_credential(credential, access, configuration, source)?;
    let expires_at = alive(object, configuration, now)?;
    let mut authorized = Authorized {
        object_kind: object.kind(),
        object_uid: object.metadata().uid.clone().unwrap_or_default(),
        expires_at,
        idle_timeout: access.idle_timeout.as_deref().and_then(parse_duration),
        allowed: object.allowed(),
        verbs: object.verbs(),
        terminal: true,
        forced_command: None,
    };
    if let Credential::Certificate(certificate, _) = credential {
        restrict(&mut authorized, certificate);
    }
    Ok(authorized)
}

fn check_credential(credential: &Credential, access: &Access, configuration: &Configuration, source: IpAddr) -> Result<(), Denied> {
    match credential {
        Credential::Key(key) => {
            let mut known = access.authorized_keys.iter().filter_map(|line| PublicKey::from_openssh(line).ok());
            if known.any(|known| known.key_data() == key.key_data()) { Ok(()) } else { Err(Denied::NoAccess) }
        }
        Credential::Certificate(certificate, proved_at) => {
            check_certificate(certificate, &access.principals, configuration, source, *proved_at)
        }
    }
}

/// The object's deadline, if it is alive.
fn alive(object: &AnySession, configuration: &Configuration, now: DateTime<Utc>) -> Result<DateTime<Utc>, Denied> {
    if object.metadata().deletion_timestamp.is_some() {
        return Err(Denied::Deleted);
    }
    let deadline = deadline(object, configuration.ttl_cap()).ok_or_else(|| Denied::Ended("its ttl is not valid".into()))?;
    if now >= deadline {
        return Err(Denied::Expired);
    }
    if object.terms().end {
        return Err(Denied::Ended(Reason::EndRequested.as_str().into()));
    }
    if let Some(status) = object.state()
        && matches!(status.phase, Some(Phase::Ended | Phase::Failed))
    {
        let open = status.conditions.iter().find(|condition| condition.type_ == OPEN);
        let reason = status.end_reason.clone().or_else(|| open.map(|open| open.reason.clone())).unwrap_or_default();
        let message = open.map(|open| format!("{reason}: {}", open.message)).unwrap_or(reason);
        return Err(Denied::Ended(message));
    }
    Ok(deadline)
}

fn check_certificate(
    certificate: &Certificate,
    wanted: &[String],
    configuration: &Configuration,
    source: IpAddr,
    now: DateTime<Utc>,
) -> Result<(), Denied> {
    let refuse = |reason: &str| Err(Denied::Certificate(reason.to_owned()));
    let authorities: Vec<PublicKey> =
        configuration.user_certificate_authorities.iter().filter_map(|key| PublicKey::from_openssh(key).ok()).collect();
    if !authorities.iter().any(|authority| authority.key_data() == certificate.signature_key()) {
        return refuse("its CA is not one of userCertificateAuthorities");
    }
    let fingerprints: Vec<_> = authorities.iter().map(|authority| authority.fingerprint(HashAlg::Sha256)).collect();
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    if certificate.validate_at(seconds, &fingerprints).is_err() {
        return refuse("it is not valid now, or its signature is wrong");
    }
    if certificate.cert_type() != CertType::User {
        return refuse("it is not a user certificate");
    }
    if !certificate.valid_principals().iter().any(|principal| wanted.contains(principal)) {
        return refuse("none of its principals is in spec.access.principals");
    }
    for (name, value) in certificate.critical_options().iter() {
        match name.as_str() {
            "force-command" => {}
            "source-address" if source_matches(value, source) => {}
            "source-address" => return refuse("it is not valid from this address"),
            unknown => return Err(Denied::Certificate(format!("its critical option {unknown} is not known"))),
        }
    }
    Ok(())
}

/// OpenSSH's list of addresses and networks (PROTOCOL.certkeys, source-address).
fn source_matches(list: &str, source: IpAddr) -> bool {
    let source = source.to_canonical();
    list.split(',').any(|entry| match entry.trim().parse::<IpNet>() {
        Ok(network) => network.contains(&source),
        Err(_) => entry.trim().parse::<IpAddr>() == Ok(source),
    })
}

/// What a certificate does not permit is not allowed, whatever the object says (PROTOCOL.certkeys, extensions).
fn restrict(authorized: &mut Authorized, certificate: &Certificate) {
    let permits = |name: &str| certificate.extensions().iter().any(|(extension, _)| extension == name);
    authorized.terminal = permits("permit-pty");
    authorized.allowed.retain(|capability| match capability {
        Capability::LocalForward => permits("permit-port-forwarding"),
        Capability::AgentForward => permits("permit-agent-forwarding"),
        Capability::Sftp => true,
    });
    authorized.forced_command =
        certificate.critical_options().iter().find(|(name, _)| *name == "force-command").map(|(_, value)| value.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ test";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmW3Yf9w2wXr5Yn7yjIuPZ1kVfXWnq0VQ0cKfYH3Z6w other";

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    /// A session that has 20 of its 30 minutes left, changed by `change`.
    fn decide(key: &str, change: impl FnOnce(&mut crate::api::DebugSession)) -> Result<Authorized, Denied> {
        let created = (now() - TimeDelta::minutes(10)).to_rfc3339();
        let mut object: crate::api::DebugSession = serde_json::from_value(serde_json::json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
            "metadata": { "name": "x", "namespace": "ci", "uid": "u", "creationTimestamp": created },
            "spec": { "source": { "image": "i" }, "requester": "r", "access": { "authorizedKeys": [KEY] } }
        }))
        .expect("an object");
        change(&mut object);
        let configuration =
            Configuration::parse("gateway: { host: h }\nsessions: { agentImage: i }\nrecording: { mode: Off }\n").expect("valid");
        let Ok(key) = PublicKey::from_openssh(key) else { return Err(Denied::NoAccess) };
        authorize(&Credential::Key(key), &AnySession::Debug(Box::new(object)), &configuration, "192.0.2.1".parse().expect("address"), now())
    }

    #[test]
    fn the_right_key_gets_what_the_object_allows() {
        let authorized = decide(KEY, |_| {}).expect("let in");
        assert_eq!(authorized.expires_at(), now() + TimeDelta::minutes(20));
        assert!(authorized.allows(Capability::Sftp) && authorized.allows_terminal());
        assert!(!authorized.allows(Capability::LocalForward) && !authorized.allows(Capability::AgentForward));
        assert_eq!(authorized.forced_command(), None);
        assert_eq!(decide(OTHER, |_| {}), Err(Denied::NoAccess));
    }

    #[test]
    fn an_object_that_is_over_lets_nobody_in() {
        let time = |time: DateTime<Utc>| serde_json::from_value(time.to_rfc3339().into()).expect("time");
        assert_eq!(decide(KEY, |object| object.spec.ttl = "10m".into()), Err(Denied::Expired));
        assert_eq!(decide(KEY, |object| object.spec.not_after = Some(time(now()))), Err(Denied::Expired));
        assert!(matches!(decide(KEY, |object| object.spec.end = true), Err(Denied::Ended(_))));
        assert_eq!(decide(KEY, |object| object.metadata.deletion_timestamp = Some(time(now()))), Err(Denied::Deleted));
        let failed = |object: &mut crate::api::DebugSession| {
            let status = serde_json::json!({ "phase": "Failed", "endReason": "OutOfMemory" });
            object.status = Some(serde_json::from_value(status).expect("status"));
        };
        assert_eq!(decide(KEY, failed), Err(Denied::Ended("OutOfMemory".into())));
        assert_eq!(decide(OTHER, failed), Err(Denied::NoAccess), "a stranger is not told that it is over");
        assert!(matches!(decide(KEY, |object| object.spec.ttl = "soon".into()), Err(Denied::Ended(_))), "fails closed");
    }

    #[test]
    fn the_cap_of_the_installation_counts_also_for_objects_made_before_it() {
        let authorized = decide(KEY, |object| object.spec.ttl = "5h".into()).expect("let in");
        assert_eq!(authorized.expires_at(), now() + TimeDelta::minutes(50));
    }

    #[test]
    fn source_addresses_are_networks_or_addresses() {
        let source = |text: &str| text.parse().expect("address");
        assert!(source_matches("10.0.0.0/8, 192.0.2.1", source("192.0.2.1")));
        assert!(source_matches("192.0.2.0/24", source("::ffff:192.0.2.9")), "an IPv4 client of a listener for both");
        assert!(source_matches("2001:db8::/32", source("2001:db8::1")));
        assert!(!source_matches("192.0.2.0/24", source("198.51.100.1")));
        assert!(!source_matches("", source("192.0.2.1")) && !source_matches("nonsense", source("192.0.2.1")));
    }
}
