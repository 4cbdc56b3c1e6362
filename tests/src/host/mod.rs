//! What every part of the lab needs from the machine it runs on: places, programs, a cache, and words for whoever waits.

pub mod archive;
pub mod cache;
pub mod cargo;
pub mod command;
pub mod http;
pub mod needs;
pub mod paths;
pub mod ports;
pub mod process;
pub mod progress;
pub mod runtime;
pub mod state;
pub mod tally;
