//! Which cluster, as whom and where: the flags that kubectl has too.

use super::{error::Error, output::note};
use crate::{
    guarded::{Guarded, Unreadable},
    listing,
};
use clap::Args;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory};
use netloss_core::words::plain;
use serde::{Serialize, de::DeserializeOwned};
use std::{path::PathBuf, time::Duration};

/// How long a connection to the API server may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Objects of one page of a list: what kubectl asks for at a time.
pub(super) const PAGE: u32 = 500;

/// The heading that these flags stand under in help.
const HEADING: &str = "Connection, as kubectl has it";

/// Which cluster, as whom and where.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct ConnectionArgs {
    /// Kubeconfig file; left out it is $KUBECONFIG, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; left out it is the current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,

    /// Cluster of the kubeconfig, in place of the context's
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,

    /// User of the kubeconfig, in place of the context's
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,

    /// Namespace; left out it is the context's
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,

    /// User to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,

    /// Group to act as; may be given more than once
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    impersonate_groups: Vec<String>,

    /// How long one request may take, such as 30s; 0 is without a limit
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", value_parser = request_timeout)]
    request_timeout: RequestTimeout,

    /// Namespace that netloss's controller runs in
    #[arg(long, global = true, value_name = "NAME", default_value = "netloss-system", env = "NETLOSS_NAMESPACE")]
    controller_namespace: String,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RequestTimeout(Option<Duration>);

fn request_timeout(text: &str) -> Result<RequestTimeout, String> {
    if matches!(text, "0" | "0s") {
        return Ok(RequestTimeout(None));
    }
    // kubectl takes a bare number for seconds.
    let text = if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let span: netloss_contract::Ttl = text.parse().map_err(|error: netloss_contract::Invalid| error.to_string())?;
    Ok(RequestTimeout(Some(span.duration())))
}

/// A namespace, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// All namespaces.
    All,
    /// This one.
    One(String),
}

impl Scope {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One(namespace) => Some(namespace),
        }
    }
}

/// A cluster as somebody sees it.
#[derive(Clone)]
pub(super) struct Cluster {
    /// Asks the API server.
    pub(super) client: Client,
    /// Where things are, unless said otherwise.
    pub(super) namespace: String,
    /// The controller's namespace.
    pub(super) own_namespace: String,
}

impl ConnectionArgs {
    /// Reads the kubeconfig, and makes a client of it. Asks nothing of the cluster yet.
    pub(super) async fn connect(&self) -> Result<Cluster, Error> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        if let RequestTimeout(Some(limit)) = self.request_timeout {
            (config.read_timeout, config.write_timeout, config.reset_reader_on_write) = (Some(limit), Some(limit), true);
        }
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        if !self.impersonate_groups.is_empty() {
            config.auth_info.impersonate_groups = Some(self.impersonate_groups.clone());
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Error::Failed(format!("the kubeconfig cannot be used: {error}")))?;
        Ok(Cluster { client, namespace, own_namespace: self.controller_namespace.clone() })
    }

    async fn config(&self) -> Result<Config, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let unusable = |error: kube::config::KubeconfigError| {
            Error::Failed(format!("the kubeconfig cannot be used: {error}: name another with --kubeconfig, or another --context"))
        };
        if let Some(file) = &self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable);
        }
        let is_default = self.context.is_none() && self.cluster.is_none() && self.user.is_none();
        if is_default {
            Config::infer().await.map_err(|error| Error::Failed(missing(&error.to_string())))
        } else {
            Config::from_kubeconfig(&options).await.map_err(unusable)
        }
    }
}

fn missing(error: &str) -> String {
    format!("no cluster is named: {error}: set $KUBECONFIG, or name a file with --kubeconfig")
}

impl Cluster {
    /// What there is of a kind in a namespace, or in all.
    pub(super) fn api<K>(&self, scope: &Scope) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        listing::scoped(&self.client, scope.namespace())
    }

    /// Objects of a kind in the namespace.
    pub(super) fn here<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace, or all of them.
    pub(super) fn scope(&self, all: bool) -> Scope {
        if all { Scope::All } else { Scope::One(self.namespace.clone()) }
    }

    /// An experiment of the namespace.
    pub(super) async fn experiment(&self, name: &str) -> Result<ChaosExperiment, Error> {
        let found = self.find::<ChaosExperiment>(&self.namespace, name).await;
        let found = found.map_err(Error::api(format!("reading ChaosExperiment \"{name}\" in namespace \"{}\"", self.namespace)))?;
        found.map(plain).ok_or_else(|| Error::Failed(self.no_such("ChaosExperiment", name)))
    }

    /// An object of a namespace, if it is there. One that does not decode is an error.
    pub(super) async fn find<K>(&self, namespace: &str, name: &str) -> kube::Result<Option<K>>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let found = listing::scoped::<Guarded<K>>(&self.client, Some(namespace)).get_opt(name).await?;
        found.map(Guarded::decoded).transpose()
    }

    /// Objects of a kind in a namespace, or in all. One that this version does not understand is named, and left out.
    pub(super) async fn list<K>(&self, scope: &Scope, params: &ListParams) -> kube::Result<Vec<K>>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let keep = |object: Result<K, Unreadable>| match object {
            Ok(object) => Some(plain(object)),
            Err(Unreadable { metadata, error }) => {
                let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                note(&format!("left out {namespace}/{name}, which does not have the form of this version: {error}"));
                None
            }
        };
        listing::list(&self.api::<Guarded<K>>(scope), params, PAGE, keep).await
    }

    /// The records of an experiment's runs, the latest first.
    pub(super) async fn records(&self, scope: &Scope, experiment: Option<&str>) -> Result<Vec<ChaosExperimentHistory>, Error> {
        let list = self.list::<ChaosExperimentHistory>(scope, &ListParams::default()).await;
        let mut records = list.map_err(Error::api("listing history records"))?;
        records.retain(|record| experiment.is_none_or(|name| record.spec.experiment_ref.name == name));
        records.sort_by_key(|record| std::cmp::Reverse(record.spec.execution.start_time.0));
        Ok(records)
    }

    /// That there is no such thing.
    pub(super) fn no_such(&self, kind: &str, name: &str) -> String {
        let namespace = &self.namespace;
        format!(
            "there is no {kind} \"{name}\" in namespace \"{namespace}\": `kubectl netloss status -A` shows all, -n names another namespace"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_limit_that_kubectl_would_give_it() {
        assert_eq!(request_timeout("0"), Ok(RequestTimeout(None)));
        assert_eq!(request_timeout("30"), Ok(RequestTimeout(Some(Duration::from_secs(30)))));
        assert_eq!(request_timeout("1m"), Ok(RequestTimeout(Some(Duration::from_mins(1)))));
        assert!(request_timeout("soon").is_err());
    }
}
