//! When the loss ends: the earlier of a span and a point in time, each on the clock that it means.
//!
//! Both are timers of the kernel, with absolute times: the ttl on `CLOCK_BOOTTIME`, which nobody sets and which goes on while the
//! machine sleeps, the deadline on `CLOCK_REALTIME`, so that a clock that is set forward past it ends the loss (timerfd_create(2)).

use jiff::{Timestamp, Unit};
use netloss_contract::{Cause, Ttl};
use nix::{
    sys::{
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time,
};
use std::{io, os::fd::OwnedFd, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// A moment on `CLOCK_BOOTTIME`: time since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        // The clock exists since Linux 2.6.39, and reading it has no other way to fail.
        Self(time::clock_gettime(time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }

    /// That long after the machine was started.
    #[must_use]
    pub const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// That long after this one.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Time since an earlier one; zero where that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// When the loss ends, as a value.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    applied: Moment,
    ttl: Duration,
    deadline: Option<Timestamp>,
}

impl Expiry {
    /// The earlier of `ttl` after `applied` and the deadline.
    #[must_use]
    pub fn new(applied: Moment, ttl: Ttl, deadline: Option<Timestamp>) -> Self {
        Self { applied, ttl: ttl.duration(), deadline }
    }

    /// Time since the loss was applied.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed_at(Moment::now())
    }

    /// Time from when the loss was applied to `moment`.
    #[must_use]
    pub fn elapsed_at(&self, moment: Moment) -> Duration {
        moment.since(self.applied)
    }

    /// Time until the end, as both clocks stand now.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let of_ttl = self.ttl.saturating_sub(self.elapsed());
        self.deadline.map_or(of_ttl, |deadline| of_ttl.min(until(deadline)))
    }

    /// The end by the node's clock, as it stands now, to the millisecond.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        to_milliseconds(Timestamp::now().saturating_add(self.remaining()).unwrap_or(Timestamp::MAX))
    }
}

/// The alarms that ring when the loss ends.
#[derive(Debug)]
pub struct Alarms {
    ttl: AsyncFd<OwnedFd>,
    deadline: Option<AsyncFd<OwnedFd>>,
}

impl Alarms {
    /// Sets them.
    ///
    /// # Errors
    /// Where the system has no timer left.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn set(limit: &Expiry) -> io::Result<Self> {
        let ttl = alarm(ClockId::CLOCK_BOOTTIME, (limit.applied.0 + limit.ttl).into())?;
        let deadline = limit.deadline.map(|deadline| alarm(ClockId::CLOCK_REALTIME, time_spec(deadline))).transpose()?;
        Ok(Self { ttl, deadline })
    }

    /// Waits for the earlier of both.
    ///
    /// # Errors
    /// Where the runtime cannot watch the timers.
    pub async fn come(&self) -> io::Result<Cause> {
        let deadline = async {
            match &self.deadline {
                Some(alarm) => alarm.readable().await.map(drop),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = self.ttl.readable() => ready.map(|_| Cause::Ttl),
            ready = deadline => ready.map(|()| Cause::Deadline),
        }
    }
}

/// Now, by the node's clock, to the millisecond: what is fit for reports.
#[must_use]
pub fn now() -> Timestamp {
    to_milliseconds(Timestamp::now())
}

fn to_milliseconds(at: Timestamp) -> Timestamp {
    at.round(Unit::Millisecond).unwrap_or(at)
}

/// Time until a point in time; zero where it has passed.
#[must_use]
pub fn until(deadline: Timestamp) -> Duration {
    deadline.duration_since(Timestamp::now()).try_into().unwrap_or(Duration::ZERO)
}

fn time_spec(at: Timestamp) -> TimeSpec {
    // Before 1970 or at its very start the alarm would be disarmed and not due.
    let at = at.max(Timestamp::UNIX_EPOCH);
    TimeSpec::nanoseconds(1) + TimeSpec::new(at.as_second(), i64::from(at.subsec_nanosecond()))
}

fn alarm(clock: ClockId, at: TimeSpec) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(clock, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    #[allow(deprecated, reason = "unsound for types whose descriptor changes; an OwnedFd's does not, and the other way is unsafe code")]
    AsyncFd::with_interest(OwnedFd::from(timer), Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(ttl: &str, deadline: Option<Timestamp>) -> Cause {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Alarms::set(&Expiry::new(Moment::now(), ttl.parse().unwrap(), deadline)).unwrap().come().await.unwrap() })
    }

    #[test]
    fn the_earlier_one_ends_it() {
        let hour = Duration::from_hours(1);
        assert_eq!(come("1s", None), Cause::Ttl);
        assert_eq!(come("1s", Some(Timestamp::now() + hour)), Cause::Ttl);
        assert_eq!(come("1h", Some(Timestamp::now() + Duration::from_millis(10))), Cause::Deadline);
    }

    #[test]
    fn a_deadline_that_has_passed_ends_it_at_once() {
        for past in ["1970-01-01T00:00:00Z", "1900-01-01T00:00:00Z", "2020-01-01T00:00:00Z"] {
            assert_eq!(come("1h", Some(past.parse().unwrap())), Cause::Deadline, "{past}");
        }
    }
}
