//! What is promised, of each state and each step.

use crate::{node::Container, world::World};
use netloss_api::{ChaosExperimentStatus, Phase, PodState, PodStatus, SentContainer};

/// What is never to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// What is put into a pod stands in status, as it is, before.
    WriteAhead,
    /// What is in a pod is never put in again with other arguments.
    OneName,
    /// At most one agent has loss in a pod, or can bring some.
    OneAgent,
    /// What status says to have ended has no loss and brings none, unless status says that loss may remain.
    EndedIsOver,
    /// The finalizer is there, and the experiment with it, as long as there may be loss that nobody has given up.
    HeldBack,
    /// A status never goes back behind one that was written: runs, attempts, states, and what is frozen.
    OnlyForward,
    /// What has ended has an outcome, and a run that is over has its record.
    Told,
    /// Where controllers run and nothing more goes wrong, it comes to its end.
    Ends,
}

/// What does not hold of a state.
pub(crate) fn of_state(world: &World) -> Option<Promise> {
    let may_remain = |name: &String| world.given_up.contains(name);
    let live = |container: &&Container| container.is_agent() && container.is_live(world.now);
    if world.nodes.iter().any(|node| !node.gone && node.containers.iter().filter(live).count() > 1) {
        return Some(Promise::OneAgent);
    }
    if !world.finalized() && world.nodes.iter().any(|node| node.has_loss(world.now) && !may_remain(&node.name)) {
        return Some(Promise::HeldBack);
    }
    let status = world.status()?;
    let over = |entry: &PodStatus| {
        let node = world.nodes.iter().find(|node| node.name == entry.name && !node.gone);
        let loss = node.is_some_and(|node| {
            let its_own = node.containers.iter().any(|container| container.name == entry.container && container.is_live(world.now));
            its_own || (node.leftover && entry.was_applied())
        });
        !loss || may_remain(&entry.name)
    };
    if status.pods.iter().any(|entry| !entry.is_open() && !over(entry)) {
        return Some(Promise::EndedIsOver);
    }
    let told = status.pods.iter().all(|entry| entry.is_open() != entry.outcome.is_some());
    let recorded = status.completed_at.is_none() || status.run.is_some_and(|run| world.records.contains(&run));
    (!told || !recorded).then_some(Promise::Told)
}

/// Whether what is put in stands in the status that the API server holds, word for word, and is not over. What is sent after an agent of a
/// run that is over finds nobody.
pub(crate) fn is_written(world: &World, entry: &PodStatus, put_in: &Container) -> bool {
    // What comes after its deadline does nothing.
    if world.now >= put_in.deadline() {
        return true;
    }
    let mut open = world.status().into_iter().flat_map(ChaosExperimentStatus::open_pods).filter(|written| written.uid == entry.uid);
    if put_in.is_agent() {
        return open.any(|written| {
            written.container == put_in.name && written.argv == put_in.args && written.deadline.0.as_second() == put_in.deadline()
        });
    }
    open.filter(|written| written.container == entry.container).all(|written| {
        let mut sent = written.stop.iter().chain(&written.repair);
        sent.any(|sent| sent.argv == put_in.args && sent.deadline.0.as_second() == put_in.deadline())
    })
}

/// Whether a status may follow another.
pub(crate) fn is_forward(before: Option<&ChaosExperimentStatus>, after: &ChaosExperimentStatus) -> bool {
    let Some(before) = before else { return true };
    let number = |status: &ChaosExperimentStatus| (status.run, status.attempt);
    if number(before) != number(after) || before.pods.is_empty() || after.pods.is_empty() {
        return !before.is_active() && before.run <= after.run;
    }
    let frozen = |pod: &PodStatus| (pod.uid.clone(), pod.container.clone(), pod.argv.clone(), pod.deadline.clone());
    let kept = |was: &PodStatus, is: &PodStatus| {
        // What stops an agent, or cleans up after it, is followed by another where it was too early or never started.
        let number = |sent: &Option<SentContainer>| sent.as_ref().map_or(0, |sent| sent.number);
        let follows = |was: &Option<SentContainer>, is: &Option<SentContainer>| was == is || number(was) < number(is);
        let sent = follows(&was.stop, &is.stop) && follows(&was.repair, &is.repair);
        let ended = was.state != PodState::Ended || was == is;
        frozen(was) == frozen(is) && was.state <= is.state && sent && ended
    };
    before.pods.len() == after.pods.len() && before.pods.iter().zip(&after.pods).all(|(was, is)| kept(was, is))
}

/// Whether all has come to its end.
pub(crate) fn has_ended(world: &World) -> bool {
    let no_loss = world.nodes.iter().all(|node| !node.has_loss(world.now) || world.given_up.contains(&node.name));
    let Some(object) = &world.object else { return no_loss };
    let Some(status) = &object.status else { return false };
    let paused = object.spec.paused == Some(true);
    let at_rest = status.phase.is_some_and(|phase| phase.is_final() || (phase == Phase::Paused && paused));
    let current = status.observed_spec.as_ref() == Some(&object.spec.fingerprint());
    let deleting = object.metadata.deletion_timestamp.is_some();
    no_loss && at_rest && current && !status.is_active() && !world.finalized() && !deleting
}
