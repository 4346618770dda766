//! From flags to what is asked for. Pure.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use ring::digest;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

use super::Open;
use crate::domain::environment::{self, Variable};
use crate::domain::lifetime;

/// Annotation: which run, attempt and job a session of a pipeline is for. A name that is there already must be of the same.
pub(super) const RUN: &str = "sandglass.dev/ci-run";
/// An ended session of a pipeline is kept for as long as somebody may ask what happened to it.
const DELETE_AFTER: &str = "24h";
/// Clocks differ.
const SLACK: TimeDelta = TimeDelta::minutes(1);
/// Names of sessions become part of an ssh user name that people read.
const LONGEST_BASE: usize = 40;

/// Why nothing can be asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A flag is missing.
    #[error("{0}")]
    Missing(&'static str),
    /// A flag's value does not fit.
    #[error("--{flag} is {value:?}: {cure}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What to write instead.
        cure: &'static str,
    },
    /// Nobody answered.
    #[error("no answer within a minute")]
    Late,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    /// Name of the object.
    pub name: String,
    /// `<run>/<attempt>/<job>`.
    pub origin: String,
    /// `spec`; without `requester`, where that is the account's own name.
    pub spec: Value,
    /// The body of a request to the provisioning service.
    pub request: Value,
    /// How long to wait for it to open.
    pub wait: Duration,
    /// Names of variables that look secret: they go nowhere.
    pub stripped: Vec<String>,
}

/// Why there is nothing to do, if so.
pub(super) fn nothing_to_do(options: &Open) -> Option<String> {
    match options.debug.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => {}
        "" | "false" | "0" | "no" | "off" => return Some("debugging is off for this run: nothing to do".into()),
        other => return Some(format!("--debug is {:?}: write true or false; nothing is opened", super::block::plain(other))),
    }
    let failed = matches!(options.status.to_ascii_lowercase().as_str(), "failed" | "failure");
    (!failed).then(|| format!("the run is {:?}, not Failed: nothing to do", super::block::plain(&options.status)))
}

impl Order {
    pub(super) fn new(options: &Open, now: DateTime<Utc>) -> Result<Self, OrderError> {
        let duration = |flag, value: &str| {
            let cure = "write hours, minutes and seconds, such as 30m or 1h15m";
            lifetime::parse_duration(value).ok_or_else(|| OrderError::Value { flag, value: value.to_owned(), cure })
        };
        let (ttl, wait) = (duration("ttl", &options.ttl)?, duration("wait", &options.wait)?);
        let (keys, principals) = (lines(&options.authorized_keys), words(&options.principals));
        if keys.is_empty() && principals.is_empty() {
            return Err(OrderError::Missing(
                "nobody could log in: give --authorized-keys (the public half of an SSH key) or --principals (of user certificates)",
            ));
        }
        if let Some(wrong) = keys.iter().find(|key| russh::keys::PublicKey::from_openssh(key).is_err()) {
            // A private key given by mistake is not repeated.
            let value: String = wrong.chars().take(12).collect();
            return Err(OrderError::Value { flag: "authorized-keys", value: format!("{value}…"), cure: "give lines of a .pub file" });
        }
        let access = json!({ "authorizedKeys": keys, "principals": principals, "allow": words(&options.allow) });
        let build = filled(&[
            ("commit", &options.commit),
            ("pullRequest", &options.pull_request),
            ("run", &options.run),
            ("url", &options.build_url),
        ]);
        let written = options.env.iter().map(|(name, value)| Variable::Literal(name.clone(), value.clone()));
        let environment::Filtered { kept, stripped } = environment::filter(written, &[]);
        let mut circumstances = filled(&[("workingDir", &options.working_dir), ("network", &options.network)]);
        if !kept.is_empty() {
            let variables: Vec<Value> = kept.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
            circumstances.insert("env".to_owned(), json!(variables));
        }
        let mut request = Self::request(options, &access);
        request.extend(circumstances.clone());
        let request = Value::Object(request);
        if options.url.is_some() {
            options
                .image
                .as_ref()
                .ok_or(OrderError::Missing("--url needs --image: outside the cluster nothing else is known of the build"))?;
            let name = String::new();
            return Ok(Self { name, origin: String::new(), spec: Value::Null, request, wait, stripped });
        }
        if options.run.is_empty() {
            return Err(OrderError::Missing("--run is missing: give what identifies the run, such as $(context.pipelineRun.uid)"));
        }
        let (base, source) = source(options)?;
        let origin = format!("{}/{}/{}", options.run, options.attempt, options.job);
        let not_after = now + TimeDelta::from_std(ttl).unwrap_or(TimeDelta::hours(24)) + SLACK;
        let mut spec = filled(&[("reason", &options.reason), ("requester", &options.requester), ("project", &options.project)]);
        spec.extend(circumstances);
        spec.extend([
            ("source".to_owned(), source),
            ("access".to_owned(), access),
            ("ttl".to_owned(), json!(options.ttl)),
            ("notAfter".to_owned(), json!(not_after.to_rfc3339_opts(SecondsFormat::Secs, true))),
            ("retention".to_owned(), json!("Delete")),
            ("deleteAfter".to_owned(), json!(DELETE_AFTER)),
            ("build".to_owned(), Value::Object(build)),
        ]);
        Ok(Self { name: name(&base, &origin), origin, spec: Value::Object(spec), request, wait, stripped })
    }

    fn request(options: &Open, access: &Value) -> Map<String, Value> {
        let mut request = filled(&[
            ("image", options.image.as_deref().unwrap_or_default()),
            ("job", &options.job),
            ("reason", &options.reason),
            ("ttl", &options.ttl),
            ("commit", &options.commit),
            ("pullRequest", &options.pull_request),
            ("url", &options.build_url),
        ]);
        // The service wants to know which job, also where the run has one only.
        request.entry("job").or_insert_with(|| json!("job"));
        for field in ["authorizedKeys", "principals", "allow"] {
            request.insert(field.to_owned(), access[field].clone());
        }
        request
    }
}

/// What is debugged, and the word its session's name begins with.
fn source(options: &Open) -> Result<(String, Value), OrderError> {
    let given =
        [("pipelineRun", &options.pipeline_run), ("taskRun", &options.task_run), ("job", &options.kubernetes_job), ("pod", &options.pod)];
    let named = given.into_iter().find_map(|(field, name)| name.as_ref().map(|name| (name.clone(), json!({ field: { "name": name } }))));
    let image = || options.image.as_ref().map(|image| (repository(image), json!({ "image": image })));
    named
        .or_else(image)
        .ok_or(OrderError::Missing("nothing is named to debug: give --pipeline-run, --task-run, --kubernetes-job, --pod or --image"))
}

/// The last word of an image's name, without tag and digest.
fn repository(image: &str) -> String {
    let path = image.split('@').next().unwrap_or(image);
    let last = path.rsplit('/').next().unwrap_or(path);
    last.split(':').next().unwrap_or(last).to_owned()
}

/// A name that is the same for the same run, attempt and job, and for no others: what the build is called, and ten digits of a hash.
fn name(base: &str, origin: &str) -> String {
    let hash = digest::digest(&digest::SHA256, origin.as_bytes());
    let digits = hash.as_ref().iter().take(5).fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    let readable: String = base
        .to_ascii_lowercase()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(LONGEST_BASE)
        .collect();
    let readable = readable.trim_matches('-');
    if readable.is_empty() { format!("ci-{digits}") } else { format!("{readable}-{digits}") }
}

/// The fields that are not empty.
fn filled(fields: &[(&str, &str)]) -> Map<String, Value> {
    fields.iter().filter(|(_, value)| !value.is_empty()).map(|(field, value)| ((*field).to_owned(), json!(value))).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ octocat";

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        open: Open,
    }

    fn options(flags: &[&str]) -> Open {
        Arguments::try_parse_from(["open"].iter().chain(flags)).expect("flags").open
    }

    fn order(flags: &[&str]) -> Result<Order, OrderError> {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        Order::new(&options(&[&["--authorized-keys", KEY][..], flags].concat()), now)
    }

    #[test]
    fn a_pipeline_run_becomes_an_object_with_an_end() {
        let order = order(&[
            "--pipeline-run",
            "Build_42",
            "--run",
            "u-1",
            "--commit",
            "0a1b",
            "--ttl",
            "10m",
            "--requester",
            "octocat",
            "--principals",
            "a, b",
        ])
        .expect("an order");
        assert!(order.name.starts_with("build-42-") && order.name.len() == 19, "{}", order.name);
        assert_eq!(order.origin, "u-1/1/");
        assert_eq!(
            order.spec,
            json!({
                "source": { "pipelineRun": { "name": "Build_42" } },
                "access": { "authorizedKeys": [KEY], "principals": ["a", "b"], "allow": ["Sftp"] },
                "ttl": "10m", "notAfter": "2027-01-15T08:11:00Z", "retention": "Delete", "deleteAfter": "24h",
                "build": { "commit": "0a1b", "run": "u-1" }, "requester": "octocat",
            })
        );
    }

    #[test]
    fn the_same_attempt_has_the_same_name_and_another_has_another() {
        let named = |flags: &[&str]| order(&[&["--task-run", "t", "--run", "u"][..], flags].concat()).expect("an order").name;
        assert_eq!(named(&[]), named(&["--reason", "other", "--ttl", "1h"]));
        let (first, second, job) = (named(&[]), named(&["--attempt", "2"]), named(&["--job", "unit"]));
        assert!(first != second && second != job && first != job);
        let long = "x-".repeat(200);
        assert!(order(&["--pod", &long, "--run", "u"]).expect("an order").name.len() <= 63);
        assert!(order(&["--pod=---", "--run", "u"]).expect("an order").name.starts_with("ci-"));
        assert!(order(&["--image", "r.example.com:5000/a/go:1@sha256:0", "--run", "u"]).expect("an order").name.starts_with("go-"));
    }

    #[test]
    fn only_a_failed_run_with_the_switch_on_is_debugged() {
        for (flags, words) in [
            (&["--debug", "false"][..], Some("off")),
            (&["--debug", ""], Some("off")),
            (&["--debug", "perhaps"], Some("write true or false")),
            (&["--status", "Succeeded"], Some("not Failed")),
            (&["--status", "Completed"], Some("not Failed")),
            (&["--status", "None"], Some("not Failed")),
            (&["--status", "Failed", "--debug", "True"], None),
            (&["--status", "failure"], None),
        ] {
            let said = nothing_to_do(&options(flags));
            assert_eq!(said.is_some(), words.is_some(), "{flags:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{flags:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_cure() {
        for (flags, words) in [
            (&["--run", "u"][..], "--pipeline-run"),
            (&["--pod", "p"], "--run is missing"),
            (&["--pod", "p", "--run", "u", "--ttl", "soon"], "such as 30m"),
            (&["--pod", "p", "--run", "u", "--wait", "1d"], "--wait"),
            (&["--pod", "p", "--run", "u", "--authorized-keys", ""], "nobody could log in"),
            (&["--url", "https://x", "--pod", "p"], "--url needs --image"),
        ] {
            let given: Vec<&str> = if flags.contains(&"--authorized-keys") { vec![] } else { vec!["--authorized-keys", KEY] };
            let error = Order::new(&options(&[&given[..], flags].concat()), Utc::now()).expect_err("must be refused");
            assert!(error.to_string().contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_private_key_given_by_mistake_is_not_repeated() {
        let text = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----";
        let given = options(&["--authorized-keys", text, "--pod", "p", "--run", "u"]);
        let error = Order::new(&given, Utc::now()).expect_err("must be refused").to_string();
        assert!(error.contains(".pub file") && !error.contains("b3Blbn"), "{error}");
    }

    #[test]
    fn the_service_is_asked_for_what_it_knows() {
        let flags = ["--url", "https://x", "--image", "r.example.com/go:1", "--job", "unit", "--pull-request", "17"];
        let circumstances = ["--env", "GO=1.25", "--env", "NPM_TOKEN=x", "--working-dir", "/w", "--network", "Egress"];
        let order = order(&[&flags[..], &circumstances].concat()).expect("an order");
        assert_eq!(
            order.request,
            json!({
                "image": "r.example.com/go:1", "job": "unit", "ttl": "30m", "pullRequest": "17", "authorizedKeys": [KEY], "principals": [], "allow": ["Sftp"],
                "env": [{ "name": "GO", "value": "1.25" }], "workingDir": "/w", "network": "Egress",
            })
        );
        assert_eq!(order.stripped, ["NPM_TOKEN"]);
    }
}
