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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, stream};
use hyper::body::Frame;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long a slow answer is kept back.
const SLOW: Duration = Duration::from_secs(4);

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Each is answered.
    Fair,
    /// One of three is answered so, and do not reach the API server.
    Refusing(u16),
    /// One of three loses its connection after the API server has done what they asked.
    Cutting,
    /// One of three is answered after some seconds.
    Slow,
    /// One of three has the begin of its answer, and then loses its connection.
    Truncating,
}

/// What passes through the proxy.
#[derive(Debug)]
struct State {
    weather: Mutex<Weather>,
    requests: AtomicUsize,
    watches: Arc<AtomicUsize>,
    spoilt: AtomicUsize,
}

impl State {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy that speaks plain HTTP, with an administrator's rights behind it.
#[derive(Debug)]
pub struct Proxy {
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
    /// Starts one on a port of its own, in fair weather.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start(client: Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            weather: Mutex::new(Weather::Fair),
            requests: AtomicUsize::new(0),
            watches: Arc::default(),
            spoilt: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, state) = (client.clone(), Arc::clone(&shared));
                let service = service_fn(move |request| forward(client.clone(), Arc::clone(&state), request));
                // A connection that is cut is what this is for.
                tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        Ok(Self { port, state, serving })
    }

    /// A kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let mut text = String::from("apiVersion: v1\nkind: Config\ncurrent-context: proxy\n");
        let _ = writeln!(text, "clusters: [{{ name: proxy, cluster: {{ server: \"http://127.0.0.1:{}\" }} }}]", self.port);
        text + "contexts: [{ name: proxy, context: { cluster: proxy, user: proxy } }]\nusers: [{ name: proxy, user: {} }]\n"
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        *self.state.weather() = weather;
    }

    /// Watches that are open at present.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.state.watches.load(Ordering::SeqCst)
    }

    /// Requests that something went wrong with.
    #[must_use]
    pub fn spoilt(&self) -> usize {
        self.state.spoilt.load(Ordering::SeqCst)
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Fault>>;

async fn forward(client: Client, state: Arc<State>, request: Request<Incoming>) -> Result<Answer, Fault> {
    let weather = *state.weather();
    // Spread, so that no pattern of requests is always hit or never.
    let number = state.requests.fetch_add(1, Ordering::SeqCst);
    let is_spoilt = weather != Weather::Fair && (number.wrapping_mul(2_654_435_761) >> 16).is_multiple_of(3);
    if is_spoilt {
        state.spoilt.fetch_add(1, Ordering::SeqCst);
    }
    if let (true, Weather::Refusing(code)) = (is_spoilt, weather) {
        return refusal(code);
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
    match weather {
        Weather::Cutting if is_spoilt => return Err("the connection is cut".into()),
        Weather::Slow if is_spoilt => sleep(SLOW).await,
        Weather::Truncating if is_spoilt => return Ok(truncated(response)),
        _ => {}
    }
    Ok(response.map(|body| {
        let frames = body.map_frame(move |frame| {
            let _ = &open;
            frame
        });
        frames.map_err(Fault::from).boxed_unsync()
    }))
}

fn refusal(code: u16) -> Result<Answer, Fault> {
    let words = format!("{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"the weather\",\"code\":{code}}}");
    let body = http_body_util::Full::new(Bytes::from(words)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code)?;
    Ok(response)
}

/// The first half of the first thing that the API server says, when it says it.
fn truncated(response: Response<Body>) -> Answer {
    response.map(|mut body| {
        let first = async move {
            let frame = body.frame().await.ok_or("nothing to cut")??;
            let data = frame.into_data().unwrap_or_default();
            Ok(Frame::data(data.slice(..data.len() / 2)))
        };
        let frames = stream::once(first).chain(stream::iter([Err(Fault::from("the connection is cut"))]));
        http_body_util::StreamBody::new(frames.boxed()).boxed_unsync()
    })
}
