//! From a workload to the labels by which an experiment selects its pods.

use super::{connect::Cluster, error::Error};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Api, api::ListParams, core::NamespaceResourceScope};
use netloss_api::EXCLUDE_LABEL;
use netloss_core::{
    sanitize::some_of,
    targets::{Candidate, Skip},
};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// Labels, all of which a pod must have.
pub(super) type Labels = BTreeMap<String, String>;

/// Kinds that have pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    Pod,
    Service,
}

impl Kind {
    /// By any of kubectl's names for it.
    fn parse(text: &str) -> Option<Self> {
        let (name, group) = text.split_once('.').unwrap_or((text, ""));
        let group_fits = |groups: &[&str]| group.is_empty() || groups.contains(&group);
        let (kind, groups): (Self, &[&str]) = match name.to_ascii_lowercase().as_str() {
            "deployment" | "deployments" | "deploy" => (Self::Deployment, &["apps", "v1.apps"]),
            "statefulset" | "statefulsets" | "sts" => (Self::StatefulSet, &["apps", "v1.apps"]),
            "daemonset" | "daemonsets" | "ds" => (Self::DaemonSet, &["apps", "v1.apps"]),
            "replicaset" | "replicasets" | "rs" => (Self::ReplicaSet, &["apps", "v1.apps"]),
            "job" | "jobs" => (Self::Job, &["batch", "v1.batch"]),
            "pod" | "pods" | "po" => (Self::Pod, &["v1"]),
            "service" | "services" | "svc" => (Self::Service, &["v1"]),
            _ => return None,
        };
        group_fits(groups).then_some(kind)
    }

    /// In lower case, as kubectl names it in its output.
    fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::ReplicaSet => "replicaset",
            Self::Job => "job",
            Self::Pod => "pod",
            Self::Service => "service",
        }
    }
}

/// A workload as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WAY_OUT: &str =
            "give TYPE/NAME, such as deploy/web, statefulset/db, daemonset/log, replicaset/web-5d, job/load, pod/web-0 or service/web";
        let (kind, name) = text.split_once('/').ok_or_else(|| format!("\"{text}\" names no workload: {WAY_OUT}"))?;
        let kind = Kind::parse(kind).ok_or_else(|| format!("\"{kind}\" is no type of workload that netloss knows: {WAY_OUT}"))?;
        if name.is_empty() || name.contains('/') {
            return Err(format!("\"{text}\" names no workload: {WAY_OUT}"));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// Labels as kubectl's `-l` has them, equality alone: `app=web,tier=front`.
pub(super) fn parse_labels(text: &str) -> Result<Labels, String> {
    let pair = |part: &str| {
        let (key, value) = part.split_once("==").or_else(|| part.split_once('='))?;
        let key = key.trim();
        (!key.is_empty() && !key.ends_with('!') && !key.contains(' ')).then(|| (key.to_owned(), value.trim().to_owned()))
    };
    let words = "an experiment selects pods by equal labels alone: give KEY=VALUE, more of them with commas between";
    let labels: Option<Labels> = text.split(',').map(pair).collect();
    labels.filter(|labels| !labels.is_empty()).ok_or_else(|| format!("\"{text}\": {words}"))
}

/// Why an object's pods cannot be named by labels.
#[derive(Debug, PartialEq, Eq)]
enum NoLabels {
    /// It has expressions, which an experiment's selector does not have.
    Expressions,
    /// It selects nothing.
    None,
}

/// The labels of a selector, where labels say all of it.
fn of_selector(selector: Option<&LabelSelector>) -> Result<Labels, NoLabels> {
    let labels = selector.and_then(|selector| selector.match_labels.clone()).unwrap_or_default();
    let has_expressions = selector.is_some_and(|selector| selector.match_expressions.as_ref().is_some_and(|list| !list.is_empty()));
    match (labels.is_empty(), has_expressions) {
        (_, true) => Err(NoLabels::Expressions),
        (true, false) => Err(NoLabels::None),
        (false, false) => Ok(labels),
    }
}

fn refused(workload: &Workload, why: &NoLabels) -> String {
    match why {
        NoLabels::Expressions => format!(
            "{workload} selects its pods by matchExpressions, and an experiment by labels alone: name labels that its pods have and no others, with \
             -l KEY=VALUE (kubectl get pods --show-labels)"
        ),
        NoLabels::None if workload.kind == Kind::Pod => {
            format!(
                "{workload} has no labels, and an experiment selects by labels: label it, or put the loss into this pod alone with --direct"
            )
        }
        NoLabels::None => {
            format!(
                "{workload} selects no pods by labels: name the labels of the pods behind it with -l KEY=VALUE, or one pod with pod/NAME"
            )
        }
    }
}

/// How an experiment selects the pods of a workload.
pub(super) struct Selection {
    /// Labels that they have.
    pub(super) labels: Labels,
    /// Uids of the controllers whose pods are meant; none where labels are all that was named.
    pub(super) owners: Option<BTreeSet<String>>,
}

/// The labels by which an experiment selects the pods of a workload, and who owns these.
pub(super) async fn select(cluster: &Cluster, workload: &Workload) -> Result<Selection, Error> {
    let (labels, uid) = match workload.kind {
        Kind::Deployment => {
            let object = read::<Deployment>(cluster, workload).await?;
            (of_selector(Some(&object.spec.unwrap_or_default().selector)), object.metadata.uid)
        }
        Kind::StatefulSet => {
            let object = read::<StatefulSet>(cluster, workload).await?;
            (of_selector(Some(&object.spec.unwrap_or_default().selector)), object.metadata.uid)
        }
        Kind::DaemonSet => {
            let object = read::<DaemonSet>(cluster, workload).await?;
            (of_selector(Some(&object.spec.unwrap_or_default().selector)), object.metadata.uid)
        }
        Kind::ReplicaSet => {
            let object = read::<ReplicaSet>(cluster, workload).await?;
            (of_selector(Some(&object.spec.unwrap_or_default().selector)), object.metadata.uid)
        }
        Kind::Job => {
            let object = read::<Job>(cluster, workload).await?;
            (of_selector(object.spec.unwrap_or_default().selector.as_ref()), object.metadata.uid)
        }
        // A Service's pods are those with its labels, whoever owns them; a pod is compared by name.
        Kind::Service => (plain(read::<Service>(cluster, workload).await?.spec.unwrap_or_default().selector), None),
        Kind::Pod => (plain(read::<Pod>(cluster, workload).await?.metadata.labels), None),
    };
    let labels = labels.map_err(|why| Error::Failed(refused(workload, &why)))?;
    let owners = match uid {
        Some(uid) if workload.kind == Kind::Deployment => Some(replica_sets(cluster, &labels, &uid).await?),
        uid => uid.map(|uid| BTreeSet::from([uid])),
    };
    Ok(Selection { labels, owners })
}

/// A Deployment's pods are owned by its ReplicaSets, which have its labels: it adopts no others.
async fn replica_sets(cluster: &Cluster, labels: &Labels, deployment: &str) -> Result<BTreeSet<String>, Error> {
    let list = cluster.here::<ReplicaSet>().list_metadata(&with(labels)).await;
    let list = list.map_err(Error::api(format!("listing replicasets in namespace \"{}\"", cluster.namespace)))?;
    let owned = list.items.into_iter().filter(|set| controller(&set.metadata) == Some(deployment));
    Ok(owned.filter_map(|set| set.metadata.uid).collect())
}

/// Refuses where an experiment that selects by these labels could affect pods that are not the workload's own.
pub(super) async fn check_owners(
    cluster: &Cluster,
    workload: &Workload,
    labels: &Labels,
    owners: &BTreeSet<String>,
    pods: &[Candidate],
) -> Result<(), Error> {
    let list = cluster.here::<Pod>().list_metadata(&with(labels)).await;
    let list = list.map_err(Error::api(format!("listing pods in namespace \"{}\"", cluster.namespace)))?;
    let metadata: Vec<ObjectMeta> = list.items.into_iter().map(|pod| pod.metadata).collect();
    let others = foreign(owners, &metadata, pods);
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{} pod(s) with the labels of {workload} are not its own: {}: an experiment selects by labels and could affect them: give labels that only its pods have \
         with -l, label the others {EXCLUDE_LABEL}=true, or put the loss into one pod with --direct",
        others.len(),
        some_of(others)
    )))
}

/// The names of pods that no owner has and an experiment may choose, now or when they run.
fn foreign(owners: &BTreeSet<String>, metadata: &[ObjectMeta], pods: &[Candidate]) -> Vec<String> {
    let is_never_chosen = |uid: Option<&str>| {
        let skip = pods.iter().find(|pod| uid == Some(&pod.target.uid)).and_then(|pod| pod.skip.as_ref());
        matches!(skip, Some(Skip::Finished | Skip::Terminating | Skip::HostNetwork | Skip::Mirror | Skip::Windows | Skip::Excluded))
    };
    let is_foreign = |pod: &&ObjectMeta| !controller(pod).is_some_and(|uid| owners.contains(uid)) && !is_never_chosen(pod.uid.as_deref());
    metadata.iter().filter(is_foreign).filter_map(|pod| pod.name.clone()).collect()
}

/// The uid of the object that controls this one.
fn controller(metadata: &ObjectMeta) -> Option<&str> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn with(labels: &Labels) -> ListParams {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    ListParams::default().labels(&labels.join(","))
}

fn plain(labels: Option<Labels>) -> Result<Labels, NoLabels> {
    labels.filter(|labels| !labels.is_empty()).ok_or(NoLabels::None)
}

async fn read<K>(cluster: &Cluster, workload: &Workload) -> Result<K, Error>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let api: Api<K> = cluster.here();
    let found = api.get_opt(&workload.name).await.map_err(Error::api(format!("reading {workload}")))?;
    found.ok_or_else(|| {
        let namespace = &cluster.namespace;
        let kind = workload.kind.as_str();
        Error::Failed(format!(
            "there is no {workload} in namespace \"{namespace}\": `kubectl get {kind} -n {namespace}` lists those that are there, -n names another \
             namespace"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::json;

    #[test]
    fn workloads_are_named_as_kubectl_names_them() {
        for (text, kind) in [
            ("deploy/web", Kind::Deployment),
            ("Deployment.apps/web", Kind::Deployment),
            ("deployments.v1.apps/web", Kind::Deployment),
            ("sts/web", Kind::StatefulSet),
            ("daemonset/web", Kind::DaemonSet),
            ("rs/web", Kind::ReplicaSet),
            ("job/web", Kind::Job),
            ("po/web", Kind::Pod),
            ("svc/web", Kind::Service),
        ] {
            assert_eq!(text.parse::<Workload>().unwrap(), Workload { kind, name: "web".to_owned() }, "{text}");
        }
        for text in ["web", "node/web", "deploy/", "deploy/a/b", "deployment.batch/web"] {
            let error = text.parse::<Workload>().unwrap_err();
            assert!(error.contains("give TYPE/NAME, such as deploy/web"), "{error}");
        }
    }

    #[test]
    fn labels_are_equalities() {
        let labels = parse_labels("app=web, tier==front").unwrap();
        assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("app".into(), "web".into()), ("tier".into(), "front".into())]);
        for text in ["app", "", "app!=web", "app in (web)", "=web"] {
            assert!(parse_labels(text).unwrap_err().contains("equal labels alone"), "{text}");
        }
    }

    #[test]
    fn pods_of_another_owner_are_foreign_unless_they_are_never_chosen() {
        let owned = |name: &str, owner: Option<&str>| ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            owner_references: owner
                .map(|uid| vec![OwnerReference { controller: Some(true), uid: uid.to_owned(), ..OwnerReference::default() }]),
            ..ObjectMeta::default()
        };
        let metadata = [owned("own", Some("new")), owned("old", Some("old")), owned("other", Some("canary")), owned("bare", None)];
        let owners = BTreeSet::from(["old".to_owned(), "new".to_owned()]);
        assert_eq!(foreign(&owners, &metadata, &[]), ["other", "bare"]);
        let with_skip = |skip| {
            let mut pods = netloss_core::machine::fixtures::candidates(1);
            (pods[0].target.uid, pods[0].skip) = ("uid-other".to_owned(), Some(skip));
            foreign(&owners, &metadata, &pods)
        };
        assert_eq!(with_skip(Skip::Finished), ["bare"]);
        assert_eq!(with_skip(Skip::NotRunning), ["other", "bare"], "it may run by the time that pods are chosen");
    }

    #[test]
    fn a_selector_is_taken_where_labels_say_all_of_it() {
        let of = |value: serde_json::Value| of_selector(Some(&serde_json::from_value(value).unwrap()));
        assert_eq!(of(json!({ "matchLabels": { "app": "web" } })).unwrap().len(), 1);
        let expression = json!([{ "key": "app", "operator": "In", "values": ["web"] }]);
        assert_eq!(of(json!({ "matchExpressions": expression })), Err(NoLabels::Expressions));
        // Its labels alone would take pods that are not its own.
        assert_eq!(of(json!({ "matchLabels": { "app": "web" }, "matchExpressions": expression })), Err(NoLabels::Expressions));
        assert_eq!(of(json!({})), Err(NoLabels::None));
        assert_eq!(of_selector(None), Err(NoLabels::None));
        let words = refused(&"deploy/web".parse().unwrap(), &NoLabels::Expressions);
        assert!(words.starts_with("deployment/web selects its pods by matchExpressions") && words.contains("-l KEY=VALUE"), "{words}");
    }
}
