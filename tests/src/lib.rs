//! The lab: real kernels, a real control plane and a real node to try netloss on.

#[cfg(feature = "host")]
pub mod host;
