//! `explain`: why it is as it is, and the next step.

use super::{
    connect::{Cluster, Flags},
    error::Error,
    output::{OutputArgs, document, print},
    presence::{self, Presence},
    preview,
    view::{Seen, outcome_word, span},
};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use netloss_api::{
    AS_REQUESTED, ChaosExperiment, ChaosExperimentStatus, FailureReason, Outcome, PREFLIGHT, Phase, PodState, PodStatus, RUN_REQUESTED,
    RunResult,
};
use netloss_contract::LossVerdict;
use netloss_core::{
    ephemeral,
    history::{failure_reason, result},
    sanitize::brief,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Say why an experiment is pending, failed or whatever it is, and what to do next
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Name of the experiment
    name: String,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is known beside the experiment.
struct Facts {
    flags: Flags,
    presence: Presence,
    freeze: Option<String>,
    /// Why an agent's container has not started, by the pod's uid.
    waiting: BTreeMap<String, String>,
}

/// Why, and what to do.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    /// Why it is as it is.
    why: Vec<String>,
    /// What to do next, if anything.
    next: Vec<String>,
    #[serde(skip)]
    flags: Flags,
}

impl Explanation {
    fn why(&mut self, sentence: impl Into<String>) {
        self.why.push(sentence.into());
    }

    /// A command for somebody to type, for the cluster of the experiment.
    fn command(&self, words: &str) -> String {
        self.flags.command(words)
    }

    fn next(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.next.contains(&sentence) {
            self.next.push(sentence);
        }
    }
}

pub(super) async fn run(args: ExplainArgs, cluster: &Cluster) -> Result<(), Error> {
    let object = cluster.experiment(&args.name).await?;
    let now = Timestamp::now();
    let (presence, freeze, waiting) = futures::join!(presence::look(cluster), preview::freeze(cluster), waiting(cluster, &object));
    let explanation = explain(&object, &Facts { flags: cluster.flags.clone(), presence, freeze: freeze?, waiting }, now);
    if !args.output.output.is_table() {
        return print(&document(args.output.output, "Explanation", &explanation)?);
    }
    print(&text(&explanation))
}

/// What is said of an experiment where nothing else is known.
pub(super) fn shown(object: &ChaosExperiment, now: Timestamp) -> String {
    let facts = Facts { flags: Flags::default(), presence: Presence::Ready(1), freeze: None, waiting: BTreeMap::new() };
    text(&explain(object, &facts, now))
}

fn text(explanation: &Explanation) -> String {
    let why = explanation.why.iter().map(|sentence| format!("{sentence}\n"));
    let next = explanation.next.iter().map(|sentence| format!("Next: {sentence}\n"));
    why.chain(next).collect()
}

/// Why the agents that were put in do not run, as far as that may be read.
async fn waiting(cluster: &Cluster, object: &ChaosExperiment) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    let pods = object.status.iter().flat_map(ChaosExperimentStatus::open_pods).filter(|pod| pod.state == PodState::Injected);
    for entry in pods.take(10) {
        let pods = Api::<Pod>::namespaced(cluster.client.clone(), &entry.namespace);
        let Ok(Some(pod)) = pods.get_opt(&entry.name).await else { continue };
        if let Some(waiting) = ephemeral::state(&pod, &entry.container).and_then(|state| state.waiting.clone()) {
            let words: Vec<String> = [waiting.reason, waiting.message].into_iter().flatten().map(|words| brief(&words)).collect();
            reasons.insert(entry.uid.clone(), words.join(": "));
        }
    }
    reasons
}

/// The sentences for an experiment.
fn explain(object: &ChaosExperiment, facts: &Facts, now: Timestamp) -> Explanation {
    let mut said = Explanation { flags: facts.flags.clone(), ..Explanation::default() };
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let target = object.spec.target_namespace(&namespace).to_owned();
    let none = ChaosExperimentStatus::default();
    let status = object.status.as_ref().unwrap_or(&none);
    let is_over = status.phase.is_some_and(Phase::is_final) && !status.is_active();
    if let Some(reason) = facts.freeze.as_ref().filter(|_| !is_over) {
        said.why(format!("All experiments are frozen ({reason}): what is under way is stopped, and nothing begins."));
        let (unfreeze, rerun) = (said.command("unfreeze"), said.command(&format!("rerun {name} -n {namespace}")));
        said.next(format!("{unfreeze} when that is over; then {rerun}."));
    }
    if facts.presence.is_down() && !is_over {
        said.why(format!("netloss's controller is {}: nothing happens to the experiment until it is back.", facts.presence.words()));
        let doctor = said.command(&format!("doctor -n {namespace}"));
        said.next(format!("{doctor} says what is wrong with the controller."));
        if status.is_active() {
            let stop = said.command(&format!("stop {name} -n {namespace}"));
            said.next(format!("{stop} stops its agents with your own rights meanwhile; their loss ends at its time in any case."));
        }
    }
    if object.metadata.deletion_timestamp.is_some() {
        said.why(format!("{name} is being deleted: it goes when its loss is gone from every pod."));
    }
    match status.phase {
        None => unseen(&mut said, object, &facts.presence, now),
        Some(Phase::Pending) => pending(&mut said, status, &target, facts, now),
        Some(Phase::Running) => running(&mut said, status, now),
        Some(Phase::Paused) => {
            said.why(format!("{name} is paused by spec.paused. {}.", status.message.clone().unwrap_or_default()));
            said.next(format!(
                "set spec.paused to false to go on: kubectl patch chaos {name} -n {namespace} --type merge -p '{{\"spec\":{{\"paused\":false}}}}'."
            ));
        }
        Some(Phase::Failed) => failed(&mut said, object, &target, status),
        Some(Phase::Completed) => completed(&mut said, object, status),
    }
    let request = status.condition(RUN_REQUESTED).filter(|is| is.status == "True" || is.reason == "InvalidValue");
    if let Some(request) = request {
        said.why(format!("{}.", request.message));
    }
    for pod in status.impaired_pods() {
        said.why(format!(
            "In pod {} loss may remain: {}.",
            pod.name,
            pod.message.as_deref().unwrap_or("its agent did not say how it ended")
        ));
        let fix = said.command(&format!("doctor --fix -n {namespace}"));
        said.next(format!("{fix} removes what may be left; deleting the pod does too (restarting its containers does not)."));
    }
    said
}

fn unseen(said: &mut Explanation, object: &ChaosExperiment, presence: &Presence, now: Timestamp) {
    let age = object.creation_timestamp().map_or(0, |made| now.duration_since(made.0).as_secs());
    let name = object.name_any();
    if !object.spec.action.is_served() {
        said.why(format!("{name} asks for an action that netloss does not serve, and is left alone: k8s-chaos serves it."));
        return;
    }
    said.why(format!("{name} was created {} ago, and netloss's controller has not written anything about it yet.", span(age)));
    if !presence.is_down() {
        said.next("wait a moment; where nothing comes, the controller may run experiments of other namespaces alone (--watch-namespace), or fail: \
                   its log says so (kubectl -n netloss-system logs deploy/netloss-controller).");
    }
}

fn pending(said: &mut Explanation, status: &ChaosExperimentStatus, target: &str, facts: &Facts, now: Timestamp) {
    let message = status.message.clone().unwrap_or_default();
    if let Some(retry) = status.next_retry_time.as_ref().filter(|retry| retry.0 > now) {
        let error = status.last_error.clone().unwrap_or(message);
        said.why(format!("The last try failed: {error}. It is tried again in {}.", span(retry.0.duration_since(now).as_secs())));
        remedy(said, target, &error);
        return;
    }
    if let Some(next) = status.next_scheduled_time.as_ref().filter(|_| !status.is_active()) {
        said.why(format!("It waits for its schedule: the next run is in {} ({}).", span(next.0.duration_since(now).as_secs()), next.0));
        return;
    }
    if !status.is_active() {
        said.why(format!("{message}."));
        return;
    }
    if let Some(preflight) = status.condition(PREFLIGHT).filter(|condition| condition.status == "False") {
        said.why(format!("The API server does not admit the agent: {}.", preflight.message));
        remedy(said, target, &preflight.message);
    }
    for pod in status.open_pods() {
        match (pod.state, facts.waiting.get(&pod.uid)) {
            (PodState::Planned, _) => said.why(format!("Pod {}: the agent is about to be put in.", pod.name)),
            (_, Some(reason)) if is_pull(reason) => {
                said.why(format!("Pod {}: its node cannot pull the agent's image {}: {reason}.", pod.name, pod.image));
                said.next(format!(
                    "give the node an image that it can pull: the image is named in ConfigMap netloss-agent of the controller's namespace; the agent \
                     has until {} to start.",
                    pod.deadline.0
                ));
            }
            (_, Some(reason)) if !reason.is_empty() => {
                said.why(format!("Pod {}: the agent's container does not run yet: {reason}.", pod.name));
            }
            _ => said.why(format!("Pod {}: the agent was put in and has not said yet that the loss is in place.", pod.name)),
        }
    }
}

fn is_pull(reason: &str) -> bool {
    ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"].iter().any(|word| reason.starts_with(word))
}

fn running(said: &mut Explanation, status: &ChaosExperimentStatus, now: Timestamp) {
    let (applied, total) = (status.pods.iter().filter(|pod| pod.was_applied()).count(), status.pods.len());
    let ends = status.open_pods().map(|pod| pod.deadline.0).max();
    let left = ends.map(|end| format!(", and ends by itself within {}", span(end.duration_since(now).as_secs()))).unwrap_or_default();
    said.why(format!("The loss is or was in place in {applied} of {total} pod(s){left}."));
    if let Some(stopping) = status.stopping {
        said.why(format!("It is being stopped: {}.", stopping.words()));
    }
    for pod in status.pods.iter().filter(|pod| pod.silent == Some(true)) {
        said.why(format!("Pod {}: the agent runs, but has reported nothing for a while; it is being looked after.", pod.name));
    }
    let troubled =
        status.pods.iter().filter(|pod| pod.message.is_some() && pod.silent != Some(true) && pod.outcome != Some(Outcome::Unknown));
    for pod in troubled {
        said.why(format!("Pod {}: {}.", pod.name, pod.message.as_deref().unwrap_or_default()));
    }
}

fn failed(said: &mut Explanation, object: &ChaosExperiment, target: &str, status: &ChaosExperimentStatus) {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let message = status.message.clone().unwrap_or_default();
    said.why(format!("{name} failed, and no pod is known to have had any loss: {message}."));
    for pod in &status.pods {
        let outcome = pod.outcome.map(outcome_word).unwrap_or_default();
        said.why(format!("Pod {}: {outcome}: {}.", pod.name, pod.message.as_deref().unwrap_or("nothing more is known")));
    }
    match failure_reason(status) {
        FailureReason::PermissionDenied => {
            let words = status.condition(PREFLIGHT).map_or(message, |condition| condition.message.clone());
            remedy(said, target, &words);
        }
        FailureReason::ResourceNotFound => {
            let run = said.command(&format!("run TYPE/NAME -n {target}"));
            said.next(format!(
                "name labels that running pods have: `kubectl get pods -n {target} --show-labels`; then edit spec.selector, or use {run}."
            ));
        }
        FailureReason::ValidationError => said.next("change the spec as the message says: a new run begins with the edit."),
        FailureReason::Timeout => {
            said.next(format!(
                "see why the node did not start the agent in time: `kubectl describe pod -n {target}` of the pods above, most often an image that it \
                 cannot pull."
            ));
        }
        FailureReason::ExecutionError | FailureReason::Unknown => {
            let status = said.command(&format!("status {name} -n {namespace} -o wide"));
            said.next(format!(
                "see whether loss can work in that pod at all, as netloss's agent says: its log has more (kubectl logs -n {target} POD -c CONTAINER; \
                 {status} has the container's name), and docs/AGENT.md has its exit codes."
            ));
        }
    }
}

fn completed(said: &mut Explanation, object: &ChaosExperiment, status: &ChaosExperimentStatus) {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    match result(status) {
        RunResult::Success if status.pods.is_empty() => said.why(status.message.clone().unwrap_or_default()),
        RunResult::Success => {
            said.why(format!(
                "{name} is over, and went as asked in each of {} pod(s): the loss is verified to be gone.",
                status.pods.len()
            ));
        }
        RunResult::Cancelled => {
            let why = status.stopping.map(netloss_api::Stopping::words).unwrap_or_default();
            said.why(format!("{name} was stopped before its time: {why}."));
        }
        RunResult::Partial | RunResult::Failure => {
            said.why(format!("{name} is over, and did not go as asked in every pod."));
            for pod in status.pods.iter().filter(|pod| pod.outcome != Some(Outcome::Clean)) {
                let outcome = pod.outcome.map(outcome_word).unwrap_or_default();
                said.why(format!("Pod {}: {outcome}: {}.", pod.name, pod.message.as_deref().unwrap_or("nothing more is known")));
            }
        }
    }
    if let Some(otherwise) = status.condition(AS_REQUESTED).filter(|is| is.status == "False") {
        said.why(format!("The measured loss is not the requested one: {}.", otherwise.message));
        let (report, rerun) =
            (said.command(&format!("report {name} -n {namespace}")), said.command(&format!("rerun {name} -n {namespace}")));
        said.next(match otherwise.reason.as_str() {
            "NoPacketMatched" => format!(
                "compare the spec's targets with where the pod's packets go: {report} has its filters; the interface is in \
                 status.pods."
            ),
            "RemovedByOthers" => {
                format!("find what else configures the pod's interface (a service mesh, a CNI plugin, another chaos tool), and run it again ({rerun}) without that.")
            }
            _ => format!(
                "compare the loss model and its prediction ({report}), and tell the maintainers where they do not explain it."
            ),
        });
    }
    for pod in &status.pods {
        if let Some(words) = missed(pod) {
            said.why(words);
        }
    }
    if let Some(next) = &status.next_scheduled_time {
        said.why(format!("Its schedule has the next run at {}.", next.0));
    }
}

/// Where what was seen is surely something else than what was asked for.
fn missed(pod: &PodStatus) -> Option<String> {
    let (asked, expected) = (pod.asked.loss_percentage, pod.asked.expectation());
    let observed = pod.observed?;
    let seen = [("egress", observed.egress), ("ingress", observed.ingress)];
    seen.into_iter().find_map(|(way, traffic)| {
        let traffic = traffic?;
        let seen = Seen::new(traffic.packets, traffic.dropped, expected);
        let is_other = match expected.judge(traffic.packets, traffic.dropped) {
            LossVerdict::NoPackets => return None,
            LossVerdict::TooFewPackets => {
                let expected = expected.percentage();
                return Some(format!("Pod {}: {} packets of {way} are too few to tell whether {expected} % were lost ({}).", pod.name, traffic.packets, seen.words()));
            }
            LossVerdict::Below | LossVerdict::Above => true,
            LossVerdict::Consistent => pod.asked.predicted_percentage.is_some(),
        };
        is_other.then(|| format!("Pod {}: {asked} % of {way} were asked for, and {} were seen; loss models and correlation lose another share than they name.", pod.name, seen.words()))
    })
}

/// What to do about an API server's refusal.
fn remedy(said: &mut Explanation, target: &str, words: &str) {
    if words.contains("PodSecurity") {
        said.next(format!(
            "the namespace's Pod Security standard refuses the agent (NET_ADMIN): kubectl label namespace {target} \
             pod-security.kubernetes.io/enforce=privileged --overwrite."
        ));
    } else if words.contains("is forbidden") || words.contains("cannot patch") {
        said.next("the controller lacks a right: `kubectl apply -k config/default` installs its roles again.");
    } else if words.starts_with("No eligible pods") {
        said.next(format!("name labels that running pods have: `kubectl get pods -n {target} --show-labels`."));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::ACCEPTED;
    use netloss_api::ObservedLoss;
    use netloss_contract::{PerDirection, Traffic};
    use netloss_core::machine::fixtures::{at, entry, planned, spec};

    fn facts() -> Facts {
        Facts {
            flags: Flags(" --context=prod".to_owned()),
            presence: Presence::Leads("one".to_owned()),
            freeze: None,
            waiting: BTreeMap::new(),
        }
    }

    fn of(status: ChaosExperimentStatus, facts: &Facts) -> String {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        object.status = Some(status);
        text(&explain(&object, facts, at(10)))
    }

    fn phase(phase: Phase, pods: Vec<PodStatus>) -> ChaosExperimentStatus {
        ChaosExperimentStatus { phase: Some(phase), pods, message: Some("the message".to_owned()), ..ChaosExperimentStatus::default() }
    }

    fn ended(outcome: Outcome) -> PodStatus {
        PodStatus { state: PodState::Ended, outcome: Some(outcome), applied_at: Some(Time(at(1))), unguarded: Some(true), ..entry() }
    }

    #[test]
    fn what_the_controller_has_not_seen_is_its_affair() {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        let away = Facts { presence: Presence::Absent, ..facts() };
        let said = text(&explain(&object, &away, at(10)));
        assert!(
            said.contains("controller is down: no pod of it is ready")
                && said.contains("Next: `kubectl netloss doctor -n n --context=prod`"),
            "{said}"
        );
        assert!(text(&explain(&object, &facts(), at(10))).contains("has not written anything about it yet"));
    }

    #[test]
    fn pending_says_what_is_waited_for() {
        let mut status = planned(&spec(), 1);
        status.pods[0].state = PodState::Injected;
        let pull = Facts { waiting: BTreeMap::from([("pod-uid-0".to_owned(), "ImagePullBackOff: back-off".to_owned())]), ..facts() };
        let said = of(status.clone(), &pull);
        assert!(
            said.contains("Pod p0: its node cannot pull the agent's image agent:1: ImagePullBackOff: back-off.")
                && said.contains("ConfigMap netloss-agent"),
            "{said}"
        );
        assert!(of(status, &facts()).contains("has not said yet that the loss is in place"));
        let retry = ChaosExperimentStatus {
            next_retry_time: Some(Time(at(40))),
            last_error: Some("No eligible pods: none".to_owned()),
            ..phase(Phase::Pending, vec![])
        };
        assert!(of(retry, &facts()).contains("The last try failed: No eligible pods: none. It is tried again in 30s."));
        let frozen = Facts { freeze: Some("the sale".to_owned()), ..facts() };
        assert!(of(phase(Phase::Pending, vec![]), &frozen).contains("kubectl netloss unfreeze"));
    }

    #[test]
    fn failed_says_why_and_the_next_step() {
        let mut refused = phase(Phase::Failed, vec![]);
        refused.set_condition(PREFLIGHT, "False", "Refused", "pods \"a\" is forbidden: violates PodSecurity \"baseline\"", at(0));
        assert!(of(refused, &facts()).contains("pod-security.kubernetes.io/enforce=privileged"));
        assert!(of(phase(Phase::Failed, vec![]), &facts()).contains("change the spec as the message says"));
        let mut nobody = phase(Phase::Failed, vec![]);
        nobody.set_condition(ACCEPTED, "False", "NoEligiblePods", "No eligible pods: none", at(0));
        assert!(of(nobody, &facts()).contains("kubectl get pods -n n --show-labels"));
        assert!(of(phase(Phase::Failed, vec![ended(Outcome::NeverStarted)]), &facts()).contains("kubectl describe pod -n n`"));
    }

    #[test]
    fn completed_says_how_it_went() {
        assert!(
            of(phase(Phase::Completed, vec![ended(Outcome::Clean)]), &facts())
                .starts_with("x is over, and went as asked in each of 1 pod(s)")
        );
        let mut requested = phase(Phase::Completed, vec![ended(Outcome::Clean)]);
        requested.set_condition(RUN_REQUESTED, "True", "Waiting", "one more run begins", at(0));
        assert!(of(requested, &facts()).contains("\none more run begins."));
        let unknown = of(phase(Phase::Completed, vec![ended(Outcome::Unknown)]), &facts());
        assert!(
            unknown.contains("In pod p loss may remain") && unknown.contains("Next: `kubectl netloss doctor --fix -n n --context=prod`"),
            "{unknown}"
        );
        let observed = PerDirection { egress: Some(Traffic::new(10_000, 200, 10.0)), ingress: None };
        let other = PodStatus { observed: Some(ObservedLoss::new(observed, 10.0.into())), ..ended(Outcome::Clean) };
        assert!(of(phase(Phase::Completed, vec![other]), &facts()).contains("10 % of egress were asked for, and 2.0% (1.7-2.3) were seen"));
        let few = PodStatus {
            observed: Some(ObservedLoss::new(PerDirection { egress: Some(Traffic::new(5, 0, 10.0)), ingress: None }, 10.0.into())),
            ..ended(Outcome::Clean)
        };
        assert!(of(phase(Phase::Completed, vec![few]), &facts()).contains("5 packets of egress are too few to tell"));
    }
}
