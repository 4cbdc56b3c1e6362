//! What the webhook is known by: a certificate that it issues and renews itself under the authority of [`super::authority`], or one that is given to it in
//! files.
//!
//! One Secret holds it for all replicas. Whoever finds it missing, near its end or of another authority issues a new one.

use super::{
    authority::{self, Authority},
    served::Served,
};
use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;
use tracing::{info, warn};

/// The path that the webhook configuration names where somebody else makes its certificate, who cannot write another into it.
const PATH: &str = "/validate";

/// How long a certificate lasts, in days; no longer than its authority. A judgement: short enough that renewal is exercised twice a year.
const LIFE: i64 = 180;
/// It is renewed this many days before its end: a third of its life, in which a controller that cannot renew it has time to be noticed.
const RENEW_BEFORE: i64 = 60;
/// Between looks at the Secret, or the files: one request a minute, against 60 days for a renewal.
const LOOK: Duration = Duration::from_mins(1);
/// Before the first further try to issue a certificate, and between later ones at most: in a new installation the authority's Job is seconds away.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Says in the Secret when its certificate ends.
const EXPIRES: &str = "chaos.gushchin.dev/expires";

/// A certificate with its key, and what vouches for it, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authority that issued it.
    pub authority: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Valid from the begin of the day before `made` to that of the day of `end`: clocks differ.
pub(super) fn set_validity(params: &mut CertificateParams, made: Timestamp, end: Timestamp) -> anyhow::Result<()> {
    let day = |at: Timestamp| -> anyhow::Result<_> {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        Ok(rcgen::date_time_ymd(date.year().into(), u8::try_from(date.month())?, u8::try_from(date.day())?))
    };
    params.not_before = day(made.checked_sub(SignedDuration::from_hours(24))?)?;
    params.not_after = day(end)?;
    Ok(())
}

impl Identity {
    /// Issues one for these names, valid from a day before `now`.
    ///
    /// # Errors
    /// When a name is none, or the authority's key.
    pub fn issue(names: &[String], authority: &Authority, now: Timestamp) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "netloss webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, expires(authority, now))?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority.issuer()?)?.pem();
        Ok(Self { authority: authority.own_certificate().to_owned(), certificate, key: key.serialize_pem() })
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
        Some(Self { authority: text("ca.crt")?, certificate: text("tls.crt")?, key: text("tls.key")? })
    }

    fn to_data(&self) -> BTreeMap<String, ByteString> {
        let pairs = [("ca.crt", &self.authority), ("tls.crt", &self.certificate), ("tls.key", &self.key)];
        pairs.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).collect()
    }
}

/// When a certificate that is issued now ends.
fn expires(authority: &Authority, now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::from_hours(24 * LIFE)).unwrap_or(Timestamp::MAX).min(authority.expires())
}

/// Whether a certificate that ends then is to be renewed: where another would last longer.
fn is_due(ends: Option<Timestamp>, authority: &Authority, now: Timestamp) -> bool {
    let soon = |end: Timestamp| end.duration_since(now) < SignedDuration::from_hours(24 * RENEW_BEFORE);
    ends.is_none_or(|end| soon(end) && end < authority.expires())
}

/// Keeps the Secret with the certificate.
#[derive(Clone)]
pub struct Keeper {
    /// For the Secrets.
    pub client: Client,
    /// Where they are.
    pub namespace: String,
    /// The name of that with the certificate.
    pub secret: String,
    /// The name of that with the authority.
    pub authority: String,
    /// By which the API server calls the webhook.
    pub names: Vec<String>,
}

impl Keeper {
    /// Looks once: issues or renews the certificate if that is due, and serves it.
    ///
    /// # Errors
    /// When there is no authority yet, the API server does not do what is asked, or another replica was faster: looking again helps then.
    pub async fn fetch(&self, served: &Served, known: &mut Option<Identity>, now: Timestamp) -> anyhow::Result<()> {
        let Self { namespace, secret: name, authority, .. } = self;
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let there = secrets.get(authority).await.with_context(|| format!("reading Secret {namespace}/{authority}"))?;
        let authority = Authority::of(&there).with_context(|| {
            format!("Secret {namespace}/{authority} has no authority: the Job {} makes it, apply config/webhook again", authority::SECRET)
        })?;
        let mut secret = secrets.get(name).await.with_context(|| format!("reading Secret {namespace}/{name}"))?;
        let ends = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(EXPIRES)?.parse().ok());
        let found = Identity::of(&secret).filter(|identity| identity.authority == authority.own_certificate());
        let identity = match found {
            Some(identity) if !is_due(ends, &authority, now) => identity,
            _ => {
                let identity = Identity::issue(&self.names, &authority, now)?;
                let expires = expires(&authority, now);
                secret.data = Some(identity.to_data());
                secret.metadata.annotations.get_or_insert_default().insert(EXPIRES.to_owned(), expires.to_string());
                // With the version that was read: of two replicas one is first.
                secrets.replace(name, &PostParams::default(), &secret).await.context("writing the certificate's Secret")?;
                info!(%expires, names = ?self.names, "issued a certificate for the webhook");
                if authority.expires().duration_since(now) < SignedDuration::from_hours(24 * LIFE) {
                    warn!(expires = %authority.expires(), "the webhook's authority ends soon: apply netloss again, whose Job renews it");
                }
                identity
            }
        };
        served.set(&identity, &authority.path, authority.called_since)?;
        *known = Some(identity);
        Ok(())
    }

    /// Looks for ever.
    pub async fn keep(&self, served: &Served) {
        let (mut known, mut pause) = (None, FIRST_PAUSE);
        loop {
            if let Err(error) = self.fetch(served, &mut known, Timestamp::now()).await {
                warn!(error = format!("{error:#}"), "the webhook's certificate could not be issued: trying again");
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
                sleep(LOOK).await;
            }
        }
    }
}

/// Serves the certificate of a folder with tls.crt and tls.key, as cert-manager's Secrets are mounted, and whatever takes its place.
pub async fn keep_files(folder: &Path, served: &Served) {
    let mut known = None;
    loop {
        if let Err(error) = fetch_files(folder, served, &mut known) {
            warn!(folder = ?folder, error = format!("{error:#}"), "the webhook's certificate cannot be served: the one before stays");
        }
        sleep(LOOK.min(Duration::from_secs(10))).await;
    }
}

fn fetch_files(folder: &Path, served: &Served, known: &mut Option<Identity>) -> anyhow::Result<()> {
    let identity = read_files(folder)?;
    if known.as_ref() != Some(&identity) {
        // Since when is not known: who gives it a certificate says that it is called.
        served.set(&identity, PATH, Some(Timestamp::MIN))?;
        *known = Some(identity);
    }
    Ok(())
}

fn read_files(folder: &Path) -> anyhow::Result<Identity> {
    let read = |name: &str| {
        let path: PathBuf = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(Identity { authority: String::new(), certificate: read("tls.crt")?, key: read("tls.key")? })
}

/// Where the certificate comes from.
pub enum Source {
    /// It is issued here.
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
    use netloss_core::machine::fixtures::at;

    fn authority() -> Authority {
        Authority::make(None, at(0)).unwrap()
    }

    #[test]
    fn a_certificate_goes_with_its_key() {
        let names = ["webhook.example".to_owned()];
        let (first, second) =
            (Identity::issue(&names, &authority(), at(0)).unwrap(), Identity::issue(&names, &authority(), at(1)).unwrap());
        first.certified_key().unwrap();
        second.certified_key().unwrap();
        let mixed = Identity { key: second.key, ..first };
        assert!(mixed.certified_key().is_err(), "another's key is noticed");
    }

    #[test]
    fn a_certificate_is_renewed_in_time() {
        let authority = authority();
        let days = |days: i64| at(0) + SignedDuration::from_hours(24 * days);
        assert!(is_due(None, &authority, at(0)));
        assert!(!is_due(Some(days(LIFE)), &authority, at(0)));
        assert!(!is_due(Some(days(RENEW_BEFORE)), &authority, at(0)));
        assert!(is_due(Some(days(RENEW_BEFORE)), &authority, at(1)));
        // Another would end with the authority too.
        let last = expires(&authority, days(super::authority::LIFE - 10));
        assert_eq!(last, authority.expires());
        assert!(!is_due(Some(last), &authority, days(super::authority::LIFE - 10)));
    }

    #[test]
    fn a_secret_reads_back_what_was_written() {
        let identity = Identity::issue(&["webhook.example".to_owned()], &authority(), at(0)).unwrap();
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
        assert!(fetch_files(&folder, &served, &mut known).unwrap_err().to_string().contains("tls.crt"));
        let names = ["webhook.example".to_owned()];
        let (first, second) =
            (Identity::issue(&names, &authority(), at(0)).unwrap(), Identity::issue(&names, &authority(), at(1)).unwrap());
        write(&first);
        fetch_files(&folder, &served, &mut known).unwrap();
        assert!(served.is_set() && known.as_ref().unwrap().certificate == first.certificate);
        fs::write(folder.join("tls.crt"), &second.certificate).unwrap();
        fetch_files(&folder, &served, &mut known).unwrap_err();
        assert_eq!(known.as_ref().unwrap().certificate, first.certificate, "half of a renewal is not served");
        write(&second);
        fetch_files(&folder, &served, &mut known).unwrap();
        assert_eq!(known.unwrap().certificate, second.certificate);
        fs::remove_dir_all(&folder).unwrap();
    }
}
