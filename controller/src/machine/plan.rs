//! The begin of a run: what is refused, who is chosen, what is frozen.

use super::{Decision, EventRecord, Experiment, Observed, Settings, events, summary};
use crate::{
    api::{AskedLoss, ChaosExperimentStatus, MAX_LOSS_PERCENTAGE, Phase, PodState, PodStatus, unserved},
    targets::{self, Candidate, Target},
    words::some_of,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use netloss_contract::{
    BackendChoice, Correlation, Filters, HeartbeatInterval, LossModel, LossPercentage, RunArgs, RunId, Ttl, container_name,
};
use std::time::Duration;

/// How often an agent reports.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Skipped pods that get an event of their own; a message names the number of all.
const SKIPPED_EVENTS: usize = 10;

/// A spec whose values are in their ranges.
#[derive(Debug)]
pub(super) struct Request {
    loss: LossPercentage,
    correlation: Correlation,
    ttl: Ttl,
    heartbeat: HeartbeatInterval,
    run: u32,
    run_id: RunId,
}

/// Checks a spec as the schema should have, and what a schema cannot; the error is what the user is to read.
pub(super) fn check(experiment: &Experiment<'_>, settings: &Settings) -> Result<Request, String> {
    let Experiment { namespace, spec, .. } = experiment;
    if let Some(asked) = spec.namespace.as_deref().filter(|asked| asked != namespace) {
        return Err(format!(
            "spec.namespace is \"{asked}\", but an experiment acts only on pods of its own namespace \"{namespace}\": \
             create it in \"{asked}\" and leave spec.namespace out"
        ));
    }
    if namespace.starts_with("kube-") || *namespace == settings.own_namespace {
        return Err(format!("experiments in the namespace \"{namespace}\" are refused: its pods run the cluster or netloss itself"));
    }
    if spec.selector.is_empty() {
        return Err("spec.selector is empty: name at least one label that the pods carry, such as app: web".to_owned());
    }
    if let Some((key, value)) = spec.selector.iter().find(|(key, value)| !is_label(key, value)) {
        return Err(format!(
            "spec.selector has \"{key}\": \"{value}\", which no pod can carry: give a label as pods have it, such as app: web"
        ));
    }
    if let Some(field) = unserved(spec) {
        return Err(format!("spec.{field} is not served by this version of netloss, and is not ignored either: remove it"));
    }
    if spec.require_guarded == Some(true) && spec.backend == Some(BackendChoice::Tc) {
        return Err("spec.requireGuarded is true, but spec.backend is tc, which is not guarded: ask for guarded, or leave one of them out"
            .to_owned());
    }
    let duration = spec.duration.as_deref().ok_or("spec.duration is required: give a length such as 90s, 2m or 1h30m")?;
    let loss = LossPercentage::try_from(spec.loss_percentage).map_err(|error| format!("spec.lossPercentage: {error}"))?;
    if loss.percent() > MAX_LOSS_PERCENTAGE {
        return Err(format!("spec.lossPercentage is {loss}, but at most {MAX_LOSS_PERCENTAGE} is allowed"));
    }
    if let (Some(correlation), Some(older)) = (spec.correlation, spec.loss_correlation)
        && (correlation - older).abs() > f64::EPSILON
    {
        return Err(format!(
            "spec.correlation is {correlation} and its older name spec.lossCorrelation is {older}: set only spec.correlation"
        ));
    }
    let run = experiment.status.and_then(|status| status.run).unwrap_or(0).saturating_add(1);
    Ok(Request {
        loss,
        correlation: Correlation::try_from(spec.correlation_percentage()).map_err(|error| format!("spec.correlation: {error}"))?,
        ttl: duration.parse().map_err(|error| format!("spec.duration: {error}"))?,
        heartbeat: HEARTBEAT.try_into().map_err(|error| format!("heartbeat: {error}"))?,
        run,
        run_id: format!("{}/{run}", experiment.uid).parse().map_err(|error| format!("metadata.uid: {error}"))?,
    })
}

/// Whether Kubernetes takes this for a label. One that it does not would be an error of every list of pods, or, with a comma in it,
/// another selector.
fn is_label(key: &str, value: &str) -> bool {
    let is_name = |text: &str, longest: usize| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let ends = |c: char| c.is_ascii_alphanumeric();
        text.len() <= longest && text.starts_with(ends) && text.ends_with(ends) && text.chars().all(inner)
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| is_name(prefix, 253)) && is_name(name, 63) && (value.is_empty() || is_name(value, 63))
}

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
    let skipped: Vec<EventRecord> = pods.iter().filter_map(events::skipped).take(SKIPPED_EVENTS).collect();
    let chosen = targets::choose(pods, experiment.spec.count, experiment.uid, request.run);
    if chosen.is_empty() {
        return fail(experiment, now, no_eligible_pods(experiment, pods), skipped);
    }
    let eligible = pods.iter().filter(|pod| pod.skip.is_none()).count();
    if let Some(max) = experiment.spec.max_percentage
        && chosen.len() * 100 > eligible * max as usize
    {
        let (count, share) = (chosen.len(), (chosen.len() * 100).div_ceil(eligible.max(1)));
        let message = format!(
            "spec.maxPercentage is {max}, but {count} of the {eligible} eligible pods are {share} %: lower spec.count or raise spec.maxPercentage"
        );
        return fail(experiment, now, message, skipped);
    }
    if experiment.spec.dry_run == Some(true) {
        return dry_run(experiment, &request, &chosen, now, skipped);
    }
    let pods = chosen.into_iter().map(|target| freeze(experiment, &request, target, now, settings)).collect();
    let mut status = ChaosExperimentStatus {
        phase: Some(Phase::Pending),
        start_time: Some(Time(now)),
        run: Some(request.run),
        observed_generation: Some(experiment.generation),
        pods,
        ..ChaosExperimentStatus::default()
    };
    status.message = Some(summary::message(&status, experiment, &[]));
    // The write itself makes the controller look again; the time is for the case that it does not hear of it.
    Decision { status: Some(status), injections: Vec::new(), events: skipped, requeue: Some(Duration::from_secs(1)) }
}

/// The end of a run that was only to say what it would do.
fn dry_run(experiment: &Experiment<'_>, request: &Request, chosen: &[&Target], now: Timestamp, mut told: Vec<EventRecord>) -> Decision {
    let names = some_of(chosen.iter().map(|target| target.name.clone()));
    let message = format!("DRY RUN: would inject {}% packet loss (pod-network-loss) into {} pod(s): {names}", request.loss, chosen.len());
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
    Decision { status: Some(status), injections: Vec::new(), events: told, requeue: None }
}

fn freeze(experiment: &Experiment<'_>, request: &Request, target: &Target, now: Timestamp, settings: &Settings) -> PodStatus {
    const ATTEMPT: u32 = 1;
    let deadline = deadline(now, settings.start_timeout + request.ttl.duration());
    let args = RunArgs {
        model: LossModel::Random { loss_percentage: request.loss, correlation: request.correlation },
        direction: experiment.spec.direction,
        seed: None,
        per_segment: false,
        filters: Filters::default(),
        ttl: request.ttl,
        deadline: Some(deadline),
        run: Some(request.run_id.clone()),
        interface: experiment.spec.interface.clone(),
        backend: if experiment.spec.require_guarded == Some(true) {
            BackendChoice::Guarded
        } else {
            experiment.spec.backend.unwrap_or_default()
        },
        heartbeat: request.heartbeat,
        allow_host_network: false,
    };
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
            loss_percentage: request.loss.percent(),
            correlation: request.correlation.percent(),
            direction: experiment.spec.direction,
            duration: request.ttl.to_string(),
        },
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
    Decision { status: Some(status), injections: Vec::new(), events: told, requeue: None }
}
