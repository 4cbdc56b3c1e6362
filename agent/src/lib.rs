//! The agent of netloss: loses packets of the network namespace that it runs in, and makes sure that this ends.
//!
//! ```text
//! main ─ cli ─┬ commands                         of a person: plan, check, status, stop, cleanup
//!             └ run ┬─ signals, clock, control   when it ends, that there is one, and speaking to it
//!                   ├─ snapshot ── netlink/*     what the kernel shows
//!                   ├─ prepare ─ host, interface, ends   whether, where and to whom
//!                   ├─ backend/* ── netem, marks what to do, to expect and to take away (pure)
//!                   ├─ impairment ┬ apply        the one place that changes the kernel
//!                   │             └ guard, nft/* the lease that the kernel itself ends, in a thread of its own
//!                   └─ meter, reporter, text     what it did, and saying so
//! ```
//!
//! Values decide and one place executes: a backend makes steps of a [`snapshot::Snapshot`], [`apply`] sends them. What is ours is
//! known by its [`marks`], so removal needs no memory: it is a function of what the kernel shows, the same for the end of a run, for
//! the undoing of one that failed half-way, and for what a killed agent left behind.

pub mod apply;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod control;
pub mod diagnostics;
pub mod ending;
pub mod ends;
pub mod guard;
pub mod host;
pub mod impairment;
pub mod interface;
pub mod marks;
pub mod meter;
pub mod netem;
pub mod netlink;
pub mod nft;
pub mod prepare;
pub mod reporter;
pub mod run;
pub mod signals;
pub mod snapshot;
pub mod text;
