//! The way to the API server: bounded, and counted.

use crate::metrics::Metrics;
use anyhow::Context as _;
use futures::future::BoxFuture;
use governor::{DefaultDirectRateLimiter, Quota};
use http::{Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use std::{
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer, Service};

/// How long a connection to the API server may take to come about: three retransmissions of a SYN (after 1, 3 and 7 s, RFC 6298) fit into it.
const CONNECT: Duration = Duration::from_secs(10);

/// What this client takes of the API server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests a second, on average.
    pub qps: NonZeroU32,
    /// Requests at once after a quiet time.
    pub burst: NonZeroU32,
    /// Requests that may be without an answer at a time. A watch counts until it begins to answer.
    pub concurrent: u32,
}

/// A number from 1 on, of the constants below.
const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

impl Limits {
    /// For admission reviews: four experiments a second, which are created or edited by people and pipelines.
    pub(crate) const REVIEWS: Self = Self { qps: at_least_one(20), burst: at_least_one(100), concurrent: 16 };
    /// For experiments that are to end, beside those of `self`: a quarter of it. Whatever waits, begins or is followed takes nothing of it.
    pub(crate) fn to_end(self) -> Self {
        let quarter = |number: NonZeroU32| NonZeroU32::new(number.get() / 4).unwrap_or(NonZeroU32::MIN);
        Self { qps: quarter(self.qps), burst: quarter(self.burst), concurrent: (self.concurrent / 4).max(1) }
    }

    /// For tokens of those who ask for metrics: two requests for each, a minute long.
    pub(crate) const TOKENS: Self = Self { qps: at_least_one(5), burst: at_least_one(20), concurrent: 4 };
}

/// A client within these limits, whose requests are counted.
///
/// # Errors
/// When the configuration has something in it that cannot be used, such as a certificate that is none.
pub fn client(mut config: Config, limits: Limits, metrics: Arc<Metrics>) -> anyhow::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    let quota = Quota::per_second(limits.qps).allow_burst(limits.burst);
    let limited =
        Arc::new(Limited { rate: DefaultDirectRateLimiter::direct(quota), places: Semaphore::new(limits.concurrent as usize), metrics });
    let builder = ClientBuilder::try_from(config).context("making a client of the API server")?;
    Ok(builder.with_layer(&LimitLayer(limited)).build())
}

struct Limited {
    rate: DefaultDirectRateLimiter,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

struct LimitLayer(Arc<Limited>);

impl<S> Layer<S> for LimitLayer {
    type Service = LimitedService<S>;

    fn layer(&self, inner: S) -> LimitedService<S> {
        LimitedService { inner, limited: Arc::clone(&self.0) }
    }
}

/// Waits for its turn, asks, and counts the answer.
struct LimitedService<S> {
    inner: S,
    limited: Arc<Limited>,
}

impl<S, B> Service<Request<Body>> for LimitedService<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().as_str().to_owned();
        // Not sent before it is polled.
        let sent = self.inner.call(request);
        let limited = Arc::clone(&self.limited);
        Box::pin(async move {
            if limited.rate.check().is_err() {
                limited.metrics.waited();
                limited.rate.until_ready().await;
            }
            let _place = limited.places.acquire().await?;
            let answer = sent.await;
            limited.metrics.requested(&method, answer.as_ref().ok().map(|response| response.status().as_u16()));
            answer
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn what_is_to_end_has_a_quarter_of_its_own() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let ends = Limits { qps: number(200), burst: number(400), concurrent: 32 }.to_end();
        assert_eq!((ends.qps.get(), ends.burst.get(), ends.concurrent), (50, 100, 8));
        let least = Limits { qps: number(1), burst: number(1), concurrent: 1 }.to_end();
        assert_eq!((least.qps.get(), least.burst.get(), least.concurrent), (1, 1, 1), "however little there is");
    }
}
