//! What a cluster looked like when something failed, written to files.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cluster;
use crate::controlplane::Tool;
use crate::host::{paths, process};

/// As many lines of a log as still can be read.
const LOG_LINES: usize = 500;

/// What the node is asked for, by file name.
const NODE: [(&str, &str); 4] = [
    ("node-containerd.log", "tail -n 500 /run/containerd.log"),
    ("node-kubelet.log", "tail -n 500 /run/kubelet.log"),
    ("node-kernel.log", "dmesg 2>/dev/null || busybox dmesg"),
    // busybox's shell would run its own tc.
    (
        "node-networks.txt",
        r#"ip -brief address; /usr/sbin/tc -s qdisc; nft list ruleset
ctr --namespace k8s.io containers list
ctr --namespace k8s.io tasks list | while read -r id pid state; do
  case $pid in *[!0-9]*|"") continue ;; esac
  echo "== task $id (pid $pid, $state)"
  nsenter --target "$pid" --net -- sh -c "ip -details address; /usr/sbin/tc -s qdisc; /usr/sbin/tc filter show dev eth0 ingress; nft list ruleset"
done"#,
    ),
];

pub(super) async fn write(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let folder = paths::lab_dir().join("dumps").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for tool in [Tool::Etcd, Tool::Apiserver, Tool::ControllerManager, Tool::Scheduler] {
        let log = cluster.control_plane().log(tool);
        fs::write(folder.join(format!("{}.log", tool.name())), process::tail(&log, LOG_LINES))?;
    }
    fs::write(folder.join("node-console.log"), process::tail(cluster.node().console(), LOG_LINES))?;
    for (file, script) in NODE {
        let text = match cluster.node().run(script).await {
            Ok(answer) => answer.output,
            Err(error) => format!("{error:#}\n"),
        };
        fs::write(folder.join(file), text)?;
    }
    // The API server may be what is broken.
    if let Err(error) = objects(cluster, &folder).await {
        fs::write(folder.join("objects-are-missing.txt"), format!("{error:#}\n"))?;
    }
    Ok(folder)
}

async fn objects(cluster: &Cluster, folder: &Path) -> Result<()> {
    let client = cluster.client().await?;
    list::<Event>(&Api::all(client.clone()), &folder.join("events.json")).await?;
    let experiments = ApiResource::from_gvk(&GroupVersionKind::gvk("chaos.gushchin.dev", "v1alpha1", "ChaosExperiment"));
    list::<DynamicObject>(&Api::all_with(client.clone(), &experiments), &folder.join("experiments.json")).await.ok();
    let pods = list::<Pod>(&Api::all(client.clone()), &folder.join("pods.json")).await?;
    for pod in pods {
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let spec = pod.spec.clone().unwrap_or_default();
        let ephemeral = spec.ephemeral_containers.unwrap_or_default().into_iter().map(|container| container.name);
        for container in spec.containers.into_iter().map(|container| container.name).chain(ephemeral) {
            let parameters = LogParams { container: Some(container.clone()), tail_lines: Some(500), ..LogParams::default() };
            let text = api.logs(&pod.name_any(), &parameters).await.unwrap_or_else(|error| format!("{error}\n"));
            let file = format!("pod-{}-{}-{container}.log", pod.namespace().unwrap_or_default(), pod.name_any());
            fs::write(folder.join(file), text)?;
        }
    }
    Ok(())
}

async fn list<K>(api: &Api<K>, file: &Path) -> Result<Vec<K>>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    let items = api.list(&ListParams::default()).await?.items;
    fs::write(file, serde_json::to_vec_pretty(&items)?)?;
    Ok(items)
}
