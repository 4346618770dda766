//! Starts programs: an argument vector, never a shell; no environment but a fixed PATH; killed with their process group at the
//! deadline. Their output goes to files, not pipes: a program may leave children behind that hold it open.

use super::deadline::Deadline;
use super::spawn::spawn;
use super::spool::Spool;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(5);
/// The most a program may write.
const OUTPUT_LIMIT: u64 = 4 * 1024 * 1024;
/// How much of a program's words goes into an error.
const WORDS_LIMIT: usize = 600;
/// How long a killed program may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Not started, or its output not read.
    #[error("failed to run {program}: {source}")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Killed at its deadline.
    #[error("{program} was not done in time and was killed")]
    TimedOut {
        /// The program.
        program: PathBuf,
    },
    /// Killed for writing too much.
    #[error("{program} wrote more than {OUTPUT_LIMIT} bytes and was killed")]
    Endless {
        /// The program.
        program: PathBuf,
    },
    /// It says that it failed.
    #[error("{program} failed ({status}): {words}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it exited.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
}

/// Runs a program to its end and returns its standard output.
pub fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], spool: &Spool, deadline: Deadline) -> Result<Vec<u8>, ProgramError> {
    let failed = |source| ProgramError::Run { program: program.to_owned(), source };
    let (output, mut output_read) = spool.nameless().map_err(failed)?;
    let (errors, mut errors_read) = spool.nameless().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(output).stderr(errors);
    let status = finish(command, program, Some([&output_read, &errors_read]), deadline)?;
    let mut text = Vec::new();
    output_read.read_to_end(&mut text).map_err(failed)?;
    if status.success() {
        return Ok(text);
    }
    // Programs of Perl say some of it on standard output.
    errors_read.read_to_end(&mut text).map_err(failed)?;
    Err(ProgramError::Failed { program: program.to_owned(), status, words: last_words(&text) })
}

/// Runs a program that starts something that stays. Its words go to a file that stays too.
pub fn launch(program: &Path, argument: &str, spool: &Spool, deadline: Deadline) -> Result<(), ProgramError> {
    let failed = |source| ProgramError::Run { program: program.to_owned(), source };
    let (log, path) = spool.start_log().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg(argument).stdout(log.try_clone().map_err(failed)?).stderr(log);
    let status = finish(command, program, None, deadline)?;
    if status.success() {
        return Ok(());
    }
    let words = std::fs::read(path).map_err(failed)?;
    Err(ProgramError::Failed { program: program.to_owned(), status, words: last_words(&words) })
}

fn finish(mut command: Command, program: &Path, written: Option<[&File; 2]>, deadline: Deadline) -> Result<ExitStatus, ProgramError> {
    let failed = |source| ProgramError::Run { program: program.to_owned(), source };
    command.stdin(Stdio::null()).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
    let mut child = spawn(&mut command).map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if written.is_some_and(|files| files.iter().any(|file| file.metadata().is_ok_and(|found| found.len() > OUTPUT_LIMIT))) {
            kill(&mut child);
            return Err(ProgramError::Endless { program: program.to_owned() });
        }
        if !deadline.pause(TICK) {
            kill(&mut child);
            return Err(ProgramError::TimedOut { program: program.to_owned() });
        }
    }
}

fn kill(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    // Not waited for without end: it may hang in the kernel.
    let deadline = Deadline::after(KILL_LIMIT);
    while matches!(child.try_wait(), Ok(None)) && deadline.pause(TICK) {}
}

/// The end of what a program said, in one line.
fn last_words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(WORDS_LIMIT);
    words.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::request::{Verb, VmId};
    use std::time::Instant;

    fn spool(name: &str) -> (PathBuf, Spool) {
        let place = std::env::temp_dir().join(format!("sandglass-program-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("create");
        let spool = Spool::lock(&place, &VmId::of("1").expect("an id"), Verb::Status, "NOW", Deadline::after(KILL_LIMIT)).expect("locks");
        (place, spool)
    }

    #[test]
    fn a_program_sees_a_fixed_environment_and_its_arguments_as_they_are() {
        let (place, spool) = spool("environment");
        let soon = Deadline::after(Duration::from_secs(20));
        assert_eq!(run(Path::new("/usr/bin/env"), &[] as &[&str], &spool, soon).expect("runs"), format!("PATH={PATH}\n").into_bytes());
        assert_eq!(run(Path::new("/bin/echo"), &["$(id)", ";"], &spool, soon).expect("runs"), b"$(id) ;\n");
        let failure = run(Path::new("/bin/ls"), &["/nowhere"], &spool, soon).expect_err("fails").to_string();
        assert!(failure.starts_with("/bin/ls failed (exit status: 2): ") && failure.contains("No such file"), "{failure}");
        drop(spool);
        std::fs::remove_dir_all(place).expect("remove");
    }

    #[test]
    fn at_the_deadline_the_children_go_too() {
        let (place, spool) = spool("deadline");
        let mark = format!("86399.{}", std::process::id());
        let began = Instant::now();
        let script = format!("sleep {mark} & wait");
        let failure = run(Path::new("/bin/sh"), &["-c", &script], &spool, Deadline::after(Duration::from_millis(300))).expect_err("late");
        assert!(matches!(failure, ProgramError::TimedOut { .. }), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(5));
        let deadline = Deadline::after(Duration::from_secs(5));
        while is_running(&mark) {
            assert!(deadline.pause(TICK), "its child is still there");
        }
        drop(spool);
        std::fs::remove_dir_all(place).expect("remove");
    }

    fn is_running(mark: &str) -> bool {
        let processes = std::fs::read_dir("/proc").expect("proc").flatten();
        processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(|line| {
            let line = String::from_utf8_lossy(&line);
            line.starts_with("sleep") && line.contains(mark)
        })
    }

    #[test]
    fn endless_output_is_ended() {
        let (place, spool) = spool("endless");
        let failure = run(Path::new("/usr/bin/yes"), &[] as &[&str], &spool, Deadline::after(Duration::from_mins(1))).expect_err("endless");
        assert!(matches!(failure, ProgramError::Endless { .. }), "{failure}");
        drop(spool);
        std::fs::remove_dir_all(place).expect("remove");
    }
}
