//! The rights that are shipped are enough, and each is needed: a controller without one of them says which it lacks.

use crate::leader::program;
use crate::world::{AGENT_IMAGE, World, install_definitions, spec};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use netloss_api::{ChaosExperimentPlan, Phase, PodState, PodStatus};
use netloss_controller::admission::authority::{self, Authority};
use netloss_lab::cluster::{apply, parse};
use netloss_lab::controlplane::ControlPlane;
use netloss_lab::host::http::get;
use netloss_lab::host::paths::workspace_root;
use netloss_lab::host::ports;
use netloss_lab::host::process::{Daemon, Lifetime};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Where the controller's rights are written down.
const FILES: [&str; 5] =
    ["rbac/role.yaml", "rbac/freeze_role.yaml", "rbac/leader_role.yaml", "webhook/role.yaml", "webhook/cluster_role.yaml"];

/// Controllers at a time.
const AT_A_TIME: usize = 4;

/// An experiment's life, or the first word of what is missing, on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

/// One verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    verb: String,
    resource: String,
}

impl Right {
    /// How the API server names it where it is missing.
    fn words(&self) -> String {
        format!("cannot {} resource \"{}\"", self.verb, self.resource)
    }

    fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }
}

fn roles() -> Vec<DynamicObject> {
    let read = |file: &&str| std::fs::read_to_string(workspace_root().join("config").join(file)).unwrap();
    FILES.iter().map(read).flat_map(|text| parse(&text).unwrap()).collect()
}

fn words_of(rule: &Value, field: &str) -> Vec<String> {
    rule[field].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// All of them.
fn rights() -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in roles().iter().flat_map(|role| role.data["rules"].as_array().unwrap()) {
        for resource in words_of(rule, "resources") {
            rights.extend(words_of(rule, "verbs").into_iter().map(|verb| Right { verb, resource: resource.clone() }));
        }
    }
    rights
}

/// A controller of one namespace whose user has all rights but one.
struct Case {
    world: World,
    own: String,
    missing: Option<Right>,
    webhook: u16,
    path: String,
    health: u16,
    controller: Daemon,
}

impl Case {
    async fn start(control_plane: &ControlPlane, number: usize, missing: Option<Right>) -> Self {
        let world = World::on(control_plane, &format!("rights-{number}")).await;
        let own = format!("{}-own", world.namespace);
        let made = |object: Value| serde_json::from_value::<DynamicObject>(object).unwrap();
        let namespace = serde_json::from_value(json!({ "metadata": { "name": own } })).unwrap();
        Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        for (role, number) in roles().into_iter().zip(0..) {
            for object in granted(&role, &format!("{}-{number}", world.namespace), &own, &world.namespace, missing.as_ref()) {
                apply(&world.client, &made(object)).await.unwrap();
            }
        }
        // Who hears of a lease is who waits for it.
        let waits = missing.as_ref().is_some_and(|right| right.is("list", "leases") || right.is("watch", "leases"));
        let held = json!({ "holderIdentity": "somebody", "leaseDurationSeconds": 600, "renewTime": format!("{:.6}", Timestamp::now()) });
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "netloss-controller", "namespace": own },
            "spec": if waits { held } else { json!({}) },
        });
        apply(&world.client, &made(lease)).await.unwrap();
        let named = |name: &str| json!({ "metadata": { "name": name } });
        let secret = serde_json::from_value(named("netloss-webhook")).unwrap();
        let secrets = Api::<Secret>::namespaced(world.client.clone(), &own);
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let authority = Authority::make(None, Timestamp::now()).unwrap();
        let mut secret: Secret = serde_json::from_value(named(authority::SECRET)).unwrap();
        secret.data = Some(authority.to_data());
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let freeze = serde_json::from_value(named("netloss-freeze")).unwrap();
        Api::<ConfigMap>::namespaced(world.client.clone(), &own).create(&PostParams::default(), &freeze).await.unwrap();

        let kubeconfig = control_plane.dir().join(&world.namespace);
        let admin = std::fs::read_to_string(control_plane.kubeconfig_path()).unwrap();
        std::fs::write(&kubeconfig, admin.replace("  user:\n", &format!("  user:\n    as: {}\n", world.namespace))).unwrap();
        let (webhook, health) = (ports::free().unwrap(), ports::free().unwrap());
        let mut command = Command::new(program().await);
        command.env("KUBECONFIG", &kubeconfig).args([
            "run",
            &format!("--agent-image={AGENT_IMAGE}"),
            &format!("--namespace={own}"),
            &format!("--watch-namespace={}", world.namespace),
            &format!("--pod-name={}", world.namespace),
            "--leader-elect",
            "--history-count=1",
            &format!("--webhook-listen=127.0.0.1:{webhook}"),
            &format!("--health-listen=127.0.0.1:{health}"),
        ]);
        let log = control_plane.dir().join(format!("{}.log", world.namespace));
        let controller = Daemon::start(&world.namespace, &command, &log, Lifetime::WithLab).unwrap();
        Self { world, own, missing, webhook, path: authority.path, health, controller }
    }

    /// What the controller has said, without what JSON makes of quotes.
    fn said(&self) -> String {
        std::fs::read_to_string(self.controller.log()).unwrap().replace('\\', "")
    }

    fn is_about(&self, resource: &str) -> bool {
        self.missing.as_ref().is_none_or(|right| right.resource == resource)
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let begin = Instant::now();
        while !holds().await {
            assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", self.controller.log_tail(30));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything that a controller does.
    async fn life(&self) {
        let world = &self.world;
        self.until("it is ready", async || get(self.health, "/readyz").await.starts_with("HTTP/1.1 200")).await;
        self.review().await;
        world.pod("a").await;
        world.apply("x", spec(json!({}))).await.unwrap();
        self.through("x", 1).await;
        // Another run: its record takes the place of the first one's.
        world.apply("x", spec(json!({ "lossPercentage": 20 }))).await.unwrap();
        self.through("x", 2).await;
        if self.is_about("chaosexperimentplans") {
            self.large().await;
        }
    }

    /// A run whose status is too small for what its agents are told, and then one for which it is not.
    async fn large(&self) {
        let world = &self.world;
        for n in 0..40 {
            world.pod_with(&format!("large-{n}"), json!({ "labels": { "app": "large" } }), json!({})).await;
        }
        let networks: Vec<String> = (0..90).map(|n| format!("2001:db8:1111:2222:3333:4444:5555:{n}/128")).collect();
        let plans = Api::<ChaosExperimentPlan>::namespaced(world.client.clone(), &world.namespace);
        let kept = async || plans.list(&ListParams::default()).await.unwrap().items;
        world.apply("large", spec(json!({ "selector": { "app": "large" }, "count": 40, "targetCIDRs": networks }))).await.unwrap();
        self.until("all agents are put in", async || self.reached("large", 1, PodState::Injected, 40).await).await;
        let records = kept().await;
        assert!(!records.is_empty(), "what agents are told is in records");
        let status = world.status("large").await;
        for entry in &status.pods {
            assert!(entry.argv.is_empty() && records.iter().any(|record| Some(record.name_any()) == entry.plan), "{entry:?}");
            let told = world.agent(&entry.name, &entry.container).await.args.unwrap();
            assert_eq!(told.iter().filter(|word| word.starts_with("--target=")).count(), 90, "{told:?}");
        }
        self.through("large", 1).await;
        world.apply("large", spec(json!({ "selector": { "app": "large" } }))).await.unwrap();
        self.through("large", 2).await;
        self.until("the records are deleted", async || kept().await.is_empty()).await;
    }

    /// Whether so many pods of this run have come so far.
    async fn reached(&self, name: &str, run: u32, state: PodState, count: usize) -> bool {
        let status = self.world.status(name).await;
        status.run == Some(run) && status.pods.iter().filter(|pod| pod.state >= state).count() == count
    }

    /// The run from its plan to its end.
    async fn through(&self, name: &str, run: u32) {
        let world = &self.world;
        let planned = async || {
            let status = world.status(name).await;
            (status.run == Some(run) && !status.pods.is_empty()).then_some(status.pods)
        };
        self.until("it is planned", async || planned().await.is_some()).await;
        let entries: Vec<PodStatus> = planned().await.unwrap();
        self.until("the agents are put in", async || self.reached(name, run, PodState::Injected, entries.len()).await).await;
        let uid = world.experiments().get(name).await.unwrap().uid().unwrap();
        if self.is_about("pods/log") {
            world.set_state(&entries[0], json!({ "running": {} })).await;
            sleep(Duration::from_secs(2)).await;
        }
        for entry in &entries {
            let report = world.removed(&format!("{uid}/{run}")).to_line();
            world.set_state(entry, json!({ "terminated": { "exitCode": 0, "message": report } })).await;
        }
        self.until("it ends", async || {
            let status = world.status(name).await;
            status.run == Some(run) && status.phase.is_some_and(Phase::is_final)
        })
        .await;
    }

    /// Asks the webhook about another namespace, as the API server does.
    async fn review(&self) {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.webhook).parse().unwrap());
        config.accept_invalid_certs = true;
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
                "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
                "operation": "CREATE", "namespace": self.own, "name": "x", "userInfo": { "username": "jane" },
                "object": {
                    "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": "x" },
                    "spec": spec(json!({ "namespace": self.world.namespace })),
                },
            },
        });
        let client = kube::Client::try_from(config).unwrap();
        let ask = async || {
            let body = kube::client::Body::from(serde_json::to_vec(&review).unwrap());
            let request = http::Request::post(&self.path).header("content-type", "application/json").body(body).unwrap();
            client.send(request).await
        };
        let mut answer = ask().await;
        // Of a machine that is busy: this is about rights, and a connection that was cut says nothing of them.
        for _ in 0..3 {
            if answer.is_err() {
                println!("asked again: {answer:?}");
                sleep(Duration::from_secs(1)).await;
                answer = ask().await;
            }
        }
        assert!(answer.is_ok(), "{:?}: {answer:?}\n{}", self.missing, self.controller.log_tail(30));
    }

    /// What is wrong, if something is.
    async fn verdict(&self) -> Option<String> {
        let Some(missing) = &self.missing else {
            self.life().await;
            return self.said().contains("is forbidden").then(|| format!("all rights: {}", self.controller.log_tail(30)));
        };
        let words = missing.words();
        let said = async {
            let begin = Instant::now();
            while begin.elapsed() < LIMIT {
                if self.said().contains(&words) {
                    return None;
                }
                sleep(Duration::from_millis(100)).await;
            }
            Some(format!("it never said \"{words}\": {}", self.controller.log_tail(10)))
        };
        // Without a right, life stands still somewhere; and where it does not, the word has fallen before its end.
        let life = async {
            self.life().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            verdict = said => verdict,
            () = life => None,
        }
    }
}

/// The role without the right, and its binding to the user that has the namespace's name.
fn granted(role: &DynamicObject, name: &str, own: &str, user: &str, missing: Option<&Right>) -> [Value; 2] {
    let mut rules = role.data["rules"].as_array().unwrap().clone();
    for rule in &mut rules {
        let resources = words_of(rule, "resources");
        let kept = |verb: &String| !missing.is_some_and(|right| right.verb == *verb && resources.contains(&right.resource));
        rule["verbs"] = json!(words_of(rule, "verbs").into_iter().filter(kept).collect::<Vec<_>>());
    }
    rules.retain(|rule| !rule["verbs"].as_array().unwrap().is_empty());
    let kind = role.types.as_ref().unwrap().kind.clone();
    let mut metadata = json!({ "name": name });
    if kind == "Role" {
        metadata["namespace"] = json!(own);
    }
    let group = "rbac.authorization.k8s.io";
    [
        json!({ "apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": kind, "name": name },
            "subjects": [{ "kind": "User", "name": user, "apiGroup": group }],
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_without_one_of_its_rights_says_which() {
    let control_plane = ControlPlane::start_for_tests().await.unwrap();
    let client = control_plane.client().await.unwrap();
    install_definitions(client.clone()).await;
    let rights = rights();
    assert!(rights.len() > 25, "{rights:?}");
    let control_plane = &control_plane;
    let cases = std::iter::once(None).chain(rights.into_iter().map(Some)).enumerate();
    let verdicts =
        stream::iter(cases).map(|(number, missing)| async move { Case::start(control_plane, number, missing).await.verdict().await });
    let wrong: Vec<String> = verdicts.buffer_unordered(AT_A_TIME).filter_map(async |verdict| verdict).collect().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
