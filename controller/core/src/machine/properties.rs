//! The machine's invariants, over histories that nobody would write down: a small cluster in which controllers crash between any
//! two steps, clocks jump, kubelets do what they like, pods go, come back and get new sandboxes, and users edit, pause, freeze and
//! delete.

use super::{fixtures::*, *};
use crate::steps::{Step, steps};
use netloss_api::{AS_REQUESTED, Outcome, PREFLIGHT, PodState, RECOVERED, RUN_REQUESTED, Stopping};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

const PODS: usize = 4;

/// Where a pass ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Until {
    /// Before the status is written: it crashed, or another had written meanwhile.
    Write,
    /// After the status is written, before anything else is done.
    Patch,
    /// After the first patch.
    FirstPatch,
    /// Its end.
    End,
}

#[derive(Debug, Clone)]
enum Happening {
    Pass(Until),
    Advance(i64),
    Kubelet(usize, AgentState, bool),
    Sent(usize, AgentState),
    Mute(usize),
    Refuse(usize),
    Gone(usize),
    Replaced(usize),
    NewSandbox(usize),
    Skipped(usize, Option<Skip>),
    Preflight(Preflight),
    Edited,
    Paused(bool),
    Frozen(bool),
    Excluded(bool),
    Ready(u32),
    Dependency(bool),
    Requested,
    NewController,
    Deleted,
}

/// A container that the kubelet has not begun with.
fn waiting() -> AgentState {
    AgentState::Waiting { made: false, reason: None, message: None }
}

fn happening() -> impl Strategy<Value = Happening> {
    let pod = 0..PODS;
    let state = prop_oneof![
        1 => Just(waiting()),
        1 => Just(AgentState::Waiting { made: false, reason: Some("ErrImagePull".to_owned()), message: None }),
        1 => Just(AgentState::Waiting { made: true, reason: None, message: None }),
        3 => Just(AgentState::Running),
        2 => Just(terminated(0, Some(removed()))),
        1 => Just(terminated(137, Some(heartbeat()))),
        1 => Just(terminated(1, None)),
    ];
    let cleaned = netloss_contract::Event::Cleaned(netloss_contract::Cleaned { removed: Vec::new() });
    let sent = prop_oneof![
        1 => Just(waiting()),
        1 => Just(AgentState::Running),
        2 => Just(terminated(0, Some(cleaned))),
        1 => Just(terminated(9, None)),
        1 => Just(terminated(3, None)),
    ];
    let skip = prop_oneof![Just(None), Just(Some(Skip::Excluded)), Just(Some(Skip::Terminating)), Just(Some(Skip::Finished))];
    let preflight = prop_oneof![
        3 => Just(Preflight::Admitted),
        1 => Just(Preflight::Refused("no".to_owned())),
        1 => Just(Preflight::Unknown("who knows".to_owned())),
    ];
    let until = prop_oneof![1 => Just(Until::Write), 1 => Just(Until::Patch), 1 => Just(Until::FirstPatch), 4 => Just(Until::End)];
    prop_oneof![
        12 => until.prop_map(Happening::Pass),
        2 => (-90..400i64).prop_map(Happening::Advance),
        6 => (pod.clone(), state, any::<bool>()).prop_map(|(pod, state, told)| Happening::Kubelet(pod, state, told)),
        3 => (pod.clone(), sent).prop_map(|(pod, state)| Happening::Sent(pod, state)),
        1 => pod.clone().prop_map(Happening::Mute),
        1 => pod.clone().prop_map(Happening::Refuse),
        1 => pod.clone().prop_map(Happening::Gone),
        1 => pod.clone().prop_map(Happening::Replaced),
        1 => pod.clone().prop_map(Happening::NewSandbox),
        1 => (pod, skip).prop_map(|(pod, skip)| Happening::Skipped(pod, skip)),
        1 => preflight.prop_map(Happening::Preflight),
        1 => Just(Happening::Edited),
        2 => any::<bool>().prop_map(Happening::Paused),
        1 => any::<bool>().prop_map(Happening::Frozen),
        1 => any::<bool>().prop_map(Happening::Excluded),
        1 => (0..5u32).prop_map(Happening::Ready),
        1 => any::<bool>().prop_map(Happening::Dependency),
        1 => Just(Happening::Requested),
        1 => Just(Happening::NewController),
        1 => Just(Happening::Deleted),
    ]
}

/// A pod as the API server has it.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // a pod can be all of these
struct Pod {
    gone: bool,
    replaced: bool,
    new_sandbox: bool,
    refuses: bool,
    mute: bool,
    skip: Option<Skip>,
    /// The agents' containers: each name with what it was patched in with.
    agents: BTreeMap<String, (PodStatus, AgentState, AgentLog)>,
    /// What was sent after them, by its name.
    sent: BTreeMap<String, AgentState>,
}

#[derive(Debug)]
struct Cluster {
    now: Timestamp,
    spec: ChaosExperimentSpec,
    generation: i64,
    deleting: bool,
    finalized: bool,
    frozen: bool,
    ready: u32,
    /// What the experiment is like that this one depends on, if it does.
    dependency: Phase,
    /// How often a run was requested, and the annotation.
    requests: u32,
    requested: Option<String>,
    edits: u32,
    preflight: Preflight,
    settings: Settings,
    namespace: NamespaceFacts,
    status: Option<ChaosExperimentStatus>,
    pods: Vec<Pod>,
    /// Every (run, pod, attempt) that was ever patched.
    patched: BTreeSet<(u32, String, u32)>,
}

impl Cluster {
    fn new(changes: impl FnOnce(&mut ChaosExperimentSpec)) -> Self {
        let mut spec = spec();
        changes(&mut spec);
        Self {
            now: at(0),
            spec,
            generation: 1,
            deleting: false,
            finalized: false,
            frozen: false,
            ready: 4,
            dependency: Phase::Completed,
            requests: 0,
            requested: None,
            edits: 0,
            preflight: Preflight::Admitted,
            settings: settings(),
            namespace: NamespaceFacts::default(),
            status: None,
            pods: vec![Pod::default(); PODS],
            patched: BTreeSet::new(),
        }
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        let at_work = |state: &AgentState| !matches!(state, AgentState::Terminated { .. });
        match happening {
            Happening::Pass(until) => self.pass(*until)?,
            Happening::Advance(seconds) => self.now += jiff::SignedDuration::from_secs(*seconds),
            Happening::Kubelet(pod, state, told) => {
                for (_, is, log) in self.pods[*pod].agents.values_mut().filter(|(_, is, _)| at_work(is)) {
                    *is = state.clone();
                    if *told {
                        *log = log_of(applied(), at(10));
                    }
                }
            }
            Happening::Sent(pod, state) => {
                self.pods[*pod].sent.values_mut().filter(|is| at_work(is)).for_each(|is| *is = state.clone());
            }
            Happening::Mute(pod) => self.pods[*pod].mute = true,
            Happening::Refuse(pod) => self.pods[*pod].refuses = true,
            Happening::Gone(pod) => self.pods[*pod].gone = true,
            Happening::Replaced(pod) => self.pods[*pod].replaced = true,
            Happening::NewSandbox(pod) => self.pods[*pod].new_sandbox = true,
            Happening::Skipped(pod, skip) => self.pods[*pod].skip.clone_from(skip),
            Happening::Preflight(answer) => self.preflight = answer.clone(),
            Happening::Edited => {
                self.generation += 1;
                self.edits += 1;
                self.spec.count = 1 + self.spec.count % 3;
            }
            Happening::Paused(paused) => {
                self.generation += i64::from(self.spec.paused != Some(*paused));
                self.spec.paused = Some(*paused);
            }
            Happening::Frozen(frozen) => self.frozen = *frozen,
            Happening::Excluded(excluded) => self.namespace.excluded = *excluded,
            Happening::Ready(ready) => self.ready = *ready,
            Happening::Dependency(is_over) => self.dependency = if *is_over { Phase::Completed } else { Phase::Running },
            Happening::Requested => {
                self.requests += 1;
                self.requested = Some(at(self.requests.into()).to_string());
            }
            Happening::NewController => self.settings.agent_image.push('+'),
            Happening::Deleted => self.deleting = true,
        }
        Ok(())
    }

    fn view(&self, entry: &PodStatus) -> PodView {
        let pod = &self.pods[index(entry)];
        let sent = |sent: Option<&netloss_api::SentContainer>| sent.and_then(|sent| pod.sent.get(&sent.container)).cloned();
        let agent = pod.agents.get(&entry.container).map(|(put_in, state, log)| {
            Box::new(AgentView {
                args: put_in.argv.clone(),
                state: state.clone(),
                log: if pod.mute && entry.was_applied() { AgentLog::Stale } else { log.clone() },
                stop: sent(entry.stop.as_ref()),
                repair: sent(entry.repair.as_ref()),
            })
        });
        match (pod.gone, pod.replaced) {
            (true, _) => PodView::Gone,
            (_, true) => PodView::Replaced,
            _ => PodView::Present { skip: pod.skip.clone(), new_sandbox: pod.new_sandbox, agent },
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let with_skip = |(candidate, pod): (Candidate, &Pod)| Candidate { skip: pod.skip.clone(), ..candidate };
        candidates(PODS).into_iter().zip(&self.pods).map(with_skip).collect()
    }

    fn decide(&self, refused: &BTreeMap<String, PodView>, preflight: Option<Preflight>) -> Decision {
        let (generation, deleting, finalized) = (self.generation, self.deleting, self.finalized);
        let requested = self.requested.as_deref();
        let experiment = Experiment { generation, deleting, finalized, requested, ..experiment(&self.spec, self.status.as_ref()) };
        let freeze = self.frozen.then(|| "because".to_owned());
        let observed = match needs(&experiment, self.now, &self.settings) {
            Needs::Nothing => Observed::Nothing,
            Needs::Preconditions { dependencies, .. } => {
                let dependencies = dependencies.into_iter().map(|name| (name, Some(self.dependency))).collect();
                let namespace = self.namespace.clone();
                Observed::Preconditions(Preconditions {
                    freeze,
                    namespace,
                    pods: self.candidates(),
                    dependencies,
                    ..Preconditions::default()
                })
            }
            Needs::Pods { ready, target } => {
                let is_active = self.status.as_ref().is_some_and(ChaosExperimentStatus::is_active);
                let open: Vec<&PodStatus> = match &self.status {
                    Some(status) if is_active => status.open_pods().collect(),
                    status => status.iter().flat_map(ChaosExperimentStatus::impaired_pods).collect(),
                };
                let mut views: BTreeMap<_, _> = open.into_iter().map(|entry| (entry.uid.clone(), self.view(entry))).collect();
                views.extend(refused.clone());
                let protection = target.map(|_| Protection::of(self.namespace.clone(), &self.candidates()));
                Observed::Pods(Pods { views, ready: ready.map(|_| self.ready), freeze, protection, preflight })
            }
        };
        decide(&experiment, &observed, self.now, &self.settings)
    }

    /// The entry as it stands, of which something is to be done.
    fn check_written(&self, entry: &PodStatus) -> Result<(), TestCaseError> {
        let written = self.status.as_ref().and_then(|status| status.pods.iter().find(|written| written.uid == entry.uid));
        prop_assert_eq!(written, Some(entry), "done from what stood in the status before");
        prop_assert!(entry.is_open());
        Ok(())
    }

    /// What must hold of each thing that is about to be done.
    fn check_decision(&self, decision: &Decision) -> Result<(), TestCaseError> {
        for entry in decision.injections.iter().chain(&decision.preflight) {
            self.check_written(entry)?;
            prop_assert_eq!(entry.state, PodState::Planned);
            prop_assert!(self.now < entry.deadline.0, "never past the deadline");
            prop_assert!(!self.deleting && !self.frozen && self.spec.paused != Some(true));
            let edited =
                is_edited(&Experiment { generation: self.generation, ..experiment(&self.spec, None) }, self.status.as_ref().unwrap());
            prop_assert!(!edited, "nothing is begun of a spec that is not asked for any more");
        }
        if !decision.injections.is_empty() {
            prop_assert!(self.finalized, "nothing is put in before the finalizer is there");
            prop_assert!(!self.namespace.excluded, "nothing is injected into an excluded namespace, whatever was planned");
            let answer = self.status.as_ref().and_then(ChaosExperimentStatus::preflight).map(|condition| condition.status.clone());
            prop_assert!(answer.is_some_and(|answer| answer != "False"), "nothing is put in before it was asked for");
        }
        for entry in &decision.stops {
            self.check_written(entry)?;
            prop_assert!(entry.stop.is_some());
        }
        for entry in &decision.repairs {
            self.check_written(entry)?;
            prop_assert!(entry.repair.as_ref().is_some_and(|repair| self.now < repair.deadline.0));
        }
        if decision.finalizer == Some(false) {
            let after = decision.status.as_ref().or(self.status.as_ref());
            prop_assert!(!after.is_some_and(ChaosExperimentStatus::is_active), "nobody is forgotten");
        }
        Ok(())
    }

    /// The executor.
    fn pass(&mut self, until: Until) -> Result<(), TestCaseError> {
        let (mut refused, mut preflight) = (BTreeMap::new(), None);
        for _ in 0..12 {
            let decision = self.decide(&std::mem::take(&mut refused), preflight.take());
            self.check_decision(&decision)?;
            if until == Until::Write {
                return Ok(());
            }
            let before = self.status.clone();
            for step in steps(&decision, before.as_ref(), false) {
                match step {
                    Step::Record | Step::GiveUp => {}
                    Step::WriteStatus => {
                        let next = decision.status.clone().unwrap_or_default();
                        self.check_transition(&next)?;
                        self.status = Some(next);
                    }
                    Step::Publish => {
                        let open = self.status.as_ref().is_some_and(ChaosExperimentStatus::is_active);
                        prop_assert!(!open || decision.requeue.is_some(), "whatever is waited for, there is a time to look again");
                        if until == Until::Patch {
                            return Ok(());
                        }
                    }
                    Step::SetFinalizer(wanted) => self.finalized = wanted && !self.deleting,
                    Step::AwaitChange => return Ok(()),
                    Step::DryRunPatch => preflight = Some(self.preflight.clone()),
                    Step::ApplyFollowUps => self.apply_follow_ups(&decision, &mut refused)?,
                    Step::Inject => {
                        if self.inject(&decision, &mut refused, until)? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn apply_follow_ups(&mut self, decision: &Decision, refused: &mut BTreeMap<String, PodView>) -> Result<(), TestCaseError> {
        let stops = decision.stops.iter().map(|entry| (entry, entry.stop.as_ref()));
        for (entry, sent) in stops.chain(decision.repairs.iter().map(|entry| (entry, entry.repair.as_ref()))) {
            let pod = &mut self.pods[index(entry)];
            prop_assert!(pod.agents.contains_key(&entry.container), "there is nobody to send it after");
            if pod.refuses {
                refused.insert(entry.uid.clone(), PodView::SentRefused("no".to_owned()));
                continue;
            }
            prop_assert!(pod.sent.insert(sent.unwrap().container.clone(), waiting()).is_none(), "sent twice");
        }
        Ok(())
    }

    /// Whether the pass ends here, after the first patch.
    fn inject(&mut self, decision: &Decision, refused: &mut BTreeMap<String, PodView>, until: Until) -> Result<bool, TestCaseError> {
        for injection in &decision.injections {
            let run = self.status.as_ref().and_then(|status| status.run).unwrap();
            let pod = &mut self.pods[index(injection)];
            if pod.refuses {
                refused.insert(injection.uid.clone(), PodView::Refused("no".to_owned()));
                continue;
            }
            prop_assert!(!pod.agents.contains_key(&injection.container), "patched twice");
            prop_assert!(self.patched.insert((run, injection.uid.clone(), injection.attempt)), "two injections for one attempt");
            pod.agents.insert(injection.container.clone(), (injection.clone(), waiting(), AgentLog::NotApplied));
            if until == Until::FirstPatch {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether no loss can be left in a pod: it is gone, it has another network, or what was sent to remove the loss has.
    fn is_clean(&self, entry: &PodStatus) -> bool {
        let pod = &self.pods[index(entry)];
        let repair = entry.repair.as_ref().and_then(|repair| pod.sent.get(&repair.container));
        let is_repaired = matches!(repair, Some(AgentState::Terminated { exit_code: 0, .. }));
        pod.gone || pod.replaced || pod.new_sandbox || pod.skip == Some(Skip::Finished) || is_repaired
    }

    /// A pod in which loss may remain stays in status until the loss or the pod is gone, and what a run has used up is used up.
    fn check_remembered(&self, next: &ChaosExperimentStatus) -> Result<(), TestCaseError> {
        let Some(before) = &self.status else { return Ok(()) };
        for left in before.impaired_pods() {
            // An agent removes what it finds before it applies its own loss.
            let is_taken_over = next.pods.iter().any(|is| is.uid == left.uid && is.was_applied());
            let is_remembered = next.impaired_pods().any(|is| is.uid == left.uid);
            prop_assert!(is_remembered || is_taken_over || self.is_clean(left), "{} was forgotten: {next:?}", left.name);
        }
        let is_same_run = before.run == next.run && before.observed_spec == next.observed_spec;
        if is_same_run && !before.phase.is_some_and(Phase::is_final) {
            prop_assert!(next.retry_count >= before.retry_count, "retries were forgotten");
            prop_assert!(before.start_time == next.start_time, "when the run began was forgotten");
            // A retry follows an attempt in which no pod got any loss.
            let is_retry = next.retry_count.is_some();
            let pod = |affected: &String| affected.split(':').next().map(str::to_owned);
            let pods: Vec<_> = next.affected_pods.iter().map(pod).collect();
            prop_assert!(
                is_retry || before.affected_pods.iter().all(|affected| pods.contains(&pod(affected))),
                "an injected pod was forgotten"
            );
            prop_assert_eq!(pods.iter().collect::<BTreeSet<_>>().len(), pods.len(), "each pod once");
        }
        if self.spec.schedule.is_none() {
            prop_assert!(next.run.unwrap_or(0) <= 1 + self.edits + self.requests, "a run that nobody asked for: {next:?}");
        }
        let all = [PREFLIGHT, RECOVERED, AS_REQUESTED, RUN_REQUESTED];
        prop_assert!(all.iter().all(|type_| next.condition(type_).is_some()), "each condition is set from the first visit on: {next:?}");
        let recovered = next.condition(RECOVERED).is_some_and(|is| is.status == "True");
        prop_assert!(!recovered || (!next.is_active() && next.impaired_pods().next().is_none()), "{next:?}");
        Ok(())
    }

    fn check_transition(&self, next: &ChaosExperimentStatus) -> Result<(), TestCaseError> {
        self.check_remembered(next)?;
        let number = |status: &ChaosExperimentStatus| (status.run, status.attempt);
        let same = self.status.as_ref().filter(|status| number(status) == number(next) && !status.pods.is_empty());
        let Some(before) = same else {
            let open = self.status.as_ref().is_some_and(ChaosExperimentStatus::is_active);
            prop_assert!(!open, "an attempt began in another");
            prop_assert!(next.run >= self.status.as_ref().and_then(|status| status.run), "numbers only grow");
            return Ok(());
        };
        if next.pods.is_empty() {
            return Ok(());
        }
        prop_assert_eq!(before.pods.len(), next.pods.len());
        let open = before.is_active();
        prop_assert!(!open || before.stopping.is_none() || before.stopping == next.stopping, "what is being stopped stays so");
        for (was, is) in before.pods.iter().zip(&next.pods) {
            let frozen =
                |pod: &PodStatus| (pod.uid.clone(), pod.container.clone(), pod.image.clone(), pod.argv.clone(), pod.deadline.clone());
            prop_assert_eq!(frozen(was), frozen(is));
            let number = |pod: &PodStatus| pod.stop.as_ref().map_or(0, |stop| stop.number);
            prop_assert!(was.stop.is_none() || was.stop == is.stop || number(is) == number(was) + 1, "what stops it is frozen too");
            prop_assert!(number(is) <= 3, "and there is an end to it");
            let number = |pod: &PodStatus| pod.repair.as_ref().map_or(0, |repair| repair.number);
            prop_assert!(was.repair.is_none() || was.repair == is.repair || number(is) == number(was) + 1, "and what repairs it");
            prop_assert!(number(is) <= 2, "and there is an end to that too");
            prop_assert!(was.state <= is.state, "{:?} to {:?}", was.state, is.state);
            let is_resolved = was.may_be_impaired() && !is.may_be_impaired() && self.is_clean(was);
            prop_assert!(was.is_open() || was == is || is_resolved, "nothing comes after the end");
            prop_assert_eq!(!is.is_open(), is.outcome.is_some());
            let may_remain = is.outcome == Some(Outcome::Unknown) && was.outcome.is_none() && !is.ends_by_itself();
            // Nothing can be started in a pod that is terminating.
            let reachable = matches!(self.view(was), PodView::Present { agent: Some(_), skip, .. } if skip != Some(Skip::Terminating));
            prop_assert!(!may_remain || !reachable || is.repair.is_some(), "nobody is given up who was not to be repaired: {is:?}");
        }
        Ok(())
    }
}

fn index(entry: &PodStatus) -> usize {
    entry.name.trim_start_matches('p').parse().unwrap()
}

/// Whatever has happened, then nothing more happens but time.
fn ends(mut cluster: Cluster, history: &[Happening]) -> Result<(), TestCaseError> {
    for happening in history {
        cluster.happen(happening)?;
    }
    cluster.frozen = false;
    cluster.dependency = Phase::Completed;
    // A resumption and its end, each retry, and as much for a requested run.
    for _ in 0..40 {
        cluster.now += jiff::SignedDuration::from_secs(1000);
        let before = cluster.status.clone();
        cluster.pass(Until::End)?;
        if before == cluster.status && before.is_some_and(|status| status.phase.is_some_and(Phase::is_final)) {
            break;
        }
    }
    let Some(status) = &cluster.status else { return Ok(()) };
    prop_assert!(status.pods.iter().all(|pod| pod.outcome.is_some()), "{status:?}");
    prop_assert!(!cluster.finalized, "nothing keeps it from going");
    let paused = cluster.spec.paused == Some(true);
    let at_rest = status.phase.is_some_and(|phase| phase.is_final() || (phase == Phase::Paused && paused));
    prop_assert!(at_rest || cluster.deleting || cluster.spec.schedule.is_some(), "{status:?}");
    let current = cluster.deleting || status.observed_spec.as_ref() == Some(&cluster.spec.fingerprint());
    prop_assert!(current || paused, "an edit was forgotten");
    let handled = status.run_requested_at == cluster.requested;
    prop_assert!(handled || paused || cluster.deleting, "a request was forgotten: {status:?}");
    let told = status.phase != Some(Phase::Paused) || status.stopping.is_none_or(|why| why == Stopping::Paused);
    prop_assert!(told, "{status:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_pod_is_patched_twice_and_each_ends_in_an_outcome(history in vec(happening(), 0..50)) {
        ends(Cluster::new(|_| ()), &history)?;
    }

    #[test]
    fn nor_with_retries_and_a_watch_over_the_targets(history in vec(happening(), 0..50), fixed: bool) {
        let backoff = if fixed { netloss_api::RetryBackoff::Fixed } else { netloss_api::RetryBackoff::Exponential };
        ends(Cluster::new(|spec| (spec.max_retries, spec.retry_backoff, spec.abort) = (3, backoff, Some(2))), &history)?;
    }

    #[test]
    fn nor_with_windows_that_close_and_a_dependency(history in vec(happening(), 0..50)) {
        ends(Cluster::new(|spec| {
            let windows = [(0, 300), (600, 900), (2000, 2400), (5000, 6000)].map(|(start, end)| netloss_api::TimeWindow {
                kind: netloss_api::WindowKind::Absolute,
                start: at(start).to_string(),
                end: at(end).to_string(),
                timezone: None,
                days_of_week: None,
            });
            (spec.max_retries, spec.duration) = (3, Some("4m".to_owned()));
            (spec.time_windows, spec.depends_on) = (Some(windows.to_vec()), Some(vec!["first".to_owned()]));
        }), &history)?;
    }

    #[test]
    fn nor_with_a_schedule_and_an_end(history in vec(happening(), 0..50)) {
        let change = |spec: &mut ChaosExperimentSpec| {
            spec.schedule = Some("*/5 * * * *".to_owned());
            spec.experiment_duration = Some("4m".to_owned());
        };
        ends(Cluster::new(change), &history)?;
    }
}
