//! Watches the pods of those namespaces in which something is under way, and of no others.

use netloss_cluster::{guarded::Guarded, observe::PAGE};

use futures::{SinkExt, StreamExt, TryStreamExt, channel::mpsc::Sender};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

/// A pod that has changed: its namespace and its name.
pub(crate) type Changed = (String, String);

/// The watches that there are at present. They end with this.
pub(crate) struct PodWatches {
    client: Client,
    changes: Sender<Changed>,
    running: BTreeMap<String, AbortHandle>,
}

impl PodWatches {
    /// Tells of changes through `changes`.
    pub(crate) fn new(client: Client, changes: Sender<Changed>) -> Self {
        Self { client, changes, running: BTreeMap::new() }
    }

    /// Watches these namespaces from now on; returns how many there are.
    pub(crate) fn set(&mut self, namespaces: &BTreeSet<String>) -> usize {
        self.running.retain(|namespace, watch| {
            let wanted = namespaces.contains(namespace);
            if !wanted {
                watch.abort();
            }
            wanted
        });
        for namespace in namespaces {
            if !self.running.contains_key(namespace) {
                let watch = tokio::spawn(watch(self.client.clone(), namespace.clone(), self.changes.clone()));
                self.running.insert(namespace.clone(), watch.abort_handle());
            }
        }
        self.running.len()
    }
}

impl Drop for PodWatches {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

/// As metadata only: the pods themselves are read when they matter.
async fn watch(client: Client, namespace: String, mut changes: Sender<Changed>) {
    debug!(namespace, "watching pods");
    let pods = Api::<Guarded<PartialObjectMeta<Pod>>>::namespaced(client, &namespace);
    let mut touched = watcher(pods, watcher::Config::default().page_size(PAGE)).default_backoff().touched_objects().boxed();
    loop {
        match touched.try_next().await {
            Ok(Some(pod)) => {
                if changes.send((namespace.clone(), pod.name_any())).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => warn!(namespace, %error, "the watch of pods failed and is begun again"),
        }
    }
}
