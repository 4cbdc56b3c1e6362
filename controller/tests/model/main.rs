//! Model check of the injection and cleanup protocol: all interleavings, within bounds, of two controllers, a user, nodes and what goes
//! wrong, with the decisions of the controller itself (docs/ARCHITECTURE.md, "The model check").
//!
//! `NETLOSS_MODEL=large cargo test -p netloss-controller --test model -- --nocapture` explores more.

mod checks;
mod executor;
mod kept;
mod node;
mod reports;
mod shape;
mod world;

use checks::Promise;
use executor::Flaw;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kept::{Kept, Memo};
use netloss_api::ChaosExperiment;
use netloss_core::machine::{Decision, Settings};
use node::{Life, Node};
use shape::Shape;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};
use world::{Action, Fault, Heard, Left, Replica, Wish, World};

/// More steps than any way to the end takes.
const LONGEST: usize = 1000;

/// One exploration.
pub(crate) struct Check {
    shape: Shape,
    flaw: Option<Flaw>,
    settings: Settings,
    nothing: Kept<Heard>,
    decisions: Memo<Kept<Decision>>,
    pods: Memo<Option<Kept<Pod>>>,
    objects: Memo<Kept<ChaosExperiment>>,
    puts: Memo<(Kept<Node>, bool)>,
    nodes: Memo<Kept<Node>>,
    /// Whether what follows, if nothing more goes wrong, comes to its end, and to one in which no loss may remain.
    ends: Memo<Option<bool>>,
    seen: Mutex<BTreeMap<String, usize>>,
}

impl Check {
    fn new(shape: Shape, flaw: Option<Flaw>) -> Self {
        Self {
            shape,
            flaw,
            settings: Settings::new("agent:1", "netloss-system"),
            nothing: Kept::new(Heard::default()),
            decisions: Memo::default(),
            pods: Memo::default(),
            objects: Memo::default(),
            puts: Memo::default(),
            nodes: Memo::default(),
            ends: Memo::default(),
            seen: Mutex::default(),
        }
    }

    fn saw(&self, what: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = seen.get_mut(what) {
            *count += 1;
        } else {
            seen.insert(what.to_owned(), 1);
        }
    }

    fn after(&self, before: &World, action: Action) -> World {
        let mut world = before.clone();
        let (now, guarded) = (world.now, self.shape.guarded);
        let node = |at: usize, what: (u8, usize), change: &dyn Fn(&mut Node)| {
            self.nodes.get(&(&before.nodes[at], what, now), || before.nodes[at].with(|node| change(node)))
        };
        match action {
            Action::Round(replica) => {
                self.read(&mut world, replica);
                self.look(&mut world, replica);
            }
            Action::Read(replica) => self.read(&mut world, replica),
            Action::Look(replica) => self.look(&mut world, replica),
            Action::Does(replica) => self.perform(&mut world, replica),
            Action::Fails(replica) => {
                world.left.faults -= 1;
                self.fail(&mut world, replica);
            }
            Action::Crashes(replica) => {
                (world.replicas[replica].work, world.replicas[replica].heard) = (None, self.nothing.clone());
            }
            Action::LeaderMoves => {
                world.left.moves -= 1;
                world.replicas.swap(0, 1);
            }
            Action::Starts(at, index) => world.nodes[at] = node(at, (0, index), &|node| node.start(index, guarded, now)),
            Action::Shows(at, index) => {
                let cause = netloss_contract::Cause::Ttl;
                world.nodes[at] = node(at, (1, index), &|node| node.containers[index].remove(cause, guarded, now));
            }
            Action::Wakes(at, index) => {
                let resumes = matches!(self.flaw, Some(Flaw::RenewsHoweverLate | Flaw::ForgetsThatItSlept));
                world.nodes[at] = node(at, (6, index), &|node| node.wake(index, now, resumes));
                self.saw("a sleeper that wakes up");
            }
            Action::Fault(fault, at, index) => {
                world.left.faults -= 1;
                match fault {
                    Fault::Killed => world.nodes[at] = node(at, (2, index), &|node| node.kill(index, guarded)),
                    Fault::Hangs => world.nodes[at] = node(at, (3, index), &|node| node.hang(index, now)),
                    Fault::DiesUnseen => world.nodes[at] = node(at, (5, index), &|node| node.die_unseen(index, guarded, now)),
                    Fault::PodGoes => world.nodes[at] = node(at, (4, 0), &|node| node.gone = true),
                    Fault::PolicyFlips => world.refuses = !world.refuses,
                    Fault::RequestFails => {}
                }
            }
            Action::Wish(wish) => {
                world.left.wishes -= 1;
                wish_for(&mut world, wish);
            }
            Action::Passes => {
                world.now += self.shape.tick;
                (0..2).for_each(|replica| self.go_on(&mut world, replica));
            }
        }
        // Where both lead, it does not matter which is which.
        if self.shape.rivals && kept::digest(&world.replicas[1]) < kept::digest(&world.replicas[0]) {
            world.replicas.swap(0, 1);
        }
        world.broke = world.broke.or_else(|| checks::of_state(&world));
        world
    }

    /// Whether it comes to its end where controllers run, nodes do their work, and nothing more goes wrong.
    fn comes_to_its_end(&self, world: &World) -> bool {
        let Some(recovered) = self.end_of(fairly(world)) else { return false };
        // Time for a repair that is planned may have been lost already.
        let repairs = world.status().is_some_and(|status| status.pods.iter().any(|pod| pod.repair.is_some()));
        recovered || repairs || !world.given_up.is_empty()
    }

    /// The end that a world comes to, if it does: whether no loss may remain.
    fn end_of(&self, mut world: World) -> Option<bool> {
        let mut way = Vec::new();
        let end = loop {
            if let Some(known) = self.ends.known(&world) {
                break known;
            }
            if way.len() > LONGEST || world.broke.is_some() {
                break None;
            }
            way.push(kept::digest(&world));
            match self.fair(&world) {
                Some(next) => world = next,
                None => break checks::has_ended(&world).then_some(world.given_up.is_empty()),
            }
        };
        for digest in way {
            self.ends.insert(digest, end);
        }
        end
    }

    /// What is broken in this state, or in what follows from it.
    fn broken_after(&self, world: &World) -> Promise {
        let ways = std::iter::successors(Some(fairly(world)), |world| if world.broke.is_some() { None } else { self.fair(world) });
        world.broke.or_else(|| ways.take(LONGEST).find_map(|world| world.broke)).unwrap_or(Promise::Ends)
    }

    /// What comes next in that case.
    fn fair(&self, world: &World) -> Option<World> {
        let mut possible = Vec::new();
        for replica in [1, 0] {
            possible.extend(world.replicas[replica].work.as_ref().map(|work| executor::next(work, replica)));
        }
        for (at, node) in world.nodes.iter().enumerate().filter(|(_, node)| !node.gone) {
            for (index, container) in node.containers.iter().enumerate() {
                possible.extend((container.life == Life::Waiting).then_some(Action::Starts(at, index)));
                possible.extend(container.is_due(world.now).then_some(Action::Shows(at, index)));
            }
        }
        if let Some(action) = possible.first() {
            return Some(self.after(world, *action));
        }
        let next = self.after(world, Action::Round(0));
        if kept::digest(&next) != kept::digest(world) {
            return Some(next);
        }
        world.waits().then(|| self.after(world, Action::Passes))
    }
}

impl Model for Check {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let replica = Replica { heard: self.nothing.clone(), work: None, cache: None };
        vec![World {
            now: 0,
            object: Some(Kept::new(self.shape.experiment())),
            nodes: (0..self.shape.pods).map(|n| Kept::new(Node::new(&format!("p{n}")))).collect(),
            records: BTreeSet::new(),
            frozen: false,
            refuses: false,
            replicas: [replica.clone(), replica],
            left: self.shape.left,
            given_up: BTreeSet::new(),
            broke: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broke.is_some() {
            return;
        }
        let (shape, left) = (&self.shape, world.left);
        for (at, replica) in world.replicas.iter().enumerate() {
            match &replica.work {
                Some(work) => {
                    actions.push(executor::next(work, at));
                    actions.push(Action::Crashes(at));
                    let fails = left.faults > 0 && shape.faults.contains(&Fault::RequestFails) && work.decided.is_some();
                    actions.extend(fails.then_some(Action::Fails(at)));
                }
                None if executor::leads(shape.rivals, at) => {
                    actions.push(Action::Round(at));
                    actions.extend(shape.slow_looks.then_some(Action::Read(at)));
                }
                None => {}
            }
            if replica.work.is_none() && replica.heard.digest() != self.nothing.digest() {
                actions.push(Action::Crashes(at));
            }
        }
        actions.extend((left.moves > 0).then_some(Action::LeaderMoves));
        let faults = |fault: Fault| left.faults > 0 && shape.faults.contains(&fault);
        for (at, node) in world.nodes.iter().enumerate().filter(|(_, node)| !node.gone) {
            for (index, container) in node.containers.iter().enumerate() {
                match container.life {
                    Life::Waiting => {
                        actions.push(Action::Starts(at, index));
                        actions.extend(faults(Fault::DiesUnseen).then_some(Action::Fault(Fault::DiesUnseen, at, index)));
                    }
                    Life::Running { .. } if container.is_due(world.now) => actions.push(Action::Shows(at, index)),
                    Life::Running { asleep: Some(_), .. } => actions.push(Action::Wakes(at, index)),
                    Life::Running { .. } => {
                        let strikes = [Fault::Killed, Fault::Hangs].into_iter().filter(|fault| faults(*fault));
                        actions.extend(strikes.map(|fault| Action::Fault(fault, at, index)));
                    }
                    Life::Unseen | Life::Ended { .. } => {}
                }
            }
            actions.extend(faults(Fault::PodGoes).then_some(Action::Fault(Fault::PodGoes, at, 0)));
        }
        actions.extend(faults(Fault::PolicyFlips).then_some(Action::Fault(Fault::PolicyFlips, 0, 0)));
        let deleting = world.object.as_ref().is_none_or(|object| object.metadata.deletion_timestamp.is_some());
        if left.wishes > 0 && !deleting && world.status().is_some() {
            actions.extend(shape.wishes.iter().map(|wish| Action::Wish(*wish)));
        }
        // A plan that is made later is the same but for its times.
        if world.status().is_some() && world.waits() && !world.is_due() {
            actions.push(Action::Passes);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(self.after(world, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every promise is kept", |_, world: &World| world.broke.is_none()),
            Property::always("whatever has happened, it comes to its end", |check: &Self, world: &World| {
                world.broke.is_some() || check.comes_to_its_end(world)
            }),
        ]
    }
}

/// A user does something.
fn wish_for(world: &mut World, wish: Wish) {
    let Some(object) = world.object.clone() else { return };
    let now = world.now;
    let change = |object: &mut ChaosExperiment| {
        match wish {
            Wish::Delete => {
                object.metadata.deletion_timestamp = Some(Time(reports::at(now)));
                return;
            }
            Wish::Pause => object.spec.paused = Some(object.spec.paused != Some(true)),
            Wish::Edit => object.spec.loss_percentage += 1.0,
            Wish::Freeze => return,
        }
        object.metadata.generation = object.metadata.generation.map(|generation| generation + 1);
    };
    match wish {
        Wish::Freeze => world.frozen = !world.frozen,
        Wish::Delete if !world.finalized() => world.replace(None),
        _ => world.replace(Some(object.with(change))),
    }
}

/// With nothing that goes wrong from now on.
fn fairly(world: &World) -> World {
    World { left: Left::default(), refuses: false, ..world.clone() }
}

/// What came of an exploration.
struct Result {
    broke: Option<Promise>,
    /// How it came to that.
    way: String,
    states: usize,
    seen: BTreeMap<String, usize>,
}

fn explore(shape: Shape, flaw: Option<Flaw>) -> Result {
    let begun = Instant::now();
    let name = shape.name;
    let checker = Check::new(shape, flaw)
        .checker()
        .threads(if flaw.is_some() { 1 } else { 2 })
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries().into_values().min_by_key(|path| path.clone().into_actions().len());
    let (broke, way) = found.map_or((None, String::new()), |path| {
        let broke = checker.model().broken_after(path.last_state());
        let way = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect::<Vec<_>>().join("\n  ");
        (Some(broke), format!("{way}\n{:#?}", path.last_state()))
    });
    let (states, seen) = (checker.unique_state_count(), checker.model().seen.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let (depth, seconds) = (checker.max_depth(), begun.elapsed().as_secs_f64());
    println!(
        "{name} {}: {states} states, depth {depth}, {seconds:.1} s, {broke:?}",
        flaw.map_or(String::new(), |flaw| format!("{flaw:?}"))
    );
    Result { broke, way, states, seen }
}

#[test]
fn all_interleavings_keep_every_promise() {
    let large = std::env::var("NETLOSS_MODEL").is_ok_and(|size| size == "large");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut states = 0;
    for shape in shape::all(large) {
        let name = shape.name;
        let result = explore(shape, None);
        assert!(result.broke.is_none(), "{name}: {:?}\n  {}", result.broke, result.way);
        states += result.states;
        for (what, count) in result.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{states} states; come across: {seen:#?}");
    // The check is of something.
    for what in [
        "Clean",
        "Shortened",
        "Failed",
        "NeverStarted",
        "PodEnded",
        "Repaired",
        "Unknown",
        "a conflict",
        "a container that was there already",
        "a decision that came too late",
        "an agent that came when it was to be stopped",
        "two that decide",
        "a sleeper that wakes up",
    ] {
        assert!(seen.contains_key(what), "nowhere did it come to this: {what}");
    }
}

/// A check that finds nothing is worth as much as what it would have found.
#[test]
fn each_flaw_of_an_executor_is_found() {
    for (flaw, promise) in [
        (Flaw::PatchesFirst, Promise::WriteAhead),
        (Flaw::WritesBlindly, Promise::OnlyForward),
        (Flaw::ReadsOnce, Promise::EndedIsOver),
        (Flaw::LetsGoEarly, Promise::HeldBack),
        (Flaw::NeverLetsGo, Promise::Ends),
        (Flaw::ActsHoweverLate, Promise::EndedIsOver),
        (Flaw::WritesHoweverLate, Promise::EndedIsOver),
        (Flaw::ActsAlmostTooLong, Promise::EndedIsOver),
        (Flaw::LeavesNoRecord, Promise::Told),
        (Flaw::SendsNothingAfter, Promise::Ends),
        (Flaw::SeesNoAgent, Promise::Ends),
        (Flaw::RenewsHoweverLate, Promise::EndedIsOver),
        (Flaw::ForgetsThatItSlept, Promise::EndedIsOver),
    ] {
        let result = explore(shape::of_flaw(flaw), Some(flaw));
        assert_eq!(result.broke, Some(promise), "{flaw:?}\n  {}", result.way);
    }
}

/// What is not promised (docs/RELIABILITY.md): of a pod whose agent the API server refuses, nobody waits for what another controller may have
/// on its way. Its agent ends at its time.
#[test]
fn a_policy_that_changes_its_mind_between_two_leaders_is_the_known_limit() {
    let result = explore(shape::with_a_fickle_policy(), None);
    assert_eq!(result.broke, Some(Promise::EndedIsOver), "if this is promised now, say so in docs/RELIABILITY.md");
}
