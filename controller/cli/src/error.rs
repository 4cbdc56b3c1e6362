//! What goes wrong, in words that name the thing and the way out.

use super::exit::Exit;
use netloss_cluster::{executor, listing};
use netloss_core::sanitize::line;
use std::io;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Refused, by the cluster or for safety, or failed.
    #[error("{0}")]
    Failed(String),
    /// The cluster has no definition of netloss's objects.
    #[error("{0}")]
    NotInstalled(String),
    /// The API server does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// The API server did not answer, or has trouble of its own, which may pass.
    #[error("{0}")]
    Unanswered(String),
    /// A run is over and did not go as asked.
    #[error("{0}")]
    NotAsAsked(String),
    /// It took too long.
    #[error("{0}")]
    TimedOut(String),
    /// Loss may be left.
    #[error("{0}")]
    LossMayRemain(String),
    /// The measured loss is not the requested one.
    #[error("{0}")]
    LossDiffers(String),
    /// Ctrl-C; what goes on.
    #[error("{0}")]
    Interrupted(String),
    /// Whoever read the output has read enough.
    #[error("standard output was closed")]
    Closed,
}

impl Error {
    /// The exit code for it.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Failed(_) | Self::NotInstalled(_) | Self::Forbidden(_) | Self::Unanswered(_) => Exit::Failed,
            Self::NotAsAsked(_) => Exit::NotAsAsked,
            Self::TimedOut(_) => Exit::TimedOut,
            Self::LossMayRemain(_) => Exit::LossMayRemain,
            Self::LossDiffers(_) => Exit::LossDiffers,
            Self::Interrupted(_) => Exit::Interrupted,
            Self::Closed => Exit::Done,
        }
    }

    /// An answer of the API server to an attempt such as "listing experiments".
    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| {
            // The API server repeats what others wrote.
            let words = line(&of_api(&what, &error));
            if is_forbidden(&error) {
                Self::Forbidden(words)
            } else if is_undefined(&error) {
                Self::NotInstalled(words)
            } else if listing::may_pass(&error) {
                Self::Unanswered(words)
            } else {
                Self::Failed(words)
            }
        }
    }
}

impl From<executor::Error> for Error {
    fn from(error: executor::Error) -> Self {
        match error {
            executor::Error::Api { what, source } => Self::api(what)(*source),
            // Another round may do it.
            other => Self::Unanswered(line(&other.to_string())),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("writing to standard output: {error}")),
        }
    }
}

/// What an admission webhook's refusal has in front.
const DENIED: &str = "denied the request: ";

/// Whether the user has no right to it.
pub(super) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && !status.message.contains(DENIED))
}

/// Whether there is no such thing.
pub(super) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server knows no such kind of object: then it names none in its answer (apiserver, `errors.NewGenericServerResponse`), or answers with a page.
fn is_undefined(error: &kube::Error) -> bool {
    let words = ["could not find the requested resource", "404 page not found"];
    matches!(error, kube::Error::Api(status) if status.code == 404 && words.iter().any(|words| status.message.contains(words)))
}

/// What was tried, what came back, and what to do about it.
fn of_api(what: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 && status.message.contains(DENIED) => {
            let words = status.message.split_once(DENIED).map_or(status.message.as_str(), |(_, words)| words);
            format!("{what}: refused: {words}")
        }
        kube::Error::Api(status) if status.code == 403 => {
            let remedy = "ask for that right (`kubectl netloss doctor` lists what each command takes), or use another --context";
            format!("{what}: not allowed: {}: {remedy}", status.message)
        }
        kube::Error::Api(status) if status.code == 401 => {
            format!("{what}: the API server does not know you: {}: log in again, or use another --context", status.message)
        }
        _ if is_undefined(error) => {
            format!("{what}: this cluster has no definition of ChaosExperiment: install netloss (kubectl apply -k config/default)")
        }
        kube::Error::Api(status) if status.message.contains("failed calling webhook") => format!(
            "{what}: {}: netloss's controller does not answer, and without it no experiment can be created: `kubectl netloss doctor` says why",
            status.message
        ),
        kube::Error::Api(status) => format!("{what}: {}", status.message),
        other => {
            let mut words = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                let more = error.to_string();
                if !words.contains(&more) {
                    words = format!("{words}: {more}");
                }
                source = error.source();
            }
            format!("{what}: the API server cannot be reached: {words}: check --context and --kubeconfig")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16, message: &str) -> String {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        Error::api("creating x")(kube::Error::Api(Box::new(status))).to_string()
    }

    #[test]
    fn errors_name_the_thing_and_the_way_out() {
        let denied = "admission webhook \"chaosexperiments.chaos.gushchin.dev\" denied the request: No eligible pods: none";
        assert_eq!(api(403, denied), "creating x: refused: No eligible pods: none");
        let forbidden = api(403, "chaosexperiments is forbidden: User \"jane\" cannot create");
        assert!(
            forbidden.contains("not allowed: chaosexperiments is forbidden: User \"jane\"") && forbidden.contains("ask for that right")
        );
        assert!(api(404, "the server could not find the requested resource").contains("install netloss"));
        assert!(api(500, "failed calling webhook \"x\": no endpoints").contains("kubectl netloss doctor"));
        assert_eq!(api(409, "it exists"), "creating x: it exists");
    }

    #[test]
    fn what_may_pass_is_told_from_what_is_refused() {
        let of = |code: u16| {
            let status = Status { code, message: "m".to_owned(), ..Status::default() };
            Error::api("reading x")(kube::Error::Api(Box::new(status)))
        };
        assert!(matches!(of(500), Error::Unanswered(_)) && matches!(of(429), Error::Unanswered(_)));
        assert!(matches!(of(403), Error::Forbidden(_)) && matches!(of(404), Error::Failed(_)) && matches!(of(422), Error::Failed(_)));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(matches!(Error::api("reading x")(kube::Error::Service(Box::new(reset))), Error::Unanswered(_)));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit(), Exit::Done);
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::Failed);
    }
}
