//! A real headless Chromium, driven through `ChromeDriver`'s HTTP interface (W3C `WebDriver`): for tests/page.rs.

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longest that any one thing may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One browser with an empty profile of its own. Ends with the value.
pub struct Browser {
    port: u16,
    session: String,
    _driver: Child,
    /// Profile, sockets, crash reports: all that the two write.
    _folder: TempDir,
}

/// What the browser wrote while pages were open.
pub struct Log {
    /// Lines of the console, with what the browser itself says there: refused loads, errors of scripts.
    pub console: Vec<String>,
    /// Addresses that were asked for, or would have been if the policy had let them.
    pub requests: Vec<String>,
}

impl Browser {
    /// Starts a browser. Each request of it carries `headers`, as if a proxy had added them.
    pub async fn start(javascript: bool, headers: &Value) -> Self {
        let folder = TempDir::with_prefix("sandglass-browser-").expect("a folder");
        let (driver, port) = driver(folder.path()).await;
        let mut browser = Self { port, session: String::new(), _driver: driver, _folder: folder };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,900",
        ];
        let scripts = if javascript { 1 } else { 2 };
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments, "prefs": {"profile.managed_default_content_settings.javascript": scripts}},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let opened = browser.call("POST", "", &wanted).await;
        browser.session = format!("/{}", opened["sessionId"].as_str().expect("a session"));
        browser.devtools("Network.enable", json!({})).await;
        browser.devtools("Network.setExtraHTTPHeaders", json!({"headers": headers})).await;
        browser
    }

    /// Opens a page and waits for its load event.
    pub async fn open(&self, address: &str) {
        self.call("POST", "/url", &json!({"url": address})).await;
    }

    /// Runs a function body in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Waits until a function body returns something that is neither false nor nothing, and returns it.
    pub async fn wait(&self, script: &str) -> Value {
        let looking = async {
            loop {
                let value = self.run(script).await;
                if !matches!(value, Value::Null | Value::Bool(false)) && value != "" {
                    return value;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        if let Ok(value) = timeout(PATIENCE, looking).await {
            return value;
        }
        panic!("never came true: {script}\n{}\n{}", self.log().await.console.join("\n"), self.text().await)
    }

    /// The text of the page as it is seen.
    pub async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Presses keys, as a person would on the keyboard.
    pub async fn press(&self, keys: &[&str]) {
        let each = |key: &&str| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let actions: Vec<_> = keys.iter().flat_map(each).collect();
        self.call("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
    }

    /// A command of the browser's own protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await
    }

    /// What was logged since the last call.
    pub async fn log(&self) -> Log {
        let console = self.call("POST", "/se/log", &json!({"type": "browser"})).await;
        let network = self.call("POST", "/se/log", &json!({"type": "performance"})).await;
        let entries = |log: Value| log.as_array().cloned().unwrap_or_default();
        let request = |entry: Value| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let asked = event["message"]["method"] == "Network.requestWillBeSent";
            asked.then(|| event["message"]["params"]["request"]["url"].as_str().unwrap_or("?").to_owned())
        };
        Log {
            console: entries(console).into_iter().map(|entry| entry["message"].as_str().unwrap_or("?").to_owned()).collect(),
            requests: entries(network).into_iter().filter_map(request).collect(),
        }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let place = format!("/session{}{path}", self.session);
        let answer = timeout(PATIENCE, request(self.port, method, &place, body))
            .await
            .unwrap_or_else(|_| panic!("chromedriver does not answer {path}"));
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "chromedriver refuses {method} {path} {body}: {}", value["message"]);
        value
    }
}

impl Drop for Browser {
    /// The driver ends the browser and removes its profile; killed, it would leave both. Blocking, since a failed test drops too.
    fn drop(&mut self) {
        let request = format!("DELETE /session{} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", self.session);
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut [0; 64]));
        }
    }
}

/// Starts a driver on a port that it chooses, and waits until it says which.
async fn driver(folder: &Path) -> (Child, u16) {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").env("TMPDIR", folder).env("HOME", folder).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut driver = command.spawn().unwrap_or_else(|error| {
        panic!("chromedriver cannot be started ({error}): install Debian's packages chromium and chromium-driver");
    });
    let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
    let listening = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return port.trim_end_matches('.').parse().ok();
            }
        }
        None
    };
    let port = timeout(PATIENCE, listening).await.ok().flatten().expect("chromedriver says on which port it listens");
    // Read on, so that the driver never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (driver, port)
}

async fn request(port: u16, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("chromedriver listens");
    stream.write_all((head + &body).as_bytes()).await.expect("chromedriver reads");
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).await.expect("chromedriver answers") > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer).await.expect("the whole answer");
    serde_json::from_slice(&answer).expect("chromedriver answers in JSON")
}
