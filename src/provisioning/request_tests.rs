//! Bodies. Each refusal of a whole request is in `tests/provisioning.rs`.

use super::*;
use serde_json::json;

fn parse(body: &serde_json::Value) -> Result<SessionRequest, Problem> {
    SessionRequest::parse(body.to_string().as_bytes())
}

#[test]
fn the_documented_example_is_taken() {
    let request = parse(&example()).expect("valid");
    assert_eq!((request.job.as_str(), request.ttl(), request.env.len()), ("test-2", Some(Duration::from_mins(30)), 1));
    assert!(request.network.is_none() && request.allow.is_none());
}

#[test]
fn everything_may_be_given() {
    let mut body = example();
    for (name, value) in [
        ("principals", json!(["octocat"])),
        ("allow", json!(["Sftp", "AgentForward"])),
        ("network", json!("Egress")),
        ("workingDir", json!("/work space/é")),
        ("commit", json!("0a1b")),
        ("pullRequest", json!("17")),
        ("url", json!("https://ci.example.com/1?a=b")),
        ("env", json!([{ "name": "A.b-c_d", "value": "two\nlines" }, { "name": "B" }])),
    ] {
        body[name] = value;
    }
    let request = parse(&body).expect("valid");
    assert_eq!(request.env[0].value, "two\nlines");
    body["ttl"] = serde_json::Value::Null;
    assert!(parse(&body).expect("null is as absent").ttl().is_none());
}

#[test]
fn what_the_parser_quotes_is_not_repeated() {
    assert_eq!(
        without_quotes(r#"invalid type: string "se\"cret", expected a sequence at line 1"#),
        "invalid type: string \"…\", expected a sequence at line 1"
    );
    assert_eq!(without_quotes("EOF while parsing"), "EOF while parsing");
    let problem = SessionRequest::parse(b"{\"image\":\"s3cret").expect_err("refused");
    assert!(!problem.detail.contains("s3cret"), "{}", problem.detail);
    let problem = parse(&json!({ "image": "x", "job": "j", "network": "s3cret-in-an-enum" })).expect_err("refused");
    assert!(!problem.detail.contains("s3cret"), "{}", problem.detail);
}

#[test]
fn limits_count_characters() {
    let with = |name: &str, value: serde_json::Value| {
        let mut body = example();
        body[name] = value;
        parse(&body).map(drop).map_err(|problem| problem.detail)
    };
    assert_eq!(with("job", "é".repeat(256).into()), Ok(()));
    assert!(with("job", "é".repeat(257).into()).is_err());
    assert!(with("principals", json!(vec!["x"; 33])).expect_err("too many").contains("principals may hold at most 32"));
    assert!(with("ttl", "0h0000m01800s".into()).is_err(), "longer than the custom resource takes");
}
