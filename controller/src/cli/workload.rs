//! From a workload to the labels by which an experiment selects its pods.

use super::{connect::Cluster, error::Error};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt, str::FromStr};

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

/// The labels by which an experiment selects the pods of a workload.
pub(super) async fn labels(cluster: &Cluster, workload: &Workload) -> Result<Labels, Error> {
    let found = match workload.kind {
        Kind::Deployment => of_selector(Some(&read::<Deployment>(cluster, workload).await?.spec.unwrap_or_default().selector)),
        Kind::StatefulSet => of_selector(Some(&read::<StatefulSet>(cluster, workload).await?.spec.unwrap_or_default().selector)),
        Kind::DaemonSet => of_selector(Some(&read::<DaemonSet>(cluster, workload).await?.spec.unwrap_or_default().selector)),
        Kind::ReplicaSet => of_selector(Some(&read::<ReplicaSet>(cluster, workload).await?.spec.unwrap_or_default().selector)),
        Kind::Job => of_selector(read::<Job>(cluster, workload).await?.spec.unwrap_or_default().selector.as_ref()),
        Kind::Service => plain(read::<Service>(cluster, workload).await?.spec.unwrap_or_default().selector),
        Kind::Pod => plain(read::<Pod>(cluster, workload).await?.metadata.labels),
    };
    found.map_err(|why| Error::Failed(refused(workload, &why)))
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
