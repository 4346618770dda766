//! From a verified caller, the rule that is for it and what it asks for to a `DebugSession`. Pure: time is an argument.

use chrono::{DateTime, TimeDelta, Utc};
use kube::api::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

use super::origin::{ORIGIN, Origin, STRIPPED, project_label};
use super::problem::{Kind, Problem};
use super::request::SessionRequest;
use crate::api::debug_session::{Build, DebugSession, DebugSessionSpec, EnvironmentVariable, Network, Source};
use crate::api::session::{Access, Capability, Retention};
use crate::domain::configuration::{AllowedImage, Configuration};
use crate::domain::environment::{self, Variable};
use crate::domain::images::Reference;
use crate::domain::line::{is_line, one_line};
use crate::domain::provisioning::{Claims, Issuer, Rule, fill};
use crate::kubernetes::time::from_chrono;

/// How long a session may wait for its turn and its image before `notAfter` begins to shorten it.
const WAITING: TimeDelta = TimeDelta::minutes(5);
const DEFAULT_TTL: Duration = Duration::from_mins(30);
/// How long the object outlives the session.
const DELETE_AFTER: &str = "24h";

/// What an object is made of.
pub(super) struct Input<'a> {
    pub request: &'a SessionRequest,
    pub issuer: &'a Issuer,
    pub claims: &'a Claims,
    pub rule: &'a Rule,
    pub origin: &'a Origin,
    pub configuration: &'a Configuration,
}

fn not_allowed(detail: String) -> Problem {
    Problem::new(Kind::NotAllowed, detail)
}

/// The object, if the rule allows it.
pub(super) fn session(input: &Input<'_>, now: DateTime<Utc>) -> Result<DebugSession, Problem> {
    let Input { request, rule, origin, .. } = input;
    image(input)?;
    let network = network(request, rule)?;
    let (ttl_text, ttl) = ttl(input)?;
    let written = request.env.iter().map(|variable| Variable::Literal(variable.name.clone(), variable.value.clone()));
    let environment = environment::filter(written, &input.configuration.secret_patterns);
    let origin_text = serde_json::to_string(origin).map_err(|error| {
        Problem::new(Kind::ClaimMissing, format!("the job cannot be written down: {}", one_line(&error.to_string(), 200)))
    })?;
    let mut annotations = BTreeMap::from([(ORIGIN.to_owned(), origin_text)]);
    if !environment.stripped.is_empty() {
        annotations.insert(STRIPPED.to_owned(), environment.stripped.join(","));
    }
    let spec = DebugSessionSpec {
        source: Source { image: Some(request.image.clone()), ..Source::default() },
        env: environment.kept.into_iter().map(|(name, value)| EnvironmentVariable { name, value }).collect(),
        working_dir: request.working_dir.clone(),
        ttl: ttl_text,
        not_after: Some(from_chrono(now + TimeDelta::from_std(ttl).unwrap_or(TimeDelta::zero()) + WAITING)),
        project: project(input)?,
        requester: requester(input)?,
        reason: request.reason.clone(),
        build: Some(build(input)),
        access: Access {
            authorized_keys: request.authorized_keys.clone(),
            principals: request.principals.clone(),
            allow: Some(allow(request, rule)?),
            idle_timeout: None,
        },
        network,
        isolation: None,
        resources: None,
        tools: None,
        retention: Retention::Delete,
        delete_after: Some(DELETE_AFTER.into()),
        end: false,
    };
    let mut session = DebugSession::new(&origin.object_name(), spec);
    session.metadata = ObjectMeta {
        name: Some(origin.object_name()),
        namespace: Some(rule.namespace.clone()),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    Ok(session)
}

fn image(input: &Input<'_>) -> Result<(), Problem> {
    let Input { request, rule, configuration, .. } = input;
    let reference = Reference::parse(&request.image)
        .map_err(|error| Problem::new(Kind::InvalidRequest, format!("image: {}", one_line(&error.to_string(), 300))))?;
    let of_rule: Vec<_> = rule.images.iter().map(|prefix| AllowedImage { prefix: prefix.clone(), namespaces: Vec::new() }).collect();
    if !of_rule.is_empty() && !reference.is_allowed(&rule.namespace, &of_rule) {
        let allowed = rule.images.join(", ");
        return Err(not_allowed(format!("the image {reference} is not one of those that the rule for this job allows: {allowed}")));
    }
    if !reference.is_allowed(&rule.namespace, &configuration.allowed_images) {
        return Err(not_allowed(format!(
            "the image {reference} is not one that this installation allows for the namespace {}: ask who runs Sandglass to add it under allowedImages",
            rule.namespace
        )));
    }
    Ok(())
}

fn network(request: &SessionRequest, rule: &Rule) -> Result<Network, Problem> {
    let wanted = request.network.unwrap_or_default();
    if rule.network.contains(&wanted) {
        return Ok(wanted);
    }
    let allowed: Vec<_> = rule.network.iter().map(|network| format!("{network:?}")).collect();
    Err(not_allowed(format!("the network {wanted:?} is not one that the rule for this job allows: {}", allowed.join(", "))))
}

fn allow(request: &SessionRequest, rule: &Rule) -> Result<Vec<Capability>, Problem> {
    let Some(wanted) = &request.allow else {
        return Ok(rule.allow.iter().copied().filter(|capability| *capability == Capability::Sftp).collect());
    };
    match wanted.iter().find(|capability| !rule.allow.contains(capability)) {
        None => Ok(wanted.clone()),
        Some(refused) => {
            let allowed: Vec<_> = rule.allow.iter().map(|capability| format!("{capability:?}")).collect();
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            Err(not_allowed(format!("{refused:?} is not one of what the rule for this job allows: {allowed}")))
        }
    }
}

fn ttl(input: &Input<'_>) -> Result<(String, Duration), Problem> {
    let cap = input.rule.ttl_cap(input.configuration.ttl_cap());
    match (&input.request.ttl, input.request.ttl()) {
        (Some(text), Some(ttl)) if ttl <= cap => Ok((text.clone(), ttl)),
        (Some(text), _) => Err(Problem::new(
            Kind::InvalidRequest,
            format!("ttl {text} is more than {}, the cap of the rule for this job: ask for less", in_words(cap)),
        )),
        (None, _) => Ok((in_words(DEFAULT_TTL.min(cap)), DEFAULT_TTL.min(cap))),
    }
}

/// As it is written in a spec. In seconds where it is no whole number of minutes.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, 0) => format!("{minutes}m"),
        (hours, 0, 0) => format!("{hours}h"),
        (hours, minutes, 0) => format!("{hours}h{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

fn filled(what: &str, template: &str, claims: &Claims) -> Result<String, Problem> {
    let missing = |claim: &str| {
        let detail = format!("the token has no claim {}, which the rule for this job needs for the {what}", one_line(claim, 100));
        Problem::new(Kind::ClaimMissing, detail)
    };
    fill(template, claims).map_err(missing)
}

fn requester(input: &Input<'_>) -> Result<String, Problem> {
    let requester = filled("requester", &input.rule.requester, input.claims)?;
    let count = requester.chars().count();
    if count == 0 || count > 253 || !is_line(&requester) {
        let detail = "what the rule for this job makes of the token's claims is no requester: it must be one line of 1 to 253 characters";
        return Err(Problem::new(Kind::ClaimMissing, detail));
    }
    Ok(requester)
}

fn project(input: &Input<'_>) -> Result<Option<String>, Problem> {
    let Some(template) = &input.rule.project else { return Ok(None) };
    Ok(Some(project_label(&filled("project", template, input.claims)?)))
}

/// What the token tells stands before what the caller tells: the records are read by those who trust the one.
fn build(input: &Input<'_>) -> Build {
    let Input { request, claims, origin, .. } = input;
    let names = input.issuer.claim_names();
    let told = |name: &Option<String>| name.as_ref().and_then(|name| claims.get(name)).filter(|value| !value.is_empty()).cloned();
    let page = names.page.as_deref().and_then(|page| fill(page, claims).ok()).filter(|page| is_line(page));
    let run = if origin.attempt.is_empty() { origin.run.clone() } else { format!("{}/{}", origin.run, origin.attempt) };
    let at_most = |text: String, most: usize| text.chars().take(most).collect::<String>();
    Build {
        commit: told(&names.commit).or_else(|| request.commit.clone()).map(|commit| at_most(commit, 128)),
        pull_request: pull_request(claims).or_else(|| request.pull_request.clone()).map(|number| at_most(number, 128)),
        run: Some(at_most(run, 256)),
        url: page.or_else(|| request.url.clone()).map(|url| at_most(url, 1024)),
    }
}

/// GitHub: `refs/pull/17/merge`; GitLab: `refs/merge-requests/17/head`.
fn pull_request(claims: &Claims) -> Option<String> {
    let reference = claims.get("ref_path").or_else(|| claims.get("ref"))?;
    let rest = reference.strip_prefix("refs/pull/").or_else(|| reference.strip_prefix("refs/merge-requests/"))?;
    let number = rest.split('/').next()?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_owned())
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
