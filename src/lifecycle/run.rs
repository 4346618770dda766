//! Feeds a controller: watches its objects and their pods, ticks, and hands out objects one pass at a time. Every failure of a
//! pass is logged and counted here and nowhere else.

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

use super::context::{Base, Guarded};
use super::end::is_over;
use super::error::{Error, Retry};
use super::identity::Identity;
use super::orphans;
use crate::api::names;
use crate::api::session::Session;
use crate::kubernetes::CallError;

/// The wall clock is compared this often for every object, whatever timers say: a timer stops when a machine sleeps.
const TICK: Duration = Duration::from_secs(10);
/// A watch that says nothing for longer is renewed: some load balancers drop quiet connections without a word.
const WATCH_SECONDS: u32 = 60;
const AT_ONCE: u16 = 8;
/// How long the cache may take to catch up after a conflict.
const CATCH_UP: Duration = Duration::from_millis(150);

type Trigger<S> = Result<ObjectRef<Guarded<S>>, Infallible>;

/// A controller: what its passes are.
pub trait Driver: Send + Sync + 'static {
    /// Its kind.
    type Session: Session;

    /// What both controllers have.
    fn base(&self) -> &Base<Self::Session>;

    /// One pass over one object.
    fn reconcile(&self, session: Arc<Self::Session>) -> impl Future<Output = Result<Action, Error>> + Send;

    /// Deletes what guarded pods of objects that are gone; called after their pods were looked for.
    fn collect_guards(&self) -> impl Future<Output = Result<(), CallError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether an object waits for the end of others in its namespace.
    fn waits(&self, session: &Self::Session) -> bool {
        let _ = session;
        false
    }
}

/// Runs until `shutdown` resolves and the passes under way are done. Dropping the future stops at once; every pass can be
/// interrupted anywhere. `ready` is called when the first list of sessions is complete.
pub async fn run<D: Driver>(
    context: Arc<D>,
    writer: Writer<Guarded<D::Session>>,
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
    let store = context.base().sessions.clone();
    let first_list = async {
        if store.wait_until_ready().await.is_ok() {
            ready();
        }
        std::future::pending::<()>().await;
    };
    let configuration = controller::Config::default().concurrency(AT_ONCE);
    let passes = applier(pass::<D>, error_policy::<D>, Arc::clone(&context), context.base().sessions.clone(), queue, configuration)
        .for_each(|result| {
            if let Err(controller::Error::QueueError(never)) = result {
                match never {}
            }
            std::future::ready(())
        });
    tokio::select! {
        () = passes => {}
        () = collect_orphans(&*context, &orphaned) => {}
        () = first_list => {}
    }
}

fn pass<D: Driver>(guarded: Arc<Guarded<D::Session>>, context: Arc<D>) -> futures::future::BoxFuture<'static, Result<Action, PassError>> {
    Box::pin(async move {
        let session = match &guarded.0 {
            Ok(session) => Arc::new(session.clone()),
            Err(invalid) => {
                tracing::warn!(error = %invalid, name = invalid.metadata.name, namespace = invalid.metadata.namespace, "a session that cannot be read is left alone");
                context.base().metrics.failed(crate::kubernetes::Category::Malformed);
                return Ok(Action::await_change());
            }
        };
        let began = Instant::now();
        let uid = session.meta().uid.clone().unwrap_or_default();
        let result = context.reconcile(session).await;
        let base = context.base();
        base.metrics.passed(began.elapsed());
        if result.is_ok() {
            base.backoff.forget(&uid);
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
fn error_policy<D: Driver>(guarded: Arc<Guarded<D::Session>>, PassError(error): &PassError, context: Arc<D>) -> Action {
    let metadata = guarded.meta();
    context.base().metrics.failed(error.category());
    if error.retry() == Retry::Now {
        tracing::debug!(
            error = error as &dyn std::error::Error,
            name = metadata.name,
            namespace = metadata.namespace,
            "the cache is behind"
        );
        return Action::requeue(CATCH_UP);
    }
    let delay = context.base().backoff.failed(metadata.uid.as_deref().unwrap_or_default());
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

/// The watch of the objects: fills the cache, wakes the object itself, and wakes those who wait for one that is over.
fn sessions<D: Driver>(
    context: &Arc<D>,
    writer: Writer<Guarded<D::Session>>,
    orphaned: Arc<Notify>,
) -> BoxStream<'static, Trigger<D::Session>> {
    let api: Api<Guarded<D::Session>> = Api::all(context.base().client.clone());
    let events = watcher(api, watch_configuration()).default_backoff().modify(|session| session.meta_mut().managed_fields = None);
    let context = Arc::clone(context);
    reflector(writer, events)
        .filter_map(|event| std::future::ready(logged(event, "sessions")))
        .flat_map(move |event| {
            let namespace = |session: &Guarded<D::Session>| session.meta().namespace.clone().unwrap_or_default();
            let woken = match &event {
                Event::Init | Event::InitDone => Vec::new(),
                Event::InitApply(session) | Event::Apply(session) => {
                    let over = session.0.as_ref().is_ok_and(is_over);
                    let waiting = if over { waiting(&*context, &namespace(session)) } else { Vec::new() };
                    std::iter::once(ObjectRef::from_obj(session)).chain(waiting).collect()
                }
                Event::Delete(session) => {
                    context.base().backoff.forget(session.meta().uid.as_deref().unwrap_or_default());
                    orphaned.notify_one();
                    waiting(&*context, &namespace(session))
                }
            };
            stream::iter(woken.into_iter().map(Ok))
        })
        .boxed()
}

/// The objects of a namespace that wait: another's end may be their turn.
fn waiting<D: Driver>(context: &D, namespace: &str) -> Vec<ObjectRef<Guarded<D::Session>>> {
    let waits = |session: &D::Session| session.meta().namespace.as_deref() == Some(namespace) && context.waits(session);
    let sessions = context.base().sessions.state_filter(|guarded| guarded.0.as_ref().is_ok_and(waits));
    sessions.iter().map(|guarded| ObjectRef::from_obj(guarded.as_ref())).collect()
}

/// The watch of pods, metadata only: any change wakes the owner; a deletion also those who wait.
fn pods<D: Driver>(context: &Arc<D>, orphaned: Arc<Notify>) -> BoxStream<'static, Trigger<D::Session>> {
    let api: Api<PartialObjectMeta<Pod>> = context.base().beside_pods();
    let ours = watch_configuration().labels(&names::of_kind(D::Session::KIND));
    let context = Arc::clone(context);
    watcher(api, ours)
        .default_backoff()
        .filter_map(|event| std::future::ready(logged(event, "pods")))
        .flat_map(move |event| {
            let sessions = &context.base().sessions;
            let woken = match event {
                Event::Init | Event::InitDone => Vec::new(),
                Event::InitApply(pod) | Event::Apply(pod) => owner(&pod, sessions, &orphaned).into_iter().collect(),
                Event::Delete(pod) => {
                    let waiting = annotation(&pod, names::OWNER_NAMESPACE).map(|namespace| waiting(&*context, &namespace));
                    owner(&pod, sessions, &orphaned).into_iter().chain(waiting.into_iter().flatten()).collect()
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
fn owner<S: Session>(pod: &PartialObjectMeta<Pod>, sessions: &Store<Guarded<S>>, orphaned: &Notify) -> Option<ObjectRef<Guarded<S>>> {
    let reference = ObjectRef::new(&annotation(pod, names::OWNER_NAME)?).within(&annotation(pod, names::OWNER_NAMESPACE)?);
    if sessions.get(&reference).is_none() {
        orphaned.notify_one();
        return None;
    }
    Some(reference)
}

/// Everything, every ten seconds by the wall clock.
fn ticks<D: Driver>(context: &Arc<D>, orphaned: Arc<Notify>) -> BoxStream<'static, Trigger<D::Session>> {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let context = Arc::clone(context);
    stream::unfold(interval, |mut interval| async move {
        interval.tick().await;
        Some(((), interval))
    })
    .flat_map(move |()| {
        orphaned.notify_one();
        let base = context.base();
        let all = base.sessions.state();
        base.metrics.live(&live(&all, base.settings.configuration.ttl_cap()), base.clock.now());
        base.metrics.count(all.iter().filter_map(|guarded| guarded.0.as_ref().ok()).map(|session| session.state()?.phase));
        stream::iter(all.into_iter().map(|guarded| Ok(ObjectRef::from_obj(guarded.as_ref()))))
    })
    .boxed()
}

/// When each session that is not over began, and when it must end.
fn live<S: Session>(all: &[Arc<Guarded<S>>], cap: Duration) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let times = |guarded: &Arc<Guarded<S>>| {
        let session = guarded.0.as_ref().ok().filter(|session| !is_over(*session))?;
        let identity = Identity::of(session, cap).ok()?;
        Some((identity.created, identity.expires_at))
    };
    all.iter().filter_map(times).collect()
}

async fn collect_orphans<D: Driver>(context: &D, orphaned: &Notify) {
    let base = context.base();
    // Before the first list the cache knows nobody, and every pod would need a read.
    if base.sessions.wait_until_ready().await.is_err() {
        return std::future::pending().await;
    }
    loop {
        orphaned.notified().await;
        let collected = async {
            orphans::collect(base).await?;
            context.collect_guards().await
        };
        if let Err(error) = collected.await {
            base.metrics.failed(error.category());
            tracing::warn!(error = &error as &dyn std::error::Error, "looking for orphaned pods failed; the next tick tries again");
        }
    }
}

/// Watch errors mend themselves (the stream backs off and begins anew); they are only told.
fn logged<K>(event: Result<Event<K>, watcher::Error>, what: &str) -> Option<Event<K>> {
    event.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, what, "a watch failed and begins anew")).ok()
}
