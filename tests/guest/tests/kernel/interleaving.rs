//! Whatever comes in whatever order, nothing of others changes, nothing of ours stays after a cleanup, and no pod is cut off.
//!
//! `NETLOSS_INTERLEAVINGS` says how many sequences there are, `NETLOSS_SEED` where they begin: a sequence is a function of its seed.

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, NamespaceState, Pod, Way};
use nix::sys::signal::Signal;

use crate::{BACKENDS, repeats};

/// Steps of one sequence.
const STEPS: u32 = 8;

/// What can happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Start {
        backend: &'static str,
        direction: &'static str,
    },
    Signal(Signal),
    Command(&'static str),
    /// Somebody takes a part of the loss away.
    Take(&'static str),
    /// Somebody puts something of their own in place, beside what is ours.
    Own(&'static str),
}

/// A sequence of numbers that looks like chance (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn step(&mut self) -> Step {
        match self.below(10) {
            0..=3 => Step::Start { backend: self.one_of(&BACKENDS), direction: self.one_of(&["egress", "ingress", "both"]) },
            4 => Step::Signal(self.one_of(&[Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL])),
            5 => Step::Command(self.one_of(&["stop", "cleanup", "cleanup --force"])),
            6 | 7 => Step::Take(self.one_of(&[
                "qdisc del dev eth0 root",
                "qdisc del dev eth0 ingress",
                "qdisc del dev nl-in root",
                "link del nl-in",
                "link set nl-in down",
            ])),
            _ => Step::Own(self.one_of(&[
                "qdisc add dev net1 root handle 5: prio",
                "qdisc add dev net1 clsact",
                "filter add dev net1 ingress pref 31250 matchall action gact pass",
                "qdisc add dev eth0 clsact",
                "filter add dev eth0 ingress pref 3 matchall action gact pass",
            ])),
        }
    }
}

#[test]
fn whatever_comes_in_whatever_order() -> Result<()> {
    let first = repeats("NETLOSS_SEED", 1)?;
    for seed in first..first + repeats("NETLOSS_INTERLEAVINGS", 4)? {
        let mut chance = Chance(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let steps: Vec<_> = (0..STEPS).map(|_| chance.step()).collect();
        check(&steps).with_context(|| format!("NETLOSS_SEED={seed}: {steps:?}"))?;
    }
    Ok(())
}

fn check(steps: &[Step]) -> Result<()> {
    let pod = Pod::new()?;
    pod.pod.ip_batch("link add net1 type veth peer name net1p\nlink set net1p up\nlink set net1 up\n")?;
    pod.pod.nft("table netdev others { chain c { type filter hook ingress device \"eth0\" priority 0; counter; }; }")?;
    // The same happens here without agents: what of it is there has to be there in the pod too.
    let twin = Pod::new()?;
    twin.pod.ip_batch("link add net1 type veth peer name net1p\nlink set net1p up\nlink set net1 up\n")?;
    let mut agents: Vec<Agent> = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        take(&pod, &twin, &mut agents, *step).with_context(|| format!("step {place}"))?;
        // Each waits for a packet that gets through: a pod that is cut off fails here.
        pod.send(Way::Out, 20).with_context(|| format!("nothing is sent after step {place}"))?;
        pod.send(Way::In, 20).with_context(|| format!("nothing is received after step {place}"))?;
    }
    for agent in &mut agents {
        // Those that have ended already cannot be signalled, and are waited for all the same.
        drop(agent.signal(Signal::SIGKILL));
        agent.finish()?;
    }
    let cleanup = Agent::start(&pod.pod, "cleanup --json")?.finish()?;
    ensure!(cleanup.code == Some(0), "{cleanup:?}");
    let state = NamespaceState::of(&pod.pod)?;
    for ours in ["link.nl-in", "qdisc.eth0.root.netem", "qdisc.eth0.root.prio"] {
        ensure!(!state.has(ours), "{ours} is left: {state:?}");
    }
    let tables = pod.pod.words("nft", "list tables")?;
    ensure!(!tables.contains("netloss") && tables.contains("others"), "{tables}");
    state.assert_same_queueing(&NamespaceState::of(&twin.pod)?)?;
    for way in [Way::Out, Way::In] {
        ensure!(pod.send(way, 200)?.lost == 0, "packets are lost {way:?} after the cleanup");
    }
    Ok(())
}

fn take(pod: &Pod, twin: &Pod, agents: &mut Vec<Agent>, step: Step) -> Result<()> {
    match step {
        Step::Start { backend, direction } => {
            let mut agent = Agent::start(&pod.pod, &format!("run --loss 30 --ttl 1h --direction {direction} --backend {backend}"))?;
            // It may be refused: another works here, or something is in the way.
            if agent.applied().is_ok() {
                agents.push(agent);
            }
        }
        Step::Signal(signal) => {
            if let Some(mut agent) = agents.pop() {
                agent.signal(signal)?;
                agent.finish()?;
            }
        }
        Step::Command(arguments) => {
            let end = Agent::start(&pod.pod, &format!("{arguments} --json"))?.finish()?;
            // Done, or an agent works here.
            ensure!(matches!(end.code, Some(0 | 3)), "{end:?}");
        }
        Step::Take(command) if command.starts_with("link") => {
            // A redirect that a killed agent of tc left leads nowhere without the ifb, and nobody is there to notice.
            if agents.last_mut().is_some_and(|agent| agent.is_running().unwrap_or(false)) {
                drop(pod.pod.ip(command));
            }
        }
        // What is not there cannot be taken. With an ingress qdisc go the filters of others on it.
        Step::Take(command) => {
            if pod.pod.tc(command).is_ok() && command.ends_with("ingress") {
                drop(twin.pod.tc(command));
            }
        }
        Step::Own(command) => {
            // Where the loss is in its place already, it may be refused; the twin gets what the pod has.
            if pod.pod.tc(command).is_ok() && twin.pod.tc(command).is_err() {
                // It came to use the loss's own ingress qdisc, which stays for it.
                twin.pod.tc("qdisc add dev eth0 ingress")?;
                twin.pod.tc(command)?;
            }
        }
    }
    Ok(())
}
