//! The SSH library's callbacks, translated: the host key's check, what is counted, what the machine may open. No IO; nothing here waits.

use super::line::Gate;
use super::signals::printable;
use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, watch};

/// What the callbacks tell.
pub(super) struct Told {
    /// Counts what waits.
    pub gate: Arc<Gate>,
    /// Fingerprint of a host key that was refused.
    pub stranger: OnceLock<String>,
    /// Why a channel was not opened, in the machine's words.
    pub refusal: watch::Sender<Option<String>>,
    /// Why the connection ended.
    pub lost: OnceLock<String>,
    /// Whether the machine was asked to forward the user's ssh-agent: only then may it open channels to it.
    pub agent_asked: AtomicBool,
}

/// Somebody on the machine connected to the forwarded ssh-agent.
pub(super) struct Arrival {
    /// The channel, usable once accepted.
    pub channel: Channel<Msg>,
    /// Accepts it; refuses it when dropped.
    pub reply: ChannelOpenHandle,
}

/// Callbacks of one connection.
pub(super) struct Translator {
    /// Host keys that may be shown.
    pub host_keys: Vec<PublicKey>,
    /// What is told.
    pub told: Arc<Told>,
    /// Channels to the user's ssh-agent.
    pub arrivals: mpsc::Sender<Arrival>,
}

impl Handler for Translator {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        // Certificates were not offered: pins are of keys.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let known = self.host_keys.iter().any(|pinned| pinned.key_data() == key.key_data());
        if !known {
            let _ = self.told.stranger.set(key.fingerprint(HashAlg::Sha256).to_string());
        }
        Ok(known)
    }

    async fn channel_open_confirmation(&mut self, channel: ChannelId, _: u32, _: u32, _: &mut Session) -> Result<(), russh::Error> {
        self.told.gate.count(channel.number());
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        _: ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.told.refusal.send_replace(Some(printable(description)));
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        self.told.gate.put(channel.number(), data.len());
        Ok(())
    }

    async fn extended_data(&mut self, channel: ChannelId, _: u32, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        self.told.gate.put(channel.number(), data.len());
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.told.agent_asked.load(Ordering::Relaxed) {
            // Before anything can come on it. More at once than the queue holds are refused.
            let number = channel.id().number();
            self.told.gate.count(number);
            if self.arrivals.try_send(Arrival { channel, reply }).is_err() {
                self.told.gate.forget(number);
            }
        }
        Ok(())
    }

    // The library accepts all of these unless told otherwise; a dropped reply refuses.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_session(&mut self, _: Channel<Msg>, _: ChannelOpenHandle, _: &mut Session) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let text = match reason {
            DisconnectReason::ReceivedDisconnect(words) => format!("it said: {}", printable(&words.message)),
            DisconnectReason::Error(failure) => failure.to_string(),
        };
        let _ = self.told.lost.set(text);
        Ok(())
    }
}
