//! What holds a run back, what ends it early, and what comes after it.

use super::*;
use netloss_api::{PREFLIGHT, RECOVERED, RetryBackoff, Stopping, TimeWindow};
use netloss_contract::Cleaned;
use serde_json::{Value, from_value, json};

/// The default spec with changes, as a user writes them.
fn spec_with(changes: Value) -> ChaosExperimentSpec {
    let mut all = serde_json::to_value(spec()).unwrap();
    let (Value::Object(all), Value::Object(changes)) = (&mut all, changes) else { panic!() };
    all.extend(changes);
    from_value(Value::Object(all.clone())).unwrap()
}

/// Decides about an experiment at rest that has three pods to choose from.
fn begin(spec: &ChaosExperimentSpec, status: Option<&ChaosExperimentStatus>, now: Timestamp) -> Decision {
    begin_in(spec, status, Preconditions { pods: candidates(3), ..Preconditions::default() }, now)
}

fn begin_in(spec: &ChaosExperimentSpec, status: Option<&ChaosExperimentStatus>, seen: Preconditions, now: Timestamp) -> Decision {
    let generation = status.and_then(|status| status.observed_generation).unwrap_or(1);
    let experiment = Experiment { generation, finalized: false, ..experiment(spec, status) };
    let needed = needs(&experiment, now, &settings());
    let observed = if needed == Needs::Nothing { Observed::Nothing } else { Observed::Preconditions(seen) };
    decide(&experiment, &observed, now, &settings())
}

/// A run with one pod, whose agent has had its loss in place since second 10.
fn running(spec: &ChaosExperimentSpec) -> ChaosExperimentStatus {
    let begun = |entry: &PodStatus| present(agent_view(entry, AgentState::Running, log_of(applied(), at(10))));
    step(spec, &planned(spec, 1), begun, at(11)).status.unwrap()
}

/// What the spec is after a toggle that is no edit.
fn paused(spec: &ChaosExperimentSpec, paused: bool) -> ChaosExperimentSpec {
    ChaosExperimentSpec { paused: Some(paused), ..spec.clone() }
}

/// An agent that was stopped after twelve seconds.
fn stopped() -> AgentState {
    let Event::Removed(mut report) = removed() else { panic!() };
    (report.elapsed_seconds, report.cause) = (12.0, netloss_contract::Cause::Stopped);
    terminated(0, Some(Event::Removed(report)))
}

/// A pass over a run whose pods all look the same, with an experiment of generation 2.
fn follow_later(
    spec: &ChaosExperimentSpec,
    status: &ChaosExperimentStatus,
    view: impl Fn(&PodStatus) -> PodView,
    now: Timestamp,
) -> Decision {
    let views = status.pods.iter().map(|entry| (entry.uid.clone(), view(entry))).collect();
    decide(&Experiment { generation: 2, ..experiment(spec, Some(status)) }, &pods(views), now, &settings())
}

/// Or else whoever waits for an experiment, or depends on it, waits for ever.
#[test]
fn one_that_is_over_and_was_paused_since_is_over_still() {
    let spec = spec();
    let over = step(&spec, &running(&spec), |entry| agent(entry, terminated(0, Some(removed()))), at(41)).status.unwrap();
    let later = |status: &ChaosExperimentStatus, deleting| {
        decide(&Experiment { generation: 3, deleting, ..experiment(&spec, Some(status)) }, &Observed::Nothing, at(60), &settings())
    };
    let seen = later(&over, false).status.unwrap();
    // kubectl wait ignores conditions of an older generation.
    assert!(seen.conditions.iter().all(|condition| condition.observed_generation == Some(3)), "{:?}", seen.conditions);
    let conditions = seen.conditions.clone();
    assert_eq!(seen, ChaosExperimentStatus { observed_generation: Some(3), conditions, ..over.clone() });
    assert_eq!((later(&seen, false).status, later(&over, true).status), (None, None));
    let next = Timestamp::from_second(at(60).as_second() + 3600).unwrap();
    let scheduled = ChaosExperimentStatus { next_scheduled_time: Some(Time(next)), ..over };
    assert_eq!(later(&scheduled, false).status.unwrap().observed_generation, Some(3), "nor does one wait for its next run to say so");
}

#[test]
fn a_pause_stops_the_loss_and_a_resumption_brings_what_is_left() {
    let spec = spec();
    let run = running(&spec);
    let held = paused(&spec, true);
    let stopping = follow_later(&held, &run, |entry| agent(entry, AgentState::Running), at(20));
    let status = stopping.status.unwrap();
    assert_eq!((status.stopping, status.pods[0].stop.is_some()), (Some(Stopping::Paused), true));

    let ended = follow_later(&held, &status, |entry| agent(entry, stopped()), at(23));
    let rest = ended.status.unwrap();
    assert_eq!((rest.phase, rest.observed_generation, ended.finalizer), (Some(Phase::Paused), Some(2), Some(false)));
    assert_eq!((rest.pods[0].outcome, rest.pods[0].remaining.as_deref()), (Some(Outcome::Shortened), Some("18s")));
    let words = "Paused: 10% packet loss is stopped; with spec.paused: false it goes on for what is left (p0: 18s)";
    assert!(rest.message.as_deref().unwrap().starts_with(words), "{:?}", rest.message);
    assert_eq!(rest.condition(RECOVERED).unwrap().status, "True");

    assert_eq!(begin(&held, Some(&rest), at(1000)), Decision::default(), "it stays as it is");
    let resumed = begin(&paused(&spec, false), Some(&rest), at(1000)).status.unwrap();
    assert_eq!((resumed.phase, resumed.run, resumed.attempt), (Some(Phase::Pending), Some(1), Some(2)));
    let pod = &resumed.pods[0];
    assert_eq!((resumed.pods.len(), pod.name.as_str(), pod.container.as_str()), (1, "p0", "network-loss-d-r1-a2"));
    assert!(pod.argv.contains(&"--ttl=18s".to_owned()), "{:?}", pod.argv);
    assert_eq!(pod.deadline.0, at(1000 + 120 + 18));
}

#[test]
fn who_is_paused_from_the_begin_begins_when_that_ends() {
    let spec = spec();
    let held = begin(&paused(&spec, true), None, at(0)).status.unwrap();
    assert_eq!((held.phase, held.run), (Some(Phase::Paused), None));
    assert_eq!(begin(&paused(&spec, false), Some(&held), at(9)).status.unwrap().pods.len(), 2);
}

#[test]
fn a_pause_that_is_edited_begins_anew() {
    let spec = spec();
    let run = running(&spec);
    let stopping = follow_later(&paused(&spec, true), &run, |entry| agent(entry, stopped()), at(23)).status.unwrap();
    let edited = ChaosExperimentSpec { count: 3, ..spec };
    let experiment = Experiment { generation: 3, ..experiment(&edited, Some(&stopping)) };
    let status = decide(&experiment, &preconditions(candidates(3)), at(30), &settings()).status.unwrap();
    assert_eq!((status.run, status.attempt, status.pods.len()), (Some(2), Some(1), 3));
}

#[test]
fn without_any_loss_a_run_is_tried_again() {
    let retrying = |backoff: RetryBackoff| ChaosExperimentSpec { max_retries: 2, retry_backoff: backoff, ..spec() };
    let spec = retrying(RetryBackoff::Exponential);
    let nobody = |status: Option<&ChaosExperimentStatus>, now| begin_in(&spec, status, Preconditions::default(), now);
    let first = nobody(None, at(0));
    let told: Vec<String> = first.events.iter().map(|event| event.reason.to_string()).collect();
    assert_eq!((told, first.requeue), (vec!["ExperimentRetrying".to_owned()], Some(Duration::from_millis(30_100))));
    let first = first.status.unwrap();
    assert_eq!((first.phase, first.run, first.attempt, first.retry_count), (Some(Phase::Pending), Some(1), Some(1), Some(1)));
    let words = "No eligible pods: none in the namespace \"n\" has the labels app=web";
    assert_eq!(first.last_error.as_deref(), Some(words));
    assert_eq!(first.message, Some(format!("{words}; retry 1 of 2 at {}", at(30))));
    assert_eq!(nobody(Some(&first), at(29)).status, None, "not before its time");
    let second = nobody(Some(&first), at(31)).status.unwrap();
    assert_eq!((second.attempt, second.retry_count, second.next_retry_time.clone()), (Some(2), Some(2), Some(Time(at(91)))));
    let third = nobody(Some(&second), at(92)).status.unwrap();
    assert_eq!((third.phase, third.run, third.next_retry_time), (Some(Phase::Failed), Some(1), None));

    let again = begin(&spec, Some(&first), at(31)).status.unwrap();
    assert_eq!(again.pods[0].container, "network-loss-d-r1-a2");
    let refused = step(&spec, &admitted(again), |_| PodView::Refused("no".to_owned()), at(32)).status.unwrap();
    assert_eq!((refused.phase, refused.retry_count), (Some(Phase::Pending), Some(2)));
    let fixed = begin_in(&retrying(RetryBackoff::Fixed), Some(&first), Preconditions::default(), at(31)).status.unwrap();
    assert_eq!(fixed.next_retry_time, Some(Time(at(61))));
}

fn admitted(mut status: ChaosExperimentStatus) -> ChaosExperimentStatus {
    status.set_condition(PREFLIGHT, "True", "Admitted", "", at(0));
    status
}

#[test]
fn what_no_retry_changes_is_not_tried_again() {
    let spec = spec_with(json!({ "maxRetries": 3, "timeWindows": [{ "type": "Recurring", "start": "9:00", "end": "10:00" }] }));
    assert_eq!(begin(&spec, None, at(0)).status.unwrap().phase, Some(Phase::Failed));
}

#[test]
fn an_agent_that_was_put_in_is_not_followed_by_a_second_one_while_its_loss_may_remain() {
    let spec = ChaosExperimentSpec { max_retries: 3, ..spec() };
    let gone = |entry: &PodStatus| agent(entry, AgentState::Running);
    let begun = step(&spec, &planned(&spec, 1), gone, at(1)).status.unwrap();
    let lost = step(&spec, &begun, |_| BARE, at(2)).status.unwrap();
    assert_eq!((lost.phase, lost.pods[0].outcome), (Some(Phase::Failed), Some(Outcome::Unknown)));
    assert_eq!(lost.condition(RECOVERED).unwrap().status, "False");
}

#[test]
fn nothing_is_put_in_before_the_finalizer_and_the_answer() {
    let spec = spec();
    let status = decide(&experiment(&spec, None), &preconditions(candidates(3)), at(0), &settings()).status.unwrap();
    let views = || status.pods.iter().map(|entry| (entry.uid.clone(), BARE)).collect::<BTreeMap<_, _>>();
    let asked = decide(&experiment(&spec, Some(&status)), &pods(views()), at(1), &settings());
    assert_eq!((asked.preflight.len(), asked.injections.len()), (1, 0), "one for each template");
    let answered = |answer: Preflight| {
        let seen =
            Observed::Pods(Pods { views: views(), protection: Some(Protection::default()), preflight: Some(answer), ..Pods::default() });
        decide(&experiment(&spec, Some(&status)), &seen, at(1), &settings())
    };
    let unknown = answered(Preflight::Unknown("does not support dry run".to_owned()));
    assert!(unknown.injections.is_empty(), "first it is written down");
    assert_eq!(unknown.status.unwrap().condition(PREFLIGHT).unwrap().status, "Unknown");
    let admitted = answered(Preflight::Admitted).status.unwrap();
    let bare = Experiment { finalized: false, ..experiment(&spec, Some(&admitted)) };
    let finalizer = decide(&bare, &pods(views()), at(2), &settings());
    assert_eq!((finalizer.finalizer, finalizer.injections.len()), (Some(true), 0));
    assert_eq!(decide(&experiment(&spec, Some(&admitted)), &pods(views()), at(2), &settings()).injections.len(), 2);

    let refused = answered(Preflight::Refused("pod p0: violates PodSecurity \"baseline:latest\"".to_owned()));
    assert_eq!(refused.finalizer, Some(false));
    let status = refused.status.unwrap();
    let condition = status.condition(PREFLIGHT).unwrap();
    assert_eq!((condition.status.as_str(), condition.message.as_str()), ("False", "pod p0: violates PodSecurity \"baseline:latest\""));
    let words = "Failed to inject 10% packet loss into any of 2 pod(s); \
                 p0: the API server would refuse the agent, so no pod was touched: pod p0: violates";
    assert!(status.message.as_deref().unwrap().starts_with(words), "{:?}", status.message);
}

#[test]
fn a_deletion_stops_the_loss_and_then_lets_go() {
    let spec = spec();
    let run = running(&spec);
    let with = |status: &ChaosExperimentStatus, view: fn(&PodStatus) -> PodView, now| {
        let views = status.pods.iter().map(|entry| (entry.uid.clone(), view(entry))).collect();
        decide(&Experiment { deleting: true, ..experiment(&spec, Some(status)) }, &pods(views), now, &settings())
    };
    let stopping = with(&run, |entry| agent(entry, AgentState::Running), at(20));
    assert_eq!((stopping.finalizer, stopping.status.as_ref().unwrap().stopping), (None, Some(Stopping::Deleted)));
    let ended = with(&stopping.status.unwrap(), |entry| agent(entry, stopped()), at(23));
    assert_eq!(ended.finalizer, Some(false));
    let over = decide(&Experiment { deleting: true, ..experiment(&spec, ended.status.as_ref()) }, &Observed::Nothing, at(24), &settings());
    assert_eq!(over, Decision { finalizer: Some(false), ..Decision::default() });
}

#[test]
fn too_few_ready_targets_end_a_run_and_begin_none() {
    let spec = ChaosExperimentSpec { abort: Some(2), ..spec() };
    let mut unready = candidates(3);
    unready.iter_mut().skip(1).for_each(|pod| pod.ready = false);
    let refused = begin_in(&spec, None, Preconditions { pods: unready, ..Preconditions::default() }, at(0));
    assert_eq!(message(&refused), "spec.abort is 2, but only 1 of the 3 targets are ready: no loss is brought");
    let run = running(&ChaosExperimentSpec { abort: None, ..spec.clone() });
    assert!(matches!(needs(&experiment(&spec, Some(&run)), at(12), &settings()), Needs::Pods { ready: Some(_), .. }));
    let with = |ready| {
        let views = run.pods.iter().map(|entry| (entry.uid.clone(), agent(entry, AgentState::Running))).collect();
        decide(
            &experiment(&spec, Some(&run)),
            &Observed::Pods(Pods { views, ready: Some(ready), protection: Some(Protection::default()), ..Pods::default() }),
            at(12),
            &settings(),
        )
    };
    let enough = with(2);
    assert_eq!((enough.status, enough.requeue), (None, Some(Duration::from_secs(5))));
    let aborted = with(1).status.unwrap();
    assert_eq!((aborted.stopping, aborted.pods[0].stop.is_some()), (Some(Stopping::Aborted), true));
    let over = step(&spec, &aborted, |entry| agent(entry, stopped()), at(30)).status.unwrap();
    assert_eq!(over.phase, Some(Phase::Completed));
    assert!(over.message.as_deref().unwrap().ends_with("too few of the targets are ready: this run is stopped"), "{:?}", over.message);
    assert_eq!(begin(&spec, Some(&over), at(99)).status, None, "and it stays so when they are ready again");
}

#[test]
fn a_freeze_stops_all_and_begins_none() {
    let spec = ChaosExperimentSpec { max_retries: 3, ..spec() };
    let freeze = Some("the shop's sale".to_owned());
    let refused = begin_in(&spec, None, Preconditions { freeze: freeze.clone(), pods: candidates(3), ..Preconditions::default() }, at(0));
    assert_eq!(
        message(&refused),
        "All experiments are frozen: the shop's sale; when they no longer are, request another run (kubectl netloss rerun)"
    );
    assert_eq!(refused.status.unwrap().phase, Some(Phase::Failed));
    let run = running(&spec);
    let views = run.pods.iter().map(|entry| (entry.uid.clone(), agent(entry, AgentState::Running))).collect();
    let seen = Observed::Pods(Pods { views, freeze, protection: Some(Protection::default()), ..Pods::default() });
    assert_eq!(decide(&experiment(&spec, Some(&run)), &seen, at(12), &settings()).status.unwrap().stopping, Some(Stopping::Frozen));
}

#[test]
fn a_schedule_runs_at_its_times_and_skips_what_it_missed() {
    // at(0) is 08:00:00 of a Friday.
    let spec = spec_with(json!({ "schedule": "0 * * * *" }));
    let armed = begin(&spec, None, at(0));
    assert_eq!(message(&armed), format!("Scheduled: the next run is at {}", at(3600)));
    let armed = armed.status.unwrap();
    assert_eq!((armed.phase, armed.run, armed.next_scheduled_time.clone()), (Some(Phase::Pending), None, Some(Time(at(3600)))));
    let waiting = begin(&spec, Some(&armed), at(3000));
    assert_eq!((waiting.status, waiting.requeue), (None, Some(Duration::from_millis(600_100))));
    let run = begin(&spec, Some(&armed), at(3601)).status.unwrap();
    assert_eq!((run.run, run.pods.len(), run.last_scheduled_time), (Some(1), 2, Some(Time(at(3600)))));
    assert_eq!(run.next_scheduled_time, Some(Time(at(7200))));

    let late = begin(&spec, Some(&armed), at(3600 + 121));
    assert_eq!(late.events[0].note, format!("The run of {} was skipped: the controller did not get to it in time", at(3600)));
    assert_eq!(late.status.unwrap().next_scheduled_time, Some(Time(at(7200))));

    let held = begin(&paused(&spec, true), Some(&armed), at(3601));
    assert_eq!((held.events[0].reason, held.status.unwrap().phase), (EventReason::MissedRun, Some(Phase::Paused)));
    let frozen = Preconditions { freeze: Some("sale".to_owned()), pods: candidates(3), ..Preconditions::default() };
    assert_eq!(begin_in(&spec, Some(&armed), frozen, at(3601)).events[0].reason.to_string(), "MissedRun");
}

#[test]
fn a_spec_that_is_refused_is_refused_again_when_it_is_due_and_not_sooner() {
    for wrong in [
        json!({ "targetIPs": ["x"] }),
        json!({ "targetPorts": [443], "targetProtocols": ["icmp"] }),
        json!({ "lossModel": { "type": "gilbert" } }),
    ] {
        let mut fields = json!({ "schedule": "0 * * * *" });
        fields.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let spec = spec_with(fields);
        let refused = begin(&spec, None, at(0)).status.unwrap();
        assert_eq!((refused.phase, refused.run, refused.next_scheduled_time.clone()), (Some(Phase::Failed), Some(1), Some(Time(at(3600)))));
        let again = begin(&spec, Some(&refused), at(1));
        assert_eq!((again.status, again.requeue), (None, Some(Duration::from_millis(3_599_100))), "{wrong}");
        assert_eq!(begin(&spec, Some(&refused), at(3601)).status.unwrap().run, Some(2), "{wrong}");
    }
}

#[test]
fn a_schedule_that_is_resumed_says_when_it_goes_on() {
    let spec = spec_with(json!({ "schedule": "0 * * * *" }));
    let armed = begin(&spec, None, at(0)).status.unwrap();
    let held = begin(&paused(&spec, true), Some(&armed), at(10)).status.unwrap();
    assert_eq!(held.phase, Some(Phase::Paused));
    let resumed = begin(&spec, Some(&held), at(20));
    assert_eq!(message(&resumed), format!("Scheduled: the next run is at {}", at(3600)));
    assert_eq!(resumed.status.unwrap().phase, Some(Phase::Pending));
}

#[test]
fn a_run_that_outlasts_its_schedule_does_not_overlap_with_the_next() {
    let spec = spec_with(json!({ "schedule": "* * * * *", "duration": "5m" }));
    let armed = begin(&spec, None, at(0)).status.unwrap();
    let run = admitted(begin(&spec, Some(&armed), at(61)).status.unwrap());
    let over = step(&spec, &run, |entry| agent(entry, terminated(0, Some(removed()))), at(400));
    let missed: Vec<&EventRecord> = over.events.iter().filter(|event| event.reason.to_string() == "MissedRun").collect();
    assert!(missed[0].note.ends_with("was skipped: the run before was still under way"), "{}", missed[0].note);
    let over = over.status.unwrap();
    assert_eq!((over.phase, over.next_scheduled_time.clone()), (Some(Phase::Completed), Some(Time(at(420)))));
    assert_eq!(begin(&spec, Some(&over), at(421)).status.unwrap().run, Some(2));
}

#[test]
fn a_run_waits_for_its_window_and_ends_with_it() {
    let spec = spec_with(json!({ "timeWindows": [{ "type": "Recurring", "start": "09:00", "end": "09:01" }] }));
    let waits = begin(&spec, None, at(0));
    assert_eq!(message(&waits), format!("Waiting for a time window: the next one opens at {}", at(3600)));
    assert_eq!(waits.requeue, Some(Duration::from_millis(3_600_100)));
    let waits = waits.status.unwrap();
    assert_eq!((waits.phase, waits.run), (Some(Phase::Pending), None));
    let run = begin(&spec, Some(&waits), at(3610)).status.unwrap();
    assert_eq!((run.run, run.pods[0].deadline.clone()), (Some(1), Time(at(3660))));
    let never = TimeWindow {
        kind: netloss_api::WindowKind::Absolute,
        start: at(-9).to_string(),
        end: at(-3).to_string(),
        timezone: None,
        days_of_week: None,
    };
    let never = ChaosExperimentSpec { time_windows: Some(vec![never]), ..spec };
    assert!(message(&begin(&never, None, at(0))).starts_with("none of spec.timeWindows opens within a week"));
}

#[test]
fn a_run_has_an_end_however_often_it_is_tried() {
    let spec = spec_with(json!({ "experimentDuration": "1m", "maxRetries": 3 }));
    assert_eq!(begin(&spec, None, at(0)).status.unwrap().pods[0].deadline, Time(at(60)));
    let first = begin_in(&spec, None, Preconditions::default(), at(0)).status.unwrap();
    let second = begin_in(&spec, Some(&first), Preconditions::default(), at(31)).status.unwrap();
    assert_eq!((first.phase, second.phase), (Some(Phase::Pending), Some(Phase::Failed)), "the next retry would be after its end");
}

#[test]
fn what_it_depends_on_is_waited_for() {
    let spec = spec_with(json!({ "dependsOn": ["first"] }));
    let with = |phase| {
        let dependencies = BTreeMap::from([("first".to_owned(), phase)]);
        begin_in(&spec, None, Preconditions { pods: candidates(3), dependencies, ..Preconditions::default() }, at(0))
    };
    assert_eq!(message(&with(None)), "Waiting for the experiment \"first\" to be Completed: it is not begun, or not there");
    assert_eq!(message(&with(Some(Phase::Running))), "Waiting for the experiment \"first\" to be Completed: it is Running");
    assert!(with(Some(Phase::Running)).requeue.is_some());
    assert!(message(&with(Some(Phase::Failed))).starts_with("spec.dependsOn names \"first\", which is Failed"));
    assert_eq!(with(Some(Phase::Completed)).status.unwrap().pods.len(), 2);
}

#[test]
fn production_and_others_namespaces_need_consent() {
    let with = |spec: &ChaosExperimentSpec, name: &str, annotations: &[(&str, &str)], labels: &[(&str, &str)]| {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let namespace = NamespaceFacts::of(name, Some(&map(labels)), Some(&map(annotations)));
        begin_in(spec, None, Preconditions { pods: candidates(3), namespace, ..Preconditions::default() }, at(0)).status.unwrap()
    };
    for (name, annotations, labels, by) in [
        ("n", &[("chaos.gushchin.dev/production", "true")][..], &[][..], "its annotation chaos.gushchin.dev/production: true"),
        ("n", &[], &[("environment", "production")], "its label environment: production"),
        ("n", &[], &[("env", "prod")], "its label env: prod"),
        ("shop-prod", &[], &[], "its name"),
        ("production-eu", &[], &[], "its name"),
    ] {
        let words = format!("\"n\" is a production namespace by {by}: set spec.allowProduction: true if it is meant");
        assert_eq!(with(&spec(), name, annotations, labels).message, Some(words));
        let allowed = ChaosExperimentSpec { allow_production: Some(true), ..spec() };
        assert_eq!(with(&allowed, name, annotations, labels).pods.len(), 2);
    }
    for name in ["products", "reprod", "preprod", "n"] {
        assert_eq!(with(&spec(), name, &[], &[("env", "production")]).pods.len(), 2, "{name}");
    }
    let elsewhere = ChaosExperimentSpec { namespace: Some("other".to_owned()), ..spec() };
    let words = with(&elsewhere, "other", &[], &[]).message.unwrap();
    assert!(words.starts_with("spec.namespace is \"other\", which is not open to experiments of the namespace \"n\""), "{words}");
    for open in ["n", "*", "m, n"] {
        assert_eq!(with(&elsewhere, "other", &[("chaos.gushchin.dev/allow-experiments-from", open)], &[]).pods.len(), 2);
    }
}

/// A kubelet that is killed between making a container and starting it never starts it.
#[test]
fn what_stops_an_agent_and_is_never_started_is_followed_by_another() {
    let spec = ChaosExperimentSpec { duration: Some("1h".to_owned()), ..spec() };
    let held = paused(&spec, true);
    let waiting = AgentState::Waiting { made: false, reason: Some("ContainerCreating".to_owned()), message: None };
    let stuck = |entry: &PodStatus| {
        present(AgentView { stop: Some(waiting.clone()), ..agent_view(entry, AgentState::Running, AgentLog::Heartbeat(None)) })
    };
    let mut status = follow_later(&held, &running(&spec), |entry| agent(entry, AgentState::Running), at(20)).status.unwrap();
    let mut names = vec![status.pods[0].stop.clone().unwrap().container];
    assert_eq!(follow_later(&held, &status, stuck, at(100)).status, None, "not before its own deadline");
    for now in [140, 260] {
        status = follow_later(&held, &status, stuck, at(now)).status.unwrap();
        names.push(status.pods[0].stop.clone().unwrap().container);
        let bare = |entry: &PodStatus| agent(entry, AgentState::Running);
        assert_eq!(follow_later(&held, &status, bare, at(now + 1)).stops, status.pods);
    }
    let name = "network-loss-d-r1-a1-stop";
    assert_eq!(names, [name.to_owned(), format!("{name}-2"), format!("{name}-3")]);
    assert_eq!(follow_later(&held, &status, stuck, at(1000)).status, None, "three are enough: the loss ends at its time");
}

/// The last word about a pod whose agent was killed, once what was sent to repair it has ended so.
fn repaired(repair: AgentState) -> PodStatus {
    let spec = spec();
    let killed = |repair: Option<AgentState>| {
        move |entry: &PodStatus| {
            present(AgentView { repair: repair.clone(), ..agent_view(entry, terminated(137, Some(heartbeat())), AgentLog::NotRead) })
        }
    };
    let written = step(&spec, &running(&spec), killed(None), at(20));
    assert!(written.repairs.is_empty(), "nothing is done before it is written down");
    assert!(written.events.iter().any(|event| event.reason.to_string() == "Repairing"));
    let status = written.status.unwrap();
    let sent = status.pods[0].repair.clone().unwrap();
    assert_eq!(sent.argv, ["cleanup", "--json", "--run=uid/1", &format!("--deadline={}", at(140))]);
    assert!(message_of(&status).contains("p0: the agent ended without its report (exit code 137)"), "{}", message_of(&status));
    assert_eq!(step(&spec, &status, killed(None), at(21)).repairs, status.pods);
    let waiting = step(&spec, &status, killed(Some(AgentState::Running)), at(22));
    assert!(waiting.repairs.is_empty() && waiting.status.is_none());
    step(&spec, &status, killed(Some(repair)), at(25)).status.unwrap().pods[0].clone()
}

fn message_of(status: &ChaosExperimentStatus) -> &str {
    status.message.as_deref().unwrap_or_default()
}

#[test]
fn what_a_killed_agent_left_is_taken_away() {
    let found = repaired(terminated(0, Some(Event::Cleaned(Cleaned { removed: vec!["the root qdisc".to_owned()] }))));
    assert_eq!(found.outcome, Some(Outcome::Repaired));
    assert_eq!(found.message.as_deref(), Some("the agent ended without its report (exit code 137); repaired: the root qdisc"));
    assert!(found.observed.is_some(), "what its last heartbeat counted is kept");
    let nothing = repaired(terminated(0, Some(Event::Cleaned(Cleaned { removed: Vec::new() }))));
    assert!(nothing.message.unwrap().ends_with("repaired: nothing was left"));
    let foreign = repaired(terminated(0, None));
    assert_eq!(foreign.outcome, Some(Outcome::Unknown), "an exit code alone stands for nothing");
}

#[test]
fn a_new_sandbox_needs_no_repair() {
    let spec = spec();
    let view = |entry: &PodStatus| PodView::Present {
        skip: None,
        new_sandbox: true,
        agent: Some(Box::new(agent_view(entry, terminated(137, Some(heartbeat())), AgentLog::NotRead))),
    };
    let status = step(&spec, &running(&spec), view, at(20)).status.unwrap();
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Completed), Some(Outcome::SandboxRecreated)));
}

#[test]
fn a_silent_agent_is_told_of_and_repaired_if_it_hangs() {
    let spec = spec();
    let mute = |repair: Option<AgentState>| {
        move |entry: &PodStatus| present(AgentView { repair: repair.clone(), ..agent_view(entry, AgentState::Running, AgentLog::Stale) })
    };
    let told = step(&spec, &running(&spec), mute(None), at(35));
    assert!(told.events.iter().any(|event| event.reason.to_string() == "HeartbeatMissed"));
    let status = told.status.unwrap();
    assert_eq!((status.pods[0].silent, &status.pods[0].repair), (Some(true), &None), "a log that was just rotated is empty once");
    let status = step(&spec, &status, mute(None), at(38)).status.unwrap();
    assert!(status.pods[0].repair.as_ref().unwrap().argv.contains(&"--force".to_owned()));
    let answers = step(&spec, &status, mute(Some(terminated(3, None))), at(40));
    assert!(message(&answers).contains("has reported nothing for more than three heartbeats; it still answers"), "{}", message(&answers));
    let hung = step(&spec, &status, mute(Some(terminated(0, Some(Event::Cleaned(Cleaned { removed: Vec::new() }))))), at(40));
    assert_eq!(hung.status.unwrap().pods[0].outcome, Some(Outcome::Repaired));
    let heard = step(&spec, &status, |entry| present(agent_view(entry, AgentState::Running, AgentLog::Heartbeat(None))), at(40));
    assert_eq!(heard.status.unwrap().pods[0].silent, None);
}

#[test]
fn a_refused_container_shows_in_status() {
    let spec = spec();
    let run = running(&spec);
    let refused = step(&spec, &run, |_| PodView::SentRefused("quota exceeded".to_owned()), at(20));
    assert!(
        message(&refused).contains("p0: the API server refused what was sent after the agent: quota exceeded"),
        "{}",
        message(&refused)
    );
}

/// A run of thirty seconds that a pause has stopped after twelve, with its retries and windows.
fn stopped_by_a_pause(spec: &ChaosExperimentSpec) -> ChaosExperimentStatus {
    let held = paused(spec, true);
    let stopping = follow_later(&held, &running(spec), |entry| agent(entry, AgentState::Running), at(20)).status.unwrap();
    follow_later(&held, &stopping, |entry| agent(entry, stopped()), at(23)).status.unwrap()
}

/// What a run has used up, and what is left of it.
fn account(status: &ChaosExperimentStatus) -> impl PartialEq + std::fmt::Debug {
    let pods: Vec<_> = status.pods.iter().map(|pod| (pod.uid.clone(), pod.remaining.clone())).collect();
    (
        status.run,
        status.attempt,
        status.start_time.clone(),
        status.retry_count,
        status.last_error.clone(),
        status.affected_pods.clone(),
        pods,
    )
}

#[test]
fn a_resumption_that_waits_forgets_nothing() {
    // 08:00:00 to 08:01:00, and from 09:00:00 on.
    let windows = json!([
        { "type": "Recurring", "start": "08:00", "end": "08:01" },
        { "type": "Recurring", "start": "09:00", "end": "09:30" },
    ]);
    let spec = spec_with(json!({ "timeWindows": windows }));
    let rest = stopped_by_a_pause(&spec);
    let waits = begin(&paused(&spec, false), Some(&rest), at(100));
    assert_eq!(message(&waits), format!("Waiting for a time window: the next one opens at {}", at(3600)));
    assert_eq!(waits.requeue, Some(Duration::from_millis(3_500_100)));
    let waits = waits.status.unwrap();
    assert_eq!((waits.phase, account(&waits) == account(&rest)), (Some(Phase::Pending), true), "{waits:?}");
    assert_eq!(begin(&paused(&spec, false), Some(&waits), at(200)).status, None);
    let held = begin(&paused(&spec, true), Some(&waits), at(300)).status.unwrap();
    assert_eq!((held.phase, account(&held) == account(&rest)), (Some(Phase::Paused), true), "{held:?}");
    assert!(message_of(&held).contains("it goes on for what is left (p0: 18s)"), "{}", message_of(&held));
    let resumed = begin(&paused(&spec, false), Some(&waits), at(3601)).status.unwrap();
    assert_eq!((resumed.run, resumed.attempt, resumed.affected_pods.len()), (Some(1), Some(2), 1));
    assert!(resumed.pods[0].argv.contains(&"--ttl=18s".to_owned()), "{:?}", resumed.pods[0].argv);

    let after_another = ChaosExperimentSpec { depends_on: Some(vec!["first".to_owned()]), ..self::spec() };
    let rest = stopped_by_a_pause(&after_another);
    let dependencies = BTreeMap::from([("first".to_owned(), Some(Phase::Running))]);
    let waits =
        begin_in(&after_another, Some(&rest), Preconditions { pods: candidates(3), dependencies, ..Preconditions::default() }, at(100));
    let waits = waits.status.unwrap();
    assert!(account(&waits) == account(&rest), "{waits:?}");
}

#[test]
fn a_retry_that_is_paused_or_waits_uses_up_its_retries() {
    let windows = json!([
        { "type": "Recurring", "start": "08:00", "end": "08:01" },
        { "type": "Recurring", "start": "09:00", "end": "09:30" },
    ]);
    let spec = spec_with(json!({ "maxRetries": 1, "retryDelay": "40s", "timeWindows": windows }));
    let nobody =
        |spec: &ChaosExperimentSpec, status: Option<&ChaosExperimentStatus>, now| begin_in(spec, status, Preconditions::default(), now);
    let failed = nobody(&spec, None, at(0)).status.unwrap();
    let held = nobody(&paused(&spec, true), Some(&failed), at(10)).status.unwrap();
    assert_eq!(
        (held.phase, held.next_retry_time.clone(), account(&held) == account(&failed)),
        (Some(Phase::Paused), Some(Time(at(40))), true)
    );
    let awaited = nobody(&spec, Some(&held), at(20));
    assert_eq!(awaited.requeue, Some(Duration::from_millis(20_100)));
    let awaited = awaited.status.unwrap();
    assert_eq!((awaited.phase, message_of(&awaited)), (Some(Phase::Pending), message_of(&failed)));
    // The window is closed at the retry's time.
    let waits = nobody(&spec, Some(&awaited), at(70)).status.unwrap();
    assert_eq!((waits.next_retry_time.clone(), account(&waits) == account(&failed)), (Some(Time(at(3600))), true), "{waits:?}");
    let over = nobody(&spec, Some(&waits), at(3601)).status.unwrap();
    assert_eq!((over.phase, over.run, over.attempt), (Some(Phase::Failed), Some(1), Some(2)), "its one retry is used up");
}

#[test]
fn the_end_of_a_run_holds_for_its_retries_and_its_resumption_too() {
    let spec = spec_with(json!({ "experimentDuration": "5m", "dependsOn": ["first"] }));
    let rest = stopped_by_a_pause(&spec);
    let late = begin(&paused(&spec, false), Some(&rest), at(301)).status.unwrap();
    assert_eq!((late.phase, message_of(&late)), (Some(Phase::Completed), "spec.experimentDuration is over"));
    assert_eq!(late.condition(netloss_api::AS_REQUESTED).unwrap().status, "True", "what was measured before the pause was measured");
}

#[test]
fn loss_may_remain_in_any_number_of_pods() {
    let spec = spec();
    let unknown = |n: usize| PodStatus {
        uid: format!("other-{n}"),
        name: format!("other-{n}"),
        state: PodState::Ended,
        outcome: Some(Outcome::Unknown),
        applied_at: Some(Time(at(1))),
        unguarded: Some(true),
        ..planned(&spec, 1).pods[0].clone()
    };
    let over = |pods: std::ops::Range<usize>, unresolved: std::ops::Range<usize>| ChaosExperimentStatus {
        phase: Some(Phase::Completed),
        pods: pods.map(unknown).collect(),
        unresolved_pods: unresolved.map(unknown).collect(),
        ..planned(&spec, 1)
    };
    let edited = ChaosExperimentSpec { count: 3, ..spec.clone() };
    let next = |status: &ChaosExperimentStatus| {
        let experiment = Experiment { generation: 2, ..experiment(&edited, Some(status)) };
        decide(&experiment, &preconditions(candidates(3)), at(100), &settings()).status.unwrap()
    };
    let many = next(&over(0..100, 100..150));
    assert_eq!((many.pods.len(), many.impaired_pods().count()), (3, 150));
    // Where they leave no room for a run, none begins; none of them is forgotten either.
    let too_many = next(&over(0..100, 100..700));
    assert_eq!((too_many.phase, too_many.impaired_pods().count()), (Some(Phase::Failed), 700));
    assert!(message_of(&too_many).contains("loss may remain in 700 pods of earlier runs"), "{}", message_of(&too_many));
}

/// Each state that an experiment can rest in, with what its conditions say. kubectl wait waits for them.
#[test]
fn all_conditions_are_set_in_each_state() {
    let condition = |status: &ChaosExperimentStatus, type_: &str| {
        let is = status.condition(type_).unwrap_or_else(|| panic!("{type_}: {status:?}"));
        (is.status.clone(), is.reason.clone())
    };
    let plain = spec();
    let dry_run = ChaosExperimentSpec { dry_run: Some(true), ..spec() };
    let refused = begin_in(&plain, None, Preconditions::default(), at(0)).status.unwrap();
    let scheduled = spec_with(json!({ "schedule": "0 * * * *" }));
    let waiting = spec_with(json!({ "timeWindows": [{ "type": "Recurring", "start": "09:00", "end": "09:01" }] }));
    let retried = begin_in(&spec_with(json!({ "maxRetries": 1 })), None, Preconditions::default(), at(0)).status.unwrap();
    let failed = step(&plain, &planned(&plain, 1), |_| PodView::Refused("no".to_owned()), at(1)).status.unwrap();
    let finished = step(&plain, &running(&plain), |entry| agent(entry, terminated(0, Some(removed()))), at(41)).status.unwrap();
    let table = [
        ("refused", refused, ("True", "NothingInjected"), ("Unknown", "NotAsked"), ("Unknown", "NotMeasured")),
        (
            "dry run",
            begin(&dry_run, None, at(0)).status.unwrap(),
            ("True", "NothingInjected"),
            ("Unknown", "NotAsked"),
            ("Unknown", "NotMeasured"),
        ),
        (
            "paused before it began",
            begin(&paused(&plain, true), None, at(0)).status.unwrap(),
            ("Unknown", "Paused"),
            ("Unknown", "NotAsked"),
            ("Unknown", "NotMeasured"),
        ),
        (
            "waiting for its schedule",
            begin(&scheduled, None, at(0)).status.unwrap(),
            ("Unknown", "Waiting"),
            ("Unknown", "NotAsked"),
            ("Unknown", "NotMeasured"),
        ),
        (
            "waiting for a window",
            begin(&waiting, None, at(0)).status.unwrap(),
            ("Unknown", "Waiting"),
            ("Unknown", "NotAsked"),
            ("Unknown", "NotMeasured"),
        ),
        ("waiting for a retry", retried, ("Unknown", "Retrying"), ("Unknown", "NotAsked"), ("Unknown", "NotMeasured")),
        (
            "planned",
            begin(&plain, None, at(0)).status.unwrap(),
            ("Unknown", "Injecting"),
            ("Unknown", "NotAsked"),
            ("Unknown", "NotMeasured"),
        ),
        ("running", running(&plain), ("False", "Running"), ("True", "Admitted"), ("Unknown", "NotMeasured")),
        ("paused", stopped_by_a_pause(&plain), ("True", "NoLossLeft"), ("True", "Admitted"), ("True", "WithinChance")),
        ("failed", failed, ("True", "NothingInjected"), ("True", "Admitted"), ("Unknown", "NotMeasured")),
        ("finished", finished, ("True", "NoLossLeft"), ("True", "Admitted"), ("True", "WithinChance")),
    ];
    for (state, status, recovered, preflight, as_requested) in table {
        let said = [RECOVERED, PREFLIGHT, netloss_api::AS_REQUESTED, netloss_api::RUN_REQUESTED].map(|type_| condition(&status, type_));
        let expected = [recovered, preflight, as_requested, ("False", "NotRequested")].map(|(is, why)| (is.to_owned(), why.to_owned()));
        assert_eq!(said, expected, "{state}");
        assert!(status.conditions.iter().all(|is| is.observed_generation == status.observed_generation), "{state}: {status:?}");
    }
}

/// One of the experiments whose annotation requests a run.
fn requested<'a>(spec: &'a ChaosExperimentSpec, status: Option<&'a ChaosExperimentStatus>, value: &'a str) -> Experiment<'a> {
    let generation = status.and_then(|status| status.observed_generation).unwrap_or(1);
    Experiment { generation, requested: Some(value), ..experiment(spec, status) }
}

fn begin_requested(spec: &ChaosExperimentSpec, status: Option<&ChaosExperimentStatus>, value: &str, now: Timestamp) -> Decision {
    let experiment = requested(spec, status, value);
    let observed = match needs(&experiment, now, &settings()) {
        Needs::Nothing => Observed::Nothing,
        Needs::Preconditions { .. } => preconditions(candidates(3)),
        Needs::Pods { .. } => pods(BTreeMap::new()),
    };
    decide(&experiment, &observed, now, &settings())
}

const FIRST: &str = "2027-01-15T09:00:00Z";
const SECOND: &str = "2027-01-15T09:00:00.5Z";

#[test]
fn a_request_begins_one_more_run_of_an_unchanged_spec() {
    let spec = spec();
    let over = step(&spec, &running(&spec), |entry| agent(entry, terminated(0, Some(removed()))), at(41)).status.unwrap();
    let again = begin_requested(&spec, Some(&over), FIRST, at(60)).status.unwrap();
    assert_eq!((again.run, again.attempt, again.run_requested_at.as_deref()), (Some(2), Some(1), Some(FIRST)));
    assert_eq!((again.pods.len(), again.start_time.clone()), (2, Some(Time(at(60)))));
    let is = again.condition(netloss_api::RUN_REQUESTED).unwrap();
    assert_eq!((is.status.as_str(), is.reason.as_str()), ("False", "Handled"));
    let over = ChaosExperimentStatus { phase: Some(Phase::Completed), pods: Vec::new(), ..again };
    assert_eq!(begin_requested(&spec, Some(&over), FIRST, at(99)).status.and_then(|status| status.run), Some(2), "one request is one run");
    assert_eq!(begin_requested(&spec, Some(&over), SECOND, at(99)).status.unwrap().run, Some(3));
    // An object that is created with a request has one run.
    let created = begin_requested(&spec, None, FIRST, at(0)).status.unwrap();
    assert_eq!((created.run, created.run_requested_at.as_deref()), (Some(1), Some(FIRST)));
    let edited = ChaosExperimentSpec { count: 3, ..spec.clone() };
    let both = Experiment { generation: 2, ..requested(&edited, Some(&created), SECOND) };
    let ended = ChaosExperimentStatus { phase: Some(Phase::Completed), pods: Vec::new(), ..created.clone() };
    let both = decide(&Experiment { status: Some(&ended), ..both }, &preconditions(candidates(3)), at(9), &settings()).status.unwrap();
    assert_eq!((both.run, both.run_requested_at.as_deref()), (Some(2), Some(SECOND)), "nor do an edit and a request make two");
}

#[test]
fn a_request_waits_for_what_is_under_way_paused_or_retried() {
    let spec = spec();
    let run = running(&spec);
    let views = || pods(run.pods.iter().map(|entry| (entry.uid.clone(), agent(entry, AgentState::Running))).collect());
    let followed = decide(&requested(&spec, Some(&run), FIRST), &views(), at(15), &settings()).status.unwrap();
    assert_eq!((followed.stopping, followed.run, followed.run_requested_at.clone()), (None, Some(1), None), "the run goes on");
    let is = followed.condition(netloss_api::RUN_REQUESTED).unwrap();
    assert_eq!((is.status.as_str(), is.reason.as_str()), ("True", "Waiting"));

    let rest = stopped_by_a_pause(&spec);
    let held = begin_requested(&paused(&spec, true), Some(&rest), FIRST, at(50)).status.unwrap();
    assert!(account(&held) == account(&rest), "{held:?}");
    let resumed = begin_requested(&paused(&spec, false), Some(&held), FIRST, at(60)).status.unwrap();
    assert_eq!((resumed.run, resumed.attempt, resumed.run_requested_at), (Some(1), Some(2), None));

    let over = step(&spec, &run, |entry| agent(entry, terminated(0, Some(removed()))), at(41)).status.unwrap();
    let held = begin_requested(&paused(&spec, true), Some(&over), FIRST, at(50)).status.unwrap();
    assert_eq!(
        (held.phase, held.completed_at.clone(), account(&held) == account(&over)),
        (Some(Phase::Completed), over.completed_at.clone(), true)
    );
    assert_eq!(held.condition(netloss_api::RUN_REQUESTED).unwrap().status, "True");
    assert_eq!(begin_requested(&paused(&spec, false), Some(&held), FIRST, at(60)).status.unwrap().run, Some(2));

    // Beside a schedule, at once; the schedule goes on.
    let nightly = spec_with(json!({ "schedule": "0 * * * *" }));
    let armed = begin(&nightly, None, at(0)).status.unwrap();
    let now = begin_requested(&nightly, Some(&armed), FIRST, at(60)).status.unwrap();
    assert_eq!((now.run, now.next_scheduled_time.clone()), (Some(1), Some(Time(at(3600)))));
    let created = begin_requested(&nightly, None, FIRST, at(0)).status.unwrap();
    assert_eq!((created.run, created.phase), (None, Some(Phase::Pending)), "a copy of a manifest waits for its schedule");
    assert_eq!(begin_requested(&nightly, Some(&created), FIRST, at(60)).status, None);
}

#[test]
fn a_request_that_is_not_a_time_begins_nothing_and_is_named() {
    let spec = spec();
    let over = step(&spec, &running(&spec), |entry| agent(entry, terminated(0, Some(removed()))), at(41)).status.unwrap();
    let long = format!("2027-01-15T09:00:00.{}Z", "0".repeat(100));
    for bad in ["", "now", "true", "2027-01-15", "1800000000", "2027-01-15T09:00:00", "2027-01-15T09:00:00Z[UTC]", &long, "\u{1b}[31m"] {
        let decision = begin_requested(&spec, Some(&over), bad, at(60));
        let status = decision.status.unwrap();
        assert_eq!((status.run, status.run_requested_at.clone()), (Some(1), None), "{bad:?}");
        let is = status.condition(netloss_api::RUN_REQUESTED).unwrap();
        assert_eq!((is.status.as_str(), is.reason.as_str()), ("False", "InvalidValue"), "{bad:?}");
        assert!(is.message.contains("chaos.gushchin.dev/run-requested-at") && !is.message.contains(char::is_control), "{}", is.message);
        assert_eq!(begin_requested(&spec, Some(&status), bad, at(70)).status, None, "it is written once");
    }
}
