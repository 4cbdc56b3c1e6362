//! How soon packets fare otherwise: after an experiment is applied, after it is deleted, after the agent is killed.

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use netloss_api::ChaosExperiment;
use netloss_controller::definitions;
use netloss_lab::cluster::Image;
use netloss_lab::host::process::Daemon;
use netloss_lab::host::{paths, ports, runtime};
use netloss_lab_measure::Comparison;
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::{BATCH, Field, LABEL, LIMIT, NAMESPACE, Target, next, unix_time};
use crate::machine::Machine;
use crate::{Report, Size, controller};

/// The API server's sum of what a webhook took, in seconds.
const WEBHOOK_SECONDS: &str = "apiserver_admission_webhook_admission_duration_seconds_sum{";

pub(crate) fn measure(size: Size) -> Result<Report> {
    let killed = Machine::prepare()?.measure("reaction", size.pick(100, 10), 1)?;
    let mut comparisons = killed.comparisons;
    comparisons.extend(runtime::run(on_node(size.pick(24, 2)))?);
    Ok(Report {
        name: "reaction".to_owned(),
        title: "Reaction".to_owned(),
        about: format!(
            "From SIGKILL of the agent to the first packet that arrives again, in a kernel guest, with a packet every half millisecond. Below, on \
             a node in a virtual machine, from `kubectl apply` to the first packet lost and from `kubectl delete` to the first that is not, by \
             stage, with a packet every 5 ms: the API server takes the object and asks the webhook; the controller sees it, plans, writes ahead, \
             asks the API server whether it admits the agent, and patches the pod; the kubelet sees the patch and asks containerd, which \
             creates the container and then starts it; the process begins, and works. API server and controller run beside the virtual machine, \
             whose node is emulated: the last three stages are mostly the emulator. What containerd does it dates itself, by the node's clock, \
             which is set against that of the machine before each sample. {BATCH} pods are on the node; each sample has one of its own."
        ),
        command: "tests/lab bench reaction".to_owned(),
        machine: format!("The guest: {}. The node: Debian 13 with containerd, emulated with 2 processors", killed.machine),
        comparisons,
    })
}

/// One way there, in seconds by this machine's clock: when it was asked for, when the API server had answered, when the container was in the
/// pod, when containerd created it, when it started it, when packets fared otherwise. And what the webhook took.
struct Passage {
    times: [f64; 6],
    webhook: f64,
}

const STAGES: [&str; 5] = ["API server and webhook", "controller", "kubelet", "container created", "started, and at work"];

async fn on_node(times: usize) -> Result<Vec<Comparison>> {
    let program = controller::build().await?;
    let field = Field::start(&[Image::Traffic, Image::Agent]).await?;
    let [applied, deleted] = field.cluster.check("bench-reaction", passages(&field, &program, times)).await?;
    Ok(vec![compare("from apply to the first packet lost", &applied), compare("from delete to the first clean packet", &deleted)])
}

/// Of apply and of delete so many.
async fn passages(field: &Field, program: &Path, times: usize) -> Result<[Vec<Passage>; 2]> {
    definitions::install(&field.client, true).await?;
    let _controller = start_controller(field, program).await?;
    let (mut applied, mut deleted) = (Vec::new(), Vec::new());
    let mut batch = 0;
    // The first batch shows the node what is to come.
    while applied.len() < times {
        let targets = field.targets(&format!("batch{batch}"), BATCH.min(times)).await?;
        for target in &targets {
            println!("{}", target.name);
            let [one, other] = there_and_back(field, target).await.with_context(|| target.name.clone())?;
            if batch > 0 {
                applied.push(one);
                deleted.push(other);
            }
        }
        field.remove_targets().await?;
        batch += 1;
    }
    Ok([applied, deleted])
}

fn compare(what: &str, passages: &[Passage]) -> Comparison {
    let milliseconds = |of: &dyn Fn(&Passage) -> f64| passages.iter().map(|passage| of(passage) * 1e3).collect::<Vec<_>>();
    let stages = STAGES.iter().enumerate().fold(Comparison::new(what, "ms"), |comparison, (number, name)| {
        comparison.variant(*name, milliseconds(&|passage| passage.times[number + 1] - passage.times[number]))
    });
    let all = stages.variant("all", milliseconds(&|passage| passage.times[5] - passage.times[0]));
    all.variant("the webhook, within the first", milliseconds(&|passage| passage.webhook))
}

/// Next to the API server, as managed control planes have it, so that the API server reaches its webhook.
async fn start_controller(field: &Field, program: &Path) -> Result<Daemon> {
    let control_plane = field.cluster.control_plane();
    let (pki, folder) = (control_plane.pki(), control_plane.dir().join("webhook"));
    let identity = pki.server("webhook", &[], &[Ipv4Addr::LOCALHOST])?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("tls.crt"), &identity.certificate)?;
    std::fs::write(folder.join("tls.key"), &identity.key)?;
    let address = format!("127.0.0.1:{}", ports::free()?);
    let arguments = [format!("--webhook-listen={address}"), format!("--webhook-certificate={}", folder.display())];
    let daemon = controller::start(program, control_plane, &arguments).await?;
    let text = std::fs::read_to_string(paths::workspace_root().join("config/webhook/webhook.yaml"))?;
    let mut configuration: ValidatingWebhookConfiguration = serde_saphyr::from_str(&text)?;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        webhook.client_config.service = None;
        webhook.client_config.url = Some(format!("https://{address}/validate"));
        webhook.client_config.ca_bundle = Some(ByteString(pki.ca().as_bytes().to_vec()));
    }
    Api::all(field.client.clone()).create(&PostParams::default(), &configuration).await?;
    Ok(daemon)
}

async fn there_and_back(field: &Field, target: &Target) -> Result<[Passage; 2]> {
    let experiments = Api::<ChaosExperiment>::namespaced(field.client.clone(), NAMESPACE);
    let experiment: ChaosExperiment = serde_json::from_value(json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": target.name },
        "spec": {
            "action": "pod-network-loss", "selector": { LABEL: target.name }, "duration": "10m", "lossPercentage": 100, "allowHighLoss": true,
        },
    }))?;
    field.watch(target).await?;
    let mut containers = field.containers(&target.name).await?;
    let mut passages = Vec::new();
    for applies in [true, false] {
        let (ahead, webhook, begun) = (field.clock_ahead().await?, webhook_seconds(field).await?, unix_time()?);
        if applies {
            experiments.create(&PostParams::default(), &experiment).await?;
        } else {
            experiments.delete(&target.name, &DeleteParams::default()).await?;
        }
        let answered = unix_time()?;
        let (patched, container) = next(&mut containers).await?;
        let fared = field.change(begun + ahead, !applies).await? - ahead;
        let kubelet = field.containerd().await?.begin(&container.name)?;
        let times = [begun, answered, patched, kubelet.created - ahead, kubelet.started - ahead, fared];
        passages.push(Passage { times, webhook: webhook_seconds(field).await? - webhook });
    }
    field.end_watch().await?;
    let limit = Instant::now() + LIMIT;
    while experiments.get_opt(&target.name).await?.is_some() {
        ensure!(Instant::now() < limit, "the experiment does not go");
        sleep(Duration::from_millis(200)).await;
    }
    passages.try_into().map_err(|_| anyhow!("there are two of them"))
}

async fn webhook_seconds(field: &Field) -> Result<f64> {
    let metrics = field.client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
    let sums = metrics.lines().filter(|line| line.starts_with(WEBHOOK_SECONDS) && line.contains("chaosexperiments.chaos.gushchin.dev"));
    sums.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).context("a sum that is no number")).sum()
}
