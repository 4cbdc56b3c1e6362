//! A run from apply to its end.

use crate::node::Node;
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::controller::Action;
use kube::{Client, api::PostParams};
use netloss_api::{Outcome, Phase, PodState};
use netloss_contract::{Cleaned, Event};
use netloss_controller::reconcile::Context;
use netloss_core::machine::Settings;
use netloss_lab::controlplane::{ControlPlane, Release};
use netloss_lab::host::paths::workspace_root;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_run_from_apply_to_recovery() {
    let world = World::new("lifecycle-whole").await;
    world.pod("a").await;
    let applied = world.apply("x", spec(json!({}))).await.unwrap();

    world.pass("x", 0).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.run), (Some(Phase::Pending), Some(1)));
    assert_eq!(status.message.as_deref(), Some("Injecting 10% packet loss into 1 pod(s)"));
    let entry = status.pods[0].clone();
    assert_eq!((entry.state, entry.node.as_deref()), (PodState::Injected, Some("localhost")));
    assert_eq!(status.affected_pods, [format!("lifecycle-whole/a:{}", entry.container)]);

    let agent = serde_json::to_value(&world.agents("a").await[0]).unwrap();
    assert_eq!(
        agent["securityContext"],
        json!({
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!((&agent["image"], &agent["imagePullPolicy"]), (&json!(AGENT_IMAGE), &json!("IfNotPresent")));
    assert_eq!(agent["terminationMessagePolicy"], json!("FallbackToLogsOnError"));
    assert_eq!(
        agent["args"].as_array().unwrap()[..4],
        [json!("run"), json!("--model=random"), json!("--loss=10"), json!("--correlation=0")]
    );

    world.set_state(&entry, json!({ "waiting": { "reason": "ImagePullBackOff", "message": "back-off" } })).await;
    world.pass("x", 2).await;
    assert_eq!(world.message("x").await, "Injecting 10% packet loss into 1 pod(s); a: ImagePullBackOff");

    // Running, but its log cannot be read, then says nothing, then says that the loss is in place.
    world.set_state(&entry, json!({ "running": { "startedAt": world.at(4).to_string() } })).await;
    world.pass("x", 4).await;
    assert!(world.message("x").await.contains("a: the agent runs, but its log cannot be read"), "{}", world.message("x").await);
    World::node().set_log(&entry, "noise\n".to_owned());
    assert_eq!(world.pass("x", 5).await, Action::requeue(Duration::from_secs(2)));
    World::node().set_log(&entry, format!("noise\n{}\n", world.applied(&run_of(&entry)).to_line()));
    world.pass("x", 6).await;
    let status = world.status("x").await;
    assert_eq!(status.phase, Some(Phase::Running));
    assert_eq!(status.message.as_deref(), Some("Successfully injected 10% packet loss into 1 pod(s)"));
    let running = &status.pods[0];
    assert_eq!((running.state, running.interface.as_deref(), running.backend.as_deref()), (PodState::Applied, Some("eth0"), Some("tc")));
    assert_eq!((running.unguarded, running.observed), (Some(true), None));

    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": report } })).await;
    assert_eq!(world.pass("x", 36).await, Action::await_change());
    let object = world.experiments().get("x").await.unwrap();
    let status = object.status.unwrap();
    assert_eq!((status.phase, status.observed_generation), (Some(Phase::Completed), Some(1)));
    assert_eq!(status.message.as_deref(), Some("Successfully injected 10% packet loss into 1 pod(s); it has ended"));
    assert_eq!(status.completed_at.map(|at| at.0.as_second()), Some(world.at(36).as_second()));
    let ended = &status.pods[0];
    assert_eq!((ended.state, ended.outcome), (PodState::Ended, Some(Outcome::Clean)));
    let observed = ended.observed.unwrap();
    assert_eq!(observed.egress.unwrap().loss_percentage, Some(9.8));
    assert_eq!(observed.ingress.map(|ingress| (ingress.packets, ingress.dropped)), Some((800, 84)));
    assert_eq!(object.spec, applied.spec, "the spec is the user's");
    for fields in object.metadata.managed_fields.iter().flatten().filter(|fields| fields.manager.as_deref() == Some("netloss-controller")) {
        let owned = serde_json::to_value(&fields.fields_v1).unwrap();
        assert!(owned.get("f:spec").is_none(), "it was never written: {owned}");
    }

    assert_eq!(world.event_reasons("ChaosExperiment", "x").await, ["ExperimentStarted", "ExperimentSucceeded"]);
    assert_eq!(world.event_reasons("Pod", "a").await, ["ChaosNetworkLossInjected", "Recovered"]);
}

#[tokio::test]
async fn a_finished_experiment_runs_again_only_when_it_is_edited() {
    let world = World::new("lifecycle-again").await;
    world.pod("a").await;
    let first = world.injected("x").await;
    let report = world.removed(&run_of(&first)).to_line();
    world.set_state(&first, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass("x", 40).await;
    assert_eq!(world.status("x").await.phase, Some(Phase::Completed));

    let version = world.experiments().get("x").await.unwrap().metadata.resource_version;
    world.pass("x", 100_000).await;
    assert_eq!(world.experiments().get("x").await.unwrap().metadata.resource_version, version, "neither a resync nor a restart");

    world.apply("x", spec(json!({ "lossPercentage": 20 }))).await.unwrap();
    world.pass("x", 100_001).await;
    let status = world.status("x").await;
    assert_eq!((status.run, status.observed_generation, status.phase), (Some(2), Some(2), Some(Phase::Pending)));
    let mut names: Vec<String> = world.agents("a").await.into_iter().map(|agent| agent.name).collect();
    names.sort();
    assert_eq!(names, [first.container, status.pods[0].container.clone()]);
}

/// What stops the agent is a container of its own, without any right; what the spec asks for now begins when the agent has ended.
#[tokio::test]
async fn an_edit_during_a_run_stops_it_first() {
    let world = World::new("lifecycle-edit").await;
    world.pod("a").await;
    let entry = world.injected("x").await;
    world.set_applied(&entry).await;
    world.pass("x", 5).await;
    assert_eq!(world.agents("a").await.len(), 1);

    world.apply("x", spec(json!({ "lossPercentage": 20 }))).await.unwrap();
    world.pass("x", 6).await;
    let message = world.message("x").await;
    assert!(message.ends_with("the spec was edited: this run is stopped, and a new one begins after it"), "{message}");
    let agents = world.agents("a").await;
    let stop = serde_json::to_value(agents.iter().find(|agent| agent.name != entry.container)).unwrap();
    assert_eq!(stop["name"], json!(format!("{}-stop", entry.container)));
    assert_eq!(stop["args"].as_array().unwrap()[..3], [json!("stop"), json!("--json"), json!("--timeout=30s")]);
    assert_eq!(stop["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(stop["securityContext"]["runAsNonRoot"], json!(true));
    world.pass("x", 7).await;
    assert_eq!(world.agents("a").await.len(), 2, "once");

    let report = world.removed(&run_of(&entry)).to_line();
    let ended = json!({ "terminated": { "exitCode": 0, "message": report } });
    world.set_states("a", &[(entry.container.as_str(), ended.clone()), (stop["name"].as_str().unwrap(), json!({ "running": {} }))]).await;
    world.pass("x", 8).await;
    assert_eq!(world.status("x").await.run, Some(1), "not while something of the first run is at work");
    world
        .set_states(
            "a",
            &[(entry.container.as_str(), ended.clone()), (stop["name"].as_str().unwrap(), json!({ "terminated": { "exitCode": 0 } }))],
        )
        .await;
    world.pass("x", 9).await;
    world.pass("x", 10).await;
    let status = world.status("x").await;
    assert_eq!((status.run, status.observed_generation, status.phase), (Some(2), Some(2), Some(Phase::Pending)));
    assert_eq!(world.agents("a").await.len(), 3);
    assert!(status.pods[0].argv.contains(&"--loss=20".to_owned()), "{:?}", status.pods[0].argv);
}

#[tokio::test]
async fn a_report_of_another_run_is_not_believed() {
    let world = World::new("lifecycle-forged").await;
    world.pod("a").await;
    let entry = world.injected("x").await;
    let report = world.removed("somebody-else/1").to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass("x", 40).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome, status.pods[0].observed), (Some(Phase::Pending), None, None));
    let sent = status.pods[0].repair.clone().unwrap();
    world.agent("a", &sent.container).await;

    let report = world.record("somebody-else/1", Event::Cleaned(Cleaned { removed: Vec::new() })).to_line();
    let ended = json!({ "terminated": { "exitCode": 0, "message": report } });
    world.set_states("a", &[(entry.container.as_str(), ended.clone()), (sent.container.as_str(), ended)]).await;
    world.pass("x", 50).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Failed), Some(Outcome::Unknown)));
    assert!(status.message.unwrap().contains("loss may remain"));
}

#[tokio::test]
async fn a_deleted_pod_ends_its_part_of_the_run() {
    let world = World::new("lifecycle-pod-deleted").await;
    world.pod("a").await;
    let entry = world.injected("x").await;
    world.set_applied(&entry).await;
    world.pass("x", 5).await;
    assert_eq!(world.status("x").await.phase, Some(Phase::Running));
    world.delete_at_once("a").await;
    world.pass("x", 9).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Completed), Some(Outcome::PodEnded)));
}

/// A client of the controller's service account, under the committed roles.
pub(crate) async fn service_account(world: &World) -> Client {
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "netloss-system" } })).unwrap();
    match kube::Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        answer => drop(answer.unwrap()),
    }
    for file in [
        "manager/agent.yaml",
        "policy/containers.yaml",
        "policy/experiments.yaml",
        "rbac/role.yaml",
        "rbac/role_binding.yaml",
        "rbac/freeze_role.yaml",
        "rbac/freeze_role_binding.yaml",
        "rbac/leader_role.yaml",
        "rbac/leader_role_binding.yaml",
        "webhook/role.yaml",
        "webhook/role_binding.yaml",
        "webhook/cluster_role.yaml",
        "webhook/cluster_role_binding.yaml",
        "webhook/authority.yaml",
        "definitions/cluster_role.yaml",
        "definitions/cluster_role_binding.yaml",
    ] {
        let text = std::fs::read_to_string(workspace_root().join("config").join(file)).unwrap();
        for object in netloss_lab::cluster::parse(&text).unwrap() {
            netloss_lab::cluster::apply(&world.client, &object).await.unwrap();
        }
    }
    client_of(world, "netloss-controller")
}

/// A client with the rights of one of netloss's service accounts.
pub(crate) fn client_of(world: &World, account: &str) -> Client {
    let mut config = world.config();
    let name = http::HeaderValue::try_from(format!("system:serviceaccount:netloss-system:{account}")).unwrap();
    config.headers.push((http::HeaderName::from_static("impersonate-user"), name));
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn the_whole_controller_runs_with_the_rights_of_its_role() {
    whole_run(Release::Newest).await;
}

/// A run from apply to its end by a controller with the rights of its service account, which watches all that it watches: on a control plane of
/// its own, as it runs the experiments of all namespaces.
pub(crate) async fn whole_run(release: Release) {
    let control_plane = ControlPlane::start_for_tests_of(release).await.unwrap();
    let world = &World::on(&control_plane, "whole").await;
    install_definitions(world.client.clone()).await;
    let node = Node::start(world.client.clone(), control_plane.pki()).await;
    let client = service_account(world).await;
    let settings = Settings::new(AGENT_IMAGE, "netloss-system");
    let context = Arc::new(Context::new(client.clone(), settings, Arc::new(Timestamp::now), None));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let controller =
        tokio::spawn(async move { netloss_controller::run::run(client, context, &[], async move { drop(stopped.await) }).await });

    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    eventually("the agent is put in", async || world.agents("a").await.len() == 1).await;
    eventually("that is written down", async || world.status("x").await.pods.iter().any(|pod| pod.state == PodState::Injected)).await;
    let entry = world.status("x").await.pods[0].clone();

    node.set_log(&entry, world.applied(&run_of(&entry)).to_line());
    world.set_state(&entry, json!({ "running": {} })).await;
    eventually("the loss is in place", async || world.status("x").await.phase == Some(Phase::Running)).await;

    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    eventually("the run ends", async || world.status("x").await.phase == Some(Phase::Completed)).await;
    eventually("the last event is written", async || {
        world.event_reasons("ChaosExperiment", "x").await.iter().any(|reason| reason == "ExperimentSucceeded")
    })
    .await;
    assert_eq!(world.event_reasons("ChaosExperiment", "x").await, ["ExperimentStarted", "ExperimentSucceeded"]);

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), controller).await.expect("it stops when it is told to").unwrap();
}

/// Waits for an event, and for long: a busy machine is no failure.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..900 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 90 s: {what}");
}
