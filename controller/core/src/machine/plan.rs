//! The begin of a run: what is refused, who is chosen, what is frozen.

use super::{
    Begin, Decision, EventRecord, Experiment, Preconditions, Settings,
    begin::{miss, schedule_next, wait},
    events,
    request::{Request, check},
    requested, rest, summary,
};
use crate::{
    refusal::{Refusal, RefusalReason},
    sanitize::some_of,
    status_store::{self, LARGEST_WHOLE},
    targets::{self, Candidate},
    windows::{Access, Windows},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_api::{ACCEPTED, ChaosExperimentStatus, Phase, PodState, PodStatus};
use netloss_contract::{Ttl, container_name};
use std::{collections::BTreeSet, time::Duration};

/// Skipped pods that get an event of their own; what is more is counted.
const SKIPPED_EVENTS: usize = 100;

/// The way out where nothing of the spec has to change: an unchanged spec that is applied again begins no other run.
const RERUN: &str = "request another run (kubectl netloss rerun)";

/// Writes down what is about to be done, and does nothing else.
pub(super) fn plan(experiment: &Experiment<'_>, why: Begin, seen: &Preconditions, now: Timestamp, settings: &Settings) -> Decision {
    let request = match check(experiment, settings) {
        Ok(request) => request,
        Err(words) => return fail(experiment, why, now, Refusal::invalid(words), Vec::new(), false),
    };
    if let Some(held) = held_back(experiment, why, seen, now, settings) {
        return held;
    }
    let pods = &seen.pods;
    let mut told: Vec<EventRecord> = pods.iter().filter_map(events::skipped).collect();
    let more = told.len().saturating_sub(SKIPPED_EVENTS);
    told.truncate(SKIPPED_EVENTS);
    told.extend((more > 0).then(|| events::skipped_more(more)));
    let mut status = begun(experiment, why, now);
    let (run, attempt) = (status.run.unwrap_or(1), status.attempt.unwrap_or(1));
    let chosen = match (why, experiment.status) {
        (Begin::Resume, Some(before)) => left(before, pods, experiment.spec.count, request.ttl),
        _ => targets::choose(pods, experiment.spec.count, experiment.uid, run).into_iter().map(|pod| (pod, request.ttl)).collect(),
    };
    if let Err(refusal) = enough(experiment, &request, why, pods, &chosen) {
        return fail(experiment, why, now, refusal, told, true);
    }
    told.extend(request.model.warning().map(|warning| events::effective_loss(&warning)));
    if experiment.spec.dry_run == Some(true) {
        return dry_run(&request, &chosen, status, told, now);
    }
    let until = last_moment(experiment, &status, now);
    if until.is_some_and(|until| until <= now) {
        return fail(experiment, why, now, rest::time_is_over(), told, false);
    }
    let planned = Planned { request: &request, run, attempt, now, until, settings };
    let entries: Vec<PodStatus> = chosen.iter().map(|(pod, ttl)| planned.freeze(experiment, pod, *ttl)).collect();
    // What had ended before a pause has ended.
    let resumed = |pod: &PodStatus| entries.iter().any(|entry| entry.uid == pod.uid);
    let ended = experiment.status.filter(|_| why == Begin::Resume).map(|before| before.pods.clone()).unwrap_or_default();
    status.pods = ended.into_iter().filter(|pod| !resumed(pod)).map(|pod| PodStatus { remaining: None, ..pod }).collect();
    status.pods.extend(entries.iter().cloned());
    status.message = Some(summary::message(&status, experiment, &[]));
    let (bytes, count, left) =
        (status_store::size(&status_store::without_arguments(status.clone())), entries.len(), status.unresolved_pods.len());
    if bytes > LARGEST_WHOLE {
        let remedy = if left > count {
            format!(
                "loss may remain in {left} pods of earlier runs, which are remembered there: kubectl netloss doctor --fix -A removes it, then {RERUN}"
            )
        } else {
            "lower spec.count".to_owned()
        };
        let message = format!(
            "what is to be done in {count} pods takes {bytes} bytes of status, and at most {LARGEST_WHOLE} are kept for that: {remedy}"
        );
        return fail(experiment, why, now, Refusal::new(RefusalReason::TooLargeAStatus, message), told, false);
    }
    // The write itself makes the controller look again; the time is for the case that it does not hear of it.
    Decision { status: Some(status), events: told, requeue: Some(Duration::from_secs(1)), ..Decision::default() }
}

/// What stands against beginning now, beside the spec and the clock.
fn held_back(experiment: &Experiment<'_>, why: Begin, seen: &Preconditions, now: Timestamp, settings: &Settings) -> Option<Decision> {
    let spec = experiment.spec;
    let namespace = spec.target_namespace(experiment.namespace);
    let frozen = seen.freeze.as_ref().map(|reason| {
        let words = format!("All experiments are frozen: {reason}; when they no longer are, {RERUN}");
        Refusal::new(RefusalReason::Frozen, words)
    });
    let conflicting_controller =
        |pod: &String| Refusal::new(RefusalReason::AnotherController, format!("{}, then {RERUN}", targets::conflicting_controller(pod)));
    if let Some(refusal) = frozen.or_else(|| seen.conflicting_controller.as_ref().map(conflicting_controller)) {
        return Some(if why == Begin::Tick {
            miss(experiment, now, &refusal.words)
        } else {
            fail(experiment, why, now, refusal, Vec::new(), false)
        });
    }
    let refusal = targets::refusal(&seen.namespace, namespace, experiment.namespace, spec.allow_production == Some(true), settings);
    if let Some(refusal) = refusal {
        return Some(fail(experiment, why, now, refusal, Vec::new(), false));
    }
    let mut missing = seen.dependencies.iter().filter(|(_, phase)| **phase != Some(Phase::Completed));
    if let Some((name, phase)) = missing.next() {
        let state = phase.map_or_else(|| "not begun, or not there".to_owned(), |phase| format!("{phase:?}"));
        if *phase == Some(Phase::Failed) {
            let message = format!("spec.dependsOn names \"{name}\", which is Failed: when it has succeeded, {RERUN}");
            return Some(fail(experiment, why, now, Refusal::new(RefusalReason::DependencyFailed, message), Vec::new(), false));
        }
        let message = format!("Waiting for the experiment \"{name}\" to be Completed: it is {state}");
        return Some(wait(experiment, why, message, None, now));
    }
    None
}

/// Whether there are enough pods, and not too many.
fn enough(
    experiment: &Experiment<'_>,
    request: &Request,
    why: Begin,
    pods: &[Candidate],
    chosen: &[(&Candidate, Ttl)],
) -> Result<(), Refusal> {
    let spec = experiment.spec;
    if chosen.is_empty() {
        return Err(if why == Begin::Resume {
            Refusal::new(RefusalReason::NoEligiblePods, "No eligible pods: none of those that the loss was paused in is left")
        } else {
            no_eligible_pods(experiment, pods)
        });
    }
    let eligible = pods.iter().filter(|pod| pod.skip.is_none()).count();
    if let Some(max) = spec.max_percentage
        && why != Begin::Resume
        && chosen.len() * 100 > eligible * max as usize
    {
        return Err(too_large_a_share(chosen.len(), eligible, max));
    }
    let ready = pods.iter().filter(|pod| pod.ready).count();
    if let Some(least) = spec.abort.filter(|least| ready < *least as usize) {
        let words = format!("spec.abort is {least}, but only {ready} of the {} targets are ready: no loss is brought", pods.len());
        return Err(Refusal::new(RefusalReason::TooFewReady, words));
    }
    if let Some((unknown, _)) = chosen.iter().find(|(pod, _)| request.spare_node && pod.host_ips.is_empty()) {
        let name = &unknown.target.name;
        let words =
            format!("spec.spareNode is true, but the pod {name} does not show the addresses of its node (status.hostIPs): try again");
        return Err(Refusal::new(RefusalReason::NodeUnknown, words));
    }
    Ok(())
}

/// Why `count` of the eligible pods are more than `spec.maxPercentage` allows.
#[must_use]
pub fn too_large_a_share(count: usize, eligible: usize, max: u32) -> Refusal {
    let share = (count * 100).div_ceil(eligible.max(1));
    let words = format!(
        "spec.maxPercentage is {max}, but {count} of the {eligible} eligible pods are {share} %: lower spec.count or raise spec.maxPercentage"
    );
    Refusal::new(RefusalReason::TooLargeAShare, words)
}

/// The pods that a pause has left something to do in, and how much: no more pods and no more time than the spec asks for, whatever
/// status says.
fn left<'a>(before: &ChaosExperimentStatus, pods: &'a [Candidate], count: u32, longest: Ttl) -> Vec<(&'a Candidate, Ttl)> {
    let remaining = before.pods.iter().filter_map(|pod| Some((&pod.uid, pod.remaining.as_ref()?.parse::<Ttl>().ok()?.min(longest))));
    let mut taken = BTreeSet::new();
    let free = |uid: &String| pods.iter().find(|pod| pod.target.uid == *uid && pod.skip.is_none());
    let left = remaining.filter(|(uid, _)| taken.insert(*uid)).filter_map(|(uid, ttl)| Some((free(uid)?, ttl)));
    left.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
}

/// The status of an attempt that begins now.
fn begun(experiment: &Experiment<'_>, why: Begin, now: Timestamp) -> ChaosExperimentStatus {
    let mut status = rest::carried(experiment, why);
    status.phase = Some(Phase::Pending);
    status.last_run_time = Some(Time(now));
    if matches!(why, Begin::Retry | Begin::Resume) && status.run.is_some() {
        status.attempt = Some(status.attempt.unwrap_or(1).saturating_add(1));
        status.start_time = status.start_time.or(Some(Time(now)));
    } else {
        status.run = Some(status.run.unwrap_or(0).saturating_add(1));
        status.attempt = Some(1);
        status.start_time = Some(Time(now));
    }
    if why == Begin::Requested {
        status.run_requested_at = requested::valid(experiment).map(str::to_owned);
    }
    if why == Begin::Tick {
        status.last_scheduled_time = status.next_scheduled_time.take();
    }
    status.next_scheduled_time = schedule_next(experiment, now).map(Time);
    status
}

/// When the loss has to be over, whatever its duration is.
fn last_moment(experiment: &Experiment<'_>, status: &ChaosExperimentStatus, now: Timestamp) -> Option<Timestamp> {
    let closes = match Windows::of(experiment.spec).unwrap_or_default().at(now) {
        Access::Open(until) => until,
        Access::Closed(_) => Some(now),
    };
    [closes, rest::end_of_run(experiment, status)].into_iter().flatten().min()
}

/// The end of a run that was only to say what it would do.
fn dry_run(
    request: &Request,
    chosen: &[(&Candidate, Ttl)],
    begun: ChaosExperimentStatus,
    mut told: Vec<EventRecord>,
    now: Timestamp,
) -> Decision {
    let names = some_of(chosen.iter().map(|(pod, _)| pod.target.name.clone()));
    let message = format!(
        "DRY RUN: would inject {}% packet loss (pod-network-loss) into {} pod(s): {names}",
        request.model.asked_percentage(),
        chosen.len()
    );
    told.push(events::dry_run(&message));
    let status = ChaosExperimentStatus { phase: Some(Phase::Completed), message: Some(message), completed_at: Some(Time(now)), ..begun };
    let requeue = rest::requeue(&status, now);
    Decision { status: Some(status), events: told, requeue, ..Decision::default() }
}

/// What the entries of one attempt have in common.
struct Planned<'a> {
    request: &'a Request,
    run: u32,
    attempt: u32,
    now: Timestamp,
    /// When the loss has to be over, whatever its duration is.
    until: Option<Timestamp>,
    settings: &'a Settings,
}

impl Planned<'_> {
    fn freeze(&self, experiment: &Experiment<'_>, candidate: &Candidate, ttl: Ttl) -> PodStatus {
        let Self { request, run, attempt, now, until, settings } = *self;
        let deadline = deadline(now, settings.start_timeout + ttl.duration());
        let deadline = until.map_or(deadline, |until| deadline.min(whole(until)));
        let args = request.arguments(experiment, run, ttl, deadline, candidate.host_ips.clone());
        let target = &candidate.target;
        PodStatus {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
            node: target.node.clone(),
            container: container_name(experiment.uid, run, attempt),
            image: settings.agent_image.clone(),
            argv: args.to_argv(),
            plan: None,
            deadline: Time(deadline),
            attempt,
            asked: request.asked(experiment, ttl),
            template: Some(candidate.template.clone()),
            pod_ip: candidate.ip.clone(),
            stop: None,
            repair: None,
            state: PodState::Planned,
            interface: None,
            backend: None,
            unguarded: None,
            applied_at: None,
            silent: None,
            loss_seconds: None,
            remaining: None,
            observed: None,
            outcome: None,
            changed_by_others: None,
            ended_at: None,
            message: None,
        }
    }
}

/// In whole seconds, as `metav1.Time` keeps no more and the argument and the status are to say the same.
pub(super) fn deadline(now: Timestamp, after: Duration) -> Timestamp {
    let after = SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
    whole(now).saturating_add(after).unwrap_or(Timestamp::MAX)
}

/// Without fractions of seconds.
pub(super) fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn no_eligible_pods(experiment: &Experiment<'_>, pods: &[Candidate]) -> Refusal {
    let namespace = experiment.spec.target_namespace(experiment.namespace);
    targets::no_eligible_pods(&experiment.spec.selector, namespace, pods)
}

/// The end of an attempt before it began; where trying again may help, that follows.
pub(super) fn fail(
    experiment: &Experiment<'_>,
    why: Begin,
    now: Timestamp,
    refusal: Refusal,
    mut told: Vec<EventRecord>,
    may_pass: bool,
) -> Decision {
    let (Refusal { reason, words: message }, mut status) = (refusal, begun(experiment, why, now));
    if why == Begin::Resume {
        // What was done before the pause was done.
        status.pods = experiment.status.map(|before| before.pods.clone()).unwrap_or_default();
        status.pods.iter_mut().for_each(|pod| pod.remaining = None);
    }
    status.message = Some(message.clone());
    status.set_condition(ACCEPTED, "False", &reason.to_string(), &message, now);
    let retry = if may_pass && why != Begin::Resume { rest::retry(experiment, &mut status, now) } else { None };
    if retry.is_none() {
        let applied = status.pods.iter().any(PodStatus::was_applied);
        if applied {
            rest::set_as_requested(&mut status, now);
        }
        status.phase = Some(if applied { Phase::Completed } else { Phase::Failed });
        status.completed_at = Some(Time(now));
        told.push(events::failed_run(&message));
    }
    told.extend(retry);
    Decision { requeue: rest::requeue(&status, now), status: Some(status), events: told, refusal: Some(reason), ..Decision::default() }
}
