//! Whose turn it is: passes are made over so many experiments at a time, in the order in which they were asked for.
//!
//! kube's own limit takes any of those that wait, so that one could wait for as long as others change.

use netloss_api::ChaosExperiment;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Experiments that are worked on at a time. Each holds what it has read of its pods, and has up to eight requests under way
/// (netloss-cluster's `CONCURRENCY`): 128 in all, a third of what an API server works on at once by default.
const MAX_CONCURRENT_RECONCILES: usize = 16;

/// As many more that are to end: these do not wait for any that begin. A quarter: an end is a few requests for each pod.
const MAX_CONCURRENT_ENDS: usize = 4;

/// Whether something of the experiment is under way and is to end: it is deleted, paused, edited or stopped, as far as the watch has told. What
/// only rests or waits, paused, deleted and held by a finalizer, or neither, is none of these: anybody can have any number of that.
pub(crate) fn is_to_end(object: &ChaosExperiment) -> bool {
    let Some(status) = object.status.as_ref().filter(|status| status.is_active()) else { return false };
    let metadata = &object.metadata;
    let is_edited = status.observed_generation != metadata.generation;
    metadata.deletion_timestamp.is_some() || object.spec.paused == Some(true) || status.stopping.is_some() || is_edited
}

/// Hands out turns, first come, first served.
pub(crate) struct ConcurrencyLimit {
    any: Semaphore,
    to_end: Semaphore,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self { any: Semaphore::new(MAX_CONCURRENT_RECONCILES), to_end: Semaphore::new(MAX_CONCURRENT_ENDS) }
    }
}

impl ConcurrencyLimit {
    /// Waits for a turn of this experiment, which ends when what is returned is dropped. None once there are no more.
    pub(crate) async fn acquire(&self, object: &ChaosExperiment) -> Option<SemaphorePermit<'_>> {
        let places = if is_to_end(object) { &self.to_end } else { &self.any };
        places.acquire().await.ok()
    }

    /// From now on nobody gets a turn, also not who waits for one.
    pub(crate) fn close(&self) {
        self.any.close();
        self.to_end.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use netloss_api::{ChaosExperimentStatus, Stopping};
    use netloss_core::machine::fixtures::{at, entry, spec};

    /// One with a pod under way, to be stopped or not.
    fn experiment(paused: bool) -> ChaosExperiment {
        let mut spec = spec();
        spec.paused = Some(paused);
        let mut object = ChaosExperiment::new("x", spec);
        object.status = Some(ChaosExperimentStatus { pods: vec![entry()], ..ChaosExperimentStatus::default() });
        object
    }

    #[test]
    fn what_is_to_end_is_told_from_what_waits() {
        let running = experiment(false);
        assert!(!is_to_end(&running) && is_to_end(&experiment(true)));
        let mut edited = running.clone();
        edited.metadata.generation = Some(2);
        let mut stopping = running.clone();
        stopping.status.as_mut().unwrap().stopping = Some(Stopping::Frozen);
        assert!(is_to_end(&edited) && is_to_end(&stopping));
        // A tenant can have any number of these.
        let mut at_rest = experiment(true);
        at_rest.status.as_mut().unwrap().pods.clear();
        let mut waits = edited;
        waits.status = None;
        assert!(!is_to_end(&at_rest) && !is_to_end(&waits));
        let deleted = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
        // Whoever has a finalizer of their own on it keeps it for as long as they like.
        at_rest.metadata.deletion_timestamp.clone_from(&deleted);
        let mut going = running;
        going.metadata.deletion_timestamp = deleted;
        assert!(is_to_end(&going) && !is_to_end(&at_rest));
    }

    /// Takes each place that is not for those that are to end.
    async fn all_taken(concurrency: &ConcurrencyLimit) -> Vec<SemaphorePermit<'_>> {
        let object = experiment(false);
        let mut taken = Vec::new();
        for _ in 0..MAX_CONCURRENT_RECONCILES {
            taken.push(concurrency.acquire(&object).await.unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (concurrency, object) = (ConcurrencyLimit::default(), experiment(false));
        let mut taken = all_taken(&concurrency).await;
        let (mut first, mut second) = (concurrency.acquire(&object).boxed(), concurrency.acquire(&object).boxed());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        taken.pop();
        assert!((&mut second).now_or_never().is_none());
        assert!(first.now_or_never().unwrap().is_some());
        // It has ended at once.
        assert!(second.now_or_never().unwrap().is_some());
    }

    #[tokio::test]
    async fn what_is_to_end_waits_for_nothing_that_begins() {
        let concurrency = ConcurrencyLimit::default();
        let _taken = all_taken(&concurrency).await;
        assert!(concurrency.acquire(&experiment(false)).now_or_never().is_none());
        assert!(concurrency.acquire(&experiment(true)).now_or_never().unwrap().is_some());
    }

    #[tokio::test]
    async fn who_waits_at_the_end_gets_no_turn() {
        let (concurrency, object) = (ConcurrencyLimit::default(), experiment(false));
        let _taken = all_taken(&concurrency).await;
        let waits = concurrency.acquire(&object);
        concurrency.close();
        assert!(waits.await.is_none());
    }
}
