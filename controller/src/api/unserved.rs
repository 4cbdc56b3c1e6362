//! What the schema takes and this version does not do. A run that asks for it is refused before anything happens: an experiment that was
//! to be kept to a schedule or to some addresses must not hit everything at once because a word was skipped.

use super::ChaosExperimentSpec;

/// A field, and whether a spec sets it to something that would change what happens.
type Row = (&'static str, fn(&ChaosExperimentSpec) -> bool);

/// Serving a field is deleting its row.
const UNSERVED: [Row; 17] = [
    ("paused", |spec| spec.paused == Some(true)),
    ("abort", |spec| spec.abort.is_some()),
    ("schedule", |spec| spec.schedule.is_some()),
    ("experimentDuration", |spec| spec.experiment_duration.is_some()),
    ("timeWindows", |spec| any(spec.time_windows.as_ref())),
    ("maintenanceWindows", |spec| any(spec.maintenance_windows.as_ref())),
    ("dependsOn", |spec| any(spec.depends_on.as_ref())),
    ("targetIPs", |spec| any(spec.target_ips.as_ref())),
    ("targetCIDRs", |spec| any(spec.target_cidrs.as_ref())),
    ("targetPorts", |spec| any(spec.target_ports.as_ref())),
    ("targetProtocols", |spec| any(spec.target_protocols.as_ref())),
    ("spare", |spec| any(spec.spare.as_ref())),
    ("spareNode", |spec| spec.spare_node == Some(true)),
    ("lossModel", |spec| spec.loss_model.is_some()),
    ("seed", |spec| spec.seed.is_some()),
    ("perSegment", |spec| spec.per_segment == Some(true)),
    ("allowHighLoss", |spec| spec.allow_high_loss == Some(true)),
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
                "paused" | "spareNode" | "perSegment" | "allowHighLoss" => json!(true),
                "abort" | "seed" => json!(1),
                "timeWindows" | "maintenanceWindows" => json!([{ "start": "09:00", "end": "17:00" }]),
                "targetPorts" => json!([443]),
                "dependsOn" | "targetIPs" | "targetCIDRs" | "targetProtocols" | "spare" => json!(["x"]),
                "lossModel" => json!({ "type": "gilbert", "meanBurst": 4 }),
                _ => json!("1h"),
            };
            assert_eq!(unserved(&spec(field, value)), Some(field));
        }
    }

    #[test]
    fn what_changes_nothing_is_no_matter() {
        for (field, value) in [("paused", json!(false)), ("targetIPs", json!([])), ("dryRun", json!(true)), ("maxRetries", json!(3))] {
            assert_eq!(unserved(&spec(field, value)), None, "{field}");
        }
    }
}
