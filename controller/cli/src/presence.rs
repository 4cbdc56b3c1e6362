//! Whether netloss's controller is there: by its lease, and where it has none by its pods.

use super::connect::Cluster;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
};
use kube::{Api, api::ListParams};
use netloss_api::LEASE;
use netloss_core::{sanitize::line, targets::is_ready};

/// The Deployment, as config/manager has it.
pub(super) const DEPLOYMENT: &str = "netloss-controller";

/// The label of the controller's pods, as config/manager has it.
const LABEL: &str = "app.kubernetes.io/name=netloss-controller";

/// What is known of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presence {
    /// This replica holds the lease, and has renewed it lately.
    Leads(String),
    /// No lease is held, but so many of its pods are ready.
    Ready(usize),
    /// The lease was renewed last so many seconds ago.
    Stale(String, i64),
    /// Neither a lease that is held nor a pod that is ready.
    Absent,
    /// It could not be looked at; why.
    Unknown(String),
}

impl Presence {
    /// Whether nobody would act on an experiment now, as far as that can be told.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Stale(..) | Self::Absent)
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Leads(holder) => format!("{holder} runs experiments"),
            Self::Ready(count) => format!("{count} pod(s) of it are ready"),
            Self::Stale(holder, seconds) => format!("down: {holder} has not renewed its lease for {seconds} s"),
            Self::Absent => "down: no pod of it is ready, and nobody holds its lease".to_owned(),
            Self::Unknown(why) => format!("not known: {why}"),
        }
    }
}

/// Looks at the lease and the pods.
pub(super) async fn look(cluster: &Cluster) -> Presence {
    let namespace = &cluster.own_namespace;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let own = ListParams::default().labels(LABEL);
    let (lease, pods, now) = futures::join!(leases.get_opt(LEASE), pods.list(&own), cluster.now());
    let ready = pods.map(|list| list.items.iter().filter(|pod| is_ready(pod)).count()).map_err(|error| said(&error));
    let lease = lease.map(|lease| lease.and_then(|lease| lease.spec)).map_err(|error| said(&error));
    of(lease, ready, now)
}

/// Whether a controller is, or was, in its namespace, as far as the user may see it: a lease is left where none runs any more.
pub(super) async fn is_installed(cluster: &Cluster) -> bool {
    let namespace = &cluster.own_namespace;
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), namespace);
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), namespace);
    let (lease, deployment) = futures::join!(leases.get_metadata_opt(LEASE), deployments.get_metadata_opt(DEPLOYMENT));
    matches!(lease, Ok(Some(_))) || matches!(deployment, Ok(Some(_)))
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => line(&status.message),
        other => line(&other.to_string()),
    }
}

/// What lease and pods come to.
fn of(lease: Result<Option<LeaseSpec>, String>, ready: Result<usize, String>, now: Timestamp) -> Presence {
    /// A replica that is slow, or whose clock is another, is not down.
    const SLACK: i64 = 5;
    let held = lease.as_ref().ok().and_then(Option::as_ref).and_then(|spec| {
        let (holder, renewed) = (line(spec.holder_identity.as_deref()?), spec.renew_time.as_ref()?.0);
        let ago = now.duration_since(renewed).as_secs();
        Some((holder, ago, ago <= i64::from(spec.lease_duration_seconds.unwrap_or(15)) + SLACK))
    });
    match (held, ready) {
        (Some((holder, _, true)), _) => Presence::Leads(holder),
        (Some((holder, ago, false)), _) => Presence::Stale(holder, ago),
        (None, Ok(count)) if count > 0 => Presence::Ready(count),
        (None, Ok(_)) => match lease {
            Ok(_) => Presence::Absent,
            Err(why) => Presence::Unknown(why),
        },
        (None, Err(why)) => Presence::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use netloss_core::machine::fixtures::at;

    fn lease(renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some("one".to_owned()),
            renew_time: Some(MicroTime(at(renewed))),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_that_is_renewed_is_a_controller_that_runs() {
        assert_eq!(of(Ok(Some(lease(0))), Ok(0), at(10)), Presence::Leads("one".to_owned()));
        let stale = of(Ok(Some(lease(0))), Ok(2), at(60));
        assert!(stale.is_down(), "its pods may be there, but nobody acts: {stale:?}");
        assert_eq!(stale.words(), "down: one has not renewed its lease for 60 s");
    }

    #[test]
    fn without_a_lease_its_pods_tell() {
        assert_eq!(of(Ok(None), Ok(1), at(0)), Presence::Ready(1));
        assert_eq!(of(Ok(Some(LeaseSpec::default())), Ok(0), at(0)), Presence::Absent);
        let unknown = of(Err("forbidden".to_owned()), Err("forbidden".to_owned()), at(0));
        assert!(unknown == Presence::Unknown("forbidden".to_owned()) && !unknown.is_down());
        assert!(!of(Err("forbidden".to_owned()), Ok(0), at(0)).is_down(), "who may not see the lease cannot tell");
    }
}
