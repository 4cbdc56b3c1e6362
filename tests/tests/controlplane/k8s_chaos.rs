//! netloss where k8s-chaos is, or was: its definition, its objects, its manifests.

use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperiment, DEFINITIONS, Phase};
use netloss_controller::reconcile::{Context, reconcile};
use netloss_core::machine::Settings;
use netloss_lab::controlplane::ControlPlane;
use serde_json::{Value, json};
use std::sync::Arc;

/// Our definition.
fn crd() -> CustomResourceDefinition {
    (DEFINITIONS[0].make)()
}

/// The definition that k8s-chaos installs, by the fields that its API has.
pub(crate) fn their_definition() -> CustomResourceDefinition {
    let of = |type_: &str, fields: &[&str]| fields.iter().map(|field| ((*field).to_owned(), json!({ "type": type_ }))).collect::<Vec<_>>();
    let texts = [
        "duration",
        "experimentDuration",
        "memorySize",
        "retryBackoff",
        "retryDelay",
        "schedule",
        "targetPath",
        "volumeName",
        "restartInterval",
        "taintKey",
        "taintValue",
        "taintEffect",
        "namespace",
        "action",
    ];
    let numbers = [
        "count",
        "maxRetries",
        "cpuLoad",
        "cpuWorkers",
        "memoryWorkers",
        "lossPercentage",
        "lossCorrelation",
        "fillPercentage",
        "maxPercentage",
    ];
    let mut spec: serde_json::Map<String, Value> =
        [of("string", &texts), of("integer", &numbers), of("boolean", &["dryRun", "allowProduction"])].concat().into_iter().collect();
    spec.insert("selector".to_owned(), json!({ "type": "object", "additionalProperties": { "type": "string" } }));
    let times = ["lastRunTime", "nextRetryTime", "startTime", "completedAt", "lastScheduledTime", "nextScheduledTime"];
    let mut status: serde_json::Map<String, Value> =
        [of("string", &["message", "phase", "lastError"]), of("string", &times), of("integer", &["retryCount"])]
            .concat()
            .into_iter()
            .collect();
    for list in ["affectedPods", "cordonedNodes", "taintedNodes"] {
        status.insert(list.to_owned(), json!({ "type": "array", "items": { "type": "string" } }));
    }
    serde_json::from_value(json!({
        "metadata": { "name": "chaosexperiments.chaos.gushchin.dev" },
        "spec": {
            "group": "chaos.gushchin.dev", "scope": "Namespaced",
            "names": { "kind": "ChaosExperiment", "listKind": "ChaosExperimentList", "plural": "chaosexperiments", "singular": "chaosexperiment" },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "required": ["action", "namespace", "selector"], "properties": spec },
                    "status": { "type": "object", "properties": status },
                } } },
            }],
        },
    }))
    .unwrap()
}

/// Objects of k8s-chaos's other actions, each with what its controller writes into status.
fn their_objects() -> Vec<(&'static str, Value, Value)> {
    let running = || json!({ "phase": "Running", "message": "theirs", "startTime": "2026-11-24T09:00:00Z", "retryCount": 1 });
    let affected = || json!({ "phase": "Running", "affectedPods": ["default/a:cpu-stress-1"], "lastRunTime": "2026-11-24T09:00:00Z" });
    vec![
        ("pod-kill", json!({ "schedule": "@hourly" }), running()),
        ("pod-delay", json!({ "duration": "30s" }), running()),
        ("node-drain", json!({}), json!({ "phase": "Running", "cordonedNodes": ["node-1"] })),
        ("node-taint", json!({ "taintKey": "k", "taintValue": "v", "taintEffect": "NoSchedule" }), json!({ "taintedNodes": ["node-1"] })),
        ("pod-cpu-stress", json!({ "cpuLoad": 50, "cpuWorkers": 2, "duration": "1m" }), affected()),
        ("pod-memory-stress", json!({ "memorySize": "64M", "memoryWorkers": 1, "duration": "1m" }), affected()),
        ("pod-failure", json!({ "maxPercentage": 30 }), json!({ "phase": "Completed", "completedAt": "2026-11-24T09:00:00Z" })),
        ("pod-disk-fill", json!({ "fillPercentage": 80, "targetPath": "/tmp", "volumeName": "data" }), affected()),
        ("pod-restart", json!({ "restartInterval": "30s", "dryRun": true }), json!({ "phase": "Failed", "lastError": "theirs" })),
    ]
}

struct Theirs {
    client: Client,
    // Ends with the test.
    _control_plane: ControlPlane,
}

impl Theirs {
    async fn start() -> Self {
        let control_plane = ControlPlane::start_for_tests().await.unwrap();
        let client = control_plane.client().await.unwrap();
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        let theirs = definitions.create(&PostParams::default(), &their_definition()).await.unwrap();
        await_condition(definitions, &theirs.name_any(), conditions::is_crd_established()).await.unwrap();
        Self { client, _control_plane: control_plane }
    }

    fn objects(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("chaos.gushchin.dev", "v1alpha1", "ChaosExperiment");
        Api::namespaced_with(self.client.clone(), "default", &ApiResource::from_gvk(&kind))
    }

    async fn create(&self, name: &str, spec: Value, status: Value) {
        let object =
            json!({ "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name }, "spec": spec });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.objects().create(&PostParams::default(), &object).await.unwrap();
        self.objects().patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await.unwrap();
    }

    /// A pass of ours over each object.
    async fn passes(&self) -> Vec<String> {
        let settings = Settings::new(AGENT_IMAGE, "netloss-system");
        let context = Context::new(self.client.clone(), settings, Arc::new(Timestamp::now), None);
        let objects = Api::<ChaosExperiment>::namespaced(self.client.clone(), "default").list(&ListParams::default()).await.unwrap();
        let mut errors = Vec::new();
        for object in objects {
            errors.extend(reconcile(&object, &context).await.err().map(|error| error.to_string()));
        }
        errors
    }

    async fn all(&self) -> Vec<DynamicObject> {
        self.objects().list(&ListParams::default()).await.unwrap().items
    }
}

#[tokio::test]
async fn objects_of_other_actions_are_neither_written_nor_pruned() {
    let theirs = Theirs::start().await;
    for (action, fields, status) in their_objects() {
        let mut spec = json!({ "action": action, "namespace": "default", "selector": { "app": "web" }, "count": 1, "maxRetries": 3 });
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        theirs.create(action, spec, status).await;
    }
    let before = theirs.all().await;
    assert_eq!(theirs.passes().await, [""; 0]);
    assert_eq!(theirs.all().await, before, "not written");

    // Our definition in place of theirs.
    let definitions = Api::<CustomResourceDefinition>::all(theirs.client.clone());
    let mut ours = crd();
    ours.metadata.resource_version = definitions.get(&ours.name_any()).await.unwrap().metadata.resource_version;
    definitions.replace(&ours.name_any(), &PostParams::default(), &ours).await.unwrap();
    let is_ours = |object: Option<&CustomResourceDefinition>| {
        let names = object.and_then(|object| object.status.as_ref()).and_then(|status| status.accepted_names.as_ref());
        names.and_then(|names| names.short_names.as_ref()).is_some_and(|names| names.contains(&"chaos".to_owned()))
    };
    await_condition(definitions, &ours.name_any(), is_ours).await.unwrap();
    let label = Patch::Merge(json!({ "metadata": { "labels": { "touched": "by-a-user" } } }));
    for object in &before {
        let after = theirs.objects().patch(&object.name_any(), &PatchParams::default(), &label).await.unwrap();
        for (field, value) in object.data["spec"].as_object().unwrap() {
            assert_eq!(&after.data["spec"][field], value, "{}: spec.{field}", object.name_any());
        }
        assert_eq!(after.data["status"], object.data["status"], "{}", object.name_any());
    }
    let touched = theirs.all().await;
    assert_eq!(theirs.passes().await, [""; 0]);
    assert_eq!(theirs.all().await, touched, "nor written after it");
}

/// Their definition drops what we write ahead. Without it nothing may be put into any pod.
#[tokio::test]
async fn under_a_definition_that_drops_our_status_nothing_is_begun() {
    let theirs = Theirs::start().await;
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "a", "labels": { "app": "web" } },
        "spec": { "nodeName": "nowhere", "automountServiceAccountToken": false, "containers": [{ "name": "app", "image": "app" }] },
    }));
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(theirs.client.clone(), "default");
    pods.create(&PostParams::default(), &pod.unwrap()).await.unwrap();
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(json!({ "status": { "phase": "Running" } }))).await.unwrap();
    let spec = json!({ "action": "pod-network-loss", "namespace": "default", "selector": { "app": "web" }, "duration": "30s" });
    theirs.create("x", spec, json!({})).await;
    let errors = theirs.passes().await;
    let words = "the definition of ChaosExperiment in this cluster drops what netloss writes into status: install config/crd";
    assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
    assert!(pods.get("a").await.unwrap().spec.unwrap().ephemeral_containers.is_none());
}

/// As ADR 0007's users have it, namespace and older names included.
#[tokio::test]
async fn a_manifest_of_k8s_chaos_applies_unchanged() {
    let world = World::new("beside-manifest").await;
    world.pod("a").await;
    let manifest = json!({
        "namespace": world.namespace, "count": 1, "duration": "2m", "lossPercentage": 15, "lossCorrelation": 10, "maxPercentage": 100,
        "allowProduction": false, "dryRun": true, "maxRetries": 3, "retryBackoff": "exponential", "retryDelay": "30s",
    });
    world.apply("x", spec(manifest.clone())).await.unwrap();
    world.pass("x", 0).await;
    assert_eq!(world.message("x").await, "DRY RUN: would inject 15% packet loss (pod-network-loss) into 1 pod(s): a");
    let mut real = manifest;
    real["dryRun"] = json!(false);
    world.apply("x", spec(real)).await.unwrap();
    world.running("x", "a").await;
    let status = world.status("x").await;
    assert!(status.message.unwrap().starts_with("Successfully injected 15% packet loss into 1 pod(s)"));
    assert_eq!(status.phase, Some(Phase::Running));
    let entry = &status.pods[0];
    assert_eq!(status.affected_pods, [format!("beside-manifest/a:{}", entry.container)]);
    assert!(entry.container.starts_with("network-loss-"), "{}", entry.container);
}

/// While k8s-chaos's controller runs, both would act on the same experiments.
#[tokio::test]
async fn beside_k8s_chaoss_controller_nothing_is_begun() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    install_definitions(control_plane.client().await.unwrap()).await;
    let theirs = World::on(&control_plane, "k8s-chaos-system").await;
    let world = World::on(&control_plane, "beside").await;
    let label = json!({ "labels": { "app.kubernetes.io/name": "k8s-chaos" } });
    // Anybody may give its label to a pod of theirs: that stops nobody.
    let forged = json!({ "labels": { "app.kubernetes.io/name": "k8s-chaos", "app": "forged" } });
    world.pod_with("forged", forged, json!({})).await;
    world.pod_with("b", json!({ "labels": { "app": "other" } }), json!({})).await;
    world.apply("beside-forged", spec(json!({ "selector": { "app": "other" } }))).await.unwrap();
    world.pass("beside-forged", 0).await;
    assert_eq!(world.agents("b").await.len(), 1, "{}", world.message("beside-forged").await);
    theirs.pod_with("controller-manager", label, json!({})).await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let said = world.message("x").await;
    assert!(said.starts_with("k8s-chaos's controller is active (pod k8s-chaos-system/controller-manager)"), "{said}");
    assert!(world.agents("a").await.is_empty());
    theirs.delete_at_once("controller-manager").await;
    world.apply("x", spec(json!({ "lossPercentage": 20 }))).await.unwrap();
    world.pass("x", 5).await;
    assert_eq!(world.agents("a").await.len(), 1);
}
