//! Which agents in pods belong to no experiment.
//!
//! Pods are always listed before experiments: the controller writes an agent down before it injects it, so each agent of the pods is in the experiments that
//! are listed afterwards. An experiment of any namespace may own an agent, so experiments of all namespaces are listed, whatever namespace the pods are of.

use super::{
    connect::{Cluster, PAGE, Scope},
    error::{Error, is_forbidden, is_missing},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use netloss_api::{ChaosExperiment, ChaosExperimentStatus};
use netloss_cluster::agents::{self, Agent};
use netloss_cluster::{
    guarded::{Guarded, Unreadable},
    listing,
};
use std::collections::BTreeSet;

/// Active agents that no listed experiment has as open.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Orphans {
    /// Of no experiment in the cluster, or of a direct run.
    pub(super) orphans: Vec<Agent>,
    /// Their experiment may be in a namespace that could not be listed, or does not decode.
    pub(super) unknown: Vec<Agent>,
}

/// What the experiments of a cluster say of agents.
#[derive(Debug, Default)]
struct Owners {
    /// Uid of the pod and name of the container of each open entry.
    open: BTreeSet<(String, String)>,
    /// Uids of the experiments that were read.
    read: BTreeSet<String>,
    /// Uids of the experiments that do not decode.
    unreadable: BTreeSet<String>,
    /// Whether the experiments of all namespaces were listed.
    is_complete: bool,
}

impl Owners {
    fn add(&mut self, object: Result<ChaosExperiment, Unreadable>) {
        match object {
            Ok(object) => {
                self.read.extend(object.uid());
                let open = object.status.iter().flat_map(ChaosExperimentStatus::open_pods);
                self.open.extend(open.map(|entry| (entry.uid.clone(), entry.container.clone())));
            }
            Err(Unreadable { metadata, .. }) => self.unreadable.extend(metadata.uid),
        }
    }

    fn of(&self, agents: Vec<Agent>) -> Orphans {
        let mut found = Orphans::default();
        for agent in agents {
            let owner = agent.owner();
            if self.open.contains(&(agent.pod_uid.clone(), agent.container.clone())) {
                continue;
            }
            let is_unreadable = owner.is_some_and(|uid| self.unreadable.contains(uid));
            let is_known = agent.is_direct() || owner.is_some_and(|uid| self.read.contains(uid));
            if !is_unreadable && (self.is_complete || is_known) {
                found.orphans.push(agent);
            } else {
                found.unknown.push(agent);
            }
        }
        found
    }
}

/// Sorts the active agents of `pods`, which have to be listed before this is called.
///
/// # Errors
/// When experiments cannot be listed, not even those of the namespace.
pub(super) async fn look(cluster: &Cluster, pods: &[Pod]) -> Result<Orphans, Error> {
    let agents = agents::active(pods, Timestamp::now());
    if agents.is_empty() {
        return Ok(Orphans::default());
    }
    Ok(owners(cluster).await?.of(agents))
}

/// Whether the agent is active and still belongs to no experiment: read again right before something is done about it.
///
/// # Errors
/// When the pod or the experiments cannot be read.
pub(super) async fn is_still_orphan(cluster: &Cluster, agent: &Agent) -> Result<bool, Error> {
    let pod = cluster.find::<Pod>(&agent.namespace, &agent.pod).await;
    let pod = pod.map_err(Error::api(format!("reading pod {}/{}", agent.namespace, agent.pod)))?;
    let found = look(cluster, pod.as_slice()).await?;
    Ok(found.orphans.contains(agent))
}

async fn owners(cluster: &Cluster) -> Result<Owners, Error> {
    match of_scope(cluster, &Scope::All).await {
        Ok(owners) => Ok(Owners { is_complete: true, ..owners }),
        Err(error) if is_forbidden(&error) => of_scope(cluster, &cluster.scope(false)).await.map_err(Error::api("listing experiments")),
        // Without the definition there is no experiment.
        Err(error) if is_missing(&error) => Ok(Owners { is_complete: true, ..Owners::default() }),
        Err(error) => Err(Error::api("listing experiments")(error)),
    }
}

async fn of_scope(cluster: &Cluster, scope: &Scope) -> kube::Result<Owners> {
    let mut owners = Owners::default();
    let keep = |object| {
        owners.add(object);
        None::<()>
    };
    listing::list(&cluster.api::<Guarded<ChaosExperiment>>(scope), &ListParams::default(), PAGE, keep).await?;
    Ok(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::ObjectMeta;
    use netloss_api::{Outcome, PodState, PodStatus};
    use netloss_cluster::agents::fixtures::{UID, agent};
    use netloss_core::machine::fixtures::{entry, spec};

    fn owners(objects: Vec<Result<ChaosExperiment, Unreadable>>, is_complete: bool) -> Owners {
        let mut owners = Owners { is_complete, ..Owners::default() };
        for object in objects {
            owners.add(object);
        }
        owners
    }

    /// The experiment of the agent, which may be in any namespace.
    fn owner(state: PodState) -> ChaosExperiment {
        let agent = agent(UID);
        let outcome = (state == PodState::Ended).then_some(Outcome::Unknown);
        let entry = PodStatus { uid: agent.pod_uid, container: agent.container, state, outcome, ..entry() };
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("elsewhere".to_owned());
        object.metadata.uid = Some(UID.to_owned());
        object.status = Some(ChaosExperimentStatus { pods: vec![entry], ..ChaosExperimentStatus::default() });
        object
    }

    fn sorted(owners: &Owners, uid: &str) -> (usize, usize) {
        let found = owners.of(vec![agent(uid)]);
        (found.orphans.len(), found.unknown.len())
    }

    #[test]
    fn an_agent_of_another_namespaces_experiment_is_no_orphan() {
        assert_eq!(sorted(&owners(vec![Ok(owner(PodState::Planned))], true), UID), (0, 0));
        assert_eq!(sorted(&owners(vec![Ok(owner(PodState::Ended))], true), UID), (1, 0), "its experiment says that it has ended");
        assert_eq!(sorted(&owners(vec![], true), UID), (1, 0));
    }

    #[test]
    fn an_agent_whose_experiment_cannot_be_read_is_left_alone() {
        assert_eq!(sorted(&owners(vec![], false), UID), (0, 1), "it may be in a namespace that was not listed");
        assert_eq!(sorted(&owners(vec![Ok(owner(PodState::Ended))], false), UID), (1, 0), "it was listed");
        let metadata = ObjectMeta { uid: Some(UID.to_owned()), ..ObjectMeta::default() };
        let unreadable = Unreadable { metadata, error: "of another version".to_owned() };
        assert_eq!(sorted(&owners(vec![Err(unreadable)], true), UID), (0, 1));
    }

    #[test]
    fn a_direct_run_has_no_experiment_anywhere() {
        let uid = crate::direct::uid();
        assert_eq!(sorted(&owners(vec![], false), &uid), (1, 0));
    }
}
