//! One more run of an unchanged spec, and conditions from the first visit on, with the committed definition.

use crate::world::{World, spec};
use kube::api::{Patch, PatchParams};
use netloss_api::{AS_REQUESTED, ChaosExperimentStatus, PREFLIGHT, Phase, RECOVERED, RUN_REQUESTED, RUN_REQUESTED_ANNOTATION};
use serde_json::{Value, json};

async fn request(world: &World, value: Value) {
    let change = json!({ "metadata": { "annotations": { RUN_REQUESTED_ANNOTATION: value } } });
    world.experiments().patch("x", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// The value and the reason of a condition, which kubectl wait finds current.
async fn condition(world: &World, name: &str, type_: &str) -> (String, String) {
    let object = world.experiments().get(name).await.unwrap();
    let status = object.status.unwrap();
    let is = status.condition(type_).unwrap_or_else(|| panic!("{type_}: {status:?}"));
    assert_eq!(is.observed_generation, object.metadata.generation, "{type_}");
    (is.status.clone(), is.reason.clone())
}

fn numbers(status: &ChaosExperimentStatus) -> (Option<u32>, Option<Phase>, Option<&str>) {
    (status.run, status.phase, status.run_requested_at.as_deref())
}

#[tokio::test]
async fn a_refused_run_has_its_conditions_and_begins_again_when_it_is_requested() {
    let world = World::new("rerun").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    assert_eq!(numbers(&world.status("x").await), (Some(1), Some(Phase::Failed), None));
    for (type_, value, reason) in [
        (RECOVERED, "True", "NothingInjected"),
        (PREFLIGHT, "Unknown", "NotAsked"),
        (AS_REQUESTED, "Unknown", "NotMeasured"),
        (RUN_REQUESTED, "False", "NotRequested"),
    ] {
        assert_eq!(condition(&world, "x", type_).await, (value.to_owned(), reason.to_owned()), "{type_}");
    }

    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 10).await;
    assert_eq!(world.status("x").await.run, Some(1), "an unchanged spec that is applied again begins no run");
    request(&world, json!("soon")).await;
    world.pass("x", 20).await;
    assert_eq!(numbers(&world.status("x").await), (Some(1), Some(Phase::Failed), None));
    assert_eq!(condition(&world, "x", RUN_REQUESTED).await, ("False".to_owned(), "InvalidValue".to_owned()));
    assert!(world.agents("a").await.is_empty());

    request(&world, json!("2027-01-15T08:00:00Z")).await;
    world.pass("x", 30).await;
    assert_eq!(numbers(&world.status("x").await), (Some(2), Some(Phase::Pending), Some("2027-01-15T08:00:00Z")));
    assert_eq!(condition(&world, "x", RUN_REQUESTED).await, ("False".to_owned(), "Handled".to_owned()));
    assert_eq!(condition(&world, "x", PREFLIGHT).await, ("True".to_owned(), "Admitted".to_owned()));
    assert_eq!(world.agents("a").await.len(), 1);
    // Another one while that is active waits for its end.
    request(&world, json!("2027-01-15T08:00:01Z")).await;
    world.pass("x", 40).await;
    assert_eq!(numbers(&world.status("x").await), (Some(2), Some(Phase::Pending), Some("2027-01-15T08:00:00Z")));
    assert_eq!(condition(&world, "x", RUN_REQUESTED).await, ("True".to_owned(), "Waiting".to_owned()));
    assert_eq!(world.agents("a").await.len(), 1);
}

#[tokio::test]
async fn a_dry_run_and_a_pause_have_all_conditions_too() {
    let world = World::new("rerun-conditions").await;
    world.pod("a").await;
    for (name, changes, value, reason) in [
        ("dry", json!({ "dryRun": true }), "True", "NothingInjected"),
        ("paused", json!({ "paused": true }), "Unknown", "Paused"),
        ("scheduled", json!({ "schedule": "@yearly" }), "Unknown", "Waiting"),
    ] {
        world.apply(name, spec(changes)).await.unwrap();
        world.pass(name, 0).await;
        assert_eq!(condition(&world, name, RECOVERED).await, (value.to_owned(), reason.to_owned()), "{name}");
        for type_ in [PREFLIGHT, AS_REQUESTED, RUN_REQUESTED] {
            condition(&world, name, type_).await;
        }
    }
}
