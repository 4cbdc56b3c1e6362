//! Objects that anybody may have written, of any action, spec and status: whatever is in them, the experiments of others run their course.

use crate::leader::{built, program};
use crate::lifecycle::eventually;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, DEFINITIONS, Phase, PodState, SHORTENED_ANNOTATION};
use netloss_controller::admission::fetch;
use netloss_core::admission::{Operation, validate};
use netloss_core::machine::{Experiment, Settings};
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::{Value, json};
use std::process::Command;
use tokio::task::spawn_blocking;

/// What config/manager allows a replica, in KiB.
const MEMORY: u64 = 128 * 1024;

/// Objects of somebody else's in a namespace of theirs.
struct Theirs {
    client: Client,
}

impl Theirs {
    async fn on(control_plane: &ControlPlane) -> Self {
        Self { client: World::on(control_plane, "theirs").await.client }
    }

    async fn write(&self, name: &str, metadata: Value, spec: Value, status: Value) {
        let resource = ApiResource::erase::<ChaosExperiment>(&());
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), "theirs", &resource);
        let mut object =
            json!({ "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": metadata, "spec": spec });
        object["metadata"]["name"] = json!(name);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        if !status.is_null() {
            let patch = Patch::Merge(json!({ "status": status }));
            api.patch_status(name, &PatchParams::default(), &patch).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// netloss on a control plane of its own: a controller of all namespaces as a process.
struct Netloss {
    world: World,
    controller: Daemon,
}

impl Netloss {
    async fn start(control_plane: &ControlPlane) -> Self {
        let world = World::on(control_plane, "shop").await;
        let client = &world.client;
        let named = |name: &str| json!({ "metadata": { "name": name } });
        let namespace = serde_json::from_value(named("netloss-system")).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let lease = serde_json::from_value(named("netloss-controller")).unwrap();
        Api::<Lease>::namespaced(client.clone(), "netloss-system").create(&PostParams::default(), &lease).await.unwrap();
        let freeze = serde_json::from_value(named("netloss-freeze")).unwrap();
        Api::<ConfigMap>::namespaced(client.clone(), "netloss-system").create(&PostParams::default(), &freeze).await.unwrap();
        let mut command = Command::new(program().await);
        let arguments = ["run", "--leader-elect", "--pod-name=controller", &format!("--agent-image={AGENT_IMAGE}")].map(str::to_owned);
        command.env("KUBECONFIG", control_plane.kubeconfig_path()).args(arguments);
        let log = control_plane.dir().join("controller.log");
        let controller = Daemon::start("netloss-controller", &command, &log, Lifetime::WithLab).unwrap();
        Self { world, controller }
    }

    /// The most memory that the controller has had, in KiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.controller.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// An experiment from its begin to its end, with a review of it before.
    async fn whole_run(&self, name: &str, spec_: Value) {
        let world = &self.world;
        world.pod_with(&format!("pod-{name}"), json!({ "labels": { "only": name } }), json!({})).await;
        let mut asked = spec(json!({ "selector": { "only": name } }));
        asked.as_object_mut().unwrap().extend(spec_.as_object().unwrap().clone());
        let typed = serde_json::from_value(asked.clone()).unwrap();
        let (settings, now) = (Settings::new(AGENT_IMAGE, "netloss-system"), world.at(0));
        let experiment = Experiment {
            namespace: &world.namespace,
            uid: "",
            generation: 1,
            deleting: false,
            finalized: false,
            requested: None,
            spec: &typed,
            status: None,
        };
        let seen = fetch(&world.client, &experiment, &UserInfo::default(), &settings).await.expect("a review is answered");
        assert_eq!(validate(&experiment, Operation::Create, &seen, now, &settings).refusal, None);

        world.apply(name, asked).await.unwrap();
        eventually("the agent is put in", async || {
            self.controller.ensure_running().unwrap();
            world.status(name).await.pods.iter().any(|pod| pod.state >= PodState::Injected)
        })
        .await;
        let entry = world.status(name).await.pods[0].clone();
        let report = world.removed(&crate::pods::run_of(&entry)).to_line();
        world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
        eventually("the run ends", async || world.status(name).await.phase == Some(Phase::Completed)).await;
    }
}

/// A command of one of the programs, to its end.
async fn ended(control_plane: &ControlPlane, program: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.env("KUBECONFIG", control_plane.kubeconfig_path()).args(arguments);
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

/// Our definition as k8s-chaos's own or an older one may be: it knows no bounds.
async fn install_without_bounds(client: &Client) {
    let mut definition = serde_json::to_value((DEFINITIONS[0].make)()).unwrap();
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({ "type": "object", "properties": { "spec": any, "status": any } });
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let mut definition: CustomResourceDefinition = serde_json::from_value(definition).unwrap();
    definition.metadata.resource_version = api.get("chaosexperiments.chaos.gushchin.dev").await.unwrap().metadata.resource_version;
    api.replace("chaosexperiments.chaos.gushchin.dev", &PostParams::default(), &definition).await.unwrap();
}

#[tokio::test]
async fn nothing_in_a_foreign_object_keeps_others_from_their_course() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    install_without_bounds(&client).await;
    let theirs = Theirs::on(&control_plane).await;
    let kill = |more: Value| {
        let mut spec = json!({ "action": "pod-kill", "selector": { "a": "b" } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    // The definition that was there before is a moment in the API server's memory.
    eventually("there are no bounds", async || {
        let probe = json!({
            "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": "probe" },
            "spec": { "action": 7 },
        });
        let resource = ApiResource::erase::<ChaosExperiment>(&());
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), "theirs", &resource);
        api.create(&PostParams::default(), &serde_json::from_value(probe).unwrap()).await.is_ok()
    })
    .await;
    let loss = |more: Value| spec(more);
    for (name, spec, status) in [
        ("port", kill(json!({ "targetPorts": [70000] })), Value::Null),
        ("text", kill(json!({ "count": "many", "selector": "all" })), Value::Null),
        ("action", json!({ "action": "pod-explode", "selector": {} }), Value::Null),
        ("empty", json!({}), Value::Null),
        ("pods", kill(json!({})), json!({ "pods": "none", "affectedPods": 7 })),
        ("time", kill(json!({})), json!({ "startTime": "soon", "completedAt": "2026-01-01T00:00:00+99:99" })),
        ("phase", loss(json!({})), json!({ "phase": "Exploded", "conditions": [1] })),
        ("count", loss(json!({ "count": -5 })), Value::Null),
        ("ours", loss(json!({ "paused": true })), json!({ "pods": [{ "name": "a" }] })),
    ] {
        theirs.write(name, json!({}), spec, status).await;
    }
    let netloss = Netloss::start(&control_plane).await;
    let world = &netloss.world;
    netloss.whole_run("first", json!({})).await;

    // One that waits for another, of whatever action and status, says so.
    theirs.write("of-others", json!({}), kill(json!({ "targetPorts": [70000] })), json!({ "phase": "Completed" })).await;
    let waits = spec(json!({ "dependsOn": ["port"] }));
    theirs.write("waits", json!({}), waits, Value::Null).await;
    let there = Api::<DynamicObject>::namespaced_with(client.clone(), "theirs", &ApiResource::erase::<ChaosExperiment>(&()));
    eventually("it says what it waits for", async || {
        let status = there.get("waits").await.unwrap().data["status"]["message"].to_string();
        status.contains("Waiting for the experiment") && status.contains("port")
    })
    .await;
    // One of ours that does not decode says so in an event.
    let events = Api::<k8s_openapi::api::events::v1::Event>::namespaced(client.clone(), "theirs");
    eventually("it is told", async || {
        let list = events.list(&kube::api::ListParams::default()).await.unwrap();
        ["count", "ours", "phase"].iter().all(|name| {
            list.iter().any(|event| {
                event.reason.as_deref() == Some("Unreadable") && event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(name)
            })
        })
    })
    .await;

    // One that is being deleted says until when it is held.
    let held = json!({ "finalizers": ["chaos.gushchin.dev/netloss"] });
    theirs.write("held", held, loss(json!({ "count": -5 })), Value::Null).await;
    there.delete("held", &kube::api::DeleteParams::default()).await.unwrap();
    eventually("it is told", async || {
        let list = events.list(&kube::api::ListParams::default()).await.unwrap();
        list.iter().any(|event| event.note.as_deref().is_some_and(|note| note.starts_with("Its finalizer stays until ")))
    })
    .await;
    there.patch("held", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } }))).await.unwrap();

    // A record that would be too large for etcd keeps no run from its end.
    netloss.whole_run("giant", json!({ "targetPath": "p".repeat(1_300_000) })).await;
    let records = Api::<ChaosExperimentHistory>::namespaced(client.clone(), &world.namespace);
    let records = records.list(&kube::api::ListParams::default()).await.unwrap();
    let of =
        |name: &str| records.iter().find(|record| record.spec.experiment_ref.name == name).unwrap_or_else(|| panic!("no record of {name}"));
    assert!(of("giant").metadata.annotations.as_ref().unwrap()[SHORTENED_ANNOTATION].contains("fields of the spec"));
    assert_eq!(of("first").metadata.annotations, None);

    // The commands for people, and the one before netloss goes.
    let plugin = built("kubectl-netloss").await;
    let (works, said) = ended(&control_plane, &plugin, &["status", "-A"]).await;
    assert!(works && said.contains("first") && said.contains("giant") && said.contains("left out theirs/port"), "{said}");
    // There is no webhook here, which it finds fault with.
    let (_, said) = ended(&control_plane, &plugin, &["doctor", "-n", "theirs"]).await;
    assert!(said.contains("webhook") && said.contains("left out theirs/port"), "{said}");
    let (works, said) = ended(&control_plane, &plugin, &["history", "-A"]).await;
    assert!(works && said.contains("giant"), "{said}");
    let drain = ["drain", "--timeout=1m", &format!("--agent-image={AGENT_IMAGE}")].map(str::to_owned);
    let (works, said) = ended(&control_plane, &program().await, &drain.each_ref().map(String::as_str)).await;
    assert!(works && said.contains("netloss can be uninstalled"), "{said}");
}

/// As large as the definition lets them be, in each of the ways in which an object grows.
#[tokio::test]
async fn the_largest_objects_that_are_admitted_exhaust_no_memory() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    let theirs = Theirs::on(&control_plane).await;
    let kill = || json!({ "action": "pod-kill", "selector": { "a": "b" } });
    let labels: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("label-{n}"), json!("x".repeat(20)))).collect();
    for number in 0..30 {
        let status = json!({ "affectedPods": vec!["a".repeat(30_000); 40] });
        theirs.write(&format!("texts-{number}"), json!({}), kill(), status).await;
        theirs.write(&format!("labels-{number}"), json!({ "labels": labels }), kill(), Value::Null).await;
    }
    let netloss = Netloss::start(&control_plane).await;
    netloss.whole_run("first", json!({})).await;
    let peak = netloss.peak();
    assert!(peak < MEMORY, "{peak} KiB");
    println!("{peak} KiB at most, of {MEMORY}");
}

/// Metadata that the API server admits and k8s-openapi does not decode, or only just.
fn odd_metadata() -> Vec<Value> {
    let entry = |time: &str, fields: Value| {
        json!({ "managedFields": [{
            "manager": "someone", "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields,
        }] })
    };
    let labels = || json!({ "f:metadata": { "f:labels": { "f:odd": {} } } });
    let deep = (0..300).fold(json!({}), |inner, _| json!({ "f:a": inner }));
    vec![
        entry("9999-12-31T12:00:00Z", labels()),
        entry("9999-12-31T23:59:59Z", labels()),
        entry("0000-01-01T00:00:00Z", labels()),
        entry("2026-01-01T00:00:00Z", deep),
    ]
}

/// Writes odd metadata into the object at this path. The API server takes a field from a manager whose value another one changes in the same request.
async fn make_odd(client: &Client, path: &str, metadata: &Value) {
    let mut kept = String::new();
    let mut odd = metadata.clone();
    // A manager of a version that the kind does not have is dropped.
    let version = if path.starts_with("/apis/chaos.gushchin.dev/") { "chaos.gushchin.dev/v1alpha1" } else { "v1" };
    odd["managedFields"][0]["apiVersion"] = json!(version);
    for change in [json!({ "labels": { "odd": "true" } }), odd] {
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        let request = request.body(serde_json::to_vec(&json!({ "metadata": change })).unwrap()).unwrap();
        kept = client.request_text(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let time = metadata["managedFields"][0]["time"].as_str().unwrap();
    // Fields that a kind does not have, and the first of all times, may be dropped.
    assert!(kept.contains(time) || !time.starts_with("9999"), "{path}: the API server keeps {metadata}: {kept}");
    println!("{path}: {time} {}", if kept.contains(time) { "kept" } else { "dropped" });
}

/// Who may write an object may write its metadata too, `managedFields` included.
#[tokio::test]
async fn metadata_that_does_not_decode_keeps_others_running() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    let theirs = Theirs::on(&control_plane).await;
    let netloss = Netloss::start(&control_plane).await;
    let world = &netloss.world;
    let group = "/apis/chaos.gushchin.dev/v1alpha1/namespaces";
    for (n, metadata) in odd_metadata().into_iter().enumerate() {
        theirs.write(&format!("odd-{n}"), json!({}), spec(json!({ "paused": true })), Value::Null).await;
        make_odd(&client, &format!("{group}/theirs/chaosexperiments/odd-{n}"), &metadata).await;
        // Pods that the selectors of the experiments select.
        for name in ["first", "second"] {
            let pod = format!("odd-{n}-{name}");
            world.pod_with(&pod, json!({ "labels": { "only": name } }), json!({})).await;
            world.set_status(&pod, json!({ "phase": "Pending" })).await;
            make_odd(&client, &format!("/api/v1/namespaces/shop/pods/{pod}"), &metadata).await;
        }
    }
    make_odd(&client, "/api/v1/namespaces/shop", &odd_metadata()[0]).await;
    // A pod whose status does not decode.
    world.pod_with("late", json!({ "labels": { "only": "first" } }), json!({})).await;
    world.set_status_raw("late", json!({ "phase": "Running", "startTime": "9999-12-31T12:00:00Z" })).await;
    netloss.whole_run("first", json!({})).await;

    let records = Api::<ChaosExperimentHistory>::namespaced(client.clone(), "shop");
    let record = records.list(&kube::api::ListParams::default()).await.unwrap().items.remove(0).metadata.name.unwrap();
    make_odd(&client, &format!("{group}/shop/chaosexperimenthistories/{record}"), &odd_metadata()[0]).await;
    netloss.whole_run("second", json!({})).await;

    let plugin = built("kubectl-netloss").await;
    let (works, said) = ended(&control_plane, &plugin, &["status", "-A"]).await;
    assert!(works && said.contains("first") && said.contains("odd-0"), "{said}");
    let (works, said) = ended(&control_plane, &plugin, &["history", "-A"]).await;
    assert!(works && said.contains("first") && said.contains("second"), "{said}");
    let drain = ["drain", "--timeout=1m", &format!("--agent-image={AGENT_IMAGE}")].map(str::to_owned);
    let (works, said) = ended(&control_plane, &program().await, &drain.each_ref().map(String::as_str)).await;
    assert!(works && said.contains("netloss can be uninstalled"), "{said}");
}
