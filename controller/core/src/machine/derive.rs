//! What an entry of status may put into a pod: derived again from the spec, and compared.
//!
//! Rights to `chaosexperiments/status`, and to ChaosExperimentPlans, are given to others than this controller. What they write grants no more
//! than the spec, which its author was allowed to write and the webhook has checked: an agent is injected only with the arguments that the
//! spec gives, into pods that it selects, no more of them than it names, and not outside its time windows.

use super::{
    Experiment, Settings,
    follow::run_id,
    request::{Request, check},
};
use crate::{
    container::repository,
    windows::{Access, Windows},
};
use jiff::{SignedDuration, Timestamp};
use netloss_api::{AskedLoss, ChaosExperimentStatus, PodStatus, SentContainer};
use netloss_contract::{CleanupArgs, RunSelector, StopArgs, Ttl};
use std::{collections::BTreeMap, net::IpAddr};

/// How far the controller's clock may have been set back since a plan was made. The plan's deadline is then later than a new one would be.
/// The loss is not longer for it: the agent counts its ttl itself.
const SET_BACK: SignedDuration = SignedDuration::from_hours(1);

/// What the spec gives, for the entries of one status.
pub(super) struct Derived<'a> {
    experiment: &'a Experiment<'a>,
    settings: &'a Settings,
    request: Result<Request, String>,
    run: u32,
    /// The attempt that is under way.
    attempt: u32,
    /// How many entries there are, and how many of each pod.
    entries: usize,
    of_pod: BTreeMap<&'a str, usize>,
    now: Timestamp,
}

impl<'a> Derived<'a> {
    pub(super) fn new(experiment: &'a Experiment<'a>, status: &'a ChaosExperimentStatus, now: Timestamp, settings: &'a Settings) -> Self {
        let mut of_pod = BTreeMap::new();
        status.pods.iter().for_each(|pod| *of_pod.entry(pod.uid.as_str()).or_default() += 1);
        Self {
            experiment,
            settings,
            request: check(experiment, settings),
            run: status.run.unwrap_or_default(),
            attempt: status.attempt.unwrap_or(1),
            entries: status.pods.len(),
            of_pod,
            now,
        }
    }

    /// In what an entry asks for more than the spec, or something else; none where an agent may be injected.
    pub(super) fn mismatch(&self, entry: &PodStatus) -> Option<String> {
        let spec = self.experiment.spec;
        let request = match &self.request {
            Ok(request) => request,
            Err(why) => return Some(why.clone()),
        };
        if spec.dry_run == Some(true) {
            return Some("spec.dryRun is true".to_owned());
        }
        let namespace = spec.target_namespace(self.experiment.namespace);
        if entry.namespace != namespace {
            return Some(format!("the entry is of the namespace \"{}\" and not of \"{namespace}\"", entry.namespace));
        }
        let image = &self.settings.agent_image;
        if repository(&entry.image) != repository(image) {
            return Some(format!("its image {} is not of the repository of {image}", entry.image));
        }
        if self.entries > usize::try_from(spec.count).unwrap_or(usize::MAX) {
            return Some(format!("status.pods has {} entries and spec.count is {}", self.entries, spec.count));
        }
        if self.of_pod.get(entry.uid.as_str()).is_some_and(|entries| *entries > 1) {
            return Some("status.pods names the pod more than once".to_owned());
        }
        if entry.attempt != self.attempt {
            return Some(format!("the entry is of attempt {} and status.attempt is {}", entry.attempt, self.attempt));
        }
        let Some(ttl) = entry.asked.duration.parse::<Ttl>().ok().filter(|ttl| *ttl <= request.ttl) else {
            return Some(format!("the entry lasts {} and spec.duration is {}", entry.asked.duration, request.ttl));
        };
        let deadline = entry.deadline.0;
        if deadline > self.latest(ttl) {
            return Some(format!("its deadline {deadline} is later than spec.duration allows"));
        }
        let within = match Windows::of(spec).unwrap_or_default().at(self.now) {
            Access::Open(until) => until.is_none_or(|until| deadline <= until),
            Access::Closed(_) => false,
        };
        if !within {
            return Some(format!("its deadline {deadline} is outside spec.timeWindows or within spec.maintenanceWindows"));
        }
        let spare_node = entry.argv.iter().filter_map(|argument| argument.strip_prefix("--spare-node="));
        let spare_node: Vec<IpAddr> = spare_node.filter_map(|text| text.parse().ok()).collect();
        let argv = request.arguments(self.experiment, self.run, ttl, deadline, spare_node).to_argv();
        if argv != entry.argv {
            let other = entry.argv.iter().find(|argument| !argv.contains(argument));
            let other = other.or_else(|| argv.iter().find(|argument| !entry.argv.contains(argument)));
            return Some(format!("its arguments differ in {}", other.map_or("their order", String::as_str)));
        }
        (!is_same(&entry.asked, &request.asked(self.experiment, ttl))).then(|| "what it shows as requested differs".to_owned())
    }

    /// The latest deadline that a plan of now can have.
    fn latest(&self, ttl: Ttl) -> Timestamp {
        let ahead = SignedDuration::try_from(self.settings.start_timeout + ttl.duration()).unwrap_or(SignedDuration::MAX);
        self.now.saturating_add(ahead.saturating_add(SET_BACK)).unwrap_or(Timestamp::MAX)
    }
}

/// JSON has one way to write a number, and parsers differ in its last digit.
fn is_same(one: &AskedLoss, other: &AskedLoss) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    close(one.loss_percentage, other.loss_percentage)
        && close(one.correlation, other.correlation)
        && (one.direction, &one.duration) == (other.direction, &other.duration)
        && one.predicted_percentage.is_some() == other.predicted_percentage.is_some()
        && close(one.predicted_percentage.unwrap_or(0.0), other.predicted_percentage.unwrap_or(0.0))
}

/// The arguments of what stops the agent of a run until then.
pub(super) fn stop_arguments(uid: &str, run: u32, until: Timestamp) -> Vec<String> {
    StopArgs { meant: RunSelector { run: run_id(uid, run).parse().ok(), deadline: Some(until) }, timeout: Ttl::STOP }.to_argv()
}

/// The arguments of what removes what the agent of a run may have left; `force` is for one that hangs.
pub(super) fn repair_arguments(uid: &str, run: u32, until: Timestamp, force: bool) -> Vec<String> {
    CleanupArgs { meant: RunSelector { run: run_id(uid, run).parse().ok(), deadline: Some(until) }, force }.to_argv()
}

/// Whether the arguments of what is sent after an agent are those that this controller writes. The deadline is checked where the container
/// is still to be put in: it says until when that can be.
pub(super) fn is_derived(sent: &SentContainer, uid: &str, run: u32, now: Timestamp, start_timeout: std::time::Duration) -> bool {
    let until = sent.deadline.0;
    let ahead = SignedDuration::try_from(start_timeout).unwrap_or(SignedDuration::MAX).saturating_add(SET_BACK);
    let possible = [stop_arguments(uid, run, until), repair_arguments(uid, run, until, false), repair_arguments(uid, run, until, true)];
    possible.contains(&sent.argv) && until <= now.saturating_add(ahead).unwrap_or(Timestamp::MAX)
}
