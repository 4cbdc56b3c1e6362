//! Events, as Kubernetes has them. They are for people: one that cannot be written is logged and let go.

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use netloss_cluster::observe::CONCURRENCY;
use netloss_core::{
    machine::{About, EventRecord, Severity},
    targets::Target,
};
use tracing::warn;

/// What an event's note may hold, in bytes (events.k8s.io/v1).
const NOTE_LIMIT: usize = 1024;

/// Writes events.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    reporter: Reporter,
}

impl Publisher {
    pub(crate) fn new(client: Client, controller: &str, instance: Option<String>) -> Self {
        Self { client, reporter: Reporter { controller: controller.to_owned(), instance } }
    }

    /// Writes `events`, those about the experiment about `experiment`.
    pub(crate) async fn publish(&self, experiment: &ObjectReference, events: Vec<EventRecord>) {
        let writes = stream::iter(events).map(|event| {
            let (regarding, secondary) = match &event.about {
                About::Experiment => (experiment.clone(), None),
                About::ExperimentFor(pod) => (experiment.clone(), Some(reference(pod))),
                About::Pod(pod) => (reference(pod), Some(experiment.clone())),
            };
            async move {
                let type_ = match event.severity {
                    Severity::Normal => EventType::Normal,
                    Severity::Warning => EventType::Warning,
                };
                let note = event.note[..event.note.floor_char_boundary(NOTE_LIMIT)].to_owned();
                let reason = event.reason.to_string();
                let event = Event { type_, reason, note: Some(note), action: "PodNetworkLoss".to_owned(), secondary };
                // A recorder of its own for each: one that is kept remembers all events of six minutes, looks through them at each new one, and
                // counts up an older one of the same reason with the words of that one.
                let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
                if let Err(error) = recorder.publish(&event, &regarding).await {
                    warn!(reason = event.reason, %error, "an event could not be written");
                }
            }
        });
        writes.buffer_unordered(CONCURRENCY).collect::<()>().await;
    }
}

fn reference(pod: &Target) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}
