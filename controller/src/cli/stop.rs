//! `stop`: ends runs, and waits until every pod is known to be free of them.

use super::{
    agents::{self, Agent},
    connect::{Cluster, Scope},
    error::{Error, is_forbidden},
    follow::{End, Follow},
    freeze::STOP_LIMIT,
    hand::{self, Hand, agent_image},
    output::{note, print},
    presence,
    run::FIELD_MANAGER,
    show::Show,
    status::experiments,
    verdict,
};
use crate::{
    api::{ChaosExperiment, ChaosExperimentStatus, Outcome, Phase},
    history::EXPERIMENT_LABEL,
    words::some_of,
};
use clap::Args;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use netloss_contract::Ttl;
use serde_json::json;
use std::time::Duration;

/// Experiments that are stopped at a time.
const CONCURRENCY: usize = 16;

/// End runs, and wait until the loss is gone from every pod
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what they are
pub(super) struct StopArgs {
    /// Names of experiments
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,

    /// All experiments: of all namespaces, or of the one that -n names
    #[arg(long)]
    all: bool,

    /// Pause the experiments in place of deleting them, so that what is left of their time can go on later
    #[arg(long)]
    pause: bool,

    /// Stop the agents with your own rights, without waiting for netloss's controller; done by itself where that is down
    #[arg(long, conflicts_with = "pause")]
    direct: bool,

    /// The agent's image for what is sent after agents; left out it is the one that runs already
    #[arg(long, value_name = "IMAGE")]
    agent_image: Option<String>,

    /// Wait until the loss is gone
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,

    /// Wait no longer than this; left out it is five minutes
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Ttl>,
}

pub(super) async fn run(args: StopArgs, cluster: &Cluster) -> Result<(), Error> {
    let objects = if args.all { everything(cluster).await? } else { named(cluster, &args.names).await? };
    let presence = presence::look(cluster, Timestamp::now()).await;
    let by_hand = args.direct || presence.is_down() && !args.pause;
    if by_hand && !args.direct {
        note(&format!("netloss's controller is {}: agents are stopped with your own rights", presence.words()));
    }
    // Agents of no experiment are there after a direct run, or when an experiment was taken away by force.
    let orphans = if args.all { orphans(cluster, &objects).await? } else { Vec::new() };
    let (to_stop, over): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| !verdict::is_over(object));
    let mut worst = Ok(());
    for object in &over {
        if !args.all {
            note(&format!("{} is over ({}): nothing to stop", object.name_any(), phase(object)));
        }
        worst = worse(worst, verdict::clean(&object.name_any(), &object.status.clone().unwrap_or_default()));
    }
    if to_stop.is_empty() && orphans.is_empty() && args.all {
        note("nothing is under way");
    }
    let limit = args.timeout.map_or(STOP_LIMIT, Ttl::duration);
    let image = agent_image(cluster, args.agent_image.as_deref()).await?;
    let (args, image) = (&args, &image);
    let ends = stream::iter(to_stop).map(|object| async move { stop(cluster, args, &object, by_hand.then_some(image), limit).await });
    let ends: Vec<Result<(), Error>> = ends.buffer_unordered(CONCURRENCY).collect().await;
    let gone = stream::iter(orphans).map(|agent| async move { stop_orphan(cluster, &agent, image.clone(), limit).await });
    let gone: Vec<Result<(), Error>> = gone.buffer_unordered(CONCURRENCY).collect().await;
    ends.into_iter().chain(gone).fold(worst, worse)
}

/// The agents of no experiment, as far as pods may be listed.
async fn orphans(cluster: &Cluster, objects: &[ChaosExperiment]) -> Result<Vec<Agent>, Error> {
    let scope = cluster.scope(!cluster.is_namespace_given);
    match cluster.api::<Pod>(&scope).list(&ListParams::default()).await {
        Ok(list) => Ok(agents::orphans(agents::at_work(&list.items), objects)),
        Err(error) if is_forbidden(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::api("listing pods")(error)),
    }
}

/// Stops an agent of no experiment, with the user's rights.
pub(super) async fn stop_orphan(cluster: &Cluster, agent: &Agent, image: Option<String>, limit: Duration) -> Result<(), Error> {
    let words = agent.words();
    let Some(object) = agent.experiment(Timestamp::now()) else {
        let ends = agent.deadline().map_or_else(|| "at its time".to_owned(), |at| format!("at {at} at the latest"));
        return Err(Error::Failed(format!("{words} was not put in by netloss's controller, and is left alone: its loss ends {ends}")));
    };
    let mut hand = Hand::stop(cluster, image, object);
    let status = hand::to_the_end(&mut hand, limit).await?;
    verdict::clean(&words, &status)?;
    print(&format!("{words}, of no experiment: stopped: {}\n", outcomes(&status)))
}

/// The end that matters more; the other is told.
fn worse(one: Result<(), Error>, other: Result<(), Error>) -> Result<(), Error> {
    let rank = |error: &Error| match error {
        Error::LossMayRemain(_) => 5,
        Error::TimedOut(_) => 4,
        Error::Interrupted(_) => 3,
        Error::Failed(_) | Error::Forbidden(_) => 2,
        Error::NotAsAsked(_) | Error::LossDiffers(_) | Error::Closed => 1,
    };
    match (one, other) {
        (Ok(()), other) => other,
        (one, Ok(())) => one,
        (Err(one), Err(other)) => {
            let (worse, told) = if rank(&other) > rank(&one) { (other, one) } else { (one, other) };
            note(&format!("error: {told}"));
            Err(worse)
        }
    }
}

async fn named(cluster: &Cluster, names: &[String]) -> Result<Vec<ChaosExperiment>, Error> {
    let mut objects = Vec::new();
    for name in names {
        let object = cluster.experiment(name).await?;
        if !object.spec.action.is_served() {
            return Err(Error::Failed(format!(
                "\"{name}\" is an experiment of another action, which netloss does not run: nothing was done"
            )));
        }
        objects.push(object);
    }
    Ok(objects)
}

/// All experiments that somebody who is in a hurry means.
async fn everything(cluster: &Cluster) -> Result<Vec<ChaosExperiment>, Error> {
    if cluster.is_namespace_given {
        return experiments(cluster, &cluster.scope(false)).await;
    }
    match experiments(cluster, &Scope::All).await {
        Err(Error::Forbidden(_)) => {
            let namespace = &cluster.namespace;
            note(&format!("experiments of other namespaces cannot be seen with these rights: only those of \"{namespace}\" are stopped"));
            experiments(cluster, &cluster.scope(false)).await
        }
        other => other,
    }
}

fn phase(object: &ChaosExperiment) -> String {
    object.status.as_ref().and_then(|status| status.phase).map_or_else(|| "not begun".to_owned(), |phase| format!("{phase:?}"))
}

async fn stop(
    cluster: &Cluster,
    args: &StopArgs,
    object: &ChaosExperiment,
    by_hand: Option<&Option<String>>,
    limit: Duration,
) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api = cluster.api::<ChaosExperiment>(&Scope::One(namespace.clone()));
    let what = format!("stopping experiment \"{name}\" in namespace \"{namespace}\"");
    if args.pause {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "metadata": { "uid": object.uid() }, "spec": { "paused": true } }));
        api.patch(&name, &params, &patch).await.map_err(Error::api(what))?;
    } else {
        let this_one = Preconditions { uid: object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
        match api.delete(&name, &params).await {
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            answer => drop(answer.map_err(Error::api(what))?),
        }
    }
    if !args.wait {
        return print(&format!("{namespace}/{name}: told to stop\n"));
    }
    if let Some(image) = by_hand {
        return stop_by_hand(cluster, object, image.clone(), limit).await;
    }
    let uid = object.uid();
    let follow = Follow { cluster, namespace: &namespace, name: &name, uid: uid.as_deref(), limit: Some(limit) };
    let is_paused = |object: &ChaosExperiment| {
        let phase = object.status.as_ref().and_then(|status| status.phase);
        verdict::is_at_rest(object) && phase.is_some_and(|phase| phase == Phase::Paused || phase.is_final())
    };
    let pause = args.pause;
    let end = follow.until(move |object| pause && is_paused(object), &mut Show::Silent).await;
    let last = match end? {
        End::Reached(object) => Some(object),
        End::Gone(last) => last,
    };
    let status = how_it_ended(cluster, object, last.and_then(|object| object.status)).await;
    verdict::clean(&name, &status)?;
    print(&format!("{namespace}/{name}: {}: {}\n", if args.pause { "paused" } else { "stopped" }, outcomes(&status)))
}

/// Stops what of an experiment is under way, with the user's rights. The experiment itself goes when the controller is back.
async fn stop_by_hand(cluster: &Cluster, object: &ChaosExperiment, image: Option<String>, limit: Duration) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let current = cluster.api::<ChaosExperiment>(&Scope::One(namespace.clone())).get_opt(&name).await;
    let current = current.map_err(Error::api(format!("reading experiment \"{name}\"")))?;
    // The controller may have written more before it went.
    let object = current.filter(|current| current.uid() == object.uid()).unwrap_or_else(|| object.clone());
    let status = if verdict::is_at_rest(&object) {
        object.status.clone().unwrap_or_default()
    } else {
        hand::to_the_end(&mut Hand::stop(cluster, image, object), limit).await?
    };
    verdict::clean(&name, &status)?;
    print(&format!("{namespace}/{name}: stopped with your own rights: {}\n", outcomes(&status)))
}

/// The status that a run was left with. Where the last change was missed, its record has it.
async fn how_it_ended(cluster: &Cluster, object: &ChaosExperiment, last: Option<ChaosExperimentStatus>) -> ChaosExperimentStatus {
    let status = last.or_else(|| object.status.clone()).unwrap_or_default();
    if !status.is_under_way() {
        return status;
    }
    let of_this_one = ListParams::default().labels(&format!("{EXPERIMENT_LABEL}={}", object.uid().unwrap_or_default()));
    let scope = Scope::One(object.namespace().unwrap_or_default());
    let records = cluster.list::<crate::api::ChaosExperimentHistory>(&scope, &of_this_one).await.unwrap_or_default();
    let of_run = records.into_iter().find(|record| record.spec.execution.run == status.run);
    of_run.map_or(status.clone(), |record| ChaosExperimentStatus { pods: record.spec.pods, ..status })
}

/// In words: what is known of the pods.
fn outcomes(status: &ChaosExperimentStatus) -> String {
    if status.pods.is_empty() {
        return "no pod was touched".to_owned();
    }
    let words = status.pods.iter().map(|pod| {
        let how = match pod.outcome {
            Some(Outcome::Clean | Outcome::Shortened | Outcome::Degraded) => "the loss is verified to be gone".to_owned(),
            Some(outcome) => super::view::outcome_word(outcome),
            None => "its end was not seen".to_owned(),
        };
        format!("{} ({how})", pod.name)
    });
    some_of(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{PodState, PodStatus},
        machine::fixtures::entry,
    };

    #[test]
    fn of_two_ends_the_worse_one_is_the_exit_code() {
        let failed = || Err(Error::Failed("a".to_owned()));
        let remains = || Err(Error::LossMayRemain("b".to_owned()));
        assert!(matches!(worse(failed(), remains()), Err(Error::LossMayRemain(_))));
        assert!(matches!(worse(remains(), failed()), Err(Error::LossMayRemain(_))));
        assert!(worse(Ok(()), Ok(())).is_ok() && worse(failed(), Ok(())).is_err());
    }

    #[test]
    fn what_is_known_of_the_pods_is_said() {
        let ended = |outcome| PodStatus { state: PodState::Ended, outcome: Some(outcome), ..entry() };
        let of = |pods| outcomes(&ChaosExperimentStatus { pods, ..ChaosExperimentStatus::default() });
        assert_eq!(of(vec![]), "no pod was touched");
        assert_eq!(of(vec![ended(Outcome::Shortened), ended(Outcome::PodEnded)]), "p (the loss is verified to be gone); p (pod-ended)");
        assert_eq!(of(vec![entry()]), "p (its end was not seen)");
    }
}
