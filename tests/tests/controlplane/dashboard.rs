//! The Grafana dashboard asks for nothing that a running controller does not have.

use crate::lifecycle::eventually;
use crate::metrics::{listen, of_prometheus};
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use netloss_contract::{Event, Heartbeat, PerDirection, Traffic};
use netloss_controller::client::{Limits, client};
use netloss_controller::metrics::Metrics;
use netloss_controller::reconcile::Context;
use netloss_core::{machine::Settings, refusal::RefusalReason};
use netloss_lab::host::http::get;
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::Arc;

/// Each panel's title and query, with what Grafana puts in for its variables.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(workspace_root().join("config/grafana/netloss.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$namespace", ".*").replace("$__rate_interval", "1m").replace("$__range", "1h");
            assert!(!query.contains('$'), "a variable that this test does not know: {query}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

/// A pass of a controller whose every request is counted.
async fn pass(world: &World, metrics: &Arc<Metrics>, name: &str, seconds: i64) {
    let (now, many) = (world.at(seconds), NonZeroU32::new(1000).unwrap());
    let client = client(world.config(), Limits { qps: many, burst: many, concurrent: 100 }, Arc::clone(metrics)).unwrap();
    let context = Context::new(client, Settings::new(AGENT_IMAGE, "netloss-system"), Arc::new(move || now), None);
    world.pass_of(Arc::new(context.observed_by(Arc::clone(metrics), Arc::default())), name).await.unwrap();
}

/// Everything that is counted has happened once: a run that has ended, one that failed, and one whose agent reports.
async fn eventful(world: &World, metrics: &Arc<Metrics>) {
    metrics.set_leader(true);
    metrics.pass_failed("server");
    for reason in [RefusalReason::Production, RefusalReason::TooLargeAShare] {
        metrics.refused(Some(reason), &world.namespace);
    }
    world.pod_with("left", json!({ "labels": { "chaos.gushchin.dev/exclude": "true" } }), json!({})).await;
    world.apply("none", spec(json!({ "selector": { "app": "nobody" } }))).await.unwrap();
    pass(world, metrics, "none", 0).await;
    world.apply("dry", spec(json!({ "dryRun": true, "selector": { "app": "ended" } }))).await.unwrap();
    let heartbeat = Heartbeat {
        elapsed_seconds: 10.0,
        remaining_seconds: 20.0,
        traffic: PerDirection { egress: Some(Traffic::new(100, 9, 10.0)), ingress: None },
        intact: true,
        kept: None,
        drift: Vec::new(),
        repaired: Vec::new(),
        lines_dropped: 0,
        warnings: vec![],
    };
    for name in ["ended", "reporting"] {
        world.pod_with(name, json!({ "labels": { "app": name } }), json!({})).await;
        world.apply(name, spec(json!({ "selector": { "app": name } }))).await.unwrap();
        pass(world, metrics, name, 0).await;
        let entry = world.status(name).await.pods[0].clone();
        let run = run_of(&entry);
        World::node().set_log(&entry, world.applied(&run).to_line());
        world.set_state(&entry, json!({ "running": {} })).await;
        pass(world, metrics, name, 6).await;
        if name == "ended" {
            let report = world.removed(&run).to_line();
            world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
        } else {
            World::node().set_log(&entry, world.record(&run, Event::Heartbeat(heartbeat.clone())).to_line());
        }
        pass(world, metrics, name, 10).await;
    }
    world.apply("left", spec(json!({}))).await.unwrap();
    for name in ["dry", "left"] {
        pass(world, metrics, name, 12).await;
    }
    let mut experiments = Vec::new();
    for name in ["none", "dry", "ended", "reporting", "left"] {
        experiments.push(Arc::new(world.experiments().get(name).await.unwrap()));
    }
    metrics.set_experiments(Some(Box::new(move || experiments.clone())));
}

#[tokio::test]
async fn each_query_of_the_dashboard_has_an_answer() {
    let world = World::new("dashboard").await;
    let metrics = Arc::new(Metrics::default());
    eventful(&world, &metrics).await;
    let (target, port) = (listen(&metrics, None).await, ports::free().unwrap());
    let dir = World::dir().join("dashboard");
    std::fs::create_dir_all(&dir).unwrap();
    let job = json!({ "job_name": "netloss", "scrape_interval": "1s", "static_configs": [{ "targets": [format!("127.0.0.1:{target}")] }] });
    std::fs::write(dir.join("prometheus.yml"), json!({ "scrape_configs": [job] }).to_string()).unwrap();
    let mut command = Command::new(of_prometheus("prometheus"));
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display())).arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Daemon::start("prometheus", &command, &dir.join("log"), Lifetime::WithLab).unwrap();

    let queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    for (panel, query) in queries {
        eventually(&format!("{panel}: an answer to {query}"), async || {
            let encoded = query.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
            let answer = get(port, &format!("/api/v1/query?query={encoded}")).await;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            assert_ne!(answer["status"], "error", "{panel}: {query}: {answer}");
            answer["data"]["result"].as_array().is_some_and(|series| !series.is_empty())
        })
        .await;
    }
}
