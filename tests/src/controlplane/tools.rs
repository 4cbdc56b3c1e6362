//! The programs of a control plane, of a node and of a user, built as Go modules (`tests/controlplane`, `tests/helm`).
//!
//! No registry that this project may rely on has them ready-made, and a build from the module proxy pins them to the byte by
//! `go.sum`. Each is built once and kept under target, keyed by all that went into it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::modules::Module;

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
            Self::Floor => Module::Floor.built(Tool::Apiserver.name(), &Tool::Apiserver.package()),
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

    fn package(self) -> String {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3".to_owned(),
            Self::Helm => "helm.sh/helm/v4/cmd/helm".to_owned(),
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok".to_owned(),
            _ => format!("k8s.io/kubernetes/cmd/{}", self.name()),
        }
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
        if let Some(path) = std::env::var_os(ASSETS).map(|dir| Path::new(&dir).join(self.name())).filter(|path| path.is_file()) {
            return Ok(path);
        }
        self.module().built(self.name(), &self.package())
    }
}
