//! Invariant 4, write ahead, then adopt: whatever dies at whatever point, one agent gets into the pod, and it is the one that was
//! written down.

use crate::faults::{At, Fault};
use crate::world::{AGENT_IMAGE, World, spec};
use jiff::SignedDuration;
use netloss_api::{Outcome, Phase, PodState};
use serde_json::json;
use std::sync::Arc;

const NEWER_IMAGE: &str = "localhost/netloss-agent:2";

/// A controller dies of `fault`; one with a newer image and a clock moved by `seconds` goes on. What is in the pod then?
async fn crash(name: &str, fault: Fault, seconds: i64, planned_with: &str) {
    let world = World::new(name).await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();

    let dying = world.controller(world.faulty_client(fault), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    let written = world.status("x").await.pods;
    let put_in = world.agents("a").await;

    let restarted = world.controller(world.client.clone(), NEWER_IMAGE, seconds);
    for _ in 0..3 {
        world.pass_of(Arc::clone(&restarted), "x").await.unwrap();
    }
    let agents = world.agents("a").await;
    assert_eq!(agents.len(), 1, "exactly one agent");
    let entry = &world.status("x").await.pods[0];
    assert_eq!(entry.state, PodState::Injected);
    assert_eq!(agents[0].name, entry.container);
    assert_eq!(agents[0].image.as_deref(), Some(planned_with));
    assert_eq!(agents[0].args.as_ref(), Some(&entry.argv));
    assert_eq!(entry.image, planned_with);
    assert!(entry.argv.contains(&format!("--deadline={}", entry.deadline.0)), "{:?}", entry.argv);
    if let Some(written) = written.first() {
        assert_eq!((&written.argv, &written.deadline), (&entry.argv, &entry.deadline), "what was written down stands");
    }
    if let Some(put_in) = put_in.first() {
        assert_eq!(put_in, &agents[0], "what was put in stays as it was");
    }
}

#[tokio::test]
async fn before_the_plan_is_written() {
    crash("crash-before-plan", Fault::CrashBefore(At::StatusWrite(1)), 30, NEWER_IMAGE).await;
}

#[tokio::test]
async fn between_the_status_write_and_the_patch() {
    crash("crash-write-patch", Fault::CrashAfter(At::StatusWrite(1)), 30, AGENT_IMAGE).await;
}

#[tokio::test]
async fn between_the_status_write_and_the_patch_with_a_clock_set_back() {
    crash("crash-write-patch-back", Fault::CrashAfter(At::StatusWrite(1)), -3600, AGENT_IMAGE).await;
}

#[tokio::test]
async fn when_the_patch_is_about_to_leave() {
    crash("crash-before-patch", Fault::CrashBefore(At::Patch(1)), 30, AGENT_IMAGE).await;
}

#[tokio::test]
async fn between_the_patch_and_the_next_status_write() {
    crash("crash-patch-write", Fault::CrashAfter(At::Patch(1)), 30, AGENT_IMAGE).await;
}

#[tokio::test]
async fn between_the_patch_and_the_next_status_write_with_a_clock_set_back() {
    crash("crash-patch-write-back", Fault::CrashAfter(At::Patch(1)), -3600, AGENT_IMAGE).await;
}

#[tokio::test]
async fn when_the_next_status_write_is_about_to_leave() {
    crash("crash-before-write", Fault::CrashBefore(At::StatusWrite(2)), 30, AGENT_IMAGE).await;
}

#[tokio::test]
async fn after_the_next_status_write() {
    crash("crash-after-write", Fault::CrashAfter(At::StatusWrite(2)), 30, AGENT_IMAGE).await;
}

#[tokio::test]
async fn among_several_pods_some_have_their_agent_and_the_others_get_it() {
    let world = World::new("crash-several").await;
    for name in ["a", "b", "c", "d"] {
        world.pod(name).await;
    }
    world.apply("x", spec(json!({ "count": 4 }))).await.unwrap();
    let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::Patch(2))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    let restarted = world.controller(world.client.clone(), NEWER_IMAGE, 10);
    world.pass_of(restarted, "x").await.unwrap();
    for name in ["a", "b", "c", "d"] {
        let agents = world.agents(name).await;
        assert_eq!(agents.len(), 1, "{name}");
        assert_eq!(agents[0].image.as_deref(), Some(AGENT_IMAGE), "{name}");
    }
}

#[tokio::test]
async fn a_controller_that_comes_back_after_the_deadline_injects_nothing() {
    let world = World::new("crash-too-late").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::StatusWrite(1))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies");
    world.pass("x", 150).await;
    assert!(world.agents("a").await.is_empty());
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Failed), Some(Outcome::NeverStarted)));
    assert_eq!(
        status.message.as_deref(),
        Some("Failed to inject 10% packet loss into any of 1 pod(s); a: its deadline passed before the agent could be put in")
    );
}

#[tokio::test]
async fn a_pod_that_took_the_planned_ones_name_is_not_patched() {
    let world = World::new("crash-replaced").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    // The pod is replaced between the look at it and the patch, as a StatefulSet does.
    let meanwhile = {
        let pods = world.pods();
        let again = serde_json::from_value(json!({
            "metadata": { "name": "a", "labels": { "app": "web" } },
            "spec": { "nodeName": "localhost", "containers": [{ "name": "app", "image": "app" }] },
        }))
        .unwrap();
        let again: Arc<k8s_openapi::api::core::v1::Pod> = Arc::new(again);
        Arc::new(move || {
            let (pods, again) = (pods.clone(), Arc::clone(&again));
            Box::pin(async move {
                pods.delete("a", &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
                pods.create(&kube::api::PostParams::default(), &again).await.unwrap();
            }) as futures::future::BoxFuture<'static, ()>
        })
    };
    let client = world.faulty_client(Fault::Meanwhile(At::Patch(1), meanwhile));
    let controller = world.controller(client, AGENT_IMAGE, 0);
    // A first pass may have to be tried again.
    let _ = world.pass_of(Arc::clone(&controller), "x").await;
    world.pass_of(controller, "x").await.unwrap();
    assert!(world.agents("a").await.is_empty());
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Failed), Some(Outcome::PodEnded)));
}

#[tokio::test]
async fn a_conflict_leads_to_a_new_decision() {
    let world = World::new("crash-conflict").await;
    world.pod("a").await;
    world.pod("b").await;
    world.apply("x", spec(json!({ "count": 1 }))).await.unwrap();
    let meanwhile = {
        let experiments = world.experiments();
        Arc::new(move || {
            let experiments = experiments.clone();
            Box::pin(async move {
                let patch = kube::api::Patch::Merge(json!({ "spec": { "count": 2 } }));
                experiments.patch("x", &kube::api::PatchParams::default(), &patch).await.unwrap();
            }) as futures::future::BoxFuture<'static, ()>
        })
    };
    let client = world.faulty_client(Fault::Meanwhile(At::StatusWrite(1), meanwhile));
    world.pass_of(world.controller(client, AGENT_IMAGE, 0), "x").await.unwrap();
    let status = world.status("x").await;
    assert_eq!((status.observed_generation, status.pods.len(), status.run), (Some(2), 2, Some(1)), "decided from the edited spec");
    assert_eq!((world.agents("a").await.len(), world.agents("b").await.len()), (1, 1));
}

#[tokio::test]
async fn the_deadline_is_that_of_the_plan() {
    let world = World::new("crash-deadline").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let deadline = world.status("x").await.pods[0].deadline.0;
    let asked = world.begin + SignedDuration::from_secs(150);
    assert_eq!(deadline.as_second(), asked.as_second(), "two minutes to start, and the duration");
}

/// An edit, or another controller image, between the patch and its adoption: the agent in the pod is the one that was written down.
#[tokio::test]
async fn an_agent_is_adopted_after_an_edit_of_its_namespace_or_image() {
    let world = World::new("crash-edited").await;
    let elsewhere = World::new("crash-edited-other").await;
    for (name, edit, image) in [
        ("namespace", json!({ "namespace": elsewhere.namespace }), AGENT_IMAGE),
        ("image", json!({}), "registry.example.com/other/netloss-agent:2"),
        ("both", json!({ "namespace": elsewhere.namespace, "duration": "1m" }), "registry.example.com/other/netloss-agent:2"),
    ] {
        world.pod_with(name, json!({ "labels": { "app": name } }), json!({})).await;
        let asked = |more: serde_json::Value| {
            let mut spec = spec(json!({ "selector": { "app": name }, "requireGuarded": true }));
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        world.apply(name, asked(json!({}))).await.unwrap();
        let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::Patch(2))), AGENT_IMAGE, 0);
        world.pass_of(dying, name).await.expect_err("the controller dies");
        let written = world.status(name).await.pods.remove(0);
        assert_eq!((written.state, world.agents(name).await.len()), (PodState::Planned, 1));
        world.apply(name, asked(edit)).await.unwrap();

        let restarted = world.controller(world.client.clone(), image, 5);
        world.pass_of(Arc::clone(&restarted), name).await.unwrap();
        let status = world.status(name).await;
        assert_eq!(status.pods.first().map(|pod| pod.state), Some(PodState::Injected), "{name}: {status:?}");
        assert!(status.condition("Recovered").is_none_or(|is| is.status != "True"), "{name}: {status:?}");
        assert!(world.experiments().get(name).await.unwrap().metadata.finalizers.is_some(), "{name}");
    }
}
