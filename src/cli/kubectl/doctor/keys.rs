//! Whether the installation's keys are there. Of the Secret nothing is read but that it exists.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use crate::cli::install_keys::{PUBLIC, SECRET};
use crate::gateway::keys::{HOST_KEY_PUBLIC, LINK_CA, RECORDING_KEY_PUBLIC};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

const CHECK: &str = "keys";
const CURE: &str = "run the Job sandglass-install-keys: delete it and apply manifests/base/install-keys.yaml";

/// Whether the Secret is there. The API server sends its metadata only.
pub(super) async fn facts(client: &Client, system: &str) -> Known<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), system);
    let right = format!("get secrets in {system} (metadata only is read)");
    match read("look for the Secret with the installation's keys", &right, api.get_metadata(SECRET)).await {
        Known::There(_) => Known::There(()),
        Known::Absent => Known::Absent,
        Known::Unknown(unknown) => Known::Unknown(unknown),
    }
}

/// The verdict.
pub(super) fn judge(secret: &Known<()>, installation: &Installation) -> Vec<Finding> {
    let system = &installation.system;
    let mut findings = vec![match secret {
        Known::There(()) => Finding::ok(CHECK, format!("the Secret {SECRET} is there")),
        Known::Absent => Finding::fail(CHECK, format!("there is no Secret {SECRET} in {system}: gateways cannot start"), CURE),
        Known::Unknown(unknown) => unknown.finding(CHECK),
    }];
    match &installation.public {
        Known::There(data) => {
            let missing: Vec<&str> =
                [HOST_KEY_PUBLIC, RECORDING_KEY_PUBLIC, LINK_CA].into_iter().filter(|name| !data.contains_key(*name)).collect();
            if !missing.is_empty() {
                findings.push(Finding::fail(CHECK, format!("the ConfigMap {PUBLIC} lacks {}", missing.join(", ")), CURE));
            } else if installation.host_key().is_none() {
                findings.push(Finding::fail(CHECK, format!("{HOST_KEY_PUBLIC} in the ConfigMap {PUBLIC} is not a public key"), CURE));
            } else {
                findings.push(Finding::ok(CHECK, "the public halves are published"));
            }
        }
        Known::Absent => {
            findings.push(Finding::fail(CHECK, format!("there is no ConfigMap {PUBLIC} in {system}: controllers cannot start"), CURE));
        }
        Known::Unknown(unknown) => findings.push(unknown.finding(CHECK)),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::installation::tests::installation;
    use crate::cli::kubectl::doctor::known::Unknown;

    #[test]
    fn both_halves_are_asked_for() {
        let mut place = installation("{}", &[]);
        let levels =
            |secret: &Known<()>, place: &Installation| judge(secret, place).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(&Known::Absent, &place), [Level::Fail, Level::Fail]);
        let key = crate::gateway::keys::new_ed25519().expect("a key").public_key().to_openssh().expect("encoded");
        let all = [(HOST_KEY_PUBLIC, key.as_str()), (RECORDING_KEY_PUBLIC, key.as_str()), (LINK_CA, "x")];
        let data = |entries: &[(&str, &str)]| Known::There(entries.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect());
        place.public = data(&all);
        assert_eq!(levels(&Known::There(()), &place), [Level::Ok, Level::Ok]);
        place.public = data(&all[..2]);
        assert!(judge(&Known::There(()), &place)[1].message.contains(LINK_CA));
        place.public = data(&[(HOST_KEY_PUBLIC, "no key"), all[1], all[2]]);
        assert_eq!(levels(&Known::There(()), &place), [Level::Ok, Level::Fail]);
        place.public = Known::Unknown(Unknown::Right("get configmaps in system".into()));
        let unread = Known::Unknown(Unknown::Right("get secrets in system".into()));
        assert_eq!(levels(&unread, &place), [Level::Skip, Level::Skip]);
    }
}
