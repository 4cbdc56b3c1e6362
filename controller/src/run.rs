//! The controller's loop: what wakes it, and how it ends.

use crate::{
    api::{ChaosExperiment, ChaosExperimentStatus},
    observe::FREEZE,
    reconcile::{self, Context, Error},
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller,
        controller::{Action, Config},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use std::{future::Future, sync::Arc, time::Duration};
use tracing::{debug, info, warn};

/// Changes of one experiment's pods often come together.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Experiments that are worked on at a time.
const CONCURRENT_EXPERIMENTS: u16 = 16;

/// An experiment that may not have the form that this version knows: another version may have written its status.
type Guarded = DeserializeGuard<ChaosExperiment>;

/// Runs experiments until `shutdown`, then ends the passes that are under way.
pub async fn run(client: Client, context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let experiments = Api::<Guarded>::all(client.clone());
    // Every change of every pod, as metadata only: the pods themselves are read when they matter.
    let pods = Api::<PartialObjectMeta<Pod>>::all(client.clone());
    let controller = Controller::new(experiments, watcher::Config::default());
    let (store, frozen) = (controller.store(), controller.store());
    let freeze = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, &context.settings().own_namespace);
    let this_one = watcher::Config::default().fields(&format!("metadata.name={FREEZE}"));
    let controller = controller
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT_EXPERIMENTS))
        .watches(pods, watcher::Config::default(), move |pod| followers(&store, &pod))
        .watches(freeze, this_one, move |_| those(&frozen, is_under_way))
        .graceful_shutdown_on(shutdown);
    info!("watching ChaosExperiments in all namespaces");
    controller
        .run(reconcile_guarded, on_error, context)
        .for_each(|result| async move {
            match result {
                Ok((object, action)) => debug!(%object, ?action, "pass done"),
                // Failed passes are logged where the wait is decided; what is left is the watches.
                Err(kube::runtime::controller::Error::QueueError(error)) => warn!(%error, "a watch failed and is begun again"),
                Err(_) => {}
            }
        })
        .await;
    info!("stopped");
}

/// Whether something of the experiment is under way in a pod.
fn is_under_way(object: &ChaosExperiment) -> bool {
    object.status.as_ref().is_some_and(ChaosExperimentStatus::is_under_way)
}

/// The experiments with a run under way in this pod.
fn followers(store: &Store<Guarded>, pod: &PartialObjectMeta<Pod>) -> Vec<ObjectRef<Guarded>> {
    let follows = |object: &ChaosExperiment| {
        let mut entries = object.status.iter().flat_map(ChaosExperimentStatus::open_pods);
        entries.any(|entry| pod.metadata.name.as_ref() == Some(&entry.name) && pod.metadata.namespace.as_ref() == Some(&entry.namespace))
    };
    those(store, follows)
}

fn those(store: &Store<Guarded>, wanted: impl Fn(&ChaosExperiment) -> bool) -> Vec<ObjectRef<Guarded>> {
    let objects = store.state();
    objects.iter().filter(|object| object.0.as_ref().is_ok_and(&wanted)).map(|object| ObjectRef::from_obj(&**object)).collect()
}

async fn reconcile_guarded(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    match &object.0 {
        Ok(experiment) => reconcile::reconcile(Arc::new(experiment.clone()), context).await,
        Err(invalid) => {
            let (name, namespace) = (object.name_any(), object.namespace());
            warn!(name, namespace, error = invalid.error, "left alone an experiment that does not have the form of this version");
            Ok(Action::await_change())
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // the form that Controller::run asks for
fn on_error(object: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    reconcile::on_error(&object.uid().unwrap_or_default(), error, &context)
}
