//! `kubectl sandglass list`: the sessions and recoveries that are not over.

use super::cluster::ClusterOptions;
use super::failure::Failure;
use super::output::{Form, formed, plain, print, table};
use super::sessions::{self, Entry, expires_in};
use chrono::{DateTime, Utc};
use clap::Args;
use kube::ResourceExt as _;

/// Which, and how.
#[derive(Args, Debug)]
pub struct List {
    /// Of all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Also those that are over.
    #[arg(long)]
    all: bool,
    /// Print objects instead of a table.
    #[arg(long, short, value_enum, value_name = "FORM")]
    output: Option<Form>,
}

/// Lists.
///
/// # Errors
/// The API server refuses, or cannot be reached.
pub async fn run(options: &ClusterOptions, arguments: &List) -> Result<u8, Failure> {
    let cluster = options.connect().await?;
    let (mut entries, hidden) = sessions::list(&cluster, arguments.all_namespaces).await?;
    entries.retain(|entry| arguments.all || !entry.is_over());
    for kind in hidden {
        eprintln!("note: you may not list {}s here", kind.name());
    }
    if let Some(form) = arguments.output {
        let references: Vec<String> = entries.iter().map(Entry::reference).collect();
        print(&formed(form, entries.iter().map(Entry::json).collect(), &references, true)?)?;
    } else if entries.is_empty() {
        let place = if arguments.all_namespaces { "any namespace".into() } else { format!("namespace {}", cluster.namespace) };
        eprintln!("no {}sessions in {place}", if arguments.all { "" } else { "live " });
    } else {
        print(&table(&rows(&entries, Utc::now())))?;
    }
    Ok(0)
}

fn rows(entries: &[Entry], now: DateTime<Utc>) -> Vec<Vec<String>> {
    let titles = ["NAMESPACE", "NAME", "KIND", "PHASE", "EXPIRES IN", "REQUESTER", "COMMAND"].map(str::to_owned).to_vec();
    let row = |entry: &Entry| {
        let status = entry.status();
        let phase = status.phase.map_or_else(|| "-".into(), |phase| format!("{phase:?}"));
        let command = status.connection.as_ref().filter(|_| status.ended_at.is_none()).map_or("-", |connection| &connection.command);
        [
            &entry.object.namespace().unwrap_or_default(),
            &entry.object.name_any(),
            entry.kind.name(),
            &phase,
            &expires_in(&status, now),
            &entry.requester(),
            command,
        ]
        .map(plain)
        .to_vec()
    };
    std::iter::once(titles).chain(entries.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sessions::tests::entry;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_what_one_needs() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let connection = json!({ "host": "h", "port": 22, "user": "ci.build-42", "command": "ssh ci.build-42@h" });
        let open = json!({ "phase": "Open", "expiresAt": "2027-01-15T08:10:00Z", "connection": connection });
        let over = json!({ "phase": "Ended", "endedAt": "2027-01-15T08:00:00Z", "connection": connection });
        let rows = rows(&[entry(&open), entry(&over), entry(&json!(null))], now);
        assert_eq!(rows[1], ["ci", "build-42", "DebugSession", "Open", "10m", "octocat", "ssh ci.build-42@h"]);
        assert_eq!(rows[2][3..], ["Ended", "over", "octocat", "-"]);
        assert_eq!(rows[3][3..], ["-", "-", "octocat", "-"]);
    }
}
