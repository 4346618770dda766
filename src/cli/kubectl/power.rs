//! `kubectl sandglass power`: a verb on the hypervisor of a machine, over ssh, as `ssh … -- power VERB` runs it. Nothing is done here;
//! gateway and hypervisor decide.

use super::cluster::ClusterOptions;
use super::complete;
use super::failure::Failure;
use super::sessions::{self, Kind, Name};
use super::ssh::{self, ClientOptions};
use crate::api::breakglass_vm::Verb;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap_complete::ArgValueCompleter;
use kube::ResourceExt as _;
use std::path::PathBuf;

/// What to do to which machine.
#[derive(Args, Debug)]
pub struct Power {
    /// What to do.
    #[arg(value_name = "VERB", value_parser = verbs())]
    verb: Verb,
    /// The recovery: NAME or bgvm/NAME.
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::live_recoveries))]
    name: Name,
    /// File of the key to log in with. Default: as your ssh does.
    #[arg(long, short = 'i', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    identity: Option<PathBuf>,
}

fn verbs() -> impl clap::builder::TypedValueParser<Value = Verb> {
    PossibleValuesParser::new(Verb::ALL.map(Verb::word)).try_map(|word| Verb::of_word(&word).ok_or("there is no such verb"))
}

/// Runs the verb; gives its exit code: 0 done (status: running), 2 status: off, 1 failed, 255 no way in.
///
/// # Errors
/// There is no such recovery, or it is over.
pub async fn run(options: &ClusterOptions, arguments: Power) -> Result<u8, Failure> {
    let cluster = options.connect().await?;
    let name = Name { kind: arguments.name.kind.or(Some(Kind::Vm)), ..arguments.name };
    let entry = sessions::find(&cluster, &name).await?;
    if entry.kind != Kind::Vm {
        let name = entry.object.name_any();
        return Err(Failure::Usage(format!("{name} is a {}: power verbs are for a BreakglassVM", entry.kind.name())));
    }
    let entry = ssh::reachable(&cluster, entry).await?;
    let client = ClientOptions { identity: arguments.identity, ..ClientOptions::default() };
    ssh::log_in(&ssh::destination(&entry)?, &client, &["power".into(), arguments.verb.word().into()]).await
}
