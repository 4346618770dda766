//! The canary: a real, short session of the doctor's own. Its agent serves only once it has found its network closed, its login is recorded, and
//! its end takes everything away: what no object of the cluster can tell. Needs the rights of anybody who may open a session.

use super::installation::Installation;
use super::known::{Known, Unknown, read};
use super::made::{Made, Named, TTL};
use super::ssh::{Login, SshError, fingerprint};
use crate::api::DebugSession;
use crate::api::conditions::{OPEN, READY, STALLED};
use crate::api::session::{ConnectionRecord, Session as _, SessionStatus};
use crate::domain::images::Reference;
use crate::gateway::keys::new_ed25519;
use crate::kubernetes::time::to_chrono;
use crate::kubernetes::{CallError, call};
use chrono::{DateTime, Utc};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use russh::keys::{PrivateKey, PublicKey};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long it may take to open.
const OPENS_WITHIN: Duration = Duration::from_secs(25);
/// How long the record of the login may take to appear.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
/// How long everything of it may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What became of the canary.
#[derive(Debug)]
pub(super) enum Facts {
    /// It was not opened: why not, and what to do.
    NotTried(String, String),
    /// A right is missing, or the API server failed.
    NotMade(Unknown),
    /// The API server refused the object.
    Refused(String),
    /// It is not open in time, or never will be: reason and message of the condition.
    NotOpen {
        /// Whether it waits for something that may come.
        waits: bool,
        /// Reason, and message.
        why: (String, String),
    },
    /// It opened.
    Opened(Box<Opened>),
}

/// What was seen of an open canary.
#[derive(Debug)]
pub(super) struct Opened {
    /// From the object's creation to open.
    pub after: Duration,
    /// How the login went.
    pub login: Result<Reached, SshError>,
    /// What the gateway reported of the login, where it did.
    pub record: Option<ConnectionRecord>,
    /// Between which moments of this machine the connection began.
    pub began: (DateTime<Utc>, DateTime<Utc>),
    /// How long it took until everything was gone; none if it was not in time.
    pub gone_after: Option<Duration>,
}

/// What the pod reached, where the addresses are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The link port of a gateway, which must be open: otherwise the closed ones prove nothing.
    pub link: Option<bool>,
    /// Addresses that must be closed, and whether they were.
    pub others: Vec<(String, bool)>,
}

/// Which image it runs: the one asked for, or Sandglass' own, which every node that runs sessions has.
pub(super) fn image(asked: Option<&str>, installation: &Installation, namespace: &str) -> Result<String, Facts> {
    if let Some(image) = asked {
        return Ok(image.to_owned());
    }
    let cure = "name an image that may be debugged there: --image";
    let Some(configuration) = installation.configuration() else {
        return Err(Facts::NotTried("the configuration that names an image cannot be read".into(), cure.into()));
    };
    let own = &configuration.sessions.agent_image;
    let allowed = Reference::parse(own).is_ok_and(|own| own.is_allowed(namespace, &configuration.allowed_images));
    if allowed {
        Ok(own.clone())
    } else {
        Err(Facts::NotTried(format!("allowedImages does not name {own} for the namespace {namespace}"), cure.into()))
    }
}

/// Opens a canary, uses it, and ends it. What is made is told to `made` first.
pub(super) async fn facts(client: &Client, installation: &Installation, image: &str, made: &Made) -> Facts {
    let key = match new_ed25519() {
        Ok(key) => key,
        Err(error) => return Facts::NotMade(Unknown::Failed(error.to_string())),
    };
    let began = Instant::now();
    let api: Api<DebugSession> = Api::default_namespaced(client.clone());
    let name = match create(client, &api, image, &key, made).await {
        Ok(name) => name,
        Err(facts) => return facts,
    };
    let status = match until_open(&api, &name).await {
        Ok(status) => status,
        Err(facts) => return facts,
    };
    let opened = began.elapsed();
    let before = Utc::now();
    let login = log_in(client, installation, &status, &key).await;
    let after = Utc::now();
    let record = match login {
        Ok(_) => recorded(&api, &name, &fingerprint(key.public_key())).await,
        Err(_) => None,
    };
    let gone_after = end(&api, &name).await;
    Facts::Opened(Box::new(Opened { after: opened, login, record, began: (before, after), gone_after }))
}

async fn create(client: &Client, api: &Api<DebugSession>, image: &str, key: &PrivateKey, made: &Made) -> Result<String, Facts> {
    let failed = |reason: String| Facts::NotMade(Unknown::Failed(reason));
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let parameters = PostParams::default();
    let question = SelfSubjectReview::default();
    let review = reviews.create(&parameters, &question);
    let requester = match read("ask who you are", "create selfsubjectreviews", review).await {
        Known::There(review) => review.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default(),
        Known::Absent => return Err(failed("the API server does not say who you are".into())),
        Known::Unknown(unknown) => return Err(Facts::NotMade(unknown)),
    };
    let public = key.public_key().to_openssh().map_err(|error| failed(format!("failed to encode the canary's key: {error}")))?;
    let name = random_name().ok_or_else(|| failed("failed to make a name: no randomness".into()))?;
    let object = manifest(&name, image, &requester, &public);
    let object: DebugSession = serde_json::from_value(object).map_err(|error| failed(format!("failed to build the canary: {error}")))?;
    let named = Named { namespace: client.default_namespace().to_owned(), name: name.clone(), uid: None };
    made.set(Some(named.clone()));
    match call("create the canary", api.create(&parameters, &object)).await {
        Ok(created) => {
            made.set(Some(Named { uid: created.metadata.uid, ..named }));
            Ok(name)
        }
        Err(error) => {
            // Where the API server answered nothing was made.
            if error.code() != 0 {
                made.set(None);
            }
            Err(refusal(&error, client.default_namespace()))
        }
    }
}

fn refusal(error: &CallError, namespace: &str) -> Facts {
    let message = error.message();
    match error.code() {
        401 => Facts::NotMade(Unknown::Right(format!("create debugsessions in {namespace}"))),
        403 if message.contains(" cannot create resource ") => {
            Facts::NotMade(Unknown::Right(format!("create debugsessions in {namespace}")))
        }
        404 => Facts::NotTried(
            format!("there is no namespace {namespace}, or no definition of debugsessions"),
            "name a namespace in which you may open sessions: --namespace".into(),
        ),
        400 | 403 | 422 => Facts::Refused(message.to_owned()),
        _ => Facts::NotMade(Unknown::of(error, "create debugsessions")),
    }
}

fn random_name() -> Option<String> {
    let mut bytes = [0; 10];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).ok()?;
    let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
    let letter = |byte: &u8| letters.get(usize::from(*byte) % letters.len()).map(|letter| char::from(*letter));
    bytes.iter().map(letter).collect::<Option<String>>().map(|suffix| format!("doctor-{suffix}"))
}

fn manifest(name: &str, image: &str, requester: &str, public_key: &str) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/created-by": "sandglass-doctor" } },
        "spec": {
            "source": { "image": image },
            "ttl": TTL,
            // A project of its own: it waits for nobody, and nobody for it.
            "project": name,
            "requester": requester,
            "reason": "kubectl sandglass doctor: a canary",
            "access": { "authorizedKeys": [public_key], "allow": ["Sftp", "LocalForward"] },
            "resources": { "limits": { "cpu": "100m", "memory": "64Mi", "ephemeral-storage": "64Mi" } },
            "retention": "Delete",
            "deleteAfter": TTL,
        },
    })
}

fn condition<'a>(session: &'a DebugSession, kind: &str) -> Option<&'a Condition> {
    session.state()?.conditions.iter().find(|condition| condition.type_ == kind)
}

fn is_true(session: &DebugSession, kind: &str) -> bool {
    condition(session, kind).is_some_and(|condition| condition.status == "True")
}

fn has_ended(session: &DebugSession) -> bool {
    session.state().is_some_and(|status| status.ended_at.is_some())
}

async fn until_open(api: &Api<DebugSession>, name: &str) -> Result<SessionStatus, Facts> {
    let decided = |session: Option<&DebugSession>| {
        session.is_some_and(|session| is_true(session, OPEN) || is_true(session, STALLED) || has_ended(session))
    };
    let waited = timeout(OPENS_WITHIN, await_condition(api.clone(), name, decided)).await;
    let session = match waited {
        Ok(Ok(Some(session))) => session,
        Ok(Ok(None)) => return Err(not_open(true, "Deleted", "the canary was deleted by somebody else")),
        Ok(Err(error)) => return Err(Facts::NotMade(Unknown::Failed(format!("failed to watch the canary: {error}")))),
        Err(_) => match call("read the canary", api.get(name)).await {
            Ok(session) => session,
            Err(error) => return Err(Facts::NotMade(Unknown::of(&error, "get debugsessions"))),
        },
    };
    if is_true(&session, OPEN) {
        return Ok(session.state().cloned().unwrap_or_default());
    }
    let stalled = condition(&session, STALLED).filter(|condition| condition.status == "True");
    let waits = stalled.is_none() && !has_ended(&session);
    Err(match stalled.or_else(|| condition(&session, OPEN)) {
        Some(condition) => not_open(waits, &condition.reason, &condition.message),
        None => not_open(true, "Unseen", "no controller has looked at it"),
    })
}

fn not_open(waits: bool, reason: &str, message: &str) -> Facts {
    Facts::NotOpen { waits, why: (reason.to_owned(), message.to_owned()) }
}

async fn log_in(client: &Client, installation: &Installation, status: &SessionStatus, key: &PrivateKey) -> Result<Reached, SshError> {
    let failed = |reason: &str| SshError::Failed { what: "log in to the canary", reason: reason.to_owned() };
    let connection = status.connection.as_ref().ok_or_else(|| failed("its status does not say how"))?;
    let port = u16::try_from(connection.port).map_err(|_| failed("its status names no port"))?;
    // A line is the host, a space, and the key.
    let host_keys = connection.known_hosts.iter().filter_map(|line| PublicKey::from_openssh(line.split_once(' ')?.1).ok()).collect();
    let (login, addresses) = futures::join!(
        Login::new(&connection.host, port, host_keys, &connection.user, key.clone()),
        addresses(client, &installation.system)
    );
    let login = login?;
    let files = login.transfer_files().await;
    let reached = match files {
        Ok(()) => {
            let link = async {
                match &addresses.link {
                    Some((host, port)) => Some(login.reaches(host, *port).await),
                    None => None,
                }
            };
            let others = addresses.others.iter().map(async |(what, host, port)| (what.clone(), login.reaches(host, *port).await));
            let (link, others) = futures::join!(link, futures::future::join_all(others));
            Ok(Reached { link, others })
        }
        Err(error) => Err(error),
    };
    login.leave().await;
    reached
}

/// Addresses for the pod to try.
#[derive(Default)]
struct Addresses {
    link: Option<(String, u16)>,
    others: Vec<(String, String, u16)>,
}

/// The link port of a gateway that is ready, its health port, and the API server, as far as the user may read where they are. The same pod with one
/// port open and one closed is what only an enforced policy can look like.
async fn addresses(client: &Client, system: &str) -> Addresses {
    let pods: Api<Pod> = Api::namespaced(client.clone(), system);
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let gateways = ListParams::default().labels("app.kubernetes.io/component=gateway");
    let (pods, server) = futures::join!(
        read("list the gateways", "list pods", pods.list(&gateways)),
        read("read the Service of the API server", "get services", services.get("kubernetes")),
    );
    let mut addresses = Addresses::default();
    if let Some(pod) = pods.there().and_then(|pods| pods.items.iter().find(|pod| is_ready(pod))) {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
        addresses.link = port(pod, "link").map(|port| (ip.clone(), port));
        addresses.others.extend(port(pod, "health").map(|port| ("the gateway's health port".to_owned(), ip, port)));
    }
    let spec = server.there().and_then(|service| service.spec.as_ref());
    if let Some(ip) = spec.and_then(|spec| spec.cluster_ip.clone()) {
        addresses.others.push(("the API server".to_owned(), ip, 443));
    }
    addresses
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn port(pod: &Pod, name: &str) -> Option<u16> {
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let found = ports.into_iter().find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(found.container_port).ok()
}

async fn recorded(api: &Api<DebugSession>, name: &str, fingerprint: &str) -> Option<ConnectionRecord> {
    let of = |session: &DebugSession| {
        session.state().and_then(|status| status.connections.iter().find(|connection| connection.key_fingerprint == fingerprint).cloned())
    };
    let seen = |session: Option<&DebugSession>| session.is_some_and(|session| of(session).is_some());
    let session = timeout(RECORDED_WITHIN, await_condition(api.clone(), name, seen)).await.ok()?.ok()??;
    of(&session)
}

/// Ends it and waits until everything of it is gone.
async fn end(api: &Api<DebugSession>, name: &str) -> Option<Duration> {
    let began = Instant::now();
    let patch = Patch::Merge(json!({ "spec": { "end": true } }));
    call("end the canary", api.patch(name, &PatchParams::default(), &patch)).await.ok()?;
    let gone = |session: Option<&DebugSession>| session.is_none_or(|session| has_ended(session) && is_true(session, READY));
    timeout(GONE_WITHIN, await_condition(api.clone(), name, gone)).await.ok()?.ok()?;
    Some(began.elapsed())
}

/// When the gateway says that the connection began.
pub(super) fn told(record: &ConnectionRecord) -> DateTime<Utc> {
    to_chrono(&record.started_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::installation::tests::installation;

    #[test]
    fn the_canary_is_small_short_and_removes_itself() {
        let name = random_name().expect("random");
        assert!(name.len() == 17 && name != random_name().expect("random"), "{name}");
        let session: DebugSession = serde_json::from_value(manifest(&name, "image:1", "jane", "ssh-ed25519 AAAA")).expect("a DebugSession");
        assert_eq!((session.spec.ttl.as_str(), session.spec.delete_after.as_deref()), ("1m", Some("1m")));
        assert_eq!(session.spec.retention, crate::api::session::Retention::Delete);
        assert_eq!((session.spec.project.as_deref(), session.spec.requester.as_str()), (Some(name.as_str()), "jane"));
    }

    #[test]
    fn the_image_is_the_installations_own_where_that_is_allowed() {
        let file = |prefix: &str| {
            format!(
                "{{ gateway: {{ host: gw }}, sessions: {{ agentImage: 'registry.example.com/sandglass:1' }}, recording: {{ mode: Off }}, allowedImages: [{{ prefix: {prefix} }}] }}"
            )
        };
        let allowed = installation(&file("registry.example.com/"), &[]);
        assert_eq!(image(None, &allowed, "ci").expect("allowed"), "registry.example.com/sandglass:1");
        let other = installation(&file("registry.example.com/builders/"), &[]);
        assert!(matches!(image(None, &other, "ci"), Err(Facts::NotTried(_, cure)) if cure.contains("--image")));
        assert_eq!(image(Some("x"), &other, "ci").expect("asked for"), "x");
    }

    #[test]
    fn a_refusal_by_rights_is_told_from_one_by_admission() {
        let refused = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.into(), ..kube::core::Status::default() };
            refusal(&CallError::Refused { what: "create the canary", source: Box::new(kube::Error::Api(Box::new(status))) }, "ci")
        };
        let no_right = "debugsessions.sandglass.dev is forbidden: User \"jane\" cannot create resource \"debugsessions\" in API group";
        assert!(matches!(refused(403, no_right), Facts::NotMade(Unknown::Right(right)) if right == "create debugsessions in ci"));
        assert!(matches!(refused(403, "denied request: spec.requester is …"), Facts::Refused(_)));
        assert!(matches!(refused(404, "namespaces \"ci\" not found"), Facts::NotTried(..)));
        assert!(matches!(refused(500, "boom"), Facts::NotMade(Unknown::Failed(_))));
    }
}
