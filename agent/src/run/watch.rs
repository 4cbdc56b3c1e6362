//! What somebody else has done to the loss, or to the interface below it, and what is done about that.

use super::{Session, not_applied};
use crate::{
    backend::{self, Unmarked},
    clock::Moment,
    control::ANSWER_LIMIT,
    guard::LEASE,
    impairment::{ApplyError, Plan, Terms, Trial},
    prepare::{self, failed},
};
use netloss_contract::{Backend, BackendChoice, Cause, ExitCode, Failed, Stage};
use std::time::Duration;

/// Whether the agent has run all the time.
///
/// One that was stopped for long may have been taken for one that hangs, and what it brought may have been taken away on purpose
/// (`netloss-agent cleanup --force`): it brings nothing again.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Moment,
    hung: bool,
}

impl Pulse {
    /// Between two marks that the agent runs: a fifth of the 5 s without one after which it repairs nothing, so that a late one is no gap.
    pub(super) const PERIOD: Duration = Duration::from_secs(1);

    pub(super) fn new(now: Moment) -> Self {
        Self { last: now, hung: false }
    }

    /// The agent runs now.
    pub(super) fn beat(&mut self, now: Moment) {
        self.hung |= now.since(self.last) >= ANSWER_LIMIT;
        self.last = now;
    }
}

impl Session<'_> {
    /// Something has changed in the namespace, perhaps by ourselves.
    pub(super) async fn follow(&mut self) -> Result<Option<Cause>, Failed> {
        let gone = self.changes.take().map_err(|error| {
            self.impairment.disarm();
            failed(Stage::Hold, ExitCode::Failed, format!("cannot watch over the loss any more: {error}"))
        })?;
        self.inspect(gone.contains(&self.impairment.target().link.index)).await
    }

    /// Looks whether all is as applied, and brings again what is not, once. `gone`: the interface was deleted, and what has its index
    /// now is another. Returns why the loss has to end, if it has to.
    pub(super) async fn inspect(&mut self, gone: bool) -> Result<Option<Cause>, Failed> {
        let Some(snapshot) = self.look() else { return Ok(None) };
        // It may have been stopped while it looked.
        self.pulse.beat(Moment::now());
        let link = &self.impairment.target().link;
        if gone || snapshot.link(link.index).is_none() {
            // Another interface may get its index.
            self.unmarked = Unmarked::default();
        }
        let replaced = gone.then(|| backend::replaced(link));
        if let Some(lost) = backend::lost_interface(&snapshot, link).or(replaced) {
            self.drift = vec![lost];
            return Ok(Some(Cause::InterfaceLost));
        }
        if self.drift.is_empty() {
            return Ok(None);
        }
        let changed = !self.impairment.changed(&snapshot).is_empty();
        if changed && self.repaired.is_empty() && !self.pulse.hung && self.impairment.can_be_brought_again(&snapshot, self.unmarked) {
            self.bring_again().await?;
            return Ok(None);
        }
        // A rate that is not what was asked for is reported; a pod that is cut off is none that loses packets.
        Ok(self.impairment.receives_nothing(&snapshot).then_some(Cause::Drift))
    }

    /// Takes away what is left of the loss and puts it in place again, for the time that remains.
    ///
    /// Only where a guard's lease has not expired, by the kernel's word, and within the time of a lease from then: whoever saw its tables without a live
    /// element before is right that the loss is over.
    async fn bring_again(&mut self) -> Result<(), Failed> {
        let (limit, until) = (self.limit, Moment::now().after(LEASE));
        let choice = match self.impairment.backend() {
            Backend::Guarded => BackendChoice::Guarded,
            Backend::Tc => BackendChoice::Tc,
        };
        // It is to end, or has ended: that comes next.
        if !self.impairment.suspend() || self.ending.has_come() {
            return Ok(());
        }
        let kept = self.account().unwrap_or_default();
        self.impairment.remove_tables();
        let (_, before) = self.kernel.remove(self.unmarked).await.map_err(|left| {
            let message = "somebody changed the loss, and what is left of it cannot be removed: delete the pod";
            Failed { left, ..failed(Stage::Remove, ExitCode::Incomplete, message) }
        })?;
        let mut target = self.impairment.target().clone();
        // Its transmit queue may have another length than was seen first.
        target.link = before.link(target.link.index).cloned().unwrap_or(target.link);
        let plan = Plan::make(choice, &before, target, Trial::Creation).map_err(|error| prepare::not_planned(&error))?;
        self.unmarked = plan.unmarked();
        let terms = Terms { ending: &self.ending, begun: None, until: Some(until) };
        let (impairment, _, after) = match plan.bring(&self.kernel, &mut self.changes, || limit, &terms) {
            // The same.
            Err(ApplyError::Over | ApplyError::Ended) => return Ok(()),
            brought => brought.map_err(|error| not_applied(&error))?,
        };
        self.meter.rebase(&after, (impairment.backend(), impairment.guard()));
        self.kept_before = kept;
        self.impairment = impairment;
        self.repaired = std::mem::take(&mut self.drift);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_run_for_long_has_hung() {
        let at = |seconds| Moment::at(Duration::from_secs(seconds));
        let mut pulse = Pulse::new(at(100));
        pulse.beat(at(101));
        pulse.beat(at(104));
        assert!(!pulse.hung);
        pulse.beat(at(109));
        pulse.beat(at(110));
        assert!(pulse.hung, "what it missed it has missed for good");
    }
}
