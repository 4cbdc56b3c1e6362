//! Which specs are refused, and what the others ask of the agent.

use super::*;
use netloss_api::LossModelSpec;

fn model(kind: &str, mean_burst: Option<f64>, probabilities: &[f64]) -> LossModelSpec {
    let probabilities = (!probabilities.is_empty()).then(|| probabilities.to_vec());
    LossModelSpec { kind: kind.to_owned(), mean_burst, probabilities }
}

/// What the first pod's agent is asked for.
fn asked_of_the_agent(spec: &ChaosExperimentSpec) -> Vec<String> {
    plan(spec, candidates(3)).status.unwrap().pods.first().map(|pod| pod.argv.clone()).unwrap_or_default()
}

#[test]
fn models_seeds_and_filters_reach_the_agent() {
    let has = |change: fn(&mut ChaosExperimentSpec), words: &[&str]| {
        let mut spec = spec();
        change(&mut spec);
        let argv = asked_of_the_agent(&spec);
        for word in words {
            assert!(argv.iter().any(|argument| argument == word), "{word}: {argv:?}");
        }
        argv.iter().filter(|argument| argument.starts_with("--target=")).count()
    };
    has(|spec| spec.loss_model = Some(model("gilbert", Some(4.0), &[])), &["--model=gilbert", "--loss=10", "--burst=4"]);
    has(|spec| spec.loss_model = Some(model("gemodel", None, &[1.0, 10.0])), &["--model=gemodel,1,10,100,0"]);
    has(|spec| spec.loss_model = Some(model("state", None, &[1.0, 50.0, 2.0, 30.0, 0.5])), &["--model=state,1,50,2,30,0.5"]);
    has(|spec| (spec.seed, spec.per_segment) = (Some(7), Some(true)), &["--seed=7", "--per-segment"]);
    has(|spec| (spec.loss_percentage, spec.allow_high_loss) = (80.0, Some(true)), &["--loss=80"]);
    has(|spec| spec.spare = Some(vec!["any:53/udp".to_owned()]), &["--spare=any:53/udp"]);
    has(|spec| spec.spare_node = Some(true), &["--spare-node=172.18.0.2"]);
    let ends = has(
        |spec| {
            spec.target_ips = Some(vec!["192.0.2.7".to_owned(), "2001:db8::1".to_owned()]);
            spec.target_cidrs = Some(vec!["10.0.0.0/8".to_owned()]);
            spec.target_ports = Some(vec![80, 443]);
            spec.target_protocols = Some(vec!["TCP".to_owned()]);
        },
        &["--target=192.0.2.7:80/tcp", "--target=[2001:db8::1]:443/tcp", "--target=10.0.0.0/8:443/tcp"],
    );
    assert_eq!(ends, 6);
    let ends =
        has(|spec| spec.target_protocols = Some(vec!["udp".to_owned(), "icmp".to_owned()]), &["--target=any/udp", "--target=any/icmp"]);
    assert_eq!(ends, 2);
    assert_eq!(has(|_| (), &["--model=random", "--loss=10"]), 0);
}

#[test]
fn a_node_whose_addresses_are_not_known_is_not_spared_by_half() {
    let mut pods = candidates(3);
    for pod in &mut pods {
        pod.host_ips.clear();
    }
    let spec = ChaosExperimentSpec { spare_node: Some(true), ..spec() };
    let decision = plan(&spec, pods);
    assert!(message(&decision).contains("does not show the addresses of its node"), "{}", message(&decision));
    assert!(decision.status.unwrap().pods.is_empty());
}

/// Each pod's arguments, with every end in them, are kept outside of a status that is too small for them.
#[test]
fn more_arguments_than_a_status_holds_are_no_reason_to_refuse() {
    let spec = ChaosExperimentSpec {
        count: 100,
        target_cidrs: Some((0..90).map(|n| format!("2001:db8:1111:2222:3333:4444:5555:{n}/128")).collect()),
        ..spec()
    };
    let status = plan(&spec, candidates(100)).status.unwrap();
    assert_eq!(status.pods.len(), 100);
    assert!(crate::status_store::size(&status) > 400 * 1024);
}

/// What correlation takes from the rate is said before anything is lost, also by a dry run.
#[test]
fn the_effective_loss_is_told() {
    for dry_run in [None, Some(true)] {
        let decision = plan(&ChaosExperimentSpec { correlation: Some(25.0), dry_run, ..spec() }, candidates(3));
        let told = decision.events.iter().find(|event| event.reason.to_string() == "EffectiveLoss").unwrap();
        assert!(told.note.contains("10 % asked with a correlation of 25 % will be about 1.75 %"), "{}", told.note);
    }
    let decision = plan(&spec(), candidates(3));
    assert!(decision.events.iter().all(|event| event.reason.to_string() != "EffectiveLoss"));
}

#[test]
fn refusals_name_the_field_the_value_and_the_way_out() {
    let refused = |change: fn(&mut ChaosExperimentSpec)| {
        let mut spec = spec();
        change(&mut spec);
        let decision = decide(&experiment(&spec, None), &Observed::Nothing, at(0), &settings());
        assert_eq!(needs(&experiment(&spec, None), at(0), &settings()), Needs::Nothing);
        let status = decision.status.unwrap();
        assert_eq!((status.phase, status.run, status.observed_generation), (Some(Phase::Failed), Some(1), Some(1)));
        assert!(status.completed_at.is_some() && status.pods.is_empty() && decision.injections.is_empty());
        status.message.unwrap()
    };
    for (change, expected) in [
        (
            (|spec| spec.namespace = Some("kube-system".to_owned())) as fn(&mut ChaosExperimentSpec),
            "experiments in the namespace \"kube-system\" are refused",
        ),
        (|spec| spec.duration = None, "spec.duration is required: give a length such as 90s, 2m or 1h30m"),
        (|spec| spec.duration = Some("8d".to_owned()), "spec.duration: \"8d\" is not a duration"),
        (
            |spec| spec.loss_percentage = 40.1,
            "spec.lossPercentage asks for 40.1 %, but more than 40 % needs your consent: lower it, or set spec.allowHighLoss: true",
        ),
        (|spec| spec.loss_model = Some(model("gilbert", None, &[])), "spec.lossModel: meanBurst is required for the type gilbert"),
        (|spec| spec.loss_model = Some(model("gilbert", Some(0.5), &[])), "spec.lossModel: meanBurst: a mean burst of 0.5 packets"),
        (|spec| spec.loss_model = Some(model("random", Some(4.0), &[])), "spec.lossModel: meanBurst is not for the type random"),
        (|spec| spec.loss_model = Some(model("gemodel", None, &[1.0])), "spec.lossModel: probabilities has 1 numbers: the type gemodel"),
        (|spec| spec.loss_model = Some(model("state", None, &[1.0, 101.0])), "spec.lossModel: probabilities: "),
        (
            |spec| spec.loss_model = Some(model("gemodel", None, &[0.0, 10.0])),
            "spec.lossModel: with these probabilities no packet is ever lost",
        ),
        (|spec| spec.loss_model = Some(model("gemodel", None, &[90.0, 10.0])), "spec.lossModel asks for 90 %, but more than 40 % needs"),
        (
            |spec| (spec.loss_model, spec.correlation) = (Some(model("gilbert", Some(4.0), &[])), Some(25.0)),
            "spec.correlation is for the loss model random, but spec.lossModel.type is gilbert",
        ),
        (|spec| spec.target_ips = Some(vec!["10.0.0.0/8".to_owned()]), "spec.targetIPs has \"10.0.0.0/8\", which is no address"),
        (|spec| spec.target_cidrs = Some(vec!["10.0.0.1/8".to_owned()]), "spec.targetCIDRs: \"10.0.0.1/8\" has an address with bits"),
        (
            |spec| spec.target_cidrs = Some(vec!["10.0.0.0/8:80".to_owned()]),
            "spec.targetCIDRs has \"10.0.0.0/8:80\": give the network alone",
        ),
        (|spec| spec.target_ports = Some(vec![0]), "spec.targetPorts has 0: give ports from 1 to 65535"),
        (|spec| spec.target_protocols = Some(vec!["sctp".to_owned()]), "spec.targetProtocols has \"sctp\", which is none of tcp"),
        (
            |spec| (spec.target_ports, spec.target_protocols) = (Some(vec![80]), Some(vec!["icmp".to_owned()])),
            "spec.targetPorts is set and spec.targetProtocols has icmp, which has no ports",
        ),
        (|spec| spec.spare = Some(vec!["any:0".to_owned()]), "spec.spare: \"any:0\" has a port"),
        (
            |spec| spec.target_ports = Some((1..=97).collect()),
            "spec.targetIPs, targetCIDRs, targetPorts, targetProtocols and spare make 97",
        ),
        (
            |spec| (spec.spare_node, spec.backend) = (Some(true), Some(netloss_contract::BackendChoice::Tc)),
            "spec.backend is tc, but spec.target… or spec.spare… keep the loss to some packets, which only guarded can do",
        ),
        (
            |spec| (spec.per_segment, spec.backend) = (Some(true), Some(netloss_contract::BackendChoice::Tc)),
            "spec.backend is tc, but spec.perSegment is true, which only guarded can do",
        ),
        (|spec| spec.loss_percentage = 0.0, "spec.lossPercentage: a loss of 0 % is out of range"),
        (
            |spec| (spec.correlation, spec.loss_correlation) = (Some(1.0), Some(2.0)),
            "spec.correlation is 1 and its older name spec.lossCorrelation is 2: set only spec.correlation",
        ),
        (|spec| spec.schedule = Some("daily".to_owned()), "spec.schedule is \"daily\", which is no schedule: give minute, hour"),
        (|spec| spec.retry_delay = "soon".to_owned(), "spec.retryDelay: \"soon\" is not a duration"),
        (|spec| spec.experiment_duration = Some("0s".to_owned()), "spec.experimentDuration: "),
        (
            |spec| (spec.require_guarded, spec.backend) = (Some(true), Some(netloss_contract::BackendChoice::Tc)),
            "spec.backend is tc, but spec.requireGuarded is true, which only guarded can do: leave one of them out",
        ),
        (|spec| spec.selector.clear(), "spec.selector is empty: name at least one label"),
        (|spec| drop(spec.selector.insert("app".to_owned(), "a,b!=c".to_owned())), "spec.selector has \"app\": \"a,b!=c\", which no pod"),
        (|spec| drop(spec.selector.insert("a/b/c".to_owned(), String::new())), "spec.selector has \"a/b/c\": \"\", which no pod"),
        (|spec| drop(spec.selector.insert("app".to_owned(), "-x".to_owned())), "spec.selector has \"app\": \"-x\", which no pod"),
    ] {
        let words = refused(change);
        assert!(words.starts_with(expected), "{words}");
    }
}

/// Its mean is 1 %, over more packets than any run has.
#[test]
fn a_state_that_loses_everything_and_is_hardly_left_needs_consent() {
    let probabilities = Some(vec![3e-8, 0.0, 1.0, 100.0]);
    let loss_model = LossModelSpec { kind: "gemodel".to_owned(), mean_burst: None, probabilities };
    let mut spec = ChaosExperimentSpec { loss_model: Some(loss_model), ..spec() };
    let decision = plan(&spec, candidates(3));
    let words = message(&decision);
    assert!(words.starts_with("spec.lossModel loses 1 % on average, but 100 % of") && words.contains("spec.allowHighLoss"), "{words}");
    spec.allow_high_loss = Some(true);
    let decision = plan(&spec, candidates(3));
    assert_eq!(decision.status.as_ref().unwrap().pods.len(), 2);
    let warning = decision.events.iter().find(|event| event.note.contains("thousands of packets in a row"));
    assert!(warning.is_some(), "{:?}", decision.events);
}

/// Ten of a hundred runs would lose every packet from the start to the end.
#[test]
fn a_correlation_that_may_lose_everything_needs_consent() {
    let mut spec = ChaosExperimentSpec { correlation: Some(100.0), ..spec() };
    let decision = plan(&spec, candidates(3));
    let words = message(&decision);
    assert!(words.contains("correlation of 100 %") && words.contains("spec.allowHighLoss"), "{words}");
    spec.allow_high_loss = Some(true);
    assert_eq!(plan(&spec, candidates(3)).status.unwrap().pods.len(), 2);
}
