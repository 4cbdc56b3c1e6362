//! What to lose, as it is said on the command line, made into an experiment.

use super::{
    connect::Cluster,
    error::Error,
    workload::{self, Kind, Labels, Selection, Workload, parse_labels},
};
use clap::Args;
use netloss_api::{Action, ChaosExperiment, ChaosExperimentSpec, LossModelSpec};
use netloss_contract::{BackendChoice, Correlation, Direction, LossPercentage, MeanBurst, Ttl};
use netloss_core::targets::Candidate;
use std::str::FromStr;

/// Who is to lose packets, and how many.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line are what they are
pub(super) struct LossArgs {
    /// Whose pods: deploy, statefulset, daemonset, replicaset, job, pod or service, such as deploy/web
    #[arg(value_name = "TYPE/NAME", required_unless_present = "selector", conflicts_with = "selector")]
    pub(super) target: Option<Workload>,

    /// Pods with these labels, in place of a workload: KEY=VALUE, more of them with commas between
    #[arg(long, short = 'l', value_name = "LABELS", value_parser = LabelArg::from_str)]
    selector: Option<LabelArg>,

    /// Share of the packets to lose in each direction, in percent
    #[arg(long, value_name = "PERCENT")]
    pub(super) loss: LossPercentage,

    /// How long the loss lasts in each pod, such as 90s, 2m or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(super) duration: Ttl,

    /// In how many of the pods: a number, or all (100 at most)
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    count: Count,

    /// Which way packets are lost, seen from the pod
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    direction: Direction,

    /// Name of the experiment; left out, the API server makes one of the workload's
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,

    /// Lose packets so many in a row, on average
    #[arg(long, value_name = "PACKETS", conflicts_with = "correlation")]
    burst: Option<MeanBurst>,

    /// How much a packet's fate depends on the last one's, in percent; lowers the effective loss
    #[arg(long, value_name = "PERCENT")]
    correlation: Option<Correlation>,

    /// Lose only packets to and from this network; may be given more than once
    #[arg(long, value_name = "CIDR")]
    target_cidr: Vec<String>,

    /// Lose only packets to and from this port of the other side; may be given more than once
    #[arg(long, value_name = "PORT")]
    target_port: Vec<u16>,

    /// Lose only packets of this protocol: tcp, udp or icmp; may be given more than once
    #[arg(long, value_name = "NAME")]
    target_protocol: Vec<String>,

    /// Never lose packets to and from this: CIDR[:PORT[-PORT]][/PROTO], such as any:53; may be given more than once
    #[arg(long, value_name = "END")]
    spare: Vec<String>,

    /// Never lose packets to and from the node, so that the kubelet's probes pass
    #[arg(long)]
    spare_node: bool,

    /// Interface in the pod, in place of the one that its default route leaves by
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// How the loss is put into the kernel
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<BackendChoice>,

    /// Refuse to run where a killed agent would leave the loss in place
    #[arg(long)]
    require_guarded: bool,

    /// Refuse to affect more than this share of the eligible pods
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_percentage: Option<u32>,

    /// Stop when fewer than so many of the pods are ready
    #[arg(long, value_name = "NUMBER")]
    abort: Option<u32>,

    /// Try again so often where no pod got any loss
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    retries: u32,

    /// Consent to a loss of more than 40 %
    #[arg(long)]
    allow_high_loss: bool,

    /// Consent to a production namespace: sets spec.allowProduction
    #[arg(long)]
    pub(super) allow_production: bool,
}

/// As clap carries them.
#[derive(Debug, Clone)]
struct LabelArg(Labels);

impl FromStr for LabelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_labels(text).map(Self)
    }
}

/// The most pods of one experiment: the maximum of `spec.count`.
const MOST: u32 = 100;

/// How many pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    All,
    Some(u32),
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if (1..=MOST).contains(&count) => Ok(Self::Some(count)),
            _ if text == "all" => Ok(Self::All),
            _ => Err(format!("give a number from 1 to {MOST}, or all")),
        }
    }
}

impl LossArgs {
    /// What is acted on, in words.
    pub(super) fn target_words(&self) -> String {
        let of_labels =
            |LabelArg(labels): &LabelArg| labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        match (&self.target, &self.selector) {
            (Some(workload), _) => workload.to_string(),
            (None, Some(labels)) => format!("pods with {}", of_labels(labels)),
            (None, None) => "no pods".to_owned(),
        }
    }

    /// The labels of the pods, and whose they are. Asks the cluster where a workload is named.
    pub(super) async fn selection(&self, cluster: &Cluster) -> Result<Selection, Error> {
        match (&self.target, &self.selector) {
            (Some(workload), _) => workload::select(cluster, workload).await,
            (None, labels) => {
                let labels = labels.clone().map(|LabelArg(labels)| labels).unwrap_or_default();
                Ok(Selection { labels, owners: None })
            }
        }
    }

    /// Whether the labels name what was asked for: those of one pod may be others' too.
    pub(super) fn check(&self, pods: &[Candidate]) -> Result<(), Error> {
        match &self.target {
            Some(workload) if workload.kind == Kind::Pod && pods.len() > 1 => Err(Error::Failed(format!(
                "{} pods have the labels of {workload}, and an experiment selects by labels: name their workload in its place, labels of this pod alone \
                 with -l, or put the loss into it with --direct",
                pods.len()
            ))),
            _ => Ok(()),
        }
    }

    /// The spec of the experiment, for these pods.
    pub(super) fn spec(&self, selector: &Labels, pods: &[Candidate]) -> Result<ChaosExperimentSpec, Error> {
        let count = match self.count {
            Count::Some(count) => count,
            Count::All => u32::try_from(pods.iter().filter(|pod| pod.skip.is_none()).count()).unwrap_or(MOST).clamp(1, MOST),
        };
        let smallest = serde_json::json!({ "action": Action::PodNetworkLoss, "selector": selector });
        let smallest: ChaosExperimentSpec =
            serde_json::from_value(smallest).map_err(|error| Error::Failed(format!("making the experiment: {error}")))?;
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        Ok(ChaosExperimentSpec {
            count,
            duration: Some(self.duration.to_string()),
            loss_percentage: self.loss.percent(),
            direction: self.direction,
            correlation: self.correlation.map(Correlation::percent).filter(|percent| *percent > 0.0),
            loss_model: self.burst.map(|burst| LossModelSpec {
                kind: "gilbert".to_owned(),
                mean_burst: Some(burst.packets()),
                probabilities: None,
            }),
            target_cidrs: some(&self.target_cidr),
            target_ports: (!self.target_port.is_empty()).then(|| self.target_port.clone()),
            target_protocols: some(&self.target_protocol),
            spare: some(&self.spare),
            spare_node: self.spare_node.then_some(true),
            interface: self.interface.clone(),
            backend: self.backend,
            require_guarded: self.require_guarded.then_some(true),
            max_percentage: self.max_percentage,
            abort: self.abort,
            max_retries: self.retries,
            allow_high_loss: self.allow_high_loss.then_some(true),
            allow_production: self.allow_production.then_some(true),
            ..smallest
        })
    }

    /// The experiment. Without a name of its own it is named by the API server, after what it acts on.
    pub(super) fn experiment(&self, spec: ChaosExperimentSpec, namespace: &str) -> ChaosExperiment {
        let mut object = ChaosExperiment::new("", spec);
        object.metadata.namespace = Some(namespace.to_owned());
        object.metadata.name.clone_from(&self.name);
        object.metadata.generate_name = self.name.is_none().then(|| format!("{}-", self.stem()));
        object
    }

    /// A name for a manifest.
    pub(super) fn stem(&self) -> String {
        /// The API server cuts a name of its own making to 63 characters, and our longest record name follows it.
        const LONGEST: usize = 50;
        let of = self.target.as_ref().map_or("pods", |workload| workload.name.as_str());
        let of: String = of.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(LONGEST).collect();
        format!("{}-loss", of.trim_matches('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Parser, error::ErrorKind};
    use netloss_core::machine::fixtures::candidates;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        loss: LossArgs,
    }

    fn args(more: &[&str]) -> LossArgs {
        let all = ["run", "deploy/web", "--loss", "10", "--duration", "2m"].iter().chain(more);
        Command::try_parse_from(all).unwrap().loss
    }

    fn spec(more: &[&str]) -> serde_json::Value {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        serde_json::to_value(args(more).spec(&labels, &candidates(3)).unwrap()).unwrap()
    }

    #[test]
    fn the_spec_says_what_was_asked_for_and_nothing_more() {
        let plain = spec(&[]);
        let given = json!({
            "action": "pod-network-loss", "selector": { "app": "web" }, "count": 1, "duration": "2m", "lossPercentage": 10.0, "direction": "both",
        });
        let defaults = ["maxRetries", "retryBackoff", "retryDelay"];
        let mut named = plain.as_object().unwrap().clone();
        named.retain(|key, _| !defaults.contains(&key.as_str()));
        assert_eq!(serde_json::Value::Object(named), given);
        let rich = spec(&[
            "--count=all",
            "--burst=8",
            "--target-cidr=10.0.0.0/8",
            "--target-port=443",
            "--spare=any:53",
            "--spare-node",
            "--allow-production",
        ]);
        assert_eq!(rich["allowProduction"], json!(true));
        assert_eq!(rich["count"], json!(3));
        assert_eq!(rich["lossModel"], json!({ "type": "gilbert", "meanBurst": 8.0 }));
        assert_eq!((&rich["targetCIDRs"], &rich["targetPorts"]), (&json!(["10.0.0.0/8"]), &json!([443])));
        assert_eq!((&rich["spare"], &rich["spareNode"]), (&json!(["any:53"]), &json!(true)));
    }

    #[test]
    fn a_workload_or_labels_and_not_both() {
        let parse =
            |words: &[&str]| Command::try_parse_from(["run", "--loss=10", "--duration=2m"].iter().chain(words)).map(|command| command.loss);
        assert_eq!(parse(&[]).unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse(&["deploy/web", "-l", "app=web"]).unwrap_err().kind(), ErrorKind::ArgumentConflict);
        assert_eq!(parse(&["-l", "app=web"]).unwrap().target_words(), "pods with app=web");
        let error = parse(&["deploy/web", "--count=0"]).unwrap_err().to_string();
        assert!(error.contains("give a number from 1 to 100, or all"), "{error}");
    }

    #[test]
    fn a_pod_whose_labels_are_others_too_is_not_named_by_them() {
        let of_pod = LossArgs { target: Some("pod/web-0".parse().unwrap()), ..args(&[]) };
        let words = of_pod.check(&candidates(2)).unwrap_err().to_string();
        assert!(words.starts_with("2 pods have the labels of pod/web-0") && words.contains("--direct"), "{words}");
        assert!(of_pod.check(&candidates(1)).is_ok() && args(&[]).check(&candidates(2)).is_ok());
    }

    #[test]
    fn names_are_fit_for_an_object() {
        assert_eq!(args(&[]).stem(), "web-loss");
        let long = LossArgs { target: Some(Workload { kind: Kind::Pod, name: "a.B-".repeat(60) }), ..args(&[]) };
        assert!(long.stem().len() <= 60 && long.stem().chars().all(|c| c == '-' || c.is_ascii_alphanumeric()), "{}", long.stem());
        let object = args(&[]).experiment(args(&[]).spec(&Labels::default(), &[]).unwrap(), "n");
        assert_eq!((object.metadata.name, object.metadata.generate_name.as_deref()), (None, Some("web-loss-")));
    }
}
