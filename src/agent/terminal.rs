//! Pseudo-terminals: opening one with the user's size and modes (RFC 4254, 6.2 and 8).

use crate::link::message::{Size, Terminal};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcsetattr,
    tcsetwinsize,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Opens a terminal: (our end, non-blocking; the program's end).
pub fn open(wanted: &Terminal) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    for (opcode, value) in &wanted.modes {
        apply(&mut modes, *opcode, *value);
    }
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    resize(&master, wanted.size);
    rustix::fs::fcntl_setfl(&master, rustix::fs::fcntl_getfl(&master)? | rustix::fs::OFlags::NONBLOCK)?;
    Ok((master, slave))
}

/// Whether the terminal shows what is typed. Off while a password is asked for, and while a program does its own echoing.
pub fn echoes(master: impl AsFd) -> bool {
    tcgetattr(master).is_ok_and(|modes| modes.local_modes.contains(LocalModes::ECHO))
}

/// Sets the size; a terminal that is gone has none.
pub fn resize(master: impl AsFd, size: Size) {
    let _ = tcsetwinsize(master, Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 });
}

/// One encoded mode of RFC 4254, 8. Opcodes that Linux does not have are skipped.
fn apply(modes: &mut Termios, opcode: u8, value: u32) {
    let on = value != 0;
    match opcode {
        1..=18 => {
            if let Some(index) = special_code(opcode) {
                // 255 means "disabled", which Linux writes as 0.
                modes.special_codes[index] = match u8::try_from(value) {
                    Ok(255) | Err(_) => 0,
                    Ok(code) => code,
                };
            }
        }
        30..=42 => {
            if let Some(flag) = input_mode(opcode) {
                modes.input_modes.set(flag, on);
            }
        }
        50..=62 => {
            if let Some(flag) = local_mode(opcode) {
                modes.local_modes.set(flag, on);
            }
        }
        70..=75 => {
            if let Some(flag) = output_mode(opcode) {
                modes.output_modes.set(flag, on);
            }
        }
        92 => modes.control_modes.set(ControlModes::PARENB, on),
        93 => modes.control_modes.set(ControlModes::PARODD, on),
        _ => {}
    }
}

fn special_code(opcode: u8) -> Option<SpecialCodeIndex> {
    Some(match opcode {
        1 => SpecialCodeIndex::VINTR,
        2 => SpecialCodeIndex::VQUIT,
        3 => SpecialCodeIndex::VERASE,
        4 => SpecialCodeIndex::VKILL,
        5 => SpecialCodeIndex::VEOF,
        6 => SpecialCodeIndex::VEOL,
        7 => SpecialCodeIndex::VEOL2,
        8 => SpecialCodeIndex::VSTART,
        9 => SpecialCodeIndex::VSTOP,
        10 => SpecialCodeIndex::VSUSP,
        12 => SpecialCodeIndex::VREPRINT,
        13 => SpecialCodeIndex::VWERASE,
        14 => SpecialCodeIndex::VLNEXT,
        18 => SpecialCodeIndex::VDISCARD,
        _ => return None,
    })
}

fn input_mode(opcode: u8) -> Option<InputModes> {
    Some(match opcode {
        30 => InputModes::IGNPAR,
        31 => InputModes::PARMRK,
        32 => InputModes::INPCK,
        33 => InputModes::ISTRIP,
        34 => InputModes::INLCR,
        35 => InputModes::IGNCR,
        36 => InputModes::ICRNL,
        38 => InputModes::IXON,
        39 => InputModes::IXANY,
        40 => InputModes::IXOFF,
        41 => InputModes::IMAXBEL,
        42 => InputModes::IUTF8,
        _ => return None,
    })
}

fn local_mode(opcode: u8) -> Option<LocalModes> {
    Some(match opcode {
        50 => LocalModes::ISIG,
        51 => LocalModes::ICANON,
        53 => LocalModes::ECHO,
        54 => LocalModes::ECHOE,
        55 => LocalModes::ECHOK,
        56 => LocalModes::ECHONL,
        57 => LocalModes::NOFLSH,
        58 => LocalModes::TOSTOP,
        59 => LocalModes::IEXTEN,
        60 => LocalModes::ECHOCTL,
        61 => LocalModes::ECHOKE,
        62 => LocalModes::PENDIN,
        _ => return None,
    })
}

fn output_mode(opcode: u8) -> Option<OutputModes> {
    Some(match opcode {
        70 => OutputModes::OPOST,
        71 => OutputModes::OLCUC,
        72 => OutputModes::ONLCR,
        73 => OutputModes::OCRNL,
        74 => OutputModes::ONOCR,
        75 => OutputModes::ONLRET,
        _ => return None,
    })
}
