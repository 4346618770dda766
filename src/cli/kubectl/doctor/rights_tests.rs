//! Which rights are asked about, and what is said of the answers.

use super::*;
use crate::cli::kubectl::doctor::Level;
use crate::cli::kubectl::doctor::installation::tests::installation;

fn names(rights: &[Right]) -> Vec<String> {
    rights.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_roles_are_what_is_needed() {
    let place = installation("{}", &[]);
    let [(controller, controllers), (gateway, gateways)] = SHIPPED;
    let rights = names(&needed(controller, controllers, &place, true));
    for right in [
        "create pods in debug",
        "create networkpolicies.networking.k8s.io in vm",
        "get namespaces debug everywhere",
        "patch debugsessions/status.sandglass.dev everywhere",
        "patch leases.coordination.k8s.io sandglass-controller in system",
    ] {
        assert!(rights.contains(&right.to_owned()), "{right}: {rights:?}");
    }
    assert!(!rights.iter().any(|right| right.contains("jobs")), "the source reader is bound by choice: {rights:?}");
    assert!(!names(&needed(controller, controllers, &place, false)).iter().any(|right| right.ends_with("in vm")));
    let rights = names(&needed(gateway, gateways, &place, true));
    assert!(rights.contains(&"create tokenreviews.authentication.k8s.io everywhere".to_owned()), "{rights:?}");
    // Nothing is both needed and forbidden.
    let forbidden = names(&resolve(FORBIDDEN.iter(), &place, true));
    let needed = names(&needed(controller, controllers, &place, true));
    assert!(needed.iter().all(|right| !forbidden.contains(right)));
    assert!(rights.iter().all(|right| !names(&resolve(FORBIDDEN.iter().chain(&CONTROLLERS_OWN), &place, true)).contains(right)));
}

#[test]
fn the_door_needs_its_rights_where_a_rule_leads() {
    let base = "gateway: { host: h }\nsessions: { agentImage: i }\nrecording: { mode: Off }\n";
    assert!(doors_needs(&installation(base, &[])).is_empty(), "no door, no needs");
    let rule = |namespace: &str| format!("  - {{ issuer: a, claims: {{ repository: b }}, namespace: {namespace}, requester: me }}\n");
    let door = format!(
        "{base}provisioning:\n issuers: [{{ name: a, url: 'https://a', audience: s }}]\n rules:\n{}{}{}",
        rule("ci"),
        rule("ci"),
        rule("other")
    );
    let needs = names(&doors_needs(&installation(&door, &[])));
    assert_eq!(needs.len(), 6, "{needs:?}");
    assert!(needs.contains(&"impersonate-requester debugsessions.sandglass.dev in other".to_owned()), "{needs:?}");
}

#[test]
fn the_question_is_about_the_account_and_its_groups() {
    let right =
        Right { verb: "create".into(), group: String::new(), resource: "pods/exec".into(), name: None, namespace: Some("vm".into()) };
    let spec = review("system", "sandglass-gateway", &right).spec;
    let asked = spec.resource_attributes.expect("attributes");
    assert_eq!((asked.resource.as_deref(), asked.subresource.as_deref()), (Some("pods"), Some("exec")));
    assert_eq!(spec.user.as_deref(), Some("system:serviceaccount:system:sandglass-gateway"));
    assert!(spec.groups.is_some_and(|groups| groups.contains(&"system:serviceaccounts:system".to_owned())));
}

#[test]
fn what_lacks_and_what_is_too_much_is_named() {
    let right = |verb: &str| Right {
        verb: verb.into(),
        group: String::new(),
        resource: "pods".into(),
        name: None,
        namespace: Some("debug".into()),
    };
    let facts = |needed: bool, forbidden: bool| Facts {
        account: "sandglass-controller",
        needed: vec![(right("create"), Known::There(needed))],
        forbidden: vec![(right("patch"), Known::There(forbidden))],
    };
    let levels = |facts: Facts| judge(&[facts]).iter().map(|finding| finding.level).collect::<Vec<_>>();
    assert_eq!(levels(facts(true, false)), [Level::Ok]);
    assert_eq!(levels(facts(false, true)), [Level::Fail, Level::Fail]);
    let lacking = judge(&[facts(false, false)]).remove(0);
    assert!(lacking.message.contains("lacks rights: create pods in debug"), "{lacking:?}");
    let excess = judge(&[facts(true, true)]).remove(0);
    assert!(excess.message.contains("must not have: patch pods in debug"), "{excess:?}");
    let mut unread = facts(true, false);
    unread.needed[0].1 = Known::Unknown(Unknown::Right("create subjectaccessreviews".into()));
    assert_eq!(levels(unread), [Level::Skip]);
    assert_eq!(few(&["a", "b", "c", "d", "e"].map(str::to_owned)), "a, b, c, d, and 1 more");
}
