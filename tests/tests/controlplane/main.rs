//! The controller on a real API server. The tests play the kubelet: they write the state of containers as a kubelet does, and the
//! logs are served by a node of their own.
//!
//! Time is the test's: every controller is given a clock, so that deadlines pass without waiting.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cli;
mod cli_care;
mod cli_scope;
mod crash;
mod dashboard;
mod drain;
mod ending;
mod faults;
mod floor;
mod foreign;
mod forged;
mod history;
mod hostile;
mod install;
mod k8s_chaos;
mod leader;
mod lifecycle;
mod metrics;
mod node;
mod outages;
mod page;
mod pods;
mod policy;
mod records;
mod refusals;
mod rerun;
mod rights;
mod scenarios;
mod schema;
mod selection;
mod webhook;
mod world;
