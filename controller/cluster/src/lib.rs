//! What netloss reads of a cluster and does in it.
//!
//! It may speak to the API server and decides nothing: that is `netloss-core`. `netloss-controller` and `kubectl-netloss` both use it, and do not know each
//! other.

pub mod agents;
pub mod clock;
pub mod executor;
pub mod guarded;
pub mod listing;
pub mod observe;
#[cfg(any(test, feature = "fixtures"))]
pub mod testing;
