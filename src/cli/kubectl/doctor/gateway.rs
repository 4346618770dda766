//! Whether the gateway can be reached from here, and is the one that the installation says it is.

use super::finding::Finding;
use super::installation::Installation;
use super::ssh::{self, SshError};
use russh::keys::PublicKey;

const CHECK: &str = "gateway";

/// What answered.
pub(super) struct Facts {
    /// The address of the configuration, where it could be read.
    pub address: Option<(String, u16)>,
    /// The host key that was shown.
    pub shown: Option<Result<PublicKey, SshError>>,
}

/// Connects to the address that users are told.
pub(super) async fn facts(installation: &Installation) -> Facts {
    let address = installation.configuration().map(|configuration| (configuration.gateway.host.clone(), configuration.gateway.port));
    let shown = match &address {
        Some((host, port)) => Some(ssh::host_key(host, *port).await),
        None => None,
    };
    Facts { address, shown }
}

/// The verdict.
pub(super) fn judge(facts: &Facts, installation: &Installation) -> Finding {
    let (Some((host, port)), Some(shown)) = (&facts.address, &facts.shown) else {
        let cure = "the configuration must be readable: see the check configuration; the canary's login still tries the gateway";
        return Finding::skip(CHECK, "not tried by itself: its address stands in the configuration", cure);
    };
    let system = &installation.system;
    let shown = match shown {
        Ok(shown) => shown,
        Err(error @ SshError::Handshake { .. }) => {
            let cure =
                format!("see what listens there: gateway.host and gateway.port must lead to the Service sandglass-gateway in {system}");
            return Finding::fail(CHECK, error.to_string(), cure);
        }
        Err(error) => {
            let cure = format!(
                "kubectl -n {system} get service,endpoints sandglass-gateway; gateway.host and gateway.port must be its address as users see it, and firewalls must let it through"
            );
            return Finding::fail(CHECK, error.to_string(), cure);
        }
    };
    let fingerprint = ssh::fingerprint(shown);
    match installation.host_key() {
        Some(published) if published.key_data() == shown.key_data() => {
            Finding::ok(CHECK, format!("{host}:{port} answers with the published host key {fingerprint}"))
        }
        Some(published) => Finding::fail(
            CHECK,
            format!("{host}:{port} shows the host key {fingerprint}, but {} is published", ssh::fingerprint(&published)),
            format!(
                "another server answers there, or the keys were replaced: kubectl -n {system} rollout restart deployment sandglass-gateway sandglass-controller"
            ),
        ),
        None => Finding::warn(
            CHECK,
            format!("{host}:{port} answers with the host key {fingerprint}, but which one is published could not be read"),
            "compare it with ssh_host_ed25519_key.pub of the ConfigMap sandglass-public",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::installation::tests::installation;
    use crate::cli::kubectl::doctor::known::Known;
    use crate::gateway::keys::{HOST_KEY_PUBLIC, new_ed25519};

    #[test]
    fn the_key_that_is_shown_must_be_the_one_that_is_published() {
        let key = || new_ed25519().expect("a key").public_key().clone();
        let (own, other) = (key(), key());
        let mut place = installation("{}", &[]);
        let judged = |shown: Result<PublicKey, SshError>, place: &Installation| {
            judge(&Facts { address: Some(("gw".into(), 2222)), shown: Some(shown) }, place)
        };
        assert_eq!(judged(Ok(own.clone()), &place).level, Level::Warn);
        place.public = Known::There([(HOST_KEY_PUBLIC.to_owned(), own.to_openssh().expect("encoded"))].into());
        assert_eq!(judged(Ok(own.clone()), &place).level, Level::Ok);
        let found = judged(Ok(other.clone()), &place);
        assert!(found.level == Level::Fail && found.message.contains(&ssh::fingerprint(&other)), "{found:?}");
        let refused = SshError::Tcp { address: "gw:2222".into(), source: std::io::ErrorKind::ConnectionRefused.into() };
        let found = judged(Err(refused), &place);
        assert!(found.level == Level::Fail && found.cure.is_some_and(|cure| cure.contains("get service,endpoints")));
        assert_eq!(judge(&Facts { address: None, shown: None }, &place).level, Level::Skip);
    }
}
