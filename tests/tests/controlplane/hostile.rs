//! What somebody in a target pod can say: the log and the termination message of the agent's container are written by a process in their
//! pod, and whoever has the right to may write them too.

use crate::cli::{controller, injected, netloss, stage, until};
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::events::v1::Event as EventObject;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use netloss_api::{ChaosExperimentHistory, Outcome, Phase, PodState, PodStatus};
use netloss_contract::{Event, ExitCode, Failed, Record, Stage};
use netloss_controller::metrics::Metrics;
use netloss_controller::reconcile::Context;
use netloss_core::machine::Settings;
use serde_json::{Value, json};
use std::sync::Arc;

/// Ends lines, clears a screen, sets a title, turns the direction of what follows, and looks like an entry of a log.
const EVIL: &str =
    "a\r\n{\"level\":\"INFO\",\"message\":\"all is well\"}\n\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}z\u{0}";

/// Whether a character does something instead of being shown.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn terminated(exit_code: i32, message: &str) -> Value {
    json!({ "terminated": { "exitCode": exit_code, "reason": "Error", "message": message } })
}

/// A final record that says what went wrong in these words.
fn failed(world: &World, run: &str, words: &str) -> Record {
    let left = vec![words.to_owned(); 3];
    let failed = Failed { stage: Stage::Remove, message: words.to_owned(), exit: ExitCode::Incomplete, left, holder: None };
    world.record(run, Event::Failed(failed))
}

/// Each text of it is on one line.
fn on_lines(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains(acts), "{text:?}"),
        Value::Array(values) => values.iter().for_each(on_lines),
        Value::Object(fields) => fields.values().for_each(on_lines),
        _ => {}
    }
}

/// The status as the API server has it: of a size that it always takes, and every text of it on one line.
async fn sound(world: &World, name: &str) {
    let status = serde_json::to_value(world.status(name).await).unwrap();
    let text = status.to_string();
    assert!(text.len() < 64 * 1024, "{} bytes", text.len());
    on_lines(&status);
    let events = Api::<EventObject>::namespaced(world.client.clone(), &world.namespace).list(&ListParams::default()).await.unwrap();
    for note in events.items.iter().filter_map(|event| event.note.as_deref()) {
        assert!(!note.contains(acts) && note.len() <= 1024, "{note:?}");
    }
}

/// The run's name is no secret to who can read the agent's command line. An agent ends as it reports, so a report that does not go with
/// how the kubelet saw it end is somebody else's: what is left is looked for.
#[tokio::test]
async fn a_good_end_of_an_agent_that_was_killed_is_not_believed() {
    let world = World::new("hostile-killed").await;
    world.pod("a").await;
    for (name, exit, report) in [
        ("removed", 137, world.removed("RUN")),
        ("removed-otherwise", 1, world.removed("RUN")),
        ("failed", 137, world.record("RUN", Event::Failed(Failed { left: Vec::new(), exit: ExitCode::Failed, ..plain_failure() }))),
        ("done", 0, world.record("RUN", Event::Failed(Failed { left: Vec::new(), exit: ExitCode::Done, ..plain_failure() }))),
    ] {
        let pod = format!("pod-{name}");
        world.pod_with(&pod, json!({ "labels": { "only": name } }), json!({})).await;
        world.apply(name, spec(json!({ "selector": { "only": name } }))).await.unwrap();
        world.pass(name, 0).await;
        let entry = world.status(name).await.pods[0].clone();
        let report = report.to_line().replace("RUN", &run_of(&entry));
        // While it runs, its end is nothing that a log can tell of.
        World::node().set_log(&entry, report.clone());
        world.set_state(&entry, json!({ "running": {} })).await;
        world.pass(name, 3).await;
        let status = world.status(name).await;
        assert_eq!((status.pods[0].state, status.pods[0].outcome), (PodState::Injected, None), "{name}");

        world.set_state(&entry, terminated(exit, &report)).await;
        world.pass(name, 40).await;
        let status = world.status(name).await;
        assert_eq!((status.pods[0].outcome, status.pods[0].observed), (None, None), "{name}: {status:?}");
        let sent = status.pods[0].repair.clone().unwrap_or_else(|| panic!("{name}: nobody looks: {status:?}"));
        assert!(status.message.unwrap().contains("the agent ended otherwise than its report says"), "{name}");
        world.agent(&pod, &sent.container).await;
    }
}

fn plain_failure() -> Failed {
    Failed { stage: Stage::Hold, message: "a failure".to_owned(), exit: ExitCode::Failed, left: Vec::new(), holder: None }
}

/// All pods of a run have its name: what one of them says is still its own affair.
#[tokio::test]
async fn what_a_pod_says_is_of_that_pod_alone() {
    let world = World::new("hostile-other").await;
    for pod in ["a", "b"] {
        world.pod(pod).await;
    }
    world.apply("x", spec(json!({ "count": 2 }))).await.unwrap();
    world.pass("x", 0).await;
    let of = async |pod: &str| world.status("x").await.pods.into_iter().find(|entry| entry.name == pod).unwrap();
    let (liar, other) = (of("a").await, of("b").await);
    world.set_state(&other, json!({ "running": {} })).await;
    World::node().set_log(&other, Vec::new());
    let says: Vec<String> = [run_of(&liar), "somebody-else/1".to_owned(), format!("{}1", run_of(&liar))]
        .iter()
        .flat_map(|run| [world.applied(run), world.removed(run), failed(&world, run, EVIL)].map(|record| record.to_line()))
        .collect();
    World::node().set_log(&liar, says.join("\n"));
    world.set_state(&liar, terminated(0, &says.join("\n"))).await;
    world.pass("x", 40).await;
    let after = of("b").await;
    assert_eq!((after.state, after.outcome, after.applied_at, after.observed), (PodState::Injected, None, None, None));
    sound(&world, "x").await;
}

/// A status that the API server refuses would never be written, and the run would never end.
#[tokio::test]
async fn whatever_a_report_counts_can_be_written_down() {
    let world = World::new("hostile-numbers").await;
    let metrics = Arc::new(Metrics::default());
    let most = u64::MAX.to_string();
    for (n, (field, forged)) in [
        ("\"packets\":1000", format!("\"packets\":{most}")),
        ("\"dropped\":98", format!("\"dropped\":{most}")),
        ("\"packets\":1000,\"dropped\":98", format!("\"packets\":{most},\"dropped\":{most}")),
        ("\"observedPercentage\":9.8", "\"observedPercentage\":1e308".to_owned()),
        ("\"observedPercentage\":9.8", "\"observedPercentage\":-1e308".to_owned()),
        ("\"elapsedSeconds\":30.0", "\"elapsedSeconds\":1e308".to_owned()),
        ("\"elapsedSeconds\":30.0", "\"elapsedSeconds\":-1e308".to_owned()),
        ("\"interface\":\"eth0\"", format!("\"interface\":{}", json!(EVIL.repeat(1000)))),
        ("\"appliedAt\"", "\"appliedAt\":\"-009999-01-02T01:59:59Z\",\"was\"".to_owned()),
        ("\"appliedAt\"", "\"appliedAt\":\"9999-12-30T00:00:00.999999999Z\",\"was\"".to_owned()),
        ("\"cause\":\"ttl\"", "\"cause\":\"sigquit\"".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("x{n}");
        world.pod_with(&name, json!({ "labels": { "only": name } }), json!({})).await;
        world.apply(&name, spec(json!({ "selector": { "only": name } }))).await.unwrap();
        let pass = async |seconds: i64| {
            let now = world.at(seconds);
            let context = Context::new(world.client.clone(), Settings::new(AGENT_IMAGE, "netloss-system"), Arc::new(move || now), None);
            world.pass_of(Arc::new(context.observed_by(Arc::clone(&metrics), Arc::default())), &name).await.unwrap();
        };
        pass(0).await;
        let entry = world.status(&name).await.pods[0].clone();
        let report = world.removed(&run_of(&entry)).to_line();
        assert!(report.contains(field), "{field} is not in {report}");
        world.set_state(&entry, json!({ "running": {} })).await;
        let applied = world.applied(&run_of(&entry)).to_line();
        World::node().set_log(&entry, applied.replacen(field, &forged, 1));
        pass(5).await;
        world.set_state(&entry, terminated(0, &report.replacen(field, &forged, 1))).await;
        pass(40).await;
        let status = world.status(&name).await;
        assert!(status.phase == Some(Phase::Completed) && status.pods[0].outcome.is_some(), "{forged}: {status:?}");
        sound(&world, &name).await;
    }
    let records =
        Api::<ChaosExperimentHistory>::namespaced(world.client.clone(), &world.namespace).list(&ListParams::default()).await.unwrap();
    assert_eq!(records.items.len(), 11, "each run is on record");

    // Nothing that a pod says becomes a label.
    let experiments: Vec<_> = world.experiments().list(&ListParams::default()).await.unwrap().items.into_iter().map(Arc::new).collect();
    metrics.set_experiments(Some(Box::new(move || experiments.clone())));
    let text = metrics.text(world.at(50)).unwrap();
    let labels = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('{')?.1.rsplit_once('}'))
        .map(|(labels, _)| labels);
    for (name, value) in labels.flat_map(|labels| labels.split(',')).filter_map(|label| label.split_once('=')) {
        let value = value.trim_matches('"');
        let known = match name {
            "namespace" => value == world.namespace,
            "experiment" => value.strip_prefix('x').is_some_and(|n| n.parse::<u8>().is_ok()),
            "action" => value == "pod-network-loss",
            "direction" => matches!(value, "egress" | "ingress"),
            "outcome" => matches!(value, "clean" | "shortened"),
            "status" => matches!(value, "success" | "partial"),
            "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
            _ => false,
        };
        assert!(known, "{name}={value}");
    }
}

/// A log and a termination message are read as far as they matter, whatever a kubelet hands out.
#[tokio::test]
async fn a_log_of_anything_is_read_within_its_limit() {
    let world = World::new("hostile-log").await;
    world.pod("a").await;
    let entry = world.injected("x").await;
    world.set_state(&entry, json!({ "running": {} })).await;
    let applied = world.applied(&run_of(&entry)).to_line();
    // It is not lost on bytes that are no text, or on a character that the limit cuts in two.
    let binary = [b"\xff\x00\xc3\n".as_slice(), applied.as_bytes(), b"\n\x80\n", "ü".repeat(16 * 1024).as_bytes()].concat();
    World::node().set_log(&entry, binary);
    world.pass("x", 4).await;
    assert_eq!(world.status("x").await.pods[0].state, PodState::Applied);

    let words = format!("{}{EVIL}", "ü".repeat(40 * 1024));
    let report = serde_json::to_string(&failed(&world, &run_of(&entry), &words)).unwrap();
    World::node().set_log(&entry, Vec::new());
    world.set_state(&entry, terminated(7, &report)).await;
    world.pass("x", 40).await;
    let status = world.status("x").await;
    assert!(status.pods[0].repair.is_some(), "{status:?}");
    sound(&world, "x").await;
    let garbage = "\u{0}\u{fffd}".repeat(20 * 1024);
    let sent = status.pods[0].repair.clone().unwrap();
    world.set_states("a", &[(entry.container.as_str(), terminated(7, &report)), (sent.container.as_str(), terminated(0, &garbage))]).await;
    world.pass("x", 50).await;
    assert_eq!(world.status("x").await.pods[0].outcome, Some(Outcome::Unknown));
    sound(&world, "x").await;
}

/// A kubelet that takes no notice of the limit that it is asked for.
#[tokio::test]
async fn a_giant_log_takes_no_memory() {
    let world = stage("hostile-giant").await;
    world.pod("a").await;
    let controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry = injected(&world, "x").await;
    let before = peak(controller.pid());
    let applied = world.applied(&run_of(&entry)).to_line();
    World::node().set_log(&entry, [applied.as_bytes(), b"\n", &b"\xffx".repeat(20 * 1024 * 1024)].concat());
    world.set_state(&entry, json!({ "running": {} })).await;
    until("it was read", async || world.status("x").await.phase == Some(Phase::Running)).await;
    let more = peak(controller.pid()) - before;
    World::node().set_log(&entry, Vec::new());
    assert!(more < 16 * 1024, "{more} KiB more");
}

/// The most memory that a process has had, in KiB.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a pod says comes to a person's terminal, and to the controller's log, as words.
#[tokio::test]
async fn what_a_pod_says_does_nothing_to_a_terminal() {
    let world = stage("hostile-words").await;
    world.pod("a").await;
    let controller = controller(&world).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let entry: PodStatus = injected(&world, "x").await;
    world.set_state(&entry, json!({ "waiting": { "reason": EVIL, "message": EVIL } })).await;
    until("that is told", async || world.message("x").await.contains("all is well")).await;
    shown(&world, &[&["status", "x", "-o", "wide"], &["explain", "x"]]).await;

    let report = failed(&world, &run_of(&entry), EVIL).to_line();
    world.set_state(&entry, terminated(7, &report)).await;
    until("what is left is looked for", async || world.status("x").await.pods[0].repair.is_some()).await;
    let sent = world.status("x").await.pods[0].repair.clone().unwrap();
    until("it is put in", async || world.agents("a").await.len() == 2).await;
    let ended = [(entry.container.as_str(), terminated(7, &report)), (sent.container.as_str(), terminated(7, &report))];
    world.set_states("a", &ended).await;
    until("the run ends", async || world.status("x").await.phase.is_some_and(Phase::is_final)).await;
    sound(&world, "x").await;
    let log = std::fs::read_to_string(World::dir().join(format!("{}-controller.log", world.namespace))).unwrap();
    for line in log.lines() {
        assert!(!line.contains(acts) && serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
    }
    assert!(!log.lines().any(|line| line.starts_with("{\"level\"")), "no entry is forged");
    drop(controller);

    // Nor does what somebody else has written into the status. What the pod said is still in it, and on record.
    let forged = json!({ "status": { "message": EVIL, "lastError": EVIL } });
    world.experiments().patch_status("x", &PatchParams::default(), &Patch::Merge(forged)).await.unwrap();
    shown(
        &world,
        &[
            &["status", "x"],
            &["status", "x", "-o", "wide"],
            &["status", "x", "-o", "json"],
            &["status", "x", "-o", "yaml"],
            &["status", "-o", "wide"],
            &["explain", "x"],
            &["history", "-o", "wide"],
            &["report", "x"],
            &["report", "x", "-o", "html"],
            &["doctor"],
            &["watch", "x", "--timeout", "1s"],
        ],
    )
    .await;
}

/// Whatever shows the experiment shows lines of its own.
async fn shown(world: &World, commands: &[&[&str]]) {
    for args in commands {
        let ended = netloss(world, args).await;
        assert!(!ended.stdout.is_empty(), "{args:?}: {ended:?}");
        for text in [&ended.stdout, &ended.stderr] {
            let at = text.find(|c: char| acts(c) && c != '\n');
            assert!(at.is_none(), "{args:?}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("{\"level\"")), "{args:?} shows a line that is not its own: {text}");
        }
    }
}
