//! The controller as it is shipped, run beside the API server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netloss_lab::cluster::{Architecture, Image, build_images};
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::host::http::get;
use netloss_lab::host::process::{Daemon, Lifetime};
use netloss_lab::host::{paths, ports};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_mins(2);

/// Builds it, unless `NETLOSS_CONTROLLER` names another. What is in the image runs on this machine too.
pub(super) async fn build() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("NETLOSS_CONTROLLER") {
        return Ok(program.into());
    }
    spawn_blocking(|| build_images(&[Image::Controller], &[Architecture::Amd64])).await??;
    Ok(paths::target_dir().join("x86_64-unknown-linux-musl/release/netloss-controller"))
}

/// Starts it as an administrator, and waits until it is ready.
pub(super) async fn start(program: &Path, control_plane: &ControlPlane, arguments: &[String]) -> Result<Daemon> {
    let health = ports::free()?;
    let mut command = Command::new(program);
    command.env("KUBECONFIG", control_plane.kubeconfig_path()).arg("run").args(arguments).args([
        format!("--agent-image={}", Image::Agent.reference()),
        format!("--metrics-listen=127.0.0.1:{}", ports::free()?),
        format!("--health-listen=127.0.0.1:{health}"),
    ]);
    let log = control_plane.dir().join("controller.log");
    let controller = Daemon::start("netloss-controller", &command, &log, Lifetime::WithLab)?;
    let limit = Instant::now() + LIMIT;
    while !get(health, "/readyz").await.starts_with("HTTP/1.1 200") {
        controller.ensure_running()?;
        ensure!(Instant::now() < limit, "the controller is not ready: {}", controller.log_tail(20));
        sleep(Duration::from_millis(50)).await;
    }
    Ok(controller)
}
