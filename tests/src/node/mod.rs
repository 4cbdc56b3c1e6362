//! A real node: containerd and the kubelet in a virtual machine with a Debian kernel.
//!
//! The machine that the lab runs on is no node: its kernel may lack netem, and a kubelet would take over its mounts and
//! cgroups. The VM's root file system is nothing but Debian packages and is made once; everything else (configuration,
//! kubelet, keys, images) comes on a second disk that is made for each start, so a new build of the agent costs no new system.

mod disk;
mod monitor;
mod rootfs;
mod shell;
mod vm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

pub use self::shell::{Answer, Shell};
use self::vm::Vm;
use crate::controlplane::{ControlPlane, Tool};
use crate::host::needs::Needs;
use crate::host::ports;
use crate::host::process::{Daemon, Lifetime};
use crate::host::progress::{self, Step};

const NEEDS: Needs = Needs::new("node", include_str!("node.needs"));

/// The node's name. The API server reaches a kubelet under its node's name, and this one's port is forwarded from loopback.
pub const NAME: &str = "localhost";

/// Half a minute on an idle machine; the emulator shares two cores with builds.
const READY_LIMIT: Duration = Duration::from_mins(6);

/// The last that the node's init does.
const UNTIL_IMPORTED: &str = "until [ -e /run/images-imported ]; do sleep 0.2; done";

/// How often a VM is started until that counts as a failure.
const BOOTS: u32 = 3;

/// What a node is started from, found or made before it is needed.
#[derive(Debug, Clone)]
pub struct Parts {
    system: rootfs::System,
    kubelet: PathBuf,
}

impl Parts {
    /// Builds or finds everything that a node needs except images.
    ///
    /// # Errors
    ///
    /// If a program is missing, or something cannot be fetched or built.
    pub fn prepare() -> Result<Self> {
        NEEDS.require()?;
        let system = rootfs::prepare()?;
        // With the programs of the control plane, so that Go compiles what they share once.
        Tool::build(&Tool::OF_A_CLUSTER)?;
        Ok(Self { system, kubelet: Tool::Kubelet.binary()? })
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    vm: Vm,
}

impl Node {
    /// Boots a node that joins `control_plane`, with these image archives in its store, and waits until it is Ready. A VM that ends on its
    /// own is started again: the emulated kernel was seen to panic while it changed its own code.
    ///
    /// # Errors
    ///
    /// If it does not become Ready; the message holds the end of its console.
    pub async fn start(parts: &Parts, control_plane: &ControlPlane, images: &[PathBuf], lifetime: Lifetime) -> Result<Self> {
        let mut boot = 1;
        loop {
            let step = progress::step("Booting a node");
            let mut node = Self::boot(parts, control_plane, images, lifetime, boot).await?;
            match node.wait_until_ready(control_plane, &step).await? {
                Ok(()) => return node.import_images(step).await,
                Err(ended) if boot < BOOTS => progress::note(format!("the node is started again: {ended:#}")),
                Err(ended) => return Err(ended),
            }
            boot += 1;
        }
    }

    async fn boot(parts: &Parts, control_plane: &ControlPlane, images: &[PathBuf], lifetime: Lifetime, boot: u32) -> Result<Self> {
        let disk = disk::Contents {
            kubelet: parts.kubelet.clone(),
            kubelet_port: ports::free()?,
            api_port: control_plane.port(),
            identity: disk::Identity::issue(control_plane)?,
            images: images.to_vec(),
        };
        let (system, dir) = (parts.system.clone(), control_plane.dir().join(format!("node-{boot}")));
        spawn_blocking(move || -> Result<Self> {
            disk.write(&dir)?;
            Ok(Self { vm: Vm::start(system, dir, disk.kubelet_port, lifetime)? })
        })
        .await?
    }

    /// Waits until the kubelet says that it is Ready; the inner error is that the VM has ended.
    async fn wait_until_ready(&mut self, control_plane: &ControlPlane, step: &Step) -> Result<Result<()>> {
        let nodes: Api<NodeObject> = Api::all(control_plane.client().await?);
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            control_plane.ensure_running()?;
            if let Err(ended) = self.vm.ensure_running() {
                return Ok(Err(ended));
            }
            // What the node still misses is the best word on how far it is.
            match nodes.get_opt(NAME).await? {
                None => step.detail("waiting for the kubelet"),
                Some(object) => match why_not_ready(&object) {
                    Some(reason) => step.detail(reason),
                    None => return Ok(Ok(())),
                },
            }
            if Instant::now() > deadline {
                bail!("the node is not Ready after {} s\n{}", READY_LIMIT.as_secs(), self.process().log_tail(40));
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn import_images(self, step: Step) -> Result<Self> {
        step.detail("importing images");
        let imported = format!("{UNTIL_IMPORTED}; ! grep 'cannot import' /run/images.log");
        let answer = self.run_within(&imported, Duration::from_mins(2)).await?;
        if !answer.success() {
            bail!("the node could not import its images: {}", answer.output);
        }
        step.done(format!("{NAME} is Ready"));
        Ok(self)
    }

    /// Runs a shell script on the node, as root, and returns its status and what it printed.
    ///
    /// # Errors
    ///
    /// If the node does not answer. A script that fails is no error.
    pub async fn run(&self, script: &str) -> Result<Answer> {
        self.run_within(script, Duration::from_secs(30)).await
    }

    /// The same with another time limit, after which the node kills the script.
    ///
    /// # Errors
    ///
    /// If the node does not answer. A script that fails is no error.
    pub async fn run_within(&self, script: &str, limit: Duration) -> Result<Answer> {
        let (shell, script) = (self.vm.shell(), script.to_owned());
        spawn_blocking(move || shell.run(&script, limit)).await?
    }

    /// Runs a command in the network namespace of a pod.
    ///
    /// # Errors
    ///
    /// If the pod has no sandbox on this node, or the command fails.
    pub async fn run_in_pod_network(&self, namespace: &str, pod: &str, command: &str) -> Result<String> {
        self.run_with_sandbox(namespace, pod, &format!(r#"exec nsenter --target "$pid" --net -- {command}"#)).await
    }

    /// Kills the process that holds a pod's sandbox, and so its network.
    ///
    /// # Errors
    ///
    /// If the pod has no sandbox on this node.
    pub async fn kill_sandbox(&self, namespace: &str, pod: &str) -> Result<()> {
        self.run_with_sandbox(namespace, pod, r#"kill -KILL "$pid""#).await.map(drop)
    }

    /// Runs a script for each process of netloss's agent in runs of an experiment, `$pid` being the process. Returns how many there
    /// were: also what stops or repairs is an agent.
    ///
    /// # Errors
    ///
    /// If the node does not answer.
    pub async fn for_each_agent(&self, experiment_uid: &str, script: &str) -> Result<usize> {
        // One process looks at all of them: on an emulated node one for each takes longer than a run. No shell may have the words in its own arguments.
        let script = format!(
            r#"for file in $(busybox grep -l -e "--run=[{first}]{rest}/" /proc/[0-9]*/cmdline 2>/dev/null); do
                folder=${{file%/cmdline}}; pid=${{folder#/proc/}}
                case $(busybox readlink "$folder/exe") in */netloss-agent) {script}; echo "agent $pid" ;; esac
            done"#,
            first = &experiment_uid[..1],
            rest = &experiment_uid[1..],
        );
        // The emulator takes its time for each process.
        let answer = self.run_within(&script, Duration::from_mins(2)).await?;
        Ok(answer.output.lines().filter(|line| line.starts_with("agent ")).count())
    }

    /// Resets the machine, as a loss of power does, and waits until its shell answers again. The disk keeps what was written to it.
    ///
    /// # Errors
    ///
    /// If the emulator refuses, or the machine does not come up.
    pub async fn reset(&self) -> Result<()> {
        let (shell, dir) = (self.vm.shell(), self.vm.dir().to_owned());
        spawn_blocking(move || shell.between_requests(|| monitor::reset(&dir))).await??;
        // A request is kept until somebody reads it.
        let answer = self.run_within(UNTIL_IMPORTED, Duration::from_mins(5)).await?;
        if !answer.success() {
            bail!("the node does not come up after a reset\n{}", self.process().log_tail(40));
        }
        monitor::end_on_reset(self.vm.dir())
    }

    /// Runs a script to which `$pid` is the process of a pod's sandbox.
    async fn run_with_sandbox(&self, namespace: &str, pod: &str, script: &str) -> Result<String> {
        // containerd keeps a folder for each task; the sandbox's process lives in the pod's network namespace. One that was replaced has no process any more, or
        // (after containerd was killed) one without a network, or its number is another's by now: the newest one with a network of its own counts. Asking
        // containerd itself would cost the emulator a second of its time.
        let find = format!(
            r#"cd /run/containerd/io.containerd.runtime.v2.task/k8s.io || exit 1
is_apart() {{ [ -d "/proc/$1" ] && [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/1/ns/net)" ]; }}
pid=$(grep -l '"io.kubernetes.cri.container-type": *"sandbox"' */config.json |
    xargs -r grep -l '"io.kubernetes.cri.sandbox-name": *"{pod}"' |
    xargs -r grep -l '"io.kubernetes.cri.sandbox-namespace": *"{namespace}"' |
    xargs -r ls -tr |
    while read -r config; do pid=$(cat "${{config%/*}}/init.pid") && is_apart "$pid" && echo "$pid"; done | tail -n 1)
[ -n "$pid" ] || {{ echo "no sandbox of {namespace}/{pod}"; exit 1; }}
{script}"#
        );
        let answer = self.run(&find).await?;
        if !answer.success() {
            bail!("`{script}` for {namespace}/{pod} failed ({}): {}", answer.status, answer.output);
        }
        Ok(answer.output)
    }

    /// The node's clock, in seconds since the Unix epoch: an emulated one is not the lab's to the millisecond.
    ///
    /// # Errors
    ///
    /// If the node does not answer.
    pub async fn clock(&self) -> Result<f64> {
        let answer = self.run("date +%s.%N").await?;
        answer.output.trim().parse().with_context(|| format!("not a time: {}", answer.output))
    }

    /// The VM's process, for tests that stop or kill the whole node.
    #[must_use]
    pub fn process(&self) -> &Daemon {
        self.vm.process()
    }

    /// Where the VM's console is written.
    #[must_use]
    pub fn console(&self) -> &Path {
        self.vm.process().log()
    }

    /// Leaves the VM running when this value goes.
    pub fn release(&mut self) {
        self.vm.process_mut().release();
    }
}

/// What a node's Ready condition says while it is not true.
fn why_not_ready(node: &NodeObject) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"));
    match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(condition.message.clone().unwrap_or_else(|| "not Ready".into())),
        None => Some("registered".into()),
    }
}
