//! The controller of netloss: runs `ChaosExperiments` of the action pod-network-loss.
//!
//! It never touches a packet: it puts `netloss-agent` into pods as an ephemeral container and reads what the agent reports. `netloss-cluster` looks and acts,
//! `netloss-core` decides; this crate is the process around them: replicas, watches, the webhook, metrics, and what an installation runs once.

pub mod admission;
mod args;
mod backoff;
pub mod client;
mod concurrency;
pub mod definitions;
pub mod drain;
pub mod health;
mod http;
pub mod leader;
pub mod metrics;
mod pods;
mod publish;
pub mod reconcile;
pub mod records;
mod replica;
pub mod run;
mod verify;

pub use args::Args;
