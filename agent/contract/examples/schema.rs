//! Writes the JSON schema of the agent's records, as docs has it:
//! `cargo run -p netloss-contract --features schema --example schema > docs/agent-record.schema.json`

use netloss_contract::Record;
use schemars::schema_for;

fn main() {
    println!("{}", text());
}

/// The schema as text.
pub(crate) fn text() -> String {
    serde_json::to_string_pretty(&schema_for!(Record)).unwrap_or_default()
}
