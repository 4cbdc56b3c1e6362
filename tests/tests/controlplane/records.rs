//! What agents are told, where it is kept outside of a status that would be too large with it: written ahead as everything else is.

use crate::faults::{At, Fault};
use crate::world::{AGENT_IMAGE, World, spec};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperimentPlan, Outcome, PodState, PodStatus};
use serde_json::{Value, json};
use std::sync::Arc;

/// As many as make their arguments too much for a status. Each is asked for first, by a patch that changes nothing.
const PODS: usize = 40;

/// An experiment in that many pods, not yet planned.
async fn large(name: &str) -> World {
    let world = World::new(name).await;
    for n in 0..PODS {
        world.pod(&format!("p-{n}")).await;
    }
    let networks: Vec<String> = (0..90).map(|n| format!("2001:db8:1111:2222:3333:4444:5555:{n}/128")).collect();
    world.apply("x", spec(json!({ "count": PODS, "targetCIDRs": networks }))).await.unwrap();
    world
}

fn plans(world: &World) -> Api<ChaosExperimentPlan> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

async fn records(world: &World) -> Vec<ChaosExperimentPlan> {
    plans(world).list(&ListParams::default()).await.unwrap().items
}

/// Each pod has the one agent that is written down, with the arguments that its record has.
async fn assert_as_written(world: &World, entries: &[PodStatus]) {
    let records = records(world).await;
    for entry in entries {
        assert!(entry.state >= PodState::Injected && entry.argv.is_empty(), "{entry:?}");
        let record = records.iter().find(|record| Some(record.name_any()) == entry.plan).expect("its record is there");
        let told = record.spec.pods.iter().find(|planned| planned.uid == entry.uid).expect("it is in its record");
        let agents = world.agents(&entry.name).await;
        assert_eq!(agents.len(), 1);
        assert_eq!((&agents[0].name, agents[0].args.as_ref()), (&entry.container, Some(&told.argv)));
        assert!(told.argv.contains(&format!("--deadline={}", entry.deadline.0)), "{:?}", told.argv);
    }
}

#[tokio::test]
async fn a_crash_after_the_records_leaves_nothing_that_is_acted_on() {
    let world = large("records-crash").await;
    let dying = world.controller(world.faulty_client(Fault::CrashBefore(At::StatusWrite(1))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    let left = records(&world).await;
    assert!(!left.is_empty() && world.status("x").await.pods.is_empty());

    let restarted = world.controller(world.client.clone(), AGENT_IMAGE, 30);
    for _ in 0..2 {
        world.pass_of(Arc::clone(&restarted), "x").await.unwrap();
    }
    let entries = world.status("x").await.pods;
    assert_eq!(entries.len(), PODS);
    // Half a minute later is another deadline, and so another plan.
    assert!(entries.iter().all(|entry| left.iter().all(|record| Some(record.name_any()) != entry.plan)));
    assert_as_written(&world, &entries).await;
}

#[tokio::test]
async fn a_crash_after_the_status_is_followed_by_what_it_names() {
    let world = large("records-adopted").await;
    let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::Patch(PODS + 3))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    let written = world.status("x").await.pods;
    let restarted = world.controller(world.client.clone(), "localhost/netloss-agent:2", 30);
    for _ in 0..2 {
        world.pass_of(Arc::clone(&restarted), "x").await.unwrap();
    }
    let entries = world.status("x").await.pods;
    let frozen = |pods: &[PodStatus]| pods.iter().map(|pod| (pod.plan.clone(), pod.deadline.clone())).collect::<Vec<_>>();
    assert_eq!(frozen(&entries), frozen(&written));
    assert_as_written(&world, &entries).await;
}

/// Somebody has deleted what was to be told: nothing is put in, and what is in already is followed to its end.
#[tokio::test]
async fn without_its_record_nothing_is_put_in() {
    let world = large("records-gone").await;
    let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::Patch(PODS + 1))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    plans(&world).delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    // Somebody who has read it may have sent an agent that is on its way: for so long it is waited for.
    for seconds in [5, 140] {
        world.pass("x", seconds).await;
    }
    let entries = world.status("x").await.pods;
    let (put_in, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.state == PodState::Injected);
    assert!(!put_in.is_empty() && !others.is_empty());
    for entry in others {
        assert_eq!(entry.outcome, Some(Outcome::NeverStarted), "{entry:?}");
        assert!(entry.message.as_deref().unwrap_or_default().contains("which had the agent's arguments, is gone"), "{entry:?}");
        assert!(world.agents(&entry.name).await.is_empty());
    }
    let ended: Value = json!({ "terminated": { "exitCode": 5 } });
    for entry in &put_in {
        world.set_state(entry, ended.clone()).await;
    }
    world.pass("x", 141).await;
    assert!(world.status("x").await.completed_at.is_some());
}

/// Names of plans can be foreseen, and an object with another's finalizer does not go when it is deleted.
#[tokio::test]
async fn a_foreign_plan_that_cannot_be_deleted_blocks_no_run() {
    for what in ["content", "going"] {
        let world = large(&format!("records-{what}")).await;
        let dying = world.controller(world.faulty_client(Fault::CrashBefore(At::StatusWrite(1))), AGENT_IMAGE, 0);
        world.pass_of(dying, "x").await.expect_err("the controller dies");
        let left = records(&world).await.remove(0);
        let (api, name) = (plans(&world), left.name_any());
        let mut forged = left.clone();
        forged.metadata.finalizers = Some(vec!["example.com/held".to_owned()]);
        (forged.metadata.resource_version, forged.metadata.uid) = (None, None);
        if what == "content" {
            forged.spec.pods[0].argv.push("--loss=100".to_owned());
        }
        api.delete(&name, &DeleteParams::default()).await.unwrap();
        api.create(&kube::api::PostParams::default(), &forged).await.unwrap();
        if what == "going" {
            api.delete(&name, &DeleteParams::default()).await.unwrap();
        }
        for _ in 0..2 {
            world.pass("x", 0).await;
        }
        let entries = world.status("x").await.pods;
        assert_eq!(entries.len(), PODS, "{what}");
        assert!(entries.iter().all(|entry| entry.plan.is_some() && entry.plan.as_ref() != Some(&name)), "{what}: it is not used");
        assert_as_written(&world, &entries).await;
        assert!(world.event_reasons("ChaosExperiment", "x").await.contains(&"PlanNameTaken".to_owned()), "{what}");
    }
}
