//! `cargo lab images`: the OCI images, with all that building them needs.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use netloss_lab::cluster::{Architecture, Image, build_images};
use netloss_lab::host::paths;

/// Build the images of agent and controller for amd64 and arm64, and check what is in them
///
/// The archives are below target/images. Installs what images/build needs, then calls it and images/check.
#[derive(Debug, clap::Args)]
pub(crate) struct Images {}

impl Images {
    /// Runs the command. It fails if an image is not what it should be.
    ///
    /// # Errors
    ///
    /// If something cannot be installed or built.
    pub(crate) fn run() -> Result<ExitCode> {
        let archives = build_images(&[Image::Agent, Image::Controller], &Architecture::ALL)?;
        let status = Command::new(paths::workspace_root().join("images/check")).args(&archives).status()?;
        if !status.success() {
            bail!("an image is not what it should be");
        }
        Ok(ExitCode::SUCCESS)
    }
}
