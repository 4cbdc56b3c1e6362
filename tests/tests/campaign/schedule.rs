//! One schedule: an experiment on fresh pods, one fault, and what has to hold afterwards.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EphemeralContainer, Namespace, Pod};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, TypeMeta};
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, Phase, PodState};
use netloss_lab::cluster::Image;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::field::{Field, LIMIT};
use crate::random::Random;

/// The guard's lease, and what an emulated node takes to look.
const LEASE: Duration = Duration::from_secs(10 + 5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not even a storm.
    Calm,
    Nothing,
    AgentKilled,
    AgentAborted,
    AgentStopped,
    /// By the freezer of its cgroup, until all is over.
    AgentFrozen,
    /// The same, for a while that may be shorter or longer than a lease.
    AgentFrozenAWhile,
    AgentOutOfMemory,
    AppKilled,
    AppCrashes,
    PodDeleted,
    SandboxKilled,
    ExperimentDeleted,
    ExperimentEdited,
    ExperimentPaused,
    SecondExperiment,
    NodeDiskFull,
    /// It can open nothing any more: no socket, no connection of who would stop it.
    AgentWithoutDescriptors,
    /// What received packets go through, and are counted by, is deleted by others.
    IfbDeleted,
    /// More clients at the agent's socket than it lets wait, which say nothing.
    SocketCrowded,
    /// Objects of k8s-chaos's other actions, records and plans that others made, beside it.
    ForeignObjects,
    /// Its status has entries of pods that it never had anything to do with.
    StatusForged,
    /// A pod that says that it is k8s-chaos's controller.
    TenantIsK8sChaos,
    /// Nothing with the agent's rights is admitted any more: nothing that stops or repairs it either.
    NamespaceRestricted,
}

const FAULTS: [Fault; 23] = [
    Fault::Nothing,
    Fault::AgentKilled,
    Fault::AgentAborted,
    Fault::AgentStopped,
    Fault::AgentFrozen,
    Fault::AgentFrozenAWhile,
    Fault::AgentOutOfMemory,
    Fault::AppKilled,
    Fault::AppCrashes,
    Fault::PodDeleted,
    Fault::SandboxKilled,
    Fault::ExperimentDeleted,
    Fault::ExperimentEdited,
    Fault::ExperimentPaused,
    Fault::SecondExperiment,
    Fault::NodeDiskFull,
    Fault::AgentWithoutDescriptors,
    Fault::IfbDeleted,
    Fault::SocketCrowded,
    Fault::ForeignObjects,
    Fault::StatusForged,
    Fault::TenantIsK8sChaos,
    Fault::NamespaceRestricted,
];

impl Fault {
    /// Whether it strikes the processes of agents, and so needs one.
    fn is_for_agents(self) -> bool {
        matches!(
            self,
            Self::AgentKilled
                | Self::AgentAborted
                | Self::AgentStopped
                | Self::AgentFrozen
                | Self::AgentFrozenAWhile
                | Self::AgentOutOfMemory
                | Self::AgentWithoutDescriptors
                | Self::IfbDeleted
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is played.
#[derive(Debug)]
pub(crate) struct Schedule {
    number: u64,
    pods: u64,
    seconds: u64,
    backend: &'static str,
    pub(crate) fault: Fault,
    /// Whether the fault waits for the loss, or may come before it.
    waits: bool,
    /// How long it waits more.
    after: Duration,
    /// How long an agent is frozen.
    asleep: Duration,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, pods, seconds, backend, fault, waits, after, .. } = self;
        let since = if *waits { "after the loss" } else { "after it was applied" };
        write!(f, "#{number} {fault} {} ms {since}, {pods} pod(s), {seconds} s, {backend}", after.as_millis())
    }
}

impl Schedule {
    pub(crate) fn draw(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number);
        // By turns, whatever the number of schedules is; which come first is the seed's.
        let fault = FAULTS[usize::try_from(seed.wrapping_mul(7).wrapping_add(number)).unwrap() % FAULTS.len()];
        // An emulated node takes seconds to find an agent, which is to be there by then.
        let slowness = if fault.is_for_agents() { 25 } else { 0 };
        let (seconds, waits) = (random.within(5..25) + slowness, random.within(0..3) > 0);
        Self {
            number,
            pods: random.within(1..3),
            seconds,
            backend: random.one_of(&["guarded", "guarded", "tc"]),
            fault,
            waits,
            after: Duration::from_millis(random.within(0..if waits { (seconds - slowness) * 1000 } else { 8000 })),
            asleep: Duration::from_millis(random.within(500..20_000)),
        }
    }

    /// The one that is played before the storm: whoever finds no loss afterwards has to be able to find one.
    pub(crate) fn calm() -> Self {
        Self {
            number: 0,
            pods: 2,
            seconds: 30,
            backend: "guarded",
            fault: Fault::Calm,
            waits: true,
            after: Duration::ZERO,
            asleep: Duration::ZERO,
        }
    }

    /// Whether its fault needs an agent to strike.
    pub(crate) fn strikes_agents(&self) -> bool {
        self.fault.is_for_agents()
    }

    fn label(&self) -> String {
        if self.fault == Fault::Calm { "calm".to_owned() } else { format!("s{}", self.number) }
    }

    /// Plays it in a lane, and returns what became of the pods.
    pub(crate) async fn play(&self, field: &Field, lane: usize) -> Result<String> {
        let stage = Stage { field, namespace: field.lane(lane).await?, label: self.label() };
        for number in 0..self.pods {
            stage.create(number, self.fault == Fault::AppCrashes).await?;
        }
        stage.apply(&self.label(), &self.spec(json!({}))).await?;
        if self.waits {
            stage.wait_for_loss().await?;
        }
        sleep(self.after).await;
        self.strike(&stage).await?;
        let experiments = self.settle(&stage).await?;
        let said = self.judge(&stage, &experiments).await?;
        match self.fault {
            Fault::ForeignObjects => stage.foreign_objects(false).await?,
            Fault::NamespaceRestricted => stage.enforce(None).await?,
            _ => {}
        }
        stage.sweep().await?;
        Ok(said)
    }

    fn spec(&self, changes: Value) -> Value {
        let mut spec = json!({
            "action": "pod-network-loss", "selector": { "schedule": self.label() }, "count": self.pods, "duration": format!("{}s", self.seconds),
            "lossPercentage": 40, "backend": self.backend, "maxRetries": 0,
        });
        if let (Value::Object(fields), Value::Object(changes)) = (&mut spec, changes) {
            fields.extend(changes);
        }
        spec
    }

    async fn strike(&self, stage: &Stage<'_>) -> Result<()> {
        let name = self.label();
        match self.fault {
            Fault::Nothing | Fault::AppCrashes => {}
            Fault::Calm => {
                ensure!(stage.loses_nothing("").await.is_err(), "no loss is seen while there is some");
                stage.each_agent("true").await?;
                ensure!(stage.field.strikes() > 0, "no agent is found while there is one: no fault would strike any");
            }
            Fault::AgentKilled => stage.each_agent("kill -KILL $pid").await?,
            Fault::AgentAborted => stage.each_agent("kill -ABRT $pid").await?,
            Fault::AgentStopped => stage.each_agent("kill -STOP $pid").await?,
            Fault::AgentFrozen => stage.each_agent(&freezer(1)).await?,
            Fault::AgentFrozenAWhile => {
                stage.each_agent(&freezer(1)).await?;
                sleep(self.asleep).await;
                stage.each_agent(&freezer(0)).await?;
            }
            // Less than it has, and nothing that it could give back.
            Fault::AgentOutOfMemory => {
                stage.each_agent("group=$(sed -n 's/^0:://p' /proc/$pid/cgroup); echo 4096 >/sys/fs/cgroup$group/memory.max").await?;
            }
            Fault::AppKilled => {
                let script = r#"sh -c 'own=$(readlink /proc/self/ns/net)
                    for folder in /proc/[0-9]*; do
                        [ "$(readlink $folder/ns/net)" = "$own" ] && case $(readlink $folder/exe) in */traffic) kill -KILL ${folder#/proc/} ;; esac
                    done; true'"#;
                // It may have gone with its node.
                drop(stage.field.in_pod(&stage.namespace, &stage.pod(0), script).await);
            }
            Fault::PodDeleted => insist(async || stage.pods().delete(&stage.pod(0), &DeleteParams::default()).await.map(drop)).await?,
            Fault::SandboxKilled => {
                // It may be on its way to another one.
                drop(stage.field.node.kill_sandbox(&stage.namespace, &stage.pod(0)).await);
            }
            Fault::ExperimentDeleted => {
                insist(async || stage.experiments().delete(&name, &DeleteParams::default()).await.map(drop)).await?;
            }
            Fault::ExperimentEdited => stage.apply(&name, &self.spec(json!({ "lossPercentage": 30 }))).await?,
            Fault::ExperimentPaused => {
                stage.apply(&name, &self.spec(json!({ "paused": true }))).await?;
                sleep(self.after).await;
                stage.apply(&name, &self.spec(json!({ "paused": false }))).await?;
            }
            Fault::SecondExperiment => stage.apply(&format!("{name}-again"), &self.spec(json!({}))).await?,
            Fault::NodeDiskFull => {
                let fill = "busybox dd if=/dev/zero of=/var/fill bs=1M 2>/dev/null; sleep 4; rm -f /var/fill";
                stage.field.node.run_within(fill, Duration::from_mins(2)).await?;
            }
            Fault::AgentWithoutDescriptors => stage.each_agent("prlimit --pid $pid --nofile=0:0").await?,
            Fault::IfbDeleted => stage.each_agent("nsenter --target $pid --net ip link delete nl-in").await?,
            Fault::SocketCrowded => {
                let script = r#"sh -c 'own=$(readlink /proc/self/ns/net)
                    for folder in /proc/[0-9]*; do
                        [ "$(readlink $folder/ns/net)" = "$own" ] && case $(readlink $folder/exe) in
                            */traffic) setsid $folder/exe crowd --name=netloss-agent --for=20s >/dev/null 2>&1 </dev/null & break ;;
                        esac
                    done; true'"#;
                drop(stage.field.in_pod(&stage.namespace, &stage.pod(0), script).await);
            }
            Fault::ForeignObjects => stage.foreign_objects(true).await?,
            Fault::StatusForged => stage.forge_status().await?,
            Fault::TenantIsK8sChaos => {
                let label = Patch::Merge(json!({ "metadata": { "labels": { "app.kubernetes.io/name": "k8s-chaos" } } }));
                insist(async || stage.pods().patch(&stage.pod(0), &PatchParams::default(), &label).await.map(drop)).await?;
            }
            Fault::NamespaceRestricted => stage.enforce(Some("restricted")).await?,
        }
        Ok(())
    }

    /// Runs that there may be of this schedule's experiments in one pod.
    fn runs(&self) -> usize {
        match self.fault {
            Fault::ExperimentEdited | Fault::ExperimentPaused | Fault::SecondExperiment => 2,
            _ => 1,
        }
    }

    /// Whether the kernel ends the loss by itself, whatever happens to the agent.
    fn is_bounded(&self) -> bool {
        // The agent itself puts back an ifb that others deleted.
        let agent_is_hurt = self.fault == Fault::NodeDiskFull || self.fault.is_for_agents() && self.fault != Fault::IfbDeleted;
        self.backend == "guarded" || !agent_is_hurt
    }

    /// Waits until everything is over, and looks meanwhile whether the loss is, once it has to be.
    async fn settle(&self, stage: &Stage<'_>) -> Result<Vec<ChaosExperiment>> {
        let limit = Instant::now() + LIMIT;
        let mut looked = !self.is_bounded();
        loop {
            let experiments = insist(async || stage.experiments().list(&ListParams::default()).await.map(|list| list.items)).await?;
            let own: Vec<_> = experiments.into_iter().filter(|experiment| stage.is_ours(&experiment.name_any())).collect();
            if own.iter().all(is_over) {
                return Ok(own);
            }
            let deadlines = own.iter().filter_map(|experiment| experiment.status.as_ref()).flat_map(|status| &status.pods);
            let last = deadlines.filter(|pod| pod.name.starts_with(&stage.label)).map(|pod| pod.deadline.0).max();
            if !looked && last.is_some_and(|last| Timestamp::now() > last + LEASE) {
                stage.loses_nothing("past deadline and lease").await?;
                looked = true;
            }
            if Instant::now() > limit {
                let states: Vec<_> = own.iter().map(|experiment| (experiment.name_any(), experiment.status.clone())).collect();
                bail!("not over after {} s: {states:#?}", LIMIT.as_secs());
            }
            sleep(Duration::from_millis(700)).await;
        }
    }

    /// What has to hold when it is over.
    async fn judge(&self, stage: &Stage<'_>, experiments: &[ChaosExperiment]) -> Result<String> {
        stage.loses_nothing("when status says that it is over").await?;
        // One that is woken up long after its end does not begin again.
        let wake = match self.fault {
            Fault::AgentStopped => Some("kill -CONT $pid".to_owned()),
            Fault::AgentFrozen => Some(freezer(0)),
            _ => None,
        };
        if let Some(wake) = wake {
            stage.each_agent(&wake).await?;
            stage.wait_for_agents().await?;
            stage.loses_nothing("after its agents woke up").await?;
        }
        // A node that was away for long may start an agent whose run is over: it finds its deadline passed, and ends.
        stage.wait_for_agents().await?;
        let histories = Api::<ChaosExperimentHistory>::namespaced(stage.field.client.clone(), &stage.namespace);
        let records = insist(async || histories.list(&ListParams::default()).await.map(|list| list.items)).await?;
        let mut outcomes = Vec::new();
        for experiment in experiments {
            for entry in experiment.status.iter().flat_map(|status| &status.pods) {
                outcomes.push(entry.outcome.with_context(|| format!("{} has no outcome: {entry:?}", entry.name))?);
            }
        }
        for pod in stage.own_pods().await? {
            let name = pod.name_any();
            let agents = pod.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
            let runs: Vec<&str> = agents.iter().filter_map(run_of).collect();
            let mut different = runs.clone();
            different.sort_unstable();
            different.dedup();
            // What a pause has left of a run is that run's second attempt.
            let is_once = different.len() == runs.len() || self.fault == Fault::ExperimentPaused;
            ensure!(is_once && runs.len() <= self.runs(), "{name} was injected twice: {runs:?}");
            let in_status = experiments.iter().filter_map(|experiment| experiment.status.as_ref()).flat_map(|status| &status.pods);
            let is_known = in_status.into_iter().any(|entry| entry.name == name)
                || records.iter().any(|record| record.spec.pods.iter().any(|entry| entry.name == name && entry.outcome.is_some()));
            ensure!(runs.is_empty() || is_known, "{name} has had an agent, and neither status nor a record knows of it");
            for status in pod.status.and_then(|status| status.ephemeral_container_statuses).unwrap_or_default() {
                // One that containerd was killed under may wait to be started for ever.
                let found = status.state.unwrap_or_default();
                ensure!(found.running.is_none(), "{name}: {} works on", status.name);
                let aborted = found.terminated.is_some_and(|ended| ended.exit_code == 134 || ended.exit_code == 101);
                ensure!(!aborted || self.fault == Fault::AgentAborted, "{name}: {} has panicked", status.name);
            }
        }
        Ok(format!("{outcomes:?}"))
    }
}

/// Freezes (1) or thaws (0) the cgroup of an agent's container.
fn freezer(state: u8) -> String {
    format!("group=$(sed -n 's/^0:://p' /proc/$pid/cgroup); echo {state} >/sys/fs/cgroup$group/cgroup.freeze")
}

fn is_over(experiment: &ChaosExperiment) -> bool {
    let Some(status) = &experiment.status else { return false };
    status.observed_generation == experiment.metadata.generation
        && status.phase.is_some_and(Phase::is_final)
        && experiment.finalizers().is_empty()
        && experiment.metadata.deletion_timestamp.is_none()
}

/// The run that an agent is of; none of one that only stops or cleans up.
fn run_of(agent: &EphemeralContainer) -> Option<&str> {
    let arguments = agent.args.as_ref().filter(|arguments| arguments.first().is_some_and(|first| first == "run"))?;
    arguments.iter().find_map(|argument| argument.strip_prefix("--run="))
}

/// Asks an API server that may be away until it answers; that something is gone is an answer.
async fn insist<T: Default>(ask: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T> {
    let limit = Instant::now() + LIMIT;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(T::default()),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => return Err(kube::Error::Api(status).into()),
            Err(error) if Instant::now() > limit => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(500)).await,
        }
    }
}

/// The pods and experiments of a schedule.
struct Stage<'a> {
    field: &'a Field,
    namespace: String,
    label: String,
}

impl Stage<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.field.client.clone(), &self.namespace)
    }

    fn experiments(&self) -> Api<ChaosExperiment> {
        Api::namespaced(self.field.client.clone(), &self.namespace)
    }

    fn pod(&self, number: u64) -> String {
        format!("{}-{number}", self.label)
    }

    fn is_ours(&self, experiment: &str) -> bool {
        experiment == self.label || experiment.strip_suffix("-again") == Some(&self.label)
    }

    async fn create(&self, number: u64, crashes: bool) -> Result<()> {
        let name = self.pod(number);
        let arguments = if crashes { "no-such-mode" } else { "pause" };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "schedule": self.label } },
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{ "name": "app", "image": Image::Traffic.reference(), "args": [arguments] }],
            },
        }))?;
        let limit = Instant::now() + LIMIT;
        loop {
            let found = insist(async || self.pods().get_opt(&name).await).await?;
            // Not there at first, and not any more where its node was deleted.
            if found.is_none() {
                insist(async || match self.pods().create(&PostParams::default(), &pod).await {
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                    other => other.map(drop),
                })
                .await?;
            }
            let statuses = found.and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
            if statuses.iter().any(|status| status.ready || (crashes && status.restart_count > 0)) {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "{name} does not come up: {statuses:?}");
            sleep(Duration::from_millis(700)).await;
        }
    }

    async fn apply(&self, name: &str, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name }, "spec": spec,
        });
        let parameters = PatchParams::apply("campaign").force();
        insist(async || self.experiments().patch(name, &parameters, &Patch::Apply(&object)).await.map(drop)).await
    }

    /// Waits until the loss is in one of the pods, or it is over.
    async fn wait_for_loss(&self) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        while Instant::now() < limit {
            let experiment = insist(async || self.experiments().get_opt(&self.label).await).await?;
            let pods = experiment.and_then(|experiment| experiment.status).map(|status| status.pods).unwrap_or_default();
            if pods.iter().any(|pod| pod.state >= PodState::Applied) {
                return Ok(());
            }
            sleep(Duration::from_millis(300)).await;
        }
        bail!("no loss after {} s", LIMIT.as_secs())
    }

    async fn own_pods(&self) -> Result<Vec<Pod>> {
        let labelled = ListParams::default().labels(&format!("schedule={}", self.label));
        insist(async || self.pods().list(&labelled).await.map(|list| list.items)).await
    }

    /// Runs a script for each agent of the experiment, `$pid` being its process. There may be none, or none any more.
    async fn each_agent(&self, script: &str) -> Result<()> {
        let Some(experiment) = insist(async || self.experiments().get_opt(&self.label).await).await? else { return Ok(()) };
        let uid = experiment.uid().context("an experiment without a uid")?;
        let agents = self.field.node.for_each_agent(&uid, script).await?;
        println!("{}: the fault struck {agents} agent(s)", self.label);
        self.field.struck(agents);
        Ok(())
    }

    /// Waits until no agent runs any more.
    async fn wait_for_agents(&self) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        loop {
            let statuses = self.own_pods().await?.into_iter().filter_map(|pod| pod.status?.ephemeral_container_statuses).flatten();
            let running: Vec<_> = statuses.filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some())).collect();
            if running.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < limit, "agents do not end: {running:?}");
            sleep(Duration::from_millis(700)).await;
        }
    }

    /// Packets of the pods that are there reach the node and come back, each of them.
    async fn loses_nothing(&self, when: &str) -> Result<()> {
        for pod in self.own_pods().await? {
            let name = pod.name_any();
            let is_there =
                pod.metadata.deletion_timestamp.is_none() && pod.status.is_some_and(|status| status.phase.as_deref() == Some("Running"));
            if !is_there {
                continue;
            }
            // At 40 % in each direction, thirty of them would all arrive once in ten million times.
            let ping = r#"sh -c 'busybox ping -q -c 30 -i 0.05 -W 5 $(ip route | sed -n "s/^default via \([^ ]*\).*/\1/p")'"#;
            let said = match self.field.in_pod(&self.namespace, &name, ping).await {
                Err(_) if insist(async || self.pods().get_opt(&name).await).await?.and_then(|now| now.uid()) != pod.metadata.uid => {
                    continue;
                }
                said => said?,
            };
            ensure!(said.contains(" 0% packet loss"), "{name} loses packets {when}: {said}");
        }
        Ok(())
    }

    /// Makes what others may have in the namespace beside the experiment, or takes it away.
    async fn foreign_objects(&self, are_there: bool) -> Result<()> {
        let name = format!("foreign-{}", self.label);
        let spec = |action: &str| json!({ "action": action, "selector": { "schedule": self.label }, "duration": "10m", "count": 1 });
        let entry = json!({
            "namespace": self.namespace, "name": self.pod(0), "uid": "made-up", "container": "network-loss-made-up-r1-a1", "image": "none", "argv": ["run"],
            "deadline": "2020-01-01T00:00:00Z", "attempt": 1, "state": "ended", "outcome": "unknown",
            "asked": { "lossPercentage": 10.0, "correlation": 0.0, "direction": "both", "duration": "1s" },
        });
        let of_other_actions = ["pod-kill", "pod-cpu-stress", "pod-network-corruption"]
            .map(|action| json!({ "kind": "ChaosExperiment", "metadata": { "name": format!("{name}-{action}") }, "spec": spec(action) }));
        let record = json!({
            "kind": "ChaosExperimentHistory",
            "metadata": { "name": name, "labels": { "chaos.gushchin.dev/loss-may-remain": "true", "chaos.gushchin.dev/experiment-uid": "made-up" } },
            "spec": {
                "experimentRef": { "name": self.label, "namespace": self.namespace, "uid": "made-up" }, "experimentSpec": spec("pod-network-loss"),
                "execution": { "startTime": "2020-01-01T00:00:00Z", "status": "success", "run": 1 }, "audit": {}, "pods": [entry],
            },
        });
        for object in of_other_actions.into_iter().chain([record]) {
            let (kind, name) = (object["kind"].as_str().unwrap_or_default().to_owned(), object["metadata"]["name"].clone());
            let mut object: DynamicObject = serde_json::from_value(object)?;
            object.types = Some(TypeMeta { api_version: "chaos.gushchin.dev/v1alpha1".to_owned(), kind: kind.clone() });
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("chaos.gushchin.dev", "v1alpha1", &kind));
            let resource = if kind == "ChaosExperimentHistory" {
                ApiResource { plural: "chaosexperimenthistories".to_owned(), ..resource }
            } else {
                resource
            };
            let api: Api<DynamicObject> = Api::namespaced_with(self.field.client.clone(), &self.namespace, &resource);
            let name = name.as_str().unwrap_or_default();
            if are_there {
                let parameters = PatchParams::apply("campaign").force();
                insist(async || api.patch(name, &parameters, &Patch::Apply(&object)).await.map(drop)).await?;
            } else {
                insist(async || api.delete(name, &DeleteParams::default()).await.map(drop)).await?;
            }
        }
        Ok(())
    }

    /// Adds entries to the experiment's status, as somebody may who can write it: of pods that are none of its own.
    async fn forge_status(&self) -> Result<()> {
        let Some(object) = insist(async || self.experiments().get_opt(&self.label).await).await? else { return Ok(()) };
        let mut pods = serde_json::to_value(object.status.map(|status| status.pods).unwrap_or_default())?;
        let made_up = |name: &str, namespace: &str, state: &str| {
            json!({
                "namespace": namespace, "name": name, "uid": format!("made-up-{name}"), "container": "network-loss-made-up-r1-a1", "image": "none",
                "argv": ["run", "--loss=100"], "deadline": "2030-01-01T00:00:00Z", "attempt": 1, "state": state,
                "asked": { "lossPercentage": 100.0, "correlation": 0.0, "direction": "both", "duration": "1h" },
            })
        };
        let entries = pods.as_array_mut().context("a list of pods")?;
        if entries.is_empty() {
            return Ok(());
        }
        entries.extend([made_up("nobody", &self.namespace, "planned"), made_up("kube-dns", "kube-system", "injected")]);
        let patch = Patch::Merge(json!({ "status": { "pods": pods } }));
        insist(async || self.experiments().patch_status(&self.label, &PatchParams::default(), &patch).await.map(drop)).await
    }

    /// Has the namespace enforce a Pod Security standard, or none.
    async fn enforce(&self, level: Option<&str>) -> Result<()> {
        let label = Patch::Merge(json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } }));
        let namespaces = Api::<Namespace>::all(self.field.client.clone());
        insist(async || namespaces.patch(&self.namespace, &PatchParams::default(), &label).await.map(drop)).await
    }

    async fn sweep(&self) -> Result<()> {
        for name in [self.label.clone(), format!("{}-again", self.label)] {
            insist(async || self.experiments().delete(&name, &DeleteParams::default()).await.map(drop)).await?;
        }
        for pod in self.own_pods().await? {
            let now = DeleteParams::default().grace_period(0);
            insist(async || self.pods().delete(&pod.name_any(), &now).await.map(drop)).await?;
        }
        Ok(())
    }
}
