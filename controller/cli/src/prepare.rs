//! What a run would act on: its spec, the pods and what is known of their namespace.

use super::{
    connect::Cluster,
    error::Error,
    loss::LossArgs,
    preview,
    workload::{self, Labels, Selection, Workload},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use netloss_api::ChaosExperimentSpec;
use netloss_core::targets::{Candidate, NamespaceFacts};

/// What a run would act on.
pub(super) struct Prepared {
    pub(super) spec: ChaosExperimentSpec,
    pub(super) pods: Vec<Candidate>,
    pub(super) namespace: NamespaceFacts,
}

/// Makes the spec, and looks at what it would act on.
pub(super) async fn prepare(cluster: &Cluster, loss: &LossArgs) -> Result<Prepared, Error> {
    let Selection { labels, owners } = loss.selection(cluster).await?;
    let (pods, namespace) = futures::try_join!(preview::pods(cluster, &labels), preview::namespace(cluster))?;
    loss.check(&pods)?;
    if let (Some(workload), Some(owners)) = (&loss.target, &owners) {
        workload::check_owners(cluster, workload, &labels, owners, &pods).await?;
    }
    Ok(Prepared { spec: loss.spec(&labels, &pods)?, pods, namespace })
}

/// Looks at one pod, whatever other pods have its labels.
pub(super) async fn prepare_alone(cluster: &Cluster, loss: &LossArgs, pod: &Workload) -> Result<Prepared, Error> {
    let found = cluster.here::<Pod>().get_opt(&pod.name).await.map_err(Error::api(format!("reading {pod}")))?;
    let found = found
        .ok_or_else(|| Error::Failed(format!("there is no {pod} in namespace \"{}\": -n names another namespace", cluster.namespace)))?;
    let pods = vec![Candidate::of(&found, Timestamp::now())];
    // Nobody selects by it: a spec has to have one.
    let labels = found.metadata.labels.filter(|labels| !labels.is_empty());
    let labels = labels.unwrap_or_else(|| Labels::from([("app.kubernetes.io/name".to_owned(), "direct".to_owned())]));
    Ok(Prepared { spec: loss.spec(&labels, &pods)?, pods, namespace: preview::namespace(cluster).await? })
}
