//! `freeze` and `unfreeze`: stop everything, and begin nothing.

use super::{
    connect::FIELD_MANAGER,
    connect::{Cluster, Scope},
    error::{Error, is_forbidden, is_missing},
    orphans,
    output::{note, print},
    presence,
    status::experiments,
    verdict,
};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use netloss_api::{FREEZE, FREEZE_ANNOTATION};
use netloss_cluster::agents::Agent;
use netloss_contract::Ttl;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between looks at what is still under way.
const AGAIN: Duration = Duration::from_secs(1);
/// An agent has half a minute to stop, and what stops it has to start first.
pub(super) const STOP_LIMIT: Duration = Duration::from_mins(5);

/// Stop every run of netloss's controller and begin none, until unfreeze
#[derive(Debug, Args)]
pub(super) struct FreezeArgs {
    /// Why, for those who want to run something meanwhile
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Wait until nothing is under way any more
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,

    /// Wait no longer than this; left out it is five minutes
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Ttl>,
}

pub(super) async fn freeze(args: FreezeArgs, cluster: &Cluster) -> Result<(), Error> {
    let change = json!({
        "metadata": { "annotations": { FREEZE_ANNOTATION: "true" } },
        "data": { "reason": args.reason.unwrap_or_default() },
    });
    change_map(cluster, "freezing", change, true).await?;
    print(&format!("frozen: every run of netloss's controller in namespace \"{}\" is stopped, and none begins\n", cluster.own_namespace))?;
    if args.wait { until_quiet(cluster, args.timeout.map_or(STOP_LIMIT, Ttl::duration)).await } else { Ok(()) }
}

pub(super) async fn unfreeze(cluster: &Cluster) -> Result<(), Error> {
    let change = json!({ "metadata": { "annotations": { FREEZE_ANNOTATION: null } }, "data": { "reason": "" } });
    change_map(cluster, "unfreezing", change, false).await?;
    let rerun = cluster.command("rerun NAME -n NAMESPACE");
    print(&format!("no longer frozen; stopped runs do not go on: {rerun} begins another (schedules continue)\n"))
}

async fn change_map(cluster: &Cluster, what: &str, change: serde_json::Value, make: bool) -> Result<(), Error> {
    let namespace = &cluster.own_namespace;
    let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let what = format!("{what} (ConfigMap {namespace}/{FREEZE})");
    match api.patch(FREEZE, &params, &Patch::Merge(&change)).await {
        // Where no controller is, nobody would read it.
        Err(error) if is_missing(&error) && make && presence::is_installed(cluster).await => {
            let mut map = change;
            map["metadata"]["name"] = json!(FREEZE);
            let map = serde_json::from_value(map).map_err(|error| Error::Failed(format!("{what}: {error}")))?;
            api.create(&PostParams::default(), &map).await.map(drop).map_err(Error::api(what))
        }
        // Another namespace's may be frozen: this is no answer to whether experiments run again.
        Err(error) if is_missing(&error) => Err(Error::Failed(format!(
            "{what}: it does not exist, and no controller of netloss is known there, so nothing was changed: name the namespace of netloss's controller \
             with --controller-namespace"
        ))),
        answer => answer.map(drop).map_err(Error::api(what)),
    }
}

/// The active agents of no experiment. A direct run stops by itself where its user may read the freeze.
async fn direct_agents(cluster: &Cluster) -> Result<Vec<Agent>, Error> {
    match cluster.api::<Pod>(&Scope::All).list(&ListParams::default()).await {
        Ok(pods) => Ok(orphans::look(cluster, &pods.items).await?.orphans),
        Err(error) if is_forbidden(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::api("listing pods")(error)),
    }
}

/// Waits until nothing is under way in any namespace.
async fn until_quiet(cluster: &Cluster, limit: Duration) -> Result<(), Error> {
    let end = Instant::now() + limit;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let agents = direct_agents(cluster).await?;
        let objects = match experiments(cluster, &Scope::All).await {
            Err(Error::Forbidden(_)) => {
                note("what is under way in other namespaces cannot be seen with these rights: not waited for");
                return Ok(());
            }
            other => other?,
        };
        let is_open = |object: &&netloss_api::ChaosExperiment| !verdict::is_at_rest(object);
        let open = objects.iter().filter(is_open).map(|object| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()));
        let open: Vec<String> = open.chain(agents.iter().map(Agent::words)).collect();
        if open.is_empty() {
            for object in &objects {
                verdict::clean(object, &object.status.clone().unwrap_or_default())?;
            }
            return print("nothing is under way\n");
        }
        if Instant::now() >= end {
            return Err(Error::TimedOut(format!(
                "still under way after {} s: {}: {} stops agents with your own rights where the controller is down, and agents of no experiment",
                limit.as_secs(),
                open.join(", "),
                cluster.command("stop -A")
            )));
        }
        tokio::select! {
            () = sleep(AGAIN) => {}
            _ = &mut interrupt => return Err(Error::Interrupted("frozen; not waited for".to_owned())),
        }
    }
}
