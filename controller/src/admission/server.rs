//! The API server's questions, over HTTPS.

use super::{
    fetch,
    review::{Asked, Review},
    review_limit::ReviewLimit,
    served::Served,
};
use crate::{
    http::{self, Answer, KeepAlive, LIMIT, plain},
    metrics::Metrics,
};
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Bytes, Incoming},
};
use kube::{Client, core::admission::AdmissionResponse};
use netloss_cluster::clock::Clock;
use netloss_core::{admission::validate, machine::Settings};
use rustls::server::ResolvesServerCert;
use std::{future::Future, sync::Arc};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::{info, warn};

/// The largest review that is read, in bytes: an object of etcd's limit (1.5 MiB), twice, and what is around it.
const LARGEST: usize = 4 * 1024 * 1024;

/// Bytes of one permit of memory: reviews are counted in KiB, as `Semaphore::acquire_many` takes a u32.
const PERMIT: usize = 1024;

/// What keeps the memory of reviews within bounds, whatever is asked: the bodies that are read at a time are no larger than the largest. They
/// are held while they arrive and are parsed, and not while the API server is asked: what needs no look (a pause) waits for none.
#[derive(Clone)]
struct Room {
    bodies: Arc<Semaphore>,
    review_limit: ReviewLimit,
}

impl Default for Room {
    fn default() -> Self {
        Self { bodies: Arc::new(Semaphore::new(LARGEST / PERMIT)), review_limit: ReviewLimit::default() }
    }
}

impl Room {
    /// Waits until a body of this length may be read. One of unknown length may be the largest; none where it is too large.
    async fn of(&self, length: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let bytes = usize::try_from(length.unwrap_or(LARGEST as u64)).ok().filter(|bytes| *bytes <= LARGEST)?;
        let permits = u32::try_from(bytes.div_ceil(PERMIT).max(1)).ok()?;
        Arc::clone(&self.bodies).acquire_many_owned(permits).await.ok()
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
    let Ok(Some(permit)) = timeout(LIMIT, room.of(request.body().size_hint().exact())).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the review is too large, or others are being read\n");
    };
    let Ok(Ok(body)) = timeout(http::READ_LIMIT, Limited::new(request.into_body(), LARGEST).collect()).await else {
        return plain(StatusCode::BAD_REQUEST, "the review is too large, or did not arrive\n");
    };
    respond(&webhook, &room.review_limit, body.to_bytes(), permit).await
}

/// The answer to a review. `permit` is for its bytes, and ends with them.
async fn respond(webhook: &Webhook, review_limit: &ReviewLimit, body: Bytes, permit: OwnedSemaphorePermit) -> Answer {
    let Some(review) = Review::read(body) else {
        return plain(StatusCode::BAD_REQUEST, "this is no AdmissionReview\n");
    };
    let (asked, review) = (review.asked(), review.without_body());
    drop(permit);
    // Without an answer, the webhook's failurePolicy decides.
    let response = match timeout(LIMIT, reviewed(webhook, review_limit, &review, asked)).await {
        Ok(Ok(Some(response))) => response,
        Ok(Ok(None)) => {
            return plain(StatusCode::TOO_MANY_REQUESTS, "too many reviews of this namespace are waiting: try again\n");
        }
        Ok(Err(error)) => {
            warn!(%error, "a review could not be answered");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the API server could not be asked\n");
        }
        Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "looking took too long\n"),
    };
    let body = serde_json::to_vec(&response.into_review()).unwrap_or_default();
    http::answer(StatusCode::OK, "application/json", body)
}

/// The response; none where too many reviews wait.
async fn reviewed(webhook: &Webhook, review_limit: &ReviewLimit, review: &Review, asked: Asked) -> kube::Result<Option<AdmissionResponse>> {
    let asked = match asked {
        Asked::Admitted => return Ok(Some(review.admitted())),
        Asked::Unreadable(why) => return Ok(Some(review.refused(&why))),
        Asked::Experiment(asked) => asked,
    };
    let Some(_turn) = review_limit.acquire(&asked.namespace).await else { return Ok(None) };
    let experiment = asked.experiment();
    let seen = fetch(&webhook.client, &experiment, review.user(), &webhook.settings).await?;
    let verdict = validate(&experiment, asked.operation, &seen, (webhook.clock)(), &webhook.settings);
    webhook.metrics.refused(verdict.reason, experiment.spec.target_namespace(&asked.namespace));
    let (namespace, name, refusal) = (&asked.namespace, review.name(), verdict.refusal.as_deref());
    info!(namespace, name, user = review.user().username, refusal, warnings = verdict.warnings.len(), "reviewed");
    Ok(Some(review.answered(verdict)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use jiff::Timestamp;
    use netloss_cluster::testing;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn review(namespace: &str, old: &Value, new: &Value) -> Bytes {
        let object = |spec: &Value| json!({ "metadata": { "name": "x" }, "spec": spec });
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "operation": "UPDATE", "namespace": namespace, "name": "x", "userInfo": {},
                "object": object(new), "oldObject": object(old),
            },
        });
        review.to_string().into()
    }

    fn spec(paused: bool, count: u32) -> Value {
        json!({ "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "count": count, "paused": paused })
    }

    /// A flood of reviews, each of which waits for the API server, delays nobody's pause, and no other namespace's reviews.
    #[tokio::test]
    async fn a_flood_of_reviews_delays_no_pause_and_no_other_namespace() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let client = testing::answering(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending().boxed()
        });
        let webhook =
            Webhook { client, settings: Settings::new("agent:1", "own"), clock: Arc::new(Timestamp::now), metrics: Arc::default() };
        let room = Room::default();
        let answer = |body: Bytes| {
            let (webhook, room) = (webhook.clone(), room.clone());
            async move {
                let permit = room.of(Some(body.len() as u64)).await.unwrap();
                respond(&webhook, &room.review_limit, body, permit).await
            }
        };
        let mut floods: Vec<_> = (0..200).map(|_| tokio::spawn(answer(review("flood", &spec(false, 1), &spec(false, 2))))).collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let of_flood = asked.load(Ordering::SeqCst);
        assert!((1..=2).contains(&of_flood), "{of_flood} looks of one namespace at a time");
        floods.retain(|flood| !flood.is_finished());
        assert!(floods.len() < 20, "no more than some of them wait: {}", floods.len());

        let pause = answer(review("shop", &spec(false, 1), &spec(true, 1))).now_or_never().expect("a pause waits for nothing");
        assert_eq!(pause.status(), StatusCode::OK);
        let same_namespace = answer(review("flood", &spec(false, 1), &spec(true, 1))).now_or_never();
        assert_eq!(same_namespace.expect("in any namespace").status(), StatusCode::OK);
        let other = tokio::spawn(answer(review("shop", &spec(false, 1), &spec(false, 2))));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(asked.load(Ordering::SeqCst) > of_flood, "another namespace's review is looked at");
        other.abort();
        floods.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
