//! What ends a run before its time, what keeps one from beginning, and what is left behind.

use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use netloss_api::{FINALIZER, Outcome, Phase, PodStatus, RECOVERED, Stopping};
use netloss_contract::{Cause, Cleaned, Event};
use netloss_controller::reconcile::Context;
use netloss_core::machine::Settings;
use serde_json::{Value, json};
use std::sync::Arc;

/// The last line of an agent that was stopped after twelve seconds.
fn stopped(world: &World, entry: &PodStatus) -> Value {
    let mut record = world.removed(&run_of(entry));
    if let Event::Removed(removed) = &mut record.event {
        (removed.elapsed_seconds, removed.cause) = (12.0, Cause::Stopped);
    }
    json!({ "terminated": { "exitCode": 0, "message": record.to_line() } })
}

/// The kubelet has ended the agent and what was sent to stop it.
pub(crate) async fn stop(world: &World, entry: &PodStatus) {
    let sent = format!("{}-stop", entry.container);
    let done = json!({ "terminated": { "exitCode": 0 } });
    world.set_states(&entry.name, &[(entry.container.as_str(), stopped(world, entry)), (sent.as_str(), done)]).await;
}

#[tokio::test]
async fn a_deletion_stops_the_run_and_then_lets_go() {
    let world = World::new("ending-delete").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    let entry = world.running("x", "a").await;
    assert_eq!(world.experiments().get("x").await.unwrap().finalizers(), [FINALIZER]);

    world.experiments().delete("x", &DeleteParams::default()).await.unwrap();
    world.pass("x", 10).await;
    let status = world.status("x").await;
    assert_eq!(status.stopping, Some(Stopping::Deleted), "it is still there");
    assert!(status.message.unwrap().ends_with("the experiment was deleted: this run is stopped"));
    world.agent("a", &format!("{}-stop", entry.container)).await;
    stop(&world, &entry).await;
    world.pass("x", 17).await;
    assert!(world.experiments().get_opt("x").await.unwrap().is_none());
}

/// Nobody answers: the kubelet is gone. The deadline has passed for it too.
#[tokio::test]
async fn a_deletion_does_not_hang_for_ever() {
    let world = World::new("ending-bounded").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.running("x", "a").await;
    world.experiments().delete("x", &DeleteParams::default()).await.unwrap();
    world.pass("x", 10).await;
    // 150 s is the deadline; then what may be left is looked for, for 120 s, each with a minute's grace.
    for seconds in [100, 211, 335] {
        world.pass("x", seconds).await;
        assert!(world.experiments().get_opt("x").await.unwrap().is_some(), "{seconds}");
    }
    world.pass("x", 392).await;
    assert!(world.experiments().get_opt("x").await.unwrap().is_none());
}

#[tokio::test]
async fn an_experiment_without_a_run_goes_at_once() {
    let world = World::new("ending-at-once").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let object = world.experiments().get("x").await.unwrap();
    assert_eq!((object.finalizers().len(), object.status.unwrap().phase), (0, Some(Phase::Failed)));
}

#[tokio::test]
async fn a_pause_stops_the_loss_and_a_resumption_brings_what_is_left() {
    let world = World::new("ending-pause").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    world.apply("x", spec(json!({ "paused": true }))).await.unwrap();
    world.pass("x", 15).await;
    stop(&world, &entry).await;
    world.pass("x", 18).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.observed_generation), (Some(Phase::Paused), Some(2)));
    assert!(status.message.unwrap().ends_with("it goes on for what is left (a: 18s)"));
    assert!(world.experiments().get("x").await.unwrap().finalizers().is_empty(), "nothing is under way");

    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 600).await;
    let status = world.status("x").await;
    assert_eq!((status.run, status.attempt, status.phase), (Some(1), Some(2), Some(Phase::Pending)));
    let resumed = world.agent("a", &status.pods[0].container).await;
    assert!(resumed.name.ends_with("-r1-a2") && resumed.args.unwrap().contains(&"--ttl=18s".to_owned()), "{}", resumed.name);
    let mut reasons = world.event_reasons("ChaosExperiment", "x").await;
    reasons.dedup();
    assert_eq!(reasons, ["ExperimentStarted", "Paused", "Stopping"]);
}

/// In a namespace of its own, as it freezes everything of one controller.
#[tokio::test]
async fn a_freeze_stops_all_and_begins_none() {
    let world = World::new("ending-freeze").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    world.running("x", "a").await;
    let own = serde_json::from_value(json!({ "metadata": { "name": "ending-freeze-own" } })).unwrap();
    Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &own).await.unwrap();
    let map = serde_json::from_value(json!({
        "metadata": { "name": "netloss-freeze", "annotations": { "chaos.gushchin.dev/freeze": "true" } }, "data": { "reason": "the sale" },
    }));
    Api::<ConfigMap>::namespaced(world.client.clone(), "ending-freeze-own").create(&PostParams::default(), &map.unwrap()).await.unwrap();
    let now = world.at(20);
    let settings = Settings::new(AGENT_IMAGE, "ending-freeze-own");
    let frozen = Arc::new(Context::new(world.client.clone(), settings, Arc::new(move || now), None));
    world.pass_of(Arc::clone(&frozen), "x").await.unwrap();
    assert_eq!(world.status("x").await.stopping, Some(Stopping::Frozen));
    assert_eq!(world.agents("a").await.len(), 2, "what stops it is in");
    world.apply("y", spec(json!({}))).await.unwrap();
    world.pass_of(frozen, "y").await.unwrap();
    assert_eq!(
        world.message("y").await,
        "All experiments are frozen: the sale; when they no longer are, request another run (kubectl netloss rerun)"
    );
}

#[tokio::test]
async fn too_few_ready_targets_end_a_run() {
    let world = World::new("ending-abort").await;
    for name in ["a", "b"] {
        world.pod(name).await;
        world.set_status(name, json!({ "conditions": [{ "type": "Ready", "status": "True" }] })).await;
    }
    world.apply("x", spec(json!({ "abort": 2, "duration": "1h" }))).await.unwrap();
    world.pass("x", 0).await;
    let entry = world.status("x").await.pods[0].clone();
    World::node().set_log(&entry, world.applied(&run_of(&entry)).to_line());
    world.set_states(&entry.name, &[(entry.container.as_str(), json!({ "running": {} }))]).await;
    world.pass("x", 5).await;
    assert_eq!(world.status("x").await.stopping, None);
    let other = if entry.name == "a" { "b" } else { "a" };
    world.set_status(other, json!({ "conditions": [{ "type": "Ready", "status": "False" }] })).await;
    world.pass("x", 8).await;
    assert_eq!(world.status("x").await.stopping, Some(Stopping::Aborted));
    stop(&world, &entry).await;
    world.pass("x", 12).await;
    let status = world.status("x").await;
    assert!(status.message.unwrap().ends_with("too few of the targets are ready: this run is stopped"));
    assert_eq!(status.phase, Some(Phase::Completed));
}

#[tokio::test]
async fn what_a_killed_agent_left_is_taken_away() {
    let world = World::new("ending-repair").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    world.set_states("a", &[(entry.container.as_str(), killed.clone())]).await;
    world.pass("x", 12).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.condition(RECOVERED).unwrap().status.as_str()), (Some(Phase::Running), "False"));
    let sent = serde_json::to_value(world.agent("a", &format!("{}-repair", entry.container)).await).unwrap();
    assert_eq!(sent["args"].as_array().unwrap()[..2], [json!("cleanup"), json!("--json")]);
    assert_eq!(sent["securityContext"]["capabilities"], json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] }));

    let report = world.record(&run_of(&entry), Event::Cleaned(Cleaned { removed: vec!["the root qdisc".to_owned()] })).to_line();
    let cleaned = json!({ "terminated": { "exitCode": 0, "message": report } });
    world.set_states("a", &[(entry.container.as_str(), killed), (sent["name"].as_str().unwrap(), cleaned)]).await;
    world.pass("x", 15).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Completed), Some(Outcome::Repaired)));
    assert_eq!(status.condition(RECOVERED).unwrap().status, "True");
    let words = "the agent ended without its report (exit code 137, OOMKilled); repaired: the root qdisc";
    assert_eq!(status.pods[0].message.as_deref(), Some(words));
}

#[tokio::test]
async fn a_run_without_any_loss_is_tried_again() {
    let world = World::new("ending-retry").await;
    world.apply("x", spec(json!({ "maxRetries": 1 }))).await.unwrap();
    world.pass("x", 0).await;
    let message = world.message("x").await;
    assert!(message.starts_with("No eligible pods: none in the namespace") && message.contains("; retry 1 of 1 at "), "{message}");
    world.pod("a").await;
    world.pass("x", 31).await;
    let status = world.status("x").await;
    assert_eq!((status.run, status.attempt, world.agents("a").await.len()), (Some(1), Some(2), 1));
}

#[tokio::test]
async fn another_namespace_has_to_open_itself() {
    let world = World::new("ending-elsewhere").await;
    let there = World::new("ending-elsewhere-target").await;
    there.pod("a").await;
    world.apply("x", spec(json!({ "namespace": there.namespace }))).await.unwrap();
    world.pass("x", 0).await;
    let words = "spec.namespace is \"ending-elsewhere-target\", which is not open to experiments of the namespace \"ending-elsewhere\"";
    assert!(world.message("x").await.starts_with(words), "{}", world.message("x").await);
    let open = Patch::Merge(json!({ "metadata": { "annotations": { "chaos.gushchin.dev/allow-experiments-from": "ending-elsewhere" } } }));
    Api::<Namespace>::all(world.client.clone()).patch(&there.namespace, &PatchParams::default(), &open).await.unwrap();
    world.apply("y", spec(json!({ "namespace": there.namespace }))).await.unwrap();
    world.pass("y", 1).await;
    assert_eq!(there.agents("a").await.len(), 1);
}

#[tokio::test]
async fn production_needs_consent() {
    let world = World::new("ending-prod").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let words = "\"ending-prod\" is a production namespace by its name: set spec.allowProduction: true if it is meant";
    assert_eq!(world.message("x").await, words);
    world.apply("x", spec(json!({ "allowProduction": true }))).await.unwrap();
    world.pass("x", 1).await;
    assert_eq!(world.agents("a").await.len(), 1);
}

#[tokio::test]
async fn a_pod_that_is_full_of_containers_is_left_alone() {
    let world = World::new("ending-full").await;
    world.pod("a").await;
    let containers: Vec<Value> = (0..48).map(|n| json!({ "name": format!("network-loss-0-r{n}-a1"), "image": "agent" })).collect();
    let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": containers } }));
    world.pods().patch_ephemeral_containers("a", &PatchParams::default(), &patch).await.unwrap();
    let names: Vec<String> = (0..48).map(|n| format!("network-loss-0-r{n}-a1")).collect();
    let ended = json!({ "terminated": { "exitCode": 0 } });
    world.set_states("a", &names.iter().map(|name| (name.as_str(), ended.clone())).collect::<Vec<_>>()).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let message = world.message("x").await;
    assert!(message.contains("it carries 48 containers of netloss, which only a new pod is rid of: delete the pod"), "{message}");
}

#[tokio::test]
async fn what_it_depends_on_comes_first() {
    let world = World::new("ending-depends").await;
    world.pod("a").await;
    world.apply("second", spec(json!({ "dependsOn": ["first"] }))).await.unwrap();
    world.pass("second", 0).await;
    let words = "Waiting for the experiment \"first\" to be Completed: it is not begun, or not there";
    assert_eq!(world.message("second").await, words);
    world.apply("first", spec(json!({ "dryRun": true }))).await.unwrap();
    world.pass("first", 1).await;
    world.pass("second", 2).await;
    assert_eq!(world.agents("a").await.len(), 1);
}

/// Seconds after the begin of the test at which a time of status has come, and a little more.
fn seconds_until(world: &World, at: Option<&Time>) -> i64 {
    at.expect("a time").0.as_second() - world.begin.as_second() + 1
}

#[tokio::test]
async fn a_schedule_runs_at_its_time_and_skips_what_it_missed() {
    let world = World::new("ending-schedule").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "schedule": "*/5 * * * *", "dryRun": true }))).await.unwrap();
    world.pass("x", 0).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.run), (Some(Phase::Pending), None));
    assert!(status.message.unwrap().starts_with("Scheduled: the next run is at "));
    let first = seconds_until(&world, status.next_scheduled_time.as_ref());
    world.pass("x", first).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.run), (Some(Phase::Completed), Some(1)));
    assert_eq!(seconds_until(&world, status.last_scheduled_time.as_ref()), first);
    let second = seconds_until(&world, status.next_scheduled_time.as_ref());
    assert_eq!(second - first, 300);
    world.pass("x", second + 130).await;
    let status = world.status("x").await;
    assert_eq!((status.run, seconds_until(&world, status.next_scheduled_time.as_ref())), (Some(1), second + 300));
    assert!(world.event_reasons("ChaosExperiment", "x").await.contains(&"MissedRun".to_owned()));
    world.pass("x", second + 300).await;
    assert_eq!(world.status("x").await.run, Some(2));
}

#[tokio::test]
async fn a_run_waits_for_its_window_and_ends_with_it() {
    let world = World::new("ending-window").await;
    world.pod("a").await;
    let (opens, closes) = (world.at(600).to_string(), world.at(660).to_string());
    let window = json!([{ "type": "Absolute", "start": opens, "end": closes }]);
    world.apply("x", spec(json!({ "timeWindows": window, "duration": "10m" }))).await.unwrap();
    world.pass("x", 0).await;
    let message = world.message("x").await;
    assert!(message.starts_with("Waiting for a time window: the next one opens at "), "{message}");
    assert!(world.agents("a").await.is_empty());
    world.pass("x", 601).await;
    let entry = world.status("x").await.pods[0].clone();
    assert_eq!(entry.deadline.0.as_second(), world.at(660).as_second());
    assert!(world.agent("a", &entry.container).await.args.unwrap().contains(&format!("--deadline={}", entry.deadline.0)));

    world.apply("y", spec(json!({ "maintenanceWindows": window }))).await.unwrap();
    world.pass("y", 610).await;
    assert!(world.message("y").await.starts_with("Waiting for a time window"), "{}", world.message("y").await);
}

#[tokio::test]
async fn a_whole_run_has_an_end() {
    let world = World::new("ending-cap").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h", "experimentDuration": "5m" }))).await.unwrap();
    world.pass("x", 0).await;
    assert_eq!(world.status("x").await.pods[0].deadline.0.as_second(), world.at(300).as_second());
}
