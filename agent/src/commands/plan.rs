//! `netloss-agent plan`: what a run would do, all of it, without doing it.

use super::{fail, holder};
use crate::{
    backend::{self, Unmarked},
    clock::{Expiry, Moment},
    impairment::Trial,
    netlink::Netlink,
    prepare::{self, Prepared, asked, failed, unreadable},
    reporter::Reporter,
    signals::Signals,
    snapshot::Snapshot,
};
use netloss_contract::{Event, ExitCode, Failed, Planned, RunArgs, Stage};

/// Says what `run` would do with these arguments, or why it would do nothing.
pub fn plan(args: &RunArgs, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    match try_plan(args, signals) {
        Ok(planned) => {
            reporter.report(Event::Planned(Box::new(planned)));
            ExitCode::Done
        }
        Err(failure) => fail(reporter, failure),
    }
}

fn try_plan(args: &RunArgs, signals: &Signals) -> Result<Planned, Failed> {
    args.check().map_err(|error| failed(Stage::Start, ExitCode::Usage, error.to_string()))?;
    prepare::in_time(args.deadline)?;
    holder(signals)?;
    let netlink = Netlink::connect().map_err(|error| unreadable(&error))?;
    let snapshot = Snapshot::take(&netlink).map_err(|error| unreadable(&error))?;
    prepare::refuse_host(args, &snapshot.links)?;
    prepare::permitted(&netlink)?;
    let leftovers = backend::removal(&snapshot, Unmarked::default());
    let before = backend::without_ours(&snapshot, Unmarked::default());
    let Prepared { plan, interface_reason, filtered } = prepare::prepare(args, &netlink, &before, Trial::Rehearsal)?;
    let steps = leftovers.iter().map(ToString::to_string).chain(plan.describe()).collect();
    Ok(Planned {
        interface: plan.target().link.name.clone(),
        interface_reason,
        backend: plan.backend(),
        backend_reason: plan.reason().to_owned(),
        unguarded: plan.backend().unguarded(),
        guard: plan.guard(),
        asked: asked(args),
        predicted: args.model.predicted(),
        filtered,
        ends_at: Expiry::new(Moment::now(), args.ttl, args.deadline).at(),
        steps,
        warnings: args.model.warning().into_iter().collect(),
    })
}
