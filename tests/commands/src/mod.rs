//! The lab's commands, one a file.

#![allow(clippy::doc_markdown, reason = "clap shows these comments as help, where backticks are noise")]

pub mod bench;
pub mod guest;
pub mod images;
pub mod kernel;
pub mod pictures;
pub mod run;
pub mod test;
pub mod up;
