//! The images of netloss and of the lab, as `images/build` makes them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::host::needs::Needs;
use crate::host::{cargo, paths, progress};

const NEEDS: Needs = Needs::new("images", include_str!("images.needs"));
const NEEDS_ARM64: Needs = Needs::new("images-arm64", include_str!("images-arm64.needs"));

/// One of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// What the controller puts into pods.
    Agent,
    /// The controller.
    Controller,
    /// The lab's own: what its pods run, and the node's sandbox.
    Traffic,
}

/// An architecture that images are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Controller, Self::Traffic];

    /// The name under which a node knows it.
    #[must_use]
    pub fn reference(self) -> String {
        format!("localhost/netloss-{}:dev", self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
            Self::Traffic => "traffic",
        }
    }
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// How images are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// As they ship.
    Release,
    /// The controller from what was compiled for the lab itself, which is there already; the others, which are small, as they ship.
    Dev,
}

/// Builds what a cluster of this machine's architecture runs. Returns the archives.
///
/// # Errors
///
/// If a tool is missing or a build fails.
pub(super) fn build_for_cluster(images: &[Image], how: Build) -> Result<Vec<PathBuf>> {
    let is_dev = |image: &Image| how == Build::Dev && *image == Image::Controller;
    let release: Vec<Image> = images.iter().copied().filter(|image| !is_dev(image)).collect();
    let mut archives = build(&release, &[Architecture::Amd64])?;
    if let Some(controller) = images.iter().copied().find(is_dev) {
        images_build(&[controller], ["--dev"].into_iter())?;
        archives.push(archive(controller, "dev"));
    }
    Ok(archives)
}

/// Builds images unless they are up to date. Returns their archives.
///
/// # Errors
///
/// If a tool is missing or a build fails.
pub fn build(images: &[Image], architectures: &[Architecture]) -> Result<Vec<PathBuf>> {
    if images.is_empty() {
        // images/build takes no name for all of them.
        return Ok(Vec::new());
    }
    NEEDS.require()?;
    if architectures.contains(&Architecture::Arm64) {
        NEEDS_ARM64.require()?;
    }
    let options = architectures.iter().flat_map(|architecture| ["--arch", architecture.name()]);
    images_build(images, options.chain(images.iter().flat_map(|image| ["--only", image.name()])))?;
    Ok(images.iter().flat_map(|image| architectures.iter().map(|architecture| archive(*image, architecture.name()))).collect())
}

fn archive(image: Image, variant: &str) -> PathBuf {
    paths::target_dir().join("images").join(format!("netloss-{}-{variant}.tar", image.name()))
}

fn images_build<'a>(images: &[Image], options: impl Iterator<Item = &'a str>) -> Result<()> {
    let names: Vec<&str> = images.iter().map(|image| image.name()).collect();
    let step = progress::step(format!("Building images: {}", names.join(", ")));
    let mut command = cargo::images_build();
    command.args(options);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start images/build")?;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("cannot read what images/build says")?;
            step.detail(line.trim());
            step.log(&line);
        }
    }
    let status = child.wait().context("cannot wait for images/build")?;
    if !status.success() {
        bail!("images/build failed: {status}");
    }
    step.done("");
    Ok(())
}
