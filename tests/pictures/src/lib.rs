//! The pictures of the documents, from a real run: a session in a terminal, and the report as a page.

pub mod browser;
mod film;
mod stage;
mod terminal;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::Client;
use netloss_lab::controlplane::Tool;
use netloss_lab::host::cargo::{self, cargo};
use netloss_lab::host::{command, progress};
use tokio::task::spawn_blocking;

use self::stage::{NAMESPACE, WORKLOAD};
use self::terminal::Terminal;
use crate::browser::{Browser, Scheme, View};

/// The name of the experiment that is shown.
const EXPERIMENT: &str = "web-loss";
/// A PNG larger than this is too much for a document.
const MOST_BYTES: u64 = 150_000;
/// The screenshots of the report: file, width, colours, pixels for one of CSS.
const SCREENSHOTS: [(&str, u32, Scheme, f64); 3] =
    [("report.png", 1000, Scheme::Light, 1.0), ("report-dark.png", 1000, Scheme::Dark, 1.0), ("report-phone.png", 390, Scheme::Light, 1.5)];

/// Runs an experiment in the cluster, with pods of the traffic program's `image`, and writes its pictures into `folder`.
///
/// # Errors
///
/// If something does not come up, or the run does not go as asked.
pub async fn make(
    client: &Client,
    kubeconfig: &Path,
    image: &str,
    installed: impl Future<Output = Result<()>>,
    folder: &Path,
) -> Result<()> {
    let programs = spawn_blocking(Programs::ready);
    // One after the other: six pods at once, beside netloss's own, are too many for an emulated node.
    let staged = async {
        installed.await?;
        stage::set(client, image).await
    };
    let (programs, ()) = tokio::try_join!(async { programs.await? }, Box::pin(staged))?;
    let kubeconfig = kubeconfig.to_owned();
    let folder = folder.to_owned();
    spawn_blocking(move || programs.pictures(&kubeconfig, &folder)).await?
}

/// What the pictures are made with.
struct Programs {
    kubectl: PathBuf,
    /// `$PATH` with kubectl-netloss in it.
    path: OsString,
    browser: Browser,
}

impl Programs {
    fn ready() -> Result<Self> {
        let kubectl = Tool::Kubectl.binary()?;
        let build = ["build", "--quiet", "--package", "netloss-cli", "--bin", "kubectl-netloss", "--message-format", "json"];
        let plugin = cargo::executables(cargo().args(build))?.pop().context("kubectl-netloss is no program")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = plugin.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
        Ok(Self { kubectl, path: std::env::join_paths(folders)?, browser: Browser::installed()? })
    }

    /// `kubectl`, with what comes after that word in a line.
    fn kubectl(&self, kubeconfig: &Path, line: &str) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", kubeconfig).env("PATH", &self.path).args(line.split(' ').skip(1));
        command
    }

    fn pictures(&self, kubeconfig: &Path, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"));

        let step = progress::step("Recording a run");
        let run =
            format!("kubectl netloss run deploy/{WORKLOAD} -n {NAMESPACE} --name {EXPERIMENT} --loss 10 --count 2 --duration 45s --watch");
        let mut terminal = Terminal::new();
        terminal.run(&run, self.kubectl(kubeconfig, &run))?;
        let frames = terminal.frames();
        let is_lossy = |frame: &&terminal::Frame| frame.shows("applied") && frame.shows("left at most") && !frame.shows("- ");
        let lossy: Vec<_> = frames.iter().filter(is_lossy).collect();
        // Late enough for narrow intervals, with some time left.
        let shown = lossy.get(lossy.len() / 2).context("no frame shows the loss")?;
        write("watch.svg", &film::still(shown))?;
        write("session.svg", &film::film(&frames))?;
        step.done(format!("{} frames", frames.len()));

        let step = progress::step("Taking pictures of its report");
        let report = format!("kubectl netloss report {EXPERIMENT} -n {NAMESPACE} -o html");
        let page = command::output(&mut self.kubectl(kubeconfig, &report))?;
        write("report.html", &page)?;
        for (name, width, scheme, scale) in SCREENSHOTS {
            let height = self.browser.look(&page, &View { width, height: 800, scheme, scale })?.height;
            let file = folder.join(name);
            self.browser.screenshot(&folder.join("report.html"), &View { width, height, scheme, scale }, &file)?.write_small(&file)?;
            let size = fs::metadata(&file)?.len();
            ensure!(size <= MOST_BYTES, "{name} has {size} bytes, and {MOST_BYTES} are enough");
        }
        step.done(folder.display().to_string());
        Ok(())
    }
}
