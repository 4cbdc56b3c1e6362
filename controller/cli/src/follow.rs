//! Following an experiment until something is so.

use super::{
    connect::Cluster,
    error::{Error, is_forbidden, is_missing},
    live,
    output::note,
    show::Show,
    view::{ExperimentView, LiveFigures},
};
use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use netloss_api::ChaosExperiment;
use netloss_cluster::guarded::Guarded;
use netloss_core::sanitize::{line, plain};
use std::time::Duration;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

/// Between pictures.
const TICK: Duration = Duration::from_secs(1);
/// Between looks at the agents' logs, in which they report every five seconds.
const LOOK: Duration = Duration::from_secs(5);
/// Far enough away to be never.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// Which experiment, and for how long.
pub(super) struct Follow<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// The object that is meant, where it is known: a later one of the same name is another.
    pub(super) uid: Option<&'a str>,
    /// Left out it is for ever.
    pub(super) limit: Option<Duration>,
}

/// How following ended.
pub(super) enum End {
    /// It is as it was waited for.
    Reached(Box<ChaosExperiment>),
    /// It is gone; as it was seen last, if it was.
    Gone(Option<Box<ChaosExperiment>>),
}

impl Follow<'_> {
    /// Shows the experiment until it is as wanted, or gone.
    pub(super) async fn until(&self, wanted: impl Fn(&ChaosExperiment) -> bool, show: &mut Show) -> Result<End, Error> {
        let end = self.follow(wanted, show).await;
        show.end();
        end
    }

    async fn follow(&self, wanted: impl Fn(&ChaosExperiment) -> bool, show: &mut Show) -> Result<End, Error> {
        let (client, name) = (&self.cluster.client, self.name);
        let api = Api::<Guarded<ChaosExperiment>>::namespaced(client.clone(), self.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = Instant::now() + self.limit.unwrap_or(NEVER);
        let mut seen = Sight::new(self.uid);
        let mut figures = Figures::default();
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let mut is_complained = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => if seen.take(event) { return Ok(End::Gone(seen.last)) },
                    Some(Err(error)) => {
                        complain(name, error, &mut is_complained)?;
                    }
                    // A watcher has no end.
                    None => return Ok(End::Gone(seen.last)),
                },
                _ = ticks.tick() => {}
                _ = &mut interrupt => {
                    let stop = self.cluster.command(&format!("stop {name} -n {}", self.namespace));
                    return Err(Error::Interrupted(format!("{name} goes on: {stop} ends it")));
                }
                () = sleep_until(end) => return Err(Error::TimedOut(self.too_late(seen.last.as_deref()))),
            }
            let Some(object) = &seen.last else { continue };
            let now = Timestamp::now();
            let is_wanted = wanted(object);
            if !matches!(show, Show::Silent) {
                let known = figures.look(client, object, is_wanted).await;
                show.show(&ExperimentView::new(object, known, now), now)?;
            }
            if is_wanted {
                return Ok(End::Reached(object.clone()));
            }
        }
    }

    fn too_late(&self, last: Option<&ChaosExperiment>) -> String {
        let limit = self.limit.unwrap_or_default().as_secs();
        let status = last.and_then(|object| object.status.as_ref());
        let stands = match status {
            Some(status) => status.message.clone().unwrap_or_default(),
            None => format!(
                "netloss's controller has not looked at it yet: {} says whether it runs",
                self.cluster.command(&format!("doctor -n {}", self.namespace))
            ),
        };
        format!("{} is not over after {limit} s: {stands}", self.name)
    }
}

/// Says once that the API server does not answer; what lasts is an error.
fn complain(name: &str, error: watcher::Error, is_complained: &mut bool) -> Result<(), Error> {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source) | watcher::Error::WatchFailed(source)) =
        error
    else {
        return Ok(());
    };
    if is_forbidden(&source) || is_missing(&source) {
        return Err(Error::api(format!("watching ChaosExperiment \"{name}\""))(source));
    }
    if !std::mem::replace(is_complained, true) {
        note(&line(&format!("the API server does not answer ({source}): trying again")));
    }
    Ok(())
}

/// What a watch of one object has told.
struct Sight<'a> {
    uid: Option<&'a str>,
    last: Option<Box<ChaosExperiment>>,
    /// Whether the list that is being made has it.
    is_listed: bool,
}

impl<'a> Sight<'a> {
    fn new(uid: Option<&'a str>) -> Self {
        Self { uid, last: None, is_listed: false }
    }

    /// Takes what happened. Whether the object is gone.
    fn take(&mut self, event: watcher::Event<Guarded<ChaosExperiment>>) -> bool {
        let is_meant = |object: &Guarded<ChaosExperiment>| {
            let uid = self.uid.map(str::to_owned).or_else(|| self.last.as_ref().and_then(|last| last.uid()));
            uid.is_none() || uid == object.uid()
        };
        match event {
            watcher::Event::Init => self.is_listed = false,
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                if !is_meant(&object) {
                    return true;
                }
                self.is_listed = true;
                self.keep(object);
            }
            watcher::Event::InitDone => return !self.is_listed,
            watcher::Event::Delete(object) => {
                if is_meant(&object) {
                    self.keep(object);
                }
                return true;
            }
        }
        false
    }

    /// One that does not decode is there, and is shown as it was before.
    fn keep(&mut self, Guarded(object): Guarded<ChaosExperiment>) {
        self.last = object.ok().map(|object| Box::new(plain(object))).or(self.last.take());
    }
}

/// The agents' figures, read beside everything else.
#[derive(Default)]
struct Figures {
    known: LiveFigures,
    reading: Option<JoinHandle<LiveFigures>>,
    read_at: Option<Instant>,
}

impl Figures {
    /// What is known; begins to read anew where that is old.
    async fn look(&mut self, client: &kube::Client, object: &ChaosExperiment, is_last: bool) -> &LiveFigures {
        if let Some(reading) = self.reading.take_if(|reading| reading.is_finished()) {
            self.known = reading.await.unwrap_or_default();
        }
        let is_due = self.read_at.is_none_or(|at| at.elapsed() >= LOOK);
        if self.reading.is_none() && is_due && !is_last {
            self.read_at = Some(Instant::now());
            self.reading = Some(tokio::spawn(live::figures(client.clone(), vec![object.clone()])));
        }
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::spec;

    fn object(uid: &str) -> Guarded<ChaosExperiment> {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.uid = Some(uid.to_owned());
        Guarded(Ok(object))
    }

    #[test]
    fn a_later_object_of_the_same_name_is_another() {
        let mut sight = Sight::new(Some("a"));
        assert!(!sight.take(watcher::Event::Apply(object("a"))));
        assert!(sight.take(watcher::Event::Apply(object("b"))));
        assert_eq!(sight.last.as_ref().unwrap().uid().as_deref(), Some("a"), "what was seen last is of the one that is meant");
    }

    #[test]
    fn one_that_does_not_decode_is_not_gone() {
        let odd = serde_json::json!({ "metadata": { "uid": "a" }, "spec": 7 });
        let odd: Guarded<ChaosExperiment> = serde_json::from_value(odd).unwrap();
        let mut sight = Sight::new(None);
        assert!(!sight.take(watcher::Event::Apply(object("a"))));
        assert!(!sight.take(watcher::Event::Init) && !sight.take(watcher::Event::InitApply(odd.clone())));
        assert!(!sight.take(watcher::Event::InitDone) && sight.last.is_some());
        assert!(sight.take(watcher::Event::Delete(odd)));
    }

    #[test]
    fn it_is_gone_when_it_was_deleted_or_a_new_list_does_not_have_it() {
        let mut sight = Sight::new(None);
        assert!(
            !sight.take(watcher::Event::Init)
                && !sight.take(watcher::Event::InitApply(object("a")))
                && !sight.take(watcher::Event::InitDone)
        );
        assert!(!sight.take(watcher::Event::Init));
        assert!(sight.take(watcher::Event::InitDone));
        assert!(Sight::new(None).take(watcher::Event::Delete(object("a"))));
    }
}
