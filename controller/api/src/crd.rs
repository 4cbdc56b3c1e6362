//! The `CustomResourceDefinition`s as they are committed in `config/crd`.

use super::{ChaosExperiment, ChaosExperimentHistory, ChaosExperimentPlan};
use crate::PART_OF;
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
        Ok(format!("# Generated from controller/api by: {REGENERATE} {} > {}\n{yaml}", self.plural, self.committed()))
    }
}

fn experiments() -> CustomResourceDefinition {
    let mut crd = ChaosExperiment::crd();
    for schema in schemas(&mut crd) {
        refuse_null(schema);
        bound(schema);
    }
    crd
}

fn histories() -> CustomResourceDefinition {
    let mut crd = ChaosExperimentHistory::crd();
    for schema in schemas(&mut crd) {
        refuse_null(schema);
        bound(schema);
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
    for schema in schemas(&mut crd) {
        refuse_null(schema);
        bound(schema);
    }
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

/// Characters of a text whose field names no limit. k8s-chaos's messages name every pod of an experiment, a hundred at most.
const LONGEST_TEXT: i64 = 32 * 1024;

/// Items of a list whose field names no limit. Ten times the pods that `spec.count` allows: a judgement, so that no
/// list alone fills what etcd stores.
const LONGEST_LIST: i64 = 1000;

/// A time that [`jiff::Timestamp`] reads. The API server's format date-time takes others too, such as an offset of 99 hours or any character before the
/// fraction of a second (kube-openapi, pkg/validation/strfmt/time.go).
const TIME: &str =
    r"^[1-8][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// Gives every number, text and list a limit that has none: what the API server stores, every reader of it can decode, and holds in memory in a size that
/// is proportional to what it was sent as.
fn bound(schema: &mut JSONSchemaProps) {
    match (schema.type_.as_deref(), schema.format.as_deref()) {
        (Some("string"), Some("date-time")) => schema.pattern = Some(TIME.to_owned()),
        (Some("string"), _) if schema.enum_.is_none() => schema.max_length = schema.max_length.or(Some(LONGEST_TEXT)),
        (Some("array"), _) => schema.max_items = schema.max_items.or(Some(LONGEST_LIST)),
        (Some("integer"), Some("int32")) => {
            schema.minimum = schema.minimum.or(Some(i32::MIN.into()));
            schema.maximum = schema.maximum.or(Some(i32::MAX.into()));
        }
        _ => {}
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(bound);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        bound(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool;
    use proptest::{prelude::*, string::string_regex};

    /// The fields without a limit.
    fn unbounded(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
        let is_bounded = match schema.type_.as_deref() {
            Some("string") => schema.max_length.is_some() || schema.enum_.is_some() || schema.pattern.as_deref() == Some(TIME),
            Some("array") => schema.max_items.is_some(),
            // The API server takes no integer beyond i64, which is what these are read as, or as the u64 that holds those from 0 on.
            Some("integer") => schema.format.as_deref() == Some("int64") || (schema.minimum.is_some() && schema.maximum.is_some()),
            Some("object") => schema.properties.is_some() || schema.max_properties.is_some() || path.ends_with(".metadata"),
            _ => true,
        };
        found.extend((!is_bounded).then(|| path.to_owned()));
        for (name, field) in schema.properties.iter().flatten() {
            unbounded(&format!("{path}.{name}"), field, found);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            unbounded(&format!("{path}[]"), items, found);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            unbounded(&format!("{path}{{}}"), values, found);
        }
    }

    #[test]
    fn every_text_list_map_and_number_is_bounded() {
        let mut found = Vec::new();
        for definition in DEFINITIONS {
            for schema in schemas(&mut (definition.make)()) {
                unbounded(definition.plural, schema, &mut found);
            }
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    /// The pattern of what follows the date, which the format itself checks.
    fn clock() -> &'static str {
        TIME.trim_end_matches('$').split_once("[0-9]{2}-[0-9]{2}").map_or("", |(_, clock)| clock)
    }

    proptest! {
        #[test]
        fn every_admissible_time_is_read(clock in string_regex(clock()).unwrap()) {
            for date in ["1000-01-01", "2028-02-29", "8999-12-31"] {
                let text = format!("{date}{clock}");
                prop_assert!(text.parse::<jiff::Timestamp>().is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn the_committed_definitions_are_the_current_ones() {
        for definition in DEFINITIONS {
            let (committed, plural) = (definition.committed(), definition.plural);
            let path = format!("{}/../../{committed}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(text == definition.yaml().unwrap(), "{committed} is out of date: run {REGENERATE} {plural} > {committed}");
        }
    }
}
