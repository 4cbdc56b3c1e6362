//! The JSON schema in docs is that of the records.

#[path = "../examples/schema.rs"]
#[allow(dead_code, reason = "its main is that of the example")]
mod schema;

use std::{fs, io, path::Path};

#[test]
fn the_schema_is_up_to_date() -> io::Result<()> {
    let kept = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agent-record.schema.json"))?;
    let command = "cargo run -p netloss-contract --features schema --example schema > docs/agent-record.schema.json";
    assert_eq!(kept.trim_end(), schema::text(), "docs/agent-record.schema.json is not up to date: run `{command}`");
    Ok(())
}
