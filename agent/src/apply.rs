//! The one place that changes the kernel: executes steps, and takes away what carries our marks until nothing does.

use crate::{
    backend::{self, Step, Unmarked},
    marks,
    netlink::{Error, Netlink},
    nft,
    snapshot::Snapshot,
};
use netloss_contract::ExitCode;
use nix::errno::Errno;
use std::time::Duration;
use tracing::{debug, warn};

/// How often a removal starts over: each time with what the kernel shows by then. A judgement: the pauses of [`REMOVAL_PAUSE`] add up to
/// 3.1 s, a tenth of the 30 s that `stop` and the kubelet wait for the end by default.
const REMOVAL_ATTEMPTS: u32 = 6;

/// The pause before a removal's second repetition; doubled before each further one. The first repetition is immediate: what failed may be an
/// object that somebody else removed at the same time.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// What gives a container the right to change its network, for messages.
pub const CAPABILITY: &str =
    "the agent needs CAP_NET_ADMIN in this network namespace (in a pod: runAsUser: 0 and capabilities.add: [NET_ADMIN])";

/// A step that the kernel did not take.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {error}{}", .hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct StepFailed {
    step: Box<Step>,
    error: Error,
    hint: Option<&'static str>,
}

impl StepFailed {
    fn new(step: &Step, error: Error) -> Self {
        Self { hint: hint(step, &error), step: Box::new(step.clone()), error }
    }

    /// The kind of failure.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        if self.hint.is_some() { ExitCode::Unsupported } else { ExitCode::Failed }
    }
}

/// What to do about errors that mean that something is missing.
fn hint(step: &Step, error: &Error) -> Option<&'static str> {
    match (step, error.errno()?) {
        (_, Errno::EPERM | Errno::EACCES) => Some(CAPABILITY),
        (Step::AddNetem { .. }, Errno::ENOENT) => {
            Some("the node's kernel has no module sch_netem: install it there (such as kernel-modules-extra) or use another node")
        }
        (Step::AddTbf { .. }, Errno::ENOENT) => {
            Some("the node's kernel has no module sch_tbf, which --per-segment needs: install it there, or leave that out")
        }
        (Step::CreateIfb, Errno::EOPNOTSUPP) => Some(
            "the node's kernel has no module ifb, which loss of received packets needs: install it there, or ask for --direction egress",
        ),
        (Step::AddIngress { .. }, Errno::ENOENT) => Some(
            "the node's kernel has no module sch_ingress, which loss of received packets needs: install it there, or ask for --direction egress",
        ),
        (Step::AddRedirect { .. }, Errno::ENOENT | Errno::EOPNOTSUPP) => Some(
            "the node's kernel has no module cls_u32 or act_mirred, which loss of received packets needs: install them there, or ask for --direction egress",
        ),
        _ => None,
    }
}

/// The way to the kernel: rtnetlink, and nfnetlink from the first look at tables on.
#[derive(Debug)]
pub struct Kernel {
    /// rtnetlink.
    pub netlink: Netlink,
    tables: Option<nft::Socket>,
}

impl Kernel {
    /// Connects to the network namespace of this thread.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn connect() -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::connect()?, tables: None })
    }

    /// A socket that owns no tables, for looking at those of others; none where the kernel has no nfnetlink, and so no tables.
    ///
    /// # Errors
    /// Where it cannot be opened for another reason, which says nothing of tables.
    pub fn tables(&mut self) -> Result<Option<&mut nft::Socket>, Error> {
        if self.tables.is_none() {
            self.tables = nft::Socket::open_if_supported()?;
        }
        Ok(self.tables.as_mut())
    }

    /// Executes steps in their order, as long as `may` says that it still may, which is asked before each of them.
    ///
    /// # Errors
    /// Why it may not, or the first step that the kernel did not take. Those before it are done; what takes them away is [`Self::remove`].
    pub fn apply<E: From<StepFailed>>(&self, steps: &[Step], mut may: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        steps.iter().try_for_each(|step| {
            may()?;
            debug!(%step, "applying");
            execute(&self.netlink, step).map_err(|error| StepFailed::new(step, error).into())
        })
    }

    /// Takes away whatever carries our marks and reads back that nothing does. Goes on past errors, and starts over with what the kernel
    /// shows by then. Nothing to do is fine.
    ///
    /// Returns what was taken away, in words, and what the kernel shows without it.
    ///
    /// # Errors
    /// What is left, in words.
    pub async fn remove(&mut self, unmarked: Unmarked) -> Result<(Vec<String>, Snapshot), Vec<String>> {
        self.remove_seen(unmarked, None).await
    }

    /// The same where somebody has just looked, and `seen` this.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_seen(&mut self, unmarked: Unmarked, mut seen: Option<Snapshot>) -> Result<(Vec<String>, Snapshot), Vec<String>> {
        let mut removed = Vec::new();
        let mut left = Vec::new();
        for attempt in 0..=REMOVAL_ATTEMPTS {
            if attempt > 1 {
                tokio::time::sleep(REMOVAL_PAUSE * 2u32.pow(attempt - 2)).await;
            }
            let snapshot = match seen.take().map_or_else(|| Snapshot::take(&self.netlink), Ok) {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    warn!(%error, "cannot see what is left");
                    left = vec![format!("unknown, because the kernel's state cannot be read: {error}")];
                    continue;
                }
            };
            let steps = backend::removal(&snapshot, unmarked);
            left.clear();
            // First what brings packets to a netem. Tables with an owner go with that, and while the owner lives nobody else works in this
            // namespace.
            let tables = self.tables().and_then(|tables| tables.map_or(Ok(Vec::new()), nft::Socket::remove_leftovers));
            let rules = tables.is_err();
            match tables {
                Ok(gone) if gone.is_empty() && steps.is_empty() => return Ok((removed, snapshot)),
                Ok(gone) => removed.extend(gone),
                Err(error) => left.push(format!("could not remove the nftables tables {}: {error}", nft::TABLE)),
            }
            let (gone, kept) = take_away(&snapshot, steps, rules, |step| execute(&self.netlink, step));
            removed.extend(gone);
            left.extend(kept);
        }
        if left.is_empty() {
            // Each attempt took everything away, and each look found it again.
            left.push("somebody keeps making what was removed".to_owned());
        }
        Err(left)
    }
}

/// Executes the steps of a removal, past errors. Returns what was done and what was not, in words. The ifb stays where `rules` may lead to it, or where a redirect
/// could not be taken away.
fn take_away(
    snapshot: &Snapshot,
    steps: Vec<Step>,
    rules: bool,
    mut execute: impl FnMut(&Step) -> Result<(), Error>,
) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let mut leads_there = rules;
    for step in steps {
        let Some(step) = (if leads_there { backend::keeping_ifb(snapshot, step) } else { Some(step) }) else { continue };
        match execute(&step) {
            Ok(()) => removed.push(step.to_string()),
            Err(error) => {
                warn!(%step, %error, "not removed");
                left.push(format!("could not {step}: {error}"));
                leads_there |= matches!(step, Step::DeleteFilters { .. });
            }
        }
    }
    (removed, left)
}

fn execute(netlink: &Netlink, step: &Step) -> Result<(), Error> {
    match step {
        Step::CreateIfb => netlink.create_ifb(marks::IFB, marks::IFB_INDEX),
        Step::AddRootPrio { device, handle } => netlink.add_root_prio(device.index, *handle),
        Step::AddNetem { device, parent, handle, netem } => netlink.add_netem(device.index, *parent, *handle, netem),
        Step::AddTbf { device, parent, handle, longest } => netlink.add_tbf(device.index, *parent, *handle, *longest),
        Step::AddIngress { device } => netlink.add_ingress(device.index),
        Step::AddRedirect { device, priority } => netlink.add_redirect(device.index, *priority, marks::IFB_INDEX),
        Step::DeleteFilters { device, priority } => netlink.delete_filters(device.index, *priority),
        Step::DeleteQdisc { qdisc, .. } => netlink.delete_qdisc(qdisc),
        Step::DeleteLink { device } => netlink.delete_link(device.index),
        Step::SetTxqlen { device, packets } => netlink.set_txqlen(device.index, *packets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::Device,
        netlink::{Handle, Link, Qdisc, ROOT},
    };

    /// A namespace with the ifb and its netem, and what a removal does about both and a redirect.
    fn lossy() -> (Snapshot, Vec<Step>) {
        let link = |index, name: &str, kind: &str| Link { index, name: name.to_owned(), kind: Some(kind.to_owned()), ..Link::default() };
        let (eth0, ifb) = (link(2, "eth0", "veth"), link(marks::IFB_INDEX, marks::IFB, "ifb"));
        let netem = Qdisc { ifindex: ifb.index, parent: ROOT, handle: marks::INGRESS_NETEM, kind: "netem".to_owned(), ..Qdisc::default() };
        let prio = Qdisc { ifindex: eth0.index, parent: ROOT, handle: marks::PRIO, kind: "prio".to_owned(), ..Qdisc::default() };
        let redirect = Step::DeleteFilters { device: Device::of(&eth0), priority: marks::REDIRECT };
        let snapshot = Snapshot { links: vec![eth0, ifb], qdiscs: vec![netem, prio], filters: Vec::new() };
        let steps = std::iter::once(redirect).chain(backend::removal(&snapshot, Unmarked::default())).collect();
        (snapshot, steps)
    }

    fn taken(rules: bool, fails: impl Fn(&Step) -> bool) -> (Vec<String>, Vec<String>) {
        let (snapshot, steps) = lossy();
        let error = || Error::Kernel { errno: Errno::ENOMEM, words: None };
        take_away(&snapshot, steps, rules, |step| if fails(step) { Err(error()) } else { Ok(()) })
    }

    #[test]
    fn the_ifb_goes_when_nothing_leads_to_it() {
        let (removed, left) = taken(false, |_| false);
        assert_eq!(removed[1], "remove the interface nl-in");
        assert_eq!((removed.len(), left.len()), (3, 0));
    }

    /// It would lose all that the pod receives.
    #[test]
    fn the_ifb_stays_without_its_netem_while_something_leads_to_it() {
        let inert = ["remove the netem qdisc 7a13: from nl-in", "remove the prio qdisc 7a11: from eth0"];
        let (removed, left) = taken(true, |_| false);
        assert_eq!((&removed[1..], left.len()), (inert.map(str::to_owned).as_slice(), 0));
        let (removed, left) = taken(false, |step| matches!(step, Step::DeleteFilters { .. }));
        assert_eq!(removed, inert);
        assert!(left.len() == 1 && left[0].contains("redirect"), "{left:?}");
    }

    #[test]
    fn an_ifb_that_loses_nothing_is_left_alone_while_something_leads_to_it() {
        let (mut snapshot, _) = lossy();
        let pfifo =
            Qdisc { ifindex: marks::IFB_INDEX, parent: ROOT, handle: Handle::default(), kind: "pfifo_fast".to_owned(), ..Qdisc::default() };
        snapshot.qdiscs = vec![pfifo];
        assert_eq!(take_away(&snapshot, backend::removal(&snapshot, Unmarked::default()), true, |_| Ok(())), (Vec::new(), Vec::new()));
    }
}
