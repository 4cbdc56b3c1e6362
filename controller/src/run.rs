//! The controller's loop: what wakes it, and how it ends.

use crate::{
    metrics::Metrics,
    pods::{Changed, PodWatches},
    reconcile::{self, Context, Error},
    records,
};
use futures::{FutureExt, StreamExt, channel::mpsc, future::join_all, stream};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{ObjectMeta, PartialObjectMeta},
    runtime::{
        Controller, WatchStreamExt,
        controller::{Action, Config},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use netloss_api::{ChaosExperiment, ChaosExperimentSpec, ChaosExperimentStatus, FREEZE, ObservedLoss, ObservedTraffic, PodStatus};
use netloss_cluster::{
    guarded,
    listing::{self, PAGE},
};
use serde_json::json;
use std::{collections::BTreeSet, future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

/// Changes of one experiment's pods often come together. A judgement: long enough for most of them, and nobody notices the delay. Later ones begin another pass.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Between looks at which history records are kept: at its default an age is thirty days (`--history-age`), and a record may be kept this much longer.
const SWEEP: Duration = Duration::from_hours(1);

/// Between looks at what runs of deleted experiments may have left.
const REMNANTS: Duration = Duration::from_mins(1);

/// Changes of pods that wait to be looked at. A judgement: a change is one name, and each wakes its experiment once. A full queue holds up the watch, which
/// loses nothing.
const CHANGES: usize = 256;

/// An experiment that may not have the form that this version knows: another version may have written its status.
type Guarded = guarded::Guarded<ChaosExperiment>;

/// Runs the experiments of these namespaces, or of all if none is named, until `shutdown`; then ends the passes that are under way.
pub async fn run(client: Client, context: Arc<Context>, namespaces: &[String], shutdown: impl Future<Output = ()> + Send + 'static) {
    let scopes: Vec<Option<&str>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() };
    let shutdown = shutdown.shared();
    let watchers: Vec<NamespaceWatcher> = scopes.iter().map(|scope| NamespaceWatcher::new(&client, *scope)).collect();
    let stores: Vec<Store<Guarded>> = watchers.iter().map(|watcher_of| watcher_of.store.clone()).collect();
    let seen = stores.clone();
    let _looking = Looking(context.metrics());
    context
        .metrics()
        .set_experiments(Some(Box::new(move || stores.iter().flat_map(Store::state).filter_map(|object| readable(&object)).collect())));
    let synced = async {
        // The one who writes to a store is at work below.
        if join_all(seen.iter().map(Store::wait_until_ready)).await.into_iter().all(|ready| ready.is_ok()) {
            context.health().set_synced();
        }
        std::future::pending::<()>().await;
    };
    let work = join_all(watchers.into_iter().map(|watcher_of| watcher_of.run(client.clone(), Arc::clone(&context), shutdown.clone())));
    let named = if namespaces.is_empty() { "all".to_owned() } else { namespaces.join(",") };
    info!(namespaces = named, "watching ChaosExperiments");
    let ending = async {
        shutdown.clone().await;
        context.concurrency().close();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = work => {}
        () = ending => {}
        () = synced => {}
        () = sweep(&context, &scopes) => {}
        () = watch_remnants(&client, &context, &scopes) => {}
    }
    info!("stopped");
}

/// Also where the run is dropped as it stands, as it is when the lease is lost.
struct Looking<'a>(&'a Metrics);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.forget_cluster();
    }
}

/// Deletes history records that are not kept any longer, now and then.
async fn sweep(context: &Context, scopes: &[Option<&str>]) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.metrics().forget_history_counts();
        for scope in scopes {
            context.prune(*scope, None).await;
        }
    }
}

/// Looks now and then for what runs may have left whose experiments are deleted.
async fn watch_remnants(client: &Client, context: &Context, scopes: &[Option<&str>]) {
    let mut ticks = interval(REMNANTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let found = stream::iter(scopes).then(|scope| records::remnants(client, *scope)).collect::<Vec<_>>().await;
        match found.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(found) => context.metrics().set_remnants(found.concat()),
            // What was known stays.
            Err(error) => warn!(%error, "records of loss that may remain could not be read"),
        }
    }
}

/// What is watched of one namespace, or of all.
struct NamespaceWatcher {
    experiments: Api<Guarded>,
    store: Store<Guarded>,
    writer: reflector::store::Writer<Guarded>,
}

impl NamespaceWatcher {
    fn new(client: &Client, namespace: Option<&str>) -> Self {
        let (store, writer) = reflector::store();
        Self { experiments: listing::scoped(client, namespace), store, writer }
    }

    async fn run(self, client: Client, context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
        let changed = Arc::new(Notify::new());
        let experiments = {
            let changed = Arc::clone(&changed);
            let pages = watcher::Config::default().page_size(PAGE);
            let events = watcher(self.experiments, pages).modify(trim).reflect(self.writer);
            events.inspect(move |_| changed.notify_one()).touched_objects()
        };
        let freeze = Api::<guarded::Guarded<PartialObjectMeta<ConfigMap>>>::namespaced(client.clone(), &context.settings().own_namespace);
        let this_one = watcher::Config::default().fields(&format!("metadata.name={FREEZE}"));
        let (sender, pods) = mpsc::channel::<Changed>(CHANGES);
        let (store, frozen, followed) = (self.store.clone(), self.store.clone(), self.store.clone());
        let controller = Controller::for_stream(experiments, self.store)
            .with_config(Config::default().debounce(DEBOUNCE))
            .reconcile_on(pods.flat_map(move |(namespace, name)| stream::iter(followers(&followed, &namespace, &name))))
            .watches(freeze, this_one, move |_| those(&frozen, is_active))
            .graceful_shutdown_on(shutdown)
            .run(reconcile_guarded, on_error, Arc::clone(&context))
            .for_each(|result| async move {
                match result {
                    Ok((object, action)) => debug!(%object, ?action, "pass done"),
                    // Failed passes are logged where the wait is decided; what is left is the watches.
                    Err(kube::runtime::controller::Error::QueueError(error)) => warn!(%error, "a watch failed and is begun again"),
                    Err(_) => {}
                }
            });
        let mut watches = PodWatches::new(client, sender);
        let watching = async {
            loop {
                changed.notified().await;
                context.metrics().set_watches(watches.set(&open_namespaces(&store)));
            }
        };
        tokio::select! {
            () = pin!(controller) => {}
            () = watching => {}
        }
    }
}

/// Keeps of an object in memory what is looked at there, as a pass reads it again: a few hundred bytes, and as many for each pod in which something is
/// under way or loss may be left, whatever somebody wrote into it.
fn trim(object: &mut Guarded) {
    let whole = std::mem::take(object.meta_mut());
    *object.meta_mut() = ObjectMeta {
        name: whole.name,
        namespace: whole.namespace,
        uid: whole.uid,
        resource_version: whole.resource_version,
        generation: whole.generation,
        deletion_timestamp: whole.deletion_timestamp,
        ..ObjectMeta::default()
    };
    if let Ok(experiment) = &mut object.0 {
        experiment.spec = trimmed_spec(&experiment.spec);
        experiment.status = experiment.status.take().filter(|_| experiment.spec.action.is_served()).map(trimmed_status);
    }
}

/// The action, the namespace of the pods, and what decides whose turn it is.
fn trimmed_spec(spec: &ChaosExperimentSpec) -> ChaosExperimentSpec {
    let least = json!({ "action": spec.action, "selector": {} });
    let least = serde_json::from_value(least).unwrap_or_else(|_| spec.clone());
    ChaosExperimentSpec { paused: spec.paused, namespace: spec.namespace.clone(), ..least }
}

/// What metrics and the watches of pods go by. Pods that have ended become one, with what was counted in all of them.
fn trimmed_status(status: ChaosExperimentStatus) -> ChaosExperimentStatus {
    let (kept, ended): (Vec<_>, Vec<_>) = status.pods.into_iter().partition(|pod| pod.is_open() || pod.may_be_impaired());
    let observed = ended.iter().filter_map(|pod| pod.observed).reduce(both);
    let ended = ended.into_iter().next().map(|first| PodStatus { observed, ..first });
    let pods = ended.into_iter().chain(kept).map(trimmed_pod);
    let unresolved = status.unresolved_pods.into_iter().map(trimmed_pod);
    let conditions = status.conditions.into_iter().map(|condition| Condition { message: String::new(), ..condition });
    ChaosExperimentStatus {
        phase: status.phase,
        run: status.run,
        last_run_time: status.last_run_time,
        conditions: conditions.collect(),
        affected_pods: vec![String::new(); status.affected_pods.len()],
        stopping: status.stopping,
        observed_generation: status.observed_generation,
        pods: pods.collect(),
        unresolved_pods: unresolved.collect(),
        ..ChaosExperimentStatus::default()
    }
}

fn trimmed_pod(mut pod: PodStatus) -> PodStatus {
    // Which says whether loss may be left.
    pod.argv.retain(|argument| argument.starts_with("--backend"));
    PodStatus {
        stop: None,
        repair: None,
        template: None,
        message: None,
        image: String::new(),
        container: String::new(),
        plan: None,
        node: None,
        pod_ip: None,
        interface: None,
        remaining: None,
        ..pod
    }
}

fn both(one: ObservedLoss, other: ObservedLoss) -> ObservedLoss {
    let sum = |one: Option<ObservedTraffic>, other: Option<ObservedTraffic>| {
        let (one, other) = match (one, other) {
            (Some(one), Some(other)) => (one, other),
            (one, other) => return one.or(other),
        };
        let (packets, dropped) = (one.packets.saturating_add(other.packets), one.dropped.saturating_add(other.dropped));
        Some(ObservedTraffic { packets, dropped, ..ObservedTraffic::default() })
    };
    ObservedLoss { egress: sum(one.egress, other.egress), ingress: sum(one.ingress, other.ingress) }
}

/// The target namespaces of experiments with a run under way. A status may name pods of other namespaces (after an edit of spec.namespace, or because somebody
/// forged it): these are polled, not watched.
fn open_namespaces(store: &Store<Guarded>) -> BTreeSet<String> {
    let objects = store.state();
    let open = objects.iter().filter_map(|object| object.0.as_ref().ok()).filter(|object| is_active(object));
    open.map(|object| object.spec.target_namespace(&object.namespace().unwrap_or_default()).to_owned()).collect()
}

fn readable(object: &Guarded) -> Option<Arc<ChaosExperiment>> {
    object.0.as_ref().ok().cloned().map(Arc::new)
}

/// Whether something of the experiment is under way in a pod.
fn is_active(object: &ChaosExperiment) -> bool {
    object.status.as_ref().is_some_and(ChaosExperimentStatus::is_active)
}

/// The experiments with a run under way in this pod.
fn followers(store: &Store<Guarded>, namespace: &str, name: &str) -> Vec<ObjectRef<Guarded>> {
    let follows = |object: &ChaosExperiment| {
        let mut entries = object.status.iter().flat_map(ChaosExperimentStatus::open_pods);
        entries.any(|entry| entry.name == name && entry.namespace == namespace)
    };
    those(store, follows)
}

fn those(store: &Store<Guarded>, wanted: impl Fn(&ChaosExperiment) -> bool) -> Vec<ObjectRef<Guarded>> {
    let objects = store.state();
    objects.iter().filter(|object| object.0.as_ref().is_ok_and(&wanted)).map(|object| ObjectRef::from_obj(&**object)).collect()
}

async fn reconcile_guarded(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    match &object.0 {
        Ok(experiment) => reconcile::reconcile(experiment, &context).await,
        Err(unreadable) => {
            let (name, namespace) = (object.name_any(), object.namespace());
            warn!(name, namespace, error = unreadable.error, "skipped an experiment that does not decode");
            context.skip_unreadable(&object.object_ref(&()), &unreadable.error).await
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // the form that Controller::run asks for
fn on_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    reconcile::on_error(&object.uid().unwrap_or_default(), error, &context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_api::{Outcome, PodState, PodStatus};
    use netloss_core::machine::fixtures::{entry, spec};

    #[test]
    fn what_is_kept_answers_what_is_asked_there() {
        for (state, outcome) in
            [(PodState::Applied, None), (PodState::Ended, Some(Outcome::Unknown)), (PodState::Ended, Some(Outcome::Clean))]
        {
            for backend in ["--backend=guarded", "--backend=auto"] {
                let argv = ["run", backend, "--loss=10"].map(str::to_owned).to_vec();
                let pod = PodStatus { state, outcome, argv, message: Some("at length".to_owned()), ..entry() };
                let mut experiment = ChaosExperiment::new("x", spec());
                experiment.status = Some(ChaosExperimentStatus { pods: vec![pod.clone()], ..ChaosExperimentStatus::default() });
                let mut object = guarded::Guarded(Ok(experiment.clone()));
                trim(&mut object);
                let kept = object.0.unwrap();
                assert_eq!(is_active(&kept), is_active(&experiment));
                let kept = &kept.status.unwrap().pods[0];
                assert_eq!(kept.may_be_impaired(), pod.may_be_impaired(), "{pod:?}");
                assert_eq!((&kept.namespace, &kept.name, &kept.uid), (&pod.namespace, &pod.name, &pod.uid));
                assert!(serde_json::to_vec(kept).unwrap().len() < serde_json::to_vec(&pod).unwrap().len());
            }
        }
    }
}
