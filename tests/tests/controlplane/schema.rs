//! What the API server refuses by itself, in the words that a user reads.

use crate::world::{World, spec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use netloss_api::RetryBackoff;
use serde_json::json;

#[tokio::test]
async fn the_definition_is_structural_and_served() {
    let world = World::new("schema-definition").await;
    let crd = Api::<CustomResourceDefinition>::all(world.client.clone()).get("chaosexperiments.chaos.gushchin.dev").await.unwrap();
    let conditions = crd.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().all(|condition| condition.type_ != "NonStructuralSchema"), "{conditions:?}");
    assert!(conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True"), "{conditions:?}");
}

#[tokio::test]
async fn what_is_out_of_range_is_refused_with_the_field_and_the_bound() {
    out_of_range_is_refused(&World::new("schema-refusals").await).await;
}

pub(crate) async fn out_of_range_is_refused(world: &World) {
    for (changes, words) in [
        (json!({ "lossPercentage": 0 }), "spec.lossPercentage: Invalid value: 0: spec.lossPercentage in body should be greater than 0"),
        (json!({ "lossPercentage": 40.1 }), "spec.lossPercentage above 40 needs your consent: lower it, or set spec.allowHighLoss: true"),
        (json!({ "lossPercentage": 40.1, "allowHighLoss": false }), "spec.lossPercentage above 40 needs your consent"),
        (json!({ "lossPercentage": 100.1, "allowHighLoss": true }), "spec.lossPercentage in body should be less than or equal to 100"),
        (json!({ "lossModel": { "type": "markov" } }), "spec.lossModel.type: Unsupported value: \"markov\""),
        (json!({ "correlation": -1 }), "spec.correlation in body should be greater than or equal to 0"),
        (json!({ "correlation": 101 }), "spec.correlation in body should be less than or equal to 100"),
        (json!({ "lossCorrelation": 101 }), "spec.lossCorrelation in body should be less than or equal to 100"),
        (
            json!({ "correlation": 1, "lossCorrelation": 2 }),
            "spec.correlation and its older name spec.lossCorrelation differ: set only spec.correlation",
        ),
        (
            json!({ "direction": "sideways" }),
            "spec.direction: Unsupported value: \"sideways\": supported values: \"egress\", \"ingress\", \"both\"",
        ),
        (json!({ "duration": null }), "spec.duration is required for the action pod-network-loss: give whole numbers with h, m or s"),
        (json!({ "duration": "5" }), "spec.duration in body should match '^([0-9]+(s|m|h))+$'"),
        (json!({ "duration": "0s" }), "spec.duration must be from 1s to 168h"),
        (json!({ "duration": "169h" }), "spec.duration must be from 1s to 168h"),
        (json!({ "selector": {} }), "spec.selector in body should have at least 1 properties"),
        (json!({ "selector": null }), "spec.selector: Required value"),
        (json!({ "action": "pod-explode" }), "spec.action: Unsupported value: \"pod-explode\""),
        (json!({ "count": 0 }), "spec.count in body should be greater than or equal to 1"),
        (json!({ "count": 101 }), "spec.count in body should be less than or equal to 100"),
        (json!({ "interface": "a/b" }), "spec.interface in body should match"),
        (json!({ "interface": "-rm" }), "spec.interface in body should match"),
        (json!({ "maxPercentage": 101 }), "spec.maxPercentage in body should be less than or equal to 100"),
        (json!({ "backend": "ebpf" }), "spec.backend: Unsupported value: \"ebpf\""),
        (json!({ "retryBackoff": "linear" }), "spec.retryBackoff: Unsupported value"),
        (json!({ "retryDelay": "soon" }), "spec.retryDelay in body should match '^([0-9]+(s|m|h))+$'"),
        (json!({ "maxRetries": 11 }), "spec.maxRetries in body should be less than or equal to 10"),
        (
            json!({ "timeWindows": [{ "type": "Daily", "start": "a", "end": "b" }] }),
            "spec.timeWindows[0].type: Unsupported value: \"Daily\"",
        ),
        (json!({ "targetPorts": [70000] }), "spec.targetPorts[0] in body should be less than or equal to 65535"),
        (json!({ "targetPorts": [0] }), "spec.targetPorts[0] in body should be greater than or equal to 1"),
        (json!({ "dependsOn": ["x".repeat(254)] }), "spec.dependsOn[0]: Too long"),
        (json!({ "spare": ["x".repeat(129)] }), "spec.spare[0]: Too long"),
        (json!({ "targetPath": "x".repeat(40_000) }), "spec.targetPath: Too long"),
        (json!({ "selector": { "x".repeat(318): "y" } }), "spec.selector has a key of more than 317 characters"),
        (json!({ "selector": { "app": "x".repeat(64) } }), "spec.selector.app: Too long"),
        (json!({ "cpuLoad": 3_000_000_000_i64 }), "spec.cpuLoad in body should be less than or equal to"),
        (
            json!({ "lossModel": { "type": "gilbert", "meanBurst": 1001 } }),
            "spec.lossModel.meanBurst in body should be less than or equal to 1000",
        ),
        (json!({ "lossPercent": 10 }), ".spec.lossPercent: field not declared in schema"),
    ] {
        let error = world.apply("refused", spec(changes.clone())).await.expect_err(&changes.to_string());
        assert!(error.contains(words), "{changes}: {error}");
    }
    assert!(world.experiments().get_opt("refused").await.unwrap().is_none());
}

#[tokio::test]
async fn defaults_are_filled_in_and_both_names_of_correlation_are_taken() {
    let world = World::new("schema-defaults").await;
    let defaults = world.apply("defaults", spec(json!({ "lossPercentage": null }))).await.unwrap().spec;
    assert_eq!((defaults.count, defaults.direction.to_string().as_str()), (1, "both"));
    assert!((defaults.loss_percentage - 5.0).abs() < f64::EPSILON && defaults.correlation_percentage().abs() < f64::EPSILON);
    let older = world.apply("older", spec(json!({ "lossCorrelation": 25 }))).await.unwrap().spec;
    let retries = world.apply("retries", spec(json!({ "maxRetries": null }))).await.unwrap().spec;
    assert_eq!((retries.max_retries, retries.retry_delay.as_str(), retries.retry_backoff), (3, "30s", RetryBackoff::Exponential));
    assert!((older.correlation_percentage() - 25.0).abs() < f64::EPSILON);
    world.apply("same", spec(json!({ "correlation": 25, "lossCorrelation": 25 }))).await.unwrap();
    world.apply("least", spec(json!({ "lossPercentage": 0.001, "correlation": 0, "duration": "1s" }))).await.unwrap();
    world.apply("most", spec(json!({ "lossPercentage": 40, "correlation": 100, "count": 100, "duration": "168h" }))).await.unwrap();
}

/// Whatever a k8s-chaos user has in a manifest reaches the controller, which then serves or refuses it: pruned, it would be ignored.
#[tokio::test]
async fn nothing_that_k8s_chaos_knows_is_pruned() {
    let world = World::new("schema-superset").await;
    let fields = json!({
        "dryRun": true, "maxPercentage": 50, "allowProduction": true, "allowHighLoss": true, "paused": true, "abort": 1,
        "maxRetries": 3, "retryBackoff": "exponential", "retryDelay": "30s", "schedule": "0 9 * * 1", "experimentDuration": "1h",
        "timeWindows": [{ "type": "Recurring", "start": "09:00", "end": "17:00", "timezone": "Europe/Berlin", "daysOfWeek": ["Mon"] }],
        "maintenanceWindows": [{ "type": "Absolute", "start": "2026-01-10T01:00:00Z", "end": "2026-01-10T03:00:00Z" }],
        "dependsOn": ["other"], "targetIPs": ["192.0.2.1"], "targetCIDRs": ["10.0.0.0/8"], "targetPorts": [443], "targetProtocols": ["tcp"],
        "spare": ["any:53/udp"], "spareNode": true, "lossModel": { "type": "gilbert", "meanBurst": 4.5 }, "seed": 7, "perSegment": true,
        "backend": "guarded", "requireGuarded": true, "cpuLoad": 50, "cpuWorkers": 2, "memorySize": "64Mi", "memoryWorkers": 1,
        "corruptionPercentage": 1.5, "corruptionCorrelation": 2.5, "fillPercentage": 80, "targetPath": "/data", "volumeName": "data",
        "restartInterval": "1m", "taintKey": "k", "taintValue": "v", "taintEffect": "NoSchedule",
    });
    let taken = serde_json::to_value(world.apply("superset", spec(fields.clone())).await.unwrap().spec).unwrap();
    for (field, value) in fields.as_object().unwrap() {
        assert_eq!(&taken[field], value, "{field}");
    }
}

/// A run of the other action could not be stopped by anybody.
#[tokio::test]
async fn the_action_of_a_packet_loss_stays() {
    the_action_is_kept(&World::new("schema-action").await).await;
}

pub(crate) async fn the_action_is_kept(world: &World) {
    world.apply("x", spec(json!({}))).await.unwrap();
    let error = world.apply("x", spec(json!({ "action": "pod-kill" }))).await.unwrap_err();
    assert!(error.contains("spec.action cannot be changed from pod-network-loss"), "{error}");
}

#[tokio::test]
async fn a_null_is_not_taken_for_a_value() {
    let world = World::new("schema-null").await;
    let mut with_null = spec(json!({}));
    with_null["duration"] = json!(null);
    let error = world.apply("null", with_null).await.unwrap_err();
    assert!(error.contains("spec.duration in body must be of type string"), "{error}");
}

/// `kubectl create`, and `kubectl apply` without --server-side, post the object and ask for strict decoding.
#[tokio::test]
async fn a_typo_is_refused_on_creation() {
    let world = World::new("schema-typo").await;
    let object = json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1",
        "kind": "ChaosExperiment",
        "metadata": { "name": "typo" },
        "spec": spec(json!({ "lossPercent": 10 })),
    });
    let path = "/apis/chaos.gushchin.dev/v1alpha1/namespaces/schema-typo/chaosexperiments?fieldValidation=Strict";
    let request = http::Request::post(path).header("content-type", "application/json").body(object.to_string().into_bytes()).unwrap();
    match world.client.request::<serde_json::Value>(request).await {
        Err(kube::Error::Api(status)) => {
            assert!(status.message.contains("strict decoding error: unknown field \"spec.lossPercent\""), "{}", status.message);
        }
        other => panic!("{other:?}"),
    }
}
