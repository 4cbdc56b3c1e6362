//! The API server's questions, over HTTPS.

use super::{
    certificate::Identity,
    judge, look,
    review::{Asked, Review},
};
use crate::{
    http::{self, Answer, KeepAlive, LIMIT, plain},
    machine::Settings,
    metrics::Metrics,
    reconcile::Clock,
};
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Incoming},
};
use jiff::Timestamp;
use kube::{Client, core::admission::AdmissionResponse};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::{info, warn};

/// The path that the webhook configuration names where somebody else makes its certificate, who cannot write another into it.
pub const PATH: &str = "/validate";

/// The largest review that is read, in bytes: an object of etcd's limit (1.5 MiB), twice, and what is around it.
const LARGEST: usize = 4 * 1024 * 1024;

/// Reviews that are answered at a time; others wait. Each takes some five requests to the API server.
const CONCURRENT: usize = 8;

/// Bytes of one permit of memory.
const PERMIT: usize = 1024;

/// What keeps the memory of reviews within bounds, whatever is asked: few at a time, and the bodies of all of them no larger than the largest.
#[derive(Clone)]
struct Room {
    reviews: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self { reviews: Arc::new(Semaphore::new(CONCURRENT)), bodies: Arc::new(Semaphore::new(LARGEST / PERMIT)) }
    }
}

impl Room {
    /// Waits until a body of this length may be read. One of unknown length may be the largest; none where it is too large.
    async fn of(&self, length: Option<u64>) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let bytes = usize::try_from(length.unwrap_or(LARGEST as u64)).ok().filter(|bytes| *bytes <= LARGEST)?;
        let permits = u32::try_from(bytes.div_ceil(PERMIT).max(1)).ok()?;
        let review = Arc::clone(&self.reviews).acquire_owned().await.ok()?;
        let body = Arc::clone(&self.bodies).acquire_many_owned(permits).await.ok()?;
        Some((review, body))
    }
}

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
    fn is_path(&self, path: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|serving| serving.path == path)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|serving| Arc::clone(&serving.certificate))
    }
}

/// What answers take.
#[derive(Clone)]
pub struct Webhook {
    /// For looking. Not the one that stops and repairs: who asks much keeps nobody from that.
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
    let (tls, room) = (http::acceptor(Arc::clone(&served) as Arc<dyn ResolvesServerCert>)?, Room::default());
    info!(address = http::address(&listener), "answering admission reviews");
    let answer = move |request| answer(webhook.clone(), Arc::clone(&served), room.clone(), request);
    Ok(http::serve(listener, Some(tls), KeepAlive::On, answer, shutdown))
}

async fn answer(webhook: Webhook, served: Arc<Served>, room: Room, request: Request<Incoming>) -> Answer {
    // Before anything that costs something: who does not know the path is not the API server.
    if request.method() != Method::POST || !served.is_path(request.uri().path()) {
        return plain(StatusCode::NOT_FOUND, "POST an AdmissionReview to the path of the ValidatingWebhookConfiguration\n");
    }
    let Ok(Some(_room)) = timeout(LIMIT, room.of(request.body().size_hint().exact())).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the review is too large, or others are being answered\n");
    };
    let Ok(Ok(body)) = timeout(http::READ_LIMIT, Limited::new(request.into_body(), LARGEST).collect()).await else {
        return plain(StatusCode::BAD_REQUEST, "the review is too large, or did not arrive\n");
    };
    let Some(review) = Review::read(body.to_bytes()) else {
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
    let seen = look(&webhook.client, &experiment, review.user(), &webhook.settings).await?;
    let verdict = judge(&experiment, asked.operation, &seen, (webhook.clock)(), &webhook.settings);
    webhook.metrics.refused(verdict.safety, experiment.spec.target_namespace(&asked.namespace));
    let (namespace, name, refusal) = (&asked.namespace, review.name(), verdict.refusal.as_deref());
    info!(namespace, name, user = review.user().username, refusal, warnings = verdict.warnings.len(), "reviewed");
    Ok(review.answered(verdict))
}
