//! `kubectl sandglass open`: asks for a session, waits until it is open, and says how to get in, or goes in.

use super::cluster::{Cluster, ClusterOptions};
use super::failure::Failure;
use super::keys::{self, fingerprint};
use super::manifest::{SessionArguments, Source, SourceArguments, derived_name, object, without_secrets};
use super::output::{Form, formed, plain, print};
use super::sessions::{Entry, Kind, expires_in};
use super::ssh::{self, ClientOptions};
use super::wait::{self, Sight};
use crate::kubernetes::time::to_chrono;
use crate::kubernetes::{call, call_or_absent};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to open a session.
#[derive(Args, Debug)]
pub struct Open {
    #[command(flatten, next_help_heading = "Source")]
    source: SourceArguments,
    #[command(flatten, next_help_heading = "Session")]
    session: SessionArguments,
    /// Go straight in.
    #[arg(long, help_heading = "Afterwards", conflicts_with = "no_wait")]
    ssh: bool,
    /// Do not wait until it is open.
    #[arg(long, help_heading = "Afterwards")]
    no_wait: bool,
    /// How long to wait: 90s, 5m, 1h.
    #[arg(long, help_heading = "Afterwards", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
    /// Print the object instead.
    #[arg(long, short, help_heading = "Afterwards", value_enum, value_name = "FORM", conflicts_with = "ssh")]
    output: Option<Form>,
    /// With --ssh: a command, after `--`.
    #[arg(last = true, value_name = "COMMAND", requires = "ssh")]
    command: Vec<String>,
}

/// `90s`, `5m`, `1h`: one number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let found = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds)
    });
    found.filter(|seconds| (1..=86_400).contains(seconds)).map(Duration::from_secs).ok_or_else(|| "write 90s, 5m or 1h, at most 24h".into())
}

/// Opens a session; gives the exit code, which with `--ssh` is that of ssh.
///
/// # Errors
/// No keys, no such source, refused, not open in time, or never.
pub async fn run(options: &ClusterOptions, mut arguments: Open) -> Result<u8, Failure> {
    let source = arguments
        .source
        .chosen()
        .ok_or_else(|| Failure::Usage("say what to debug: --job, --pod, --image, --task-run or --pipeline-run".into()))?;
    let stripped = without_secrets(&mut arguments.session);
    if !stripped.is_empty() {
        eprintln!("note: left out, for what looks secret is never written into an object: {}", plain(&stripped.join(", ")));
    }
    let session = &arguments.session;
    // A session for certificates alone needs no key.
    let keys =
        if session.keys.is_empty() && !session.principals.is_empty() { Vec::new() } else { keys::public_keys(&session.keys).await? };
    let cluster = options.connect().await?;
    is_there(&cluster, source).await?;
    let requester = match &session.requester {
        Some(requester) => requester.clone(),
        None => who_am_i(&cluster).await?,
    };
    let name = match &session.name {
        Some(name) => name.clone(),
        None => derived_name(source, random()?),
    };
    let object = object(source, session, &name, &cluster.namespace, &requester, &keys);
    let entry = create(&cluster, object).await?;
    if arguments.no_wait {
        return report(&entry, arguments.output, false).map(|()| 0);
    }
    let entry = wait::until(&cluster, Kind::Debug, &name, arguments.timeout, |entry| match wait::judge(entry) {
        Sight::Open => Ok(true),
        Sight::Pending(_) => Ok(false),
        Sight::Hopeless(why) => Err(Failure::NotOpen(why)),
    });
    let entry = entry.await?;
    if !arguments.ssh {
        return report(&entry, arguments.output, true).map(|()| 0);
    }
    let client = ClientOptions { identity: session.keys.first().map(|file| private_half(file)), ..ClientOptions::default() };
    ssh::log_in(&ssh::destination(&entry)?, &client, &arguments.command).await
}

/// With a key of a file, ssh must be told: the private half beside it, else the file itself, whose key an agent may hold.
fn private_half(file: &Path) -> PathBuf {
    let private = file.with_extension("");
    if file.extension().is_some_and(|extension| extension == "pub") && private.is_file() { private } else { file.to_owned() }
}

async fn create(cluster: &Cluster, object: Value) -> Result<Entry, Failure> {
    let object: DynamicObject =
        serde_json::from_value(object).map_err(|error| Failure::Failed(format!("failed to write the object: {error}")))?;
    let name = object.name_any();
    let created = call("create the DebugSession", Kind::Debug.api(cluster).create(&PostParams::default(), &object)).await;
    match created {
        Ok(object) => Ok(Entry { kind: Kind::Debug, object }),
        Err(error) if error.code() == 409 => {
            Err(Failure::Failed(format!("there is a DebugSession {name} in namespace {} already: give another --name", cluster.namespace)))
        }
        Err(error) if error.code() == 404 && error.message().starts_with("namespaces ") => {
            Err(Failure::Failed(format!("there is no namespace {}: choose one with -n", cluster.namespace)))
        }
        Err(error) => Err(Failure::of_call(&error)),
    }
}

/// Who the API server says the user is.
async fn who_am_i(cluster: &Cluster) -> Result<String, Failure> {
    let review =
        call("ask who you are", Api::all(cluster.client.clone()).create(&PostParams::default(), &SelfSubjectReview::default())).await;
    let review = review.map_err(|error| Failure::of_call(&error))?;
    let name = review.status.and_then(|status| status.user_info).and_then(|user| user.username).filter(|name| !name.is_empty());
    name.ok_or_else(|| Failure::Failed("the API server does not say who you are: give --requester NAME".into()))
}

/// Says at once that a source does not exist; whoever may not look leaves it to the controller.
async fn is_there(cluster: &Cluster, source: Source<'_>) -> Result<(), Failure> {
    let Source::Object { field, name } = source else { return Ok(()) };
    let (group, version, kind) = match field {
        "job" => ("batch", "v1", "Job"),
        "taskRun" => ("tekton.dev", "v1", "TaskRun"),
        "pipelineRun" => ("tekton.dev", "v1", "PipelineRun"),
        _ => ("", "v1", "Pod"),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    match call_or_absent("look for the source", api.get_metadata(name)).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure::Failed(format!(
            "there is no {kind} {} in namespace {}: see `kubectl get {} -n {}`",
            plain(name),
            cluster.namespace,
            resource.plural,
            cluster.namespace
        ))),
        Err(error) if error.code() == 403 => Ok(()),
        Err(error) => Err(Failure::of_call(&error)),
    }
}

fn random() -> Result<[u8; 5], Failure> {
    let mut bytes = [0; 5];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| Failure::Failed("the system gives no random numbers: give --name".into()))
}

fn report(entry: &Entry, form: Option<Form>, open: bool) -> Result<(), Failure> {
    let text = match form {
        Some(form) => formed(form, vec![entry.json()], &[entry.reference()], false)?,
        None if open => summary(entry, Utc::now()),
        None => format!("{} created\n", entry.reference()),
    };
    print(&text)
}

/// How to get in, for people.
fn summary(entry: &Entry, now: DateTime<Utc>) -> String {
    let status = entry.status();
    let mut lines = Vec::new();
    let mut line = |title: &str, value: &str| lines.push(format!("{title:<11}{}\n", plain(value)));
    line("session", &entry.reference());
    if let Some(connection) = &status.connection {
        line("get in", &connection.command);
        for known in &connection.known_hosts {
            line("host key", known);
            if let Some(print) = known.split_once(' ').and_then(|(_, key)| fingerprint(key)) {
                line("", &print);
            }
        }
    }
    if let Some(end) = &status.expires_at {
        let end = to_chrono(end).to_rfc3339_opts(SecondsFormat::Secs, true);
        line("expires", &format!("{end} (in {})", expires_in(&status, now)));
    }
    let stripped: Vec<&str> = entry
        .object
        .data
        .pointer("/status/strippedEnv")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !stripped.is_empty() {
        line("stripped", &format!("{} (variables of the build that look secret)", stripped.join(", ")));
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::super::sessions::tests::entry;
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_of_time_have_a_unit() {
        assert_eq!([duration("90s"), duration("5m"), duration("1h")].map(|one| one.expect("a time").as_secs()), [90, 300, 3600]);
        for text in ["", "5", "m", "-1m", "0s", "25h", "99999999999999999999h", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_summary_says_how_to_get_in() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let text = summary(
            &entry(&json!({
                "expiresAt": "2027-01-15T08:10:00Z",
                "strippedEnv": ["NPM_TOKEN", "A\u{1b}[2J"],
                "connection": {
                    "host": "d.example.com", "port": 2222, "user": "ci.build-42", "command": "ssh -p 2222 ci.build-42@d.example.com",
                    "knownHosts": ["[d.example.com]:2222 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJMHtBt9l97wMQtHFB8P4P1g8/Xmgt6rMhGvbRJhjxZF"],
                },
            })),
            now,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "session    debugsession.sandglass.dev/build-42");
        assert_eq!(lines[1], "get in     ssh -p 2222 ci.build-42@d.example.com");
        assert!(
            lines[2].starts_with("host key   [d.example.com]:2222 ssh-ed25519 ") && lines[3].starts_with("           SHA256:"),
            "{text}"
        );
        assert_eq!(lines[4], "expires    2027-01-15T08:10:00Z (in 10m)");
        assert!(lines[5].contains("NPM_TOKEN, A?[2J"), "{text}");
    }

    #[test]
    fn ssh_gets_the_private_half_that_lies_beside() {
        let folder = tempfile::tempdir().expect("a folder");
        let public = folder.path().join("id.pub");
        assert_eq!(private_half(&public), public);
        std::fs::write(folder.path().join("id"), "").expect("written");
        assert_eq!(private_half(&public), folder.path().join("id"));
    }
}
