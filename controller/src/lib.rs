//! The controller of netloss: runs `ChaosExperiments` of the action pod-network-loss.
//!
//! It never touches a packet: it puts `netloss-agent` into pods as an ephemeral container and reads what the agent reports. [`observe`] looks, `netloss-core`
//! decides, [`reconcile`] does. [`admission`] says no before there is anything to act on. [`cli`] is the other program of this package, `kubectl-netloss`, for
//! people. The objects of the API are in `netloss-api`.

pub mod admission;
mod args;
mod backoff;
pub mod cli;
pub mod client;
pub mod definitions;
pub mod drain;
mod guarded;
pub mod health;
mod http;
pub mod leader;
mod listing;
pub mod metrics;
pub mod observe;
mod operate;
mod pods;
mod publish;
pub mod reconcile;
pub mod records;
pub mod run;
mod turns;
mod verify;

pub use args::Args;
