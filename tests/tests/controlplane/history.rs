//! The record of a run.

use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use jiff::SignedDuration;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use netloss_controller::api::{ChaosExperimentHistory, FailureReason, RunResult};
use netloss_controller::history::{Retention, record_name};
use netloss_controller::machine::Settings;
use netloss_controller::reconcile::Context;
use serde_json::json;
use std::sync::Arc;

async fn records(world: &World) -> Vec<ChaosExperimentHistory> {
    let api = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    let mut records = api.list(&ListParams::default()).await.unwrap().items;
    records.sort_by_key(|record| record.spec.execution.run);
    records
}

/// A whole run of the experiment in the pod, which begins at that second.
async fn run(world: &World, name: &str) {
    let entry = world.running(name, "a").await;
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass(name, 40).await;
}

#[tokio::test]
async fn a_run_is_on_record_with_what_was_asked_and_what_was_seen() {
    let world = World::new("history-run").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    run(&world, "x").await;
    world.pass("x", 50).await;
    let records = records(&world).await;
    assert_eq!(records.len(), 1, "one for the run, however often it is looked at");
    let record = &records[0].spec;
    let experiment = world.experiments().get("x").await.unwrap();
    assert_eq!((record.experiment_ref.name.as_str(), &record.experiment_ref.uid), ("x", &experiment.uid()));
    assert_eq!(record.experiment_spec, experiment.spec);
    assert_eq!((record.execution.status, record.execution.run), (RunResult::Success, Some(1)));
    assert_eq!(record.execution.message, experiment.status.as_ref().unwrap().message);
    assert_eq!(record.audit.initiated_by.as_deref(), Some("a-user"));
    assert_eq!(record.pods, experiment.status.unwrap().pods, "each pod, with its observed loss");
    assert_eq!(record.affected_resources.len(), 1);
    assert_eq!(record.affected_resources[0].details.as_deref(), Some("asked for 10% both for 30s: clean"));
    assert!(record.error.is_none());

    let change = Patch::Merge(json!({ "spec": { "execution": { "message": "nothing happened" } } }));
    let api = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    let refused = api.patch(&records[0].name_any(), &PatchParams::default(), &change).await.unwrap_err();
    assert!(refused.to_string().contains("a record cannot be changed"), "{refused}");
}

#[tokio::test]
async fn what_was_refused_is_on_record_with_the_reason() {
    let world = World::new("history-refused").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let records = records(&world).await;
    let error = records[0].spec.error.clone().expect("an error");
    assert_eq!(records[0].spec.execution.status, RunResult::Failure);
    assert_eq!(error.failure_reason, Some(FailureReason::ResourceNotFound));
    assert!(error.message.unwrap().starts_with("No eligible pods"));
}

#[tokio::test]
async fn a_record_outlives_its_experiment_and_tells_that_it_was_stopped() {
    let world = World::new("history-deleted").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    world.experiments().delete("x", &kube::api::DeleteParams::default()).await.unwrap();
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass("x", 20).await;
    assert!(world.experiments().get_opt("x").await.unwrap().is_none(), "it is gone");
    assert_eq!(records(&world).await[0].spec.execution.status, RunResult::Cancelled);
}

#[tokio::test]
async fn only_so_many_records_are_kept() {
    let world = World::new("history-count").await;
    let settings = Settings::new(AGENT_IMAGE, "netloss-system");
    for run in 1..=4_u32 {
        // Each edit is another run, which is refused as there is no pod.
        world.apply("x", spec(json!({ "lossPercentage": run }))).await.unwrap();
        let at = world.at(i64::from(run));
        let retention = Retention { count: 2, age: SignedDuration::from_hours(1) };
        let context = Context::new(world.client.clone(), settings.clone(), Arc::new(move || at), None).keeping(retention);
        world.pass_of(Arc::new(context), "x").await.unwrap();
        // Records are told apart by the second in which they were made.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    let runs: Vec<_> = records(&world).await.iter().map(|record| record.spec.execution.run).collect();
    assert_eq!(runs, [Some(3), Some(4)], "the latest ones");
}

/// A name can be foreseen by whoever knows the experiment's uid.
#[tokio::test]
async fn a_foreign_record_of_the_same_name_suppresses_none() {
    let world = World::new("history-forged").await;
    world.pod("a").await;
    world.apply("other", spec(json!({}))).await.unwrap();
    run(&world, "other").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let uid = world.experiments().get("x").await.unwrap().uid().unwrap();
    let forged = records(&world).await.remove(0);
    let (first, second) = (record_name("x", &uid, 1, 0), record_name("x", &uid, 1, 1));
    let api = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    api.create(&PostParams::default(), &ChaosExperimentHistory::new(&first, forged.spec.clone())).await.unwrap();

    run(&world, "x").await;
    let record = api.get(&second).await.unwrap();
    assert_eq!(record.spec.experiment_ref.uid.as_ref(), Some(&uid));
    assert_eq!(world.status("x").await.phase, Some(netloss_controller::api::Phase::Completed));
    let labels = record.metadata.labels.unwrap();
    for (label, value) in [
        ("chaos.gushchin.dev/experiment", "x"),
        ("chaos.gushchin.dev/action", "pod-network-loss"),
        ("chaos.gushchin.dev/target-namespace", "history-forged"),
        ("chaos.gushchin.dev/status", "success"),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
    }
}
