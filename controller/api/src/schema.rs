//! Schemas of types that have none of their own.

use netloss_contract::Direction;
use schemars::{Schema, SchemaGenerator, json_schema};

/// The contract's type has no schema of its own: the agent would have to carry it.
pub(crate) fn direction(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": [Direction::Egress, Direction::Ingress, Direction::Both] })
}
