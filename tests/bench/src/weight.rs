//! What has to be pulled, and what stays in memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use netloss_lab::host::command;
use netloss_lab::host::state::StateDir;
use netloss_lab_measure::{Bound, Comparison};

use super::machine::Machine;
use super::{Report, Size};

const OURS: &str = "agent";
const THEIRS: &str = "busybox + iproute2";

pub(super) fn measure(size: Size) -> Result<Report> {
    let machine = Machine::prepare()?;
    let mut comparisons = images(&machine)?;
    let measured = machine.measure("weight", size.pick(20, 1), 1)?;
    comparisons.extend(measured.comparisons);
    Ok(Report {
        name: "weight".to_owned(),
        title: "Weight".to_owned(),
        about: "The agent's image holds its binary; the other one Debian's busybox-static, `ip` and `tc` with the libraries that these need, and \
                nothing else. Both are packed by the same tar and gzip. Resident memory is that of all processes that wait (of the shell: itself \
                and a `sleep`), the file pages that they share with each other included. Loss in both directions is in place; the agent reports \
                every 5 s and, guarded, renews its lease every 2 s, of which the shell does nothing."
            .to_owned(),
        command: "tests/lab bench weight".to_owned(),
        machine: measured.machine,
        comparisons,
    })
}

fn images(machine: &Machine) -> Result<Vec<Comparison>> {
    let folder = StateDir::temporary()?;
    let root = folder.path().join("agent");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(&machine.agent, root.join("bin/netloss-agent"))?;
    let (ours, theirs) = (root.as_path(), machine.tools.iproute2());
    let most = Bound::AtMost(1.0);
    let compressed = Comparison::new("image, compressed", "MB");
    let compressed = compressed.variant(THEIRS, vec![packed(&theirs, folder.path())?]).variant(OURS, vec![packed(ours, folder.path())?]);
    let files = Comparison::new("its files", "MB").variant(THEIRS, vec![files(&theirs)?]).variant(OURS, vec![files(ours)?]);
    Ok(vec![compressed.value(OURS, most, Some(Bound::AtMost(1.1))).ratio(OURS, THEIRS, Bound::AtMost(0.5), None), files])
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The layer of an image with this root.
fn packed(root: &Path, folder: &Path) -> Result<f64> {
    let file = folder.join("layer.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", "--file"]).arg(&file);
    command::run(tar.arg("--directory").arg(root).arg("."))?;
    Ok(megabytes(fs::metadata(&file)?.len()))
}

fn files(root: &Path) -> Result<f64> {
    let listed = command::output(Command::new("find").arg(root).args(["-type", "f", "-printf", "%s\n"]))?;
    let sizes = listed.lines().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().context("a file without a size")?;
    Ok(megabytes(sizes.iter().sum()))
}
