//! Running something that starts programs, so that Ctrl-C ends it in order: what was started is stopped, and says so.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How long work on other threads (a build that got the same Ctrl-C) may take to notice.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `work` to its end, or until SIGINT, SIGTERM or SIGHUP; then it is dropped, and with it what it started.
///
/// # Errors
///
/// Those of `work`, and when it was interrupted.
pub fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start tokio")?;
    let outcome = runtime.block_on(async {
        let interrupted = interrupted()?;
        tokio::select! {
            // Work that ends well on the same signal has ended well.
            biased;
            outcome = work => outcome,
            () = interrupted => bail!("interrupted"),
        }
    });
    runtime.shutdown_timeout(GRACE);
    outcome
}

/// Ends when the process is asked to end.
///
/// # Errors
///
/// If the signals cannot be listened to.
pub fn interrupted() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A closed terminal: a cluster that is to stay, and is not recorded yet, would stay unknown.
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}
