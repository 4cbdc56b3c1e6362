//! `cargo lab pictures`: the pictures in the documents.

use std::process::ExitCode;

use anyhow::Result;
use netloss_lab::cluster::{Build, Cluster, Image, install_netloss};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use netloss_lab::host::{paths, runtime};

/// Make the pictures in docs/pictures anew, from a real run
///
/// Starts the cluster that `run` starts and a workload of three pods that exchange packets, records `kubectl netloss run … --watch` in a
/// terminal (watch.svg, session.svg), and takes pictures of its report in a browser (report.html, report*.png).
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Pictures {}

impl Pictures {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If something does not come up, or the run does not go as asked.
    pub(crate) fn run() -> Result<ExitCode> {
        runtime::run(async {
            let cluster = Cluster::start(&Image::ALL, Build::Release, Lifetime::WithLab, StateDir::temporary()?).await?;
            let work = async {
                let client = cluster.client().await?;
                let (image, folder) = (Image::Traffic.reference(), paths::workspace_root().join("docs/pictures"));
                netloss_lab_pictures::make(&client, cluster.kubeconfig_path(), &image, install_netloss(&client, |_| {}), &folder).await
            };
            cluster.check("pictures", work).await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
