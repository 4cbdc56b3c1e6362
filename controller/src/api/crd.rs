//! The `CustomResourceDefinition`s as they are committed in `config/crd`.

use super::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentPlan};
use crate::definitions::PART_OF;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// The command that writes a definition.
const REGENERATE: &str = "cargo run -q -p netloss-controller -- crd";

/// One of the definitions.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Its plural, by which the command line names it.
    pub plural: &'static str,
    /// Makes it, as an API server is given it.
    pub make: fn() -> CustomResourceDefinition,
}

/// All of them.
pub const DEFINITIONS: [Definition; 3] = [
    Definition { plural: "chaosexperiments", make: experiments },
    Definition { plural: "chaosexperimenthistories", make: histories },
    Definition { plural: "chaosexperimentplans", make: plans },
];

impl Definition {
    /// Where it is committed, seen from the root of the repository.
    #[must_use]
    pub fn committed(&self) -> String {
        format!("config/crd/chaos.gushchin.dev_{}.yaml", self.plural)
    }

    /// As netloss installs it.
    #[must_use]
    pub fn labelled(&self) -> CustomResourceDefinition {
        let mut crd = (self.make)();
        crd.metadata.labels = Some([(PART_OF.0.to_owned(), PART_OF.1.to_owned())].into());
        crd
    }

    /// In YAML, with a line on top that says how it came about.
    ///
    /// # Errors
    /// When it has no YAML form.
    pub fn yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        let yaml = serde_saphyr::to_string(&self.labelled())?;
        Ok(format!("# Generated from controller/src/api by: {REGENERATE} {} > {}\n{yaml}", self.plural, self.committed()))
    }
}

fn experiments() -> CustomResourceDefinition {
    let mut crd = ChaosExperiment::crd();
    schemas(&mut crd).for_each(refuse_null);
    crd
}

fn histories() -> CustomResourceDefinition {
    let mut crd = ChaosExperimentHistory::crd();
    for schema in schemas(&mut crd) {
        refuse_null(schema);
        // What was an experiment once is on record as it was, whatever the rules say today.
        let spec = schema.properties.as_mut().and_then(|properties| properties.get_mut("spec")).and_then(|spec| spec.properties.as_mut());
        if let Some(experiment) = spec.and_then(|properties| properties.get_mut("experimentSpec")) {
            experiment.x_kubernetes_validations = None;
        }
    }
    crd
}

fn plans() -> CustomResourceDefinition {
    let mut crd = ChaosExperimentPlan::crd();
    schemas(&mut crd).for_each(refuse_null);
    crd
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()).filter_map(|schema| schema.open_api_v3_schema.as_mut())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definitions_are_the_current_ones() {
        for definition in DEFINITIONS {
            let (committed, plural) = (definition.committed(), definition.plural);
            let path = format!("{}/../{committed}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(text == definition.yaml().unwrap(), "{committed} is out of date: run {REGENERATE} {plural} > {committed}");
        }
    }
}
