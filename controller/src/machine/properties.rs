//! The machine's invariants, over histories that nobody would write down: a small cluster in which controllers crash between any
//! two steps, clocks jump, kubelets do what they like, pods go, come back and get new sandboxes, and users edit, pause, freeze and
//! delete.

use super::{fixtures::*, *};
use crate::api::{Outcome, PREFLIGHT, PodState, Stopping};
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
    Ready(u32),
    NewController,
    Deleted,
}

fn happening() -> impl Strategy<Value = Happening> {
    let pod = 0..PODS;
    let waiting = || AgentState::Waiting { made: false, reason: None, message: None };
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
        1 => (0..5u32).prop_map(Happening::Ready),
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
    preflight: Preflight,
    settings: Settings,
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
            preflight: Preflight::Admitted,
            settings: settings(),
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
                self.spec.count = 1 + self.spec.count % 3;
            }
            Happening::Paused(paused) => {
                self.generation += i64::from(self.spec.paused != Some(*paused));
                self.spec.paused = Some(*paused);
            }
            Happening::Frozen(frozen) => self.frozen = *frozen,
            Happening::Ready(ready) => self.ready = *ready,
            Happening::NewController => self.settings.agent_image.push('+'),
            Happening::Deleted => self.deleting = true,
        }
        Ok(())
    }

    fn view(&self, entry: &PodStatus) -> PodView {
        let pod = &self.pods[index(entry)];
        let sent = |sent: Option<&crate::api::SentContainer>| sent.and_then(|sent| pod.sent.get(&sent.container)).cloned();
        let agent = pod.agents.get(&entry.container).map(|(put_in, state, log)| {
            Box::new(AgentView {
                args: put_in.argv.clone(),
                state: state.clone(),
                log: if pod.mute && entry.was_applied() { AgentLog::Mute } else { log.clone() },
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
        let experiment = Experiment { generation, deleting, finalized, ..experiment(&self.spec, self.status.as_ref()) };
        let freeze = self.frozen.then(|| "because".to_owned());
        let observed = match needs(&experiment, self.now, &self.settings) {
            Needs::Nothing => Observed::Nothing,
            Needs::Surroundings { .. } => {
                Observed::Surroundings(Surroundings { freeze, pods: self.candidates(), ..Surroundings::default() })
            }
            Needs::Pods { ready } => {
                let open = self.status.iter().flat_map(ChaosExperimentStatus::open_pods);
                let mut views: BTreeMap<_, _> = open.map(|entry| (entry.uid.clone(), self.view(entry))).collect();
                views.extend(refused.clone());
                Observed::Pods(Pods { views, ready: ready.map(|_| self.ready), freeze, preflight })
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
            let answer = self.status.as_ref().and_then(|status| status.condition(PREFLIGHT)).map(|condition| condition.status.clone());
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
            prop_assert!(!after.is_some_and(ChaosExperimentStatus::is_under_way), "nobody is forgotten");
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
            if let Some(next) = decision.status.clone() {
                self.check_transition(&next)?;
                self.status = Some(next);
            }
            let open = self.status.as_ref().is_some_and(ChaosExperimentStatus::is_under_way);
            prop_assert!(!open || decision.requeue.is_some(), "whatever is waited for, there is a time to look again");
            if until == Until::Patch {
                return Ok(());
            }
            if let Some(finalizer) = decision.finalizer {
                if decision.status.is_none() {
                    self.finalized = finalizer && !self.deleting;
                }
                continue;
            }
            if !decision.preflight.is_empty() {
                preflight = Some(self.preflight.clone());
            }
            let waiting = AgentState::Waiting { made: false, reason: None, message: None };
            let stops = decision.stops.iter().map(|entry| (entry, entry.stop.as_ref()));
            for (entry, sent) in stops.chain(decision.repairs.iter().map(|entry| (entry, entry.repair.as_ref()))) {
                let pod = &mut self.pods[index(entry)];
                prop_assert!(pod.agents.contains_key(&entry.container), "there is nobody to send it after");
                if pod.refuses {
                    refused.insert(entry.uid.clone(), PodView::SentRefused("no".to_owned()));
                    continue;
                }
                prop_assert!(pod.sent.insert(sent.unwrap().container.clone(), waiting.clone()).is_none(), "sent twice");
            }
            for injection in &decision.injections {
                let run = self.status.as_ref().and_then(|status| status.run).unwrap();
                let pod = &mut self.pods[index(injection)];
                if pod.refuses {
                    refused.insert(injection.uid.clone(), PodView::Refused("no".to_owned()));
                    continue;
                }
                prop_assert!(!pod.agents.contains_key(&injection.container), "patched twice");
                prop_assert!(self.patched.insert((run, injection.uid.clone(), injection.attempt)), "two injections for one attempt");
                pod.agents.insert(injection.container.clone(), (injection.clone(), waiting.clone(), AgentLog::Silent));
                if until == Until::FirstPatch {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn check_transition(&self, next: &ChaosExperimentStatus) -> Result<(), TestCaseError> {
        let number = |status: &ChaosExperimentStatus| (status.run, status.attempt);
        let same = self.status.as_ref().filter(|status| number(status) == number(next) && !status.pods.is_empty());
        let Some(before) = same else {
            let open = self.status.as_ref().is_some_and(ChaosExperimentStatus::is_under_way);
            prop_assert!(!open, "an attempt began in another");
            prop_assert!(next.run >= self.status.as_ref().and_then(|status| status.run), "numbers only grow");
            return Ok(());
        };
        if next.pods.is_empty() {
            return Ok(());
        }
        prop_assert_eq!(before.pods.len(), next.pods.len());
        let open = before.is_under_way();
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
            prop_assert!(was.is_open() || was == is, "nothing comes after the end");
            prop_assert_eq!(!is.is_open(), is.outcome.is_some());
            let may_remain = is.outcome == Some(Outcome::Unknown) && was.outcome.is_none() && !is.ends_by_itself();
            let reachable = matches!(self.view(was), PodView::Present { agent: Some(_), .. });
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
    for _ in 0..12 {
        cluster.now += jiff::SignedDuration::from_secs(1000);
        cluster.pass(Until::End)?;
    }
    let Some(status) = &cluster.status else { return Ok(()) };
    prop_assert!(status.pods.iter().all(|pod| pod.outcome.is_some()), "{status:?}");
    prop_assert!(!cluster.finalized, "nothing keeps it from going");
    let paused = cluster.spec.paused == Some(true);
    let at_rest = status.phase.is_some_and(|phase| phase.is_final() || (phase == Phase::Paused && paused));
    prop_assert!(at_rest || cluster.deleting || cluster.spec.schedule.is_some(), "{status:?}");
    let current = cluster.deleting || status.observed_spec.as_ref() == Some(&cluster.spec.fingerprint());
    prop_assert!(current || paused, "an edit was forgotten");
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
        let backoff = if fixed { crate::api::RetryBackoff::Fixed } else { crate::api::RetryBackoff::Exponential };
        ends(Cluster::new(|spec| (spec.max_retries, spec.retry_backoff, spec.abort) = (3, backoff, Some(2))), &history)?;
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
