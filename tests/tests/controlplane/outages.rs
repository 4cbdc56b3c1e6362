//! An API server that is away, that refuses, and that loses answers: the controller goes on where it was.

use crate::leader::program;
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use futures::future::join_all;
use netloss_api::{Outcome, Phase, PodState};
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::controlplane::proxy::{Proxy, Weather};
use netloss_lab::host::http::get;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Longer than any backoff of the controller's.
const LIMIT: Duration = Duration::from_mins(3);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Experiments that are under way together.
const AT_A_TIME: usize = 4;

/// Shows what the controller has logged last, if the test fails.
struct Tail<'a>(&'a Daemon);

impl Drop for Tail<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.log_tail(60));
        }
    }
}

/// An experiment from its begin to its end, while something may happen in the middle of each step.
async fn life(world: &World, name: &str) {
    let pod = format!("pod-{name}");
    world.pod_with(&pod, json!({ "labels": { "app": name } }), json!({})).await;
    world.apply(name, spec(json!({ "selector": { "app": name }, "maxRetries": 0 }))).await.unwrap();
    until("the agent is put in", async || world.status(name).await.pods.iter().any(|pod| pod.state >= PodState::Injected)).await;
    let entry = world.status(name).await.pods[0].clone();
    assert_eq!(world.agents(&pod).await.len(), 1, "one agent");
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    until("the run ends", async || world.status(name).await.phase.is_some_and(Phase::is_final)).await;
    let status = world.status(name).await;
    assert_eq!(status.pods[0].outcome, Some(Outcome::Clean), "{status:?}");
    let agents = world.agents(&pod).await;
    assert_eq!(agents.len(), 1, "{agents:?}");
}

/// Lives that are lived at the same time: most of one is waiting.
async fn lives(world: &World, name: &str, count: usize) {
    let names: Vec<String> = (0..count).map(|number| format!("{name}-{number}")).collect();
    join_all(names.iter().map(|name| life(world, name))).await;
}

#[tokio::test]
async fn whatever_the_api_server_does_each_run_ends_once_and_nothing_piles_up() {
    let mut control_plane = ControlPlane::start_for_tests().await.unwrap();
    install_definitions(control_plane.client().await.unwrap()).await;
    let world = World::on(&control_plane, "weather").await;
    let proxy = Proxy::start(control_plane.client().await.unwrap()).await.unwrap();
    let kubeconfig = control_plane.dir().join("proxy");
    std::fs::write(&kubeconfig, proxy.kubeconfig()).unwrap();
    let (metrics, health) = (ports::free().unwrap(), ports::free().unwrap());
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", &kubeconfig).args([
        "run",
        &format!("--agent-image={AGENT_IMAGE}"),
        "--log=netloss_controller=debug,info",
        &format!("--metrics-listen=127.0.0.1:{metrics}"),
        &format!("--health-listen=127.0.0.1:{health}"),
    ]);
    let controller = Daemon::start("netloss-controller", &command, &control_plane.dir().join("controller.log"), Lifetime::WithLab).unwrap();
    let _tail = Tail(&controller);
    let is_ready = async || get(health, "/readyz").await.starts_with("HTTP/1.1 200");
    until("it is ready", is_ready).await;
    lives(&world, "warm", AT_A_TIME).await;
    // Of experiments and of the freeze; pods are watched only while something is under way.
    until("no pods are watched", async || proxy.watches() == 2).await;
    let before = controller.resident().unwrap();

    for (n, weather) in [Weather::Refusing(429), Weather::Refusing(503), Weather::Refusing(500), Weather::Cutting].into_iter().enumerate() {
        let spoilt = proxy.spoilt();
        proxy.set(weather);
        // It clears up while the last of these is under way, or before.
        let clears_up = async {
            until("the weather is felt", async || proxy.spoilt() >= spoilt + 12).await;
            proxy.set(Weather::Fair);
        };
        let name = format!("weather-{n}");
        tokio::join!(clears_up, lives(&world, &name, AT_A_TIME));
    }
    for n in 0..2 {
        let name = format!("restart-{n}");
        let pod = format!("pod-{name}");
        world.pod_with(&pod, json!({ "labels": { "app": name } }), json!({})).await;
        world.apply(&name, spec(json!({ "selector": { "app": name } }))).await.unwrap();
        // In the middle of whatever it does about it.
        sleep(Duration::from_millis(150 * n)).await;
        if n == 0 {
            control_plane.stop_apiserver().unwrap();
            control_plane.start_apiserver().await.unwrap();
        } else {
            control_plane.restart_etcd().await.unwrap();
        }
        until("the agent is put in", async || world.agents(&pod).await.len() == 1).await;
        controller.ensure_running().unwrap();
    }
    for n in 0..3 {
        lives(&world, &format!("fair-{n}"), AT_A_TIME).await;
    }
    // The two whose agents were put in and never reported stay under way: one namespace more is watched.
    until("as many watches as before, and one", async || proxy.watches() == 3).await;
    let after = controller.resident().unwrap();
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after < before * 3 / 2, "{before} KiB before, {after} KiB after");
    assert!(is_ready().await);
}
