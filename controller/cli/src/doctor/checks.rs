//! What was seen of an installation, judged.

use super::facts::{Facts, Right};
use crate::{connect::OWN_NAMESPACE, presence::Presence};
use netloss_cluster::agents::Agent;
use serde::Serialize;

/// How a matter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Warning,
    /// Something will not work.
    Problem,
    /// Loss may be left in a pod.
    LossMayRemain,
}

/// One matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// In a word or two.
    pub(super) about: &'static str,
    pub(super) found: String,
    /// What to do, where something is to be done.
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, about, found: found.into(), remedy: None }
    }

    fn new(verdict: Verdict, about: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict, about, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Everything that was looked at.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![versions(facts)];
    findings.extend(definitions(facts));
    findings.extend([controller(facts), agent(facts), webhook(facts), frozen(facts)]);
    findings.extend(rights(facts));
    findings.extend(namespace(facts));
    findings.extend(orphans(&facts.orphans, &facts.unknown));
    findings.extend(remains(facts));
    findings.extend(stuck(facts));
    if let Some(words) = &facts.unseen {
        findings.push(Finding::new(
            Verdict::Warning,
            "agents",
            words.clone(),
            "have somebody look who may list pods and experiments of all namespaces",
        ));
    }
    findings
}

/// Ephemeral containers are in every version from 1.25 on.
fn versions(facts: &Facts) -> Finding {
    const OLDEST: u32 = 25;
    const POLICIES: u32 = 30;
    let own = env!("CARGO_PKG_VERSION");
    match &facts.server {
        Err(why) => Finding::new(
            Verdict::Problem,
            "versions",
            format!("the API server does not say its version: {why}"),
            "check --context and --kubeconfig",
        ),
        Ok((version, minor)) if *minor < OLDEST => Finding::new(
            Verdict::Problem,
            "versions",
            format!("the API server is {version}, which has no ephemeral containers"),
            "netloss needs Kubernetes 1.30 or later",
        ),
        Ok((version, minor)) => {
            let found = format!(
                "API server {version}, kubectl-netloss {own}, controller {}",
                facts.deployed.as_ref().and_then(|deployed| deployed.image.as_deref()).unwrap_or("unknown")
            );
            if *minor < POLICIES {
                let remedy = "Kubernetes 1.30 or later holds the controller to its agent by admission policies";
                Finding::new(Verdict::Warning, "versions", format!("{found}; no admission policies"), remedy)
            } else {
                Finding::ok("versions", found)
            }
        }
    }
}

/// How to put right what netloss was installed with. What is in `config` is meant for one namespace and all experiments: over another installation it would
/// give rights to another account, or take them away.
fn again(facts: &Facts, kustomization: &str) -> String {
    let is_default = facts.own_namespace == OWN_NAMESPACE
        && facts.deployed.as_ref().is_none_or(|deployed| !deployed.by_helm && deployed.watches.is_empty());
    if is_default {
        format!("kubectl apply -k {kustomization}")
    } else {
        "apply again what netloss was installed with here: `helm upgrade`, or your kustomization (docs/INSTALL.md)".to_owned()
    }
}

fn definitions(facts: &Facts) -> Vec<Finding> {
    let install = again(facts, "config/crd");
    let of = |definition: &super::facts::Installed| match &definition.missing {
        Err(why) => Finding::new(
            Verdict::Warning,
            "definition",
            format!("{} cannot be read: {why}", definition.plural),
            "that takes the right to get customresourcedefinitions",
        ),
        Ok(None) => Finding::new(Verdict::Problem, "definition", format!("{} is not installed", definition.plural), install.clone()),
        Ok(Some(missing)) if missing.is_empty() => Finding::ok("definition", format!("{} has every field", definition.plural)),
        Ok(Some(missing)) => Finding::new(
            Verdict::Problem,
            "definition",
            format!(
                "{} lacks {} field(s) that this version has, such as {}{}",
                definition.plural,
                missing.len(),
                missing[0],
                if definition.is_ours { "" } else { ", and is not netloss's" }
            ),
            if definition.is_ours {
                install.clone()
            } else {
                "see whose it is (k8s-chaos has the same objects); the Job netloss-definitions takes it over with --adopt, the chart with crds.adopt=true".to_owned()
            },
        ),
    };
    facts.definitions.iter().map(of).collect()
}

fn controller(facts: &Facts) -> Finding {
    let words = facts.presence.words();
    match facts.presence {
        Presence::Leads(_) | Presence::Ready(_) => Finding::ok("controller", words),
        Presence::Stale(..) | Presence::Absent => Finding::new(
            Verdict::Problem,
            "controller",
            words,
            format!(
                "see why: kubectl -n {0} get pods; kubectl -n {0} logs deploy/netloss-controller. Not installed at all: {1}. What is \
                 under way ends at its time without it, and at once with `kubectl netloss stop -A`",
                facts.own_namespace,
                again(facts, "config/default")
            ),
        ),
        Presence::Unknown(_) => Finding::new(
            Verdict::Warning,
            "controller",
            words,
            format!("that takes the right to get the lease and to list pods in {}", facts.own_namespace),
        ),
    }
}

fn agent(facts: &Facts) -> Finding {
    match &facts.agent_image {
        Some(image) => Finding::ok("agent", format!("its image is {image}")),
        None => Finding::new(
            Verdict::Warning,
            "agent",
            format!("ConfigMap {}/netloss-agent names no image, or may not be read", facts.own_namespace),
            format!("{}; without it --direct takes --agent-image", again(facts, "config/manager")),
        ),
    }
}

fn webhook(facts: &Facts) -> Finding {
    match &facts.webhook {
        Err(why) => Finding::new(
            Verdict::Warning,
            "webhook",
            format!("cannot be read: {why}"),
            "that takes the right to get validatingwebhookconfigurations",
        ),
        Ok(None) => Finding::new(
            Verdict::Warning,
            "webhook",
            "not installed: what is refused shows in status alone",
            format!("{}, and --webhook-listen for the controller", again(facts, "config/webhook")),
        ),
        Ok(Some(false)) => Finding::new(
            Verdict::Problem,
            "webhook",
            "no authority is in its configuration yet: experiments cannot be created",
            format!(
                "the Job netloss-webhook-ca writes it: {}; with cert-manager see cert-manager.io/inject-ca-from",
                again(facts, "config/webhook")
            ),
        ),
        Ok(Some(true)) => Finding::ok("webhook", "installed, and its certificate is trusted"),
    }
}

fn frozen(facts: &Facts) -> Finding {
    match &facts.freeze {
        None => Finding::ok("freeze", "not frozen"),
        Some(reason) => {
            Finding::new(Verdict::Warning, "freeze", format!("all experiments are frozen: {reason}"), "kubectl netloss unfreeze")
        }
    }
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let lacking = |rights: &[Right]| rights.iter().filter(|right| !right.allowed).map(Right::words).collect::<Vec<_>>();
    let yours = lacking(&facts.yours);
    let mut findings = vec![if yours.is_empty() {
        Finding::ok("your rights", "every command may be used")
    } else {
        Finding::new(
            Verdict::Warning,
            "your rights",
            format!("you may not {}", yours.join("; ")),
            "ask for them where you need these commands",
        )
    }];
    if let Some(theirs) = &facts.controllers {
        let theirs = lacking(theirs);
        findings.push(if theirs.is_empty() {
            Finding::ok("controller's rights", "as it needs them")
        } else {
            Finding::new(Verdict::Problem, "controller's rights", format!("it may not {}", theirs.join("; ")), again(facts, "config/rbac"))
        });
    }
    findings
}

fn namespace(facts: &Facts) -> Vec<Finding> {
    let name = &facts.namespace;
    let mut findings = Vec::new();
    if let Some(deployed) = facts.deployed.as_ref().filter(|deployed| !deployed.serves(name)) {
        findings.push(Finding::new(
            Verdict::Warning,
            "namespace",
            format!(
                "the controller in {} runs experiments of {} alone: those of \"{name}\" wait for ever",
                facts.own_namespace,
                deployed.watches.join(", ")
            ),
            "name another namespace with -n, or another controller with --controller-namespace",
        ));
    }
    findings.push(match facts.enforced.as_deref() {
        Some(level @ ("baseline" | "restricted")) => Finding::new(
            Verdict::Problem,
            "Pod Security",
            format!("namespace \"{name}\" enforces {level}, which refuses the agent (NET_ADMIN)"),
            format!("kubectl label namespace {name} pod-security.kubernetes.io/enforce=privileged --overwrite"),
        ),
        Some(level) => Finding::ok("Pod Security", format!("namespace \"{name}\" enforces {level}: the agent is admitted")),
        None => Finding::ok(
            "Pod Security",
            format!("namespace \"{name}\" has no level of its own: the cluster's default goes, which is privileged unless it was changed"),
        ),
    });
    if facts.excluded {
        findings.push(Finding::new(
            Verdict::Warning,
            "namespace",
            format!("\"{name}\" carries the label {}: nothing is done in it", netloss_api::EXCLUDE_LABEL),
            "take the label away where that is not meant",
        ));
    }
    if let Some(why) = &facts.production {
        findings.push(Finding::new(
            Verdict::Warning,
            "namespace",
            format!("\"{name}\" is a production namespace by {why}"),
            "experiments in it need spec.allowProduction: true (`kubectl netloss run --allow-production`)",
        ));
    }
    findings
}

fn orphans(agents: &[Agent], unknown: &[Agent]) -> Vec<Finding> {
    if agents.is_empty() && unknown.is_empty() {
        return vec![Finding::ok("agents", "each one that works belongs to an experiment")];
    }
    let orphan = |agent: &Agent| {
        Finding::new(
            Verdict::Problem,
            "agents",
            format!("{} works, and no experiment knows of it; its loss ends {}", agent.words(), agent.ends()),
            format!("a run with --direct has such an agent; `kubectl netloss doctor --fix -n {}` stops it now", agent.namespace),
        )
    };
    let unknown_owner = |agent: &Agent| {
        Finding::new(
            Verdict::Warning,
            "agents",
            format!("{} works, and its experiment is in no namespace that could be read; its loss ends {}", agent.words(), agent.ends()),
            "--fix leaves it alone; have somebody run doctor who may list experiments of all namespaces",
        )
    };
    agents.iter().map(orphan).chain(unknown.iter().map(unknown_owner)).collect()
}

fn remains(facts: &Facts) -> Vec<Finding> {
    let of = |remains: &super::facts::Remains| {
        Finding::new(
            Verdict::LossMayRemain,
            "leftovers",
            format!(
                "in pod {} loss of {} may remain: {}",
                remains.entry.display_name(),
                remains.experiment,
                remains.entry.message.as_deref().unwrap_or_default()
            ),
            format!("`kubectl netloss doctor --fix -n {}` removes it; deleting the pod does too", remains.namespace()),
        )
    };
    let after = |agent: &Agent| {
        Finding::new(
            Verdict::LossMayRemain,
            "leftovers",
            format!("{} has ended and did not say that its loss is gone, and no experiment knows of it", agent.words()),
            format!("`kubectl netloss doctor --fix -n {}` removes what is left; deleting the pod does too", agent.namespace),
        )
    };
    let findings: Vec<Finding> = facts.remains.iter().map(of).chain(facts.dead.iter().map(after)).collect();
    match &facts.unseen {
        _ if !findings.is_empty() => findings,
        None => vec![Finding::ok("leftovers", "none are known of")],
        // What could not be looked at is told by itself.
        Some(_) => Vec::new(),
    }
}

fn stuck(facts: &Facts) -> Vec<Finding> {
    let of = |stuck: &super::facts::Stuck| {
        let name = stuck.name();
        Finding::new(
            Verdict::Problem,
            "deletion",
            format!(
                "{name} is to be deleted, nothing of it is under way, and its finalizer is there: the controller that takes it away is down"
            ),
            format!(
                "it goes when the controller is back; `kubectl netloss doctor --fix -n {}` takes the finalizer away now",
                stuck.0.metadata.namespace.as_deref().unwrap_or_default()
            ),
        )
    };
    facts.stuck.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{Deployed, Installed, Remains};
    use netloss_cluster::agents::fixtures::{UID, agent};
    use netloss_core::machine::fixtures::entry;

    fn facts() -> Facts {
        Facts {
            own_namespace: "netloss-system".to_owned(),
            namespace: "shop".to_owned(),
            server: Ok(("v1.33.1".to_owned(), 33)),
            definitions: vec![Installed { plural: "chaosexperiments", is_ours: true, missing: Ok(Some(Vec::new())) }],
            presence: Presence::Leads("one".to_owned()),
            deployed: Some(Deployed { image: Some("controller:1".to_owned()), ..Deployed::default() }),
            agent_image: Some("agent:1".to_owned()),
            freeze: None,
            webhook: Ok(Some(true)),
            yours: Vec::new(),
            controllers: None,
            enforced: None,
            excluded: false,
            production: None,
            orphans: Vec::new(),
            unknown: Vec::new(),
            dead: Vec::new(),
            remains: Vec::new(),
            stuck: Vec::new(),
            unseen: None,
        }
    }

    fn worst(facts: &Facts) -> (Verdict, String) {
        let worst = check(facts).into_iter().max_by_key(|finding| finding.verdict).unwrap();
        (worst.verdict, format!("{}: {}: {}", worst.about, worst.found, worst.remedy.unwrap_or_default()))
    }

    #[test]
    fn a_sound_installation_has_nothing_to_complain_of() {
        let findings = check(&facts());
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok && finding.remedy.is_none()), "{findings:?}");
    }

    #[test]
    fn each_problem_has_its_way_out() {
        let right = |allowed| Right {
            verb: "create",
            resource: "chaosexperiments".to_owned(),
            namespace: Some("shop".to_owned()),
            for_what: "run",
            allowed,
        };
        for (broken, verdict, words) in [
            (Facts { server: Ok(("v1.22.0".to_owned(), 22)), ..facts() }, Verdict::Problem, "1.30 or later"),
            (Facts { server: Ok(("v1.28.0".to_owned(), 28)), ..facts() }, Verdict::Warning, "1.30 or later"),
            (
                Facts { definitions: vec![Installed { plural: "chaosexperiments", is_ours: true, missing: Ok(None) }], ..facts() },
                Verdict::Problem,
                "is not installed: kubectl apply -k config/crd",
            ),
            (
                Facts {
                    definitions: vec![Installed {
                        plural: "chaosexperiments",
                        is_ours: true,
                        missing: Ok(Some(vec!["spec.spareNode".to_owned()])),
                    }],
                    ..facts()
                },
                Verdict::Problem,
                "lacks 1 field(s) that this version has, such as spec.spareNode",
            ),
            (Facts { presence: Presence::Absent, ..facts() }, Verdict::Problem, "kubectl -n netloss-system get pods"),
            (Facts { webhook: Ok(Some(false)), ..facts() }, Verdict::Problem, "cannot be created"),
            (Facts { freeze: Some("the sale".to_owned()), ..facts() }, Verdict::Warning, "kubectl netloss unfreeze"),
            (
                Facts { yours: vec![right(true), right(false)], ..facts() },
                Verdict::Warning,
                "you may not create chaosexperiments in shop (run)",
            ),
            (Facts { controllers: Some(vec![right(false)]), ..facts() }, Verdict::Problem, "kubectl apply -k config/rbac"),
            (Facts { enforced: Some("baseline".to_owned()), ..facts() }, Verdict::Problem, "kubectl label namespace shop pod-security"),
            (
                Facts { remains: vec![Remains { experiment: "n/x".to_owned(), entry: entry() }], ..facts() },
                Verdict::LossMayRemain,
                "in pod n/p loss of n/x may remain",
            ),
            (
                Facts { dead: vec![agent(UID)], ..facts() },
                Verdict::LossMayRemain,
                "`kubectl netloss doctor --fix -n n` removes what is left",
            ),
            (
                Facts { controllers: Some(vec![right(false)]), own_namespace: "chaos-system".to_owned(), ..facts() },
                Verdict::Problem,
                "apply again what netloss was installed with",
            ),
            (
                Facts {
                    controllers: Some(vec![right(false)]),
                    deployed: Some(Deployed { watches: vec!["shop".to_owned()], ..Deployed::default() }),
                    ..facts()
                },
                Verdict::Problem,
                "apply again what netloss was installed with",
            ),
            (
                Facts { deployed: Some(Deployed { watches: vec!["other".to_owned()], ..Deployed::default() }), ..facts() },
                Verdict::Warning,
                "runs experiments of other alone",
            ),
            (
                Facts {
                    definitions: vec![Installed {
                        plural: "chaosexperiments",
                        is_ours: false,
                        missing: Ok(Some(vec!["spec.spareNode".to_owned()])),
                    }],
                    ..facts()
                },
                Verdict::Problem,
                "with --adopt",
            ),
        ] {
            let (is, said) = worst(&broken);
            assert!(is == verdict && said.contains(words), "{words}: {is:?} {said}");
        }
    }
}
