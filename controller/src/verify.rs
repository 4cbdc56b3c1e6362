//! Whether what is installed works, asked as the controller itself, with its rights: what `helm test` runs.

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{admissionregistration::v1::ValidatingWebhookConfiguration, coordination::v1::Lease};
use kube::{Api, Client, Config, api::ListParams, client::Body};
use netloss_api::{ChaosExperiment, ChaosExperimentHistory, LEASE};
use netloss_cluster::listing;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::info;

/// Between tries. A judgement: `--wait` of Helm or a person waits for the answer, and each is a few requests.
const AGAIN: Duration = Duration::from_secs(2);

/// What is asked.
pub(crate) struct Verify {
    pub(crate) client: Client,
    /// The controller's own namespace.
    pub(crate) own_namespace: String,
    /// Whose experiments it runs; all if empty.
    pub(crate) namespaces: Vec<String>,
    /// Whether there is a webhook.
    pub(crate) webhook: bool,
}

impl Verify {
    /// Asks until everything works, or for so long.
    ///
    /// # Errors
    /// With what does not work.
    pub(crate) async fn run(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.once().await;
            if answer.is_ok() || Instant::now() >= deadline {
                return answer;
            }
            sleep(AGAIN).await;
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let scopes = if self.namespaces.is_empty() { vec![None] } else { self.namespaces.iter().map(Some).collect() };
        for scope in scopes {
            let (namespace, one) = (scope.map(String::as_str), ListParams::default().limit(1));
            let experiments = listing::scoped::<ChaosExperiment>(&self.client, namespace);
            let records = listing::scoped::<ChaosExperimentHistory>(&self.client, namespace);
            experiments.list_metadata(&one).await.context("listing experiments: are the definitions installed (config/crd)?")?;
            records.list_metadata(&one).await.context("listing records: are the definitions installed (config/crd)?")?;
        }
        info!("the definitions are served");
        let holder = self.leader().await?;
        info!(holder, "a replica leads");
        if self.webhook {
            info!(answer = self.ask().await?, "the webhook answers");
        }
        Ok(())
    }

    /// Who leads.
    async fn leader(&self) -> anyhow::Result<String> {
        let own = &self.own_namespace;
        let lease = Api::<Lease>::namespaced(self.client.clone(), own).get(LEASE).await;
        let spec = lease.with_context(|| format!("reading Lease {own}/{LEASE}"))?.spec.unwrap_or_default();
        let holder = spec.holder_identity.context("no replica leads: is one running?")?;
        let lasts = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
        let renewed = spec.renew_time.with_context(|| format!("{holder} has never renewed its lease"))?;
        let since = Timestamp::now().duration_since(renewed.0);
        ensure!(since <= lasts, "{holder} led, and renewed its lease {} s ago for the last time: is it running?", since.as_secs());
        Ok(holder)
    }

    /// What the webhook says to an experiment in the controller's own namespace, which it refuses: nothing is created.
    async fn ask(&self) -> anyhow::Result<String> {
        let name = "netloss";
        let configuration = Api::<ValidatingWebhookConfiguration>::all(self.client.clone()).get(name).await;
        let configuration = configuration.context("reading the ValidatingWebhookConfiguration netloss")?;
        let hook = configuration.webhooks.into_iter().flatten().next().context("the ValidatingWebhookConfiguration has no webhook")?;
        let trusted = hook.client_config.ca_bundle.context("the webhook's certificate is not trusted yet (caBundle)")?;
        let url = match (hook.client_config.url, hook.client_config.service) {
            (Some(url), _) => url,
            (None, Some(service)) => {
                let (name, namespace, port) = (service.name, service.namespace, service.port.unwrap_or(443));
                format!("https://{name}.{namespace}.svc:{port}{}", service.path.unwrap_or_default())
            }
            (None, None) => bail!("the webhook has neither an address nor a Service"),
        };
        let address: http::Uri = url.parse().with_context(|| format!("the webhook's address {url}"))?;
        let host = address.authority().with_context(|| format!("the webhook's address {url} names no host"))?;
        let mut config = Config::new(format!("https://{host}").parse()?);
        let certificates = CertificateDer::pem_slice_iter(&trusted.0).map(|read| read.map(|one| one.to_vec()));
        config.root_cert = Some(certificates.collect::<Result<_, _>>().context("caBundle holds no certificates")?);
        (config.connect_timeout, config.read_timeout) = (Some(Duration::from_secs(10)), Some(Duration::from_secs(10)));
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "verify",
                "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
                "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
                "operation": "CREATE",
                "namespace": self.own_namespace,
                "name": "verify",
                "userInfo": {},
                "dryRun": true,
                "object": {
                    "apiVersion": "chaos.gushchin.dev/v1alpha1",
                    "kind": "ChaosExperiment",
                    "metadata": { "name": "verify", "namespace": self.own_namespace },
                    "spec": { "action": "pod-network-loss", "selector": { "app": "verify" }, "duration": "1s" },
                },
            },
        });
        let request = http::Request::post(address.path()).header("content-type", "application/json");
        let request = request.body(Body::from(serde_json::to_vec(&review)?)).context("making a request")?;
        let response = Client::try_from(config)?.send(request).await.with_context(|| format!("asking the webhook at {url}"))?;
        let body = response.into_body().collect_bytes().await.with_context(|| format!("reading the answer of {url}"))?;
        let answer: Value = serde_json::from_slice(&body).with_context(|| format!("{url} does not answer with JSON"))?;
        match (answer["response"]["allowed"].as_bool(), answer["response"]["status"]["message"].as_str()) {
            (Some(false), Some(words)) => Ok(words.to_owned()),
            _ => bail!("the webhook at {url} did not refuse what it has to refuse: {answer}"),
        }
    }
}
