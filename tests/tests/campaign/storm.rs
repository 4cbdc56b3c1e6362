//! Faults that pass over all schedules at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use netloss_lab::controlplane::proxy::Weather;
use netloss_lab::node::NAME;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::field::{Field, LIMIT};
use crate::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gust {
    Conflict,
    TooManyRequests,
    ServerError,
    Cut,
    Slow,
    Truncated,
    ControllerKilled,
    ControllersKilled,
    ControllerAsleep,
    ApiServerRestarted,
    EtcdRestarted,
    KubeletKilled,
    ContainerdKilled,
    ClockAhead,
    ClockBehind,
    NodeReset,
    NodeDeleted,
}

const GUSTS: [Gust; 15] = [
    Gust::Conflict,
    Gust::TooManyRequests,
    Gust::ServerError,
    Gust::Cut,
    Gust::Slow,
    Gust::Truncated,
    Gust::ControllerKilled,
    Gust::ControllersKilled,
    Gust::ControllerAsleep,
    Gust::ApiServerRestarted,
    Gust::EtcdRestarted,
    Gust::KubeletKilled,
    Gust::ContainerdKilled,
    Gust::ClockAhead,
    Gust::ClockBehind,
];

/// After which all pods start anew, or are others.
const RARE: [Gust; 2] = [Gust::NodeReset, Gust::NodeDeleted];

/// One of so many gusts is one of the rare ones: more, and nothing else would happen.
const RARITY: u64 = 40;

/// Blows until it is over. Returns how often each came.
pub(crate) async fn blow(field: &Field, seed: u64, is_over: &AtomicBool) -> BTreeMap<Gust, u32> {
    let mut random = Random::new(seed, u64::MAX);
    let mut passed = BTreeMap::new();
    while !is_over.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(random.within(1000..6000))).await;
        let gust = if random.within(0..RARITY) == 0 { random.one_of(&RARE) } else { random.one_of(&GUSTS) };
        // What cannot be done to a program that is just not there is no fault of netloss's.
        if let Err(error) = one(field, gust, &mut random).await {
            println!("storm: {gust:?}: {error:#}");
        }
        *passed.entry(gust).or_default() += 1;
    }
    field.proxy.set(Weather::Fair);
    drop(field.controllers.lock().await.bring_back());
    passed
}

async fn one(field: &Field, gust: Gust, random: &mut Random) -> Result<()> {
    let moment = Duration::from_millis(random.within(500..6000));
    let which = usize::try_from(random.within(0..2))?;
    match gust {
        Gust::Conflict => weather(field, Weather::Refusing(409), moment).await,
        Gust::TooManyRequests => weather(field, Weather::Refusing(429), moment).await,
        Gust::ServerError => weather(field, Weather::Refusing(random.one_of(&[500, 502, 503, 504])), moment).await,
        Gust::Cut => weather(field, Weather::Cutting, moment).await,
        Gust::Slow => weather(field, Weather::Slow, moment).await,
        Gust::Truncated => weather(field, Weather::Truncating, moment).await,
        Gust::ControllerKilled | Gust::ControllersKilled => {
            let mut controllers = field.controllers.lock().await;
            controllers.kill(which)?;
            if gust == Gust::ControllersKilled {
                controllers.kill(1 - which)?;
            }
            sleep(moment).await;
            controllers.bring_back()?;
        }
        Gust::ControllerAsleep => {
            // Longer than its lease: another leads when it wakes up.
            let controllers = field.controllers.lock().await;
            controllers.signal(which, Signal::SIGSTOP)?;
            sleep(Duration::from_secs(10) + moment).await;
            controllers.signal(which, Signal::SIGCONT)?;
        }
        Gust::ApiServerRestarted => {
            let mut control_plane = field.control_plane.lock().await;
            control_plane.stop_apiserver()?;
            control_plane.start_apiserver().await?;
        }
        Gust::EtcdRestarted => {
            field.control_plane.lock().await.restart_etcd().await?;
        }
        Gust::KubeletKilled => drop(field.node.run("busybox killall -KILL kubelet").await?),
        Gust::ContainerdKilled => drop(field.node.run("busybox killall -KILL containerd").await?),
        Gust::ClockAhead => clock(field, random.within(2..30), "+").await?,
        Gust::ClockBehind => clock(field, random.within(2..30), "-").await?,
        Gust::NodeDeleted => {
            let nodes = Api::<Node>::all(field.client.clone());
            nodes.delete(NAME, &DeleteParams::default()).await?;
            // After some forty seconds its pods are deleted too, while it still runs them.
            sleep(Duration::from_secs(random.within(5..70))).await;
            // Only one that starts registers its node.
            field.node.run("busybox killall -KILL kubelet").await?;
            let limit = Instant::now() + LIMIT;
            while nodes.get_opt(NAME).await.is_ok_and(|node| node.is_none()) && Instant::now() < limit {
                sleep(Duration::from_secs(1)).await;
            }
        }
        Gust::NodeReset => {
            field.node.reset().await?;
            // All pods start anew, which takes the emulator two minutes. Were it to be hurt again meanwhile, they never would.
            sleep(Duration::from_mins(3)).await;
        }
    }
    Ok(())
}

async fn weather(field: &Field, weather: Weather, moment: Duration) {
    field.proxy.set(weather);
    sleep(moment).await;
    field.proxy.set(Weather::Fair);
}

/// Steps the node's clock, and later steps it back.
async fn clock(field: &Field, seconds: u64, sign: &str) -> Result<()> {
    let back = if sign == "+" { "-" } else { "+" };
    let step = |sign: &str| format!("date -s @$(($(date +%s){sign}{seconds}))");
    field.node.run(&step(sign)).await?;
    sleep(Duration::from_secs(3)).await;
    field.node.run(&step(back)).await?;
    Ok(())
}
