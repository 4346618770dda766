//! `--check`: for the person who installs this. Changes nothing.

use super::deadline::Deadline;
use super::driver;
use super::options::{Kind, Machine, Options};
use super::request::{Verb, VmId};
use super::spool::Spool;

/// One line for each VM, and whether all is well.
pub fn check(options: &Options, now: &str) -> (Vec<String>, bool) {
    let lines = options.machines.iter().map(|(vm, machine)| match of_one(options, vm, machine, now) {
        Ok(words) => (format!("{vm}: ok, {words}"), true),
        Err(words) => (format!("{vm}: {words}"), false),
    });
    let (lines, well): (Vec<String>, Vec<bool>) = lines.unzip();
    (lines, well.into_iter().all(|well| well))
}

fn of_one(options: &Options, vm: &VmId, machine: &Machine, now: &str) -> Result<String, String> {
    let limit = || Deadline::after(options.limits.item);
    let spool = Spool::lock(&options.places.spool, vm, Verb::Status, now, limit()).map_err(|failure| failure.to_string())?;
    let driver = driver::open(options, vm, machine, &spool);
    let sight = driver.look(limit()).map_err(|failure| failure.to_string())?;
    if options.verbs.contains(&Verb::Cycle) {
        driver.can_start_again(limit()).map_err(|failure| failure.to_string())?;
    } else if options.verbs.contains(&Verb::Start) {
        driver.can_start().map_err(|failure| failure.to_string())?;
    }
    let mut words = vec![sight.state.to_string()];
    words.extend(sight.locked.map(|by| format!("locked ({by})")));
    match &machine.console {
        Some(console) => match std::fs::File::open(console) {
            Ok(_) => words.push("its console can be read".to_owned()),
            Err(failure) => return Err(format!("failed to read {}: {failure}", console.display())),
        },
        None => words.push("no console configured".to_owned()),
    }
    if options.kind == Kind::Qm && !options.places.pvesh.exists() {
        return Err(format!("{} is not there: no screen and no registers", options.places.pvesh.display()));
    }
    Ok(words.join(", "))
}
