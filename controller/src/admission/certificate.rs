//! What the webhook is known by: a certificate that it makes and renews itself, or one that is given to it in files.
//!
//! One Secret holds it for all replicas. Whoever finds it missing or near its end makes a new one, with an authority of its own whose
//! key is forgotten at once: nobody can issue a second certificate. The authority before stays trusted until the next renewal, so that the
//! API server and replicas that have not heard of the new one yet still understand each other.

use super::server::Served;
use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;
use tracing::{info, warn};

/// How long a certificate lasts, in days.
const LIFE: i64 = 180;
/// It is renewed so many days before its end.
const RENEW_BEFORE: i64 = 60;
/// Between looks at the Secret, or the files.
const LOOK: Duration = Duration::from_mins(1);
/// How long the API server may take to notice another authority.
const NOTICE: Duration = Duration::from_secs(5);
/// Says in the Secret when its certificate ends.
const EXPIRES: &str = "chaos.gushchin.dev/expires";

/// A certificate with its key, and what vouches for it, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authorities to trust: its own, and the one before.
    pub authorities: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Identity {
    /// Makes one for these names, valid from a day before `now`.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue(names: &[String], before: Option<&Self>, now: Timestamp) -> anyhow::Result<Self> {
        let day = |offset: i64| -> anyhow::Result<_> {
            let date = now.checked_add(SignedDuration::from_hours(24 * offset))?.to_zoned(jiff::tz::TimeZone::UTC).date();
            Ok(rcgen::date_time_ymd(date.year().into(), u8::try_from(date.month())?, u8::try_from(date.day())?))
        };
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, format!("netloss webhook {}", now.as_second()));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // The authority outlives its certificate, for as long as it is trusted beside the next one.
        (authority.not_before, authority.not_after) = (day(-1)?, day(2 * LIFE)?);
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "netloss webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (day(-1)?, day(LIFE)?);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
        let authorities = authority_pem + before.map_or("", Self::own_authority);
        Ok(Self { authorities, certificate, key: key.serialize_pem() })
    }

    /// The first of its authorities, which vouches for it.
    fn own_authority(&self) -> &str {
        const END: &str = "-----END CERTIFICATE-----\n";
        self.authorities.find(END).map_or(&self.authorities, |at| &self.authorities[..at + END.len()])
    }

    /// What rustls serves.
    ///
    /// # Errors
    /// When it is none, or its key is another's.
    pub fn certified_key(&self) -> anyhow::Result<CertifiedKey> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().context("the certificate")?;
        ensure!(!chain.is_empty(), "there is no certificate in tls.crt");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("the certificate's key")?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).context("the certificate and its key")
    }

    fn of(secret: &Secret) -> Option<Self> {
        let text = |key: &str| secret.data.as_ref()?.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        Some(Self { authorities: text("ca.crt")?, certificate: text("tls.crt")?, key: text("tls.key")? })
    }

    fn to_data(&self) -> BTreeMap<String, ByteString> {
        let pairs = [("ca.crt", &self.authorities), ("tls.crt", &self.certificate), ("tls.key", &self.key)];
        pairs.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).collect()
    }
}

/// Whether a certificate that ends then is to be renewed.
fn is_due(expires: Option<Timestamp>, now: Timestamp) -> bool {
    expires.is_none_or(|end| end.duration_since(now) < SignedDuration::from_hours(24 * RENEW_BEFORE))
}

/// Keeps a Secret, and the webhook configuration that trusts it.
#[derive(Clone)]
pub struct Keeper {
    /// For both.
    pub client: Client,
    /// Where the Secret is.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// The name of the `ValidatingWebhookConfiguration`.
    pub configuration: String,
    /// By which the API server calls the webhook.
    pub names: Vec<String>,
}

impl Keeper {
    /// Looks once: makes or renews the certificate if that is due, has it trusted, and serves it.
    ///
    /// # Errors
    /// When the API server does not do what is asked, or another replica was faster: looking again helps then.
    pub async fn look(&self, served: &Served, known: &mut Option<Identity>, now: Timestamp) -> anyhow::Result<()> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let mut secret = secrets.get(&self.secret).await.with_context(|| format!("reading Secret {}/{}", self.namespace, self.secret))?;
        let expires = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(EXPIRES)?.parse().ok());
        let found = Identity::of(&secret);
        let identity = match found {
            Some(identity) if !is_due(expires, now) => identity,
            before => {
                let identity = Identity::issue(&self.names, before.as_ref(), now)?;
                let expires = now.checked_add(SignedDuration::from_hours(24 * LIFE))?;
                secret.data = Some(identity.to_data());
                secret.metadata.annotations.get_or_insert_default().insert(EXPIRES.to_owned(), expires.to_string());
                // With the version that was read: of two replicas one is first.
                secrets.replace(&self.secret, &PostParams::default(), &secret).await.context("writing the certificate's Secret")?;
                info!(%expires, names = ?self.names, "made a certificate for the webhook");
                identity
            }
        };
        let changed = self.have_trusted(&identity).await?;
        if known.as_ref() != Some(&identity) {
            if changed && served.is_set() {
                sleep(NOTICE).await;
            }
            served.set(&identity)?;
            *known = Some(identity);
        }
        Ok(())
    }

    /// Writes the authorities into the webhook configuration, if they are not there. Returns whether they were not.
    async fn have_trusted(&self, identity: &Identity) -> anyhow::Result<bool> {
        let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let name = &self.configuration;
        let Some(configuration) = api.get_opt(name).await.with_context(|| format!("reading ValidatingWebhookConfiguration {name}"))? else {
            return Ok(false);
        };
        let webhooks = configuration.webhooks.unwrap_or_default();
        let trusted = |bundle: Option<&ByteString>| bundle.is_some_and(|bundle| bundle.0 == identity.authorities.as_bytes());
        if webhooks.iter().all(|webhook| trusted(webhook.client_config.ca_bundle.as_ref())) {
            return Ok(false);
        }
        let bundle = ByteString(identity.authorities.clone().into_bytes());
        let webhooks: Vec<_> =
            webhooks.iter().map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle } })).collect();
        let patch = Patch::Strategic(json!({ "webhooks": webhooks }));
        api.patch(name, &PatchParams::default(), &patch).await.with_context(|| format!("writing ValidatingWebhookConfiguration {name}"))?;
        Ok(true)
    }

    /// Looks for ever.
    pub async fn keep(&self, served: &Served) {
        let mut known = None;
        loop {
            if let Err(error) = self.look(served, &mut known, Timestamp::now()).await {
                warn!(error = format!("{error:#}"), "the webhook's certificate could not be seen to: trying again");
                sleep(Duration::from_secs(5)).await;
            } else {
                sleep(LOOK).await;
            }
        }
    }
}

/// Serves the certificate of a folder with tls.crt and tls.key, as cert-manager's Secrets are mounted, and whatever takes its place.
pub async fn keep_files(folder: &Path, served: &Served) {
    let mut known = None;
    loop {
        if let Err(error) = look_at_files(folder, served, &mut known) {
            warn!(folder = ?folder, error = format!("{error:#}"), "the webhook's certificate cannot be served: the one before stays");
        }
        sleep(LOOK.min(Duration::from_secs(10))).await;
    }
}

fn look_at_files(folder: &Path, served: &Served, known: &mut Option<Identity>) -> anyhow::Result<()> {
    let identity = read_files(folder)?;
    if known.as_ref() != Some(&identity) {
        served.set(&identity)?;
        *known = Some(identity);
    }
    Ok(())
}

fn read_files(folder: &Path) -> anyhow::Result<Identity> {
    let read = |name: &str| {
        let path: PathBuf = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(Identity { authorities: String::new(), certificate: read("tls.crt")?, key: read("tls.key")? })
}

/// Where the certificate comes from.
pub enum Source {
    /// It is made here.
    Kept(Keeper),
    /// It is in this folder.
    Files(PathBuf),
}

impl Source {
    /// Serves what comes from it, for ever.
    pub async fn keep(self, served: Arc<Served>) {
        match self {
            Self::Kept(keeper) => keeper.keep(&served).await,
            Self::Files(folder) => keep_files(&folder, &served).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixtures::at;

    #[test]
    fn a_renewal_keeps_the_authority_before_it_and_no_more() {
        let names = ["webhook.example".to_owned()];
        let count = |identity: &Identity| identity.authorities.matches("BEGIN CERTIFICATE").count();
        let first = Identity::issue(&names, None, at(0)).unwrap();
        let second = Identity::issue(&names, Some(&first), at(1)).unwrap();
        let third = Identity::issue(&names, Some(&second), at(2)).unwrap();
        assert_eq!([count(&first), count(&second), count(&third)], [1, 2, 2]);
        assert!(second.authorities.ends_with(&first.authorities));
        assert!(!third.authorities.contains(&first.authorities));
        for identity in [&first, &second, &third] {
            identity.certified_key().unwrap();
        }
        let mixed = Identity { key: second.key, ..first };
        assert!(mixed.certified_key().is_err(), "another's key is noticed");
    }

    #[test]
    fn a_certificate_is_renewed_in_time() {
        let days = |days: i64| at(0) + SignedDuration::from_hours(24 * days);
        assert!(is_due(None, at(0)));
        assert!(!is_due(Some(days(LIFE)), at(0)));
        assert!(!is_due(Some(days(RENEW_BEFORE)), at(0)));
        assert!(is_due(Some(days(RENEW_BEFORE)), at(1)));
    }

    #[test]
    fn a_secret_reads_back_what_was_written() {
        let identity = Identity::issue(&["webhook.example".to_owned()], None, at(0)).unwrap();
        let secret = Secret { data: Some(identity.to_data()), ..Secret::default() };
        assert_eq!(Identity::of(&secret), Some(identity));
        assert_eq!(Identity::of(&Secret::default()), None);
    }

    #[test]
    fn files_are_served_and_so_is_what_takes_their_place() {
        let folder = std::env::temp_dir().join(format!("netloss-certificate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |identity: &Identity| {
            fs::write(folder.join("tls.crt"), &identity.certificate).unwrap();
            fs::write(folder.join("tls.key"), &identity.key).unwrap();
        };
        let (served, mut known) = (Served::default(), None);
        assert!(look_at_files(&folder, &served, &mut known).unwrap_err().to_string().contains("tls.crt"));
        let names = ["webhook.example".to_owned()];
        let (first, second) = (Identity::issue(&names, None, at(0)).unwrap(), Identity::issue(&names, None, at(1)).unwrap());
        write(&first);
        look_at_files(&folder, &served, &mut known).unwrap();
        assert!(served.is_set() && known.as_ref().unwrap().certificate == first.certificate);
        fs::write(folder.join("tls.crt"), &second.certificate).unwrap();
        look_at_files(&folder, &served, &mut known).unwrap_err();
        assert_eq!(known.as_ref().unwrap().certificate, first.certificate, "half of a renewal is not served");
        write(&second);
        look_at_files(&folder, &served, &mut known).unwrap();
        assert_eq!(known.unwrap().certificate, second.certificate);
        fs::remove_dir_all(&folder).unwrap();
    }
}
