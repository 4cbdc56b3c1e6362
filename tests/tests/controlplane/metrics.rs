//! Metrics, as a monitoring team scrapes them.

use crate::lifecycle::eventually;
use crate::pods::run_of;
use crate::world::{AGENT_IMAGE, World, spec};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::PostParams;
use netloss_controller::metrics::Metrics;
use netloss_controller::metrics::server::{Gate, serve};
use netloss_controller::reconcile::Context;
use netloss_core::machine::Settings;
use netloss_lab::host::needs::Needs;
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::TcpListener;

const NEEDS: Needs = Needs::new("prometheus", include_str!("prometheus.needs"));

/// A program of Debian's package.
pub(crate) fn of_prometheus(program: &str) -> PathBuf {
    NEEDS.unpacked(program, &format!("usr/bin/{program}")).unwrap()
}

/// A pass of a controller that counts here.
async fn pass(world: &World, metrics: &Arc<Metrics>, name: &str, seconds: i64) {
    let now = world.at(seconds);
    let context = Context::new(world.client.clone(), Settings::new(AGENT_IMAGE, "netloss-system"), Arc::new(move || now), None);
    world.pass_of(Arc::new(context.observed_by(Arc::clone(metrics), Arc::default())), name).await.unwrap();
}

#[tokio::test]
async fn a_run_is_counted_once() {
    let world = World::new("metrics-run").await;
    let metrics = Arc::new(Metrics::default());
    world.pod("a").await;
    world.pod_with("left", json!({ "labels": { "chaos.gushchin.dev/exclude": "true" } }), json!({})).await;
    world.apply("x", spec(json!({}))).await.unwrap();
    pass(&world, &metrics, "x", 0).await;
    let entry = world.status("x").await.pods[0].clone();
    world.set_applied(&entry).await;
    pass(&world, &metrics, "x", 6).await;
    let report = world.removed(&run_of(&entry)).to_line();
    world.set_state(&entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
    for seconds in [40, 41, 42] {
        pass(&world, &metrics, "x", seconds).await;
    }
    let text = metrics.text(world.at(43)).unwrap();
    let namespace = &world.namespace;
    for line in [
        format!("chaosexperiment_executions_total{{action=\"pod-network-loss\",namespace=\"{namespace}\",status=\"success\"}} 1"),
        format!("chaosexperiment_history_records_count{{experiment=\"x\",namespace=\"{namespace}\"}} 1"),
        format!(
            "chaosexperiment_safety_excluded_resources_total{{action=\"pod-network-loss\",namespace=\"{namespace}\",resource_type=\"pod\"}} 1"
        ),
        format!("netloss_pods_injected_total{{namespace=\"{namespace}\"}} 1"),
        format!("netloss_pod_outcomes_total{{namespace=\"{namespace}\",outcome=\"clean\"}} 1"),
        "netloss_injection_seconds_count 1".to_owned(),
        "netloss_cleanup_seconds_count 1".to_owned(),
    ] {
        assert!(text.lines().any(|there| there == line), "no {line} in:\n{text}");
    }
}

#[tokio::test]
async fn refusals_are_counted_by_their_safety() {
    let world = World::new("metrics-safety-prod").await;
    let metrics = Arc::new(Metrics::default());
    for name in ["a", "b", "c"] {
        world.pod(name).await;
    }
    world.apply("production", spec(json!({}))).await.unwrap();
    pass(&world, &metrics, "production", 0).await;
    world.apply("share", spec(json!({ "allowProduction": true, "count": 2, "maxPercentage": 50 }))).await.unwrap();
    pass(&world, &metrics, "share", 0).await;
    world.apply("dry", spec(json!({ "allowProduction": true, "dryRun": true }))).await.unwrap();
    pass(&world, &metrics, "dry", 0).await;
    let text = metrics.text(world.at(1)).unwrap();
    for name in ["production_blocks", "percentage_violations", "dryrun"] {
        let line = format!("chaosexperiment_safety_{name}_total{{action=\"pod-network-loss\",namespace=\"{}\"}} 1", world.namespace);
        assert!(text.lines().any(|there| there == line), "no {line} in:\n{text}");
    }
    let failed = "chaosexperiment_errors_total{action=\"pod-network-loss\",error_type=\"ValidationError\"";
    assert!(text.lines().any(|line| line.starts_with(failed)), "{text}");
}

/// What promtool says of what it is given.
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new(of_prometheus("promtool"));
    command.args(args).current_dir(workspace_root().join("config/prometheus"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !words.contains("error"), "promtool {args:?}: {words}");
}

#[tokio::test]
async fn alerts_are_raised_when_they_are_to_be() {
    promtool(&["check", "rules", "alerts.yaml"], "");
    promtool(&["test", "rules", "alerts_test.yaml"], "");
}

#[tokio::test]
async fn prometheus_scrapes_what_promtool_finds_well_formed() {
    let world = World::new("metrics-scraped").await;
    let metrics = Arc::new(Metrics::default());
    metrics.set_leader(true);
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    pass(&world, &metrics, "x", 0).await;
    let experiment = Arc::new(world.experiments().get("x").await.unwrap());
    metrics.set_experiments(Some(Box::new(move || vec![Arc::clone(&experiment)])));
    promtool(&["check", "metrics"], &metrics.text(world.at(1)).unwrap());

    let open = listen(&metrics, None).await;
    let closed = listen(&metrics, Some(Arc::new(Gate::new(world.client.clone())))).await;
    let (allowed, stranger) = (token(&world, "scraper", true).await, token(&world, "stranger", false).await);
    let (port, dir) = (ports::free().unwrap(), World::dir().join("prometheus"));
    std::fs::create_dir_all(&dir).unwrap();
    let job = |name: &str, target: u16, token: Option<&str>| {
        let mut job =
            json!({ "job_name": name, "scrape_interval": "1s", "static_configs": [{ "targets": [format!("127.0.0.1:{target}")] }] });
        if let Some(token) = token {
            job["authorization"] = json!({ "credentials": token });
        }
        job
    };
    let jobs = [
        job("open", open, None),
        job("allowed", closed, Some(&allowed)),
        job("stranger", closed, Some(&stranger)),
        job("forged", closed, Some("forged")),
        job("nobody", closed, None),
    ];
    std::fs::write(dir.join("prometheus.yml"), json!({ "scrape_configs": jobs }).to_string()).unwrap();
    let mut command = Command::new(of_prometheus("prometheus"));
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display())).arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Daemon::start("prometheus", &command, &dir.join("log"), Lifetime::WithLab).unwrap();

    let query = async |query: &str| -> Value {
        let url = format!("/api/v1/query?query={query}");
        let answer = netloss_lab::host::http::get(port, &url).await;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        serde_json::from_str::<Value>(&body).map(|answer| answer["data"]["result"].clone()).unwrap_or_default()
    };
    eventually("each job was scraped", async || query("up").await.as_array().is_some_and(|jobs| jobs.len() == 5)).await;
    eventually("who may read them reads them", async || {
        let leaders = query("netloss_leader").await;
        let jobs: Vec<&str> = leaders.as_array().into_iter().flatten().filter_map(|series| series["metric"]["job"].as_str()).collect();
        jobs.len() == 2 && jobs.contains(&"open") && jobs.contains(&"allowed")
    })
    .await;
    for (job, up) in [("open", "1"), ("allowed", "1"), ("stranger", "0"), ("forged", "0"), ("nobody", "0")] {
        let series = query("up").await;
        let value = series.as_array().unwrap().iter().find(|series| series["metric"]["job"] == job).unwrap()["value"][1].clone();
        assert_eq!(value, up, "{job}");
    }
    let asked = query("netloss_asked_loss_ratio").await;
    assert_eq!(asked[0]["value"][1], "0.1", "{asked}");
    assert_eq!(asked[0]["metric"]["exported_namespace"].as_str().or(asked[0]["metric"]["namespace"].as_str()), Some("metrics-scraped"));
}

/// Serves metrics on a port.
pub(crate) async fn listen(metrics: &Arc<Metrics>, gate: Option<Arc<Gate>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(listener, None, gate, Arc::clone(metrics), std::future::pending()));
    port
}

/// The token of a service account, which may read metrics or not.
async fn token(world: &World, name: &str, may: bool) -> String {
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), &world.namespace);
    let account = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    if may {
        let role = json!({ "metadata": { "name": world.namespace }, "rules": [{ "nonResourceURLs": ["/metrics"], "verbs": ["get"] }] });
        Api::<ClusterRole>::all(world.client.clone()).create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
        let binding = json!({
            "metadata": { "name": world.namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": world.namespace },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": world.namespace }],
        });
        let bindings = Api::<ClusterRoleBinding>::all(world.client.clone());
        bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    }
    let request = TokenRequest::default();
    accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap().status.unwrap().token
}
