//! Tests of what is decided, on a driver that does as it is told.

use super::*;
use crate::power::driver::{Evidence, Part};
use crate::power::output::Reader;
use crate::power::request::VmId;
use std::cell::RefCell;
use std::ffi::OsStr;

/// A VM that exists only here.
struct Pretended {
    state: RefCell<State>,
    locked: Option<String>,
    done: RefCell<Vec<&'static str>>,
    /// This action fails, its work done or not.
    fails: Option<(&'static str, bool)>,
    startable: bool,
    /// Whether it is there still when it has been stopped.
    stays: bool,
}

impl Pretended {
    fn new(state: State) -> Self {
        Self { state: RefCell::new(state), locked: None, done: RefCell::default(), fails: None, startable: true, stays: true }
    }

    fn act(&self, name: &'static str, state: State) -> Result<(), DriverError> {
        self.done.borrow_mut().push(name);
        let (fails, works) = self.fails.filter(|(fails, _)| *fails == name).map_or((false, true), |(_, works)| (true, works));
        if works {
            *self.state.borrow_mut() = state;
        }
        if fails { Err(DriverError::Unexpected(format!("{name} fails"))) } else { Ok(()) }
    }
}

impl Driver for Pretended {
    fn look(&self, _: Deadline) -> Result<Sight, DriverError> {
        Ok(Sight { state: self.state.borrow().clone(), locked: self.locked.clone() })
    }
    fn parts(&self) -> &'static [(Part, &'static str)] {
        &[(Part::State, "state.txt")]
    }
    fn capture(&self, _: Part, _: Deadline) -> Result<Evidence, DriverError> {
        self.done.borrow_mut().push("capture");
        Ok(Evidence::Bytes(b"state".to_vec()))
    }
    fn can_start(&self) -> Result<(), DriverError> {
        if self.startable { Ok(()) } else { Err(DriverError::Unexpected("no program".into())) }
    }
    fn can_start_again(&self, _: Deadline) -> Result<(), DriverError> {
        if self.stays { self.can_start() } else { Err(DriverError::Unexpected("gone when stopped".into())) }
    }
    fn reset(&self, _: Deadline) -> Result<(), DriverError> {
        self.act("reset", State::Running)
    }
    fn stop(&self, _: Deadline) -> Result<(), DriverError> {
        self.act("stop", State::Off)
    }
    fn start(&self, _: Deadline) -> Result<(), DriverError> {
        self.act("start", State::Running)
    }
}

fn carry_out(verb: &str, driver: &Pretended) -> (Done, Vec<&'static str>) {
    let words = ["--driver", "qm", "--vm", "102", "--verify-seconds", "1"].map(str::to_owned);
    let options = Options::parse(&words).expect("options");
    let request = Request::of(OsStr::new(&format!("{verb} 102")), &options).expect("a request");
    assert_eq!(request.vm, VmId::of("102").expect("an id"));
    let null = std::fs::File::create("/dev/null").expect("null");
    let mut output = Output::new(null, Reader::Program);
    let done = Session { request: &request, options: &options, driver, console: None, output: &mut output }.carry_out();
    (done, driver.done.take())
}

#[test]
fn each_verb_in_each_state() {
    use Ending::{Failed, Succeeded};
    let running = State::Running;
    let cases: [(&str, State, Ending, State, &[&str]); 16] = [
        ("status", State::Off, Succeeded, State::Off, &[]),
        ("forensics", State::Panicked, Succeeded, State::Panicked, &["capture"]),
        ("reset", running.clone(), Succeeded, running.clone(), &["capture", "reset"]),
        ("reset", State::Panicked, Succeeded, running.clone(), &["capture", "reset"]),
        ("reset", State::Paused, Succeeded, running.clone(), &["capture", "reset"]),
        ("reset", State::Off, Failed, State::Off, &[]),
        ("stop", running.clone(), Succeeded, State::Off, &["capture", "stop"]),
        ("stop", State::Paused, Succeeded, State::Off, &["capture", "stop"]),
        ("stop", State::Off, Succeeded, State::Off, &[]),
        ("start", State::Off, Succeeded, running.clone(), &["capture", "start"]),
        ("start", running.clone(), Succeeded, running.clone(), &[]),
        ("start", State::Paused, Failed, State::Paused, &[]),
        ("start", State::Other("io-error".into()), Failed, State::Other("io-error".into()), &[]),
        ("cycle", running.clone(), Succeeded, running.clone(), &["capture", "stop", "start"]),
        ("cycle", State::Panicked, Succeeded, running.clone(), &["capture", "stop", "start"]),
        ("cycle", State::Off, Succeeded, running.clone(), &["capture", "start"]),
    ];
    for (verb, before, ending, after, expected) in cases {
        let (done, actions) = carry_out(verb, &Pretended::new(before.clone()));
        assert_eq!((done.ending, done.after.as_ref()), (ending, Some(&after)), "{verb} of {before}: {done:?}");
        assert_eq!(done.before, Some(before));
        assert_eq!(actions, expected, "{verb}");
    }
}

#[test]
fn a_locked_vm_is_left_alone() {
    for verb in ["reset", "stop", "start", "cycle"] {
        let mut driver = Pretended::new(State::Running);
        driver.locked = Some("backup".into());
        let (done, actions) = carry_out(verb, &driver);
        assert_eq!((done.ending, done.locked.as_deref()), (Ending::Failed, Some("backup")), "{verb}");
        assert_eq!(actions, Vec::<&str>::new(), "{verb}");
    }
}

#[test]
fn what_cannot_be_started_is_not_stopped() {
    let mut driver = Pretended::new(State::Running);
    driver.startable = false;
    let (done, actions) = carry_out("cycle", &driver);
    assert_eq!((done.ending, done.message.as_str(), actions), (Ending::Failed, "no program", vec![]));
}

#[test]
fn only_a_cycle_that_stops_asks_whether_it_stays() {
    use Ending::{Failed, Succeeded};
    let cases: [(&str, State, Ending, &[&str]); 4] = [
        ("cycle", State::Running, Failed, &[]),
        ("cycle", State::Off, Succeeded, &["capture", "start"]),
        ("start", State::Off, Succeeded, &["capture", "start"]),
        ("stop", State::Running, Succeeded, &["capture", "stop"]),
    ];
    for (verb, before, ending, expected) in cases {
        let mut driver = Pretended::new(before);
        driver.stays = false;
        let (done, actions) = carry_out(verb, &driver);
        assert_eq!((done.ending, actions.as_slice()), (ending, expected), "{verb}: {done:?}");
    }
}

#[test]
fn a_stop_that_fails_but_works_is_followed_by_the_start() {
    let mut driver = Pretended::new(State::Running);
    driver.fails = Some(("stop", true));
    let (done, actions) = carry_out("cycle", &driver);
    assert_eq!((done.ending, actions), (Ending::Succeeded, vec!["capture", "stop", "start"]));
}

#[test]
fn a_stop_that_does_not_work_is_not_followed_by_a_start() {
    let mut driver = Pretended::new(State::Running);
    driver.fails = Some(("stop", false));
    let (done, actions) = carry_out("cycle", &driver);
    assert_eq!((done.ending, done.after, actions), (Ending::Failed, Some(State::Running), vec!["capture", "stop"]));
    assert_eq!(done.message, "stopping it: stop fails; captured 1 of 1 items");
}

#[test]
fn a_failed_start_is_told() {
    let mut driver = Pretended::new(State::Running);
    driver.fails = Some(("start", false));
    let (done, _) = carry_out("cycle", &driver);
    assert_eq!((done.ending, done.after), (Ending::Failed, Some(State::Off)));
}
