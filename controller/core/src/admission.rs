//! What is refused and what is warned of, as a pure function of the object and of what was seen.

use crate::{
    machine::{Experiment, Settings, check, run_request, too_large_a_share},
    refusal::{Refusal, RefusalReason},
    sanitize::{line, shortened, some_of},
    schedule::Schedule,
    targets::{self, CONTAINER_LIMIT, Candidate, NamespaceFacts, RESERVED, Skip},
    windows::{Access, Windows},
};
use jiff::Timestamp;
use netloss_api::ChaosExperimentSpec;
use netloss_contract::container_name;

/// The longest refusal or warning, in bytes.
const LONGEST: usize = 4096;

/// What is about to be done to an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// Its spec changes.
    Update,
}

/// What was seen for an experiment.
#[derive(Debug, Clone, Default)]
pub struct ObservedState {
    /// Its namespace's, or none if there is no such namespace.
    pub namespace: Option<NamespaceFacts>,
    /// Whether who asks may patch pods/ephemeralcontainers in the namespace of the pods; only asked where that is another one.
    pub may_act: bool,
    /// The pods that have the labels.
    pub pods: Vec<Candidate>,
    /// Why all experiments are frozen, if they are.
    pub freeze: Option<String>,
    /// The pod of another controller that acts on the same experiments, if there is one.
    pub conflicting_controller: Option<String>,
}

/// What becomes of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Why it is refused, if it is.
    pub refusal: Option<String>,
    /// The kind of that refusal.
    pub reason: Option<RefusalReason>,
    /// What there is to say about it otherwise.
    pub warnings: Vec<String>,
}

/// Judges an experiment that is about to be created or changed.
#[must_use]
pub fn validate(experiment: &Experiment<'_>, operation: Operation, seen: &ObservedState, now: Timestamp, settings: &Settings) -> Admission {
    // They repeat what somebody wrote, and are shown on terminals and in logs.
    let plain = |words: &String| shortened(line(words), LONGEST);
    match refusal(experiment, operation, seen, now, settings) {
        Some(Refusal { reason, words }) => Admission { refusal: Some(plain(&words)), reason: Some(reason), ..Admission::default() },
        None => Admission { warnings: warnings(experiment, seen, now, settings).iter().map(plain).collect(), ..Admission::default() },
    }
}

fn refusal(
    experiment: &Experiment<'_>,
    operation: Operation,
    seen: &ObservedState,
    now: Timestamp,
    settings: &Settings,
) -> Option<Refusal> {
    let (own, spec) = (experiment.namespace, experiment.spec);
    if let Err(words) = check(experiment, settings) {
        return Some(Refusal::invalid(words));
    }
    if let Some(Err(words)) = experiment.requested.map(run_request) {
        return Some(Refusal::invalid(words));
    }
    let namespace = spec.target_namespace(own);
    let Some(facts) = &seen.namespace else {
        let words = format!("spec.namespace is \"{namespace}\", and there is no such namespace: give one that is there");
        return Some(Refusal::new(RefusalReason::NamespaceNotFound, words));
    };
    if namespace != own && !seen.may_act {
        let words = format!(
            "spec.namespace is \"{namespace}\", and you may not act on its pods: that takes the right to patch pods/ephemeralcontainers there, or leave \
             spec.namespace out"
        );
        return Some(Refusal::new(RefusalReason::NamespaceNotAllowed, words));
    }
    // Who may act there was just settled, for this request.
    let asked = Settings { trusts_admission: true, ..settings.clone() };
    if let Some(refusal) = targets::refusal(facts, namespace, own, spec.allow_production == Some(true), &asked) {
        return Some(refusal);
    }
    if let Some(reason) = seen.freeze.as_ref().filter(|_| begins_at_once(spec, now)) {
        return Some(Refusal::new(
            RefusalReason::Frozen,
            format!("All experiments are frozen: {reason}; try again when they no longer are"),
        ));
    }
    if let Some(pod) = seen.conflicting_controller.as_deref().filter(|_| operation == Operation::Create) {
        return Some(Refusal::new(
            RefusalReason::AnotherController,
            format!("{}, then apply this one again", targets::conflicting_controller(pod)),
        ));
    }
    let eligible = eligible(seen);
    // An edit goes through even where no pod is left, or else nothing about the experiment could be put right.
    if eligible == 0 && operation == Operation::Create && begins_at_once(spec, now) {
        return Some(targets::no_eligible_pods(&spec.selector, namespace, &seen.pods));
    }
    let count = (spec.count as usize).min(eligible);
    let max = spec.max_percentage.filter(|max| count * 100 > eligible * *max as usize)?;
    Some(too_large_a_share(count, eligible, max))
}

/// An agent at work passes; what else keeps a pod from being taken stays, or is somebody's wish.
fn eligible(seen: &ObservedState) -> usize {
    seen.pods.iter().filter(|pod| pod.is_eligible()).count()
}

/// Whether the pods that are there now are those that it acts on.
fn begins_at_once(spec: &ChaosExperimentSpec, now: Timestamp) -> bool {
    let waits = spec.schedule.is_some() || spec.paused == Some(true) || spec.depends_on.as_ref().is_some_and(|names| !names.is_empty());
    let open = Windows::of(spec).is_ok_and(|windows| matches!(windows.at(now), Access::Open(_)));
    !waits && open
}

fn warnings(experiment: &Experiment<'_>, seen: &ObservedState, now: Timestamp, settings: &Settings) -> Vec<String> {
    let spec = experiment.spec;
    let mut warnings = Vec::new();
    if spec.dry_run == Some(true) {
        warnings.push("spec.dryRun is true: the pods are named in status, and none is touched".to_owned());
    }
    if let Ok(request) = check(experiment, settings) {
        let asked = request.model.highest_percentage();
        if asked > netloss_api::MAX_LOSS_PERCENTAGE {
            warnings.push(format!("{asked} % is more than most protocols live with: expect connections to break"));
        }
        warnings.extend(request.model.warning());
    }
    let eligible = eligible(seen);
    if seen.pods.is_empty() {
        warnings.push("no pod has the labels of spec.selector at present".to_owned());
    } else if eligible < spec.count as usize {
        warnings.push(format!("spec.count is {}, and {eligible} of the {} pods may be acted on at present", spec.count, seen.pods.len()));
    }
    let excluded = seen.pods.iter().filter(|pod| pod.skip == Some(Skip::Excluded)).map(|pod| pod.target.name.clone());
    let excluded = some_of(excluded);
    if !excluded.is_empty() {
        warnings.push(format!("left alone, as they carry the label {}: {excluded}", netloss_api::EXCLUDE_LABEL));
    }
    let namespace = spec.target_namespace(experiment.namespace);
    let is_open = namespace == experiment.namespace || seen.namespace.as_ref().is_some_and(|facts| facts.allows(experiment.namespace));
    if !is_open && !begins_at_once(spec, now) {
        warnings.push(format!(
            "your right to act on \"{namespace}\" counts for runs that begin within an hour of the experiment's creation: for later ones, annotate that \
             namespace with {}: {}",
            netloss_api::ALLOW_FROM_ANNOTATION, experiment.namespace
        ));
    }
    let active = some_of(seen.pods.iter().filter_map(|pod| active_agent(experiment.uid, pod)));
    if !active.is_empty() {
        warnings.push(format!("another run is active in some of these pods, which are skipped until it ends: {active}"));
    }
    warnings.extend(full(spec, seen, now));
    warnings
}

/// A pod with the agent of another experiment in it. By the pod alone: what other experiments say of themselves is not asked for.
fn active_agent(uid: &str, pod: &Candidate) -> Option<String> {
    let Some(Skip::AgentActive(container)) = &pod.skip else { return None };
    let own = container_name(uid, 0, 0);
    let is_own = container.starts_with(own.trim_end_matches("r0-a0"));
    (!is_own).then(|| format!("{} (container {container})", pod.target.name))
}

/// When the pods of a schedule will carry as many containers as they may.
fn full(spec: &ChaosExperimentSpec, seen: &ObservedState, now: Timestamp) -> Option<String> {
    /// Runs further away than that are not worth a word.
    const FAR: i64 = 31 * 24;
    let schedule = Schedule::parse(spec.schedule.as_deref()?).ok()?;
    let fullest = seen.pods.iter().filter(|pod| pod.skip.is_none()).map(|pod| pod.containers).max()?;
    let runs = (CONTAINER_LIMIT - RESERVED).saturating_sub(fullest);
    let mut at = now;
    for _ in 0..runs {
        at = schedule.next(at)?;
    }
    (at.duration_since(now).as_hours() < FAR).then(|| {
        format!(
            "each run leaves a container behind in its pods, and {CONTAINER_LIMIT} are the limit: a pod that every run takes is left alone after \
             {runs} runs, about {at}, until it is restarted"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::{at, candidates, experiment, settings, spec};
    use std::collections::BTreeMap;

    fn seen() -> ObservedState {
        ObservedState { namespace: Some(NamespaceFacts::default()), pods: candidates(3), ..ObservedState::default() }
    }

    fn verdict(change: impl FnOnce(&mut ChaosExperimentSpec), see: impl FnOnce(&mut ObservedState)) -> Admission {
        let (mut spec, mut seen) = (spec(), seen());
        change(&mut spec);
        see(&mut seen);
        validate(&experiment(&spec, None), Operation::Create, &seen, at(0), &settings())
    }

    fn refused(change: impl FnOnce(&mut ChaosExperimentSpec), see: impl FnOnce(&mut ObservedState)) -> String {
        verdict(change, see).refusal.unwrap()
    }

    fn warned(change: impl FnOnce(&mut ChaosExperimentSpec), see: impl FnOnce(&mut ObservedState)) -> String {
        let verdict = verdict(change, see);
        assert_eq!(verdict.refusal, None);
        verdict.warnings.join("\n")
    }

    #[test]
    fn what_is_in_order_passes_without_a_word() {
        assert_eq!(verdict(|_| (), |_| ()), Admission::default());
    }

    #[test]
    fn refusals_say_why_and_the_way_out() {
        let elsewhere = |spec: &mut ChaosExperimentSpec| spec.namespace = Some("other".to_owned());
        assert!(
            refused(elsewhere, |_| ()).starts_with("spec.namespace is \"other\", and you may not act on its pods: that takes the right")
        );
        assert_eq!(verdict(elsewhere, |seen| seen.may_act = true), Admission::default());
        let nowhere = refused(elsewhere, |seen| seen.namespace = None);
        assert_eq!(nowhere, "spec.namespace is \"other\", and there is no such namespace: give one that is there");
        let labels = Some(&BTreeMap::from([("env".to_owned(), "prod".to_owned())])).cloned();
        let production = |seen: &mut ObservedState| seen.namespace = Some(NamespaceFacts::of("n", labels.as_ref(), None));
        assert!(
            refused(|_| (), production).starts_with("\"n\" is a production namespace by its label env: prod: set spec.allowProduction")
        );
        let words = "No eligible pods: none in the namespace \"n\" has the labels app=web";
        assert_eq!(refused(|_| (), |seen| seen.pods.clear()), words);
        let excluded = |seen: &mut ObservedState| seen.pods.iter_mut().for_each(|pod| pod.skip = Some(Skip::Excluded));
        assert!(refused(|_| (), excluded).starts_with("No eligible pods: none of the 3 in the namespace \"n\""));
        let words = "spec.maxPercentage is 50, but 2 of the 3 eligible pods are 67 %: lower spec.count or raise spec.maxPercentage";
        assert_eq!(refused(|spec| spec.max_percentage = Some(50), |_| ()), words);
        let high = refused(|spec| spec.loss_percentage = 50.0, |_| ());
        assert!(high.ends_with("more than 40 % needs your consent: lower it, or set spec.allowHighLoss: true"), "{high}");
        let both = refused(|spec| (spec.correlation, spec.loss_correlation) = (Some(1.0), Some(2.0)), |_| ());
        assert!(both.starts_with("spec.correlation is 1 and its older name spec.lossCorrelation is 2"), "{both}");
        let cron = refused(|spec| spec.schedule = Some("often".to_owned()), |_| ());
        assert!(cron.starts_with("spec.schedule is \"often\", which is no schedule"), "{cron}");
        let frozen = refused(|_| (), |seen| seen.freeze = Some("the sale".to_owned()));
        assert!(frozen.starts_with("All experiments are frozen: the sale"), "{frozen}");
    }

    #[test]
    fn a_request_for_another_run_has_to_be_a_time() {
        let spec = spec();
        let asked = |value| {
            let experiment = Experiment { requested: Some(value), ..experiment(&spec, None) };
            validate(&experiment, Operation::Update, &seen(), at(0), &settings()).refusal
        };
        assert_eq!(asked("2027-01-15T08:00:00Z"), None);
        let words = "the annotation chaos.gushchin.dev/run-requested-at is \"soon\", which is not an RFC 3339 time: set one, such as \
                     2027-01-15T08:00:00Z, or use kubectl netloss rerun";
        assert_eq!(asked("soon").as_deref(), Some(words));
    }

    #[test]
    fn who_begins_later_may_have_no_pods_yet() {
        for later in [
            (|spec| spec.schedule = Some("@daily".to_owned())) as fn(&mut ChaosExperimentSpec),
            |spec| spec.paused = Some(true),
            |spec| spec.depends_on = Some(vec!["first".to_owned()]),
        ] {
            assert_eq!(warned(later, |seen| seen.pods.clear()), "no pod has the labels of spec.selector at present");
        }
        let spec = spec();
        let none = ObservedState { pods: Vec::new(), ..seen() };
        assert_eq!(validate(&experiment(&spec, None), Operation::Update, &none, at(0), &settings()).refusal, None);
    }

    #[test]
    fn warnings_say_what_may_surprise() {
        assert!(warned(|spec| spec.dry_run = Some(true), |_| ()).contains("none is touched"));
        assert!(
            warned(|spec| (spec.loss_percentage, spec.allow_high_loss) = (60.0, Some(true)), |_| ()).starts_with("60 % is more than most")
        );
        assert!(warned(|spec| spec.correlation = Some(25.0), |_| ()).contains("will be about 1.75 %"));
        let few = warned(|spec| spec.count = 5, |seen| seen.pods[0].skip = Some(Skip::Excluded));
        assert_eq!(
            few,
            "spec.count is 5, and 2 of the 3 pods may be acted on at present\nleft alone, as they carry the label chaos.gushchin.dev/exclude: p0"
        );
        let active = |uid: &str| Some(Skip::AgentActive(container_name(uid, 1, 1)));
        let said = warned(|_| (), |seen| (seen.pods[0].skip, seen.pods[1].skip) = (active("ab"), active("cd")));
        assert_eq!(
            said,
            "another run is active in some of these pods, which are skipped until it ends: p0 (container network-loss-ab-r1-a1); p1 (container \
             network-loss-cd-r1-a1)"
        );
        let own = warned(|_| (), |seen| seen.pods[0].skip = active(experiment(&spec(), None).uid));
        assert_eq!(own, "", "an edit is not warned of its own run");
    }

    #[test]
    fn the_authors_right_is_told_not_to_last_for_a_schedule() {
        let elsewhere = |spec: &mut ChaosExperimentSpec| {
            (spec.namespace, spec.schedule) = (Some("other".to_owned()), Some("@yearly".to_owned()));
        };
        let open = |seen: &mut ObservedState| {
            seen.may_act = true;
            let annotations = BTreeMap::from([(netloss_api::ALLOW_FROM_ANNOTATION.to_owned(), "n".to_owned())]);
            seen.namespace = Some(NamespaceFacts::of("other", None, Some(&annotations)));
        };
        let said = warned(elsewhere, |seen| seen.may_act = true);
        assert!(said.contains("within an hour of the experiment's creation: for later ones, annotate that namespace"), "{said}");
        assert_eq!(warned(elsewhere, open), "");
    }

    #[test]
    fn a_schedule_that_fills_its_pods_is_told_of() {
        let daily = |spec: &mut ChaosExperimentSpec| spec.schedule = Some("@daily".to_owned());
        assert_eq!(warned(daily, |_| ()), "", "48 days are far");
        let words = warned(daily, |seen| seen.pods[0].containers = 45);
        // at(0) is 2027-01-15T08:00:00Z.
        assert!(words.contains("left alone after 3 runs, about 2027-01-18T00:00:00Z, until it is restarted"), "{words}");
    }
}
