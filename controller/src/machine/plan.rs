//! The begin of a run: what is refused, who is chosen, what is frozen.

use super::{
    Decision, EventRecord, Experiment, Observed, Settings, events,
    request::{Request, check},
    summary,
};
use crate::{
    api::{AskedLoss, ChaosExperimentStatus, Phase, PodState, PodStatus},
    targets::{self, Candidate},
    words::some_of,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{Filters, LossModel, RunArgs, container_name};
use std::time::Duration;

/// A status of a run that has just been planned, in bytes: what is seen later has to fit into 256 KiB with it.
const LARGEST_PLAN: usize = 150 * 1024;

/// Skipped pods that get an event of their own; a message names the number of all.
const SKIPPED_EVENTS: usize = 10;

/// Writes down what is about to be done, and does nothing else.
pub(super) fn plan(experiment: &Experiment<'_>, observed: &Observed, now: Timestamp, settings: &Settings) -> Decision {
    let request = match check(experiment, settings) {
        Ok(request) => request,
        Err(refusal) => return fail(experiment, now, refusal, Vec::new()),
    };
    let Observed::Candidates { namespace_excluded, pods } = observed else { return Decision::default() };
    if *namespace_excluded {
        let label = targets::EXCLUDE_LABEL;
        return fail(
            experiment,
            now,
            format!("No eligible pods: the namespace \"{}\" carries the label {label}", experiment.namespace),
            Vec::new(),
        );
    }
    let mut told: Vec<EventRecord> = pods.iter().filter_map(events::skipped).take(SKIPPED_EVENTS).collect();
    let chosen = targets::choose(pods, experiment.spec.count, experiment.uid, request.run);
    if chosen.is_empty() {
        return fail(experiment, now, no_eligible_pods(experiment, pods), told);
    }
    let eligible = pods.iter().filter(|pod| pod.skip.is_none()).count();
    if let Some(max) = experiment.spec.max_percentage
        && chosen.len() * 100 > eligible * max as usize
    {
        let (count, share) = (chosen.len(), (chosen.len() * 100).div_ceil(eligible.max(1)));
        let message = format!(
            "spec.maxPercentage is {max}, but {count} of the {eligible} eligible pods are {share} %: lower spec.count or raise spec.maxPercentage"
        );
        return fail(experiment, now, message, told);
    }
    if let Some(unknown) = chosen.iter().find(|pod| request.spare_node && pod.host_ips.is_empty()) {
        let name = &unknown.target.name;
        let message =
            format!("spec.spareNode is true, but the pod {name} does not show the addresses of its node (status.hostIPs): try again");
        return fail(experiment, now, message, told);
    }
    told.extend(request.model.warning().map(|warning| events::effective_loss(&warning)));
    if experiment.spec.dry_run == Some(true) {
        return dry_run(experiment, &request, &chosen, now, told);
    }
    let pods = chosen.into_iter().map(|pod| freeze(experiment, &request, pod, now, settings)).collect();
    let mut status = ChaosExperimentStatus {
        phase: Some(Phase::Pending),
        start_time: Some(Time(now)),
        run: Some(request.run),
        observed_generation: Some(experiment.generation),
        pods,
        ..ChaosExperimentStatus::default()
    };
    status.message = Some(summary::message(&status, experiment, &[]));
    let (bytes, pods) = (size(&status), status.pods.len());
    if bytes > LARGEST_PLAN {
        let message = format!(
            "what is to be done in {pods} pods takes {bytes} bytes of status, and at most {LARGEST_PLAN} are kept for that: give fewer and wider \
             networks in spec.target… and spec.spare, or lower spec.count"
        );
        return fail(experiment, now, message, told);
    }
    // The write itself makes the controller look again; the time is for the case that it does not hear of it.
    Decision { status: Some(status), events: told, requeue: Some(Duration::from_secs(1)), ..Decision::default() }
}

/// In bytes, as the API server gets it.
fn size(status: &ChaosExperimentStatus) -> usize {
    serde_json::to_vec(status).map_or(usize::MAX, |bytes| bytes.len())
}

/// The end of a run that was only to say what it would do.
fn dry_run(experiment: &Experiment<'_>, request: &Request, chosen: &[&Candidate], now: Timestamp, mut told: Vec<EventRecord>) -> Decision {
    let names = some_of(chosen.iter().map(|pod| pod.target.name.clone()));
    let message = format!(
        "DRY RUN: would inject {}% packet loss (pod-network-loss) into {} pod(s): {names}",
        request.model.asked_percentage(),
        chosen.len()
    );
    told.push(events::dry_run(&message));
    let status = ChaosExperimentStatus {
        phase: Some(Phase::Completed),
        message: Some(message),
        start_time: Some(Time(now)),
        completed_at: Some(Time(now)),
        run: Some(request.run),
        observed_generation: Some(experiment.generation),
        ..ChaosExperimentStatus::default()
    };
    Decision { status: Some(status), events: told, requeue: None, ..Decision::default() }
}

fn freeze(experiment: &Experiment<'_>, request: &Request, candidate: &Candidate, now: Timestamp, settings: &Settings) -> PodStatus {
    const ATTEMPT: u32 = 1;
    let deadline = deadline(now, settings.start_timeout + request.ttl.duration());
    let args = RunArgs {
        model: request.model,
        direction: experiment.spec.direction,
        seed: request.seed,
        per_segment: request.per_segment,
        filters: Filters {
            spare_node: if request.spare_node { candidate.host_ips.clone() } else { Vec::new() },
            ..request.filters.clone()
        },
        ttl: request.ttl,
        deadline: Some(deadline),
        run: Some(request.run_id.clone()),
        interface: experiment.spec.interface.clone(),
        backend: request.backend,
        heartbeat: request.heartbeat,
        allow_host_network: false,
    };
    let target = &candidate.target;
    let correlation = if let LossModel::Random { correlation, .. } = request.model { correlation.percent() } else { 0.0 };
    PodStatus {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        uid: target.uid.clone(),
        node: target.node.clone(),
        container: container_name(experiment.uid, request.run, ATTEMPT),
        image: settings.agent_image.clone(),
        argv: args.to_argv(),
        deadline: Time(deadline),
        attempt: ATTEMPT,
        asked: AskedLoss {
            loss_percentage: request.model.asked_percentage(),
            correlation,
            direction: experiment.spec.direction,
            duration: request.ttl.to_string(),
        },
        stop: None,
        state: PodState::Planned,
        interface: None,
        backend: None,
        unguarded: None,
        applied_at: None,
        observed: None,
        outcome: None,
        ended_at: None,
        message: None,
    }
}

/// In whole seconds, as `metav1.Time` keeps no more and the argument and the status are to say the same.
fn deadline(now: Timestamp, after: Duration) -> Timestamp {
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let after = SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
    whole.saturating_add(after).unwrap_or(Timestamp::MAX)
}

fn no_eligible_pods(experiment: &Experiment<'_>, pods: &[Candidate]) -> String {
    let selector = &experiment.spec.selector;
    let labels = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let namespace = experiment.namespace;
    if pods.is_empty() {
        return format!("No eligible pods: none in the namespace \"{namespace}\" has the labels {labels}");
    }
    let first = pods.iter().filter_map(|pod| pod.skip.as_ref().map(|skip| format!("{}: {skip}", pod.target.name)));
    let reasons = some_of(first);
    format!(
        "No eligible pods: none of the {} in the namespace \"{namespace}\" with the labels {labels} may be acted on ({reasons})",
        pods.len()
    )
}

/// The end of a run before it began.
fn fail(experiment: &Experiment<'_>, now: Timestamp, message: String, mut told: Vec<EventRecord>) -> Decision {
    let run = experiment.status.and_then(|status| status.run).unwrap_or(0).saturating_add(1);
    told.push(events::failed_run(&message));
    let status = ChaosExperimentStatus {
        phase: Some(Phase::Failed),
        message: Some(message),
        start_time: Some(Time(now)),
        completed_at: Some(Time(now)),
        run: Some(run),
        observed_generation: Some(experiment.generation),
        ..ChaosExperimentStatus::default()
    };
    Decision { status: Some(status), events: told, requeue: None, ..Decision::default() }
}
