//! `stop`: ends runs, and waits until every pod is known to be free of them.

use super::{
    connect::FIELD_MANAGER,
    connect::{Cluster, Scope},
    error::{Error, is_forbidden},
    follow::{End, Follow},
    freeze::STOP_LIMIT,
    local_run::{self, LocalRun, agent_image},
    orphans,
    output::{note, print},
    presence,
    show::Show,
    status::experiments,
    verdict,
};
use clap::Args;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, EXPERIMENT_LABEL, Outcome, Phase};
use netloss_cluster::agents::Agent;
use netloss_cluster::guarded::Guarded;
use netloss_contract::Ttl;
use netloss_core::sanitize::some_of;
use serde_json::json;
use std::time::Duration;

/// Experiments that are stopped at a time.
const CONCURRENCY: usize = 16;

/// End runs, and wait until the loss is gone from every pod: pauses experiments with a schedule, deletes all others
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what they are
pub(super) struct StopArgs {
    /// Names of experiments
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "all_namespaces"], conflicts_with_all = ["all", "all_namespaces"])]
    names: Vec<String>,

    /// All experiments of the namespace, and agents in its pods that belong to no experiment
    #[arg(long)]
    all: bool,

    /// All experiments of all namespaces, and agents that belong to none
    #[arg(long, short = 'A')]
    all_namespaces: bool,

    /// Pause every experiment and delete none, so that what is left of their time can go on later
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
    let is_all = args.all || args.all_namespaces;
    let scope = cluster.scope(args.all_namespaces);
    // Before the experiments: see orphans. They are there after a direct run, or when an experiment was deleted by force.
    let orphans = if is_all { orphans(cluster, &scope).await? } else { orphans::Orphans::default() };
    let objects = if is_all { experiments(cluster, &scope).await? } else { named(cluster, &args.names).await? };
    let presence = presence::look(cluster).await;
    let by_hand = args.direct || presence.is_down() && !args.pause;
    if by_hand && !args.direct {
        note(&format!("netloss's controller is {}: agents are stopped with your own rights", presence.words()));
    }
    for agent in &orphans.unknown {
        note(&format!(
            "{} is active, and its experiment may be one of another namespace, which cannot be listed with these rights: not stopped; its loss ends {}",
            agent.words(),
            agent.ends()
        ));
    }
    let orphans = orphans.orphans;
    let (to_stop, over): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| !verdict::is_over(object));
    let mut worst = Ok(());
    for object in &over {
        if !is_all {
            note(&format!("{} is over ({}): nothing to stop", object.name_any(), phase(object)));
        }
        worst = worse(worst, verdict::clean(object, &object.status.clone().unwrap_or_default()));
    }
    if to_stop.is_empty() && orphans.is_empty() && is_all {
        note("nothing is under way");
    }
    let limit = args.timeout.map_or(STOP_LIMIT, Ttl::duration);
    let image = agent_image(cluster, args.agent_image.as_deref()).await?;
    let (args, image) = (&args, &image);
    let ends = stream::iter(to_stop).map(|object| async move { stop(cluster, args, &object, by_hand.then_some(image), limit).await });
    let ends: Vec<Result<(), Error>> = ends.buffer_unordered(CONCURRENCY).collect().await;
    let gone = stream::iter(orphans).map(|agent| async move { stop_orphan(cluster, &agent, image.clone(), limit, args.wait).await });
    let gone: Vec<Result<(), Error>> = gone.buffer_unordered(CONCURRENCY).collect().await;
    ends.into_iter().chain(gone).fold(worst, worse)
}

/// The agents of no experiment in pods of these namespaces, as far as pods may be listed.
async fn orphans(cluster: &Cluster, scope: &Scope) -> Result<orphans::Orphans, Error> {
    match cluster.list::<Pod>(scope, &ListParams::default()).await {
        Ok(pods) => orphans::look(cluster, &pods).await,
        Err(error) if is_forbidden(&error) => {
            note("pods cannot be listed with these rights: agents that belong to no experiment are not stopped");
            Ok(orphans::Orphans::default())
        }
        Err(error) => Err(Error::api("listing pods")(error)),
    }
}

/// Stops an agent of no experiment, with the user's rights; nothing where it has ended, or an experiment has it, by now.
pub(super) async fn stop_orphan(
    cluster: &Cluster,
    agent: &Agent,
    image: Option<String>,
    limit: Duration,
    is_awaited: bool,
) -> Result<(), Error> {
    let words = agent.words();
    let Some(object) = agent.experiment(Timestamp::now()) else {
        let ends = agent.ends();
        return Err(Error::Failed(format!("{words} was not put in by netloss's controller, and is left alone: its loss ends {ends}")));
    };
    if !orphans::is_still_orphan(cluster, agent).await? {
        return Ok(());
    }
    let mut local_run = LocalRun::stop(cluster, image, object);
    if !is_awaited {
        local_run::until_told(&mut local_run, limit).await?;
        return print(&format!("{words}, of no experiment: told to stop\n"));
    }
    let status = local_run::to_the_end(&mut local_run, limit).await?;
    verdict::clean(local_run.object(), &status)?;
    print(&format!("{words}, of no experiment: stopped: {}\n", outcomes(&status)))
}

/// The end that matters more; the other is told.
fn worse(one: Result<(), Error>, other: Result<(), Error>) -> Result<(), Error> {
    let rank = |error: &Error| match error {
        Error::LossMayRemain(_) => 5,
        Error::TimedOut(_) => 4,
        Error::Interrupted(_) => 3,
        Error::Failed(_) | Error::NotInstalled(_) | Error::Forbidden(_) | Error::Unanswered(_) => 2,
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

/// What is done about an experiment to stop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// It stays, with spec.paused: a schedule is somebody's work, and deleting it would not only end a run.
    Pause,
    /// It goes: there is nothing of it but this run.
    Delete,
}

impl Means {
    fn of(object: &ChaosExperiment, pause: bool) -> Self {
        if pause || object.spec.schedule.is_some() { Self::Pause } else { Self::Delete }
    }

    /// As in `shop/nightly: paused`.
    fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Delete => "stopped and deleted",
        }
    }

    /// As in `shop/nightly: to be paused`, where nobody waits for it.
    fn requested(self) -> &'static str {
        match self {
            Self::Pause => "is being paused",
            Self::Delete => "is being stopped and deleted",
        }
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
    let api = cluster.api::<Guarded<ChaosExperiment>>(&Scope::One(namespace.clone()));
    let means = Means::of(object, args.pause);
    let what = format!("stopping experiment \"{name}\" in namespace \"{namespace}\"");
    let changed = change(&api, object, means, what).await;
    if let Some(image) = by_hand {
        // What is in pods is stopped all the same: the webhook, which a pause has to pass, is down with the controller.
        let stopped = stop_by_hand(cluster, args, object, image.clone(), changed.is_ok().then_some(means), limit).await;
        return worse(changed, stopped);
    }
    changed?;
    if args.wait {
        follow_to_the_end(cluster, args, object, means, limit).await
    } else {
        print(&format!("{namespace}/{name}: {}\n", means.requested()))
    }
}

/// Pauses or deletes the experiment.
async fn change(api: &Api<Guarded<ChaosExperiment>>, object: &ChaosExperiment, means: Means, what: String) -> Result<(), Error> {
    let name = object.name_any();
    if means == Means::Pause {
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
    Ok(())
}

/// Waits until the controller has stopped it.
async fn follow_to_the_end(
    cluster: &Cluster,
    args: &StopArgs,
    object: &ChaosExperiment,
    means: Means,
    limit: Duration,
) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let uid = object.uid();
    let follow = Follow { cluster, namespace: &namespace, name: &name, uid: uid.as_deref(), limit: Some(limit) };
    let is_paused = |object: &ChaosExperiment| {
        let phase = object.status.as_ref().and_then(|status| status.phase);
        verdict::is_at_rest(object) && phase.is_some_and(|phase| phase == Phase::Paused || phase.is_final())
    };
    let end = follow.until(move |object| means == Means::Pause && is_paused(object), &mut Show::Silent).await;
    let last = match end? {
        End::Reached(object) => Some(object),
        End::Gone(last) => last,
    };
    let mut status = how_it_ended(cluster, object, last.and_then(|object| object.status)).await;
    if status.is_active() {
        // Somebody took its finalizer away, or nobody had put it there yet: the controller knows of it no longer.
        note(&format!("{namespace}/{name} was deleted before its end was seen: its agents are stopped with your own rights"));
        let left = ChaosExperiment { status: Some(status), ..object.clone() };
        let image = agent_image(cluster, args.agent_image.as_deref()).await?;
        status = local_run::to_the_end(&mut LocalRun::stop(cluster, image, left), limit).await?;
    }
    verdict::clean(object, &status)?;
    print(&format!("{namespace}/{name}: {}: {}\n", means.done(), outcomes(&status)))
}

/// Stops what of an experiment is under way, with the user's rights. One that is deleted goes when the controller is back.
async fn stop_by_hand(
    cluster: &Cluster,
    args: &StopArgs,
    object: &ChaosExperiment,
    image: Option<String>,
    changed: Option<Means>,
    limit: Duration,
) -> Result<(), Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let current = cluster.find::<ChaosExperiment>(&namespace, &name).await;
    let current = current.map_err(Error::api(format!("reading experiment \"{name}\"")))?;
    // The controller may have written more before it went.
    let current = current.filter(|current| current.uid() == object.uid());
    let left = match (changed, &current) {
        (None, _) => "and otherwise as it was",
        (Some(Means::Pause), _) => "and paused",
        (Some(Means::Delete), Some(_)) => "and to be deleted when the controller is back",
        (Some(Means::Delete), None) => "and deleted",
    };
    let object = current.unwrap_or_else(|| object.clone());
    let status = if verdict::is_at_rest(&object) {
        object.status.clone().unwrap_or_default()
    } else {
        let mut local_run = LocalRun::stop(cluster, image, object.clone());
        if args.wait { local_run::to_the_end(&mut local_run, limit).await? } else { local_run::until_told(&mut local_run, limit).await? }
    };
    verdict::clean(&object, &status)?;
    if status.is_active() {
        return print(&format!("{namespace}/{name}: its agents were told to stop with your own rights, {left}\n"));
    }
    print(&format!("{namespace}/{name}: stopped with your own rights, {left}: {}\n", outcomes(&status)))
}

/// The status that a run was left with. Where the last change was missed, its record has it.
async fn how_it_ended(cluster: &Cluster, object: &ChaosExperiment, last: Option<ChaosExperimentStatus>) -> ChaosExperimentStatus {
    let status = last.or_else(|| object.status.clone()).unwrap_or_default();
    if !status.is_active() {
        return status;
    }
    let of_this_one = ListParams::default().labels(&format!("{EXPERIMENT_LABEL}={}", object.uid().unwrap_or_default()));
    let scope = Scope::One(object.namespace().unwrap_or_default());
    let records = cluster.list::<netloss_api::ChaosExperimentHistory>(&scope, &of_this_one).await.unwrap_or_default();
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
    use netloss_api::{PodState, PodStatus};
    use netloss_core::machine::fixtures::{entry, spec};

    #[test]
    fn of_two_ends_the_worse_one_is_the_exit_code() {
        let failed = || Err(Error::Failed("a".to_owned()));
        let remains = || Err(Error::LossMayRemain("b".to_owned()));
        assert!(matches!(worse(failed(), remains()), Err(Error::LossMayRemain(_))));
        assert!(matches!(worse(remains(), failed()), Err(Error::LossMayRemain(_))));
        assert!(worse(Ok(()), Ok(())).is_ok() && worse(failed(), Ok(())).is_err());
    }

    #[test]
    fn a_schedule_is_paused_and_a_single_run_deleted() {
        let once = ChaosExperiment::new("x", spec());
        let mut scheduled = once.clone();
        scheduled.spec.schedule = Some("@hourly".to_owned());
        assert_eq!((Means::of(&once, false), Means::of(&once, true)), (Means::Delete, Means::Pause));
        assert_eq!(Means::of(&scheduled, false), Means::Pause);
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
