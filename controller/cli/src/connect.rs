//! Which cluster, as whom and where: the flags that kubectl has too.

use super::{error::Error, output::note};
use clap::Args;
use jiff::Timestamp;
use kube::{
    Api, Client, Config,
    api::ListParams,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::NamespaceResourceScope,
};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory};
use netloss_cluster::{
    guarded::{Guarded, Unreadable},
    listing,
};
use netloss_core::sanitize::plain;
use serde::{Serialize, de::DeserializeOwned};
use std::{env, ffi::OsString, path::PathBuf, time::Duration};

/// Who writes, in managedFields and in the records of runs.
pub(super) const FIELD_MANAGER: &str = "kubectl-netloss";

/// How long a connection to the API server may take to come about: three retransmissions of a SYN (after 1, 3 and 7 s, RFC 6298) fit into it.
const CONNECT: Duration = Duration::from_secs(10);

/// Objects of one page of a list: what kubectl asks for at a time.
pub(super) const PAGE: u32 = 500;

/// Where netloss's controller is, unless it was installed elsewhere.
pub(super) const OWN_NAMESPACE: &str = "netloss-system";

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
    #[arg(long, global = true, value_name = "NAME", default_value = OWN_NAMESPACE, env = "NETLOSS_NAMESPACE")]
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
    /// What names this cluster in commands that somebody is to type.
    pub(super) flags: Flags,
}

/// The flags that name a cluster, each with a space before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Flags(pub(super) String);

impl Flags {
    /// A command for somebody to type: as in `` `kubectl netloss stop x -n n --context=c` ``.
    pub(super) fn command(&self, words: &str) -> String {
        format!("`kubectl netloss {words}{}`", self.0)
    }
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
        Ok(Cluster { client, namespace, own_namespace: self.controller_namespace.clone(), flags: self.flags() })
    }

    /// What names the cluster in a command that this one tells somebody to type. Not whom to act as: that is theirs to say.
    fn flags(&self) -> Flags {
        let file = self.kubeconfig.as_ref().map(|file| file.display().to_string());
        let given = [
            ("kubeconfig", file.as_ref()),
            ("context", self.context.as_ref()),
            ("cluster", self.cluster.as_ref()),
            ("user", self.user.as_ref()),
        ];
        let own = Some(&self.controller_namespace).filter(|namespace| *namespace != OWN_NAMESPACE);
        let flags = given.into_iter().chain([("controller-namespace", own)]);
        Flags(flags.filter_map(|(flag, value)| Some(format!(" --{flag}={}", quoted(value?)))).collect())
    }

    async fn config(&self) -> Result<Config, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let unusable = |error: KubeconfigError| {
            Error::Failed(format!("the kubeconfig cannot be used: {error}: name another with --kubeconfig, or another --context"))
        };
        let files = Files { given: self.kubeconfig.clone(), variable: env::var_os("KUBECONFIG"), home: env::home_dir() };
        if let Some(kubeconfig) = files.read().map_err(unusable)? {
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable);
        }
        let is_default = self.context.is_none() && self.cluster.is_none() && self.user.is_none();
        let missing = "there is no kubeconfig: set $KUBECONFIG, or name a file with --kubeconfig";
        if !is_default {
            return Err(Error::Failed(missing.to_owned()));
        }
        // In a pod: its service account. Never instead of a kubeconfig that cannot be used, which is for another cluster.
        Config::incluster().map_err(|error| Error::Failed(format!("{missing} ({error})")))
    }
}

/// Where a kubeconfig may be.
struct Files {
    /// By --kubeconfig.
    given: Option<PathBuf>,
    /// $KUBECONFIG: files that are merged, of which some may be missing.
    variable: Option<OsString>,
    /// The home directory.
    home: Option<PathBuf>,
}

impl Files {
    /// The kubeconfig that kubectl would read; none where there is none, or nothing is in it.
    fn read(&self) -> Result<Option<Kubeconfig>, KubeconfigError> {
        let config = if let Some(file) = &self.given {
            return Kubeconfig::read_from(file).map(Some);
        } else if let Some(paths) = self.variable.as_ref().filter(|paths| !paths.is_empty()) {
            let paths: Vec<PathBuf> = env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()).collect();
            let there = paths.iter().filter(|path| path.exists());
            let merged = there.clone().try_fold(Kubeconfig::default(), |merged, path| merged.merge(Kubeconfig::read_from(path)?))?;
            if there.count() == 0 {
                // Where somebody names one, another cluster is not meant.
                return Kubeconfig::read_from(paths.first().cloned().unwrap_or_default()).map(Some);
            }
            merged
        } else {
            let file = self.home.as_ref().map(|home| home.join(".kube").join("config")).filter(|file| file.exists());
            let Some(file) = file else { return Ok(None) };
            Kubeconfig::read_from(file)?
        };
        let is_empty = config.current_context.is_none() && config.contexts.is_empty() && config.clusters.is_empty();
        Ok((!is_empty).then_some(config))
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@+,".contains(&byte);
    if word.bytes().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// When an answer was given (RFC 9110, section 6.6.1).
fn date(headers: &http::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
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

    /// A command for somebody to type, for this cluster.
    pub(super) fn command(&self, words: &str) -> String {
        self.flags.command(words)
    }

    /// The time by the API server's clock, to a second; by this machine's where the API server does not say. What the cluster's components wrote down is
    /// compared with this, as a laptop's clock may be another.
    pub(super) async fn now(&self) -> Timestamp {
        let Ok(request) = http::Request::get("/version").body(Body::empty()) else { return Timestamp::now() };
        let answer = self.client.send(request).await;
        let date = answer.ok().and_then(|answer| date(answer.headers()));
        date.unwrap_or_else(Timestamp::now)
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
            "there is no {kind} \"{name}\" in namespace \"{namespace}\": {} shows all, -n names another namespace",
            self.command("status -A")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same name may be there in the cluster of the current context, and be somebody else's.
    #[test]
    fn a_command_to_type_names_the_cluster_that_was_named() {
        let plain = ConnectionArgs { controller_namespace: OWN_NAMESPACE.to_owned(), ..ConnectionArgs::default() };
        assert_eq!(plain.flags().0, "");
        let given = ConnectionArgs {
            context: Some("arn:aws:eks:eu-1:1:cluster/prod".to_owned()),
            kubeconfig: Some("/home/jo's/my config".into()),
            impersonate: Some("jane".to_owned()),
            controller_namespace: "chaos".to_owned(),
            ..ConnectionArgs::default()
        };
        let flags = r" --kubeconfig='/home/jo'\''s/my config' --context=arn:aws:eks:eu-1:1:cluster/prod --controller-namespace=chaos";
        assert_eq!(given.flags().0, flags);
    }

    #[test]
    fn the_api_servers_clock_is_in_its_answers() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert("date", "Fri, 15 Jan 2027 08:00:00 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some(netloss_core::machine::fixtures::at(0)));
        headers.insert("date", "soon".parse().unwrap());
        assert_eq!(date(&headers), None);
    }

    /// A pod's own cluster is never taken for the one that somebody named and that cannot be read.
    #[test]
    fn a_kubeconfig_that_cannot_be_used_is_an_error_and_none_is_none() {
        let folder = env::temp_dir().join(format!("netloss-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let whole = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n";
        std::fs::write(path("whole"), whole).unwrap();
        std::fs::write(path("broken"), "contexts: [").unwrap();
        std::fs::write(path("empty"), "").unwrap();
        let read = |given: Option<&str>, variable: Option<&[&str]>| {
            let variable = variable.map(|names| env::join_paths(names.iter().map(|name| path(name))).unwrap());
            Files { given: given.map(path), variable, home: Some(path("home")) }.read().map(|config| config.is_some())
        };
        assert!(matches!(read(Some("whole"), None), Ok(true)));
        assert!(read(Some("missing"), None).is_err() && read(Some("broken"), None).is_err());
        assert!(matches!(read(None, Some(&["whole"])), Ok(true)));
        assert!(matches!(read(None, Some(&["missing", "whole"])), Ok(true)), "kubectl goes on past files that are missing");
        assert!(read(None, Some(&["missing"])).is_err() && read(None, Some(&["whole", "broken"])).is_err());
        assert!(matches!(read(None, Some(&["empty"])), Ok(false)));
        assert!(matches!(read(None, None), Ok(false)));
        std::fs::create_dir_all(path("home/.kube")).unwrap();
        std::fs::write(path("home/.kube/config"), "contexts: [").unwrap();
        assert!(read(None, None).is_err());
    }

    #[test]
    fn a_request_has_the_limit_that_kubectl_would_give_it() {
        assert_eq!(request_timeout("0"), Ok(RequestTimeout(None)));
        assert_eq!(request_timeout("30"), Ok(RequestTimeout(Some(Duration::from_secs(30)))));
        assert_eq!(request_timeout("1m"), Ok(RequestTimeout(Some(Duration::from_mins(1)))));
        assert!(request_timeout("soon").is_err());
    }
}
