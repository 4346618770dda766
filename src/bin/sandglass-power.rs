//! The forced command of an SSH key on a hypervisor: one verb on one VM. See docs/hypervisor.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(sandglass::power::run())
}
