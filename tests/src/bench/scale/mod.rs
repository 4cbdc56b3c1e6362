//! The controller with many pods: a real API server, nodes that kwok plays, and agents that the bench plays.

mod agents;
mod field;
mod round;

use std::time::Duration;

use anyhow::Result;

use self::field::Field;
use self::round::Round;
use super::{Bound, Comparison, Report, Size};
use crate::host::runtime;

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
    // Before there are others.
    let mut alone = Vec::new();
    if size == Size::Full {
        for _ in 0..5 {
            alone.push(round::native(&mut field, 100).await?);
        }
        field.create_pods("bystander", 0..BYSTANDERS).await?;
    }
    let mut all = Vec::new();
    for (targets, rounds) in sizes {
        let (mut native, mut sequential) = (Vec::new(), Vec::new());
        for _ in 0..*rounds {
            native.push(round::native(&mut field, *targets).await?);
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
        machine: format!("{} processors, which the API server, its store, kwok and the bench share", std::thread::available_parallelism()?),
        comparisons: comparisons(&all, &alone),
    })
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

fn comparisons(all: &[Measured], alone: &[Round]) -> Vec<Comparison> {
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
    let slopes: [(&str, fn(&Round) -> f64); 2] = [
        ("from apply to the last agent put in, for each pod", |round| round.injected * 1000.0),
        ("from apply to all of status saying applied, for each pod", |round| round.applied * 1000.0),
    ];
    for (what, of_round) in slopes {
        let slope = by_size(what, "ms", &|of| of.per_pod(of_round));
        comparisons.push(slope.ratio("5000 pods", "1000 pods", Bound::AtMost(1.2), None));
    }
    let requests = by_size("requests for each pod, reading what its agent says aside", "", &|of| of.per_pod(|round| round.requests));
    comparisons.push(goals(requests, 4.0, 5.0));
    comparisons.push(by_size("of its agent's log, for each pod", "", &|of| of.per_pod(|round| round.logs)));
    let memory = by_size("the controller's most resident memory", "MiB", &|of| of.of(|round| round.memory));
    let memory = memory.variant("100 pods, no others", alone.iter().map(|round| round.memory).collect());
    let memory = memory.ratio("100 pods", "100 pods, no others", Bound::AtMost(1.2), None);
    comparisons.push(goals(memory, 64.0, 80.0));
    let processor = by_size("the controller's processor time, for each pod", "ms", &|of| of.per_pod(|round| round.processor * 1000.0));
    comparisons.push(processor.variant("100 pods, no others", alone.iter().map(|round| round.processor * 10.0).collect()));
    comparisons.push(by_size("the largest status of an experiment", "KiB", &|of| of.of(|round| round.status)));
    comparisons
}
