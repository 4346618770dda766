//! `ssh -A`: connections to the forwarded ssh-agent on the machine wait here, unanswered, until the gateway has a channel to the user's own.

use super::handler::Arrival;
use super::line::Gate;
use super::pump::{Reader, Sink, bridge, send};
use crate::link::client::Socket;
use crate::link::frame;
use russh::ChannelWriteHalf;
use russh::client::{ChannelOpenHandle, Msg};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a connection waits for its channel.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of the whole pod that wait at once; more are refused.
const MOST_WAITING: usize = 16;

/// Connections that wait for their channel: one for the whole pod.
#[derive(Clone, Default)]
pub struct Forwards(Arc<Mutex<Parking>>);

#[derive(Default)]
struct Parking {
    next: u64,
    waiting: HashMap<u64, Parked>,
}

struct Parked {
    channel: AgentChannel,
    until: Instant,
}

impl Forwards {
    /// The connection of that number, once.
    #[must_use]
    pub fn take(&self, connection: u64) -> Option<AgentChannel> {
        let parked = self.lock().waiting.remove(&connection)?;
        (Instant::now() < parked.until).then_some(parked.channel)
    }

    fn lock(&self) -> MutexGuard<'_, Parking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn park(&self, channel: AgentChannel) -> Option<u64> {
        let mut parking = self.lock();
        if parking.waiting.len() >= MOST_WAITING {
            return None;
        }
        let number = parking.next;
        parking.next += 1;
        parking.waiting.insert(number, Parked { channel, until: Instant::now() + PATIENCE });
        Some(number)
    }

    /// Parks what arrives and tells the gateway of it, for ever. What it parked is refused when it is dropped, or not asked for in time.
    pub(super) async fn announce(&self, arrivals: &mut mpsc::Receiver<Arrival>, gate: &Arc<Gate>, sink: &Sink) {
        let mut mine = Mine { forwards: self, numbers: Vec::new() };
        loop {
            let next_end = mine.numbers.first().map(|(_, until)| *until);
            let expired = async {
                match next_end {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                arrival = arrivals.recv() => {
                    let Some(arrival) = arrival else { return std::future::pending().await };
                    let Some(number) = self.park(AgentChannel::new(arrival, gate)) else { continue };
                    mine.numbers.push((number, Instant::now() + PATIENCE));
                    if send(sink, frame::encode(frame::AGENT_CONNECTION, &number.to_be_bytes())).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                () = expired => {
                    let (number, _) = mine.numbers.remove(0);
                    self.lock().waiting.remove(&number);
                }
            }
        }
    }
}

/// What one process's announcer parked, in order.
struct Mine<'a> {
    forwards: &'a Forwards,
    numbers: Vec<(u64, Instant)>,
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        let mut parking = self.forwards.lock();
        for (number, _) in &self.numbers {
            parking.waiting.remove(number);
        }
    }
}

/// A connection to the forwarded ssh-agent. Dropped, it is refused or closed.
pub struct AgentChannel {
    reader: Reader,
    reply: ChannelOpenHandle,
    write: Closing,
}

impl AgentChannel {
    fn new(arrival: Arrival, gate: &Arc<Gate>) -> Self {
        let (read, write) = arrival.channel.split();
        let reader = Reader::new(read, write.id(), Arc::clone(gate));
        Self { reader, reply: arrival.reply, write: Closing(Some(write)) }
    }

    /// Joins it with a channel to the user's ssh-agent, until either closes.
    pub async fn bridge(self, socket: Socket) {
        let Self { reader, reply, mut write } = self;
        reply.accept().await;
        if let Some(half) = &write.0 {
            bridge(socket, reader, half).await;
        }
        // Closed in order.
        write.0 = None;
    }
}

/// Closes an accepted channel also when its future is dropped: the program on the machine would wait for ever.
struct Closing(Option<ChannelWriteHalf<Msg>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let (Some(write), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Ends when the connection does, at the latest.
            runtime.spawn(async move { write.close().await });
        }
    }
}
