//! A request in, an answer or a problem out. The order matters: what costs little is looked at first, and nothing of a body is read
//! before its sender is known.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answer, origin_of};
use super::build::{self, Input};
use super::keyring::{KeyError, Keyring};
use super::limits::{Buckets, source_of};
use super::message::{bearer, check_head, read, refuse, respond};
use super::metrics::{Metrics, Outcome};
use super::openapi;
use super::origin::Caller;
use super::problem::{Kind, Problem};
use super::request::SessionRequest;
use super::sessions::Sessions;
use super::token::Token;
use crate::api::DebugSession;
use crate::domain::configuration::Configuration;
use crate::domain::line::one_line;
use crate::domain::provisioning::{Claims, Issuer, Provisioning, Rule};
use crate::kubernetes::CallError;
use crate::kubernetes::time::Clock;

/// Time for one answer, the arrival of the body included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests that one repository may make within a minute, beside the limit on what it may have made.
const REQUESTS_PER_MINUTE: u32 = 600;
/// Where sessions are asked for.
pub(super) const SESSIONS: &str = "/v1/debugsessions";
/// Where the document of the interface is.
pub(super) const DOCUMENT: &str = "/v1/openapi.json";

/// What a door is made of.
pub struct Parts {
    /// The whole configuration.
    pub configuration: Arc<Configuration>,
    /// Its part that is about the door.
    pub provisioning: Provisioning,
    /// The issuers' keys, by the issuer's name.
    pub keyrings: BTreeMap<String, Arc<Keyring>>,
    /// The API server.
    pub sessions: Arc<dyn Sessions>,
    /// The time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// The door.
pub struct Door {
    parts: Parts,
    creations: Buckets<String>,
    requests: Buckets<String>,
    failures: Buckets<IpAddr>,
    document: Bytes,
}

/// A caller whose token is proved, and the rule for it.
struct Admitted<'a> {
    issuer: &'a Issuer,
    claims: Claims,
    rule: &'a Rule,
    caller: Caller,
}

/// What was answered, for the log and the counters.
struct Done {
    outcome: Outcome,
    status: StatusCode,
    body: Bytes,
}

impl Door {
    /// A door with fresh limits.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let limits = &parts.provisioning.limits;
        Self {
            creations: Buckets::new(limits.creations, limits.creations_per()),
            requests: Buckets::new(REQUESTS_PER_MINUTE, Duration::from_mins(1)),
            failures: Buckets::new(limits.failures, limits.failures_per()),
            document: Bytes::from(openapi::document().to_string()),
            parts,
        }
    }

    /// Its limits and proxies.
    #[must_use]
    pub fn provisioning(&self) -> &Provisioning {
        &self.parts.provisioning
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Answers one request. `peer` is whoever is at the other end of the connection.
    pub async fn answer<B>(&self, request: Request<B>, peer: IpAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let address = source_of(self.client(peer, request.headers()));
        let slow = || Problem::new(Kind::TooSlow, format!("the request took longer than {} s: try again", PATIENCE.as_secs()));
        let handled = tokio::time::timeout(PATIENCE, self.route(request, address)).await.unwrap_or_else(|_| Err(slow()));
        match handled {
            Ok(done) => {
                self.parts.metrics.answered(done.outcome);
                respond(done.status, "application/json", done.body)
            }
            Err(problem) => {
                self.parts.metrics.refused(problem.kind);
                note(&problem, address);
                refuse(&problem)
            }
        }
    }

    /// The client's address: the peer's, or what a proxy of ours says.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let ours = |address: &IpAddr| self.parts.provisioning.proxies.iter().any(|network| network.contains(&address.to_canonical()));
        if !ours(&peer) {
            return peer;
        }
        let told = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
        let hops = told.rsplit(',').map_while(|hop| hop.trim().parse::<IpAddr>().ok());
        hops.into_iter().find(|hop| !ours(hop)).unwrap_or(peer)
    }

    async fn route<B>(&self, request: Request<B>, address: IpAddr) -> Result<Done, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let path = request.uri().path().to_owned();
        let wrong = |allowed: &'static str| {
            let problem = Problem::new(Kind::MethodNotAllowed, format!("the method is not {allowed}, the only one here"));
            Err(Problem { allow: Some(allowed), ..problem })
        };
        if path == DOCUMENT {
            if request.method() != Method::GET {
                return wrong("GET");
            }
            return Ok(Done { outcome: Outcome::Document, status: StatusCode::OK, body: self.document.clone() });
        }
        if path == SESSIONS {
            if request.method() != Method::POST {
                return wrong("POST");
            }
            check_head(request.headers())?;
            let admitted = self.admit(request.headers(), address).await?;
            let body = read(request).await?;
            return self.create(&admitted, &SessionRequest::parse(&body)?).await;
        }
        let named = path.strip_prefix(SESSIONS).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split_once('/'));
        let Some((namespace, name)) = named.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'))
        else {
            return Err(Problem::new(Kind::NotFound, format!("there are {SESSIONS}, {SESSIONS}/{{namespace}}/{{name}} and {DOCUMENT}")));
        };
        if request.method() != Method::GET {
            return wrong("GET");
        }
        let admitted = self.admit(request.headers(), address).await?;
        self.read(&admitted, namespace, name).await
    }

    /// Who calls, and which rule is for it.
    async fn admit(&self, headers: &HeaderMap, address: IpAddr) -> Result<Admitted<'_>, Problem> {
        let now = Instant::now();
        if let Err(wait) = self.failures.look(&address, now) {
            let detail = "too many bad tokens came from your address: wait a while, and send the token of the CI system as it is";
            return Err(Problem::new(Kind::AddressLimited, detail).after(wait));
        }
        let verified = self.verify(headers, now).await;
        if verified.as_ref().is_err_and(|problem| problem.kind.status() == 401) {
            // What is left in the bucket is what decides next time.
            if self.failures.take(&address, now).is_ok() && self.failures.look(&address, now).is_err() {
                tracing::warn!(%address, "an address is shut out for a while: too many bad tokens came from it");
            }
        }
        let (issuer, claims) = verified?;
        let rule = self.parts.provisioning.rule(&issuer.name, &claims).ok_or_else(|| self.no_rule(issuer, &claims))?;
        let caller = Caller::of(issuer, &claims).map_err(|claim| {
            let detail = format!(
                "the token has no claim {}, by which a job is known: ask who runs Sandglass whether the issuer has the right provider",
                one_line(&claim, 100)
            );
            Problem::new(Kind::ClaimMissing, detail)
        })?;
        let repository = format!("{} {}", issuer.name, caller.repository_id);
        if let Err(wait) = self.requests.take(&repository, now) {
            return Err(limited("asks too often", wait));
        }
        Ok(Admitted { issuer, claims, rule, caller })
    }

    async fn verify(&self, headers: &HeaderMap, now: Instant) -> Result<(&Issuer, Claims), Problem> {
        let text = bearer(headers)?;
        let refuse = |error: super::token::TokenError| Problem::new(Kind::TokenInvalid, error.to_string());
        let token = Token::parse(text).map_err(refuse)?;
        let issuer = token.issuer(&self.parts.provisioning.issuers).map_err(refuse)?;
        let algorithm = token.algorithm(issuer).map_err(refuse)?;
        let unavailable =
            || Problem::new(Kind::IssuerUnavailable, format!("the keys of the issuer {} cannot be had: try again in a while", issuer.name));
        let keyring = self.parts.keyrings.get(&issuer.name).ok_or_else(unavailable)?;
        let keys = keyring.find(&token.key, now).await.map_err(|error| match error {
            KeyError::Unknown { wait } => Problem::new(
                Kind::TokenInvalid,
                "the token is signed with a key that its issuer does not publish: if the issuer has just begun to use it, try again in a minute",
            )
            .after(wait),
            KeyError::Unavailable { wait } => unavailable().after(wait),
        })?;
        if !keys.verifies(&token.key, algorithm, token.signed, &token.signature) {
            let detail = "the token's signature is not its issuer's: send the token of the CI system as it is";
            return Err(Problem::new(Kind::TokenInvalid, detail));
        }
        let claims = token.claims(issuer, self.parts.clock.now()).map_err(refuse)?;
        Ok((issuer, claims))
    }

    fn no_rule(&self, issuer: &Issuer, claims: &Claims) -> Problem {
        let shorten = |value: String| one_line(&value, 256);
        let looked_at = self.parts.provisioning.looked_at(&issuer.name, claims);
        let looked_at: BTreeMap<_, _> = looked_at.into_iter().map(|(name, value)| (name, value.map(shorten))).collect();
        let pairs =
            looked_at.iter().map(|(name, value)| value.as_ref().map_or_else(|| format!("no {name}"), |value| format!("{name}={value}")));
        let pairs = pairs.collect::<Vec<_>>().join(", ");
        let detail = format!(
            "no rule is for a job of the issuer {} with {pairs}: ask who runs Sandglass to add one under provisioning.rules",
            issuer.name
        );
        Problem { claims: Some(looked_at), ..Problem::new(Kind::NoRule, detail) }
    }

    async fn create(&self, admitted: &Admitted<'_>, request: &SessionRequest) -> Result<Done, Problem> {
        let Admitted { issuer, claims, rule, caller } = admitted;
        let origin = caller.job(&request.job);
        let input = Input { request, issuer, claims, rule, origin: &origin, configuration: &self.parts.configuration };
        let session = build::session(&input, self.parts.clock.now())?;
        let (namespace, name) = (rule.namespace.as_str(), origin.object_name());
        let existing = |found: &DebugSession| match origin_of(found) {
            Some(other) if other.is_same_job(&origin) => Ok(done(Outcome::Existing, StatusCode::OK, found)),
            _ => Err(Problem::new(
                Kind::NameTaken,
                format!("{namespace}/{name} is there and is not of this job: ask who runs Sandglass to delete it"),
            )),
        };
        if let Some(found) = self.parts.sessions.get(namespace, &name).await.map_err(|error| trouble(&error, namespace))? {
            return existing(&found);
        }
        if let Err(wait) = self.creations.take(&format!("{} {}", issuer.name, caller.repository_id), Instant::now()) {
            return Err(limited("has had too many sessions made", wait));
        }
        match self.parts.sessions.create(&session).await {
            Ok(made) => {
                let Caller { repository, run, .. } = caller;
                tracing::info!(
                    namespace,
                    name,
                    issuer = issuer.name,
                    repository,
                    run,
                    requester = made.spec.requester,
                    "a session was made"
                );
                Ok(done(Outcome::Created, StatusCode::CREATED, &made))
            }
            // Another call of the same job was faster.
            Err(error) if error.code() == 409 => {
                let found = self.parts.sessions.get(namespace, &name).await.map_err(|error| trouble(&error, namespace))?;
                found.as_ref().map_or_else(|| Err(trouble(&error, namespace)), existing)
            }
            Err(error) => Err(trouble(&error, namespace)),
        }
    }

    async fn read(&self, admitted: &Admitted<'_>, namespace: &str, name: &str) -> Result<Done, Problem> {
        // One answer for what is not there and for what is another's.
        let missing = || Problem::new(Kind::NotFound, "there is no such session of this repository: ask with what the first answer said");
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if namespace != admitted.rule.namespace || name.len() > 63 || !name.bytes().all(label) {
            return Err(missing());
        }
        let found = self.parts.sessions.get(namespace, name).await.map_err(|error| trouble(&error, namespace))?;
        let found = found.ok_or_else(missing)?;
        let caller = &admitted.caller;
        match origin_of(&found) {
            Some(origin) if origin.is_same_repository(&caller.issuer, &caller.repository_id) => {
                Ok(done(Outcome::Read, StatusCode::OK, &found))
            }
            _ => Err(missing()),
        }
    }
}

/// One line for each refusal. What a body held is not told: it may be a secret. An address that is shut out was told of when it was.
fn note(problem: &Problem, address: IpAddr) {
    let reason = problem.kind.slug();
    let detail = if problem.kind == Kind::InvalidRequest { "" } else { problem.detail.as_str() };
    match problem.kind.status() {
        503 => tracing::warn!(reason, %address, detail, "a request was refused"),
        _ if problem.kind == Kind::AddressLimited => tracing::debug!(reason, %address, "a request was refused"),
        _ => tracing::info!(reason, %address, detail, "a request was refused"),
    }
}

fn limited(what: &str, wait: Duration) -> Problem {
    let detail = format!("this repository {what}: wait {} s", wait.as_secs() + 1);
    Problem::new(Kind::RepositoryLimited, detail).after(wait)
}

/// What the API server says, for the caller: who can do something about it is told what.
fn trouble(error: &CallError, namespace: &str) -> Problem {
    let message = one_line(error.message(), 300);
    let denied = message.split_once("denied request: ").map(|(_, why)| why.to_owned());
    match (error.code(), denied) {
        (400 | 403 | 422, Some(why)) => Problem::new(Kind::InvalidRequest, format!("the cluster refuses the session: {why}")),
        (400 | 422, None) => Problem::new(Kind::InvalidRequest, format!("the cluster refuses the session: {message}")),
        (code, _) => {
            tracing::warn!(%error, code, message, category = error.category().as_str(), namespace, "the API server refused or did not answer");
            let detail = match code {
                403 => format!(
                    "Sandglass may not make sessions in the namespace {namespace}: ask who runs it to bind the ClusterRole sandglass-provision there"
                ),
                404 => format!("the namespace {namespace} of the rule for this job is not there: ask who runs Sandglass to make it"),
                _ => "the cluster does not answer as it should: try again in a while".to_owned(),
            };
            Problem::new(Kind::ClusterUnavailable, detail).after(Duration::from_secs(10))
        }
    }
}

fn done(outcome: Outcome, status: StatusCode, session: &DebugSession) -> Done {
    Done { outcome, status, body: serde_json::to_vec(&Answer::of(session)).map(Bytes::from).unwrap_or_default() }
}
