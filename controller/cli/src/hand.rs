//! The controller's own state machine, driven from here: with the user's rights, and a status that is kept in memory.
//!
//! For one pod without any controller, and for stopping what the controller left when it is down. Names and arguments of containers are
//! those that the controller would give, so that one that comes back finds its own.

use super::{
    connect::Cluster,
    error::{Error, is_forbidden, is_missing},
    run::FIELD_MANAGER,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, EphemeralContainer, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, PodStatus};
use netloss_cluster::{guarded::Guarded, observe};
use netloss_core::{
    container::{agent_container, image_to_send, patch, repair_container, stop_container},
    machine::{self, Decision, Experiment, Needs, Observed, PodView, Pods, Preflight, Protection, Settings, Surroundings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Between looks: somebody is waiting.
const LOOK: Duration = Duration::from_secs(1);
/// The ConfigMap that names the agent's image, as config/manager has it.
const AGENT: &str = "netloss-agent";

/// A run that is driven from here.
pub(super) struct Hand<'a> {
    cluster: &'a Cluster,
    settings: Settings,
    /// The agent's image where it is known from a source that can be trusted more than a status.
    image: Option<String>,
    object: ChaosExperiment,
    /// Where it begins, until it has.
    surroundings: Surroundings,
    deleting: bool,
    refused: BTreeMap<String, PodView>,
    /// Uids of the pods in which something was seen that stops the agent.
    told: BTreeSet<String>,
    preflight: Option<Preflight>,
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

impl<'a> Hand<'a> {
    /// A run that begins.
    pub(super) fn begin(cluster: &'a Cluster, image: String, object: ChaosExperiment, surroundings: Surroundings) -> Self {
        let settings = Settings::new(image.clone(), &cluster.own_namespace);
        Self { settings, surroundings, ..Self::new(cluster, Some(image), object, false) }
    }

    /// A run that is to be stopped.
    pub(super) fn stop(cluster: &'a Cluster, image: Option<String>, object: ChaosExperiment) -> Self {
        Self::new(cluster, image, object, true)
    }

    fn new(cluster: &'a Cluster, image: Option<String>, object: ChaosExperiment, deleting: bool) -> Self {
        // Nothing is put in anew while it is stopped: whose image an entry has says nothing about its end.
        let planned = object.status.iter().flat_map(|status| &status.pods).next().map(|pod| pod.image.clone()).unwrap_or_default();
        let settings = Settings::new(planned, &cluster.own_namespace);
        let (surroundings, refused, told, preflight) = (Surroundings::default(), BTreeMap::new(), BTreeSet::new(), None);
        Self { cluster, settings, image, object, surroundings, deleting, refused, told, preflight }
    }

    /// From now on it is stopped.
    pub(super) fn set_stopping(&mut self) {
        self.deleting = true;
    }

    /// As it stands.
    pub(super) fn object(&self) -> &ChaosExperiment {
        &self.object
    }

    /// Whether nothing is under way any more, after it had begun.
    pub(super) fn is_over(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| !status.is_under_way())
    }

    /// Whether something that stops the agent is in each pod in which one is under way.
    fn is_told(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.open_pods().all(|entry| self.told.contains(&entry.uid)))
    }

    /// When its last agent ends by itself, once one is planned.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.object.status.iter().flat_map(ChaosExperimentStatus::open_pods).map(|entry| entry.deadline.0).max()
    }

    /// One round of looking, deciding and doing. Returns how long the next one can wait.
    pub(super) async fn step(&mut self, now: Timestamp) -> Result<Duration, Error> {
        let decision = self.decide(now).await?;
        let has_changed = decision.status.is_some();
        let acts = self.carry_out(decision).await?;
        Ok(if has_changed || acts { Duration::ZERO } else { LOOK })
    }

    /// What its status would be after one round. Nothing is done.
    pub(super) async fn foresee(&mut self, now: Timestamp) -> Result<ChaosExperimentStatus, Error> {
        let decision = self.decide(now).await?;
        Ok(decision.status.or_else(|| self.object.status.clone()).unwrap_or_default())
    }

    async fn decide(&mut self, now: Timestamp) -> Result<Decision, Error> {
        let namespace = self.object.namespace().unwrap_or_default();
        let uid = self.object.uid().unwrap_or_default();
        let generation = self.object.metadata.generation.unwrap_or(1);
        let experiment = Experiment {
            namespace: &namespace,
            uid: &uid,
            generation,
            deleting: self.deleting,
            // There is no object whose going would have to be held up.
            finalized: true,
            requested: None,
            spec: &self.object.spec,
            status: self.object.status.as_ref(),
        };
        let observed = match machine::needs(&experiment, now, &self.settings) {
            Needs::Nothing => Observed::Nothing,
            Needs::Surroundings { .. } => Observed::Surroundings(self.surroundings.clone()),
            Needs::Pods { .. } => {
                let mut views = self.views(&uid, now).await?;
                let has_stop = |view: &PodView| matches!(view, PodView::Present { agent: Some(agent), .. } if agent.stop.is_some());
                self.told.extend(views.iter().filter(|(_, view)| has_stop(view)).map(|(uid, _)| uid.clone()));
                views.extend(std::mem::take(&mut self.refused));
                // Seen a moment ago, with the rights of the same person.
                let protection = Some(Protection::of(self.surroundings.namespace.clone(), &self.surroundings.pods));
                Observed::Pods(Pods { views, ready: None, freeze: None, protection, preflight: self.preflight.take() })
            }
        };
        Ok(machine::decide(&experiment, &observed, now, &self.settings))
    }

    async fn views(&self, uid: &str, now: Timestamp) -> Result<BTreeMap<String, PodView>, Error> {
        let Some(status) = &self.object.status else { return Ok(BTreeMap::new()) };
        let run = format!("{uid}/{}", status.run.unwrap_or_default());
        let lookup = observe::Lookup { run: &run, spec: &self.object.spec, now };
        let mut views = BTreeMap::new();
        for entry in status.open_pods() {
            let what = format!("looking at pod {}", entry.display_name());
            views.insert(entry.uid.clone(), observe::view(&self.cluster.client, entry, lookup).await.map_err(Error::api(what))?);
        }
        Ok(views)
    }

    /// Does what was decided. Whether there was anything to do.
    async fn carry_out(&mut self, decision: Decision) -> Result<bool, Error> {
        let Decision { status, preflight, injections, stops, repairs, .. } = decision;
        if let Some(status) = status {
            self.object.status = Some(status);
        }
        let acts = !(preflight.is_empty() && injections.is_empty() && stops.is_empty() && repairs.is_empty());
        for entry in preflight {
            let answer = self.send(&entry, &agent_container(&entry), true).await?;
            let refused = answer.map(|words| Preflight::Refused(format!("pod {}: {words}", entry.name)));
            self.preflight = Some(refused.or(self.preflight.take()).unwrap_or(Preflight::Admitted));
        }
        for entry in injections {
            if let Some(words) = self.send(&entry, &agent_container(&entry), false).await? {
                self.refused.insert(entry.uid, PodView::Refused(words));
            }
        }
        for entry in stops {
            let entry = self.with_image(entry).await?;
            let Some(stop) = &entry.stop else { continue };
            self.send_after(&entry, &stop_container(&entry, stop)).await?;
        }
        for entry in repairs {
            let entry = self.with_image(entry).await?;
            let Some(repair) = &entry.repair else { continue };
            self.send_after(&entry, &repair_container(&entry, repair)).await?;
        }
        Ok(acts)
    }

    async fn send_after(&mut self, entry: &PodStatus, container: &EphemeralContainer) -> Result<(), Error> {
        if let Some(words) = self.send(entry, container, false).await? {
            self.refused.insert(entry.uid.clone(), PodView::SentRefused(words));
        }
        Ok(())
    }

    /// With an image that runs in that pod anyway, or that the cluster's configuration names: a status may be written by others.
    async fn with_image(&self, entry: PodStatus) -> Result<PodStatus, Error> {
        if let Some(ours) = &self.image {
            let image = image_to_send(&entry.image, ours).to_owned();
            return Ok(PodStatus { image, ..entry });
        }
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), &entry.namespace);
        let pod = pods.get(&entry.name).await.map_err(Error::api(format!("reading pod {}", entry.display_name())))?;
        let mut containers = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let agent = containers.find(|container| container.name == entry.container);
        let image = agent.and_then(|container| container.image.clone()).unwrap_or_default();
        Ok(PodStatus { image, ..entry })
    }

    /// Puts a container into a pod, or asks whether it could be. `Some` are the words of a refusal.
    async fn send(&self, entry: &PodStatus, container: &EphemeralContainer, dry_run: bool) -> Result<Option<String>, Error> {
        send(self.cluster, entry, container, dry_run).await
    }
}

/// Puts a container into a pod, or asks whether it could be. `Some` are the words of a refusal.
pub(super) async fn send(
    cluster: &Cluster,
    entry: &PodStatus,
    container: &EphemeralContainer,
    dry_run: bool,
) -> Result<Option<String>, Error> {
    let pods = Api::<Guarded<Pod>>::namespaced(cluster.client.clone(), &entry.namespace);
    let params = PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let what = format!("adding container {} to pod {}", container.name, entry.display_name());
    match pods.patch_subresource("ephemeralcontainers", &entry.name, &params, &Patch::Strategic(patch(entry, container))).await {
        // It is gone or another, which the next look will show.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Some(status.message)),
        answer => answer.map(|_| None).map_err(Error::api(what)),
    }
}

/// Drives it until nothing is under way, for so long at most.
pub(super) async fn to_the_end(hand: &mut Hand<'_>, limit: Duration) -> Result<ChaosExperimentStatus, Error> {
    until(hand, limit, Hand::is_over).await
}

/// Drives it until each agent that is under way was told to stop, for so long at most.
pub(super) async fn until_told(hand: &mut Hand<'_>, limit: Duration) -> Result<ChaosExperimentStatus, Error> {
    until(hand, limit, Hand::is_told).await
}

/// A request that comes to nothing is no reason to leave an agent alone: it is made again.
async fn until<'a>(hand: &mut Hand<'a>, limit: Duration, is_reached: fn(&Hand<'a>) -> bool) -> Result<ChaosExperimentStatus, Error> {
    let end = tokio::time::Instant::now() + limit;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while !is_reached(hand) {
        let (wait, unanswered) = match hand.step(Timestamp::now()).await {
            Ok(wait) => (wait, None),
            Err(Error::Unanswered(words)) => (LOOK, Some(words)),
            Err(error) => return Err(error),
        };
        let name = hand.object().name_any();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tokio::time::sleep_until(end) => {
                let message = || hand.object().status.as_ref().and_then(|status| status.message.clone());
                let trouble = unanswered.or_else(message).unwrap_or_default();
                return Err(Error::TimedOut(format!("{name}: the agents have not ended after {} s: {trouble}", limit.as_secs())));
            }
            _ = &mut interrupt => return Err(Error::Interrupted(format!("{name}: its loss ends at its time in any case"))),
        }
    }
    Ok(hand.object().status.clone().unwrap_or_default())
}
