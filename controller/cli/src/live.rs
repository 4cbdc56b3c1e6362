//! What agents count at present, which is in no status: it is read from their logs, as far as the user may.

use super::view::LiveFigures;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use netloss_api::{ChaosExperiment, ChaosExperimentSpec, PodState, PodStatus};
use netloss_cluster::observe::{self, CONCURRENCY, Lookup};
use netloss_core::machine::{AgentLog, PodView};

/// Pods whose logs are read for one look: as many as `spec.count` allows.
const MOST: usize = 100;

/// The figures of the pods in which a loss is in place. What cannot be read is left out.
pub(super) async fn figures(client: Client, objects: Vec<ChaosExperiment>) -> LiveFigures {
    let now = Timestamp::now();
    let entries = objects.iter().flat_map(of_object).take(MOST).collect::<Vec<_>>();
    let figures = stream::iter(entries).map(|(entry, run, spec)| {
        let client = client.clone();
        async move {
            let view = observe::view(&client, &entry, Lookup { run: &run, spec: &spec, now }).await.ok()?;
            match view {
                PodView::Present { agent: Some(agent), .. } => match agent.log {
                    AgentLog::Heartbeat(Some(live)) => Some((entry.uid, *live)),
                    _ => None,
                },
                _ => None,
            }
        }
    });
    figures.buffer_unordered(CONCURRENCY).filter_map(|figure| async { figure }).collect().await
}

/// The pods of an experiment with a loss in place, each with the name of its run.
fn of_object(object: &ChaosExperiment) -> Vec<(PodStatus, String, ChaosExperimentSpec)> {
    let Some(status) = &object.status else { return Vec::new() };
    let run = format!("{}/{}", object.uid().unwrap_or_default(), status.run.unwrap_or_default());
    status.open_pods().filter(|pod| pod.state == PodState::Applied).map(|pod| (pod.clone(), run.clone(), object.spec.clone())).collect()
}
