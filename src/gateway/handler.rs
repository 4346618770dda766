//! The translator between the SSH library and our own terms: callback in, message and reply out. No policy; and no waiting once
//! somebody is logged in, for its callbacks run inside the connection's loop.

use super::channel::{Channel, Shared, shared, take_input};
use super::connection::{Connection, Login};
use super::metrics::Kind;
use super::output::Output;
use super::program::Prepared;
use super::report::{Event, Report};
use super::sight::Sight;
use crate::api::session::{Capability, ConnectionRecord};
use crate::domain::access::{Credential, Denied};
use crate::domain::line::one_line;
use crate::domain::names::ObjectName;
use crate::link::message::{Program, Size, Terminal};
use crate::link::signals;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::info;

/// Window that the client gets, RFC 4254, 5.2.
pub const WINDOW: u32 = 2 * 1024 * 1024;
/// The least the library lets us ask for: as good as nothing, yet it asks again.
const BRAKE: u32 = 2;
/// After so many braked reads in a row, each further one is delayed a little: a client that dribbles costs no core.
const DRIBBLES: u32 = 3;
/// Channels at once on one connection, as sshd's `MaxSessions` with room for forwards.
pub const MOST_CHANNELS: usize = 64;
/// Channels over a connection's life: the library keeps a little of each until the connection ends.
const MOST_CHANNELS_EVER: u32 = 4096;
/// Variables a client may set, and their total size.
const MOST_VARIABLES: usize = 64;
const LONGEST_VARIABLE: usize = 4096;
/// Characters of the reason that whoever comes too late is told.
const LONGEST_REASON: usize = 300;

/// One connection's handler.
pub struct Client {
    pub(super) connection: Arc<Connection>,
    pub(super) prepared: HashMap<ChannelId, Prepared>,
    dribbles: u32,
    opened: u32,
    logged_in: Option<oneshot::Sender<()>>,
    /// Whether a login was tried.
    tried: Arc<std::sync::atomic::AtomicBool>,
    /// Whether a refusal has waited for news of the session.
    waited: bool,
}

type Outcome<T = ()> = Result<T, russh::Error>;

impl Client {
    /// A handler; `logged_in` fires once, at the login, `tried` at the first attempt.
    #[must_use]
    pub fn new(connection: Arc<Connection>, logged_in: oneshot::Sender<()>, tried: Arc<std::sync::atomic::AtomicBool>) -> Self {
        Self { connection, prepared: HashMap::new(), dribbles: 0, opened: 0, logged_in: Some(logged_in), tried, waited: false }
    }

    /// The first refusal of a connection waits for news, whatever its reason: who has no access learns nothing from how long it takes.
    /// To be boxed: what it holds meanwhile would be part of the connection's task for as long as that lives.
    async fn decide(&mut self, user: &str, credential: &Credential) -> Result<Login, Denied> {
        self.tried.store(true, std::sync::atomic::Ordering::Relaxed);
        let session = ObjectName::from_ssh_user(user).ok_or(Denied::Unknown)?;
        let connection = Arc::clone(&self.connection);
        let mut decision = connection.decide(&session, credential);
        if decision.is_err() && !std::mem::replace(&mut self.waited, true) {
            decision = connection.gateway.directory.catch_up(|| connection.decide(&session, credential)).await;
        }
        Ok(Login { authorized: decision?, session, credential: credential.clone() })
    }

    async fn answer(&mut self, user: &str, credential: &Credential) -> Auth {
        let fingerprint = credential.fingerprint();
        match self.decide(user, credential).await {
            Ok(login) => {
                info!(connection = self.connection.id, peer = %self.connection.peer, session = %login.session, fingerprint, "login");
                self.connection.decided(credential, None);
                self.connection.log_in(login);
                Auth::Accept
            }
            Err(reason) => {
                info!(connection = self.connection.id, peer = %self.connection.peer, user, fingerprint, %reason, "login refused");
                self.connection.decided(credential, Some(reason.to_string()));
                if !reason.is_over() {
                    return Auth::reject();
                }
                // A refusal has no room for words. Nobody is logged in: `auth_succeeded` says why, and ends the connection.
                let reason = one_line(&reason.to_string(), LONGEST_REASON);
                self.connection.say_farewell(format!("sandglass: {reason}. It does not open again: make another one"));
                Auth::Accept
            }
        }
    }

    fn may(&self, capability: Capability) -> bool {
        self.connection.login().is_some_and(|login| login.authorized.allows(capability))
    }

    /// Why a capability is missing.
    pub(super) fn lacks(&self, capability: &str) -> String {
        let by_certificate = self.connection.login().is_some_and(|login| matches!(login.credential, Credential::Certificate(..)));
        let certificate = if by_certificate { ", or the certificate does not permit it" } else { "" };
        format!("spec.access.allow lacks {capability}{certificate}")
    }

    /// Whether there is room for one more channel; counts it.
    fn has_room(&mut self) -> bool {
        self.opened = self.opened.saturating_add(1);
        let room = self.opened <= MOST_CHANNELS_EVER && self.connection.channels().len() < MOST_CHANNELS;
        if !room {
            self.connection.refused(None, "channel", "this connection has as many as it may have");
        }
        room
    }

    fn channel(&self, id: ChannelId) -> Option<Arc<Shared>> {
        self.connection.channels().get(&id).cloned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for (_, shared) in self.connection.channels().drain() {
            shared.closed.cancel();
        }
    }
}

/// Variables that a client may bring along, as sshd's usual `AcceptEnv` and what terminals announce.
fn is_accepted(name: &str) -> bool {
    matches!(name, "LANG" | "LANGUAGE" | "TZ" | "COLORTERM" | "NO_COLOR" | "TERM_PROGRAM" | "GIT_PROTOCOL") || name.starts_with("LC_")
}

fn size(columns: u32, rows: u32) -> Size {
    let clamp = |value| u16::try_from(value).unwrap_or(u16::MAX);
    Size { width: clamp(columns), height: clamp(rows) }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Outcome<Auth> {
        // A hint only: the decision follows the signature. Certificates offer their inner key here, so that with trusted CAs
        // every key may go on to be signed.
        let credential = Credential::Key(offer.public_key.clone());
        let decision = Box::pin(self.decide(user, &credential)).await;
        let has_access = decision.as_ref().map_or_else(Denied::is_over, |_| true);
        let welcome = has_access || !self.connection.gateway.configuration.user_certificate_authorities.is_empty();
        if let Err(reason) = decision
            && !welcome
        {
            info!(connection = self.connection.id, peer = %self.connection.peer, user, fingerprint = credential.fingerprint(), %reason, "key refused");
            self.connection.decided(&credential, Some(reason.to_string()));
        }
        Ok(if welcome { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Outcome<Auth> {
        if matches!(key.algorithm, russh::keys::Algorithm::Rsa { hash: None }) {
            return Ok(Auth::reject());
        }
        Ok(Box::pin(self.answer(user, &Credential::Key(key.public_key.clone()))).await)
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Outcome<Auth> {
        let credential = Credential::Certificate(Box::new(certificate.clone()), (self.connection.gateway.now)());
        Ok(Box::pin(self.answer(user, &credential)).await)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Outcome {
        if let Some(words) = self.connection.farewell() {
            return session.disconnect(Disconnect::ServiceNotAvailable, words, "en");
        }
        let Some(login) = self.connection.login() else { return Err(russh::Error::Inconsistent) };
        let recording = self.connection.record(&login);
        if !self.connection.may_show() {
            // The session vanished between the decision and now.
            return Err(russh::Error::Disconnect);
        }
        let record = ConnectionRecord {
            id: self.connection.id.clone(),
            key_fingerprint: login.credential.fingerprint(),
            remote_address: self.connection.peer.to_string(),
            started_at: Time(k8s_openapi::jiff::Timestamp::from_second((self.connection.gateway.now)().timestamp()).unwrap_or_default()),
            ended_at: None,
            recording,
        };
        self.connection.gateway.reports.send(Report {
            kind: login.authorized.object_kind(),
            session: login.session,
            event: Event::Connected(record),
        });
        if let Some(logged_in) = self.logged_in.take() {
            let _ = logged_in.send(());
        }
        Ok(())
    }

    async fn channel_open_session(&mut self, channel: russh::Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Outcome {
        if self.connection.login().is_none() {
            // After a farewell, if the library ever went on.
            return Err(russh::Error::Disconnect);
        }
        if !self.has_room() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let (shared, ends) = shared(&self.connection.gateway.budget);
        // Bytes come through the callbacks below; a read half kept unread would block the whole connection.
        let (_, write) = channel.split();
        let id = write.id();
        self.connection.channels().insert(id, Arc::clone(&shared));
        self.prepared.insert(id, Prepared { write, shared, ends, terminal: None, environment: Vec::new(), agent_forward: false });
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: russh::Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Outcome {
        let login = self.connection.login().filter(|login| login.authorized.allows(Capability::LocalForward));
        let (Some(login), Ok(port)) = (login, u16::try_from(port)) else {
            let reason = format!("forwarding is not allowed here: {}", self.lacks("LocalForward"));
            self.connection.refused(None, &format!("forward to {host}:{port}"), &reason);
            reply.reject(ChannelOpenFailure::Other { code: 1, reason }).await;
            return Ok(());
        };
        if !self.has_room() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.connection.gateway.metrics.channel(Kind::LocalForward);
        info!(connection = self.connection.id, session = %login.session, host, port, "forward");
        let (shared, ends) = shared(&self.connection.gateway.budget);
        let (_, write) = channel.split();
        let sight = Sight::forward(&self.connection, write.id().into(), host, port);
        let output = Output::new(write, session.handle(), false, Arc::clone(&self.connection), sight);
        self.connection.channels().insert(output.id(), Arc::clone(&shared));
        let handle = session.handle();
        let channel =
            Channel { connection: Arc::clone(&self.connection), login, shared, ends, output, handle, agent_forward: false, note: None };
        tokio::spawn(channel.run_connect(reply, host.to_owned(), port));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _: russh::Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome {
        let reason = "forwarding to Unix sockets is not there: forward to a TCP port".to_owned();
        let path: String = path.chars().take(256).collect();
        self.connection.refused(None, &format!("forward to {path}"), &reason);
        reply.reject(ChannelOpenFailure::Other { code: 1, reason }).await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Outcome {
        let allowed = self.connection.login().is_some_and(|login| login.authorized.allows_terminal());
        let Some(prepared) = self.prepared.get_mut(&id).filter(|_| allowed && term.len() < LONGEST_VARIABLE) else {
            self.connection.refused(Some(id), "terminal", "the certificate allows none");
            return session.channel_failure(id);
        };
        let modes = modes.iter().map(|(mode, value)| (*mode as u8, *value)).filter(|(mode, _)| *mode != 0).collect();
        prepared.terminal = Some(Terminal { name: term.to_owned(), size: size(columns, rows), modes });
        session.channel_success(id)
    }

    async fn env_request(&mut self, id: ChannelId, name: &str, value: &str, session: &mut Session) -> Outcome {
        let fits = is_accepted(name) && name.len() + value.len() < LONGEST_VARIABLE && !value.contains('\0');
        if let Some(prepared) = self.prepared.get_mut(&id).filter(|prepared| fits && prepared.environment.len() < MOST_VARIABLES) {
            prepared.environment.push((name.to_owned(), value.to_owned()));
            return session.channel_success(id);
        }
        let shown: String = name.chars().take(64).collect();
        self.connection.refused(Some(id), &format!("variable {shown}"), "it is not one that clients may bring along, or there is no room");
        session.channel_failure(id)
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Outcome<bool> {
        let allowed = self.may(Capability::AgentForward);
        if !allowed {
            self.connection.refused(Some(id), "agent forwarding", &self.lacks("AgentForward"));
        }
        // Clients do not tell their users of a no: it is said at a terminal, see Channel::greet.
        let prepared = self.prepared.get_mut(&id).map(|prepared| prepared.agent_forward = true);
        Ok(allowed && prepared.is_some())
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Outcome {
        self.start(id, Program::Shell, session)
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Outcome {
        match String::from_utf8(command.to_vec()) {
            Ok(command) if !command.contains('\0') => self.start(id, Program::Command(command), session),
            _ => {
                self.connection.refused(Some(id), "command", "it is not UTF-8, or has a zero byte in it");
                session.channel_failure(id)
            }
        }
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Outcome {
        if name == "sftp" && self.may(Capability::Sftp) {
            return self.start(id, Program::Sftp, session);
        }
        let reason = if name == "sftp" {
            format!("files are not allowed here: {}", self.lacks("Sftp"))
        } else {
            "there is no such subsystem here, only sftp".to_owned()
        };
        let name: String = name.chars().take(64).collect();
        self.decline(id, &format!("subsystem {name}"), &reason, session)
    }

    async fn tcpip_forward(&mut self, address: &str, port: &mut u32, _: &mut Session) -> Outcome<bool> {
        self.connection.refused(None, &format!("remote forward of {address}:{port}"), "sessions take no connections from inside");
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Outcome<bool> {
        self.connection.refused(None, &format!("remote forward of {path}"), "sessions take no connections from inside");
        Ok(false)
    }

    async fn x11_request(&mut self, id: ChannelId, _: bool, _: &str, _: &str, _: u32, session: &mut Session) -> Outcome {
        self.connection.refused(Some(id), "X11", "sessions have none");
        session.channel_failure(id)
    }

    async fn window_change_request(&mut self, id: ChannelId, columns: u32, rows: u32, _: u32, _: u32, session: &mut Session) -> Outcome {
        let size = size(columns, rows);
        if let Some(terminal) = self.prepared.get_mut(&id).and_then(|prepared| prepared.terminal.as_mut()) {
            terminal.size = size;
        } else if let Some(channel) = self.channel(id) {
            channel.size.send_replace(size);
            if let Some(sight) = channel.sight.get() {
                sight.resized(size);
            }
        }
        session.channel_success(id)
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: &mut Session) -> Outcome {
        if let (Some(channel), Some(number)) = (self.channel(id), signals::number(&signal)) {
            let _ = channel.signals.try_send(number);
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut Session) -> Outcome {
        let Some(channel) = self.channel(id) else { return Ok(()) };
        take_input(&self.connection, &channel, data);
        if self.dribbles > DRIBBLES && channel.inbox.is_long() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, id: ChannelId, _: u32) -> u32 {
        if self.channel(id).is_some_and(|channel| channel.inbox.is_long()) {
            self.dribbles = self.dribbles.saturating_add(1);
            BRAKE
        } else {
            self.dribbles = 0;
            WINDOW
        }
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        if let Some(channel) = self.channel(id) {
            channel.inbox.end();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        self.prepared.remove(&id);
        if let Some(channel) = self.connection.channels().remove(&id) {
            channel.closed.cancel();
        }
        Ok(())
    }
}
