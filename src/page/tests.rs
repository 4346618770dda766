//! Routing, headers, audit and failures of the whole page over a source of fixtures.

use super::*;
use chrono::{DateTime, NaiveDate};
use http_body_util::BodyExt as _;
use std::sync::Mutex;

/// One recording, one session; keeps what it was asked for, in order.
#[derive(Default)]
struct Fixture {
    asked: Mutex<Vec<String>>,
    no_audit: bool,
    broken: bool,
}

impl Fixture {
    fn note(&self, what: String) -> Result<(), SourceError> {
        self.asked.lock().expect("not poisoned").push(what);
        if self.broken { Err(SourceError::Unavailable("bucket <gone>".into())) } else { Ok(()) }
    }
}

fn row() -> RecordingRow {
    RecordingRow {
        key: RecordingKey::new(["2026-11-25", "ci", "build-42", "u-1", "c-1"]).expect("plain"),
        requester: "octocat".into(),
        fingerprint: "SHA256:abc".into(),
        started_at: DateTime::UNIX_EPOCH,
        ended_at: None,
        state: RecordingState::Running,
        commit: None,
        pull_request: None,
    }
}

impl Source for Fixture {
    fn sessions(&self) -> Vec<SessionRow> {
        vec![SessionRow { namespace: "ci".into(), name: "build-42".into(), phase: "Open".into(), ..SessionRow::default() }]
    }

    async fn recordings(&self, filter: &Filter) -> Result<Vec<RecordingRow>, SourceError> {
        self.note(format!("list {filter:?}"))?;
        Ok(vec![row()])
    }

    async fn recording(&self, key: &RecordingKey) -> Result<RecordingDetail, SourceError> {
        self.note(format!("read {key}"))?;
        if key.connection() != "c-1" {
            return Err(SourceError::Missing);
        }
        let channel = ChannelRow { number: 0, kind: "Shell".into(), command: None, exit: None, playable: true };
        Ok(RecordingDetail {
            row: row(),
            remote_address: None,
            certificate: None,
            end_reason: None,
            verification: Verification { verdict: Verdict::NotSealed, text: "It is being written.".into() },
            channels: vec![channel],
            audit: String::new(),
        })
    }

    async fn cast(&self, key: &RecordingKey, channel: u32) -> Result<Bytes, SourceError> {
        self.note(format!("cast {key} {channel}"))?;
        if channel == 0 { Ok(Bytes::from_static(b"{\"version\":2}\n")) } else { Err(SourceError::Missing) }
    }

    async fn opened(&self, who: &str, key: &RecordingKey) -> Result<(), SourceError> {
        self.asked.lock().expect("not poisoned").push(format!("opened by {who}: {key}"));
        if self.no_audit { Err(SourceError::Unavailable("the store is full".into())) } else { Ok(()) }
    }
}

const PROXY: &str = "10.0.0.7";
const KEY: &str = "2026-11-25/ci/build-42/u-1/c-1";

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: String,
    asked: Vec<String>,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

async fn ask(source: Fixture, method: Method, peer: &str, target: &str, extra: &[(&'static str, &str)]) -> Answered {
    let settings = Settings { identity_header: "X-Forwarded-User".into(), proxies: vec!["10.0.0.0/24".parse().expect("a network")] };
    let page = Page::new(settings, source);
    let mut headers = HeaderMap::new();
    for (name, value) in extra {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let response = page.answer(peer.parse().expect("an address"), &method, path, query, &headers).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("whole").to_bytes();
    let asked = page.source.asked.lock().expect("not poisoned").clone();
    Answered { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned(), asked }
}

async fn get(source: Fixture, target: &str) -> Answered {
    ask(source, Method::GET, PROXY, target, &[("x-forwarded-user", "alice")]).await
}

#[tokio::test]
async fn each_kind_of_page_is_answered() {
    for (target, expected) in [
        ("/", "<h1>Sessions</h1>"),
        ("/sessions", "<div id=\"sessions\""),
        ("/recordings?name=build-42", "<h1>Recordings</h1>"),
        ("/recordings/2026-11-25/ci/build-42/u-1/c-1", "<h1>Recording of ci/build-42</h1>"),
        ("/recordings/2026-11-25/ci/build-42/u-1/c-1?channel=0", "Channel 0"),
        ("/recordings/2026-11-25/ci/build-42/u-1/c-1/channel-0.cast", "{\"version\":2}"),
        ("/assets/page.css", "prefers-color-scheme"),
        ("/assets/page.js", "use strict"),
        ("/assets/icon.svg", "<svg"),
    ] {
        let answered = get(Fixture::default(), target).await;
        assert!(answered.status == 200 && answered.body.contains(expected), "{target}: {} {}", answered.status, answered.body);
    }
    let whole = get(Fixture::default(), "/").await;
    assert!(whole.body.contains("Signed in as <b>alice</b>"), "{}", whole.body);
    assert!(whole.body.contains("<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>"), "{}", whole.body);
}

#[tokio::test]
async fn every_response_has_the_headers() {
    for target in [
        "/",
        "/sessions",
        "/recordings",
        &format!("/recordings/{KEY}"),
        &format!("/recordings/{KEY}/channel-0.cast"),
        "/assets/page.js",
        "/x",
    ] {
        for (method, peer) in [(Method::GET, PROXY), (Method::HEAD, PROXY), (Method::POST, PROXY), (Method::GET, "192.0.2.1")] {
            let answered = ask(Fixture::default(), method, peer, target, &[("x-forwarded-user", "alice")]).await;
            let policy = answered.header("content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'; ")
                    && policy.contains("base-uri 'none'")
                    && policy.contains("frame-ancestors 'none'"),
                "{policy}"
            );
            assert!(
                !policy.contains("unsafe-inline")
                    && !policy.contains("'unsafe-eval'")
                    && !policy.contains("data:")
                    && !policy.contains('*'),
                "{policy}"
            );
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
                ("cross-origin-embedder-policy", "require-corp"),
            ] {
                assert_eq!(answered.header(name), value, "{target}");
            }
            assert!(answered.headers.get("set-cookie").is_none());
            let kept = target.starts_with("/assets/") && answered.status == 200;
            assert_eq!(answered.header("cache-control"), if kept { "private, no-cache" } else { "no-store" }, "{target}");
        }
    }
}

#[tokio::test]
async fn only_the_page_with_the_player_may_compile_anything() {
    let list = get(Fixture::default(), "/recordings").await;
    assert!(
        !list.header("content-security-policy").contains("wasm") && list.header("content-security-policy").contains("trusted-types 'none'")
    );
    let detail = get(Fixture::default(), &format!("/recordings/{KEY}")).await;
    assert_eq!(detail.header("content-security-policy").contains("'wasm-unsafe-eval'"), has_player());
    assert_eq!(detail.body.contains("This build has no player"), !has_player());
    let file = get(Fixture::default(), &format!("/recordings/{KEY}/channel-0.cast")).await;
    assert!(file.header("content-security-policy").ends_with("sandbox"));
    assert_eq!(file.header("content-type"), "application/x-asciicast");
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"ci-build-42-c-1-0.cast\"");
}

#[tokio::test]
async fn strangers_are_told_why_and_the_source_is_not_asked() {
    for (peer, headers, why) in [
        ("192.0.2.1", vec![("x-forwarded-user", "alice")], "192.0.2.1 is not an address of the configured proxies"),
        (PROXY, vec![], "sent no X-Forwarded-User header"),
        (PROXY, vec![("x-forwarded-user", "mallory"), ("x-forwarded-user", "alice")], "more than one X-Forwarded-User header"),
        (PROXY, vec![("x-forwarded-user", "mallory, alice")], "is not one name"),
        (PROXY, vec![("x-forwarded-user", "")], "is not one name"),
        (PROXY, vec![("forwarded", "for=10.0.0.7"), ("x_forwarded_user", "alice")], "sent no X-Forwarded-User header"),
        ("192.0.2.1", vec![("x-forwarded-for", PROXY), ("x-forwarded-user", "alice")], "192.0.2.1 is not"),
    ] {
        for target in ["/", "/assets/page.css", "/nothing", &format!("/recordings/{KEY}"), &format!("/recordings/{KEY}/channel-0.cast")] {
            let answered = ask(Fixture::default(), Method::GET, peer, target, &headers).await;
            assert!(answered.status == 403 && answered.body.contains(why), "{target}: {} {}", answered.status, answered.body);
            assert_eq!((answered.body.lines().count(), answered.asked.len()), (1, 0), "{}", answered.body);
        }
    }
}

#[tokio::test]
async fn nothing_is_read_before_it_is_audited() {
    let page = format!("/recordings/{KEY}");
    let file = format!("/recordings/{KEY}/channel-0.cast");
    let (opened, read, cast) = (format!("opened by alice: {KEY}"), format!("read {KEY}"), format!("cast {KEY} 0"));
    for method in [Method::GET, Method::HEAD] {
        for (target, next) in [(&page, &read), (&file, &cast)] {
            let extra = [("x-forwarded-user", "alice")];
            let answered = ask(Fixture::default(), method.clone(), PROXY, target, &extra).await;
            assert_eq!(answered.asked, [opened.clone(), next.clone()]);
            let refused = ask(Fixture { no_audit: true, ..Fixture::default() }, method.clone(), PROXY, target, &extra).await;
            assert_eq!((refused.status, refused.asked), (503, vec![opened.clone()]));
            assert!(refused.body.contains("the store is full") && !refused.body.contains("version"), "{}", refused.body);
        }
    }
}

#[tokio::test]
async fn failures_are_told_as_text() {
    for target in ["/recordings".to_owned(), format!("/recordings/{KEY}"), format!("/recordings/{KEY}/channel-0.cast")] {
        let answered = get(Fixture { broken: true, ..Fixture::default() }, &target).await;
        assert!(answered.status == 503 && answered.body.contains("bucket &lt;gone&gt;"), "{target}: {} {}", answered.status, answered.body);
    }
    for (target, why) in [
        ("/recordings?day=yesterday", "the day is not of the form"),
        ("/recordings?name=a&name=b", "name is given twice"),
        ("/recordings?name=%ff", "not percent-encoded UTF-8"),
        (&format!("/recordings/{KEY}?channel=x"), "the channel is not a number"),
    ] {
        let answered = get(Fixture::default(), target).await;
        assert!(answered.status == 400 && answered.body.contains(why) && answered.asked.is_empty(), "{target}: {}", answered.body);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    for target in [
        "/index.html",
        "/assets/",
        "/assets/../mod.rs",
        "/assets/page.css/",
        "/recordings/2026-11-25/ci/build-42/u-1/c-2",
        "/recordings/2026-11-25/ci/build-42/u-1",
        "/recordings/2026-11-25/ci/build-42/u-1/c-1?channel=7",
        "/recordings/2026-11-25/ci/build-42/u-1/c-1/channel-9.cast",
        "/recordings/2026-11-25/ci/build-42/u-1/../manifest.json",
        "/recordings/..%2f..%2f/ci/build-42/u-1/c-1",
    ] {
        let answered = get(Fixture::default(), target).await;
        assert!(
            answered.status == 404 && answered.body.contains("There is nothing here"),
            "{target}: {} {}",
            answered.status,
            answered.body
        );
    }
    let posted = ask(Fixture::default(), Method::POST, PROXY, "/recordings", &[("x-forwarded-user", "alice")]).await;
    assert_eq!((posted.status, posted.header("allow"), posted.asked.len()), (405, "GET, HEAD", 0));
}

#[tokio::test]
async fn the_filter_reaches_the_source() {
    let answered = get(Fixture::default(), "/recordings?actor=zo%C3%AB&day=2026-11-25").await;
    let filter = Filter { actor: Some("zoë".into()), day: NaiveDate::from_ymd_opt(2026, 11, 25), ..Filter::default() };
    assert_eq!(answered.asked, [format!("list {filter:?}")]);
}

#[tokio::test]
async fn files_are_kept_for_as_long_as_they_are_the_same() {
    let list = get(Fixture::default(), "/").await;
    let start = list.body.find("/assets/page.css?").expect("linked");
    let address = list.body[start..].split('"').next().expect("an end");
    let first = get(Fixture::default(), address).await;
    assert_eq!((first.status, first.header("cache-control")), (200, "private, max-age=31536000, immutable"));
    assert_eq!(first.header("content-type"), "text/css; charset=utf-8");
    let tag = first.header("etag");
    assert!(address.ends_with(tag.trim_matches('"')) && tag.len() == 18, "{address} {tag}");
    for known in [tag.to_owned(), format!("\"x\", W/{tag}")] {
        let again = ask(Fixture::default(), Method::GET, PROXY, address, &[("x-forwarded-user", "alice"), ("if-none-match", &known)]).await;
        assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", tag));
    }
    let other = ask(Fixture::default(), Method::GET, PROXY, address, &[("x-forwarded-user", "alice"), ("if-none-match", "\"x\"")]).await;
    assert_eq!(other.status, 200);
    let old = get(Fixture::default(), "/assets/page.css?0000").await;
    assert_eq!((old.status, old.header("cache-control")), (200, "private, no-cache"));
}
