//! Something between the controller and the API server in which things go wrong.

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Each is answered.
    Fair,
    /// One of three is answered so, and do not reach the API server.
    Refusing(u16),
    /// One of three loses its connection after the API server has done what they asked.
    Cutting,
}

/// What passes through the proxy.
#[derive(Default)]
struct State {
    weather: Mutex<Option<Weather>>,
    requests: AtomicUsize,
    watches: Arc<AtomicUsize>,
    spoilt: AtomicUsize,
}

/// A proxy that speaks plain HTTP, with an administrator's rights behind it.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Counts a watch until its answer has ended.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Proxy {
    pub(crate) async fn start(client: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (client, state) = (client.clone(), Arc::clone(&shared));
                let service = service_fn(move |request| forward(client.clone(), Arc::clone(&state), request));
                // A connection that is cut is what this is for.
                tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        Self { port, state, serving }
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self) -> String {
        let mut text = String::from("apiVersion: v1\nkind: Config\ncurrent-context: proxy\n");
        let _ = writeln!(text, "clusters: [{{ name: proxy, cluster: {{ server: \"http://127.0.0.1:{}\" }} }}]", self.port);
        text + "contexts: [{ name: proxy, context: { cluster: proxy, user: proxy } }]\nusers: [{ name: proxy, user: {} }]\n"
    }

    pub(crate) fn set(&self, weather: Weather) {
        *self.state.weather.lock().unwrap() = Some(weather);
    }

    /// Watches that are open at present.
    pub(crate) fn watches(&self) -> usize {
        self.state.watches.load(Ordering::SeqCst)
    }

    /// Requests that something went wrong with.
    pub(crate) fn spoilt(&self) -> usize {
        self.state.spoilt.load(Ordering::SeqCst)
    }
}

async fn forward(
    client: Client,
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, kube::Error>>, Box<dyn std::error::Error + Send + Sync>> {
    let weather = state.weather.lock().unwrap().unwrap_or(Weather::Fair);
    // Spread, so that no pattern of requests is always hit or never.
    let number = state.requests.fetch_add(1, Ordering::SeqCst);
    let is_spoilt = weather != Weather::Fair && (number.wrapping_mul(2_654_435_761) >> 16).is_multiple_of(3);
    if is_spoilt {
        state.spoilt.fetch_add(1, Ordering::SeqCst);
    }
    if let (true, Weather::Refusing(code)) = (is_spoilt, weather) {
        let words =
            format!("{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"the weather\",\"code\":{code}}}");
        let body = http_body_util::Full::new(Bytes::from(words)).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code)?;
        return Ok(response);
    }
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let open = watches.then(|| {
        state.watches.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(&state.watches))
    });
    let (mut head, body) = request.into_parts();
    head.headers.remove(http::header::HOST);
    let body = body.collect().await?.to_bytes();
    let response = client.send(Request::from_parts(head, Body::from(body.to_vec()))).await?;
    if is_spoilt {
        return Err("the connection is cut".into());
    }
    Ok(response.map(|body| {
        body.map_frame(move |frame| {
            let _ = &open;
            frame
        })
        .boxed_unsync()
    }))
}
