//! `sandglass ci open`: the last step of a pipeline. Opens a session on the build that failed and says in the log how to get in.
//! Nothing it meets makes a build fail that did not fail by itself.

mod block;
mod cluster;
mod order;
mod report;
mod service;

use clap::{Args, Subcommand};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

use order::Order;
use report::Report;

/// What a pipeline asks for.
#[derive(Subcommand, Debug)]
pub enum Ci {
    /// Opens a session on the failed build and prints how to get in. Does nothing when the run succeeded.
    #[command(after_help = "Examples:\n  \
        sandglass ci open --pipeline-run build-42 --run 7c9e --status Failed --authorized-keys \"$(cat octocat.pub)\"\n  \
        sandglass ci open --url https://sandglass.example.com --image registry.example.com/go:1 --job unit --authorized-keys \"$(cat octocat.pub)\"\n\n\
        Ends with 0 whatever happens, so that it never turns a build red; with --strict 1 when no session opened.")]
    Open(Box<Open>),
}

/// The build, who may look into it, and how long.
// Values are a pipeline's own and may begin with a hyphen, as a private key given by mistake does: clap would take it for a flag, and print it.
#[derive(Args, Clone, Debug)]
pub struct Open {
    /// Whether to open anything at all: the pipeline's own switch.
    #[arg(long, value_name = "TRUE|FALSE", default_value = "true", allow_hyphen_values = true)]
    debug: String,
    /// How the run went. Only a failed one is debugged.
    #[arg(long, value_name = "STATUS", default_value = "Failed", allow_hyphen_values = true)]
    status: String,
    /// Tekton `PipelineRun` whose first failed `TaskRun` is debugged.
    #[arg(long, value_name = "NAME", group = "source", allow_hyphen_values = true)]
    pipeline_run: Option<String>,
    /// Tekton `TaskRun` whose failed step is debugged.
    #[arg(long, value_name = "NAME", group = "source", allow_hyphen_values = true)]
    task_run: Option<String>,
    /// Kubernetes Job whose last failed pod is debugged.
    #[arg(long, value_name = "NAME", group = "source", allow_hyphen_values = true)]
    kubernetes_job: Option<String>,
    /// Failed pod.
    #[arg(long, value_name = "NAME", group = "source", allow_hyphen_values = true)]
    pod: Option<String>,
    /// The build's image, best by digest.
    #[arg(long, value_name = "IMAGE", group = "source", allow_hyphen_values = true)]
    image: Option<String>,
    /// Address of the provisioning service, for CI outside the cluster. Without it the session is made in the cluster, as the pod's own account.
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    url: Option<String>,
    /// With --url: file with the CI's OIDC token. Default: $`SANDGLASS_ID_TOKEN`, else what GitHub's runner gives.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// With --url: audience of the token that GitHub's runner is asked for.
    #[arg(long, value_name = "NAME", default_value = "sandglass", allow_hyphen_values = true)]
    audience: String,
    /// With --url: certificate authorities in PEM, where the service's is not a public one.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,
    /// Namespace of the session. Default: the pod's own.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, conflicts_with = "url")]
    namespace: Option<String>,
    /// What identifies the run: with attempt and job it names the session, so that a retry never makes a second.
    #[arg(long, value_name = "ID", default_value = "", allow_hyphen_values = true, conflicts_with = "url")]
    run: String,
    /// Which attempt of the run.
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true, conflicts_with = "url")]
    attempt: String,
    /// Which job of the run.
    #[arg(long, value_name = "NAME", default_value = "", allow_hyphen_values = true)]
    job: String,
    /// Public keys of those who may log in, one a line.
    #[arg(long, value_name = "KEYS", default_value = "", allow_hyphen_values = true)]
    authorized_keys: String,
    /// Principals of user certificates that may log in, separated by commas.
    #[arg(long, value_name = "NAMES", default_value = "", allow_hyphen_values = true)]
    principals: String,
    /// What is allowed beyond a shell, separated by commas: `Sftp`, `LocalForward`, `AgentForward`.
    #[arg(long, value_name = "NAMES", default_value = "Sftp", allow_hyphen_values = true)]
    allow: String,
    /// A variable for the session, NAME=VALUE; may be repeated. What looks secret, by name or value, is left out.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable, allow_hyphen_values = true)]
    env: Vec<(String, String)>,
    /// Where programs start. Default: as the build.
    #[arg(long, value_name = "PATH", default_value = "", allow_hyphen_values = true)]
    working_dir: String,
    /// `Isolated` or `Egress`. Default: isolated.
    #[arg(long, value_name = "NETWORK", default_value = "", allow_hyphen_values = true)]
    network: String,
    /// How long the session lives.
    #[arg(long, value_name = "TIME", default_value = "30m", allow_hyphen_values = true)]
    ttl: String,
    /// Why, for the people who read the records.
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    reason: String,
    /// Who asks. Default: the account that runs this. Another name needs the right `impersonate-requester`.
    #[arg(long, value_name = "NAME", default_value = "", allow_hyphen_values = true, conflicts_with = "url")]
    requester: String,
    /// Sessions of one project take turns. Default: the namespace.
    #[arg(long, value_name = "NAME", default_value = "", allow_hyphen_values = true, conflicts_with = "url")]
    project: String,
    /// Commit of the build. Only recorded.
    #[arg(long, value_name = "COMMIT", default_value = "", allow_hyphen_values = true)]
    commit: String,
    /// Pull request of the build. Only recorded.
    #[arg(long, value_name = "NUMBER", default_value = "", allow_hyphen_values = true)]
    pull_request: String,
    /// Page of the build. Only recorded.
    #[arg(long, value_name = "URL", default_value = "", allow_hyphen_values = true)]
    build_url: String,
    /// How long to wait for it to open.
    #[arg(long, value_name = "TIME", default_value = "2m", allow_hyphen_values = true)]
    wait: String,
    /// Folder for the results `name`, `command` and `expires-at`: a Tekton step's `$(results.….path)` lie in one.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Ends with 1 when no session opened.
    #[arg(long)]
    strict: bool,
}

/// Why there is no session. The text is for the log of the build.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The flags do not fit.
    #[error(transparent)]
    Order(#[from] order::OrderError),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// The provisioning service.
    #[error(transparent)]
    Service(#[from] service::ServiceError),
    /// A result cannot be written.
    #[error("failed to write the result {path}")]
    Result {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Where sessions are made.
enum Door {
    Cluster(Box<cluster::Cluster>),
    Service(Box<service::Service>),
}

/// Between two looks at the session.
const LOOK: Duration = Duration::from_secs(1);
/// One attempt to make it, all retries within.
const MAKE: Duration = Duration::from_mins(1);

/// The value is not repeated in a refusal.
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// For a command line that says nothing sensible: a build is not turned red by it. `None` where `ci open` was not asked for, or with `--strict`.
#[must_use]
pub fn excuse(arguments: &[String], why: &str) -> Option<String> {
    let open = arguments.get(1).is_some_and(|word| word == "ci") && arguments.get(2).is_some_and(|word| word == "open");
    let strict = arguments.iter().any(|word| word == "--strict" || word.starts_with("--strict="));
    (open && !strict).then(|| block::of_failure(why))
}

/// Opens a session, or says why not. Gives whether all is well, which without `--strict` it always is.
pub async fn run(command: Ci) -> bool {
    let Ci::Open(options) = command;
    if let Some(why) = order::nothing_to_do(&options) {
        print(&format!("sandglass: {why}"));
        // Tekton takes a missing result of a finished step for a failure of what uses it.
        return write_results(options.results.as_deref(), &Report::default()).is_ok() || !options.strict;
    }
    let outcome = open(&options).await;
    let (report, text) = match outcome {
        Ok(report) => {
            let text = block::of_report(&report);
            (report, text)
        }
        Err(error) => (Report::default(), block::of_failure(&describe(&error))),
    };
    print(&text);
    if let Err(error) = write_results(options.results.as_deref(), &report) {
        print(&format!("sandglass: {}", describe(&error)));
    }
    report.open || !options.strict
}

async fn open(options: &Open) -> Result<Report, OpenError> {
    let order = Order::new(options, chrono::Utc::now())?;
    let mut door = match &options.url {
        Some(url) => Door::Service(Box::new(service::Service::new(url, options).await?)),
        None => Door::Cluster(Box::new(cluster::Cluster::connect(options.namespace.as_deref()).await?)),
    };
    let made = timeout(MAKE, door.make(&order)).await;
    let mut report = made.unwrap_or_else(|_| Err(OpenError::Order(order::OrderError::Late)))?;
    let began = Instant::now();
    while !report.is_decided() && began.elapsed() < order.wait {
        progress(&format!("{}: {} ({} s)", report.name, report.message, began.elapsed().as_secs()));
        sleep(LOOK.min(order.wait)).await;
        match timeout(LOOK * 10, door.look(&report)).await {
            Ok(Ok(now)) => report = now,
            // It was made all the same, and may open.
            Ok(Err(OpenError::Service(refused))) if refused.is_final() => {
                report.message = describe(&refused);
                break;
            }
            // A look that fails otherwise is taken again, within the limit.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    progress("");
    report.stripped.extend(order.stripped);
    report.stripped.sort_unstable();
    report.stripped.dedup();
    Ok(report)
}

impl Door {
    async fn make(&mut self, order: &Order) -> Result<Report, OpenError> {
        Ok(match self {
            Self::Cluster(cluster) => cluster.make(order).await?,
            Self::Service(service) => service.make(order, Instant::now() + MAKE).await?,
        })
    }

    async fn look(&mut self, report: &Report) -> Result<Report, OpenError> {
        Ok(match self {
            Self::Cluster(cluster) => cluster.look(&report.name).await?,
            Self::Service(service) => service.look(&report.namespace, &report.name).await?,
        })
    }
}

fn write_results(folder: Option<&Path>, report: &Report) -> Result<(), OpenError> {
    let Some(folder) = folder else { return Ok(()) };
    let command = report.command.as_deref().filter(|_| report.open).unwrap_or_default();
    for (name, value) in
        [("name", report.name.as_str()), ("command", command), ("expires-at", report.expires_at.as_deref().unwrap_or_default())]
    {
        let path = folder.join(name);
        std::fs::write(&path, value).map_err(|source| OpenError::Result { path, source })?;
    }
    Ok(())
}

/// What failed, and after each colon why, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    block::plain(&text)
}

fn print(text: &str) {
    // Nobody is left to be told of a log that is closed.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The last line of a terminal, written over.
fn progress(text: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{}", block::plain(text));
        let _ = terminal.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_arguments_turns_no_build_red_unless_strict() {
        let excused = |words: &str| excuse(&words.split(' ').map(str::to_owned).collect::<Vec<_>>(), "there is no --bogus").is_some();
        assert!(excused("sandglass ci open --bogus") && excused("sandglass ci open --reason -x --bogus"));
        for words in ["sandglass ci open --strict --bogus", "sandglass ci open --strict=true", "sandglass ci", "sandglass gateway --bogus"]
        {
            assert!(!excused(words), "{words}");
        }
    }
}
