//! `kubectl netloss` as a process, beside a real controller; the tests play the kubelet.

use crate::leader::{built, program};
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use netloss_api::{Phase, PodState, PodStatus};
use netloss_contract::{Event, Heartbeat, PerDirection, Traffic};
use netloss_lab::host::process::{Daemon, Lifetime};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_mins(3);

/// The shortest lease that a controller takes, in seconds.
const LEASE: u64 = 9;

/// Waits for something that is sure to come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `kubectl netloss` in this world's namespace, its output in files.
    pub(crate) async fn start(world: &World, args: &[&str]) -> Self {
        Self::start_for(world, Some(own(world)), args).await
    }

    /// The same with this namespace of the controller, or without naming one.
    pub(crate) async fn start_for(world: &World, controller_namespace: Option<String>, args: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = |name: &str| World::dir().join(format!("{}-cli-{number}.{name}", world.namespace));
        let (stdout, stderr) = (file("out"), file("err"));
        let mut command = Command::new(built("kubectl-netloss").await);
        command.env("KUBECONFIG", World::kubeconfig()).env_remove("NETLOSS_NAMESPACE").args(args);
        if !args.iter().any(|arg| *arg == "-n" || *arg == "-A") {
            command.args(["-n", &world.namespace]);
        }
        if let Some(namespace) = controller_namespace {
            command.args(["--controller-namespace", &namespace]);
        }
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::fs::File::create(&stderr).unwrap());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        Self { child, stdout, stderr }
    }

    /// What it has printed so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap()
    }

    /// Sends it a signal, as a terminal does.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Ended {
        let ended = timeout(LIMIT, self.child.wait()).await;
        let (stdout, stderr) = (self.said(), std::fs::read_to_string(&self.stderr).unwrap());
        let status = ended.unwrap_or_else(|_| panic!("no end within {LIMIT:?}:\n{stdout}\n{stderr}")).unwrap();
        Ended { code: status.code().expect("an exit code"), stdout, stderr }
    }
}

/// Runs `kubectl netloss` to its end.
pub(crate) async fn netloss(world: &World, args: &[&str]) -> Ended {
    Running::start(world, args).await.end().await
}

/// The namespace of this world's controller.
pub(crate) fn own(world: &World) -> String {
    format!("{}-own", world.namespace)
}

/// A world with the namespace of its controller, and a Deployment whose pods have the label app=web.
pub(crate) async fn stage(name: &str) -> World {
    let world = World::new(name).await;
    let namespace = serde_json::from_value(json!({ "metadata": { "name": own(&world) } })).unwrap();
    Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let lease = serde_json::from_value(json!({ "metadata": { "name": "netloss-controller" } })).unwrap();
    Api::<Lease>::namespaced(world.client.clone(), &own(&world)).create(&PostParams::default(), &lease).await.unwrap();
    deployment(&world, "web", json!({ "matchLabels": { "app": "web" } })).await;
    world
}

/// A running pod of the Deployment web, as its ReplicaSet makes it, and with more of metadata.
pub(crate) async fn own_pod(world: &World, name: &str, metadata: Value) {
    let deployments = Api::<Deployment>::namespaced(world.client.clone(), &world.namespace);
    let owner = |kind: &str, name: &str, uid: Option<String>| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true }]);
    let sets = Api::<ReplicaSet>::namespaced(world.client.clone(), &world.namespace);
    let set = if let Some(set) = sets.get_opt("web-1").await.unwrap() {
        set
    } else {
        let labels = json!({ "app": "web", "pod-template-hash": "1" });
        let uid = deployments.get("web").await.unwrap().metadata.uid;
        let object = json!({
            "metadata": { "name": "web-1", "labels": labels, "ownerReferences": owner("Deployment", "web", uid) },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "app", "image": "app" }] } },
            },
        });
        sets.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    };
    let mut all = json!({ "ownerReferences": owner("ReplicaSet", "web-1", set.metadata.uid) });
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    world.pod_with(name, all, json!({})).await;
}

async fn deployment(world: &World, name: &str, selector: Value) {
    let object = json!({
        "metadata": { "name": name },
        "spec": {
            "selector": selector,
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "app", "image": "app" }] } },
        },
    });
    let api = Api::<Deployment>::namespaced(world.client.clone(), &world.namespace);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// A controller of this world's experiments, as a process.
pub(crate) async fn controller(world: &World) -> Daemon {
    let mut command = Command::new(program().await);
    command.env("KUBECONFIG", World::kubeconfig()).args([
        "run",
        &format!("--agent-image={AGENT_IMAGE}"),
        &format!("--namespace={}", own(world)),
        &format!("--watch-namespace={}", world.namespace),
        "--pod-name=controller",
        "--leader-elect",
        &format!("--lease-duration={LEASE}"),
    ]);
    let log = World::dir().join(format!("{}-controller.log", world.namespace));
    let controller = Daemon::start("netloss-controller", &command, &log, Lifetime::WithLab).unwrap();
    let leases = Api::<Lease>::namespaced(world.client.clone(), &own(world));
    until("it leads", async || {
        controller.ensure_running().unwrap();
        leases.get("netloss-controller").await.unwrap().spec.and_then(|spec| spec.holder_identity).is_some()
    })
    .await;
    controller
}

/// The only pod of an experiment, once its agent is in it.
pub(crate) async fn injected(world: &World, name: &str) -> PodStatus {
    until("the agent is put in, and that is written down", async || {
        world.status(name).await.pods.first().is_some_and(|pod| pod.state == PodState::Injected)
    })
    .await;
    world.status(name).await.pods[0].clone()
}

/// Plays the kubelet until the loss is in place.
pub(crate) async fn brought(world: &World, name: &str) -> PodStatus {
    let entry = injected(world, name).await;
    let applied = world.applied(&run_of(&entry)).to_line();
    World::node().set_log(&entry, format!("{applied}\n{}\n", heartbeat(world, &entry)));
    world.set_state(&entry, json!({ "running": {} })).await;
    until("the loss is in place", async || world.status(name).await.phase == Some(Phase::Running)).await;
    entry
}

fn heartbeat(world: &World, entry: &PodStatus) -> String {
    let traffic = PerDirection { egress: Some(Traffic::new(2000, 205, 10.0)), ingress: Some(Traffic::new(1000, 98, 10.0)) };
    let heartbeat = Heartbeat {
        elapsed_seconds: 5.0,
        remaining_seconds: 25.0,
        traffic,
        intact: true,
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: Vec::new(),
    };
    world.record(&run_of(entry), Event::Heartbeat(heartbeat)).to_line()
}

/// Plays the kubelet when the agent has ended.
pub(crate) async fn ended(world: &World, entry: &PodStatus) {
    let report = world.removed(&run_of(entry)).to_line();
    world.set_state(entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
}

/// Plays the kubelet of a container that stops the agent, once it is there, and of the agent that it stops.
pub(crate) async fn stopped(world: &World, entry: &PodStatus) {
    let stop = format!("{}-stop", entry.container);
    until("it is told to stop", async || world.agents(&entry.name).await.iter().any(|agent| agent.name == stop)).await;
    let report = world.removed(&run_of(entry)).to_line();
    let end = json!({ "terminated": { "exitCode": 0, "message": report } });
    world.set_states(&entry.name, &[(entry.container.as_str(), end), (stop.as_str(), json!({ "terminated": { "exitCode": 0 } }))]).await;
}

#[tokio::test]
async fn a_run_is_shown_in_a_pipe_and_stopped() {
    let world = stage("cli-run").await;
    own_pod(&world, "a", json!({})).await;
    let _controller = controller(&world).await;
    let run = netloss(&world, &["run", "deploy/web", "--loss", "10", "--duration", "30s", "--name", "x"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (0, "chaosexperiment.chaos.gushchin.dev/x created\n"), "{run:?}");
    assert!(run.stderr.contains("kubectl netloss watch x -n cli-run"), "{run:?}");
    let object = world.experiments().get("x").await.unwrap();
    assert_eq!((object.spec.selector.get("app").map(String::as_str), object.spec.count), (Some("web"), 1));

    let watch = Running::start(&world, &["watch", "x"]).await;
    let entry = brought(&world, "x").await;
    // What is counted is in the agent's log alone while the loss lasts.
    let live = "pod a  applied  asked 10% both  egress 10.2% (9.0-11.7) 205/2000  ingress 9.8% (8.1-11.8) 98/1000";
    until("what the agent counts is shown", async || watch.said().contains(live)).await;
    let status = netloss(&world, &["status", "x", "-o", "json"]).await.json();
    assert_eq!((&status["schema"], &status["kind"], &status["phase"]), (&json!(1), &json!("Experiment"), &json!("Running")));
    assert_eq!(status["pods"][0]["egress"]["dropped"], json!(205), "{status}");
    assert_eq!(status["pods"][0]["unguarded"], json!(true));
    let list = netloss(&world, &["status"]).await;
    assert!(list.stdout.starts_with("NAME   PHASE     ASKED      PODS   EGRESS"), "{list:?}");
    assert!(list.stdout.lines().nth(1).unwrap().starts_with("x      Running   10% both   1/1    10.2% (9.0-11.7)"), "{list:?}");

    let stop = Running::start(&world, &["stop", "x"]).await;
    stopped(&world, &entry).await;
    let stop = stop.end().await;
    assert_eq!((stop.code, stop.stdout.as_str()), (0, "cli-run/x: stopped and deleted: a (the loss is verified to be gone)\n"), "{stop:?}");
    assert!(world.experiments().get_opt("x").await.unwrap().is_none());
    let watch = watch.end().await;
    assert_eq!(watch.code, 3, "a run that is cut short did not go as asked: {watch:?}");
    assert!(watch.stdout.contains("cli-run/x  Pending: Injecting 10% packet loss into 1 pod(s)"), "{watch:?}");
    assert!(watch.stderr.contains("error: x was stopped before its time"), "{watch:?}");

    let history = netloss(&world, &["history", "x", "-o", "json"]).await.json();
    let run = &history["runs"][0];
    assert_eq!((&run["result"], &run["pods"], &run["initiatedBy"]), (&json!("cancelled"), &json!(1), &json!("kubectl-netloss")), "{run}");
    assert_eq!(run["egress"]["lossPercentage"], json!(9.8));
}

#[tokio::test]
async fn who_waits_hears_how_it_went_by_the_exit_code() {
    let world = stage("cli-wait").await;
    own_pod(&world, "a", json!({})).await;
    let _controller = controller(&world).await;
    let args = ["run", "deploy/web", "--loss=10", "--duration=30s", "--wait", "-o", "json"];
    let good = Running::start(&world, &[&args[..], &["--name=good"]].concat()).await;
    until("it is created", async || world.experiments().get_opt("good").await.unwrap().is_some()).await;
    let entry = brought(&world, "good").await;
    ended(&world, &entry).await;
    let good = good.end().await;
    assert_eq!(good.code, 0, "{good:?}");
    let document = good.json();
    assert_eq!((&document["phase"], &document["pods"][0]["phase"]), (&json!("Completed"), &json!("clean")));
    assert_eq!((&document["egress"]["low"], &document["egress"]["high"]), (&json!(8.108), &json!(11.799)), "{document}");

    let bad = Running::start(&world, &[&args[..], &["--name=bad"]].concat()).await;
    until("it is created", async || world.experiments().get_opt("bad").await.unwrap().is_some()).await;
    let entry = injected(&world, "bad").await;
    world.set_state(&entry, json!({ "terminated": { "exitCode": 4 } })).await;
    let bad = bad.end().await;
    assert_eq!((bad.code, &bad.json()["phase"]), (3, &json!("Failed")), "{bad:?}");
    assert!(bad.stderr.contains("the agent refused to act on this pod"), "{bad:?}");

    world.pod_with("b", json!({ "labels": { "app": "late" } }), json!({})).await;
    let late = netloss(&world, &["run", "-l=app=late", "--loss=10", "--duration=30s", "--wait", "--timeout=2s", "--name=late"]).await;
    assert_eq!(late.code, 4, "{late:?}");
    assert!(late.stderr.contains("late is not over after 2 s"), "{late:?}");
    let entry = brought(&world, "late").await;
    let watch = netloss(&world, &["watch", "late", "--timeout=1s"]).await;
    assert_eq!(watch.code, 4, "{watch:?}");
    ended(&world, &entry).await;
    assert_eq!(netloss(&world, &["watch", "late"]).await.code, 0);
    let over = netloss(&world, &["stop", "late"]).await;
    assert_eq!((over.code, over.stderr.as_str()), (0, "late is over (Completed): nothing to stop\n"));
}

#[tokio::test]
async fn errors_name_the_thing_and_the_way_out() {
    let world = stage("cli-errors").await;
    deployment(&world, "odd", json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web"] }] })).await;
    let loss = ["--loss=10", "--duration=30s"];
    let run = async |more: &[&str]| netloss(&world, &[&["run"], more, &loss[..]].concat()).await;
    let refused = async |more: &[&str], code: i32, words: &str| {
        let ended = run(more).await;
        assert!(ended.code == code && ended.stderr.contains(words) && ended.stdout.is_empty(), "{more:?}: {words}: {ended:?}");
    };
    refused(&["deploy/nobody"], 1, "there is no deployment/nobody in namespace \"cli-errors\": `kubectl get deployment -n cli-errors`")
        .await;
    refused(&["deploy/odd"], 1, "deployment/odd selects its pods by matchExpressions").await;
    refused(&["deploy/web"], 1, "deployment/web: No eligible pods: none in the namespace \"cli-errors\" has the labels app=web").await;
    refused(&["web"], 2, "give TYPE/NAME, such as deploy/web").await;
    own_pod(&world, "a", json!({})).await;
    own_pod(&world, "b", json!({})).await;
    refused(&["pod/a"], 1, "2 pods have the labels of pod/a").await;
    refused(&["deploy/web", "--count=2", "--max-percentage=50"], 1, "2 of the 2 eligible pods are 100 %").await;
    refused(&["deploy/web", "--loss=50"], 2, "cannot be used multiple times").await;
    refused(&["deploy/web", "--as=jane"], 1, "not allowed: deployments.apps \"web\" is forbidden: User \"jane\"").await;
    refused(&["-l=app=web", "--as=jane"], 1, "listing pods in namespace \"cli-errors\": not allowed: pods is forbidden: User \"jane\"")
        .await;
    refused(&["-l=app=web", "--context=nowhere"], 1, "name another with --kubeconfig, or another --context").await;
    let watch = netloss(&world, &["watch", "nobody"]).await;
    assert!(watch.code == 1 && watch.stderr.contains("there is no ChaosExperiment \"nobody\" in namespace \"cli-errors\""), "{watch:?}");

    // Without a terminal nobody is asked.
    let production = Patch::Merge(json!({ "metadata": { "labels": { "env": "prod" } } }));
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.patch(&world.namespace, &PatchParams::default(), &production).await.unwrap();
    let production = "\"cli-errors\" is a production namespace by its label env: prod";
    let consent = format!("{production}: nothing was done; give --allow-production if it is meant");
    refused(&["deploy/web"], 1, &consent).await;
    refused(&["deploy/web", "--yes"], 1, &consent).await;
    refused(&["deploy/web", "--dry-run"], 1, &consent).await;
    let prompt = format!("{production}, and there is no terminal to ask on: nothing was done; give --yes");
    refused(&["deploy/web", "--allow-production"], 1, &prompt).await;
    let manifest = async |more: &[&str]| {
        let ended = netloss(&world, &[&["manifest", "deploy/web"], more, &loss[..]].concat()).await;
        let read: Value = serde_saphyr::from_str(&ended.stdout).unwrap();
        (read["spec"]["allowProduction"].clone(), ended.stderr)
    };
    let (allowed, warning) = manifest(&[]).await;
    assert!(allowed.is_null() && warning.contains(production) && warning.contains("without --allow-production"), "{warning}");
    assert_eq!(manifest(&["--allow-production"]).await, (json!(true), String::new()));
    assert!(world.experiments().list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
    let meant = run(&["deploy/web", "--allow-production", "--yes", "-o", "json"]).await;
    assert_eq!(meant.code, 0, "{meant:?}");
    let name = meant.json()["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("web-loss-"), "{name}");
    assert_eq!(world.experiments().get(&name).await.unwrap().spec.allow_production, Some(true));
}

#[tokio::test]
async fn a_dry_run_and_a_manifest_change_nothing() {
    let world = stage("cli-dry").await;
    own_pod(&world, "a", json!({})).await;
    own_pod(&world, "b", json!({ "labels": { "chaos.gushchin.dev/exclude": "true" } })).await;
    let loss = ["deploy/web", "--loss=10", "--duration=2m", "--count=all"];
    let dry = netloss(&world, &[&["run", "--dry-run"], &loss[..]].concat()).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    let lines: Vec<&str> = dry.stdout.lines().collect();
    assert_eq!(lines[0], "POD   NODE        READY   ELIGIBLE");
    assert_eq!(lines[2], "b     localhost   no      no: it carries the label chaos.gushchin.dev/exclude");
    assert_eq!(lines[3], "DRY RUN: would lose 10 % of the packets in each direction for 2m in 1 pod(s) of deployment/web");
    assert!(dry.stderr.contains("warning: left alone, as they carry the label chaos.gushchin.dev/exclude: b"), "{dry:?}");
    let json = netloss(&world, &[&["run", "--dry-run", "-o=json"], &loss[..]].concat()).await.json();
    assert_eq!((&json["kind"], &json["pods"][0]["eligible"]), (&json!("DryRun"), &json!(true)), "{json}");

    let manifest = netloss(&world, &[&["manifest"], &loss[..]].concat()).await;
    assert!(world.experiments().list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
    let read: Value = serde_saphyr::from_str(&manifest.stdout).unwrap();
    assert_eq!(read["metadata"], json!({ "name": "web-loss", "namespace": "cli-dry" }));
    let applied = world.apply("web-loss", read["spec"].clone()).await.expect("the API server takes what was printed");
    assert_eq!((applied.spec.loss_percentage, applied.spec.duration.as_deref()), (10.0, Some("2m")));
}

#[tokio::test]
async fn a_freeze_stops_everything_until_it_is_lifted() {
    let world = stage("cli-freeze").await;
    own_pod(&world, "a", json!({})).await;
    let _controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    // The others' experiments are under way as long as they please.
    let frozen = netloss(&world, &["freeze", "--reason", "the sale", "--wait=false"]).await;
    assert_eq!(
        (frozen.code, frozen.stdout.as_str()),
        (0, "frozen: every run of netloss's controller in namespace \"cli-freeze-own\" is stopped, and none begins\n"),
        "{frozen:?}"
    );
    stopped(&world, &entry).await;
    until("the run is over", async || world.status("x").await.phase.is_some_and(Phase::is_final)).await;
    let status = netloss(&world, &["status"]).await;
    assert!(status.stderr.contains("all experiments are frozen: the sale"), "{status:?}");
    let refused = netloss(&world, &["run", "deploy/web", "--loss=10", "--duration=30s"]).await;
    assert!(refused.code == 1 && refused.stderr.contains("All experiments are frozen: the sale"), "{refused:?}");
    let thawed = netloss(&world, &["unfreeze"]).await;
    assert_eq!(thawed.code, 0, "{thawed:?}");
    let map = Api::<ConfigMap>::namespaced(world.client.clone(), &own(&world)).get("netloss-freeze").await.unwrap();
    assert_eq!(map.metadata.annotations.unwrap_or_default().get("chaos.gushchin.dev/freeze"), None);
    let again = netloss(&world, &["run", "deploy/web", "--loss=10", "--duration=30s", "--name=y"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    let maps = Api::<ConfigMap>::namespaced(world.client.clone(), &own(&world));
    maps.delete("netloss-freeze", &kube::api::DeleteParams::default()).await.unwrap();
    let missing = netloss(&world, &["unfreeze"]).await;
    assert!(missing.code == 1 && missing.stdout.is_empty() && missing.stderr.contains("--controller-namespace"), "{missing:?}");
    let jane = netloss(&world, &["freeze", "--as=jane"]).await;
    assert!(jane.code == 1 && jane.stderr.contains("freezing (ConfigMap cli-freeze-own/netloss-freeze): not allowed"), "{jane:?}");
}

/// What a pause keeps can go on.
#[tokio::test]
async fn a_run_that_is_paused_can_go_on() {
    let world = stage("cli-pause").await;
    world.pod("a").await;
    let _controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    let stop = Running::start(&world, &["stop", "x", "--pause"]).await;
    let container = format!("{}-stop", entry.container);
    until("it is told to stop", async || world.agents("a").await.iter().any(|agent| agent.name == container)).await;
    let mut removed = world.removed(&run_of(&entry));
    if let Event::Removed(removed) = &mut removed.event {
        removed.elapsed_seconds = 10.0;
    }
    let end = json!({ "terminated": { "exitCode": 0, "message": removed.to_line() } });
    world.set_states("a", &[(entry.container.as_str(), end), (container.as_str(), json!({ "terminated": { "exitCode": 0 } }))]).await;
    let stop = stop.end().await;
    assert_eq!((stop.code, stop.stdout.as_str()), (0, "cli-pause/x: paused: a (the loss is verified to be gone)\n"), "{stop:?}");
    assert_eq!(world.status("x").await.pods[0].remaining.as_deref(), Some("20s"));
}

#[tokio::test]
async fn completion_needs_no_cluster() {
    let world = World::new("cli-completion").await;
    let script = netloss(&world, &["completion", "bash", "--kubeconfig=/nowhere"]).await;
    assert_eq!(script.code, 0, "{script:?}");
    assert!(script.stdout.contains("complete -F _kubectl__netloss") && script.stdout.contains("--all-namespaces"), "{script:?}");
}
