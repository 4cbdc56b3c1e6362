//! Which reviews may ask the API server: few at a time, and of each namespace only some of those.
//!
//! A tenant can send any number of reviews. They wait for each other, and for nobody's else: those of another namespace find places free.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reviews that ask the API server at a time. Each takes some five requests.
const AT_A_TIME: Bounds = Bounds { pending: 64, running: 8 };

/// Of these, reviews of one namespace.
const OF_NAMESPACE: Bounds = Bounds { pending: 16, running: 2 };

/// How many reviews there may be.
struct Bounds {
    /// Those that wait, and those that ask. What is more is turned away.
    pending: usize,
    /// Those that ask.
    running: usize,
}

/// Places, first come, first served.
#[derive(Debug)]
struct Places {
    pending: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Places {
    fn new(bounds: &Bounds) -> Self {
        Self { pending: Arc::new(Semaphore::new(bounds.pending)), running: Arc::new(Semaphore::new(bounds.running)) }
    }
}

/// Hands out turns.
#[derive(Debug, Clone)]
pub(super) struct ReviewLimit {
    all: Arc<Places>,
    namespaces: Arc<Mutex<HashMap<String, Arc<Places>>>>,
}

impl Default for ReviewLimit {
    fn default() -> Self {
        Self { all: Arc::new(Places::new(&AT_A_TIME)), namespaces: Arc::default() }
    }
}

/// A turn, which ends when this is dropped.
pub(super) struct ReviewPermit {
    _namespace: Arc<Places>,
    _permits: [OwnedSemaphorePermit; 4],
}

impl ReviewLimit {
    /// Waits for the turn of a review of an experiment in this namespace. None where too many wait already.
    pub(super) async fn acquire(&self, namespace: &str) -> Option<ReviewPermit> {
        let of_namespace = self.of(namespace);
        let pending_there = Arc::clone(&of_namespace.pending).try_acquire_owned().ok()?;
        let pending = Arc::clone(&self.all.pending).try_acquire_owned().ok()?;
        // The namespace's own first: who waits for that takes no place from others.
        let running_there = Arc::clone(&of_namespace.running).acquire_owned().await.ok()?;
        let running = Arc::clone(&self.all.running).acquire_owned().await.ok()?;
        Some(ReviewPermit { _namespace: of_namespace, _permits: [pending_there, pending, running_there, running] })
    }

    fn of(&self, namespace: &str) -> Arc<Places> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody is waiting in. There are no more of the others than reviews that are pending.
        namespaces.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(namespaces.entry(namespace.to_owned()).or_insert_with(|| Arc::new(Places::new(&OF_NAMESPACE))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_namespace_takes_no_place_from_another() {
        let review_limit = ReviewLimit::default();
        let taken: Vec<ReviewPermit> =
            (0..OF_NAMESPACE.running).map(|_| review_limit.acquire("flood").now_or_never().flatten().expect("there are places")).collect();
        let mut waiting: Vec<_> = (OF_NAMESPACE.running..OF_NAMESPACE.pending).map(|_| Box::pin(review_limit.acquire("flood"))).collect();
        assert!(waiting.iter_mut().all(|acquire| acquire.now_or_never().is_none()), "they wait");
        assert!(review_limit.acquire("flood").now_or_never().expect("at once").is_none(), "what is more is turned away");
        assert!(review_limit.acquire("shop").now_or_never().flatten().is_some(), "another namespace has places of its own");
        drop(taken);
        assert!(waiting[0].as_mut().now_or_never().flatten().is_some(), "first come, first served");
    }

    #[tokio::test]
    async fn namespaces_that_nobody_waits_in_are_forgotten() {
        let review_limit = ReviewLimit::default();
        for number in 0..1000 {
            assert!(review_limit.acquire(&number.to_string()).await.is_some());
        }
        assert!(review_limit.namespaces.lock().unwrap().len() <= 2);
    }
}
