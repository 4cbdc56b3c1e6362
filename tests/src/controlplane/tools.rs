//! The programs of a control plane and a node, built as Go modules from `tests/controlplane/go.mod`.
//!
//! No registry that this project may rely on has them ready-made, and a build from the module proxy pins them to the byte by
//! `go.sum`. Each is built once and kept under target, keyed by all that went into it.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::go::Go;
use crate::host::{cache, paths, progress};

/// Where other tools of this field (setup-envtest, controller-runtime) put and look for these binaries.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

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
    /// For the person at the keyboard; the lab itself speaks to the API server directly.
    Kubectl,
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
            Self::Kubectl => "kubectl",
        }
    }

    fn package(self) -> String {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3".to_owned(),
            _ => format!("k8s.io/kubernetes/cmd/{}", self.name()),
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
        let go = Go::find()?;
        let module = paths::workspace_root().join("tests/controlplane");
        let read = |name| std::fs::read_to_string(module.join(name)).with_context(|| format!("cannot read {name}"));
        let manifest = read("go.mod")?;
        let flags = linker_flags(&manifest)?;
        let inputs = [manifest.as_str(), &read("go.sum")?, &go.version, &flags];
        let dir = cache::entry(self.name(), &inputs, |dir| build(&go, self, &module, &flags, &dir.join(self.name())))?;
        Ok(dir.join(self.name()))
    }
}

fn build(go: &Go, tool: Tool, module: &Path, flags: &str, output: &Path) -> Result<()> {
    let step = progress::step(format!("Building {}", tool.name()));
    let mut command = go.command();
    command.args(["build", "-v", "-trimpath", "-ldflags", flags, "-o"]).arg(output).arg(tool.package()).current_dir(module);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start go")?;
    // With -v, go names each package on stderr as it compiles it, and what it downloads before that.
    let mut lines = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("cannot read what go says")?;
            step.detail(format!("{} ({line})", lines.len()));
            lines.push(line);
        }
    }
    let status = child.wait().context("cannot wait for go")?;
    if !status.success() {
        bail!("go build of {} failed: {status}\n{}", tool.package(), lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    step.done("");
    Ok(())
}

/// The version is stamped in as Kubernetes's own build does: the API server reports it, and components compare theirs.
fn linker_flags(manifest: &str) -> Result<String> {
    let version = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")?.split_whitespace().next())
        .context("go.mod requires no k8s.io/kubernetes")?;
    let minor = version.split('.').nth(1).with_context(|| format!("{version} has no minor version"))?;
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [("gitVersion", version), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "clean")] {
            write!(flags, " -X {package}.{name}={value}")?;
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_go_mod_pins() {
        let flags = linker_flags("require (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n").unwrap();
        assert!(flags.contains("k8s.io/component-base/version.gitVersion=v1.37.2"), "{flags}");
        assert!(flags.contains("k8s.io/client-go/pkg/version.gitMinor=37"), "{flags}");
        assert!(linker_flags("module x\n").is_err());
    }
}
