//! The lab's own Go modules: each pins some programs, and all that goes into them, by its `go.mod` and `go.sum`.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::go::Go;
use crate::host::{cache, paths, progress};

/// A folder with a `go.mod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    /// Kubernetes and its store.
    ControlPlane,
    /// The API server of the oldest Kubernetes that netloss supports.
    Floor,
    /// Helm. In one module with Kubernetes, either would decide the versions of what both use.
    Helm,
}

/// What `-s -w` strips later need not be compiled: a sixth of the processor time of a build, and the same binaries.
const COMPILER_FLAGS: &str = "-gcflags=all=-dwarf=false";

/// One program of a module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    /// The name that it is kept under.
    pub(super) name: &'static str,
    /// The package that is its `main`.
    pub(super) package: &'static str,
}

impl Program {
    /// The name that `go build` gives it: the package's last element that is no major version.
    fn output(self) -> &'static str {
        let is_version = |element: &&str| element.strip_prefix('v').is_some_and(|digits| digits.chars().all(|c| c.is_ascii_digit()));
        self.package.rsplit('/').find(|element| !is_version(element)).unwrap_or(self.package)
    }
}

impl Module {
    fn folder(self) -> PathBuf {
        let name = match self {
            Self::ControlPlane => "tests/controlplane",
            Self::Floor => "tests/controlplane/floor",
            Self::Helm => "tests/helm",
        };
        paths::workspace_root().join(name)
    }

    /// Whether a program has been built.
    pub(super) fn has(self, program: Program) -> Result<bool> {
        Ok(self.recipe()?.find(program).is_some())
    }

    /// The paths of programs, in the order in which they are named. Those that are missing are built by one `go build`: it compiles what
    /// they share once, and no core is idle until the last of them is linked.
    pub(super) fn built(self, programs: &[Program]) -> Result<Vec<PathBuf>> {
        let recipe = self.recipe()?;
        let missing = || programs.iter().copied().filter(|program| recipe.find(*program).is_none()).collect::<Vec<_>>();
        if !missing().is_empty() {
            let _lock = cache::lock(&format!("go-{self:?}"))?;
            // Somebody else may have built them meanwhile.
            recipe.build(&missing(), &self.folder())?;
        }
        let path = |program: &Program| recipe.find(*program).with_context(|| format!("{} was not built", program.name));
        programs.iter().map(path).collect()
    }

    /// What programs of this module are made from.
    fn recipe(self) -> Result<Recipe> {
        let read = |name| std::fs::read_to_string(self.folder().join(name)).with_context(|| format!("cannot read {name}"));
        let manifest = read("go.mod")?;
        let linker_flags = self.linker_flags(&manifest)?;
        Ok(Recipe { go: Go::find()?, sum: read("go.sum")?, manifest, linker_flags, tags: self.tags() })
    }

    /// Build tags. Without this one, a third of what the old API server is made of would be the clients of one cloud provider.
    fn tags(self) -> Option<&'static str> {
        (self == Self::Floor).then_some("providerless")
    }

    /// The version is stamped in as the project's own build does: the API server reports it, and components compare theirs.
    fn linker_flags(self, manifest: &str) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        match self {
            Self::ControlPlane | Self::Floor => {
                let version = required(manifest, "k8s.io/kubernetes")?;
                let minor = version.split('.').nth(1).with_context(|| format!("{version} has no minor version"))?;
                for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                    for (name, value) in [("gitVersion", version), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "clean")] {
                        write!(flags, " -X {package}.{name}={value}")?;
                    }
                }
            }
            Self::Helm => {
                let module = "helm.sh/helm/v4";
                for (name, value) in [("version", required(manifest, module)?), ("gitTreeState", "clean")] {
                    write!(flags, " -X {module}/internal/version.{name}={value}")?;
                }
            }
        }
        Ok(flags)
    }
}

/// All that goes into the programs of a module.
struct Recipe {
    go: Go,
    manifest: String,
    sum: String,
    linker_flags: String,
    tags: Option<&'static str>,
}

impl Recipe {
    /// What the name of a program's cache entry is made from.
    fn inputs(&self) -> Vec<&str> {
        [self.manifest.as_str(), &self.sum, &self.go.version, &self.linker_flags, COMPILER_FLAGS].into_iter().chain(self.tags).collect()
    }

    fn find(&self, program: Program) -> Option<PathBuf> {
        Some(cache::find(program.name, &self.inputs())?.join(program.name))
    }

    fn build(&self, programs: &[Program], folder: &Path) -> Result<()> {
        if programs.is_empty() {
            return Ok(());
        }
        let staging = paths::lab_dir().join("run").join(format!("go-{}", std::process::id()));
        std::fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
        let mut command = self.go.command();
        command.args(["build", "-v", "-trimpath", COMPILER_FLAGS, "-ldflags", &self.linker_flags]);
        command.args(self.tags.map(|tags| format!("-tags={tags}")));
        // A folder: each program gets its package's name.
        command.arg("-o").arg(format!("{}/", staging.display())).args(programs.iter().map(|program| program.package)).current_dir(folder);
        // The compiler's garbage collector takes a tenth of its time, and need not run below this limit.
        command.envs([("GOGC", "off"), ("GOMEMLIMIT", "2GiB")]);
        compile(programs, &mut command)?;
        for program in programs {
            cache::entry(program.name, &self.inputs(), |dir| Ok(std::fs::rename(staging.join(program.output()), dir.join(program.name))?))?;
        }
        std::fs::remove_dir(&staging).with_context(|| format!("cannot remove {}", staging.display()))
    }
}

/// The version of a module that a `go.mod` requires.
fn required<'a>(manifest: &'a str, module: &str) -> Result<&'a str> {
    let of_line = |line: &'a str| line.trim().strip_prefix(module)?.strip_prefix(' ')?.split_whitespace().next();
    manifest.lines().find_map(of_line).with_context(|| format!("go.mod requires no {module}"))
}

fn compile(programs: &[Program], go: &mut Command) -> Result<()> {
    let names = programs.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    let step = progress::step(format!("Building {names} from Go modules"));
    let mut child = go.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start go")?;
    // With -v, go names each package on stderr as it compiles it, and what it downloads before that.
    let mut packages = 0;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("cannot read what go says")?;
            packages += u32::from(!line.starts_with("go: downloading"));
            step.detail(format!("{packages} packages ({line})"));
            step.log(&line);
        }
    }
    let status = child.wait().context("cannot wait for go")?;
    if !status.success() {
        bail!("the build of {names} failed: {status}");
    }
    step.done("");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_version_is_the_one_that_go_mod_pins() {
        let flags = Module::ControlPlane.linker_flags("require (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n").unwrap();
        assert!(flags.contains("k8s.io/component-base/version.gitVersion=v1.37.2"), "{flags}");
        assert!(flags.contains("k8s.io/client-go/pkg/version.gitMinor=37"), "{flags}");
        let flags = Module::Helm.linker_flags("require (\n\thelm.sh/helm/v4 v4.3.1 // indirect\n)\n").unwrap();
        assert!(flags.contains("-X helm.sh/helm/v4/internal/version.version=v4.3.1"), "{flags}");
        assert!(Module::Helm.linker_flags("require (\n\thelm.sh/helm/v40 v40.0.0 // indirect\n)\n").is_err());
        assert!(Module::ControlPlane.linker_flags("module x\n").is_err());
    }

    #[test]
    fn each_module_is_committed_with_what_its_version_is_read_from() {
        for module in [Module::ControlPlane, Module::Floor, Module::Helm] {
            let manifest = std::fs::read_to_string(module.folder().join("go.mod")).unwrap();
            assert!(module.linker_flags(&manifest).unwrap().contains("=v"), "{module:?}");
            assert!(module.folder().join("go.sum").is_file(), "{module:?}");
        }
    }

    /// The modules and versions in the lines of so many words: two where one is excluded, four where it is an indirect requirement.
    fn versions(module: Module, words: usize) -> BTreeMap<String, String> {
        let manifest = std::fs::read_to_string(module.folder().join("go.mod")).unwrap();
        let of_line = |line: &str| {
            let line: Vec<&str> = line.split_whitespace().collect();
            (line.len() == words && line[1].starts_with('v')).then(|| (line[0].to_owned(), line[1].to_owned()))
        };
        manifest.lines().filter_map(of_line).collect()
    }

    /// Go tells compiled packages apart by the versions that are required, whatever replaces them. Of what is at the bottom of
    /// everything, one version that differs has nearly all of Helm compiled for itself alone.
    #[test]
    fn what_helm_shares_with_kubernetes_is_compiled_once() {
        let (kubernetes, helm) = (versions(Module::ControlPlane, 4), versions(Module::Helm, 4));
        let excluded = versions(Module::Helm, 2);
        assert!(!excluded.is_empty());
        let of_kubernetes = ["k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go"];
        for name in excluded.keys().map(String::as_str).chain(of_kubernetes) {
            assert!(helm.contains_key(name) && helm.get(name) == kubernetes.get(name), "{name}");
        }
    }
}
