//! What is looked at, with the user's rights and on past what those do not reach.

use crate::{
    connect::{Cluster, Scope},
    error::{Error, is_forbidden},
    local_run::{LocalRun, agent_image},
    orphans,
    presence::{self, Presence},
    preview,
    status::experiments,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration,
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
        },
        core::v1::{Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, DEFINITIONS, FINALIZER, PART_OF, PodStatus};
use netloss_cluster::agents::{self, Agent};
use netloss_cluster::observe::is_cleaned_since;
use netloss_core::sanitize::line;
use std::collections::BTreeSet;

/// What the namespace's Pod Security standard refuses, as a label of it says.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Everything that is known of an installation.
pub(super) struct Facts {
    pub(super) own_namespace: String,
    pub(super) namespace: String,
    /// The API server's version, and its minor number.
    pub(super) server: Result<(String, u32), String>,
    pub(super) definitions: Vec<Installed>,
    pub(super) presence: Presence,
    pub(super) deployed: Option<Deployed>,
    pub(super) agent_image: Option<String>,
    pub(super) freeze: Option<String>,
    /// Whether it has an authority; none where it is not installed.
    pub(super) webhook: Result<Option<bool>, String>,
    pub(super) yours: Vec<Right>,
    /// None where they may not be asked for, or it runs no experiments of this namespace.
    pub(super) controllers: Option<Vec<Right>>,
    pub(super) enforced: Option<String>,
    pub(super) excluded: bool,
    pub(super) production: Option<String>,
    pub(super) orphans: Vec<Agent>,
    /// Active agents whose experiment may be one that could not be read.
    pub(super) unknown: Vec<Agent>,
    /// Agents of no experiment that have ended and may have left loss.
    pub(super) dead: Vec<Agent>,
    pub(super) remains: Vec<Remains>,
    pub(super) stuck: Vec<Stuck>,
    /// What could not be looked at.
    pub(super) unseen: Option<String>,
}

/// The controller's Deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deployed {
    pub(super) image: Option<String>,
    /// The only namespaces whose experiments it runs; none are all.
    pub(super) watches: Vec<String>,
    /// Whether a Helm release has it.
    pub(super) by_helm: bool,
}

impl Deployed {
    fn of(deployment: Deployment) -> Self {
        let by_helm = deployment.annotations().contains_key("meta.helm.sh/release-name");
        let containers = deployment.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers).unwrap_or_default();
        let Some(container) = containers.into_iter().next() else { return Self { by_helm, ..Self::default() } };
        let arguments = container.args.iter().flatten().filter_map(|word| word.strip_prefix("--watch-namespace="));
        let variables = container.env.iter().flatten().filter(|variable| variable.name == "NETLOSS_WATCH_NAMESPACES");
        let given = arguments.chain(variables.filter_map(|variable| variable.value.as_deref()));
        let watches = given.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { image: container.image, watches, by_helm }
    }

    /// Whether it runs experiments of this namespace.
    pub(super) fn serves(&self, namespace: &str) -> bool {
        self.watches.is_empty() || self.watches.iter().any(|watched| watched == namespace)
    }
}

/// A definition in this cluster.
pub(super) struct Installed {
    pub(super) plural: &'static str,
    /// Whether it is netloss's, and not that of another project with the same objects.
    pub(super) is_ours: bool,
    /// Fields that this version has and it has not; none where it is not installed.
    pub(super) missing: Result<Option<Vec<String>>, String>,
}

/// A right, and whether somebody has it.
#[derive(Debug, Clone)]
pub(super) struct Right {
    pub(super) verb: &'static str,
    /// With its subresource.
    pub(super) resource: String,
    pub(super) namespace: Option<String>,
    pub(super) for_what: &'static str,
    pub(super) allowed: bool,
}

impl Right {
    /// As in `create chaosexperiments in shop (run)`.
    pub(super) fn words(&self) -> String {
        let place = self.namespace.as_deref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        format!("{} {}{place} ({})", self.verb, self.resource, self.for_what)
    }
}

/// A pod in which loss may be left.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    pub(super) experiment: String,
    pub(super) entry: PodStatus,
}

impl Remains {
    /// The experiment's, in which `doctor` finds it.
    pub(super) fn namespace(&self) -> &str {
        self.experiment.split_once('/').map_or("", |(namespace, _)| namespace)
    }
}

/// An experiment that is to go and does not.
pub(super) struct Stuck(pub(super) ChaosExperiment);

impl Stuck {
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.0.namespace().unwrap_or_default(), self.0.name_any())
    }
}

/// Looks at all of it; at pods and experiments in these namespaces.
pub(super) async fn look(cluster: &Cluster, scope: &Scope) -> Result<Facts, Error> {
    let client = &cluster.client;
    let (server, definitions, presence, deployed, agent_image, freeze) = futures::join!(
        client.apiserver_version(),
        definitions(cluster),
        presence::look(cluster),
        deployed(cluster),
        agent_image(cluster, None),
        preview::freeze(cluster),
    );
    let server = server.map_err(|error| said(&error)).map(|version| {
        let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        (version.git_version, minor.parse().unwrap_or(0))
    });
    let (webhook, yours, controllers, namespace) =
        futures::join!(webhook(cluster), yours(cluster), controllers(cluster, deployed.as_ref()), namespace(cluster));
    let (metadata, facts) = namespace?;
    let in_pods = InPods::look(cluster, scope, &presence).await?;
    Ok(Facts {
        own_namespace: cluster.own_namespace.clone(),
        namespace: cluster.namespace.clone(),
        server,
        definitions,
        presence,
        deployed,
        agent_image: agent_image?,
        freeze: freeze?,
        webhook,
        yours,
        controllers,
        enforced: metadata.and_then(|mut labels| labels.remove(ENFORCE)),
        excluded: facts.excluded,
        production: facts.production,
        orphans: in_pods.orphans,
        unknown: in_pods.unknown,
        dead: in_pods.dead,
        remains: in_pods.remains,
        stuck: in_pods.stuck,
        unseen: in_pods.unseen,
    })
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => line(&status.message),
        other => line(&other.to_string()),
    }
}

async fn definitions(cluster: &Cluster) -> Vec<Installed> {
    let api = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let mut installed = Vec::new();
    for definition in DEFINITIONS {
        let ours = (definition.make)();
        let theirs = api.get_opt(&ours.name_any()).await;
        let is_ours = matches!(&theirs, Ok(Some(theirs)) if theirs.labels().get(PART_OF.0).is_some_and(|part_of| part_of == PART_OF.1));
        let missing = match theirs {
            Ok(theirs) => Ok(theirs.map(|theirs| missing_fields(&ours, &theirs))),
            Err(error) => Err(said(&error)),
        };
        installed.push(Installed { plural: definition.plural, is_ours, missing });
    }
    installed
}

/// Paths of fields that one definition has and the other lacks.
fn missing_fields(ours: &CustomResourceDefinition, theirs: &CustomResourceDefinition) -> Vec<String> {
    let theirs = fields(theirs);
    fields(ours).into_iter().filter(|path| !theirs.contains(path)).collect()
}

fn fields(definition: &CustomResourceDefinition) -> Vec<String> {
    let version = definition.spec.versions.iter().find(|version| version.served && version.name == "v1alpha1");
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    let mut paths = Vec::new();
    if let Some(schema) = schema {
        of_schema(schema, "", &mut paths);
    }
    paths
}

fn of_schema(schema: &JSONSchemaProps, path: &str, paths: &mut Vec<String>) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        of_schema(field, &path, paths);
        paths.push(path);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        of_schema(items, &format!("{path}[]"), paths);
    }
}

async fn deployed(cluster: &Cluster) -> Option<Deployed> {
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), &cluster.own_namespace);
    deployments.get_opt(presence::DEPLOYMENT).await.ok()?.map(Deployed::of)
}

async fn webhook(cluster: &Cluster) -> Result<Option<bool>, String> {
    let api = Api::<ValidatingWebhookConfiguration>::all(cluster.client.clone());
    let configuration = api.get_opt("netloss").await.map_err(|error| said(&error))?;
    let has_authority = |configuration: ValidatingWebhookConfiguration| {
        configuration
            .webhooks
            .iter()
            .flatten()
            .all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()))
    };
    Ok(configuration.map(has_authority))
}

type Labels = std::collections::BTreeMap<String, String>;

async fn namespace(cluster: &Cluster) -> Result<(Option<Labels>, netloss_core::targets::NamespaceFacts), Error> {
    let facts = preview::namespace(cluster).await?;
    let object = Api::<Namespace>::all(cluster.client.clone()).get_opt(&cluster.namespace).await;
    Ok((object.ok().flatten().and_then(|object| object.metadata.labels), facts))
}

/// What commands take, each in the namespace where it does.
fn needed(cluster: &Cluster) -> Vec<(ResourceAttributes, Right)> {
    const CHAOS: &str = "chaos.gushchin.dev";
    let (here, own) = (cluster.namespace.as_str(), cluster.own_namespace.as_str());
    [
        ("list", CHAOS, "chaosexperiments", "", here, "status"),
        ("watch", CHAOS, "chaosexperiments", "", here, "watch, stop"),
        ("create", CHAOS, "chaosexperiments", "", here, "run"),
        ("list", "", "pods", "", here, "run"),
        ("get", "", "pods", "log", here, "live figures"),
        ("delete", CHAOS, "chaosexperiments", "", here, "stop"),
        ("list", CHAOS, "chaosexperimenthistories", "", here, "history, report"),
        ("patch", "", "configmaps", "", own, "freeze"),
        ("patch", "", "pods", "ephemeralcontainers", here, "run --direct, stop without a controller, doctor --fix"),
    ]
    .into_iter()
    .map(right)
    .collect()
}

/// What the controller takes where it runs experiments.
fn needed_by_controller(cluster: &Cluster) -> Vec<(ResourceAttributes, Right)> {
    const CHAOS: &str = "chaos.gushchin.dev";
    let here = cluster.namespace.as_str();
    [
        ("watch", CHAOS, "chaosexperiments", "", here, "hearing of experiments"),
        ("patch", CHAOS, "chaosexperiments", "", here, "its finalizer"),
        ("update", CHAOS, "chaosexperiments", "status", here, "writing down what it does"),
        ("create", CHAOS, "chaosexperimenthistories", "", here, "records"),
        ("list", "", "pods", "", here, "choosing pods"),
        ("patch", "", "pods", "ephemeralcontainers", here, "putting the agent in"),
        ("get", "", "pods", "log", here, "hearing the agent"),
    ]
    .into_iter()
    .map(right)
    .collect()
}

fn right(
    (verb, group, resource, subresource, namespace, for_what): (&'static str, &str, &str, &str, &str, &'static str),
) -> (ResourceAttributes, Right) {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: (!subresource.is_empty()).then(|| subresource.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let resource = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
    (attributes, Right { verb, resource, namespace: Some(namespace.to_owned()), for_what, allowed: false })
}

async fn yours(cluster: &Cluster) -> Vec<Right> {
    let api = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let mut rights = Vec::new();
    for (attributes, right) in needed(cluster) {
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        // Where nobody answers, others have said so already.
        let Ok(answer) = api.create(&PostParams::default(), &review).await else { continue };
        rights.push(Right { allowed: answer.status.is_some_and(|status| status.allowed), ..right });
    }
    rights
}

async fn controllers(cluster: &Cluster, deployed: Option<&Deployed>) -> Option<Vec<Right>> {
    if deployed.is_some_and(|deployed| !deployed.serves(&cluster.namespace)) {
        return None;
    }
    let api = Api::<SubjectAccessReview>::all(cluster.client.clone());
    let account = format!("system:serviceaccount:{}:netloss-controller", cluster.own_namespace);
    let mut rights = Vec::new();
    for (attributes, right) in needed_by_controller(cluster) {
        let spec = SubjectAccessReviewSpec {
            user: Some(account.clone()),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", cluster.own_namespace),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = api.create(&PostParams::default(), &review).await.ok()?;
        rights.push(Right { allowed: answer.status.is_some_and(|status| status.allowed), ..right });
    }
    Some(rights)
}

/// What is in pods.
#[derive(Default)]
struct InPods {
    orphans: Vec<Agent>,
    unknown: Vec<Agent>,
    dead: Vec<Agent>,
    remains: Vec<Remains>,
    stuck: Vec<Stuck>,
    unseen: Option<String>,
}

impl InPods {
    async fn look(cluster: &Cluster, scope: &Scope, presence: &Presence) -> Result<Self, Error> {
        match Self::of(cluster, scope, presence).await {
            Err(Error::Forbidden(words)) if *scope == Scope::All => {
                let own = cluster.scope(false);
                let unseen = Some(format!("only namespace \"{}\" was looked at: {words}", cluster.namespace));
                match Self::of(cluster, &own, presence).await {
                    Err(Error::Forbidden(_)) => Ok(Self { unseen: Some(words), ..Self::default() }),
                    other => {
                        let found = other?;
                        Ok(Self { unseen: Some([unseen, found.unseen].into_iter().flatten().collect::<Vec<_>>().join("; ")), ..found })
                    }
                }
            }
            Err(Error::Forbidden(words)) => Ok(Self { unseen: Some(words), ..Self::default() }),
            // Without the definition there is no experiment either, which is told of elsewhere.
            Err(Error::NotInstalled(_)) => Ok(Self::default()),
            other => other,
        }
    }

    async fn of(cluster: &Cluster, scope: &Scope, presence: &Presence) -> Result<Self, Error> {
        // Before the experiments: see orphans.
        let mut pods = cluster.list::<Pod>(scope, &ListParams::default()).await.map_err(Error::api("listing pods"))?;
        let found = orphans::look(cluster, &pods).await?;
        let objects = experiments(cluster, scope).await?;
        let mut unseen = None;
        let records = match cluster.list::<ChaosExperimentHistory>(scope, &ListParams::default()).await {
            Ok(records) => records,
            Err(error) if is_forbidden(&error) => {
                unseen = Some(format!("what deleted experiments left is not known: {}", Error::api("listing history records")(error)));
                Vec::new()
            }
            Err(error) => return Err(Error::api("listing history records")(error)),
        };
        let suspects = entries(&objects, &records);
        let elsewhere = pods_elsewhere(cluster, scope, &suspects).await?;
        pods.extend(elsewhere.pods);
        let is_down = presence.is_down();
        let stuck = objects.iter().filter(|object| is_down && is_stuck(object)).cloned().map(Stuck).collect();
        let dead = dead(cluster, &pods, &suspects).await?;
        let remains = remains(suspects.into_iter(), &pods, &elsewhere.hidden);
        Ok(Self { orphans: found.orphans, unknown: found.unknown, dead, remains, stuck, unseen })
    }
}

/// All pods of these experiments and runs, each with its experiment.
fn entries(objects: &[ChaosExperiment], records: &[ChaosExperimentHistory]) -> Vec<(String, PodStatus)> {
    let of_objects = objects.iter().flat_map(|object| {
        let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        object
            .status
            .iter()
            .flat_map(|status| status.pods.iter().chain(&status.unresolved_pods))
            .map(move |entry| (name.clone(), entry.clone()))
    });
    let of_records = records.iter().flat_map(|record| {
        let name = format!("{}/{}", record.namespace().unwrap_or_default(), record.spec.experiment_ref.name);
        record.spec.pods.iter().map(move |entry| (name.clone(), entry.clone()))
    });
    of_objects.chain(of_records).collect()
}

/// Pods of other namespaces.
#[derive(Default)]
struct Elsewhere {
    pods: Vec<Pod>,
    /// Namespace and name of those that may not be read.
    hidden: BTreeSet<(String, String)>,
}

/// Pods of other namespaces than those that were listed, in which experiments of these may have left loss.
async fn pods_elsewhere(cluster: &Cluster, scope: &Scope, suspects: &[(String, PodStatus)]) -> Result<Elsewhere, Error> {
    let mut found = Elsewhere::default();
    let Scope::One(namespace) = scope else { return Ok(found) };
    let elsewhere = suspects.iter().map(|(_, entry)| entry).filter(|entry| entry.may_be_impaired() && entry.namespace != *namespace);
    for (namespace, name) in elsewhere.map(|entry| (&entry.namespace, &entry.name)).collect::<BTreeSet<_>>() {
        match cluster.api::<Pod>(&Scope::One(namespace.clone())).get_opt(name).await {
            Ok(pod) => found.pods.extend(pod),
            Err(error) if is_forbidden(&error) => drop(found.hidden.insert((namespace.clone(), name.clone()))),
            Err(error) => return Err(Error::api(format!("reading pod {namespace}/{name}"))(error)),
        }
    }
    Ok(found)
}

/// The agents of no experiment that have ended without saying that their loss is gone, by what would be made of each.
async fn dead(cluster: &Cluster, pods: &[Pod], known: &[(String, PodStatus)]) -> Result<Vec<Agent>, Error> {
    let is_known = |agent: &Agent| known.iter().any(|(_, entry)| entry.uid == agent.pod_uid && entry.container == agent.container);
    let mut dead = Vec::new();
    for agent in agents::ended_without_a_word(pods).into_iter().filter(|agent| !is_known(agent)) {
        let now = Timestamp::now();
        let Some(object) = agent.experiment(now) else { continue };
        let foreseen = LocalRun::stop(cluster, None, object).foresee().await?;
        if foreseen.pods.iter().any(|entry| entry.is_open() || entry.may_be_impaired()) {
            dead.push(agent);
        }
    }
    Ok(dead)
}

/// Where loss may be left: the pod is still the same, and nobody has cleaned up since. Of a pod that may not be read the entry is believed.
fn remains(entries: impl Iterator<Item = (String, PodStatus)>, pods: &[Pod], hidden: &BTreeSet<(String, String)>) -> Vec<Remains> {
    let mut found: Vec<Remains> = Vec::new();
    for (experiment, entry) in entries.filter(|(_, entry)| entry.may_be_impaired()) {
        let since = entry.ended_at.as_ref().map_or(Timestamp::MIN, |time| time.0);
        let is_hidden = hidden.contains(&(entry.namespace.clone(), entry.name.clone()));
        let is_there = is_hidden || pods.iter().any(|pod| agents::is_same(pod, &entry) && !is_cleaned_since(pod, since));
        let is_known = found.iter().any(|known| known.entry.uid == entry.uid && known.entry.container == entry.container);
        if is_there && !is_known {
            found.push(Remains { experiment, entry });
        }
    }
    found
}

/// Where nobody is there to take the finalizer away.
pub(super) fn is_stuck(object: &ChaosExperiment) -> bool {
    object.metadata.deletion_timestamp.is_some() && object.finalizers().iter().any(|name| name == FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use netloss_api::{Outcome, PodState};
    use netloss_core::machine::fixtures::{at, entry};
    use serde_json::json;

    #[test]
    fn a_definition_that_is_older_lacks_fields() {
        let ours = (DEFINITIONS[0].make)();
        assert!(missing_fields(&ours, &ours).is_empty());
        let mut value = serde_json::to_value(&ours).unwrap();
        let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        schema["spec"]["properties"].as_object_mut().unwrap().remove("spareNode");
        schema["status"]["properties"]["pods"]["items"]["properties"].as_object_mut().unwrap().remove("repair");
        let older = serde_json::from_value(value).unwrap();
        let missing = missing_fields(&ours, &older);
        assert!(missing.contains(&"spec.spareNode".to_owned()) && missing.contains(&"status.pods[].repair".to_owned()), "{missing:?}");
    }

    #[test]
    fn what_may_be_left_is_told_once_and_not_of_pods_that_are_gone() {
        let unknown = PodStatus { state: PodState::Ended, outcome: Some(Outcome::Unknown), ended_at: Some(Time(at(0))), ..entry() };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "pod-uid" }, "spec": { "containers": [] }, "status": { "phase": "Running" },
        }))
        .unwrap();
        let twice = || vec![("n/x".to_owned(), unknown.clone()), ("n/x".to_owned(), unknown.clone())].into_iter();
        let none = BTreeSet::new();
        assert_eq!(remains(twice(), std::slice::from_ref(&pod), &none).len(), 1);
        assert!(remains(twice(), &[], &none).is_empty());
        let hidden = BTreeSet::from([("n".to_owned(), "p".to_owned())]);
        assert_eq!(remains(twice(), &[], &hidden).len(), 1, "who may not read the pod cannot tell that it is clean");
        let clean = PodStatus { outcome: Some(Outcome::Clean), ..unknown.clone() };
        assert!(remains(vec![("n/x".to_owned(), clean)].into_iter(), &[pod], &hidden).is_empty());
    }
}
