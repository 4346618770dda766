//! What Vault answered, taken apart. Bodies come in wiped memory and values leave in wiped memory; in between only the wanted field is copied.
//! No error of this file quotes a body.

use super::VaultError;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Longest key or certificate, in bytes.
const LONGEST: usize = 64 * 1024;

/// A login.
pub(super) struct Login {
    /// Vault's token, fit for a header.
    pub(super) token: Zeroizing<String>,
    /// `service` or `batch`.
    pub(super) kind: String,
}

/// Any answer: what is of interest lies under `data`.
#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

fn failed(doing: &str, why: &str) -> VaultError {
    VaultError::Failed { doing: doing.to_owned(), why: why.to_owned(), transient: false }
}

/// The answer to a login.
pub(super) fn login(body: &[u8]) -> Result<Login, VaultError> {
    #[derive(Deserialize)]
    struct Answer {
        auth: Auth,
    }
    #[derive(Deserialize)]
    struct Auth {
        client_token: String,
        #[serde(default)]
        token_type: String,
    }
    let doing = "log in to Vault";
    let answer: Answer = serde_json::from_slice(body).map_err(|_| failed(doing, "the answer holds no token"))?;
    let token = Zeroizing::new(answer.auth.client_token);
    // The library panics on anything that is not a header value.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed(doing, "the answer's token is not one"));
    }
    Ok(Login { token, kind: answer.auth.token_type })
}

/// The answer of `sys/capabilities-self`: path to capabilities.
pub(super) fn capabilities(body: &[u8]) -> Result<BTreeMap<String, Vec<String>>, VaultError> {
    let answer: Result<Envelope<BTreeMap<String, Vec<String>>>, _> = serde_json::from_slice(body);
    answer.map(|answer| answer.data).map_err(|_| failed("learn what the Vault role may do", "the answer is not a list of capabilities"))
}

/// One field of a KV v2 secret, as text with Unix line ends and one at the end.
pub(super) fn secret(body: &[u8], path: &str, field: &str) -> Result<Zeroizing<String>, VaultError> {
    #[derive(Deserialize)]
    struct Secret {
        data: Option<BTreeMap<String, Field>>,
    }
    let missing = |why: String| VaultError::KeyMissing { path: path.to_owned(), why };
    let unusable = |why: String| VaultError::KeyUnusable { path: path.to_owned(), why };
    let answer: Envelope<Secret> =
        serde_json::from_slice(body).map_err(|_| unusable("the answer is not that of a KV version 2 mount".to_owned()))?;
    let mut fields =
        answer.data.data.ok_or_else(|| missing("the latest version is deleted: write the key again, or undelete it".to_owned()))?;
    match fields.remove(field) {
        None => Err(missing(format!("the secret has no field {field:?}: write the key into it, or name the right field"))),
        Some(Field::Other(kind)) => Err(unusable(format!("the field {field:?} is {kind}, not a string"))),
        Some(Field::Text(text)) if text.trim().is_empty() => Err(unusable(format!("the field {field:?} is empty"))),
        Some(Field::Text(text)) if text.len() > LONGEST => Err(unusable(format!("the field {field:?} is longer than {LONGEST} bytes"))),
        Some(Field::Text(text)) => Ok(normalised(&text)),
    }
}

/// CRLF becomes LF, and the last line gets its end: what OpenSSH's tools insist on and what pasting into a browser loses.
fn normalised(text: &str) -> Zeroizing<String> {
    // Room for all at once: a String that grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(text.len() + 1));
    for (at, line) in text.split("\r\n").enumerate() {
        if at > 0 {
            out.push('\n');
        }
        out.push_str(line);
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// A certificate: one line `TYPE-cert-v01@openssh.com BASE64` (OpenSSH's PROTOCOL.certkeys).
pub(super) fn certificate(body: &[u8], path: &str) -> Result<String, VaultError> {
    #[derive(Deserialize)]
    struct Signed {
        signed_key: String,
    }
    let unusable = |why: &str| VaultError::KeyUnusable { path: path.to_owned(), why: why.to_owned() };
    let answer: Envelope<Signed> = serde_json::from_slice(body).map_err(|_| unusable("the answer holds no certificate"))?;
    let line = answer.data.signed_key.trim();
    let mut words = line.split(' ');
    let is_certificate = words.next().is_some_and(|kind| kind.ends_with("-cert-v01@openssh.com"))
        && words.next().is_some_and(|blob| blob.starts_with("AAAA"))
        && line.len() <= LONGEST
        && !line.contains(char::is_control);
    if is_certificate { Ok(line.to_owned()) } else { Err(unusable("the answer is not an OpenSSH certificate")) }
}

/// A field of a secret. The others are parsed too, since a map is, so they too are wiped.
enum Field {
    Text(Zeroizing<String>),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field")
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other("a truth value"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Field, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(data: &str) -> String {
        format!(r#"{{"request_id":"x","data":{{"data":{data},"metadata":{{"version":1}}}}}}"#)
    }

    fn read(data: &str) -> Result<Zeroizing<String>, VaultError> {
        secret(kv(data).as_bytes(), "secret/data/a", "key")
    }

    #[test]
    fn a_key_comes_with_unix_line_ends() {
        for (given, wanted) in
            [("a", "a\n"), ("a\\n", "a\n"), ("a\\r\\nb\\r\\n", "a\nb\n"), ("a\\r\\nb", "a\nb\n"), ("a\\rb\\n\\n", "a\rb\n\n")]
        {
            assert_eq!(*read(&format!(r#"{{"other":[1,{{"a":2}}],"key":"{given}"}}"#)).unwrap(), wanted);
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_not_quoted() {
        for (data, reason) in [
            ("null", "VaultKeyMissing"),
            ("{}", "VaultKeyMissing"),
            (r#"{"Key":"SECRET"}"#, "VaultKeyMissing"),
            (r#"{"key":5}"#, "VaultKeyUnusable"),
            (r#"{"key":-5}"#, "VaultKeyUnusable"),
            (r#"{"key":5.5}"#, "VaultKeyUnusable"),
            (r#"{"key":true}"#, "VaultKeyUnusable"),
            (r#"{"key":null}"#, "VaultKeyUnusable"),
            (r#"{"key":["SECRET"]}"#, "VaultKeyUnusable"),
            (r#"{"key":{"SECRET":"SECRET"}}"#, "VaultKeyUnusable"),
            (r#"{"key":" \n"}"#, "VaultKeyUnusable"),
            (r#""SECRET""#, "VaultKeyUnusable"),
        ] {
            let error = read(data).unwrap_err();
            assert_eq!(error.reason(), reason, "{data}");
            assert!(!format!("{error} {error:?}").contains("SECRET"));
        }
        assert_eq!(read(&format!(r#"{{"key":"{}"}}"#, "a".repeat(LONGEST + 1))).unwrap_err().reason(), "VaultKeyUnusable");
        assert_eq!(secret(b"not json", "secret/data/a", "key").unwrap_err().reason(), "VaultKeyUnusable");
    }

    #[test]
    fn a_login_gives_a_token_fit_for_a_header() {
        let given = |token: &str| login(format!(r#"{{"auth":{{"client_token":"{token}","token_type":"service"}}}}"#).as_bytes());
        assert_eq!(*given("hvs.abc").ok().unwrap().token, "hvs.abc");
        for token in ["", "a\\nb", "a b", "ä"] {
            assert!(given(token).is_err(), "{token}");
        }
        assert!(login(br#"{"auth":null}"#).is_err());
    }

    #[test]
    fn a_certificate_is_one_line_of_its_kind() {
        let given = |line: &str| certificate(format!(r#"{{"data":{{"signed_key":"{line}"}}}}"#).as_bytes(), "ssh/sign/one");
        assert_eq!(given("ssh-ed25519-cert-v01@openssh.com AAAAIHNz\\n").unwrap(), "ssh-ed25519-cert-v01@openssh.com AAAAIHNz");
        for line in ["", "ssh-ed25519 AAAA", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com AAAA\\nx"] {
            assert_eq!(given(line).unwrap_err().reason(), "VaultKeyUnusable", "{line}");
        }
    }

    #[test]
    fn capabilities_by_path() {
        let body = br#"{"secret/data/a":["read"],"capabilities":["read"],"data":{"secret/data/a":["read"],"sys/seal":["deny"]}}"#;
        let answer = capabilities(body).unwrap();
        assert_eq!(answer.get("sys/seal").unwrap(), &["deny"]);
        assert!(capabilities(b"{}").is_err());
    }
}
