//! Installing, upgrading and uninstalling, with kubectl and Helm as a user has them.

use crate::k8s_chaos::their_definition;
use crate::leader::program;
use crate::lifecycle::eventually;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use netloss_api::{DEFINITIONS, FREEZE, FREEZE_ANNOTATION, Phase, PodState};
use netloss_lab::cluster::{apply, parse};
use netloss_lab::controlplane::{ControlPlane, Tool, interactive_shell, shell};
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::process::{Daemon, Lifetime};
use netloss_lab_documents::commands;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::task::JoinHandle;

const EXPERIMENTS: &str = "chaosexperiments.chaos.gushchin.dev";

/// Runs one of them and returns what it printed, or its complaint.
async fn run(control_plane: &ControlPlane, tool: Tool, arguments: &[&str]) -> Result<String, String> {
    control_plane.run(tool, arguments.iter().copied()).await.map_err(|error| format!("{error:#}"))
}

async fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String, String> {
    run(control_plane, Tool::Kubectl, arguments).await
}

async fn helm(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String, String> {
    run(control_plane, Tool::Helm, arguments).await
}

/// Types the commands that the documents have under this name.
async fn follow(control_plane: &ControlPlane, name: &str) {
    let mut shell = shell(control_plane.kubeconfig_path(), &[]).unwrap();
    shell.arg(commands(name).unwrap());
    let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
}

/// Types the commands that the documents have under this name into a shell that continues after a failure. Nothing ends a namespace here, so none is waited for.
fn type_without_errexit(control_plane: &ControlPlane, name: &str) -> JoinHandle<Output> {
    let commands = commands(name).unwrap().replace("kubectl delete --ignore-not-found", "kubectl delete --wait=false --ignore-not-found");
    let mut shell = interactive_shell(control_plane.kubeconfig_path(), &[]).unwrap();
    shell.arg(commands);
    // A test that fails leaves no shell behind, and does not wait for one.
    let mut shell = tokio::process::Command::from(shell);
    shell.stdin(Stdio::null()).kill_on_drop(true);
    tokio::spawn(async move { shell.output().await.unwrap() })
}

/// Its exit code and what it printed. The shell has to end: a user does not wait for ever for a Job that has failed.
async fn typed(shell: JoinHandle<Output>) -> (bool, String) {
    let output = tokio::time::timeout(Duration::from_mins(2), shell).await.expect("the commands still wait").unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// Ends the Job `netloss-drain` of that namespace, as its controller does.
async fn end_drain(client: &Client, namespace: &str, succeeds: bool) {
    let jobs = Api::<Job>::namespaced(client.clone(), namespace);
    eventually("the Job is there", async || {
        // Not the one of an earlier drain.
        jobs.get_opt("netloss-drain").await.unwrap().is_some_and(|job| job.status.is_none_or(|status| status.conditions.is_none()))
    })
    .await;
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind| json!({ "type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now });
    let status = if succeeds {
        json!({ "startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")] })
    } else {
        json!({ "startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")] })
    };
    jobs.patch_status("netloss-drain", &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await.unwrap();
}

async fn definition(client: &Client) -> Option<CustomResourceDefinition> {
    Api::<CustomResourceDefinition>::all(client.clone()).get_opt(EXPERIMENTS).await.unwrap()
}

/// Installs k8s-chaos's definition as its users do.
async fn install_theirs(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PostParams { field_manager: Some("kubectl-client-side-apply".to_owned()), ..PostParams::default() };
    api.create(&params, &their_definition()).await.unwrap();
    await_condition(api, EXPERIMENTS, conditions::is_crd_established()).await.unwrap();
}

/// Runs `netloss-controller definitions`, which `kubectl apply -k config/default` has a Job do, and returns its complaint if it has one.
async fn definitions(control_plane: &ControlPlane, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program().await);
    command.arg("definitions").args(arguments).env("KUBECONFIG", control_plane.kubeconfig_path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Each object by its kind, namespace and name.
fn by_name(yaml: &str) -> BTreeMap<String, DynamicObject> {
    let key = |object: &DynamicObject| {
        let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
    };
    parse(yaml).unwrap().into_iter().map(|object| (key(&object), object)).collect()
}

/// The same numbers in the same form: kustomize writes 100.0 as 100.
fn plain(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(values) => values.iter_mut().for_each(plain),
        Value::Object(fields) => fields.values_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// What both ways of installing have to agree on.
fn essence(object: &DynamicObject) -> Value {
    let mut data = object.data.clone();
    plain(&mut data);
    if let Some(container) = data.pointer_mut("/spec/template/spec/containers/0") {
        // These say what the defaults are, and who it is.
        let said = ["--history-count=100", "--history-age=720h", "--log=info", "--log-format=json", "--timeout=4m"];
        container["args"].as_array_mut().unwrap().retain(|word| !said.contains(&word.as_str().unwrap()));
        container["env"].as_array_mut().unwrap().retain(|variable| variable["name"] != "NETLOSS_POD");
        data["spec"]["template"]["metadata"].as_object_mut().unwrap().remove("annotations");
    }
    data
}

fn assert_same(helm: &BTreeMap<String, DynamicObject>, kustomize: &BTreeMap<String, DynamicObject>) {
    for (name, object) in kustomize {
        let same = helm.get(name).unwrap_or_else(|| panic!("the chart has no {name}: {:?}", helm.keys()));
        assert_eq!(essence(same), essence(object), "{name}");
    }
}

/// Its objects without the Job's deadline. Helm has `--timeout` instead; kubectl's users wait for the Job, which has to end after the drain's own ten minutes.
fn drain_without_deadline(yaml: &str) -> BTreeMap<String, DynamicObject> {
    let mut objects = by_name(yaml);
    let spec = objects.get_mut("Job netloss-system/netloss-drain").unwrap().data["spec"].as_object_mut().unwrap();
    let deadline = spec.remove("activeDeadlineSeconds").unwrap().as_f64().unwrap();
    assert!(deadline >= 720.0, "{deadline}");
    objects
}

#[tokio::test]
async fn kubectl_installs_and_upgrades() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    kubectl(&control_plane, &["apply", "-k", "config/default"]).await.unwrap();
    for _ in 0..2 {
        definitions(&control_plane, &[]).await.unwrap();
    }
    assert!(definition(&client).await.is_some());
    // What the Job has filled in stays, whoever applies it again, and in whichever way.
    let called = json!({ "caBundle": "QQ==", "service": { "path": "/validate/1" } });
    let filled = json!({ "webhooks": [{ "name": "chaosexperiments.chaos.gushchin.dev", "clientConfig": called }] });
    let configurations = Api::<k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration>::all(client.clone());
    let params = PatchParams { field_manager: Some("netloss-webhook-ca".to_owned()), ..PatchParams::default() };
    configurations.patch("netloss", &params, &Patch::Strategic(filled)).await.unwrap();
    kubectl(&control_plane, &["apply", "-k", "config/default"]).await.unwrap();
    let kept = async || configurations.get("netloss").await.unwrap().webhooks.unwrap()[0].client_config.clone();
    let is_kept = |called: k8s_openapi::api::admissionregistration::v1::WebhookClientConfig| {
        assert_eq!((called.ca_bundle.unwrap().0, called.service.unwrap().path.as_deref()), (b"A".to_vec(), Some("/validate/1")));
    };
    is_kept(kept().await);
    kubectl(&control_plane, &["apply", "--server-side", "--force-conflicts", "-k", "config/default"]).await.unwrap();
    is_kept(kept().await);
    kubectl(&control_plane, &["apply", "--dry-run=server", "-k", "config/drain"]).await.unwrap();
    // Nothing ends a namespace here.
    kubectl(&control_plane, &["delete", "--wait=false", "-k", "config/default"]).await.unwrap();
    assert!(definition(&client).await.is_some(), "definitions stay, with all that was recorded");
}

/// Where the drain has failed, nothing is deleted that would stop or repair what it has left.
#[tokio::test]
async fn an_uninstallation_deletes_nothing_after_a_failed_drain() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    kubectl(&control_plane, &["apply", "-k", "config/default"]).await.unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), "netloss-system");
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    for succeeds in [false, true] {
        let shell = type_without_errexit(&control_plane, "uninstall with kubectl");
        end_drain(&client, "netloss-system", succeeds).await;
        let (ok, text) = typed(shell).await;
        assert_eq!(ok, succeeds, "{text}");
        assert!(text.contains(if succeeds { "Complete" } else { "Failed" }), "{text}");
        assert_eq!(deployments.get_opt("netloss-controller").await.unwrap().is_none(), succeeds, "{text}");
        assert_eq!(bindings.get_opt("netloss-controller").await.unwrap().is_none(), succeeds, "{text}");
    }
}

/// `freeze=false` is a way to thaw: it must not keep anybody from freezing by the documented command.
#[tokio::test]
async fn the_documented_commands_freeze_whatever_the_annotation_is() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(control_plane.client().await.unwrap(), "netloss-system");
    kubectl(&control_plane, &["apply", "-k", "config/manager"]).await.unwrap();
    for file in ["README.md", "docs/TROUBLESHOOTING.md", "config/manager/freeze.yaml", "config/chart/templates/NOTES.txt"] {
        let text = std::fs::read_to_string(workspace_root().join(file)).unwrap().replace("{{ .Release.Namespace }}", "netloss-system");
        let start =
            text.find("kubectl -n netloss-system annotate configmap netloss-freeze").unwrap_or_else(|| panic!("{file} has no command"));
        let freeze = text[start..].split(['`', '\n']).next().unwrap();
        for before in ["false", "true"] {
            let thawed = Patch::Merge(json!({ "metadata": { "annotations": { FREEZE_ANNOTATION: before } } }));
            maps.patch(FREEZE, &PatchParams::default(), &thawed).await.unwrap();
            let mut shell = shell(control_plane.kubeconfig_path(), &[]).unwrap();
            shell.arg(freeze);
            let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
            assert!(output.status.success(), "{file}: {freeze}: {output:?}");
            assert_eq!(maps.get(FREEZE).await.unwrap().annotations()[FREEZE_ANNOTATION], "true", "{file}: {freeze}");
        }
    }
}

/// Definitions outlive kubectl's uninstallation and Helm's: Helm imports them into another release only on request.
#[tokio::test]
async fn helm_takes_over_definitions_that_an_earlier_installation_left() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    definitions(&control_plane, &[]).await.unwrap();
    await_condition(Api::<CustomResourceDefinition>::all(client.clone()), EXPERIMENTS, conditions::is_crd_established()).await.unwrap();
    let world = World::on(&control_plane, "shop").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    for (namespace, owner) in
        [("netloss-system", "no Helm release"), ("netloss-moved", "the release netloss in the namespace netloss-system")]
    {
        let install =
            ["install", "netloss", "config/chart", "--namespace", namespace, "--create-namespace", "--set", "webhook.enabled=false"];
        let refused = helm(&control_plane, &install).await.unwrap_err();
        assert!(refused.contains(owner), "{refused}");
        assert!(refused.contains("--set crds.adopt=true --take-ownership --force-conflicts"), "{refused}");
        let adopted: Vec<&str> =
            install.iter().copied().chain(["--set", "crds.adopt=true", "--take-ownership", "--force-conflicts"]).collect();
        helm(&control_plane, &adopted).await.unwrap();
        assert!(world.experiments().get_opt("x").await.unwrap().is_some());
        // Without the flags from now on.
        helm(&control_plane, &["upgrade", "netloss", "config/chart", "--namespace", namespace, "--set", "webhook.enabled=false"])
            .await
            .unwrap();
        helm(&control_plane, &["uninstall", "netloss", "--namespace", namespace, "--no-hooks"]).await.unwrap();
    }
}

/// The right to freeze is gone after a drain that failed, too; its Job stays, as its log says why.
#[tokio::test]
async fn a_failed_drain_of_helm_leaves_its_job_and_no_right() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    let install = ["install", "netloss", "config/chart", "--namespace", "netloss-system", "--create-namespace"];
    helm(&control_plane, &install).await.unwrap();
    let roles = Api::<Role>::namespaced(client.clone(), "netloss-system");
    let (uninstalled, ()) =
        tokio::join!(helm(&control_plane, &["uninstall", "netloss", "--namespace", "netloss-system", "--timeout", "2m"]), async {
            eventually("the right is there", async || roles.get_opt("netloss-drain").await.unwrap().is_some()).await;
            end_drain(&client, "netloss-system", false).await;
        });
    let refused = uninstalled.unwrap_err();
    assert!(refused.contains("netloss-drain"), "{refused}");
    assert!(roles.get_opt("netloss-drain").await.unwrap().is_none());
    let bindings = Api::<RoleBinding>::namespaced(client.clone(), "netloss-system");
    assert!(bindings.get_opt("netloss-drain").await.unwrap().is_none());
    assert!(Api::<Job>::namespaced(client.clone(), "netloss-system").get_opt("netloss-drain").await.unwrap().is_some());
    assert!(Api::<Deployment>::namespaced(client, "netloss-system").get_opt("netloss-controller").await.unwrap().is_some());
}

/// A definition that is not ours is taken over only where that is asked for, and nothing of it is lost then.
#[tokio::test]
async fn a_foreign_definition_is_adopted_only_on_request() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_theirs(&client).await;
    let world = World::on(&control_plane, "theirs").await;
    world.apply("theirs", json!({ "action": "pod-kill", "namespace": "theirs", "selector": { "app": "web" } })).await.unwrap();
    let before = definition(&client).await.unwrap();

    // What `kubectl apply -k config/default` has a Job do.
    let refused = definitions(&control_plane, &[]).await.unwrap_err();
    assert!(refused.contains("is there and is not netloss's: nothing was changed"), "{refused}");
    kubectl(&control_plane, &["apply", "-k", "config/default"]).await.unwrap();
    assert_eq!(definition(&client).await.unwrap().spec, before.spec);

    let chart = "config/chart";
    let install = ["install", "netloss", chart, "--namespace", "netloss-helm", "--create-namespace"];
    let refused = helm(&control_plane, &install).await.unwrap_err();
    assert!(
        refused.contains("is not netloss's") && refused.contains("--set crds.adopt=true --take-ownership --force-conflicts"),
        "{refused}"
    );
    assert_eq!(definition(&client).await.unwrap().spec, before.spec);

    let adopted: Vec<&str> = install.iter().copied().chain(["--set", "crds.adopt=true", "--take-ownership", "--force-conflicts"]).collect();
    helm(&control_plane, &adopted).await.unwrap();
    assert_ne!(definition(&client).await.unwrap().spec, before.spec);
    let object = world.experiments().get("theirs").await.unwrap();
    assert_eq!(serde_json::to_value(&object.spec).unwrap()["action"], "pod-kill");
    // The release may go, and what it has taken over stays.
    helm(&control_plane, &["uninstall", "netloss", "--namespace", "netloss-helm", "--no-hooks"]).await.unwrap();
    assert!(world.experiments().get_opt("theirs").await.unwrap().is_some());
}

/// What the chart says of values that cannot be meant.
async fn refuses_bad_values(control_plane: &ControlPlane, template: &[&str]) {
    for (values, words) in [
        (&["--set", "replicas=0"] as &[&str], "replicas"),
        (&["--set", "image.digest=latest"], "digest"),
        (&["--set", "replica=2"], "replica"),
        (&["--set", "history.age=soon"], "age"),
        (&["--set", "metrics.authenticated=true,webhook.enabled=false"], "metrics.authenticated needs webhook.enabled"),
        (&["--set", "watchNamespaces={shop}"], "crds.install=false"),
        (&["--set", "watchNamespaces={Shop},crds.install=false"], "watchNamespaces"),
        (&["--set", "podLabels.app\\.kubernetes\\.io/name=other"], "podLabels"),
        (&["--set", "podAnnotations.netloss/agent-image=other"], "podAnnotations"),
        (&["--set", "watchNamespaces={netloss-system},crds.install=false"], "the release's own namespace"),
        (&["--set", "networkPolicy.apiServerPorts={0}"], "apiServerPorts"),
        (&["--set-json", r#"{"networkPolicy":{"apiServerPorts":[]}}"#], "apiServerPorts"),
    ] {
        let arguments: Vec<&str> = template.iter().chain(values).copied().collect();
        let refused = helm(control_plane, &arguments).await.expect_err(words);
        assert!(refused.contains(words), "{values:?}: {refused}");
    }
}

#[tokio::test]
async fn the_chart_installs_what_kustomize_does() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let chart = "config/chart";
    helm(&control_plane, &["lint", "--strict", chart]).await.unwrap();
    let template = ["template", "netloss", chart, "--namespace", "netloss-system"];
    let rendered = by_name(&helm(&control_plane, &template).await.unwrap());
    let mut kustomized = by_name(&kubectl(&control_plane, &["kustomize", "config/default"]).await.unwrap());
    // Helm makes the namespace itself.
    kustomized.retain(|name, _| !name.starts_with("Namespace ") && !name.contains("netloss-definitions"));
    // A Job of each revision, as one that is there cannot be changed.
    let job = kustomized.remove("Job netloss-system/netloss-webhook-ca").unwrap();
    let (mut of_chart, mut from_files) = (essence(&rendered["Job netloss-system/netloss-webhook-ca-1"]), essence(&job));
    // kubectl does not wait for the Job, and applies it again; Helm waits for five minutes or longer, and for one that is deleted meanwhile in vain.
    let lives = [&mut of_chart, &mut from_files]
        .map(|job| job["spec"].as_object_mut().unwrap().remove("ttlSecondsAfterFinished").unwrap().as_f64().unwrap());
    assert!(lives[0] >= 3600.0 && lives[1] <= 60.0, "{lives:?}");
    assert_eq!(of_chart, from_files);
    assert_same(&rendered, &kustomized);
    assert_same(&rendered, &by_name(&kubectl(&control_plane, &["kustomize", "config/crd"]).await.unwrap()));
    assert_same(&rendered, &drain_without_deadline(&kubectl(&control_plane, &["kustomize", "config/drain"]).await.unwrap()));

    let namespaced: Vec<&str> =
        template.iter().copied().chain(["--set", "watchNamespaces={shop}", "--set", "crds.install=false"]).collect();
    let rendered = by_name(&helm(&control_plane, &namespaced).await.unwrap());
    assert_same(&rendered, &by_name(&kubectl(&control_plane, &["kustomize", "config/namespaced"]).await.unwrap()));
    assert_same(&rendered, &drain_without_deadline(&kubectl(&control_plane, &["kustomize", "config/namespaced-drain"]).await.unwrap()));
    let cluster_wide: Vec<&String> = rendered
        .keys()
        .filter(|name| name.starts_with("Cluster") || name.starts_with("Validating") || name.contains("Definition"))
        .collect();
    assert!(cluster_wide.is_empty(), "{cluster_wide:?}");

    refuses_bad_values(&control_plane, &template).await;
    // Words that YAML takes for numbers and truths.
    let odd =
        ["template", "netloss", chart, "--namespace", "123", "--set-string", "watchNamespaces={on,1e3}", "--set", "crds.install=false"];
    let rendered = by_name(&helm(&control_plane, &odd).await.unwrap());
    assert!(rendered.contains_key("Role on/netloss-controller") && rendered.contains_key("RoleBinding 1e3/netloss-controller"));
    assert!(rendered.contains_key("Deployment 123/netloss-controller") && rendered.contains_key("Lease 123/netloss-controller"));
    // One replica may be drained; and the time that Helm itself gives (five minutes) is longer than that of the stop.
    let one: Vec<&str> = template.iter().copied().chain(["--set", "replicas=1"]).collect();
    let rendered = by_name(&helm(&control_plane, &one).await.unwrap());
    assert!(!rendered.keys().any(|name| name.starts_with("PodDisruptionBudget")), "{:?}", rendered.keys());
    let drain = rendered["Job netloss-system/netloss-drain"].data["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(drain.contains("--timeout=4m"), "{drain}");
    let from = r#"{"networkPolicy":{"webhookFrom":[{"ipBlock":{"cidr":"192.0.2.1/32"}}]}}"#;
    let closed: Vec<&str> = template.iter().copied().chain(["--set-json", from, "--set", "k8sChaosNamespaces={chaos}"]).collect();
    let rendered = by_name(&helm(&control_plane, &closed).await.unwrap());
    let policy = &rendered["NetworkPolicy netloss-system/netloss-controller"].data["spec"]["ingress"];
    assert_eq!(policy[0]["from"][0]["ipBlock"]["cidr"], "192.0.2.1/32", "{policy}");
    let verify = &rendered["Pod netloss-system/netloss-verify"].labels()["app.kubernetes.io/name"];
    assert_eq!(
        policy[0]["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/name"],
        json!(verify),
        "helm test asks the webhook: {policy}"
    );
    assert!(!policy.to_string().contains("8081"), "probes come from the node, which no policy keeps out: {policy}");
    let deployment = rendered["Deployment netloss-system/netloss-controller"].data.to_string();
    assert!(deployment.contains("--k8s-chaos-namespace=chaos"), "{deployment}");
    let api_server = r#"{"networkPolicy":{"apiServerPorts":[8443],"apiServerTo":[{"ipBlock":{"cidr":"192.0.2.2/32"}}]}}"#;
    let elsewhere: Vec<&str> = template.iter().copied().chain(["--set-json", api_server, "--set", "image.tag=,agent.image.tag="]).collect();
    let rendered = by_name(&helm(&control_plane, &elsewhere).await.unwrap());
    let egress = &rendered["NetworkPolicy netloss-system/netloss-controller"].data["spec"]["egress"];
    assert_eq!(egress, &json!([{ "ports": [{ "protocol": "TCP", "port": 8443 }], "to": [{ "ipBlock": { "cidr": "192.0.2.2/32" } }] }]));
    // As images/push is called for a release, by its tag: v and the version.
    let release = format!(":v{}", env!("CARGO_PKG_VERSION"));
    let agent = rendered["ConfigMap netloss-system/netloss-agent"].data["data"]["image"].as_str().unwrap();
    let controller =
        rendered["Deployment netloss-system/netloss-controller"].data["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    assert!(agent.ends_with(&release) && controller.unwrap().ends_with(&release), "{agent} {controller:?}");
    // The chart takes the alert rules from alerts.yaml, so this compares prometheus_rule.yaml with that file too.
    let monitored: Vec<&str> =
        template.iter().copied().chain(["--set", "metrics.serviceMonitor.enabled=true,metrics.rules.enabled=true"]).collect();
    let kustomized = by_name(&kubectl(&control_plane, &["kustomize", "config/prometheus"]).await.unwrap());
    assert!(kustomized.contains_key("PrometheusRule netloss-system/netloss-controller"), "{:?}", kustomized.keys());
    assert_same(&by_name(&helm(&control_plane, &monitored).await.unwrap()), &kustomized);
    let all = [
        "--set",
        "metrics.authenticated=true,metrics.serviceMonitor.enabled=true,metrics.rules.enabled=true,dashboards.enabled=true",
        "--set",
        "webhook.certificateSecret=certificate,webhook.annotations.cert-manager\\.io/inject-ca-from=netloss-system/webhook",
        "--set",
        "agent.image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ];
    let arguments: Vec<&str> = template.iter().chain(&all).copied().collect();
    let rendered = by_name(&helm(&control_plane, &arguments).await.unwrap());
    let data = |name: &str| &rendered.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", rendered.keys())).data;
    assert!(data("ConfigMap netloss-system/netloss-agent")["data"]["image"].as_str().unwrap().contains("@sha256:"));
    assert!(data("ConfigMap netloss-system/netloss-dashboards")["data"]["netloss.json"].as_str().unwrap().contains("netloss_leader"));
    assert_eq!(data("PrometheusRule netloss-system/netloss-controller")["spec"]["groups"][0]["name"], "netloss");
    let scraped = &data("ServiceMonitor netloss-system/netloss-controller")["spec"]["endpoints"][0];
    assert_eq!((&scraped["scheme"], &scraped["honorLabels"]), (&json!("https"), &json!(true)));
    // The token of a scrape is sent to whom this certificate is, and is not Prometheus's own.
    assert_eq!(scraped["tlsConfig"]["serverName"], "netloss-webhook.netloss-system.svc");
    assert_eq!(scraped["tlsConfig"]["ca"]["secret"], json!({ "name": "certificate", "key": "ca.crt" }));
    assert_eq!(scraped["authorization"]["credentials"]["name"], "netloss-metrics-reader");
    assert!(scraped["tlsConfig"].get("insecureSkipVerify").is_none() && scraped.get("bearerTokenFile").is_none(), "{scraped}");
    assert!(
        !rendered.keys().any(|name| name.contains("netloss-system/netloss-webhook-ca") || name == "Secret netloss-system/netloss-webhook")
    );
    assert_eq!(data("ValidatingWebhookConfiguration /netloss")["webhooks"][0]["clientConfig"]["service"]["path"], "/validate");
}

#[tokio::test]
async fn helm_installs_upgrades_and_refuses_to_stand_beside_k8s_chaos() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "controller-manager", "namespace": "k8s-chaos-system", "labels": { "app.kubernetes.io/name": "k8s-chaos" } },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "manager", "image": "manager" }] } },
        },
    });
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "k8s-chaos-system" } })).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    apply(&client, &serde_json::from_value(theirs).unwrap()).await.unwrap();
    let deployments = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(client.clone(), "k8s-chaos-system");
    let ready = async |count: i32| {
        let status = Patch::Merge(json!({ "status": { "replicas": count, "readyReplicas": count } }));
        deployments.patch_status("controller-manager", &PatchParams::default(), &status).await.unwrap();
    };
    let chart = "config/chart";
    let install = ["install", "netloss", chart, "--namespace", "netloss-system", "--create-namespace"];
    ready(1).await;
    let refused = helm(&control_plane, &install).await.unwrap_err();
    assert!(refused.contains("k8s-chaos's controller is active (Deployment k8s-chaos-system/controller-manager)"), "{refused}");
    ready(0).await;
    let notes = helm(&control_plane, &install).await.unwrap();
    assert!(notes.contains("runs experiments of all namespaces") && notes.contains("helm -n netloss-system test netloss"), "{notes}");
    let own = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(client.clone(), "netloss-system");
    assert_eq!(own.get("netloss-controller").await.unwrap().spec.unwrap().replicas, Some(2));
    // Without the webhook, as no replica runs here that would answer for an experiment.
    let values = "replicas=3,webhook.enabled=false";
    helm(&control_plane, &["upgrade", "netloss", chart, "--namespace", "netloss-system", "--set", values]).await.unwrap();
    assert_eq!(own.get("netloss-controller").await.unwrap().spec.unwrap().replicas, Some(3));
    // Fewer namespaces, where one that is left out has a run under way: nobody would take its finalizer away.
    let shop = World::on(&control_plane, "shop").await;
    let world = World::on(&control_plane, "elsewhere").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let finalizer = |value: Value| Patch::Merge(json!({ "metadata": { "finalizers": value } }));
    world.experiments().patch("x", &PatchParams::default(), &finalizer(json!(["chaos.gushchin.dev/netloss"]))).await.unwrap();
    let narrow = async |namespaces: &str| {
        let watched = format!("watchNamespaces={{{namespaces}}}");
        helm(
            &control_plane,
            &["upgrade", "netloss", chart, "--namespace", "netloss-system", "--set", "crds.install=false", "--set", &watched],
        )
        .await
    };
    let refused = narrow(&shop.namespace).await.unwrap_err();
    assert!(
        refused.contains("experiment elsewhere/x is under way") && refused.contains("kubectl netloss stop x -n elsewhere"),
        "{refused}"
    );
    narrow("shop,elsewhere").await.unwrap();
    let refused = narrow(&shop.namespace).await.unwrap_err();
    assert!(refused.contains("experiment elsewhere/x is under way"), "{refused}");
    world.experiments().patch("x", &PatchParams::default(), &finalizer(json!([]))).await.unwrap();
    narrow(&shop.namespace).await.unwrap();
    helm(&control_plane, &["uninstall", "netloss", "--namespace", "netloss-system", "--no-hooks"]).await.unwrap();
    assert!(definition(&client).await.is_some(), "definitions stay, with all that was recorded");
    // Again, over the definitions of the release before.
    helm(&control_plane, &install).await.unwrap();
}

/// The account of the Job, on a cluster that has none of the definitions.
#[tokio::test]
async fn the_definitions_job_may_create_its_own_definitions_and_no_others() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    kubectl(&control_plane, &["apply", "-k", "config/default"]).await.unwrap();
    let kubeconfig = as_account(&control_plane, "netloss-definitions");
    let mut command = Command::new(program().await);
    command.arg("definitions").env("KUBECONFIG", &kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let own = definition(&client).await.unwrap();

    let config = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let account = Api::<CustomResourceDefinition>::all(Client::try_from(config).unwrap());
    let mut other = (DEFINITIONS[0].make)();
    other.metadata.name = Some("others.example.com".to_owned());
    let refused = |answer: kube::Result<CustomResourceDefinition>| match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => status.message,
        answer => panic!("{answer:?}"),
    };
    refused(account.create(&PostParams::default(), &other).await);
    refused(account.patch("others.example.com", &PatchParams::apply("other").force(), &Patch::Apply(&other)).await);
    // Nor by a request that names nothing.
    refused(account.create(&PostParams::default(), &own).await);
}

/// A kubeconfig of this service account of netloss.
fn as_account(control_plane: &ControlPlane, name: &str) -> std::path::PathBuf {
    let kubeconfig = control_plane.dir().join(format!("as-{name}"));
    let admin = std::fs::read_to_string(control_plane.kubeconfig_path()).unwrap();
    let account = format!("system:serviceaccount:netloss-system:{name}");
    std::fs::write(&kubeconfig, admin.replace("  user:\n", &format!("  user:\n    as: {account}\n"))).unwrap();
    kubeconfig
}

/// One line is changed, and the policies hold the controller of that namespace.
#[tokio::test]
async fn an_overlay_puts_everything_into_another_namespace() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let text = kubectl(&control_plane, &["kustomize", "config/other-namespace"]).await.unwrap();
    assert!(!text.contains("netloss-system"), "{:?}", text.lines().filter(|line| line.contains("netloss-system")).collect::<Vec<_>>());
    let held = text.matches("'system:serviceaccount:chaos-system:netloss-controller'").count();
    assert_eq!(held, 2, "both policies");
    kubectl(&control_plane, &["apply", "-k", "config/other-namespace"]).await.unwrap();

    // Who uninstalls from the namespace that it usually has takes no right from it.
    let client = control_plane.client().await.unwrap();
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    let (ok, text) = typed(type_without_errexit(&control_plane, "uninstall with kubectl")).await;
    assert!(!ok, "{text}");
    assert!(bindings.get_opt("netloss-controller").await.unwrap().is_some(), "{text}");

    let text = kubectl(&control_plane, &["kustomize", "config/other-namespace-drain"]).await.unwrap();
    assert!(!text.contains("netloss-system"), "{text}");
    let shell = type_without_errexit(&control_plane, "uninstall from another namespace");
    end_drain(&client, "chaos-system", true).await;
    let (ok, text) = typed(shell).await;
    assert!(ok, "{text}");
    assert!(bindings.get_opt("netloss-controller").await.unwrap().is_none(), "{text}");
}

/// What an administrator prepares, and what the namespace's owner then applies, is enough.
#[tokio::test]
async fn a_controller_of_one_namespace_needs_no_right_beyond_it() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    follow(&control_plane, "prepare for one namespace").await;
    for definition in DEFINITIONS {
        let name = format!("{}.chaos.gushchin.dev", definition.plural);
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        await_condition(api, &name, conditions::is_crd_established()).await.unwrap();
    }
    follow(&control_plane, "install for one namespace").await;
    let world = World::of(&control_plane, "shop").await;

    let kubeconfig = as_account(&control_plane, "netloss-controller");
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", &kubeconfig).args(["run", "--watch-namespace=shop", "--leader-elect"]);
    command.arg(format!("--agent-image={AGENT_IMAGE}"));
    let log = control_plane.dir().join("controller.log");
    let controller = Daemon::start("netloss-controller", &command, &log, Lifetime::WithLab).unwrap();
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    eventually("the agent is put in", async || world.status("x").await.pods.iter().any(|pod| pod.state >= PodState::Injected)).await;
    let entry = world.status("x").await.pods[0].clone();
    let report = world.removed(&crate::pods::run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    eventually("the run ends", async || world.status("x").await.completed_at.is_some()).await;
    controller.ensure_running().unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(!said.contains("is forbidden"), "{said}");
    // What it may not look at is refused like what it should not act on.
    world.apply("elsewhere", spec(json!({ "namespace": "default" }))).await.unwrap();
    eventually("the other namespace is refused", async || world.status("elsewhere").await.phase == Some(Phase::Failed)).await;
    let words = world.status("elsewhere").await.message.unwrap();
    assert!(words.contains("spec.namespace is \"default\", which netloss's controller may not look at"), "{words}");

    // And what stops its runs before it is uninstalled, with what its Job is given.
    let shell = type_without_errexit(&control_plane, "uninstall for one namespace");
    let jobs = Api::<Job>::namespaced(client.clone(), "netloss-system");
    eventually("the Job is there", async || jobs.get_opt("netloss-drain").await.unwrap().is_some()).await;
    let container = jobs.get("netloss-drain").await.unwrap().spec.unwrap().template.spec.unwrap().containers.remove(0);
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", &kubeconfig).env("NETLOSS_NAMESPACE", "netloss-system").args(container.args.unwrap());
    command.args(["--timeout=1m", &format!("--agent-image={AGENT_IMAGE}")]);
    drop(controller);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    end_drain(&client, "netloss-system", true).await;
    let (ok, text) = typed(shell).await;
    assert!(ok, "{text}");
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "netloss-system");
    assert!(accounts.get_opt("netloss-controller").await.unwrap().is_none());
}
