//! `kubectl sandglass doctor`: looks at an installation with the rights of whoever asks, says what is wrong and what to do about it. Changes
//! nothing: it makes one short session, the canary, and removes it.

mod admission;
mod canary;
mod canary_findings;
mod capacity;
mod clocks;
mod definitions;
mod finding;
mod gateway;
mod installation;
mod isolation;
mod keys;
mod known;
mod made;
mod report;
mod rights;
mod ssh;
mod trials;
mod workloads;

pub use finding::{Finding, Level};

use crate::kubernetes::CallError;
use chrono::Utc;
use clap::{Args, ValueEnum};
use installation::Installation;
use known::Known;
use kube::Client;
use made::Made;
use report::Progress;
use std::io::Write;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long one check may take; each call within has a limit of its own, too.
const CHECK_LIMIT: Duration = Duration::from_secs(12);
/// How long the canary may take, with all it is used for.
const CANARY_LIMIT: Duration = Duration::from_secs(42);
/// How long its removal may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// What is looked at.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Namespace of the controller and the gateway.
    #[arg(long, value_name = "NAME", default_value = "sandglass-system")]
    pub system_namespace: String,
    /// Image of the canary: one that may be debugged in your namespace. Default: Sandglass' own.
    #[arg(long, value_name = "IMAGE", conflicts_with = "no_canary")]
    pub image: Option<String>,
    /// Opens no session: then nothing proves that network policies are enforced and that the recording store takes recordings.
    #[arg(long)]
    pub no_canary: bool,
    /// How findings are printed.
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    pub output: Form,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// One line each, and the cure below.
    Text,
    /// A list of objects: `check`, `level`, `message`, `cure`.
    Json,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing failed: exit code 0. Warnings and what was not checked do not count.
    Well,
    /// Something failed: exit code 1.
    Failed,
}

/// Why there is no verdict. The text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Without the API server nothing can be said.
    #[error("{0}: look at the server of this context, and at the network")]
    Unreachable(#[source] CallError),
    /// The user pressed Ctrl-C, or the process was told to end. What was made is removed, or named.
    #[error("interrupted{0}")]
    Interrupted(String),
    /// Signals cannot be awaited.
    #[error("failed to listen for signals")]
    Signal(#[source] std::io::Error),
    /// The findings cannot be written.
    #[error("failed to write the findings")]
    Write(#[source] std::io::Error),
    /// The findings cannot be written as JSON.
    #[error("failed to write the findings as JSON")]
    Json(#[source] serde_json::Error),
}

/// Looks at everything and writes what it found. The canary is made in the client's default namespace.
///
/// # Errors
/// See [`DoctorError`]; something wrong with the installation is none, but a [`Verdict`].
pub async fn doctor(client: Client, options: &Options, out: &mut dyn Write) -> Result<Verdict, DoctorError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DoctorError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DoctorError::Signal)?;
    let made = Made::default();
    let outcome = tokio::select! {
        outcome = Box::pin(examine(&client, options, &made)) => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let removed = match timeout(REMOVAL_LIMIT, made.remove(&client)).await {
        Ok(removed) => removed,
        Err(_) => Err(format!("failed to remove the canary within {} s", REMOVAL_LIMIT.as_secs())),
    };
    let Some(outcome) = outcome else {
        return Err(DoctorError::Interrupted(removed.err().map(|problem| format!("; {problem}")).unwrap_or_default()));
    };
    let mut findings = outcome?;
    if let Err(problem) = removed {
        findings.push(Finding::warn(
            "canary",
            problem,
            "delete it: kubectl delete debugsessions -l app.kubernetes.io/created-by=sandglass-doctor",
        ));
    }
    report::write(out, &findings, options.output, report::may_colour())?;
    Ok(if findings.iter().any(|finding| finding.level == Level::Fail) { Verdict::Failed } else { Verdict::Well })
}

async fn examine(client: &Client, options: &Options, made: &Made) -> Result<Vec<Finding>, DoctorError> {
    let progress = Progress::new(12);
    progress.step("the API server");
    let server = clocks::server(client).await.map_err(DoctorError::Unreachable)?;
    let installation = Installation::read(client, &options.system_namespace).await;
    let mut findings = Box::pin(objects(client, &installation, server, &progress)).await;
    let facts = Box::pin(canary(client, options, &installation, &findings, made, &progress)).await;
    let records = installation.configuration().map(|configuration| configuration.recording.required().is_some());
    findings.extend(canary_findings::judge(&facts, server, records));
    // A right that is missing for two objects is missing once.
    findings.dedup();
    Ok(findings)
}

/// Everything but the canary, side by side, each within its limit.
async fn objects(client: &Client, installation: &Installation, server: Option<clocks::Server>, progress: &Progress) -> Vec<Finding> {
    let vm = isolation::facts(client, &installation.vm, false).await;
    // Without the right to look it is taken to be there: each check then says itself what it may not read.
    let recoveries = !matches!(vm.namespace, Known::Absent);
    let now = server.map_or_else(Utc::now, |server| server.time_at(Utc::now()));
    let (definitions, isolation, policies, trials, rights, workloads, capacity, keys, gateway, clocks) = futures::join!(
        within("definitions", progress, Box::pin(async { definitions::judge(&definitions::facts(client).await) })),
        within(
            "isolation",
            progress,
            Box::pin(async {
                let debug = isolation::facts(client, &installation.debug, isolation::may_be_baseline(installation)).await;
                [isolation::judge(&debug, false), isolation::judge(&vm, true)].concat()
            })
        ),
        within("admission", progress, Box::pin(async { admission::judge(&admission::facts(client).await, installation, recoveries) })),
        within(
            "admission",
            progress,
            Box::pin(async { trials::judge(&trials::facts(client, installation, recoveries, client.default_namespace()).await) })
        ),
        within("rights", progress, Box::pin(async { rights::judge(&rights::facts(client, installation, recoveries).await) })),
        within(
            "workloads",
            progress,
            Box::pin(async { workloads::judge(&workloads::facts(client, installation).await, installation, now) })
        ),
        within("quota", progress, Box::pin(async { capacity::judge(&capacity::facts(client, installation, recoveries).await) })),
        within("keys", progress, Box::pin(async { keys::judge(&keys::facts(client, &installation.system).await, installation) })),
        within("gateway", progress, Box::pin(async { vec![gateway::judge(&gateway::facts(installation).await, installation)] })),
        within("clock", progress, Box::pin(async { clocks::judge(&clocks::facts(client, installation, server).await) })),
    );
    let configuration = installation::judge(installation);
    [configuration, definitions, isolation, policies, trials, rights, workloads, capacity, keys, gateway, clocks].concat()
}

async fn within(check: &'static str, progress: &Progress, work: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    let findings = timeout(CHECK_LIMIT, work).await;
    progress.step(check);
    findings.unwrap_or_else(|_| {
        let message = format!("not finished within {} s", CHECK_LIMIT.as_secs());
        vec![Finding::fail(check, message, "try again; if it stays so, look at the API server")]
    })
}

/// The canary, unless it is not wanted, or something is broken without which it cannot open.
async fn canary(
    client: &Client,
    options: &Options,
    installation: &Installation,
    findings: &[Finding],
    made: &Made,
    progress: &Progress,
) -> canary::Facts {
    if options.no_canary {
        return canary::Facts::NotTried("--no-canary was given".into(), "run without --no-canary to have it proven".into());
    }
    let needed = ["configuration", "definitions", "isolation", "workloads", "leader", "gateway", "keys", "priority"];
    if let Some(broken) = findings.iter().find(|finding| finding.level == Level::Fail && needed.contains(&finding.check)) {
        let cure = format!("see the check {}, and run this again", broken.check);
        return canary::Facts::NotTried(format!("it needs what failed in {}", broken.check), cure);
    }
    let image = match canary::image(options.image.as_deref(), installation, client.default_namespace()) {
        Ok(image) => image,
        Err(facts) => return facts,
    };
    progress.step("a canary session");
    timeout(CANARY_LIMIT, Box::pin(canary::facts(client, installation, &image, made))).await.unwrap_or_else(|_| {
        let reason = format!("the canary was not through within {} s", CANARY_LIMIT.as_secs());
        canary::Facts::NotMade(known::Unknown::Failed(reason))
    })
}
