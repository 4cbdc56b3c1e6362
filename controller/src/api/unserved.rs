//! What the schema takes and this version does not do. A run that asks for it is refused before anything happens: an experiment that was
//! to be kept to a schedule must not hit at once because a word was skipped.

use super::ChaosExperimentSpec;

/// A field, and whether a spec sets it to something that would change what happens.
type Row = (&'static str, fn(&ChaosExperimentSpec) -> bool);

/// Serving a field is deleting its row.
const UNSERVED: [Row; 7] = [
    ("paused", |spec| spec.paused == Some(true)),
    ("abort", |spec| spec.abort.is_some()),
    ("schedule", |spec| spec.schedule.is_some()),
    ("experimentDuration", |spec| spec.experiment_duration.is_some()),
    ("timeWindows", |spec| any(spec.time_windows.as_ref())),
    ("maintenanceWindows", |spec| any(spec.maintenance_windows.as_ref())),
    ("dependsOn", |spec| any(spec.depends_on.as_ref())),
];

fn any<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// The first field that is asked for and not served.
#[must_use]
pub fn unserved(spec: &ChaosExperimentSpec) -> Option<&'static str> {
    UNSERVED.into_iter().find(|(_, is_set)| is_set(spec)).map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(field: &str, value: Value) -> ChaosExperimentSpec {
        let mut spec = json!({ "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s" });
        spec[field] = value;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn each_row_is_reached_by_its_field_and_by_no_other() {
        for (field, _) in UNSERVED {
            let value = match field {
                "paused" => json!(true),
                "abort" => json!(1),
                "timeWindows" | "maintenanceWindows" => json!([{ "start": "09:00", "end": "17:00" }]),
                "dependsOn" => json!(["x"]),
                _ => json!("1h"),
            };
            assert_eq!(unserved(&spec(field, value)), Some(field));
        }
    }

    #[test]
    fn what_changes_nothing_is_no_matter() {
        for (field, value) in [("paused", json!(false)), ("timeWindows", json!([])), ("dryRun", json!(true)), ("maxRetries", json!(3))] {
            assert_eq!(unserved(&spec(field, value)), None, "{field}");
        }
    }
}
