//! Feeds the driver: watches sessions and pods, ticks, and hands out objects one pass at a time. Every failure of a pass is
//! logged and counted here and nowhere else.

use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Resource};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use super::context::{Context, Guarded};
use super::error::{Error, Retry};
use super::turn::is_over;
use super::{orphans, reconcile, turn};
use crate::api::{DebugSession, names};
use crate::domain::access::deadline;
use crate::kubernetes::time::to_chrono;

/// The wall clock is compared this often for every object, whatever timers say: a timer stops when a machine sleeps.
const TICK: Duration = Duration::from_secs(10);
/// A watch that says nothing for longer is renewed: some load balancers drop quiet connections without a word.
const WATCH_SECONDS: u32 = 60;
const AT_ONCE: u16 = 8;
/// How long the cache may take to catch up after a conflict.
const CATCH_UP: Duration = Duration::from_millis(150);

type Trigger = Result<ObjectRef<Guarded>, Infallible>;

/// Runs until `shutdown` resolves and the passes under way are done. Dropping the future stops at once; every pass can be
/// interrupted anywhere. `ready` is called when the first list of sessions is complete.
pub async fn run(
    context: Arc<Context>,
    writer: Writer<Guarded>,
    ready: impl FnOnce() + Send,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let orphaned = Arc::new(Notify::new());
    let queue = stream::select_all([
        sessions(&context, writer, Arc::clone(&orphaned)),
        pods(&context, Arc::clone(&orphaned)),
        ticks(&context, Arc::clone(&orphaned)),
    ])
    .take_until(shutdown);
    let store = context.sessions.clone();
    let first_list = async {
        if store.wait_until_ready().await.is_ok() {
            ready();
        }
        std::future::pending::<()>().await;
    };
    let configuration = controller::Config::default().concurrency(AT_ONCE);
    let passes = applier(pass, error_policy, Arc::clone(&context), context.sessions.clone(), queue, configuration).for_each(|result| {
        if let Err(controller::Error::QueueError(never)) = result {
            match never {}
        }
        std::future::ready(())
    });
    tokio::select! {
        () = passes => {}
        () = collect_orphans(&context, &orphaned) => {}
        () = first_list => {}
    }
}

fn pass(guarded: Arc<Guarded>, context: Arc<Context>) -> futures::future::BoxFuture<'static, Result<Action, PassError>> {
    Box::pin(async move {
        let session = match &guarded.0 {
            Ok(session) => Arc::new(session.clone()),
            Err(invalid) => {
                tracing::warn!(error = %invalid, name = invalid.metadata.name, namespace = invalid.metadata.namespace, "a session that cannot be read is left alone");
                context.metrics.failed(crate::kubernetes::Category::Malformed);
                return Ok(Action::await_change());
            }
        };
        let began = Instant::now();
        let uid = session.metadata.uid.clone().unwrap_or_default();
        let result = reconcile(session, &context).await;
        context.metrics.passed(began.elapsed());
        if result.is_ok() {
            context.backoff.forget(&uid);
        }
        result.map_err(PassError)
    })
}

/// The driver's error, as the queue carries it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct PassError(Error);

// The queue wants the object by value.
#[allow(clippy::needless_pass_by_value)]
fn error_policy(guarded: Arc<Guarded>, PassError(error): &PassError, context: Arc<Context>) -> Action {
    let metadata = guarded.meta();
    context.metrics.failed(error.category());
    if error.retry() == Retry::Now {
        tracing::debug!(
            error = error as &dyn std::error::Error,
            name = metadata.name,
            namespace = metadata.namespace,
            "the cache is behind"
        );
        return Action::requeue(CATCH_UP);
    }
    let delay = context.backoff.failed(metadata.uid.as_deref().unwrap_or_default());
    let category = error.category().as_str();
    tracing::warn!(
        error = error as &dyn std::error::Error,
        category,
        name = metadata.name,
        namespace = metadata.namespace,
        ?delay,
        "a pass failed"
    );
    Action::requeue(delay)
}

fn watch_configuration() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// The watch of sessions: fills the cache, wakes the object itself, and wakes those who wait for one that is over.
fn sessions(context: &Arc<Context>, writer: Writer<Guarded>, orphaned: Arc<Notify>) -> BoxStream<'static, Trigger> {
    let api: Api<Guarded> = Api::all(context.client.clone());
    let events = watcher(api, watch_configuration()).default_backoff().modify(|session| session.meta_mut().managed_fields = None);
    let context = Arc::clone(context);
    reflector(writer, events)
        .filter_map(|event| std::future::ready(logged(event, "sessions")))
        .flat_map(move |event| {
            let woken = match &event {
                Event::Init | Event::InitDone => Vec::new(),
                Event::InitApply(session) | Event::Apply(session) => {
                    let over = session.0.as_ref().is_ok_and(turn::is_over);
                    let waiting = if over { waiting(&context.sessions, session) } else { Vec::new() };
                    std::iter::once(ObjectRef::from_obj(session)).chain(waiting).collect()
                }
                Event::Delete(session) => {
                    context.backoff.forget(session.meta().uid.as_deref().unwrap_or_default());
                    orphaned.notify_one();
                    waiting(&context.sessions, session)
                }
            };
            stream::iter(woken.into_iter().map(Ok))
        })
        .boxed()
}

/// Sessions without a pod in the namespace of another: its end may be their turn.
fn waiting(sessions: &Store<Guarded>, other: &Guarded) -> Vec<ObjectRef<Guarded>> {
    waiting_in(sessions, other.meta().namespace.as_deref().unwrap_or_default())
}

fn waiting_in(sessions: &Store<Guarded>, namespace: &str) -> Vec<ObjectRef<Guarded>> {
    let waits = |session: &DebugSession| session.metadata.namespace.as_deref() == Some(namespace) && turn::waits(session);
    sessions
        .state_filter(|guarded| guarded.0.as_ref().is_ok_and(waits))
        .iter()
        .map(|guarded| ObjectRef::from_obj(guarded.as_ref()))
        .collect()
}

/// The watch of pods, metadata only: any change wakes the owner; a deletion also those who wait.
fn pods(context: &Arc<Context>, orphaned: Arc<Notify>) -> BoxStream<'static, Trigger> {
    let api: Api<PartialObjectMeta<Pod>> = context.in_debug_namespace();
    let ours =
        watch_configuration().labels(&format!("{}={},{}=DebugSession", names::MANAGED_BY, names::MANAGED_BY_VALUE, names::OWNER_KIND));
    let context = Arc::clone(context);
    watcher(api, ours)
        .default_backoff()
        .filter_map(|event| std::future::ready(logged(event, "pods")))
        .flat_map(move |event| {
            let woken = match event {
                Event::Init | Event::InitDone => Vec::new(),
                Event::InitApply(pod) | Event::Apply(pod) => owner(&pod, &context.sessions, &orphaned).into_iter().collect(),
                Event::Delete(pod) => {
                    let waiting = annotation(&pod, names::OWNER_NAMESPACE).map(|namespace| waiting_in(&context.sessions, &namespace));
                    owner(&pod, &context.sessions, &orphaned).into_iter().chain(waiting.into_iter().flatten()).collect()
                }
            };
            stream::iter(woken.into_iter().map(Ok))
        })
        .boxed()
}

fn annotation(pod: &PartialObjectMeta<Pod>, key: &str) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(key).cloned()
}

/// The session a pod names, where the cache knows it; if not, the pod may be an orphan.
fn owner(pod: &PartialObjectMeta<Pod>, sessions: &Store<Guarded>, orphaned: &Notify) -> Option<ObjectRef<Guarded>> {
    let reference = ObjectRef::new(&annotation(pod, names::OWNER_NAME)?).within(&annotation(pod, names::OWNER_NAMESPACE)?);
    if sessions.get(&reference).is_none() {
        orphaned.notify_one();
        return None;
    }
    Some(reference)
}

/// Everything, every ten seconds by the wall clock.
fn ticks(context: &Arc<Context>, orphaned: Arc<Notify>) -> BoxStream<'static, Trigger> {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let context = Arc::clone(context);
    stream::unfold(interval, |mut interval| async move {
        interval.tick().await;
        Some(((), interval))
    })
    .flat_map(move |()| {
        orphaned.notify_one();
        let all = context.sessions.state();
        context.metrics.live(&live(&all, context.settings.configuration.ttl_cap()), context.clock.now());
        context.metrics.count(all.iter().filter_map(|guarded| guarded.0.as_ref().ok()).map(|session| session.status.as_ref()?.phase));
        stream::iter(all.into_iter().map(|guarded| Ok(ObjectRef::from_obj(guarded.as_ref()))))
    })
    .boxed()
}

/// When each session that is not over began, and when it must end.
fn live(all: &[Arc<Guarded>], cap: Duration) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let times = |guarded: &Arc<Guarded>| {
        let session = guarded.0.as_ref().ok().filter(|session| !is_over(session))?;
        Some((to_chrono(session.metadata.creation_timestamp.as_ref()?), deadline(session, cap)?))
    };
    all.iter().filter_map(times).collect()
}

async fn collect_orphans(context: &Context, orphaned: &Notify) {
    // Before the first list the cache knows nobody, and every pod would need a read.
    if context.sessions.wait_until_ready().await.is_err() {
        return std::future::pending().await;
    }
    loop {
        orphaned.notified().await;
        if let Err(error) = orphans::collect(context).await {
            context.metrics.failed(error.category());
            tracing::warn!(error = &error as &dyn std::error::Error, "looking for orphaned pods failed; the next tick tries again");
        }
    }
}

/// Watch errors mend themselves (the stream backs off and begins anew); they are only told.
fn logged<K>(event: Result<Event<K>, watcher::Error>, what: &str) -> Option<Event<K>> {
    event.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, what, "a watch failed and begins anew")).ok()
}
