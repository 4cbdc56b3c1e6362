//! An API server that is a function.

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::{Client, client::Body};
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tower::{BoxError, Service};

/// A client whose requests are answered by a function.
#[must_use]
pub fn answering(answer: impl Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static) -> Client {
    Client::new(Answering(Arc::new(answer)), "default")
}

type Answer = dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

#[derive(Clone)]
struct Answering(Arc<Answer>);

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = (self.0)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
