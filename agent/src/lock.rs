//! One agent per network namespace: an abstract unix socket (unix(7)) is the lock, and answers who holds it.
//!
//! Such a name belongs to the network namespace, so all containers of a pod share it, and it vanishes with its owner, however that
//! dies.

use netloss_contract::Holder;
use std::{
    io::{self, Read},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::Duration,
};
use tracing::debug;

/// The socket's name.
const NAME: &str = "netloss-agent";

/// How long the holder has to say who it is. One that is stopped never does.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const ANSWER_LENGTH: u64 = 4096;

/// The lock on this network namespace, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    listener: tokio::net::UnixListener,
    answer: String,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent works in this network namespace: {}", describe(.0.as_deref()))]
    Held(Option<Box<Holder>>),
    /// The socket could not be made.
    #[error("cannot take the lock on this network namespace: {0}")]
    Io(#[from] io::Error),
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { run: Some(run), pid, started_at, .. }) => {
            format!("run {run}, as pid {pid} of its container, since {started_at}; stop it or wait for its end")
        }
        Some(Holder { run: None, pid, started_at, .. }) => {
            format!("one without a run's name, as pid {pid} of its container, since {started_at}; stop it or wait for its end")
        }
        None => "it does not answer (stopped, or busy with the kernel)".to_owned(),
    }
}

impl Lock {
    /// Takes the lock, and will say of its holder what `holder` says.
    ///
    /// # Errors
    /// Where another agent has it, with what that says of itself.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn take(holder: &Holder) -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let listener = match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(LockError::Held(ask(&address).map(Box::new))),
            bound => bound?,
        };
        listener.set_nonblocking(true)?;
        let answer = serde_json::to_string(holder).map_err(io::Error::from)?;
        Ok(Self { listener: tokio::net::UnixListener::from_std(listener)?, answer })
    }

    /// Answers who asks, for ever. Cancel safe.
    pub async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                // The answer is shorter than any socket's buffer: who does not read it delays nobody.
                Ok((stream, _)) => drop(stream.try_write(self.answer.as_bytes()).inspect_err(|error| debug!(%error, "not answered"))),
                Err(error) => {
                    debug!(%error, "cannot accept");
                    // Such as EMFILE: not worth a busy loop.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

fn ask(address: &SocketAddr) -> Option<Holder> {
    let stream = UnixStream::connect_addr(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    let mut answer = String::new();
    stream.take(ANSWER_LENGTH).read_to_string(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}
