//! What is known of one client's connection: who is logged in, its channels, its recording.

use super::Gateway;
use super::channel::Shared;
use crate::api::AnySession;
use crate::api::debug_session::Build;
use crate::domain::access::{Authorized, Credential, Denied, authorize};
use crate::domain::names::ObjectName;
use crate::recording::audit::AuditEvent;
use crate::recording::evidence::Evidence;
use crate::recording::manifest::About;
use crate::recording::recorder::Recorder;
use chrono::{DateTime, Utc};
use russh::ChannelId;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Semaphore, watch};

/// Who logged in, to what.
#[derive(Clone, Debug)]
pub struct Login {
    /// The session.
    pub session: ObjectName,
    /// What was proved.
    pub credential: Credential,
    /// What follows from it now.
    pub authorized: Authorized,
}

/// One connection. Its channels hold it too.
pub struct Connection {
    /// The replica.
    pub gateway: Arc<Gateway>,
    /// Identifier in logs and status.
    pub id: String,
    /// Where the client is.
    pub peer: SocketAddr,
    /// Its channels.
    pub channels: Mutex<HashMap<ChannelId, Arc<Shared>>>,
    /// Connections to the user's ssh-agent at once.
    pub agent_connections: Arc<Semaphore>,
    /// Set once: why the connection is being cut.
    pub cut: watch::Sender<Option<Arc<str>>>,
    /// The newest thing to tell users at a terminal.
    pub notice: watch::Sender<Option<Arc<str>>>,
    login: Mutex<Option<Login>>,
    farewell: OnceLock<String>,
    /// What was decided before the recording began.
    decisions: Mutex<Vec<(DateTime<Utc>, AuditEvent)>>,
    /// From the login on, where recording is required. Ends with the last task that holds this connection.
    recorder: OnceLock<(Recorder, About)>,
    /// When a byte passed, in seconds since 1970.
    pub(super) last_byte: AtomicI64,
}

impl Connection {
    /// A connection that has not logged in.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, id: String, peer: SocketAddr) -> Self {
        let last_byte = AtomicI64::new((gateway.now)().timestamp());
        Self {
            gateway,
            id,
            peer,
            channels: Mutex::default(),
            agent_connections: Arc::new(Semaphore::new(16)),
            cut: watch::Sender::new(None),
            notice: watch::Sender::new(None),
            login: Mutex::default(),
            farewell: OnceLock::new(),
            decisions: Mutex::default(),
            recorder: OnceLock::new(),
            last_byte,
        }
    }

    /// The source address, for rules about addresses.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.peer.ip()
    }

    /// The channels.
    pub fn channels(&self) -> MutexGuard<'_, HashMap<ChannelId, Arc<Shared>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn login_slot(&self) -> MutexGuard<'_, Option<Login>> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is logged in.
    #[must_use]
    pub fn login(&self) -> Option<Login> {
        self.login_slot().clone()
    }

    /// Remembers who logged in.
    pub fn log_in(&self, login: Login) {
        *self.login_slot() = Some(login);
    }

    /// Remembers what to say to whoever proved a key of a session that is over. Nobody logs in on this connection.
    pub fn say_farewell(&self, words: String) {
        let _ = self.farewell.set(words);
    }

    /// What was said to whoever came too late.
    #[must_use]
    pub fn farewell(&self) -> Option<&str> {
        self.farewell.get().map(String::as_str)
    }

    /// Remembers a decision about a login, for the recording.
    pub fn decided(&self, credential: &Credential, refusal: Option<String>) {
        let event = AuditEvent::Login {
            accepted: refusal.is_none(),
            fingerprint: credential.fingerprint(),
            certificate: credential.certificate(),
            reason: refusal,
        };
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).push(((self.gateway.now)(), event));
    }

    /// Begins the recording of whoever logged in, where it is required; gives its address.
    pub fn record(&self, login: &Login) -> Option<String> {
        let archive = self.gateway.archive.as_ref()?;
        let object = self.gateway.directory.of_uid(&login.session, login.authorized.object_uid())?;
        let build = match &*object {
            AnySession::Debug(session) => session.spec.build.clone().unwrap_or_default(),
            AnySession::Vm(_) => Build::default(),
        };
        let about = About {
            namespace: login.session.namespace.clone(),
            name: login.session.name.clone(),
            uid: login.authorized.object_uid().to_owned(),
            requester: object.terms().requester.to_owned(),
            commit: build.commit,
            pull_request: build.pull_request,
            run: build.run,
            remote_address: self.peer.to_string(),
            fingerprint: login.credential.fingerprint(),
            certificate: login.credential.certificate(),
        };
        let decisions = std::mem::take(&mut *self.decisions.lock().unwrap_or_else(PoisonError::into_inner));
        let (recorder, address) = archive.begin(&self.id, about.clone(), &decisions);
        self.recorder.set((recorder, about)).ok().map(|()| address)
    }

    /// The recording, where there is one.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.get().map(|(recorder, _)| recorder)
    }

    /// A place for the evidence of a power verb on `channel`, where recordings are kept.
    pub fn evidence(&self, channel: u32) -> Option<Evidence> {
        let (_, about) = self.recorder.get()?;
        Some(self.gateway.archive.as_ref()?.evidence(about, &self.id, channel))
    }

    /// Whether channels may be opened: where recording is required, it has begun.
    #[must_use]
    pub fn may_show(&self) -> bool {
        self.gateway.archive.is_none() || self.recorder.get().is_some()
    }

    /// The client did not get what it asked for.
    pub fn refused(&self, channel: Option<ChannelId>, request: &str, reason: &str) {
        if let Some(recorder) = self.recorder() {
            let channel = channel.map(u32::from);
            recorder.audit(&AuditEvent::Refused { channel, request: request.to_owned(), reason: reason.to_owned() });
        }
    }

    /// A byte passed, either way.
    pub fn touch(&self) {
        self.last_byte.store((self.gateway.now)().timestamp(), Ordering::Relaxed);
    }

    /// Decides about a credential with the objects of that name as they are now: the first that lets it in counts, then the
    /// first that would have.
    ///
    /// # Errors
    /// Why it has no access.
    pub fn decide(&self, session: &ObjectName, credential: &Credential) -> Result<Authorized, Denied> {
        let mut refusal = Denied::Unknown;
        for object in self.gateway.directory.named(session) {
            match self.decide_about(&object, credential) {
                Ok(authorized) => return Ok(authorized),
                Err(denied) if !refusal.is_over() => refusal = denied,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn decide_about(&self, object: &AnySession, credential: &Credential) -> Result<Authorized, Denied> {
        authorize(credential, object, &self.gateway.configuration, self.source(), (self.gateway.now)())
    }

    /// The same for whoever is logged in; an object of the same name but another UID is another session.
    pub(super) fn decide_again(&self) -> Result<Authorized, Denied> {
        let login = self.login().ok_or(Denied::NoAccess)?;
        let object = self.gateway.directory.of_uid(&login.session, login.authorized.object_uid()).ok_or(Denied::Deleted)?;
        let authorized = self.decide_about(&object, &login.credential)?;
        if let Some(login) = self.login_slot().as_mut() {
            login.authorized = authorized.clone();
        }
        Ok(authorized)
    }
}
