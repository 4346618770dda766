//! `sandglass recordings`: finds, shows, replays, verifies and exports. Reads the store itself; what may be read is the store's affair.

mod place;

pub use self::place::Place;
use super::replay::{self, Moment, What};
use crate::recording::cast::{self, Channel};
use crate::recording::format::Record;
use crate::recording::read::{Filter, Library, Loaded, State, Summary};
use anyhow::{Context as _, bail};
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use russh::keys::PublicKey;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to do with recordings.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Lists recordings, newest first.
    #[command(after_help = "Example:\n  sandglass recordings list --store s3://recordings --namespace ci --commit 0a1b2c3 --since 7d")]
    List(List),
    /// Shows what is known of one recording: who, when, its channels, and everything that was done.
    #[command(after_help = "Example:\n  sandglass recordings show 7f3a5c0d9e1b2a44 --store s3://recordings")]
    Show(One),
    /// Plays a channel in this terminal. Space: pause. Left and right: 5 s. [ and ]: 60 s. + and -: speed. m: next marker. q: end.
    #[command(after_help = "Example:\n  sandglass recordings replay 7f3a5c0d9e1b2a44 --speed 2 --idle-limit 1")]
    Replay(Replay),
    /// Verifies every chunk, the chain and the signature, and says exactly what is missing or changed.
    #[command(after_help = "Example:\n  sandglass recordings verify 7f3a5c0d9e1b2a44 --key recording_ed25519_key.pub")]
    Verify(Verify),
    /// Writes a channel as one asciicast file, or as text; or the audit events.
    #[command(after_help = "Example:\n  sandglass recordings export 7f3a5c0d9e1b2a44 --output build-42.cast")]
    Export(Export),
}

/// Which recordings.
#[derive(Args, Debug)]
pub struct List {
    /// Namespace of the session.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Name of the session.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Commit of the build.
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    /// Pull request of the build.
    #[arg(long, value_name = "NUMBER")]
    pull_request: Option<String>,
    /// Who asked for the session.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Begun at this time or later: 2026-11-25, 2026-11-25T10:00:00Z, or an age such as 90m, 12h or 7d.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begun before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// One JSON array.
    Json,
}

/// One recording.
#[derive(Args, Debug)]
pub struct One {
    /// Its connection, as in the log and in status.connections; or its whole address.
    #[arg(value_name = "RECORDING")]
    recording: String,
}

/// One channel of it.
#[derive(Args, Debug)]
pub struct OneChannel {
    #[command(flatten)]
    one: One,
    /// Number of the channel. Default: the only one, or the first with a terminal.
    #[arg(long, value_name = "NUMBER")]
    channel: Option<u32>,
}

/// How to play.
#[derive(Args, Debug)]
pub struct Replay {
    #[command(flatten)]
    channel: OneChannel,
    /// How much faster than it was.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Longest pause, in seconds.
    #[arg(long, value_name = "SECONDS")]
    idle_limit: Option<f64>,
    /// Begin here, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    start: f64,
    /// Pass everything to this terminal, also what acts on it: titles, the clipboard, questions it would answer.
    #[arg(long)]
    raw: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|speed| (0.01..=1000.0).contains(speed)).ok_or_else(|| "must be between 0.01 and 1000".into())
}

/// Against which key.
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    one: One,
    /// File with the installation's public key: `recording_ed25519_key.pub` of the `ConfigMap` sandglass-public.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// What to write.
#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    channel: OneChannel,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Format::Asciicast)]
    format: Format,
    /// Where to. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Asciicast v2: any asciinema player plays it.
    Asciicast,
    /// What was to be read, line by line.
    Text,
    /// The exact bytes, both streams together.
    Raw,
    /// The audit events: JSON lines.
    Audit,
}

/// Runs a command; gives whether all is well.
///
/// # Errors
/// The store, the recording, or what was asked for.
pub async fn run(place: &Place, command: Command) -> anyhow::Result<bool> {
    let library = place.library()?;
    match command {
        Command::List(arguments) => list(&library, arguments).await.map(|()| true),
        Command::Show(one) => show(&load(&library, &one).await?).map(|()| true),
        Command::Replay(arguments) => {
            let loaded = load(&library, &arguments.channel.one).await?;
            play(&loaded, &arguments).map(|()| true)
        }
        Command::Verify(arguments) => {
            let loaded = load(&library, &arguments.one).await?;
            verify(&loaded, &arguments.key)
        }
        Command::Export(arguments) => {
            let loaded = load(&library, &arguments.channel.one).await?;
            export(&loaded, &arguments).map(|()| true)
        }
    }
}

async fn load(library: &Library, one: &One) -> anyhow::Result<Loaded> {
    let name = library.find(&one.recording).await?;
    Ok(library.load(&name).await?)
}

async fn list(library: &Library, arguments: List) -> anyhow::Result<()> {
    let time = |text: Option<String>| text.map(|text| time(&text, Utc::now())).transpose();
    let filter = Filter {
        namespace: arguments.namespace,
        name: arguments.name,
        commit: arguments.commit,
        pull_request: arguments.pull_request,
        actor: arguments.actor,
        since: time(arguments.since)?,
        until: time(arguments.until)?,
    };
    let found = library.list(&filter).await?;
    let text = match arguments.output {
        Form::Json => serde_json::to_string_pretty(&found)? + "\n",
        Form::Table if found.is_empty() => "no recordings\n".into(),
        Form::Table => table(&found),
    };
    print(&text)
}

/// A moment, or an age.
fn time(text: &str, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    if let Some(midnight) = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0)) {
        return Ok(midnight.and_utc());
    }
    let unit = text.chars().last().and_then(|unit| match unit {
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    });
    let number: Option<i64> = text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse().ok());
    let age = unit.zip(number).and_then(|(unit, number)| TimeDelta::try_seconds(number.checked_mul(unit)?));
    age.and_then(|age| now.checked_sub_signed(age))
        .with_context(|| format!("{text} is no time: 2026-11-25, 2026-11-25T10:00:00Z, 90m, 12h or 7d"))
}

fn table(found: &[Summary]) -> String {
    let mut rows = vec![["STARTED", "DURATION", "SESSION", "ACTOR", "KEY", "STATE", "RECORDING"].map(str::to_owned)];
    for one in found {
        let duration = one.ended_at.map_or_else(|| "-".into(), |end| in_clock(end - one.started_at));
        rows.push([
            one.started_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            duration,
            format!("{}/{}", one.about.namespace, one.about.name),
            one.about.requester.clone(),
            one.about.fingerprint.chars().take(17).collect(),
            one.state.as_str().into(),
            one.name.connection.clone(),
        ]);
    }
    aligned(&rows)
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
            format!("{cell:width$}")
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn in_clock(duration: TimeDelta) -> String {
    let seconds = duration.num_seconds().max(0);
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn show(loaded: &Loaded) -> anyhow::Result<()> {
    use std::fmt::Write as _;
    let summary = loaded.summary().context("nothing of this recording can be read yet")?;
    let about = &summary.about;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<13} {value}");
    };
    line("recording", &loaded.name.to_string());
    line("session", &format!("{}/{} ({})", about.namespace, about.name, about.uid));
    line("requester", &about.requester);
    for (name, value) in
        [("commit", &about.commit), ("pull request", &about.pull_request), ("run", &about.run), ("certificate", &about.certificate)]
    {
        if let Some(value) = value {
            line(name, value);
        }
    }
    line("key", &about.fingerprint);
    line("from", &about.remote_address);
    line("started", &summary.started_at.to_rfc3339_opts(SecondsFormat::Secs, true));
    line("ended", &summary.ended_at.map_or_else(|| "-".into(), |end| end.to_rfc3339_opts(SecondsFormat::Secs, true)));
    line("state", summary.state.as_str());
    line("end reason", summary.end_reason.as_deref().unwrap_or("-"));
    text.push('\n');
    let mut rows = vec![["CHANNEL", "KIND", "TERMINAL", "BYTES", "EXIT", "COMMAND"].map(str::to_owned)];
    for channel in cast::channels(&loaded.records()?) {
        let terminal = channel.opened.terminal.as_ref().map_or_else(|| "-".into(), |one| format!("{}x{}", one.width, one.height));
        let command = channel.opened.command.as_deref().unwrap_or("-").escape_debug().to_string();
        rows.push([
            channel.channel.to_string(),
            channel.opened.kind,
            terminal,
            channel.bytes.to_string(),
            channel.exit.unwrap_or_else(|| "-".into()),
            command,
        ]);
    }
    text.push_str(&aligned(&rows));
    text.push('\n');
    text.push_str(&loaded.audit()?);
    print(&text)
}

/// The channel that is meant, with everything that was shown.
fn chosen(loaded: &Loaded, wanted: Option<u32>) -> anyhow::Result<(Vec<Record>, Channel)> {
    let records = loaded.records()?;
    let channels = cast::channels(&records);
    let channel = match wanted {
        Some(number) => channels.iter().find(|channel| channel.channel == number),
        None => channels.iter().find(|channel| channel.opened.terminal.is_some()).or(channels.first()),
    };
    let numbers = || channels.iter().map(|channel| channel.channel.to_string()).collect::<Vec<_>>().join(", ");
    let channel = channel.cloned().with_context(|| match (wanted, channels.is_empty()) {
        (_, true) => "nothing was shown on this connection: see its events by `sandglass recordings show`".to_owned(),
        (Some(number), _) => format!("there is no channel {number}: there are {}", numbers()),
        (None, _) => "there is no channel".to_owned(),
    })?;
    Ok((records, channel))
}

fn play(loaded: &Loaded, arguments: &Replay) -> anyhow::Result<()> {
    let (records, channel) = chosen(loaded, arguments.channel.channel)?;
    let moment = |(at, what)| {
        let what = match what {
            cast::What::Typed(_) => return None,
            cast::What::Output(bytes) => What::Output(bytes.into()),
            cast::What::Resize(width, height) => What::Resize { width, height },
            cast::What::Marker(text) => What::Marker(text),
        };
        Some(Moment { at, what })
    };
    let events = cast::events(&records, &channel);
    // A channel begins when it was opened, not when the connection did.
    let begin = records.iter().find(|record| record.channel == channel.channel).map(|record| record.at).unwrap_or_default();
    let moments: Vec<Moment> = events.into_iter().filter_map(|(at, what)| moment((at.saturating_sub(begin), what))).collect();
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).with_context(|| format!("{seconds} is no number of seconds"));
    let options = replay::Options {
        speed: arguments.speed,
        idle_limit: arguments.idle_limit.map(seconds).transpose()?,
        raw: arguments.raw,
        start: seconds(arguments.start)?,
    };
    replay::play(&moments, &options).context("failed to play")
}

fn verify(loaded: &Loaded, key: &Path) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(key).with_context(|| format!("failed to read {}", key.display()))?;
    let key = PublicKey::from_openssh(text.trim()).ok().with_context(|| format!("{} is no public key in OpenSSH format", key.display()))?;
    let verdict = loaded.verify(&key);
    for problem in &verdict.problems {
        print(&format!("{problem}\n"))?;
    }
    let state = if verdict.complete { State::Complete } else { State::Incomplete };
    match (verdict.problems.len(), state) {
        (0, State::Complete) => print(&format!("complete: {} chunks are as they were written and signed\n", verdict.chunks))?,
        (0, _) => print(&format!(
            "incomplete, because its gateway died or lost the store: {} chunks are as they were written and signed, what was not stored is missing at the end\n",
            verdict.chunks
        ))?,
        (problems, _) => print(&format!("NOT VERIFIED: {problems} problems\n"))?,
    }
    Ok(verdict.problems.is_empty())
}

fn export(loaded: &Loaded, arguments: &Export) -> anyhow::Result<()> {
    let bytes = match arguments.format {
        Format::Audit => loaded.audit()?.into_bytes(),
        Format::Raw => {
            let (records, channel) = chosen(loaded, arguments.channel.channel)?;
            cast::raw(&records, &channel)
        }
        Format::Text => {
            let (records, channel) = chosen(loaded, arguments.channel.channel)?;
            cast::transcript(&records, &channel).into_bytes()
        }
        Format::Asciicast => {
            let (records, channel) = chosen(loaded, arguments.channel.channel)?;
            let summary = loaded.summary().context("nothing of this recording can be read yet")?;
            cast::asciicast(&records, &channel, &summary.title(), summary.started_at).into_bytes()
        }
    };
    match &arguments.output {
        Some(file) => std::fs::write(file, bytes).with_context(|| format!("failed to write {}", file.display())),
        // Raw bytes and casts hold whatever the program sent: not for a terminal that obeys it.
        None if arguments.format == Format::Raw && std::io::stdout().is_terminal() => {
            bail!("raw bytes may act on this terminal: give --output FILE, or use `sandglass recordings replay`")
        }
        None => std::io::stdout().write_all(&bytes).context("failed to write to standard output"),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages_are_understood() {
        let now = DateTime::parse_from_rfc3339("2026-11-25T12:00:00Z").expect("a time").with_timezone(&Utc);
        for (text, expected) in [
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("2026-11-24T10:00:00+01:00", "2026-11-24T09:00:00Z"),
            ("90m", "2026-11-25T10:30:00Z"),
            ("7d", "2026-11-18T12:00:00Z"),
        ] {
            assert_eq!(time(text, now).expect("a time").to_rfc3339_opts(SecondsFormat::Secs, true), expected);
        }
        for text in ["", "soon", "d", "9999999999999999d", "5x"] {
            assert!(time(text, now).is_err(), "{text}");
        }
    }
}
