//! The `sandglass` command: arguments in, exit code out. What it starts lives in the library.

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sandglass::cli::recordings::{self, Place};
use sandglass::cli::{self, Installed, refusal};
use sandglass::recovery;
use sandglass::runtime::{controller, gateway, logs, provisioning};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

/// Access to failed builds and wedged machines that exists for half an hour and then is gone.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  sandglass controller --config /etc/sandglass/sandglass.yaml --public-dir /etc/sandglass/public"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the controller: makes the pods of sessions and takes them away.
    #[command(
        after_help = "Example:\n  sandglass controller --config sandglass.yaml --public-dir /etc/sandglass/public --health 0.0.0.0:8080"
    )]
    Controller(Controller),
    /// Runs a gateway: lets users in by ssh and carries what they do to the pods.
    #[command(
        after_help = "Example:\n  sandglass gateway --config sandglass.yaml --keys-dir /etc/sandglass-keys --ssh 0.0.0.0:2222 --link 0.0.0.0:8443"
    )]
    Gateway(Gateway),
    /// Runs the door for CI outside the cluster: a job shows the OIDC token of its CI system and gets a session.
    #[command(after_help = "Example:\n  sandglass provision --config sandglass.yaml --listen 0.0.0.0:8090")]
    Provision(Provision),
    /// Makes the installation's host key, link CA and recording key where they are missing, and publishes their public halves.
    #[command(after_help = "Example:\n  sandglass install-keys --namespace sandglass-system")]
    InstallKeys {
        /// Namespace of the Secret sandglass-gateway-keys and the `ConfigMap` sandglass-public.
        #[arg(long, value_name = "NAME", default_value = "sandglass-system")]
        namespace: String,
    },
    /// Finds, replays, verifies and exports recordings.
    #[command(after_help = "Example:\n  sandglass recordings list --store s3://recordings --since 7d")]
    Recordings {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        command: recordings::Command,
    },
    /// What a pipeline's last step does: opens a session on the build that failed.
    #[command(subcommand)]
    Ci(cli::ci::Ci),
    /// Looks at configuration files.
    #[command(subcommand)]
    Config(Config),
    /// Prints the custom resource definitions as YAML.
    #[command(after_help = "Example:\n  sandglass crds | kubectl apply --server-side -f -")]
    Crds {
        /// Only this kind: debugsessions or breakglassvms.
        #[arg(value_name = "KIND")]
        kind: Option<String>,
    },
    /// Runs in a recovery pod: serves a machine, with keys from Vault. Started by the controller, never by hand.
    #[command(hide = true)]
    Recovery,
    /// Holds the keys of a recovery pod. Started by `recovery`.
    #[command(hide = true)]
    RecoveryKeyholder,
    /// Gets keys from Vault for the keyholder. Started by it.
    #[command(hide = true)]
    RecoveryFetch,
    /// Makes and uses keys for the keyholder. Started by it.
    #[command(hide = true)]
    RecoverySign,
    /// Prints the reference of the custom resources as Markdown.
    #[command(after_help = "Example:\n  sandglass api-docs > docs/api.md")]
    ApiDocs,
}

#[derive(Args)]
struct Controller {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/sandglass/sandglass.yaml")]
    config: PathBuf,
    /// Folder with `link-ca.crt` and `ssh_host_ed25519_key.pub`, which `install-keys` publishes.
    #[arg(long, value_name = "DIR", default_value = "/etc/sandglass/public")]
    public_dir: PathBuf,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    health: SocketAddr,
    /// Namespace of the leader's Lease. Default: $`POD_NAMESPACE`, else `sandglass-system`.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Name of this replica in the Lease. Default: $`POD_NAME`, else $HOSTNAME.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
}

#[derive(Args)]
struct Gateway {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/sandglass/sandglass.yaml")]
    config: PathBuf,
    /// Folder with `ssh_host_ed25519_key`, `recording_ed25519_key`, `link-ca.crt` and `link-ca.key`: the Secret that `install-keys` makes.
    #[arg(long, value_name = "DIR", default_value = "/etc/sandglass-keys")]
    keys_dir: PathBuf,
    /// Where users come in.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:2222")]
    ssh: SocketAddr,
    /// Where the pods' agents link.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8443")]
    link: SocketAddr,
    /// Address of this replica as agents see it: the pod's own.
    #[arg(long, value_name = "IP")]
    advertise: Option<IpAddr>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    health: SocketAddr,
    /// Namespace of the gateway. Default: $`POD_NAMESPACE`, else `sandglass-system`.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

#[derive(Args)]
struct Provision {
    /// The configuration file, with a part `provisioning`.
    #[arg(long, value_name = "FILE", default_value = "/etc/sandglass/sandglass.yaml")]
    config: PathBuf,
    /// Where jobs ask.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8090")]
    listen: SocketAddr,
    /// Certificate chain, PEM. Without: plain HTTP, for an ingress in front of it.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    health: SocketAddr,
}

#[derive(Subcommand)]
enum Config {
    /// Reads a configuration file and says what is wrong with it.
    #[command(after_help = "Example:\n  sandglass config check sandglass.yaml")]
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("sandglass: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let outcome = match arguments.command {
        Command::Recovery => {
            logs::start();
            recovery::run().map(ExitCode::from)
        }
        Command::RecoveryKeyholder => Ok(code(recovery::keyholder::serve())),
        Command::RecoveryFetch => Ok(code(recovery::fetch::serve())),
        Command::RecoverySign => Ok(code(recovery::keyholder::serve_signer())),
        command => run(command).map(|well| if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // One line: what failed, and after each colon why.
            eprintln!("sandglass: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Help and version as they are; of a mistake one line that names the argument.
fn refuse(error: &clap::Error) -> ExitCode {
    if refusal::is_help(error) {
        let _ = error.print();
        return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let what = refusal::one_line(error);
    let arguments: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(block) = cli::ci::excuse(&arguments, &what) {
        let _ = print(&format!("{block}\n"));
        return ExitCode::SUCCESS;
    }
    eprintln!("sandglass: {what}; see sandglass --help");
    ExitCode::from(2)
}

/// Gives whether all is well: a recording that cannot be verified is no error, but no success either.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Recordings { place, command } => return runtime()?.block_on(recordings::run(&place, command)),
        Command::Ci(command) => return Ok(runtime()?.block_on(cli::ci::run(command))),
        Command::Controller(arguments) => {
            logs::start();
            runtime()?.block_on(controller::run(options(arguments)))
        }
        Command::Gateway(arguments) => {
            logs::start();
            runtime()?.block_on(gateway::run(gateway::Options {
                configuration: arguments.config,
                keys: arguments.keys_dir,
                ssh: arguments.ssh,
                link: arguments.link,
                advertise: arguments.advertise,
                health: arguments.health,
                namespace: arguments.namespace.or_else(|| variable("POD_NAMESPACE")).unwrap_or_else(|| "sandglass-system".into()),
                name: variable("POD_NAME").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| "gateway".into()),
            }))
        }
        Command::Provision(Provision { config, listen, tls_cert, tls_key, health }) => {
            logs::start();
            let certificate = tls_cert.zip(tls_key);
            runtime()?.block_on(provisioning::run(provisioning::Options { configuration: config, listen, certificate, health }))
        }
        Command::InstallKeys { namespace } => match runtime()?.block_on(cli::install_keys(&namespace))? {
            Installed::New => print("new keys were made\n"),
            Installed::Kept => print("the keys are there already\n"),
        },
        Command::Config(Config::Check { file }) => {
            controller::read_configuration(&file)?;
            print(&format!("{} is valid\n", file.display()))
        }
        Command::Crds { kind } => print(&cli::crds(kind.as_deref())?),
        Command::ApiDocs => print(&cli::api_docs()?),
        Command::Recovery | Command::RecoveryKeyholder | Command::RecoveryFetch | Command::RecoverySign => Ok(()),
    }
    .map(|()| true)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start the runtime")
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the flags leave open, the environment of a pod says.
fn options(arguments: Controller) -> controller::Options {
    let address = |host: &str, port: &str| -> Option<SocketAddr> {
        Some(SocketAddr::new(variable(host)?.parse::<IpAddr>().ok()?, variable(port)?.parse().ok()?))
    };
    controller::Options {
        configuration: arguments.config,
        public_directory: arguments.public_dir,
        health: arguments.health,
        namespace: arguments.namespace.or_else(|| variable("POD_NAMESPACE")).unwrap_or_else(|| "sandglass-system".into()),
        identity: arguments
            .identity
            .or_else(|| variable("POD_NAME"))
            .or_else(|| variable("HOSTNAME"))
            .unwrap_or_else(|| format!("pid-{}", std::process::id())),
        link: address("SANDGLASS_GATEWAY_LINK_SERVICE_HOST", "SANDGLASS_GATEWAY_LINK_SERVICE_PORT"),
        api_server: address("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"),
    }
}
