//! The `CustomResourceDefinition` as it is committed in `config/crd`.

use super::ChaosExperiment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// Where the definition is committed, seen from the root of the repository.
const COMMITTED: &str = "config/crd/chaos.gushchin.dev_chaosexperiments.yaml";

/// The command that writes it there.
const REGENERATE: &str = "cargo run -q -p netloss-controller -- crd";

/// The definition, as an API server is given it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ChaosExperiment::crd();
    for version in &mut crd.spec.versions {
        version.schema.iter_mut().filter_map(|schema| schema.open_api_v3_schema.as_mut()).for_each(refuse_null);
    }
    crd
}

/// Takes back what schemars makes of an `Option`: a null that is allowed. For the API server such a null is a value that is there, so
/// that a rule's `has(self.duration)` would hold for a `duration: null`. A field that is not wanted is left out.
fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(refuse_null);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        refuse_null(items);
    }
}

/// The definition in YAML, with a line on top that says how it came about.
///
/// # Errors
/// When the definition has no YAML form.
pub fn crd_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let yaml = serde_saphyr::to_string(&crd())?;
    Ok(format!("# Generated from controller/src/api by: {REGENERATE} > {COMMITTED}\n{yaml}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definition_is_the_current_one() {
        let path = format!("{}/../{COMMITTED}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == crd_yaml().unwrap(), "{COMMITTED} is out of date: run {REGENERATE} > {COMMITTED}");
    }
}
