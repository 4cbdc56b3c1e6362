//! The lab: real kernels, a real control plane and a real node to try netloss on.

pub mod cluster;
pub mod controlplane;
pub mod host;
pub mod kernel;
pub mod node;
