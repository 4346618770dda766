//! `kubectl sandglass completion`: the few lines by which a shell asks this program what may come next.

use super::COMPLETION;
use super::failure::Failure;
use super::output::print;
use clap::{Args, ValueEnum};
use clap_complete::env::Shells;

/// For which shell.
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Shells that can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// Bash 4 or newer.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
    /// `PowerShell`.
    Powershell,
}

/// Prints them.
///
/// # Errors
/// They cannot be written.
pub fn run(arguments: &Completion) -> Result<(), Failure> {
    print(&registration(arguments.shell)?)
}

fn registration(shell: Shell) -> Result<String, Failure> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
    };
    let failed = || Failure::Failed(format!("failed to write the completion for {name}"));
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(failed)?;
    let mut bytes = Vec::new();
    let program = "kubectl-sandglass";
    shell.write_registration(COMPLETION, program, program, program, &mut bytes).map_err(|_| failed())?;
    String::from_utf8(bytes).map_err(|_| failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_its_lines() {
        for shell in Shell::value_variants() {
            let text = registration(*shell).expect("written");
            assert!(text.contains(COMPLETION) && text.contains("kubectl-sandglass"), "{shell:?}: {text}");
        }
    }
}
