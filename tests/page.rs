//! The web page over HTTP, and in a real headless Chromium: what people see, and what a browser may do with it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "../e2e/page/browser.rs"]
mod browser;

use browser::{Browser, Log};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sandglass::page::{
    ChannelRow, Filter, Page, RecordingDetail, RecordingKey, RecordingRow, RecordingState, SessionRow, Settings, Source, SourceError,
    Verdict, Verification, has_player,
};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

const KEY: [&str; 5] = ["2026-11-25", "ci", "build-42", "0a1b2c3d", "c-1"];
const HOSTILE: &str = "<script>document.title='owned'</script>\"'><img src=x onerror=document.title='owned'>";

/// Sessions that the test can change, one recording, and a list of who opened it.
#[derive(Clone)]
struct Fixture {
    sessions: Arc<Mutex<Vec<SessionRow>>>,
    opened: Arc<Mutex<Vec<String>>>,
}

fn session(name: &str, phase: &str, expires_at: DateTime<Utc>) -> SessionRow {
    SessionRow {
        namespace: "ci".into(),
        name: name.into(),
        phase: phase.into(),
        requester: "octocat".into(),
        project: "frontend".into(),
        expires_at: Some(expires_at),
        command: Some(format!("ssh -p 2222 ci.{name}@debug.example.com")),
        connections: 1,
        ..SessionRow::default()
    }
}

fn sessions() -> Vec<SessionRow> {
    let now = Utc::now();
    let ended = now - TimeDelta::minutes(7);
    vec![
        session("build-42", "Open", now + TimeDelta::seconds(779)),
        SessionRow { requester: HOSTILE.into(), command: Some(HOSTILE.into()), ..session(HOSTILE, "Open", now + TimeDelta::seconds(4000)) },
        SessionRow { ended_at: Some(ended), end_reason: Some("Expired".into()), ..session("build-41", "Ended", ended) },
    ]
}

fn row() -> RecordingRow {
    RecordingRow {
        key: RecordingKey::new(KEY).expect("plain"),
        requester: "octocat".into(),
        fingerprint: "SHA256:uNiVztksCsDhcc0u9e8BrZXg7KVa2ZxbZuHBHTkGmhY".into(),
        started_at: Utc::now() - TimeDelta::minutes(9),
        ended_at: Some(Utc::now() - TimeDelta::minutes(7)),
        state: RecordingState::Complete,
        commit: Some("0a1b2c3".into()),
        pull_request: Some(HOSTILE.into()),
    }
}

/// As a shell looks: colours, bold, a resize, a title with markup in it, other alphabets.
const CAST: &str = concat!(
    "{\"version\":2,\"width\":80,\"height\":24,\"timestamp\":1764032400,\"title\":\"<img src=x onerror=document.title='owned'>\"}\n",
    "[0.1,\"o\",\"\\u001b[1;32mroot@build-42\\u001b[0m:\\u001b[34m/workspace\\u001b[0m# make test\\r\\n\"]\n",
    "[0.2,\"o\",\"\\u001b[38;2;255;100;0;48;5;17mtwo hundred tests\\u001b[0m \\u001b[4mrun\\u001b[0m ┌──┐ größe 日本 🙂\\r\\n\"]\n",
    "[0.3,\"o\",\"<script>document.title='owned'</script>\\r\\n\"]\n",
    "[0.4,\"r\",\"100x30\"]\n",
    "[0.5,\"m\",\"a warning\"]\n",
    "[0.6,\"o\",\"the last line of it\\r\\n\"]\n",
);

impl Source for Fixture {
    fn sessions(&self) -> Vec<SessionRow> {
        self.sessions.lock().expect("not poisoned").clone()
    }

    async fn recordings(&self, filter: &Filter) -> Result<Vec<RecordingRow>, SourceError> {
        let matches = filter.name.as_deref().is_none_or(|name| name == "build-42");
        Ok(if matches { vec![row()] } else { vec![] })
    }

    async fn recording(&self, key: &RecordingKey) -> Result<RecordingDetail, SourceError> {
        if key.components() != &KEY {
            return Err(SourceError::Missing);
        }
        let channel = |number, kind: &str, command: Option<&str>, playable| ChannelRow {
            number,
            kind: kind.into(),
            command: command.map(str::to_owned),
            exit: Some("0".into()),
            playable,
        };
        Ok(RecordingDetail {
            row: row(),
            remote_address: Some("192.0.2.7:51234".into()),
            certificate: None,
            end_reason: Some("the user left".into()),
            verification: Verification { verdict: Verdict::Intact, text: "7 chunks, signed by gateway-0.".into() },
            channels: vec![channel(0, "Shell", None, true), channel(1, "Sftp", Some(HOSTILE), false)],
            audit: format!("{}\n", json!({"time": "2026-11-25T01:02:03Z", "event": "sftp", "channel": 1, "path": HOSTILE, "bytesRead": 7})),
        })
    }

    async fn cast(&self, key: &RecordingKey, channel: u32) -> Result<Bytes, SourceError> {
        if key.components() == &KEY && channel == 0 { Ok(Bytes::from_static(CAST.as_bytes())) } else { Err(SourceError::Missing) }
    }

    async fn opened(&self, who: &str, key: &RecordingKey) -> Result<(), SourceError> {
        self.opened.lock().expect("not poisoned").push(format!("{who} {key}"));
        Ok(())
    }
}

/// A server with the page on loopback; its proxy is 127.0.0.1.
struct Server {
    fixture: Fixture,
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let fixture = Fixture { sessions: Arc::new(Mutex::new(sessions())), opened: Arc::default() };
        let settings = Settings { identity_header: "X-Forwarded-User".into(), proxies: vec!["127.0.0.1/32".parse().expect("a network")] };
        let page = Arc::new(Page::new(settings, fixture.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let page = Arc::clone(&page);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let page = Arc::clone(&page);
                    async move {
                        let uri = request.uri();
                        Ok::<_, Infallible>(page.answer(peer.ip(), request.method(), uri.path(), uri.query(), request.headers()).await)
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { fixture, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn recording(&self) -> String {
        self.url(&format!("/recordings/{}", KEY.join("/")))
    }

    fn opened(&self) -> Vec<String> {
        self.fixture.opened.lock().expect("not poisoned").clone()
    }

    /// The raw answer to a raw request, sent from another address of this machine.
    async fn raw(&self, from: &str, request: &str) -> String {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{from}:0").parse().expect("an address")).expect("binds");
        let mut stream = socket.connect(self.address).await.expect("connects");
        stream.write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("in time").expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn browser(javascript: bool) -> Browser {
    Browser::start(javascript, &json!({"X-Forwarded-User": "alice"})).await
}

/// Nothing was refused, nothing failed, nothing went elsewhere.
fn assert_clean(server: &Server, log: &Log) {
    assert!(log.console.is_empty(), "{}", log.console.join("\n"));
    assert!(!log.requests.is_empty(), "the log of requests is kept");
    // The browser's own controls have pictures in data: addresses, which no network sees and the page may not use.
    let outside: Vec<_> =
        log.requests.iter().filter(|address| !address.starts_with(&server.url("/")) && !address.starts_with("data:")).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

/// The markup of the fixtures is text: nothing of it became an element or ran.
async fn assert_text_only(browser: &Browser) {
    let injected =
        browser.run("return document.querySelectorAll('img, script:not([src]), [onerror]').length + (document.title === 'owned')").await;
    assert_eq!(injected, json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_needs_no_javascript() {
    let server = Server::start().await;
    let browser = browser(false).await;
    browser.open(&server.url("/")).await;
    let text = browser.text().await;
    for expected in
        ["ci/build-42", "Open", "12 min ", "octocat", "ssh -p 2222 ci.build-42@debug.example.com", "ci/build-41", "Expired", HOSTILE]
    {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    // That scripts are off shows in what the browser made of <noscript>: elements, not text. The page loads itself again.
    assert_eq!(browser.run("return document.querySelector('noscript > meta[http-equiv=refresh]').content").await, "10");
    let shown = browser.run("return document.querySelector('[role=timer]').textContent").await;
    server.fixture.sessions.lock().expect("not poisoned").retain(|row| row.name == "build-42");
    let after =
        browser.wait("return !document.body.innerText.includes('build-41') && document.querySelector('[role=timer]').textContent").await;
    assert_ne!(after, shown);

    browser.open(&server.url("/recordings")).await;
    browser.run("document.querySelector('[name=name]').focus()").await;
    browser.press(&["n", "o", "n", "e", ENTER]).await;
    let query = browser.wait("return location.search").await;
    assert!(query.as_str().expect("a query").contains("&name=none&"), "{query}");
    browser.wait("return document.body.innerText.includes('No recording matches.')").await;
    assert_clean(&server, &browser.log().await);
}

const ENTER: &str = "\u{e007}";
const TAB: &str = "\u{e004}";

#[tokio::test(flavor = "multi_thread")]
async fn the_list_counts_down_and_stays_current() {
    let server = Server::start().await;
    let browser = browser(true).await;
    browser.open(&server.url("/")).await;
    let left = "const left = [...document.querySelectorAll('[role=timer]')].map((timer) => timer.textContent);";
    let first = browser.run(&format!("{left} return left")).await;
    assert!(
        first[0].as_str().expect("text").starts_with("12 min ") && first[1].as_str().expect("text").starts_with("1 h 06 min "),
        "{first}"
    );
    assert_clean(&server, &browser.log().await);
    // Without a network: this is the script's own counting.
    let network = |offline: bool| json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    browser.devtools("Network.emulateNetworkConditions", network(true)).await;
    let mut shown = browser.run(&format!("{left} return left")).await;
    for _ in 0..3 {
        let next = browser.wait(&format!("{left} return left[0] !== '{}' && left", shown[0].as_str().expect("text"))).await;
        let seconds = |value: &Value| value[0].as_str()?.rsplit(' ').nth(1)?.parse::<i64>().ok();
        let step = (seconds(&shown).expect("seconds") - seconds(&next).expect("seconds")).rem_euclid(60);
        assert!((1..=10).contains(&step), "{shown} {next}");
        shown = next;
    }
    browser.devtools("Network.emulateNetworkConditions", network(false)).await;
    browser.wait("return document.getElementById('news').textContent === ''").await;
    browser.log().await;
    assert_text_only(&browser).await;

    // The keyboard's place is kept while the list changes under it.
    browser.press(&[TAB, TAB, TAB, TAB]).await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "ci/build-42");
    let arrived = session("build-43", "Starting", Utc::now() + TimeDelta::seconds(30));
    server.fixture.sessions.lock().expect("not poisoned").push(arrived);
    browser.wait("return document.body.innerText.includes('ci/build-43')").await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "ci/build-42");
    browser.wait("return document.querySelector('[role=timer].last')?.textContent.endsWith(' s')").await;
    assert_eq!(browser.run("return document.getElementById('news').textContent").await, "");
    assert_text_only(&browser).await;
    assert_clean(&server, &browser.log().await);
    assert!(server.opened().is_empty(), "a list opens no recording");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_no_longer_current_says_so() {
    let server = Server::start().await;
    let browser = browser(true).await;
    browser.open(&server.url("/")).await;
    browser.devtools("Network.setExtraHTTPHeaders", json!({"headers": {}})).await;
    browser.wait("return document.getElementById('news').textContent.startsWith('The list is not current')").await;
    browser.devtools("Network.setExtraHTTPHeaders", json!({"headers": {"X-Forwarded-User": "alice"}})).await;
    browser.wait("return document.getElementById('news').textContent === ''").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_plays_and_nothing_else_runs() {
    assert!(has_player(), "this build has no player: set SANDGLASS_PLAYER to the folder that e2e/page/assets prints, and build again");
    let server = Server::start().await;
    let browser = browser(true).await;
    browser.open(&server.url("/recordings?name=build-42")).await;
    browser.run("document.querySelector('tbody a').click()").await;
    browser.wait("return document.querySelector('.ap-player')").await;
    let page = browser.text().await;
    for expected in ["Verified. 7 chunks, signed by gateway-0.", "192.0.2.7:51234", "the user left", "Sftp", "bytesRead 7", HOSTILE] {
        assert!(page.contains(expected), "{expected} in {page}");
    }
    assert!(!page.contains("the last line of it"), "{page}");
    browser.run("document.querySelector('.ap-playback-button').focus()").await;
    browser.press(&[" "]).await;
    browser.wait("return document.querySelector('.ap-term').innerText.includes('the last line of it')").await;
    let played = browser.run("return document.querySelector('.ap-term-text').textContent").await;
    for expected in
        ["root@build-42:/workspace# make test", "two hundred tests run ┌──┐ größe 日", "<script>document.title='owned'</script>"]
    {
        assert!(played.as_str().expect("text").contains(expected), "{expected} in {played}");
    }
    let size = browser
        .run("const {width, height} = document.querySelector('.ap-term').getBoundingClientRect(); return width > 300 && height > 100")
        .await;
    assert_eq!(size, json!(true), "the player's own styles work");
    assert_text_only(&browser).await;
    assert_clean(&server, &browser.log().await);
    let opened = server.opened();
    assert!(opened.len() >= 2 && opened.iter().all(|line| *line == format!("alice {}", KEY.join("/"))), "page and file: {opened:?}");
}

/// What the other tests rely on: the policy holds, and what it refuses is seen in the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_refuses_and_the_log_tells() {
    let server = Server::start().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = format!("http://{}/", elsewhere.local_addr().expect("bound"));
    let browser = browser(true).await;
    for page in [server.url("/"), server.recording()] {
        browser.open(&page).await;
        assert_clean(&server, &browser.log().await);
        let add = |kind: &str, set: &str| format!("const e = document.createElement('{kind}'); {set}; document.body.append(e)");
        for (attempt, directive) in [
            (add("script", "try { e.textContent = 'document.title = 1' } catch {}"), "script"),
            (add("script", &format!("try {{ e.src = '{address}x.js' }} catch {{}}")), "script"),
            ("try { setTimeout(\"document.title = 'owned'\", 0) } catch {}".to_owned(), "script"),
            (add("style", "e.textContent = 'body { color: red }'"), "style-src"),
            (add("b", "e.setAttribute('style', 'color: red')"), "style-src"),
            (add("img", &format!("e.src = '{address}x.png'")), "img-src"),
            (add("img", "e.src = 'data:image/gif;base64,R0lGODlhAQABAAAAACw='"), "img-src"),
            (add("iframe", &format!("e.src = '{address}'")), "default-src"),
            (format!("fetch('{address}').catch(() => {{}})"), "connect-src"),
            (add("form", &format!("e.action = '{address}'; document.body.append(e); e.submit()")), "form-action"),
            (add("base", &format!("e.href = '{address}'")), "base-uri"),
        ] {
            browser.run(&attempt).await;
            let heard = timeout(Duration::from_secs(10), async {
                loop {
                    let console = browser.log().await.console.join("\n").to_ascii_lowercase();
                    if console.contains("content security policy") || console.contains("trustedscript") {
                        return console;
                    }
                }
            });
            let console = heard.await.unwrap_or_else(|_| panic!("{page} lets pass: {attempt}"));
            assert!(console.contains(directive) || console.contains("trusted"), "{attempt}: {console}");
        }
        assert_ne!(browser.run("return document.title").await, "owned");
    }
    // Chromium connects ahead of navigations that it then refuses. No request comes that way.
    while let Ok(Ok((mut stream, _))) = timeout(Duration::from_millis(200), elsewhere.accept()).await {
        let mut sent = [0; 64];
        let length = timeout(Duration::from_millis(200), stream.read(&mut sent)).await.map_or(0, |read| read.unwrap_or(0));
        assert_eq!(length, 0, "the other server was asked: {}", String::from_utf8_lossy(&sent));
    }
}

#[tokio::test]
async fn only_the_proxy_is_served() {
    let server = Server::start().await;
    let file = format!("/recordings/{}/channel-0.cast", KEY.join("/"));
    let page = file.trim_end_matches("/channel-0.cast");
    for path in ["/", "/sessions", "/recordings", page, &file, "/assets/page.css", "/none"] {
        for (from, headers, why) in [
            ("127.0.0.2", "\r\nX-Forwarded-User: alice", "127.0.0.2 is not an address of the configured proxies"),
            (
                "127.0.0.2",
                "\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\nX-Forwarded-User: alice",
                "127.0.0.2 is not",
            ),
            ("127.0.0.1", "", "the proxy sent no X-Forwarded-User header"),
            ("127.0.0.1", "\r\nX-Forwarded-User: alice\r\nx-forwarded-user: mallory", "there is more than one X-Forwarded-User header"),
            ("127.0.0.1", "\r\nX-Forwarded-User: mallory, alice", "is not one name"),
            ("127.0.0.1", "\r\nX-Forwarded-User:  ", "is not one name"),
            ("127.0.0.1", "\r\nX_Forwarded_User: alice\r\nRemote-User: alice", "the proxy sent no X-Forwarded-User header"),
        ] {
            let answer = server.raw(from, &format!("GET {path} HTTP/1.1{headers}")).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
            assert!(head.starts_with("HTTP/1.1 403 ") && body.contains(why) && body.lines().count() == 1, "{path} {headers:?}: {answer}");
        }
    }
    assert!(server.opened().is_empty());
    let whole = server.raw("127.0.0.1", &format!("GET {file} HTTP/1.1\r\nX-Forwarded-User: alice")).await;
    assert!(whole.starts_with("HTTP/1.1 200 ") && whole.contains("the last line of it"), "{whole}");
    let head = server.raw("127.0.0.1", &format!("HEAD {file} HTTP/1.1\r\nX-Forwarded-User: alice")).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(server.opened(), vec![format!("alice {}", KEY.join("/")); 2]);
}

#[tokio::test]
async fn no_path_leads_out() {
    let server = Server::start().await;
    for path in [
        "/../../etc/passwd",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e/page.css",
        "/recordings/../../../../etc/passwd/x",
        "/recordings/2026-11-25/ci/build-42/../c-1",
        "/recordings/2026-11-25/ci/build-42/%2e%2e/c-1",
        "/recordings/2026-11-25/ci/build-42/..%2f0a1b2c3d/c-1",
        "/recordings/2026-11-25/ci/build-42/0a1b2c3d/c-1/../manifest.json",
        "/recordings/2026-11-25/ci/build-42/0a1b2c3d/c-1/channel-0.cast/..",
        "/recordings/2026-11-25/ci/build-42/0a1b2c3d/c-1%00",
        "//recordings",
    ] {
        let answer = server.raw("127.0.0.1", &format!("GET {path} HTTP/1.1\r\nX-Forwarded-User: alice")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    assert!(server.opened().is_empty(), "none of them is a recording");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let answer = server.raw("127.0.0.1", &format!("{method} / HTTP/1.1\r\nX-Forwarded-User: alice")).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.to_ascii_lowercase().contains("\r\nallow: get, head\r\n"),
            "{method}: {answer}"
        );
    }
}
