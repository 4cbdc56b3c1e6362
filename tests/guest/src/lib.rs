//! What kernel tests work with, as root inside a guest: pods of two network namespaces, the agent, counted traffic, and the
//! namespace's state as Debian's own iproute2 sees it.

mod agent;
mod cgroup;
mod namespace;
mod pod;
mod state;
pub mod statistics;
mod traffic;

use std::time::Duration;

pub use agent::{Agent, End};
pub use cgroup::Cgroup;
pub use namespace::Namespace;
pub use pod::{Interface, Pod, Way};
pub use state::NamespaceState;
pub use traffic::Counted;

/// How long anything is waited for. Emulated guests on busy machines are slow; what takes this long has failed.
pub const PATIENCE: Duration = Duration::from_mins(5);
