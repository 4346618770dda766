//! Before login: how many connections, from where, for how long; and penalties for sources that misbehave, as OpenSSH has
//! them (`PerSourcePenalties`, `MaxStartups`). Pure but for the wake-up of the connection that has to go.

use crate::domain::configuration::LoginLimits;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Penalties below this sum are not enforced: one slip of a person is none.
const ENFORCED_FROM: Duration = Duration::from_secs(15);
/// Longest penalty.
const LONGEST: Duration = Duration::from_mins(10);
/// Sources remembered; beyond it newcomers are not penalised rather than everybody refused.
const MOST_SOURCES: usize = 65_536;

/// What a source did, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Left without trying to log in.
    NoLogin,
    /// Tried and failed.
    LoginFailed,
    /// Ran into the time limit.
    TooSlow,
}

impl Offence {
    const fn cost(self) -> Duration {
        match self {
            Self::NoLogin => Duration::from_secs(1),
            Self::LoginFailed => Duration::from_secs(5),
            Self::TooSlow => Duration::from_secs(10),
        }
    }
}

/// A source: an IPv4 address or an IPv6 /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[derive(Default)]
struct State {
    next: u64,
    /// Connections that have not logged in, oldest first.
    waiting: VecDeque<(u64, IpAddr, Arc<Notify>)>,
    penalties: HashMap<IpAddr, Instant>,
}

/// The limits of one gateway.
pub struct Limits {
    configuration: LoginLimits,
    state: Mutex<State>,
}

/// The place of a connection that has not logged in; given back when dropped.
pub struct Place {
    limits: Arc<Limits>,
    number: u64,
    /// Woken when the connection must make room for a newer one.
    pub evicted: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.lock().waiting.retain(|(number, ..)| *number != self.number);
    }
}

impl Limits {
    /// Limits by configuration.
    #[must_use]
    pub fn new(configuration: LoginLimits) -> Self {
        Self { configuration, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time from the first byte to a login.
    #[must_use]
    pub fn login_time(&self) -> Duration {
        Duration::from_secs(self.configuration.seconds.into())
    }

    /// A place for a new connection, `None` for a penalised source. Where there is no room, the oldest of the same source goes,
    /// else the oldest of all: half-open connections cannot keep people out.
    #[must_use]
    pub fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let source = source_of(address);
        let mut state = self.lock();
        if state.penalties.get(&source).is_some_and(|until| until.saturating_duration_since(now) >= ENFORCED_FROM) {
            return None;
        }
        let of_source = state.waiting.iter().filter(|(_, other, _)| *other == source).count();
        let victim = if of_source >= self.configuration.at_once_per_source as usize {
            state.waiting.iter().position(|(_, other, _)| *other == source)
        } else if state.waiting.len() >= self.configuration.at_once as usize {
            Some(0)
        } else {
            None
        };
        if let Some((_, _, evicted)) = victim.and_then(|index| state.waiting.remove(index)) {
            evicted.notify_one();
        }
        let number = state.next;
        state.next += 1;
        let evicted = Arc::new(Notify::new());
        state.waiting.push_back((number, source, Arc::clone(&evicted)));
        Some(Place { limits: Arc::clone(self), number, evicted })
    }

    /// Remembers an offence.
    pub fn penalise(&self, address: IpAddr, offence: Offence, now: Instant) {
        if self.configuration.trusted_sources.iter().any(|network| network.contains(&address.to_canonical())) {
            return;
        }
        let mut state = self.lock();
        if state.penalties.len() >= MOST_SOURCES {
            state.penalties.retain(|_, until| *until > now);
            if state.penalties.len() >= MOST_SOURCES {
                return;
            }
        }
        let until = state.penalties.entry(source_of(address)).or_insert(now);
        *until = ((*until).max(now) + offence.cost()).min(now + LONGEST);
    }

    /// A login: what the source did before is forgiven.
    pub fn forgive(&self, address: IpAddr) {
        self.lock().penalties.remove(&source_of(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(at_once: u32, per_source: u32) -> Arc<Limits> {
        Arc::new(Limits::new(LoginLimits { at_once, at_once_per_source: per_source, ..LoginLimits::default() }))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn the_oldest_of_the_same_source_makes_room() {
        let limits = limits(10, 2);
        let now = Instant::now();
        let other = limits.enter(address(9), now).expect("place");
        let first = limits.enter(address(1), now).expect("place");
        let second = limits.enter(address(1), now).expect("place");
        let _third = limits.enter(address(1), now).expect("place");
        first.evicted.notified().await;
        for kept in [&other, &second] {
            assert!(futures_util::FutureExt::now_or_never(kept.evicted.notified()).is_none());
        }
    }

    #[tokio::test]
    async fn the_oldest_of_all_makes_room_when_everything_is_full() {
        let limits = limits(2, 2);
        let now = Instant::now();
        let first = limits.enter(address(1), now).expect("place");
        let _second = limits.enter(address(2), now).expect("place");
        let _third = limits.enter(address(3), now).expect("place");
        first.evicted.notified().await;
    }

    #[test]
    fn offences_add_up_and_a_login_forgives_them() {
        let limits = limits(10, 10);
        let now = Instant::now();
        limits.penalise(address(1), Offence::LoginFailed, now);
        assert!(limits.enter(address(1), now).is_some(), "one slip is none");
        for _ in 0..3 {
            limits.penalise(address(1), Offence::LoginFailed, now);
        }
        assert!(limits.enter(address(1), now).is_none());
        assert!(limits.enter(address(2), now).is_some());
        assert!(limits.enter(address(1), now + Duration::from_secs(10)).is_some(), "it wears off");
        limits.forgive(address(1));
        assert!(limits.enter(address(1), now).is_some());
    }

    #[test]
    fn a_trusted_source_is_never_penalised() {
        let limits = Arc::new(Limits::new(LoginLimits {
            trusted_sources: vec!["192.0.2.0/24".parse().expect("network")],
            ..LoginLimits::default()
        }));
        let now = Instant::now();
        for _ in 0..100 {
            limits.penalise(address(1), Offence::TooSlow, now);
        }
        assert!(limits.enter(address(1), now).is_some());
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        assert_eq!(source_of("2001:db8:1:2::1".parse().expect("address")), source_of("2001:db8:1:2:ffff::9".parse().expect("address")));
        assert_eq!(source_of("::ffff:192.0.2.1".parse().expect("address")), address(1));
    }
}
