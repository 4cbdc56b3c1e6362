//! The lab's own promises about its control plane: it comes up beside others, keeps its data over a restart of the API server,
//! and leaves nothing behind.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use netloss_lab::controlplane::{ControlPlane, Extent, Tool};
use netloss_lab::host::process::Lifetime;
use netloss_lab::host::state::StateDir;

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() }
}

#[tokio::test]
async fn two_control_planes_run_side_by_side() {
    let (first, second) = tokio::join!(ControlPlane::start_for_tests(), ControlPlane::start_for_tests());
    let (first, second) = (first.unwrap(), second.unwrap());
    let version = first.client().await.unwrap().apiserver_version().await.unwrap();
    assert_eq!(version.git_version, "v1.37.2");

    let only_in_first: Api<ConfigMap> = Api::namespaced(first.client().await.unwrap(), "default");
    only_in_first.create(&PostParams::default(), &config_map("here")).await.unwrap();
    let elsewhere: Api<ConfigMap> = Api::namespaced(second.client().await.unwrap(), "default");
    assert!(elsewhere.get_opt("here").await.unwrap().is_none());

    let dir = first.dir().to_owned();
    drop(first);
    assert!(!dir.exists(), "the folder goes with the control plane");
}

#[tokio::test]
async fn data_outlives_a_restart_of_the_api_server() {
    let mut control_plane = ControlPlane::start_for_tests().await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(control_plane.client().await.unwrap(), "default");
    api.create(&PostParams::default(), &config_map("kept")).await.unwrap();

    control_plane.stop_apiserver().unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), api.get_opt("kept")).await;
    assert!(!matches!(answer, Ok(Ok(_))), "a stopped API server answers nothing");

    control_plane.start_apiserver().await.unwrap();
    assert!(api.get_opt("kept").await.unwrap().is_some(), "the same client reaches the same port");
}

#[tokio::test]
async fn a_full_control_plane_has_service_accounts_and_ends_namespaces() {
    let control_plane = ControlPlane::start(Extent::Full, Lifetime::WithLab, StateDir::temporary().unwrap()).await.unwrap();
    let client = control_plane.client().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace =
        Namespace { metadata: ObjectMeta { name: Some("short-lived".into()), ..ObjectMeta::default() }, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();

    let accounts: Api<ServiceAccount> = Api::namespaced(client, "short-lived");
    eventually("the default service account", async || accounts.get_opt("default").await.unwrap().is_some()).await;
    namespaces.delete("short-lived", &kube::api::DeleteParams::default()).await.unwrap();
    eventually("the end of the namespace", async || namespaces.get_opt("short-lived").await.unwrap().is_none()).await;
}

/// What tests of the installation build upon.
#[tokio::test]
async fn kubectl_and_helm_are_those_that_a_user_has() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let kubectl = async |arguments: &[&str]| control_plane.run(Tool::Kubectl, arguments.iter().copied()).await;
    let helm = async |arguments: &[&str]| control_plane.run(Tool::Helm, arguments.iter().copied()).await;
    let version = kubectl(&["version"]).await.unwrap();
    assert!(version.contains("Client Version: v1.37.2") && version.contains("Server Version: v1.37.2"), "{version}");
    let rendered = kubectl(&["kustomize", "config/default"]).await.unwrap();
    assert!(rendered.contains("kind: Deployment"), "{rendered}");
    let applied = kubectl(&["apply", "-k", "config/default"]).await.unwrap();
    assert!(applied.contains("deployment.apps/netloss-controller created"), "{applied}");
    let error = kubectl(&["get", "deployment", "not-there"]).await.unwrap_err().to_string();
    assert!(error.contains("\"not-there\" not found"), "{error}");

    assert_eq!(helm(&["version", "--template", "{{.Version}}"]).await.unwrap(), "v4.3.1");
    let chart = control_plane.dir().join("chart");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: chart\nversion: 0.1.0\n").unwrap();
    let template =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: {{ .Release.Name }} }\ndata: { server: {{ .Capabilities.KubeVersion }} }\n";
    std::fs::write(chart.join("templates/config.yaml"), template).unwrap();
    helm(&["install", "a-release", chart.to_str().unwrap()]).await.unwrap();
    assert_eq!(helm(&["list", "--short"]).await.unwrap(), "a-release\n");
    let api: Api<ConfigMap> = Api::namespaced(control_plane.client().await.unwrap(), "default");
    assert_eq!(api.get("a-release").await.unwrap().data.unwrap()["server"], "v1.37.2");
    helm(&["uninstall", "a-release"]).await.unwrap();
    assert!(api.get_opt("a-release").await.unwrap().is_none());
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("still waiting for {what}");
}
