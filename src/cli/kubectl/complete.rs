//! Completion: names of what is on the cluster, offered while somebody types. Within two seconds or not at all, and silent: an
//! error would land in the middle of a command line.

use super::cluster::{Cluster, ClusterOptions};
use super::output::plain;
use super::sessions::{self, Entry, Kind};
use clap_complete::CompletionCandidate;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::config::Kubeconfig;
use kube::{Api, ResourceExt as _};
use std::ffi::OsStr;
use std::sync::mpsc;
use std::time::Duration;

/// How long a shell may be kept waiting.
const LIMIT: Duration = Duration::from_secs(2);
/// As many objects as are looked through.
const MOST: u32 = 500;

/// Sessions of both kinds that are not over.
#[must_use]
pub fn live_sessions(current: &OsStr) -> Vec<CompletionCandidate> {
    of_cluster(current, async |cluster| live(&cluster, &Kind::ALL).await)
}

/// Recoveries that are not over.
#[must_use]
pub fn live_recoveries(current: &OsStr) -> Vec<CompletionCandidate> {
    of_cluster(current, async |cluster| live(&cluster, &[Kind::Vm]).await)
}

/// Jobs of the namespace.
#[must_use]
pub fn jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    objects(current, "batch", "Job")
}

/// Pods of the namespace.
#[must_use]
pub fn pods(current: &OsStr) -> Vec<CompletionCandidate> {
    objects(current, "", "Pod")
}

/// Tekton's runs of tasks in the namespace.
#[must_use]
pub fn task_runs(current: &OsStr) -> Vec<CompletionCandidate> {
    objects(current, "tekton.dev", "TaskRun")
}

/// Tekton's runs of pipelines in the namespace.
#[must_use]
pub fn pipeline_runs(current: &OsStr) -> Vec<CompletionCandidate> {
    objects(current, "tekton.dev", "PipelineRun")
}

/// Namespaces of the cluster.
#[must_use]
pub fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    of_cluster(current, async |cluster| {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
        names(&Api::all_with(cluster.client, &resource)).await
    })
}

/// Contexts of the kubeconfig. No cluster is asked.
#[must_use]
pub fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let options = ClusterOptions::of_words(&typed());
    let kubeconfig = options.kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let contexts = kubeconfig.map(|kubeconfig| kubeconfig.contexts).unwrap_or_default();
    matching(current, contexts.into_iter().map(|context| (context.name, None)).collect())
}

/// The words of the line that is being typed.
fn typed() -> Vec<String> {
    std::env::args().skip_while(|word| word != "--").skip(1).collect()
}

fn objects(current: &OsStr, group: &'static str, kind: &'static str) -> Vec<CompletionCandidate> {
    of_cluster(current, async move |cluster| {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        names(&Api::namespaced_with(cluster.client, &cluster.namespace, &resource)).await
    })
}

async fn names(api: &Api<DynamicObject>) -> Vec<(String, Option<String>)> {
    let list = api.list_metadata(&ListParams::default().limit(MOST)).await;
    list.map(|list| list.items.iter().map(|object| (object.name_any(), None)).collect()).unwrap_or_default()
}

async fn live(cluster: &Cluster, kinds: &[Kind]) -> Vec<(String, Option<String>)> {
    let (entries, _) = sessions::list(cluster, false).await.unwrap_or_default();
    let shown = |entry: &Entry| kinds.contains(&entry.kind) && !entry.is_over();
    let help = |entry: &Entry| plain(&format!("{} of {}", entry.kind.name(), entry.requester()));
    entries.iter().filter(|entry| shown(entry)).map(|entry| (entry.object.name_any(), Some(help(entry)))).collect()
}

/// Asks the cluster in a thread of its own, since a credential plugin blocks; the process ends without it.
fn of_cluster<F>(current: &OsStr, ask: impl FnOnce(Cluster) -> F + Send + 'static) -> Vec<CompletionCandidate>
where
    F: Future<Output = Vec<(String, Option<String>)>>,
{
    let (answer, answered) = mpsc::channel();
    let options = ClusterOptions::of_words(&typed());
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        let found = runtime.block_on(async {
            match options.connect().await {
                Ok(cluster) => ask(cluster).await,
                Err(_) => Vec::new(),
            }
        });
        let _ = answer.send(found);
    });
    matching(current, answered.recv_timeout(LIMIT).unwrap_or_default())
}

/// Those that begin as what was typed. A name that would act on a terminal is none.
fn matching(current: &OsStr, names: Vec<(String, Option<String>)>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let fits = |name: &str| name.starts_with(current.as_ref()) && plain(name) == name;
    let candidate = |(name, help): (String, Option<String>)| CompletionCandidate::new(name).help(help.map(Into::into));
    names.into_iter().filter(|(name, _)| fits(name)).map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_so_is_offered() {
        let names = ["build-1", "build-2", "other", "build\u{1b}[2J"].map(|name| (name.to_owned(), None)).to_vec();
        let offered: Vec<String> =
            matching(OsStr::new("bui"), names).iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect();
        assert_eq!(offered, ["build-1", "build-2"]);
    }
}
