//! Looking and deciding: what `run` does before it brings a loss.

use crate::{
    apply::CAPABILITY,
    backend::Target,
    clock::{self, until},
    ends, host,
    impairment::{NoPlan, Plan, Trial},
    interface,
    netem::Netem,
    netlink::{self, Link, Netlink},
    snapshot::Snapshot,
};
use jiff::Timestamp;
use netloss_contract::{Asked, ExitCode, Failed, Filtered, RunArgs, Stage};

/// What is going to be done, and why so.
#[derive(Debug)]
pub struct Prepared {
    /// What is going to be done.
    pub plan: Plan,
    /// By which rule the interface was found.
    pub interface_reason: String,
    /// Which packets the loss is kept to.
    pub filtered: Filtered,
}

/// Decides, on a namespace that carries none of our marks.
///
/// # Errors
/// Why nothing is going to be done.
pub fn prepare(args: &RunArgs, netlink: &Netlink, before: &Snapshot, trial: Trial) -> Result<Prepared, Failed> {
    let routes = netlink.default_routes().map_err(|error| unreadable(&error))?;
    let choice = interface::choose(&before.links, &routes, args.interface.as_deref())
        .map_err(|error| failed(Stage::Plan, ExitCode::Refused, error.to_string()))?;
    let filtered = ends::describe(&args.filters, &routes, choice.link.index);
    let ends = ends::resolve(&args.filters, &routes, choice.link.index);
    let target = Target {
        link: choice.link,
        direction: args.direction,
        netem: Netem::of(&args.model, args.seed),
        per_segment: args.per_segment,
        ends,
    };
    let plan = Plan::make(args.backend, before, target, trial).map_err(|error| not_planned(&error))?;
    Ok(Prepared { plan, interface_reason: choice.reason, filtered })
}

/// A failure that has left nothing behind.
pub fn failed(stage: Stage, exit: ExitCode, message: impl Into<String>) -> Failed {
    Failed { stage, message: message.into(), exit, left: Vec::new(), holder: None }
}

/// The kernel does not say what is there.
#[must_use]
pub fn unreadable(error: &netlink::Error) -> Failed {
    failed(Stage::Snapshot, ExitCode::Failed, format!("cannot read the kernel's state: {error}"))
}

/// Refuses what could only fail half-way.
///
/// # Errors
/// Where this process may not change the network.
pub fn permitted(netlink: &Netlink) -> Result<(), Failed> {
    if netlink.is_permitted().map_err(|error| unreadable(&error))? {
        Ok(())
    } else {
        Err(failed(Stage::Start, ExitCode::Unsupported, CAPABILITY))
    }
}

/// Refuses to do anything too late.
///
/// # Errors
/// Where the deadline has passed.
pub fn in_time(deadline: Option<Timestamp>) -> Result<(), Failed> {
    let Some(deadline) = deadline.filter(|deadline| until(*deadline).is_zero()) else { return Ok(()) };
    let message = format!("the deadline {deadline} has passed (it is {} here), so nothing was changed", clock::now());
    Err(failed(Stage::Start, ExitCode::DeadlinePassed, message))
}

/// Refuses to work in a host's namespace, unless that is asked for.
///
/// # Errors
/// Where it looks like one.
pub fn refuse_host(args: &RunArgs, links: &[Link]) -> Result<(), Failed> {
    let evidence = host::evidence(links, host::in_initial_namespace());
    if args.allow_host_network || evidence.is_empty() {
        return Ok(());
    }
    let message = format!(
        "this network namespace looks like a host's, where the loss would hit every pod and service on it: {}; run in a pod's, or add --allow-host-network",
        evidence.join(", and ")
    );
    Err(failed(Stage::Plan, ExitCode::Refused, message))
}

/// What was asked for, as reports have it.
#[must_use]
pub fn asked(args: &RunArgs) -> Asked {
    Asked { model: args.model, direction: args.direction, seed: args.seed, per_segment: args.per_segment }
}

/// Why there is no plan.
#[must_use]
pub fn not_planned(error: &NoPlan) -> Failed {
    let exit = match error {
        NoPlan::Refused(_) => ExitCode::Refused,
        NoPlan::NoGuard(_) | NoPlan::NoFilters(_) | NoPlan::NoSegments(_) => ExitCode::Unsupported,
        NoPlan::GuardFailed(_) => ExitCode::Failed,
    };
    failed(Stage::Plan, exit, error.to_string())
}
