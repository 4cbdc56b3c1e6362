//! A client between the controller and the API server in which something goes wrong at one request.

use crate::world::World;
use futures::future::BoxFuture;
use http::{Method, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

/// A request of the controller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The n-th write of the experiment's status, from 1.
    StatusWrite(usize),
    /// The n-th patch that adds a container, from 1.
    Patch(usize),
}

/// What goes wrong.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The controller dies before the request leaves it.
    CrashBefore(At),
    /// The request takes effect, and the controller dies before it hears of it.
    CrashAfter(At),
    /// Something else happens first.
    Meanwhile(At, Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>),
}

/// Counts requests, and remembers that it is dead.
#[derive(Default)]
struct State {
    status_writes: AtomicUsize,
    patches: AtomicUsize,
    dead: AtomicBool,
}

impl State {
    /// Which of the requests that matter this is.
    fn count(&self, request: &Request<Body>) -> Option<At> {
        let path = request.uri().path();
        let next = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::SeqCst) + 1;
        if request.method() == Method::PUT && path.contains("/chaosexperiments/") && path.ends_with("/status") {
            return Some(At::StatusWrite(next(&self.status_writes)));
        }
        (request.method() == Method::PATCH && path.ends_with("/ephemeralcontainers")).then(|| At::Patch(next(&self.patches)))
    }
}

impl World {
    /// An administrator's client with this fault.
    pub(crate) fn faulty_client(&self, fault: Fault) -> Client {
        let layer = FaultLayer { fault, state: Arc::default() };
        ClientBuilder::try_from(self.config()).unwrap().with_layer(&layer).build()
    }
}

struct FaultLayer {
    fault: Fault,
    state: Arc<State>,
}

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, fault: self.fault.clone(), state: Arc::clone(&self.state) }
    }
}

struct Faulty<S> {
    inner: S,
    fault: Fault,
    state: Arc<State>,
}

impl<S, R> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = R, Error = BoxError>,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<R, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let at = self.state.count(&request);
        let dead = || -> Result<R, BoxError> { Err("the controller has crashed".into()) };
        if matches!(&self.fault, Fault::CrashBefore(point) if at == Some(*point)) {
            self.state.dead.store(true, Ordering::SeqCst);
        }
        if self.state.dead.load(Ordering::SeqCst) {
            return Box::pin(async move { dead() });
        }
        let (fault, state) = (self.fault.clone(), Arc::clone(&self.state));
        // Not sent before it is polled.
        let sent = self.inner.call(request);
        Box::pin(async move {
            if let Fault::Meanwhile(point, act) = &fault
                && at == Some(*point)
            {
                act().await;
            }
            let answer = sent.await;
            if matches!(&fault, Fault::CrashAfter(point) if at == Some(*point)) {
                state.dead.store(true, Ordering::SeqCst);
                return dead();
            }
            answer
        })
    }
}
