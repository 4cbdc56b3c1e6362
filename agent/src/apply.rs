//! The one place that changes the kernel: executes steps, and takes away what carries our marks until nothing does.

use crate::{
    backend::{self, Device, Step},
    marks,
    netlink::{Error, Netlink},
    nft,
    prepare::CAPABILITY,
    snapshot::Snapshot,
};
use netloss_contract::ExitCode;
use nix::errno::Errno;
use std::time::Duration;
use tracing::{debug, warn};

/// How often a removal starts over: each time with what the kernel shows by then.
const REMOVAL_ATTEMPTS: u32 = 6;

/// The pause before a removal's second attempt; doubled before each further one.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

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

/// Executes steps in their order. Returns the index of the ifb, if one of them had to do with it.
///
/// # Errors
/// The first step that the kernel did not take. Those before it are done; what takes them away is [`remove`].
pub fn apply(netlink: &Netlink, steps: &[Step]) -> Result<Option<u32>, StepFailed> {
    let mut ifb = None;
    for step in steps {
        debug!(%step, "applying");
        execute(netlink, step, &mut ifb).map_err(|error| StepFailed::new(step, error))?;
    }
    Ok(ifb)
}

/// Takes away whatever carries our marks and reads back that nothing does. Goes on past errors, and starts over with what the kernel
/// shows by then. Nothing to do is fine. For `made_hook` see [`backend::removal`].
///
/// Returns what was taken away, in words, and what the kernel shows without it.
///
/// # Errors
/// What is left, in words.
pub async fn remove(netlink: &Netlink, made_hook: Option<u32>) -> Result<(Vec<String>, Snapshot), Vec<String>> {
    remove_seen(netlink, made_hook, None).await
}

/// The same where somebody has just looked, and `seen` this.
///
/// # Errors
/// As [`remove`].
pub async fn remove_seen(
    netlink: &Netlink,
    made_hook: Option<u32>,
    mut seen: Option<Snapshot>,
) -> Result<(Vec<String>, Snapshot), Vec<String>> {
    let mut removed = Vec::new();
    let mut left = Vec::new();
    let mut tables = None;
    for attempt in 0..=REMOVAL_ATTEMPTS {
        if attempt > 1 {
            tokio::time::sleep(REMOVAL_PAUSE * 2u32.pow(attempt - 2)).await;
        }
        let snapshot = match seen.take().map_or_else(|| Snapshot::take(netlink), Ok) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(%error, "cannot see what is left");
                left = vec![format!("unknown, because the kernel's state cannot be read: {error}")];
                continue;
            }
        };
        let steps = backend::removal(&snapshot, made_hook);
        left.clear();
        // First what brings packets to a netem.
        match remove_tables(&mut tables) {
            Ok(gone) if gone.is_empty() && steps.is_empty() => return Ok((removed, snapshot)),
            Ok(gone) => removed.extend(gone),
            Err(error) => left.push(format!("could not remove the nftables tables {}: {error}", nft::TABLE)),
        }
        for step in steps {
            match execute(netlink, &step, &mut None) {
                Ok(()) => removed.push(step.to_string()),
                Err(error) => {
                    warn!(%step, %error, attempt, "not removed");
                    left.push(format!("could not {step}: {error}"));
                }
            }
        }
    }
    if left.is_empty() {
        // Each attempt took everything away, and each look found it again.
        left.push("somebody keeps making what was removed".to_owned());
    }
    Err(left)
}

/// Takes away tables of a guard without an owner, whose agent is gone. One with an owner goes with that, and while the owner lives
/// nobody else works in this namespace. The `socket` is opened once.
fn remove_tables(socket: &mut Option<nft::Socket>) -> Result<Vec<String>, nft::Error> {
    if socket.is_none() {
        *socket = nft::Socket::open().inspect_err(|error| debug!(%error, "no nfnetlink, so no tables")).ok();
    }
    socket.as_mut().map_or(Ok(Vec::new()), nft::Socket::remove_leftovers)
}

/// `ifb`: the index of ours, as far as it is known.
fn execute(netlink: &Netlink, step: &Step, ifb: &mut Option<u32>) -> Result<(), Error> {
    let mut index = |device: &Device| index(netlink, device, ifb);
    match step {
        Step::CreateIfb => netlink.create_ifb(marks::IFB),
        Step::AddRootPrio { device, handle } => netlink.add_root_prio(index(device)?, *handle),
        Step::AddNetem { device, parent, handle, netem } => netlink.add_netem(index(device)?, *parent, *handle, netem),
        Step::AddTbf { device, parent, handle, longest } => netlink.add_tbf(index(device)?, *parent, *handle, *longest),
        Step::AddIngress { device } => netlink.add_ingress(index(device)?),
        Step::AddRedirect { device, priority } => {
            let to = index(&Device::Ifb)?;
            netlink.add_redirect(index(device)?, *priority, to)
        }
        Step::DeleteFilters { device, priority } => netlink.delete_filters(index(device)?, *priority),
        Step::DeleteQdisc { qdisc, .. } => netlink.delete_qdisc(qdisc),
        Step::DeleteLink { device } => netlink.delete_link(index(device)?),
        Step::SetTxqlen { device, packets } => netlink.set_txqlen(index(device)?, *packets),
    }
}

fn index(netlink: &Netlink, device: &Device, ifb: &mut Option<u32>) -> Result<u32, Error> {
    if let Device::Index { index, .. } = device {
        return Ok(*index);
    }
    if ifb.is_none() {
        *ifb = netlink.link(marks::IFB)?.map(|link| link.index);
    }
    ifb.ok_or(Error::Kernel { errno: Errno::ENODEV, words: None })
}
