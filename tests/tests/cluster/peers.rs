//! Who notices: a pod that exchanges packets with a target, and what it saw.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{Stream, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use netloss_lab::cluster::traffic::{TrafficPod, lines};
use netloss_lab_guest::statistics::acceptable;
use netloss_lab_traffic::{Direction, Line};

const INTERVAL: Duration = Duration::from_millis(10);
/// Lines, one a second, that a rate is taken from.
const LINES: u32 = 8;
/// Lines that have to be free of loss for it to have ended.
const QUIET_LINES: u32 = 3;
/// Lines that are waited for at most: the loss lasts 90, and the emulator is slow.
const PATIENCE: u32 = 600;

/// A pod that sends to a target and hears from it.
pub(crate) struct Peer {
    target: String,
    lines: Pin<Box<dyn Stream<Item = Result<Line>> + Send>>,
}

/// Packets sent and arrived of one direction.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    sent: u64,
    arrived: u64,
}

impl Count {
    fn lost(self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }
}

impl Peer {
    /// Starts one for the target at this address.
    pub(crate) async fn start(client: &Client, namespace: &str, target: &str, address: SocketAddr, image: &str) -> Result<Self> {
        let name = format!("peer-of-{target}");
        TrafficPod { namespace, name: &name, labels: &[], image }.probe(client, address, INTERVAL).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        Ok(Self { target: target.to_owned(), lines: Box::pin(lines(&pods, &name).await?) })
    }

    /// The pod that it exchanges packets with.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    async fn next(&mut self) -> Result<(f64, [Count; 2])> {
        let line = self.lines.try_next().await?.with_context(|| format!("the log of {}'s peer ended", self.target))?;
        let count = |direction: Direction| Count { sent: direction.sent, arrived: direction.arrived };
        Ok((line.time, [line.to_peer, line.from_peer].map(count)))
    }

    /// Both directions over some lines that tell only of the time after `since`, by the node's clock.
    async fn count(&mut self, since: Timestamp) -> Result<[Count; 2]> {
        // A line tells of the second before it was written.
        while self.next().await?.0 < since.as_duration().as_secs_f64() + 1.0 {}
        let mut sums = [Count::default(); 2];
        for _ in 0..LINES {
            for (sum, more) in sums.iter_mut().zip(self.next().await?.1) {
                sum.sent += more.sent;
                sum.arrived += more.arrived;
            }
        }
        Ok(sums)
    }

    /// Both directions are free of loss after `since`.
    pub(crate) async fn expect_no_loss(&mut self, since: Timestamp, when: &str) -> Result<()> {
        let counts = self.count(since).await?;
        let arrived = counts.iter().all(|count| count.sent > 100 && count.lost() == 0);
        ensure!(arrived, "{}: loss {when}: {counts:?}", self.target);
        Ok(())
    }

    /// Both directions lose this share after `since`.
    pub(crate) async fn expect_loss(&mut self, since: Timestamp, probability: f64) -> Result<()> {
        let counts = self.count(since).await?;
        for count in counts {
            let range = acceptable(count.sent, probability)?;
            ensure!(count.sent > 100 && range.contains(&count.lost()), "{}: {counts:?}, not within {range:?}", self.target);
        }
        Ok(())
    }

    /// Waits until nothing is lost any more.
    pub(crate) async fn wait_until_quiet(&mut self) -> Result<()> {
        let mut quiet = 0;
        for _ in 0..PATIENCE {
            let (_, counts) = self.next().await?;
            let is_quiet = counts.iter().all(|count| count.sent > 0 && count.lost() == 0);
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_LINES {
                return Ok(());
            }
        }
        anyhow::bail!("{}: still losing packets after {PATIENCE} s", self.target)
    }
}
