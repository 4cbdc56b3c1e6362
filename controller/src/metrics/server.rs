//! `GET /metrics`, for everybody who reaches the port or for those that the API server knows and allows it.

use super::Metrics;
use crate::http::{self, Answer, KeepAlive, answer, plain};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    header::AUTHORIZATION,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// The path.
pub const PATH: &str = "/metrics";

/// How long an answer of the API server about a token is believed. A judgement: one review a minute for each token, and a right that is taken away
/// holds that much longer.
const BELIEVED: Duration = Duration::from_mins(1);

/// How long what was made for one scrape serves others: far less than any scrape interval, and it bounds the work that scrapes can cause.
const FRESH: Duration = Duration::from_secs(1);

/// Tokens that are remembered; more are asked for each time. A judgement: far more than a cluster has scrapers.
const REMEMBERED: usize = 64;

/// Asks the API server who may read metrics: whoever may `get` the non-resource URL `/metrics`.
pub struct Gate {
    client: Client,
    /// By the hash of a token, so that none is kept.
    known: Mutex<HashMap<u64, (Instant, StatusCode)>>,
    hash: RandomState,
}

impl Gate {
    /// Asks with this client, which is not the one that stops and repairs: anybody may send tokens.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default(), hash: RandomState::new() }
    }

    /// OK, 401 for who is not known, 403 for who may not.
    async fn judge(&self, token: &str) -> kube::Result<StatusCode> {
        let key = self.hash.hash_one(token);
        let known =
            |map: &HashMap<u64, (Instant, StatusCode)>| map.get(&key).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, code)| *code);
        if let Some(code) = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(code);
        }
        let code = self.ask(token).await?;
        let mut map = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        if map.len() < REMEMBERED {
            map.insert(key, (Instant::now(), code));
        }
        Ok(code)
    }

    async fn ask(&self, token: &str) -> kube::Result<StatusCode> {
        let review =
            TokenReview { spec: TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() }, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let Some(UserInfo { username, uid, groups, extra }) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(StatusCode::UNAUTHORIZED);
        };
        let spec = SubjectAccessReviewSpec {
            user: username,
            uid,
            groups,
            extra,
            non_resource_attributes: Some(NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let review = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(if review.status.is_some_and(|status| status.allowed) { StatusCode::OK } else { StatusCode::FORBIDDEN })
    }
}

/// Answers until `shutdown`; with TLS and a gate if there are some.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    gate: Option<Arc<Gate>>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    info!(address = http::address(&listener), tls = tls.is_some(), authenticated = gate.is_some(), "serving metrics");
    let page = Arc::new(Page { metrics, last: Mutex::default() });
    http::serve(listener, tls, KeepAlive::Off, move |request| respond(Arc::clone(&page), gate.clone(), request), shutdown).await;
}

/// What is served, made once a second at most: who asks more often gets what was made for another.
struct Page {
    metrics: Arc<Metrics>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Page {
    fn text(&self) -> prometheus::Result<Bytes> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let text = Bytes::from(self.metrics.text(Timestamp::now())?);
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

async fn respond(page: Arc<Page>, gate: Option<Arc<Gate>>, request: Request<Incoming>) -> Answer {
    if request.method() != Method::GET || request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "GET /metrics\n");
    }
    if let Some(gate) = gate {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else {
            return plain(StatusCode::UNAUTHORIZED, "send a service account's token: Authorization: Bearer …\n");
        };
        match timeout(http::LIMIT, gate.judge(token)).await {
            Ok(Ok(StatusCode::OK)) => {}
            Ok(Ok(StatusCode::FORBIDDEN)) => {
                return plain(StatusCode::FORBIDDEN, "this takes the right to get the non-resource URL /metrics\n");
            }
            Ok(Ok(code)) => return plain(code, "the API server does not know this token\n"),
            Ok(Err(error)) => {
                warn!(%error, "who asks for metrics could not be found out");
                return plain(StatusCode::INTERNAL_SERVER_ERROR, "the API server could not be asked\n");
            }
            Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "the API server does not answer\n"),
        }
    }
    match page.text() {
        Ok(text) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, text),
        Err(error) => {
            warn!(%error, "metrics could not be written");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n")
        }
    }
}
