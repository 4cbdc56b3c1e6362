//! What the controller does about one experiment when it has changed, or when it is time to look again: a pass of the executor over what the API server has of
//! it, in its turn.

mod store;

use self::store::Stored;
use crate::{
    admission::Served,
    backoff::Backoff,
    concurrency::{self, ConcurrencyLimit},
    health::Health,
    metrics::Metrics,
    publish::Publisher,
    records::{self, Retention},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use netloss_api::{ChaosExperiment, FINALIZER};
pub use netloss_cluster::executor::Error;
use netloss_cluster::{
    clock::Clock,
    executor::{Executor, Progress, ReconcileState},
    guarded::{Guarded, Unreadable},
    observe,
};
use netloss_core::machine::{self, Settings};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tracing::warn;

/// Who writes, in managedFields.
const FIELD_MANAGER: &str = "netloss-controller";

/// Between looks at an experiment that is being deleted and does not decode.
const HELD_POLL: Duration = Duration::from_hours(1);

/// How long after its creation an experiment may begin a run in another namespace by the rights that its author had then. Later, that namespace
/// has to open itself: rights are revoked, and nothing in the object says whose they were. It is for runs that begin at once, and for as long as
/// their retries and a busy or restarting controller take.
const AUTHORED: SignedDuration = SignedDuration::from_hours(1);

/// The longest that one pass may take. Being cut off is like a crash, which every step allows for.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(2);

/// What a pass works with.
#[derive(Clone)]
pub struct Context {
    client: Client,
    settings: Settings,
    clock: Clock,
    publisher: Publisher,
    backoff: Arc<Backoff>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    retention: Retention,
    heard: Arc<observe::Heard>,
    concurrency: Arc<ConcurrencyLimit>,
    served: Option<Arc<Served>>,
    /// The same with another client, for experiments that are to end.
    to_end: Option<Arc<Self>>,
}

impl Context {
    /// `instance` names this controller in events.
    #[must_use]
    pub fn new(client: Client, settings: Settings, clock: Clock, instance: Option<String>) -> Self {
        let publisher = Publisher::new(client.clone(), FIELD_MANAGER, instance);
        let retention = Retention { count: 100, age: SignedDuration::from_hours(24 * 30) };
        let (backoff, metrics, health, heard, concurrency) =
            (Arc::default(), Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let (served, to_end) = (None, None);
        Self { client, settings, clock, publisher, backoff, metrics, health, retention, heard, concurrency, served, to_end }
    }

    /// As it is now, with a client of its own for experiments that are to end: their requests wait for no other's.
    #[must_use]
    pub fn ending_with(self, client: Client) -> Self {
        let to_end = Some(Arc::new(Self { client, ..self.clone() }));
        Self { to_end, ..self }
    }

    /// What a pass over this experiment works with.
    fn for_pass(&self, object: &ChaosExperiment) -> &Self {
        self.to_end.as_deref().filter(|_| concurrency::is_to_end(object)).unwrap_or(self)
    }

    /// With these in place of its own.
    #[must_use]
    pub fn observed_by(self, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self { metrics, health, ..self }
    }

    /// With the webhook that reviews experiments. Without it, all are taken for reviewed where the settings say that admission is to be trusted.
    #[must_use]
    pub fn reviewed_by(self, served: Option<Arc<Served>>) -> Self {
        Self { served, ..self }
    }

    /// The settings for this experiment. One that was created before the API server called the webhook was reviewed by nobody: whether its author may act on
    /// another namespace was not asked, so that the namespace has to open itself. The same goes for one whose author was asked long ago ([`AUTHORED`]). An edit
    /// since then does not count, as it may have kept that namespace, and nothing tells when it was made but what its author wrote.
    fn settings_for(&self, object: &ChaosExperiment, now: Timestamp) -> Settings {
        let created = object.creation_timestamp().map(|time| time.0);
        let is_reviewed = self.served.as_ref().is_none_or(|served| served.has_reviewed(created));
        let is_recent = created.is_some_and(|created| now.duration_since(created) <= AUTHORED);
        Settings { trusts_admission: self.settings.trusts_admission && is_reviewed && is_recent, ..self.settings.clone() }
    }

    /// With another time that records are kept.
    #[must_use]
    pub fn keeping(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What is known of this replica.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Whose turn it is.
    pub(crate) fn concurrency(&self) -> &ConcurrencyLimit {
        &self.concurrency
    }

    /// Deletes the records of a namespace, or of all, that are not kept any longer.
    pub(crate) async fn prune(&self, namespace: Option<&str>, experiment: Option<&str>) {
        if let Err(error) = records::prune(&self.client, namespace, experiment, self.retention, (self.clock)(), &self.metrics).await {
            warn!(namespace, %error, "history records could not be listed: none was deleted");
        }
    }

    /// Says on an experiment that does not decode why nothing is done for it, if it is netloss's. This is counted. One that is being deleted is let go once no
    /// agent of it can be at work.
    ///
    /// # Errors
    /// When the API server does not do what it is asked.
    pub(crate) async fn skip_unreadable(&self, experiment: &ObjectReference, error: &str) -> Result<Action, Error> {
        self.metrics.pass_failed("unreadable");
        let namespace = experiment.namespace.as_deref().unwrap_or_default();
        let resource = ApiResource::erase::<ChaosExperiment>(&());
        let api = Api::<Guarded<DynamicObject>>::namespaced_with(self.client.clone(), namespace, &resource);
        let object = api.get_opt(experiment.name.as_deref().unwrap_or_default()).await;
        let Some(Guarded(object)) = object.map_err(Error::api("reading an experiment that does not decode"))? else {
            return Ok(Action::await_change());
        };
        let (metadata, action) = match object {
            Ok(object) => (object.metadata, object.data["spec"]["action"].clone()),
            Err(Unreadable { metadata, .. }) => (metadata, Value::Null),
        };
        let is_held = metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
        let deleted = metadata.deletion_timestamp.as_ref().filter(|_| is_held);
        let event = match deleted.map(|Time(deleted)| machine::held_until(*deleted, &self.settings)) {
            Some(until) if (self.clock)() >= until => {
                self.set_finalizer(&metadata, false).await?;
                return Ok(Action::await_change());
            }
            Some(until) => machine::unreadable_and_held(error, until),
            None if action == json!(netloss_api::Action::PodNetworkLoss) => machine::unreadable(error),
            None => return Ok(Action::await_change()),
        };
        self.publisher.publish(experiment, vec![event]).await;
        Ok(deleted.map_or_else(Action::await_change, |_| Action::requeue(HELD_POLL)))
    }

    /// What the controller was started with.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long to wait after a pass that failed.
    pub(crate) fn backoff(&self) -> &Backoff {
        &self.backoff
    }
}

/// One pass over an experiment: everything that can be done about it now.
///
/// # Errors
/// When something has to be tried again.
pub async fn reconcile(object: &ChaosExperiment, context: &Context) -> Result<Action, Error> {
    // Before anything else, so that nothing at all happens to what is not ours.
    if !object.spec.action.is_served() {
        return Ok(Action::await_change());
    }
    let context = context.for_pass(object);
    let executor = Executor { client: &context.client, field_manager: FIELD_MANAGER, clock: &context.clock };
    let (mut store, mut state) = (Stored::new(context, object), ReconcileState::default());
    loop {
        let Some(_turn) = context.concurrency.acquire(object).await else { return Ok(Action::await_change()) };
        let _pass = context.health.pass();
        // Boxed: it is large, and all of those that wait for their turn have room for one.
        let advanced = tokio::time::timeout(RECONCILE_TIMEOUT, Box::pin(executor.advance(&mut store, &mut state)));
        let action = match advanced.await.map_err(|_| Error::TimedOut(RECONCILE_TIMEOUT))?? {
            Progress::Injected => continue,
            Progress::AwaitsChange(Some(after)) => Action::requeue(after),
            Progress::AwaitsChange(None) | Progress::Gone => Action::await_change(),
        };
        context.backoff.succeeded(&object.uid().unwrap_or_default());
        return Ok(action);
    }
}

/// How long to wait after a pass that failed.
pub(crate) fn on_error(uid: &str, error: &Error, context: &Context) -> Action {
    let after = context.backoff().failed(uid);
    context.metrics.pass_failed(error.kind());
    warn!(uid, error = %error, kind = error.kind(), retry_in = after.as_secs_f64(), "the pass failed");
    Action::requeue(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http::Response;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::client::Body;
    use netloss_api::ChaosExperimentStatus;
    use netloss_cluster::testing;
    use netloss_core::machine::fixtures::{at, entry, settings, spec};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A client that finds nothing, and how often it has looked.
    fn finds_nothing() -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let client = testing::answering(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 });
            let mut response = Response::new(Body::from(status.to_string().into_bytes()));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            async move { response }.boxed()
        });
        (client, asked)
    }

    #[tokio::test]
    async fn what_is_to_end_asks_with_a_client_of_its_own() {
        let ((client, asked), (to_end, asked_to_end)) = (finds_nothing(), finds_nothing());
        let context = Context::new(client, settings(), Arc::new(|| at(0)), None).ending_with(to_end);
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        let counts = || (asked.load(Ordering::SeqCst), asked_to_end.load(Ordering::SeqCst));
        reconcile(&object, &context).await.unwrap();
        assert_eq!(counts(), (1, 0));
        object.metadata.deletion_timestamp = Some(Time(at(0)));
        object.status = Some(ChaosExperimentStatus { pods: vec![entry()], ..ChaosExperimentStatus::default() });
        reconcile(&object, &context).await.unwrap();
        assert_eq!(counts(), (1, 1));
    }
}
