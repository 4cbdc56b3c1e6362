//! What the fuzz targets check, of their seeds.

#[path = "../fuzz/properties.rs"]
#[allow(clippy::expect_used, clippy::panic, unreachable_pub, reason = "shared with programs of their own")]
mod properties;

use proptest::prelude::*;
use std::{fs, io, path::Path};

fn each_seed(target: &str, check: impl Fn(&[u8])) -> io::Result<()> {
    let mut seeds = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target))? {
        let path = entry?.path();
        println!("{}", path.display());
        check(&fs::read(path)?);
        seeds += 1;
    }
    assert!(seeds > 0, "{target} has no seeds");
    Ok(())
}

#[test]
fn review() -> io::Result<()> {
    each_seed("review", properties::review)
}

#[test]
fn spec() -> io::Result<()> {
    each_seed("spec", properties::spec)
}

#[test]
fn report() -> io::Result<()> {
    each_seed("report", properties::report)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_schema_admits_decodes(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
        properties::admissible(&bytes);
    }
}

#[test]
fn objects() -> io::Result<()> {
    each_seed("objects", properties::objects)
}
