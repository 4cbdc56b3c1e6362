//! The admission webhook, asked by the API server over TLS, with the configuration that is committed.

use crate::lifecycle::{client_of, service_account};
use crate::world::{AGENT_IMAGE, World, spec};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use netloss_api::RUN_REQUESTED_ANNOTATION;
use netloss_controller::admission::Served;
use netloss_controller::admission::authority;
use netloss_controller::admission::certificate::Keeper;
use netloss_controller::admission::server::{Webhook, serve};
use netloss_controller::reconcile::Context;
use netloss_core::machine::Settings;
use netloss_lab::host::paths::workspace_root;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// A webhook that is asked about the experiments of one namespace only: other tests have the same API server.
struct Asked {
    keeper: Keeper,
    served: Arc<Served>,
    configurations: Api<ValidatingWebhookConfiguration>,
    configuration: String,
}

impl Asked {
    async fn start(world: &World) -> Self {
        Self::start_with(world, [Timestamp::now(); 2]).await
    }

    /// With an authority and a certificate that were made then.
    async fn start_with(world: &World, made: [Timestamp; 2]) -> Self {
        for name in ["webhook", "webhook-ca"] {
            let secret: Secret = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
            Api::<Secret>::namespaced(world.client.clone(), &world.namespace).create(&PostParams::default(), &secret).await.unwrap();
        }
        let keeper = Keeper {
            client: world.client.clone(),
            namespace: world.namespace.clone(),
            secret: "webhook".to_owned(),
            authority: "webhook-ca".to_owned(),
            names: vec!["127.0.0.1".to_owned()],
        };
        Self::start_of(world, keeper, (world.client.clone(), world.namespace.as_str()), made).await
    }

    /// With this keeper, whose client is the webhook's too, and an authority that is made and written into this configuration with another client.
    async fn start_of(world: &World, keeper: Keeper, (installer, configuration): (Client, &str), made: [Timestamp; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}/validate", listener.local_addr().unwrap().port());
        let text = std::fs::read_to_string(workspace_root().join("config/webhook/webhook.yaml")).unwrap();
        let mut object: Value = serde_saphyr::from_str(&text).unwrap();
        object["metadata"]["name"] = json!(configuration);
        object["webhooks"][0]["clientConfig"] = json!({ "url": url });
        object["webhooks"][0]["namespaceSelector"] = json!({ "matchLabels": { "kubernetes.io/metadata.name": world.namespace } });
        let configurations = Api::<ValidatingWebhookConfiguration>::all(world.client.clone());
        configurations.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();

        authority::install(&installer, &keeper.namespace, &keeper.authority, configuration, made[0]).await.unwrap();
        let served = Arc::new(Served::default());
        keeper.fetch(&served, &mut None, made[1]).await.unwrap();
        let settings = Settings::new(AGENT_IMAGE, "netloss-system");
        let webhook = Webhook { client: keeper.client.clone(), settings, clock: Arc::new(Timestamp::now), metrics: Arc::default() };
        tokio::spawn(serve(listener, Arc::clone(&served), webhook, std::future::pending()).unwrap());
        let asked = Self { keeper, served, configurations, configuration: configuration.to_owned() };
        // The API server takes a moment to notice the configuration, and another for its authority.
        asked.until(world, "it is asked", |answer| answer.as_ref().is_err_and(|words| words.contains("No eligible pods"))).await;
        // Times of objects are in whole seconds: one that is created in the second in which the webhook was may be older than that.
        tokio::time::sleep(Duration::from_secs(1)).await;
        asked
    }

    /// Applies an experiment that is always refused, until the answer is as expected.
    async fn until(&self, world: &World, what: &str, is_so: impl Fn(&Result<(), String>) -> bool) {
        let mut last = Ok(());
        for _ in 0..300 {
            last = world.apply("probe", spec(json!({ "selector": { "app": "nobody" } }))).await.map(drop);
            if is_so(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not within 30 s: {what}: {last:?}");
    }

    async fn end(self) {
        self.configurations.delete(&self.configuration, &DeleteParams::default()).await.unwrap();
    }
}

/// Creates an experiment as `kubectl create` does, as this client's user. Returns the warnings, or the API server's words.
async fn create(world: &World, client: &Client, name: &str, spec: Value) -> Result<Vec<String>, String> {
    let object = json!({
        "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": name }, "spec": spec,
    });
    let path = format!("/apis/chaos.gushchin.dev/v1alpha1/namespaces/{}/chaosexperiments", world.namespace);
    let body = kube::client::Body::from(object.to_string().into_bytes());
    let request = http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
    let response = client.send(request).await.unwrap();
    let headers = response.headers().get_all("warning").iter();
    let warnings: Vec<String> = headers.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    let status = response.status();
    let body = response.into_body().collect_bytes().await.unwrap();
    if status.is_success() { Ok(warnings) } else { Err(String::from_utf8_lossy(&body).into_owned()) }
}

#[tokio::test]
async fn what_is_dangerous_is_no_object_at_all() {
    let world = World::new("webhook-refusals").await;
    for name in ["a", "b", "c"] {
        world.pod(name).await;
    }
    let asked = Asked::start(&world).await;
    for (changes, words) in [
        (
            json!({ "selector": { "app": "nobody" } }),
            "No eligible pods: none in the namespace \"webhook-refusals\" has the labels app=nobody",
        ),
        (json!({ "count": 2, "maxPercentage": 50 }), "spec.maxPercentage is 50, but 2 of the 3 eligible pods are 67 %"),
        (json!({ "schedule": "often" }), "spec.schedule is \"often\", which is no schedule"),
        (
            json!({ "timeWindows": [{ "type": "Recurring", "start": "9:00", "end": "10:00" }] }),
            "spec.timeWindows[0].start is \"9:00\", which is no time of day",
        ),
        (json!({ "namespace": "kube-system" }), "experiments in the namespace \"kube-system\" are refused"),
        (json!({ "namespace": "not-there" }), "spec.namespace is \"not-there\", and there is no such namespace"),
        (json!({ "targetCIDRs": ["10.0.0.1/8"] }), "spec.targetCIDRs: \"10.0.0.1/8\" has an address with bits"),
    ] {
        let error = world.apply("refused", spec(changes.clone())).await.expect_err(&changes.to_string());
        assert!(error.contains("denied the request: ") && error.contains(words), "{changes}: {error}");
    }
    assert!(world.experiments().get_opt("refused").await.unwrap().is_none());

    let client = &world.client;
    assert_eq!(create(&world, client, "plain", spec(json!({}))).await.unwrap(), [""; 0]);
    let warnings =
        create(&world, client, "warned", spec(json!({ "count": 5, "correlation": 25, "dryRun": true }))).await.unwrap().join("\n");
    for words in ["none is touched", "will be about 1.75 %", "spec.count is 5, and 3 of the 3 pods may be acted on"] {
        assert!(warnings.contains(words), "{warnings}");
    }
    world.pass("plain", 0).await;
    let warnings = create(&world, client, "second", spec(json!({ "count": 3 }))).await.unwrap().join("\n");
    assert!(warnings.contains("another run is active in some of these pods, which are skipped until it ends: "), "{warnings}");

    let namespaces = Api::<Namespace>::all(world.client.clone());
    let production = Patch::Merge(json!({ "metadata": { "labels": { "env": "prod" } } }));
    namespaces.patch(&world.namespace, &PatchParams::default(), &production).await.unwrap();
    let error = create(&world, client, "production", spec(json!({}))).await.unwrap_err();
    assert!(error.contains("is a production namespace by its label env: prod: set spec.allowProduction: true"), "{error}");
    create(&world, client, "meant", spec(json!({ "allowProduction": true }))).await.unwrap();
    asked.end().await;
}

/// A user who may write experiments here, and nothing there.
#[tokio::test]
async fn another_namespace_is_for_those_who_may_act_there() {
    let world = World::new("webhook-elsewhere").await;
    let there = World::new("webhook-elsewhere-target").await;
    there.pod("a").await;
    world.pod("a").await;
    let rules = |resources: &[&str], group: &str, verbs: &[&str]| json!([{ "apiGroups": [group], "resources": resources, "verbs": verbs }]);
    let grant = async |namespace: &str, rules: Value| {
        let subject = json!([{ "kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io" }]);
        let metadata = json!({ "name": "jane", "namespace": namespace });
        for object in [
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata, "subjects": subject,
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jane" },
            }),
        ] {
            netloss_lab::cluster::apply(&world.client, &serde_json::from_value(object).unwrap()).await.unwrap();
        }
    };
    grant(&world.namespace, rules(&["chaosexperiments"], "chaos.gushchin.dev", &["create"])).await;
    let mut config = world.config();
    config.headers.push((http::HeaderName::from_static("impersonate-user"), http::HeaderValue::from_static("jane")));
    let jane = Client::try_from(config).unwrap();
    let asked = Asked::start(&world).await;
    let elsewhere = || spec(json!({ "namespace": there.namespace }));
    create(&world, &jane, "here", spec(json!({}))).await.unwrap();
    let error = create(&world, &jane, "refused", elsewhere()).await.unwrap_err();
    assert!(error.contains("and you may not act on its pods: that takes the right to patch pods/ephemeralcontainers there"), "{error}");
    grant(&there.namespace, rules(&["pods/ephemeralcontainers"], "", &["patch"])).await;
    // The API server's caches of roles are a moment behind.
    let mut taken = Err(String::new());
    for _ in 0..100 {
        taken = create(&world, &jane, "allowed", elsewhere()).await;
        if taken.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    taken.unwrap();
    asked.end().await;
}

/// Whatever else happens to an experiment, nothing of it waits for netloss.
#[tokio::test]
async fn only_a_new_spec_is_asked_for() {
    none_else_is_asked_for(&World::new("webhook-away").await).await;
}

pub(crate) async fn none_else_is_asked_for(world: &World) {
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    world.pass("x", 0).await;
    let asked = Asked::start(world).await;
    // Nobody answers any more.
    let gone = Patch::Strategic(json!({ "webhooks": [{
        "name": "chaosexperiments.chaos.gushchin.dev", "clientConfig": { "url": "https://127.0.0.1:1/validate" },
    }] }));
    asked.configurations.patch(&world.namespace, &PatchParams::default(), &gone).await.unwrap();
    asked.until(world, "nobody answers", |answer| answer.as_ref().is_err_and(|words| words.contains("failed calling webhook"))).await;

    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" }, "finalizers": ["example.com/held"] } }));
    world.experiments().patch("x", &PatchParams::default(), &label).await.unwrap();
    world.pass("x", 5).await;
    let kill = json!({ "action": "pod-kill", "namespace": world.namespace, "selector": { "app": "web" } });
    world.apply("theirs", kill).await.unwrap();
    world.experiments().delete("x", &DeleteParams::default()).await.unwrap();
    let free = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    world.experiments().patch("x", &PatchParams::default(), &free).await.unwrap();
    assert!(world.experiments().get_opt("x").await.unwrap().is_none());
    asked.end().await;
}

/// Without a change of the spec: whoever asks for another run has to be allowed what an edit takes.
#[tokio::test]
async fn a_request_for_another_run_is_asked_for() {
    let world = World::new("webhook-rerun").await;
    world.pod("a").await;
    world.apply("x", spec(json!({}))).await.unwrap();
    let asked = Asked::start(&world).await;
    let request = async |value: &str| {
        let change = json!({ "metadata": { "annotations": { RUN_REQUESTED_ANNOTATION: value } } });
        world.experiments().patch("x", &PatchParams::default(), &Patch::Merge(change)).await.map(drop).map_err(|error| error.to_string())
    };
    let error = request("soon").await.unwrap_err();
    assert!(error.contains("the annotation chaos.gushchin.dev/run-requested-at is \"soon\", which is not an RFC 3339 time"), "{error}");
    request("2027-01-15T08:00:00Z").await.unwrap();
    let production = Patch::Merge(json!({ "metadata": { "labels": { "env": "prod" } } }));
    Api::<Namespace>::all(world.client.clone()).patch(&world.namespace, &PatchParams::default(), &production).await.unwrap();
    let error = request("2027-01-15T08:00:01Z").await.unwrap_err();
    assert!(error.contains("is a production namespace by its label env: prod"), "{error}");
    let label = Patch::Merge(json!({ "metadata": { "annotations": { "team": "shop" } } }));
    world.experiments().patch("x", &PatchParams::default(), &label).await.expect("other annotations are not asked for");
    asked.end().await;
}

/// The API server trusts both authorities for as long as replicas may serve either.
#[tokio::test]
async fn a_renewed_certificate_is_trusted_from_its_first_moment() {
    let world = World::new("webhook-renewal").await;
    let days = |days: i64| world.begin + jiff::SignedDuration::from_hours(24 * days);
    let asked = Asked::start_with(&world, [days(-2600), days(-121)]).await;
    let bundle = async || {
        let configuration = asked.configurations.get(&world.namespace).await.unwrap();
        String::from_utf8(configuration.webhooks.unwrap()[0].client_config.ca_bundle.clone().unwrap().0).unwrap()
    };
    let first = bundle().await;
    let refused = |answer: &Result<(), String>| answer.as_ref().is_err_and(|words| words.contains("No eligible pods"));
    // The certificate is renewed under the same authority, without a word to the API server.
    let mut known = None;
    asked.keeper.fetch(&asked.served, &mut known, days(0)).await.unwrap();
    let renewed = known.clone().unwrap();
    assert_eq!(bundle().await, first);
    asked.until(&world, "the renewed certificate is served and trusted", refused).await;
    asked.keeper.fetch(&asked.served, &mut known, days(1)).await.unwrap();
    assert_eq!(known.as_ref(), Some(&renewed), "nothing is renewed before its time");
    // And the authority, when netloss is applied again.
    let keeper = &asked.keeper;
    authority::install(&keeper.client, &keeper.namespace, &keeper.authority, &asked.configuration, days(0)).await.unwrap();
    let both = bundle().await;
    assert!(both.ends_with(&first) && both.len() > first.len(), "{both}");
    asked.until(&world, "the certificate of the authority before is trusted", refused).await;
    keeper.fetch(&asked.served, &mut known, days(0)).await.unwrap();
    assert_ne!(known.as_ref(), Some(&renewed));
    asked.until(&world, "that of the authority now is served and trusted", refused).await;
    // Another replica finds what this one has made.
    let (served, mut other) = (Served::default(), None);
    keeper.fetch(&served, &mut other, days(0)).await.unwrap();
    assert!(served.is_set() && other == known);
    asked.end().await;
}

/// The controller's service account may do what the webhook takes, with the committed roles, Secret and name of the configuration.
#[tokio::test]
async fn the_committed_roles_are_enough() {
    let world = World::new("webhook-roles").await;
    let there = World::new("webhook-roles-target").await;
    there.pod("a").await;
    let client = service_account(&world).await;
    for file in ["secret.yaml", "authority_secret.yaml"] {
        let text = std::fs::read_to_string(workspace_root().join("config/webhook").join(file)).unwrap();
        for object in netloss_lab::cluster::parse(&text).unwrap() {
            netloss_lab::cluster::apply(&world.client, &object).await.unwrap();
        }
    }
    let keeper = Keeper {
        client,
        namespace: "netloss-system".to_owned(),
        secret: "netloss-webhook".to_owned(),
        authority: authority::SECRET.to_owned(),
        names: vec!["127.0.0.1".to_owned()],
    };
    let installer = client_of(&world, "netloss-webhook-ca");
    let asked = Asked::start_of(&world, keeper, (installer, authority::CONFIGURATION), [Timestamp::now(); 2]).await;
    let error = world.apply("there", spec(json!({ "namespace": there.namespace, "selector": { "app": "nobody" } }))).await.unwrap_err();
    assert!(error.contains("No eligible pods: none in the namespace \"webhook-roles-target\""), "an administrator may act there: {error}");
    asked.end().await;
}

/// Whoever reaches the port and does not know the path learns nothing, and costs nothing: no other thing tells the API server from them.
#[tokio::test]
async fn only_who_knows_the_path_is_answered() {
    let world = World::new("webhook-path").await;
    world.pod("a").await;
    let asked = Asked::start(&world).await;
    let configuration = asked.configurations.get(&world.namespace).await.unwrap();
    let address: http::Uri = configuration.webhooks.unwrap()[0].client_config.url.clone().unwrap().parse().unwrap();
    let mut config = kube::Config::new(format!("https://{}", address.authority().unwrap()).parse().unwrap());
    config.accept_invalid_certs = true;
    let client = Client::try_from(config).unwrap();
    let ask = async |path: &str| {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "operation": "CREATE", "namespace": world.namespace, "name": "x", "userInfo": { "username": "system:admin" },
                "object": { "metadata": { "name": "x" }, "spec": spec(json!({ "namespace": "kube-public" })) },
            },
        });
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(review.to_string().into_bytes())).unwrap();
        let answer = client.send(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, String::from_utf8(answer.into_body().collect_bytes().await.unwrap().to_vec()).unwrap())
    };
    for path in ["/validate", "/validate/", "/", "/validate/00000000000000000000000000000000"] {
        let (status, words) = ask(path).await;
        assert_eq!(status, 404, "{path}: {words}");
    }
    let (status, words) = ask(address.path()).await;
    assert!(status == 200 && words.contains("kube-public"), "{words}");
    asked.end().await;
}

/// Nobody has asked whether its author may act there.
#[tokio::test]
async fn what_was_stored_before_the_webhook_is_not_trusted() {
    let world = World::new("webhook-before").await;
    let there = World::new("webhook-before-target").await;
    there.pod("a").await;
    let elsewhere = || spec(json!({ "namespace": there.namespace }));
    world.apply("before", elsewhere()).await.unwrap();
    // Times of objects are in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // The Job that installs the webhook runs on a node whose clock is behind.
    let behind = Timestamp::now() - jiff::SignedDuration::from_mins(1);
    let asked = Asked::start_with(&world, [behind, Timestamp::now()]).await;
    world.apply("after", elsewhere()).await.unwrap();
    let now = world.at(4);
    let settings = Settings { trusts_admission: true, ..Settings::new(AGENT_IMAGE, "netloss-system") };
    let context = Context::new(world.client.clone(), settings, Arc::new(move || now), None).reviewed_by(Some(Arc::clone(&asked.served)));
    let context = Arc::new(context);
    world.pass_of(Arc::clone(&context), "before").await.unwrap();
    let said = world.message("before").await;
    assert!(said.contains("is not open to experiments of the namespace \"webhook-before\""), "{said}");
    assert!(there.agents("a").await.is_empty());
    world.pass_of(context, "after").await.unwrap();
    assert_eq!(there.agents("a").await.len(), 1, "{}", world.message("after").await);
    asked.end().await;
}

/// Rights can be revoked since. Whoever owns the target opens it, and can close it again, for as long as experiments begin runs there.
#[tokio::test]
async fn the_authors_rights_of_long_ago_begin_no_run() {
    let world = World::new("webhook-long-ago").await;
    let there = World::new("webhook-long-ago-target").await;
    there.pod("a").await;
    let asked = Asked::start(&world).await;
    let controller = |seconds: i64| {
        let now = world.at(seconds);
        let settings = Settings { trusts_admission: true, ..Settings::new(AGENT_IMAGE, "netloss-system") };
        Arc::new(Context::new(world.client.clone(), settings, Arc::new(move || now), None).reviewed_by(Some(Arc::clone(&asked.served))))
    };
    // Three hours from now, every day.
    let begin = world.begin.to_zoned(jiff::tz::TimeZone::UTC);
    let schedule = format!("{} {} * * *", begin.minute(), (begin.hour() + 3) % 24);
    world.apply("x", spec(json!({ "namespace": there.namespace, "schedule": schedule }))).await.unwrap();
    let due = async || {
        let next = world.status("x").await.next_scheduled_time.expect("a next run").0;
        next.duration_since(world.begin).as_secs() + 1
    };
    world.pass_of(controller(2), "x").await.unwrap();
    world.pass_of(controller(due().await), "x").await.unwrap();
    let said = world.message("x").await;
    assert!(said.contains("is not open to experiments of the namespace \"webhook-long-ago\""), "{said}");
    assert!(there.agents("a").await.is_empty());

    let allow = json!({ "metadata": { "annotations": { "chaos.gushchin.dev/allow-experiments-from": world.namespace } } });
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.patch(&there.namespace, &PatchParams::default(), &Patch::Merge(allow)).await.unwrap();
    world.pass_of(controller(due().await), "x").await.unwrap();
    assert_eq!(there.agents("a").await.len(), 1, "{}", world.message("x").await);
    asked.end().await;
}
