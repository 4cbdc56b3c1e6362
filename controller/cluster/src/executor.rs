//! The one place that does what was decided: for the controller, for draining, and for `kubectl netloss` where no controller runs.
//!
//! Each round reads the experiment, looks at what is needed, decides, writes the status with the version that it was read with, and only then patches pods
//! ([`netloss_core::steps`] has the order). A crash between any two steps leaves what the next round starts from.

use crate::{
    clock::Clock,
    guarded::Guarded,
    observe::{self, CONCURRENCY, Lookup},
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use netloss_api::{
    ChaosExperiment, ChaosExperimentSpec, ChaosExperimentStatus, FINALIZER, PodStatus, RUN_REQUESTED_ANNOTATION, SentContainer,
};
use netloss_core::{
    container::{agent_container, patch, repair_container, stop_container},
    machine::{self, Decision, EventRecord, Experiment, Needs, Observed, PodView, Preflight, Settings},
    steps::{self, Step},
};
use std::{collections::BTreeMap, mem, time::Duration};
use tracing::{debug, info};

/// Rounds of one pass: planning, the finalizer, asking, writing down the answer, patching and adopting are six; the others are for objects that changed meanwhile.
const ROUNDS: usize = 12;

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
    #[error("the pass took longer than {0:?}: trying again later")]
    TimedOut(Duration),
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
            Self::TimedOut(_) => "timeout",
        }
    }

    /// An answer of the API server to an attempt such as "writing the status".
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }
}

/// What came of writing a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// The object had changed.
    Stale,
}

/// Where an experiment is kept, and what is known around it: on an API server, or in memory where a person drives a run.
pub trait Store: Send {
    /// The experiment as it stands; none where there is nothing left of it. Not from a cache: a patch may follow only from the status that stands.
    fn read(&mut self) -> impl Future<Output = Result<Option<ChaosExperiment>, Error>> + Send;

    /// What its decisions are made with.
    fn settings(&self, object: &ChaosExperiment, now: Timestamp) -> Settings;

    /// Looks at what is needed for a decision.
    fn observe(
        &mut self,
        experiment: &Experiment<'_>,
        needs: &Needs,
        settings: &Settings,
        now: Timestamp,
    ) -> impl Future<Output = Result<Observed, Error>> + Send;

    /// The image for what is sent after the agent of this pod: a status may have been written by others.
    fn image(&self, entry: &PodStatus) -> impl Future<Output = Result<String, Error>> + Send;

    /// Writes the record of a run that is over or paused.
    fn write_record(&mut self, object: &ChaosExperiment, status: &ChaosExperimentStatus) -> impl Future<Output = Result<(), Error>> + Send;

    /// Writes the decision's status over that of `object`, if that has not changed since.
    fn write_status(
        &mut self,
        object: &ChaosExperiment,
        decision: &Decision,
        now: Timestamp,
    ) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Tells what was written down.
    fn publish(&mut self, object: &ChaosExperiment, events: Vec<EventRecord>) -> impl Future<Output = ()> + Send;

    /// Gives the experiment our finalizer, or takes it away, if it has not changed since.
    fn set_finalizer(&mut self, object: &ChaosExperiment, wanted: bool) -> impl Future<Output = Result<(), Error>> + Send;
}

/// How far a pass has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is nothing left of the experiment.
    Gone,
    /// There is nothing more to do now; when there may be, if not only after a change.
    AwaitsChange(Option<Duration>),
    /// Agents were injected: the next round sees what became of these.
    Injected,
}

/// What the next round of a pass has of those before it.
#[derive(Debug, Default)]
pub struct ReconcileState {
    rounds: usize,
    /// In whose words agents were refused, by the pods' uids.
    refused: BTreeMap<String, PodView>,
    preflight: Option<Preflight>,
    /// What went wrong with a patch.
    retry: Option<Error>,
}

/// What was decided about an experiment.
#[derive(Debug)]
pub struct Round {
    /// Before the experiment was read.
    begun: Timestamp,
    /// The time that it was decided for.
    now: Timestamp,
    /// The experiment as it was read.
    pub object: ChaosExperiment,
    /// What is to be done.
    pub decision: Decision,
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

/// Does what was decided, in somebody's name.
#[derive(Clone, Copy)]
pub struct Executor<'a> {
    /// The way to the API server.
    pub client: &'a Client,
    /// Who writes, in `managedFields`.
    pub field_manager: &'a str,
    /// Tells the time.
    pub clock: &'a Clock,
}

impl Executor<'_> {
    /// Goes on with a pass until there is nothing more to do, or agents were injected: others have their turn before it is looked at what became of these, so
    /// that of many experiments that begin together none waits until others have been heard of.
    ///
    /// # Errors
    /// When something has to be tried again.
    pub async fn advance<S: Store>(&self, store: &mut S, state: &mut ReconcileState) -> Result<Progress, Error> {
        while state.rounds < ROUNDS {
            state.rounds += 1;
            let Some(Round { begun, now, object, mut decision }) = self.decide(store, state).await? else { return Ok(Progress::Gone) };
            log(&object, &decision);
            for step in steps::steps(&decision, object.status.as_ref(), state.retry.is_some()) {
                if step.acts() && self.is_too_late(begun) {
                    debug!(uid = object.uid(), ?step, "this was decided too long ago: deciding again");
                    break;
                }
                match step {
                    Step::Record => {
                        if let Some(status) = &decision.status {
                            store.write_record(&object, status).await?;
                        }
                    }
                    Step::WriteStatus => {
                        if store.write_status(&object, &decision, now).await? == Written::Stale {
                            debug!(uid = object.uid(), "the experiment changed meanwhile: deciding again");
                            break;
                        }
                    }
                    Step::Publish => store.publish(&object, mem::take(&mut decision.events)).await,
                    Step::GiveUp => return state.retry.take().map_or(Ok(Progress::AwaitsChange(None)), Err),
                    Step::SetFinalizer(wanted) => store.set_finalizer(&object, wanted).await?,
                    Step::AwaitChange => return Ok(Progress::AwaitsChange(decision.requeue)),
                    Step::DryRunPatch => state.preflight = self.preflight(mem::take(&mut decision.preflight)).await?,
                    Step::ApplyFollowUps => state.refused = self.apply_follow_ups(store, &decision, begun).await?,
                    Step::Inject => {
                        let run = run_of(&object);
                        let (words, error) = self.inject_all(mem::take(&mut decision.injections), &run, &object.spec, begun).await;
                        state.refused.extend(words);
                        state.retry = error;
                        return Ok(Progress::Injected);
                    }
                }
            }
        }
        Err(state.retry.take().unwrap_or(Error::Contended))
    }

    /// Reads, looks and decides, and does nothing. None where there is nothing left of the experiment.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn decide<S: Store>(&self, store: &mut S, state: &mut ReconcileState) -> Result<Option<Round>, Error> {
        let begun = (self.clock)();
        let Some(object) = store.read().await? else { return Ok(None) };
        let (namespace, uid) = (object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
        let experiment = Experiment {
            namespace: &namespace,
            uid: &uid,
            generation: object.metadata.generation.unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            finalized: object.finalizers().iter().any(|name| name == FINALIZER),
            requested: object.annotations().get(RUN_REQUESTED_ANNOTATION).map(String::as_str),
            spec: &object.spec,
            status: object.status.as_ref(),
        };
        let now = (self.clock)();
        let settings = store.settings(&object, now);
        let needs = machine::needs(&experiment, now, &settings);
        let mut observed = store.observe(&experiment, &needs, &settings, now).await?;
        // What was heard in one round is for the next one alone: after that it may be of another attempt.
        let (words, answer) = (mem::take(&mut state.refused), state.preflight.take());
        if let Observed::Pods(seen) = &mut observed {
            seen.views.extend(words);
            seen.preflight = answer;
        }
        let decision = machine::decide(&experiment, &observed, now, &settings);
        Ok(Some(Round { begun, now, object, decision }))
    }

    /// Puts one more container of netloss's into one pod. `Some` are the words of a refusal.
    ///
    /// # Errors
    /// When it may be admitted later.
    pub async fn send(&self, entry: &PodStatus, container: &EphemeralContainer) -> Result<Option<String>, Error> {
        let what = format!("adding container {} to pod {}", container.name, entry.display_name());
        match self.patch(entry, container, false).await {
            // The pod is gone, which the next look will show.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Some(status.message)),
            answer => answer.map(|()| None).map_err(Error::api(what)),
        }
    }

    async fn patch(&self, entry: &PodStatus, container: &EphemeralContainer, dry_run: bool) -> kube::Result<()> {
        let api = Api::<Guarded<Pod>>::namespaced(self.client.clone(), &entry.namespace);
        let params = PatchParams { dry_run, field_manager: Some(self.field_manager.to_owned()), ..PatchParams::default() };
        api.patch_subresource("ephemeralcontainers", &entry.name, &params, &Patch::Strategic(patch(entry, container))).await.map(drop)
    }

    /// Asks the API server whether it would admit the agent, with a patch that changes nothing. `None` where that says nothing, as the pod
    /// is another by now.
    async fn ask(&self, entry: &PodStatus) -> Result<Option<Preflight>, Error> {
        match self.patch(entry, &agent_container(entry), true).await {
            Ok(()) => Ok(Some(Preflight::Admitted)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Some(answer(status.message))),
            Err(error) => Err(Error::api(format!("asking for container {} in pod {}", entry.container, entry.display_name()))(error)),
        }
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

    /// Puts the agent into one pod.
    async fn inject(&self, entry: &PodStatus, run: &str, spec: &ChaosExperimentSpec) -> Injected {
        match self.send(entry, &agent_container(entry)).await {
            Ok(None) => Injected::LookAgain,
            // Refused: for what the pod has become meanwhile, which a look will show, or for good.
            Ok(Some(words)) => match observe::view(self.client, entry, Lookup { run, spec, now: (self.clock)() }).await {
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
    async fn apply_follow_ups<S: Store>(
        &self,
        store: &S,
        decision: &Decision,
        begun: Timestamp,
    ) -> Result<BTreeMap<String, PodView>, Error> {
        type Make = fn(&PodStatus, &SentContainer) -> EphemeralContainer;
        let mut sent: Vec<(PodStatus, EphemeralContainer)> = Vec::new();
        let stops = decision.stops.iter().map(|entry| (entry, &entry.stop, stop_container as Make));
        let repairs = decision.repairs.iter().map(|entry| (entry, &entry.repair, repair_container as Make));
        for (entry, container, make) in stops.chain(repairs) {
            let Some(container) = container else { continue };
            let entry = PodStatus { image: store.image(entry).await?, ..entry.clone() };
            let container = make(&entry, container);
            sent.push((entry, container));
        }
        let answers = stream::iter(sent).map(|(entry, container)| async move {
            // As for agents: one that was asleep with the first of them does not send the others.
            let answer = if self.is_too_late(begun) { Ok(None) } else { self.send(&entry, &container).await };
            answer.map(|answer| (entry.uid, answer))
        });
        let answers: Vec<Result<(String, Option<String>), Error>> = answers.buffer_unordered(CONCURRENCY).collect().await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().filter_map(|(uid, words)| Some((uid, PodView::SentRefused(words?)))).collect())
    }

    /// Whether a round that began then does nothing any more.
    fn is_too_late(&self, begun: Timestamp) -> bool {
        steps::is_too_late(begun, (self.clock)())
    }
}

/// What a refusal of a dry run means.
fn answer(words: String) -> Preflight {
    // Of an admission webhook with side effects: not a word about the real patch.
    if words.contains("does not support dry run") { Preflight::Unknown(words) } else { Preflight::Refused(words) }
}

/// The run's name, as agents are told.
fn run_of(object: &ChaosExperiment) -> String {
    format!("{}/{}", object.uid().unwrap_or_default(), object.status.as_ref().and_then(|status| status.run).unwrap_or_default())
}

/// One line for each decision that changes something.
fn log(object: &ChaosExperiment, decision: &Decision) {
    let Some(status) = decision.status.as_ref().or(object.status.as_ref()) else { return };
    let (namespace, name, uid) = (object.namespace(), object.name_any(), object.uid());
    let run = status.run.unwrap_or_default();
    let (phase, says) = (status.phase.map_or_else(String::new, |phase| format!("{phase:?}")), status.message.as_deref());
    let (injections, look_again_in) = (decision.injections.len(), decision.requeue.map(|after| after.as_secs_f64()));
    match &decision.status {
        Some(_) => info!(namespace, name, uid, run, phase, says, injections, look_again_in, "decided: new status"),
        None if injections > 0 => info!(namespace, name, uid, run, phase, injections, look_again_in, "decided: injecting"),
        None => debug!(namespace, name, uid, run, phase, look_again_in, "decided: nothing to do"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use futures::FutureExt;
    use http::Response;
    use kube::client::Body;
    use netloss_core::machine::fixtures::{at, entry};
    use serde_json::json;
    use std::sync::Arc;

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
        let clock: Clock = Arc::new(|| at(0));
        let executor = Executor { client: &client, field_manager: "test", clock: &clock };
        let answer = async |names: &[&str]| {
            let entries = names.iter().map(|name| PodStatus { name: (*name).to_owned(), ..entry() });
            executor.preflight(entries.collect()).await.unwrap()
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
