//! What the canary's fate says: whether sessions open, whether the cluster enforces network policies, whether the store takes recordings, and
//! whether an end leaves nothing.

use super::canary::{Facts, Opened, Reached, told};
use super::clocks::{self, Server};
use super::finding::Finding;
use super::ssh::SshError;

const CANARY: &str = "canary";
const NETWORK: &str = "network";
const RECORDING: &str = "recording";

/// The verdict. `records`: whether the installation records, where that is known.
pub(super) fn judge(facts: &Facts, server: Option<Server>, records: Option<bool>) -> Vec<Finding> {
    match facts {
        Facts::NotTried(why, cure) => {
            vec![Finding::skip(CANARY, format!("no canary: {why}"), cure), unproven(NETWORK), unproven(RECORDING)]
        }
        Facts::NotMade(unknown) => vec![unknown.finding(CANARY), unproven(NETWORK), unproven(RECORDING)],
        Facts::Refused(message) => {
            let cure = "the sentence says what is refused; another image: --image, another namespace: --namespace";
            vec![Finding::fail(CANARY, format!("the canary was refused: {message}"), cure), unproven(NETWORK), unproven(RECORDING)]
        }
        Facts::NotOpen { waits, why: (reason, message) } => not_open(*waits, reason, message),
        Facts::Opened(opened) => opened_findings(opened, server, records),
    }
}

fn unproven(check: &'static str) -> Finding {
    Finding::skip(check, "not proven: no canary was open", "see the check canary")
}

fn not_open(waits: bool, reason: &str, message: &str) -> Vec<Finding> {
    // Each cause is told once, by the check that it belongs to.
    match reason {
        "NetworkNotIsolated" => {
            let cure = "install a network plugin that enforces NetworkPolicy, and remove policies that open more than the shipped ones do: kubectl get networkpolicies -A";
            let failure = Finding::fail(NETWORK, format!("network policies do not hold for session pods: {message}"), cure);
            vec![
                Finding::skip(CANARY, "the canary was not served, as it must be then", "see the check network"),
                failure,
                unproven(RECORDING),
            ]
        }
        "NamespaceNotIsolated" => {
            let canary = Finding::skip(CANARY, "the canary was not opened, as it must be then", "see the check isolation");
            vec![canary, unproven(NETWORK), unproven(RECORDING)]
        }
        _ => {
            let message = format!("the canary did not open: {reason}: {message}");
            let canary = if waits { Finding::warn(CANARY, message, cure(reason)) } else { Finding::fail(CANARY, message, cure(reason)) };
            vec![canary, unproven(NETWORK), unproven(RECORDING)]
        }
    }
}

fn cure(reason: &str) -> &'static str {
    match reason {
        "ImageRefused" | "Pulling" => "name an image that the nodes can pull quickly: --image; pull rights are sessions.imagePullSecrets",
        "ImageNotAllowed" => "name an image that allowedImages lets be debugged in this namespace: --image",
        "UserNamespacesUnsupported" => "set sessions.defaultIsolation: Restricted, or use nodes that can do user namespaces",
        "ImageVolumeUnsupported" => "set sessions.agent: InitContainer",
        "LinkFailed" | "Starting" => {
            "session pods must reach port 8443 of the gateways: kubectl -n sandglass-debug get networkpolicy gateway-link; kubectl -n sandglass-system get endpointslices"
        }
        "QuotaExceeded" => "end sessions that are not needed, or raise the ResourceQuota of the debug namespace",
        "Scheduling" => "give the nodes room, or look at tolerations and avoidNodeLabels of the configuration",
        "Unseen" => "look at the controller's log: kubectl -n sandglass-system logs -l app.kubernetes.io/component=controller",
        "PodRefused" => {
            "kubectl apply --server-side -f manifests/base, of the version that the installation runs: admission and controller disagree"
        }
        _ => "docs/api.md lists the reasons; kubectl -n sandglass-debug get events tells more",
    }
}

fn opened_findings(opened: &Opened, server: Option<Server>, records: Option<bool>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &opened.login {
        Ok(reached) => {
            findings.push(Finding::ok(CANARY, format!("a session opened after {:.1} s and let ssh in", opened.after.as_secs_f64())));
            findings.push(network(reached));
            findings.push(recording(opened, records));
            let told = opened.record.as_ref().map(told);
            findings.extend(told.and_then(|told| clocks::gateway(server, told, opened.began.0, opened.began.1)));
        }
        Err(error @ SshError::Failed { reason, .. }) if reason.contains("record") => {
            findings.push(Finding::ok(CANARY, format!("a session opened after {:.1} s", opened.after.as_secs_f64())));
            findings.push(agents_word());
            findings.push(Finding::fail(RECORDING, error.to_string(), STORE));
        }
        Err(error) => {
            let cure = "the gateway must be reachable from here under status.connection of sessions: see gateway.host, and kubectl -n sandglass-system logs -l app.kubernetes.io/component=gateway";
            findings.push(Finding::fail(CANARY, format!("a session opened, but ssh does not get in: {error}"), cure));
            findings.push(agents_word());
            findings.push(Finding::skip(RECORDING, "not proven: nobody logged in", "see the check canary"));
        }
    }
    findings.push(end(opened));
    findings
}

fn end(opened: &Opened) -> Finding {
    let Some(after) = opened.gone_after else {
        let cure = "kubectl -n sandglass-debug get pods; kubectl -n sandglass-system logs -l app.kubernetes.io/component=controller";
        return Finding::warn(CANARY, "its pod was not gone 10 s after its end", cure);
    };
    Finding::ok(CANARY, format!("its pod was gone {:.1} s after its end", after.as_secs_f64()))
}

const STORE: &str = "the gateways must be able to write the recording store: address, bucket, credentials (Secret sandglass-recording-store), and the NetworkPolicy recording-store; docs/recording.md";

/// What is known without a login: the agent does not serve before it has found the API server closed.
fn agents_word() -> Finding {
    Finding::ok(NETWORK, "the canary's agent found the API server closed before it served")
}

fn network(reached: &Reached) -> Finding {
    let open: Vec<&str> = reached.others.iter().filter(|(_, open)| *open).map(|(what, _)| what.as_str()).collect();
    if !open.is_empty() {
        let cure = "install a network plugin that enforces NetworkPolicy, and remove policies that open more than the shipped ones do: kubectl get networkpolicies -A";
        return Finding::fail(NETWORK, format!("network policies do not hold: a session pod reaches {}", open.join(" and ")), cure);
    }
    let closed: Vec<&str> = reached.others.iter().map(|(what, _)| what.as_str()).collect();
    match reached.link {
        Some(true) if !closed.is_empty() => Finding::ok(
            NETWORK,
            format!("policies hold: from a session pod the gateway's link port is open, and closed {}", closed.join(" and ")),
        ),
        Some(false) => Finding::warn(
            NETWORK,
            "the canary did not reach the gateway's link port a second time: that it reaches nothing else proves nothing",
            "try again; see whether pods reach each other across nodes",
        ),
        _ => agents_word(),
    }
}

fn recording(opened: &Opened, records: Option<bool>) -> Finding {
    let recording = opened.record.as_ref().map(|record| record.recording.as_deref());
    match (recording, records) {
        (Some(Some(place)), _) => Finding::ok(RECORDING, format!("the store is writable: the login is recorded at {place}")),
        (Some(None), Some(true)) => Finding::fail(RECORDING, "the login was not recorded, although the configuration demands it", STORE),
        (Some(None), _) => Finding::warn(
            RECORDING,
            "logins are not recorded: recording.mode is Off",
            "name a recording store in the configuration; docs/recording.md",
        ),
        (None, _) => {
            let cure = "the gateway must be able to write the status of sessions: see the check rights, and its log";
            Finding::warn(RECORDING, "the gateway has not reported the login: whether it is recorded is not known", cure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::session::ConnectionRecord;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::known::Unknown;
    use chrono::Utc;
    use std::time::Duration;

    fn opened(login: Result<Reached, SshError>, recording: Option<&str>) -> Facts {
        let now = Utc::now();
        let record = ConnectionRecord {
            id: "1".into(),
            key_fingerprint: "SHA256:x".into(),
            remote_address: "::1".into(),
            started_at: crate::kubernetes::time::from_chrono(now),
            ended_at: None,
            recording: recording.map(str::to_owned),
        };
        let gone_after = Some(Duration::from_secs(2));
        Facts::Opened(Box::new(Opened { after: Duration::from_secs(1), login, record: Some(record), began: (now, now), gone_after }))
    }

    fn reached(link: bool, health: bool) -> Reached {
        Reached { link: Some(link), others: vec![("the gateway's health port".into(), health), ("the API server".into(), false)] }
    }

    fn levels(facts: &Facts, records: Option<bool>) -> Vec<(&'static str, Level)> {
        judge(facts, None, records).iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_whole_session_proves_network_and_store() {
        let end = (CANARY, Level::Ok);
        let whole = opened(Ok(reached(true, false)), Some("s3://x/y"));
        assert_eq!(levels(&whole, Some(true)), [(CANARY, Level::Ok), (NETWORK, Level::Ok), (RECORDING, Level::Ok), end]);
        let leak = opened(Ok(reached(true, true)), Some("s3://x/y"));
        assert_eq!(levels(&leak, Some(true))[1], (NETWORK, Level::Fail));
        // Where nothing at all is reached, that something is closed is no proof.
        assert_eq!(levels(&opened(Ok(reached(false, false)), Some("s3://x/y")), Some(true))[1], (NETWORK, Level::Warn));
        // Without the addresses there is the agent's word.
        assert_eq!(levels(&opened(Ok(Reached::default()), Some("s3://x/y")), Some(true))[1], (NETWORK, Level::Ok));
        assert_eq!(levels(&opened(Ok(reached(true, false)), None), Some(true))[2], (RECORDING, Level::Fail));
        assert_eq!(levels(&opened(Ok(reached(true, false)), None), Some(false))[2], (RECORDING, Level::Warn));
    }

    #[test]
    fn a_store_that_does_not_answer_is_told_from_a_login_that_fails() {
        let reason = "the recording store does not answer: without a recording there is no shell. Try again in a while".to_owned();
        let refused = opened(Err(SshError::Failed { what: "start file transfer in the canary", reason }), None);
        assert_eq!(
            levels(&refused, Some(true)),
            [(CANARY, Level::Ok), (NETWORK, Level::Ok), (RECORDING, Level::Fail), (CANARY, Level::Ok)]
        );
        assert_eq!(levels(&opened(Err(SshError::Denied), None), None)[0], (CANARY, Level::Fail));
    }

    #[test]
    fn each_cause_fails_one_check() {
        let failed = |waits: bool, reason: &str| {
            let why = (reason.to_owned(), "m".to_owned());
            let found = levels(&Facts::NotOpen { waits, why }, None);
            found.into_iter().filter(|(_, level)| *level != Level::Skip).collect::<Vec<_>>()
        };
        assert_eq!(failed(false, "NetworkNotIsolated"), [(NETWORK, Level::Fail)]);
        assert_eq!(failed(false, "NamespaceNotIsolated"), []);
        assert_eq!(failed(false, "ImageRefused"), [(CANARY, Level::Fail)]);
        assert_eq!(failed(true, "QuotaExceeded"), [(CANARY, Level::Warn)]);
        let no_right = Facts::NotMade(Unknown::Right("create debugsessions in ci".into()));
        assert_eq!(levels(&no_right, None), [(CANARY, Level::Skip), (NETWORK, Level::Skip), (RECORDING, Level::Skip)]);
    }
}
