//! Who may write an experiment's status, and nothing else: an entry of it grants no more than the spec.

use crate::faults::{At, Fault};
use crate::world::{AGENT_IMAGE, World, spec};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use netloss_api::{ChaosExperiment, ChaosExperimentPlan, ChaosExperimentPlanSpec, Outcome, PlannedArguments, PodState};
use serde_json::{Value, json};

/// A client of a user who may write the status of experiments in this namespace, and nothing else.
async fn status_writer(world: &World) -> Client {
    let subjects = json!([{ "kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io" }]);
    let metadata = json!({ "name": "mallory", "namespace": world.namespace });
    let rules =
        json!([{ "apiGroups": ["chaos.gushchin.dev"], "resources": ["chaosexperiments/status"], "verbs": ["get", "patch", "update"] }]);
    for object in [
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata, "subjects": subjects,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mallory" },
        }),
    ] {
        netloss_lab::cluster::apply(&world.client, &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let mut config = world.config();
    config.headers.push((http::HeaderName::from_static("impersonate-user"), http::HeaderValue::from_static("mallory")));
    Client::try_from(config).unwrap()
}

/// Replaces the status, as soon as the API server's cache of roles allows it.
async fn forge(world: &World, client: &Client, name: &str, status: &Value) {
    let api = Api::<ChaosExperiment>::namespaced(client.clone(), &world.namespace);
    let patch = Patch::Merge(json!({ "status": status }));
    let mut last = None;
    for _ in 0..100 {
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => return,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the status cannot be written: {last:?}");
}

/// Sets an argument of the planned agent.
fn set(pod: &mut Value, name: &str, value: &str) {
    let argv = pod["argv"].as_array_mut().unwrap();
    let argument = argv.iter_mut().find(|argument| argument.as_str().unwrap().starts_with(name)).unwrap();
    *argument = json!(format!("{name}{value}"));
}

/// What is forged, and how.
type Forgery<'a> = (&'a str, &'a dyn Fn(&mut Value));

#[tokio::test]
async fn a_forged_status_puts_nothing_into_a_pod() {
    let world = World::new("forged-status").await;
    let elsewhere = World::new("forged-status-other").await;
    world.pod("a").await;
    let db = world.pod_with("db", json!({ "labels": { "app": "db" } }), json!({})).await;
    let victim = elsewhere.pod("victim").await;
    let mallory = status_writer(&world).await;
    let week = world.at(7 * 86_400);
    let forgeries: &[Forgery<'_>] = &[
        ("loss", &|status| {
            set(&mut status["pods"][0], "--loss=", "100");
            status["pods"][0]["asked"]["lossPercentage"] = json!(100);
        }),
        ("duration", &|status| {
            set(&mut status["pods"][0], "--ttl=", "168h");
            status["pods"][0]["asked"]["duration"] = json!("168h");
        }),
        ("deadline", &|status| {
            let week = jiff::Timestamp::from_second(week.as_second()).unwrap();
            set(&mut status["pods"][0], "--deadline=", &week.to_string());
            status["pods"][0]["deadline"] = json!(week);
        }),
        ("direction", &|status| {
            set(&mut status["pods"][0], "--direction=", "both");
            status["pods"][0]["asked"]["direction"] = json!("both");
        }),
        ("filters", &|status| {
            status["pods"][0]["argv"].as_array_mut().unwrap().retain(|argument| !argument.as_str().unwrap().starts_with("--target="));
        }),
        ("image", &|status| status["pods"][0]["image"] = json!("localhost/evil:1")),
        ("another pod", &|status| {
            (status["pods"][0]["name"], status["pods"][0]["uid"]) = (json!("db"), json!(db.metadata.uid));
        }),
        ("another namespace", &|status| {
            let pod = &mut status["pods"][0];
            (pod["namespace"], pod["name"], pod["uid"]) = (json!(elsewhere.namespace), json!("victim"), json!(victim.metadata.uid));
        }),
        ("an unknown argument and an unknown field", &|status| {
            status["pods"][0]["argv"].as_array_mut().unwrap().push(json!("--allow-host-network"));
            status["pods"][0]["privileged"] = json!(true);
        }),
        ("a later state", &|status| {
            set(&mut status["pods"][0], "--loss=", "100");
            status["pods"][0]["state"] = json!("injected");
        }),
    ];
    for (n, (what, forgery)) in forgeries.iter().enumerate() {
        let name = format!("x{n}");
        let spec = spec(json!({ "targetCIDRs": ["10.0.0.0/8"], "direction": "egress" }));
        world.apply(&name, spec).await.unwrap();
        let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::StatusWrite(1))), AGENT_IMAGE, 0);
        world.pass_of(dying, &name).await.expect_err("the controller dies after the plan is written");
        let mut status = serde_json::to_value(world.status(&name).await).unwrap();
        assert_eq!(status["pods"][0]["state"], json!("planned"), "{what}");
        forgery(&mut status);
        forge(&world, &mallory, &name, &status).await;
        for seconds in [1, 130] {
            // A pass that has nothing to inject may wait for one that another controller may have on its way.
            drop(world.pass_of(world.controller(world.client.clone(), AGENT_IMAGE, seconds), &name).await);
            for (of, pod) in [(&world, "a"), (&world, "db"), (&elsewhere, "victim")] {
                assert_eq!(of.agents(pod).await, [], "{what}: {pod} at {seconds} s");
            }
        }
        let status = world.status(&name).await;
        let outcome = status.pods[0].outcome;
        assert!(matches!(outcome, Some(Outcome::NeverStarted | Outcome::Unknown)), "{what}: {status:?}");
        let reasons = world.event_reasons("ChaosExperiment", &name).await;
        let is_told = |reason: &String| matches!(reason.as_str(), "PlanRejected" | "LossMayRemain" | "NeverStarted");
        assert!(reasons.iter().any(is_told), "{what}: {reasons:?}");
        world.experiments().delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    }
}

/// A record that holds arguments grants no more than a status that does.
#[tokio::test]
async fn a_forged_plan_puts_nothing_into_a_pod() {
    let world = World::new("forged-plan").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::StatusWrite(1))), AGENT_IMAGE, 0);
    world.pass_of(dying, "x").await.expect_err("the controller dies after the plan is written");
    let status = world.status("x").await;
    let entry = &status.pods[0];
    let argv = entry.argv.iter().map(|word| if word.starts_with("--loss=") { "--loss=100".to_owned() } else { word.clone() }).collect();
    let pods = vec![PlannedArguments { container: entry.container.clone(), uid: entry.uid.clone(), argv }];
    // A name that is not the experiment's own would not even be read.
    let name = format!("{}-r1-evil", world.experiments().get("x").await.unwrap().metadata.uid.unwrap());
    let plan = ChaosExperimentPlan::new(&name, ChaosExperimentPlanSpec { experiment: "x".to_owned(), run: 1, pods });
    let plans = Api::<ChaosExperimentPlan>::namespaced(world.client.clone(), &world.namespace);
    plans.create(&PostParams::default(), &plan).await.unwrap();
    let mut forged = serde_json::to_value(&status).unwrap();
    forged["pods"][0].as_object_mut().unwrap().remove("argv");
    forged["pods"][0]["plan"] = json!(name);
    let mallory = status_writer(&world).await;
    forge(&world, &mallory, "x", &forged).await;
    world.pass("x", 1).await;
    assert_eq!(world.agents("a").await, []);
    assert!(world.message("x").await.contains("does not follow from the spec"), "{}", world.message("x").await);
    // It is another's record, and is left alone.
    world.pass("x", 130).await;
    assert_eq!(plans.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

/// All pods of an attempt share the container's name.
#[tokio::test]
async fn a_silent_agent_is_noticed_in_each_pod() {
    let world = World::new("silent-second").await;
    for pod in ["a", "b"] {
        world.pod(pod).await;
    }
    world.apply("x", spec(json!({ "count": 2, "duration": "10m" }))).await.unwrap();
    let controller = world.controller(world.client.clone(), AGENT_IMAGE, 0);
    world.pass_of(controller, "x").await.unwrap();
    let entries = world.status("x").await.pods;
    for entry in &entries {
        world.set_applied(entry).await;
    }
    world.pass("x", 5).await;
    assert!(world.status("x").await.pods.iter().all(|pod| pod.state == PodState::Applied));
    for entry in &entries {
        World::node().set_log(entry, Vec::new());
    }
    world.pass("x", 30).await;
    let silent: Vec<Option<bool>> = world.status("x").await.pods.iter().map(|pod| pod.silent).collect();
    assert_eq!(silent, [Some(true), Some(true)]);
}

/// What the target says of itself counts when an agent is about to be injected, whatever was planned, and by whom.
#[tokio::test]
async fn what_protects_a_pod_is_checked_again_before_injection() {
    let namespace_patch = async |world: &World, metadata: Value| {
        let api = Api::<k8s_openapi::api::core::v1::Namespace>::all(world.client.clone());
        api.patch(&world.namespace, &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await.unwrap();
    };
    for (n, (what, words)) in [
        ("excluded", "carries the label chaos.gushchin.dev/exclude"),
        ("production", "is a production namespace"),
        ("share", "spec.maxPercentage is 50"),
        ("pod", "it carries the label chaos.gushchin.dev/exclude"),
    ]
    .into_iter()
    .enumerate()
    {
        let world = World::new(&format!("protected-{n}")).await;
        for pod in ["a", "b", "c", "d"] {
            world.pod(pod).await;
        }
        world.apply("x", spec(json!({ "count": 2, "maxPercentage": 50 }))).await.unwrap();
        let dying = world.controller(world.faulty_client(Fault::CrashAfter(At::StatusWrite(1))), AGENT_IMAGE, 0);
        world.pass_of(dying, "x").await.expect_err("the controller dies after the plan is written");
        let planned: Vec<String> = world.status("x").await.pods.iter().map(|pod| pod.name.clone()).collect();
        let exclude = json!({ "chaos.gushchin.dev/exclude": "true" });
        match what {
            "excluded" => namespace_patch(&world, json!({ "labels": exclude })).await,
            "production" => namespace_patch(&world, json!({ "annotations": { "chaos.gushchin.dev/production": "true" } })).await,
            "share" => {
                world.delete_at_once(["a", "b", "c", "d"].into_iter().find(|pod| !planned.contains(&(*pod).to_owned())).unwrap()).await;
            }
            _ => {
                let patch = Patch::Merge(json!({ "metadata": { "labels": exclude } }));
                world.pods().patch(&planned[0], &PatchParams::default(), &patch).await.unwrap();
            }
        }
        for seconds in [1, 130] {
            world.pass("x", seconds).await;
        }
        let protected = if what == "pod" { &planned[..1] } else { &planned[..] };
        for pod in protected {
            assert_eq!(world.agents(pod).await, [], "{what}: {pod}");
        }
        let said = world.status("x").await.pods.into_iter().filter_map(|pod| pod.message).collect::<Vec<_>>().join("\n");
        assert!(said.contains(words), "{what}: {said}");
    }
}
