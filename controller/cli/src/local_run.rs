//! A run that is driven from here, by the executor that the controller has: with the user's rights, and a status that is kept in memory.
//!
//! For one pod without any controller, and for stopping what the controller left when it is down. Names and arguments of containers are
//! those that the controller would give, so that one that comes back finds its own.

use super::{
    connect::Cluster,
    connect::FIELD_MANAGER,
    error::{Error, is_forbidden, is_missing},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, EphemeralContainer, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, FINALIZER, PodStatus};
use netloss_cluster::{
    clock::Clock,
    executor::{self, Executor, Progress, ReconcileState, Store, Written},
    observe::{self, Lookup},
};
use netloss_core::{
    container::image_to_send,
    ephemeral,
    machine::{Decision, EventRecord, Experiment, Needs, Observed, PodView, Pods, Preconditions, Protection, Settings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Between looks: somebody is waiting.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The ConfigMap that names the agent's image, as config/manager has it.
const AGENT: &str = "netloss-agent";

/// A run that is driven from here.
pub(super) struct LocalRun {
    client: Client,
    clock: Clock,
    settings: Settings,
    /// The agent's image where it is known from a source that can be trusted more than a status.
    image: Option<String>,
    object: ChaosExperiment,
    /// Where it begins, until it has.
    preconditions: Preconditions,
    /// Since when it is stopped.
    stopping: Option<Timestamp>,
    /// Whether nothing is left to do for it.
    is_gone: bool,
    /// Uids of the pods in which something was seen that stops the agent.
    told: BTreeSet<String>,
}

/// The agent's image: what the user says, or what the cluster's configuration names.
pub(super) async fn agent_image(cluster: &Cluster, given: Option<&str>) -> Result<Option<String>, Error> {
    if let Some(image) = given {
        return Ok(Some(image.to_owned()));
    }
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &cluster.own_namespace);
    match maps.get_opt(AGENT).await {
        Ok(map) => Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove("image")).filter(|image| !image.is_empty())),
        Err(error) if is_forbidden(&error) || is_missing(&error) => Ok(None),
        Err(error) => Err(Error::api(format!("reading ConfigMap {}/{AGENT}", cluster.own_namespace))(error)),
    }
}

impl LocalRun {
    /// A run that begins.
    pub(super) fn begin(cluster: &Cluster, image: String, object: ChaosExperiment, preconditions: Preconditions) -> Self {
        let settings = Settings::new(image.clone(), &cluster.own_namespace);
        Self { settings, preconditions, ..Self::new(cluster, Some(image), object) }
    }

    /// A run that is to be stopped.
    pub(super) fn stop(cluster: &Cluster, image: Option<String>, object: ChaosExperiment) -> Self {
        let mut local_run = Self::new(cluster, image, object);
        local_run.set_stopping();
        local_run
    }

    fn new(cluster: &Cluster, image: Option<String>, object: ChaosExperiment) -> Self {
        // Nothing is put in anew while it is stopped: whose image an entry has says nothing about its end.
        let planned = object.status.iter().flat_map(|status| &status.pods).next().map(|pod| pod.image.clone()).unwrap_or_default();
        let settings = Settings::new(planned, &cluster.own_namespace);
        let (client, clock) = (cluster.client.clone(), Arc::new(Timestamp::now));
        let (preconditions, told) = (Preconditions::default(), BTreeSet::new());
        Self { client, clock, settings, image, object, preconditions, stopping: None, is_gone: false, told }
    }

    /// From now on it is stopped.
    pub(super) fn set_stopping(&mut self) {
        self.stopping.get_or_insert_with(Timestamp::now);
    }

    /// As it stands.
    pub(super) fn object(&self) -> &ChaosExperiment {
        &self.object
    }

    /// Whether nothing is under way any more, after it had begun, or nothing will be.
    pub(super) fn is_over(&self) -> bool {
        self.is_gone || self.object.status.as_ref().is_some_and(|status| !status.is_active())
    }

    /// Whether something that stops the agent is in each pod in which one is under way.
    fn is_told(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.open_pods().all(|entry| self.told.contains(&entry.uid)))
    }

    /// When its last agent ends by itself, once one is planned.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.object.status.iter().flat_map(ChaosExperimentStatus::open_pods).map(|entry| entry.deadline.0).max()
    }

    /// Looks, decides and does, until there is nothing more to do now; the next look is due after [`LOOK`].
    pub(super) async fn step(&mut self) -> Result<(), Error> {
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        let executor = Executor { client: &client, field_manager: FIELD_MANAGER, clock: &clock };
        let mut state = ReconcileState::default();
        while executor.advance(self, &mut state).await? == Progress::Injected {}
        Ok(())
    }

    /// What its status would be after one round. Nothing is done.
    pub(super) async fn foresee(&mut self) -> Result<ChaosExperimentStatus, Error> {
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        let executor = Executor { client: &client, field_manager: FIELD_MANAGER, clock: &clock };
        let foreseen = executor.decide(self, &mut ReconcileState::default()).await?.and_then(|round| round.decision.status);
        Ok(foreseen.or_else(|| self.object.status.clone()).unwrap_or_default())
    }

    async fn views(&self, experiment: &Experiment<'_>, now: Timestamp) -> Result<BTreeMap<String, PodView>, executor::Error> {
        let Some(status) = experiment.status else { return Ok(BTreeMap::new()) };
        let run = format!("{}/{}", experiment.uid, status.run.unwrap_or_default());
        let lookup = Lookup { run: &run, spec: experiment.spec, now };
        let mut views = BTreeMap::new();
        for entry in status.open_pods() {
            let view = observe::view(&self.client, entry, lookup).await;
            views.insert(entry.uid.clone(), view.map_err(executor::Error::api(format!("looking at pod {}", entry.display_name())))?);
        }
        Ok(views)
    }
}

/// In memory: its status is nobody's but ours, and it tells and records nothing.
impl Store for LocalRun {
    async fn read(&mut self) -> Result<Option<ChaosExperiment>, executor::Error> {
        let mut object = self.object.clone();
        // As long as something is to be done it is held, as the controller's finalizer holds it.
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object.metadata.deletion_timestamp = self.stopping.map(Time);
        object.metadata.generation = object.metadata.generation.or(Some(1));
        // That a run was requested is for the controller.
        object.metadata.annotations = None;
        Ok(Some(object).filter(|_| !self.is_gone))
    }

    fn settings(&self, _: &ChaosExperiment, _: Timestamp) -> Settings {
        self.settings.clone()
    }

    async fn observe(
        &mut self,
        experiment: &Experiment<'_>,
        needs: &Needs,
        _: &Settings,
        now: Timestamp,
    ) -> Result<Observed, executor::Error> {
        Ok(match needs {
            Needs::Nothing => Observed::Nothing,
            Needs::Preconditions { .. } => Observed::Preconditions(self.preconditions.clone()),
            Needs::Pods { .. } => {
                let views = self.views(experiment, now).await?;
                let has_stop = |view: &PodView| matches!(view, PodView::Present { agent: Some(agent), .. } if agent.stop.is_some());
                self.told.extend(views.iter().filter(|(_, view)| has_stop(view)).map(|(uid, _)| uid.clone()));
                // Seen a moment ago, with the rights of the same person.
                let protection = Some(Protection::of(self.preconditions.namespace.clone(), &self.preconditions.pods));
                Observed::Pods(Pods { views, ready: None, freeze: None, protection, preflight: None })
            }
        })
    }

    /// One that runs in that pod anyway, or that the cluster's configuration names.
    async fn image(&self, entry: &PodStatus) -> Result<String, executor::Error> {
        if let Some(ours) = &self.image {
            return Ok(image_to_send(&entry.image, ours).to_owned());
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &entry.namespace);
        let pod = pods.get(&entry.name).await.map_err(executor::Error::api(format!("reading pod {}", entry.display_name())))?;
        Ok(ephemeral::container(&pod, &entry.container).and_then(|agent| agent.image.clone()).unwrap_or_default())
    }

    async fn write_record(&mut self, _: &ChaosExperiment, _: &ChaosExperimentStatus) -> Result<(), executor::Error> {
        Ok(())
    }

    async fn write_status(&mut self, _: &ChaosExperiment, decision: &Decision, _: Timestamp) -> Result<Written, executor::Error> {
        self.object.status.clone_from(&decision.status);
        Ok(Written::Done)
    }

    async fn publish(&mut self, _: &ChaosExperiment, _: Vec<EventRecord>) {}

    async fn set_finalizer(&mut self, _: &ChaosExperiment, wanted: bool) -> Result<(), executor::Error> {
        self.is_gone = !wanted;
        Ok(())
    }
}

/// Puts a container into a pod. `Some` are the words of a refusal.
pub(super) async fn send(cluster: &Cluster, entry: &PodStatus, container: &EphemeralContainer) -> Result<Option<String>, Error> {
    let clock: Clock = Arc::new(Timestamp::now);
    Ok(Executor { client: &cluster.client, field_manager: FIELD_MANAGER, clock: &clock }.send(entry, container).await?)
}

/// Drives it until nothing is under way, for so long at most.
pub(super) async fn to_the_end(local_run: &mut LocalRun, limit: Duration) -> Result<ChaosExperimentStatus, Error> {
    until(local_run, limit, LocalRun::is_over).await
}

/// Drives it until each agent that is under way was told to stop, for so long at most.
pub(super) async fn until_told(local_run: &mut LocalRun, limit: Duration) -> Result<ChaosExperimentStatus, Error> {
    until(local_run, limit, LocalRun::is_told).await
}

/// A request that comes to nothing is no reason to leave an agent alone: it is made again.
async fn until(local_run: &mut LocalRun, limit: Duration, is_reached: fn(&LocalRun) -> bool) -> Result<ChaosExperimentStatus, Error> {
    let end = tokio::time::Instant::now() + limit;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while !is_reached(local_run) {
        let unanswered = match local_run.step().await {
            Ok(()) if is_reached(local_run) => break,
            Ok(()) => None,
            Err(Error::Unanswered(words)) => Some(words),
            Err(error) => return Err(error),
        };
        let name = local_run.object().name_any();
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = tokio::time::sleep_until(end) => {
                let message = || local_run.object().status.as_ref().and_then(|status| status.message.clone());
                let trouble = unanswered.or_else(message).unwrap_or_default();
                return Err(Error::TimedOut(format!("{name}: the agents have not ended after {} s: {trouble}", limit.as_secs())));
            }
            _ = &mut interrupt => return Err(Error::Interrupted(format!("{name}: its loss ends at its time in any case"))),
        }
    }
    Ok(local_run.object().status.clone().unwrap_or_default())
}
