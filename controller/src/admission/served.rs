//! What the webhook is known by at present: its certificate and its path.

use super::certificate::Identity;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::{Arc, PoisonError, RwLock};

/// What is served at present.
#[derive(Debug)]
struct Serving {
    certificate: Arc<CertifiedKey>,
    path: String,
    /// Since when the API server calls it.
    called_since: Option<Timestamp>,
}

/// What is served at present, if there is a certificate.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<Serving>>);

impl Served {
    /// Serves this certificate from the next connection on, and this path alone from the next request on. `called_since`: since when the API server calls it.
    ///
    /// # Errors
    /// When it is none.
    pub fn set(&self, identity: &Identity, path: &str, called_since: Option<Timestamp>) -> anyhow::Result<()> {
        let (certificate, path) = (Arc::new(identity.certified_key()?), path.to_owned());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Serving { certificate, path, called_since });
        Ok(())
    }

    /// Whether an object that was created then was reviewed: whoever wrote it was asked whether they may.
    #[must_use]
    pub fn has_reviewed(&self, created: Option<Timestamp>) -> bool {
        let serving = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let since = serving.as_ref().and_then(|serving| serving.called_since);
        since.is_some_and(|since| created.is_some_and(|created| created >= since))
    }

    /// Whether there is a certificate.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the webhook is called by this path.
    pub(super) fn is_path(&self, path: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|serving| serving.path == path)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|serving| Arc::clone(&serving.certificate))
    }
}
