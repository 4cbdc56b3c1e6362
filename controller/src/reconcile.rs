//! The one place that does what was decided.
//!
//! Each round reads the experiment, looks at what is needed, decides, writes the status with the version that it was read with, and
//! only then patches pods and tells ([`crate::steps`] has the order). A crash between any two steps leaves what the next round starts
//! from.

use crate::{
    admission::Served,
    backoff::Backoff,
    clock::Clock,
    health::Health,
    metrics::{Metrics, Recorded},
    publish::Publisher,
    records::{self, Retention},
    turns::{self, Turns},
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{EphemeralContainer, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta},
    runtime::controller::Action,
};
use netloss_api::{
    self, ChaosExperiment, ChaosExperimentHistory, ChaosExperimentPlan, ChaosExperimentSpec, ChaosExperimentStatus, FINALIZER, PodStatus,
    RUN_REQUESTED_ANNOTATION,
};
use netloss_cluster::{
    guarded::{Guarded, Unreadable},
    listing,
    observe::{self, CONCURRENCY, Lookup},
};
use netloss_core::{
    container::{agent_container, image_to_send, patch, repair_container, stop_container},
    history,
    machine::{self, AgentLog, Decision, Experiment, Observed, PodView, Preflight, Settings},
    steps::{self, Step},
    stored,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};
use tracing::{debug, info, warn};

/// Who writes, in managedFields.
const FIELD_MANAGER: &str = "netloss-controller";

/// Rounds of one pass: planning, the finalizer, asking, writing down the answer, patching and adopting are six; the others are for objects that changed meanwhile.
const ROUNDS: usize = 12;

/// Between looks at an experiment that is being deleted and does not decode.
const HELD_POLL: Duration = Duration::from_hours(1);

/// Records of an experiment among which those of a pause are looked for.
const SUPERSEDED: u32 = 500;

/// Tries to have the API server make up a name that is free.
const NAME_TRIES: usize = 4;

/// How long after its creation an experiment may begin a run in another namespace by the rights that its author had then. Later, that namespace
/// has to open itself: rights are revoked, and nothing in the object says whose they were. It is for runs that begin at once, and for as long as
/// their retries and a busy or restarting controller take.
const AUTHORED: SignedDuration = SignedDuration::from_hours(1);

/// The longest that one pass may take. Being cut off is like a crash, which every step allows for.
const PASS_TIMEOUT: Duration = Duration::from_mins(2);

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
    turns: Arc<Turns>,
    served: Option<Arc<Served>>,
    /// The same with another client, for experiments that are to end.
    to_end: Option<Arc<Self>>,
}

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The object changed in each round.
    #[error("the experiment changed under {ROUNDS} decisions in a row: trying again later")]
    Contended,
    /// Another definition is installed, such as k8s-chaos's own.
    #[error("the definition of ChaosExperiment in this cluster drops what netloss writes into status: install config/crd")]
    Pruned,
    /// The experiment does not decode.
    #[error("the experiment does not decode: {0}")]
    Unreadable(String),
    /// The pass took too long.
    #[error("the pass took longer than {PASS_TIMEOUT:?}: trying again later")]
    TimedOut,
}

impl Error {
    /// In one word, for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => match status.code {
                    403 => "forbidden",
                    404 => "not-found",
                    409 => "conflict",
                    429 => "throttled",
                    500.. => "server",
                    _ => "refused",
                },
                _ => "connection",
            },
            Self::Contended => "contended",
            Self::Pruned => "pruned",
            Self::Unreadable(_) => "unreadable",
            Self::TimedOut => "timeout",
        }
    }

    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }
}

/// What came of writing a status.
enum Written {
    /// It stands.
    Done,
    /// The object had changed.
    Stale,
}

/// What came of a patch.
enum Injected {
    /// It is in the pod, or the next look will show why not.
    LookAgain,
    /// Refused for good, in the API server's words.
    Refused(String),
    /// Perhaps later.
    Retry(Error),
}

impl Context {
    /// `instance` names this controller in events.
    #[must_use]
    pub fn new(client: Client, settings: Settings, clock: Clock, instance: Option<String>) -> Self {
        let publisher = Publisher::new(client.clone(), FIELD_MANAGER, instance);
        let retention = Retention { count: 100, age: SignedDuration::from_hours(24 * 30) };
        let (backoff, metrics, health, heard, turns) = (Arc::default(), Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let (served, to_end) = (None, None);
        Self { client, settings, clock, publisher, backoff, metrics, health, retention, heard, turns, served, to_end }
    }

    /// As it is now, with a client of its own for experiments that are to end: their requests wait for no other's.
    #[must_use]
    pub fn ending_with(self, client: Client) -> Self {
        let to_end = Some(Arc::new(Self { client, ..self.clone() }));
        Self { to_end, ..self }
    }

    /// What a pass over this experiment works with.
    fn for_pass(&self, object: &ChaosExperiment) -> &Self {
        self.to_end.as_deref().filter(|_| turns::is_to_end(object)).unwrap_or(self)
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
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Deletes the records of a namespace, or of all, that are not kept any longer.
    pub(crate) async fn prune(&self, namespace: Option<&str>, experiment: Option<&str>) {
        if let Err(error) = records::prune(&self.client, namespace, experiment, self.retention, (self.clock)(), &self.metrics).await {
            warn!(namespace, %error, "history records could not be listed: none was deleted");
        }
    }

    /// Writes the record of a run that is over or paused, before its status says so: a crash in between leaves a record that is found there.
    async fn write_record(&self, object: &ChaosExperiment, status: Option<&ChaosExperimentStatus>) -> Result<(), Error> {
        let Some(mut run) = status.cloned() else { return Ok(()) };
        let namespace = object.namespace().unwrap_or_default();
        self.fill_in((&namespace, &object.uid().unwrap_or_default()), &mut run, |_| true).await?;
        let mut record = history::record(object, &run, (self.clock)());
        let api = Api::<ChaosExperimentHistory>::namespaced(self.client.clone(), &namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let (uid, name) = (object.uid().unwrap_or_default(), record.name_any());
        for _ in 0..NAME_TRIES {
            match api.create(&params, &record).await {
                Ok(written) => {
                    if written.name_any() != name {
                        let taken = machine::record_name_taken(&name, &written.name_any());
                        self.publisher.publish(&object.object_ref(&()), vec![taken]).await;
                    }
                    self.metrics.history_written(record.spec.execution.status.as_str());
                    self.delete_superseded(&namespace, &uid, &run, &written.name_any()).await;
                    self.prune(Some(&namespace), Some(&uid)).await;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                    if record.metadata.name.is_some() && self.has_record(&namespace, &name, &record).await? {
                        self.delete_superseded(&namespace, &uid, &run, &name).await;
                        return Ok(());
                    }
                    warn!(namespace, name, "another object has the name of the run's history record: it is written under another name");
                    // One that nobody can know in advance. A crash before the status is written makes it twice, which loses nothing.
                    (record.metadata.name, record.metadata.generate_name) = (None, Some(format!("{name}-")));
                }
                // A rejected record must not block the end of the run: it would be blocked for ever.
                Err(kube::Error::Api(status)) if is_final(&status) => {
                    warn!(
                        namespace,
                        name,
                        error = status.message,
                        "the run's history record is refused: only status and events tell of it"
                    );
                    return Ok(());
                }
                Err(error) => return Err(Error::api("writing the history record")(error)),
            }
        }
        warn!(namespace, name, "no name was found for the run's history record: only status and events tell of it");
        Ok(())
    }

    /// Whether what has this name is the record. Listed, as the controller has no other use for a right to read records.
    async fn has_record(&self, namespace: &str, name: &str, record: &ChaosExperimentHistory) -> Result<bool, Error> {
        let api = Api::<Guarded<ChaosExperimentHistory>>::namespaced(self.client.clone(), namespace);
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let is_same = |there: Result<ChaosExperimentHistory, _>| there.is_ok_and(|there| history::is_same(&there, record)).then_some(());
        let same = listing::list(&api, &only, 1, is_same).await.map_err(Error::api("reading a history record of this name"))?;
        Ok(!same.is_empty())
    }

    /// Deletes what was recorded when the run was paused before, which the new record contains.
    async fn delete_superseded(&self, namespace: &str, uid: &str, run: &ChaosExperimentStatus, written: &str) {
        let Some(prefix) = history::paused_prefix(uid, run) else { return };
        let api = Api::<ChaosExperimentHistory>::namespaced(self.client.clone(), namespace);
        let of_experiment = ListParams::default().labels(&format!("{}={uid}", netloss_api::EXPERIMENT_LABEL)).limit(SUPERSEDED);
        let records = match listing::metadata(api, &of_experiment).await {
            Ok(records) => records,
            Err(error) => return warn!(namespace, %error, "history records could not be listed: those of a pause stay"),
        };
        let api = Api::<Guarded<PartialObjectMeta<ChaosExperimentHistory>>>::namespaced(self.client.clone(), namespace);
        let superseded = records.items.iter().map(ResourceExt::name_any).filter(|name| name.contains(&prefix) && name != written);
        for name in superseded {
            if let Err(error) = api.delete(&name, &DeleteParams::default()).await {
                warn!(namespace, name, %error, "the history record of a pause could not be deleted");
            }
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

    /// Reads what a status leaves to records, for those of its pods. What is in no record any more stays absent.
    async fn fill_in(
        &self,
        (namespace, uid): (&str, &str),
        status: &mut ChaosExperimentStatus,
        wanted: impl Fn(&PodStatus) -> bool,
    ) -> Result<(), Error> {
        let plans = stream::iter(stored::missing(uid, status, wanted)).map(|name| async move {
            let plan = listing::named::<ChaosExperimentPlan>(&self.client, namespace, &name).await;
            plan.map_err(Error::api(format!("reading ChaosExperimentPlan {name}")))
        });
        let plans: Vec<Option<Guarded<ChaosExperimentPlan>>> = plans.buffer_unordered(CONCURRENCY).try_collect().await?;
        for plan in plans.into_iter().flatten().filter_map(|Guarded(plan)| plan.ok()) {
            stored::fill_in(status, &plan);
        }
        Ok(())
    }

    async fn write_status(&self, object: &ChaosExperiment, status: ChaosExperimentStatus) -> Result<Written, Error> {
        let namespace = object.namespace().unwrap_or_default();
        let api = Api::<Guarded<ChaosExperiment>>::namespaced(self.client.clone(), &namespace);
        let plans = Api::<ChaosExperimentPlan>::namespaced(self.client.clone(), &namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let (mut status, records) = stored::split(object, status);
        for record in records {
            self.write_plan(object, &plans, record, &mut status).await?;
        }
        let unused = stored::unused(&object.uid().unwrap_or_default(), object.status.as_ref(), &status);
        // Without managedFields, which were not read as they are, the API server keeps them.
        let metadata = ObjectMeta { managed_fields: None, ..object.metadata.clone() };
        let changed = ChaosExperiment { metadata, spec: object.spec.clone(), status: Some(status) };
        let written = match api.replace_status(&object.name_any(), &params, &Guarded(Ok(changed.clone()))).await {
            Ok(Guarded(Ok(written))) => written.status.unwrap_or_default(),
            Ok(Guarded(Err(unreadable))) => return Err(Error::Unreadable(unreadable.error)),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Written::Stale),
            Err(error) => return Err(Error::api("writing the status")(error)),
        };
        // What is not written down must not be done, and would be planned again and again.
        let kept = |status: &ChaosExperimentStatus| (status.run, status.attempt, status.pods.len());
        if changed.status.is_some_and(|status| kept(&status) != kept(&written)) {
            return Err(Error::Pruned);
        }
        for name in unused {
            // What is left goes with the experiment.
            if let Err(error) = plans.delete(&name, &DeleteParams::default()).await {
                warn!(namespace, name, %error, "a ChaosExperimentPlan that is not used any longer could not be deleted");
            }
        }
        Ok(Written::Done)
    }

    /// Writes a plan, under another name where an object that is not this plan has its name: names can be foreseen, and whoever may create plans
    /// must not choose the arguments of an agent, or block a run.
    async fn write_plan(
        &self,
        object: &ChaosExperiment,
        plans: &Api<ChaosExperimentPlan>,
        mut plan: ChaosExperimentPlan,
        status: &mut ChaosExperimentStatus,
    ) -> Result<(), Error> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let (name, run) = (plan.name_any(), plan.spec.run);
        for _ in 0..NAME_TRIES {
            match plans.create(&params, &plan).await {
                Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                    if plan.metadata.name.is_some() && self.has_plan(&plan).await? {
                        return Ok(());
                    }
                    warn!(
                        namespace = object.namespace(),
                        name, "another object has the name of a ChaosExperimentPlan: it is written under another name"
                    );
                    let prefix = format!("{}-r{run}-", object.uid().unwrap_or_default());
                    (plan.metadata.name, plan.metadata.generate_name) = (None, Some(prefix));
                }
                answer => {
                    let written = answer.map_err(Error::api("writing a ChaosExperimentPlan"))?.name_any();
                    if written != name {
                        stored::rename(status, &name, &written);
                        let taken = machine::plan_name_taken(&name, &written);
                        self.publisher.publish(&object.object_ref(&()), vec![taken]).await;
                    }
                    return Ok(());
                }
            }
        }
        Err(Error::Contended)
    }

    /// Whether what has the plan's name is this plan, and stays.
    async fn has_plan(&self, plan: &ChaosExperimentPlan) -> Result<bool, Error> {
        let (namespace, name) = (plan.namespace().unwrap_or_default(), plan.name_any());
        let api = Api::<Guarded<ChaosExperimentPlan>>::namespaced(self.client.clone(), &namespace);
        let there = api.get_opt(&name).await.map_err(Error::api(format!("reading ChaosExperimentPlan {name}")))?;
        Ok(there.is_some_and(|Guarded(there)| there.is_ok_and(|there| stored::is_same(&there, plan))))
    }

    /// Adds our finalizer to the experiment, or takes it away. The patch names the version that this was decided from, and nothing of
    /// the spec.
    async fn set_finalizer(&self, object: &ObjectMeta, wanted: bool) -> Result<(), Error> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let api = Api::<Guarded<PartialObjectMeta<ChaosExperiment>>>::namespaced(self.client.clone(), namespace);
        let others = object.finalizers.iter().flatten().map(String::as_str).filter(|name| *name != FINALIZER);
        let finalizers: Vec<&str> = others.chain(wanted.then_some(FINALIZER)).collect();
        let metadata = json!({ "uid": object.uid, "resourceVersion": object.resource_version, "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(object.name.as_deref().unwrap_or_default(), &params, &patch).await {
            // It changed or went meanwhile, and is read again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            answer => answer.map(drop).map_err(Error::api("writing the finalizer")),
        }
    }

    /// Asks the API server whether it would admit the agent, with a patch that changes nothing. `None` where that says nothing, as the pod
    /// is another by now.
    async fn ask(&self, entry: &PodStatus) -> Result<Option<Preflight>, Error> {
        let api = Api::<Guarded<Pod>>::namespaced(self.client.clone(), &entry.namespace);
        let params = PatchParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("asking for container {} in pod {}", entry.container, entry.display_name());
        match api
            .patch_subresource("ephemeralcontainers", &entry.name, &params, &Patch::Strategic(patch(entry, &agent_container(entry))))
            .await
        {
            Ok(_) => Ok(Some(Preflight::Admitted)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Some(answer(status.message))),
            Err(error) => Err(Error::api(what)(error)),
        }
    }

    /// Puts one more container of netloss's into one pod. `Some` are the words of a refusal.
    async fn send(&self, entry: &PodStatus, container: EphemeralContainer) -> Result<Option<String>, Error> {
        let api = Api::<Guarded<Pod>>::namespaced(self.client.clone(), &entry.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("adding container {} to pod {}", container.name, entry.display_name());
        match api.patch_subresource("ephemeralcontainers", &entry.name, &params, &Patch::Strategic(patch(entry, &container))).await {
            // The pod is gone, which the next look will show.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Some(status.message)),
            answer => answer.map(|_| None).map_err(Error::api(what)),
        }
    }

    /// What agents have said lately is for metrics alone.
    fn note_heard(&self, views: &BTreeMap<String, PodView>) {
        for (uid, view) in views {
            if let PodView::Present { agent: Some(agent), .. } = view
                && let AgentLog::Heard(Some(live)) = &agent.log
            {
                self.metrics.heard(uid, (**live).clone());
            }
        }
    }

    /// Puts the agent into one pod.
    async fn inject(&self, entry: &PodStatus, run: &str, spec: &ChaosExperimentSpec) -> Injected {
        match self.send(entry, agent_container(entry)).await {
            Ok(None) => Injected::LookAgain,
            // Refused: for what the pod has become meanwhile, which a look will show, or for good.
            Ok(Some(words)) => match observe::view(&self.client, entry, Lookup { run, spec, now: (self.clock)() }).await {
                Ok(PodView::Present { agent: None, .. }) => Injected::Refused(words),
                Ok(_) => Injected::LookAgain,
                Err(error) => Injected::Retry(Error::api(format!("looking at pod {}", entry.display_name()))(error)),
            },
            Err(error) => Injected::Retry(error),
        }
    }

    /// Puts agents into pods, in a round that has begun then: the refusals, by the pods' uids, and what has to be tried again.
    async fn inject_all(
        &self,
        entries: Vec<PodStatus>,
        run: &str,
        spec: &ChaosExperimentSpec,
        begun: Timestamp,
    ) -> (BTreeMap<String, PodView>, Option<Error>) {
        let outcomes = stream::iter(entries).map(|entry| async move {
            let outcome = if self.is_too_late(begun) { Injected::LookAgain } else { self.inject(&entry, run, spec).await };
            (entry.uid, outcome)
        });
        let mut outcomes = outcomes.buffer_unordered(CONCURRENCY);
        let (mut refused, mut retry) = (BTreeMap::new(), None);
        while let Some((uid, outcome)) = outcomes.next().await {
            match outcome {
                Injected::LookAgain => {}
                Injected::Refused(words) => drop(refused.insert(uid, PodView::Refused(words))),
                Injected::Retry(error) => retry = Some(error),
            }
        }
        (refused, retry)
    }

    /// Puts in what was sent after agents. What is refused now is tried again as long as it may help, and is told meanwhile.
    async fn send_after(
        &self,
        stops: Vec<PodStatus>,
        repairs: Vec<PodStatus>,
        begun: Timestamp,
    ) -> Result<BTreeMap<String, PodView>, Error> {
        let with_image =
            |entry: PodStatus| PodStatus { image: image_to_send(&entry.image, &self.settings.agent_image).to_owned(), ..entry };
        let (stops, repairs) = (stops.into_iter().map(with_image), repairs.into_iter().map(with_image));
        let stops = stops.filter_map(|entry| Some((stop_container(&entry, entry.stop.as_ref()?), entry)));
        let repairs = repairs.filter_map(|entry| Some((repair_container(&entry, entry.repair.as_ref()?), entry)));
        let sent = stream::iter(stops.chain(repairs).collect::<Vec<_>>());
        let sent = sent.map(|(container, entry)| async move {
            // As for agents: one that was asleep with the first of them does not send the others.
            let answer = if self.is_too_late(begun) { Ok(None) } else { self.send(&entry, container).await };
            answer.map(|answer| (entry.uid, answer))
        });
        let answers: Vec<Result<(String, Option<String>), Error>> = sent.buffer_unordered(CONCURRENCY).collect().await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().filter_map(|(uid, words)| Some((uid, PodView::SentRefused(words?)))).collect())
    }

    /// Whether a round that began then does nothing any more.
    fn is_too_late(&self, begun: Timestamp) -> bool {
        steps::is_too_late(begun, (self.clock)())
    }

    /// Asks for each of the pods, and returns the least favourable answer. None where one of them is gone by now and none is refused: the next round asks for
    /// another of its kind.
    async fn preflight(&self, entries: Vec<PodStatus>) -> Result<Option<Preflight>, Error> {
        let answers = stream::iter(entries).map(|entry| async move {
            let answer = self.ask(&entry).await?;
            Ok(answer.map(|answer| match answer {
                Preflight::Refused(words) => Preflight::Refused(format!("pod {}: {words}", entry.name)),
                other => other,
            }))
        });
        let answers: Vec<Result<Option<Preflight>, Error>> = answers.buffer_unordered(CONCURRENCY).collect().await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let worst = answers.into_iter().max_by_key(|answer| match answer {
            Some(Preflight::Admitted) => 0,
            Some(Preflight::Unknown(_)) => 1,
            None => 2,
            Some(Preflight::Refused(_)) => 3,
        });
        Ok(worst.flatten())
    }
}

/// Whether writing the same object again will be refused again: also one that is too large for etcd, of which the API server says that it failed itself.
fn is_final(status: &kube::core::Status) -> bool {
    let is_client_error = (400..500).contains(&status.code) && status.code != 429;
    is_client_error || status.message.contains("request is too large") || status.message.contains("trying to send message larger than max")
}

/// What a refusal of a dry run means.
fn answer(words: String) -> Preflight {
    // Of an admission webhook with side effects: not a word about the real patch.
    if words.contains("does not support dry run") { Preflight::Unknown(words) } else { Preflight::Refused(words) }
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
    let mut course = Course::default();
    loop {
        let Some(_turn) = context.turns.take(object).await else { return Ok(Action::await_change()) };
        let _pass = context.health.pass();
        // Boxed: it is large, and all of those that wait for their turn have room for one.
        let done = tokio::time::timeout(PASS_TIMEOUT, Box::pin(pass(object, context, &mut course)));
        if let Some(action) = done.await.map_err(|_| Error::TimedOut)?? {
            context.backoff.succeeded(&object.uid().unwrap_or_default());
            return Ok(action);
        }
    }
}

/// What the next round of a pass has of those before it.
#[derive(Default)]
struct Course {
    rounds: usize,
    /// In whose words agents were refused, by the pods' uids.
    refused: BTreeMap<String, PodView>,
    preflight: Option<Preflight>,
    /// What went wrong with a patch.
    retry: Option<Error>,
}

/// Goes on with a pass to its end, or until agents were put in: others have their turn before it is looked at what became of these, so that
/// of many experiments that begin together none waits until others have been heard of.
async fn pass(object: &ChaosExperiment, context: &Context, course: &mut Course) -> Result<Option<Action>, Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api = Api::<Guarded<ChaosExperiment>>::namespaced(context.client.clone(), &namespace);
    let Course { rounds, refused, preflight, retry } = course;
    while *rounds < ROUNDS {
        *rounds += 1;
        let begun = (context.clock)();
        // Not from the watch's cache: a patch may follow only from the status that stands.
        let Some(Guarded(current)) = api.get_opt(&name).await.map_err(Error::api("reading the experiment"))? else {
            return Ok(Some(Action::await_change()));
        };
        let mut current = current.map_err(|unreadable| Error::Unreadable(unreadable.error))?;
        let uid = current.uid().unwrap_or_default();
        if let Some(status) = &mut current.status {
            // What is to be put in, and whether the kernel ends it, of an agent that has not told yet.
            context.fill_in((&namespace, &uid), status, |pod| pod.is_open() && pod.unguarded.is_none()).await?;
        }
        let experiment = Experiment {
            namespace: &namespace,
            uid: &uid,
            generation: current.metadata.generation.unwrap_or_default(),
            deleting: current.metadata.deletion_timestamp.is_some(),
            finalized: current.finalizers().iter().any(|name| name == FINALIZER),
            requested: current.annotations().get(RUN_REQUESTED_ANNOTATION).map(String::as_str),
            spec: &current.spec,
            status: current.status.as_ref(),
        };
        let now = (context.clock)();
        let settings = &context.settings_for(&current, now);
        let needs = machine::needs(&experiment, now, settings);
        let observed = observe::observe(&context.client, &experiment, &needs, settings, &context.heard, now).await;
        let mut observed = observed.map_err(Error::api("looking at pods"))?;
        // What was heard in one round is for the next one alone: after that it may be of another attempt.
        let (words, answer) = (mem::take(refused), preflight.take());
        if let Observed::Pods(seen) = &mut observed {
            context.note_heard(&seen.views);
            seen.views.extend(words);
            seen.preflight = answer;
        }
        let mut decision = machine::decide(&experiment, &observed, now, settings);
        log(&experiment, &name, &decision);
        let run = format!("{uid}/{}", current.status.as_ref().and_then(|status| status.run).unwrap_or_default());
        for step in steps::steps(&decision, current.status.as_ref(), retry.is_some()) {
            if step.acts() && context.is_too_late(begun) {
                debug!(%uid, ?step, "this was decided too long ago: deciding again");
                break;
            }
            match step {
                Step::Record => context.write_record(&current, decision.status.as_ref()).await?,
                Step::WriteStatus => {
                    let status = decision.status.clone().unwrap_or_default();
                    if let Written::Stale = context.write_status(&current, status.clone()).await? {
                        debug!(%uid, "the experiment changed meanwhile: deciding again");
                        break;
                    }
                    // What goes on is not to wait for what went wrong before it.
                    context.backoff.succeeded(&uid);
                    let target = current.spec.target_namespace(&namespace);
                    let recorded = Recorded { namespace: target, events: &decision.events, safety: decision.safety };
                    context.metrics.record(&recorded, current.status.as_ref(), &status, now);
                }
                Step::Publish => context.publisher.publish(&current.object_ref(&()), mem::take(&mut decision.events)).await,
                Step::GiveUp => return retry.take().map_or_else(|| Ok(Some(Action::await_change())), Err),
                Step::SetFinalizer(wanted) => context.set_finalizer(&current.metadata, wanted).await?,
                Step::Rest => return Ok(Some(decision.requeue.map_or_else(Action::await_change, Action::requeue))),
                Step::Ask => *preflight = context.preflight(mem::take(&mut decision.preflight)).await?,
                Step::SendAfter => {
                    let (stops, repairs) = (mem::take(&mut decision.stops), mem::take(&mut decision.repairs));
                    *refused = context.send_after(stops, repairs, begun).await?;
                }
                Step::Inject => {
                    let (words, error) = context.inject_all(mem::take(&mut decision.injections), &run, &current.spec, begun).await;
                    refused.extend(words);
                    *retry = error;
                    return Ok(None);
                }
            }
        }
    }
    Err(retry.take().unwrap_or(Error::Contended))
}

/// One line for each decision that changes something.
fn log(experiment: &Experiment<'_>, name: &str, decision: &Decision) {
    let Some(status) = decision.status.as_ref().or(experiment.status) else { return };
    let Experiment { namespace, uid, .. } = experiment;
    let run = status.run.unwrap_or_default();
    let (phase, says) = (status.phase.map_or_else(String::new, |phase| format!("{phase:?}")), status.message.as_deref());
    let (injections, look_again_in) = (decision.injections.len(), decision.requeue.map(|after| after.as_secs_f64()));
    match &decision.status {
        Some(_) => info!(namespace, name, uid, run, phase, says, injections, look_again_in, "decided: new status"),
        None if injections > 0 => info!(namespace, name, uid, run, phase, injections, look_again_in, "decided: injecting"),
        None => debug!(namespace, name, uid, run, phase, look_again_in, "decided: nothing to do"),
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

    /// Of pods that are alike one is asked for, and it may be gone just then: that is no answer for the others.
    #[tokio::test]
    async fn a_pod_that_is_gone_answers_for_no_other() {
        let client = testing::answering(|request| {
            let pod = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "p" }, "spec": { "containers": [] } });
            let failure = |code: u16| json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code });
            let path = request.uri().path();
            let (code, body) = if path.contains("/there/") {
                (200, pod)
            } else if path.contains("/refused/") {
                (403, failure(403))
            } else {
                (404, failure(404))
            };
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { response }.boxed()
        });
        let context = Context::new(client, settings(), Arc::new(|| at(0)), None);
        let answer = async |names: &[&str]| {
            let entries = names.iter().map(|name| PodStatus { name: (*name).to_owned(), ..entry() });
            context.preflight(entries.collect()).await.unwrap()
        };
        assert_eq!(answer(&["there"]).await, Some(Preflight::Admitted));
        assert_eq!(answer(&["gone"]).await, None);
        assert_eq!(answer(&["there", "gone"]).await, None);
        assert_eq!(answer(&["there", "gone", "refused"]).await, Some(Preflight::Refused("pod refused: no".to_owned())));
    }

    #[test]
    fn who_cannot_be_asked_does_not_refuse() {
        let words = "admission webhook \"policy.example.com\" does not support dry run".to_owned();
        assert_eq!(answer(words.clone()), Preflight::Unknown(words));
        assert!(matches!(answer("pods \"a\" is forbidden: violates PodSecurity".to_owned()), Preflight::Refused(_)));
    }
}
