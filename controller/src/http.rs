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
use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// How long an answer may take: what the webhook configuration allows.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// How long a handshake, the headers of a request and its body may each take to arrive, and how long a connection may be idle. All three together are less
/// than [`LIMIT`], so that an answer still has a second.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(3);

/// Connections at a time. A judgement: each API server keeps one or two, probes and scrapes a few more, and 128 take few of the 1024 descriptors of a
/// process. One more takes the place of another, so that no number of idle ones keeps a probe or the API server waiting.
const CONNECTIONS: usize = 128;

/// Whether a connection is for more than one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// It is, as the API server's are.
    On,
    /// It ends with the answer.
    Off,
}

/// A connection that is open.
struct Connection {
    /// Whether a request of it is being answered.
    busy: bool,
    /// Whether a request of it was answered with success.
    known: bool,
    /// Ends it.
    end: Arc<Notify>,
}

/// The connections that are open, in the order in which they came.
#[derive(Default)]
struct Connections {
    came: u64,
    open: BTreeMap<u64, Connection>,
}

impl Connections {
    /// Notes one that has come, and ends another where there are too many: the oldest of those that have asked for nothing so far, or else of those that ask
    /// for nothing now.
    fn add(&mut self) -> (u64, Arc<Notify>) {
        let ended = self.open.iter().min_by_key(|(number, one)| (one.busy, one.known, **number)).map(|(number, _)| *number);
        if let Some(ended) = ended.filter(|_| self.open.len() >= CONNECTIONS).and_then(|ended| self.open.remove(&ended)) {
            ended.end.notify_one();
        }
        self.came += 1;
        let end = Arc::new(Notify::new());
        self.open.insert(self.came, Connection { busy: false, known: false, end: Arc::clone(&end) });
        (self.came, end)
    }
}

/// Where one of them is noted, until it is dropped.
struct Place {
    connections: Arc<Mutex<Connections>>,
    number: u64,
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut Connection)) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.open.get_mut(&self.number).map(change);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.number);
    }
}

/// Where a server listens, for the log.
pub(crate) fn address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}

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
pub(crate) async fn serve<F, R>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    keep_alive: KeepAlive,
    answer: F,
    shutdown: impl Future<Output = ()>,
) where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let connections = Arc::new(Mutex::new(Connections::default()));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
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
        let (number, end) = connections.lock().unwrap_or_else(PoisonError::into_inner).add();
        let place = Place { connections: Arc::clone(&connections), number };
        tokio::spawn(async move {
            let conversation = async {
                let Some(tls) = tls else { return converse(stream, keep_alive, answer, &place, watcher).await };
                let Ok(Ok(stream)) = timeout(READ_LIMIT, tls.accept(stream)).await else {
                    return debug!("a connection without a handshake was closed");
                };
                converse(stream, keep_alive, answer, &place, watcher).await;
            };
            tokio::select! {
                () = conversation => {}
                () = end.notified() => debug!("a connection was closed for another one"),
            }
        });
    }
    if timeout(LIMIT, graceful.shutdown()).await.is_err() {
        debug!("connections were cut off");
    }
}

async fn converse<S, F, R>(stream: S, keep_alive: KeepAlive, answer: F, place: &Place, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        place.change(|connection| connection.busy = true);
        let answer = answer(request);
        async {
            let answer = answer.await;
            place.change(|connection| {
                connection.busy = false;
                connection.known |= answer.status().is_success();
            });
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_LIMIT).keep_alive(keep_alive == KeepAlive::On);
    let connection = http.serve_connection(TokioIo::new(stream), service);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        time::Instant,
    };

    #[test]
    fn the_oldest_connection_that_asks_for_nothing_makes_room() {
        let mut connections = Connections::default();
        let numbers: Vec<u64> = (0..CONNECTIONS).map(|_| connections.add().0).collect();
        for (number, busy, known) in [(numbers[0], true, false), (numbers[1], false, true)] {
            let connection = connections.open.get_mut(&number).unwrap();
            (connection.busy, connection.known) = (busy, known);
        }
        for _ in 0..2 * CONNECTIONS {
            connections.add();
        }
        assert_eq!(connections.open.len(), CONNECTIONS);
        assert!(connections.open.contains_key(&numbers[0]) && connections.open.contains_key(&numbers[1]));
        assert!(!connections.open.contains_key(&numbers[2]));
    }

    async fn listening(keep_alive: KeepAlive) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |_| async { plain(StatusCode::OK, "here") };
        tokio::spawn(serve(listener, None, keep_alive, answer, std::future::pending()));
        address
    }

    /// A probe, and how long its answer took.
    fn probe(address: SocketAddr) -> (String, Duration) {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        (said, begin.elapsed())
    }

    /// Idle ones, and ones that send a header now and then, of which no timeout of a single read rids a server.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn hundreds_of_idle_and_slow_clients_delay_no_probe() {
        let address = listening(KeepAlive::Off).await;
        let clients = move || {
            let mut clients = Vec::new();
            for number in 0..3 * CONNECTIONS {
                let mut stream = TcpStream::connect(address).unwrap();
                if number % 2 == 0 {
                    stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
                }
                clients.push(stream);
            }
            for _ in 0..10 {
                for stream in &mut clients {
                    let _ = stream.write_all(b"x: y\r\n");
                }
                let (said, took) = probe(address);
                assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("here"), "{said}");
                assert!(took < READ_LIMIT, "a probe waited {took:?}, as long as it takes to be rid of one of them");
            }
        };
        tokio::task::spawn_blocking(clients).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_sends_its_headers_slowly_is_let_go() {
        let address = listening(KeepAlive::On).await;
        let client = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(READ_LIMIT + Duration::from_secs(5))).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            stream.read_to_end(&mut Vec::new()).expect("the connection is closed");
        };
        tokio::task::spawn_blocking(client).await.unwrap();
    }
}
