//! The controller of netloss: runs `ChaosExperiments` of the action pod-network-loss.
//!
//! It decides and never touches a packet: it puts `netloss-agent` into pods as an ephemeral container and reads what the agent
//! reports. Looking ([`observe`]), deciding ([`machine`], pure) and doing ([`reconcile`]) are rooms of their own; what may be acted on
//! is in [`targets`], what is put into a pod in [`container`], and the words of the API in `netloss-api`. [`admission`] says no before there is
//! anything to act on. [`cli`] is the other program of this package, `kubectl-netloss`, for people.

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
