//! `netloss-controller drain` and `verify`: what is done before netloss goes, and how it is known to be there.

use crate::ending::stop;
use crate::leader::program;
use crate::lifecycle::eventually;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperimentHistory, Outcome, Phase, PodState, Stopping};
use netloss_lab::cluster::{apply, parse};
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::controlplane::proxy::{Proxy, Weather};
use netloss_lab::host::http::get;
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Output};
use tokio::task::spawn_blocking;

/// A world whose controller's own namespace has the freeze in it.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    let own = serde_json::from_value(json!({ "metadata": { "name": own(&world) } })).unwrap();
    Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &own).await.unwrap();
    let freeze = serde_json::from_value(json!({ "metadata": { "name": "netloss-freeze" } })).unwrap();
    freezes(&world).create(&PostParams::default(), &freeze).await.unwrap();
    world
}

fn own(world: &World) -> String {
    format!("{}-own", world.namespace)
}

fn freezes(world: &World) -> Api<ConfigMap> {
    Api::namespaced(world.client.clone(), &own(world))
}

/// One of the program's commands, to its end.
async fn ended(kubeconfig: &Path, arguments: &[String]) -> (bool, String) {
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", kubeconfig).args(arguments).arg(format!("--agent-image={AGENT_IMAGE}"));
    let Output { status, stderr, .. } = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.success(), String::from_utf8_lossy(&stderr).into_owned())
}

async fn drain(world: &World, timeout: &str) -> (bool, String) {
    drain_through(&World::kubeconfig(), world, timeout).await
}

async fn drain_through(kubeconfig: &Path, world: &World, timeout: &str) -> (bool, String) {
    let arguments = ["drain".to_owned(), format!("--namespace={}", own(world)), format!("--watch-namespace={}", world.namespace)];
    let arguments: Vec<String> = arguments.into_iter().chain([format!("--timeout={timeout}")]).collect();
    ended(kubeconfig, &arguments).await
}

/// One request that comes to nothing must not leave everything frozen and its loss in place.
#[tokio::test]
async fn a_drain_goes_on_past_answers_that_do_not_come() {
    let world = world("leaving-weather").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    let entry = world.running("x", "a").await;
    let proxy = Proxy::start(world.client.clone()).await.unwrap();
    let kubeconfig = World::dir().join("leaving-weather-proxy");
    std::fs::write(&kubeconfig, proxy.kubeconfig()).unwrap();
    proxy.set(Weather::Refusing(500));
    let played = async {
        eventually("some is refused", async || proxy.spoilt() >= 3).await;
        proxy.set(Weather::Fair);
        eventually("the agent is asked to end", async || world.agents("a").await.len() == 2).await;
        stop(&world, &entry).await;
    };
    let ((drained, said), ()) = tokio::join!(drain_through(&kubeconfig, &world, "2m"), played);
    assert!(drained && said.contains("and is asked again"), "{said}");
    let freeze = freezes(&world).get("netloss-freeze").await.unwrap();
    assert!(freeze.data.unwrap()["reason"].contains("being uninstalled"));
}

#[tokio::test]
async fn what_is_under_way_is_stopped_without_a_controller() {
    let world = world("leaving-drained").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    world.apply("later", spec(json!({ "schedule": "@hourly" }))).await.unwrap();
    world.pass("later", 0).await;
    let entry = world.running("x", "a").await;
    let played = async {
        eventually("the agent is asked to end", async || world.agents("a").await.len() == 2).await;
        stop(&world, &entry).await;
    };
    let ((drained, said), ()) = tokio::join!(drain(&world, "2m"), played);
    assert!(drained && said.contains("netloss can be uninstalled"), "{said}");
    let experiment = world.experiments().get("x").await.unwrap();
    assert!(experiment.finalizers().is_empty());
    let status = experiment.status.unwrap();
    assert_eq!((status.phase, status.stopping), (Some(Phase::Completed), Some(Stopping::Frozen)), "{status:?}");
    let frozen = freezes(&world).get("netloss-freeze").await.unwrap();
    assert_eq!(frozen.annotations().get("chaos.gushchin.dev/freeze").map(String::as_str), Some("true"));
    // And once more, with nothing to do.
    assert!(drain(&world, "2m").await.0);
}

#[tokio::test]
async fn what_does_not_end_is_named() {
    let world = world("leaving-stuck").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    world.running("x", "a").await;
    let (drained, said) = drain(&world, "3s").await;
    assert!(!drained && said.contains("something is still under way in pods of leaving-stuck/x ("), "{said}");
}

#[tokio::test]
async fn a_pod_in_which_loss_may_remain_is_named_as_long_as_it_is_there() {
    let world = world("leaving-loss").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.running("x", "a").await;
    // As after a repair that could not be put in.
    let mut status = world.status("x").await;
    status.phase = Some(Phase::Completed);
    let mut pod = serde_json::to_value(&status.pods[0]).unwrap();
    for (field, value) in [("state", "ended"), ("outcome", "unknown"), ("message", "loss may remain until the pod ends")] {
        pod[field] = json!(value);
    }
    let patch = Patch::Merge(json!({ "status": { "phase": "Completed", "pods": [pod] } }));
    world.experiments().patch_status("x", &PatchParams::default(), &patch).await.unwrap();
    let (drained, said) = drain(&world, "1m").await;
    assert!(!drained && said.contains("loss may remain in the pods leaving-loss/a: delete them"), "{said}");
    world.delete_at_once("a").await;
    let (drained, said) = drain(&world, "1m").await;
    assert!(drained, "{said}");
}

/// Deletes an experiment without its controller, as somebody who takes the finalizer away.
async fn delete_by_force(world: &World, name: &str) {
    let finalizers = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    world.experiments().patch(name, &PatchParams::default(), &finalizers).await.unwrap();
    world.experiments().delete(name, &DeleteParams::default()).await.unwrap();
    assert!(world.experiments().get_opt(name).await.unwrap().is_none());
}

#[tokio::test]
async fn an_agent_that_belongs_to_no_experiment_is_named_as_long_as_it_is_active() {
    let world = world("leaving-orphan").await;
    world.pod("a").await;
    world.apply("x", spec(json!({ "duration": "1h" }))).await.unwrap();
    let entry = world.running("x", "a").await;
    delete_by_force(&world, "x").await;
    let (drained, said) = drain(&world, "3s").await;
    let agent = format!("leaving-orphan/a:{} (of no experiment: `kubectl netloss stop -A` stops it)", entry.container);
    assert!(!drained && said.contains(&agent), "{said}");
    let played = async {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        world.set_state(&entry, json!({ "terminated": { "exitCode": 0 } })).await;
    };
    let ((drained, said), ()) = tokio::join!(drain(&world, "2m"), played);
    assert!(drained, "{said}");
}

#[tokio::test]
async fn loss_that_may_remain_of_an_experiment_that_was_deleted_is_named() {
    let world = world("leaving-record").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    let object = world.experiments().get("x").await.unwrap();
    let mut status = object.status.clone().unwrap();
    let pod = &mut status.pods[0];
    (pod.state, pod.outcome) = (PodState::Ended, Some(Outcome::Unknown));
    let record = netloss_core::history::record(&object, &status, world.at(60));
    let records = Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace);
    records.create(&PostParams::default(), &record).await.unwrap();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 137 } })).await;
    delete_by_force(&world, "x").await;
    let (drained, said) = drain(&world, "1m").await;
    assert!(!drained && said.contains("loss may remain in the pods leaving-record/a: delete them"), "{said}");
    world.delete_at_once("a").await;
    let (drained, said) = drain(&world, "1m").await;
    assert!(drained, "{said}");
}

/// A controller with a webhook on loopback, as `helm test` finds one in a cluster.
#[tokio::test]
async fn what_is_installed_is_verified() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    let verify = async |more: &[&str]| {
        let arguments: Vec<String> = ["verify"].iter().chain(more).map(|word| (*word).to_owned()).collect();
        ended(control_plane.kubeconfig_path(), &arguments).await
    };
    let (works, said) = verify(&["--timeout=1s"]).await;
    assert!(!works && said.contains("are the definitions installed"), "{said}");
    install_definitions(client.clone()).await;
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "netloss-system" } })).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let webhook = ports::free().unwrap();
    let identity = control_plane.pki().server("webhook", &["localhost"], &[std::net::Ipv4Addr::LOCALHOST]).unwrap();
    let certificate = control_plane.dir().join("certificate");
    std::fs::create_dir_all(&certificate).unwrap();
    std::fs::write(certificate.join("tls.crt"), &identity.certificate).unwrap();
    std::fs::write(certificate.join("tls.key"), &identity.key).unwrap();
    for file in ["manager/lease.yaml", "webhook/webhook.yaml"] {
        let text = std::fs::read_to_string(workspace_root().join("config").join(file)).unwrap();
        for mut object in parse(&text).unwrap() {
            if object.types.as_ref().is_some_and(|types| types.kind == "ValidatingWebhookConfiguration") {
                let bundle = k8s_openapi::ByteString(control_plane.pki().ca().as_bytes().to_vec());
                let url = format!("https://127.0.0.1:{webhook}/validate");
                object.data["webhooks"][0]["clientConfig"] = json!({ "url": url, "caBundle": bundle });
            }
            apply(&client, &object).await.unwrap();
        }
    }
    let (works, said) = verify(&["--timeout=1s"]).await;
    assert!(!works && said.contains("no replica leads"), "{said}");

    let health = ports::free().unwrap();
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", control_plane.kubeconfig_path()).args([
        "run",
        &format!("--agent-image={AGENT_IMAGE}"),
        "--leader-elect",
        "--lease-duration=9",
        &format!("--webhook-listen=127.0.0.1:{webhook}"),
        &format!("--webhook-certificate={}", certificate.display()),
        &format!("--health-listen=127.0.0.1:{health}"),
    ]);
    let controller = Daemon::start("controller", &command, &control_plane.dir().join("log"), Lifetime::WithLab).unwrap();
    eventually("it is ready", async || get(health, "/readyz").await.starts_with("HTTP/1.1 200")).await;
    let (works, said) = verify(&["--webhook"]).await;
    assert!(works && said.contains("the webhook answers") && said.contains("a replica leads"), "{said}");
    controller.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    let (works, said) = verify(&["--webhook", "--timeout=1s"]).await;
    assert!(!works && said.contains("asking the webhook"), "{said}");
}
