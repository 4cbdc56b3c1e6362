//! The controller with many pods: a real API server, nodes that kwok plays, and agents that the bench plays.

mod agents;
mod field;
mod round;

use std::time::Duration;

use anyhow::Result;
use netloss_lab::host::runtime;
use netloss_lab_measure::{Bound, Comparison};

use self::field::Field;
use self::round::Round;
use super::{Report, Size};

/// For whatever is waited for.
const LIMIT: Duration = Duration::from_mins(15);

const OURS: &str = "netloss";
const THEIRS: &str = "one after the other";

/// Pods that nobody asked for, in the namespaces of the others.
const BYSTANDERS: usize = 10_000;

/// Targets, and how often they are measured.
const FULL: [(usize, usize); 4] = [(10, 5), (100, 5), (1000, 3), (5000, 1)];
const SMALL: [(usize, usize); 1] = [(100, 1)];

pub(super) fn measure(size: Size) -> Result<Report> {
    runtime::run(measured(size))
}

async fn measured(size: Size) -> Result<Report> {
    let sizes: &[(usize, usize)] = size.pick(&FULL, &SMALL);
    let mut field = Field::prepare().await?;
    let most = sizes.iter().map(|(targets, _)| *targets).max().unwrap_or_default();
    field.create_pods("target", 0..most).await?;
    if size == Size::Full {
        field.create_pods("bystander", 0..BYSTANDERS).await?;
    }
    let mut all = Vec::new();
    for (targets, rounds) in sizes {
        let (mut native, mut sequential) = (Vec::new(), Vec::new());
        for _ in 0..*rounds {
            native.push(round::native(&mut field, 0, *targets).await?);
            sequential.push(round::sequential(&mut field, *targets).await?.as_secs_f64());
        }
        all.push(Measured { targets: *targets, native, sequential });
    }
    let others = if size == Size::Full { "10 000 others are in the same namespaces. " } else { "" };
    Ok(Report {
        name: "scale".to_owned(),
        title: "The controller with many pods".to_owned(),
        about: format!(
            "Experiments on 10 to 5 000 pods, {} to an experiment, which is what `spec.count` allows. {others}The API server is a real \
             one, the nodes are kwok's; what kubelets write about agents, and what agents say, is played. Beside it the simplest flow that \
             does the same: a list, then for each pod, one after the other, the patch and a write of the status. Requests are those of \
             whole runs, from the experiment to its end and its record, as the API server has counted them.",
            field::GROUP
        ),
        command: "tests/lab bench scale".to_owned(),
        machine: machine()?,
        comparisons: comparisons(&all),
    })
}

/// Whether it matters how many pods there are that nobody asked for.
pub(super) fn bystanders(size: Size) -> Result<Report> {
    runtime::run(among_others(size))
}

async fn among_others(size: Size) -> Result<Report> {
    let (rounds, others) = (size.pick(8, 1), size.pick(BYSTANDERS, 500));
    let mut field = Field::prepare().await?;
    // Two groups of one namespace: a pod keeps the containers that it was given, and is read with them, so each of them is as new as the other.
    field.create_pods("target", 0..2 * field::GROUP).await?;
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(round::native(&mut field, 0, field::GROUP).await?);
    }
    field.create_pods("bystander", 0..others).await?;
    for _ in 0..rounds {
        among.push(round::native(&mut field, 1, field::GROUP).await?);
    }
    let compared = |what: &str, unit: &str, of: &dyn Fn(&Round) -> f64| {
        let comparison = Comparison::new(what, unit).undrawn();
        comparison.variant("alone", alone.iter().map(of).collect()).variant("among others", among.iter().map(of).collect())
    };
    let memory = compared("the controller's most resident memory", "MiB", &|round| round.memory);
    Ok(Report {
        name: "bystanders".to_owned(),
        title: "The controller among other pods".to_owned(),
        about: format!(
            "An experiment on 100 pods, with no other pods but a hundred like them, and then on those with {others} more, of which 1 000 are in the same namespace."
        ),
        command: "tests/lab bench bystanders".to_owned(),
        machine: machine()?,
        comparisons: vec![
            memory.ratio("among others", "alone", Bound::AtMost(1.2), None),
            compared("the controller's processor time, for each pod", "ms", &|round| round.processor * 10.0),
            compared("requests for each pod", "", &|round| round.requests / 100.0),
        ],
    })
}

fn machine() -> Result<String> {
    Ok(format!("{} processors, which the API server, its store, kwok and the bench share", std::thread::available_parallelism()?))
}

/// What was measured of so many targets.
struct Measured {
    targets: usize,
    native: Vec<Round>,
    sequential: Vec<f64>,
}

impl Measured {
    fn of(&self, what: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.native.iter().map(what).collect()
    }

    fn per_pod(&self, what: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.of(|round| what(round) / self.targets as f64)
    }

    fn name(&self) -> String {
        format!("{} pods", self.targets)
    }
}

fn comparisons(all: &[Measured]) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for of in all {
        let what = format!("{}, from apply to the last agent put in", of.targets);
        let comparison = Comparison::new(what, "s").variant(THEIRS, of.sequential.clone()).variant(OURS, of.of(|round| round.injected));
        // A run of few pods is mostly the writes ahead, which the other has not.
        let goal = (of.targets >= 100).then_some((Bound::AtMost(1.0), Bound::AtMost(2.0)));
        comparisons.push(match goal {
            Some((wanted, guard)) => comparison.ratio(OURS, THEIRS, wanted, Some(guard)),
            None => comparison,
        });
    }
    // For each size a variant.
    let by_size = |what: &str, unit: &str, samples: &dyn Fn(&Measured) -> Vec<f64>| {
        all.iter().fold(Comparison::new(what, unit).undrawn(), |comparison, of| comparison.variant(of.name(), samples(of)))
    };
    let goals = |comparison: Comparison, wanted: f64, guard: f64| {
        all.iter().fold(comparison, |comparison, of| {
            let guard = (of.targets >= 100).then_some(Bound::AtMost(guard));
            if guard.is_some() { comparison.value(&of.name(), Bound::AtMost(wanted), guard) } else { comparison }
        })
    };
    let slope = by_size("from apply to the last agent put in, for each pod", "ms", &|of| of.per_pod(|round| round.injected * 1000.0));
    comparisons.push(slope.ratio("5000 pods", "1000 pods", Bound::AtMost(1.2), None));
    let applied = "from apply to all of status saying applied, for each pod";
    comparisons.push(by_size(applied, "ms", &|of| of.per_pod(|round| round.applied * 1000.0)));
    let requests = by_size("requests for each pod, reading what its agent says aside", "", &|of| of.per_pod(|round| round.requests));
    comparisons.push(goals(requests, 4.0, 5.0));
    comparisons.push(by_size("of its agent's log, for each pod", "", &|of| of.per_pod(|round| round.logs)));
    let memory = by_size("the controller's most resident memory", "MiB", &|of| of.of(|round| round.memory));
    comparisons.push(goals(memory, 64.0, 80.0));
    comparisons.push(by_size("the controller's processor time, for each pod", "ms", &|of| of.per_pod(|round| round.processor * 1000.0)));
    comparisons.push(by_size("the largest status of an experiment", "KiB", &|of| of.of(|round| round.status)));
    comparisons
}
