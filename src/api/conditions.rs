//! Condition types and reasons: the part of status that other programs read. Phase is derived from them.

/// What the spec asks for now is so (open, or ended with everything gone).
pub const READY: &str = "Ready";
/// `ssh` would be let in and land in a shell.
pub const OPEN: &str = "Open";
/// Will not proceed without a human. Absent otherwise.
pub const STALLED: &str = "Stalled";

/// Declares [`Reason`] once: variant, text for people who search the documentation.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition is what it is. A closed set: it is also a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// The word that stands in the condition.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The reason a stored word stands for; `None` for a word of another version.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $(stringify!($name) => Some(Self::$name),)+ _ => None }
            }

            /// What it stands for, for the documentation.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

reasons! {
    /// The session is open.
    SessionOpen,
    /// Another session of the project is live; this one waits inside its own TTL.
    ProjectBusy,
    /// The isolated namespace's quota is used up; waits.
    QuotaExceeded,
    /// No node has room; waits.
    Scheduling,
    /// The image is being pulled.
    Pulling,
    /// The pod exists, its agent has not reported yet.
    Starting,
    /// The TTL or `notAfter` passed.
    Expired,
    /// `spec.end` was set.
    EndRequested,
    /// The object is being deleted.
    Deleted,
    /// The pod ended by itself.
    PodFailed,
    /// The pod was deleted by somebody else. An object that had a pod never gets another.
    PodGone,
    /// A container went over its memory limit.
    OutOfMemory,
    /// The kubelet evicted the pod (its ephemeral storage, or the node's pressure).
    Evicted,
    /// The kubelet's deadline ended the pod.
    DeadlineExceeded,
    /// A pod of higher priority took its place.
    Preempted,
    /// The image cannot be had: missing tag, no right to pull, or bad reference.
    ImageRefused,
    /// The image is outside what the configuration allows for this namespace.
    ImageNotAllowed,
    /// The cluster's runtime cannot do user namespaces.
    UserNamespacesUnsupported,
    /// The cluster's runtime cannot mount image volumes.
    ImageVolumeUnsupported,
    /// The container could not be started for another reason.
    ContainerRefused,
    /// Admission refused the pod.
    PodRefused,
    /// The isolated namespace lacks its labels or its default-deny policy.
    NamespaceNotIsolated,
    /// The agent could reach an address that must be closed.
    NetworkNotIsolated,
    /// The agent could not reach any gateway.
    LinkFailed,
    /// What the schema cannot see is wrong in the spec.
    InvalidSpec,
    /// The pod or job named in `spec.source` does not exist or did not fail.
    SourceNotFound,
    /// The controller may not read what `spec.source` names.
    SourceForbidden,
    /// Vault does not answer; the pod tries on.
    VaultUnreachable,
    /// Vault is sealed; the pod tries on.
    VaultSealed,
    /// What answers at Vault's address is not vouched for by `spec.vault.caBundle`, or by the configuration's.
    VaultTlsFailed,
    /// Vault knows no role of that name.
    VaultRoleUnknown,
    /// The role is not bound to the pod's `ServiceAccount`, or Vault could not ask the API server about it.
    VaultDenied,
    /// The role demands another audience than `spec.vault.audience`.
    VaultAudienceWrong,
    /// The role may do more than get its keys: refused before any key is read.
    VaultRoleTooBroad,
    /// The role may not get its keys, or not give its token back.
    VaultPolicyTooNarrow,
    /// The secret, or its field, is not there.
    VaultKeyMissing,
    /// The secret's field is no private key that can be used.
    VaultKeyUnusable,
    /// Vault refused for another reason.
    VaultFailed,
    /// An address of the spec lies outside what the configuration allows.
    AddressNotAllowed,
    /// The pod is being deleted.
    Terminating,
}

impl Reason {
    /// Whether a human must do something before the object, or another like it, can proceed.
    #[must_use]
    pub const fn stalls(self) -> bool {
        matches!(
            self,
            Self::ImageRefused
                | Self::ImageNotAllowed
                | Self::UserNamespacesUnsupported
                | Self::ImageVolumeUnsupported
                | Self::ContainerRefused
                | Self::PodRefused
                | Self::NamespaceNotIsolated
                | Self::NetworkNotIsolated
                | Self::LinkFailed
                | Self::InvalidSpec
                | Self::SourceNotFound
                | Self::SourceForbidden
                | Self::VaultSealed
                | Self::VaultTlsFailed
                | Self::VaultRoleUnknown
                | Self::VaultDenied
                | Self::VaultAudienceWrong
                | Self::VaultRoleTooBroad
                | Self::VaultPolicyTooNarrow
                | Self::VaultKeyMissing
                | Self::VaultKeyUnusable
                | Self::VaultFailed
                | Self::AddressNotAllowed
        )
    }
}
