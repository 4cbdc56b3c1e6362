//! A pod, its node and the agents in it: what the API server shows of them, and what is so.

use crate::reports;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use netloss_contract::{Cause, ExitCode, Ttl};
use serde_json::{Value, json};

/// A pod, and its node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub name: String,
    /// Whether the pod is gone.
    pub gone: bool,
    /// Containers of ours, in the order in which they came.
    pub containers: Vec<Container>,
    /// Whether loss is left that no agent takes away.
    pub leftover: bool,
}

/// One container of ours, as it was put in.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub name: String,
    pub args: Vec<String>,
    /// When it brought the loss, if it did.
    pub since: Option<i64>,
    pub life: Life,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Life {
    /// The kubelet has not started it yet.
    Waiting,
    /// It was started, and died with the container runtime before that wrote so down: for good, the kubelet shows one that was made and is
    /// not started.
    Unseen,
    /// An agent that has brought the loss.
    Running {
        /// When it ends by itself.
        until: i64,
        /// Since when it does nothing and does not end either: it was stopped or frozen, and may run again at any time.
        asleep: Option<i64>,
        /// What it brought was taken away meanwhile.
        bare: bool,
        /// A stop waits in its socket.
        told: bool,
        /// Whether the kernel ends what a sleeper has brought, within one lease. That is shorter than each step of time.
        guarded: bool,
    },
    Ended {
        code: i32,
        /// Its last words, as the kubelet shows them.
        words: Option<String>,
    },
}

impl Container {
    /// The value of an argument.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn is_agent(&self) -> bool {
        self.args.first().is_some_and(|word| word == "run")
    }

    pub(crate) fn deadline(&self) -> i64 {
        self.value("--deadline").and_then(|text| text.parse::<Timestamp>().ok()).map_or(i64::MAX, Timestamp::as_second)
    }

    /// Whether it has loss in place, or can still bring some.
    pub(crate) fn is_live(&self, now: i64) -> bool {
        match self.life {
            Life::Waiting => self.is_agent() && now < self.deadline(),
            Life::Running { bare: true, .. } | Life::Unseen | Life::Ended { .. } => false,
            Life::Running { until, asleep: None, .. } => now < until,
            Life::Running { asleep: Some(since), guarded, .. } => !guarded || now == since,
        }
    }

    /// Whether its time is over, and the kubelet does not show it yet.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        matches!(self.life, Life::Running { until, asleep: None, .. } if now >= until)
    }

    fn end(&mut self, code: ExitCode, words: Option<String>) {
        self.life = Life::Ended { code: code.code().into(), words };
    }

    /// It has taken its loss away and says so.
    pub(crate) fn remove(&mut self, cause: Cause, guarded: bool, now: i64) {
        let (Life::Running { until, .. }, Some(since)) = (&self.life, self.since) else { return };
        let until = now.min(*until);
        let words = reports::removed(self.value("--run"), cause, guarded, since, until);
        self.end(ExitCode::Done, Some(words));
    }
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), gone: false, containers: Vec::new(), leftover: false }
    }

    pub(crate) fn uid(&self) -> String {
        format!("uid-of-{}", self.name)
    }

    /// Puts a container in, as the API server does: one that is there stays as it is. Whether that is what was asked for.
    pub(crate) fn put_in(&mut self, container: &EphemeralContainer) -> bool {
        let args = container.args.clone().unwrap_or_default();
        if let Some(there) = self.containers.iter().find(|there| there.name == container.name) {
            return there.args == args;
        }
        self.containers.push(Container { name: container.name.clone(), args, since: None, life: Life::Waiting });
        true
    }

    /// The kubelet starts a container, and it does what can be done at once.
    pub(crate) fn start(&mut self, index: usize, guarded: bool, now: i64) {
        let (run, late) = (self.containers[index].value("--run").map(str::to_owned), now >= self.containers[index].deadline());
        let command = self.containers[index].args.first().cloned().unwrap_or_default();
        let holder = self.containers.iter().position(|other| matches!(other.life, Life::Running { .. }) && !other.is_due(now));
        let hangs = |node: &Self, at: usize| matches!(node.containers[at].life, Life::Running { asleep: Some(_), .. });
        let other_run = |node: &Self, at: usize| node.containers[at].value("--run") != run.as_deref();
        let (code, words) = match (command.as_str(), holder) {
            _ if late => (ExitCode::DeadlinePassed, None),
            ("run", None) => {
                let this = &mut self.containers[index];
                let ttl = this.value("--ttl").and_then(|text| text.parse::<Ttl>().ok()).map_or(0, |ttl| ttl.duration().as_secs());
                let until = (now + i64::try_from(ttl).unwrap_or(0)).min(this.deadline());
                this.since = Some(now);
                this.life = Life::Running { until, asleep: None, bare: false, told: false, guarded };
                // An agent takes away first what a dead one has left.
                self.leftover = false;
                return;
            }
            ("run", Some(_)) => (ExitCode::AlreadyRunning, None),
            (_, Some(at)) if hangs(self, at) => {
                let forces = command == "cleanup" && self.containers[index].args.iter().any(|arg| arg == "--force");
                let tells = (command == "stop" || forces) && !other_run(self, at);
                if let Life::Running { bare, told, .. } = &mut self.containers[at].life {
                    // It waits until a guard's lease has run out.
                    (*bare, *told) = (*bare || forces, *told || tells);
                }
                if forces { (ExitCode::Done, Some(reports::cleaned(run.as_deref(), now))) } else { (ExitCode::Unresponsive, None) }
            }
            (_, Some(at)) if other_run(self, at) => (ExitCode::OtherRun, None),
            ("stop", Some(at)) => {
                self.containers[at].remove(Cause::Stopped, guarded, now);
                (ExitCode::Done, None)
            }
            ("stop", None) => (ExitCode::Done, None),
            (_, Some(_)) => (ExitCode::AlreadyRunning, None),
            (_, None) => {
                self.leftover = false;
                (ExitCode::Done, Some(reports::cleaned(run.as_deref(), now)))
            }
        };
        self.containers[index].end(code, words);
    }

    /// The agent is killed, and the loss stays where the kernel does not end it.
    pub(crate) fn kill(&mut self, index: usize, guarded: bool) {
        if let Life::Running { bare, .. } = self.containers[index].life {
            self.leftover |= !guarded && !bare;
            self.containers[index].life = Life::Ended { code: 137, words: None };
        }
    }

    /// The container is started, and killed before anybody sees that.
    pub(crate) fn die_unseen(&mut self, index: usize, guarded: bool, now: i64) {
        self.start(index, guarded, now);
        self.kill(index, guarded);
        self.containers[index].life = Life::Unseen;
    }

    /// The agent is stopped or frozen. What the kernel guards ends without it.
    pub(crate) fn hang(&mut self, index: usize, now: i64) {
        if let Life::Running { asleep, .. } = &mut self.containers[index].life {
            *asleep = Some(now);
        }
    }

    /// The agent runs again. `resumes`: it goes on as if it had not slept, which it must not.
    pub(crate) fn wake(&mut self, index: usize, now: i64, resumes: bool) {
        let Life::Running { until, asleep: Some(since), bare, told, guarded } = self.containers[index].life else { return };
        match (told, guarded && now > since) {
            _ if resumes => self.containers[index].life = Life::Running { until, asleep: None, bare: false, told: false, guarded },
            (true, _) => self.containers[index].remove(Cause::Stopped, guarded, now),
            (false, true) => self.containers[index].remove(Cause::LeaseExpired, guarded, since),
            (false, false) => self.containers[index].life = Life::Running { until, asleep: None, bare, told, guarded },
        }
    }

    /// Whether packets are lost in it, or may be soon.
    pub(crate) fn has_loss(&self, now: i64) -> bool {
        !self.gone && (self.leftover || self.containers.iter().any(|container| container.is_live(now)))
    }

    /// The pod as the API server has it.
    pub(crate) fn pod(&self) -> Option<Pod> {
        let status = |container: &Container| {
            let state = match &container.life {
                Life::Waiting | Life::Unseen => json!({}),
                Life::Running { .. } => json!({ "running": {} }),
                Life::Ended { code, words } => json!({ "terminated": { "exitCode": code, "message": words } }),
            };
            let id = (container.life != Life::Waiting).then_some("containerd://1");
            json!({ "name": container.name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "containerID": id })
        };
        let spec = |container: &Container| json!({ "name": container.name, "args": container.args });
        let each = |what: &dyn Fn(&Container) -> Value| self.containers.iter().map(what).collect::<Vec<_>>();
        let pod = json!({
            "metadata": { "namespace": "n", "name": self.name, "uid": self.uid(), "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "app" }], "ephemeralContainers": each(&spec) },
            "status": {
                "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "True" }],
                "ephemeralContainerStatuses": each(&status),
            },
        });
        if self.gone { None } else { serde_json::from_value(pod).ok() }
    }
}
