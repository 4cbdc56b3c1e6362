//! The agent's reports: one JSON object a line on standard output; the last one also as the container's termination message.

use crate::{
    Asked, Backend, Checked, ExitCode, Filtered, Guard, Planned, Predicted, RunId, Traffic, is_unprintable,
    text::{self, truncate},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of the report's form. Fields are added without a new version, and readers skip those that they do not know; a field that
/// changes its meaning or goes away makes a new one.
pub const SCHEMA: u32 = 1;

/// The longest line, in bytes and without its end: what Kubernetes keeps of a termination message (4096 bytes, `ContainerState` in
/// k8s.io/api/core/v1), and what a pipe takes at once (`PIPE_BUF`, pipe(7)), less the line's end.
pub const LINE_LIMIT: usize = 4095;

/// One line of the agent's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`SCHEMA`] of the agent that wrote it.
    pub schema: u32,
    /// When it was written, by the node's clock.
    pub time: Timestamp,
    /// The run, as it was given with `--run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// What happened, told by the field `event`.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// The loss is in place: it was read back from the kernel and is what was asked for.
    Applied(Applied),
    /// The loss is still in place, or what has become of it.
    Heartbeat(Heartbeat),
    /// Final: the loss has ended, and the kernel was asked whether it is gone.
    Removed(Removed),
    /// Final: something went wrong, and in what state that leaves the pod.
    Failed(Failed),
    /// Of `status`, and first of `stop`: the agent that works here, and how it goes.
    Status(Box<Status>),
    /// Final, of `stop`: no agent works here any more.
    Stopped(Stopped),
    /// Final, of `cleanup`: nothing of a dead agent is here any more.
    Cleaned(Cleaned),
    /// Final, of `plan`: what a run would do.
    Planned(Box<Planned>),
    /// Final, of `check`: what there is and what is missing.
    Checked(Checked),
}

impl Event {
    /// Whether no record follows this one.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Applied(_) | Self::Heartbeat(_) | Self::Status(_))
    }
}

/// One value for each direction that the loss was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de>"))]
pub struct PerDirection<T> {
    /// Packets that the pod sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<T>,
    /// Packets that the pod receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<T>,
}

/// How well the lease of a guarded loss was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LeaseStats {
    /// Seconds for which packets were lost. Less than the elapsed ones where the lease ran out before it was renewed.
    pub armed_seconds: f64,
    /// How often it did.
    pub lapses: u32,
    /// That packets were lost for less than 95 % of the time: an agent that the machine hardly let run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Why the last renewal failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl LeaseStats {
    /// Share of the time for which packets have to be lost, in percent, so that the loss is not [`LeaseStats::degraded`]. A judgement: the observed rate is
    /// then within a twentieth of the requested one, less than the 95 % interval of a thousand packets at 10 % (a fifth).
    pub const WELL: f64 = 95.0;
}

/// The agent that works here, and how it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Who it is; none where no agent works here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// What it put in place; none before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// How that goes now; none before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Heartbeat>,
}

/// No agent works here any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// The one that worked here; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// How it ended; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitCode>,
}

/// Nothing of a dead agent is here any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Cleaned {
    /// What was taken away, in words; empty where nothing was there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// The loss is in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The agent's version.
    pub agent_version: String,
    /// The kernel's release, as `uname -r` has it.
    pub kernel: String,
    /// The interface that the loss is on.
    pub interface: String,
    /// Why this one: by which rule it was found.
    pub interface_reason: String,
    /// How it was done.
    pub backend: Backend,
    /// Why this way.
    #[serde(default)]
    pub backend_reason: String,
    /// True where a killed agent leaves the loss in place.
    pub unguarded: bool,
    /// What makes the kernel end it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// What was asked for.
    pub asked: Asked,
    /// What that really loses, where it is another thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// Which packets the loss is kept to.
    #[serde(default, skip_serializing_if = "Filtered::is_empty")]
    pub filtered: Filtered,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When the loss ends by itself at the latest: the earlier of ttl and deadline, by the node's clock.
    pub ends_at: Timestamp,
    /// What a dead agent had left here and this one removed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers_removed: Vec<String>,
}

/// The loss is still in place, or what has become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Seconds since the loss was applied.
    pub elapsed_seconds: f64,
    /// Seconds until it ends by itself.
    pub remaining_seconds: f64,
    /// What it has done so far.
    pub traffic: PerDirection<Traffic>,
    /// How well the lease has been kept, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<LeaseStats>,
    /// Whether everything is as it was applied.
    pub intact: bool,
    /// What is not as it was applied, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// What somebody had changed and was brought again, in words. That is done once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Lines that were dropped because standard output was full or closed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lines_dropped: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What made the loss end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The time asked for was over.
    Ttl,
    /// The deadline came first.
    Deadline,
    /// SIGTERM: the pod or the container is being stopped.
    Sigterm,
    /// SIGINT: Ctrl-C.
    Sigint,
    /// SIGHUP: the terminal went away.
    Sighup,
    /// SIGQUIT: Ctrl-\.
    Sigquit,
    /// `netloss-agent stop` asked for it.
    Stopped,
    /// The interface was deleted or renamed: what has its name or index now is another.
    InterfaceLost,
    /// Somebody changed the loss so that it was not what was asked for, and it could not be brought again safely.
    Drift,
    /// The lease was not renewed in time, so the kernel had ended the loss: the agent did not run for so long (stopped, frozen, starved), its renewals
    /// failed, or somebody took the lease away. It is not resumed.
    LeaseExpired,
}

/// The loss has ended and is verified to be gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Why.
    pub cause: Cause,
    /// The interface that the loss was on.
    pub interface: String,
    /// How it was done.
    pub backend: Backend,
    /// What was asked for.
    pub asked: Asked,
    /// What that really loses, where it is another thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// When the loss was in place.
    pub applied_at: Timestamp,
    /// Seconds from applied to the begin of the removal.
    pub elapsed_seconds: f64,
    /// What it has done. Read last before the removal.
    pub traffic: PerDirection<Traffic>,
    /// How well the lease was kept, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<LeaseStats>,
    /// What somebody else had changed when the removal began, in words; none where everything was as applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// What somebody had changed before and was brought again, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Lines that were dropped because standard output was full or closed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lines_dropped: u64,
}

/// How far the agent had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Arguments, signals, the lock.
    Start,
    /// Looking at what is there.
    Snapshot,
    /// Deciding what to do.
    Plan,
    /// Doing it.
    Apply,
    /// Reading it back.
    Verify,
    /// Watching over it.
    Hold,
    /// Taking it away.
    Remove,
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// How far it had come.
    pub stage: Stage,
    /// What went wrong and what to do about it, in words.
    pub message: String,
    /// The kind, which is also the process's exit code.
    pub exit: ExitCode,
    /// What is left in the kernel, in words: empty where nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Who holds the namespace, for [`ExitCode::AlreadyRunning`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<Holder>>,
}

/// The agent that works in a network namespace, as it answers on its socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its run, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Its process, as it sees itself: 1 in a container.
    pub pid: u32,
    /// Its version.
    pub agent_version: String,
    /// When it was started.
    pub started_at: Timestamp,
}

impl Record {
    /// The record as one line of at most [`LINE_LIMIT`] bytes, without unprintable characters ([`is_unprintable`]) and without the line's end.
    /// Words are left out where they must be.
    #[must_use]
    pub fn to_line(&self) -> String {
        // JSON escapes can make words up to twice as long, so the length is tried and not computed.
        let shortened = [usize::MAX, 1024, 256, 64].into_iter().map(|bytes| self.shortened(bytes).to_json());
        let fits = |line: &String| line.len() <= LINE_LIMIT;
        shortened.into_iter().find(fits).unwrap_or_else(|| self.shortened(0).to_json())
    }

    fn to_json(&self) -> String {
        #[allow(clippy::expect_used)] // no map with other keys than strings, no failing Serialize
        text::to_json(self).expect("a record has a JSON form")
    }

    /// Reads a line; none where it is no record of a schema that this version understands.
    ///
    /// Whoever wrote it, what is read is bounded and printable as [`Self::to_line`] writes it.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let read = |line: &str| serde_json::from_str(line).ok().filter(|record: &Self| record.schema == SCHEMA);
        let record = read(line)?;
        // An escape may stand for any character.
        let as_written = line.len() <= LINE_LIMIT && !line.contains(|c| c == '\\' || is_unprintable(c));
        if as_written { Some(record) } else { read(&record.to_line()) }
    }

    /// A copy whose free words are at most `bytes` long, each text or list of them.
    fn shortened(&self, bytes: usize) -> Self {
        let mut short = self.clone();
        match &mut short.event {
            Event::Failed(failed) => {
                truncate(&mut failed.message, bytes);
                shorten(&mut failed.left, bytes);
                failed.holder.iter_mut().for_each(|holder| shorten_holder(holder, bytes));
            }
            Event::Removed(removed) => {
                truncate(&mut removed.interface, name(bytes));
                removed.kept.iter_mut().for_each(|kept| shorten_kept(kept, bytes));
                for words in [&mut removed.drift, &mut removed.repaired, &mut removed.warnings] {
                    shorten(words, bytes);
                }
            }
            Event::Heartbeat(heartbeat) => shorten_heartbeat(heartbeat, bytes),
            Event::Applied(applied) => shorten_applied(applied, bytes),
            Event::Status(status) => {
                status.holder.iter_mut().for_each(|holder| shorten_holder(holder, bytes));
                status.applied.iter_mut().for_each(|applied| shorten_applied(applied, bytes / 2));
                status.now.iter_mut().for_each(|heartbeat| shorten_heartbeat(heartbeat, bytes / 2));
            }
            Event::Stopped(stopped) => stopped.holder.iter_mut().for_each(|holder| shorten_holder(holder, bytes)),
            Event::Planned(planned) => {
                truncate(&mut planned.interface, name(bytes));
                for words in [&mut planned.interface_reason, &mut planned.backend_reason] {
                    truncate(words, bytes / 2);
                }
                let Filtered { targets, spared } = &mut planned.filtered;
                for words in [targets, spared, &mut planned.steps, &mut planned.warnings] {
                    shorten(words, bytes / 2);
                }
            }
            Event::Checked(checked) => {
                checked.findings.truncate(FINDINGS);
                for finding in &mut checked.findings {
                    truncate(&mut finding.what, name(bytes));
                    truncate(&mut finding.found, bytes / 4);
                    finding.remedy.iter_mut().for_each(|remedy| truncate(remedy, bytes / 4));
                }
            }
            Event::Cleaned(cleaned) => shorten(&mut cleaned.removed, bytes),
        }
        short
    }
}

/// More findings than a check has (a dozen, docs/AGENT.md). A line has room for them with all of their words left out: 4095 bytes for
/// 20 are 200 each.
const FINDINGS: usize = 20;

/// What is left of a name, which says little in fewer bytes: a line has room for it.
fn name(bytes: usize) -> usize {
    bytes.max(16)
}

fn shorten_holder(holder: &mut Holder, bytes: usize) {
    truncate(&mut holder.agent_version, name(bytes));
}

fn shorten_applied(applied: &mut Applied, bytes: usize) {
    for words in [&mut applied.agent_version, &mut applied.kernel, &mut applied.interface] {
        truncate(words, name(bytes));
    }
    for words in [&mut applied.interface_reason, &mut applied.backend_reason] {
        truncate(words, bytes);
    }
    let Filtered { targets, spared } = &mut applied.filtered;
    for words in [targets, spared, &mut applied.leftovers_removed, &mut applied.warnings] {
        shorten(words, bytes);
    }
}

fn shorten_heartbeat(heartbeat: &mut Heartbeat, bytes: usize) {
    heartbeat.kept.iter_mut().for_each(|kept| shorten_kept(kept, bytes));
    for words in [&mut heartbeat.drift, &mut heartbeat.repaired, &mut heartbeat.warnings] {
        shorten(words, bytes);
    }
}

fn shorten_kept(kept: &mut LeaseStats, bytes: usize) {
    kept.trouble.iter_mut().for_each(|trouble| truncate(trouble, bytes));
}

/// At most `bytes` in all, and the number of entries left out.
fn shorten(entries: &mut Vec<String>, bytes: usize) {
    let mut room = bytes;
    let keep = entries.iter().take_while(|entry| room.checked_sub(entry.len()).map(|left| room = left).is_some()).count();
    let more = entries.len() - keep;
    entries.truncate(keep);
    if more > 0 {
        entries.push(format!("and {more} more"));
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
