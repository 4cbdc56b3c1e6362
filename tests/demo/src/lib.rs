//! The live demonstration: one experiment from `kubectl apply` to the last lost packet, as a person would watch it.

mod experiment;
mod screen;
mod stage;
mod view;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{Stream, TryStreamExt};
use kube::Client;
use netloss_lab::cluster::traffic;
use netloss_lab_traffic::Line;
use tokio::time::{Instant, interval, timeout};

use self::experiment::Experiment;
use self::screen::Screen;
pub use self::stage::Stage;
use self::view::{Totals, View};

/// The sample that is applied.
const SAMPLE: &str = "config/samples/chaos_v1alpha1_chaosexperiment_network_loss.yaml";
/// Seconds of undisturbed traffic to see first.
const BEFORE: u32 = 3;
/// Seconds without loss, one after the other, that are a recovery.
const RECOVERED: u32 = 4;
/// How much longer than the experiment's own time everything may take.
const SPARE: Duration = Duration::from_mins(4);
/// A line comes every second; a log that is silent for so long is broken.
const SILENCE: Duration = Duration::from_mins(1);

/// What the demonstration needs in a cluster, all of it there: netloss, and pods of the traffic program's `image` that exchange packets.
///
/// # Errors
///
/// If something does not come up.
pub async fn prepare(client: &Client, image: &str, installed: impl Future<Output = Result<()>>) -> Result<Stage> {
    // The pods need no netloss to exchange packets.
    let (stage, ()) = tokio::try_join!(Box::pin(Stage::set(client, image)), Box::pin(installed))?;
    Ok(stage)
}

/// Runs the demonstration.
///
/// # Errors
///
/// If no loss is seen, or it does not end.
pub async fn run(stage: &Stage) -> Result<()> {
    let mut lines = traffic::lines(&stage.pods(), stage::PEER).await?;
    let mut view = View::new(stage.experiment())?;
    let mut screen = Screen::new();
    for _ in 0..BEFORE {
        view.add(&next(&mut lines).await?);
        screen.show(&view);
    }
    stage.apply().await?;
    let outcome = watch(stage, &mut lines, &mut view, &mut screen).await;
    screen.leave();
    outcome?;
    println!("\n{}", view.summary());
    judge(&view)
}

/// Shows what happens until the experiment is over and the traffic is as before.
async fn watch(stage: &Stage, lines: &mut (impl Stream<Item = Result<Line>> + Unpin), view: &mut View, screen: &mut Screen) -> Result<()> {
    let deadline = Instant::now() + view.duration() + SPARE;
    let mut poll = interval(Duration::from_millis(500));
    while !(view.is_over() && view.quiet_seconds() >= RECOVERED) {
        ensure!(Instant::now() < deadline, "still not over {} s after its time:\n{}", SPARE.as_secs(), view.summary());
        tokio::select! {
            line = next(lines) => {
                view.add(&line?);
                screen.show(view);
            }
            _ = poll.tick() => {
                view.update(stage.read().await?);
                screen.refresh(view);
            }
        }
    }
    // The last word on it may have come with the last line.
    view.update(stage.read().await?);
    Ok(())
}

async fn next(lines: &mut (impl Stream<Item = Result<Line>> + Unpin)) -> Result<Line> {
    let line = timeout(SILENCE, lines.try_next()).await.context("the peer's log is silent")??;
    line.context("the peer's log ended")
}

/// Whether there was anything to see.
fn judge(view: &View) -> Result<()> {
    ensure!(view.is_completed(), "the experiment did not complete");
    let directions = view.asked_directions();
    let lost = directions.iter().all(|totals: &Totals| totals.lost() > 0);
    ensure!(lost, "no loss was seen in a direction that it was asked for in");
    Ok(())
}
