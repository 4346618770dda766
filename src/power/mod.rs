//! What runs on the hypervisor: the forced command of an SSH key. One process carries out one verb on one VM and ends. It starts
//! no shell, believes nothing that the client sends but two words it knows already, and once it acts it goes through with it,
//! whether the client is still there or not. Blocking code, no threads.

mod bundle;
mod check;
mod deadline;
mod driver;
mod log;
mod options;
mod output;
mod program;
mod qmp;
mod request;
mod spawn;
mod spool;
mod verb;

use crate::link::record::{Ending, Outcome, Record};
use chrono::{DateTime, SecondsFormat, Utc};
use deadline::Deadline;
use log::{Log, Severity, printable};
use options::{Options, USAGE};
use output::{Output, Reader};
use request::{Request, Verb};
use spool::{Spool, SpoolError};
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Stdout};
use std::path::Path;
use std::time::Duration;

/// What sshd sets to what the client asked for, when the key has a forced command.
const ASKED: &str = "SSH_ORIGINAL_COMMAND";
/// Exit code: done; after `status`, the VM is on.
const DONE: u8 = 0;
/// Exit code: failed or refused.
const FAILED: u8 = 1;
/// Exit code of the fence agents: `status` found the VM off.
const OFF: u8 = 2;

/// Runs with this process's arguments and environment; returns its exit code.
#[must_use]
pub fn run() -> u8 {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let asked = std::env::var_os(ASKED);
    let first = arguments.first().and_then(|argument| argument.to_str());
    match first {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return DONE;
        }
        Some("--version") => {
            println!("sandglass-power {}", env!("CARGO_PKG_VERSION"));
            return DONE;
        }
        _ => {}
    }
    let person = asked.is_none() && std::io::stdout().is_terminal();
    let mut output = Output::new(std::io::stdout(), if person { Reader::Person } else { Reader::Program });
    let started = Utc::now();
    let words: Option<Vec<String>> = arguments.into_iter().map(|argument| argument.into_string().ok()).collect();
    let options = words.ok_or_else(|| "the options are not UTF-8 text".to_owned());
    match options.and_then(|words| Options::parse(&words).map_err(|failure| failure.to_string())) {
        Ok(options) if options.check => checked(&options, started),
        Ok(options) => asked_for(&options, asked, started, &mut output),
        Err(message) => {
            let message = format!("sandglass-power is not set up right: {message}; see sandglass-power --help");
            tell(&log_of(Path::new("/dev/log")), &refused(started, message), &mut output)
        }
    }
}

fn log_of(path: &Path) -> Log {
    // The address and port at both ends; the first is the client's.
    let connection = std::env::var("SSH_CONNECTION").ok();
    Log::new(path, connection.as_deref().and_then(|connection| connection.split(' ').next()))
}

fn checked(options: &Options, now: DateTime<Utc>) -> u8 {
    let (lines, well) = check::check(options, &time(now));
    for line in lines {
        println!("{line}");
    }
    if well { DONE } else { FAILED }
}

fn asked_for(options: &Options, asked: Option<OsString>, started: DateTime<Utc>, output: &mut Output<Stdout>) -> u8 {
    let log = log_of(&options.places.log);
    if asked.is_some() && !options.words.is_empty() {
        let message = "sandglass-power is not set up right: a forced command names no verb".to_owned();
        return tell(&log, &refused(started, message), output);
    }
    let text = asked.unwrap_or_else(|| OsString::from(options.words.join(" ")));
    match Request::of(&text, options) {
        Ok(request) => {
            let outcome = carry_out(options, &request, started, output, &log);
            tell(&log, &outcome, output)
        }
        Err(refusal) => {
            log.write(Severity::Warning, &format!("refused request={}", shown(&text)));
            tell(&log, &refused(started, refusal.to_string()), output)
        }
    }
}

fn carry_out(options: &Options, request: &Request, started: DateTime<Utc>, output: &mut Output<Stdout>, log: &Log) -> Outcome {
    let mut outcome = refused(started, String::new());
    outcome.verb = Some(request.verb.to_string());
    outcome.vm = Some(request.vm.to_string());
    let Some(machine) = options.machines.get(&request.vm) else { return outcome };
    keep_going();
    let lock = |limit| Spool::lock(&options.places.spool, &request.vm, request.verb, &time(started), Deadline::after(limit));
    let mut locked = lock(Duration::ZERO);
    if let Err(SpoolError::Busy(holder)) = &locked {
        // Told now: whoever is cut off during the wait must not believe that nothing will be done.
        output.progress(&format!("waiting for another verb on this VM: {holder}"));
        // As long as that one may take to look at a VM that does not answer.
        locked = lock(options.limits.item);
    }
    let spool = match locked {
        Ok(spool) => spool,
        Err(failure) => {
            outcome.state = if matches!(failure, SpoolError::Busy(_)) { Ending::Refused } else { Ending::Failed };
            outcome.message = failure.to_string();
            outcome.finished_at = Utc::now();
            return outcome;
        }
    };
    if request.verb.acts() {
        log.write(Severity::Information, &format!("begins verb={} vm={}", request.verb, request.vm));
    }
    let driver = driver::open(options, &request.vm, machine, &spool);
    let console = machine.console.as_deref();
    let done = verb::Session { request, options, driver: driver.as_ref(), console, output }.carry_out();
    let word = |state: Option<driver::State>| Some(state.map_or_else(|| "unknown".to_owned(), |state| state.to_string()));
    outcome.state = done.ending;
    outcome.before = word(done.before);
    outcome.after = word(done.after);
    outcome.locked = done.locked;
    outcome.message = done.message;
    outcome.finished_at = Utc::now();
    outcome
}

/// From here on a client that goes away, a hang-up or a polite request to end changes nothing. Programs inherit what is blocked as
/// they inherit what is ignored, and few undo either: [`spawn`] lets it through again in them. Writing to a closed pipe is an error
/// already and no signal.
fn keep_going() {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        signals.add(signal);
    }
    let _ = signals.thread_block();
}

fn refused(started: DateTime<Utc>, message: String) -> Outcome {
    Outcome {
        verb: None,
        vm: None,
        state: Ending::Refused,
        before: None,
        after: None,
        locked: None,
        started_at: started,
        finished_at: Utc::now(),
        message,
    }
}

/// Tells the client and the log, and returns the exit code.
fn tell(log: &Log, outcome: &Outcome, output: &mut Output<Stdout>) -> u8 {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    let severity = match outcome.state {
        Ending::Succeeded => Severity::Information,
        Ending::Failed => Severity::Error,
        Ending::Refused => Severity::Warning,
    };
    let states = format!("before={} after={}", word(&outcome.before), word(&outcome.after));
    let asked = format!("verb={} vm={}", word(&outcome.verb), word(&outcome.vm));
    log.write(severity, &format!("{:?} {asked} {states} message={}", outcome.state, outcome.message));
    output.record(&Record::Result(outcome.clone()));
    let status_off = outcome.verb.as_deref() == Some(Verb::Status.word()) && outcome.after.as_deref() == Some("off");
    match outcome.state {
        Ending::Succeeded if status_off => OFF,
        Ending::Succeeded => DONE,
        Ending::Failed | Ending::Refused => FAILED,
    }
}

/// A refused request as the log shows it.
fn shown(text: &OsStr) -> String {
    printable(&text.to_string_lossy(), 256)
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
