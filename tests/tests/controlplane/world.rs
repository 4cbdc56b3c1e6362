//! One API server for all tests, and a namespace for each.

use crate::node::Node;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, DEFINITIONS, PodStatus};
use netloss_controller::reconcile::{self, Context, Error};
use netloss_core::machine::Settings;
use netloss_lab::controlplane::{CONTEXT, ControlPlane};
use netloss_lab::host::paths::workspace_root;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The image that the first controller of a test knows.
pub(crate) const AGENT_IMAGE: &str = "localhost/netloss-agent:1";

static SERVERS: OnceCell<Servers> = OnceCell::const_new();

struct Servers {
    control_plane: ControlPlane,
    node: Node,
}

impl Servers {
    async fn start() -> Self {
        let control_plane = ControlPlane::start_for_tests().await.expect("the control plane starts");
        let client = control_plane.client().await.expect("a client");
        install_definitions(client.clone()).await;
        let node = Node::start(client, control_plane.pki()).await;
        Self { control_plane, node }
    }
}

/// Installs the committed definitions, as a user does.
pub(crate) async fn install_definitions(client: Client) {
    for definition in DEFINITIONS {
        let text = std::fs::read_to_string(workspace_root().join(definition.committed())).expect("the definition is committed");
        let crd: CustomResourceDefinition = serde_saphyr::from_str(&text).expect("the definition is one");
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        api.create(&PostParams::default(), &crd).await.expect("the API server takes the definition");
        await_condition(api, &crd.name_any(), conditions::is_crd_established()).await.expect("the definition becomes established");
    }
}

/// A namespace on the API server.
#[derive(Clone)]
pub(crate) struct World {
    /// An administrator.
    pub(crate) client: Client,
    /// The namespace.
    pub(crate) namespace: String,
    /// When the test began.
    pub(crate) begin: Timestamp,
    config: Config,
}

impl World {
    /// `name` is the test's, and the namespace's.
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(&SERVERS.get_or_init(Servers::start).await.control_plane, name).await
    }

    /// On this control plane, in which no kubelet answers for logs.
    pub(crate) async fn on(control_plane: &ControlPlane, name: &str) -> Self {
        let world = Self::of(control_plane, name).await;
        let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        world
    }

    /// The same in a namespace that is there.
    pub(crate) async fn of(control_plane: &ControlPlane, name: &str) -> Self {
        let options = kube::config::KubeConfigOptions { context: Some(CONTEXT.to_owned()), ..Default::default() };
        let kubeconfig = kube::config::Kubeconfig::read_from(control_plane.kubeconfig_path()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        Self { client, namespace: name.to_owned(), begin: Timestamp::now(), config }
    }

    /// What the node's kubelet answers when it is asked for logs.
    pub(crate) fn node() -> &'static Node {
        &SERVERS.get().expect("a world exists").node
    }

    /// A kubeconfig file of an administrator.
    pub(crate) fn kubeconfig() -> std::path::PathBuf {
        SERVERS.get().expect("a world exists").control_plane.kubeconfig_path().to_owned()
    }

    /// A folder that goes with the API server.
    pub(crate) fn dir() -> std::path::PathBuf {
        SERVERS.get().expect("a world exists").control_plane.dir().to_owned()
    }

    /// How to reach the API server as an administrator.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    pub(crate) fn experiments(&self) -> Api<ChaosExperiment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies an experiment as `kubectl apply` does, unknown fields being errors; an error is in the API server's words.
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> Result<ChaosExperiment, String> {
        let manifest = json!({
            "apiVersion": "chaos.gushchin.dev/v1alpha1",
            "kind": "ChaosExperiment",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": spec,
        });
        let params = PatchParams::apply("a-user").validation_strict().force();
        let resource = kube::core::ApiResource::erase::<ChaosExperiment>(&());
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        match api.patch(name, &params, &Patch::Apply(manifest)).await {
            Ok(object) => Ok(object.try_parse().unwrap()),
            Err(kube::Error::Api(status)) => Err(status.message),
            Err(other) => panic!("{other}"),
        }
    }

    /// A controller at a time of its own, in seconds after the begin of the test.
    pub(crate) fn controller(&self, client: Client, image: &str, seconds: i64) -> Arc<Context> {
        let now = self.at(seconds);
        let settings = Settings::new(image, "netloss-system");
        Arc::new(Context::new(client, settings, Arc::new(move || now), Some("test".to_owned())))
    }

    pub(crate) fn at(&self, seconds: i64) -> Timestamp {
        self.begin + SignedDuration::from_secs(seconds)
    }

    /// One pass of an ordinary controller over the experiment.
    pub(crate) async fn pass(&self, name: &str, seconds: i64) -> Action {
        self.pass_of(self.controller(self.client.clone(), AGENT_IMAGE, seconds), name).await.expect("the pass comes to its end")
    }

    /// Applies the smallest spec under this name and makes one pass, which injects an agent. Returns the pod's entry of the status.
    pub(crate) async fn injected(&self, name: &str) -> PodStatus {
        self.apply(name, spec(json!({}))).await.unwrap();
        self.pass(name, 0).await;
        self.status(name).await.pods[0].clone()
    }

    /// One pass of this controller over the experiment.
    pub(crate) async fn pass_of(&self, controller: Arc<Context>, name: &str) -> Result<Action, Error> {
        let object = self.experiments().get(name).await.unwrap();
        reconcile::reconcile(&object, &controller).await
    }

    pub(crate) async fn status(&self, name: &str) -> ChaosExperimentStatus {
        self.experiments().get(name).await.unwrap().status.unwrap_or_default()
    }

    pub(crate) async fn message(&self, name: &str) -> String {
        self.status(name).await.message.unwrap_or_default()
    }

    /// The reasons of the events about an object of this name, sorted.
    pub(crate) async fn event_reasons(&self, kind: &str, name: &str) -> Vec<String> {
        let mut reasons: Vec<String> = self.events(kind, name).await.into_iter().filter_map(|event| event.reason).collect();
        reasons.sort();
        reasons
    }

    /// The events about an object of this name.
    pub(crate) async fn events(&self, kind: &str, name: &str) -> Vec<Event> {
        let mut events = Api::<Event>::namespaced(self.client.clone(), &self.namespace).list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            regarding.kind.as_deref() == Some(kind) && regarding.name.as_deref() == Some(name)
        });
        events
    }
}

/// The smallest spec that is taken, without retries, with changes; a change to null leaves a field out.
pub(crate) fn spec(changes: Value) -> Value {
    let mut spec = json!({
        "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "lossPercentage": 10, "maxRetries": 0,
    });
    let (Value::Object(fields), Value::Object(changes)) = (&mut spec, changes) else { panic!("a spec is an object") };
    fields.extend(changes);
    fields.retain(|_, value| !value.is_null());
    spec
}
