//! Which pods are taken, and which never are.

use crate::world::{AGENT_IMAGE, World, spec};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use netloss_api::{Phase, PodState};
use serde_json::json;
use std::sync::Arc;

#[tokio::test]
async fn of_the_matching_pods_only_as_many_as_asked_for_are_taken() {
    let world = World::new("selection-count").await;
    for name in ["a", "b", "c"] {
        world.pod(name).await;
    }
    world.pod_with("other", json!({ "labels": { "app": "db" } }), json!({})).await;
    world.apply("x", spec(json!({ "count": 2 }))).await.unwrap();
    world.pass("x", 0).await;
    let mut taken = 0;
    for name in ["a", "b", "c"] {
        taken += world.agents(name).await.len();
    }
    assert_eq!((taken, world.agents("other").await.len()), (2, 0));
    let status = world.status("x").await;
    assert_eq!((status.phase, status.affected_pods.len()), (Some(Phase::Pending), 2));
}

/// A k8s-chaos user's safety switches hold: nothing is put into a pod that was only to be named, and nothing that is asked for is skipped.
#[tokio::test]
async fn a_dry_run_a_refusal_and_a_schedule_touch_no_pod() {
    let world = World::new("selection-dry").await;
    for name in ["a", "b", "c"] {
        world.pod(name).await;
    }
    for (name, changes, phase, words) in [
        (
            "dry",
            json!({ "count": 2, "dryRun": true }),
            Phase::Completed,
            "DRY RUN: would inject 10% packet loss (pod-network-loss) into 2 pod(s)",
        ),
        (
            "many",
            json!({ "count": 2, "maxPercentage": 50 }),
            Phase::Failed,
            "spec.maxPercentage is 50, but 2 of the 3 eligible pods are 67 %",
        ),
        ("targeted", json!({ "targetCIDRs": ["10.0.0.1/8"] }), Phase::Failed, "spec.targetCIDRs: \"10.0.0.1/8\" has an address with bits"),
        ("later", json!({ "schedule": "0 9 * * 1" }), Phase::Pending, "Scheduled: the next run is at "),
    ] {
        world.apply(name, spec(changes)).await.unwrap();
        world.pass(name, 0).await;
        let status = world.status(name).await;
        assert_eq!(status.phase, Some(phase), "{name}");
        assert!(status.message.as_deref().unwrap_or_default().starts_with(words), "{name}: {:?}", status.message);
    }
    for name in ["a", "b", "c"] {
        assert_eq!(world.agents(name).await.len(), 0, "{name}");
    }
}

/// What the agent serves reaches it as an experiment has it, and the API server takes it.
#[tokio::test]
async fn models_and_filters_reach_the_container() {
    let world = World::new("selection-filters").await;
    world.pod("a").await;
    let status = json!({ "phase": "Running", "hostIP": "172.18.0.2", "hostIPs": [{ "ip": "172.18.0.2" }, { "ip": "fd00::2" }] });
    world.set_status("a", status).await;
    let changes = json!({
        "lossPercentage": 60, "allowHighLoss": true, "lossModel": { "type": "gilbert", "meanBurst": 4 }, "seed": 7, "perSegment": true,
        "targetCIDRs": ["10.0.0.0/8"], "targetPorts": [443], "targetProtocols": ["tcp"], "spare": ["any:53/udp"], "spareNode": true,
    });
    world.apply("x", spec(changes)).await.unwrap();
    world.pass("x", 0).await;
    let pod = world.pods().get("a").await.unwrap();
    let argv = pod.spec.unwrap().ephemeral_containers.unwrap().remove(0).args.unwrap();
    for argument in [
        "--model=gilbert",
        "--loss=60",
        "--burst=4",
        "--seed=7",
        "--per-segment",
        "--target=10.0.0.0/8:443/tcp",
        "--spare=any:53/udp",
        "--spare-node=172.18.0.2",
        "--spare-node=fd00::2",
    ] {
        assert!(argv.iter().any(|given| given == argument), "{argument}: {argv:?}");
    }
    world.pod("b").await;
    let correlated = spec(json!({ "correlation": 25, "dryRun": true }));
    world.apply("y", correlated).await.unwrap();
    world.pass("y", 0).await;
    assert!(world.event_reasons("ChaosExperiment", "y").await.iter().any(|reason| reason == "EffectiveLoss"));
}

#[tokio::test]
async fn a_hundred_pods_are_one_pass() {
    let world = World::new("selection-hundred").await;
    for n in 0..100 {
        world.pod(&format!("p{n}")).await;
    }
    world.apply("x", spec(json!({ "count": 100 }))).await.unwrap();
    world.pass("x", 0).await;
    let status = world.status("x").await;
    assert!(status.pods.len() == 100 && status.pods.iter().all(|pod| pod.state == PodState::Injected));
    assert_eq!(status.affected_pods.len(), 100);
    let pods = world.pods().list(&ListParams::default()).await.unwrap();
    assert!(pods.iter().all(|pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref()).is_some_and(|all| all.len() == 1)));
}

#[tokio::test]
async fn pods_that_must_not_be_touched_never_are() {
    let world = World::new("selection-never").await;
    world.pod_with("host", json!({}), json!({ "hostNetwork": true })).await;
    world.pod_with("mirror", json!({ "annotations": { "kubernetes.io/config.mirror": "hash" } }), json!({})).await;
    world.pod_with("excluded", json!({ "labels": { "chaos.gushchin.dev/exclude": "true" } }), json!({})).await;
    world.pod_with("terminating", json!({ "finalizers": ["test.example/hold"] }), json!({})).await;
    world.pods().delete("terminating", &DeleteParams::default()).await.unwrap();
    world.pod("starting").await;
    world.set_status("starting", json!({ "phase": "Pending" })).await;
    world.pod("done").await;
    world.set_status("done", json!({ "phase": "Succeeded" })).await;
    let names = ["host", "mirror", "excluded", "terminating", "starting", "done"];

    world.apply("alone", spec(json!({ "count": 100 }))).await.unwrap();
    world.pass("alone", 0).await;
    let status = world.status("alone").await;
    assert_eq!(status.phase, Some(Phase::Failed));
    let message = status.message.unwrap();
    assert!(message.starts_with("No eligible pods: none of the 6 in the namespace \"selection-never\""), "{message}");
    assert_eq!(world.event_reasons("ChaosExperiment", "alone").await, [&["ExperimentFailed"][..], &["Skipped"; 6]].concat());

    world.pod("plain").await;
    world.apply("with-one", spec(json!({ "count": 100 }))).await.unwrap();
    world.pass("with-one", 0).await;
    for name in names {
        assert_eq!(world.agents(name).await.len(), 0, "{name}");
    }
    assert_eq!(world.agents("plain").await.len(), 1);
    assert!(world.message("with-one").await.contains("only 1 of the 100 pods asked for were eligible"));
}

#[tokio::test]
async fn a_pod_with_an_agent_at_work_is_not_taken_a_second_time() {
    let world = World::new("selection-active").await;
    world.pod("a").await;
    world.apply("first", spec(json!({}))).await.unwrap();
    world.pass("first", 0).await;
    world.apply("second", spec(json!({}))).await.unwrap();
    world.pass("second", 1).await;
    let message = world.message("second").await;
    assert!(message.starts_with("No eligible pods") && message.contains("another run is active in it"), "{message}");
    assert_eq!(world.agents("a").await.len(), 1);
}

#[tokio::test]
async fn an_excluded_namespace_is_left_alone() {
    let world = World::new("selection-namespace").await;
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "chaos.gushchin.dev/exclude": "true" } } }));
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone());
    namespaces.patch(&world.namespace, &PatchParams::default(), &patch).await.unwrap();
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    assert!(world.message("x").await.starts_with("No eligible pods: the namespace \"selection-namespace\" carries the label"));
    assert!(world.agents("a").await.is_empty());
}

/// Whoever counts up the first event of a reason, as kube's recorder does, leaves its words standing.
#[tokio::test]
async fn what_is_refused_twice_is_told_twice_in_words_of_its_own() {
    let world = World::new("selection-twice").await;
    let controller = world.controller(world.client.clone(), AGENT_IMAGE, 0);
    let networks = ["10.0.0.1/8", "10.0.0.2/8"];
    for network in networks {
        world.apply("x", spec(json!({ "targetCIDRs": [network] }))).await.unwrap();
        world.pass_of(Arc::clone(&controller), "x").await.unwrap();
    }
    let notes: Vec<String> = world.events("ChaosExperiment", "x").await.into_iter().filter_map(|event| event.note).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(networks.iter().all(|network| notes.iter().any(|note| note.contains(network))), "{notes:?}");
}
