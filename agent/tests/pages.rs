//! The man pages and completions in docs/man are those of the command line.

#[path = "../examples/pages.rs"]
#[allow(dead_code, reason = "its main is that of the example")]
mod pages;

use std::{collections::BTreeMap, ffi::OsString, fs, io, path::Path};

fn files(folder: &Path) -> io::Result<BTreeMap<OsString, String>> {
    fs::read_dir(folder)?.map(|entry| entry.and_then(|entry| Ok((entry.file_name(), fs::read_to_string(entry.path())?)))).collect()
}

#[test]
fn pages_are_up_to_date() -> io::Result<()> {
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    drop(fs::remove_dir_all(&fresh));
    pages::write(&fresh)?;
    let (kept, fresh) = (files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man"))?, files(&fresh)?);
    let differ: Vec<_> = kept.keys().chain(fresh.keys()).filter(|name| kept.get(*name) != fresh.get(*name)).collect();
    assert!(differ.is_empty(), "{differ:?} are not up to date: run `cargo run -p netloss-agent --example pages -- docs/man`");
    Ok(())
}
