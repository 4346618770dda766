//! Why Vault gave nothing, for a condition (`reason`), for a retry (`is_transient`) and for people (`Display`, with the cure).
//!
//! No variant keeps the library's own error as its source: those hold response bodies and whole requests. What Vault said is kept only as
//! [`super::refusal::short`] leaves it.

/// What [`super::fetch`] can end with. Neither `Display` nor `Debug` holds a token, a key or a response body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// A setting of ours is unusable; nothing was sent.
    #[error("failed to ask Vault: {what} {why}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The projected token is not a JSON web token; nothing was sent.
    #[error("the projected token is not a token: mount a serviceAccountToken volume with audience \"vault\" and pass what its file holds")]
    NotAToken,
    /// No answer: refused, timed out, cut off.
    #[error(
        "failed to reach Vault at {address}: {why}; check that it runs and that the pod's NetworkPolicy lets this address and port out"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// In one line.
        why: String,
    },
    /// The other side is not the Vault whose authority was given, or does not speak TLS.
    #[error(
        "failed to trust Vault at {address}: {why}; give the certificate authority that signed its certificate, and an address the certificate names"
    )]
    Tls {
        /// Where.
        address: String,
        /// In one line.
        why: String,
    },
    /// It answers, but its storage is locked.
    #[error("Vault at {address} is sealed: unseal it")]
    Sealed {
        /// Where.
        address: String,
    },
    /// No such role, or no such auth method.
    #[error("Vault knows no role {role:?} at auth/{mount} ({text}): write auth/{mount}/role/{role}, or name the right mount and role")]
    RoleUnknown {
        /// Mount of the Kubernetes auth method.
        mount: String,
        /// The role asked for.
        role: String,
        /// Vault's own words.
        text: String,
    },
    /// The role wants another audience than the projected token has.
    #[error("the Vault role {role:?} refuses the token's audience ({text}): set audience=vault on auth/{mount}/role/{role}")]
    AudienceWrong {
        /// Mount of the Kubernetes auth method.
        mount: String,
        /// The role asked for.
        role: String,
        /// Vault's own words.
        text: String,
    },
    /// The login was refused.
    #[error("Vault refuses to log in to the role {role:?} ({text}): {cure}")]
    LoginDenied {
        /// The role asked for.
        role: String,
        /// Vault's own words.
        text: String,
        /// What to do.
        cure: String,
    },
    /// The role gives tokens of a kind that cannot be revoked.
    #[error("the Vault role {role:?} gives {kind} tokens, which cannot be revoked: set token_type=service on auth/{mount}/role/{role}")]
    Irrevocable {
        /// Mount of the Kubernetes auth method.
        mount: String,
        /// The role asked for.
        role: String,
        /// Vault's word for the kind.
        kind: String,
    },
    /// The role can do more than what is wanted of it. No secret was read.
    #[error("the Vault role may do more than read its key: {path} allows {}; give the role a policy with the wanted path alone", .capabilities.join(", "))]
    TooBroad {
        /// A path that must be denied, or the wanted one with too many capabilities.
        path: String,
        /// What Vault allows there.
        capabilities: Vec<String>,
    },
    /// The role's policies lack something. No secret was read.
    #[error("the Vault role may not use {path}: its policy needs path \"{path}\" {{ capabilities = [\"{needs}\"] }}")]
    TooNarrow {
        /// The path of the API.
        path: String,
        /// The capability that is missing.
        needs: &'static str,
    },
    /// The role's policies lack what this program itself needs, because the policy `default` is off.
    #[error(
        "Vault refuses sys/capabilities-self: the role's policy must grant path \"sys/capabilities-self\" {{ capabilities = [\"update\"] }} and path \"auth/token/revoke-self\" {{ capabilities = [\"update\"] }}, or have the policy default"
    )]
    NoSelfService,
    /// The token ended before the work did.
    #[error("Vault's token ended before {doing}: set token_num_uses of the role to 0 or at least {least}, and token_ttl to at least 60 s")]
    TokenEnded {
        /// What could not be done any more.
        doing: String,
        /// Fewest uses that suffice.
        least: usize,
    },
    /// The policy allows it, and still Vault refuses.
    #[error("Vault refuses {path} ({text}), though the role's policy allows it: look in Vault's audit log")]
    Denied {
        /// The path of the API.
        path: String,
        /// Vault's own words.
        text: String,
    },
    /// Nothing there.
    #[error("Vault has no key at {path}: {why}")]
    KeyMissing {
        /// The path of the API.
        path: String,
        /// What exactly is missing.
        why: String,
    },
    /// Something is there that is no key.
    #[error("what Vault has at {path} is not usable as a key: {why}")]
    KeyUnusable {
        /// The path of the API.
        path: String,
        /// Why, without the value.
        why: String,
    },
    /// The SSH role does not sign for this principal.
    #[error(
        "the SSH role at {path} does not sign for {principal:?} ({text}): put it in allowed_users of the role, or ask for another user"
    )]
    PrincipalRefused {
        /// The path of the API.
        path: String,
        /// The user name asked for.
        principal: String,
        /// Vault's own words.
        text: String,
    },
    /// Anything else.
    #[error("failed to {doing}: {why}")]
    Failed {
        /// What was tried.
        doing: String,
        /// In one line.
        why: String,
        /// Whether trying later may help: a 5xx or 429.
        transient: bool,
    },
}

impl VaultError {
    /// The reason for a condition or a metric label: one of a closed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "VaultUnreachable",
            Self::Sealed { .. } => "VaultSealed",
            Self::RoleUnknown { .. } => "VaultRoleUnknown",
            Self::AudienceWrong { .. } => "VaultAudienceWrong",
            Self::NotAToken | Self::LoginDenied { .. } | Self::Denied { .. } => "VaultDenied",
            Self::TooBroad { .. } | Self::Irrevocable { .. } => "VaultRoleTooBroad",
            Self::TooNarrow { .. } | Self::NoSelfService | Self::TokenEnded { .. } | Self::PrincipalRefused { .. } => {
                "VaultPolicyTooNarrow"
            }
            Self::KeyMissing { .. } => "VaultKeyMissing",
            Self::KeyUnusable { .. } => "VaultKeyUnusable",
            Self::Tls { .. } => "VaultTlsFailed",
            Self::Setting { .. } | Self::Failed { .. } => "VaultFailed",
        }
    }

    /// Whether the same call may succeed later with nothing changed: unreachable, sealed, 5xx, 429.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Sealed { .. } | Self::Failed { transient: true, .. })
    }
}
