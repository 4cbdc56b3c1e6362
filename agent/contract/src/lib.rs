//! What netloss's agent and controller agree on, and nothing else.
//!
//! The agent knows no Kubernetes and the controller no netlink; this crate is where they meet (docs/ARCHITECTURE.md, invariant 2):
//!
//! * [`RunArgs`], [`StopArgs`], [`CleanupArgs`]: the arguments of `netloss-agent`, in both directions (argv ⇄ types), with the models of loss ([`LossModel`]) and
//!   what each of them really loses, by the integers that netem is given ([`NetemLoss`]);
//! * [`Traffic`], [`Expectation`], [`LossVerdict`]: what counters say about the loss, and whether it is the expected one;
//! * [`Request`]: what is asked of a running agent;
//! * [`Record`]: the JSON lines on the agent's standard output and its final report in the termination message;
//! * [`ExitCode`]: what the agent's exit code means;
//! * [`container_name`]: the name under which an agent is put into a pod.
//!
//! All of them are contracts: documented in docs/AGENT.md, versioned by [`SCHEMA`], and only ever extended.

mod args;
mod container;
mod control;
mod effect;
mod endpoint;
mod estimate;
mod exit;
mod impairment;
mod model;
mod netem;
mod percentage;
mod plan;
mod predict;
mod report;
mod run_id;
mod span;
mod text;

pub use args::{BackendChoice, CleanupArgs, Direction, Filters, RunArgs, RunSelector, StopArgs};
pub use container::{CONTAINER_PREFIX, container_name, repair_container_name, stop_container_name};
pub use control::{REQUEST_LIMIT, Request};
pub use effect::Predicted;
pub use endpoint::{Endpoint, Protocol};
pub use estimate::{Expectation, Interval, LossVerdict, Traffic};
pub use exit::ExitCode;
pub use impairment::{Asked, Backend, Filtered, Guard};
pub use model::{LossModel, MeanBurst};
pub use netem::{NetemLoss, Probability};
pub use percentage::{Correlation, LossPercentage, Share};
pub use plan::{Checked, Finding, Planned, Verdict};
pub use report::{
    Applied, Cause, Cleaned, Event, Failed, Heartbeat, Holder, LINE_LIMIT, LeaseStats, PerDirection, Record, Removed, SCHEMA, Stage,
    Status, Stopped,
};
pub use run_id::RunId;
pub use span::{HeartbeatInterval, Ttl, parse_duration};
pub use text::{is_unprintable, sanitize, truncate};

use std::fmt;

/// `Display` of enums of unit variants: as serde names them, so that JSON, the API, arguments and messages have one name.
#[macro_export]
macro_rules! display_as_serialized {
    ($($type:ty),+ $(,)?) => {
        $(impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::serde::Serialize::serialize(self, f)
            }
        })+
    };
}

display_as_serialized!(Backend, BackendChoice, Cause, Direction, ExitCode);

/// A value that is not of the form, or not in the range, that its argument has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    reason: String,
}

impl Invalid {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Invalid {}
