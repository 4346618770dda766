//! What the configuration of the door refuses, and how a rule is found.

use super::super::configuration::Configuration;
use super::claims::{Claims, fill, matches};
use super::{Issuer, Provider, Provisioning, is_trusted_url};
use std::time::Duration;

const BASE: &str = "gateway: { host: debug.example.com }\nsessions: { agentImage: 'registry.example.com/sandglass:1', ttlCap: 1h }\nrecording: { mode: Off }\n";
const DOOR: &str = "provisioning:
  issuers:
    - { name: github, url: 'https://token.actions.githubusercontent.com', audience: 'https://debug.example.com' }
  rules:
    - { issuer: github, claims: { repository: 'my-org/*', ref: refs/heads/main }, namespace: release, requester: '{actor}', ttlCap: 15m }
    - { issuer: github, claims: { repository: 'my-org/*' }, namespace: ci, project: '{repository}', requester: 'ci-{actor}' }
";

fn door(text: &str) -> Result<Provisioning, String> {
    let configuration = Configuration::parse(&format!("{BASE}{text}")).map_err(|error| error.to_string())?;
    Ok(configuration.provisioning.expect("there is one"))
}

fn claims(pairs: &[(&str, &str)]) -> Claims {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let door = door(DOOR).expect("valid");
    let namespace = |pairs: &[(&str, &str)]| door.rule("github", &claims(pairs)).map(|rule| rule.namespace.clone());
    assert_eq!(namespace(&[("repository", "my-org/x"), ("ref", "refs/heads/main")]), Some("release".into()));
    assert_eq!(namespace(&[("repository", "my-org/x"), ("ref", "refs/heads/main2")]), Some("ci".into()));
    assert_eq!(namespace(&[("repository", "my-org/x")]), Some("ci".into()));
    assert_eq!(namespace(&[("repository", "my-organisation/x")]), None);
    assert_eq!(namespace(&[]), None);
    assert!(door.rule("gitlab", &claims(&[("repository", "my-org/x")])).is_none(), "another issuer");
    let looked_at = door.looked_at("github", &claims(&[("repository", "evil/x"), ("actor", "mallory")]));
    assert_eq!(looked_at, [("ref".to_owned(), None), ("repository".to_owned(), Some("evil/x".to_owned()))].into());
    assert_eq!(door.rules[0].ttl_cap(Duration::from_hours(1)), Duration::from_mins(15));
    assert_eq!(door.rules[1].ttl_cap(Duration::from_hours(1)), Duration::from_hours(1));
}

#[test]
fn a_star_stands_for_one_or_more_characters() {
    for (pattern, value, expected) in [
        ("my-org/*", "my-org/x", true),
        ("my-org/*", "my-org/group/x", true),
        ("my-org/*", "my-org/", false),
        ("my-org/*", "my-orgs/x", false),
        ("refs/heads/*-stable", "refs/heads/1.2-stable", true),
        ("refs/heads/*-stable", "refs/heads/-stable", false),
        ("ab*ba", "aba", false),
        ("my-org/x", "my-org/x", true),
        ("my-org/x", "My-Org/x", false),
        ("my-org/x", "my-org/x2", false),
    ] {
        assert_eq!(matches(pattern, value), expected, "{pattern} {value}");
    }
}

#[test]
fn templates_are_filled_from_claims() {
    let known = claims(&[("actor", "octocat"), ("n", "{actor}")]);
    assert_eq!(fill("ci-{actor}.", &known), Ok("ci-octocat.".into()));
    assert_eq!(fill("{n}", &known), Ok("{actor}".into()), "what a claim says is not looked into again");
    assert_eq!(fill("{actor}{gone}", &known), Err("gone"));
}

#[test]
fn keys_come_over_tls_or_from_this_machine() {
    for url in ["https://gitlab.example.com", "http://127.0.0.1:8000/keys", "http://[::1]:1"] {
        assert!(is_trusted_url(url), "{url}");
    }
    for url in
        ["http://gitlab.example.com", "http://localhost", "http://127.0.0.1.example.com", "ftp://x", "https://u:p@x", "x", "https://"]
    {
        assert!(!is_trusted_url(url), "{url}");
    }
}

#[test]
fn the_providers_claims_are_known() {
    let issuer = |provider, url: &str| {
        let mut issuer: Issuer = door(DOOR).expect("valid").issuers.remove(0);
        (issuer.provider, issuer.url) = (provider, url.to_owned());
        issuer.claim_names()
    };
    let github = issuer(Provider::GitHub, "https://token.actions.githubusercontent.com");
    assert_eq!(github.page.as_deref(), Some("https://github.com/{repository}/actions/runs/{run_id}/attempts/{run_attempt}"));
    let enterprise = issuer(Provider::GitHub, "https://github.example.com/_services/token");
    assert_eq!(enterprise.page.as_deref(), Some("https://github.example.com/{repository}/actions/runs/{run_id}/attempts/{run_attempt}"));
    assert_eq!(issuer(Provider::GitHub, "http://127.0.0.1:8000").page, None);
    let gitlab = issuer(Provider::GitLab, "https://gitlab.example.com");
    assert_eq!(gitlab.page.as_deref(), Some("https://gitlab.example.com/{project_path}/-/jobs/{job_id}"));
    assert_eq!((gitlab.repository_id.as_str(), gitlab.attempt.as_deref()), ("project_id", Some("job_id")));
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_fields_path() {
    for (from, to, expected) in [
        ("repository: 'my-org/*', ref", "repository: '*/x', ref", "provisioning.rules[0].claims.repository: must be a value"),
        ("repository: 'my-org/*', ref", "repository: 'a*b*', ref", "provisioning.rules[0].claims.repository: must be a value"),
        ("claims: { repository: 'my-org/*' }", "claims: {}", "provisioning.rules[1].claims: must not be empty"),
        ("ttlCap: 15m", "ttlCap: 2h", "provisioning.rules[0].ttlCap: must be a duration between 1m and sessions.ttlCap"),
        ("'ci-{actor}'", "'ci-{actor'", "provisioning.rules[1].requester: must be a text"),
        ("'ci-{actor}'", "''", "provisioning.rules[1].requester: must be a text"),
        ("namespace: ci", "namespace: Ci", "provisioning.rules[1].namespace: must be the name of a namespace"),
        (
            "issuer: github, claims: { repository: 'my-org/*' }",
            "issuer: gitlab, claims: { a: b }",
            "provisioning.rules[1].issuer: must be the name",
        ),
        ("'https://token.", "'http://token.", "provisioning.issuers[0].url: must be an https:// URL"),
        ("audience: 'https://debug.example.com'", "audience: ''", "provisioning.issuers[0].audience: must be what"),
        ("audience: 'https://debug.example.com'", "audience: a, algorithms: []", "provisioning.issuers[0].algorithms: must name"),
        ("audience: 'https://debug.example.com'", "audience: a, provider: Other", "provisioning.issuers[0].claims: must say"),
        ("audience: 'https://debug.example.com'", "audience: a, algorithms: [HS256]", "failed to read the configuration"),
        ("audience: 'https://debug.example.com'", "audience: a, algorithms: [none]", "failed to read the configuration"),
        (
            "audience: 'https://debug.example.com'",
            "audience: a, staleWindow: 2d",
            "provisioning.issuers[0].staleWindow: must be a duration",
        ),
        ("  rules:", "  limits: { creations: 0 }\n  rules:", "provisioning.limits: creations"),
    ] {
        assert!(DOOR.contains(from), "{from}");
        let refusal = door(&DOOR.replacen(from, to, 1)).expect_err(to);
        assert!(refusal.starts_with(expected), "{to}: {refusal}");
    }
    let twice = DOOR.replacen("  rules:", "    - { name: github, url: 'https://x', audience: a }\n  rules:", 1);
    assert!(door(&twice).expect_err("twice").contains("issuers[1]: has the name"));
    let other = |page: &str| {
        let issuer = format!("audience: a, provider: Other, claims: {{ repository: r, repositoryId: i, run: n, page: '{page}' }}");
        door(&DOOR.replacen("audience: 'https://debug.example.com'", &issuer, 1))
    };
    assert!(other("https://ci.example.com/{r}/{n}").is_ok());
    assert!(other("https://{r}/x").expect_err("claims choose no host").contains("claims.page"));
}
