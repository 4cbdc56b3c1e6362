//! What is looked at before a run: as the webhook would, with the user's own rights, and on past what those do not reach.

use super::{
    connect::Cluster,
    error::{Error, is_forbidden},
};
use jiff::Timestamp;
use netloss_api::ChaosExperimentSpec;
use netloss_cluster::observe;
use netloss_core::{
    admission::{self, Admission, ObservedState, Operation},
    machine::{Experiment, Settings},
    targets::{Candidate, NamespaceFacts},
};

/// The pods with these labels in the namespace.
pub(super) async fn pods(cluster: &Cluster, selector: &super::workload::Labels) -> Result<Vec<Candidate>, Error> {
    let namespace = &cluster.namespace;
    observe::candidates(&cluster.client, namespace, selector, Timestamp::now())
        .await
        .map_err(Error::api(format!("listing pods in namespace \"{namespace}\"")))
}

/// What is known of the namespace; by its name alone where it may not be read.
pub(super) async fn namespace(cluster: &Cluster) -> Result<NamespaceFacts, Error> {
    let name = &cluster.namespace;
    match observe::facts(&cluster.client, name).await {
        Ok(facts) => Ok(facts),
        Err(error) if is_forbidden(&error) => Ok(NamespaceFacts::of(name, None, None)),
        Err(error) => Err(Error::api(format!("reading namespace \"{name}\""))(error)),
    }
}

/// Why everything is frozen, if that can be seen.
pub(super) async fn freeze(cluster: &Cluster) -> Result<Option<String>, Error> {
    match observe::freeze(&cluster.client, &cluster.own_namespace).await {
        Err(error) if is_forbidden(&error) => Ok(None),
        answer => answer.map_err(Error::api("reading whether experiments are frozen")),
    }
}

/// What the webhook would say to creating this experiment, as far as this user can tell.
pub(super) fn validate(
    cluster: &Cluster,
    spec: &ChaosExperimentSpec,
    pods: &[Candidate],
    namespace: &NamespaceFacts,
    freeze: Option<&str>,
    now: Timestamp,
) -> Admission {
    let experiment = Experiment {
        namespace: &cluster.namespace,
        uid: "",
        generation: 1,
        deleting: false,
        finalized: false,
        requested: None,
        spec,
        status: None,
    };
    let seen = ObservedState {
        namespace: Some(namespace.clone()),
        may_act: true,
        pods: pods.to_vec(),
        freeze: freeze.map(str::to_owned),
        // Pods of all namespaces are more than a user may see; the webhook looks.
        conflicting_controller: None,
    };
    admission::validate(&experiment, Operation::Create, &seen, now, &Settings::new("", &cluster.own_namespace))
}
