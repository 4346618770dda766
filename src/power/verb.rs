//! Carrying out a verb: look, decide, capture, act, look again. Succeeds only if the wanted state was seen.

use super::bundle::{Bundle, Count};
use super::deadline::Deadline;
use super::driver::{Driver, DriverError, Sight, State};
use super::options::Options;
use super::output::Output;
use super::request::{Request, Verb};
use crate::link::record::Ending;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// How often the state is looked at while it is waited for.
const TICK: Duration = Duration::from_millis(200);

/// What became of a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub ending: Ending,
    /// The state before, if it could be seen.
    pub before: Option<State>,
    /// The state afterwards, if it could be seen.
    pub after: Option<State>,
    /// What holds the VM's lock.
    pub locked: Option<String>,
    /// Words for a person.
    pub message: String,
}

/// What to do with a VM in a certain state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing.
    Nothing(&'static str),
    /// It cannot be done in this state.
    Impossible(&'static str),
    /// The reset button.
    Reset,
    /// Pull the plug.
    Stop,
    /// Switch on.
    Start,
    /// Pull the plug, switch on.
    StopAndStart,
}

/// Pure: what a verb means for a VM that was seen like this, or not at all.
fn plan(verb: Verb, state: Option<&State>) -> Plan {
    match (verb, state) {
        (Verb::Status | Verb::Forensics, _) => Plan::Nothing(""),
        (Verb::Reset, Some(State::Off)) => Plan::Impossible("the VM is off: use start"),
        (Verb::Reset, _) => Plan::Reset,
        (Verb::Stop, Some(State::Off)) => Plan::Nothing("it was off already"),
        (Verb::Stop, _) => Plan::Stop,
        (Verb::Start, Some(State::Running)) => Plan::Nothing("it was running already"),
        (Verb::Start, Some(State::Off) | None) | (Verb::Cycle, Some(State::Off)) => Plan::Start,
        (Verb::Start, Some(_)) => Plan::Impossible("the VM is not off and does not run: use reset or cycle"),
        (Verb::Cycle, _) => Plan::StopAndStart,
    }
}

/// Why an action failed.
struct Failure {
    message: String,
    locked: Option<String>,
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        let message = error.to_string();
        Self { message, locked: if let DriverError::Locked(by) = error { Some(by) } else { None } }
    }
}

/// One verb on one VM.
pub struct Session<'a, F> {
    /// What is asked.
    pub request: &'a Request,
    /// All options.
    pub options: &'a Options,
    /// The VM.
    pub driver: &'a dyn Driver,
    /// Its console's file.
    pub console: Option<&'a Path>,
    /// To the client.
    pub output: &'a mut Output<F>,
}

impl<F: AsFd> Session<'_, F> {
    /// Carries it out. Returns after a bounded time, whatever the VM, the hypervisor and the client do.
    pub fn carry_out(mut self) -> Done {
        let look = self.look();
        let seen = look.as_ref().ok().cloned();
        let before = seen.as_ref().map(|sight| sight.state.clone());
        let locked = seen.and_then(|sight| sight.locked);
        let done = |ending, after, message| Done { ending, before: before.clone(), after, locked: locked.clone(), message };
        match (self.request.verb, &look) {
            (Verb::Status, Ok(sight)) => {
                return done(Ending::Succeeded, before.clone(), format!("{} is {}", self.request.vm, sight.state));
            }
            (Verb::Status, Err(failure)) => return done(Ending::Failed, None, failure.to_string()),
            (Verb::Forensics, _) => {
                let count = self.capture(before.as_ref());
                let ending = if count.captured == 0 { Ending::Failed } else { Ending::Succeeded };
                return done(ending, before.clone(), format!("captured {} of {} items", count.captured, count.tried));
            }
            _ => {}
        }
        if let Some(by) = &locked {
            return done(Ending::Failed, before.clone(), DriverError::Locked(by.clone()).to_string());
        }
        if let Err(failure) = &look {
            self.output.progress(&format!("its state is not known: {failure}"));
        }
        let plan = plan(self.request.verb, before.as_ref());
        match plan {
            Plan::Nothing(message) => return done(Ending::Succeeded, before.clone(), message.to_owned()),
            Plan::Impossible(message) => return done(Ending::Failed, before.clone(), message.to_owned()),
            Plan::Reset | Plan::Stop | Plan::Start | Plan::StopAndStart => {}
        }
        if let Err(failure) = self.can_start(plan) {
            return done(Ending::Failed, before.clone(), failure.to_string());
        }
        let count = self.capture(before.as_ref());
        self.act(plan, count, before)
    }

    /// Whether a plan that ends with a start could be carried through.
    fn can_start(&self, plan: Plan) -> Result<(), DriverError> {
        match plan {
            Plan::Start => self.driver.can_start(),
            Plan::StopAndStart => self.driver.can_start_again(Deadline::after(self.options.limits.item)),
            Plan::Nothing(_) | Plan::Impossible(_) | Plan::Reset | Plan::Stop => Ok(()),
        }
    }

    fn act(&mut self, plan: Plan, count: Count, before: Option<State>) -> Done {
        let acted = match plan {
            Plan::Reset => self.bring("resetting it", State::Running, |driver, deadline| driver.reset(deadline)),
            Plan::Stop => self.stop(),
            Plan::Start => self.start(),
            Plan::StopAndStart => self.cycle(before.as_ref()),
            Plan::Nothing(_) | Plan::Impossible(_) => Ok(State::Off),
        };
        let evidence = format!("captured {} of {} items", count.captured, count.tried);
        match acted {
            Ok(state) => {
                let message = format!("{} of {}: it is {state}; {evidence}", self.request.verb, self.request.vm);
                Done { ending: Ending::Succeeded, before, after: Some(state), locked: None, message }
            }
            Err(failure) => {
                let after = self.look().ok().map(|sight| sight.state);
                let message = format!("{}; {evidence}", failure.message);
                Done { ending: Ending::Failed, before, after, locked: failure.locked, message }
            }
        }
    }

    fn stop(&mut self) -> Result<State, Failure> {
        self.bring("stopping it", State::Off, |driver, deadline| driver.stop(deadline))
    }

    fn start(&mut self) -> Result<State, Failure> {
        self.bring("starting it", State::Running, |driver, deadline| driver.start(deadline))
    }

    /// Whatever happened in the first half, a VM that may be off now is started.
    fn cycle(&mut self, before: Option<&State>) -> Result<State, Failure> {
        let Err(stopped) = self.stop() else { return self.start() };
        match self.look() {
            Ok(sight) if sight.state != State::Off => Err(stopped),
            // Not known: a driver starts nothing that is on. Not when it was never seen and cannot be told to stop either.
            Err(_) if before.is_none() => Err(stopped),
            _ => self.start().map_err(|started| Failure {
                message: format!("{}; and then: {}", stopped.message, started.message),
                locked: started.locked.or(stopped.locked),
            }),
        }
    }

    /// Acts, then looks until the wanted state is seen. An action that fails may have done its work all the same.
    fn bring<A>(&mut self, doing: &str, wanted: State, action: A) -> Result<State, Failure>
    where
        A: FnOnce(&dyn Driver, Deadline) -> Result<(), DriverError>,
    {
        self.output.progress(doing);
        let deadline = Deadline::after(self.options.limits.verify);
        if let Err(failure) = action(self.driver, deadline) {
            let reached = wanted == State::Off && self.look().is_ok_and(|sight| sight.state == State::Off);
            return if reached {
                Ok(wanted)
            } else {
                Err(Failure { message: format!("{doing}: {failure}"), locked: Failure::from(failure).locked })
            };
        }
        let mut seen = None;
        loop {
            match self.driver.look(Deadline::after(self.options.limits.item).min(deadline)) {
                Ok(sight) if sight.state == wanted => return Ok(wanted),
                Ok(sight) => seen = Some(sight.state.to_string()),
                // The last look may have had no time left: what was seen before says more.
                Err(failure) => seen = seen.or_else(|| Some(format!("not known ({failure})"))),
            }
            if !deadline.pause(TICK) {
                break;
            }
        }
        let seen = seen.unwrap_or_default();
        let seconds = self.options.limits.verify.as_secs();
        Err(Failure { message: format!("{doing}: it should be {wanted} after {seconds} s and is {seen}"), locked: None })
    }

    fn look(&self) -> Result<Sight, DriverError> {
        self.driver.look(Deadline::after(self.options.limits.item))
    }

    fn capture(&mut self, state: Option<&State>) -> Count {
        self.output.progress("capturing what can be seen of it");
        let Self { driver, console, options, output, .. } = self;
        Bundle { driver: *driver, state, console: *console, options, output }.capture()
    }
}

#[cfg(test)]
#[path = "verb_tests.rs"]
mod tests;
