//! Lines for the hypervisor's own log: who asked for what, and what became of it. One datagram to the system's log as RFC
//! 3164 has it, facility auth; standard error where there is no such socket. Never waits for a reader.

use super::output::is_writable;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// How grave a line is: RFC 3164's severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Tried in vain.
    Error = 3,
    /// Refused.
    Warning = 4,
    /// Done.
    Information = 6,
}

/// RFC 3164's facility for security and authorization.
const FACILITY: u8 = 4;
/// RFC 3164 allows 1024 bytes in all.
const MESSAGE_LIMIT: usize = 900;

/// Writes lines.
#[derive(Debug)]
pub struct Log {
    socket: PathBuf,
    client: String,
}

impl Log {
    /// A log through the socket at `path`, on behalf of `client`, an address.
    #[must_use]
    pub fn new(path: &Path, client: Option<&str>) -> Self {
        Self { socket: path.to_owned(), client: printable(client.unwrap_or("local"), 64) }
    }

    /// Writes one line.
    pub fn write(&self, severity: Severity, message: &str) {
        let message = format!("sandglass-power[{}]: client={} {}", std::process::id(), self.client, printable(message, MESSAGE_LIMIT));
        let now = chrono::Local::now().format("%b %e %H:%M:%S");
        let datagram = format!("<{}>{now} {message}", FACILITY * 8 + severity as u8);
        if self.send(datagram.as_bytes()).is_err() && is_writable(&std::io::stderr()) {
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    fn send(&self, datagram: &[u8]) -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(datagram, &self.socket).map(|_| ())
    }
}

/// `text` in printable ASCII, everything else escaped, at most `limit` characters: it may come from anybody.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    text.chars().flat_map(char::escape_default).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_datagram_that_nobody_can_forge() {
        let path = std::env::temp_dir().join(format!("sandglass-power-log-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("bind");
        Log::new(&path, Some("192.0.2.7")).write(Severity::Warning, "refused: a\n<0>kernel: b");
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).expect("receive");
        std::fs::remove_file(&path).expect("remove");
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(line.starts_with("<36>"), "{line}");
        let end = format!(" sandglass-power[{}]: client=192.0.2.7 refused: a\\n<0>kernel: b", std::process::id());
        assert_eq!(line.get("<36>Mmm dd hh:mm:ss".len()..), Some(end.as_str()));
    }
}
