//! The one place that does what was decided.
//!
//! Each round reads the experiment, looks at what is needed, decides, writes the status with the version that it was read with, and
//! only then patches pods and tells. A crash between any two steps leaves what the next round starts from.

use crate::{
    api::{ChaosExperiment, ChaosExperimentStatus, PodStatus},
    backoff::Backoff,
    container::{agent_container, patch, stop_container},
    machine::{self, Decision, Experiment, Observed, PodView, Settings},
    observe::{self, CONCURRENCY},
    publish::Publisher,
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tracing::{debug, info, warn};

/// Who writes, in managedFields.
const FIELD_MANAGER: &str = "netloss-controller";

/// Rounds of one pass: planning, patching and adopting are three; the others are for objects that changed meanwhile.
const ROUNDS: usize = 8;

/// The longest that one pass may take. Being cut off is like a crash, which every step allows for.
const PASS_TIMEOUT: Duration = Duration::from_mins(2);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a pass works with.
pub struct Context {
    client: Client,
    settings: Settings,
    clock: Clock,
    publisher: Publisher,
    backoff: Backoff,
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
    /// The pass took too long.
    #[error("the pass took longer than {PASS_TIMEOUT:?}: trying again later")]
    TimedOut,
}

impl Error {
    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }
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
        Self { client, settings, clock, publisher, backoff: Backoff::default() }
    }

    /// How long to wait after a pass that failed.
    pub(crate) fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    async fn write_status(&self, object: &ChaosExperiment, status: ChaosExperimentStatus) -> kube::Result<()> {
        let api = Api::<ChaosExperiment>::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let object = ChaosExperiment { status: Some(status), ..object.clone() };
        api.replace_status(&object.name_any(), &params, &object).await.map(drop)
    }

    /// Puts what stops the agent into one pod. What is refused now is tried again as long as the agent works.
    async fn stop(&self, entry: &PodStatus) -> Result<(), Error> {
        let Some(stop) = &entry.stop else { return Ok(()) };
        let api = Api::<Pod>::namespaced(self.client.clone(), &entry.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("adding container {} to pod {}", stop.container, entry.display_name());
        let container = stop_container(entry, stop);
        match api.patch_ephemeral_containers(&entry.name, &params, &Patch::Strategic(patch(entry, &container))).await {
            // The pod is gone, which the next look will show.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(drop).map_err(Error::api(what)),
        }
    }

    /// Puts the agent into one pod.
    async fn inject(&self, entry: &PodStatus, run: &str) -> Injected {
        let api = Api::<Pod>::namespaced(self.client.clone(), &entry.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = || format!("adding container {} to pod {}", entry.container, entry.display_name());
        match api.patch_ephemeral_containers(&entry.name, &params, &Patch::Strategic(patch(entry, &agent_container(entry)))).await {
            Ok(_) => Injected::LookAgain,
            Err(kube::Error::Api(status)) if status.code == 404 => Injected::LookAgain,
            // Refused: for what the pod has become meanwhile, which a look will show, or for good.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                match observe::view(&self.client, entry, run).await {
                    Ok(PodView::Present { agent: None, .. }) => Injected::Refused(status.message),
                    Ok(_) => Injected::LookAgain,
                    Err(error) => Injected::Retry(Error::api(what())(error)),
                }
            }
            Err(error) => Injected::Retry(Error::api(what())(error)),
        }
    }
}

/// One pass over an experiment: everything that can be done about it now.
///
/// # Errors
/// When something has to be tried again.
pub async fn reconcile(object: Arc<ChaosExperiment>, context: Arc<Context>) -> Result<Action, Error> {
    // Before anything else, so that nothing at all happens to what is not ours.
    if !object.spec.action.is_served() {
        return Ok(Action::await_change());
    }
    match tokio::time::timeout(PASS_TIMEOUT, pass(&object, &context)).await {
        Ok(result) => result.inspect(|_| context.backoff.succeeded(&object.uid().unwrap_or_default())),
        Err(_) => Err(Error::TimedOut),
    }
}

async fn pass(object: &ChaosExperiment, context: &Context) -> Result<Action, Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api = Api::<ChaosExperiment>::namespaced(context.client.clone(), &namespace);
    let mut refused = BTreeMap::new();
    let mut retry = None;
    for _ in 0..ROUNDS {
        // Not from the watch's cache: a patch may follow only from the status that stands.
        let Some(current) = api.get_opt(&name).await.map_err(Error::api("reading the experiment"))? else {
            return Ok(Action::await_change());
        };
        let uid = current.uid().unwrap_or_default();
        let experiment = Experiment {
            namespace: &namespace,
            uid: &uid,
            generation: current.metadata.generation.unwrap_or_default(),
            deleting: current.metadata.deletion_timestamp.is_some(),
            spec: &current.spec,
            status: current.status.as_ref(),
        };
        let needs = machine::needs(&experiment, &context.settings);
        let mut observed = observe::observe(&context.client, &experiment, &needs).await.map_err(Error::api("looking at pods"))?;
        if let Observed::Pods(views) = &mut observed {
            views.extend(std::mem::take(&mut refused));
        }
        let decision = machine::decide(&experiment, &observed, (context.clock)(), &context.settings);
        log(&experiment, &name, &decision);
        let Decision { status, injections, stops, events, requeue } = decision;
        let number = |status: Option<&ChaosExperimentStatus>| status.and_then(|status| status.run).unwrap_or_default();
        let stops_of =
            |status: Option<&ChaosExperimentStatus>| status.map_or(0, |status| status.pods.iter().filter(|pod| pod.stop.is_some()).count());
        let wrote_stop = status.as_ref().is_some_and(|status| stops_of(Some(status)) > stops_of(experiment.status));
        let planned = status.as_ref().is_some_and(|status| number(Some(status)) != number(experiment.status));
        let run = format!("{uid}/{}", number(experiment.status));
        if let Some(status) = status {
            match context.write_status(&current, status).await {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    debug!(%uid, "the experiment changed meanwhile: deciding again");
                    continue;
                }
                Err(error) => return Err(Error::api("writing the status")(error)),
            }
        }
        context.publisher.publish(&current, events).await;
        if let Some(error) = retry.take() {
            return Err(error);
        }
        let stopped = stream::iter(stops).map(|entry| async move { context.stop(&entry).await });
        let stopped: Vec<Result<(), Error>> = stopped.buffer_unordered(CONCURRENCY).collect().await;
        let acted = !stopped.is_empty() || wrote_stop;
        stopped.into_iter().collect::<Result<(), Error>>()?;
        if injections.is_empty() && !planned && !acted {
            return Ok(requeue.map_or_else(Action::await_change, Action::requeue));
        }
        let outcomes = stream::iter(injections).map(|entry| {
            let run = &run;
            async move {
                let outcome = context.inject(&entry, run).await;
                (entry.uid, outcome)
            }
        });
        let mut outcomes = outcomes.buffer_unordered(CONCURRENCY);
        while let Some((uid, outcome)) = outcomes.next().await {
            match outcome {
                Injected::LookAgain => {}
                Injected::Refused(words) => drop(refused.insert(uid, PodView::Refused(words))),
                Injected::Retry(error) => retry = Some(error),
            }
        }
    }
    Err(retry.unwrap_or(Error::Contended))
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
    warn!(uid, error = %error, retry_in = after.as_secs_f64(), "the pass failed");
    Action::requeue(after)
}
