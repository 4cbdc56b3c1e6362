//! What holds of any input, however it is made: of what libFuzzer makes up, and of the seeds, which the tests run too.
//!
//! An input that is JSON is taken as it stands; of anything else objects are drawn by their schema ([`shape`]), so that even random
//! bytes come to objects that are read.

#[path = "shape.rs"]
mod shape;

use arbitrary::Unstructured;
use clap::Parser;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use netloss_api::{
    ChaosExperiment, ChaosExperimentHistory, ChaosExperimentHistorySpec, ChaosExperimentPlan, ChaosExperimentPlanSpec, ChaosExperimentSpec,
    ChaosExperimentStatus, DEFINITIONS, Outcome, PREFLIGHT, PodState, PodStatus,
};
use netloss_cluster::observe::{Lookup, log_to_read, told, view_of};
use netloss_contract::{Record, RunArgs, container_name};
use netloss_controller::{
    admission::{Asked, Review},
    metrics::{Metrics, Recorded},
};
use netloss_core::{
    admission::{ObservedState, validate},
    container::repository,
    machine::{self, Decision, Experiment, Needs, Observed, PodView, Pods, Preconditions, Protection, Settings},
    targets::{Candidate, NamespaceFacts, Skip, Target},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// The schemas of the definitions, as an API server is given them.
static SCHEMAS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let schema = |definition: &netloss_api::Definition| {
        let crd = serde_json::to_value((definition.make)()).expect("a definition is JSON");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    };
    DEFINITIONS.iter().map(schema).collect()
});

/// The schema of the agent's records.
static RECORDS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../docs/agent-record.schema.json")).expect("it is JSON"));

/// The experiments' uid; their runs are called `uid/1` and so on.
const UID: &str = "uid";

fn status_schema() -> &'static Value {
    &SCHEMAS[0]["properties"]["status"]
}

fn settings() -> Settings {
    Settings::new("agent:1", "netloss-system")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time of our days")
}

/// Whether a character ends a line, moves a terminal's cursor or turns the direction of what follows.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Words for people are on one line, and not many.
fn plain(what: &str, words: &str) {
    assert!(!words.contains(acts), "{what} does something: {words:?}");
    assert!(words.len() <= 4096 + 3, "{what} has {} bytes: {words:?}", words.len());
}

/// The input, if it is a JSON object.
fn given(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(Value::is_object)
}

/// A spec as one that an API server has taken, or one that it would not take.
fn drawn_spec(bytes: &mut Unstructured<'_>) -> Value {
    let schema = &SCHEMAS[0]["properties"]["spec"];
    let mut spec = shape::value(schema, schema, bytes);
    // Most fields that are drawn make a spec that is refused for the first of them: one in two is usual but for a few of them.
    if let (false, Value::Object(fields)) = (shape::seldom(bytes, 2), &mut spec) {
        let usual = json!({
            "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "lossPercentage": 10, "count": 2,
            "maxRetries": 0, "retryDelay": "30s",
        });
        let keep = bytes.int_in_range(0..=3_u8).unwrap_or(0);
        let mut names: Vec<String> = fields.keys().cloned().collect();
        for _ in 0..keep.min(u8::try_from(names.len()).unwrap_or(0)) {
            let index = bytes.choose_index(names.len()).unwrap_or(0);
            names.swap_remove(index);
        }
        fields.retain(|name, _| !names.contains(name));
        for (name, value) in usual.as_object().into_iter().flatten() {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    spec
}

fn candidates(count: usize, bytes: &mut Unstructured<'_>) -> Vec<Candidate> {
    let skips = [Skip::Excluded, Skip::HostNetwork, Skip::AgentActive("network-loss-x-r1-a1".to_owned()), Skip::Full(48)];
    let mut candidate = |n: usize| Candidate {
        target: Target { namespace: "n".to_owned(), name: format!("p{n}"), uid: format!("pod-{n}"), node: None },
        host_ips: vec!["172.18.0.2".parse().expect("an address")],
        ip: None,
        ready: !shape::seldom(bytes, 4),
        template: "template".to_owned(),
        containers: usize::from(bytes.int_in_range(0..=49_u8).unwrap_or(0)),
        skip: shape::seldom(bytes, 4).then(|| shape::pick(bytes, &skips).clone()),
    };
    (0..count).map(&mut candidate).collect()
}

/// Every AdmissionReview is answered with its own uid; a refusal and each warning is a sentence that names what it is about, on one line.
/// What the webhook admits the controller finds nothing wrong with either.
pub fn review(bytes: &[u8]) {
    let mut drawn = Unstructured::new(bytes);
    let body = given(bytes).unwrap_or_else(|| drawn_review(&mut drawn)).to_string();
    let Some(review) = Review::read(body) else { return };
    let (answer, verdict) = match review.asked() {
        Asked::Admitted => (review.admitted(), None),
        Asked::Unreadable(why) => (review.refused(&why), None),
        Asked::Experiment(asked) => {
            let experiment = asked.experiment();
            let seen = drawn_sight(&mut drawn);
            let verdict = validate(&experiment, asked.operation, &seen, at(0), &settings());
            let wrong = machine::check(&experiment, &settings()).err();
            assert!(wrong.is_none() || verdict.refusal.is_some(), "admitted in spite of: {wrong:?}");
            (review.answered(verdict.clone()), Some(verdict))
        }
    };
    assert_eq!(answer.uid, review.uid());
    if !answer.allowed {
        let words = &answer.result.message;
        plain("a refusal", words);
        let names_something =
            ["spec", "\"", "experiments are frozen", "No eligible pods", "k8s-chaos"].iter().any(|word| words.contains(word));
        assert!(names_something, "{words}");
    }
    let warnings = answer.warnings.clone().unwrap_or_default();
    for warning in &warnings {
        plain("a warning", warning);
    }
    if let Some(verdict) = verdict {
        assert_eq!((answer.allowed, warnings), (verdict.refusal.is_none(), verdict.warnings));
    }
    let written = serde_json::to_value(answer.into_review()).expect("an answer is JSON");
    assert_eq!(written["response"]["uid"], json!(review.uid()), "{written}");
}

fn drawn_review(bytes: &mut Unstructured<'_>) -> Value {
    let spec = drawn_spec(bytes);
    let namespaces = ["n", "kube-system", "netloss-system", "prod", "a\nb"];
    let mut object = json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment",
        "metadata": { "name": "x", "namespace": "n", "uid": UID, "generation": 1 },
        "spec": spec,
    });
    if shape::seldom(bytes, 4) {
        object["status"] = shape::value(status_schema(), status_schema(), bytes);
    }
    if shape::seldom(bytes, 16) {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-26T12:00:00Z");
    }
    let gvk = json!({ "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" });
    let gvr = json!({ "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": if shape::seldom(bytes, 8) { shape::text(bytes) } else { "705ab4f5-6393-11e8-b7cc-42010a800002".to_owned() },
            "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
            "name": "x", "namespace": if shape::seldom(bytes, 4) { *shape::pick(bytes, &namespaces) } else { "n" },
            "operation": if shape::seldom(bytes, 4) { *shape::pick(bytes, &["UPDATE", "DELETE", "CONNECT"]) } else { "CREATE" },
            "userInfo": { "username": shape::text(bytes), "groups": ["system:authenticated"] },
            "object": object, "dryRun": false,
        },
    })
}

fn drawn_sight(bytes: &mut Unstructured<'_>) -> ObservedState {
    let count = usize::from(bytes.int_in_range(0..=5_u8).unwrap_or(3));
    let annotations = BTreeMap::from([("chaos.gushchin.dev/production".to_owned(), "true".to_owned())]);
    let facts = NamespaceFacts::of("n", None, shape::seldom(bytes, 8).then_some(&annotations));
    let pods = candidates(count, bytes);
    ObservedState {
        namespace: (!shape::seldom(bytes, 16)).then_some(facts),
        may_act: !shape::seldom(bytes, 4),
        pods,
        freeze: shape::seldom(bytes, 8).then(|| shape::text(bytes)),
        conflicting_controller: shape::seldom(bytes, 8).then(|| shape::text(bytes)),
    }
}

/// The agent's command line, as far as a plan writes it.
#[derive(Debug, Parser)]
enum Agent {
    Run(RunArgs),
}

fn arguments(argv: &[String]) -> RunArgs {
    let words = std::iter::once("netloss-agent").chain(argv.iter().map(String::as_str));
    let Agent::Run(understood) = Agent::try_parse_from(words).unwrap_or_else(|error| panic!("{argv:?}: {error}"));
    understood
}

/// An experiment of this spec and status.
fn experiment<'a>(spec: &'a ChaosExperimentSpec, status: Option<&'a ChaosExperimentStatus>) -> Experiment<'a> {
    Experiment { namespace: "n", uid: UID, generation: 1, deleting: false, finalized: true, requested: None, spec, status }
}

/// What of a decision goes to an API server and to people is such that the one takes it and the others can read it.
fn fit_to_be_written(decision: &Decision) {
    for event in &decision.events {
        plain("an event", &event.note);
    }
    let Some(status) = &decision.status else { return };
    let messages = status.pods.iter().filter_map(|pod| pod.message.as_deref());
    let conditions = status.conditions.iter().map(|condition| condition.message.as_str());
    messages
        .chain(conditions)
        .chain(status.message.as_deref())
        .chain(status.last_error.as_deref())
        .for_each(|words| plain("status", words));
    let written = serde_json::to_value(status).expect("a status is JSON");
    if let Some(why) = shape::complaint(status_schema(), &written) {
        panic!("an API server would refuse it: {why}");
    }
    let read: ChaosExperimentStatus = serde_json::from_value(written).expect("what was written cannot be read");
    assert_eq!(read.pods.len(), status.pods.len());
    // Arguments have a place of their own where they are many.
    let without = status.pods.iter().cloned().map(|pod| PodStatus { argv: Vec::new(), ..pod }).collect();
    let size = serde_json::to_vec(&ChaosExperimentStatus { pods: without, ..status.clone() }).expect("a status is JSON").len();
    assert!(size < 256 * 1024, "{size} bytes");
}

/// A spec is written as it was read, and what is planned from it are arguments that an agent understands as they are meant, within what
/// the spec and the schema allow.
pub fn spec(bytes: &[u8]) {
    let mut drawn = Unstructured::new(bytes);
    let value = given(bytes).unwrap_or_else(|| drawn_spec(&mut drawn));
    let Ok(spec) = serde_json::from_value::<ChaosExperimentSpec>(value) else { return };
    let again: ChaosExperimentSpec =
        serde_json::from_value(serde_json::to_value(&spec).expect("a spec is JSON")).expect("what was written cannot be read");
    assert_eq!(again, spec);
    let paused = ChaosExperimentSpec { paused: Some(spec.paused != Some(true)), ..spec.clone() };
    assert_eq!((again.fingerprint(), paused.fingerprint()), (spec.fingerprint(), spec.fingerprint()));

    let (asked, settings, now) = (experiment(&spec, None), settings(), at(0));
    let wrong = machine::check(&asked, &settings).err();
    let pods = candidates(3, &mut drawn);
    let observed = match machine::needs(&asked, now, &settings) {
        Needs::Preconditions { .. } => Observed::Preconditions(Preconditions { pods, ..Preconditions::default() }),
        Needs::Pods { .. } | Needs::Nothing => Observed::Nothing,
    };
    let decision = machine::decide(&asked, &observed, now, &settings);
    fit_to_be_written(&decision);
    assert!(decision.injections.is_empty() && decision.stops.is_empty() && decision.repairs.is_empty(), "before anything is written down");
    let status = decision.status.unwrap_or_default();
    assert!(wrong.is_none() || status.pods.is_empty(), "planned in spite of: {wrong:?}");
    assert!(status.pods.len() <= usize::try_from(spec.count).unwrap_or(usize::MAX));
    for entry in &status.pods {
        let args = arguments(&entry.argv);
        assert_eq!(args.to_argv(), entry.argv);
        assert!(args.check().is_ok(), "{args:?}");
        let loss = args.model.asked_percentage();
        assert!(loss > 0.0 && loss <= if spec.allow_high_loss == Some(true) { 100.0 } else { 40.0 }, "{loss} %");
        let most = now + settings.start_timeout + args.ttl.duration();
        assert!(args.deadline.is_some_and(|deadline| deadline <= most), "{args:?}");
        assert_eq!(args.run.as_ref().map(netloss_contract::RunId::as_str), Some("uid/1"));
        assert!(!args.allow_host_network && entry.argv.iter().all(|word| !word.contains(acts)), "{:?}", entry.argv);
        assert!(entry.image == settings.agent_image && entry.container == container_name(UID, 1, 1));
    }
}

/// Text that a container leaves: records of this run, of others and of none, and whatever else.
fn drawn_text(bytes: &mut Unstructured<'_>) -> String {
    let mut text = String::new();
    for _ in 0..bytes.int_in_range(0..=4_u8).unwrap_or(0) {
        let mut line = match bytes.int_in_range(0..=7_u8).unwrap_or(0) {
            0..=4 => {
                let mut record = shape::value(&RECORDS, &RECORDS, bytes);
                if let Value::Object(fields) = &mut record {
                    if !shape::seldom(bytes, 8) {
                        fields.insert("run".to_owned(), json!(if shape::seldom(bytes, 4) { "uid/11" } else { "uid/1" }));
                        fields.insert("schema".to_owned(), json!(1));
                        fields.insert("time".to_owned(), json!(at(5)));
                    }
                    if !shape::seldom(bytes, 4) && fields.contains_key("asked") {
                        fields.insert(
                            "asked".to_owned(),
                            json!({ "model": "random", "lossPercentage": 10, "correlation": 0, "direction": "both" }),
                        );
                    }
                }
                record.to_string()
            }
            5 => shape::text(bytes),
            6 => "x".repeat(usize::from(bytes.arbitrary::<u16>().unwrap_or(0))),
            _ => String::from_utf8_lossy(bytes.arbitrary::<&[u8]>().unwrap_or_default()).into_owned(),
        };
        if shape::seldom(bytes, 8) {
            line.truncate(line.floor_char_boundary(line.len() / 2));
        }
        text += &line;
        text += if shape::seldom(bytes, 8) { "\r" } else { "\n" };
    }
    text
}

/// What a kubelet says of a container that ended, was killed, runs or waits.
fn drawn_state(bytes: &mut Unstructured<'_>) -> Value {
    match bytes.int_in_range(0..=5_u8).unwrap_or(3) {
        0 => json!({ "waiting": { "reason": shape::text(bytes), "message": drawn_text(bytes) } }),
        1 | 2 => json!({ "running": { "startedAt": at(1) } }),
        _ => {
            let exit = *shape::pick(bytes, &[0, 137, 1, 2, 3, 4, 5, 6, 7, 8, 9, 143, 255, -1]);
            let reason = if shape::seldom(bytes, 4) { shape::text(bytes) } else { "Error".to_owned() };
            json!({ "terminated": { "exitCode": exit, "reason": reason, "message": drawn_text(bytes), "startedAt": at(1) } })
        }
    }
}

/// Whether a text has a record of the run, by itself.
fn has_record(text: &str, fits: impl Fn(&Record) -> bool) -> bool {
    let of_run = |record: &Record| record.run.as_ref().is_some_and(|run| run.as_str() == "uid/1");
    text.lines().filter_map(|line| Record::from_line(line.trim())).any(|record| of_run(&record) && fits(&record))
}

/// A run in two pods as it goes on: the first pod's containers say whatever they like, those of the second as they should.
///
/// What the first says changes nothing of the second. That its loss is over is believed only of a container that has ended, as the kubelet
/// has it, in the way that a record of this run says; an end that nobody vouches for is followed by a look at what is left. Whatever it
/// says, the status can be written, and people can read it.
pub fn report(bytes: &[u8]) {
    let mut drawn = Unstructured::new(bytes);
    let spec: ChaosExperimentSpec = serde_json::from_value(json!({
        "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "lossPercentage": 10, "count": 2, "maxRetries": 0,
    }))
    .expect("a spec");
    let settings = settings();
    let mut none = Unstructured::new(&[]);
    let preconditions = Observed::Preconditions(Preconditions { pods: candidates(2, &mut none), ..Preconditions::default() });
    let mut status = machine::decide(&experiment(&spec, None), &preconditions, at(0), &settings).status.expect("a plan");
    status.set_condition(PREFLIGHT, "True", "Admitted", "", at(0));
    // What each text of the first pod was, and whether its agent's container has ended.
    let (mut texts, mut terminated, mut exits) = (Vec::new(), false, Vec::new());
    let metrics = Metrics::default();
    let rounds = bytes.len().min(4);
    for round in 0..rounds {
        let now = at(6 + 20 * i64::try_from(round).expect("a few"));
        let asked = experiment(&spec, Some(&status));
        let mut views = BTreeMap::new();
        for (n, entry) in status.pods.iter().enumerate().filter(|(_, entry)| entry.is_open()) {
            let is_hostile = entry.uid == "pod-0";
            let state = if is_hostile { drawn_state(&mut drawn) } else { json!({ "running": { "startedAt": at(1) } }) };
            let mut containers = vec![(entry.container.clone(), state, entry.argv.clone())];
            for sent in entry.repair.iter().chain(&entry.stop) {
                containers.push((sent.container.clone(), drawn_state(&mut drawn), sent.argv.clone()));
            }
            let of = |(name, state, argv): &(String, Value, Vec<String>)| {
                let status = json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state });
                (json!({ "name": name, "args": argv }), status)
            };
            let (sent, seen): (Vec<Value>, Vec<Value>) = containers.iter().map(of).unzip();
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": entry.name, "namespace": "n", "uid": entry.uid },
                "spec": { "containers": [{ "name": "app" }], "ephemeralContainers": sent },
                "status": {
                    "phase": "Running", "ephemeralContainerStatuses": seen,
                    "conditions": [{ "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": at(0) }],
                },
            }))
            .unwrap_or_else(|error| panic!("{n}: {error}"));
            let mut view = view_of(Some(&pod), entry, Lookup { run: "uid/1", spec: &spec, now });
            if let PodView::Present { agent: Some(agent), .. } = &mut view {
                if let Some(part) = log_to_read(entry, &agent.state) {
                    let text = if is_hostile { drawn_text(&mut drawn) } else { String::new() };
                    agent.log = told(part, &text, "uid/1");
                    texts.push(text);
                }
                if is_hostile {
                    for (name, state, _) in &containers {
                        texts.extend(state["terminated"]["message"].as_str().map(str::to_owned));
                        terminated |= *name == entry.container && state.get("terminated").is_some();
                        exits.extend(state["terminated"]["exitCode"].as_i64());
                    }
                }
            }
            views.insert(entry.uid.clone(), view);
        }
        let alone = views.iter().filter(|(uid, _)| *uid != "pod-0").map(|(uid, view)| (uid.clone(), view.clone())).collect();
        let decided = |views| {
            machine::decide(
                &asked,
                &Observed::Pods(Pods { views, protection: Some(Protection::default()), ..Pods::default() }),
                now,
                &settings,
            )
        };
        let other =
            |decision: &Decision| decision.status.as_ref().and_then(|status| status.pods.iter().find(|pod| pod.uid == "pod-1").cloned());
        let (decision, without) = (decided(views), decided(alone));
        assert_eq!(other(&decision).or(other(&without)), other(&without).or(other(&decision)), "another pod's state");
        fit_to_be_written(&decision);
        if let Some(after) = decision.status {
            metrics.record(&Recorded { namespace: "n", events: &decision.events, refusal: None }, Some(&status), &after, now);
            status = after;
        }
        let entry = status.pods.iter().find(|pod| pod.uid == "pod-0").expect("it is there");
        believed(entry, &texts, terminated, &exits);
    }
    if bytes.first().is_some_and(|byte| byte % 8 == 0) {
        labels(&metrics, &spec, status);
    }
}

/// What was made of the texts of a pod's containers.
fn believed(entry: &PodStatus, texts: &[String], terminated: bool, exits: &[i64]) {
    let any = |fits: fn(&Record) -> bool| texts.iter().any(|text| has_record(text, fits));
    assert!(entry.applied_at.is_none() || any(|_| true), "the loss was in place, and nobody said so: {entry:?}");
    assert!(entry.observed.is_none() || any(|_| true), "counted, and nobody said so: {entry:?}");
    match entry.outcome {
        Some(Outcome::Clean | Outcome::Shortened | Outcome::Degraded | Outcome::Repaired) => {
            assert!(terminated && exits.contains(&0) && any(|record| record.event.is_final()), "{texts:?}: {entry:?}");
        }
        // Its sandbox is older than its container.
        Some(Outcome::SandboxRecreated | Outcome::PodEnded) => panic!("neither is so: {entry:?}"),
        None if terminated && entry.state != PodState::Ended => assert!(entry.repair.is_some(), "nobody looks: {entry:?}"),
        _ => {}
    }
}

/// The labels of metrics have no other values than they are meant to have.
fn labels(metrics: &Metrics, spec: &ChaosExperimentSpec, status: ChaosExperimentStatus) {
    let mut object = ChaosExperiment::new("x", spec.clone());
    (object.metadata.namespace, object.status) = (Some("n".to_owned()), Some(status));
    let object = Arc::new(object);
    metrics.set_experiments(Some(Box::new(move || vec![Arc::clone(&object)])));
    let text = metrics.text(at(100)).expect("metrics have a form");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        for value in labels.split('"').skip(1).step_by(2) {
            let usual = value.len() < 40 && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+'));
            assert!(usual, "{line}");
        }
    }
}

/// Objects of the definitions are written as they were read. What somebody else wrote into a status puts nothing into a pod but this run's
/// containers of the agent's image in the namespace of the spec, and shows as lines without characters that do something.
pub fn objects(bytes: &[u8]) {
    let mut drawn = Unstructured::new(bytes);
    let which = usize::from(drawn.int_in_range(0..=5_u8).unwrap_or(0));
    let given = given(bytes);
    match (which, &given) {
        (4, None) => same::<ChaosExperimentHistory>(&SCHEMAS[1], &mut drawn),
        (5, None) => same::<ChaosExperimentPlan>(&SCHEMAS[2], &mut drawn),
        _ => {
            let value = given.unwrap_or_else(|| {
                let mut status = shape::value(status_schema(), status_schema(), &mut drawn);
                // An entry that is this run's.
                let pods = status.get_mut("pods").and_then(Value::as_array_mut);
                for pod in pods.into_iter().flatten().filter(|pod| pod.is_object()) {
                    if !shape::seldom(&mut drawn, 4) {
                        pod["container"] = json!(container_name(UID, 1, 1));
                        (pod["argv"], pod["attempt"], pod["image"]) = (json!(["run", "--run=uid/1"]), json!(1), json!("agent:1"));
                        (pod["namespace"], pod["deadline"]) = (json!("n"), json!(at(100)));
                    }
                }
                if !shape::seldom(&mut drawn, 4) && status.is_object() {
                    status["run"] = json!(1);
                }
                json!({ "spec": drawn_spec(&mut drawn), "status": status })
            });
            let Ok(spec) = serde_json::from_value::<ChaosExperimentSpec>(value["spec"].clone()) else { return };
            let Ok(status) = serde_json::from_value::<ChaosExperimentStatus>(value["status"].clone()) else { return };
            if !is_same_again(&status) {
                return;
            }
            puts_in_nothing_else(&spec, &status, &mut drawn);
            shown(spec, status);
        }
    }
}

/// What an API server takes for one of the definitions, every reader of it decodes: one object that did not would be missing from each list.
pub fn admissible(bytes: &[u8]) {
    fn is_read<T: serde::de::DeserializeOwned>(schema: &Value, bytes: &mut Unstructured<'_>) {
        let value = shape::value(schema, schema, bytes);
        if shape::complaint(schema, &value).is_none()
            && let Err(error) = serde_json::from_value::<T>(value.clone())
        {
            panic!("an API server takes it, and it does not decode: {error}: {value}");
        }
    }
    let mut drawn = Unstructured::new(bytes);
    match drawn.int_in_range(0..=3_u8).unwrap_or(0) {
        0 => is_read::<ChaosExperimentSpec>(&SCHEMAS[0]["properties"]["spec"], &mut drawn),
        1 => is_read::<ChaosExperimentStatus>(status_schema(), &mut drawn),
        2 => is_read::<ChaosExperimentHistorySpec>(&SCHEMAS[1]["properties"]["spec"], &mut drawn),
        _ => is_read::<ChaosExperimentPlanSpec>(&SCHEMAS[2]["properties"]["spec"], &mut drawn),
    }
}

fn same<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(schema: &Value, bytes: &mut Unstructured<'_>) {
    let Ok(object) = serde_json::from_value::<T>(shape::value(schema, schema, bytes)) else { return };
    is_same_again(&object);
}

/// Holds an object against what is read of what is written of it. Not so one with a time before the year 0: an API server takes it only in
/// another zone in which it is later, and refuses our write of it; whoever forges such a status has harmed that experiment alone.
fn is_same_again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(object: &T) -> bool {
    let written = serde_json::to_value(object).expect("it is JSON");
    if has_time_before_year_0(&written) {
        return false;
    }
    let again =
        serde_json::from_value::<T>(written.clone()).unwrap_or_else(|error| panic!("what was written cannot be read: {error}: {written}"));
    assert_eq!(again, *object);
    true
}

fn has_time_before_year_0(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.starts_with('-') && text.len() == "-0001-12-31T00:00:00Z".len() && text.ends_with('Z') && text.contains('T')
        }
        Value::Array(values) => values.iter().any(has_time_before_year_0),
        Value::Object(fields) => fields.values().any(has_time_before_year_0),
        _ => false,
    }
}

fn puts_in_nothing_else(spec: &ChaosExperimentSpec, status: &ChaosExperimentStatus, bytes: &mut Unstructured<'_>) {
    let (asked, settings, now) = (experiment(spec, Some(status)), settings(), at(20));
    let bare = PodView::Present { skip: None, new_sandbox: false, agent: None };
    let observed = match machine::needs(&asked, now, &settings) {
        Needs::Preconditions { .. } => Observed::Preconditions(Preconditions { pods: candidates(3, bytes), ..Preconditions::default() }),
        Needs::Pods { .. } => {
            let views = status.pods.iter().map(|pod| (pod.uid.clone(), bare.clone())).collect();
            Observed::Pods(Pods { views, ready: Some(1), protection: Some(Protection::default()), ..Pods::default() })
        }
        Needs::Nothing => Observed::Nothing,
    };
    let decision = machine::decide(&asked, &observed, now, &settings);
    for event in &decision.events {
        plain("an event", &event.note);
    }
    let run = status.run.unwrap_or_default();
    for entry in decision.injections.iter().chain(&decision.preflight) {
        assert!(status.pods.contains(entry), "not from the status that was read: {entry:?}");
        assert_eq!((entry.namespace.as_str(), repository(&entry.image)), (spec.target_namespace("n"), "agent"));
        assert_eq!(entry.container, container_name(UID, run, entry.attempt));
    }
}

/// On a terminal.
fn shown(spec: ChaosExperimentSpec, status: ChaosExperimentStatus) {
    let mut object = ChaosExperiment::new("x", spec);
    (object.metadata.namespace, object.metadata.uid) = (Some("n".to_owned()), Some(UID.to_owned()));
    object.status = Some(status);
    let text = netloss_cli::everything_shown(object, at(20)).unwrap_or_else(|error| panic!("{error}"));
    if let Some(at) = text.find(|c: char| acts(c) && c != '\n') {
        let begin = text.floor_char_boundary(at.saturating_sub(100));
        panic!("it is shown what does something: {:?}", &text[begin..text.ceil_char_boundary((at + 20).min(text.len()))]);
    }
}
