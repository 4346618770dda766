//! The door outside the cluster: asks the provisioning service, with the CI's own OIDC token.

use reqwest::header::{ACCEPT, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::Open;
use super::order::Order;
use super::report::{Answer, Report};

/// One request.
const CALL: Duration = Duration::from_secs(15);
/// Answers are small; a larger one is none of the service's.
const LARGEST: usize = 256 * 1024;
/// Where the service does not say how long to wait.
const PAUSE: Duration = Duration::from_secs(2);

/// Why the service made none.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address.
    #[error("--url is {0:?}: give the https address of the provisioning service (http only for this machine itself)")]
    Url(String),
    /// A file.
    #[error("failed to read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The authorities, or the library's own set-up.
    #[error("failed to prepare the connection: is --ca-file PEM?")]
    Tls(#[source] reqwest::Error),
    /// No token.
    #[error(
        "there is no OIDC token: on GitHub give the job the permission id-token: write, on GitLab an id_tokens entry SANDGLASS_ID_TOKEN, elsewhere --token-file"
    )]
    NoToken,
    /// GitHub's runner.
    #[error("the runner gave no OIDC token: {0}")]
    Runner(String),
    /// Nobody there.
    #[error("failed to reach {address}")]
    Unreachable {
        /// Host and port, never a path.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It refuses, in its own words.
    #[error("the service refused ({status}): {detail}")]
    Refused {
        /// Status code.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// Something else answered.
    #[error("what answers at {0} is not the provisioning service")]
    Strange(String),
}

impl ServiceError {
    /// Asking again changes nothing.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403 | 404, .. })
    }
}

/// The service.
pub(super) struct Service {
    client: Client,
    url: Url,
    origin: Origin,
    token: Zeroizing<String>,
}

/// Where tokens come from.
struct Origin {
    file: Option<PathBuf>,
    audience: String,
}

/// A problem in the form of RFC 9457.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

#[derive(Deserialize)]
struct Given {
    value: Zeroizing<String>,
}

impl Service {
    pub(super) async fn new(url: &str, options: &Open) -> Result<Self, ServiceError> {
        let url = address(url).ok_or_else(|| ServiceError::Url(url.to_owned()))?;
        let client = client(options.ca_file.as_deref(), &url)?;
        let origin = Origin { file: options.token_file.clone(), audience: options.audience.clone() };
        let token = origin.token(&client).await?;
        Ok(Self { client, url, origin, token })
    }

    /// Asks until it is refused or made, again where the service wants to be asked again before `until`. It knows by the token which run this is.
    pub(super) async fn make(&self, order: &Order, until: Instant) -> Result<Report, ServiceError> {
        loop {
            let request = self.client.post(self.at(&["v1", "debugsessions"])).json(&order.request);
            let response = self.send(request).await?;
            let again = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            let pause = pause(&response);
            let outcome = self.report(response).await;
            if !again || pause >= until.saturating_duration_since(Instant::now()) {
                return outcome;
            }
            sleep(pause).await;
        }
    }

    /// Looks at the session. A token lives for minutes: one that is over is replaced once, where there is a newer one.
    pub(super) async fn look(&mut self, namespace: &str, name: &str) -> Result<Report, ServiceError> {
        let path = ["v1", "debugsessions", namespace, name];
        let response = self.send(self.client.get(self.at(&path))).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.report(response).await;
        }
        let newer = self.origin.token(&self.client).await?;
        if *newer == *self.token {
            return self.report(response).await;
        }
        self.token = newer;
        let response = self.send(self.client.get(self.at(&path))).await?;
        self.report(response).await
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ServiceError> {
        let sent = request.bearer_auth(self.token.as_str()).header(ACCEPT, "application/json").send().await;
        sent.map_err(|source| ServiceError::Unreachable { address: self.host(), source: source.without_url() })
    }

    async fn report(&self, response: Response) -> Result<Report, ServiceError> {
        let status = response.status();
        let body = body(response).await.ok_or_else(|| ServiceError::Strange(self.host()))?;
        if status.is_success() {
            let answer: Result<Answer, _> = serde_json::from_slice(&body);
            let sound = answer.ok().filter(Answer::is_sound);
            return sound.map(Report::from).ok_or_else(|| ServiceError::Strange(self.host()));
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let detail =
            [problem.detail, problem.title].into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| "it does not say why".into());
        Err(ServiceError::Refused { status: status.as_u16(), detail })
    }

    fn host(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or_default())
    }
}

/// The token opens sessions: in the clear it goes to this machine only.
fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (plain && url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && local))).then_some(url)
}

/// Trusts the public authorities, which are part of the program, and those of the file. What goes in the clear goes to this machine itself,
/// never to a proxy.
fn client(authorities: Option<&Path>, url: &Url) -> Result<Client, ServiceError> {
    let public = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok());
    let mut trusted: Vec<_> = public.collect();
    if let Some(path) = authorities {
        let text = std::fs::read(path).map_err(|source| ServiceError::File { path: path.to_owned(), source })?;
        trusted.extend(reqwest::Certificate::from_pem_bundle(&text).map_err(ServiceError::Tls)?);
    }
    let mut builder = Client::builder();
    if url.scheme() == "http" {
        builder = builder.no_proxy();
    }
    builder
        .tls_backend_rustls()
        .tls_certs_only(trusted)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(5))
        .timeout(CALL)
        .build()
        .map_err(ServiceError::Tls)
}

impl Origin {
    async fn token(&self, client: &Client) -> Result<Zeroizing<String>, ServiceError> {
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).map_err(|source| ServiceError::File { path: path.clone(), source })?;
            return Ok(Zeroizing::new(text.trim().to_owned()));
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(token) = variable("SANDGLASS_ID_TOKEN") {
            return Ok(Zeroizing::new(token.trim().to_owned()));
        }
        let asked = variable("ACTIONS_ID_TOKEN_REQUEST_URL").zip(variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN"));
        let (url, bearer) = asked.ok_or(ServiceError::NoToken)?;
        of_runner(client, &url, &Zeroizing::new(bearer), &self.audience).await
    }
}

/// GitHub's runner gives tokens for an audience.
async fn of_runner(client: &Client, url: &str, bearer: &str, audience: &str) -> Result<Zeroizing<String>, ServiceError> {
    let mut url = Url::parse(url).map_err(|error| ServiceError::Runner(error.to_string()))?;
    url.query_pairs_mut().append_pair("audience", audience);
    let sent = client.get(url).bearer_auth(bearer).send().await;
    let response = sent.map_err(|error| ServiceError::Runner(error.without_url().to_string()))?;
    let status = response.status();
    let given = body(response).await.and_then(|body| serde_json::from_slice::<Given>(&body).ok());
    given.map(|given| given.value).ok_or_else(|| ServiceError::Runner(format!("it answered {status}")))
}

/// At most [`LARGEST`].
async fn body(mut response: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > LARGEST {
            return None;
        }
    }
    Some(body)
}

fn pause(response: &Response) -> Duration {
    let said = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    said.map_or(PAUSE, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_machine_only_under_tls() {
        for good in ["https://sandglass.example.com", "https://example.com:8443/sandglass/", "http://127.0.0.1:80", "http://[::1]:80"] {
            assert!(address(good).is_some(), "{good}");
        }
        for bad in
            ["http://sandglass.example.com", "ftp://127.0.0.1", "sandglass", "https://user:word@example.com", "https://example.com/?x=1"]
        {
            assert!(address(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn paths_are_put_behind_the_services_own() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for url in ["https://example.com/sandglass", "https://example.com/sandglass/"] {
            let service = Service {
                client: client(None, &address(url).expect("a URL")).expect("a client"),
                url: address(url).expect("a URL"),
                origin: Origin { file: None, audience: String::new() },
                token: Zeroizing::new(String::new()),
            };
            assert_eq!(service.at(&["v1", "a/b"]).as_str(), "https://example.com/sandglass/v1/a%2Fb");
        }
    }
}
