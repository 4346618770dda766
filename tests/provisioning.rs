//! The door for CI on loopback: the real service over HTTP, an issuer of the test's that rotates its keys, is slow, is away or talks
//! nonsense, and every bad input there is a rule about. Each refusal is one line, makes nothing and asks the issuer no more than it must.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "provisioning/issuer.rs"]
mod issuer;
#[path = "provisioning/signer.rs"]
mod signer;
#[path = "provisioning/world.rs"]
mod world;

use issuer::Mode;
use serde_json::{Value, json};
use signer::{Signer, encode};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use world::{KEY, Reply, World, client, request, send};

/// The refusal is one line of this status and kind, and nothing was made.
fn refused(world: &World, reply: &Reply, status: u16, kind: &str, says: &str) {
    assert_eq!(reply.status, status, "{}", reply.body);
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    assert_eq!(reply.body["type"], format!("https://sandglass.dev/problems/{kind}"), "{}", reply.body);
    assert_eq!(reply.body["status"], status);
    let detail = reply.detail();
    assert!(detail.contains(says) && !detail.contains(char::is_control), "{detail:?}");
    assert_eq!((world.objects(), world.objects.created.load(Ordering::SeqCst)), (0, 0), "nothing may be made");
}

#[tokio::test]
async fn a_job_gets_one_session_however_often_it_asks() {
    let world = World::new().await;
    let token = world.token(&world.claims());
    let first = world.ask(&token).await;
    assert_eq!(first.status, 201, "{}", first.body);
    let name = first.body["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("x-test-"), "{name}");
    assert_eq!(
        (&first.body["namespace"], &first.body["requester"], &first.body["phase"]),
        (&json!("ci"), &json!("octocat"), &json!("Waiting"))
    );
    assert_eq!((&first.body["open"], &first.body["connection"]), (&json!(false), &json!(null)));

    // The same job with another token and another body: the same session, as it was.
    let mut other = request();
    other["image"] = "registry.example.com/builders/other:1".into();
    let again = world.post(&world.token(&world.claims_with("jti", "other")), other.to_string()).await;
    assert_eq!((again.status, &again.body["name"]), (200, &json!(name)));
    let path = format!("/v1/debugsessions/ci/{name}");
    let read = world.get(&token, &path).await;
    assert_eq!((read.status, &read.body), (200, &again.body));

    // It has ended meanwhile: still the same, and never a second one.
    {
        let mut stored = world.objects.stored.lock().expect("lock");
        let session = stored.values_mut().next().expect("one");
        let status = json!({ "phase": "Ended", "endedAt": "2026-11-26T12:00:00Z", "endReason": "Expired" });
        session.status = Some(serde_json::from_value(status).expect("a status"));
    }
    let ended = world.ask(&token).await;
    assert_eq!((ended.status, &ended.body["ended"], &ended.body["name"]), (200, &json!(true), &json!(name)));
    assert_eq!((world.objects(), world.objects.created.load(Ordering::SeqCst)), (1, 1));

    // Another attempt, another run and another job are others.
    for (claim, value) in [("run_attempt", "2"), ("run_id", "43"), ("repository_id", "7002")] {
        assert_eq!(world.ask(&world.token(&world.claims_with(claim, value))).await.status, 201, "{claim}");
    }
    let mut job = request();
    job["job"] = "test (2)".into();
    assert_eq!(world.post(&token, job.to_string()).await.status, 201);
    assert_eq!(world.objects(), 5);
    assert_eq!(world.counted("sandglass_provisioning_answers_total{outcome=\"Created\"}"), 5);
    assert_eq!(world.issuer.fetches(), 1, "the keys are kept");
}

#[tokio::test]
async fn twenty_calls_at_once_make_one_session_and_one_fetch() {
    let world = World::new().await;
    let token = world.token(&world.claims());
    let replies = futures::future::join_all((0..20).map(|_| world.ask(&token))).await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    let found = replies.iter().filter(|reply| reply.status == 200).count();
    let limited = replies.iter().filter(|reply| reply.status == 429).count();
    assert_eq!((made, made + found + limited, world.objects()), (1, 20, 1));
    assert_eq!(world.issuer.fetches(), 1);
}

#[tokio::test]
async fn the_object_is_what_the_rule_and_the_token_say() {
    let world = World::new().await;
    let mut body = request();
    body["env"] = json!([{ "name": "CI", "value": "true" }, { "name": "NPM_TOKEN", "value": "npm-secret-value" }]);
    body["commit"] = "of the caller".into();
    let reply = world.post(&world.token(&world.claims_with("ref", "refs/heads/x")), body.to_string()).await;
    assert_eq!((reply.status, &reply.body["strippedEnv"]), (201, &json!(["NPM_TOKEN"])), "{}", reply.body);
    let stored = world.objects.stored.lock().expect("lock");
    let session = serde_json::to_value(stored.values().next().expect("one")).expect("JSON");
    let spec = &session["spec"];
    assert_eq!((&spec["retention"], &spec["deleteAfter"], &spec["ttl"]), (&json!("Delete"), &json!("24h"), &json!("30m")));
    assert_eq!((&spec["build"]["commit"], &spec["build"]["run"]), (&json!("0a1b2c3d"), &json!("42/1")));
    assert!(spec["project"].as_str().expect("a project").starts_with("my-org-x-"));
    let not_after: chrono::DateTime<chrono::Utc> = spec["notAfter"].as_str().expect("always set").parse().expect("a time");
    let minutes = (not_after - chrono::Utc::now()).num_minutes();
    assert!((34..=35).contains(&minutes), "{minutes}");
    assert!(!session.to_string().contains("npm-secret-value"), "a secret must not reach the object");
}

#[tokio::test]
async fn only_the_same_repository_reads_a_session() {
    let world = World::new().await;
    let made = world.ask(&world.token(&world.claims())).await;
    let path = format!("/v1/debugsessions/ci/{}", made.body["name"].as_str().expect("a name"));
    let mut stranger = world.claims_with("repository", "my-org/y");
    stranger["repository_id"] = "7002".into();
    let strangers = world.get(&world.token(&stranger), &path).await;
    let absent = world.get(&world.token(&stranger), "/v1/debugsessions/ci/absent").await;
    assert_eq!((strangers.status, absent.status), (404, 404));
    assert_eq!(strangers.body, absent.body, "both look the same");
    let elsewhere = world.get(&world.token(&world.claims()), &path.replace("/ci/", "/other/")).await;
    assert_eq!((elsewhere.status, &elsewhere.body), (404, &absent.body));
    // A name that is somebody else's object.
    let renamed = world.claims_with("repository", "my-org/renamed");
    assert_eq!(world.get(&world.token(&renamed), &path).await.status, 200, "a renamed repository is the same");
    for session in world.objects.stored.lock().expect("lock").values_mut() {
        session.metadata.annotations = None;
    }
    assert_eq!(world.get(&world.token(&world.claims()), &path).await.status, 404);
    let taken = world.ask(&world.token(&world.claims())).await;
    assert_eq!((taken.status, world.objects()), (409, 1), "{}", taken.body);
}

#[tokio::test]
async fn bad_tokens_are_one_line_and_leave_nothing() {
    let world = World::new().await;
    let now = chrono::Utc::now().timestamp();
    let header = json!({ "alg": "RS256", "kid": "one" });
    let good = world.token(&world.claims());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let modulus = world.signer.jwk("one")["n"].as_str().expect("a number").to_owned();
    let with_public_key = {
        let signed = format!("{}.{}", encode(json!({ "alg": "HS256", "kid": "one" }).to_string()), encode(world.claims().to_string()));
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, modulus.as_bytes()), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    let unsigned = |algorithm: &str| {
        format!("{}.{}.", encode(json!({ "alg": algorithm, "kid": "one" }).to_string()), encode(world.claims().to_string()))
    };
    let with_header = |header: Value| world.signer.token(&header, &world.claims());
    let claiming = |name: &str, value: Value| world.signer.token(&header, &world.claims_with(name, value));
    let without = |name: &str| {
        let mut claims = world.claims();
        claims.as_object_mut().expect("an object").remove(name);
        world.signer.token(&header, &claims)
    };
    let cases = [
        (
            "another audience",
            claiming("aud", "https://other.example.com".into()),
            "for another audience: ask the CI system for one with the audience https://debug",
        ),
        ("other audiences", claiming("aud", json!(["a", "b"])), "for another audience"),
        ("no audience", without("aud"), "for another audience"),
        ("expired", claiming("exp", (now - 31).into()), "has expired: ask the CI system for a new one"),
        ("no expiry", without("exp"), "has no exp"),
        ("a text as expiry", claiming("exp", "never".into()), "has no exp, or one that is no time"),
        ("not yet valid", claiming("nbf", (now + 60).into()), "not valid yet (nbf)"),
        ("issued tomorrow", claiming("iat", (now + 86400).into()), "not valid yet (iat)"),
        ("alg none", unsigned("none"), "algorithm is not one of RS256, ES256"),
        ("alg None", unsigned("None"), "algorithm is not one of RS256, ES256"),
        ("RS256 without a signature", unsigned("RS256"), "signature is not its issuer's"),
        ("HS256 with the public key", with_public_key, "algorithm is not one of RS256, ES256"),
        ("an algorithm that is not allowed", with_header(json!({ "alg": "RS512", "kid": "one" })), "algorithm is not one of"),
        ("an algorithm of another kind of key", with_header(json!({ "alg": "ES256", "kid": "one" })), "signature is not its issuer's"),
        ("crit", with_header(json!({ "alg": "RS256", "kid": "one", "crit": ["b64"], "b64": false })), "crit"),
        ("crit that is null", with_header(json!({ "alg": "RS256", "kid": "one", "crit": null })), "crit"),
        ("no key id", with_header(json!({ "alg": "RS256" })), "names no key"),
        ("another type", with_header(json!({ "alg": "RS256", "kid": "one", "typ": "JOSE" })), "not a signed JSON Web Token"),
        ("another's key", Signer::rsa().token(&header, &world.claims()), "signature is not its issuer's"),
        (
            "another's claims",
            format!("{}.{}.{signature}", signed.split('.').next().expect("one"), encode(world.claims_with("actor", "root").to_string())),
            "signature",
        ),
        ("another issuer", claiming("iss", "https://evil.example.com".into()), "not of an issuer that this installation believes"),
        ("an issuer with a slash", claiming("iss", format!("{}/", world.issuer.url).into()), "not of an issuer"),
        ("newlines in a claim", claiming("actor", "octo\ncat".into()), "the claim actor holds control characters"),
        ("newlines deep in a claim", claiming("x", json!({ "y": ["a\u{1b}[31m"] })), "the claim x holds control characters"),
        ("turned text", claiming("ref", "refs/heads/\u{202e}x".into()), "the claim ref holds control characters"),
        ("newlines in a name", claiming("a\nb", "x".into()), "holds control characters"),
        ("no token", "x".into(), "not a signed JSON Web Token"),
        ("two parts", "e30.e30".into(), "not a signed JSON Web Token"),
        ("padding", format!("{good}="), "not a signed JSON Web Token"),
        ("17 KiB", claiming("padding", "x".repeat(17 * 1024).into()), "longer than 16 KiB"),
    ];
    for (what, token, says) in cases {
        let reply = world.ask(&token).await;
        assert_eq!(reply.status, 401, "{what}: {}", reply.body);
        refused(&world, &reply, 401, "token-invalid", says);
        assert_eq!(reply.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
        assert!(token.len() < 20 || !reply.body.to_string().contains(&token), "{what}");
    }
    let none = send(
        client().post(format!("{}/v1/debugsessions", world.url)).header("content-type", "application/json").body(request().to_string()),
    )
    .await;
    refused(&world, &none, 401, "token-missing", "Authorization: Bearer");
    assert_eq!(world.issuer.fetches(), 1, "no bad token makes the door ask again");
    // The logs have a line for each, and no token.
    let log = String::from_utf8(world::log().lock().expect("lock").clone()).expect("text");
    assert!(log.contains("token-invalid") && !log.contains(signature) && !log.contains(&encode(header.to_string())), "a token in the log");
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "a broken line");
}

#[tokio::test]
async fn a_token_of_an_old_clock_or_with_many_audiences_is_taken() {
    let world = World::with(", creations: 100", "").await;
    let now = chrono::Utc::now().timestamp();
    for (name, value) in [
        ("exp", json!(now - 20)),
        ("nbf", json!(now + 20)),
        ("exp", serde_json::from_str(&format!("{}.5", now + 60)).expect("a number")),
        ("aud", json!(["a", world::AUDIENCE])),
    ] {
        let reply = world.ask(&world.token(&world.claims_with(name, value))).await;
        assert!(matches!(reply.status, 200 | 201), "{name}: {}", reply.body);
    }
}

#[tokio::test]
async fn what_no_rule_is_for_is_refused_with_the_claims() {
    let world = World::new().await;
    let mut claims = world.claims_with("repository", "evil/x");
    claims.as_object_mut().expect("an object").remove("ref");
    let reply = world.ask(&world.token(&claims)).await;
    refused(&world, &reply, 403, "no-rule", "no ref, repository=evil/x: ask who runs Sandglass to add one");
    assert_eq!(reply.body["claims"], json!({ "ref": null, "repository": "evil/x" }));
    let reply = world.post(&world.token(&world.claims_with("repository", "other/x")), request().to_string()).await;
    refused(&world, &reply, 403, "claim-missing", "the token has no claim gone");
    let mut claims = world.claims();
    claims.as_object_mut().expect("an object").remove("run_id");
    refused(&world, &world.ask(&world.token(&claims)).await, 403, "claim-missing", "no claim run_id");
    let long = world.ask(&world.token(&world.claims_with("actor", "x".repeat(254)))).await;
    refused(&world, &long, 403, "claim-missing", "is no requester");
}

#[tokio::test]
async fn bad_bodies_are_one_line_and_leave_nothing() {
    let world = World::new().await;
    let token = world.token(&world.claims());
    let with = |name: &str, value: Value| {
        let mut body = request();
        body[name] = value;
        body.to_string()
    };
    let cases = [
        ("{".to_owned(), 422, "invalid-request", "not what /v1/openapi.json describes"),
        ("[]".to_owned(), 422, "invalid-request", "not what /v1/openapi.json describes"),
        (with("extra", 1.into()), 422, "invalid-request", "unknown field `extra`"),
        (with("env", json!([{ "name": "A", "value": "x", "extra": 1 }])), 422, "invalid-request", "unknown field `extra`"),
        (
            with("image", "registry.example.com/secret/x".into()),
            403,
            "not-allowed",
            "is not one of those that the rule for this job allows: registry.example.com/builders",
        ),
        (with("image", "registry.example.com/builders2/x".into()), 403, "not-allowed", "the image registry.example.com/builders2/x is not"),
        (with("image", "evil.example.com/builders/x".into()), 403, "not-allowed", "the image evil.example.com"),
        (with("image", "a b".into()), 422, "invalid-request", "image: "),
        (with("image", "x\ny".into()), 422, "invalid-request", "image: "),
        (with("job", "a\nb".into()), 422, "invalid-request", "job must be one line"),
        (with("job", "".into()), 422, "invalid-request", "job must be one line of 1 to 256"),
        (with("ttl", "46m".into()), 422, "invalid-request", "ttl 46m is more than 45m, the cap of the rule"),
        (with("ttl", "30".into()), 422, "invalid-request", "ttl must be a duration"),
        (with("ttl", "59s".into()), 422, "invalid-request", "ttl must be a duration between 1m"),
        (with("authorizedKeys", json!([])), 422, "invalid-request", "must name somebody"),
        (with("authorizedKeys", json!(["ssh-ed25519 AAAA x"])), 422, "invalid-request", "authorizedKeys[0] is not a public key"),
        (with("authorizedKeys", json!([format!("command=\"x\" {KEY}")])), 422, "invalid-request", "without options"),
        (with("authorizedKeys", json!([format!("{KEY}\n{KEY}")])), 422, "invalid-request", "one line"),
        (with("principals", json!(["a\u{7f}"])), 422, "invalid-request", "principals[0]"),
        (
            with("allow", json!(["AgentForward"])),
            403,
            "not-allowed",
            "AgentForward is not one of what the rule for this job allows: Sftp, LocalForward",
        ),
        (with("network", "Egress".into()), 403, "not-allowed", "the network Egress"),
        (with("env", json!([{ "name": "1A", "value": "" }])), 422, "invalid-request", "env[0].name"),
        (with("env", json!([{ "name": "A" }, { "name": "A" }])), 422, "invalid-request", "env[1].name is there already"),
        (with("env", json!([{ "name": "A", "value": "\0" }])), 422, "invalid-request", "no NUL"),
        (with("workingDir", "work".into()), 422, "invalid-request", "workingDir must begin with /"),
        (with("url", "javascript:x".into()), 422, "invalid-request", "url must begin with https://"),
        (with("reason", "x\r\ny".into()), 422, "invalid-request", "reason must be one line"),
    ];
    for (body, status, kind, says) in cases {
        refused(&world, &world.post(&token, body).await, status, kind, says);
    }
    let secret = world.post(&token, with("env", "NPM_TOKEN=in-the-wrong-place".into())).await;
    refused(&world, &secret, 422, "invalid-request", "invalid type: string \"…\"");
    let log = String::from_utf8(world::log().lock().expect("lock").clone()).expect("text");
    assert!(!log.contains("in-the-wrong-place") && !secret.body.to_string().contains("in-the-wrong-place"));
    let text = client().post(format!("{}/v1/debugsessions", world.url)).header("authorization", format!("Bearer {token}"));
    refused(&world, &send(text.body(request().to_string())).await, 415, "not-json", "Content-Type: application/json");
}

#[tokio::test]
async fn ten_mebibytes_get_one_line_early() {
    let world = World::new().await;
    let token = world.token(&world.claims());
    let began = Instant::now();
    let reply = world.post(&token, vec![b' '; 10 * 1024 * 1024]).await;
    refused(&world, &reply, 413, "too-large", "larger than 64 KiB");
    // Without a length, in pieces, the limit is found while reading; and only for who may ask at all.
    let pieces = || {
        let piece = |_| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 16 * 1024]));
        reqwest::Body::wrap(http_body_util::StreamBody::new(futures::stream::iter(
            (0..640).map(piece).map(|piece| piece.map(hyper::body::Frame::data)),
        )))
    };
    refused(&world, &world.post(&token, pieces()).await, 413, "too-large", "larger than 64 KiB");
    refused(&world, &world.post("x.y.z", pieces()).await, 401, "token-invalid", "not a signed");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(world.issuer.fetches(), 1, "the one with a length cost not even a look at its token");
}

#[tokio::test]
async fn other_paths_and_methods_say_what_there_is() {
    let world = World::new().await;
    refused(&world, &world.get("x", "/").await, 404, "not-found", "/v1/openapi.json");
    refused(&world, &world.get("x", "/v1/debugsessions/a/b/c").await, 404, "not-found", "/v1/openapi.json");
    let wrong = world.get("x", "/v1/debugsessions").await;
    refused(&world, &wrong, 405, "method-not-allowed", "POST");
    assert_eq!(wrong.headers["allow"], "POST");
    let wrong = send(client().delete(format!("{}/v1/debugsessions/ci/x", world.url))).await;
    refused(&world, &wrong, 405, "method-not-allowed", "GET");
    assert_eq!(wrong.headers["allow"], "GET");
    let document = world.get("x", "/v1/openapi.json").await;
    assert_eq!((document.status, &document.body["openapi"]), (200, &json!("3.1.0")));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_no_flood_of_fetches_and_shuts_its_address_out() {
    let world = World::with(", failuresPer: 24h", ", fetchInterval: 10m").await;
    world.ask(&world.token(&world.claims())).await;
    for number in 0..1000 {
        let token = world.signer.token(&json!({ "alg": "RS256", "kid": format!("k{number}") }), &world.claims());
        let reply = world.ask(&token).await;
        assert_eq!(reply.status, 401, "{number}: {}", reply.body);
        assert!(reply.detail().contains("a key that its issuer does not publish"), "{}", reply.body);
    }
    assert!(world.issuer.fetches() <= 2, "{}", world.issuer.fetches());
    let reply = world.ask(&world.token(&world.claims())).await;
    assert_eq!((reply.status, reply.body["type"].as_str()), (429, Some("https://sandglass.dev/problems/address-limited")));
    assert!(reply.headers["retry-after"].to_str().expect("a text").parse::<u64>().expect("seconds") > 0);
    assert_eq!(world.counted("sandglass_provisioning_refusals_total{reason=\"TokenInvalid\"}"), 1000);
    assert_eq!(world.objects(), 1);
}

#[tokio::test]
async fn a_repository_has_ten_sessions_made_and_asks_again_freely() {
    let world = World::new().await;
    let token = world.token(&world.claims());
    let job = |number: u32| {
        let mut body = request();
        body["job"] = format!("job-{number}").into();
        body.to_string()
    };
    for number in 0..10 {
        assert_eq!(world.post(&token, job(number)).await.status, 201);
    }
    let limited = world.post(&token, job(10)).await;
    assert_eq!((limited.status, limited.body["type"].as_str()), (429, Some("https://sandglass.dev/problems/repository-limited")));
    assert!(limited.headers.contains_key("retry-after") && limited.detail().contains("wait "), "{}", limited.body);
    assert_eq!(world.objects(), 10);
    assert_eq!(world.post(&token, job(3)).await.status, 200, "what is there already is told");
    let other = world.claims_with("repository_id", "7002");
    assert_eq!(world.post(&world.token(&other), job(10)).await.status, 201, "another repository has its own");
}

#[tokio::test]
async fn rotated_keys_are_found_and_the_old_ones_are_not_believed() {
    let world = World::with(", creations: 100", ", fetchInterval: 1s").await;
    assert_eq!(world.ask(&world.token(&world.claims())).await.status, 201);
    let next = Signer::p256();
    world.issuer.publish(vec![next.jwk("two"), json!({ "kty": "oct", "kid": "three", "k": "AAAA" })]);
    let token = next.token(&json!({ "alg": "ES256", "kid": "two" }), &world.claims_with("run_id", "43"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.ask(&token).await.status != 201 {
        assert!(Instant::now() < deadline, "the new key was not found");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let old = world.ask(&world.token(&world.claims_with("run_id", "44"))).await;
    assert_eq!(old.status, 401, "{}", old.body);
    assert!(world.issuer.fetches() <= 14, "{}", world.issuer.fetches());
}

#[tokio::test]
async fn an_issuer_that_is_away_is_done_without_for_a_while() {
    let world = World::with(", creations: 100", ", fetchInterval: 1s, refreshInterval: 1s, staleWindow: 3s").await;
    assert_eq!(world.ask(&world.token(&world.claims())).await.status, 201);
    let fetched = Instant::now();
    world.issuer.become_(Mode::Away);
    let mut last = None;
    loop {
        let reply = world.ask(&world.token(&world.claims())).await;
        match reply.status {
            200 => last = Some(fetched.elapsed()),
            503 => {
                assert!(reply.detail().contains("the keys of the issuer github cannot be had: try again"), "{}", reply.body);
                assert!(reply.headers.contains_key("retry-after"));
                break;
            }
            status => panic!("{status}: {}", reply.body),
        }
        assert!(fetched.elapsed() < Duration::from_secs(15), "keys may not be used for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(last.expect("was used for a while") > Duration::from_millis(1500), "longer than until the refresh: {last:?}");
    assert!(world.issuer.fetches() <= 8, "{}", world.issuer.fetches());
    world.issuer.become_(Mode::Well);
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.ask(&world.token(&world.claims())).await.status != 200 {
        assert!(Instant::now() < deadline, "the issuer is back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_an_issuer_says_wrongly_is_not_believed() {
    let elsewhere = issuer::Issuer::start().await;
    for mode in [Mode::Garbage, Mode::Large, Mode::Impostor, Mode::Empty, Mode::Away, Mode::Elsewhere(format!("{}/keys", elsewhere.url))] {
        let world = World::new().await;
        world.issuer.become_(mode.clone());
        let reply = world.ask(&world.token(&world.claims())).await;
        refused(&world, &reply, 503, "issuer-unavailable", "the keys of the issuer github cannot be had");
        world.ask(&world.token(&world.claims())).await;
        assert_eq!(world.issuer.fetches(), 1, "{mode:?}: not asked again at once");
    }
    assert!(elsewhere.asked.lock().expect("lock").is_empty(), "no redirect is followed");
}

#[tokio::test]
async fn a_slow_issuer_is_asked_once_by_all_and_holds_nobody_up_for_long() {
    let world = World::with(", creations: 100, connectionsPerAddress: 100", "").await;
    world.issuer.become_(Mode::Slow(Duration::from_millis(700)));
    let token = world.token(&world.claims());
    // Those who leave while it is slow do not undo the fetch for the others.
    let left = tokio::time::timeout(Duration::from_millis(200), world.ask(&token)).await;
    assert!(left.is_err());
    let replies = futures::future::join_all((0..30).map(|_| world.ask(&token))).await;
    assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 201)));
    assert_eq!(world.issuer.fetches(), 1);
    let slower = World::new().await;
    slower.issuer.become_(Mode::Slow(Duration::from_mins(1)));
    let began = Instant::now();
    refused(&slower, &slower.ask(&slower.token(&slower.claims())).await, 503, "issuer-unavailable", "try again");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_the_cluster_says_is_told_to_who_can_mend_it() {
    for (code, message, status, says) in [
        (403, "debugsessions.sandglass.dev is forbidden: User cannot create", 503, "bind the ClusterRole sandglass-provision"),
        (404, "namespaces \"ci\" not found", 503, "the namespace ci of the rule for this job is not there"),
        (
            422,
            "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: spec.ttl is too long\nreally",
            422,
            "the cluster refuses the session: spec.ttl is too long really",
        ),
        (500, "etcd", 503, "does not answer as it should"),
    ] {
        let world = World::new().await;
        *world.objects.refusal.lock().expect("lock") = Some((code, message.into()));
        let reply = world.ask(&world.token(&world.claims())).await;
        assert_eq!((reply.status, reply.detail().contains(says)), (status, true), "{}", reply.body);
        assert_eq!(world.objects(), 0);
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_closed_and_one_address_has_a_share_of_the_connections() {
    use tokio::io::AsyncReadExt as _;
    let world = World::with(", connectionsPerAddress: 4", "").await;
    let address = world.url.trim_start_matches("http://").to_owned();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(tokio::net::TcpStream::connect(&address).await.expect("connects"));
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while world.counted("sandglass_provisioning_connections") < 4 {
        assert!(Instant::now() < deadline, "four connections are held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut fifth = tokio::net::TcpStream::connect(&address).await.expect("connects");
    let mut byte = [0];
    let closed = tokio::time::timeout(Duration::from_secs(5), fifth.read(&mut byte)).await.expect("closed at once");
    assert!(matches!(closed, Ok(0) | Err(_)));
    let silent = tokio::time::timeout(Duration::from_secs(20), held[0].read_to_end(&mut Vec::new())).await;
    assert!(silent.is_ok(), "a silent connection is closed");
}

#[tokio::test]
async fn the_door_speaks_tls_itself_and_takes_a_new_certificate() {
    let world = World::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let write = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&certificate, made.cert.pem()).expect("writes");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("reads")
    };
    let first = write();
    let (port, tls) = world.serve_tls(certificate.clone(), key.clone()).await;
    let document = |authority: reqwest::Certificate| async move {
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build().expect("a client");
        client.get(format!("https://localhost:{port}/v1/openapi.json")).send().await.map(|answer| answer.status().as_u16())
    };
    assert_eq!(document(first.clone()).await.expect("an answer"), 200);
    let second = write();
    assert!(document(second.clone()).await.is_err());
    tls.reload().expect("reads");
    assert_eq!(document(second).await.expect("an answer"), 200);
    assert!(document(first).await.is_err());
    std::fs::write(&key, "nonsense").expect("writes");
    assert!(tls.reload().is_err(), "and the one before stays in use");
}
