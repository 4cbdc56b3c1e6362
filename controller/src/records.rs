//! The records of runs that are kept: for how long, and what loss they say may remain.

use crate::metrics::Metrics;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
    core::PartialObjectMeta,
};
use netloss_api::{ChaosExperimentHistory, EXPERIMENT_LABEL, NAME_LABEL, PodStatus, REMAINS_LABEL};
use netloss_cluster::{
    guarded::{Guarded, Unreadable},
    listing,
    observe::keeps_loss,
};
use netloss_core::history::Remnant;
use std::collections::{BTreeMap, HashMap};
use tracing::{info, warn};

/// Pods that one look at such records reads at most, and of the records of one namespace: who may write records may make them up, and hides no others.
/// Each is one request, and a look is taken each minute: three to four requests a second at most.
const REMNANTS: usize = 200;
const REMNANTS_OF_ONE: usize = 10;

/// Records of one page of a list, metadata only: up to 256 KiB of annotations each.
const PAGE: u32 = 100;

/// How long records are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Number of the newest records that are kept of each experiment.
    pub count: usize,
    /// Age above which a record is deleted.
    pub age: SignedDuration,
}

/// What runs may have left by their records: in pods that are still there, and in which nobody has cleaned up since.
///
/// # Errors
/// When the API server does not list records, or a pod cannot be read.
pub async fn remnants(client: &Client, namespace: Option<&str>) -> kube::Result<Vec<Remnant>> {
    let api = listing::scoped::<Guarded<ChaosExperimentHistory>>(client, namespace);
    let marked = ListParams::default().labels(&format!("{REMAINS_LABEL}=true"));
    let mut suspects = Vec::new();
    let mut rooms: HashMap<String, usize> = HashMap::new();
    let keep = |record: Result<ChaosExperimentHistory, Unreadable>| {
        let record = record.ok()?;
        let own = record.namespace().unwrap_or_default();
        // What it says of another namespace's experiment is not that one's record.
        let record = Some(record.spec).filter(|record| record.experiment_ref.namespace == own)?;
        let room_of_one = rooms.entry(own).or_insert(if namespace.is_some() { REMNANTS } else { REMNANTS_OF_ONE });
        let room = (*room_of_one).min(REMNANTS - suspects.len());
        let pods: Vec<_> = record.pods.into_iter().filter(PodStatus::may_be_impaired).take(room).collect();
        *room_of_one -= pods.len();
        suspects.extend(pods.into_iter().map(|pod| (record.experiment_ref.clone(), pod)));
        None::<()>
    };
    listing::list(&api, &marked, listing::PAGE, keep).await?;
    let mut found: Vec<Remnant> = Vec::new();
    for (experiment, entry) in suspects {
        if !keeps_loss(client, &entry).await? {
            continue;
        }
        match found.iter_mut().find(|known| known.experiment == experiment) {
            Some(known) => known.pods += 1,
            None => found.push(Remnant { experiment, pods: 1 }),
        }
    }
    Ok(found)
}

/// A record, as far as it matters whether it is kept.
struct Kept {
    name: String,
    /// The experiment's uid.
    experiment: String,
    /// The experiment's name, as a label has it.
    called: String,
    made: Timestamp,
}

/// Which of these records are not kept, and why, in k8s-chaos's word for the first.
fn expired(records: &[Kept], retention: Retention, now: Timestamp) -> Vec<(&Kept, &'static str)> {
    let mut newest_first: Vec<_> = records.iter().collect();
    newest_first.sort_by_key(|record| std::cmp::Reverse(record.made));
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut gone = Vec::new();
    for record in newest_first {
        let count = seen.entry(&record.experiment).or_default();
        *count += 1;
        if *count > retention.count {
            gone.push((record, "retention_limit"));
        } else if now.duration_since(record.made) > retention.age {
            gone.push((record, "retention_age"));
        }
    }
    gone
}

/// Deletes the records of a namespace, or of all, that are not kept; `experiment` are those of one experiment alone.
///
/// # Errors
/// When the API server does not list them.
pub async fn prune(
    client: &Client,
    namespace: Option<&str>,
    experiment: Option<&str>,
    retention: Retention,
    now: Timestamp,
    metrics: &Metrics,
) -> kube::Result<()> {
    let labels = experiment.map_or_else(|| EXPERIMENT_LABEL.to_owned(), |uid| format!("{EXPERIMENT_LABEL}={uid}"));
    let mut page = ListParams::default().labels(&labels).limit(PAGE);
    let mut found: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    loop {
        let list = listing::metadata(listing::scoped::<ChaosExperimentHistory>(client, namespace), &page).await?;
        for object in &list.items {
            let label = |key: &str| object.labels().get(key).cloned().unwrap_or_default();
            let (experiment, called) = (label(EXPERIMENT_LABEL), label(NAME_LABEL));
            let made = object.creation_timestamp().map_or(now, |time| time.0);
            let record = Kept { name: object.name_any(), experiment, called, made };
            found.entry(object.namespace().unwrap_or_default()).or_default().push(record);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    for (namespace, records) in &found {
        let api = Api::<Guarded<PartialObjectMeta<ChaosExperimentHistory>>>::namespaced(client.clone(), namespace);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for record in records {
            *counts.entry(&record.called).or_default() += 1;
        }
        for (record, reason) in expired(records, retention, now) {
            let name = &record.name;
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {
                    metrics.history_deleted(reason);
                    info!(namespace, name, reason, "deleted a history record that is not kept any longer");
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    warn!(namespace, name, %error, "a history record could not be deleted");
                    continue;
                }
            }
            counts.entry(&record.called).and_modify(|count| *count = count.saturating_sub(1));
        }
        for (called, count) in counts {
            metrics.history_counted(namespace, called, count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http::Response;
    use kube::client::Body;
    use netloss_api::{Outcome, PodState};
    use netloss_cluster::testing;
    use netloss_core::machine::fixtures::{at, entry, spec};
    use serde_json::{Value, json};

    /// Whoever may write records in one namespace makes up as many as they like, in names that come first.
    #[tokio::test]
    async fn records_that_are_made_up_hide_none_of_another_namespace() {
        let record = |namespace: &str, of: &str, name: &str, pods: usize| {
            let pod = |number: usize| PodStatus {
                namespace: namespace.to_owned(),
                name: format!("pod-{number}"),
                state: PodState::Ended,
                outcome: Some(Outcome::Unknown),
                unguarded: Some(true),
                ..entry()
            };
            json!({
                "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperimentHistory", "metadata": { "name": name, "namespace": namespace },
                "spec": {
                    "experimentRef": { "name": "x", "namespace": of }, "experimentSpec": spec(),
                    "execution": { "startTime": "2027-01-15T08:00:00Z", "status": "partial", "run": 1 }, "audit": {},
                    "pods": (0..pods).map(pod).collect::<Vec<_>>(),
                },
            })
        };
        let made_up = (0..40).map(|number| record("aaa", "aaa", &format!("r{number}"), 50));
        let records: Vec<Value> = made_up.chain([record("aaa", "shop", "blame", 1), record("shop", "shop", "real", 1)]).collect();
        let client = testing::answering(move |request| {
            let path = request.uri().path().to_owned();
            let answer = if path.contains("chaosexperimenthistories") {
                json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": records })
            } else if path.contains("/namespaces/shop/") {
                json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "pod-0", "namespace": "shop", "uid": entry().uid }, "spec": { "containers": [] } })
            } else {
                json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404 })
            };
            let code = if answer["code"] == 404 { 404 } else { 200 };
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap();
            async move { response }.boxed()
        });
        let found = remnants(&client, None).await.unwrap();
        let names: Vec<_> = found.iter().map(|remnant| (remnant.experiment.namespace.as_str(), remnant.pods)).collect();
        assert_eq!(names, [("shop", 1)]);
    }

    #[test]
    fn records_go_by_count_and_by_age() {
        let made = |name: &str, experiment: &str, seconds| Kept {
            name: name.to_owned(),
            experiment: experiment.to_owned(),
            called: String::new(),
            made: at(seconds),
        };
        let expired = |records: &[Kept], retention, now| -> Vec<(String, &str)> {
            super::expired(records, retention, now).into_iter().map(|(record, why)| (record.name.clone(), why)).collect()
        };
        let gone = |name: &str, why: &'static str| (name.to_owned(), why);
        let records = [made("a1", "a", 0), made("a2", "a", 10), made("a3", "a", 20), made("b1", "b", 5)];
        let keep = |count, seconds| Retention { count, age: SignedDuration::from_secs(seconds) };
        assert_eq!(expired(&records, keep(2, 1000), at(30)), [gone("a1", "retention_limit")]);
        assert_eq!(expired(&records, keep(9, 12), at(30)), ["a2", "b1", "a1"].map(|name| gone(name, "retention_age")));
        assert!(expired(&records, keep(9, 1000), at(30)).is_empty());
    }
}
