//! The options: what the person who wrote the line in `authorized_keys` allows, and where things are. Pure.

use super::request::{Verb, VmId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `--help` prints.
pub const USAGE: &str = "usage: sandglass-power --driver qm|virsh|qmp --vm ID[=SOCKET]... [option]... [VERB ID]

Carries out one verb on one VM of this hypervisor: status, forensics, reset, stop, start, cycle. Verb and VM come from
SSH_ORIGINAL_COMMAND, which sshd sets for a key's forced command, else from the command line. One line of authorized_keys:

  restrict,command=\"/usr/local/bin/sandglass-power --driver qm --vm 102\" ssh-ed25519 AAAA... sandglass

  --driver qm|virsh|qmp   Proxmox VE, libvirt, or QEMU's own socket
  --vm ID[=SOCKET]        a VM that may be used; with qmp, its QMP socket
  --start ID=PROGRAM      qmp: the program that starts the VM; its only argument is the id
  --console ID=FILE       the file that the VM's serial console is written to
  --verbs VERB,...        only these verbs (default: all)
  --spool FOLDER          where captured files and locks are (default: /var/tmp)
  --item-seconds N        limit for one item of the bundle, for one look, and for another verb to end (default: 10)
  --capture-seconds N     limit for the whole bundle, sending included (default: 45)
  --verify-seconds N      limit for an action and for the wanted state to be seen (default: 60)
  --memory-dump           capture the guest's memory too (not with qm)
  --memory-seconds N      limit for that, on top of the others (default: 120)
  --connect URI           virsh: the connection (default: qemu:///system)
  --qm, --pvesh, --virsh, --log-socket PATH   where these are, if not in the usual place
  --check                 tell for each VM whether it can be reached, change nothing
  --help, --version

Exit code: 0 done, and after `status` the VM is on; 2 after `status` the VM is off; 1 failed or refused.";

/// The longest limit, in seconds.
const LONGEST: u64 = 3600;

/// How VMs are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Proxmox VE's `qm`.
    Qm,
    /// libvirt's `virsh`.
    Virsh,
    /// QEMU's own socket.
    Qmp,
}

/// What is known of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its QMP socket.
    pub socket: Option<PathBuf>,
    /// The program that starts it.
    pub start: Option<PathBuf>,
    /// The file its serial console is written to.
    pub console: Option<PathBuf>,
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one item.
    pub item: Duration,
    /// For the bundle, without the memory dump.
    pub capture: Duration,
    /// For an action and the state it is to bring about.
    pub verify: Duration,
    /// For the memory dump.
    pub memory: Duration,
}

/// Where programs and sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Proxmox's `qm`.
    pub qm: PathBuf,
    /// Proxmox's `pvesh`.
    pub pvesh: PathBuf,
    /// libvirt's `virsh`.
    pub virsh: PathBuf,
    /// libvirt's connection URI.
    pub connection: String,
    /// Captured files and locks.
    pub spool: PathBuf,
    /// The system's log.
    pub log: PathBuf,
}

/// All options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How VMs are reached.
    pub kind: Kind,
    /// The VMs that may be used.
    pub machines: BTreeMap<VmId, Machine>,
    /// The verbs that may be used.
    pub verbs: Vec<Verb>,
    /// Time limits.
    pub limits: Limits,
    /// Where things are.
    pub places: Places,
    /// Whether memory is captured.
    pub memory_dump: bool,
    /// `--check`.
    pub check: bool,
    /// The words after the options.
    pub words: Vec<String>,
}

/// Why options are not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No such option.
    #[error("there is no option {0}")]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(String),
    /// A value that is not understood.
    #[error("{option} {value}: {wanted}")]
    BadValue {
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// An option for a VM that is not listed.
    #[error("{option} names {vm}, which no --vm allows")]
    NoSuchVm {
        /// The option.
        option: String,
        /// The VM.
        vm: String,
    },
    /// No driver.
    #[error("--driver is missing: qm, virsh or qmp")]
    NoDriver,
    /// No VM.
    #[error("--vm is missing: name at least one VM")]
    NoVm,
    /// A driver with a VM it cannot work with.
    #[error("--vm {vm}: {wanted}")]
    UnfitVm {
        /// The VM.
        vm: String,
        /// What it should be.
        wanted: &'static str,
    },
}

impl Options {
    /// Reads the words of a command line, without the program's own name.
    pub fn parse(words: &[String]) -> Result<Self, OptionsError> {
        let mut read = Reading::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                read.words = std::iter::once(word).chain(words).cloned().collect();
                break;
            }
            match word.as_str() {
                "--check" => read.check = true,
                "--memory-dump" => read.memory_dump = true,
                option => {
                    let value = words.next().ok_or_else(|| OptionsError::NoValue(option.to_owned()))?;
                    read.option(option, value)?;
                }
            }
        }
        read.finish()
    }
}

#[derive(Default)]
struct Reading {
    kind: Option<Kind>,
    machines: BTreeMap<VmId, Machine>,
    /// `--start` and `--console` may come before their `--vm`.
    paths: Vec<(String, VmId, PathBuf)>,
    verbs: Option<Vec<Verb>>,
    seconds: BTreeMap<String, Duration>,
    places: BTreeMap<String, PathBuf>,
    connection: Option<String>,
    memory_dump: bool,
    check: bool,
    words: Vec<String>,
}

impl Reading {
    fn option(&mut self, option: &str, value: &str) -> Result<(), OptionsError> {
        let bad = |wanted| OptionsError::BadValue { option: option.to_owned(), value: value.to_owned(), wanted };
        match option {
            "--driver" => {
                self.kind = Some(match value {
                    "qm" => Kind::Qm,
                    "virsh" => Kind::Virsh,
                    "qmp" => Kind::Qmp,
                    _ => return Err(bad("use qm, virsh or qmp")),
                });
            }
            "--vm" => {
                let (id, socket) = value.split_once('=').map_or((value, None), |(id, socket)| (id, Some(socket)));
                let id = VmId::of(id).ok_or_else(|| bad("an id is letters, digits, `.`, `_` and `-`, at most 63"))?;
                let socket = socket.map(|socket| absolute(socket).ok_or_else(|| bad("give an absolute path"))).transpose()?;
                if self.machines.insert(id, Machine { socket, ..Machine::default() }).is_some() {
                    return Err(bad("this VM is named twice"));
                }
            }
            "--start" | "--console" => {
                let (id, path) = value.split_once('=').ok_or_else(|| bad("give ID=PATH"))?;
                let id = VmId::of(id).ok_or_else(|| bad("give ID=PATH"))?;
                let path = absolute(path).ok_or_else(|| bad("give an absolute path"))?;
                self.paths.push((option.to_owned(), id, path));
            }
            "--verbs" => {
                let verbs: Option<Vec<Verb>> = value.split(',').map(Verb::of).collect();
                self.verbs = Some(verbs.ok_or_else(|| bad("use status, forensics, reset, stop, start, cycle"))?);
            }
            "--item-seconds" | "--capture-seconds" | "--verify-seconds" | "--memory-seconds" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=LONGEST).contains(seconds));
                let limit = Duration::from_secs(seconds.ok_or_else(|| bad("give seconds, from 1 to 3600"))?);
                self.seconds.insert(option.to_owned(), limit);
            }
            "--spool" | "--qm" | "--pvesh" | "--virsh" | "--log-socket" => {
                let path = absolute(value).ok_or_else(|| bad("give an absolute path of letters, digits, `/`, `.`, `_` and `-`"))?;
                self.places.insert(option.to_owned(), path);
            }
            "--connect" => self.connection = Some(value.to_owned()),
            _ => return Err(OptionsError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Options, OptionsError> {
        let kind = self.kind.ok_or(OptionsError::NoDriver)?;
        if self.machines.is_empty() {
            return Err(OptionsError::NoVm);
        }
        for (option, id, path) in std::mem::take(&mut self.paths) {
            let Some(machine) = self.machines.get_mut(&id) else {
                return Err(OptionsError::NoSuchVm { option, vm: id.to_string() });
            };
            *if option == "--start" { &mut machine.start } else { &mut machine.console } = Some(path);
        }
        for (id, machine) in &self.machines {
            fit(kind, id, machine).map_err(|wanted| OptionsError::UnfitVm { vm: id.to_string(), wanted })?;
        }
        let seconds = |option: &str, usual| self.seconds.get(option).copied().unwrap_or(Duration::from_secs(usual));
        let mut place = |option: &str, usual: &str| self.places.remove(option).unwrap_or_else(|| usual.into());
        Ok(Options {
            kind,
            machines: self.machines,
            verbs: self.verbs.unwrap_or_else(|| Verb::ALL.to_vec()),
            limits: Limits {
                item: seconds("--item-seconds", 10),
                capture: seconds("--capture-seconds", 45),
                verify: seconds("--verify-seconds", 60),
                memory: seconds("--memory-seconds", 120),
            },
            places: Places {
                qm: place("--qm", "/usr/sbin/qm"),
                pvesh: place("--pvesh", "/usr/bin/pvesh"),
                virsh: place("--virsh", "/usr/bin/virsh"),
                connection: self.connection.unwrap_or_else(|| "qemu:///system".to_owned()),
                spool: place("--spool", "/var/tmp"),
                log: place("--log-socket", "/dev/log"),
            },
            memory_dump: self.memory_dump,
            check: self.check,
            words: self.words,
        })
    }
}

/// Whether the driver can work with this VM's id and paths.
fn fit(kind: Kind, id: &VmId, machine: &Machine) -> Result<(), &'static str> {
    let digits = id.text().bytes().all(|byte| byte.is_ascii_digit());
    match kind {
        Kind::Qmp if machine.socket.is_none() => Err("with the qmp driver, give its QMP socket: --vm ID=SOCKET"),
        Kind::Qm | Kind::Virsh if machine.socket.is_some() => Err("only the qmp driver takes a socket"),
        Kind::Qm | Kind::Virsh if machine.start.is_some() => Err("only the qmp driver takes --start"),
        Kind::Qm if !digits => Err("a VM of Proxmox is a number"),
        // virsh looks a number up as the id of a running domain first: another one after each start.
        Kind::Virsh if digits => Err("virsh takes a number for the id of whatever domain runs under it now: give the domain's UUID"),
        _ => Ok(()),
    }
}

/// An absolute path that means the same to a program, to QEMU's monitor and to a person.
fn absolute(text: &str) -> Option<PathBuf> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let path = Path::new(text);
    let up = path.components().any(|part| part == std::path::Component::ParentDir);
    (plain && path.is_absolute() && !up).then(|| path.to_owned())
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
