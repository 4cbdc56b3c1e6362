//! The validating admission webhook: refuses what is dangerous before it is an object, and warns of what may surprise.
//!
//! [`Review`] reads and answers, [`netloss_core::admission`] decides (both pure), [`fetch`] looks, [`server`] speaks TLS and HTTP, [`certificate`] issues and renews what it is known by,
//! under the authority that [`authority`] makes. The controller
//! checks everything again before it acts, so a cluster without the webhook is as safe, and only learns of it later.

pub mod authority;
pub mod certificate;
mod fetch;
mod review;
mod review_limit;
mod served;
pub mod server;

pub use fetch::fetch;
pub use review::{Asked, AskedFor, Review};
pub use served::Served;
