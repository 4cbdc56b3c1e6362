//! What the fuzz targets check, of their seeds.

#[path = "../fuzz/properties.rs"]
#[allow(clippy::expect_used, unreachable_pub, reason = "shared with programs of their own")]
mod properties;

use std::{fs, io, path::Path};

fn each_seed(target: &str, check: impl Fn(&[u8])) -> io::Result<()> {
    let mut seeds = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target))? {
        check(&fs::read(entry?.path())?);
        seeds += 1;
    }
    assert!(seeds > 0, "{target} has no seeds");
    Ok(())
}

#[test]
fn netem() -> io::Result<()> {
    each_seed("netem", properties::netem)
}

#[test]
fn record() -> io::Result<()> {
    each_seed("record", properties::record)
}

#[test]
fn control() -> io::Result<()> {
    each_seed("control", properties::control)
}

#[test]
fn argv() -> io::Result<()> {
    each_seed("argv", properties::argv)
}

#[test]
fn kernel() -> io::Result<()> {
    each_seed("kernel", properties::kernel)
}
