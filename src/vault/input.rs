//! What the caller gives, checked before anything is sent. The library panics on a bad address and on a token with a newline, and drops
//! `..` from a path in silence, so that the path read would not be the path that was checked.

use super::{Vault, VaultError, Want};
use zeroize::Zeroizing;

/// Longest segment, path, name: Vault's own limits are of this order.
const LONGEST: usize = 512;
/// Longest projected token; the API server's are about 1 KiB.
const LONGEST_TOKEN: usize = 16 * 1024;

fn setting(what: &'static str, why: impl Into<String>) -> VaultError {
    VaultError::Setting { what, why: why.into() }
}

/// The settings and the wants can be sent as they are.
pub(super) fn check(vault: &Vault, wants: &[Want]) -> Result<(), VaultError> {
    address(&vault.address)?;
    path("auth mount", &vault.auth_mount)?;
    segment("role", &vault.role)?;
    if wants.is_empty() {
        return Err(setting("key", "is missing: name a key or an SSH role"));
    }
    wants.iter().try_for_each(want)
}

fn want(want: &Want) -> Result<(), VaultError> {
    match want {
        Want::Kv { mount, path: key, field } => {
            path("KV mount", mount)?;
            path("KV path", key)?;
            if field.is_empty() || field.len() > LONGEST || field.chars().any(char::is_control) {
                return Err(setting("KV field", format!("{field:?} is not the name of a field")));
            }
            Ok(())
        }
        Want::Sign { mount, role, public_key, principal } => {
            path("SSH mount", mount)?;
            segment("SSH role", role)?;
            segment("SSH principal", principal)?;
            let mut words = public_key.trim().split(' ');
            let is_line = !public_key.trim().contains(char::is_control) && !public_key.contains("PRIVATE");
            if is_line && words.next().is_some_and(|kind| !kind.is_empty()) && words.next().is_some_and(|key| key.starts_with("AAAA")) {
                Ok(())
            } else {
                Err(setting("public key", "is not a line in OpenSSH's format"))
            }
        }
    }
}

/// `https://host:port` and nothing more.
fn address(address: &str) -> Result<(), VaultError> {
    let bad = |why| Err(setting("address", format!("{address:?} {why}; it must be https://HOST:PORT")));
    if address.contains('@') {
        return Err(setting("address", "holds a user name or a password; it must be https://HOST:PORT"));
    }
    let Ok(url) = reqwest::Url::parse(address) else { return bad("is not a URL") };
    if url.scheme() != "https" {
        return bad("is not https");
    }
    if url.host().is_none() || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return bad("is more or less than a host and a port");
    }
    Ok(())
}

/// Segments between slashes.
fn path(what: &'static str, value: &str) -> Result<(), VaultError> {
    if value.len() > LONGEST {
        return Err(setting(what, "is too long"));
    }
    value.split('/').try_for_each(|part| segment(what, part))
}

/// One name that means the same in a URL, in a policy and in Vault: no wildcard, no escape, no dot segment, no comma.
fn segment(what: &'static str, value: &str) -> Result<(), VaultError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':');
    if value.is_empty() || value.len() > LONGEST || matches!(value, "." | "..") || !value.chars().all(is_plain) {
        return Err(setting(what, format!("{value:?} is not made of letters, digits and -_.@: only")));
    }
    Ok(())
}

/// The projected token without the newline that files end with (RFC 7519 section 3: three base64url parts with dots between).
pub(super) fn token(token: &Zeroizing<String>) -> Result<Zeroizing<String>, VaultError> {
    let token = token.trim();
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if token.len() <= LONGEST_TOKEN && token.split('.').count() == 3 && token.split('.').all(is_part) {
        Ok(Zeroizing::new(token.to_owned()))
    } else {
        Err(VaultError::NotAToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault {
            address: "https://192.0.2.1:8200".to_owned(),
            certificate_authority: String::new(),
            auth_mount: "kubernetes".to_owned(),
            role: "infra-devvm".to_owned(),
        }
    }

    fn kv(mount: &str, path: &str, field: &str) -> Want {
        Want::Kv { mount: mount.to_owned(), path: path.to_owned(), field: field.to_owned() }
    }

    fn sign(role: &str, public_key: &str, principal: &str) -> Want {
        Want::Sign { mount: "ssh".to_owned(), role: role.to_owned(), public_key: public_key.to_owned(), principal: principal.to_owned() }
    }

    fn bad(vault: &Vault, want: Want) -> &'static str {
        match check(vault, &[want]) {
            Err(VaultError::Setting { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_settings_pass() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@here\n";
        check(&vault(), &[kv("secret/team", "breakglass/devvm", "ssh key"), sign("one", line, "debug")]).unwrap();
        check(&Vault { address: "https://[2001:db8::1]:8200".to_owned(), ..vault() }, &[kv("a", "b", "c")]).unwrap();
    }

    #[test]
    fn addresses() {
        for address in [
            "",
            "192.0.2.1:8200",
            "http://192.0.2.1:8200",
            "https://",
            "https://192.0.2.1:8200/v1",
            "https://192.0.2.1:8200/?a=b",
            "https://192.0.2.1:8200#a",
            "https://me:hunter2@192.0.2.1:8200",
            "https://me:hunter2@",
            "http://me:hunter2@192.0.2.1/v1",
            "file:///etc",
        ] {
            let vault = Vault { address: address.to_owned(), ..vault() };
            assert_eq!(bad(&vault, kv("a", "b", "c")), "address", "{address}");
            assert!(!check(&vault, &[kv("a", "b", "c")]).unwrap_err().to_string().contains("hunter2"));
        }
    }

    #[test]
    fn paths_that_would_be_read_as_other_paths() {
        for path in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "a/*", "a/+/b", "a%2fb", "a b", "a?b", "a#b", "a\nb", "ä", &"a".repeat(600)]
        {
            assert_eq!(bad(&vault(), kv("secret", path, "key")), "KV path", "{path}");
            assert_eq!(bad(&vault(), kv(path, "a", "key")), "KV mount", "{path}");
            assert_eq!(bad(&Vault { auth_mount: path.to_owned(), ..vault() }, kv("a", "b", "c")), "auth mount", "{path}");
        }
        assert_eq!(bad(&Vault { role: "a/b".to_owned(), ..vault() }, kv("a", "b", "c")), "role");
        assert_eq!(bad(&vault(), kv("a", "b", "")), "KV field");
        assert!(check(&vault(), &[]).is_err());
    }

    #[test]
    fn what_is_signed() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5";
        assert_eq!(bad(&vault(), sign("a/b", line, "debug")), "SSH role");
        assert_eq!(bad(&vault(), sign("a", line, "debug,root")), "SSH principal");
        for key in ["", "ssh-ed25519", "a\nb", "-----BEGIN OPENSSH PRIVATE KEY----- AAAA", "ssh-rsa AAAA\nssh-rsa AAAA"] {
            assert_eq!(bad(&vault(), sign("a", key, "debug")), "public key", "{key}");
        }
    }

    #[test]
    fn tokens() {
        let given = |text: &str| token(&Zeroizing::new(text.to_owned()));
        assert_eq!(*given(" aa.b-b.c_c\n").unwrap(), "aa.b-b.c_c");
        for text in ["", "\n", "aa.bb", "aa.bb.cc.dd", "aa..cc", "aa.bb.cc\naa.bb.cc", "aa.bb.c c", "aa.bb.c=", &"a".repeat(20_000)] {
            assert_eq!(given(text).unwrap_err(), VaultError::NotAToken);
        }
    }
}
