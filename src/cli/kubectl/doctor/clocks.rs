//! Whether the clocks of the parts agree with the API server's, by which sessions are created. A Lease tells both: its holder writes the time
//! of its own clock into it, and the API server notes by its own when that was written.

use super::finding::Finding;
use super::installation::Installation;
use super::known::{Known, read};
use crate::kubernetes::time::to_chrono;
use crate::kubernetes::{CallError, call};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

const CHECK: &str = "clock";
/// Namespace in which every kubelet has a Lease.
const NODES: &str = "kube-node-lease";
/// The API server's times are in whole seconds: half of one is the best guess for what it cut off.
const HALF: TimeDelta = TimeDelta::milliseconds(500);

/// How far a clock may be away, in seconds: above the first a warning, above the second a failure.
struct Bounds {
    warn: i64,
    fail: i64,
}

/// Gateways cut within five seconds of the end.
const PARTS: Bounds = Bounds { warn: 2, fail: 5 };
/// Agents end their session fifteen seconds after the end at the latest, by the node's clock or by counting, whichever comes first.
const MACHINES: Bounds = Bounds { warn: 5, fail: 15 };

/// The API server's clock against this machine's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// By how much this machine is ahead of the API server.
    ahead: TimeDelta,
}

impl Server {
    /// The API server's time at one of this machine.
    pub(super) fn time_at(self, local: DateTime<Utc>) -> DateTime<Utc> {
        local - self.ahead
    }
}

/// Asks the API server for its time. The answer to `/version` is public, so this also tells whether it can be reached at all.
pub(super) async fn server(client: &Client) -> Result<Option<Server>, CallError> {
    let request =
        || -> Result<_, kube::Error> { hyper::Request::get("/version").body(kube::client::Body::empty()).map_err(kube::Error::HttpError) };
    let before = Utc::now();
    let answer = call("reach the API server", async { client.send(request()?).await }).await?;
    let after = Utc::now();
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    Ok(date.map(|date| Server { ahead: before + (after - before) / 2 - (date.to_utc() + HALF) }))
}

/// What was read.
pub(super) struct Facts {
    /// The API server's clock against this machine's; none if it does not tell the time.
    pub server: Option<Server>,
    /// The kubelets' Leases.
    pub nodes: Known<Vec<Lease>>,
    /// The controllers' Lease.
    pub controller: Known<Lease>,
}

/// Reads the Leases.
pub(super) async fn facts(client: &Client, installation: &Installation, server: Option<Server>) -> Facts {
    let nodes: Api<Lease> = Api::namespaced(client.clone(), NODES);
    let controllers: Api<Lease> = Api::namespaced(client.clone(), &installation.system);
    let everything = ListParams::default();
    let right = format!("get leases in {}", installation.system);
    let (nodes, controller) = futures::join!(
        read("list the Leases of the nodes", "list leases in kube-node-lease", nodes.list(&everything)),
        read("read the Lease of the controllers", &right, controllers.get("sandglass-controller")),
    );
    let nodes = match nodes {
        Known::There(list) => Known::There(list.items),
        Known::Absent => Known::Absent,
        Known::Unknown(unknown) => Known::Unknown(unknown),
    };
    Facts { server, nodes, controller }
}

/// By how much a Lease's holder is ahead of the API server.
fn ahead(lease: &Lease) -> Option<TimeDelta> {
    let renewed = to_micros(lease.spec.as_ref()?.renew_time.as_ref()?.0)?;
    let entries = lease.metadata.managed_fields.iter().flatten();
    let renews = |fields: &serde_json::Value| fields.pointer("/f:spec/f:renewTime").is_some();
    let entry = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| renews(&fields.0)));
    let written = to_chrono(entry.filter_map(|entry| entry.time.as_ref()).max()?);
    Some(renewed - (written + HALF))
}

fn to_micros(time: jiff::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(time.as_microsecond())
}

/// The verdict.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match facts.server {
        // Deadlines do not go by this machine's clock: it is never a failure.
        Some(Server { ahead }) if seconds(ahead).abs() > MACHINES.warn => findings.push(Finding::warn(
            CHECK,
            format!("the clock of this machine is {}", away(ahead)),
            "set this machine's clock by NTP: what it writes into spec.notAfter is off by as much",
        )),
        Some(_) => findings.push(Finding::ok(CHECK, "this machine and the API server agree")),
        None => {
            findings.push(Finding::skip(CHECK, "the API server does not tell its time", "look at proxies between here and the API server"));
        }
    }
    findings.extend(controller(&facts.controller));
    findings.extend(nodes(&facts.nodes));
    findings
}

fn controller(known: &Known<Lease>) -> Option<Finding> {
    match known {
        Known::There(lease) => ahead(lease).map(|ahead| {
            let name = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
            compare(&format!("the clock of the leading controller {name}"), ahead, &PARTS)
        }),
        // That there is none is the check of the leader.
        Known::Absent => None,
        Known::Unknown(unknown) => Some(unknown.finding(CHECK)),
    }
}

fn nodes(known: &Known<Vec<Lease>>) -> Vec<Finding> {
    let leases = match known {
        Known::There(leases) => leases.as_slice(),
        Known::Absent => &[],
        Known::Unknown(unknown) => return vec![unknown.finding(CHECK)],
    };
    let told: Vec<(String, TimeDelta)> = leases.iter().filter_map(|lease| Some((lease.name_any(), ahead(lease)?))).collect();
    if told.is_empty() {
        let cure = "look at the kubelets: kubectl get leases -n kube-node-lease";
        return vec![Finding::warn(CHECK, "no node tells its time", cure)];
    }
    let off: Vec<Finding> = told
        .iter()
        .filter(|(_, ahead)| seconds(*ahead).abs() > MACHINES.warn)
        .map(|(name, ahead)| compare(&format!("the clock of the node {name}"), *ahead, &MACHINES))
        .collect();
    if off.is_empty() { vec![Finding::ok(CHECK, format!("{} nodes agree with the API server", told.len()))] } else { off }
}

/// The gateway's clock, from the moment it says that a login began and the two between which that was, both of this machine.
pub(super) fn gateway(server: Option<Server>, told: DateTime<Utc>, before: DateTime<Utc>, after: DateTime<Utc>) -> Option<Finding> {
    let (earliest, latest) = (server?.time_at(before), server?.time_at(after));
    // What is told is in whole seconds.
    let ahead = if told + TimeDelta::seconds(1) < earliest {
        told + HALF - earliest
    } else if told > latest {
        told + HALF - latest
    } else {
        TimeDelta::zero()
    };
    Some(compare("the clock of the gateway", ahead, &PARTS))
}

fn compare(what: &str, ahead: TimeDelta, bounds: &Bounds) -> Finding {
    const CURE: &str = "let NTP set the clocks of all nodes, the control plane's too";
    let message = format!("{what} is {}", away(ahead));
    match seconds(ahead).abs() {
        distance if distance > bounds.fail => {
            Finding::fail(CHECK, format!("{message}: deadlines are kept by that much too early or too late"), CURE)
        }
        distance if distance > bounds.warn => Finding::warn(CHECK, message, CURE),
        _ => Finding::ok(CHECK, format!("{what} agrees with the API server's")),
    }
}

/// Rounded, so that half a second either way is none.
fn seconds(distance: TimeDelta) -> i64 {
    let milliseconds = distance.num_milliseconds();
    (milliseconds + 500 * milliseconds.signum()) / 1000
}

fn away(ahead: TimeDelta) -> String {
    let distance = seconds(ahead);
    format!("{} s {} of the API server's", distance.abs(), if distance < 0 { "behind" } else { "ahead" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use serde_json::json;

    fn lease(renewed: &str, written: &str) -> Lease {
        let fields = json!({ "f:spec": { "f:renewTime": {} } });
        let entry = json!({ "manager": "kubelet", "operation": "Update", "time": written, "fieldsV1": fields });
        let other = json!({ "manager": "x", "operation": "Update", "time": "2026-11-22T18:00:00Z", "fieldsV1": {} });
        let lease = json!({
            "metadata": { "name": "node", "managedFields": [entry, other] }, "spec": { "renewTime": renewed, "holderIdentity": "one" },
        });
        serde_json::from_value(lease).expect("a Lease")
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_lease_tells_by_how_much_its_holder_is_off() {
        let judged = |renewed: &str| {
            let lease = lease(renewed, "2026-11-22T12:00:00Z");
            let facts = Facts {
                server: Some(Server { ahead: TimeDelta::zero() }),
                nodes: Known::There(vec![lease.clone()]),
                controller: Known::There(lease),
            };
            levels(&judge(&facts))
        };
        assert_eq!(judged("2026-11-22T12:00:00.900000Z"), [Level::Ok, Level::Ok, Level::Ok]);
        assert_eq!(judged("2026-11-22T12:00:03.900000Z"), [Level::Ok, Level::Warn, Level::Ok]);
        assert_eq!(judged("2026-11-22T11:59:50.000000Z"), [Level::Ok, Level::Fail, Level::Warn]);
        assert_eq!(judged("2026-11-22T12:01:00.000000Z"), [Level::Ok, Level::Fail, Level::Fail]);
    }

    #[test]
    fn this_machines_clock_is_never_a_failure() {
        let judged = |ahead: i64| {
            let server = Some(Server { ahead: TimeDelta::seconds(ahead) });
            judge(&Facts { server, nodes: Known::Absent, controller: Known::Absent }).remove(0)
        };
        assert_eq!(judged(-5).level, Level::Ok);
        let off = judged(-3600);
        assert!(off.level == Level::Warn && off.message.contains("3600 s behind"), "{off:?}");
    }

    #[test]
    fn the_gateways_clock_is_seen_at_a_login() {
        let time = |text: &str| DateTime::parse_from_rfc3339(text).expect("a time").to_utc();
        let (before, after) = (time("2026-11-22T12:00:10.2Z"), time("2026-11-22T12:00:10.9Z"));
        // This machine is an hour ahead of the API server.
        let server = Some(Server { ahead: TimeDelta::hours(1) });
        let level = |told: &str| gateway(server, time(told), before, after).expect("a finding").level;
        assert_eq!(level("2026-11-22T11:00:10Z"), Level::Ok);
        assert_eq!(level("2026-11-22T11:00:14Z"), Level::Warn);
        assert_eq!(level("2026-11-22T11:00:01Z"), Level::Fail);
        assert_eq!(level("2026-11-22T12:00:10Z"), Level::Fail);
        assert!(gateway(None, before, before, after).is_none());
    }
}
