//! What a spec asks for, checked: as the schema should have, and what a schema cannot.

use super::{Experiment, Settings};
use crate::{schedule::Schedule, windows::Windows};
use jiff::Timestamp;
use netloss_api::{AskedLoss, ChaosExperimentSpec, LossModelSpec, MAX_LOSS_PERCENTAGE};
use netloss_contract::{
    BackendChoice, Correlation, Endpoint, Filters, HeartbeatInterval, LossModel, LossPercentage, MeanBurst, Protocol, RunArgs, Share, Ttl,
};
use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

/// How often an agent reports: its own default. A log then has 720 lines an hour, and a hanging agent is noticed after three missing ones
/// (netloss-cluster's `SILENCE`).
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Ends that are kept for the node's own addresses: an InternalIP and an ExternalIP of each family.
const OF_THE_NODE: usize = 4;

/// A spec whose values are in their ranges and fit together.
#[derive(Debug)]
pub struct Request {
    /// How packets are lost.
    pub model: LossModel,
    pub(super) seed: Option<u64>,
    pub(super) per_segment: bool,
    /// Without the node's addresses, which are each pod's own.
    pub(super) filters: Filters,
    pub(super) spare_node: bool,
    pub(super) backend: BackendChoice,
    pub(super) ttl: Ttl,
    pub(super) heartbeat: HeartbeatInterval,
}

impl Request {
    /// The arguments of an agent: a function of the spec and of what a plan chooses for a pod (`ttl`, which is shorter after a pause,
    /// `deadline`, and the addresses of its node).
    pub(super) fn arguments(
        &self,
        experiment: &Experiment<'_>,
        run: u32,
        ttl: Ttl,
        deadline: Timestamp,
        spare_node: Vec<IpAddr>,
    ) -> RunArgs {
        RunArgs {
            model: self.model,
            direction: experiment.spec.direction,
            seed: self.seed,
            per_segment: self.per_segment,
            filters: Filters { spare_node: if self.spare_node { spare_node } else { Vec::new() }, ..self.filters.clone() },
            ttl,
            deadline: Some(deadline),
            run: format!("{}/{run}", experiment.uid).parse().ok(),
            interface: experiment.spec.interface.clone(),
            backend: self.backend,
            heartbeat: self.heartbeat,
            allow_host_network: false,
        }
    }

    /// What status shows of these arguments.
    pub(super) fn asked(&self, experiment: &Experiment<'_>, ttl: Ttl) -> AskedLoss {
        let correlation = if let LossModel::Random { correlation, .. } = self.model { correlation.percent() } else { 0.0 };
        AskedLoss {
            loss_percentage: self.model.asked_percentage(),
            correlation,
            direction: experiment.spec.direction,
            duration: ttl.to_string(),
            predicted_percentage: predicted_otherwise(&self.model),
            variance_inflation: inflation(&self.model),
        }
    }
}

/// What the model loses by the kernel's formula, where that is not what it is asked for.
fn predicted_otherwise(model: &LossModel) -> Option<f64> {
    let (asked, predicted) = (model.asked_percentage(), model.predicted()?.loss_percentage);
    ((predicted - asked).abs() > 0.005).then_some(predicted)
}

/// By how much its losses scatter more than independent ones, where they do.
fn inflation(model: &LossModel) -> Option<f64> {
    let inflation = model.expectation().variance_inflation();
    let thousandths = (inflation * 1000.0).round() / 1000.0;
    ((thousandths - 1.0).abs() > 0.0005).then_some(thousandths)
}

/// Checks a spec; the error is what the user is to read.
///
/// # Errors
/// Names the field, the value and the way out.
pub fn check(experiment: &Experiment<'_>, settings: &Settings) -> Result<Request, String> {
    let Experiment { namespace, spec, .. } = experiment;
    let target = spec.target_namespace(namespace);
    for namespace in [namespace, target] {
        if namespace.starts_with("kube-") || *namespace == settings.own_namespace {
            return Err(format!("experiments in the namespace \"{namespace}\" are refused: its pods run the cluster or netloss itself"));
        }
    }
    if spec.selector.is_empty() {
        return Err("spec.selector is empty: name at least one label that the pods carry, such as app: web".to_owned());
    }
    if let Some((key, value)) = spec.selector.iter().find(|(key, value)| !is_label(key, value)) {
        return Err(format!(
            "spec.selector has \"{key}\": \"{value}\", which no pod can carry: give a label as pods have it, such as app: web"
        ));
    }
    if let Some(name) = spec.interface.as_deref().filter(|name| !is_interface(name)) {
        return Err(format!("spec.interface is \"{name}\", which no interface is called: give a name such as eth0, or leave it out"));
    }
    let model = model(spec)?;
    let filters = filters(spec)?;
    let spare_node = spec.spare_node == Some(true);
    let duration = spec.duration.as_deref().ok_or("spec.duration is required: give a length such as 90s, 2m or 1h30m")?;
    timing(spec)?;
    Ok(Request {
        model,
        seed: spec.seed,
        per_segment: spec.per_segment == Some(true),
        backend: backend(spec, spare_node || !filters.is_empty())?,
        filters,
        spare_node,
        ttl: duration.parse().map_err(|error| format!("spec.duration: {error}"))?,
        heartbeat: HEARTBEAT.try_into().map_err(|error| format!("heartbeat: {error}"))?,
    })
}

/// When it runs: everything that only reads one way.
fn timing(spec: &ChaosExperimentSpec) -> Result<(), String> {
    let length = |field: &str, text: &str| text.parse::<Ttl>().map(drop).map_err(|error| format!("spec.{field}: {error}"));
    length("retryDelay", &spec.retry_delay)?;
    spec.experiment_duration.as_deref().map_or(Ok(()), |text| length("experimentDuration", text))?;
    spec.schedule.as_deref().map_or(Ok(()), |text| Schedule::parse(text).map(drop))?;
    Windows::of(spec).map(drop)
}

/// Whether Kubernetes takes this for a label (apimachinery, pkg/util/validation: IsQualifiedName, IsValidLabelValue). One that it does not would be an error of
/// every list of pods, or, with a comma in it, another selector.
fn is_label(key: &str, value: &str) -> bool {
    let is_domain = |text: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_part = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.chars().all(inner);
        text.len() <= 253 && text.split('.').all(is_part)
    };
    let is_name = |text: &str, longest: usize| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let ends = |c: char| c.is_ascii_alphanumeric();
        text.len() <= longest && text.starts_with(ends) && text.ends_with(ends) && text.chars().all(inner)
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_domain) && is_name(name, 63) && (value.is_empty() || is_name(value, 63))
}

/// As the schema has it; the kernel has names of up to 15 bytes.
fn is_interface(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    name.len() <= 15 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits)
}

/// How packets are lost, within what is allowed.
fn model(spec: &ChaosExperimentSpec) -> Result<LossModel, String> {
    if let (Some(correlation), Some(older)) = (spec.correlation, spec.loss_correlation)
        && (correlation - older).abs() > f64::EPSILON
    {
        return Err(format!(
            "spec.correlation is {correlation} and its older name spec.lossCorrelation is {older}: set only spec.correlation"
        ));
    }
    let correlation = Correlation::try_from(spec.correlation_percentage()).map_err(|error| format!("spec.correlation: {error}"))?;
    let loss_percentage = LossPercentage::try_from(spec.loss_percentage).map_err(|error| format!("spec.lossPercentage: {error}"))?;
    let model = match &spec.loss_model {
        None => LossModel::Random { loss_percentage, correlation },
        Some(asked) => {
            if asked.kind != "random" && !correlation.is_none() {
                return Err(format!(
                    "spec.correlation is for the loss model random, but spec.lossModel.type is {}: leave it out",
                    asked.kind
                ));
            }
            of_spec(asked, loss_percentage, correlation).map_err(|error| format!("spec.lossModel: {error}"))?
        }
    };
    model.check().map_err(|error| format!("spec.lossModel: {error}"))?;
    let (asked, highest) = (model.asked_percentage(), model.highest_percentage());
    if highest > MAX_LOSS_PERCENTAGE && spec.allow_high_loss != Some(true) {
        let field = if matches!(model, LossModel::Random { .. } | LossModel::Gilbert { .. }) { "lossPercentage" } else { "lossModel" };
        return Err(if asked > MAX_LOSS_PERCENTAGE {
            format!(
                "spec.{field} asks for {asked} %, but more than {MAX_LOSS_PERCENTAGE} % needs your consent: lower it, or set spec.allowHighLoss: true"
            )
        } else if matches!(model, LossModel::Random { .. }) {
            format!(
                "spec.{field} asks for {asked} % with a correlation of {correlation} %, which may lose {highest} %, but more than {MAX_LOSS_PERCENTAGE} % needs \
                 your consent: lower spec.correlation, or set spec.allowHighLoss: true"
            )
        } else {
            format!(
                "spec.{field} loses {asked} % on average, but {highest} % of thousands of packets in a row in a state that it hardly ever leaves, and more than \
                 {MAX_LOSS_PERCENTAGE} % needs your consent: raise the probabilities that lead out of that state, or set spec.allowHighLoss: true"
            )
        });
    }
    Ok(model)
}

/// The loss that a spec requests in each direction, in percent: of a model with probabilities what these say, and not lossPercentage, which the API server has
/// filled in with its default. A spec that is refused requests what it says.
#[must_use]
pub fn requested_percentage(spec: &ChaosExperimentSpec) -> f64 {
    model(spec).map_or(spec.loss_percentage, |model| model.asked_percentage())
}

fn of_spec(asked: &LossModelSpec, loss_percentage: LossPercentage, correlation: Correlation) -> Result<LossModel, String> {
    let LossModelSpec { kind, mean_burst, probabilities } = asked;
    let probabilities = probabilities.as_deref().unwrap_or_default();
    let only = |field: &str, given: bool| if given { Err(format!("{field} is not for the type {kind}: leave it out")) } else { Ok(()) };
    let shares = probabilities.iter().map(|percent| Share::try_from(*percent)).collect::<Result<Vec<_>, _>>();
    let shares = shares.map_err(|error| format!("probabilities: {error}"))?;
    match kind.as_str() {
        "random" | "gilbert" => only("probabilities", !probabilities.is_empty())?,
        _ => only("meanBurst", mean_burst.is_some())?,
    }
    match (kind.as_str(), shares.as_slice()) {
        ("random", _) => {
            only("meanBurst", mean_burst.is_some())?;
            Ok(LossModel::Random { loss_percentage, correlation })
        }
        ("gilbert", _) => {
            let packets = mean_burst.ok_or("meanBurst is required for the type gilbert: give a number of packets, such as 4")?;
            let mean_burst = MeanBurst::try_from(packets).map_err(|error| format!("meanBurst: {error}"))?;
            Ok(LossModel::Gilbert { loss_percentage, mean_burst })
        }
        ("gemodel", &[p, r]) => Ok(LossModel::Gemodel { p, r, h: Share::ALL, k: Share::default() }),
        ("gemodel", &[p, r, h]) => Ok(LossModel::Gemodel { p, r, h, k: Share::default() }),
        ("gemodel", &[p, r, h, k]) => Ok(LossModel::Gemodel { p, r, h, k }),
        ("state", &[p13, p31, p32, p23, p14]) => Ok(LossModel::State { p13, p31, p32, p23, p14 }),
        ("gemodel", other) => Err(format!("probabilities has {} numbers: the type gemodel takes 2 to 4 (P, R, 1-H, 1-K)", other.len())),
        ("state", other) => Err(format!("probabilities has {} numbers: the type state takes 5 (P13, P31, P32, P23, P14)", other.len())),
        (other, _) => Err(format!("type \"{other}\" is none of random, gilbert, gemodel and state")),
    }
}

/// Which packets are lost: those of each address, with each port, of each protocol.
fn filters(spec: &ChaosExperimentSpec) -> Result<Filters, String> {
    fn each<T: Clone>(values: Vec<T>) -> Vec<Option<T>> {
        if values.is_empty() { vec![None] } else { values.into_iter().map(Some).collect() }
    }
    let ips = spec.target_ips.as_deref().unwrap_or_default().iter().map(|text| {
        let address: Option<IpAddr> = text.parse().ok();
        address
            .map(Endpoint::of_address)
            .ok_or_else(|| format!("spec.targetIPs has \"{text}\", which is no address: give one such as 192.0.2.7"))
    });
    let cidrs = spec.target_cidrs.as_deref().unwrap_or_default().iter().map(|text| match text.parse::<Endpoint>() {
        Ok(end) if end.ports.is_none() && end.protocol.is_none() => Ok(end),
        Ok(_) => Err(format!(
            "spec.targetCIDRs has \"{text}\": give the network alone, and ports and protocols in spec.targetPorts and spec.targetProtocols"
        )),
        Err(error) => Err(format!("spec.targetCIDRs: {error}")),
    });
    let networks: Vec<Endpoint> = ips.chain(cidrs).collect::<Result<_, String>>()?;
    let ports: Vec<RangeInclusive<u16>> = spec.target_ports.as_deref().unwrap_or_default().iter().map(|port| *port..=*port).collect();
    if ports.iter().any(|port| *port.start() == 0) {
        return Err("spec.targetPorts has 0: give ports from 1 to 65535".to_owned());
    }
    let protocols = spec.target_protocols.as_deref().unwrap_or_default().iter().map(|text| protocol(text));
    let protocols: Vec<Protocol> = protocols.collect::<Result<_, String>>()?;
    if !ports.is_empty() && protocols.contains(&Protocol::Icmp) {
        return Err("spec.targetPorts is set and spec.targetProtocols has icmp, which has no ports: leave one of them out".to_owned());
    }
    let mut targets = Vec::new();
    if !(networks.is_empty() && ports.is_empty() && protocols.is_empty()) {
        for network in each(networks) {
            for ports in each(ports.clone()) {
                targets.extend(each(protocols.clone()).into_iter().map(|protocol| Endpoint {
                    network: network.as_ref().and_then(|end| end.network),
                    ports: ports.clone(),
                    protocol,
                }));
            }
        }
    }
    let spares = spec.spare.as_deref().unwrap_or_default().iter().map(|text| text.parse().map_err(|error| format!("spec.spare: {error}")));
    let spares: Vec<Endpoint> = spares.collect::<Result<_, String>>()?;
    let (count, max) = (targets.len() + spares.len(), Filters::MAX - OF_THE_NODE);
    if count > max {
        return Err(format!(
            "spec.targetIPs, targetCIDRs, targetPorts, targetProtocols and spare make {count} combinations, and at most {max} are possible: \
             give wider networks"
        ));
    }
    Ok(Filters { targets, spares, ..Filters::default() })
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].into_iter().find(|protocol| text.eq_ignore_ascii_case(protocol.as_str()));
    known.ok_or_else(|| format!("spec.targetProtocols has \"{text}\", which is none of tcp, udp and icmp"))
}

/// The backend, where it can do what is asked for.
fn backend(spec: &ChaosExperimentSpec, filtered: bool) -> Result<BackendChoice, String> {
    let guarded_alone = [
        (spec.require_guarded == Some(true), "spec.requireGuarded is true"),
        (filtered, "spec.target… or spec.spare… keep the loss to some packets"),
        (spec.per_segment == Some(true), "spec.perSegment is true"),
    ];
    match guarded_alone.into_iter().find(|(asked, _)| *asked) {
        Some((_, why)) if spec.backend == Some(BackendChoice::Tc) => {
            Err(format!("spec.backend is tc, but {why}, which only guarded can do: leave one of them out"))
        }
        _ if spec.require_guarded == Some(true) => Ok(BackendChoice::Guarded),
        _ => Ok(spec.backend.unwrap_or_default()),
    }
}
