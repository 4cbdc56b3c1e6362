//! The controller with many pods: a real API server, nodes that kwok plays, and agents that the bench plays. What is measured is the
//! controller: time, requests, memory, processor time, bytes of status.
//!
//! `NETLOSS_SCALE=full` goes up to 5 000 targets beside 10 000 others; without it the sizes are those that continuous integration holds
//! the controller to.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test]. A test's future lives once.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod agents;
mod field;
mod round;

use std::time::Duration;

use self::field::Field;

/// For whatever is waited for.
pub(crate) const LIMIT: Duration = Duration::from_mins(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cost_of_a_pod_does_not_grow_with_their_number() {
    let sizes: Vec<usize> = std::env::var("NETLOSS_SIZES")
        .map_or_else(|_| vec![10, 100, 200], |text| text.split(',').map(|size| size.parse().unwrap()).collect());
    let mut field = Field::prepare().await.unwrap();
    let targets = sizes.iter().copied().max().unwrap_or_default();
    field.create_pods("target", 0..targets).await.unwrap();
    for size in sizes {
        let round = round::native(&mut field, size).await.unwrap();
        println!("{size}: {round:#?}");
        let round = round::sequential(&mut field, size).await.unwrap();
        println!("{size} sequentially: {round:#?}");
    }
}
