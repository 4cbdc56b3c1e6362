//! The kernel modules of a guest: those of networking and whatever they depend on, in a form that autoloading can use.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::tree::Tree;
use crate::host::command;

/// Folders and single modules, below the release's `kernel` folder, that a network test may cause to be loaded.
pub(super) const WANTED: [&str; 13] = [
    "net/sched/",
    "net/netfilter/nf_",
    "net/netfilter/nft_",
    "net/netfilter/nfnetlink",
    "net/ipv4/netfilter/nf_",
    "net/ipv6/netfilter/nf_",
    "net/8021q/",
    "net/bridge/bridge",
    "drivers/net/veth",
    "drivers/net/ifb",
    "drivers/net/macvlan",
    "drivers/net/ipvlan/",
    "drivers/net/netkit",
];

/// Copies the wanted modules, uncompressed and indexed, to `lib/modules` below `base`.
pub(super) fn copy(tree: &Tree, base: &Path) -> Result<()> {
    let release = tree.release()?;
    let source_base = tree.modules_base()?;
    let source = source_base.join("lib/modules").join(&release);
    let target = base.join("lib/modules").join(&release);
    depmod(&source_base, &release)?;
    let listing = fs::read_to_string(source.join("modules.dep")).context("cannot read modules.dep")?;
    for module in closure(&listing) {
        let to = target.join(&module);
        fs::create_dir_all(to.parent().unwrap_or(&target))?;
        fs::copy(source.join(&module), &to).with_context(|| format!("cannot copy {module}"))?;
        if to.extension().is_some_and(|extension| extension == "xz") {
            // A busybox modprobe in an emulated guest would spend longer on this than on everything else.
            command::run(Command::new("xz").arg("--decompress").arg(&to))?;
        }
    }
    // With these, a request for something that is built in is known to be satisfied.
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(source.join(index), target.join(index)).with_context(|| format!("cannot copy {index}"))?;
    }
    depmod(base, &release)
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    command::run(Command::new("depmod").arg("--basedir").arg(base).arg(release))
}

/// The wanted modules of a `modules.dep` and all that they depend on.
fn closure(modules_dep: &str) -> BTreeSet<String> {
    // modules.dep lists all dependencies of a module, also the indirect ones.
    let dependencies: HashMap<&str, &str> = modules_dep.lines().filter_map(|line| line.split_once(':')).collect();
    let wanted = |path: &str| path.strip_prefix("kernel/").is_some_and(|path| WANTED.iter().any(|prefix| path.starts_with(prefix)));
    let mut modules = BTreeSet::new();
    for (module, needed) in dependencies.into_iter().filter(|(module, _)| wanted(module)) {
        modules.insert(module.to_owned());
        modules.extend(needed.split_whitespace().map(str::to_owned));
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_along_and_others_do_not() {
        let listing = "kernel/net/sched/sch_netem.ko.xz:
kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz
kernel/net/sctp/sctp.ko.xz: kernel/lib/libcrc32c.ko.xz
";
        let modules: Vec<String> = closure(listing).into_iter().collect();
        let expected =
            ["kernel/net/802/stp.ko.xz", "kernel/net/bridge/bridge.ko.xz", "kernel/net/llc/llc.ko.xz", "kernel/net/sched/sch_netem.ko.xz"];
        assert_eq!(modules, expected);
    }
}
