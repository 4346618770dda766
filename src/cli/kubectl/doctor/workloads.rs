//! Whether controller and gateway run, of one version, and whether a controller leads.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

const CHECK: &str = "workloads";
const LEADER: &str = "leader";
/// A controller renews ten seconds after the last time at the latest; a Lease that is this old is nobody's.
const STALE: i64 = 20;

/// What was read.
pub(super) struct Facts {
    /// Component and its Deployment.
    pub deployments: Vec<(&'static str, Known<Deployment>)>,
    /// The Lease of the controllers.
    pub lease: Known<Lease>,
}

/// Reads the Deployments and the Lease. The door for CI outside the cluster is looked at where the configuration has one.
pub(super) async fn facts(client: &Client, installation: &Installation) -> Facts {
    let system = &installation.system;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), system);
    let leases: Api<Lease> = Api::namespaced(client.clone(), system);
    let (right, lease_right) = (format!("get deployments in {system}"), format!("get leases in {system}"));
    let (controller, gateway, lease) = futures::join!(
        read("read the Deployment of the controller", &right, deployments.get("sandglass-controller")),
        read("read the Deployment of the gateway", &right, deployments.get("sandglass-gateway")),
        read("read the Lease of the controllers", &lease_right, leases.get("sandglass-controller")),
    );
    let mut all = vec![("controller", controller), ("gateway", gateway)];
    if installation.configuration().is_some_and(|configuration| configuration.provisioning.is_some()) {
        all.push(("provision", read("read the Deployment of the door", &right, deployments.get("sandglass-provision")).await));
    }
    Facts { deployments: all, lease }
}

/// The verdict. `now` is the API server's time.
pub(super) fn judge(facts: &Facts, installation: &Installation, now: DateTime<Utc>) -> Vec<Finding> {
    let system = &installation.system;
    let mut findings: Vec<Finding> = facts.deployments.iter().map(|(component, known)| deployment(component, known, system)).collect();
    findings.extend(versions(facts));
    findings.push(leader(&facts.lease, system, now));
    findings
}

fn deployment(component: &str, known: &Known<Deployment>, system: &str) -> Finding {
    let deployment = match known {
        Known::There(deployment) => deployment,
        Known::Absent => {
            let message = format!("there is no Deployment sandglass-{component} in {system}");
            let cure = match component {
                "provision" => {
                    "add the component manifests/provisioning (Helm: provisioning.enabled), or take provisioning out of the configuration"
                }
                _ => "apply the manifests of Sandglass, or name its namespace: --system-namespace",
            };
            return Finding::fail(CHECK, message, cure);
        }
        Known::Unknown(unknown) => return unknown.finding(CHECK),
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let look = format!("kubectl -n {system} describe pods -l app.kubernetes.io/component={component}");
    match (wanted, available) {
        (..=0, _) => Finding::fail(
            CHECK,
            format!("the {component} is scaled to zero"),
            format!("kubectl -n {system} scale deployment sandglass-{component} --replicas=2"),
        ),
        (wanted, ..=0) => Finding::fail(CHECK, format!("of {wanted} replicas of the {component} none is available"), look),
        (wanted, available) if available < wanted => {
            Finding::warn(CHECK, format!("{available} of {wanted} replicas of the {component} are available"), look)
        }
        (1, _) => {
            let cure = format!("kubectl -n {system} scale deployment sandglass-{component} --replicas=2, once one is not enough");
            Finding::warn(CHECK, format!("there is one replica of the {component}: while its node is away there is none"), cure)
        }
        (wanted, _) => Finding::ok(CHECK, format!("{wanted} replicas of the {component} are available")),
    }
}

fn image(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.first()?.image.as_deref()
}

fn versions(facts: &Facts) -> Option<Finding> {
    let images: Vec<_> = facts.deployments.iter().filter_map(|(component, known)| Some((*component, image(known.there()?)?))).collect();
    let (_, first) = images.first()?;
    images.iter().any(|(_, image)| image != first).then(|| {
        let each: Vec<String> = images.iter().map(|(component, image)| format!("{component} {image}")).collect();
        let message = format!("the parts are of different images: {}", each.join(", "));
        Finding::warn(CHECK, message, "give all Deployments, and sessions.agentImage, one image")
    })
}

fn leader(lease: &Known<Lease>, system: &str, now: DateTime<Utc>) -> Finding {
    let cure = format!("kubectl -n {system} logs -l app.kubernetes.io/component=controller");
    let lease = match lease {
        Known::There(lease) => lease.spec.clone().unwrap_or_default(),
        Known::Absent => return Finding::fail(LEADER, "no controller ever led: there is no Lease sandglass-controller", cure),
        Known::Unknown(unknown) => return unknown.finding(LEADER),
    };
    let holder = lease.holder_identity.filter(|holder| !holder.is_empty());
    let renewed = lease.renew_time.and_then(|time| DateTime::from_timestamp(time.0.as_second(), 0));
    match (holder, renewed) {
        (Some(holder), Some(renewed)) if (now - renewed).num_seconds() <= STALE => Finding::ok(LEADER, format!("{holder} leads")),
        (Some(holder), Some(renewed)) => {
            let age = (now - renewed).num_seconds();
            Finding::fail(LEADER, format!("no controller leads: {holder} last renewed its Lease {age} s ago"), cure)
        }
        _ => Finding::fail(LEADER, "no controller leads: nobody holds the Lease sandglass-controller", cure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::installation::tests::installation;
    use crate::cli::kubectl::doctor::known::Unknown;
    use serde_json::json;

    fn replicas(wanted: i32, available: i32, image: &str) -> Known<Deployment> {
        let template = json!({ "metadata": {}, "spec": { "containers": [{ "name": "main", "image": image }] } });
        let deployment = json!({
            "spec": { "replicas": wanted, "selector": {}, "template": template }, "status": { "availableReplicas": available },
        });
        Known::There(serde_json::from_value(deployment).expect("a Deployment"))
    }

    fn lease(holder: &str, renewed: &str) -> Known<Lease> {
        let lease = json!({ "spec": { "holderIdentity": holder, "renewTime": renewed } });
        Known::There(serde_json::from_value(lease).expect("a Lease"))
    }

    #[test]
    fn replicas_are_counted() {
        let found = |wanted, available| deployment("gateway", &replicas(wanted, available, "x"), "system");
        assert_eq!(found(2, 2).level, Level::Ok);
        assert_eq!(found(1, 1).level, Level::Warn);
        assert_eq!(found(2, 1).level, Level::Warn);
        assert_eq!(found(2, 0).level, Level::Fail);
        let zero = found(0, 0);
        assert_eq!(zero.level, Level::Fail);
        assert!(zero.cure.is_some_and(|cure| cure == "kubectl -n system scale deployment sandglass-gateway --replicas=2"));
        assert_eq!(deployment("gateway", &Known::Absent, "system").level, Level::Fail);
        let unread = Known::Unknown(Unknown::Right("get deployments in system".into()));
        assert_eq!(deployment("gateway", &unread, "system").level, Level::Skip);
    }

    #[test]
    fn versions_and_leadership_are_told() {
        let now = DateTime::parse_from_rfc3339("2026-11-22T12:00:30Z").expect("a time").to_utc();
        let judged = |gateway: &str, lease: Known<Lease>| {
            let deployments = vec![("controller", replicas(2, 2, "sandglass:1")), ("gateway", replicas(2, 2, gateway))];
            let found = judge(&Facts { deployments, lease }, &installation("{}", &[]), now);
            found.into_iter().skip(2).map(|finding| (finding.check, finding.level)).collect::<Vec<_>>()
        };
        let fresh = lease("one", "2026-11-22T12:00:25.000000Z");
        assert_eq!(judged("sandglass:1", fresh.clone()), [(LEADER, Level::Ok)]);
        assert_eq!(judged("sandglass:2", fresh), [(CHECK, Level::Warn), (LEADER, Level::Ok)]);
        let mut deployments: Vec<_> = ["controller", "gateway"].map(|part| (part, replicas(2, 2, "sandglass:1"))).to_vec();
        deployments.push(("provision", replicas(2, 2, "sandglass:0")));
        let all = Facts { deployments, lease: lease("one", "2026-11-22T12:00:25.000000Z") };
        let found = judge(&all, &installation("{}", &[]), now);
        assert!(found.iter().any(|finding| finding.message.contains("provision sandglass:0")), "{found:?}");
        for stale in [lease("one", "2026-11-22T12:00:05.000000Z"), lease("", "2026-11-22T12:00:25.000000Z"), Known::Absent] {
            assert_eq!(judged("sandglass:1", stale), [(LEADER, Level::Fail)]);
        }
    }
}
