//! The API server's questions, over HTTPS.

use super::{Operation, certificate::Identity, judge, look};
use crate::{
    api::{ChaosExperimentSpec, ChaosExperimentStatus},
    machine::{Experiment, Settings},
    reconcile::Clock,
};
use anyhow::Context as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::{
    Client,
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation as Asked},
    },
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

/// The path that the webhook configuration names.
pub const PATH: &str = "/validate";

/// The largest question that is read, in bytes: an object of the API server's limit, twice, and what is around it.
const LARGEST: usize = 4 * 1024 * 1024;

/// How long a handshake, a question and its answer may take. The API server asks for ten seconds at most.
const LIMIT: Duration = Duration::from_secs(10);

/// Connections at a time; more wait.
const CONNECTIONS: usize = 128;

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
}

/// Answers until `shutdown`.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn serve(listener: TcpListener, served: Arc<Served>, webhook: Webhook, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("setting up TLS")?;
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(served)));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    info!(address = ?listener.local_addr().ok(), "answering admission reviews");
    tokio::pin!(shutdown);
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let stream = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Such as too many open files: others end meanwhile.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, webhook) = (acceptor.clone(), webhook.clone());
        tokio::spawn(async move {
            let _place = place;
            let Ok(Ok(stream)) = timeout(LIMIT, acceptor.accept(stream)).await else {
                return debug!("a connection without a handshake was closed");
            };
            let service = service_fn(|request| answer(webhook.clone(), request));
            let mut http = http1::Builder::new();
            let connection = http.timer(TokioTimer::new()).header_read_timeout(LIMIT).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended");
            }
        });
    }
}

async fn answer(webhook: Webhook, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, text: &str| {
        let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::POST || request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, "POST an AdmissionReview to /validate\n"));
    }
    let Ok(Ok(body)) = timeout(LIMIT, Limited::new(request.into_body(), LARGEST).collect()).await else {
        return Ok(plain(StatusCode::BAD_REQUEST, "the review is too large, or did not arrive\n"));
    };
    let review: Result<AdmissionReview<DynamicObject>, _> = serde_json::from_slice(&body.to_bytes());
    let request: Option<AdmissionRequest<DynamicObject>> = review.ok().and_then(|review| review.try_into().ok());
    let Some(request) = request else {
        return Ok(plain(StatusCode::BAD_REQUEST, "this is no AdmissionReview\n"));
    };
    // Without an answer, the webhook's failurePolicy decides.
    let response = match timeout(LIMIT, reviewed(&webhook, &request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            warn!(%error, "a review could not be answered");
            return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the API server could not be asked\n"));
        }
        Err(_) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "looking took too long\n")),
    };
    let body = serde_json::to_vec(&response.into_review()).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn reviewed(webhook: &Webhook, request: &AdmissionRequest<DynamicObject>) -> kube::Result<AdmissionResponse> {
    let response = AdmissionResponse::from(request);
    let Some(object) = request.object.as_ref().filter(|_| matches!(request.operation, Asked::Create | Asked::Update)) else {
        return Ok(response);
    };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(response);
    }
    let spec: ChaosExperimentSpec = match serde_json::from_value(object.data["spec"].clone()) {
        Ok(spec) => spec,
        Err(error) => return Ok(response.deny(format!("spec: {error}"))),
    };
    let status: Option<ChaosExperimentStatus> = serde_json::from_value(object.data["status"].clone()).ok();
    let namespace = request.namespace.clone().unwrap_or_default();
    let experiment = Experiment {
        namespace: &namespace,
        uid: object.metadata.uid.as_deref().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        deleting: false,
        finalized: false,
        spec: &spec,
        status: status.as_ref(),
    };
    if !spec.action.is_served() {
        return Ok(response);
    }
    let seen = look(&webhook.client, &experiment, &request.user_info, &webhook.settings.own_namespace).await?;
    let operation = if request.operation == Asked::Create { Operation::Create } else { Operation::Update };
    let verdict = judge(&experiment, operation, &seen, (webhook.clock)(), &webhook.settings);
    let (name, refusal) = (&request.name, verdict.refusal.as_deref());
    info!(namespace, name, user = request.user_info.username, refusal, warnings = verdict.warnings.len(), "reviewed");
    let mut response = match verdict.refusal {
        Some(refusal) => response.deny(refusal),
        None => response,
    };
    response.warnings = (!verdict.warnings.is_empty()).then_some(verdict.warnings);
    Ok(response)
}
