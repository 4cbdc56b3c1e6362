//! Serving HTTP: connections, TLS, limits. What is answered is the callers'.

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// How long a handshake, a question and its answer may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Connections at a time; more wait.
const CONNECTIONS: usize = 128;

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// TLS with whatever certificate there is at present.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) fn acceptor(certificate: Arc<dyn ResolvesServerCert>) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("setting up TLS")?;
    Ok(TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_cert_resolver(certificate))))
}

/// Answers until `shutdown`, then ends what is under way.
pub(crate) async fn serve<F, R>(listener: TcpListener, tls: Option<TlsAcceptor>, answer: F, shutdown: impl Future<Output = ()>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        // Nobody closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let stream = tokio::select! {
            () = &mut shutdown => break,
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
        let (tls, answer, watcher) = (tls.clone(), answer.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            let Some(tls) = tls else { return converse(stream, answer, watcher).await };
            let Ok(Ok(stream)) = timeout(LIMIT, tls.accept(stream)).await else {
                return debug!("a connection without a handshake was closed");
            };
            converse(stream, answer, watcher).await;
        });
    }
    if timeout(LIMIT, graceful.shutdown()).await.is_err() {
        debug!("connections were cut off");
    }
}

async fn converse<S, F, R>(stream: S, answer: F, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    let connection = http.timer(TokioTimer::new()).header_read_timeout(LIMIT).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "a connection ended");
    }
}

/// An answer of this content type.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A few words.
pub(crate) fn plain(status: StatusCode, words: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", words.to_owned())
}
