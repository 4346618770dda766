//! An SFTP server (draft-ietf-secsh-filexfer-02, version 3) for images that have none. Runs as a process of its own,
//! like any command: blocking file calls, one client, killed with its channel.

use russh_sftp::protocol::{Attrs, Data, File as Entry, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version};
use russh_sftp::server::StatusReply;
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Longest answer to one read.
const LONGEST_READ: u32 = 256 * 1024 - 1024;
/// Entries in one answer to a directory read.
const ENTRIES: usize = 128;
/// Open files and folders at once.
const MOST_HANDLES: usize = 256;
const RENAME: &str = "posix-rename@openssh.com";
const SYNC: &str = "fsync@openssh.com";

/// Serves the client on standard input and output until it is done.
///
/// # Errors
/// When the runtime cannot be made, or standard input and output are no pipes.
pub fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (gone, ended) = oneshot::channel();
        let server = Server { handles: HashMap::new(), next: 0, _gone: gone };
        let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let output = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
        russh_sftp::server::run(tokio::io::join(input, output), server).await;
        // The library serves in a task of its own; the server, dropped at its end, takes `gone` with it.
        let _ = ended.await;
        Ok(())
    })
}

struct Server {
    handles: HashMap<String, Open>,
    next: u64,
    _gone: oneshot::Sender<()>,
}

enum Open {
    File(File),
    Folder(PathBuf, fs::ReadDir),
}

/// An answer in the protocol's terms, with the system's words.
struct Refusal(StatusCode, String);

impl From<Refusal> for StatusReply {
    fn from(refusal: Refusal) -> Self {
        Self { status_code: refusal.0, error_message: Some(refusal.1), language_tag: None }
    }
}

impl From<io::Error> for Refusal {
    fn from(failure: io::Error) -> Self {
        let code = match failure.kind() {
            io::ErrorKind::NotFound => StatusCode::NoSuchFile,
            io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
            _ => StatusCode::Failure,
        };
        Self(code, failure.to_string())
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Ok".into(), language_tag: "en-US".into() }
}

fn attributes(metadata: &Metadata) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time).unwrap_or(0);
    FileAttributes {
        size: Some(metadata.len()),
        uid: Some(metadata.uid()),
        user: None,
        gid: Some(metadata.gid()),
        group: None,
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
    }
}

/// Applies what a client asked to change; what it left out stays.
fn change(file: &File, wanted: &FileAttributes) -> io::Result<()> {
    if let Some(size) = wanted.size {
        file.set_len(size)?;
    }
    if let Some(mode) = wanted.permissions {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    if wanted.uid.is_some() || wanted.gid.is_some() {
        std::os::unix::fs::fchown(file, wanted.uid, wanted.gid)?;
    }
    change_times(file, wanted)
}

fn change_times(file: &File, wanted: &FileAttributes) -> io::Result<()> {
    let time = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    if let (Some(accessed), Some(modified)) = (wanted.atime, wanted.mtime) {
        file.set_times(fs::FileTimes::new().set_accessed(time(accessed)).set_modified(time(modified)))?;
    }
    Ok(())
}

impl Server {
    fn keep(&mut self, id: u32, open: Open) -> Result<Handle, Refusal> {
        if self.handles.len() >= MOST_HANDLES {
            return Err(Refusal(StatusCode::Failure, "too many open files".into()));
        }
        self.next += 1;
        let handle = self.next.to_string();
        self.handles.insert(handle.clone(), open);
        Ok(Handle { id, handle })
    }

    fn file(&self, handle: &str) -> Result<&File, Refusal> {
        match self.handles.get(handle) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(Refusal(StatusCode::Failure, "not an open file".into())),
        }
    }
}

fn options(flags: OpenFlags, wanted: &FileAttributes) -> OpenOptions {
    let has = |flag| flags.contains(flag);
    let mut options = OpenOptions::new();
    options.read(has(OpenFlags::READ)).write(has(OpenFlags::WRITE)).append(has(OpenFlags::APPEND));
    options.truncate(has(OpenFlags::TRUNCATE) && has(OpenFlags::WRITE));
    if has(OpenFlags::CREATE) && has(OpenFlags::EXCLUDE) {
        options.create_new(true);
    } else {
        options.create(has(OpenFlags::CREATE));
    }
    options.mode(wanted.permissions.unwrap_or(0o666) & 0o7777);
    options
}

impl russh_sftp::server::Handler for Server {
    type Error = Refusal;

    fn unimplemented(&self) -> Refusal {
        Refusal(StatusCode::OpUnsupported, "not supported".into())
    }

    async fn init(&mut self, _version: u32, _extensions: HashMap<String, String>) -> Result<Version, Refusal> {
        let mut version = Version::new();
        version.extensions.insert(RENAME.into(), "1".into());
        version.extensions.insert(SYNC.into(), "1".into());
        Ok(version)
    }

    async fn open(&mut self, id: u32, filename: String, flags: OpenFlags, wanted: FileAttributes) -> Result<Handle, Refusal> {
        let file = options(flags, &wanted).open(filename)?;
        self.keep(id, Open::File(file))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Refusal> {
        self.handles.remove(&handle);
        Ok(done(id))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, Refusal> {
        let mut data = vec![0; length.min(LONGEST_READ) as usize];
        let count = self.file(&handle)?.read_at(&mut data, offset)?;
        if count == 0 && length > 0 {
            return Err(Refusal(StatusCode::Eof, "end of file".into()));
        }
        data.truncate(count);
        Ok(Data { id, data })
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, Refusal> {
        self.file(&handle)?.write_all_at(&data, offset)?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        Ok(Attrs { id, attrs: attributes(&fs::symlink_metadata(path)?) })
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        Ok(Attrs { id, attrs: attributes(&fs::metadata(path)?) })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Refusal> {
        Ok(Attrs { id, attrs: attributes(&self.file(&handle)?.metadata()?) })
    }

    async fn setstat(&mut self, id: u32, path: String, wanted: FileAttributes) -> Result<Status, Refusal> {
        // By path where no open file is needed: a file without read permission can still get its mode changed.
        if let Some(mode) = wanted.permissions {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            chown(&path, wanted.uid, wanted.gid)?;
        }
        if let Some(size) = wanted.size {
            OpenOptions::new().write(true).open(&path)?.set_len(size)?;
        }
        if wanted.mtime.is_some() {
            change_times(&File::open(&path)?, &wanted)?;
        }
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, wanted: FileAttributes) -> Result<Status, Refusal> {
        change(self.file(&handle)?, &wanted)?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, Refusal> {
        let entries = fs::read_dir(&path)?;
        self.keep(id, Open::Folder(path.into(), entries))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, Refusal> {
        let Some(Open::Folder(path, entries)) = self.handles.get_mut(&handle) else {
            return Err(Refusal(StatusCode::Failure, "not an open folder".into()));
        };
        let mut files = Vec::new();
        for entry in entries.take(ENTRIES) {
            let name = entry?.file_name();
            // An entry may vanish between being listed and being looked at.
            if let Ok(metadata) = fs::symlink_metadata(path.join(&name)) {
                files.push(Entry::new(name.to_string_lossy(), attributes(&metadata)));
            }
        }
        if files.is_empty() {
            return Err(Refusal(StatusCode::Eof, "end of folder".into()));
        }
        Ok(Name { id, files })
    }

    async fn remove(&mut self, id: u32, filename: String) -> Result<Status, Refusal> {
        fs::remove_file(filename)?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, wanted: FileAttributes) -> Result<Status, Refusal> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(wanted.permissions.unwrap_or(0o777) & 0o7777).create(path)?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, Refusal> {
        fs::remove_dir(path)?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Refusal> {
        let resolved = resolve(Path::new(&path))?;
        Ok(Name { id, files: vec![Entry::new(resolved.to_string_lossy(), FileAttributes::empty())] })
    }

    async fn rename(&mut self, id: u32, old: String, new: String) -> Result<Status, Refusal> {
        if fs::symlink_metadata(&new).is_ok() {
            return Err(Refusal(StatusCode::Failure, format!("{new} exists")));
        }
        fs::rename(old, new)?;
        Ok(done(id))
    }

    async fn readlink(&mut self, id: u32, path: String) -> Result<Name, Refusal> {
        let target = fs::read_link(path)?;
        Ok(Name { id, files: vec![Entry::new(target.to_string_lossy(), FileAttributes::empty())] })
    }

    async fn symlink(&mut self, id: u32, linkpath: String, targetpath: String) -> Result<Status, Refusal> {
        // OpenSSH sends the two the other way round than the draft says, and every client follows it.
        symlink(linkpath, targetpath)?;
        Ok(done(id))
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, Refusal> {
        let mut rest = data.as_slice();
        match request.as_str() {
            RENAME => {
                let (Some(old), Some(new)) = (string(&mut rest), string(&mut rest)) else {
                    return Err(Refusal(StatusCode::BadMessage, "two paths are needed".into()));
                };
                fs::rename(old, new)?;
            }
            SYNC => {
                let handle = string(&mut rest).unwrap_or_default();
                self.file(&handle)?.sync_all()?;
            }
            _ => return Err(self.unimplemented()),
        }
        Ok(done(id).into())
    }
}

/// Reads a string (RFC 4251, 5) off the front.
fn string(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (text, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

/// An absolute path; of one that does not exist yet, what exists of it is resolved.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => Ok(resolve(parent)?.join(name)),
            _ => std::path::absolute(path),
        },
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_bounded_by_the_message() {
        let mut rest = &[0, 0, 0, 2, b'o', b'k', 0, 0, 0, 9, b'x'][..];
        assert_eq!(string(&mut rest), Some("ok".into()));
        assert_eq!(string(&mut rest), None, "a length beyond the end");
        assert_eq!(string(&mut &[0xff, 0xff, 0xff, 0xff][..]), None);
    }

    #[test]
    fn paths_that_do_not_exist_yet_are_resolved() {
        assert_eq!(resolve(Path::new("/tmp/../does-not-exist/x")).expect("resolved"), Path::new("/does-not-exist/x"));
    }
}
