//! Two controllers, as processes: one leads, the other takes over.

use crate::lifecycle::eventually;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use netloss_api::PodState;
use netloss_controller::admission::authority;
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::host::cargo::{cargo, executables};
use netloss_lab::host::http::get;
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use nix::sys::signal::Signal;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// The shortest lease that the command line takes, in seconds.
const SHORT: u64 = 9;

/// The program, built once.
pub(crate) async fn program() -> PathBuf {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM.get_or_init(|| built("netloss-controller")).await.clone()
}

/// One of the programs of the controller's package.
pub(crate) async fn built(program: &'static str) -> PathBuf {
    // Both packages, whichever program it is: their dependencies are compiled once.
    let packages = ["--package", "netloss-controller", "--package", "netloss-cli"];
    let arguments =
        [&["build", "--quiet"], packages.as_slice(), &["--bin", program, "--message-format", "json-render-diagnostics"]].concat();
    let build = move || executables(cargo().args(arguments));
    tokio::task::spawn_blocking(build).await.unwrap().expect("it builds").pop().expect("it is a program")
}

/// A controller of one namespace's experiments.
struct Replica {
    name: &'static str,
    daemon: Daemon,
    metrics: u16,
    health: u16,
}

impl Replica {
    async fn start(world: &World, name: &'static str, lease: u64) -> Self {
        let (metrics, health) = (ports::free().unwrap(), ports::free().unwrap());
        let mut command = Command::new(program().await);
        command.env("KUBECONFIG", World::kubeconfig()).args([
            "run",
            &format!("--agent-image={AGENT_IMAGE}"),
            &format!("--namespace={}", own(world)),
            &format!("--watch-namespace={}", world.namespace),
            &format!("--pod-name={name}"),
            "--leader-elect",
            &format!("--lease-duration={lease}"),
            &format!("--metrics-listen=127.0.0.1:{metrics}"),
            &format!("--health-listen=127.0.0.1:{health}"),
        ]);
        let log = World::dir().join(format!("{}-{name}-{}.log", world.namespace, metrics));
        let daemon = Daemon::start(name, &command, &log, Lifetime::WithLab).unwrap();
        let replica = Self { name, daemon, metrics, health };
        eventually("the replica has heard of the lease", async || get(replica.health, "/readyz").await.contains("[+]lease")).await;
        replica
    }

    /// By its own account.
    async fn leads(&self) -> bool {
        get(self.metrics, "/metrics").await.lines().any(|line| line == "netloss_leader 1")
    }
}

/// The controllers' own namespace.
fn own(world: &World) -> String {
    format!("{}-own", world.namespace)
}

/// A world with a lease that nobody holds.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    let namespace = serde_json::from_value(json!({ "metadata": { "name": own(&world) } })).unwrap();
    Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let lease = serde_json::from_value(json!({ "metadata": { "name": "netloss-controller" } })).unwrap();
    leases(&world.client, &world).create(&PostParams::default(), &lease).await.unwrap();
    world
}

fn leases(client: &Client, world: &World) -> Api<Lease> {
    Api::namespaced(client.clone(), &own(world))
}

async fn holder(world: &World) -> Option<String> {
    leases(&world.client, world).get("netloss-controller").await.unwrap().spec?.holder_identity
}

/// Waits for longer than any lease of these tests that may run out.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_mins(1), "not within a minute: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_the_lease_over() {
    // A lease that does not run out while the test lasts.
    const LONG: u64 = 600;
    let world = world("leader-handover").await;
    let first = Replica::start(&world, "first", LONG).await;
    until("the first leads", async || first.leads().await).await;
    let second = Replica::start(&world, "second", LONG).await;
    assert!(!second.leads().await);
    assert!(get(second.health, "/readyz").await.starts_with("HTTP/1.1 200"), "who waits is ready");
    first.daemon.signal(Signal::SIGTERM).unwrap();
    until("the second leads", async || second.leads().await).await;
    assert_eq!(holder(&world).await.as_deref(), Some("second"));
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    until("it runs experiments", async || world.agents("a").await.len() == 1).await;
    until("the first has ended", async || first.daemon.ensure_running().is_err()).await;
}

#[tokio::test]
async fn a_leader_that_sleeps_through_its_lease_leads_no_longer() {
    let world = world("leader-asleep").await;
    let first = Replica::start(&world, "first", SHORT).await;
    until("the first leads", async || first.leads().await).await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let active = "chaosexperiment_active{action=\"pod-network-loss\"} 1";
    until("it shows the run", async || get(first.metrics, "/metrics").await.contains(active)).await;
    let second = Replica::start(&world, "second", SHORT).await;
    first.daemon.signal(Signal::SIGSTOP).unwrap();
    until("the second leads", async || second.leads().await).await;
    first.daemon.signal(Signal::SIGCONT).unwrap();
    until("the first has noticed", async || !get(first.metrics, "/metrics").await.is_empty() && !first.leads().await).await;
    assert_eq!(holder(&world).await.as_deref(), Some("second"));
    let text = get(first.metrics, "/metrics").await;
    assert!(!text.contains(active), "it goes on showing what it saw last:\n{text}");
    until("the second shows the run", async || get(second.metrics, "/metrics").await.contains(active)).await;
    assert!(get(first.health, "/livez").await.starts_with("HTTP/1.1 200"), "it is alive, and waits");
}

/// `NETLOSS_LEADER_KILLS` says how often, `NETLOSS_SEED` when.
#[tokio::test]
async fn leaders_are_killed_and_no_pod_gets_two_agents() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (kills, mut random) = (number("NETLOSS_LEADER_KILLS", 3), number("NETLOSS_SEED", 1));
    let world = world("leader-killed").await;
    let mut leader = Replica::start(&world, "r0", SHORT).await;
    until("the first leads", async || leader.leads().await).await;
    let mut other = Replica::start(&world, "r1", SHORT).await;
    let names = ["r0", "r1"];
    let mut waits = Vec::new();
    for kill in 0..kills {
        let (app, name) = (format!("app-{kill}"), format!("x-{kill}"));
        let pods: Vec<String> = (0..4).map(|pod| format!("p-{kill}-{pod}")).collect();
        for pod in &pods {
            world.pod_with(pod, json!({ "labels": { "app": app } }), json!({})).await;
        }
        world.apply(&name, spec(json!({ "selector": { "app": app }, "count": 2 }))).await.unwrap();
        // xorshift64: at any point between hearing of the experiment and having put in both agents.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        sleep(Duration::from_millis(random % 700)).await;
        leader.daemon.signal(Signal::SIGKILL).unwrap();
        let dead = Instant::now();
        until("the other leads", async || other.leads().await).await;
        waits.push(dead.elapsed().as_secs_f64());
        until("both agents are put in", async || {
            let entries = world.status(&name).await.pods;
            entries.len() == 2 && entries.iter().all(|entry| entry.state >= PodState::Injected)
        })
        .await;
        let mut agents = 0;
        for pod in &pods {
            let there = world.agents(pod).await;
            assert!(there.len() <= 1, "{pod}: {there:?}");
            agents += there.len();
        }
        assert_eq!(agents, 2, "as many as asked for, after kill {kill}");
        let name = names.into_iter().find(|name| *name == leader.name).unwrap();
        leader = std::mem::replace(&mut other, Replica::start(&world, name, SHORT).await);
    }
    waits.sort_by(f64::total_cmp);
    println!("{kills} leaders killed, lease {SHORT} s: the other led after {:.1} s at most", waits.last().unwrap_or(&0.0));
}

/// A webhook that is asked by its Service's name, of which this authority is the certificate's.
async fn ask_webhook(port: u16, path: &str, host: &str, authority: &[u8]) -> String {
    let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
    let certificates = CertificateDer::pem_slice_iter(authority).map(|one| one.unwrap().to_vec());
    (config.root_cert, config.tls_server_name) = (Some(certificates.collect()), Some(host.to_owned()));
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
            "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
            "operation": "CREATE", "namespace": "kube-system", "name": "x", "userInfo": {},
            "object": {
                "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": "x" }, "spec": spec(json!({})),
            },
        },
    });
    let body = kube::client::Body::from(serde_json::to_vec(&review).unwrap());
    let request = http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
    match Client::try_from(config).unwrap().send(request).await {
        Ok(response) => String::from_utf8_lossy(&response.into_body().collect_bytes().await.unwrap()).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// With one certificate, which the one made and the other found; the API server may ask either.
#[tokio::test]
async fn both_replicas_serve_the_webhook() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    let namespace = serde_json::from_value(json!({ "metadata": { "name": "netloss-system" } })).unwrap();
    Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    for file in ["manager/lease.yaml", "webhook/secret.yaml", "webhook/authority_secret.yaml", "webhook/webhook.yaml"] {
        let text = std::fs::read_to_string(workspace_root().join("config").join(file)).unwrap();
        for object in netloss_lab::cluster::parse(&text).unwrap() {
            netloss_lab::cluster::apply(&client, &object).await.unwrap();
        }
    }
    let program = program().await;
    let start = |name: &str| {
        let (webhook, health) = (ports::free().unwrap(), ports::free().unwrap());
        let mut command = Command::new(&program);
        command.env("KUBECONFIG", control_plane.kubeconfig_path()).args([
            "run",
            &format!("--agent-image={AGENT_IMAGE}"),
            &format!("--pod-name={name}"),
            "--leader-elect",
            &format!("--webhook-listen=127.0.0.1:{webhook}"),
            &format!("--health-listen=127.0.0.1:{health}"),
        ]);
        (Daemon::start(name, &command, &control_plane.dir().join(name), Lifetime::WithLab).unwrap(), webhook, health)
    };
    let replicas = [start("first"), start("second")];
    // The Job that is applied with them.
    let (secret, configuration) = (authority::SECRET, authority::CONFIGURATION);
    authority::install(&client, "netloss-system", secret, configuration, jiff::Timestamp::now()).await.unwrap();
    for (_, _, health) in &replicas {
        until("the replica is ready", async || get(*health, "/readyz").await.starts_with("HTTP/1.1 200")).await;
    }
    let configurations = Api::<ValidatingWebhookConfiguration>::all(client);
    for (_, webhook, _) in &replicas {
        until("it is trusted, and refuses what it has to", async || {
            let configuration = configurations.get("netloss").await.unwrap();
            let called = configuration.webhooks.unwrap()[0].client_config.clone();
            let (authority, path) = (called.ca_bundle.unwrap().0, called.service.unwrap().path.unwrap());
            let answer = ask_webhook(*webhook, &path, "netloss-webhook.netloss-system.svc", &authority).await;
            answer.contains("experiments in the namespace \\\"kube-system\\\" are refused")
        })
        .await;
    }
}
