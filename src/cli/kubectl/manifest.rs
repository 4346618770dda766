//! From the arguments of `kubectl sandglass open` to the object. Pure.

use crate::api::debug_session::{Isolation, Network};
use crate::api::session::Capability;
use crate::domain::environment::{self, Variable};
use clap::builder::{PossibleValue, TypedValueParser as _};
use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

use super::complete;

/// Longest name that is made up: with namespace and host the ssh command still fits on a line.
const LONGEST_NAME: usize = 40;
/// Letters of a name's random end. None that are read for another.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What to debug: exactly one.
#[derive(Args, Clone, Debug, Default)]
#[group(required = true, multiple = false)]
pub struct SourceArguments {
    /// A failed Job: image, literal environment and working directory of its last failed pod.
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::jobs))]
    pub job: Option<String>,
    /// A failed pod.
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::pods))]
    pub pod: Option<String>,
    /// An image, best by digest.
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<String>,
    /// A failed Tekton `TaskRun`.
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::task_runs))]
    pub task_run: Option<String>,
    /// A failed Tekton `PipelineRun`: its first failed `TaskRun`.
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::pipeline_runs))]
    pub pipeline_run: Option<String>,
}

/// A source that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// An image.
    Image(&'a str),
    /// An object: its field in `spec.source`, its kind, and its name.
    Object {
        /// Field in `spec.source`.
        field: &'static str,
        /// Name of the object.
        name: &'a str,
    },
}

impl SourceArguments {
    /// The one that was named; clap sees to it that there is one.
    #[must_use]
    pub fn chosen(&self) -> Option<Source<'_>> {
        let objects =
            [("job", &self.job), ("pod", &self.pod), ("taskRun", &self.task_run), ("pipelineRun", &self.pipeline_run)].into_iter();
        let mut objects = objects.filter_map(|(field, name)| name.as_deref().map(|name| Source::Object { field, name }));
        objects.next().or_else(|| self.image.as_deref().map(Source::Image))
    }
}

/// What the session is to be.
#[derive(Args, Clone, Debug, Default)]
pub struct SessionArguments {
    /// Container of the pod or Job. Default: the one that failed.
    #[arg(long, short, value_name = "NAME", conflicts_with_all = ["image", "task_run", "pipeline_run"])]
    pub container: Option<String>,
    /// Name of the session. Default: of the source, with a random end.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How long it lives: 30m, 1h, 1h15m. Default: 30m.
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<String>,
    /// Why, for the records.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// File with a public key that gets in; may be repeated. Default: the keys of your ssh-agent.
    #[arg(long = "key", value_name = "FILE.pub", value_hint = ValueHint::FilePath)]
    pub keys: Vec<PathBuf>,
    /// Principal whose certificates get in; may be repeated. Without --key, no plain key gets in then.
    #[arg(long = "principal", value_name = "NAME")]
    pub principals: Vec<String>,
    /// What is allowed beyond shell and commands, separated by commas. Default: Sftp.
    #[arg(long, value_name = "LIST", value_delimiter = ',', ignore_case = true, value_parser = capabilities())]
    pub allow: Vec<Capability>,
    /// What the pod reaches: the gateway alone, or the internet too. Default: Isolated.
    #[arg(long, value_name = "NETWORK", ignore_case = true, value_parser = networks())]
    pub network: Option<Network>,
    /// Root inside a user namespace, or a numeric user. Default: the installation's.
    #[arg(long, value_name = "ISOLATION", ignore_case = true, value_parser = isolations())]
    pub isolation: Option<Isolation>,
    /// An environment variable; may be repeated. Names and values that look secret are dropped.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Limits of the pod, separated by commas: cpu=1,memory=2Gi,ephemeral-storage=4Gi.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = limit)]
    pub limits: Vec<(String, String)>,
    /// Sessions of one project wait for each other. Default: the namespace.
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// Who asks. Default: who the API server says you are.
    #[arg(long, value_name = "NAME")]
    pub requester: Option<String>,
}

/// A parser of words that stand for values, as the object has them.
fn words<T: Clone + Send + Sync + 'static>(values: &'static [(&'static str, T)]) -> impl clap::builder::TypedValueParser<Value = T> {
    let names = values.iter().map(|(word, _)| PossibleValue::new(*word));
    clap::builder::PossibleValuesParser::new(names).try_map(|given| {
        let found = values.iter().find(|(word, _)| word.eq_ignore_ascii_case(&given));
        found.map(|(_, value)| value.clone()).ok_or("there is no such value")
    })
}

fn capabilities() -> impl clap::builder::TypedValueParser<Value = Capability> {
    words(&[("Sftp", Capability::Sftp), ("LocalForward", Capability::LocalForward), ("AgentForward", Capability::AgentForward)])
}

fn networks() -> impl clap::builder::TypedValueParser<Value = Network> {
    words(&[("Isolated", Network::Isolated), ("Egress", Network::Egress)])
}

fn isolations() -> impl clap::builder::TypedValueParser<Value = Isolation> {
    words(&[("UserNamespace", Isolation::UserNamespace), ("Restricted", Isolation::Restricted)])
}

/// `NAME=VALUE`. The value may be anything, also nothing; it is not repeated in the refusal.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

fn limit(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name @ ("cpu" | "memory" | "ephemeral-storage"), value)) if !value.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write cpu=QUANTITY, memory=QUANTITY or ephemeral-storage=QUANTITY".into()),
    }
}

/// Takes variables that look secret out of what was asked for, and gives their names: what is written into an object, everybody who may
/// look at sessions reads.
#[must_use]
pub fn without_secrets(arguments: &mut SessionArguments) -> Vec<String> {
    let written = std::mem::take(&mut arguments.env).into_iter().map(|(name, value)| Variable::Literal(name, value));
    let filtered = environment::filter(written, &[]);
    arguments.env = filtered.kept;
    filtered.stripped
}

/// The object. `keys` are lines of `.pub` files.
#[must_use]
pub fn object(source: Source<'_>, arguments: &SessionArguments, name: &str, namespace: &str, requester: &str, keys: &[String]) -> Value {
    let mut access = Map::new();
    let mut spec = Map::new();
    let mut set = |field: &str, value: Value| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        if !empty {
            spec.insert(field.into(), value);
        }
    };
    set(
        "source",
        match source {
            Source::Image(image) => json!({ "image": image }),
            Source::Object { field, name } => {
                let mut reference = Map::from_iter([("name".to_owned(), json!(name))]);
                if let Some(container) = &arguments.container {
                    reference.insert("container".into(), json!(container));
                }
                Value::from_iter([(field, Value::Object(reference))])
            }
        },
    );
    set("env", arguments.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect());
    set("ttl", json!(arguments.ttl));
    set("project", json!(arguments.project));
    set("requester", json!(requester));
    set("reason", json!(arguments.reason));
    set("network", json!(arguments.network));
    set("isolation", json!(arguments.isolation));
    if !arguments.limits.is_empty() {
        let limits: Map<String, Value> = arguments.limits.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        set("resources", json!({ "limits": limits }));
    }
    for (field, value) in [("authorizedKeys", json!(keys)), ("principals", json!(arguments.principals)), ("allow", json!(arguments.allow))]
    {
        if value.as_array().is_some_and(|list| !list.is_empty()) {
            access.insert(field.into(), value);
        }
    }
    set("access", Value::Object(access));
    json!({
        "apiVersion": "sandglass.dev/v1alpha1",
        "kind": "DebugSession",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

/// A name for the session: readable from its source, with an end of its own made of `random`.
#[must_use]
pub fn derived_name(source: Source<'_>, random: [u8; 5]) -> String {
    let base = match source {
        Source::Object { name, .. } => name,
        // registry.example.com:5000/team/go-builder:1.2@sha256:… is a go-builder.
        Source::Image(image) => {
            let image = image.split('@').next().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            last.split(':').next().unwrap_or_default()
        }
    };
    let end: String =
        random.iter().filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len())).map(|byte| char::from(*byte)).collect();
    let letters = base.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' });
    let cut: String = letters.skip_while(|letter| *letter == '-').take(LONGEST_NAME - 1 - random.len()).collect();
    match cut.trim_end_matches('-') {
        "" => format!("session-{end}"),
        base => format!("{base}-{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DebugSession;

    #[test]
    fn what_looks_secret_never_reaches_the_object() {
        let env = [("CI", "true"), ("NPM_TOKEN", "abc"), ("URL", "https://me:word@example.com/")];
        let mut arguments =
            SessionArguments { env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(), ..SessionArguments::default() };
        assert_eq!(without_secrets(&mut arguments), ["NPM_TOKEN", "URL"]);
        assert_eq!(arguments.env, [("CI".to_owned(), "true".to_owned())]);
    }

    #[test]
    fn names_come_from_the_source_and_fit() {
        let image = |image| derived_name(Source::Image(image), [0, 1, 2, 3, 4]);
        assert_eq!(image("registry.example.com:5000/team/Go_Builder:1.2@sha256:abc"), "go-builder-abcde");
        assert_eq!(image("busybox"), "busybox-abcde");
        assert_eq!(image("..."), "session-abcde");
        let long = derived_name(Source::Object { field: "pod", name: &"a-".repeat(60) }, [31; 5]);
        assert!(long.len() <= LONGEST_NAME && long.ends_with("a-99999"), "{long}");
    }

    #[test]
    fn every_argument_has_its_field() {
        let arguments = SessionArguments {
            container: Some("build".into()),
            ttl: Some("45m".into()),
            reason: Some("flaky".into()),
            principals: vec!["octocat".into()],
            allow: vec![Capability::Sftp, Capability::AgentForward],
            network: Some(Network::Egress),
            isolation: Some(Isolation::Restricted),
            env: vec![("CI".into(), "true".into()), ("EMPTY".into(), String::new())],
            limits: vec![("cpu".into(), "500m".into())],
            project: Some("frontend".into()),
            ..SessionArguments::default()
        };
        let source = Source::Object { field: "pod", name: "runner-x" };
        let object = object(source, &arguments, "x-abcde", "ci", "jane", &["ssh-ed25519 AAAA".into()]);
        let expected = json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession", "metadata": { "name": "x-abcde", "namespace": "ci" },
            "spec": {
                "source": { "pod": { "name": "runner-x", "container": "build" } },
                "env": [{ "name": "CI", "value": "true" }, { "name": "EMPTY", "value": "" }],
                "ttl": "45m", "project": "frontend", "requester": "jane", "reason": "flaky", "network": "Egress", "isolation": "Restricted",
                "resources": { "limits": { "cpu": "500m" } },
                "access": { "authorizedKeys": ["ssh-ed25519 AAAA"], "principals": ["octocat"], "allow": ["Sftp", "AgentForward"] },
            },
        });
        assert_eq!(object, expected);
        serde_json::from_value::<DebugSession>(object).expect("it is what the kind's own type reads");
    }

    #[test]
    fn what_was_not_said_is_left_to_the_installation() {
        let object = object(Source::Image("x"), &SessionArguments::default(), "n", "ci", "jane", &["k".into()]);
        assert_eq!(object["spec"], json!({ "source": { "image": "x" }, "requester": "jane", "access": { "authorizedKeys": ["k"] } }));
        for field in ["taskRun", "pipelineRun", "job"] {
            let object = super::object(Source::Object { field, name: "r" }, &SessionArguments::default(), "n", "ci", "jane", &[]);
            assert_eq!(object["spec"]["source"][field]["name"], "r");
        }
    }

    #[test]
    fn pairs_are_read_and_never_repeated() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("hidden-value").is_err_and(|text| !text.contains("hidden")));
        assert!(limit("cpu=1").is_ok() && limit("gpu=1").is_err() && limit("cpu=").is_err());
    }
}
