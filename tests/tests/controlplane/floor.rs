//! The oldest Kubernetes that netloss supports: what netloss uses of an API server is there already, and does the same.
//!
//! What is tested is what the other files test on the newest release. No other program of the old release runs here, nor is needed.

use crate::scenarios::samples;
use crate::world::{World, install_definitions};
use crate::{lifecycle, policy, schema, webhook};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingWebhookConfiguration};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use netloss_api::DEFINITIONS;
use netloss_lab::cluster::{apply, default_objects};
use netloss_lab::controlplane::{ControlPlane, Release};
use tokio::sync::OnceCell;

/// The API server that the tests of this file share, with the definitions installed.
struct Floor {
    control_plane: ControlPlane,
}

impl Floor {
    async fn get() -> &'static Self {
        static FLOOR: OnceCell<Floor> = OnceCell::const_new();
        FLOOR.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let control_plane = ControlPlane::start_for_tests_of(Release::Floor).await.expect("the control plane starts");
        let client = control_plane.client().await.expect("a client");
        install_definitions(client).await;
        Self { control_plane }
    }

    /// A namespace of this name.
    async fn world(&self, name: &str) -> World {
        World::on(&self.control_plane, name).await
    }
}

/// Waiting for the definitions to be established, which the start does, is not enough: a rule that does not compile is only told of.
#[tokio::test]
async fn the_definitions_are_served_with_their_rules() {
    let floor = Floor::get().await;
    let client = floor.control_plane.client().await.unwrap();
    let version = client.apiserver_version().await.unwrap();
    // README.md names it.
    assert_eq!(version.git_version, "v1.30.14");
    let definitions = Api::<CustomResourceDefinition>::all(client);
    for definition in definitions.list(&ListParams::default()).await.unwrap() {
        let name = definition.name_any();
        let conditions = definition.status.unwrap().conditions.unwrap();
        assert!(
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True"),
            "{name}: {conditions:?}"
        );
        assert!(conditions.iter().all(|condition| condition.type_ != "NonStructuralSchema"), "{name}: {conditions:?}");
    }
    schema::out_of_range_is_refused(&floor.world("floor-refusals").await).await;
    schema::the_action_is_kept(&floor.world("floor-action").await).await;
}

#[tokio::test]
async fn the_samples_are_taken() {
    let world = Floor::get().await.world("floor-samples").await;
    for (sample, text) in samples() {
        let manifest: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let name = manifest["metadata"]["name"].as_str().unwrap();
        assert!(world.apply(name, manifest["spec"].clone()).await.unwrap().spec.action.is_served(), "{sample}");
    }
}

/// No controller of Deployments runs here: the API server takes the objects, and nothing becomes of them.
#[tokio::test]
async fn everything_that_an_installation_applies_is_taken() {
    let client = Floor::get().await.control_plane.client().await.unwrap();
    let objects = default_objects().unwrap();
    for object in &objects {
        let kind = object.types.as_ref().unwrap().kind.as_str();
        if kind == "ValidatingWebhookConfiguration" {
            // Nobody would answer it in this cluster, and other tests create experiments.
            let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
            let dry = PatchParams { dry_run: true, ..PatchParams::apply("a-user").validation_strict() };
            api.patch(&object.name_any(), &dry, &Patch::Apply(object)).await.unwrap();
        } else {
            apply(&client, object).await.unwrap_or_else(|error| panic!("{kind} {}: {error:#}", object.name_any()));
        }
    }
    assert!(objects.len() > DEFINITIONS.len());
    let policies = Api::<ValidatingAdmissionPolicy>::all(client).list(&ListParams::default()).await.unwrap();
    assert_eq!(policies.items.len(), 2);
}

#[tokio::test]
async fn the_policies_hold_the_controller_to_its_containers() {
    Box::pin(policy::only_netloss_passes(&Floor::get().await.world("floor-containers").await)).await;
}

#[tokio::test]
async fn the_policies_hold_the_controller_to_its_finalizer() {
    policy::only_the_finalizer_passes(&Floor::get().await.world("floor-experiments").await).await;
}

#[tokio::test]
async fn the_webhook_is_asked_for_a_new_spec_alone() {
    webhook::none_else_is_asked_for(&Floor::get().await.world("floor-webhook").await).await;
}

#[tokio::test]
async fn a_run_from_its_begin_to_its_end() {
    lifecycle::whole_run(Release::Floor).await;
}
