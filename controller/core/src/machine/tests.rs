//! What the machine does, by example: mostly the words that a user reads.

use super::{fixtures::*, *};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{EXCLUDE_LABEL, Outcome, Phase, PodState, SentContainer};
use netloss_contract::{Backend, Event, ExitCode, Failed, LeaseStats, Stage, Ttl};

#[path = "lifecycle_tests.rs"]
mod lifecycle;
#[path = "request_tests.rs"]
mod request;

fn plan(spec: &ChaosExperimentSpec, pods: Vec<Candidate>) -> Decision {
    decide(&experiment(spec, None), &preconditions(pods), at(0), &settings())
}

/// One step of a run whose pods all look the same.
fn step(spec: &ChaosExperimentSpec, status: &ChaosExperimentStatus, view: impl Fn(&PodStatus) -> PodView, now: Timestamp) -> Decision {
    let views = status.pods.iter().map(|entry| (entry.uid.clone(), view(entry))).collect();
    decide(&experiment(spec, Some(status)), &pods(views), now, &settings())
}

fn message(decision: &Decision) -> &str {
    decision.status.as_ref().and_then(|status| status.message.as_deref()).unwrap()
}

fn reasons(decision: &Decision) -> Vec<String> {
    decision.events.iter().map(|event| event.reason.to_string()).collect()
}

#[test]
fn a_plan_freezes_what_the_agent_will_be_told() {
    let decision = plan(&spec(), candidates(3));
    let status = decision.status.unwrap();
    assert!(decision.injections.is_empty(), "nothing is done before it is written down");
    assert_eq!((status.phase, status.run, status.observed_generation), (Some(Phase::Pending), Some(1), Some(1)));
    assert_eq!(status.pods.len(), 2);
    let pod = &status.pods[0];
    assert_eq!((pod.state, pod.image.as_str(), pod.container.as_str()), (PodState::Planned, "agent:1", "network-loss-d-r1-a1"));
    assert_eq!(pod.deadline.0, at(150), "2 min to start, 30 s of loss");
    let argv = "run --model=random --loss=10 --correlation=0 --direction=both --ttl=30s --heartbeat=5s --backend=auto --deadline=2027-01-15T08:02:30Z --run=uid/1";
    assert_eq!(pod.argv.join(" "), argv);
    assert_eq!(status.message.unwrap(), "Injecting 10% packet loss into 2 pod(s)");
}

#[test]
fn a_dry_run_names_the_pods_and_touches_none() {
    let spec = ChaosExperimentSpec { dry_run: Some(true), ..spec() };
    let decision = plan(&spec, candidates(3));
    assert!(decision.injections.is_empty());
    assert_eq!(decision.events.iter().map(|event| event.reason.to_string()).collect::<Vec<_>>(), ["DryRun"]);
    let status = decision.status.unwrap();
    assert_eq!((status.phase, status.pods.len(), status.completed_at.is_some()), (Some(Phase::Completed), 0, true));
    let message = status.message.as_deref().unwrap();
    assert!(message.starts_with("DRY RUN: would inject 10% packet loss (pod-network-loss) into 2 pod(s): "), "{message}");
    // It is over: nothing more is looked at.
    assert_eq!(needs(&experiment(&spec, Some(&status)), at(0), &settings()), Needs::Nothing);
}

#[test]
fn a_share_that_is_too_large_is_refused_with_both_numbers() {
    let with = |max_percentage| plan(&ChaosExperimentSpec { max_percentage, ..spec() }, candidates(3)).status.unwrap();
    let refused = with(Some(66));
    assert_eq!(refused.phase, Some(Phase::Failed));
    let words = "spec.maxPercentage is 66, but 2 of the 3 eligible pods are 67 %: lower spec.count or raise spec.maxPercentage";
    assert_eq!(refused.message.as_deref(), Some(words));
    assert_eq!((with(Some(67)).pods.len(), with(None).pods.len()), (2, 2));
}

#[test]
fn who_requires_a_guard_asks_the_agent_for_it() {
    let backend = |require_guarded, backend| {
        let spec = ChaosExperimentSpec { backend, require_guarded, ..spec() };
        plan(&spec, candidates(3)).status.unwrap().pods[0].argv.iter().find(|argument| argument.starts_with("--backend")).cloned().unwrap()
    };
    assert_eq!(backend(None, None), "--backend=auto");
    assert_eq!(backend(Some(true), None), "--backend=guarded");
    assert_eq!(backend(None, Some(netloss_contract::BackendChoice::Tc)), "--backend=tc");
}

#[test]
fn labels_as_pods_carry_them_are_taken() {
    for (key, value) in [("app", "web"), ("app.kubernetes.io/name", "a_b-c.d"), ("canary", "")] {
        let mut spec = spec();
        spec.selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(matches!(needs(&experiment(&spec, None), at(0), &settings()), Needs::Preconditions { .. }), "{key}={value}");
    }
}

#[test]
fn the_clusters_own_namespaces_are_refused() {
    for namespace in ["kube-system", "kube-public", "netloss-system"] {
        let spec = spec();
        let experiment = Experiment { namespace, ..experiment(&spec, None) };
        let decision = decide(&experiment, &Observed::Nothing, at(0), &settings());
        assert!(message(&decision).starts_with(&format!("experiments in the namespace \"{namespace}\" are refused")));
    }
}

#[test]
fn without_an_eligible_pod_the_reasons_are_told() {
    assert_eq!(message(&plan(&spec(), Vec::new())), "No eligible pods: none in the namespace \"n\" has the labels app=web");
    let mut pods = candidates(5);
    for pod in &mut pods {
        pod.skip = Some(Skip::HostNetwork);
    }
    let decision = plan(&spec(), pods);
    assert_eq!(
        message(&decision),
        "No eligible pods: none of the 5 in the namespace \"n\" with the labels app=web may be acted on \
         (p0: it uses its node's network; p1: it uses its node's network; p2: it uses its node's network; and 2 more)"
    );
    assert_eq!(reasons(&decision), ["Skipped", "Skipped", "Skipped", "Skipped", "Skipped", "ExperimentFailed"]);
    let mut many = candidates(130);
    for pod in &mut many {
        pod.skip = Some(Skip::HostNetwork);
    }
    let told = plan(&spec(), many).events;
    assert_eq!((told.len(), told[100].note.as_str()), (102, "Left alone 30 more pods"));
    let namespace = NamespaceFacts { excluded: true, ..NamespaceFacts::default() };
    let excluded = Observed::Preconditions(Preconditions { namespace, pods: candidates(1), ..Preconditions::default() });
    let decision = decide(&experiment(&spec(), None), &excluded, at(0), &settings());
    assert_eq!(message(&decision), format!("No eligible pods: the namespace \"n\" carries the label {EXCLUDE_LABEL}"));
}

#[test]
fn a_run_goes_through_its_phases() {
    let spec = spec();
    let planned = planned(&spec, 1);
    let injecting = step(&spec, &planned, |_| BARE, at(1));
    assert_eq!(injecting.status, None);
    assert_eq!(injecting.injections, planned.pods);

    let adopted = step(&spec, &planned, |entry| agent(entry, AgentState::Waiting { made: false, reason: None, message: None }), at(2));
    assert_eq!((adopted.injections.len(), reasons(&adopted)), (0, Vec::new()));
    let injected = adopted.status.unwrap();
    assert_eq!((injected.phase, injected.pods[0].state), (Some(Phase::Pending), PodState::Injected));
    assert_eq!(injected.affected_pods, ["n/p0:network-loss-d-r1-a1"]);

    let begun = |entry: &PodStatus| present(agent_view(entry, AgentState::Running, log_of(applied(), at(10))));
    let running = step(&spec, &injected, begun, at(11));
    assert_eq!(reasons(&running), ["ChaosNetworkLossInjected", "ExperimentStarted"]);
    assert_eq!(message(&running), "Successfully injected 10% packet loss into 1 pod(s); only 1 of the 2 pods asked for were eligible");
    let running = running.status.unwrap();
    assert_eq!((running.phase, running.pods[0].interface.as_deref()), (Some(Phase::Running), Some("eth0")));

    let ended = step(&spec, &running, |entry| agent(entry, terminated(0, Some(removed()))), at(41));
    assert_eq!((reasons(&ended), ended.requeue), (vec!["Recovered".to_owned(), "ExperimentSucceeded".to_owned()], None));
    let completed = ended.status.unwrap();
    assert_eq!((completed.phase, completed.pods[0].outcome), (Some(Phase::Completed), Some(Outcome::Clean)));
    assert!(completed.message.as_deref().unwrap().starts_with("Successfully injected 10% packet loss into 1 pod(s); it has ended"));
    let egress = completed.pods[0].observed.unwrap().egress.unwrap();
    assert_eq!((egress.packets, egress.dropped, egress.loss_percentage), (1000, 98, Some(9.8)));

    let over = Decision { finalizer: Some(false), ..Decision::default() };
    assert_eq!(step(&spec, &completed, |_| BARE, at(100_000)), over, "one run for each version of the spec");
    let spec = changed();
    let edited = Experiment { generation: 2, ..experiment(&spec, Some(&completed)) };
    let again = decide(&edited, &preconditions(candidates(1)), at(100), &settings());
    assert_eq!(again.status.unwrap().pods[0].container, "network-loss-d-r2-a1");
}

#[test]
fn a_node_whose_clock_is_wrong_is_told_of() {
    let spec = spec();
    let skew = |applied_at: Timestamp, seen: Timestamp| {
        let view = |entry: &PodStatus| present(agent_view(entry, AgentState::Running, log_of(applied(), applied_at)));
        let decision = step(&spec, &planned(&spec, 1), view, seen);
        decision.events.into_iter().find(|event| event.reason.to_string() == "ClockSkew").map(|event| event.note)
    };
    assert_eq!(skew(at(10), at(12)), None);
    assert_eq!(skew(at(10), at(100)), None, "seen late");
    let words = "The clock of node unknown is at least 8 s ahead of the controller's: check that both are synchronised";
    assert_eq!(skew(at(20), at(12)).as_deref(), Some(words));
    let words = "The clock of node unknown is at least 3600 s behind the controller's: check that both are synchronised";
    assert_eq!(skew(at(-3600), at(12)).as_deref(), Some(words));
}

/// What the spec is edited to.
fn changed() -> ChaosExperimentSpec {
    ChaosExperimentSpec { loss_percentage: 20.0, ..spec() }
}

/// The agent of an edited experiment's only pod, and what was sent to stop it.
fn edited(status: &ChaosExperimentStatus, state: &AgentState, stop: Option<&AgentState>) -> Decision {
    let spec = changed();
    let view = |entry: &PodStatus| present(AgentView { stop: stop.cloned(), ..agent_view(entry, state.clone(), AgentLog::NotApplied) });
    let views = status.pods.iter().map(|entry| (entry.uid.clone(), view(entry))).collect();
    let edited = Experiment { generation: 2, ..experiment(&spec, Some(status)) };
    decide(&edited, &pods(views), at(5), &settings())
}

/// Written down, put in, waited for; and then the spec that is asked for now begins.
#[test]
fn an_edit_during_a_run_stops_it_first() {
    let begun = step(&spec(), &planned(&spec(), 1), |entry| agent(entry, AgentState::Running), at(4)).status.unwrap();
    let written = edited(&begun, &AgentState::Running, None);
    assert!(
        message(&written).ends_with("; the spec was edited: this run is stopped, and a new one begins after it"),
        "{}",
        message(&written)
    );
    assert!(written.stops.is_empty(), "nothing is done before it is written down");
    let stopping = written.status.unwrap();
    let stop = stopping.pods[0].stop.clone().unwrap();
    assert_eq!(stop.container, format!("{}-stop", stopping.pods[0].container));
    let deadline = format!("--deadline={}", at(125));
    assert_eq!(stop.argv, ["stop", "--json", "--timeout=30s", "--run=uid/1", &deadline]);

    let put_in = edited(&stopping, &AgentState::Running, None);
    assert_eq!((put_in.stops, put_in.status), (stopping.pods.clone(), None));
    let waiting = edited(&stopping, &AgentState::Running, Some(&AgentState::Waiting { made: false, reason: None, message: None }));
    assert!(waiting.stops.is_empty() && waiting.requeue.is_some());
    let blocked = AgentState::Waiting { made: false, reason: Some("ErrImagePull".to_owned()), message: None };
    let words = edited(&stopping, &AgentState::Running, Some(&blocked));
    assert!(message(&words).contains("p0: what was sent to stop the agent does not start: ErrImagePull"), "{}", message(&words));
    let failed = edited(&stopping, &AgentState::Running, Some(&terminated(1, None)));
    assert!(message(&failed).contains("ended with exit code 1: the loss ends at its time"), "{}", message(&failed));
    let hangs = edited(&stopping, &AgentState::Running, Some(&terminated(9, None))).status.unwrap();
    assert!(hangs.pods[0].repair.as_ref().unwrap().argv.contains(&"--force".to_owned()), "one that hangs is repaired");

    let not_yet = edited(&stopping, &terminated(0, Some(removed())), Some(&AgentState::Running));
    assert!(not_yet.status.is_none_or(|status| status.pods[0].state != PodState::Ended), "the pod is not free yet");
    let ended = edited(&stopping, &terminated(0, Some(removed())), Some(&terminated(0, None))).status.unwrap();
    assert_eq!((ended.phase, ended.observed_generation), (Some(Phase::Completed), Some(1)));
    let spec = changed();
    let next = Experiment { generation: 2, ..experiment(&spec, Some(&ended)) };
    assert!(matches!(needs(&next, at(0), &settings()), Needs::Preconditions { .. }), "the edit begins a run");
}

/// One that has not started cannot be asked to stop: nobody would hear it, and it would begin afterwards.
#[test]
fn an_agent_that_has_not_started_is_stopped_once_it_has() {
    let waiting = AgentState::Waiting { made: false, reason: None, message: None };
    let decision = edited(&planned(&spec(), 1), &waiting, None);
    assert!(decision.stops.is_empty() && decision.status.unwrap().pods[0].stop.is_none());
}

#[test]
fn an_edit_before_the_agent_is_in_begins_nothing() {
    let (spec, planned) = (changed(), planned(&spec(), 1));
    let edited = Experiment { generation: 2, ..experiment(&spec, Some(&planned)) };
    let decision = decide(&edited, &pods(BTreeMap::from([(planned.pods[0].uid.clone(), BARE)])), at(1), &settings());
    assert!(decision.injections.is_empty());
    assert!(message(&decision).contains("the spec was edited before the agent could be put in"), "{}", message(&decision));
}

/// A controller that was slow, or that is dead by now, may have sent it: found by the model check, with two controllers and a pause.
#[test]
fn an_agent_that_may_be_on_its_way_is_waited_for() {
    let (spec, planned) = (changed(), planned(&spec(), 1));
    let look = |status: &ChaosExperimentStatus, finalized, view: PodView, now| {
        let edited = Experiment { generation: 2, finalized, ..experiment(&spec, Some(status)) };
        decide(&edited, &pods(BTreeMap::from([(status.pods[0].uid.clone(), view)])), now, &settings())
    };
    let ended = |decision: &Decision| decision.status.as_ref().map(|status| status.pods[0].outcome);
    let nobody_can = look(&planned, false, BARE, at(1));
    assert_eq!(ended(&nobody_can), Some(Some(Outcome::NeverStarted)), "without the finalizer nobody sends one");

    let first = look(&planned, true, BARE, at(1));
    assert_eq!((ended(&first), first.finalizer, first.stops.len()), (Some(None), None, 0));
    let waits = first.status.unwrap();
    assert_eq!((waits.pods[0].state, waits.pods[0].stop.as_ref().map(|stop| stop.deadline.0)), (PodState::Planned, Some(at(121))));
    assert!(waits.message.as_deref().unwrap().contains("one may be on its way until"), "{:?}", waits.message);
    let again = look(&waits, true, BARE, at(120));
    assert_eq!((again.status, again.requeue.is_some()), (None, true), "nothing has changed");

    let arrived = look(&waits, true, agent(&waits.pods[0], AgentState::Running), at(100));
    assert_eq!((arrived.stops.len(), arrived.status.unwrap().pods[0].state), (1, PodState::Injected), "adopted, and stopped");
    let over = look(&waits, true, BARE, at(121));
    assert_eq!((ended(&over), over.finalizer), (Some(Some(Outcome::NeverStarted)), Some(false)));
}

/// The outcome and the words of the only pod of a run, and the phase that follows. What is sent to repair it fails.
fn end(view: impl Fn(&PodStatus) -> PodView, now: Timestamp) -> (Outcome, String, Phase) {
    let spec = spec();
    let mut status = step(&spec, &planned(&spec, 1), &view, now).status.unwrap();
    if status.pods[0].repair.is_some() {
        let repaired = |entry: &PodStatus| match view(entry) {
            PodView::Present { agent: Some(agent), .. } => present(AgentView { repair: Some(terminated(1, None)), ..*agent }),
            other => other,
        };
        status = step(&spec, &status, repaired, now).status.unwrap();
    }
    let pod = &status.pods[0];
    assert_eq!(pod.state, PodState::Ended, "{pod:?}");
    assert!(pod.ended_at.is_some() && status.completed_at.is_some());
    (pod.outcome.unwrap(), pod.message.clone().unwrap_or_default(), status.phase.unwrap())
}

#[test]
fn every_end_has_an_outcome_and_a_reason() {
    let failed = |exit: ExitCode, left: &[&str]| {
        let left = left.iter().map(|&left| left.to_owned()).collect();
        Some(Event::Failed(Failed { stage: Stage::Plan, message: "why".to_owned(), exit, left, holder: None }))
    };
    let shortened = || match removed() {
        Event::Removed(mut removed) => {
            removed.elapsed_seconds = 12.0;
            removed.cause = netloss_contract::Cause::Sigterm;
            Some(Event::Removed(removed))
        }
        _ => None,
    };
    let degraded = || match removed() {
        Event::Removed(mut removed) => {
            removed.backend = Backend::Guarded;
            removed.kept = Some(LeaseStats { armed_seconds: 20.0, lapses: 2, degraded: true, trouble: None });
            Some(Event::Removed(removed))
        }
        _ => None,
    };
    let guarded = || match applied() {
        Event::Applied(mut applied) => {
            (applied.backend, applied.unguarded) = (Backend::Guarded, false);
            Some(Event::Applied(applied))
        }
        _ => None,
    };
    let overdue = at(150 + 60);
    let waiting =
        |reason: &str| AgentState::Waiting { made: false, reason: Some(reason.to_owned()), message: Some("not found".to_owned()) };
    let oom = AgentState::Terminated { exit_code: 137, reason: Some("OOMKilled".to_owned()), message: None, last: None };
    let start_error =
        AgentState::Terminated { exit_code: 128, reason: Some("StartError".to_owned()), message: Some("no file".to_owned()), last: None };
    let unrepaired = "what was to repair it ended with exit code 1: loss may remain until the pod ends";
    let killed = &format!("the agent ended without its report (exit code 137); {unrepaired}");
    for (state, now, outcome, words, phase) in [
        (terminated(0, Some(removed())), at(40), Outcome::Clean, "", Phase::Completed),
        (terminated(0, shortened()), at(40), Outcome::Shortened, "the loss lasted 12.0 s of 30s: ended by sigterm", Phase::Completed),
        (
            terminated(0, degraded()),
            at(40),
            Outcome::Degraded,
            "packets were lost for 20.0 s of 30.0 s: the agent got too little processor time (its lease lapsed 2 time(s))",
            Phase::Completed,
        ),
        (
            terminated(137, guarded()),
            at(9),
            Outcome::Unknown,
            "the agent ended without its report (exit code 137); what was to repair it ended with exit code 1: the kernel ends a guarded loss \
             without it, within seconds at the latest",
            Phase::Completed,
        ),
        (terminated(4, failed(ExitCode::Refused, &[])), at(9), Outcome::Failed, "why", Phase::Failed),
        (terminated(5, failed(ExitCode::DeadlinePassed, &[])), at(9), Outcome::NeverStarted, "why", Phase::Failed),
        (
            terminated(7, failed(ExitCode::Incomplete, &["qdisc"])),
            at(9),
            Outcome::Unknown,
            &format!("why: qdisc; {unrepaired}"),
            Phase::Failed,
        ),
        (terminated(137, Some(heartbeat())), at(9), Outcome::Unknown, killed, Phase::Completed),
        (terminated(137, None), at(9), Outcome::Unknown, killed, Phase::Failed),
        (
            oom,
            at(9),
            Outcome::Unknown,
            &format!("the agent ended without its report (exit code 137, OOMKilled); {unrepaired}"),
            Phase::Failed,
        ),
        (
            terminated(0, None),
            at(9),
            Outcome::Unknown,
            &format!("the agent ended without its report (exit code 0); {unrepaired}"),
            Phase::Failed,
        ),
        (terminated(3, None), at(9), Outcome::Failed, "another agent works in the pod (exit code 3, no report)", Phase::Failed),
        (start_error, at(9), Outcome::NeverStarted, "the agent could not be started: no file", Phase::Failed),
        (
            waiting("ImagePullBackOff"),
            overdue,
            Outcome::NeverStarted,
            "the agent did not start before its deadline: ImagePullBackOff: not found",
            Phase::Failed,
        ),
        (
            AgentState::Running,
            overdue,
            Outcome::Unknown,
            &format!("the agent is still running after its deadline; {unrepaired}"),
            Phase::Failed,
        ),
    ] {
        let (is, said, then) = end(|entry| agent(entry, state.clone()), now);
        assert_eq!((is, said.as_str(), then), (outcome, words, phase), "{state:?}");
    }
}

/// containerd, killed while it starts a container, kills that when it is there again, and says that it was never started.
#[test]
fn what_may_have_died_unseen_is_repaired() {
    let made = AgentState::Waiting { made: true, reason: None, message: None };
    let (outcome, words, _) = end(|entry| agent(entry, made.clone()), at(150 + 60));
    assert_eq!(outcome, Outcome::Unknown);
    assert!(words.starts_with("the agent's container was made and never seen to start"), "{words}");
    assert!(words.ends_with("loss may remain until the pod ends"), "{words}");
    let sent = step(&spec(), &planned(&spec(), 1), |entry| agent(entry, made.clone()), at(150 + 60)).status.unwrap();
    assert!(sent.pods[0].repair.is_some() && sent.pods[0].outcome.is_none(), "what is to repair it is sent: {:?}", sent.pods[0]);
    let asked = |backend: &str| PodStatus { argv: vec!["run".to_owned(), format!("--backend={backend}")], ..entry() };
    assert!(asked("guarded").ends_by_itself() && !asked("auto").ends_by_itself(), "an agent brings no other than it is told to");
}

/// A loss of seconds is counted in renewals of its lease, which the agent allows for.
#[test]
fn what_is_degraded_is_for_the_agent_to_say() {
    let Event::Removed(mut report) = removed() else { panic!() };
    report.kept = Some(LeaseStats { armed_seconds: 27.0, lapses: 0, degraded: false, trouble: None });
    let (outcome, ..) = end(|entry| agent(entry, terminated(0, Some(Event::Removed(report.clone())))), at(40));
    assert_eq!(outcome, Outcome::Clean);
}

/// Arguments that are kept in a plan are not in the status that others read.
#[test]
fn that_the_kernel_ends_a_loss_is_written_down_when_nobody_knows_its_end() {
    let spec = ChaosExperimentSpec { require_guarded: Some(true), ..spec() };
    let late = |entry: &PodStatus| agent(entry, AgentState::Waiting { made: true, reason: None, message: None });
    let mut status = planned(&spec, 1);
    for hour in 1..4 {
        status = step(&spec, &status, late, at(3600 * hour)).status.unwrap_or(status);
    }
    assert_eq!((status.pods[0].outcome, status.pods[0].unguarded), (Some(Outcome::Unknown), Some(false)), "{status:?}");
    let stored = PodStatus { argv: Vec::new(), plan: Some("plan".to_owned()), ..status.pods[0].clone() };
    assert!(!stored.may_be_impaired());
}

/// The experiment was deleted while the controller was down, after each agent had completed its whole duration.
#[test]
fn a_run_that_was_over_before_it_was_to_stop_went_as_asked() {
    let spec = spec();
    let running = planned(&spec, 2);
    let views = |last: &PodStatus| {
        let view = |entry: &PodStatus| {
            let ended = if entry.uid == last.uid { terminated(0, Some(removed())) } else { terminated(4, None) };
            (entry.uid.clone(), agent(entry, ended))
        };
        running.pods.iter().map(view).collect::<BTreeMap<_, _>>()
    };
    let deleting = Experiment { deleting: true, ..experiment(&spec, Some(&running)) };
    let all = running.pods.iter().map(|entry| (entry.uid.clone(), agent(entry, terminated(0, Some(removed()))))).collect();
    let over = decide(&deleting, &pods(all), at(40), &settings()).status.unwrap();
    assert_eq!((over.stopping, crate::history::result(&over)), (None, netloss_api::RunResult::Success), "{over:?}");
    let other = decide(&deleting, &pods(views(&running.pods[0])), at(40), &settings()).status.unwrap();
    assert_eq!(other.stopping, Some(netloss_api::Stopping::Deleted));
}

/// Whoever may write a status may not write events everywhere.
#[test]
fn an_entry_of_another_namespace_has_no_event_there() {
    let spec = spec();
    let mut forged = planned(&spec, 1);
    forged.pods[0].namespace = "kube-system".to_owned();
    forged.pods[0].uid = "made-up".to_owned();
    forged.pods[0].container = "made-up".to_owned();
    let decision = step(&spec, &forged, |entry| agent(entry, AgentState::Running), at(5));
    assert_eq!(decision.status.as_ref().unwrap().pods[0].outcome, Some(Outcome::Unknown));
    assert!(
        !decision.events.is_empty() && !decision.events.iter().any(|event| matches!(event.about, About::Pod(_))),
        "{:?}",
        decision.events
    );
}

/// Its applications may go on for hours in a network that loses packets.
#[test]
fn a_killed_agent_of_a_terminating_pod_is_not_forgotten_while_the_pod_is_there() {
    let spec = spec();
    let terminating = |entry: &PodStatus| {
        let agent = agent_view(entry, terminated(137, None), AgentLog::NotRead);
        PodView::Present { skip: Some(Skip::Terminating), new_sandbox: false, agent: Some(Box::new(agent)) }
    };
    let running = |unguarded| {
        let mut status = planned(&spec, 1);
        (status.pods[0].state, status.pods[0].applied_at) = (PodState::Applied, Some(Time(at(1))));
        status.pods[0].unguarded = Some(unguarded);
        status
    };
    let open = step(&spec, &running(true), terminating, at(5)).status.unwrap();
    assert!(open.pods[0].is_open(), "{open:?}");
    assert!(open.message.as_ref().unwrap().contains("the pod is terminating: loss may remain until it is gone"), "{:?}", open.message);
    let gone = step(&spec, &open, |_| PodView::Gone, at(6)).status.unwrap();
    assert_eq!(gone.pods[0].outcome, Some(Outcome::PodEnded));
    let overdue = step(&spec, &open, terminating, at(3600)).status.unwrap();
    assert!(overdue.pods[0].may_be_impaired(), "{overdue:?}");
    let guarded = step(&spec, &running(false), terminating, at(5)).status.unwrap();
    assert_eq!(guarded.pods[0].outcome, Some(Outcome::PodEnded));
}

#[test]
fn a_pod_that_never_got_its_agent_has_a_reason() {
    let present = |skip| PodView::Present { skip: Some(skip), new_sandbox: false, agent: None };
    for (view, now, outcome, words) in [
        (PodView::Gone, at(1), Outcome::PodEnded, "the pod is gone"),
        (PodView::Replaced, at(1), Outcome::PodEnded, "the pod is gone, and another has its name"),
        (present(Skip::Terminating), at(1), Outcome::PodEnded, "it is terminating"),
        (BARE, at(150), Outcome::NeverStarted, "its deadline passed before the agent could be put in"),
        (PodView::Refused("no\nNET_ADMIN".to_owned()), at(1), Outcome::Failed, "the API server refused the agent: no NET_ADMIN"),
        (
            PodView::Unreadable("forbidden".to_owned()),
            at(210),
            Outcome::Unknown,
            "it could not be read until after its deadline: forbidden",
        ),
    ] {
        let (is, said, phase) = end(|_| view.clone(), now);
        assert_eq!((is, said.as_str(), phase), (outcome, words, Phase::Failed), "{view:?}");
    }
    let (spec, planned) = (spec(), planned(&spec(), 1));
    let views = BTreeMap::from([(planned.pods[0].uid.clone(), present(Skip::Excluded))]);
    let nobody_can_have_sent_it = Experiment { finalized: false, ..experiment(&spec, Some(&planned)) };
    let status = decide(&nobody_can_have_sent_it, &pods(views), at(1), &settings()).status.unwrap();
    let words = Some("it carries the label chaos.gushchin.dev/exclude");
    assert_eq!((status.pods[0].outcome, status.pods[0].message.as_deref()), (Some(Outcome::NeverStarted), words));
}

#[test]
fn a_container_of_that_name_with_other_arguments_is_not_adopted() {
    let foreign =
        AgentView { args: vec!["run".to_owned()], state: AgentState::Running, log: AgentLog::NotApplied, stop: None, repair: None };
    let (outcome, words, _) = end(|_| PodView::Present { skip: None, new_sandbox: false, agent: Some(Box::new(foreign.clone())) }, at(1));
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(words, "the pod already has a container network-loss-d-r1-a1 with other arguments: it was left alone");
}

#[test]
fn what_stands_in_the_way_shows_in_the_message() {
    let spec = spec();
    let waiting =
        AgentState::Waiting { made: false, reason: Some("ImagePullBackOff".to_owned()), message: Some("back-off 10s".to_owned()) };
    let decision = step(&spec, &planned(&spec, 2), |entry| agent(entry, waiting.clone()), at(5));
    assert_eq!(message(&decision), "Injecting 10% packet loss into 2 pod(s); p0: ImagePullBackOff; p1: ImagePullBackOff");
    assert_eq!(decision.requeue, Some(Duration::from_mins(1)));
}

#[test]
fn a_deleted_experiment_begins_nothing_and_follows_what_it_began() {
    let spec = spec();
    let deleting = |status| Experiment { deleting: true, ..experiment(&spec, status) };
    assert_eq!(needs(&deleting(None), at(0), &settings()), Needs::Nothing);
    let planned = planned(&spec, 2);
    let views =
        BTreeMap::from([(planned.pods[0].uid.clone(), BARE), (planned.pods[1].uid.clone(), agent(&planned.pods[1], AgentState::Running))]);
    let decision = decide(&deleting(Some(&planned)), &pods(views), at(1), &settings());
    assert!(decision.injections.is_empty());
    let states: Vec<PodState> = decision.status.unwrap().pods.iter().map(|pod| pod.state).collect();
    assert_eq!(states, [PodState::Planned, PodState::Injected], "the first may be on its way");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut other = spec();
    other.action = netloss_api::Action::PodKill;
    assert_eq!(needs(&experiment(&other, None), at(0), &settings()), Needs::Nothing);
    assert_eq!(decide(&experiment(&other, None), &Observed::Nothing, at(0), &settings()), Decision::default());
    // k8s-chaos numbers no runs.
    let theirs = ChaosExperimentStatus { phase: Some(Phase::Completed), ..ChaosExperimentStatus::default() };
    assert_eq!(decide(&experiment(&spec(), Some(&theirs)), &Observed::Nothing, at(0), &settings()), Decision::default());
}

#[test]
fn the_longest_run_has_a_deadline() {
    let mut spec = spec();
    spec.duration = Some("168h".to_owned());
    let status = planned(&spec, 1);
    assert_eq!(status.pods[0].deadline.0, at(120 + i64::try_from(Ttl::MAX.as_secs()).unwrap()));
}

#[test]
fn an_entry_that_somebody_else_wrote_is_not_acted_on() {
    let spec = spec();
    for forge in [
        (|entry| entry.container = "debugger".to_owned()) as fn(&mut PodStatus),
        |entry| entry.argv = vec!["sh".to_owned()],
        |entry| entry.argv.retain(|word| !word.starts_with("--run=")),
        |entry| {
            entry.stop =
                Some(SentContainer { container: "debugger".to_owned(), argv: vec!["run".to_owned()], deadline: Time(at(9)), number: 1 });
        },
    ] {
        let mut status = planned(&spec, 1);
        forge(&mut status.pods[0]);
        let decision = step(&spec, &status, |_| BARE, at(1));
        assert!(decision.injections.is_empty());
        assert!(message(&decision).contains("somebody else has written it"), "{}", message(&decision));
    }
}

/// A spec with much that can be forged: filters, excluded addresses, a short duration.
fn narrow() -> ChaosExperimentSpec {
    ChaosExperimentSpec {
        target_cidrs: Some(vec!["10.0.0.0/8".to_owned()]),
        spare_node: Some(true),
        direction: netloss_contract::Direction::Egress,
        count: 1,
        ..spec()
    }
}

/// What is forged, and how.
type Forge<'a> = (&'a str, &'a dyn Fn(&mut ChaosExperimentStatus));

#[test]
fn an_entry_puts_in_no_more_than_the_spec_gives() {
    let spec = narrow();
    let honest = planned(&spec, 1);
    assert_eq!(step(&spec, &honest, |_| BARE, at(1)).injections, honest.pods);
    let set = |pod: &mut PodStatus, name: &str, value: &str| {
        let at = pod.argv.iter().position(|argument| argument.starts_with(name)).unwrap();
        pod.argv[at] = format!("{name}{value}");
    };
    let forged: &[Forge<'_>] = &[
        ("loss", &|status| set(&mut status.pods[0], "--loss=", "100")),
        ("loss in status too", &|status| {
            set(&mut status.pods[0], "--loss=", "100");
            status.pods[0].asked.loss_percentage = 100.0;
        }),
        ("what status shows", &|status| status.pods[0].asked.loss_percentage = 1.0),
        ("duration", &|status| set(&mut status.pods[0], "--ttl=", "168h")),
        ("duration in status too", &|status| {
            set(&mut status.pods[0], "--ttl=", "168h");
            status.pods[0].asked.duration = "168h".to_owned();
        }),
        ("deadline", &|status| {
            let week = at(7 * 86_400);
            set(&mut status.pods[0], "--deadline=", &week.to_string());
            status.pods[0].deadline = Time(week);
        }),
        ("direction", &|status| set(&mut status.pods[0], "--direction=", "both")),
        ("filters", &|status| status.pods[0].argv.retain(|argument| !argument.starts_with("--target="))),
        ("another filter", &|status| set(&mut status.pods[0], "--target=", "any")),
        ("an interface", &|status| status.pods[0].argv.push("--interface=lo".to_owned())),
        ("the host's network", &|status| status.pods[0].argv.push("--allow-host-network".to_owned())),
        ("a second backend", &|status| status.pods[0].argv.push("--backend=tc".to_owned())),
        ("heartbeat", &|status| set(&mut status.pods[0], "--heartbeat=", "1h")),
        ("another attempt", &|status| {
            status.pods[0].attempt = 7;
            status.pods[0].container = netloss_contract::container_name("uid", 1, 7);
        }),
        ("more pods than spec.count", &|status| {
            let other = PodStatus { uid: "pod-uid-9".to_owned(), name: "p9".to_owned(), ..status.pods[0].clone() };
            status.pods.push(other);
        }),
        ("namespace", &|status| status.pods[0].namespace = "kube-system".to_owned()),
        ("image", &|status| status.pods[0].image = "evil/agent:1".to_owned()),
    ];
    for (what, forge) in forged {
        for with_preflight in [true, false] {
            let mut status = honest.clone();
            status.conditions.retain(|_| with_preflight);
            forge(&mut status);
            let decision = step(&spec, &status, |_| BARE, at(1));
            assert!(decision.injections.is_empty() && decision.preflight.is_empty(), "{what}: {:?}", decision.injections);
            assert!(
                message(&decision).contains("wrote it") || message(&decision).contains("has written it"),
                "{what}: {}",
                message(&decision)
            );
            let is_told = decision.events.iter().any(|event| event.severity == Severity::Warning);
            assert!(is_told, "{what}: {:?}", decision.events);
        }
    }
    // What the spec forbids now, whatever the plan says.
    let closed = r#"[{ "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z", "type": "Absolute" }]"#;
    for changed in [
        ChaosExperimentSpec { dry_run: Some(true), ..narrow() },
        ChaosExperimentSpec { maintenance_windows: None, time_windows: serde_json::from_str(closed).unwrap(), ..narrow() },
    ] {
        let mut status = honest.clone();
        status.observed_spec = Some(changed.fingerprint());
        assert!(step(&changed, &status, |_| BARE, at(1)).injections.is_empty(), "{changed:?}");
    }
}

#[test]
fn a_pod_that_the_spec_does_not_select_is_left_alone() {
    let spec = spec();
    for skip in [Skip::NotSelected, Skip::OtherNodeAddresses] {
        let view = PodView::Present { skip: Some(skip.clone()), new_sandbox: false, agent: None };
        let decision = step(&spec, &planned(&spec, 1), |_| view.clone(), at(1));
        assert!(decision.injections.is_empty());
        assert!(message(&decision).contains(&skip.to_string()), "{}", message(&decision));
    }
}

/// The node's clock is behind, and a window ends: by that clock the deadline is still to come. The agent answers the cleanup, and goes on.
#[test]
fn an_agent_that_outlives_its_deadline_and_answers_is_followed_to_its_end() {
    let spec = ChaosExperimentSpec { duration: Some("10m".to_owned()), ..spec() };
    let guarded = || match applied() {
        Event::Applied(mut applied) => {
            (applied.backend, applied.unguarded) = (Backend::Guarded, false);
            Event::Applied(applied)
        }
        other => panic!("{other:?}"),
    };
    let mut status = planned(&spec, 1);
    // As if the window had ended after a minute.
    let deadline = Time(at(60));
    status.pods[0].argv = status.pods[0]
        .argv
        .iter()
        .map(|word| if word.starts_with("--deadline=") { format!("--deadline={}", deadline.0) } else { word.clone() })
        .collect();
    status.pods[0].deadline = deadline;
    let running = |entry: &PodStatus, stop: Option<AgentState>, repair: Option<AgentState>| {
        present(AgentView { stop, repair, ..agent_view(entry, AgentState::Running, log_of(guarded(), at(10))) })
    };
    let status = step(&spec, &status, |entry| running(entry, None, None), at(12)).status.unwrap();
    let overdue = step(&spec, &status, |entry| running(entry, None, None), at(121)).status.unwrap();
    assert!(overdue.pods[0].repair.is_some(), "one that hangs is repaired");
    let answered = || Some(terminated(3, None));
    let open = step(&spec, &overdue, |entry| running(entry, None, answered()), at(130)).status.unwrap();
    assert_eq!((open.pods[0].state, open.condition(netloss_api::RECOVERED).unwrap().status.as_str()), (PodState::Applied, "False"));
    assert!(open.message.as_deref().unwrap().contains("the clock of its node is behind"), "{:?}", open.message);
    let stop = open.pods[0].stop.clone().expect("it is asked to end");
    assert!(stop.deadline.0 > at(130), "in time");
    let put_in = step(&spec, &open, |entry| running(entry, None, answered()), at(131));
    assert_eq!(put_in.stops.len(), 1);
    let waits = step(&spec, &open, |entry| running(entry, Some(AgentState::Running), answered()), at(300));
    assert!(waits.status.is_none_or(|status| status.pods[0].is_open()));
    let ended = |entry: &PodStatus| {
        present(AgentView {
            stop: Some(terminated(0, None)),
            repair: answered(),
            ..agent_view(entry, terminated(0, Some(removed())), AgentLog::NotRead)
        })
    };
    let over = step(&spec, &open, ended, at(310)).status.unwrap();
    assert_eq!((over.pods[0].outcome, over.phase), (Some(Outcome::Shortened), Some(Phase::Completed)));
    // One that is killed then is cleaned up after: the first cleanup had found it at work.
    let killed = |entry: &PodStatus| {
        present(AgentView { stop: None, repair: answered(), ..agent_view(entry, terminated(137, None), AgentLog::NotRead) })
    };
    let again = step(&spec, &open, killed, at(310)).status.unwrap();
    let repair = again.pods[0].repair.clone().unwrap();
    assert_eq!((repair.number, repair.container.ends_with("-repair-2")), (2, true));
    // Whatever the kubelet shows, there is an end to it: its ttl after it answered.
    let given_up =
        step(&spec, &open, |entry| running(entry, Some(AgentState::Running), answered()), at(121 + 120 + 600 + 120 + 1)).status.unwrap();
    assert_eq!(given_up.pods[0].outcome, Some(Outcome::Unknown));
}

/// The kubelet rotates logs: the new one is empty for a moment.
#[test]
fn one_empty_look_at_a_log_repairs_nothing() {
    let spec = ChaosExperimentSpec { duration: Some("10m".to_owned()), ..spec() };
    let with_log = |entry: &PodStatus, log: AgentLog| present(agent_view(entry, AgentState::Running, log));
    let status = step(&spec, &planned(&spec, 1), |entry| with_log(entry, log_of(applied(), at(3))), at(4)).status.unwrap();
    let mute = step(&spec, &status, |entry| with_log(entry, AgentLog::Stale), at(20)).status.unwrap();
    assert_eq!((mute.pods[0].silent, &mute.pods[0].repair), (Some(true), &None));
    let not_read = step(&spec, &mute, |entry| with_log(entry, AgentLog::NotRead), at(21));
    assert!(not_read.status.is_none_or(|status| status.pods[0].repair.is_none()) && not_read.requeue.is_some());
    let heard = step(&spec, &mute, |entry| with_log(entry, AgentLog::Heartbeat(None)), at(31)).status.unwrap();
    assert_eq!((heard.pods[0].silent, &heard.pods[0].repair), (None, &None));
    let again = step(&spec, &mute, |entry| with_log(entry, AgentLog::Stale), at(31)).status.unwrap();
    assert!(again.pods[0].repair.is_some(), "the second one counts");
}

#[test]
fn an_ended_agent_waits_for_what_stops_it_no_longer_than_that_can_start() {
    let spec = ChaosExperimentSpec { duration: Some("1h".to_owned()), ..spec() };
    let running = step(&spec, &planned(&spec, 1), |entry| agent(entry, AgentState::Running), at(4)).status.unwrap();
    let paused = ChaosExperimentSpec { paused: Some(true), ..spec };
    let stopping = step(&paused, &running, |entry| agent(entry, AgentState::Running), at(5)).status.unwrap();
    assert_eq!(stopping.pods[0].stop.as_ref().map(|stop| stop.deadline.0), Some(at(125)));
    let blocked = AgentState::Waiting { made: false, reason: Some("ImagePullBackOff".to_owned()), message: None };
    let view = |entry: &PodStatus| {
        present(AgentView { stop: Some(blocked.clone()), ..agent_view(entry, terminated(0, Some(removed())), AgentLog::NotRead) })
    };
    assert!(step(&paused, &stopping, view, at(184)).status.is_none_or(|status| status.pods[0].is_open()), "it may still start");
    let ended = step(&paused, &stopping, view, at(185)).status.unwrap();
    assert!(!ended.pods[0].is_open(), "{:?}", ended.pods[0]);
}

/// They have an agent's rights, and are in the pod for good.
#[test]
fn what_is_sent_after_an_agent_has_the_arguments_that_this_controller_writes() {
    let running = step(&spec(), &planned(&spec(), 1), |entry| agent(entry, AgentState::Running), at(4)).status.unwrap();
    let stopping = edited(&running, &AgentState::Running, None).status.unwrap();
    let honest = stopping.pods[0].stop.clone().unwrap();
    for forge in [
        (|stop: &mut SentContainer| stop.argv.push("--timeout=168h".to_owned())) as fn(&mut SentContainer),
        |stop| stop.argv = vec!["stop".to_owned(), "--run=uid/1".to_owned()],
        |stop| stop.deadline = Time(at(7 * 86_400)),
        |stop| (stop.number, stop.container) = (9, netloss_contract::stop_container_name("uid", 1, 1, 9)),
    ] {
        let mut status = stopping.clone();
        forge(status.pods[0].stop.as_mut().unwrap());
        let decision = edited(&status, &AgentState::Running, None);
        assert!(decision.stops.is_empty());
        assert_eq!(decision.status.unwrap().pods[0].stop, Some(honest.clone()), "it is written again");
    }
    let mut status = running;
    let argv = vec!["cleanup".to_owned(), "--run=uid/1".to_owned(), "--force".to_owned()];
    let container = netloss_contract::repair_container_name("uid", 1, 1, 1);
    status.pods[0].repair = Some(SentContainer { container, argv, deadline: Time(at(100)), number: 1 });
    let decision = step(&spec(), &status, |entry| agent(entry, terminated(137, None)), at(9));
    assert!(decision.repairs.is_empty());
    let written = decision.status.unwrap().pods[0].repair.clone().unwrap();
    assert_eq!(written.argv[..2], ["cleanup".to_owned(), "--json".to_owned()]);
}

/// A run whose only pod may keep its loss.
fn impaired(spec: &ChaosExperimentSpec) -> (ChaosExperimentStatus, Decision) {
    let killed = |entry: &PodStatus| agent(entry, terminated(137, Some(heartbeat())));
    let repairing = step(spec, &planned(spec, 1), killed, at(9)).status.unwrap();
    let unrepaired = |entry: &PodStatus| {
        present(AgentView { repair: Some(terminated(1, None)), ..agent_view(entry, terminated(137, Some(heartbeat())), AgentLog::NotRead) })
    };
    let ended = step(spec, &repairing, unrepaired, at(20));
    (ended.status.clone().unwrap(), ended)
}

fn recovered(status: &ChaosExperimentStatus) -> (&str, &str) {
    status.condition(netloss_api::RECOVERED).map_or(("", ""), |is| (&is.status, &is.reason))
}

#[test]
fn an_end_in_which_loss_may_remain_is_no_recovery() {
    let (status, ended) = impaired(&spec());
    assert_eq!((status.phase, recovered(&status)), (Some(Phase::Completed), ("False", "LossMayRemain")));
    let words = &status.condition(netloss_api::RECOVERED).unwrap().message;
    assert!(words.contains("n/p0") && words.contains("deleting the pod ends it"), "{words}");
    assert!(!reasons(&ended).iter().any(|reason| ["Recovered", "ExperimentSucceeded"].contains(&reason.as_str())), "{:?}", reasons(&ended));
    let of_run: Vec<_> = ended.events.iter().filter(|event| event.about == About::Experiment).collect();
    assert!(of_run.iter().any(|event| (event.reason, event.severity) == (EventReason::LossMayRemain, Severity::Warning)), "{of_run:?}");
    assert!(ended.requeue.is_some(), "the pod is looked at again");
}

#[test]
fn loss_that_may_remain_is_remembered_until_the_pod_is_gone_or_cleaned() {
    let spec = spec();
    let (first, _) = impaired(&spec);
    // Another run of an edited spec keeps it.
    let second_spec = changed();
    let edited = Experiment { generation: 2, ..experiment(&second_spec, Some(&first)) };
    let second = decide(&edited, &preconditions(candidates(3)), at(100), &settings()).status.unwrap();
    assert_eq!((second.run, recovered(&second)), (Some(2), ("False", "LossMayRemain")));
    assert_eq!(second.unresolved_pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["p0"]);
    assert!(second.unresolved_pods[0].argv.is_empty() && second.impaired_pods().count() == 1);
    // A schedule's and a failed run's too.
    let nobody = decide(&edited, &preconditions(vec![]), at(100), &settings()).status.unwrap();
    assert_eq!((nobody.phase, nobody.impaired_pods().count(), recovered(&nobody)), (Some(Phase::Failed), 1, ("False", "LossMayRemain")));

    let look = |status: &ChaosExperimentStatus, view: PodView| {
        let at_rest = Experiment { generation: 2, ..experiment(&second_spec, Some(status)) };
        assert_eq!(needs(&at_rest, at(200), &settings()), Needs::Pods { ready: None, target: None });
        let views = BTreeMap::from([(status.impaired_pods().next().unwrap().uid.clone(), view)]);
        decide(&at_rest, &pods(views), at(200), &settings())
    };
    let entry = &first.pods[0];
    let there = look(&nobody, agent(entry, terminated(137, None)));
    assert_eq!((there.status, there.requeue), (None, Some(Duration::from_mins(1))));
    let cleaned = AgentView { repair: Some(terminated(0, None)), ..agent_view(entry, terminated(137, None), AgentLog::NotRead) };
    for view in [PodView::Gone, PodView::Replaced, present(cleaned)] {
        let resolved = look(&nobody, view.clone());
        assert_eq!(resolved.requeue, None);
        let resolved = resolved.status.unwrap();
        assert_eq!((resolved.impaired_pods().count(), recovered(&resolved)), (0, ("True", "NoLossLeft")), "{view:?}");
    }
    // The pods of the run itself as well.
    let of_run = experiment(&spec, Some(&first));
    let gone = decide(&of_run, &pods(BTreeMap::from([(entry.uid.clone(), PodView::Gone)])), at(200), &settings()).status.unwrap();
    assert_eq!((gone.pods[0].outcome, recovered(&gone)), (Some(Outcome::PodEnded), ("True", "NoLossLeft")));
    assert!(gone.message.as_deref().unwrap().contains("it has ended"), "{:?}", gone.message);
}

#[test]
fn a_run_whose_counts_contradict_it_says_so() {
    let spec = spec();
    let over = |traffic: netloss_contract::Traffic| {
        let Event::Removed(mut report) = removed() else { panic!() };
        report.traffic = netloss_contract::PerDirection { egress: Some(traffic), ingress: None };
        step(&spec, &planned(&spec, 1), |entry| agent(entry, terminated(0, Some(Event::Removed(report.clone())))), at(41))
    };
    let as_requested = |decision: &Decision| {
        let status = decision.status.clone().unwrap();
        let is = status.condition(netloss_api::AS_REQUESTED).unwrap();
        (is.status.clone(), is.reason.clone())
    };
    let well = over(netloss_contract::Traffic::new(1000, 98, 10.0));
    assert_eq!(as_requested(&well), ("True".to_owned(), "WithinChance".to_owned()));
    assert_eq!(reasons(&well), ["ChaosNetworkLossInjected", "Recovered", "ExperimentSucceeded"]);
    for (packets, dropped, reason, words) in [
        (3781, 3089, "LossAboveRequested", "p0: lost 81.7 % of 3781 packets (egress), expected 10.0 %"),
        (3781, 12, "LossBelowRequested", "p0: lost 0.3 % of 3781 packets (egress), expected 10.0 %"),
        (0, 0, "NoPacketMatched", "no packet matched"),
    ] {
        let decision = over(netloss_contract::Traffic::new(packets, dropped, 10.0));
        assert_eq!(as_requested(&decision), ("False".to_owned(), reason.to_owned()));
        assert!(message(&decision).contains(words), "{}", message(&decision));
        let told = decision.events.iter().find(|event| event.reason.to_string() == reason).unwrap();
        assert_eq!((told.severity, &told.about), (Severity::Warning, &About::Experiment));
        assert_eq!(crate::history::result(&decision.status.unwrap()), netloss_api::RunResult::Partial);
    }
}

/// Status remembers what a pause has left, and when the schedule is due.
#[test]
fn what_status_remembers_is_bounded_by_the_spec() {
    let spec = spec();
    let mut paused = planned(&spec, 2);
    paused.phase = Some(Phase::Paused);
    let left = |pod: &PodStatus, uid: &str| PodStatus {
        state: PodState::Ended,
        outcome: Some(Outcome::NeverStarted),
        remaining: Some("168h".to_owned()),
        uid: uid.to_owned(),
        ..pod.clone()
    };
    paused.pods = ["pod-uid-0", "pod-uid-0", "pod-uid-1", "pod-uid-2", "pod-uid-3"].iter().map(|uid| left(&paused.pods[0], uid)).collect();
    let resumed = decide(&experiment(&spec, Some(&paused)), &preconditions(candidates(4)), at(10), &settings()).status.unwrap();
    let open: Vec<&PodStatus> = resumed.open_pods().collect();
    assert!(open.len() <= 2, "{}", open.len());
    assert!(open.iter().all(|pod| pod.asked.duration == "30s" && pod.argv.contains(&"--ttl=30s".to_owned())), "{open:?}");

    let nightly = ChaosExperimentSpec { schedule: Some("0 3 * * *".to_owned()), ..spec };
    let armed = decide(&experiment(&nightly, None), &Observed::Nothing, at(0), &settings()).status.unwrap();
    let forged = ChaosExperimentStatus { next_scheduled_time: Some(Time(at(9))), ..armed.clone() };
    let again = experiment(&nightly, Some(&forged));
    assert_eq!(needs(&again, at(10), &settings()), Needs::Nothing, "it does not begin");
    let decision = decide(&again, &Observed::Nothing, at(10), &settings());
    assert_eq!(decision.status.unwrap().next_scheduled_time, armed.next_scheduled_time);
}

#[test]
fn the_largest_status_stays_within_its_bound() {
    const BOUND: usize = 256 * 1024;
    let mut spec = spec();
    (spec.count, spec.interface) = (100, Some("i".repeat(15)));
    let uid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";
    let mut many = candidates(100);
    for (n, pod) in many.iter_mut().enumerate() {
        (pod.target.name, pod.target.uid, pod.target.node) = (format!("{n:0253}"), format!("{n:036}"), Some("n".repeat(63)));
        pod.target.namespace = "n".repeat(63);
    }
    let namespace = "n".repeat(63);
    let experiment = |status| Experiment { namespace: &namespace, uid, ..experiment(&spec, status) };
    let observed = preconditions(many);
    let status = decide(&experiment(None), &observed, at(0), &settings()).status.unwrap();
    let refused = PodView::Refused("x".repeat(10_000));
    let adopted = |entry: &PodStatus| agent(entry, AgentState::Waiting { made: false, reason: None, message: None });
    let mut injected = {
        let views = status.pods.iter().map(|entry| (entry.uid.clone(), adopted(entry))).collect();
        decide(&experiment(Some(&status)), &pods(views), at(1), &settings()).status.unwrap()
    };
    for pod in &mut injected.pods {
        pod.observed = Some(netloss_api::ObservedLoss::default());
    }
    let views = injected.pods.iter().map(|entry| (entry.uid.clone(), refused.clone())).collect();
    let ended = decide(&experiment(Some(&injected)), &pods(views), at(2), &settings()).status.unwrap();
    assert_eq!((ended.pods.len(), ended.affected_pods.len()), (100, 100));
    // As much comes to any plan.
    let grown = serde_json::to_string(&ended).unwrap().len() - serde_json::to_string(&status).unwrap().len();
    assert!(150 * 1024 + grown < BOUND, "{grown}");
    let size = serde_json::to_string(&ended).unwrap().len();
    assert!(size < BOUND, "{size}");
}

/// What is adopted is what was sent. The spec and the controller's image may have changed since.
#[test]
fn an_agent_is_adopted_as_it_was_sent_whatever_changed_since() {
    let spec = ChaosExperimentSpec { require_guarded: Some(true), ..spec() };
    let status = planned(&spec, 1);
    let elsewhere = ChaosExperimentSpec { namespace: Some("other".to_owned()), ..spec.clone() };
    let other_image = Settings::new("registry.example.com/other/agent:2", "netloss-system");
    for (now, image) in [(&elsewhere, settings()), (&spec, other_image.clone()), (&elsewhere, other_image)] {
        let experiment = Experiment { generation: 2, ..experiment(now, Some(&status)) };
        let views = status.pods.iter().map(|entry| (entry.uid.clone(), agent(entry, AgentState::Running))).collect();
        let decision = decide(&experiment, &pods(views), at(5), &image);
        let after = decision.status.unwrap();
        assert_eq!((after.pods[0].state, after.pods[0].outcome), (PodState::Injected, None), "{after:?}");
        assert_eq!(after.affected_pods.len(), 1);
        assert_eq!(decision.finalizer, None, "it stays");
        assert_eq!(after.pods[0].stop.is_some(), now == &elsewhere, "an edit stops it: {after:?}");
    }
}

#[test]
fn no_agent_is_injected_into_what_is_protected_by_then() {
    let labels = BTreeMap::from([("environment".to_owned(), "production".to_owned())]);
    let excluded = BTreeMap::from([(EXCLUDE_LABEL.to_owned(), "true".to_owned())]);
    let facts = |labels: &BTreeMap<String, String>| NamespaceFacts::of("n", Some(labels), None);
    let all = Protection::of(NamespaceFacts::default(), &candidates(4));
    let half = ChaosExperimentSpec { max_percentage: Some(50), ..spec() };
    let status = decide(&experiment(&half, None), &preconditions(candidates(4)), at(0), &settings()).status.unwrap();
    assert_eq!(status.pods.len(), 2);
    let admitted = |with_preflight: bool| {
        let mut status = status.clone();
        if with_preflight {
            status.set_condition(netloss_api::PREFLIGHT, "True", "Admitted", "", at(0));
        }
        status
    };
    let with = |protection: Option<Protection>, with_preflight| {
        let status = admitted(with_preflight);
        let views = status.pods.iter().map(|entry| (entry.uid.clone(), BARE)).collect();
        let seen = Observed::Pods(Pods { views, protection, ..Pods::default() });
        decide(&experiment(&half, Some(&status)), &seen, at(1), &settings())
    };
    let needed = needs(&experiment(&half, Some(&status)), at(1), &settings());
    assert_eq!(needed, Needs::Pods { ready: None, target: Some(("n".to_owned(), Some(half.selector.clone()))) });
    assert_eq!(with(Some(all.clone()), true).injections.len(), 2);
    assert!(with(None, true).injections.is_empty(), "nothing is done before it is looked at");

    // One of those that were not chosen is gone, and two of three are too many.
    let chosen: Vec<&str> = status.pods.iter().map(|pod| pod.uid.as_str()).collect();
    let mut fewer = all.clone();
    let other = all.eligible.iter().find(|uid| !chosen.contains(&uid.as_str())).unwrap();
    fewer.eligible.remove(other);
    for (protection, words, refusal) in [
        (
            Protection { namespace: facts(&excluded), ..all.clone() },
            "carries the label chaos.gushchin.dev/exclude",
            Some(RefusalReason::NoEligiblePods),
        ),
        (
            Protection { namespace: facts(&labels), ..all.clone() },
            "is a production namespace by its label",
            Some(RefusalReason::Production),
        ),
        (fewer, "spec.maxPercentage is 50, but 2 of the 3 eligible pods are 67 %", Some(RefusalReason::TooLargeAShare)),
    ] {
        for with_preflight in [true, false] {
            let decision = with(Some(protection.clone()), with_preflight);
            assert!(decision.injections.is_empty() && decision.preflight.is_empty(), "{words}");
            assert!(message(&decision).contains(words), "{}", message(&decision));
            assert_eq!(decision.refusal, refusal, "{words}");
        }
    }
    // A pod that is gone is no part of the share.
    let mut one_gone = all;
    one_gone.eligible.remove(&status.pods[0].uid);
    assert_eq!(with(Some(one_gone), true).injections.len(), 2, "one of the three that are left, and one that is looked at by itself");
}

#[test]
fn an_experiment_of_which_nothing_is_known_is_let_go_when_no_agent_can_be_at_work() {
    let (until, settings) = (held_until(at(0), &settings()), settings());
    let longest = planned(&ChaosExperimentSpec { duration: Some("168h".to_owned()), ..spec() }, 1).pods.remove(0).deadline.0;
    assert!(until >= longest + jiff::SignedDuration::try_from(settings.grace).unwrap());
    assert!(until < longest + jiff::SignedDuration::from_hours(1));
}
