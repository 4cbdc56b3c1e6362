//! What whoever has the controller's token can do with it: nothing but what netloss does.

use crate::lifecycle::{client_of, eventually, service_account};
use crate::world::{World, install_definitions};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperiment, PodStatus, SentContainer};
use netloss_contract::{repair_container_name, stop_container_name};
use netloss_core::container::{agent_container, patch, repair_container, stop_container};
use netloss_lab::cluster::{apply, default_objects};
use netloss_lab::controlplane::{ControlPlane, Extent};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than a controller of Kubernetes takes to look at a policy, beside builds and booting VMs.
const LIMIT: Duration = Duration::from_mins(3);

/// The answer to adding this container, which is not really added.
async fn ask(client: &Client, entry: &PodStatus, container: &EphemeralContainer) -> Result<(), String> {
    let pods = Api::<Pod>::namespaced(client.clone(), &entry.namespace);
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    match pods.patch_ephemeral_containers(&entry.name, &params, &Patch::Strategic(patch(entry, container))).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(other) => panic!("{other}"),
    }
}

/// The container with changes, in JSON pointers.
fn changed(container: &EphemeralContainer, changes: &[(&str, Value)]) -> EphemeralContainer {
    let mut object = serde_json::to_value(container).unwrap();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(key);
        } else {
            parent.insert(key.to_owned(), value.clone());
        }
    }
    serde_json::from_value(object).unwrap()
}

/// A planned entry for the pod `a`, another ephemeral container of somebody's in it, and the controller's own client.
async fn stage(world: &World) -> (PodStatus, Client) {
    let client = service_account(world).await;
    world.pod_with("a", json!({}), json!({ "volumes": [{ "name": "data", "emptyDir": {} }] })).await;
    let theirs = json!({ "spec": { "ephemeralContainers": [{ "name": "debugger", "image": "busybox", "command": ["sh"] }] } });
    let pods = world.pods();
    pods.patch_ephemeral_containers("a", &PatchParams::default(), &Patch::Strategic(theirs)).await.unwrap();
    let entry = world.injected("x").await;
    // The API server takes a moment to notice a policy.
    let hostile = changed(&agent_container(&entry), &[("/name", json!("network-loss-probe")), ("/image", json!("busybox"))]);
    let in_force = async || ask(&client, &entry, &hostile).await.is_err_and(|words| words.contains("netloss-controller may only add"));
    eventually("the policy is in force", in_force).await;
    (entry, client)
}

#[tokio::test]
async fn what_the_controller_sends_passes_and_nothing_else_does() {
    Box::pin(only_netloss_passes(&World::new("policy-containers").await)).await;
}

pub(crate) async fn only_netloss_passes(world: &World) {
    let (entry, client) = stage(world).await;
    // The one in the pod is the first attempt's.
    let entry = PodStatus { container: format!("{}0", entry.container), ..entry };
    let uid = entry.argv.iter().find_map(|word| word.strip_prefix("--run=")?.split('/').next()).unwrap().to_owned();
    let sent = |container: String, command: &str| SentContainer {
        container,
        argv: vec![command.to_owned(), format!("--run={uid}/1")],
        deadline: Time(Timestamp::now()),
        number: 1,
    };
    let agent = agent_container(&entry);
    let stop = stop_container(&entry, &sent(stop_container_name(&uid, 9, 1, 1), "stop"));
    let repair = repair_container(&entry, &sent(repair_container_name(&uid, 9, 1, 1), "cleanup"));
    let of_digest = changed(&agent, &[("/image", json!(format!("localhost/netloss-agent@sha256:{}", "0".repeat(64))))]);
    for container in [&agent, &stop, &repair, &of_digest] {
        assert_eq!(ask(&client, &entry, container).await, Ok(()), "{container:?}");
    }

    let (image, rights, context, own) = (
        "of the image that ConfigMap",
        "that are uid 0 with NET_ADMIN alone",
        "that drop all capabilities",
        "without a command, environment, volumes",
    );
    let context_of = |field: &str| format!("/securityContext/{field}");
    let cases: Vec<(&str, Vec<(String, Value)>)> = vec![
        ("whose name begins with", vec![("/name".to_owned(), json!("shell"))]),
        (image, vec![("/image".to_owned(), json!("busybox"))]),
        (image, vec![("/image".to_owned(), json!("localhost/netloss-agent-evil:1"))]),
        (image, vec![("/image".to_owned(), json!("localhost/netloss-agent:1/evil"))]),
        (image, vec![("/image".to_owned(), json!("evil.example/localhost/netloss-agent:1"))]),
        (rights, vec![("/args".to_owned(), json!(["sh"]))]),
        (rights, vec![("/args".to_owned(), Value::Null)]),
        (rights, vec![("/args".to_owned(), json!(["stop"]))]),
        (rights, vec![(context_of("capabilities/add"), json!(["NET_ADMIN", "SYS_ADMIN"]))]),
        (rights, vec![(context_of("capabilities/add"), Value::Null)]),
        (rights, vec![(context_of("runAsUser"), json!(1000))]),
        (rights, vec![(context_of("runAsUser"), Value::Null)]),
        (rights, vec![(context_of("runAsGroup"), json!(1000))]),
        (rights, vec![(context_of("runAsNonRoot"), Value::Null)]),
        (rights, vec![("/securityContext".to_owned(), Value::Null)]),
        (context, vec![(context_of("capabilities/drop"), Value::Null)]),
        (context, vec![(context_of("readOnlyRootFilesystem"), json!(false))]),
        (context, vec![(context_of("allowPrivilegeEscalation"), Value::Null)]),
        (context, vec![(context_of("privileged"), json!(true)), (context_of("allowPrivilegeEscalation"), Value::Null)]),
        (context, vec![(context_of("seccompProfile"), json!({ "type": "Unconfined" }))]),
        (context, vec![(context_of("seccompProfile"), json!({ "type": "Localhost", "localhostProfile": "x" }))]),
        (context, vec![(context_of("seccompProfile"), Value::Null)]),
        (context, vec![(context_of("seLinuxOptions"), json!({ "type": "spc_t" }))]),
        (context, vec![(context_of("procMount"), json!("Default"))]),
        (context, vec![(context_of("appArmorProfile"), json!({ "type": "Unconfined" }))]),
        (own, vec![("/command".to_owned(), json!(["sh"]))]),
        (own, vec![("/env".to_owned(), json!([{ "name": "A", "value": "b" }]))]),
        (own, vec![("/envFrom".to_owned(), json!([{ "secretRef": { "name": "s" } }]))]),
        (own, vec![("/env".to_owned(), json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]))]),
        (own, vec![("/workingDir".to_owned(), json!("/x"))]),
        (own, vec![("/volumeMounts".to_owned(), json!([{ "name": "data", "mountPath": "/x" }]))]),
        (own, vec![("/stdin".to_owned(), json!(true))]),
        (own, vec![("/tty".to_owned(), json!(true))]),
        (own, vec![("/targetContainerName".to_owned(), json!("app"))]),
    ];
    let mut wrong = Vec::new();
    for (words, changes) in cases {
        let changes: Vec<(&str, Value)> = changes.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).collect();
        let answer = ask(&client, &entry, &changed(&agent, &changes)).await;
        if !answer.as_ref().is_err_and(|said| said.contains(words)) {
            wrong.push(format!("{changes:?}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "not refused as such:\n{}", wrong.join("\n"));
    let more = changed(&stop, &[("/securityContext/capabilities/add", json!(["NET_ADMIN"]))]);
    assert!(ask(&client, &entry, &more).await.unwrap_err().contains(rights));
}

/// Where the controller itself begins nothing: its own word about that is not all that stands in the way.
#[tokio::test]
async fn no_container_comes_into_the_clusters_own_pods() {
    let world = World::new("policy-places").await;
    let (entry, client) = stage(&world).await;
    let agent = agent_container(&PodStatus { container: format!("{}0", entry.container), ..entry.clone() });
    let spec = json!({ "containers": [{ "name": "app", "image": "app" }], "automountServiceAccountToken": false });
    let on_the_host = {
        let mut spec = spec.clone();
        spec["hostNetwork"] = json!(true);
        spec
    };
    for (namespace, spec, words) in [
        (world.namespace.as_str(), on_the_host, "on the node's own network"),
        ("kube-system", spec.clone(), "in the cluster's own namespaces"),
        ("netloss-system", spec, "and in netloss's"),
    ] {
        let pods = Api::<Pod>::namespaced(world.client.clone(), namespace);
        let name = format!("{}-place", world.namespace);
        let pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
        let uid = pods.create(&PostParams::default(), &pod).await.unwrap().uid().unwrap();
        let there = PodStatus { namespace: namespace.to_owned(), name: name.clone(), uid, ..entry.clone() };
        let answer = ask(&client, &there, &agent).await;
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        assert!(answer.as_ref().is_err_and(|said| said.contains(words)), "{namespace}: {answer:?}");
    }
}

/// All else that a token is stolen for. What is asked is refused before it is read, so that nothing has to be in it.
#[tokio::test]
async fn a_stolen_token_is_refused_all_else() {
    let world = World::new("policy-all-else").await;
    let (_, client) = stage(&world).await;
    refused(&client, all_else(&world)).await;
}

/// Those of the Jobs exist for as long as these run, and are for one thing.
#[tokio::test]
async fn a_token_stolen_from_a_job_is_refused_all_but_its_one_thing() {
    let world = World::new("policy-jobs").await;
    stage(&world).await;
    let (own, experiments) =
        (&world.namespace, format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{}/chaosexperiments", world.namespace));
    let of_the_controller = [
        ("PATCH", format!("/api/v1/namespaces/{own}/pods/a/ephemeralcontainers")),
        ("GET", format!("/api/v1/namespaces/{own}/pods/a/log")),
        ("GET", "/api/v1/pods".to_owned()),
        ("GET", experiments.clone()),
        ("PATCH", format!("{experiments}/x")),
        ("PUT", format!("{experiments}/x/status")),
        ("GET", "/api/v1/namespaces/netloss-system/secrets/netloss-webhook".to_owned()),
        ("PATCH", "/apis/coordination.k8s.io/v1/namespaces/netloss-system/leases/netloss-controller".to_owned()),
    ];
    for (account, its_own) in [
        ("netloss-webhook-ca", "validatingwebhookconfigurations/netloss"),
        ("netloss-definitions", "customresourcedefinitions/chaosexperiments.chaos.gushchin.dev"),
    ] {
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let others = [("POST", definitions.to_owned()), ("PATCH", format!("{definitions}/others.example.com"))];
        let cases = all_else(&world)
            .into_iter()
            .chain(of_the_controller.clone())
            .chain(others)
            .filter(|(method, path)| *method != "PATCH" || !path.ends_with(its_own));
        refused(&client_of(&world, account), cases.collect()).await;
    }
}

/// What no token of netloss's is for.
fn all_else(world: &World) -> Vec<(&'static str, String)> {
    let (own, pods) = (&world.namespace, format!("/api/v1/namespaces/{}/pods", world.namespace));
    vec![
        // Code in a pod, another way.
        ("POST", format!("{pods}/a/exec?command=sh&stdout=true")),
        ("GET", format!("{pods}/a/exec?command=sh&stdout=true")),
        ("POST", format!("{pods}/a/attach?stdout=true")),
        ("POST", format!("{pods}/a/portforward")),
        ("GET", format!("{pods}/a/proxy/")),
        ("POST", pods.clone()),
        ("POST", "/api/v1/namespaces/netloss-system/pods".to_owned()),
        ("POST", format!("/apis/apps/v1/namespaces/{own}/deployments")),
        ("POST", format!("/apis/apps/v1/namespaces/{own}/daemonsets")),
        ("POST", format!("/apis/batch/v1/namespaces/{own}/jobs")),
        ("PATCH", "/apis/apps/v1/namespaces/netloss-system/deployments/netloss-controller".to_owned()),
        // A pod itself: its labels, its image, its life.
        ("PATCH", format!("{pods}/a")),
        ("PUT", format!("{pods}/a")),
        ("PUT", format!("{pods}/a/ephemeralcontainers")),
        ("PATCH", format!("{pods}/a/status")),
        ("PATCH", format!("{pods}/a/resize")),
        ("DELETE", format!("{pods}/a")),
        ("DELETE", pods.clone()),
        ("POST", format!("{pods}/a/eviction")),
        // What is secret.
        ("GET", "/api/v1/secrets".to_owned()),
        ("GET", format!("/api/v1/namespaces/{own}/secrets/any")),
        ("GET", "/api/v1/namespaces/netloss-system/secrets".to_owned()),
        ("GET", "/api/v1/namespaces/netloss-system/secrets/another".to_owned()),
        ("GET", format!("/api/v1/namespaces/{own}/configmaps")),
        ("POST", format!("/api/v1/namespaces/{own}/serviceaccounts/default/token")),
        // What holds it: the policies, the agent's image, its rights.
        ("PATCH", "/api/v1/namespaces/netloss-system/configmaps/netloss-agent".to_owned()),
        ("PATCH", "/api/v1/namespaces/netloss-system/configmaps/netloss-freeze".to_owned()),
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/netloss-controller-containers".to_owned()),
        ("PATCH", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/netloss-controller-containers".to_owned()),
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/netloss-controller-containers".to_owned()),
        ("PATCH", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/another".to_owned()),
        // Its own webhook's configuration: with other rules, every object that is written would be sent where it says.
        ("PATCH", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/netloss".to_owned()),
        ("PUT", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/netloss".to_owned()),
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/netloss".to_owned()),
        ("POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned()),
        ("PUT", "/api/v1/namespaces/netloss-system/secrets/netloss-webhook-ca-of-others".to_owned()),
        ("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/netloss-controller".to_owned()),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned()),
        ("PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/chaosexperiments.chaos.gushchin.dev".to_owned()),
        ("PATCH", format!("/api/v1/namespaces/{own}")),
        // Experiments of its own, or of others.
        ("POST", format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{own}/chaosexperiments")),
        ("PUT", format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{own}/chaosexperiments/x")),
        ("DELETE", format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{own}/chaosexperiments/x")),
        // Nodes, and through them everything.
        ("GET", "/api/v1/nodes".to_owned()),
        ("GET", "/api/v1/nodes/n/proxy/pods".to_owned()),
    ]
}

async fn refused(client: &Client, cases: Vec<(&'static str, String)>) {
    let mut wrong = Vec::new();
    for (method, path) in cases {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let dry = if method == "GET" {
            ""
        } else if path.contains('?') {
            "&dryRun=All"
        } else {
            "?dryRun=All"
        };
        let request = http::Request::builder().method(method).uri(format!("{path}{dry}")).header("Content-Type", kind);
        match client.request::<Value>(request.body(b"{}".to_vec()).unwrap()).await {
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("cannot") => {}
            other => wrong.push(format!("{method} {path}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "not forbidden:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_experiment_is_patched_for_its_finalizer_alone() {
    only_the_finalizer_passes(&World::new("policy-experiments").await).await;
}

pub(crate) async fn only_the_finalizer_passes(world: &World) {
    let (_, client) = stage(world).await;
    let experiments = Api::<ChaosExperiment>::namespaced(client, &world.namespace);
    let try_it = async |change: Value| experiments.patch("x", &PatchParams::default(), &Patch::Merge(change)).await;
    for (change, words) in [
        (json!({ "spec": { "count": 2 } }), "may not change the spec"),
        (json!({ "metadata": { "labels": { "a": "b" } } }), "nothing of an experiment but its finalizers"),
        (json!({ "metadata": { "annotations": { "a": "b" } } }), "nothing of an experiment but its finalizers"),
        (json!({ "metadata": { "finalizers": ["example.com/other"] } }), "its own finalizer alone"),
    ] {
        let said = try_it(change.clone()).await.expect_err("it passes").to_string();
        assert!(said.contains(words), "{change}: {said}");
    }
    try_it(json!({ "metadata": { "finalizers": ["chaos.gushchin.dev/netloss"] } })).await.unwrap();
    try_it(json!({ "metadata": { "finalizers": [] } })).await.unwrap();
    // One of somebody else that is there stays.
    let others = Patch::Merge(json!({ "metadata": { "finalizers": ["example.com/other"] } }));
    world.experiments().patch("x", &PatchParams::default(), &others).await.unwrap();
    let said = try_it(json!({ "metadata": { "finalizers": [] } })).await.expect_err("it passes").to_string();
    assert!(said.contains("its own finalizer alone"), "{said}");
    let none = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    world.experiments().patch("x", &PatchParams::default(), &none).await.unwrap();
}

/// A field that is misspelt is an error only when its expression is evaluated, and then it refuses everything: Kubernetes' own controllers
/// compare the expressions with the types beforehand.
#[tokio::test]
async fn the_expressions_fit_the_types_that_they_are_about() {
    let control_plane = ControlPlane::start(Extent::Full, Lifetime::WithLab, StateDir::temporary().unwrap()).await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    let policies = Api::<ValidatingAdmissionPolicy>::all(client.clone());
    let warnings = async |name: &str| {
        let checked = |policy: Option<&ValidatingAdmissionPolicy>| {
            policy
                .is_some_and(|policy| policy.status.as_ref().is_some_and(|status| status.observed_generation == policy.metadata.generation))
        };
        let checked = tokio::time::timeout(LIMIT, await_condition(policies.clone(), name, checked)).await.expect("it is checked").unwrap();
        checked.unwrap().status.unwrap().type_checking.and_then(|checking| checking.expression_warnings).unwrap_or_default()
    };
    let committed = default_objects()
        .unwrap()
        .into_iter()
        .filter(|object| object.types.as_ref().is_some_and(|types| types.kind == "ValidatingAdmissionPolicy"));
    for mut policy in committed {
        let name = policy.name_any();
        let right = policy.data["spec"]["validations"].clone();
        // They pass over a subresource; this one's object is a pod.
        if let Some(resource) = policy.data.pointer_mut("/spec/matchConstraints/resourceRules/0/resources/0") {
            *resource = json!(resource.as_str().unwrap().split('/').next().unwrap());
        }
        // Until they know a definition that was made just now, they have nothing to compare with.
        let mut attempt = 0;
        loop {
            policy.data["spec"]["validations"] = json!([{ "expression": format!("object.spec.misspelt == {attempt}") }]);
            apply(&client, &policy).await.unwrap();
            if !warnings(&name).await.is_empty() {
                break;
            }
            attempt += 1;
            assert!(attempt < 60, "{name}: nothing is compared with anything");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        policy.data["spec"]["validations"] = right;
        apply(&client, &policy).await.unwrap();
        let warnings = warnings(&name).await;
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
    }
}
