//! Manifests as a user would apply them: the YAML files of `config`, by server-side apply.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::host::{paths, progress};

/// Who the lab is to the API server, as the owner of fields.
const FIELD_MANAGER: &str = "netloss-lab";
/// A kind's definition is served a moment after it was created.
const SERVED_LIMIT: Duration = Duration::from_secs(30);
/// An image that is there starts in seconds, in an emulator that has nothing else to do.
const AVAILABLE_LIMIT: Duration = Duration::from_mins(3);

/// The namespace and name of the controller's Deployment.
pub(super) const CONTROLLER: (&str, &str) = ("netloss-system", "netloss-controller");

/// What the lab understands of kustomize: a list of files and folders. Anything else in there must not be passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<PathBuf>,
}

/// Installs netloss (definitions, RBAC, controller; no webhook) and waits until the controller is available. `adjust` sees each object first, for
/// other images or arguments.
///
/// # Errors
///
/// If something is refused or the controller does not become available.
pub async fn install_netloss(client: &Client, adjust: impl Fn(&mut DynamicObject)) -> Result<()> {
    let step = progress::step("Installing netloss");
    let mut objects = default_objects()?;
    // The API server runs outside the node, and reaches no Service in it. tests/tests/controlplane has the webhook on loopback.
    objects.retain(|object| kind(object) != "ValidatingWebhookConfiguration");
    objects.iter_mut().for_each(adjust);
    for object in &objects {
        step.detail(format!("{} {}", kind(object), object.name_any()));
        apply(client, object).await?;
    }
    step.detail("waiting for the controller");
    wait_available(client).await?;
    step.done("the controller is available");
    Ok(())
}

/// All that `kubectl apply -k config/default` applies, in an order in which it can be applied.
///
/// # Errors
///
/// If a file cannot be read, or holds something else.
pub fn default_objects() -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for file in files(&paths::workspace_root().join("config/default"))? {
        objects.extend(parse(&fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?)?);
    }
    // Stable: within one rank the order of the files stays.
    objects.sort_by_key(rank);
    Ok(objects)
}

/// Applies one object by server-side apply, waiting for its kind to be served if its definition was created just now.
///
/// # Errors
///
/// If the API server does not know the kind or refuses the object.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    let types = object.types.clone().context("an object without a kind")?;
    let kind = GroupVersionKind::try_from(&types)?;
    let deadline = Instant::now() + SERVED_LIMIT;
    let (resource, capabilities) = loop {
        match discovery::pinned_kind(client, &kind).await {
            Ok(found) => break found,
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(200)).await,
            Err(error) => return Err(error).with_context(|| format!("the API server does not serve {}", types.kind)),
        }
    };
    let api: Api<DynamicObject> = match (capabilities.scope, object.namespace()) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), &namespace, &resource),
        (Scope::Namespaced, None) => bail!("{} {} names no namespace", types.kind, object.name_any()),
    };
    let name = object.name_any();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(object)).await.with_context(|| format!("cannot apply {} {name}", types.kind))?;
    Ok(())
}

/// Wants one controller, for a node on which starting a second one takes longer than it is good for. Other objects stay as they are.
pub fn set_one_replica(object: &mut DynamicObject) {
    if kind(object) == "Deployment" {
        object.data["spec"]["replicas"] = 1.into();
    }
}

/// Puts in other images: the controller's into its Deployment, and the one that it is to put into pods into its ConfigMap. Other objects
/// stay as they are.
pub fn set_images(object: &mut DynamicObject, controller: &str, agent: &str) {
    match (kind(object), object.name_any().as_str()) {
        ("Deployment" | "Job", _) => {
            let containers = object.data.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
            containers.into_iter().flatten().for_each(|container| container["image"] = controller.into());
        }
        ("ConfigMap", "netloss-agent") => object.data["data"]["image"] = agent.into(),
        _ => {}
    }
}

/// The objects of a YAML stream.
///
/// # Errors
///
/// If it is not YAML or holds something other than objects.
pub fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    serde_saphyr::from_multiple(yaml).context("not a stream of Kubernetes objects")
}

/// The files that a kustomization consists of, in its order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let path = folder.join("kustomization.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let kustomization: Kustomization =
        serde_saphyr::from_str(&text).with_context(|| format!("{} has more in it than the lab understands", path.display()))?;
    let mut found = Vec::new();
    for resource in kustomization.resources {
        let path = folder.join(resource);
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// What others need comes first.
fn rank(object: &DynamicObject) -> u8 {
    match kind(object) {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "Role" => 2,
        "ClusterRoleBinding" | "RoleBinding" => 3,
        _ => 4,
    }
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

async fn wait_available(client: &Client) -> Result<()> {
    let (namespace, name) = CONTROLLER;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + AVAILABLE_LIMIT;
    loop {
        let deployment = deployments.get(name).await?;
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.unwrap_or_default();
        let current = status.observed_generation == deployment.metadata.generation && status.updated_replicas == Some(wanted);
        if current && status.available_replicas == Some(wanted) && status.replicas == Some(wanted) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{namespace}/{name} is not available after {} s: {:?}", AVAILABLE_LIMIT.as_secs(), status.conditions);
        }
        sleep(Duration::from_millis(300)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_kustomization_is_plain_and_complete() {
        let objects = default_objects().unwrap();
        for expected in ["Namespace", "Job", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Deployment"] {
            assert!(objects.iter().any(|object| kind(object) == expected), "no {expected}");
        }
    }

    #[test]
    fn other_images_take_both_places() {
        let folder = paths::workspace_root().join("config/manager");
        let mut text = String::new();
        for file in ["deployment.yaml", "agent.yaml"] {
            let mut objects = parse(&fs::read_to_string(folder.join(file)).unwrap()).unwrap();
            set_images(&mut objects[0], "registry.example/controller:1", "registry.example/agent:1");
            text += &objects[0].data.to_string();
        }
        assert!(text.contains(r#""image":"registry.example/controller:1""#), "{text}");
        assert!(text.contains(r#""image":"registry.example/agent:1""#), "{text}");
        assert!(!text.contains("localhost/"), "{text}");
    }
}
