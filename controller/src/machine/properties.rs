//! The machine's invariants, over histories that nobody would write down: a small cluster in which controllers crash between any
//! two steps, clocks jump, kubelets do what they like, and pods go, come back and are edited.

use super::{fixtures::*, *};
use crate::api::{Phase, PodState};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

const PODS: usize = 4;

/// Where a pass ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Until {
    /// Before the status is written: it crashed, or another had written meanwhile.
    Write,
    /// After the status is written, before a pod is patched.
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
    Refuse(usize),
    Gone(usize),
    Replaced(usize),
    Skipped(usize, Option<Skip>),
    Edited,
    NewController,
    Deleted,
}

fn happening() -> impl Strategy<Value = Happening> {
    let pod = 0..PODS;
    let state = prop_oneof![
        Just(AgentState::Waiting { reason: None, message: None }),
        Just(AgentState::Waiting { reason: Some("ErrImagePull".to_owned()), message: None }),
        Just(AgentState::Running),
        Just(terminated(0, Some(removed()))),
        Just(terminated(137, Some(heartbeat()))),
        Just(terminated(1, None)),
    ];
    let skip = prop_oneof![Just(None), Just(Some(Skip::Excluded)), Just(Some(Skip::Terminating)), Just(Some(Skip::Finished))];
    prop_oneof![
        8 => prop_oneof![Just(Until::Write), Just(Until::Patch), Just(Until::FirstPatch), Just(Until::End)].prop_map(Happening::Pass),
        2 => (-90..400i64).prop_map(Happening::Advance),
        4 => (pod.clone(), state, any::<bool>()).prop_map(|(pod, state, told)| Happening::Kubelet(pod, state, told)),
        1 => pod.clone().prop_map(Happening::Refuse),
        1 => pod.clone().prop_map(Happening::Gone),
        1 => pod.clone().prop_map(Happening::Replaced),
        1 => (pod, skip).prop_map(|(pod, skip)| Happening::Skipped(pod, skip)),
        1 => Just(Happening::Edited),
        1 => Just(Happening::NewController),
        1 => Just(Happening::Deleted),
    ]
}

/// A pod as the API server has it.
#[derive(Debug, Clone, Default)]
struct Pod {
    gone: bool,
    replaced: bool,
    refuses: bool,
    skip: Option<Skip>,
    /// The agents' containers: each name with what it was patched in with.
    agents: BTreeMap<String, (PodStatus, AgentState, AgentLog)>,
    /// What was sent to stop them, by the agents' names.
    stops: BTreeMap<String, AgentState>,
}

#[derive(Debug)]
struct Cluster {
    now: Timestamp,
    generation: i64,
    deleting: bool,
    settings: Settings,
    status: Option<ChaosExperimentStatus>,
    pods: Vec<Pod>,
    /// Every (run, pod, attempt) that was ever patched.
    patched: BTreeSet<(u32, String, u32)>,
}

impl Cluster {
    fn new() -> Self {
        let pods = vec![Pod::default(); PODS];
        Self { now: at(0), generation: 1, deleting: false, settings: settings(), status: None, pods, patched: BTreeSet::new() }
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Pass(until) => self.pass(*until)?,
            Happening::Advance(seconds) => self.now += jiff::SignedDuration::from_secs(*seconds),
            Happening::Kubelet(pod, state, told) => {
                for is in self.pods[*pod].stops.values_mut().filter(|is| !matches!(is, AgentState::Terminated { .. })) {
                    *is = state.clone();
                }
                for (_, is, log) in self.pods[*pod].agents.values_mut().filter(|(_, is, _)| !matches!(is, AgentState::Terminated { .. })) {
                    *is = state.clone();
                    if let (true, netloss_contract::Event::Applied(applied)) = (*told, applied()) {
                        *log = AgentLog::Applied(at(10), Box::new(applied));
                    }
                }
            }
            Happening::Refuse(pod) => self.pods[*pod].refuses = true,
            Happening::Gone(pod) => self.pods[*pod].gone = true,
            Happening::Replaced(pod) => self.pods[*pod].replaced = true,
            Happening::Skipped(pod, skip) => self.pods[*pod].skip.clone_from(skip),
            Happening::Edited => self.generation += 1,
            Happening::NewController => self.settings.agent_image.push('+'),
            Happening::Deleted => self.deleting = true,
        }
        Ok(())
    }

    fn view(&self, entry: &PodStatus) -> PodView {
        let pod = &self.pods[index(entry)];
        match (pod.gone, pod.replaced, pod.agents.get(&entry.container)) {
            (true, ..) => PodView::Gone,
            (_, true, _) => PodView::Replaced,
            (.., None) => PodView::Present { skip: pod.skip.clone(), agent: None },
            (.., Some((put_in, state, log))) => PodView::Present {
                skip: pod.skip.clone(),
                agent: Some(AgentView {
                    args: put_in.argv.clone(),
                    state: state.clone(),
                    log: log.clone(),
                    stop: pod.stops.get(&entry.container).cloned(),
                }),
            },
        }
    }

    fn decide(&self, refused: &BTreeMap<String, PodView>) -> Decision {
        let spec = spec();
        let (generation, deleting) = (self.generation, self.deleting);
        let experiment = Experiment { generation, deleting, ..experiment(&spec, self.status.as_ref()) };
        let mut observed = match needs(&experiment, &self.settings) {
            Needs::Nothing => Observed::Nothing,
            Needs::Candidates { .. } => Observed::Candidates { namespace_excluded: false, pods: candidates(PODS) },
            Needs::Pods => {
                let open = self.status.iter().flat_map(|status| &status.pods).filter(|entry| entry.state != PodState::Ended);
                Observed::Pods(open.map(|entry| (entry.uid.clone(), self.view(entry))).collect())
            }
        };
        if let Observed::Pods(views) = &mut observed {
            views.extend(refused.clone());
        }
        decide(&experiment, &observed, self.now, &self.settings)
    }

    /// The executor, and what must hold of each thing that it is told to do.
    fn pass(&mut self, until: Until) -> Result<(), TestCaseError> {
        let mut refused = BTreeMap::new();
        for _ in 0..4 {
            let decision = self.decide(&refused);
            refused.clear();
            for injection in &decision.injections {
                let written = self.status.as_ref().and_then(|status| status.pods.iter().find(|entry| entry.uid == injection.uid));
                prop_assert_eq!(written, Some(injection), "injected from what stood in the status before");
                prop_assert_eq!(injection.state, PodState::Planned);
                prop_assert!(self.now < injection.deadline.0, "never past the deadline");
                prop_assert!(!self.deleting);
                let edited = self.status.as_ref().is_some_and(|status| status.observed_generation != Some(self.generation));
                prop_assert!(!edited, "nothing is begun of a spec that is not asked for any more");
            }
            for stop in &decision.stops {
                let written = self.status.as_ref().and_then(|status| status.pods.iter().find(|entry| entry.uid == stop.uid));
                prop_assert_eq!(written, Some(stop), "stopped by what stood in the status before");
                prop_assert!(stop.stop.is_some() && stop.state != PodState::Ended);
            }
            if until == Until::Write {
                return Ok(());
            }
            if let Some(next) = decision.status.clone() {
                self.check_transition(&next)?;
                self.status = Some(next);
            }
            let over = self.status.as_ref().is_none_or(|status| status.phase.is_some_and(Phase::is_final));
            prop_assert!(over || decision.requeue.is_some(), "whatever is waited for, there is a time to look again");
            if until == Until::Patch {
                return Ok(());
            }
            for stop in &decision.stops {
                let pod = &mut self.pods[index(stop)];
                prop_assert!(pod.agents.contains_key(&stop.container), "there is nothing to stop");
                let waiting = AgentState::Waiting { reason: None, message: None };
                prop_assert!(pod.stops.insert(stop.container.clone(), waiting).is_none(), "stopped twice");
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
                let waiting = AgentState::Waiting { reason: None, message: None };
                pod.agents.insert(injection.container.clone(), (injection.clone(), waiting, AgentLog::Silent));
                if until == Until::FirstPatch {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn check_transition(&self, next: &ChaosExperimentStatus) -> Result<(), TestCaseError> {
        let same_run = self.status.as_ref().filter(|status| status.run == next.run);
        let Some(before) = same_run else {
            prop_assert!(self.status.as_ref().is_none_or(|status| status.phase.is_some_and(Phase::is_final)), "a run began in another");
            prop_assert!(next.pods.iter().all(|pod| pod.state == PodState::Planned));
            return Ok(());
        };
        prop_assert_eq!(before.pods.len(), next.pods.len());
        for (was, is) in before.pods.iter().zip(&next.pods) {
            let frozen =
                |pod: &PodStatus| (pod.uid.clone(), pod.container.clone(), pod.image.clone(), pod.argv.clone(), pod.deadline.clone());
            prop_assert_eq!(frozen(was), frozen(is));
            prop_assert!(was.stop.is_none() || was.stop == is.stop, "what stops it is frozen too");
            prop_assert!(was.state <= is.state, "{:?} to {:?}", was.state, is.state);
            prop_assert!(was.state != PodState::Ended || was == is, "nothing comes after the end");
            prop_assert_eq!(is.state == PodState::Ended, is.outcome.is_some());
        }
        Ok(())
    }
}

fn index(entry: &PodStatus) -> usize {
    entry.name.trim_start_matches('p').parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_pod_is_patched_twice_and_each_ends_in_an_outcome(history in vec(happening(), 0..40)) {
        let mut cluster = Cluster::new();
        for happening in &history {
            cluster.happen(happening)?;
        }
        // Then nothing more happens but time.
        for _ in 0..3 {
            cluster.now += jiff::SignedDuration::from_secs(1000);
            cluster.pass(Until::End)?;
        }
        if let Some(status) = &cluster.status {
            prop_assert!(status.phase.is_some_and(Phase::is_final), "{status:?}");
            prop_assert!(status.pods.iter().all(|pod| pod.outcome.is_some()));
            let current = cluster.deleting || status.observed_generation == Some(cluster.generation);
            prop_assert!(current, "an edit was forgotten");
        }
    }
}
