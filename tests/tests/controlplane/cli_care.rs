//! `kubectl netloss` when something is not as it should be: explain, doctor, report; and without a controller.

use crate::cli::{Running, brought, controller, ended, injected, netloss, stage, stopped, until};
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::EphemeralContainer;
use kube::api::{ListParams, Patch, PatchParams};
use netloss_api::{Phase, PodStatus};
use netloss_contract::{Cleaned, Event, container_name};
use netloss_core::container::{agent_container, patch};
use netloss_lab::controlplane::proxy::{Proxy, Weather};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What status would have of a container in a pod.
async fn entry_of(world: &World, pod: &str, container: &EphemeralContainer) -> PodStatus {
    let uid = world.pods().get(pod).await.unwrap().metadata.uid;
    let entry = json!({
        "namespace": world.namespace, "name": pod, "uid": uid, "container": container.name, "image": container.image, "argv": container.args,
        "deadline": world.at(600), "attempt": 1, "state": "injected",
        "asked": { "lossPercentage": 10.0, "correlation": 0.0, "direction": "both", "duration": "30s" },
    });
    serde_json::from_value(entry).unwrap()
}

/// Puts an agent into a pod, with these arguments beside its run's, for a run of no experiment. Its loss is in place.
async fn agent_of_nobody(world: &World, pod: &str, uid: &str, run: u32, arguments: &[&str]) -> PodStatus {
    let run_of_nobody = format!("--run={uid}/{run}");
    let arguments = [&["run", "--loss=10", "--direction=both", &run_of_nobody], arguments].concat();
    let container = EphemeralContainer {
        name: container_name(uid, run, 1),
        image: Some(AGENT_IMAGE.to_owned()),
        args: Some(arguments.into_iter().map(str::to_owned).collect()),
        ..EphemeralContainer::default()
    };
    let entry = entry_of(world, pod, &container).await;
    let put_in = Patch::Strategic(patch(&entry, &agent_container(&entry)));
    world.pods().patch_ephemeral_containers(pod, &PatchParams::default(), &put_in).await.unwrap();
    World::node().set_log(&entry, world.applied(&run_of(&entry)).to_line());
    entry
}

/// What doctor says about something.
fn findings<'a>(checkup: &'a Value, about: &str) -> Vec<&'a Value> {
    checkup["findings"].as_array().unwrap().iter().filter(|finding| finding["about"] == about).collect()
}

#[tokio::test]
async fn explain_says_why_and_the_next_step() {
    let world = stage("cli-explain").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let alone = netloss(&world, &["explain", "x"]).await;
    assert_eq!(alone.code, 0, "{alone:?}");
    assert!(
        alone.stdout.contains("netloss's controller is down: no pod of it is ready")
            && alone.stdout.contains("Next: `kubectl netloss doctor -n cli-explain --controller-namespace=cli-explain-own`"),
        "{alone:?}"
    );
    let _controller = controller(&world).await;
    let entry = injected(&world, "x").await;
    world.set_state(&entry, json!({ "waiting": { "reason": "ImagePullBackOff", "message": "back-off" } })).await;
    let pending = netloss(&world, &["explain", "x"]).await;
    let words = format!("Pod a: its node cannot pull the agent's image {AGENT_IMAGE}: ImagePullBackOff: back-off.");
    assert!(pending.stdout.contains(&words), "{pending:?}");
    world.set_state(&entry, json!({ "terminated": { "exitCode": 4 } })).await;
    until("it has failed", async || world.status("x").await.phase == Some(Phase::Failed)).await;
    let failed = netloss(&world, &["explain", "x", "-o", "json"]).await.json();
    assert_eq!(failed["kind"], json!("Explanation"));
    assert!(failed["why"][1].as_str().unwrap().contains("Pod a: failed: the agent refused to act on this pod"), "{failed}");
    assert!(failed["next"][0].as_str().unwrap().contains("docs/AGENT.md"), "{failed}");
}

#[tokio::test]
async fn doctor_finds_an_agent_of_no_experiment_and_stops_it() {
    let world = stage("cli-doctor").await;
    world.pod("a").await;
    let _controller = controller(&world).await;
    let uid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";
    let entry = agent_of_nobody(&world, "a", uid, 3, &["--ttl=30s", "--deadline=2099-01-01T00:00:00Z"]).await;
    world.set_state(&entry, json!({ "running": {} })).await;

    let sick = netloss(&world, &["doctor", "-n", "cli-doctor", "-o", "json"]).await;
    assert_eq!(sick.code, 1, "{sick:?}");
    let checkup = sick.json();
    let agents = findings(&checkup, "agents");
    let words = format!(
        "cli-doctor/a:{} works, and no experiment knows of it; its loss ends at 2099-01-01T00:00:00Z at the latest",
        entry.container
    );
    assert_eq!((&agents[0]["verdict"], &agents[0]["found"]), (&json!("problem"), &json!(words)), "{checkup}");
    assert_eq!(findings(&checkup, "controller")[0]["found"], json!("controller runs experiments"));
    assert!(findings(&checkup, "definition").iter().all(|finding| finding["verdict"] == "ok"), "{checkup}");
    assert_eq!(findings(&checkup, "your rights")[0]["verdict"], json!("ok"));
    assert_eq!(
        findings(&checkup, "controller's rights")[0]["verdict"],
        json!("problem"),
        "its account has no role in this namespace: {checkup}"
    );
    assert_eq!(findings(&checkup, "Pod Security")[0]["verdict"], json!("ok"));

    let fix = Running::start(&world, &["doctor", "--fix", "-n", "cli-doctor"]).await;
    stopped(&world, &entry).await;
    let fix = fix.end().await;
    assert!(
        fix.stdout.contains(&format!("cli-doctor/a:{}, of no experiment: stopped: a (the loss is verified to be gone)\n", entry.container)),
        "{fix:?}"
    );
    assert!(fix.stdout.contains("ok       agents: each one that works belongs to an experiment\n"), "{fix:?}");

    // A person without rights sees as much as they may.
    let jane = netloss(&world, &["doctor", "-n", "cli-doctor", "-o", "json", "--as=jane"]).await;
    let rights = jane.json();
    assert!(
        findings(&rights, "your rights")[0]["found"].as_str().unwrap().contains("create chaosexperiments in cli-doctor (run)"),
        "{rights}"
    );
    assert!(findings(&rights, "agents").iter().any(|finding| finding["verdict"] == "warning"), "{rights}");
}

/// An agent that was killed, and what was sent to repair that failed too.
#[tokio::test]
async fn where_loss_may_remain_that_is_said_and_can_be_put_right() {
    let world = stage("cli-remains").await;
    world.pod("a").await;
    let _controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    let killed = json!({ "terminated": { "exitCode": 137 } });
    world.set_state(&entry, killed.clone()).await;
    until("it is repaired", async || world.agents("a").await.len() == 2).await;
    let repair = format!("{}-repair", entry.container);
    let failed = json!({ "terminated": { "exitCode": 7 } });
    world.set_states("a", &[(entry.container.as_str(), killed.clone()), (repair.as_str(), failed.clone())]).await;
    let watch = netloss(&world, &["watch", "x"]).await;
    assert!(
        watch.code == 5 && watch.stderr.contains("x: loss may remain in cli-remains/a: `kubectl netloss doctor --fix -n cli-remains`"),
        "{watch:?}"
    );
    let list = netloss(&world, &["status"]).await;
    assert!(list.stdout.contains("Completed, loss may remain"), "{list:?}");
    let explained = netloss(&world, &["explain", "x"]).await;
    assert!(explained.stdout.contains("In pod a loss may remain"), "{explained:?}");
    let stop = netloss(&world, &["stop", "x"]).await;
    assert_eq!(stop.code, 5, "{stop:?}");
    let sick = netloss(&world, &["doctor", "-n", "cli-remains", "-o", "json"]).await;
    assert_eq!((sick.code, &findings(&sick.json(), "leftovers")[0]["verdict"]), (5, &json!("loss-may-remain")), "{sick:?}");

    let fix = Running::start(&world, &["doctor", "--fix", "-n", "cli-remains"]).await;
    until("something cleans up", async || world.agents("a").await.len() == 3).await;
    let cleanup = world.agents("a").await.into_iter().find(|agent| agent.name.ends_with("-cleanup")).unwrap();
    assert_eq!(cleanup.args.as_ref().unwrap()[0], "cleanup");
    let report = world.record("any/1", Event::Cleaned(Cleaned { removed: vec!["the qdisc netem on eth0".to_owned()] })).to_line();
    let done = json!({ "terminated": { "exitCode": 0, "message": report, "finishedAt": Timestamp::now().to_string() } });
    world.set_states("a", &[(entry.container.as_str(), killed), (repair.as_str(), failed), (cleanup.name.as_str(), done)]).await;
    let fix = fix.end().await;
    assert!(fix.stdout.contains("cli-remains/a: cleaned up: the qdisc netem on eth0\n"), "{fix:?}");
    assert!(fix.stdout.contains("leftovers: none are known of") && fix.code != 5, "{fix:?}");
}

#[tokio::test]
async fn a_report_is_a_page_whether_the_experiment_is_there_or_gone() {
    let world = stage("cli-report").await;
    world.pod("a").await;
    let _controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    ended(&world, &entry).await;
    until("it is over", async || world.status("x").await.phase == Some(Phase::Completed)).await;
    let page = netloss(&world, &["report", "x", "-o", "html"]).await;
    assert!(page.code == 0 && page.stdout.starts_with("<!doctype html>") && page.stdout.contains("9.8% (8.1-11.8)"), "{page:?}");
    world.experiments().delete("x", &kube::api::DeleteParams::default()).await.unwrap();
    until("it is gone", async || world.experiments().get_opt("x").await.unwrap().is_none()).await;
    let text = netloss(&world, &["report", "x"]).await;
    assert!(text.stdout.starts_with("# cli-report/x, run 1: success\n"), "{text:?}");
    let json = netloss(&world, &["report", "x", "-o", "json", "--run=1"]).await.json();
    assert_eq!((&json["schema"], &json["result"], &json["pods"][0]["ingress"]["dropped"]), (&json!(1), &json!("success"), &json!(84)));
    let none = netloss(&world, &["report", "x", "--run=2"]).await;
    assert!(none.code == 1 && none.stderr.contains("nothing is known of run 2 of \"x\" in namespace \"cli-report\""), "{none:?}");
}

#[tokio::test]
async fn a_direct_run_needs_no_controller() {
    let world = stage("cli-direct").await;
    world.pod("a").await;
    world.pod("b").await;
    let args = ["run", "pod/a", "--loss=10", "--duration=30s", "--direct"];
    let unknown = netloss(&world, &args).await;
    assert!(unknown.code == 1 && unknown.stderr.contains("give --agent-image"), "{unknown:?}");
    let many = netloss(&world, &["run", "deploy/web", "--loss=10", "--duration=30s", "--direct"]).await;
    assert!(many.code == 1 && many.stderr.contains("name it as pod/NAME"), "{many:?}");
    let image = format!("--agent-image={AGENT_IMAGE}");
    let jane = netloss(&world, &[&args[..], &[&image, "--as=jane"]].concat()).await;
    assert!(jane.code == 1 && jane.stderr.contains("not allowed"), "{jane:?}");

    let run = Running::start(&world, &[&args[..], &[&image]].concat()).await;
    until("the agent is put in", async || world.agents("a").await.len() == 1).await;
    let agent = world.agents("a").await.remove(0);
    let rights = serde_json::to_value(&agent.security_context).unwrap();
    assert_eq!((&rights["runAsUser"], &rights["capabilities"]), (&json!(0), &json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] })));
    let entry = entry_of(&world, "a", &agent).await;
    world.set_applied(&entry).await;
    until("that is shown", async || run.said().contains("pod a  applied  asked 10% both")).await;
    // An agent of no experiment is one that a person may want to stop too.
    let checkup = netloss(&world, &["doctor", "-n", "cli-direct", "-o", "json"]).await.json();
    assert_eq!(findings(&checkup, "agents")[0]["verdict"], json!("problem"), "{checkup}");
    ended(&world, &entry).await;
    let run = run.end().await;
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stdout.contains("pod a  clean  asked 10% both  egress 9.8% (8.1-11.8) 98/1000  ingress 10.5% (8.6-12.8) 84/800"),
        "{run:?}"
    );
    assert!(world.experiments().list(&ListParams::default()).await.unwrap().items.is_empty());
    assert!(world.agents("b").await.is_empty());

    // Ctrl-C stops it, which is not what was asked for.
    let run = Running::start(&world, &[&args[..], &[&image]].concat()).await;
    until("another agent is put in", async || world.agents("a").await.len() == 2).await;
    let first = entry.container.clone();
    let agent = world.agents("a").await.into_iter().find(|agent| agent.name != first).unwrap();
    let entry = entry_of(&world, "a", &agent).await;
    world.set_applied(&entry).await;
    until("that is shown", async || run.said().contains("applied")).await;
    run.signal(Signal::SIGINT);
    let stop = format!("{}-stop", entry.container);
    until("it is told to stop", async || world.agents("a").await.iter().any(|agent| agent.name == stop)).await;
    let mut removed = world.removed(&run_of(&entry));
    if let Event::Removed(removed) = &mut removed.event {
        removed.elapsed_seconds = 3.0;
    }
    let end = json!({ "terminated": { "exitCode": 0, "message": removed.to_line() } });
    world.set_states("a", &[(entry.container.as_str(), end), (stop.as_str(), json!({ "terminated": { "exitCode": 0 } }))]).await;
    let run = run.end().await;
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stderr.contains("was stopped before its time"), "{run:?}");
}

/// The agent of a direct run that nobody looked after was killed: no experiment and no record names its pod.
#[tokio::test]
async fn what_a_dead_agent_of_no_experiment_may_have_left_is_found() {
    let world = stage("cli-dead").await;
    world.pod("a").await;
    world.pod("b").await;
    let (killed, clean) = ("1b4e28ba-2fa1-81d2-883f-0016d3cca427", "2b4e28ba-2fa1-81d2-883f-0016d3cca427");
    let entries =
        [agent_of_nobody(&world, "a", killed, 1, &["--ttl=1h"]).await, agent_of_nobody(&world, "b", clean, 1, &["--ttl=1h"]).await];
    ended(&world, &entries[1]).await;
    let end = json!({ "terminated": { "exitCode": 137, "finishedAt": world.at(0) } });
    world.set_state(&entries[0], end.clone()).await;
    let sick = netloss(&world, &["doctor", "-n", "cli-dead", "-o", "json"]).await;
    let checkup = sick.json();
    let leftovers = findings(&checkup, "leftovers");
    assert!(sick.code == 5 && leftovers.len() == 1, "{sick:?}");
    let words = format!("cli-dead/a:{} has ended and did not say that its loss is gone", entries[0].container);
    assert!(leftovers[0]["found"].as_str().unwrap().starts_with(&words), "{checkup}");

    let fix = Running::start(&world, &["doctor", "--fix", "-n", "cli-dead"]).await;
    let repair = format!("{}-repair", entries[0].container);
    until("something cleans up", async || world.agents("a").await.iter().any(|agent| agent.name == repair)).await;
    let report =
        world.record(&run_of(&entries[0]), Event::Cleaned(Cleaned { removed: vec!["the qdisc netem on eth0".to_owned()] })).to_line();
    let done = json!({ "terminated": { "exitCode": 0, "message": report, "finishedAt": Timestamp::now().to_string() } });
    world.set_states("a", &[(entries[0].container.as_str(), end), (repair.as_str(), done)]).await;
    let fix = fix.end().await;
    assert!(fix.stdout.contains(&format!("cli-dead/a:{}, of no experiment: cleaned up after\n", entries[0].container)), "{fix:?}");
    assert!(fix.stdout.contains("leftovers: none are known of") && fix.code != 5, "{fix:?}");
}

/// Answers that do not come are no reason to leave an agent to itself.
#[tokio::test]
async fn whoever_drives_an_agent_by_hand_goes_on_past_answers_that_do_not_come() {
    let world = stage("cli-weather").await;
    world.pod("a").await;
    let proxy = Proxy::start(world.client.clone()).await.unwrap();
    let kubeconfig = World::dir().join("cli-weather-proxy");
    std::fs::write(&kubeconfig, proxy.kubeconfig()).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let image = format!("--agent-image={AGENT_IMAGE}");
    let storm = async || {
        let spoilt = proxy.spoilt();
        proxy.set(Weather::Refusing(500));
        until("the weather is felt", async || proxy.spoilt() >= spoilt + 3).await;
    };
    let run = Running::start(&world, &["run", "pod/a", "--loss=10", "--duration=30s", "--direct", &image, &kubeconfig]).await;
    until("the agent is put in", async || world.agents("a").await.len() == 1).await;
    let agent = world.agents("a").await.remove(0);
    let entry = entry_of(&world, "a", &agent).await;
    world.set_applied(&entry).await;
    storm().await;
    ended(&world, &entry).await;
    let run = run.end().await;
    assert!(run.code == 0 && run.stderr.contains("trying again; the loss ends at"), "{run:?}");

    proxy.set(Weather::Fair);
    world.pod_with("b", json!({ "labels": { "app": "other" } }), json!({})).await;
    world.apply("x", spec(json!({ "selector": { "app": "other" } }))).await.unwrap();
    let entry = world.running("x", "b").await;
    let stop = Running::start(&world, &["stop", "x", "--direct", &kubeconfig]).await;
    let container = format!("{}-stop", entry.container);
    until("it is told to stop", async || world.agents("b").await.iter().any(|agent| agent.name == container)).await;
    storm().await;
    stopped(&world, &entry).await;
    let stop = stop.end().await;
    assert_eq!(stop.code, 0, "{stop:?}");
}

/// Whoever does not wait for the end has the agents told all the same.
#[tokio::test]
async fn a_stop_by_hand_that_is_not_waited_for_reaches_the_agents() {
    let world = stage("cli-no-wait").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = world.running("x", "a").await;
    let stop = netloss(&world, &["stop", "x", "--wait=false"]).await;
    assert!(stop.code == 0 && stop.stderr.contains("is down: no pod of it is ready"), "{stop:?}");
    let words = "cli-no-wait/x: its agents were told to stop with your own rights, and to be deleted when the controller is back\n";
    assert_eq!(stop.stdout, words);
    let told = world.agents("a").await.into_iter().find(|agent| agent.name == format!("{}-stop", entry.container)).unwrap();
    assert_eq!(told.args.unwrap()[0], "stop");
}

/// Three at night, and the controller is gone.
#[tokio::test]
async fn everything_can_be_stopped_with_the_controller_down() {
    let world = stage("cli-down").await;
    world.pod("a").await;
    let first = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = brought(&world, "x").await;
    first.signal(Signal::SIGKILL).unwrap();
    until("its lease is stale", async || {
        let checkup = netloss(&world, &["doctor", "-n", "cli-down", "-o", "json"]).await.json();
        findings(&checkup, "controller")[0]["verdict"] == "problem"
    })
    .await;
    let stop = Running::start(&world, &["stop", "--all", "-n", "cli-down"]).await;
    stopped(&world, &entry).await;
    let stop = stop.end().await;
    assert_eq!(stop.code, 0, "{stop:?}");
    assert!(stop.stderr.contains("down: controller has not renewed its lease"), "{stop:?}");
    let words =
        "cli-down/x: stopped with your own rights, and to be deleted when the controller is back: a (the loss is verified to be gone)\n";
    assert_eq!(stop.stdout, words);
    let left = world.experiments().get("x").await.unwrap();
    assert!(left.metadata.deletion_timestamp.is_some(), "it goes when the controller is back");

    // The controller finds what was done in its absence, and adds nothing.
    let second = controller(&world).await;
    until("it is gone", async || world.experiments().get_opt("x").await.unwrap().is_none()).await;
    assert_eq!(world.agents("a").await.len(), 2, "the agent and one that stopped it");

    // One that is not coming back leaves its finalizer, which can be taken away.
    world.pod_with("b", json!({ "labels": { "app": "other" } }), json!({})).await;
    world.apply("y", spec(json!({ "selector": { "app": "other" } }))).await.unwrap();
    let entry = brought(&world, "y").await;
    second.signal(Signal::SIGKILL).unwrap();
    until("its lease is stale", async || {
        let checkup = netloss(&world, &["doctor", "-n", "cli-down", "-o", "json"]).await.json();
        findings(&checkup, "controller")[0]["verdict"] == "problem"
    })
    .await;
    world.experiments().delete("y", &kube::api::DeleteParams::default()).await.unwrap();
    let fix = Running::start(&world, &["doctor", "--fix", "-n", "cli-down"]).await;
    stopped(&world, &entry).await;
    let fix = fix.end().await;
    assert!(fix.stdout.contains("cli-down/y: released: it is deleted now"), "{fix:?}");
    assert!(world.experiments().get_opt("y").await.unwrap().is_none());
}
