//! The API server's questions, over HTTPS.

use super::{
    certificate::Identity,
    judge, look,
    review::{Asked, Review},
};
use crate::{
    http::{self, Answer, LIMIT, plain},
    machine::Settings,
    metrics::Metrics,
    reconcile::Clock,
};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming};
use kube::{Client, core::admission::AdmissionResponse};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::{net::TcpListener, time::timeout};
use tracing::{info, warn};

/// The path that the webhook configuration names.
pub const PATH: &str = "/validate";

/// The largest question that is read, in bytes: an object of the API server's limit, twice, and what is around it.
const LARGEST: usize = 4 * 1024 * 1024;

/// The certificate that is served at present.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    /// Serves this one from the next connection on.
    ///
    /// # Errors
    /// When it is none.
    pub fn set(&self, identity: &Identity) -> anyhow::Result<()> {
        let key = identity.certified_key()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What answers take.
#[derive(Clone)]
pub struct Webhook {
    /// For looking.
    pub client: Client,
    /// What the controller was started with.
    pub settings: Settings,
    /// Tells the time.
    pub clock: Clock,
    /// Counts what is refused.
    pub metrics: Arc<Metrics>,
}

/// Answers until `shutdown`.
///
/// # Errors
/// When TLS cannot be set up.
pub fn serve(
    listener: TcpListener,
    served: Arc<Served>,
    webhook: Webhook,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let tls = http::acceptor(served)?;
    info!(address = ?listener.local_addr().ok(), "answering admission reviews");
    Ok(http::serve(listener, Some(tls), move |request| answer(webhook.clone(), request), shutdown))
}

async fn answer(webhook: Webhook, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST || request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "POST an AdmissionReview to /validate\n");
    }
    let Ok(Ok(body)) = timeout(LIMIT, Limited::new(request.into_body(), LARGEST).collect()).await else {
        return plain(StatusCode::BAD_REQUEST, "the review is too large, or did not arrive\n");
    };
    let Some(review) = Review::read(&body.to_bytes()) else {
        return plain(StatusCode::BAD_REQUEST, "this is no AdmissionReview\n");
    };
    // Without an answer, the webhook's failurePolicy decides.
    let response = match timeout(LIMIT, reviewed(&webhook, &review)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            warn!(%error, "a review could not be answered");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the API server could not be asked\n");
        }
        Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "looking took too long\n"),
    };
    let body = serde_json::to_vec(&response.into_review()).unwrap_or_default();
    http::answer(StatusCode::OK, "application/json", body)
}

async fn reviewed(webhook: &Webhook, review: &Review) -> kube::Result<AdmissionResponse> {
    let asked = match review.asked() {
        Asked::Admitted => return Ok(review.admitted()),
        Asked::Unreadable(why) => return Ok(review.refused(&why)),
        Asked::Experiment(asked) => asked,
    };
    let experiment = asked.experiment();
    let seen = look(&webhook.client, &experiment, &review.request().user_info, &webhook.settings).await?;
    let verdict = judge(&experiment, asked.operation, &seen, (webhook.clock)(), &webhook.settings);
    webhook.metrics.refused(verdict.safety, &asked.namespace);
    let (namespace, name, refusal) = (&asked.namespace, &review.request().name, verdict.refusal.as_deref());
    info!(namespace, name, user = review.request().user_info.username, refusal, warnings = verdict.warnings.len(), "reviewed");
    Ok(review.answered(verdict))
}
