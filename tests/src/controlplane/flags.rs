//! The command lines of the control plane's programs.

use std::path::Path;
use std::process::Command;

use super::Ports;
use super::pki::{Identity, KeyFiles};

/// The range of service addresses; its first one is [`SERVICE_ADDRESS`](super::pki::SERVICE_ADDRESS).
const SERVICES: &str = "10.96.0.0/16";

/// The controllers without which a Deployment does not become pods, a namespace does not go away and a pod has no service
/// account. The rest would cost processor time that the node VM needs.
const CONTROLLERS: &[&str] = &[
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
];

/// The files that the API server reads its keys and certificates from.
pub(super) struct ServerFiles<'a> {
    pub(super) ca: &'a Path,
    pub(super) serving: &'a Identity,
    pub(super) kubelet_client: &'a Identity,
    pub(super) service_account_key: &'a KeyFiles,
}

/// etcd, which forgets everything with its folder and need not wait for the disk.
pub(super) fn etcd(program: &Path, data: &Path, ports: Ports) -> Command {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    let mut command = Command::new(program);
    command.arg(format!("--data-dir={}", data.display())).args([
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]);
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    command
}

/// kube-apiserver. Without controllers nothing makes service accounts, so none are asked of pods then.
pub(super) fn apiserver(program: &Path, ports: Ports, files: &ServerFiles<'_>, controllers: bool) -> Command {
    let mut command = Command::new(program);
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    command.args([
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--secure-port={}", ports.apiserver),
        format!("--service-cluster-ip-range={SERVICES}"),
        file("client-ca-file", files.ca),
        file("tls-cert-file", &files.serving.certificate_file),
        file("tls-private-key-file", &files.serving.key_file),
        file("kubelet-certificate-authority", files.ca),
        file("kubelet-client-certificate", &files.kubelet_client.certificate_file),
        file("kubelet-client-key", &files.kubelet_client.key_file),
        file("service-account-key-file", &files.service_account_key.public),
        file("service-account-signing-key-file", &files.service_account_key.private),
    ]);
    command.args([
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        // The service `kubernetes` would otherwise get the loopback address as its endpoint, which the API refuses.
        "--endpoint-reconciler-type=none",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--allow-privileged=true",
        // A node in a VM is reached by its host name, through a port that QEMU forwards.
        "--kubelet-preferred-address-types=Hostname",
        "--profiling=false",
    ]);
    if !controllers {
        command.arg("--disable-admission-plugins=ServiceAccount");
    }
    command
}

/// kube-controller-manager, alone and therefore without leader election.
pub(super) fn controller_manager(program: &Path, kubeconfig: &Path, ca: &Path, service_account_key: &KeyFiles) -> Command {
    let mut command = Command::new(program);
    command.args([
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-ca-file={}", ca.display()),
        format!("--service-account-private-key-file={}", service_account_key.private.display()),
        format!("--controllers={}", CONTROLLERS.join(",")),
    ]);
    command.args(["--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1", "--profiling=false"]);
    command
}

/// kube-scheduler, alone and therefore without leader election.
pub(super) fn scheduler(program: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("--kubeconfig={}", kubeconfig.display()));
    command.args(["--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1", "--profiling=false"]);
    command
}
