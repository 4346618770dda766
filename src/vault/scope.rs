//! What the role may do, judged before any secret is read. Pure: builds the one question to `sys/capabilities-self` and judges its answer.
//!
//! Too broad is what could read another secret, sign as somebody else, or widen the role itself. Vault lists no grants, it only answers about
//! paths; so the question names the doors that matter ([`CLOSED`]) and, around each wanted path, neighbours that only a wildcard reaches:
//! random names, the wanted name with a tail, each of its segments replaced. A policy that names one other secret in full is not found this
//! way: nobody can guess that name, and neither can whoever holds the token.
//!
//! Not asked about, because the policy `default` grants it to everybody and it reaches nothing of anybody else's: `cubbyhole/` (the token's
//! own), `auth/token/*-self`, the token's own entity, `sys/wrapping/*` and `sys/leases/*` (need a token or lease ID already known),
//! `sys/tools/hash`, `sys/internal/ui/resultant-acl`, `identity/oidc/provider/*/authorize`.

use super::{Vault, VaultError, Want};
use std::collections::{BTreeMap, BTreeSet};

/// The call that ends the token; without it nothing is begun.
const REVOKE: &str = "auth/token/revoke-self";

/// Paths that must be denied whatever is wanted; `?` stands for a random name, a trailing slash asks about listing.
pub(super) const CLOSED: [&str; 58] = [
    // Everything, by any kind of wildcard.
    "?",
    "?/?",
    "?/?/?",
    // Policies, tokens, identities: the role itself made wider.
    "sys/policies/acl/?",
    "sys/policies/acl/",
    "sys/policy/?",
    "auth/token/create",
    "auth/token/create/?",
    "auth/token/create-orphan",
    "auth/token/roles/?",
    "auth/token/accessors/",
    "auth/token/lookup-accessor",
    "auth/?/role/?",
    "auth/?/config",
    "auth/approle/role/?",
    "auth/approle/role/?/secret-id",
    "auth/userpass/users/?",
    "identity/entity",
    "identity/entity/id/",
    "identity/entity/id/?",
    "identity/entity/name/?",
    "identity/entity-alias",
    "identity/group",
    "identity/group/id/?",
    "identity/group/name/?",
    "identity/lookup/entity",
    "identity/oidc/token/?",
    // The server: mounts, audit, seal, raw storage.
    "sys/mounts",
    "sys/mounts/?",
    "sys/mounts/?/tune",
    "sys/remount",
    "sys/auth",
    "sys/auth/?",
    "sys/audit",
    "sys/audit/?",
    "sys/seal",
    "sys/step-down",
    "sys/raw/?",
    "sys/rotate",
    "sys/rekey/init",
    "sys/storage/raft/snapshot",
    "sys/namespaces/?",
    "sys/plugins/catalog/?",
    "sys/config/auditing/request-headers/?",
    "sys/leases/lookup/?",
    "sys/leases/revoke-prefix/?",
    "sys/capabilities",
    "sys/capabilities-accessor",
    // Engines at their usual mounts.
    "secret/data/?",
    "secret/metadata/",
    "kv/data/?",
    "kv/?",
    "pki/issue/?",
    "transit/decrypt/?",
    "transit/export/encryption-key/?",
    "database/creds/?",
    "aws/creds/?",
    "ssh/sign/?",
];

/// What a wanted path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Read a key: exactly `read`.
    Read,
    /// Have a key signed: `update`, which is what Vault checks for a call without an existence check. `create` beside it is let pass: on this
    /// path it means the same call, and many published policies name both. `create` alone does not work.
    Sign,
    /// End the token: `update`; what more there is reaches nothing but the token.
    Revoke,
}

/// The question, and how to judge the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    wanted: BTreeMap<String, Use>,
    closed: BTreeSet<String>,
}

/// The API's path of what is wanted.
pub(super) fn path_of(want: &Want) -> String {
    match want {
        Want::Kv { mount, path, .. } => format!("{mount}/data/{path}"),
        Want::Sign { mount, role, .. } => format!("{mount}/sign/{role}"),
    }
}

impl Scope {
    /// The question for these wants; `random` is a name that nothing has.
    pub(super) fn new(vault: &Vault, wants: &[Want], random: &str) -> Self {
        let mut wanted: BTreeMap<String, Use> =
            wants.iter().map(|want| (path_of(want), if matches!(want, Want::Kv { .. }) { Use::Read } else { Use::Sign })).collect();
        wanted.insert(REVOKE.to_owned(), Use::Revoke);
        let mut closed: BTreeSet<String> = CLOSED.iter().map(|path| path.replace('?', random)).collect();
        let auth = &vault.auth_mount;
        closed.extend([
            format!("auth/{auth}/config"),
            format!("auth/{auth}/role/{}", vault.role),
            format!("auth/{auth}/role/{random}"),
            format!("auth/{auth}/role/"),
        ]);
        for want in wants {
            match want {
                Want::Kv { mount, path, .. } => closed.extend(around_key(mount, path, random)),
                Want::Sign { mount, role, .. } => closed.extend(around_signer(mount, role, random)),
            }
        }
        closed.retain(|path| !wanted.contains_key(path));
        Self { wanted, closed }
    }

    /// Every path to ask about.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.wanted.keys().chain(&self.closed).map(String::as_str)
    }

    /// Judges Vault's answer, path to capabilities. Too broad comes before too narrow; a path without an answer is neither, and an error.
    pub(super) fn judge(&self, answer: &BTreeMap<String, Vec<String>>) -> Result<(), VaultError> {
        let of = |path: &String| {
            answer.get(path).filter(|capabilities| !capabilities.is_empty()).ok_or_else(|| VaultError::Failed {
                doing: "learn what the Vault role may do".to_owned(),
                why: format!("Vault says nothing about {path}"),
                transient: false,
            })
        };
        let too_broad = |path: &String, capabilities: &[String]| {
            let capabilities = capabilities.iter().take(12).map(|word| super::refusal::short(word)).collect();
            Err(VaultError::TooBroad { path: path.clone(), capabilities })
        };
        for path in &self.closed {
            let capabilities = of(path)?;
            if !is_denied(capabilities) {
                return too_broad(path, capabilities);
            }
        }
        for (path, purpose) in &self.wanted {
            let capabilities = of(path)?;
            if !is_denied(capabilities) && capabilities.iter().any(|word| !purpose.tolerates(word)) {
                return too_broad(path, capabilities);
            }
        }
        for (path, purpose) in &self.wanted {
            let needs = purpose.needs();
            if !of(path)?.iter().any(|word| word == needs) {
                return Err(VaultError::TooNarrow { path: path.clone(), needs });
            }
        }
        Ok(())
    }
}

impl Use {
    fn needs(self) -> &'static str {
        if self == Self::Read { "read" } else { "update" }
    }

    fn tolerates(self, word: &str) -> bool {
        match self {
            Self::Read => word == "read",
            Self::Sign => matches!(word, "update" | "create"),
            Self::Revoke => word != "root",
        }
    }
}

/// Exactly `["deny"]`.
fn is_denied(capabilities: &[String]) -> bool {
    matches!(capabilities, [word] if word == "deny")
}

/// Neighbours of a KV v2 key.
fn around_key(mount: &str, path: &str, random: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let sibling = if folder.is_empty() { random.to_owned() } else { format!("{folder}/{random}") };
    let mut around = vec![
        format!("{mount}/config"),
        format!("{mount}/{random}"),
        format!("{mount}/{path}"),
        format!("{random}/data/{path}"),
        // Below the key, the key's name with a tail, another folder of any depth.
        format!("{mount}/data/{path}/{random}"),
        format!("{mount}/data/{path}{random}"),
        format!("{mount}/data/{random}"),
        format!("{mount}/data/{random}/{random}"),
        format!("{mount}/metadata/"),
        format!("{mount}/metadata/{random}"),
    ];
    if !folder.is_empty() {
        let listed = ["data", "metadata", "detailed-metadata"];
        around.extend(listed.iter().flat_map(|kind| [format!("{mount}/{kind}/{folder}"), format!("{mount}/{kind}/{folder}/")]));
    }
    for verb in ["metadata", "detailed-metadata", "subkeys", "delete", "undelete", "destroy"] {
        around.extend([format!("{mount}/{verb}/{path}"), format!("{mount}/{verb}/{sibling}")]);
    }
    // The policy language's `+` stands for one segment, at any place; the last one makes the sibling.
    let segments: Vec<&str> = path.split('/').collect();
    around.extend((0..segments.len()).map(|place| {
        let replaced: Vec<&str> = segments.iter().enumerate().map(|(at, part)| if at == place { random } else { *part }).collect();
        format!("{mount}/data/{}", replaced.join("/"))
    }));
    around
}

/// Neighbours of a role of the SSH engine.
fn around_signer(mount: &str, role: &str, random: &str) -> Vec<String> {
    let mut around = vec![
        format!("{mount}/sign/{random}"),
        format!("{mount}/sign/{role}{random}"),
        format!("{mount}/sign/{role}/{random}"),
        format!("{random}/sign/{role}"),
        format!("{mount}/config/ca"),
        format!("{mount}/config/zeroaddress"),
        format!("{mount}/roles/"),
        format!("{mount}/{random}"),
    ];
    for verb in ["issue", "roles", "creds"] {
        around.extend([format!("{mount}/{verb}/{role}"), format!("{mount}/{verb}/{random}")]);
    }
    around
}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
