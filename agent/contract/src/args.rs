//! The arguments of `netloss-agent run`.

use crate::{Endpoint, HeartbeatInterval, Invalid, LossModel, RunId, Ttl};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Which way packets are lost, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Packets that the pod sends.
    Egress,
    /// Packets that the pod receives.
    Ingress,
    /// Both: a round trip is lost more often than either percentage says.
    #[default]
    Both,
}

impl Direction {
    /// Whether packets that the pod sends are lost.
    #[must_use]
    pub fn egress(self) -> bool {
        self != Self::Ingress
    }

    /// Whether packets that the pod receives are lost.
    #[must_use]
    pub fn ingress(self) -> bool {
        self != Self::Egress
    }
}

/// How the loss is put into the kernel, and so what ends it when the agent cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The best that works here
    #[default]
    Auto,
    /// Guarded by the kernel: a killed agent leaves no loss
    Guarded,
    /// Plain netem qdiscs: a killed agent leaves the loss in place
    Tc,
}

/// Which packets are lost, told by their remote end: where they go to, or come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[group(skip)]
pub struct Filters {
    /// Lose only packets to and from CIDR[:PORT[-PORT]][/PROTO], such as 10.0.0.0/8:443/tcp, [2001:db8::/32]:80-90 or any:53/udp; repeatable
    #[arg(long = "target", value_name = "END")]
    pub targets: Vec<Endpoint>,

    /// Never lose packets to and from these, in the same form, whatever the targets say; repeatable
    #[arg(long = "spare", value_name = "END")]
    pub spares: Vec<Endpoint>,

    /// Never lose packets to and from the node, so that the kubelet's probes pass: its addresses, and with them the default gateways
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub spare_node: Vec<IpAddr>,

    /// Never lose ARP and NDP, by which the namespace finds its neighbours
    #[arg(long)]
    pub spare_neighbour: bool,
}

impl Filters {
    /// How many ends there may be in all: each is a rule or two that every packet meets, in each direction. docs/PERFORMANCE.md has
    /// the throughput with all of them. They are arguments in the pod's object too, where 100 of the longest (70 bytes) take 7 KB.
    pub const MAX: usize = 100;

    /// Whether there are none: every packet is lost or not by the model alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn to_argv(&self) -> Vec<String> {
        let mut argv: Vec<String> = self.targets.iter().map(|end| format!("--target={end}")).collect();
        argv.extend(self.spares.iter().map(|end| format!("--spare={end}")));
        argv.extend(self.spare_node.iter().map(|address| format!("--spare-node={address}")));
        argv.extend(self.spare_neighbour.then(|| "--spare-neighbour".to_owned()));
        argv
    }
}

/// Which run is meant, and until when: what `stop` and `cleanup` of another run, or too late, leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[group(skip)]
pub struct RunSelector {
    /// Do nothing to an agent of another run
    #[arg(long, value_name = "ID")]
    pub run: Option<RunId>,

    /// Do nothing after this time, by this node's clock (RFC 3339)
    #[arg(long, value_name = "RFC3339")]
    pub deadline: Option<Timestamp>,
}

impl RunSelector {
    fn to_argv(&self) -> impl Iterator<Item = String> {
        let run = self.run.as_ref().map(|run| format!("--run={run}"));
        run.into_iter().chain(self.deadline.map(|deadline| format!("--deadline={deadline}")))
    }
}

/// The arguments of `netloss-agent stop`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StopArgs {
    /// Which agent
    #[command(flatten)]
    pub meant: RunSelector,

    /// How long to wait for its end: 1s to 168h
    #[arg(long, value_name = "DURATION", default_value_t = Ttl::STOP)]
    pub timeout: Ttl,
}

impl StopArgs {
    /// The arguments that [`clap`] reads back to the same value, beginning with the subcommand `stop`.
    #[must_use]
    pub fn to_argv(&self) -> Vec<String> {
        let head = ["stop".to_owned(), "--json".to_owned(), format!("--timeout={}", self.timeout)];
        head.into_iter().chain(self.meant.to_argv()).collect()
    }
}

/// The arguments of `netloss-agent cleanup`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct CleanupArgs {
    /// Which agent
    #[command(flatten)]
    pub meant: RunSelector,

    /// Also where an agent works here that does not answer: one that hangs
    #[arg(long)]
    pub force: bool,
}

impl CleanupArgs {
    /// The arguments that [`clap`] reads back to the same value, beginning with the subcommand `cleanup`.
    #[must_use]
    pub fn to_argv(&self) -> Vec<String> {
        let head = ["cleanup".to_owned(), "--json".to_owned()];
        head.into_iter().chain(self.force.then(|| "--force".to_owned())).chain(self.meant.to_argv()).collect()
    }
}

/// What to lose, where, and until when.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct RunArgs {
    /// How many packets are lost, and how they are chosen
    #[command(flatten)]
    pub model: LossModel,

    /// Which way packets are lost, seen from this network namespace
    #[arg(long, value_enum, default_value_t)]
    pub direction: Direction,

    /// Seed of netem's random numbers, for losing the same packets again; what is received has the seed N + 1. Needs Linux 6.7
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,

    /// Lose TCP segments one by one where segmentation offload hands over many as one packet; the interface's settings stay
    #[arg(long)]
    pub per_segment: bool,

    /// Which packets, and which not
    #[command(flatten)]
    pub filters: Filters,

    /// How long the loss lasts once applied: 1s to 168h, such as 90s, 2m or 1h30m
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ttl: Ttl,

    /// When the loss ends at the latest, by this node's clock (RFC 3339); after it, nothing is changed
    #[arg(long, value_name = "RFC3339")]
    pub deadline: Option<Timestamp>,

    /// Name of this run, echoed in every report
    #[arg(long, value_name = "ID")]
    pub run: Option<RunId>,

    /// Interface to act on, instead of the one that the default route leaves by
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// How the loss is put into the kernel, and so what ends it when the agent cannot
    #[arg(long, value_enum, default_value_t)]
    pub backend: BackendChoice,

    /// How often to report that the loss is in place
    #[arg(long, value_name = "DURATION", default_value = "5s", allow_hyphen_values = true)]
    pub heartbeat: HeartbeatInterval,

    /// Work even where the network namespace looks like a host's: every pod and service on it is then hit
    #[arg(long)]
    pub allow_host_network: bool,
}

impl RunArgs {
    /// Whether the arguments fit together, beyond what each of them is by itself.
    ///
    /// # Errors
    /// Where they do not: filters or single segments with the backend tc, which has neither, or more filters than [`Filters::MAX`].
    pub fn check(&self) -> Result<(), Invalid> {
        let Filters { targets, spares, spare_node, .. } = &self.filters;
        let (count, max) = (targets.len() + spares.len() + spare_node.len(), Filters::MAX);
        if count > max {
            return Err(Invalid::new(format!(
                "--target, --spare and --spare-node name {count} ends in all, and at most {max} are possible: give wider networks"
            )));
        }
        if self.backend == BackendChoice::Tc && !self.filters.is_empty() {
            return Err(Invalid::new(
                "--backend tc loses packets whatever their remote end is: leave --target and the --spare arguments out, or ask for --backend guarded",
            ));
        }
        if self.backend == BackendChoice::Tc && self.per_segment {
            return Err(Invalid::new("--per-segment needs the guarded backend: leave it out, or ask for --backend guarded"));
        }
        Ok(())
    }

    /// The arguments that [`clap`] reads back to the same value, beginning with the subcommand `run`.
    ///
    /// Every value is written out, defaults too: what a pod's manifest shows is then what happens, whatever the agent's version.
    #[must_use]
    pub fn to_argv(&self) -> Vec<String> {
        let mut argv = vec!["run".to_owned()];
        argv.extend(self.model.to_argv());
        argv.extend([
            format!("--direction={}", self.direction),
            format!("--ttl={}", self.ttl),
            format!("--heartbeat={}", self.heartbeat),
            format!("--backend={}", self.backend),
        ]);
        argv.extend(self.seed.map(|seed| format!("--seed={seed}")));
        argv.extend(self.per_segment.then(|| "--per-segment".to_owned()));
        argv.extend(self.filters.to_argv());
        argv.extend(self.deadline.map(|deadline| format!("--deadline={deadline}")));
        argv.extend(self.run.as_ref().map(|run| format!("--run={run}")));
        argv.extend(self.interface.as_ref().map(|name| format!("--interface={name}")));
        argv.extend(self.allow_host_network.then(|| "--allow-host-network".to_owned()));
        argv
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{endpoint::tests::any_endpoint, model::tests::any_model};
    use clap::Parser;
    use proptest::{collection, option, prelude::*};

    #[derive(Debug, Parser)]
    enum Command {
        Run(RunArgs),
        #[command(flatten)]
        Other(Other),
    }

    /// `--json` is an argument of the whole program.
    #[derive(Debug, clap::Subcommand)]
    enum Other {
        Stop {
            #[command(flatten)]
            args: StopArgs,
            #[arg(long)]
            json: bool,
        },
        Cleanup {
            #[command(flatten)]
            args: CleanupArgs,
            #[arg(long)]
            json: bool,
        },
    }

    fn command(argv: &[String]) -> Result<Command, clap::Error> {
        Command::try_parse_from(std::iter::once("netloss-agent".to_owned()).chain(argv.iter().cloned()))
    }

    fn parse(argv: &[String]) -> Result<RunArgs, clap::Error> {
        command(argv).map(|command| if let Command::Run(args) = command { args } else { panic!("{command:?}") })
    }

    prop_compose! {
        fn filters()(
            targets in collection::vec(any_endpoint(), 0..4),
            spares in collection::vec(any_endpoint(), 0..4),
            spare_node in collection::vec(any::<IpAddr>(), 0..3),
            spare_neighbour: bool,
        ) -> Filters {
            Filters { targets, spares, spare_node, spare_neighbour }
        }
    }

    prop_compose! {
        fn meant()(run in option::of("[A-Za-z0-9._/-]{1,128}"), deadline in option::of(0..=4_000_000_000i64)) -> RunSelector {
            RunSelector { run: run.map(|run| run.parse().unwrap()), deadline: deadline.map(|at| Timestamp::from_second(at).unwrap()) }
        }
    }

    prop_compose! {
        fn run_args()(
            model in any_model(),
            seed: Option<u64>,
            per_segment: bool,
            filters in filters(),
            direction in prop_oneof![Just(Direction::Egress), Just(Direction::Ingress), Just(Direction::Both)],
            ttl in 1..=Ttl::MAX.as_secs(),
            deadline in option::of(0..=4_000_000_000i64),
            run in option::of("[A-Za-z0-9._/-]{1,128}"),
            interface in option::of("[a-z][a-z0-9.@_-]{0,14}"),
            backend in prop_oneof![Just(BackendChoice::Auto), Just(BackendChoice::Guarded), Just(BackendChoice::Tc)],
            heartbeat in 1..=HeartbeatInterval::MAX.as_secs(),
            allow_host_network: bool,
        ) -> RunArgs {
            let seconds = std::time::Duration::from_secs;
            RunArgs {
                model,
                direction,
                seed,
                per_segment,
                filters,
                ttl: seconds(ttl).try_into().unwrap(),
                deadline: deadline.map(|at| Timestamp::from_second(at).unwrap()),
                run: run.map(|run| run.parse().unwrap()),
                interface,
                backend,
                heartbeat: seconds(heartbeat).try_into().unwrap(),
                allow_host_network,
            }
        }
    }

    proptest! {
        #[test]
        fn argv_reads_back_to_the_same_arguments(args in run_args()) {
            prop_assert_eq!(parse(&args.to_argv()).unwrap(), args);
        }

        #[test]
        fn argv_of_stop_and_cleanup_too(meant in meant(), timeout in 1..=Ttl::MAX.as_secs(), force: bool) {
            let timeout = std::time::Duration::from_secs(timeout).try_into().unwrap();
            let (stop, cleanup) = (StopArgs { meant: meant.clone(), timeout }, CleanupArgs { meant, force });
            let Ok(Command::Other(Other::Stop { args, json: true })) = command(&stop.to_argv()) else { panic!() };
            prop_assert_eq!(args, stop);
            let Ok(Command::Other(Other::Cleanup { args, json: true })) = command(&cleanup.to_argv()) else { panic!() };
            prop_assert_eq!(args, cleanup);
        }
    }

    /// Arguments, JSON and messages have one name for each value.
    #[test]
    fn enums_are_shown_as_they_are_serialized_and_parsed() {
        fn check<T: ValueEnum + std::fmt::Display + Serialize>() {
            for value in T::value_variants() {
                let shown = value.to_string();
                assert_eq!(value.to_possible_value().unwrap().get_name(), shown);
                assert_eq!(serde_json::to_value(value).unwrap(), shown);
            }
        }
        check::<Direction>();
        check::<BackendChoice>();
    }

    #[test]
    fn the_shortest_command_has_the_documented_defaults() {
        let args = parse(&["run", "--loss", "10", "--ttl", "2m"].map(str::to_owned)).unwrap();
        assert_eq!(args.direction, Direction::Both);
        assert_eq!(args.model.to_argv(), ["--model=random", "--loss=10", "--correlation=0"]);
        assert!(args.seed.is_none() && !args.per_segment && args.filters.is_empty());
        assert_eq!(args.backend, BackendChoice::Auto);
        assert_eq!(args.heartbeat.to_string(), "5s");
        assert!(!args.allow_host_network && args.deadline.is_none() && args.run.is_none() && args.interface.is_none());
    }

    #[test]
    fn arguments_that_do_not_fit_together_are_refused() {
        let args =
            |words: &str| parse(&format!("run --loss 10 --ttl 2m {words}").split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for guarded in ["--target any:53/udp", "--spare 10.0.0.0/8", "--spare-node 192.0.2.1", "--spare-neighbour", "--per-segment"] {
            assert!(args(guarded).unwrap().check().is_ok());
            let error = args(&format!("{guarded} --backend tc")).unwrap().check().unwrap_err().to_string();
            assert!(error.contains("--backend guarded"), "{error}");
        }
        let many = "--target 10.0.0.0/8 ".repeat(Filters::MAX + 1);
        assert!(args(&many).unwrap().check().unwrap_err().to_string().contains("101 ends"));
    }

    #[test]
    fn bad_values_name_the_argument_and_the_value() {
        for (argument, value) in [
            ("--loss", "0"),
            ("--loss", "-3"),
            ("--loss", "100.1"),
            ("--loss", "NaN"),
            ("--correlation", "-1"),
            ("--correlation", "101"),
            ("--direction", "sideways"),
            ("--backend", "ebpf"),
            ("--ttl", "0s"),
            ("--ttl", "-5s"),
            ("--ttl", "99999999999999999999h"),
            ("--deadline", "tomorrow"),
            ("--run", "a b"),
            ("--heartbeat", "2h"),
            ("--target", "10.0.0.1/8"),
            ("--spare", "any:80/icmp"),
            ("--spare-node", "node-1"),
            ("--model", "markov"),
            ("--seed", "-1"),
            ("--seed", "18446744073709551616"),
        ] {
            let good = [("--loss", "10"), ("--ttl", "2m")].into_iter().filter(|(name, _)| *name != argument);
            let argv: Vec<String> = std::iter::once("run".to_owned())
                .chain(good.chain([(argument, value)]).map(|(name, value)| format!("{name}={value}")))
                .collect();
            let error = parse(&argv).unwrap_err().to_string();
            // Which arguments a model has depends on its name, so the model is not read by clap.
            let words = if argument == "--model" {
                format!("--model \"{value}\" is none of")
            } else {
                format!("invalid value '{value}' for '{argument} ")
            };
            assert!(error.contains(&words), "{argument} {value}: {error}");
        }
    }
}
