//! `kubectl sandglass`: what people do with sessions from their own machine, with the rights of their kubeconfig and nothing more.
//! Everything it does can be done by kubectl and ssh too.

mod cluster;
mod complete;
mod completion;
pub mod doctor;
mod end;
mod failure;
mod keys;
mod list;
mod manifest;
mod open;
mod output;
mod power;
mod server_config;
mod sessions;
mod ssh;
mod wait;

pub use cluster::{Cluster, ClusterOptions, ConnectError};
pub use failure::Failure;
pub use keys::KeyError;

use super::recordings::{self, Place};
use super::refusal;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::CompleteEnv;
use std::process::ExitCode;

/// Variable by which a shell's completion asks.
const COMPLETION: &str = "KUBECTL_SANDGLASS_COMPLETE";

/// Sessions on failed builds and recoveries of machines: opened, entered, listed and ended.
#[derive(Parser)]
#[command(
    name = "kubectl-sandglass",
    bin_name = "kubectl sandglass",
    version,
    after_help = "Example:\n  kubectl sandglass open --job nightly --ssh\n\n\
                  Exit codes:\n  \
                  0    done\n  \
                  1    failed\n  \
                  2    wrong arguments\n  \
                  3    not open: over, or stalled until a human acts\n  \
                  4    timed out\n  \
                  5    refused by the API server: rights, schema or admission\n  \
                  130  interrupted while waiting\n\
                  ssh, power and open --ssh end as the remote command does; 255 is ssh's own failure. power: 0 done or running, 2 off, 1 failed."
)]
struct Arguments {
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Opens a session on a failed build, and waits until ssh gets in.
    #[command(
        after_help = "Examples:\n  kubectl sandglass open --job nightly\n  kubectl sandglass open --image registry.example.com/go-builder:1 --ttl 15m --ssh\n  \
                      kubectl sandglass open --pod runner-x --key ~/.ssh/id_ed25519.pub --allow Sftp,LocalForward -o json"
    )]
    Open(Box<open::Open>),
    /// Lists sessions and recoveries that are not over.
    #[command(visible_alias = "ls", after_help = "Example:\n  kubectl sandglass list -A")]
    List(list::List),
    /// Logs in to a session or a recovery, or runs a command there.
    #[command(after_help = "Examples:\n  kubectl sandglass ssh build-42\n  kubectl sandglass ssh build-42 -- tail -n 20 build.log")]
    Ssh(ssh::Ssh),
    /// Ends sessions and recoveries now. The objects stay.
    #[command(after_help = "Example:\n  kubectl sandglass end build-42 bgvm/devvm")]
    End(end::End),
    /// Runs a power verb on the hypervisor of a machine.
    #[command(after_help = "Example:\n  kubectl sandglass power cycle devvm -n infra\n\nExit codes:\n  \
                            0  done; status: running\n  2  status: off\n  1  failed")]
    Power(power::Power),
    /// Finds, replays, verifies and exports recordings, with your own rights on the store.
    #[command(after_help = "Example:\n  kubectl sandglass recordings list --store s3://recordings --since 7d")]
    Recordings {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: recordings::Command,
    },
    /// Says where the gateway is and which host keys it has.
    #[command(after_help = "Examples:\n  kubectl sandglass server-config\n  eval \"$(kubectl sandglass server-config -o env)\"")]
    ServerConfig(server_config::ServerConfig),
    /// Looks at the installation and says what is wrong and what to do about it.
    #[command(after_help = "Example:\n  kubectl sandglass doctor -n ci")]
    Doctor(doctor::Options),
    /// Prints what makes a shell complete the arguments.
    #[command(after_help = "Example:\n  source <(kubectl sandglass completion bash)\n\n\
                            `kubectl sandglass <TAB>` itself needs kubectl_complete-sandglass on the PATH.")]
    Completion(completion::Completion),
}

/// Answers the completion of a shell, where it is one that asks; the process ends then.
pub fn answer_completion() {
    CompleteEnv::with_factory(Arguments::command).var(COMPLETION).bin("kubectl-sandglass").complete();
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let outcome = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(dispatch(arguments)),
        Err(error) => Err(Failure::Failed(format!("failed to start the runtime: {error}"))),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("kubectl sandglass: {}", failure::one_line(&failure.to_string()));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn dispatch(Arguments { cluster, command }: Arguments) -> Result<u8, Failure> {
    match command {
        Command::Open(arguments) => open::run(&cluster, *arguments).await,
        Command::List(arguments) => list::run(&cluster, &arguments).await,
        Command::Ssh(arguments) => ssh::run(&cluster, arguments).await,
        Command::End(arguments) => end::run(&cluster, &arguments).await,
        Command::Power(arguments) => power::run(&cluster, arguments).await,
        Command::ServerConfig(arguments) => server_config::run(&cluster, &arguments).await,
        Command::Doctor(options) => {
            let cluster = cluster.connect().await?;
            match doctor::doctor(cluster.client, &options, &mut std::io::stdout()).await {
                Ok(verdict) => Ok(u8::from(verdict != doctor::Verdict::Well)),
                Err(error @ doctor::DoctorError::Interrupted(_)) => Err(Failure::Interrupted(error.to_string())),
                Err(error) => Err(Failure::Failed(error.to_string())),
            }
        }
        Command::Completion(arguments) => completion::run(&arguments).map(|()| 0),
        Command::Recordings { place, command } => match recordings::run(&place, command).await {
            Ok(well) => Ok(u8::from(!well)),
            Err(error) => Err(Failure::Failed(format!("{error:#}"))),
        },
    }
}

/// Help and version as they are; of a mistake one line that names the argument.
fn refuse(error: &clap::Error) -> ExitCode {
    if refusal::is_help(error) {
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    eprintln!("kubectl sandglass: {}; see kubectl sandglass --help", failure::one_line(&refusal::one_line(error)));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together_and_every_command_has_an_example() {
        let mut command = Arguments::command();
        command.build();
        command.clone().debug_assert();
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("kubectl sandglass "), "{} has no example", command.get_name());
        }
    }

    fn parsed(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("kubectl-sandglass").chain(words.split_whitespace()))
    }

    #[test]
    fn common_options_stand_anywhere_and_recordings_keep_their_own() {
        for words in
            ["-n ci list", "list -n ci", "ssh -n ci x", "recordings list -n ci -o json", "open -n ci --image x --allow sftp,localforward"]
        {
            let arguments = parsed(words).unwrap_or_else(|error| panic!("{words}: {error}"));
            assert_eq!(arguments.cluster.namespace.as_deref(), Some("ci"), "{words}");
        }
        let Ok(Arguments { command: Command::Recordings { command, .. }, .. }) = parsed("recordings list -n ci") else { panic!("parsed") };
        assert!(format!("{command:?}").contains("namespace: Some(\"ci\")"), "{command:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "open",
            "open --image x --job y",
            "open --image x --container c",
            "open --image x --ssh -o json",
            "open --image x --ssh --no-wait",
            "open --image x -- ls",
            "open --image x --env novalue",
            "open --image x --network Everywhere",
            "power off devvm",
            "ssh",
            "ssh pod/x",
            "end",
        ] {
            assert!(parsed(words).is_err(), "{words}");
        }
        assert!(parsed("open --task-run t").is_ok() && parsed("open --image x --ssh -- ls -l").is_ok());
    }
}
