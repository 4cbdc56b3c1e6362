//! What netloss decides, as pure functions: what to do next ([`machine`]), which pods may be acted on ([`targets`]), what is refused ([`admission`]), what is put into them
//! ([`container`]), what the executor does in which order ([`steps`]), and what is recorded of a run ([`history`]).
//!
//! Nothing here asks an API server or a clock: what was seen and the time of it are arguments.

pub mod admission;
pub mod container;
pub mod ephemeral;
pub mod history;
pub mod machine;
pub mod refusal;
pub mod sanitize;
pub mod schedule;
pub mod settings;
pub mod status_store;
pub mod steps;
pub mod targets;
pub mod windows;
