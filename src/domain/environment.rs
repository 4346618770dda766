//! Which variables of a failed build may enter its debug session. Secrets must not: neither by the look of their name nor
//! by the look of their value. In doubt a variable is dropped, and its name is reported. References to other objects
//! (`valueFrom`, `envFrom`) are never followed.

use k8s_openapi::api::core::v1::Container;
use std::collections::{BTreeMap, BTreeSet};

/// One entry of a container's environment, before the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// Name and value.
    Literal(String, String),
    /// A name whose value lies in another object.
    Reference(String),
    /// A whole object of names: `envFrom:secret/registry`.
    Bundle(String),
}

/// What came out of the filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Name and value of what may enter, by name.
    pub kept: Vec<(String, String)>,
    /// Names of what may not, by name.
    pub stripped: Vec<String>,
}

/// Parts of a name that make it a secret, each with the ordinary words that contain it.
const SECRET_PARTS: [(&str, &[&str]); 11] = [
    ("SECRET", &["SECRETARY", "SECRETARIAT"]),
    ("TOKEN", &["TOKENIZE", "TOKENIZATION", "TOKENISE", "TOKENISATION"]),
    (
        "KEY",
        &[
            "KEYBOARD",
            "KEYWORD",
            "KEYMAP",
            "KEYNOTE",
            "KEYSTROKE",
            "KEYPAD",
            "KEYFRAME",
            "MONKEY",
            "DONKEY",
            "TURKEY",
            "HOCKEY",
            "JOCKEY",
            "WHISKEY",
        ],
    ),
    ("PASSWORD", &[]),
    ("PASSWD", &[]),
    ("PASSPHRASE", &[]),
    ("CREDENTIAL", &[]),
    ("CREDS", &[]),
    ("CERT", &["CERTAIN", "CONCERT"]),
    ("PRIVATE", &[]),
    ("JWT", &[]),
];

/// The environment of one container as the filter sees it.
#[must_use]
pub fn of_container(container: &Container) -> Vec<Variable> {
    let bundles = container.env_from.iter().flatten().map(|bundle| {
        let name = match (&bundle.secret_ref, &bundle.config_map_ref) {
            (Some(secret), _) => format!("secret/{}", secret.name),
            (None, Some(map)) => format!("configmap/{}", map.name),
            (None, None) => "unknown/".to_owned(),
        };
        Variable::Bundle(format!("envFrom:{name}"))
    });
    let variables = container.env.iter().flatten().map(|variable| match (&variable.value_from, &variable.value) {
        (Some(_), _) => Variable::Reference(variable.name.clone()),
        (None, value) => Variable::Literal(variable.name.clone(), value.clone().unwrap_or_default()),
    });
    bundles.chain(variables).collect()
}

/// Filters; a later entry replaces an earlier one of the same name. `patterns` are the configured words beside the built-in.
#[must_use]
pub fn filter(variables: impl IntoIterator<Item = Variable>, patterns: &[String]) -> Filtered {
    let mut kept = BTreeMap::new();
    let mut stripped = BTreeSet::new();
    for variable in variables {
        match variable {
            Variable::Literal(name, value) => {
                if is_secret_name(&name, patterns) || is_credential(&value) {
                    kept.remove(&name);
                    stripped.insert(name);
                } else {
                    stripped.remove(&name);
                    kept.insert(name, value);
                }
            }
            Variable::Reference(name) => {
                kept.remove(&name);
                stripped.insert(name);
            }
            Variable::Bundle(name) => {
                stripped.insert(name);
            }
        }
    }
    Filtered { kept: kept.into_iter().collect(), stripped: stripped.into_iter().collect() }
}

/// Whether a variable of this name is dropped whatever its value.
#[must_use]
pub fn is_secret_name(name: &str, patterns: &[String]) -> bool {
    let name = name.to_ascii_uppercase();
    // The agent's own variable is not the build's to give.
    if name.starts_with("SANDGLASS_") {
        return true;
    }
    let by_part = SECRET_PARTS.iter().any(|(part, ordinary)| {
        let rest = ordinary.iter().fold(name.clone(), |rest, word| rest.replace(word, " "));
        rest.contains(part)
    });
    let mut words = name.split(|character: char| !character.is_ascii_alphanumeric());
    let by_word = words.any(|word| word == "PASS" || word == "AUTH") || (name.ends_with("PWD") && name != "PWD" && name != "OLDPWD");
    by_part || by_word || patterns.iter().any(|pattern| name.contains(&pattern.to_ascii_uppercase()))
}

/// A kind of credential that is known by how it begins: prefix, fewest characters that follow, and which.
struct Shape(&'static str, usize, fn(u8) -> bool);

const fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}
const fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}
const fn dotted(byte: u8) -> bool {
    word(byte) || byte == b'.'
}

/// Sources: the token formats that AWS, GitHub, GitLab, Slack, npm, Google, `HashiCorp`, Stripe, Docker, `PyPI` and age document.
const SHAPES: [Shape; 33] = [
    Shape("AKIA", 16, upper),
    Shape("ASIA", 16, upper),
    Shape("ghp_", 20, word),
    Shape("gho_", 20, word),
    Shape("ghs_", 20, word),
    Shape("ghu_", 20, word),
    Shape("ghr_", 20, word),
    Shape("github_pat_", 20, word),
    Shape("glpat-", 16, dotted),
    Shape("gldt-", 16, dotted),
    Shape("glrt-", 16, dotted),
    Shape("glcbt-", 16, dotted),
    Shape("glptt-", 16, dotted),
    Shape("xoxa-", 8, word),
    Shape("xoxb-", 8, word),
    Shape("xoxc-", 8, word),
    Shape("xoxd-", 8, word),
    Shape("xoxe-", 8, dotted),
    Shape("xoxe.", 8, dotted),
    Shape("xoxo-", 8, word),
    Shape("xoxp-", 8, word),
    Shape("xoxr-", 8, word),
    Shape("xoxs-", 8, word),
    Shape("xapp-", 8, word),
    Shape("npm_", 30, word),
    Shape("AIza", 30, word),
    Shape("ya29.", 20, dotted),
    Shape("hvs.", 20, word),
    Shape("sk_live_", 16, word),
    Shape("sk-", 20, word),
    Shape("dckr_pat_", 16, word),
    Shape("pypi-", 32, word),
    Shape("AGE-SECRET-KEY-", 16, word),
];

/// Whether a value looks like a credential of a known kind.
#[must_use]
pub fn is_credential(value: &str) -> bool {
    value.contains("-----BEGIN ")
        // The same, once through base64.
        || value.contains("LS0tLS1CRUdJTi")
        || value.contains("\"auths\"")
        || SHAPES.iter().any(|Shape(prefix, least, of)| follows(value, prefix, *least, *of))
        || has_web_token(value)
        || has_user_information(value)
        || has_authorization(value)
}

/// Whether `prefix` stands at the beginning of a word and at least `least` characters of the kind follow.
fn follows(value: &str, prefix: &str, least: usize, of: fn(u8) -> bool) -> bool {
    value.match_indices(prefix).any(|(at, _)| {
        let (before, after) = value.split_at(at);
        let begins = !before.bytes().next_back().is_some_and(|byte| byte.is_ascii_alphanumeric());
        begins && after.bytes().skip(prefix.len()).take_while(|byte| of(*byte)).take(least).count() == least
    })
}

/// RFC 7519: two JSON objects in base64url and a signature.
fn has_web_token(value: &str) -> bool {
    value.split(|character: char| !(character.is_ascii() && dotted(character as u8))).any(|candidate| {
        let mut parts = candidate.split('.');
        let header = parts.next().is_some_and(|part| part.len() >= 10 && part.starts_with("eyJ"));
        header && parts.next().is_some_and(|part| part.len() >= 4) && parts.next().is_some()
    })
}

/// RFC 3986, 3.2.1: `scheme://user:password@host`. A long user name alone is taken for a token.
fn has_user_information(value: &str) -> bool {
    value.match_indices("://").any(|(at, mark)| {
        let rest = value.get(at + mark.len()..).unwrap_or_default();
        let authority = rest.split(|character: char| matches!(character, '/' | '?' | '#' | '"' | '\'') || character.is_whitespace());
        // A password may hold an unescaped slash, so the part up to the last `@` of the word counts too.
        let word = rest.split(char::is_whitespace).next().unwrap_or_default();
        let user = authority.take(1).find_map(|part| part.rsplit_once('@')).map(|(user, _)| user);
        user.is_some_and(|user| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()) || user.len() >= 20)
            || word.rsplit_once('@').is_some_and(|(before, _)| {
                let first = before.split('/').next().unwrap_or_default();
                first.split_once(':').is_some_and(|(_, tail)| !tail.is_empty() && !tail.bytes().all(|byte| byte.is_ascii_digit()))
            })
    })
}

/// RFC 9110, 11.6.2: what stands after `Bearer` or `Basic`.
fn has_authorization(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    ["bearer ", "basic "].iter().any(|scheme| {
        lower.match_indices(scheme).any(|(at, _)| {
            lower.bytes().skip(at + scheme.len()).take_while(|byte| dotted(*byte) || matches!(byte, b'+' | b'/' | b'=' | b'~')).count()
                >= 16
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMapEnvSource, EnvFromSource, EnvVar, EnvVarSource, SecretEnvSource};

    #[test]
    fn names_of_secrets_are_dropped_and_ordinary_words_pass() {
        for name in [
            "API_KEY",
            "DEPLOYKEY",
            "SSHKEY",
            "apiKey",
            "KEY",
            "KEYS",
            "AWS_SECRET_ACCESS_KEY",
            "NPM_TOKEN",
            "GITHUB_TOKENS",
            "DB_PASSWORD",
            "PGPASSWD",
            "GPG_PASSPHRASE",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "TLS_CERT",
            "SSLCERTS",
            "CERTIFICATE",
            "PRIVATE_REGISTRY",
            "DB_PASS",
            "MYSQL_PWD",
            "HOCKEY_KEY",
            "KEYBOARD_KEY",
            "MONKEYKEY",
            "SANDGLASS_AGENT",
            "NPM_AUTH",
        ] {
            assert!(is_secret_name(name, &[]), "{name}");
        }
        for name in [
            "KEYBOARD",
            "KEYBOARD_LAYOUT",
            "MONKEY",
            "MONKEYS",
            "TURKEY",
            "PATH",
            "CI",
            "HOME",
            "PWD",
            "OLDPWD",
            "CONCERT_HALL",
            "TOKENIZERS_PARALLELISM",
            "SECRETARY",
            "COMPASS",
            "AUTHOR",
            "GOFLAGS",
            "BUILD_NUMBER",
            "CERTAINTY",
        ] {
            assert!(!is_secret_name(name, &[]), "{name}");
        }
        assert!(is_secret_name("LICENCE_CODE", &["licence".into()]));
    }

    #[test]
    fn values_that_look_like_credentials_are_dropped() {
        let join = |parts: &[&str]| parts.concat();
        for value in [
            join(&["AKIA", "IOSFODNN7EXAMPLE"]),
            join(&["key=ASIA", "IOSFODNN7EXAMPLE;"]),
            join(&["ghp_", &"a".repeat(36)]),
            join(&["github_pat_", &"A1_".repeat(10)]),
            join(&["glpat-", &"x".repeat(20)]),
            join(&["xoxb-", "1234567890-abc"]),
            join(&["npm_", &"Z".repeat(36)]),
            join(&["AIza", &"S".repeat(35)]),
            join(&["eyJhbGciOiJub25lIn0", ".", "eyJzdWIiOiJ4In0", ".", "c2ln"]),
            join(&["a -----BEGIN ", "RSA PRIVATE KEY-----\nx"]),
            join(&["postgres://user:", "pa55@db/x"]),
            join(&["postgres://user:", "pa/55@db/x"]),
            join(&["see https://bot:", "hunter2@git.example.com/x.git now"]),
            join(&["https://", &"t".repeat(40), "@git.example.com/x"]),
            join(&["Authorization: Bearer ", &"q".repeat(24)]),
        ] {
            assert!(is_credential(&value), "{value}");
        }
        for value in [
            "",
            "true",
            "1.2.3",
            "https://example.com/a:b@c",
            "ssh://git@github.com/x/y",
            "registry:5000/x@sha256:00",
            "xAKIAIOSFODNN7EXAMPLE",
            "AKIA",
            "eyJ.a.b",
            "/usr/local/go/bin:/usr/bin",
            "https://example.com:8443/x",
            "basic settings",
            "a@b.example",
            "sk-learn",
            "http://proxy:3128/path?mail=a@b.example",
        ] {
            assert!(!is_credential(value), "{value}");
        }
    }

    #[test]
    fn references_are_never_followed_but_named() {
        let container = Container {
            env: Some(vec![
                EnvVar { name: "CI".into(), value: Some("true".into()), ..EnvVar::default() },
                EnvVar { name: "EMPTY".into(), ..EnvVar::default() },
                EnvVar { name: "NODE".into(), value_from: Some(EnvVarSource::default()), ..EnvVar::default() },
            ]),
            env_from: Some(vec![
                EnvFromSource {
                    secret_ref: Some(SecretEnvSource { name: "registry".into(), ..SecretEnvSource::default() }),
                    ..EnvFromSource::default()
                },
                EnvFromSource {
                    config_map_ref: Some(ConfigMapEnvSource { name: "settings".into(), ..ConfigMapEnvSource::default() }),
                    ..EnvFromSource::default()
                },
            ]),
            ..Container::default()
        };
        let filtered = filter(of_container(&container), &[]);
        assert_eq!(filtered.kept, [("CI".into(), "true".into()), ("EMPTY".into(), String::new())]);
        assert_eq!(filtered.stripped, ["NODE", "envFrom:configmap/settings", "envFrom:secret/registry"]);
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let literal = |name: &str, value: &str| Variable::Literal(name.into(), value.into());
        let url = ["https://u:", "p@x"].concat();
        let filtered = filter([literal("A", "1"), literal("URL", &url), literal("A", "2"), literal("URL", "https://x")], &[]);
        assert_eq!(filtered.kept, [("A".into(), "2".into()), ("URL".into(), "https://x".into())]);
        assert!(filtered.stripped.is_empty());
    }
}
