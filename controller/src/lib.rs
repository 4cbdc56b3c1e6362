//! The controller of netloss: runs ChaosExperiments of the action pod-network-loss.
//!
//! It decides and never touches a packet: it puts `netloss-agent` into pods as an ephemeral container and reads what the agent
//! reports.

pub mod api;
mod args;

pub use args::Args;
