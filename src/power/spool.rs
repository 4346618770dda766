//! Files on the hypervisor: one folder that only this user can enter, in it a lock for each VM and what is being captured.

use super::deadline::Deadline;
use super::request::{Verb, VmId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The lowest bits of a mode: what group and others may do.
const OTHERS_BITS: u32 = 6;
/// How often a lock that another verb holds is tried.
const TICK: Duration = Duration::from_millis(20);

/// Why there is no place to work in.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made or looked at.
    #[error("failed to prepare {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder is somebody else's, or open to others.
    #[error("{0} is not a folder that only this user can enter: remove it, or name another place with --spool")]
    NotPrivate(PathBuf),
    /// Another verb is at work, and went on for as long as it was waited for.
    #[error("another verb is being carried out on this VM: {0}; try again when it is done")]
    Busy(String),
}

/// A VM's place to work in, as long as its lock is held. What was captured is removed when it is dropped.
#[derive(Debug)]
pub struct Spool {
    /// Held, not read.
    _lock: File,
    folder: PathBuf,
    /// The folder of all VMs.
    root: PathBuf,
    id: VmId,
}

impl Spool {
    /// Takes the lock of a VM, below `place`. One that another verb holds is waited for until the deadline, and tried at least once.
    pub fn lock(place: &Path, vm: &VmId, verb: Verb, now: &str, deadline: Deadline) -> Result<Self, SpoolError> {
        let root = private_folder(place)?;
        let lock_path = root.join(format!("{vm}.lock"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| SpoolError::Folder { path, source }
        };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        if !taken(&lock, deadline).map_err(failed(&lock_path))? {
            let mut holder = String::new();
            let _ = (&lock).take(256).read_to_string(&mut holder);
            return Err(SpoolError::Busy(holder));
        }
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{verb} since {now}"));
        written.map_err(failed(&lock_path))?;
        let folder = root.join(format!("{vm}.captured"));
        // One that was killed leaves its folder; the lock says that it is nobody's now.
        let _ = std::fs::remove_dir_all(&folder);
        DirBuilder::new().mode(0o700).create(&folder).map_err(failed(&folder))?;
        Ok(Self { _lock: lock, folder, root, id: vm.clone() })
    }

    /// A path for another program to write `name` to. No such file exists.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An empty file without a name, opened twice: to write only, for another program, and to read.
    pub fn nameless(&self) -> io::Result<(File, File)> {
        let path = self.path("nameless");
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let read = File::open(&path);
        std::fs::remove_file(&path)?;
        Ok((written, read?))
    }

    /// The file that a start program's words go to. It keeps its name: the VM may go on writing to it.
    pub fn start_log(&self) -> io::Result<(File, PathBuf)> {
        let path = self.root.join(format!("{}.start.log", self.id));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        Ok((file, path))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Locks a file; false if another held it until the deadline. Tried again and again: a lock that is waited for knows no deadline.
fn taken(lock: &File, deadline: Deadline) -> io::Result<bool> {
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) if deadline.pause(TICK) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(false),
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// The folder below `place`, which may be open to everybody: its name is no secret, so who made it is looked at.
pub fn private_folder(place: &Path) -> Result<PathBuf, SpoolError> {
    let user = rustix::process::geteuid().as_raw();
    let path = place.join(format!("sandglass-power-{user}"));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(failure) if failure.kind() != io::ErrorKind::AlreadyExists => return Err(SpoolError::Folder { path, source: failure }),
        _ => {}
    }
    // Not following a link.
    let found = std::fs::symlink_metadata(&path).map_err(|source| SpoolError::Folder { path: path.clone(), source })?;
    let private = found.mode().trailing_zeros() >= OTHERS_BITS;
    if found.is_dir() && found.uid() == user && private { Ok(path) } else { Err(SpoolError::NotPrivate(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sandglass-spool-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("create");
        path
    }

    #[test]
    fn one_verb_at_a_time_for_each_vm() {
        let place = place("lock");
        let id = |text| VmId::of(text).expect("an id");
        let lock = |vm, verb, now, limit| Spool::lock(&place, &id(vm), verb, now, Deadline::after(limit));
        let held = lock("102", Verb::Cycle, "NOW", Duration::ZERO).expect("locks");
        let (began, limit) = (Instant::now(), Duration::from_millis(300));
        let busy = lock("102", Verb::Stop, "LATER", limit).expect_err("locked");
        assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
        assert!(busy.to_string().contains("cycle since NOW"), "{busy}");
        let other = lock("103", Verb::Stop, "LATER", Duration::ZERO).expect("another VM");
        std::fs::write(held.path("left"), "x").expect("write");
        let again = std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock("102", Verb::Stop, "LATER", Duration::from_mins(1)));
            drop((held, other));
            waits.join().expect("joins").expect("locks again")
        });
        assert!(!again.path("left").exists());
        let (mut written, mut read) = again.nameless().expect("a file");
        written.write_all(b"evidence").expect("write");
        let mut text = String::new();
        read.read_to_string(&mut text).expect("read");
        assert_eq!((text.as_str(), std::fs::read_dir(&again.folder).expect("list").count()), ("evidence", 0));
        drop(again);
        std::fs::remove_dir_all(place).expect("remove");
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let place = place("private");
        let folder = private_folder(&place).expect("private");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        assert!(matches!(private_folder(&place), Err(SpoolError::NotPrivate(_))));
        std::fs::remove_dir(&folder).expect("remove");
        std::os::unix::fs::symlink(std::env::temp_dir(), &folder).expect("link");
        assert!(matches!(private_folder(&place), Err(SpoolError::NotPrivate(_))));
        std::fs::remove_dir_all(place).expect("remove");
    }
}
