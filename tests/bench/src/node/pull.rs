//! From the pull of an image to the first packet lost: what a pod waits for on a node that has not had the image yet.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use netloss_lab::cluster::{Architecture, Image, build_images};
use netloss_lab::controlplane::HOST_FROM_GUEST;
use netloss_lab::host::needs::Needs;
use netloss_lab::host::process::{Daemon, Lifetime};
use netloss_lab::host::{command, ports, runtime};
use netloss_lab::kernel::Tools;
use netloss_lab_measure::{Bound, Comparison};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{BATCH, Field, Target};
use crate::{Report, Size, machine};

const NEEDS: Needs = Needs::new("registry", include_str!("registry.needs"));

const OURS: &str = "agent";
const THEIRS: &str = "busybox + iproute2";

/// What an image with iproute2 would run, by ADR 0007.
const SHELL: &str = "/usr/bin/tc qdisc add dev eth0 root netem loss 100% && exec /usr/bin/busybox sleep 600";

/// Where containerd looks up how it reaches a registry (`tests/node/containerd.toml`).
const REGISTRIES: &str = "/run/registries";

pub(crate) fn measure(size: Size) -> Result<Report> {
    let comparisons = runtime::run(measured(size.pick(24, 2)))?;
    Ok(Report {
        name: "pull".to_owned(),
        title: "Pull to applied".to_owned(),
        about: "On a node in a virtual machine, from when containerd begins to pull an image that it has never had until the first packet of the pod \
                is lost, with a packet every 5 ms. The images are the agent's and one of Debian's busybox-static, `ip` and `tc`, which runs \
                `tc qdisc add dev eth0 root netem loss 100%`; each sample pulls one whose layer differs by the time of its files, from Debian's \
                docker-registry on the machine that the virtual one runs on. So the way is as short as it can be, and unpacking the most of the pull."
            .to_owned(),
        command: "tests/lab bench pull".to_owned(),
        machine: "Debian 13 with containerd, emulated by QEMU (TCG) with 2 processors".to_owned(),
        comparisons,
    })
}

async fn measured(times: usize) -> Result<Vec<Comparison>> {
    let iproute2 = spawn_blocking(|| Tools::prepare(machine::KERNEL)).await??.iproute2();
    let agent = spawn_blocking(|| build_images(&[Image::Agent], &[Architecture::Amd64])).await??.pop().context("no image of the agent")?;
    let field = Field::start(&[Image::Traffic]).await?;
    let images = [(THEIRS, Made::Root(iproute2)), (OURS, Made::Archive(agent))];
    let [theirs, ours] = field.cluster.check("bench-pull", samples(&field, &images, times)).await?;
    let compare = |what: &str, of: &dyn Fn(&[f64; 2]) -> f64| {
        let milliseconds = |samples: &[[f64; 2]]| samples.iter().map(|sample| of(sample) * 1e3).collect::<Vec<_>>();
        let comparison = Comparison::new(what, "ms").variant(THEIRS, milliseconds(&theirs)).variant(OURS, milliseconds(&ours));
        comparison.ratio(OURS, THEIRS, Bound::AtMost(1.0), None)
    };
    Ok(vec![compare("pull to first packet lost", &|[_, all]| *all), compare("the pull alone", &|[pull, _]| *pull)])
}

/// Of each image so many times: what its pull took, and what until a packet was lost, in seconds.
async fn samples(field: &Field, images: &[(&str, Made); 2], times: usize) -> Result<[Vec<[f64; 2]>; 2]> {
    let registry = Registry::start(field.cluster.control_plane().dir())?;
    let address = format!("{HOST_FROM_GUEST}:{}", registry.port);
    field
        .on_node(&format!(r#"mkdir -p {REGISTRIES}/{address}; echo '[host."http://{address}"]' >{REGISTRIES}/{address}/hosts.toml"#))
        .await?;
    let mut samples = [const { Vec::new() }; 2];
    let mut number = 0;
    // The first batch shows the node what is to come.
    while samples.iter().any(|samples| samples.len() < times) {
        let targets = field.targets(&format!("from{number}"), BATCH.min(2 * times)).await?;
        for pair in targets.chunks_exact(2) {
            for ((target, (name, made)), samples) in pair.iter().zip(images).zip(&mut samples) {
                println!("{} {name}", target.name);
                registry.push(made, &target.name, number)?;
                let sample = field.pull(target, *name == OURS, &format!("{address}/{}:latest", target.name)).await?;
                if number >= BATCH.min(2 * times) {
                    samples.push(sample);
                }
                number += 1;
            }
        }
        field.remove_targets().await?;
    }
    Ok(samples)
}

impl Field {
    /// Puts a container of that image into a pod. Returns how long the pull took, and how long until a packet was lost.
    async fn pull(&self, target: &Target, is_agent: bool, image: &str) -> Result<[f64; 2]> {
        self.watch(target).await?;
        let process = if is_agent {
            json!({ "args": ["run", "--loss=100", "--direction=egress", "--ttl=10m"] })
        } else {
            json!({ "command": ["/usr/bin/busybox", "sh", "-c", SHELL] })
        };
        let mut container = json!({
            "name": "loss", "image": image, "imagePullPolicy": "Always",
            "securityContext": { "runAsUser": 0, "runAsNonRoot": false, "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] } },
        });
        if let (Value::Object(container), Value::Object(process)) = (&mut container, process) {
            container.extend(process);
        }
        let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
        self.pods().patch_ephemeral_containers(&target.name, &PatchParams::default(), &patch).await?;
        let lost = self.change(0.0, false).await?;
        let [begun, pulled] = self.containerd().await?.pull(image)?;
        self.end_watch().await?;
        Ok([pulled - begun, lost - begun])
    }
}

/// What an image is made from.
enum Made {
    /// The files below this folder.
    Root(PathBuf),
    /// An archive.
    Archive(PathBuf),
}

/// Debian's registry, and what puts images there.
struct Registry {
    port: u16,
    folder: PathBuf,
    _daemon: Daemon,
}

impl Registry {
    fn start(folder: &Path) -> Result<Self> {
        let program = NEEDS.unpacked("docker-registry", "usr/bin/docker-registry")?;
        let (port, folder) = (ports::free()?, folder.join("registry"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        let configuration = folder.join("config.yml");
        let storage = folder.join("storage");
        let text = json!({
            "version": 0.1,
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": storage } },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        std::fs::write(&configuration, text.to_string())?;
        let log = folder.join("registry.log");
        let daemon = Daemon::start("the registry", Command::new(program).arg("serve").arg(&configuration), &log, Lifetime::WithLab)?;
        Ok(Self { port, folder, _daemon: daemon })
    }

    fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.arg("--root").arg(self.folder.join("containers")).arg("--runroot").arg(self.folder.join("run"));
        buildah.args(["--storage-driver", "vfs"]);
        buildah
    }

    /// Puts an image there whose layer no other has.
    fn push(&self, made: &Made, name: &str, number: usize) -> Result<()> {
        let policy = self.folder.join("policy.json");
        let mut from = self.buildah();
        from.arg("from").arg("--signature-policy").arg(&policy);
        let container = match made {
            Made::Root(_) => command::output(from.arg("scratch"))?,
            Made::Archive(file) => command::output(from.arg("--quiet").arg(format!("docker-archive:{}", file.display())))?,
        };
        let container = container.trim();
        if let Made::Root(root) = made {
            command::run(self.buildah().args(["copy", "--quiet", container]).arg(root).arg("/"))?;
        }
        let mut commit = self.buildah();
        // The time goes into the layer.
        commit.args(["commit", "--quiet", "--squash", "--rm", "--format", "oci", "--tls-verify=false", "--timestamp", &number.to_string()]);
        commit.arg("--signature-policy").arg(&policy).arg(container).arg(format!("docker://127.0.0.1:{}/{name}:latest", self.port));
        command::run(&mut commit)
    }
}
