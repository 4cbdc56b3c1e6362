//! What a command of `kubectl netloss` reaches: its namespace, and of that what is its own.

use crate::cli::{Running, brought, controller, netloss, own, own_pod, stage, stopped, until};
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use netloss_api::{PodState, PodStatus};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Lets experiments of every namespace act on this one.
async fn open_to_others(world: &World) {
    let annotation = Patch::Merge(json!({ "metadata": { "annotations": { "chaos.gushchin.dev/allow-experiments-from": "*" } } }));
    Api::<Namespace>::all(world.client.clone()).patch(&world.namespace, &PatchParams::default(), &annotation).await.unwrap();
}

/// The agent of an experiment in `world` whose loss is in place in the pod a of `target`.
async fn running_in(world: &World, target: &World, name: &str) -> PodStatus {
    world.apply(name, spec(json!({ "namespace": target.namespace, "duration": "1h" }))).await.unwrap();
    for seconds in [0, 1, 2] {
        world.pass(name, seconds).await;
        let entry = world.status(name).await.pods[0].clone();
        World::node().set_log(&entry, world.applied(&run_of(&entry)).to_line());
        if entry.state >= PodState::Injected {
            target.set_states("a", &[(entry.container.as_str(), json!({ "running": {} }))]).await;
        }
    }
    let entry = world.status(name).await.pods[0].clone();
    assert_eq!((entry.state, target.agents("a").await.len()), (PodState::Applied, 1));
    entry
}

/// The controller is down, so that these commands act with their user's rights.
#[tokio::test]
async fn an_agent_of_another_namespaces_experiment_is_not_stopped() {
    let (world, owner) = (stage("cli-scope").await, World::new("cli-scope-owner").await);
    open_to_others(&world).await;
    world.pod("a").await;
    let entry = running_in(&owner, &world, "x").await;
    let stop = netloss(&world, &["stop", "--all", "--timeout=5s"]).await;
    assert!(stop.code == 0 && stop.stderr.contains("nothing is under way"), "{stop:?}");
    let fix = netloss(&world, &["doctor", "--fix"]).await;
    assert!(fix.stdout.contains("agents: each one that works belongs to an experiment"), "{fix:?}");
    assert_eq!(world.agents("a").await.len(), 1, "nothing was sent after the agent");
    assert!(owner.experiments().get("x").await.unwrap().metadata.deletion_timestamp.is_none());

    // With no right to look into other namespaces, whose it is cannot be told.
    let rights = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "all", "namespace": world.namespace }, "rules": rights });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "all", "namespace": world.namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "owner-of-cli-scope" }],
    });
    for object in [role, binding] {
        netloss_lab::cluster::apply(&world.client, &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let stop = netloss(&world, &["stop", "--all", "--timeout=5s", "--direct", "--as=owner-of-cli-scope"]).await;
    assert!(stop.code == 0 && stop.stderr.contains("its experiment may be one of another namespace"), "{stop:?}");
    let sick = netloss(&world, &["doctor", "--as=owner-of-cli-scope"]).await;
    assert!(sick.stdout.contains("its experiment is in no namespace that could be read"), "{sick:?}");
    assert_eq!(world.agents("a").await.len(), 1, "nothing was sent after the agent");

    // Where its own namespace is named, it is stopped.
    let stop = Running::start(&owner, &["stop", "--all"]).await;
    let container = format!("{}-stop", entry.container);
    until("it is told to stop", async || world.agents("a").await.iter().any(|agent| agent.name == container)).await;
    let end = json!({ "terminated": { "exitCode": 0, "message": owner.removed(&run_of(&entry)).to_line() } });
    world.set_states("a", &[(entry.container.as_str(), end), (container.as_str(), json!({ "terminated": { "exitCode": 0 } }))]).await;
    let stop = stop.end().await;
    assert!(stop.code == 0 && stop.stdout.starts_with("cli-scope-owner/x: stopped with your own rights"), "{stop:?}");
}

#[tokio::test]
async fn stop_pauses_schedules_deletes_single_runs_and_says_which() {
    let (world, other) = (stage("cli-stop").await, stage("cli-stop-other").await);
    world.pod("a").await;
    let _controller = controller(&world).await;
    let schedule = json!({ "schedule": "0 0 1 1 *", "selector": { "app": "nobody" } });
    world.apply("nightly", spec(schedule.clone())).await.unwrap();
    other.apply("nightly", spec(schedule)).await.unwrap();
    world.apply("once", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "once").await;
    let stop = Running::start(&world, &["stop", "--all"]).await;
    stopped(&world, &entry).await;
    let stop = stop.end().await;
    let lines: std::collections::BTreeSet<&str> = stop.stdout.lines().collect();
    assert_eq!(stop.code, 0, "{stop:?}");
    assert!(
        lines.contains("cli-stop/nightly: paused: no pod was touched")
            && lines.contains("cli-stop/once: stopped and deleted: a (the loss is verified to be gone)"),
        "{stop:?}"
    );
    assert_eq!(world.experiments().get("nightly").await.unwrap().spec.paused, Some(true));
    assert!(world.experiments().get_opt("once").await.unwrap().is_none());
    assert_eq!(other.experiments().get("nightly").await.unwrap().spec.paused, None, "it is in another namespace");
}

/// A Deployment's labels may be on pods of others, and an experiment selects by labels.
#[tokio::test]
async fn a_workloads_run_is_refused_where_it_could_affect_pods_of_others() {
    let world = stage("cli-owners").await;
    own_pod(&world, "a", json!({})).await;
    let dry = ["run", "deploy/web", "--loss=10", "--duration=30s", "--dry-run"];
    assert_eq!(netloss(&world, &dry).await.code, 0);
    world.pod("b").await;
    let refused = netloss(&world, &dry).await;
    assert!(refused.code == 1 && refused.stderr.contains("1 pod(s) with the labels of deployment/web are not its own: b"), "{refused:?}");
    let manifest = netloss(&world, &["manifest", "deploy/web", "--loss=10", "--duration=30s"]).await;
    assert!(manifest.code == 1 && manifest.stdout.is_empty(), "{manifest:?}");
    // By labels, all pods with these are meant.
    assert_eq!(netloss(&world, &["run", "-l=app=web", "--loss=10", "--duration=30s", "--dry-run"]).await.code, 0);
    let exclude = Patch::Merge(json!({ "metadata": { "labels": { "chaos.gushchin.dev/exclude": "true" } } }));
    world.pods().patch("b", &PatchParams::default(), &exclude).await.unwrap();
    assert_eq!(netloss(&world, &dry).await.code, 0);
}

/// Somebody takes the finalizer away, as the documents say one can: the object goes at once, and its agent works on.
#[tokio::test]
async fn a_stop_whose_experiment_is_gone_stops_its_agents_all_the_same() {
    let world = stage("cli-gone").await;
    world.pod("a").await;
    let controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    // It would put the finalizer back, and its lease is fresh for some seconds.
    controller.signal(Signal::SIGSTOP).unwrap();
    let none = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    world.experiments().patch("x", &PatchParams::default(), &none).await.unwrap();
    let stop = Running::start(&world, &["stop", "x"]).await;
    stopped(&world, &entry).await;
    let stop = stop.end().await;
    assert!(stop.code == 0 && stop.stdout.ends_with("a (the loss is verified to be gone)\n"), "{stop:?}");
    assert!(world.experiments().get_opt("x").await.unwrap().is_none());
    controller.signal(Signal::SIGCONT).unwrap();
}

/// Nobody reads a freeze where no controller is.
#[tokio::test]
async fn a_freeze_of_a_namespace_without_a_controller_is_refused() {
    let world = stage("cli-freeze-elsewhere").await;
    let there = format!("--controller-namespace={}", world.namespace);
    let frozen = Running::start_for(&world, None, &["freeze", "--wait=false", &there]).await.end().await;
    assert!(
        frozen.code == 1 && frozen.stdout.is_empty() && frozen.stderr.contains("no controller of netloss is known there"),
        "{frozen:?}"
    );
    assert!(Api::<ConfigMap>::namespaced(world.client.clone(), &world.namespace).get_opt("netloss-freeze").await.unwrap().is_none());
}

/// The freeze is for every run, and nobody else watches this one.
#[tokio::test]
async fn a_freeze_stops_a_direct_run() {
    let world = stage("cli-freeze-direct").await;
    world.pod("a").await;
    let loss = ["run", "pod/a", "--loss=10", "--duration=1h", "--direct"];
    for more in ["--abort=1", "--timeout=1m"] {
        let refused = netloss(&world, &[&loss[..], &[more]].concat()).await;
        assert!(refused.code == 2 && refused.stderr.contains("cannot be used with"), "{refused:?}");
    }
    let image = format!("--agent-image={AGENT_IMAGE}");
    let run = Running::start(&world, &[&loss[..], &[&image]].concat()).await;
    until("the agent is put in", async || world.agents("a").await.len() == 1).await;
    let agent = world.agents("a").await.remove(0);
    let value_of = |name: &str| agent.args.iter().flatten().find_map(|word| word.strip_prefix(name)).unwrap().to_owned();
    let line = world.applied(&value_of("--run=")).to_line();
    let entry = json!({
        "namespace": world.namespace, "name": "a", "uid": world.pods().get("a").await.unwrap().metadata.uid, "container": agent.name,
        "image": agent.image, "argv": agent.args, "deadline": value_of("--deadline="), "attempt": 1, "state": "injected",
        "asked": { "lossPercentage": 10.0, "correlation": 0.0, "direction": "both", "duration": "1h" },
    });
    let entry: PodStatus = serde_json::from_value(entry).unwrap();
    World::node().set_log(&entry, line);
    world.set_state(&entry, json!({ "running": {} })).await;
    until("the loss is in place", async || run.said().contains("applied")).await;
    let frozen = netloss(&world, &["freeze", "--reason=the sale", "--wait=false"]).await;
    assert_eq!(frozen.code, 0, "{frozen:?}");
    stopped(&world, &entry).await;
    let run = run.end().await;
    assert!(run.code == 3 && run.stderr.contains("all experiments are frozen (the sale): stopping the agent"), "{run:?}");
    Api::<ConfigMap>::namespaced(world.client.clone(), &own(&world)).delete("netloss-freeze", &DeleteParams::default()).await.unwrap();
}

/// kubectl's column and our own: what the model loses, and not the default that the API server fills into lossPercentage.
#[tokio::test]
async fn the_loss_that_is_shown_is_the_requested_one() {
    let world = stage("cli-column").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "lossPercentage": null, "lossModel": { "type": "gemodel", "probabilities": [1, 9] } }))).await.unwrap();
    assert!((world.experiments().get("x").await.unwrap().spec.loss_percentage - 5.0).abs() < f64::EPSILON);
    let shown = async || {
        let status = netloss(&world, &["status", "x", "-o", "json"]).await.json();
        let path = format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{}/chaosexperiments/x", world.namespace);
        let request = http::Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Vec::new()).unwrap();
        let table: Value = world.client.request(request).await.unwrap();
        let columns = table["columnDefinitions"].as_array().unwrap();
        let loss = columns.iter().position(|column| column["name"] == "Loss").unwrap();
        (status["asked"]["lossPercentage"].clone(), table["rows"][0]["cells"][loss].clone())
    };
    assert_eq!(shown().await, (json!(10.0), Value::Null));
    world.pass("x", 0).await;
    let (ours, kubectls) = shown().await;
    assert_eq!((ours.as_f64(), kubectls.as_f64()), (Some(10.0), Some(10.0)));
}
