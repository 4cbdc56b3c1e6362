//! docs/API.md, written from the definitions as the API server is given them.

use super::DEFINITIONS;
use crate::RUN_REQUESTED_ANNOTATION;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use std::fmt::Write as _;

/// The command that writes the page.
const REGENERATE: &str = "cargo run -q -p netloss-controller --bin netloss-controller -- reference > docs/API.md";

/// How the description begins of a field that k8s-chaos has for its other actions.
const OF_OTHERS: &str = "Of another action";

/// The whole page.
#[must_use]
pub fn page() -> String {
    let kinds: String = DEFINITIONS.iter().map(|definition| of_kind(&(definition.make)())).collect();
    format!(
        "<!-- Generated from controller/api by: {REGENERATE} -->\n\
         # API\n\n\
         The objects of the group `chaos.gushchin.dev`, version `v1alpha1`, with each field as the API server checks it: a value that is not within these limits \
         is refused with the field's name. `kubectl explain chaosexperiment.spec --recursive` shows the same for the cluster that you are on. `field[]` is an element \
         of a list; `kubectl get netloss` lists objects of all kinds. What the fields are for, with examples: [SCENARIOS.md](SCENARIOS.md).\n\n\
         A ChaosExperiment runs once for each version of its spec, or at the times of its schedule: applying an unchanged spec again begins no run. The annotation \
         `{RUN_REQUESTED_ANNOTATION}` requests one more run, as `kubectl netloss rerun` does. Its value is an RFC 3339 time, such as `2027-01-15T08:00:00Z`, which only \
         has to differ from the last handled one (`status.runRequestedAt`). A run that is active, paused or waits for a retry goes on, and the requested one begins \
         after it; several requests until then are one. A schedule goes on beside it. The webhook refuses another value, and checks a request as it checks an edit; \
         without a webhook the condition `RunRequested` names the value, and no run begins.\n{kinds}"
    )
}

fn of_kind(crd: &CustomResourceDefinition) -> String {
    let names = &crd.spec.names;
    let mut text = format!("\n## {}\n", names.kind);
    let Some(schema) = crd.spec.versions.iter().find_map(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref()) else {
        return text;
    };
    let called: Vec<String> =
        std::iter::once(&names.plural).chain(names.short_names.iter().flatten()).map(|name| format!("`{name}`")).collect();
    let about = schema.description.as_deref().map(words).unwrap_or_default();
    let _ = write!(text, "\n{about}\n\nFor kubectl it is {}.\n", called.join(", "));
    for (section, schema) in schema.properties.iter().flatten() {
        // A section that is a list of fields; metadata and its like have none of their own.
        if schema.properties.is_none() {
            continue;
        }
        let mut rows = Rows::default();
        rows.of_object(section, schema);
        let _ = write!(text, "\n### {section}\n\n| field | value | |\n|---|---|---|\n{}", rows.text);
        if !rows.of_others.is_empty() {
            let _ = write!(text, "\nFor objects of k8s-chaos's other actions, never looked at: {}.\n", rows.of_others.join(", "));
        }
        if !rows.rules.is_empty() {
            let _ = write!(text, "\nWhat has to fit together, in the API server's words:\n\n{}", rows.rules);
        }
    }
    text
}

fn of_rule(rule: &ValidationRule) -> String {
    format!("- {}\n", words(rule.message.as_deref().unwrap_or(&rule.rule)))
}

#[derive(Default)]
struct Rows {
    text: String,
    of_others: Vec<String>,
    rules: String,
}

impl Rows {
    /// The fields of an object, each followed by those of what it holds.
    fn of_object(&mut self, path: &str, schema: &JSONSchemaProps) {
        self.rules.extend(schema.x_kubernetes_validations.iter().flatten().map(of_rule));
        let required = schema.required.as_deref().unwrap_or_default();
        for (name, field) in schema.properties.iter().flatten() {
            self.of_field(&format!("{path}.{name}"), field, required.contains(name));
        }
    }

    fn of_field(&mut self, path: &str, field: &JSONSchemaProps, required: bool) {
        let about = field.description.as_deref().map(words).unwrap_or_default();
        if about.starts_with(OF_OTHERS) {
            self.of_others.push(format!("`{path}`"));
            return;
        }
        let required = if required { ", required" } else { "" };
        let _ = writeln!(self.text, "| `{path}` | {}{required} | {about} |", value(field));
        match &field.items {
            Some(JSONSchemaPropsOrArray::Schema(item)) => self.of_object(&format!("{path}[]"), item),
            _ => self.of_object(path, field),
        }
    }
}

/// What may stand there.
fn value(field: &JSONSchemaProps) -> String {
    let kind = field.type_.as_deref().unwrap_or("any");
    let what = match (&field.enum_, &field.items) {
        (Some(values), _) => values.iter().map(|value| code(&value.0)).collect::<Vec<_>>().join(" "),
        (None, Some(JSONSchemaPropsOrArray::Schema(item))) => format!("list of {}", value(item)),
        _ => field.format.as_deref().filter(|format| *format == "date-time").map_or(kind, |_| "time").to_owned(),
    };
    let number = |bound: Option<f64>| bound.map(|number| code(&number.into()));
    let range = match (number(field.minimum), number(field.maximum)) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("at least {least}")),
        (None, most) => most.map(|most| format!("at most {most}")),
    };
    let least = [(field.min_length, " characters"), (field.min_items, "")];
    let most = [(field.max_length, " characters"), (field.max_items, ""), (field.max_properties, "")];
    let bounds = [("at least", least.as_slice()), ("at most", most.as_slice())]
        .into_iter()
        .flat_map(|(which, bounds)| bounds.iter().filter_map(move |(bound, of)| bound.map(|bound| format!("{which} {bound}{of}"))));
    let limits: Vec<String> = std::iter::once(what).chain(range).chain(bounds).collect();
    let default = field.default.as_ref().map(|default| format!("; left out: {}", code(&default.0)));
    limits.join(", ") + &default.unwrap_or_default()
}

fn code(value: &serde_json::Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("`{}`", text.strip_suffix(".0").unwrap_or(&text))
}

/// On one line, and without what a table takes for its own.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_the_current_one() {
        let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/API.md")).unwrap_or_default();
        assert!(committed == page(), "docs/API.md is out of date: run {REGENERATE}");
    }

    #[test]
    fn fields_have_their_limits_and_rules_their_words() {
        let page = page();
        for words in [
            "## ChaosExperimentHistory\n",
            "| `spec.lossPercentage` | number, `0` to `100`",
            "| `spec.count` | integer, `1` to `100`; left out: `1` |",
            "| `spec.direction` | `egress` `ingress` `both`; left out: `both` |",
            "| `spec.lossModel.type` |",
            "| `status.pods[].outcome` |",
            "| `status.completedAt` | time |",
            "- spec.duration must be from 1s to 168h",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!page.contains("| `spec.cpuLoad` |"), "a field that netloss never looks at");
    }
}
