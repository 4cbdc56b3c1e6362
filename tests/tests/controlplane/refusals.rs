//! What the controller leaves alone, and what the API server does not let it do.

use crate::world::{World, spec};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use netloss_api::{Outcome, PREFLIGHT, Phase};
use serde_json::json;

#[tokio::test]
async fn an_object_of_another_action_is_not_touched_at_all() {
    let world = World::new("refusals-foreign").await;
    world.pod("a").await;
    let theirs = json!({ "action": "pod-kill", "namespace": world.namespace, "selector": { "app": "web" }, "count": 1 });
    let before = world.apply("theirs", theirs).await.unwrap();
    world.pass("theirs", 0).await;
    let after = world.experiments().get("theirs").await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    assert!(world.agents("a").await.is_empty());
    assert!(world.event_reasons("ChaosExperiment", "theirs").await.is_empty());
}

#[tokio::test]
async fn pod_securitys_refusal_is_told_in_its_own_words() {
    let world = World::new("refusals-pod-security").await;
    world.pod("a").await;
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "baseline" } } }));
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone());
    namespaces.patch(&world.namespace, &PatchParams::default(), &patch).await.unwrap();
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let status = world.status("x").await;
    assert_eq!((status.phase, status.pods[0].outcome), (Some(Phase::Failed), Some(Outcome::Failed)));
    let message = status.message.clone().unwrap();
    let words =
        "Failed to inject 10% packet loss into any of 1 pod(s); a: the API server would refuse the agent, so no pod was touched: pod a:";
    assert!(message.starts_with(words), "{message}");
    let condition = status.condition(PREFLIGHT).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Refused"));
    assert!(condition.message.contains("violates PodSecurity \"baseline:latest\": non-default capabilities"), "{condition:?}");
    assert!(status.affected_pods.is_empty() && world.agents("a").await.is_empty());
    assert!(world.event_reasons("ChaosExperiment", "x").await.contains(&"PermissionDenied".to_owned()));
    assert!(world.experiments().get("x").await.unwrap().finalizers().is_empty());
}
