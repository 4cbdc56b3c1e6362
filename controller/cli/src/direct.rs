//! `run pod/NAME --direct`: the loss in one pod, with the user's own rights and without any controller.

use super::{
    connect::Cluster,
    error::Error,
    live,
    local_run::{LOOK as LOOK_AGAIN, LocalRun, agent_image},
    loss::LossArgs,
    output::note,
    prepare::Prepared,
    preview,
    show::Show,
    view::{ExperimentView, LiveFigures},
    workload::{Kind, Workload},
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use netloss_api::{ChaosExperiment, PodState};
use netloss_cluster::agents::DIRECT;
use netloss_core::machine::Preconditions;
use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

/// Between looks at the agent's figures, and whether experiments were frozen.
const LOOK: Duration = Duration::from_secs(5);
/// Between requests where the API server does not answer.
const AGAIN: Duration = Duration::from_secs(2);
/// How long after its deadline an API server that does not answer is asked how the run ended.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Runs it to its end, shown as it goes.
pub(super) async fn run(
    loss: &LossArgs,
    cluster: &Cluster,
    workload: &Workload,
    prepared: Prepared,
    image: Option<&str>,
    show: &mut Show,
) -> Result<ChaosExperiment, Error> {
    let image = agent_image(cluster, image).await?.ok_or_else(|| {
        Error::Failed(format!(
            "the agent's image is not known: ConfigMap {}/netloss-agent does not name it, or may not be read: give --agent-image",
            cluster.own_namespace
        ))
    })?;
    let freeze = preview::freeze(cluster).await?;
    let mut object = loss.experiment(prepared.spec, &cluster.namespace);
    object.metadata.name = Some(loss.name.clone().unwrap_or_else(|| format!("direct-{}", workload.name)));
    object.metadata.uid = Some(uid());
    object.metadata.generation = Some(1);
    let preconditions = Preconditions { freeze, namespace: prepared.namespace, pods: prepared.pods, ..Preconditions::default() };
    let mut local_run = LocalRun::begin(cluster, image, object, preconditions);
    let end = drive(&mut local_run, cluster, show).await;
    show.end();
    end?;
    Ok(local_run.object().clone())
}

/// Whether this is what it is for: one pod.
pub(super) fn check(target: Option<&Workload>) -> Result<&Workload, Error> {
    target.filter(|workload| workload.kind == Kind::Pod).ok_or_else(|| {
        Error::Failed("--direct is for one pod, whose agent is watched from here: name it as pod/NAME, or leave --direct out".to_owned())
    })
}

async fn drive(local_run: &mut LocalRun, cluster: &Cluster, show: &mut Show) -> Result<(), Error> {
    let mut figures = LiveFigures::new();
    let mut reading: Option<JoinHandle<(LiveFigures, Option<String>)>> = None;
    let mut read_at = Instant::now();
    // One for all rounds: what comes while a round is under way is not missed.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| Error::Failed(format!("listening to Ctrl-C: {error}")))?;
    let (mut is_stopping, mut is_unanswered) = (false, false);
    loop {
        let now = Timestamp::now();
        let wait = match local_run.step().await {
            Ok(()) => {
                is_unanswered = false;
                LOOK_AGAIN
            }
            // Its agent goes on without us, and is looked at again. Until one is planned nothing goes on.
            Err(Error::Unanswered(words)) => match local_run.deadline() {
                None => return Err(Error::Unanswered(words)),
                Some(deadline) if now > deadline.saturating_add(PATIENCE).unwrap_or(deadline) => {
                    return Err(Error::TimedOut(format!("{words}: how the run ended is not known; its loss was to end by {deadline}")));
                }
                Some(deadline) => {
                    if !std::mem::replace(&mut is_unanswered, true) {
                        note(&format!("{words}: trying again; the loss ends at {deadline} at the latest"));
                    }
                    AGAIN
                }
            },
            Err(error) => return Err(error),
        };
        if let Some(read) = reading.take_if(|reading| reading.is_finished()) {
            let (read, freeze) = read.await.unwrap_or_default();
            figures = read;
            if let Some(reason) = freeze.filter(|_| !is_stopping) {
                is_stopping = true;
                note(&format!("all experiments are frozen ({reason}): stopping the agent"));
                local_run.set_stopping();
            }
        }
        let is_applied = local_run.object().status.iter().flat_map(|status| &status.pods).any(|pod| pod.state == PodState::Applied);
        if reading.is_none() && (read_at.elapsed() >= LOOK || is_applied && figures.is_empty()) {
            read_at = Instant::now();
            reading = Some(tokio::spawn(look_around(cluster.clone(), is_applied.then(|| local_run.object().clone()))));
        }
        show.show(&ExperimentView::new(local_run.object(), &figures, now), now)?;
        if local_run.is_over() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = interrupts.recv() => {
                if std::mem::replace(&mut is_stopping, true) {
                    return Err(Error::Interrupted(format!("{}: not waited for: the agent ends its loss at its time", local_run.object().name_any())));
                }
                note("stopping the agent (Ctrl-C again: do not wait for it)");
                local_run.set_stopping();
            }
        }
    }
}

/// What the agent counts, once its loss is in place, and why everything is frozen, if it is and may be read.
async fn look_around(cluster: Cluster, object: Option<ChaosExperiment>) -> (LiveFigures, Option<String>) {
    let objects: Vec<ChaosExperiment> = object.into_iter().collect();
    let (figures, freeze) = futures::join!(live::figures(cluster.client.clone(), objects), preview::freeze(&cluster));
    (figures, freeze.unwrap_or_default())
}

/// In the place of an object's uid, as names of containers are made of it; a UUID of another version than the API server's, see [`DIRECT`].
pub(super) fn uid() -> String {
    let random = || RandomState::new().hash_one(Timestamp::now().as_nanosecond());
    let (high, low) = (random(), random());
    let version = char::from(DIRECT);
    format!(
        "{:08x}-{:04x}-{version}{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_name_of_its_own() {
        let (one, other) = (uid(), uid());
        assert_ne!(one, other);
        assert_eq!((one.len(), one.matches('-').count()), (36, 4), "{one}");
        assert!(netloss_cluster::agents::fixtures::agent(&one).is_direct());
        assert_ne!(netloss_contract::container_name(&one, 1, 1), netloss_contract::container_name(&other, 1, 1));
    }

    #[test]
    fn it_is_for_one_pod() {
        let pod: Workload = "pod/a".parse().unwrap();
        assert!(check(Some(&pod)).is_ok());
        let deployment: Workload = "deploy/a".parse().unwrap();
        assert!(check(Some(&deployment)).unwrap_err().to_string().contains("name it as pod/NAME"));
        assert!(check(None).is_err());
    }
}
