//! What came back instead of an answer, made harmless: the status, Vault's own short error text, the kind of transport failure.
//!
//! Nothing else of a response leaves this file: not its body, not the library's error, which holds the body.

use super::VaultError;
use rustify::errors::ClientError;
use serde::Deserialize;
use std::error::Error as StdError;
use zeroize::Zeroizing;

/// Longest text of Vault's that is passed on, in characters.
const LONGEST: usize = 200;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An HTTP status other than success.
    Status {
        /// The status.
        code: u16,
        /// Vault's `errors`, shortened and masked; empty when there are none.
        text: String,
        /// A 404 that describes a deleted or destroyed version of a secret.
        deleted: bool,
    },
    /// No answer in time, or no connection.
    Unreachable(String),
    /// No trust.
    Tls(String),
    /// The library could not make the request or take the answer.
    Broken(String),
}

impl Refusal {
    /// Takes the library's error apart; what is dropped with it is dropped here.
    pub(super) fn of(error: ClientError) -> Self {
        match error {
            ClientError::ServerResponseError { code, content } => Self::status(code, &Zeroizing::new(content.unwrap_or_default())),
            ClientError::RequestError { source, .. } | ClientError::ResponseError { source } => {
                source.downcast_ref::<reqwest::Error>().map_or_else(|| Self::Broken("the connection failed".to_owned()), Self::transport)
            }
            ClientError::ReqwestBuildError { .. }
            | ClientError::RequestBuildError { .. }
            | ClientError::UrlBuildError { .. }
            | ClientError::UrlParseError { .. } => Self::Broken("the request could not be written".to_owned()),
            _ => Self::Broken("the library failed".to_owned()),
        }
    }

    /// Sorts a status and the body that came with it.
    fn status(code: u16, body: &str) -> Self {
        #[derive(Default, Deserialize)]
        struct Body {
            #[serde(default)]
            errors: Vec<String>,
            data: Option<Data>,
        }
        #[derive(Deserialize)]
        struct Data {
            metadata: Option<Metadata>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(default)]
            deletion_time: String,
            #[serde(default)]
            destroyed: bool,
        }
        let body: Body = serde_json::from_str(body).unwrap_or_default();
        let metadata = body.data.and_then(|data| data.metadata);
        let deleted = code == 404 && metadata.is_some_and(|metadata| metadata.destroyed || !metadata.deletion_time.is_empty());
        Self::Status { code, text: short(&body.errors.join("; ")), deleted }
    }

    /// Sorts a failure below HTTP.
    fn transport(error: &reqwest::Error) -> Self {
        if let Some(tls) = tls_cause(error) {
            return Self::Tls(short(&tls.to_string()));
        }
        if error.is_timeout() {
            return Self::Unreachable(if error.is_connect() { "no connection in time" } else { "no answer in time" }.to_owned());
        }
        let mut cause: &dyn StdError = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        if cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof) {
            return Self::Unreachable("the connection was cut off".to_owned());
        }
        Self::Unreachable(short(&cause.to_string()))
    }

    /// Whether Vault says that the token itself is no more: used up, expired or revoked. A policy's refusal reads "1 error occurred: …
    /// permission denied"; this one is the bare words, or names the token. Measured on `OpenBao` 2.7, which answers
    /// `sys/capabilities-self` as a token's last use with 400 "invalid token".
    pub(super) fn is_token_gone(&self) -> bool {
        matches!(self, Self::Status { code: 403, text, .. } if text == "permission denied")
            || matches!(self, Self::Status { code: 400 | 403, text, .. } if text.contains("invalid token"))
    }

    /// The error for a refusal that means the same whatever was asked; `None` where the step has to say.
    pub(super) fn common(&self, address: &str, doing: &str) -> Option<VaultError> {
        let failed = |why: String, transient| Some(VaultError::Failed { doing: doing.to_owned(), why, transient });
        match self {
            Self::Unreachable(why) => Some(VaultError::Unreachable { address: address.to_owned(), why: why.clone() }),
            Self::Tls(why) => Some(VaultError::Tls { address: address.to_owned(), why: why.clone() }),
            Self::Broken(why) => failed(why.clone(), false),
            Self::Status { code: 503, text, .. } if text.contains("sealed") => Some(VaultError::Sealed { address: address.to_owned() }),
            Self::Status { code: code @ 300..=399, .. } => {
                failed(format!("Vault answers {code}, a redirect, which is not followed; give the address of the active server"), false)
            }
            Self::Status { code: code @ (429 | 500..), text, .. } => failed(format!("Vault answers {code} ({text})"), true),
            Self::Status { .. } => None,
        }
    }

    /// The error for a status that neither [`Self::common`] nor the step knows.
    pub(super) fn other(&self, doing: &str) -> VaultError {
        let why = match self {
            Self::Status { code, text, .. } => format!("Vault answers {code} ({text})"),
            Self::Unreachable(why) | Self::Tls(why) | Self::Broken(why) => why.clone(),
        };
        VaultError::Failed { doing: doing.to_owned(), why, transient: false }
    }
}

/// The TLS library's error somewhere below; `io::Error` hides what it wraps from `source`.
fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| tls_cause(inner)) {
            return Some(tls);
        }
        next = cause.source();
    }
    None
}

/// One line of at most 200 characters without control characters and without anything that looks like a token or a key.
pub(super) fn short(text: &str) -> String {
    if text.contains("PRIVATE KEY") {
        return "(not shown)".to_owned();
    }
    let line = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let masked = mask(&line);
    if masked.chars().count() <= LONGEST { masked } else { masked.chars().take(LONGEST - 1).chain(['…']).collect() }
}

/// Replaces what looks like a credential by `***`.
fn mask(line: &str) -> String {
    let (mut out, mut run) = (String::new(), Zeroizing::new(String::new()));
    for c in line.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=' | '/') {
            run.push(c);
            continue;
        }
        out.push_str(if is_secretive(&run) { "***" } else { &run });
        run.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out
}

/// Whether a run of characters looks like a token of Vault's, a JSON web token, or base64 of a key.
fn is_secretive(run: &str) -> bool {
    const TOKENS: [&str; 6] = ["hvs.", "hvb.", "hvr.", "s.", "b.", "r."];
    let is_token = |part: &str| part.len() >= 20 && TOKENS.iter().any(|prefix| part.starts_with(prefix)) || part.starts_with("eyJ");
    let has = |kind: fn(&u8) -> bool| run.bytes().any(|byte| kind(&byte));
    run.split(['/', '=']).any(is_token)
        || (run.len() >= 40 && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_short_line() {
        assert_eq!(short("1 error occurred:\n\t* permission denied\n\n"), "1 error occurred: * permission denied");
        assert_eq!(short("a\u{1b}[31mb\u{7}"), "a [31mb");
        let long = short(&"ab ".repeat(300));
        assert_eq!(long.chars().count(), LONGEST);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_text_holds_no_credential() {
        for (text, wanted) in [
            ("bad token hvs.CAESIJ1abcdefghijklmn", "bad token ***"),
            ("bad token \"s.Ab3dEf6hIjKlMnOpQrStUvWx\"", "bad token \"***\""),
            ("token=hvb.AAAAAQJabcdefghijklmn!", "***!"),
            ("jwt eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2ln is bad", "jwt *** is bad"),
            ("key b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAA", "key ***"),
            ("-----BEGIN OPENSSH PRIVATE KEY----- b3Bl", "(not shown)"),
            ("invalid role name \"s.short\"", "invalid role name \"s.short\""),
            (
                "no handler for route \"auth/kubernetes-of-the-second-cluster/login\"",
                "no handler for route \"auth/kubernetes-of-the-second-cluster/login\"",
            ),
        ] {
            assert_eq!(short(text), wanted);
        }
    }

    fn status(code: u16, body: &str) -> Refusal {
        Refusal::of(ClientError::ServerResponseError { code, content: Some(body.to_owned()) })
    }

    #[test]
    fn a_used_up_token_is_told_from_a_policy() {
        assert!(status(403, r#"{"errors":["permission denied"]}"#).is_token_gone());
        assert!(status(403, r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#).is_token_gone());
        assert!(!status(403, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#).is_token_gone());
        assert!(!status(400, r#"{"errors":["permission denied"]}"#).is_token_gone());
        assert!(status(400, r#"{"errors":["1 error occurred:\n\t* invalid token\n\n"]}"#).is_token_gone());
    }

    #[test]
    fn a_deleted_version_is_told_from_nothing() {
        let body = |time: &str, destroyed: bool| {
            format!(r#"{{"data":{{"data":null,"metadata":{{"deletion_time":"{time}","destroyed":{destroyed}}}}}}}"#)
        };
        let is_deleted = |refusal: Refusal| matches!(refusal, Refusal::Status { deleted: true, .. });
        assert!(is_deleted(status(404, &body("2026-01-01T00:00:00Z", false))));
        assert!(is_deleted(status(404, &body("", true))));
        assert!(!is_deleted(status(404, r#"{"errors":[]}"#)));
        assert!(!is_deleted(status(403, &body("", true))));
    }

    #[test]
    fn statuses_that_mean_the_same_everywhere() {
        let common = |code, body: &str| status(code, body).common("https://192.0.2.1:8200", "read");
        assert_eq!(
            common(503, r#"{"errors":["Vault is sealed"]}"#),
            Some(VaultError::Sealed { address: "https://192.0.2.1:8200".to_owned() })
        );
        for code in [429, 500, 502, 503, 599] {
            assert!(common(code, "<html>").unwrap().is_transient(), "{code}");
        }
        assert!(!common(307, "").unwrap().is_transient());
        for code in [400, 403, 404, 412] {
            assert_eq!(common(code, ""), None);
        }
    }

    #[test]
    fn a_body_that_is_not_vaults_is_not_shown() {
        assert_eq!(status(400, "<html>hello</html>"), Refusal::Status { code: 400, text: String::new(), deleted: false });
    }
}
