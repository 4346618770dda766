//! The whole object, and what a rule keeps out of it.

use super::*;
use crate::provisioning::origin::Caller;
use serde_json::{Value, json};

fn configuration() -> Configuration {
    Configuration::parse(
        "gateway: { host: debug.example.com }
sessions: { agentImage: 'registry.example.com/sandglass:1' }
recording: { mode: Off }
allowedImages: [{ prefix: registry.example.com/, namespaces: [ci] }]
provisioning:
  issuers:
    - { name: github, url: 'https://token.actions.githubusercontent.com', audience: here }
    - { name: gitlab, url: 'https://gitlab.example.com', audience: here, provider: GitLab }
  rules:
    - { issuer: github, claims: { repository: 'my-org/*' }, namespace: ci, project: '{repository}', requester: '{actor}', ttlCap: 20m }
    - { issuer: gitlab, claims: { project_path: 'group/*' }, namespace: ci, requester: 'gitlab:{user_login}', allow: [LocalForward], network: [Egress] }
",
    )
    .expect("a configuration")
}

fn claims(pairs: &[(&str, &str)]) -> Claims {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn github() -> Claims {
    claims(&[
        ("repository", "my-org/x"),
        ("repository_id", "7001"),
        ("run_id", "42"),
        ("run_attempt", "3"),
        ("actor", "octocat"),
        ("ref", "refs/pull/17/merge"),
        ("sha", "0a1b2c"),
    ])
}

fn make(index: usize, claims: &Claims, body: &Value) -> Result<Value, String> {
    let configuration = configuration();
    let door = configuration.provisioning.clone().expect("there is one");
    let request = SessionRequest::parse(body.to_string().as_bytes()).map_err(|problem| problem.detail)?;
    let issuer = &door.issuers[index];
    let origin = Caller::of(issuer, claims).expect("a caller").job(&request.job);
    let rule = door.rule(&issuer.name, claims).expect("a rule");
    let input = Input { request: &request, issuer, claims, rule, origin: &origin, configuration: &configuration };
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
    session(&input, now).map(|session| serde_json::to_value(session).expect("JSON")).map_err(|problem| problem.detail)
}

fn body() -> Value {
    json!({
        "image": "registry.example.com/go:1", "job": "test (1)", "principals": ["octocat"],
        "env": [{ "name": "CI", "value": "true" }, { "name": "API_TOKEN", "value": "x" }, { "name": "B", "value": "ghp_0123456789012345678901234" }],
        "workingDir": "/src", "reason": "flaky", "commit": "of the caller", "url": "https://caller.example.com",
    })
}

#[test]
fn golden_github() {
    let made = make(0, &github(), &body()).expect("made");
    let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("x-test-1-") && name.len() == 25, "{name}");
    let expected = json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": "DebugSession",
        "metadata": {
            "name": name,
            "namespace": "ci",
            "annotations": {
                "sandglass.dev/provisioning-origin": json!({
                    "issuer": "https://token.actions.githubusercontent.com", "repositoryId": "7001", "repository": "my-org/x",
                    "run": "42", "attempt": "3", "job": "test (1)",
                }),
                "sandglass.dev/provisioning-stripped-env": "API_TOKEN,B",
            },
        },
        "spec": {
            "source": { "image": "registry.example.com/go:1" },
            "env": [{ "name": "CI", "value": "true" }],
            "workingDir": "/src",
            "ttl": "20m",
            "notAfter": "2027-01-15T08:25:00Z",
            "project": made["spec"]["project"],
            "requester": "octocat",
            "reason": "flaky",
            "build": {
                "commit": "0a1b2c", "pullRequest": "17", "run": "42/3",
                "url": "https://github.com/my-org/x/actions/runs/42/attempts/3",
            },
            "access": { "principals": ["octocat"], "allow": ["Sftp"] },
            "network": "Isolated",
            "retention": "Delete",
            "deleteAfter": "24h",
            "end": false,
        },
    });
    let mut made = made;
    let annotation = &mut made["metadata"]["annotations"]["sandglass.dev/provisioning-origin"];
    *annotation = serde_json::from_str(annotation.as_str().expect("a text")).expect("JSON");
    assert_eq!(made, expected);
    assert!(made["spec"]["project"].as_str().expect("a project").starts_with("my-org-x-"));
}

#[test]
fn gitlab_has_its_own_names() {
    let claims = claims(&[
        ("project_path", "group/sub/x"),
        ("project_id", "9"),
        ("pipeline_id", "100"),
        ("job_id", "2000"),
        ("user_login", "alice"),
        ("ref_path", "refs/merge-requests/5/head"),
        ("sha", "ff"),
    ]);
    let mut body = body();
    body["network"] = "Egress".into();
    let made = make(1, &claims, &body).expect("made");
    assert_eq!(made["spec"]["requester"], "gitlab:alice");
    assert_eq!(made["spec"]["access"]["allow"], json!([]), "Sftp is not the rule's to give");
    assert_eq!(
        made["spec"]["build"],
        json!({ "commit": "ff", "pullRequest": "5", "run": "100/2000", "url": "https://gitlab.example.com/group/sub/x/-/jobs/2000" })
    );
    body["network"] = "Isolated".into();
    assert!(make(1, &claims, &body).expect_err("refused").contains("Isolated is not one that the rule for this job allows: Egress"));
}

#[test]
fn a_ttl_is_the_rules_at_most() {
    let with = |ttl: &str| {
        let mut body = body();
        body["ttl"] = ttl.into();
        make(0, &github(), &body).map(|made| made["spec"]["notAfter"].as_str().expect("always set").to_owned())
    };
    assert_eq!(with("1m"), Ok("2027-01-15T08:06:00Z".into()));
    assert_eq!(with("1200s"), Ok("2027-01-15T08:25:00Z".into()));
    assert!(with("1201s").expect_err("refused").contains("more than 20m"));
    for (seconds, text) in [(60, "1m"), (3600, "1h"), (4500, "1h15m"), (90, "90s"), (86400, "24h")] {
        assert_eq!(in_words(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn the_installations_images_bound_every_rule() {
    let mut body = body();
    body["image"] = "other.example.com/go:1".into();
    assert!(make(0, &github(), &body).expect_err("refused").contains("is not one that this installation allows for the namespace ci"));
}
