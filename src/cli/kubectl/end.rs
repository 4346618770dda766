//! `kubectl sandglass end`: ends sessions now. The objects stay, so that nothing opens them again.

use super::cluster::{Cluster, ClusterOptions};
use super::complete;
use super::failure::Failure;
use super::output::{Form, formed, print};
use super::sessions::{self, Entry, Name};
use crate::kubernetes::call;
use clap::Args;
use clap_complete::ArgValueCompleter;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Which.
#[derive(Args, Debug)]
pub struct End {
    /// The sessions: NAME, dbg/NAME or bgvm/NAME.
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete::live_sessions))]
    names: Vec<Name>,
    /// Print the objects instead.
    #[arg(long, short, value_enum, value_name = "FORM")]
    output: Option<Form>,
}

/// Ends each, also when one before it could not be ended; gives the exit code of the first that could not.
///
/// # Errors
/// There is no way to the API server, or nothing can be printed.
pub async fn run(options: &ClusterOptions, arguments: &End) -> Result<u8, Failure> {
    let cluster = options.connect().await?;
    let (mut ended, mut code) = (Vec::new(), 0);
    for name in &arguments.names {
        match end(&cluster, name).await {
            Ok((entry, was_over)) => {
                if arguments.output.is_none() {
                    let what = if was_over { "was over already" } else { "ends" };
                    print(&format!("{} of {} {what}\n", entry.reference(), super::output::plain(&entry.requester())))?;
                }
                ended.push(entry);
            }
            Err(failure) => {
                eprintln!("kubectl sandglass: {failure}");
                code = if code == 0 { failure.exit_code() } else { code };
            }
        }
    }
    if let Some(form) = arguments.output
        && !ended.is_empty()
    {
        let references: Vec<String> = ended.iter().map(Entry::reference).collect();
        print(&formed(form, ended.iter().map(Entry::json).collect(), &references, arguments.names.len() > 1)?)?;
    }
    Ok(code)
}

/// Ends one; whether it was over before.
async fn end(cluster: &Cluster, name: &Name) -> Result<(Entry, bool), Failure> {
    let entry = sessions::find(cluster, name).await?;
    if entry.is_over() {
        return Ok((entry, true));
    }
    let (kind, name) = (entry.kind, entry.object.name_any());
    let patch = json!({ "spec": { "end": true } });
    let patched = call("end the session", kind.api(cluster).patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await;
    Ok((Entry { kind, object: patched.map_err(|error| Failure::of_call(&error))? }, false))
}
