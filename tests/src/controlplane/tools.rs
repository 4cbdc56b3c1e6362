//! The programs of a control plane, of a node and of a user, built as Go modules (`tests/controlplane`, `tests/helm`).
//!
//! No registry that this project may rely on has them ready-made, and a build from the module proxy pins them to the byte by
//! `go.sum`. Each is built once and kept under target, keyed by all that went into it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::modules::{Module, Program};

/// Where other tools of this field (setup-envtest, controller-runtime) put and look for these binaries.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// A release of Kubernetes whose API server the lab can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The newest that is known, of which all other programs are too.
    Newest,
    /// The oldest that netloss supports.
    Floor,
}

impl Release {
    /// The path of its API server.
    pub(super) fn apiserver(self) -> Result<PathBuf> {
        match self {
            Self::Newest => Tool::Apiserver.binary(),
            Self::Floor => one(Module::Floor.built(&[Tool::Apiserver.program()])?),
        }
    }
}

/// One program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The store.
    Etcd,
    /// The API server.
    Apiserver,
    /// Deployments, namespaces, service accounts and their like come to life through it.
    ControllerManager,
    /// Gives pods their nodes.
    Scheduler,
    /// The node's agent.
    Kubelet,
    /// Plays nodes, and the life of pods on them, where a thousand are needed.
    Kwok,
    /// For the person at the keyboard, and for tests of what that person is told to type; the lab itself speaks to the API server
    /// directly.
    Kubectl,
    /// The other way in which a person installs things.
    Helm,
}

impl Tool {
    /// Those of a cluster with a node.
    pub const OF_A_CLUSTER: [Self; 5] = [Self::Etcd, Self::Apiserver, Self::ControllerManager, Self::Scheduler, Self::Kubelet];

    /// The name of its binary.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Kwok => "kwok",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
        }
    }

    fn program(self) -> Program {
        let package = match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::Apiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::ControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Scheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
        };
        Program { name: self.name(), package }
    }

    fn module(self) -> Module {
        match self {
            Self::Helm => Module::Helm,
            _ => Module::ControlPlane,
        }
    }

    /// The path of its binary: from `KUBEBUILDER_ASSETS` if it is there, otherwise built unless it already was.
    ///
    /// # Errors
    ///
    /// If it has to be built and that fails.
    pub fn binary(self) -> Result<PathBuf> {
        self.asset().map_or_else(|| one(self.module().built(&[self.program()])?), Ok)
    }

    /// Builds those that are missing, all of one module at once.
    ///
    /// # Errors
    ///
    /// If one cannot be built.
    pub fn build(tools: &[Self]) -> Result<()> {
        for module in [Module::ControlPlane, Module::Helm] {
            let missing = tools.iter().filter(|tool| tool.module() == module && tool.asset().is_none());
            let programs: Vec<Program> = missing.map(|tool| tool.program()).collect();
            if !programs.is_empty() {
                module.built(&programs)?;
            }
        }
        Ok(())
    }

    /// Whether all of these are there, so that nothing has to be built.
    ///
    /// # Errors
    ///
    /// If there is no Go toolchain, or a module cannot be read.
    pub fn are_built(tools: &[Self]) -> Result<bool> {
        let missing = tools.iter().filter(|tool| tool.asset().is_none());
        missing.map(|tool| tool.module().has(tool.program())).try_fold(true, |all, has| Ok(all && has?))
    }

    /// Its file in `KUBEBUILDER_ASSETS`.
    fn asset(self) -> Option<PathBuf> {
        std::env::var_os(ASSETS).map(|dir| Path::new(&dir).join(self.name())).filter(|path| path.is_file())
    }
}

fn one(mut paths: Vec<PathBuf>) -> Result<PathBuf> {
    paths.pop().context("nothing was built")
}
