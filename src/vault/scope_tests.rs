//! Policies as Vault matches them, against the question and its judgement.

use super::*;

const RANDOM: &str = "0123456789abcdef";

fn scope() -> Scope {
    let vault = Vault {
        address: "https://192.0.2.1:8200".to_owned(),
        certificate_authority: String::new(),
        auth_mount: "kubernetes-east".to_owned(),
        role: "infra-devvm".to_owned(),
    };
    let key = Want::Kv { mount: "vms".to_owned(), path: "breakglass/devvm".to_owned(), field: "key".to_owned() };
    let sign = Want::Sign {
        mount: "ssh-client".to_owned(),
        role: "recovery".to_owned(),
        public_key: "ssh-ed25519 AAAA".to_owned(),
        principal: "debug".to_owned(),
    };
    Scope::new(&vault, &[key, sign], RANDOM)
}

/// Vault's matching: `*` at the end is a prefix, `+` one segment; the grants of all matching lines are added up, which is a little more than
/// Vault does (it takes the best match) and enough here.
fn answer(scope: &Scope, policy: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let matches = |pattern: &str, path: &str| {
        let (pattern, is_prefix) = pattern.strip_suffix('*').map_or((pattern, false), |rest| (rest, true));
        let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
        let last = pattern.len() - 1;
        (if is_prefix { path.len() >= pattern.len() } else { path.len() == pattern.len() })
            && pattern
                .iter()
                .zip(&path)
                .enumerate()
                .all(|(at, (want, have))| *want == "+" || want == have || (is_prefix && at == last && have.starts_with(want)))
    };
    scope
        .paths()
        .map(|path| {
            let mut words: Vec<String> = policy
                .iter()
                .filter(|(pattern, _)| matches(pattern, path))
                .flat_map(|(_, words)| words.iter().map(ToString::to_string))
                .collect();
            if words.is_empty() {
                words.push("deny".to_owned());
            }
            (path.to_owned(), words)
        })
        .collect()
}

const NARROW: [(&str, &[&str]); 3] =
    [("vms/data/breakglass/devvm", &["read"]), ("ssh-client/sign/recovery", &["update"]), ("auth/token/revoke-self", &["update"])];

/// The policy `default` of `OpenBao` 2.7.
const DEFAULT: [(&str, &[&str]); 16] = [
    ("auth/token/lookup-self", &["read"]),
    ("auth/token/renew-self", &["update"]),
    ("auth/token/revoke-self", &["update"]),
    ("sys/capabilities-self", &["update"]),
    ("identity/entity/id/6f3ae3b6-own", &["read"]),
    ("identity/entity/name/entity_own", &["read"]),
    ("sys/internal/ui/resultant-acl", &["read"]),
    ("sys/leases/renew", &["update"]),
    ("sys/leases/lookup", &["update"]),
    ("cubbyhole/*", &["create", "read", "update", "delete", "list"]),
    ("sys/wrapping/wrap", &["update"]),
    ("sys/wrapping/lookup", &["update"]),
    ("sys/wrapping/unwrap", &["update"]),
    ("sys/tools/hash", &["update"]),
    ("sys/tools/hash/*", &["update"]),
    ("identity/oidc/provider/+/authorize", &["read", "update"]),
];

fn judge(more: &[(&str, &[&str])]) -> Result<(), VaultError> {
    let scope = scope();
    scope.judge(&answer(&scope, &[&NARROW[..], more].concat()))
}

#[test]
fn the_narrow_policy_passes_with_and_without_the_default_one() {
    judge(&[]).unwrap();
    judge(&DEFAULT).unwrap();
    judge(&[("ssh-client/sign/recovery", &["create"])]).unwrap();
}

#[test]
fn each_wider_policy_is_refused() {
    let wider: [(&str, &str); 27] = [
        ("*", "read"),
        ("+/*", "read"),
        ("vms/*", "read"),
        ("vms/+/breakglass/devvm", "read"),
        ("+/data/breakglass/devvm", "read"),
        ("vms/data/*", "read"),
        ("vms/data/+/devvm", "read"),
        ("vms/data/breakglass/*", "read"),
        ("vms/data/breakglass/+", "read"),
        ("vms/data/breakglass/dev*", "read"),
        ("vms/data/breakglass/devvm*", "read"),
        ("vms/data/breakglass/devvm/*", "read"),
        ("vms/metadata/breakglass/*", "list"),
        ("vms/metadata/breakglass/", "list"),
        ("vms/metadata/breakglass/devvm", "read"),
        ("vms/destroy/breakglass/devvm", "update"),
        ("vms/data/breakglass/devvm", "update"),
        ("vms/data/breakglass/devvm", "sudo"),
        ("ssh-client/sign/*", "update"),
        ("ssh-client/sign/reco*", "update"),
        ("ssh-client/sign/recovery", "sudo"),
        ("ssh-client/roles/recovery", "update"),
        ("ssh-client/config/ca", "read"),
        ("auth/kubernetes-east/role/infra-devvm", "update"),
        ("auth/kubernetes-east/*", "read"),
        ("auth/token/create", "update"),
        ("sys/*", "sudo"),
    ];
    for (pattern, word) in wider {
        match judge(&[(pattern, &[word])]) {
            Err(VaultError::TooBroad { capabilities, .. }) => {
                assert!(capabilities.iter().any(|have| have == word), "{pattern}: {capabilities:?}");
            }
            other => panic!("{pattern} {word}: {other:?}"),
        }
    }
}

#[test]
fn every_closed_path_is_a_door_of_its_own() {
    let narrow = answer(&scope(), &NARROW);
    for path in &scope().closed {
        let mut open = narrow.clone();
        open.insert(path.clone(), vec!["list".to_owned()]);
        assert_eq!(scope().judge(&open).unwrap_err(), VaultError::TooBroad { path: path.clone(), capabilities: vec!["list".to_owned()] });
        open.insert(path.clone(), vec!["deny".to_owned(), "read".to_owned()]);
        assert_eq!(scope().judge(&open).unwrap_err().reason(), "VaultRoleTooBroad", "deny and something else is not deny");
        for nothing in [None, Some(vec![])] {
            let mut silent = narrow.clone();
            silent.remove(path);
            silent.extend(nothing.map(|words| (path.clone(), words)));
            assert_eq!(scope().judge(&silent).unwrap_err().reason(), "VaultFailed", "silence is not deny");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    for (path, needs) in
        [("vms/data/breakglass/devvm", "read"), ("ssh-client/sign/recovery", "update"), ("auth/token/revoke-self", "update")]
    {
        let mut answer = answer(&scope(), &NARROW);
        answer.insert(path.to_owned(), vec!["deny".to_owned()]);
        assert_eq!(scope().judge(&answer).unwrap_err(), VaultError::TooNarrow { path: path.to_owned(), needs });
    }
    let mut answer = answer(&scope(), &NARROW);
    answer.insert("ssh-client/sign/recovery".to_owned(), vec!["create".to_owned()]);
    assert_eq!(scope().judge(&answer).unwrap_err().reason(), "VaultPolicyTooNarrow");
}

#[test]
fn the_root_policy_is_too_broad() {
    let all: BTreeMap<String, Vec<String>> = scope().paths().map(|path| (path.to_owned(), vec!["root".to_owned()])).collect();
    assert_eq!(scope().judge(&all).unwrap_err().reason(), "VaultRoleTooBroad");
}

#[test]
fn a_wanted_path_is_never_among_the_closed_ones() {
    let want = |path: &str| Want::Kv { mount: "secret".to_owned(), path: path.to_owned(), field: "key".to_owned() };
    let vault =
        Vault { address: String::new(), certificate_authority: String::new(), auth_mount: "kubernetes".to_owned(), role: "a".to_owned() };
    let scope = Scope::new(&vault, &[want("a"), want("a/b")], RANDOM);
    assert!(scope.closed.iter().all(|path| !scope.wanted.contains_key(path)));
    assert!(scope.paths().all(|path| !path.contains("//") && !path.contains('?') && !path.starts_with('/')));
    assert_eq!(CLOSED.iter().collect::<BTreeSet<_>>().len(), CLOSED.len());
}
