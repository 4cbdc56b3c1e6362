//! Whether this replica is alive and ready, and saying so.
//!
//! Alive means that a restart would change nothing for the better: an API server that is away is no reason to restart. Ready means that it does
//! its part: it serves the webhook if it is to, it has heard of the lease, and the one that leads has seen all experiments.

use crate::{
    admission::Served,
    http::{self, KeepAlive, plain},
};
use hyper::{Method, StatusCode};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tracing::info;

/// A pass over an experiment that takes longer than this will never end: it has a limit of its own, well below.
const STUCK: Duration = Duration::from_mins(6);

/// What is known of this replica.
#[derive(Debug, Default)]
pub struct Health {
    webhook: Option<Arc<Served>>,
    standing: AtomicBool,
    leads: AtomicBool,
    synced: AtomicBool,
    stopping: AtomicBool,
    passes: Mutex<BTreeMap<u64, Instant>>,
    next: AtomicU64,
}

/// A pass that is under way.
pub(crate) struct Pass<'a>(&'a Health, u64);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.passes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Health {
    /// `webhook` is the certificate that is to be served, if there is to be a webhook.
    #[must_use]
    pub fn new(webhook: Option<Arc<Served>>) -> Self {
        Self { webhook, ..Self::default() }
    }

    /// It has heard who leads.
    pub fn set_standing(&self) {
        self.standing.store(true, Ordering::Relaxed);
    }

    /// Whether it leads.
    pub fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
        self.synced.store(false, Ordering::Relaxed);
    }

    /// It has seen all experiments.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// It was told to end.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Notes that a pass begins; it ends when what is returned is dropped.
    pub(crate) fn pass(&self) -> Pass<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now());
        Pass(self, id)
    }

    /// What it is alive by.
    fn alive(&self, now: Instant) -> Vec<(&'static str, bool)> {
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        vec![("passes", passes.values().all(|begin| now.duration_since(*begin) < STUCK))]
    }

    /// What it is ready by.
    fn ready(&self) -> Vec<(&'static str, bool)> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let mut checks = vec![("running", !is(&self.stopping)), ("lease", is(&self.standing))];
        checks.push(("experiments", !is(&self.leads) || is(&self.synced)));
        checks.extend(self.webhook.as_ref().map(|served| ("webhook-certificate", served.is_set())));
        checks
    }
}

/// As the API server says it: one line for each check.
fn words(checks: &[(&'static str, bool)]) -> (StatusCode, String) {
    let mut lines = String::new();
    for (name, good) in checks {
        lines.extend(["[", if *good { "+" } else { "-" }, "]", name, "\n"]);
    }
    let status = if checks.iter().all(|(_, good)| *good) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, lines)
}

/// Answers `/livez` and `/readyz` until `shutdown`.
pub async fn serve(listener: TcpListener, health: Arc<Health>, shutdown: impl Future<Output = ()>) {
    info!(address = http::address(&listener), "answering probes");
    let answer = move |request: hyper::Request<hyper::body::Incoming>| {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez" | "/healthz") => words(&health.alive(Instant::now())),
            (&Method::GET, "/readyz") => words(&health.ready()),
            _ => (StatusCode::NOT_FOUND, "GET /livez or /readyz\n".to_owned()),
        };
        async move { plain(status, &text) }
    };
    http::serve(listener, None, KeepAlive::Off, answer, shutdown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::new(Some(Arc::default()));
        assert_eq!(
            words(&health.ready()),
            (StatusCode::SERVICE_UNAVAILABLE, "[+]running\n[-]lease\n[+]experiments\n[-]webhook-certificate\n".to_owned())
        );
        let health = Health::new(None);
        health.set_standing();
        assert_eq!(words(&health.ready()).0, StatusCode::OK, "who follows is ready");
        health.set_leads(true);
        assert_eq!(words(&health.ready()).0, StatusCode::SERVICE_UNAVAILABLE, "who leads has to have seen the experiments");
        health.set_synced();
        assert_eq!(words(&health.ready()).0, StatusCode::OK);
        health.set_stopping();
        assert_eq!(words(&health.ready()), (StatusCode::SERVICE_UNAVAILABLE, "[-]running\n[+]lease\n[+]experiments\n".to_owned()));
    }

    #[test]
    fn a_pass_that_never_ends_is_no_life() {
        let health = Health::default();
        let pass = health.pass();
        assert_eq!(words(&health.alive(Instant::now())).0, StatusCode::OK);
        assert_eq!(words(&health.alive(Instant::now() + STUCK)).0, StatusCode::SERVICE_UNAVAILABLE);
        drop(pass);
        assert_eq!(words(&health.alive(Instant::now() + STUCK)).0, StatusCode::OK);
    }
}
