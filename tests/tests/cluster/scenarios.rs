//! What happens to pods, nodes and agents during a run, each in a namespace of its own: the loss ends, and status tells the truth.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus, Outcome, PREFLIGHT, Phase, PodState};
use netloss_controller::reconcile::Context as Controller;
use netloss_core::machine::Settings;
use netloss_lab::cluster::traffic::{create_namespace, wait_ready};
use netloss_lab::cluster::{Cluster, Image};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::controller::{self, CALM};
use crate::experiment::{self, pods_in, wait_for};

/// For whatever the emulated node is waited for.
const LIMIT: Duration = Duration::from_mins(6);

/// A whole run: on an emulated node that has much else to do, an agent may get too little of it, and then says so.
const WHOLE: [Outcome; 2] = [Outcome::Clean, Outcome::Degraded];

/// Where a scenario takes place.
pub(crate) struct Stage {
    pub(crate) cluster: &'static Cluster,
    client: Client,
    namespace: String,
}

impl Stage {
    async fn new(cluster: &'static Cluster, namespace: &str) -> Result<Self> {
        let client = cluster.client().await?;
        create_namespace(&client, namespace).await?;
        Ok(Self { cluster, client, namespace: namespace.to_owned() })
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn experiments(&self) -> Api<ChaosExperiment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A pod that is to be acted on, running `arguments` of the lab's program, with more of its container and of its spec.
    pub(crate) async fn create(&self, name: &str, arguments: &[&str], container: Value, spec: Value) -> Result<()> {
        let mut pod = json!({
            "metadata": { "name": name, "labels": { "app": "target" } },
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{ "name": "app", "image": Image::Traffic.reference(), "args": arguments }],
            },
        });
        extend(&mut pod["spec"]["containers"][0], container);
        extend(&mut pod["spec"], spec);
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        Ok(())
    }

    /// An idle pod.
    async fn target(&self, spec: Value) -> Result<()> {
        self.create("target", &["pause"], json!({}), spec).await?;
        wait_ready(&self.pods(), "target").await.map(drop)
    }

    /// Applies an experiment on these pods.
    async fn apply(&self, changes: Value) -> Result<()> {
        let mut spec = json!({ "selector": { "app": "target" }, "lossPercentage": 20, "duration": "1h", "maxRetries": 0 });
        extend(&mut spec, changes);
        experiment::apply(&self.client, &self.namespace, &spec).await
    }

    async fn until(&self, what: &str, is_so: impl Fn(&ChaosExperimentStatus) -> bool) -> Result<ChaosExperimentStatus> {
        wait_for(&self.client, &self.namespace, what, is_so).await
    }

    /// Applies an experiment and waits until its loss is in place.
    pub(crate) async fn lose(&self, changes: Value) -> Result<ChaosExperimentStatus> {
        self.apply(changes).await?;
        self.until("the loss", |status| pods_in(status, PodState::Applied) == 1).await
    }

    /// Waits for the end of the only pod's part.
    async fn ends(&self, outcomes: &[Outcome]) -> Result<ChaosExperimentStatus> {
        let status = self.until("its end", |status| status.phase.is_some_and(Phase::is_final)).await?;
        let outcome = status.pods.first().and_then(|pod| pod.outcome).context("no pod in status")?;
        ensure!(outcomes.contains(&outcome), "{outcome:?} is none of {outcomes:?}: {status:#?}");
        Ok(status)
    }

    /// Nothing of ours is in a pod's network.
    async fn is_clean(&self, pod: &str) -> Result<()> {
        let network = self.network(pod).await?;
        ensure!(!["netem", "ifb", "ingress", "clsact", "netloss"].iter().any(|word| network.contains(word)), "{pod}: {network}");
        Ok(())
    }

    async fn network(&self, pod: &str) -> Result<String> {
        let look = r#"sh -c "/usr/sbin/tc qdisc show; ip -brief link; nft list tables""#;
        self.cluster.node().run_in_pod_network(&self.namespace, pod, look).await
    }

    /// Sends a signal to the agents of this experiment's runs.
    async fn signal_agents(&self, signal: &str) -> Result<()> {
        let uid = self.experiments().get("loss").await?.uid().context("an experiment without a uid")?;
        let agents = self.cluster.node().for_each_agent(&uid, &format!("kill -{signal} $pid")).await?;
        ensure!(agents > 0, "no agent of {uid}");
        Ok(())
    }

    /// Deletes the experiment, which ends its loss, and waits until it is gone.
    pub(crate) async fn delete(&self) -> Result<()> {
        let uid = self.experiments().get("loss").await?.uid().context("an experiment without a uid")?;
        self.experiments().delete("loss", &DeleteParams::default()).await?;
        timeout(LIMIT, await_condition(self.experiments(), "loss", conditions::is_deleted(&uid))).await.context("it is still there")??;
        Ok(())
    }
}

fn extend(base: &mut Value, more: Value) {
    if let (Value::Object(base), Value::Object(more)) = (base, more) {
        base.extend(more);
    }
}

/// Runs a scenario in a namespace of its name, while nobody takes the controller or the kubelet away.
pub(crate) async fn play<T>(name: &str, scenario: impl AsyncFnOnce(&Stage) -> Result<T>) {
    let cluster = controller::cluster().await;
    let _calm = CALM.read().await;
    let test = async { scenario(&Stage::new(cluster, name).await?).await };
    cluster.check(name, test).await.unwrap();
}

#[tokio::test]
async fn a_deletion_takes_the_loss_away_first() {
    play("s-delete", async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({})).await?;
        stage.delete().await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_pause_takes_the_loss_away_and_its_end_brings_the_rest() {
    play("s-pause", async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({ "duration": "10m" })).await?;
        stage.apply(json!({ "duration": "10m", "paused": true })).await?;
        let paused = stage.until("the pause", |status| status.phase == Some(Phase::Paused)).await?;
        stage.is_clean("target").await?;
        ensure!(paused.pods[0].remaining.is_some(), "{paused:?}");
        stage.apply(json!({ "duration": "10m" })).await?;
        let again = |status: &ChaosExperimentStatus| status.attempt == Some(2) && pods_in(status, PodState::Applied) == 1;
        let resumed = stage.until("the rest", again).await?;
        ensure!(resumed.run == Some(1) && Some(&resumed.pods[0].asked.duration) == paused.pods[0].remaining.as_ref(), "{resumed:?}");
        stage.delete().await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_namespace_that_enforces_baseline_is_not_touched() {
    play("s-baseline", async |stage| {
        let label = Patch::Merge(json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "baseline" } } }));
        Api::<Namespace>::all(stage.client.clone()).patch(&stage.namespace, &PatchParams::default(), &label).await?;
        stage.target(json!({})).await?;
        stage.apply(json!({})).await?;
        let status = stage.ends(&[Outcome::Failed]).await?;
        let condition = status.condition(PREFLIGHT).context("no condition")?;
        ensure!(condition.status == "False" && condition.message.contains("violates PodSecurity"), "{condition:?}");
        let pod = stage.pods().get("target").await?;
        ensure!(pod.spec.is_some_and(|spec| spec.ephemeral_containers.is_none()), "an agent was put in");
        Ok(())
    })
    .await;
}

/// A pod of this spec gets its loss, and is as before.
async fn is_served(name: &str, spec: Value) {
    play(name, async |stage| {
        stage.target(spec.clone()).await?;
        stage.apply(json!({ "duration": "3s" })).await?;
        stage.ends(&WHOLE).await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_may_not_run_as_root_is_served() {
    is_served("s-nonroot", json!({ "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532 } })).await;
}

#[tokio::test]
async fn a_pod_with_one_process_namespace_is_served() {
    is_served("s-shared-pids", json!({ "shareProcessNamespace": true })).await;
}

#[tokio::test]
async fn an_app_that_crashes_in_a_loop_does_not_keep_the_loss() {
    play("s-crash-loop", async |stage| {
        stage.create("target", &["no-such-mode"], json!({}), json!({})).await?;
        let crashed = |pod: Option<&Pod>| {
            let statuses = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.container_statuses.as_ref());
            statuses.is_some_and(|statuses| statuses.iter().any(|status| status.restart_count > 0))
        };
        timeout(LIMIT, await_condition(stage.pods(), "target", crashed)).await.context("it does not crash")??;
        stage.apply(json!({ "duration": "3s" })).await?;
        stage.ends(&WHOLE).await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_has_ended() {
    play("s-pod-deleted", async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({})).await?;
        stage.pods().delete("target", &DeleteParams::default()).await?;
        let status = stage.ends(&[Outcome::PodEnded, Outcome::Shortened]).await?;
        ensure!(status.phase == Some(Phase::Completed), "{status:?}");
        Ok(())
    })
    .await;
}

/// The app ends when it is told to; nothing of ours keeps the pod from going, however patient it is.
#[tokio::test]
async fn an_agent_does_not_hold_up_a_patient_pod() {
    play("s-grace", async |stage| {
        stage.target(json!({ "terminationGracePeriodSeconds": 300 })).await?;
        stage.lose(json!({})).await?;
        let uid = stage.pods().get("target").await?.uid().context("a pod without a uid")?;
        let begin = Instant::now();
        stage.pods().delete("target", &DeleteParams::default()).await?;
        timeout(Duration::from_mins(2), await_condition(stage.pods(), "target", conditions::is_deleted(&uid)))
            .await
            .context("it is still there")??;
        println!("a pod with an agent in it and 300 s of grace was gone after {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_completes_ends_the_run() {
    play("s-job", async |stage| {
        let job: Job = serde_json::from_value(json!({
            "metadata": { "name": "job" },
            "spec": { "template": { "metadata": { "labels": { "app": "target" } }, "spec": {
                "restartPolicy": "Never",
                "containers": [{ "name": "app", "image": Image::Traffic.reference(), "args": ["idle", "--for=60s"] }],
            } } },
        }))?;
        let jobs: Api<Job> = Api::namespaced(stage.client.clone(), &stage.namespace);
        jobs.create(&PostParams::default(), &job).await?;
        let active = |job: Option<&Job>| job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.ready == Some(1));
        timeout(LIMIT, await_condition(jobs.clone(), "job", active)).await.context("its pod does not run")??;
        stage.lose(json!({})).await?;
        let status = stage.ends(&[Outcome::PodEnded, Outcome::Shortened]).await?;
        ensure!(status.phase == Some(Phase::Completed), "{status:?}");
        timeout(LIMIT, await_condition(jobs, "job", conditions::is_job_completed())).await.context("the job does not complete")??;
        Ok(())
    })
    .await;
}

/// The kernel, or the controller, ends what a killed agent cannot.
async fn a_killed_agent(name: &str, backend: &str) {
    play(name, async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({ "backend": backend })).await?;
        ensure!(stage.network("target").await?.contains("netem"), "there is no loss");
        stage.signal_agents("KILL").await?;
        let status = stage.ends(&[Outcome::Repaired]).await?;
        let message = status.pods[0].message.clone().unwrap_or_default();
        ensure!(message.contains("exit code 137") && message.contains("repaired: "), "{message}");
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_killed_agent_is_repaired_guarded() {
    a_killed_agent("s-killed-guarded", "guarded").await;
}

#[tokio::test]
async fn a_killed_agent_is_repaired_tc() {
    a_killed_agent("s-killed-tc", "tc").await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_noticed_and_repaired() {
    play("s-hung", async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({ "backend": "tc" })).await?;
        stage.signal_agents("STOP").await?;
        stage.ends(&[Outcome::Repaired]).await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_new_sandbox_is_without_loss() {
    play("s-sandbox", async |stage| {
        stage.target(json!({})).await?;
        stage.lose(json!({})).await?;
        stage.cluster.node().kill_sandbox(&stage.namespace, "target").await?;
        stage.ends(&[Outcome::SandboxRecreated, Outcome::Shortened, Outcome::Repaired]).await?;
        wait_ready(&stage.pods(), "target").await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn an_app_at_its_processor_limit_does_not_keep_the_loss() {
    play("s-cpu", async |stage| {
        let limit = json!({ "resources": { "limits": { "cpu": "100m" } } });
        stage.create("target", &["burn"], limit, json!({})).await?;
        wait_ready(&stage.pods(), "target").await?;
        stage.apply(json!({ "duration": "10s" })).await?;
        stage.ends(&WHOLE).await?;
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn an_app_at_its_memory_limit_does_not_keep_the_loss() {
    play("s-memory", async |stage| {
        let limit = json!({ "resources": { "limits": { "memory": "48Mi" } } });
        stage.create("target", &["hold", "--mebibytes=44"], limit, json!({})).await?;
        wait_ready(&stage.pods(), "target").await?;
        stage.apply(json!({ "duration": "5s" })).await?;
        // Whoever the kernel kills for it: what is said is true.
        let status = stage.until("its end", |status| status.phase.is_some_and(Phase::is_final)).await?;
        ensure!(status.pods[0].outcome != Some(Outcome::Unknown), "{status:#?}");
        stage.is_clean("target").await
    })
    .await;
}

#[tokio::test]
async fn a_kubelet_that_starts_again_ends_no_run() {
    let cluster = controller::cluster().await;
    let _alone = CALM.write().await;
    let test = async {
        let stage = Stage::new(cluster, "s-kubelet").await?;
        stage.target(json!({})).await?;
        stage.lose(json!({})).await?;
        cluster.node().run("busybox killall -KILL kubelet").await?;
        stage.delete().await?;
        stage.is_clean("target").await
    };
    cluster.check("s-kubelet", test).await.unwrap();
}

/// By a controller of its own, which knows an image that nobody has, and little patience.
#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_a_clear_failure() {
    let cluster = controller::cluster().await;
    let _alone = CALM.write().await;
    let test = async {
        let stage = Stage::new(cluster, "s-image").await?;
        stage.target(json!({})).await?;
        controller::scale(&stage.client, 0).await?;
        let settings = Settings {
            start_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            ..Settings::new("localhost/netloss-agent:nowhere", "netloss-system")
        };
        let own = Arc::new(Controller::new(stage.client.clone(), settings, Arc::new(jiff::Timestamp::now), None));
        let running = tokio::spawn({
            let client = stage.client.clone();
            async move { netloss_controller::run::run(client, own, &[], std::future::pending()).await }
        });
        let status = async {
            stage.apply(json!({ "duration": "5s" })).await?;
            stage.ends(&[Outcome::NeverStarted]).await
        };
        let status = status.await;
        running.abort();
        // Others need it, also after a failure.
        controller::scale(&stage.client, 1).await?;
        let status = status?;
        let message = status.pods[0].message.clone().unwrap_or_default();
        let says = ["ErrImagePull", "ImagePullBackOff"].iter().any(|reason| message.contains(reason));
        ensure!(status.phase == Some(Phase::Failed) && says, "{message}");
        stage.is_clean("target").await
    };
    cluster.check("s-image", test).await.unwrap();
}

/// NETLOSS_CONTROLLER_KILLS times, at points that NETLOSS_SEED chooses, through run after run.
#[tokio::test]
async fn a_controller_that_is_killed_forgets_nobody() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (kills, mut random) = (number("NETLOSS_CONTROLLER_KILLS", 3), number("NETLOSS_SEED", 1));
    let cluster = controller::cluster().await;
    let _alone = CALM.write().await;
    let test = async {
        let stage = Stage::new(cluster, "s-killed-controller").await?;
        stage.target(json!({})).await?;
        for kill in 0..kills {
            // Each edit is a run; its agent has 5 s to live.
            stage.apply(json!({ "duration": "5s", "lossPercentage": 10 + kill % 20 })).await?;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sleep(Duration::from_millis((random >> 33) % 9000)).await;
            controller::kill_and_replace(cluster, &stage.client).await?;
        }
        let generation = stage.experiments().get("loss").await?.metadata.generation;
        let is_over =
            |status: &ChaosExperimentStatus| status.observed_generation == generation && status.phase.is_some_and(Phase::is_final);
        let status = stage.until("the last run to be over", is_over).await?;
        ensure!(status.pods.iter().all(|pod| pod.outcome.is_some_and(|outcome| outcome != Outcome::Unknown)), "{status:#?}");
        let pod = stage.pods().get("target").await?;
        let agents = pod.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
        let runs = agents.iter().filter(|agent| agent.args.as_ref().is_some_and(|args| args[0] == "run"));
        let mut names: Vec<&str> = runs.map(|agent| agent.name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        ensure!(names.len() == count && count > 0, "{names:?}");
        let ended = pod.status.and_then(|status| status.ephemeral_container_statuses).unwrap_or_default();
        if let Some(open) = ended.iter().find(|status| status.state.as_ref().is_none_or(|state| state.terminated.is_none())) {
            bail!("{} has not ended", open.name);
        }
        println!("the controller was killed {kills} times over {count} agents; the last outcome is {:?}", status.pods[0].outcome);
        stage.is_clean("target").await
    };
    cluster.check("s-killed-controller", test).await.unwrap();
}
