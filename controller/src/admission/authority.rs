//! The authority that vouches for the webhook's certificates, and has the API server trust and find the webhook.
//!
//! It is made by the Job of config/webhook, which runs each time that netloss is applied, and lasts for ten years. The controller, which runs for ever, has no
//! right to change the `ValidatingWebhookConfiguration`: whoever could would be sent every object that is written in the cluster.

use super::certificate::set_validity;
use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{ValidatingWebhookConfiguration, WebhookClientConfig},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};
use tokio::time::sleep;
use tracing::{info, warn};

/// How long an authority lasts, in days: ten years, as kubeadm's own. It is only trusted for one webhook, and renewing it needs an upgrade.
pub(super) const LIFE: i64 = 3650;
/// It is renewed by the next Job so many days before its end: between two upgrades lie fewer.
const RENEW_BEFORE: i64 = 3 * 365;
/// How long API servers may take to notice another configuration, before a certificate of the new authority is served. They watch
/// configurations, so it is a margin and no measurement.
const NOTICE: Duration = Duration::from_secs(5);
/// Who writes, in managedFields.
const FIELD_MANAGER: &str = "netloss-webhook-ca";

/// The names of config/webhook.
pub const SECRET: &str = "netloss-webhook-ca";
/// The name of the `ValidatingWebhookConfiguration`.
pub const CONFIGURATION: &str = "netloss";

/// An authority, as its Secret has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// What the API server trusts, in PEM: its own certificate, and after it that of the authority before, while replicas may serve either.
    pub certificates: String,
    /// Its key, in PEM.
    pub key: String,
    /// The path at which the webhook answers. It has 128 random bits, so that only who may read the webhook's configuration can ask the webhook.
    pub path: String,
    /// When it was made.
    pub made: Timestamp,
    /// Since when the API server calls the webhook, as far as that was seen; none while there is no configuration. What was stored before was reviewed by nobody.
    pub called_since: Option<Timestamp>,
}

impl Authority {
    /// Makes one, valid from a day before `now`. The path stays that of the authority before.
    ///
    /// # Errors
    /// When the system has no random numbers, or the time is out of range.
    pub fn make(before: Option<&Self>, now: Timestamp) -> anyhow::Result<Self> {
        let made = Timestamp::from_second(now.as_second())?;
        let key = KeyPair::generate()?;
        let certificate = params(made)?.self_signed(&key)?.pem();
        let path = before.map_or_else(random_path, |before| Ok(before.path.clone()))?;
        let certificates = certificate + before.map_or("", Self::own_certificate);
        let called_since = before.and_then(|before| before.called_since);
        Ok(Self { certificates, key: key.serialize_pem(), path, made, called_since })
    }

    /// The first of its certificates.
    #[must_use]
    pub fn own_certificate(&self) -> &str {
        const END: &str = "-----END CERTIFICATE-----\n";
        self.certificates.find(END).map_or(&self.certificates, |at| &self.certificates[..at + END.len()])
    }

    /// When its certificate ends.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        ends(self.made)
    }

    /// Whether the next Job renews it.
    fn is_due(&self, now: Timestamp) -> bool {
        self.expires().duration_since(now) < SignedDuration::from_hours(24 * RENEW_BEFORE)
    }

    /// To sign with.
    pub(super) fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        Ok(Issuer::new(params(self.made)?, KeyPair::from_pem(&self.key).context("the authority's key")?))
    }

    /// What the Secret has, if it has one.
    #[must_use]
    pub fn of(secret: &Secret) -> Option<Self> {
        let text = |key: &str| secret.data.as_ref()?.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        let path = text("path").filter(|path| path.starts_with('/'))?;
        let called_since = text("called-since").and_then(|text| text.parse().ok());
        Some(Self { certificates: text("ca.crt")?, key: text("ca.key")?, path, made: text("made")?.parse().ok()?, called_since })
    }

    /// For the Secret.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let pairs = [("ca.crt", &self.certificates), ("ca.key", &self.key), ("path", &self.path), ("made", &self.made.to_string())]
            .map(|(key, text)| (key, text.clone()));
        let since = self.called_since.map(|since| ("called-since", since.to_string()));
        pairs.into_iter().chain(since).map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
    }
}

fn ends(made: Timestamp) -> Timestamp {
    made.saturating_add(SignedDuration::from_hours(24 * LIFE)).unwrap_or(Timestamp::MAX)
}

/// Its certificate is a function of when it was made and of its key, so that nothing has to be read from the certificate to sign with it.
fn params(made: Timestamp) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("netloss webhook {}", made.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, made, ends(made))?;
    Ok(params)
}

fn random_path() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::ring::default_provider();
    ensure!(provider.secure_random.fill(&mut bytes).is_ok(), "making a path for the webhook: the system has no random numbers");
    let mut path = "/validate/".to_owned();
    for byte in bytes {
        let _ = write!(path, "{byte:02x}");
    }
    Ok(path)
}

/// Makes or renews the authority if that is due, and has the API server trust it and call the webhook by its path.
///
/// The configuration is written first: a certificate of an authority that is not trusted is never served.
///
/// # Errors
/// When the API server does not do what it is asked.
pub async fn install(client: &Client, namespace: &str, secret: &str, configuration: &str, now: Timestamp) -> anyhow::Result<Authority> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut object = secrets.get(secret).await.with_context(|| format!("reading Secret {namespace}/{secret}"))?;
    let before = Authority::of(&object);
    let mut authority = match &before {
        Some(authority) if !authority.is_due(now) => authority.clone(),
        before => Authority::make(before.as_ref(), now)?,
    };
    // Compared with times at which the API server created objects, so by its clock; whole seconds, of which one may have begun before.
    let called = have_called(client, configuration, &authority).await?;
    authority.called_since = called.map(|since| authority.called_since.unwrap_or(since + SignedDuration::from_secs(1)));
    if before.as_ref() == Some(&authority) {
        return Ok(authority);
    }
    if before.as_ref().is_some_and(|before| before.made != authority.made) {
        sleep(NOTICE).await;
    }
    object.data = Some(authority.to_data());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    secrets.replace(secret, &params, &object).await.with_context(|| format!("writing Secret {namespace}/{secret}"))?;
    info!(expires = %authority.expires(), secret, configuration, "wrote the authority of the webhook's certificates");
    Ok(authority)
}

/// Writes authority and path into the configuration. Returns since when they stand there, by the API server's clock, if there is one.
async fn have_called(client: &Client, name: &str, authority: &Authority) -> anyhow::Result<Option<Timestamp>> {
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let configuration = api.get_opt(name).await.with_context(|| format!("reading ValidatingWebhookConfiguration {name}"))?;
    let Some(configuration) = configuration else {
        warn!(name, "there is no such ValidatingWebhookConfiguration: the webhook is not called until it is applied, and this Job with it");
        return Ok(None);
    };
    let wanted = |webhook: k8s_openapi::api::admissionregistration::v1::ValidatingWebhook| -> anyhow::Result<Value> {
        Ok(json!({ "name": webhook.name, "clientConfig": client_config(&webhook.client_config, authority)? }))
    };
    let webhooks = configuration.webhooks.into_iter().flatten().map(wanted).collect::<anyhow::Result<Vec<_>>>()?;
    let patch = Patch::Strategic(json!({ "webhooks": webhooks }));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = api.patch(name, &params, &patch).await.with_context(|| format!("writing ValidatingWebhookConfiguration {name}"))?;
    let mine = written.metadata.managed_fields.into_iter().flatten().filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let since = mine.filter_map(|entry| entry.time).map(|time| time.0).max();
    Ok(Some(since.with_context(|| format!("ValidatingWebhookConfiguration {name} does not say when it was written"))?))
}

/// What is to be added to a client configuration.
fn client_config(there: &WebhookClientConfig, authority: &Authority) -> anyhow::Result<Value> {
    let bundle = ByteString(authority.certificates.clone().into_bytes());
    let Some(url) = &there.url else {
        return Ok(json!({ "caBundle": bundle, "service": { "path": authority.path } }));
    };
    let address: http::Uri = url.parse().with_context(|| format!("the webhook's address {url}"))?;
    let host = address.authority().with_context(|| format!("the webhook's address {url} names no host"))?;
    Ok(json!({ "caBundle": bundle, "url": format!("https://{host}{}", authority.path) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::at;

    #[test]
    fn a_renewal_keeps_the_authority_before_it_and_its_path_and_no_more() {
        let count = |authority: &Authority| authority.certificates.matches("BEGIN CERTIFICATE").count();
        let first = Authority::make(None, at(0)).unwrap();
        let second = Authority::make(Some(&first), at(1)).unwrap();
        let third = Authority::make(Some(&second), at(2)).unwrap();
        assert_eq!([count(&first), count(&second), count(&third)], [1, 2, 2]);
        assert!(second.certificates.ends_with(&first.certificates) && !third.certificates.contains(&first.certificates));
        assert_eq!((&second.path, &third.path), (&first.path, &first.path));
        assert!(first.path.starts_with("/validate/") && first.path.len() == "/validate/".len() + 32, "{}", first.path);
        assert_ne!(Authority::make(None, at(0)).unwrap().path, first.path);
    }

    #[test]
    fn a_secret_reads_back_what_was_written() {
        for called_since in [None, Some(at(5))] {
            let authority = Authority { called_since, ..Authority::make(None, at(0)).unwrap() };
            let secret = Secret { data: Some(authority.to_data()), ..Secret::default() };
            assert_eq!(Authority::of(&secret), Some(authority));
        }
        assert_eq!(Authority::of(&Secret::default()), None);
    }

    #[test]
    fn an_authority_is_renewed_years_before_its_end() {
        let authority = Authority::make(None, at(0)).unwrap();
        let days = |days: i64| at(0) + SignedDuration::from_hours(24 * days);
        assert!(!authority.is_due(at(0)) && !authority.is_due(days(LIFE - RENEW_BEFORE)));
        assert!(authority.is_due(days(LIFE - RENEW_BEFORE + 1)));
    }

    #[test]
    fn a_service_is_called_by_path_and_an_address_keeps_its_host() {
        let authority = Authority { path: "/validate/1".to_owned(), ..Authority::make(None, at(0)).unwrap() };
        let config = |url: Option<&str>| WebhookClientConfig { url: url.map(str::to_owned), ..WebhookClientConfig::default() };
        assert_eq!(client_config(&config(None), &authority).unwrap()["service"], json!({ "path": "/validate/1" }));
        let address = client_config(&config(Some("https://127.0.0.1:1/x")), &authority).unwrap();
        assert_eq!(address["url"], "https://127.0.0.1:1/validate/1");
    }
}
