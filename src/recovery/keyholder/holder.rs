//! What the keyholder holds, and how it comes by it. Private keys are only ever moved here, from a pipe into a pipe: this process does not
//! parse one and does not sign, its helpers do.

use super::agent::Server;
use super::certificate::Signed;
use super::child;
use super::frame::{Frame, Kind};
use super::memory::Locked;
use super::messages::{Answer, KeyError, KeyRequest, Which};
use super::signer::Task;
use crate::link::settings::KeyPlace;
use crate::recovery::fetch::{FetchRequest, Wanted};
use russh::keys::PublicKey;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::warn;

/// Certificates of one key that the agent still knows: a login may be under way with the one before the latest.
const CERTIFICATES: usize = 4;

/// A key.
struct Held {
    which: Which,
    key: Arc<Locked>,
    public: PublicKey,
    line: String,
    blob: Vec<u8>,
    /// The latest last; none for a key that logs in by itself.
    certificates: Vec<Signed>,
}

/// All keys, shared between the holder, which changes them, and the agent, which uses them.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<Vec<Held>>>);

impl Keys {
    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the agent lists: certificates where there are any, else public keys, as they go over the wire.
    pub fn identities(&self) -> Vec<(Vec<u8>, &'static str)> {
        let name = |which| if which == Which::Target { "target" } else { "hypervisor" };
        let keys = self.lock();
        keys.iter().map(|held| (held.certificates.last().map_or(&held.blob, |signed| &signed.blob).clone(), name(held.which))).collect()
    }

    /// The key behind a public key or a certificate, and whether it is an RSA key.
    pub fn find(&self, blob: &[u8]) -> Option<(Arc<Locked>, bool)> {
        let keys = self.lock();
        let held = keys.iter().find(|held| held.blob == blob || held.certificates.iter().any(|signed| signed.blob == blob))?;
        Some((held.key.clone(), held.public.algorithm().is_rsa()))
    }

    /// Takes a key in, in the place of the one that was there.
    fn put(&self, which: Which, key: Locked, line: &str) -> Result<(), KeyError> {
        let unreadable = |_| KeyError::failed("failed to read a public key of a helper");
        let public = PublicKey::from_openssh(line).map_err(unreadable)?;
        let blob = public.to_bytes().map_err(unreadable)?;
        let mut keys = self.lock();
        keys.retain(|held| held.which != which);
        keys.push(Held { which, key: Arc::new(key), public, line: line.to_owned(), blob, certificates: Vec::new() });
        keys.sort_by_key(|held| held.which != Which::Target);
        Ok(())
    }

    fn with<T>(&self, which: Which, body: impl FnOnce(&mut Held) -> T) -> Option<T> {
        self.lock().iter_mut().find(|held| held.which == which).map(body)
    }

    fn clear(&self) {
        self.lock().clear();
    }
}

/// The keyholder's state.
pub struct Holder {
    request: KeyRequest,
    keys: Keys,
    server: Option<Server>,
}

impl Holder {
    /// Holds nothing yet.
    pub fn new(request: KeyRequest) -> Self {
        Self { request, keys: Keys::default(), server: None }
    }

    /// Opens the agent's socket, makes the keys that are to be signed, and fetches everything in one login. May be asked again.
    pub async fn load(&mut self) -> Result<Vec<String>, KeyError> {
        if self.server.is_none() {
            let failed = |error| KeyError::failed(format!("failed to open the agent's socket {}: {error}", self.request.socket.display()));
            self.server = Some(Server::start(&self.request.socket, self.keys.clone()).map_err(failed)?);
        }
        let mut all = vec![Which::Target];
        all.extend(self.request.hypervisor.as_ref().map(|_| Which::Hypervisor));
        for which in &all {
            let is_made = matches!(self.place(*which), Some(KeyPlace::Ssh { .. }));
            if is_made && self.keys.with(*which, |_| ()).is_none() {
                self.make(*which).await?;
            }
        }
        self.fetch(&all).await?;
        Ok(self.keys.lock().iter().map(|held| held.line.clone()).collect())
    }

    /// As what to log in now. A certificate near its end is replaced first.
    pub async fn identity(&self, which: Which) -> Result<Answer, KeyError> {
        let place = self.place(which).ok_or_else(|| KeyError::failed("there is no hypervisor in the keyholder's request"))?;
        let held = self.keys.with(which, |held| (held.line.clone(), held.certificates.last().cloned()));
        let (line, signed) = held.ok_or_else(|| KeyError::failed("the keys are not loaded"))?;
        if matches!(place, KeyPlace::Kv { .. }) {
            return Ok(Answer::Key(line));
        }
        if let Some(signed) = signed.as_ref().filter(|signed| signed.is_fresh(now())) {
            return Ok(Answer::Certificate(signed.line.clone()));
        }
        let fetched = self.fetch(&[which]).await;
        match (fetched, signed.filter(|signed| signed.is_usable(now()))) {
            (Ok(()), _) => {
                let line = self.keys.with(which, |held| held.certificates.last().map(|signed| signed.line.clone()));
                line.flatten().map(Answer::Certificate).ok_or_else(|| KeyError::failed("the certificate is gone"))
            }
            (Err(error), Some(signed)) => {
                warn!(reason = %error.reason, %error, "the certificate was not renewed: the old one is used to its end");
                Ok(Answer::Certificate(signed.line))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Wipes everything and takes the socket away. Signatures under way are given up first: they too hold a key.
    pub async fn close(&mut self) {
        self.keys.clear();
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    fn place(&self, which: Which) -> Option<&KeyPlace> {
        match which {
            Which::Target => Some(&self.request.target),
            Which::Hypervisor => self.request.hypervisor.as_ref(),
        }
    }

    async fn make(&self, which: Which) -> Result<(), KeyError> {
        let task = serde_json::to_vec(&Task::Make).map_err(|_| KeyError::failed("failed to ask for a key"))?;
        let mut given = child::SIGN.run(&[(Kind::Request, &task)]).await?.into_iter();
        let (key, line) = (key(given.next())?, line(given.next())?);
        self.keys.put(which, key, &line)
    }

    /// One login for all of these. Either all of it is taken in or, but for what came before the fault, nothing.
    async fn fetch(&self, all: &[Which]) -> Result<(), KeyError> {
        let wanted = |which: &Which| {
            let place = self.place(*which)?.clone();
            let public_key = matches!(place, KeyPlace::Ssh { .. }).then(|| self.keys.with(*which, |held| held.line.clone())).flatten();
            Some(Wanted { place, public_key })
        };
        let request = FetchRequest {
            vault: self.request.vault.clone(),
            token_path: self.request.vault_token_path.clone(),
            wants: all.iter().filter_map(wanted).collect(),
        };
        let request = serde_json::to_vec(&request).map_err(|_| KeyError::failed("failed to ask for keys"))?;
        let mut given = child::FETCH.run(&[(Kind::Request, &request)]).await?.into_iter();
        for which in all {
            match self.place(*which) {
                Some(KeyPlace::Kv { .. }) => {
                    let (key, line) = (key(given.next())?, line(given.next())?);
                    self.keys.put(*which, key, &line)?;
                }
                Some(place @ KeyPlace::Ssh { principal, .. }) => {
                    let line = line(given.next())?;
                    let taken = self.keys.with(*which, |held| {
                        let signed = Signed::check(&line, &held.public, principal, now()).map_err(|why| KeyError::unusable(place, &why))?;
                        held.certificates.push(signed);
                        let surplus = held.certificates.len().saturating_sub(CERTIFICATES);
                        held.certificates.drain(..surplus);
                        Ok(())
                    });
                    taken.unwrap_or_else(|| Err(KeyError::failed("the keys are not loaded")))?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn key(frame: Option<Frame>) -> Result<Locked, KeyError> {
    match frame {
        Some(Frame::Key(key)) => Ok(key),
        _ => Err(KeyError::failed("a helper gave no key")),
    }
}

fn line(frame: Option<Frame>) -> Result<String, KeyError> {
    match frame {
        Some(Frame::Open(Kind::Line, bytes)) => String::from_utf8(bytes).ok(),
        _ => None,
    }
    .ok_or_else(|| KeyError::failed("a helper gave no public key"))
}

/// Seconds since 1970: what certificates count in.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDVuHPVqH4ZUkYUKUhRVcSYLvY5fkIVvvYNuyqRiBGNq";
    const SECOND: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_key_is_found_by_its_public_half_until_it_is_replaced() {
        let keys = Keys::default();
        keys.put(Which::Hypervisor, Locked::copy_of(b"h").unwrap(), SECOND).unwrap();
        keys.put(Which::Target, Locked::copy_of(b"t").unwrap(), FIRST).unwrap();
        let listed = keys.identities();
        assert_eq!(listed.iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["target", "hypervisor"]);
        let (key, is_rsa) = keys.find(&listed[1].0).unwrap();
        assert_eq!((&**key, is_rsa), (&b"h"[..], false));
        assert!(keys.find(b"").is_none());
        keys.put(Which::Hypervisor, Locked::copy_of(b"n").unwrap(), FIRST).unwrap();
        assert!(keys.find(&listed[1].0).is_none());
        keys.clear();
        assert!(keys.identities().is_empty());
    }
}
