//! The lab: real kernels, a real control plane and a real node to try netloss on.

#[cfg(any(feature = "measure", feature = "host"))]
pub mod bench;
#[cfg(feature = "host")]
pub mod browser;
#[cfg(feature = "host")]
pub mod cluster;
#[cfg(feature = "host")]
pub mod commands;
#[cfg(feature = "host")]
pub mod controlplane;
#[cfg(feature = "host")]
pub mod demo;
#[cfg(any(feature = "guest", feature = "host"))]
pub mod documents;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod kernel;
#[cfg(feature = "host")]
pub mod node;
#[cfg(feature = "host")]
pub mod pictures;
#[cfg(any(feature = "guest", feature = "host"))]
pub mod statistics;
#[cfg(feature = "traffic")]
pub mod traffic;
