//! The one place that changes the kernel: executes steps, and takes away what carries our marks until nothing does.

use crate::{
    backend::{self, Step},
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
    pub fn tables(&mut self) -> Option<&mut nft::Socket> {
        if self.tables.is_none() {
            self.tables = nft::Socket::open().inspect_err(|error| debug!(%error, "no nfnetlink, so no tables")).ok();
        }
        self.tables.as_mut()
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
    /// shows by then. Nothing to do is fine. For `made_hook` see [`backend::removal`].
    ///
    /// Returns what was taken away, in words, and what the kernel shows without it.
    ///
    /// # Errors
    /// What is left, in words.
    pub async fn remove(&mut self, made_hook: Option<u32>) -> Result<(Vec<String>, Snapshot), Vec<String>> {
        self.remove_seen(made_hook, None).await
    }

    /// The same where somebody has just looked, and `seen` this.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_seen(
        &mut self,
        made_hook: Option<u32>,
        mut seen: Option<Snapshot>,
    ) -> Result<(Vec<String>, Snapshot), Vec<String>> {
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
            let steps = backend::removal(&snapshot, made_hook);
            left.clear();
            // First what brings packets to a netem. Tables with an owner go with that, and while the owner lives nobody else works in this
            // namespace.
            match self.tables().map_or(Ok(Vec::new()), nft::Socket::remove_leftovers) {
                Ok(gone) if gone.is_empty() && steps.is_empty() => return Ok((removed, snapshot)),
                Ok(gone) => removed.extend(gone),
                Err(error) => left.push(format!("could not remove the nftables tables {}: {error}", nft::TABLE)),
            }
            for step in steps {
                match execute(&self.netlink, &step) {
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
