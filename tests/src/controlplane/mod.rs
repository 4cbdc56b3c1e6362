//! A real control plane: etcd, kube-apiserver and, where asked for, kube-controller-manager and kube-scheduler, on loopback.
//!
//! Each one has its own folder, keys and ports, so several run side by side. Dropping a [`ControlPlane`] ends it, the API
//! server before its store: without etcd it would take minutes to end and keep its port all the while.

mod flags;
mod go;
mod kubeconfig;
pub mod kubelet;
mod modules;
mod pki;
pub mod proxy;
pub mod reports;
mod tools;
mod user;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

pub use self::kubeconfig::{CONTEXT, kubeconfig};
pub use self::pki::{HOST_FROM_GUEST, Identity, KeyFiles, Pki, SERVICE_ADDRESS};
pub use self::tools::{Release, Tool};
pub use self::user::{interactive_shell, run_as_user, shell, user_command};
use crate::host::process::{Daemon, Lifetime, Record};
use crate::host::state::StateDir;
use crate::host::{ports, progress};

/// The name of the administrator's kubeconfig in a control plane's folder.
pub const KUBECONFIG: &str = "kubeconfig";

/// Seconds in an idle machine, but the lab starts it beside builds and booting VMs on two cores.
const READY_LIMIT: Duration = Duration::from_mins(3);
/// An API server with open watches takes a moment to close them.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often an address that somebody else took in the meantime is replaced.
const ATTEMPTS: u32 = 3;

/// What a control plane consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The store and the API server: objects are kept and validated, and nothing happens to them by itself.
    ApiOnly,
    /// With controllers and a scheduler: what is created comes to life on a node.
    Full,
}

/// The ports of one control plane, all on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    apiserver: u16,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they are to end.
    clients: Vec<Daemon>,
    apiserver: Option<Daemon>,
    etcd: Daemon,
    apiserver_command: Command,
    etcd_command: Command,
    lifetime: Lifetime,
    port: u16,
    pki: Pki,
    kubeconfig: PathBuf,
    state: StateDir,
}

impl ControlPlane {
    /// An API server with its store, for a test: it has a folder of its own and ends when it is dropped or the test run ends.
    ///
    /// # Errors
    ///
    /// If a program cannot be built or does not come up.
    pub async fn start_for_tests() -> Result<Self> {
        Self::start_for_tests_of(Release::Newest).await
    }

    /// The same, of this release.
    ///
    /// # Errors
    ///
    /// If a program cannot be built or does not come up.
    pub async fn start_for_tests_of(release: Release) -> Result<Self> {
        Self::start_of(release, Extent::ApiOnly, Lifetime::WithLab, StateDir::temporary()?).await
    }

    /// Starts a control plane and waits until its API server says that it is ready.
    ///
    /// # Errors
    ///
    /// If a program cannot be built or does not come up; the message holds the end of its log.
    pub async fn start(extent: Extent, lifetime: Lifetime, state: StateDir) -> Result<Self> {
        Self::start_of(Release::Newest, extent, lifetime, state).await
    }

    async fn start_of(release: Release, extent: Extent, lifetime: Lifetime, state: StateDir) -> Result<Self> {
        let programs = spawn_blocking(move || Programs::build(release, extent)).await??;
        let step = progress::step("Starting a control plane");
        let keys = Keys::create(state.path())?;
        let mut attempt = 1;
        let servers = loop {
            match Servers::start(&programs, &keys, state.path(), extent, lifetime).await {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => attempt += 1,
                other => break other?,
            }
        };
        let mut control_plane = Self {
            clients: Vec::new(),
            apiserver: Some(servers.apiserver),
            etcd: servers.etcd,
            apiserver_command: servers.apiserver_command,
            etcd_command: servers.etcd_command,
            lifetime,
            port: servers.port,
            pki: keys.pki,
            kubeconfig: servers.kubeconfig,
            state,
        };
        if let Some((controller_manager, scheduler)) = &programs.clients {
            let kubeconfig = &control_plane.kubeconfig;
            let ca = control_plane.pki.ca_file();
            let controllers = flags::controller_manager(controller_manager, kubeconfig, &ca, &keys.service_account);
            let scheduler = flags::scheduler(scheduler, kubeconfig);
            for (tool, command) in [(Tool::ControllerManager, controllers), (Tool::Scheduler, scheduler)] {
                let log = control_plane.log(tool);
                control_plane.clients.push(Daemon::start(tool.name(), &command, &log, lifetime)?);
            }
        }
        step.done(format!("127.0.0.1:{}", control_plane.port));
        Ok(control_plane)
    }

    /// A kubeconfig file for an administrator.
    #[must_use]
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with an administrator's rights. It belongs to the calling runtime: every test makes its own.
    ///
    /// # Errors
    ///
    /// If the client cannot be built.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig).await
    }

    /// Runs kubectl or Helm as an administrator and returns what it wrote to stdout.
    ///
    /// # Errors
    ///
    /// If it cannot be built or started, or does not succeed; the message has the end of what it printed.
    pub async fn run<S: Into<String>>(&self, tool: Tool, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        run_as_user(tool, &self.kubeconfig, arguments).await
    }

    /// The API server's port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that all certificates come from.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The folder of this control plane.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.state.path()
    }

    /// Ends the API server, as a fault; the store goes on. Does nothing if it is stopped already.
    ///
    /// # Errors
    ///
    /// If it cannot be signalled.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        self.apiserver.take().map_or(Ok(()), |apiserver| apiserver.stop(STOP_GRACE))
    }

    /// Starts the API server again, on the same port, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        if self.apiserver.is_none() {
            let apiserver = Daemon::start(Tool::Apiserver.name(), &self.apiserver_command, &self.log(Tool::Apiserver), self.lifetime)?;
            wait_ready(&self.kubeconfig, &[&self.etcd, &apiserver]).await?;
            self.apiserver = Some(apiserver);
        }
        Ok(())
    }

    /// Ends the store, as a fault, and starts it again with what it has written; then waits until the API server is ready.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn restart_etcd(&mut self) -> Result<()> {
        self.etcd.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.etcd.stop(STOP_GRACE)?;
        self.etcd = Daemon::start(Tool::Etcd.name(), &self.etcd_command, &self.log(Tool::Etcd), self.lifetime)?;
        wait_ready(&self.kubeconfig, &[&self.etcd]).await
    }

    /// An error with the end of its log if one of the programs has ended unasked.
    ///
    /// # Errors
    ///
    /// If one has.
    pub fn ensure_running(&self) -> Result<()> {
        self.daemons().try_for_each(Daemon::ensure_running)
    }

    /// Where the output of one of the programs goes.
    #[must_use]
    pub fn log(&self, tool: Tool) -> PathBuf {
        log_in(self.state.path(), tool)
    }

    /// Leaves everything running when this value goes. Returns the folder and the processes, in the order to end them in.
    ///
    /// # Errors
    ///
    /// If one of the processes is gone.
    pub fn release(mut self) -> Result<(StateDir, Vec<Record>)> {
        let records = self.daemons().map(Daemon::record).collect::<Result<Vec<_>>>()?;
        let daemons = self.clients.iter_mut().chain(&mut self.apiserver).chain([&mut self.etcd]);
        daemons.for_each(Daemon::release);
        Ok((self.state, records))
    }

    fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.clients.iter().chain(&self.apiserver).chain([&self.etcd])
    }
}

/// A client for the current context of a kubeconfig file.
///
/// # Errors
///
/// If the file cannot be read or names something that does not exist.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The binaries of a control plane.
struct Programs {
    etcd: PathBuf,
    apiserver: PathBuf,
    /// kube-controller-manager and kube-scheduler.
    clients: Option<(PathBuf, PathBuf)>,
}

impl Programs {
    fn build(release: Release, extent: Extent) -> Result<Self> {
        if release == Release::Newest {
            Tool::build(match extent {
                Extent::ApiOnly => &[Tool::Apiserver, Tool::Etcd],
                Extent::Full => &Tool::OF_A_CLUSTER,
            })?;
        }
        let apiserver = release.apiserver()?;
        let etcd = Tool::Etcd.binary()?;
        let clients = match extent {
            Extent::ApiOnly => None,
            Extent::Full => Some((Tool::ControllerManager.binary()?, Tool::Scheduler.binary()?)),
        };
        Ok(Self { etcd, apiserver, clients })
    }
}

/// The keys and certificates of the control plane's own programs.
struct Keys {
    pki: Pki,
    serving: Identity,
    admin: Identity,
    kubelet_client: Identity,
    service_account: KeyFiles,
}

impl Keys {
    fn create(dir: &Path) -> Result<Self> {
        let pki = Pki::create(&dir.join("pki"))?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        let addresses = [std::net::Ipv4Addr::LOCALHOST, HOST_FROM_GUEST, SERVICE_ADDRESS];
        Ok(Self {
            serving: pki.server("kube-apiserver", &names, &addresses)?,
            admin: pki.client("admin", "netloss-lab-admin", "system:masters")?,
            kubelet_client: pki.client("kubelet-client", "kube-apiserver", "system:masters")?,
            service_account: pki.service_account_key()?,
            pki,
        })
    }
}

/// etcd and kube-apiserver on ports that were free a moment ago.
struct Servers {
    apiserver: Daemon,
    etcd: Daemon,
    apiserver_command: Command,
    etcd_command: Command,
    port: u16,
    kubeconfig: PathBuf,
}

impl Servers {
    async fn start(programs: &Programs, keys: &Keys, dir: &Path, extent: Extent, lifetime: Lifetime) -> Result<Self> {
        let ports = Ports { etcd: ports::free()?, etcd_peer: ports::free()?, apiserver: ports::free()? };
        let files = flags::ServerFiles {
            ca: &keys.pki.ca_file(),
            serving: &keys.serving,
            kubelet_client: &keys.kubelet_client,
            service_account_key: &keys.service_account,
        };
        let data = dir.join("etcd");
        if data.exists() {
            // An earlier attempt's: etcd keeps its peer address in there.
            std::fs::remove_dir_all(&data)?;
        }
        let etcd_command = flags::etcd(&programs.etcd, &data, ports);
        let etcd = Daemon::start(Tool::Etcd.name(), &etcd_command, &log_in(dir, Tool::Etcd), lifetime)?;
        let apiserver_command = flags::apiserver(&programs.apiserver, ports, &files, extent == Extent::Full);
        let apiserver = Daemon::start(Tool::Apiserver.name(), &apiserver_command, &log_in(dir, Tool::Apiserver), lifetime)?;
        let kubeconfig = dir.join(KUBECONFIG);
        let server = format!("https://127.0.0.1:{}", ports.apiserver);
        std::fs::write(&kubeconfig, self::kubeconfig(&server, &keys.pki, &keys.admin))?;
        wait_ready(&kubeconfig, &[&etcd, &apiserver]).await?;
        Ok(Self { apiserver, etcd, apiserver_command, etcd_command, port: ports.apiserver, kubeconfig })
    }
}

async fn wait_ready(kubeconfig: &Path, daemons: &[&Daemon]) -> Result<()> {
    let client = client(kubeconfig).await?;
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let asked = http::Request::get("/readyz").body(Vec::new()).context("cannot make a request")?;
        let answer = client.request_text(asked).await;
        if matches!(&answer, Ok(text) if text == "ok") {
            return Ok(());
        }
        daemons.iter().try_for_each(|daemon| daemon.ensure_running())?;
        if Instant::now() > deadline {
            let logs: Vec<String> = daemons.iter().map(|daemon| daemon.log_tail(20)).collect();
            bail!("the API server is not ready after {} s: {answer:?}\n{}", READY_LIMIT.as_secs(), logs.join("\n"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn log_in(dir: &Path, tool: Tool) -> PathBuf {
    dir.join(format!("{}.log", tool.name()))
}
