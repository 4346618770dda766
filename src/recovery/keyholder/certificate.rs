//! Whether a certificate from Vault is one to log in with. Pure. It must not trust that Vault signed what was asked for.

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Certificate, PublicKey};
use std::time::{Duration, UNIX_EPOCH};

/// A certificate with less life than this, in seconds, is replaced before it is used.
const FRESH: u64 = 60;
/// With less life than this, in seconds, it is not used even where no other can be had.
const LAST: u64 = 10;

/// A certificate for a key that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// A line in OpenSSH's format.
    pub line: String,
    /// The same, as it goes over the wire.
    pub blob: Vec<u8>,
    valid_before: u64,
}

impl Signed {
    /// Takes Vault's answer in. `now` is in seconds since 1970.
    pub fn check(line: &str, key: &PublicKey, principal: &str, now: u64) -> Result<Self, String> {
        let certificate = Certificate::from_openssh(line).map_err(|_| "it does not parse".to_owned())?;
        if certificate.public_key() != key.key_data() {
            return Err("it is for another key than the one that was to be signed".to_owned());
        }
        if certificate.cert_type() != CertType::User {
            return Err("it is a host certificate: let the role sign user certificates (allow_user_certificates)".to_owned());
        }
        if !certificate.valid_principals().iter().any(|name| name == principal) {
            return Err(format!("it is not for the user {principal}"));
        }
        let (from, until) = (certificate.valid_after(), certificate.valid_before());
        if from > now || until < now.saturating_add(LAST) {
            let (from, until, now) = (shown(from), shown(until), shown(now));
            return Err(format!("it is valid from {from} to {until}, and here it is {now}: compare the clocks, or raise the role's ttl"));
        }
        let blob = certificate.to_bytes().map_err(|_| "it does not encode".to_owned())?;
        Ok(Self { line: line.to_owned(), blob, valid_before: until })
    }

    /// It need not be replaced yet.
    pub fn is_fresh(&self, now: u64) -> bool {
        self.valid_before >= now.saturating_add(FRESH)
    }

    /// A login with it can still work.
    pub fn is_usable(&self, now: u64) -> bool {
        self.valid_before >= now.saturating_add(LAST)
    }
}

/// Seconds since 1970 for people.
fn shown(seconds: u64) -> String {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds < 1 << 37).map_or_else(
        || "the end of time".to_owned(),
        |time| chrono::DateTime::<chrono::Utc>::from(time).to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::key::safe_rng;
    use russh::keys::ssh_key::certificate::Builder;
    use russh::keys::{Algorithm, PrivateKey};

    fn key() -> PrivateKey {
        PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap()
    }

    fn signed(key: &PrivateKey, kind: CertType, from: u64, until: u64) -> String {
        let mut builder = Builder::new_with_random_nonce(&mut safe_rng(), key.public_key(), from, until).unwrap();
        builder.cert_type(kind).unwrap().valid_principal("debug").unwrap();
        builder.sign(&self::key()).unwrap().to_openssh().unwrap()
    }

    #[test]
    fn a_certificate_for_the_key_and_the_user_is_taken() {
        let key = key();
        let line = signed(&key, CertType::User, 1000, 1300);
        let taken = Signed::check(&line, key.public_key(), "debug", 1010).unwrap();
        assert_eq!(taken.line, line);
        for (now, fresh, usable) in [(1010, true, true), (1240, true, true), (1241, false, true), (1290, false, true), (1291, false, false)]
        {
            assert_eq!((taken.is_fresh(now), taken.is_usable(now)), (fresh, usable), "{now}");
        }
        let forever = Signed::check(&signed(&key, CertType::User, 0, u64::MAX), key.public_key(), "debug", 1010).unwrap();
        assert!(forever.is_fresh(u64::MAX));
    }

    #[test]
    fn anything_else_is_refused_with_the_cure() {
        let ours = key();
        let check = |line: &str, principal: &str, now| Signed::check(line, ours.public_key(), principal, now).unwrap_err();
        let line = signed(&ours, CertType::User, 1000, 1300);
        assert!(check("ssh-ed25519-cert-v01@openssh.com AAAA", "debug", 1010).contains("does not parse"));
        assert!(check(&signed(&key(), CertType::User, 1000, 1300), "debug", 1010).contains("another key"));
        assert!(check(&signed(&ours, CertType::Host, 1000, 1300), "debug", 1010).contains("host certificate"));
        assert!(check(&line, "root", 1010).contains("not for the user root"));
        for now in [999, 1291, 5000] {
            let why = check(&line, "debug", now);
            assert!(why.contains("1970-01-01T00:16:40Z to 1970-01-01T00:21:40Z") && why.contains("clocks"), "{why}");
        }
        let why = check(&signed(&ours, CertType::User, 5000, u64::MAX), "debug", 1010);
        assert!(why.contains("the end of time"), "{why}");
    }
}
