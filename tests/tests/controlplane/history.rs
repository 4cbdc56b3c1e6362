//! The record of a run.

use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use jiff::SignedDuration;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperimentHistory, FailureReason, RunResult};
use netloss_contract::Event;
use netloss_controller::reconcile::Context;
use netloss_controller::records::Retention;
use netloss_core::{history::record_name, machine::Settings};
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
    // Stopped early: a run that completes its whole duration is not recorded as cancelled.
    let mut report = world.removed(&run_of(&entry));
    if let Event::Removed(removed) = &mut report.event {
        removed.elapsed_seconds = 3.0;
    }
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report.to_line() } })).await;
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
    let first = record_name("x", &uid, 1, None);
    let api = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    api.create(&PostParams::default(), &ChaosExperimentHistory::new(&first, forged.spec.clone())).await.unwrap();

    run(&world, "x").await;
    let of_experiment = ListParams::default().labels(&format!("chaos.gushchin.dev/experiment-uid={uid}"));
    let record = api.list(&of_experiment).await.unwrap().items.remove(0);
    assert_eq!(record.spec.experiment_ref.uid.as_ref(), Some(&uid));
    assert_eq!(world.status("x").await.phase, Some(netloss_api::Phase::Completed));
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

/// Run, begin and agents of a record stand in status before the run ends: whoever reads them can write a record in advance.
#[tokio::test]
async fn a_record_made_in_advance_is_not_taken_for_the_runs_own() {
    let world = World::new("history-advance").await;
    world.pod("a").await;
    world.apply("sample", spec(json!({}))).await.unwrap();
    run(&world, "sample").await;
    let sample = records(&world).await.remove(0).spec;

    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    let experiment = world.experiments().get("x").await.unwrap();
    let (uid, status) = (experiment.uid().unwrap(), experiment.status.clone().unwrap());
    let mut forged = sample.clone();
    (forged.experiment_ref.name, forged.experiment_ref.uid) = ("x".to_owned(), Some(uid.clone()));
    forged.experiment_spec = experiment.spec.clone();
    (forged.execution.run, forged.execution.start_time) = (status.run, status.start_time.clone().unwrap());
    (forged.execution.status, forged.execution.message) = (RunResult::Failure, Some("forged".to_owned()));
    forged.pods = status.pods.clone();
    forged.pods[0].message = Some("forged".to_owned());
    let api = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    // All the names that can be foreseen.
    let name = record_name("x", &uid, 1, None);
    for name in [name.clone(), format!("{name}-x1"), format!("{name}-x2"), format!("{name}-x3")] {
        api.create(&PostParams::default(), &ChaosExperimentHistory::new(&name, forged.clone())).await.unwrap();
    }
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass("x", 40).await;
    world.pass("x", 50).await;

    let of_run = ListParams::default().labels(&format!("chaos.gushchin.dev/experiment-uid={uid}"));
    let own = api.list(&of_run).await.unwrap().items;
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((own[0].spec.execution.status, own[0].spec.execution.run), (RunResult::Success, Some(1)));
    assert!(world.event_reasons("ChaosExperiment", "x").await.contains(&"RecordNameTaken".to_owned()));
}

/// A paused run has no finalizer, and is gone with its experiment: what it did until then is on record.
#[tokio::test]
async fn a_run_that_was_paused_and_deleted_is_on_record() {
    let world = World::new("history-paused").await;
    world.pod("a").await;
    let pause = async |name: &str, paused: bool| {
        let patch = Patch::Merge(json!({ "spec": { "paused": paused } }));
        world.experiments().patch(name, &PatchParams::default(), &patch).await.unwrap();
    };
    for name in ["deleted", "resumed"] {
        world.apply(name, spec(json!({ "duration": "10m" }))).await.unwrap();
        let entry = world.running(name, "a").await;
        pause(name, true).await;
        world.pass(name, 10).await;
        let stop = world.status(name).await.pods[0].stop.clone().expect("it is being stopped");
        let report = world.removed(&run_of(&entry)).to_line();
        let ended = json!({ "terminated": { "exitCode": 0, "message": report } });
        world.set_states("a", &[(&entry.container, ended), (&stop.container, json!({ "terminated": { "exitCode": 0 } }))]).await;
        world.pass(name, 20).await;
        assert_eq!(world.status(name).await.phase, Some(netloss_api::Phase::Paused));
        if name == "deleted" {
            world.experiments().delete(name, &kube::api::DeleteParams::default()).await.unwrap();
            assert!(world.experiments().get_opt(name).await.unwrap().is_none(), "it is gone at once");
            let records = records(&world).await;
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].spec.execution.status, RunResult::Cancelled);
            assert_eq!(records[0].spec.affected_resources.len(), 1, "{:?}", records[0]);
            // Free for the next one.
            world.delete_at_once("a").await;
            world.pod("a").await;
        }
    }
    // One that goes on has one record in the end.
    pause("resumed", false).await;
    world.pass("resumed", 60).await;
    let entry = world.status("resumed").await.pods[0].clone();
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    world.pass("resumed", 70).await;
    let records = records(&world).await;
    let of_it: Vec<_> = records.iter().filter(|record| record.spec.experiment_ref.name == "resumed").collect();
    assert_eq!(of_it.len(), 1, "{of_it:?}");
    assert_eq!(of_it[0].spec.execution.phase, Some(netloss_api::Phase::Completed));
}
