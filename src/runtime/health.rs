//! Whether the process is ready: a set of named gates, each opened once what it stands for is so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The gates of a process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, bool>>>);

/// One gate. Ready is the process in which all are open.
#[derive(Clone, Debug)]
pub struct Gate {
    health: Health,
    name: &'static str,
}

impl Health {
    fn gates(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a closed gate. The name says what is so when it is open; `/readyz` lists the closed ones.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        self.gates().insert(name, false);
        Gate { health: self.clone(), name }
    }

    /// What is not so yet; empty when ready.
    #[must_use]
    pub fn closed(&self) -> Vec<&'static str> {
        self.gates().iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }
}

impl Gate {
    /// What it stands for is so.
    pub fn open(&self) {
        self.health.gates().insert(self.name, true);
    }

    /// It is not so any more.
    pub fn close(&self) {
        self.health.gates().insert(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_open() {
        let health = Health::default();
        let (one, two) = (health.gate("one"), health.gate("two"));
        assert_eq!(health.closed(), ["one", "two"]);
        one.open();
        assert_eq!(health.closed(), ["two"]);
        two.open();
        assert!(health.closed().is_empty());
        one.close();
        assert_eq!(health.closed(), ["one"]);
    }
}
