//! An experiment on the API server: its object, its plans and its records.

use super::{Context, FIELD_MANAGER};
use crate::metrics::Recorded;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ObjectMeta, PartialObjectMeta},
};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentPlan, ChaosExperimentStatus, FINALIZER, PodStatus};
use netloss_cluster::{
    executor::{Error, Store, Written},
    guarded::Guarded,
    listing,
    observe::{self, CONCURRENCY},
};
use netloss_core::{
    container::image_to_send,
    history,
    machine::{self, AgentLog, Decision, EventRecord, Experiment, Needs, Observed, PodView, Settings},
    status_store,
};
use serde_json::json;
use std::collections::BTreeMap;
use tracing::warn;

/// Records of an experiment among which those of a pause are looked for.
const SUPERSEDED: u32 = 500;

/// Tries to have the API server make up a name that is free.
const NAME_TRIES: usize = 4;

/// One experiment, by its name.
pub(super) struct Stored<'a> {
    context: &'a Context,
    namespace: String,
    name: String,
}

impl<'a> Stored<'a> {
    pub(super) fn new(context: &'a Context, object: &ChaosExperiment) -> Self {
        Self { context, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl Store for Stored<'_> {
    async fn read(&mut self) -> Result<Option<ChaosExperiment>, Error> {
        let api = Api::<Guarded<ChaosExperiment>>::namespaced(self.context.client.clone(), &self.namespace);
        let Some(Guarded(object)) = api.get_opt(&self.name).await.map_err(Error::api("reading the experiment"))? else { return Ok(None) };
        let mut object = object.map_err(|unreadable| Error::Unreadable(unreadable.error))?;
        let uid = object.uid().unwrap_or_default();
        if let Some(status) = &mut object.status {
            // What is to be put in, and whether the kernel ends it, of an agent that has not told yet.
            self.context.hydrate((&self.namespace, &uid), status, |pod| pod.is_open() && pod.unguarded.is_none()).await?;
        }
        Ok(Some(object))
    }

    fn settings(&self, object: &ChaosExperiment, now: Timestamp) -> Settings {
        self.context.settings_for(object, now)
    }

    async fn observe(
        &mut self,
        experiment: &Experiment<'_>,
        needs: &Needs,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Observed, Error> {
        let observed = observe::observe(&self.context.client, experiment, needs, settings, &self.context.heard, now).await;
        let observed = observed.map_err(Error::api("looking at pods"))?;
        if let Observed::Pods(seen) = &observed {
            self.context.note_heard(&seen.views);
        }
        Ok(observed)
    }

    async fn image(&self, entry: &PodStatus) -> Result<String, Error> {
        Ok(image_to_send(&entry.image, &self.context.settings.agent_image).to_owned())
    }

    async fn write_record(&mut self, object: &ChaosExperiment, status: &ChaosExperimentStatus) -> Result<(), Error> {
        self.context.write_record(object, status).await
    }

    async fn write_status(&mut self, object: &ChaosExperiment, decision: &Decision, now: Timestamp) -> Result<Written, Error> {
        let status = decision.status.clone().unwrap_or_default();
        let written = self.context.write_status(object, status.clone()).await?;
        if written == Written::Done {
            // What goes on is not to wait for what went wrong before it.
            self.context.backoff.succeeded(&object.uid().unwrap_or_default());
            let namespace = object.spec.target_namespace(&self.namespace);
            let recorded = Recorded { namespace, events: &decision.events, refusal: decision.refusal };
            self.context.metrics.record(&recorded, object.status.as_ref(), &status, now);
        }
        Ok(written)
    }

    async fn publish(&mut self, object: &ChaosExperiment, events: Vec<EventRecord>) {
        self.context.publisher.publish(&object.object_ref(&()), events).await;
    }

    async fn set_finalizer(&mut self, object: &ChaosExperiment, wanted: bool) -> Result<(), Error> {
        self.context.set_finalizer(&object.metadata, wanted).await
    }
}

impl Context {
    /// Writes the record of a run that is over or paused, before its status says so: a crash in between leaves a record that is found there.
    async fn write_record(&self, object: &ChaosExperiment, status: &ChaosExperimentStatus) -> Result<(), Error> {
        let mut run = status.clone();
        let namespace = object.namespace().unwrap_or_default();
        self.hydrate((&namespace, &object.uid().unwrap_or_default()), &mut run, |_| true).await?;
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

    /// Reads what a status leaves to records, for those of its pods. What is in no record any more stays absent.
    async fn hydrate(
        &self,
        (namespace, uid): (&str, &str),
        status: &mut ChaosExperimentStatus,
        wanted: impl Fn(&PodStatus) -> bool,
    ) -> Result<(), Error> {
        let plans = stream::iter(status_store::missing(uid, status, wanted)).map(|name| async move {
            let plan = listing::named::<ChaosExperimentPlan>(&self.client, namespace, &name).await;
            plan.map_err(Error::api(format!("reading ChaosExperimentPlan {name}")))
        });
        let plans: Vec<Option<Guarded<ChaosExperimentPlan>>> = plans.buffer_unordered(CONCURRENCY).try_collect().await?;
        for plan in plans.into_iter().flatten().filter_map(|Guarded(plan)| plan.ok()) {
            status_store::hydrate(status, &plan);
        }
        Ok(())
    }

    async fn write_status(&self, object: &ChaosExperiment, status: ChaosExperimentStatus) -> Result<Written, Error> {
        let namespace = object.namespace().unwrap_or_default();
        let api = Api::<Guarded<ChaosExperiment>>::namespaced(self.client.clone(), &namespace);
        let plans = Api::<ChaosExperimentPlan>::namespaced(self.client.clone(), &namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let (mut status, records) = status_store::split(object, status);
        for record in records {
            self.write_plan(object, &plans, record, &mut status).await?;
        }
        let unused = status_store::unused(&object.uid().unwrap_or_default(), object.status.as_ref(), &status);
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
                        status_store::rename(status, &name, &written);
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
        Ok(there.is_some_and(|Guarded(there)| there.is_ok_and(|there| status_store::is_same(&there, plan))))
    }

    /// Adds our finalizer to the experiment, or takes it away. The patch names the version that this was decided from, and nothing of
    /// the spec.
    pub(super) async fn set_finalizer(&self, object: &ObjectMeta, wanted: bool) -> Result<(), Error> {
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

    /// What agents have said lately is for metrics alone.
    fn note_heard(&self, views: &BTreeMap<String, PodView>) {
        for (uid, view) in views {
            if let PodView::Present { agent: Some(agent), .. } = view
                && let AgentLog::Heartbeat(Some(live)) = &agent.log
            {
                self.metrics.heard(uid, (**live).clone());
            }
        }
    }
}

/// Whether writing the same object again will be refused again: also one that is too large for etcd, of which the API server says that it failed itself.
fn is_final(status: &kube::core::Status) -> bool {
    let is_client_error = (400..500).contains(&status.code) && status.code != 429;
    is_client_error || status.message.contains("request is too large") || status.message.contains("trying to send message larger than max")
}
