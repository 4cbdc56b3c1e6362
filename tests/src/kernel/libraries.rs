//! The shared libraries that a set of programs needs, found the way the dynamic linker finds them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::host::command;

/// Every library that the programs need, directly or through another: the name it is asked for by, and its file.
pub(super) fn closure(programs: &[PathBuf], find: impl Fn(&str) -> Result<PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue: Vec<PathBuf> = programs.to_vec();
    while let Some(file) = queue.pop() {
        for name in needed(&file)? {
            if let Entry::Vacant(place) = found.entry(name) {
                let library = find(place.key())?;
                queue.push(library.clone());
                place.insert(library);
            }
        }
    }
    Ok(found)
}

fn needed(file: &Path) -> Result<Vec<String>> {
    let listing = command::output(Command::new("readelf").args(["--dynamic", "--wide"]).arg(file).env("LC_ALL", "C"))?;
    Ok(parse(&listing))
}

fn parse(listing: &str) -> Vec<String> {
    let needed = listing.lines().filter(|line| line.contains("(NEEDED)"));
    needed.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_needed_entries_count() {
        // readelf --dynamic --wide of trixie's /usr/sbin/tc, shortened
        let listing = " 0x0000000000000001 (NEEDED)             Shared library: [libbpf.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libmnl.so.0]
 0x000000000000000c (INIT)               0x9000
";
        assert_eq!(parse(listing), ["libbpf.so.1", "libc.so.6"]);
    }
}
