//! One agent per network namespace: an abstract unix socket (unix(7)) is the lock, and the way to speak to who holds it.
//!
//! Such a name belongs to the network namespace, so all containers of a pod share it, and it vanishes with its owner, however that
//! dies. What is asked and answered stands in [`netloss_contract::Request`]. Anything in the pod may ask, and nobody who asks can delay
//! the loss's end. A thread of its own listens, which waits neither for the kernel nor for the rest of the agent: a request for the end rings the
//! bell of [`crate::ending`] as soon as it is read. Each connection has one time limit for its request; of those that have not said what they
//! want, the oldest make room for new ones.
//!
//! Anything in the pod may hold the name, too. Whoever asks has one time limit for all of it (a full queue, the request, the answer), and signals
//! end the waiting.

use crate::{
    ending::{Bell, Ending},
    signals::Signals,
};
use netloss_contract::{Event, Holder, REQUEST_LIMIT, Record, Request, RunId};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

/// The socket's name.
const NAME: &str = "netloss-agent";

/// How long the holder has to say who it is; one that takes longer counts as one that hangs.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Before one that hung up, or whose queue is full, is asked again.
const REDIAL: Duration = Duration::from_millis(20);

/// How long a client has to ask, and to take an answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(2);

/// Clients that have not said yet what they want. Of more, the oldest are let go: whoever wants something says so at once.
const SILENT_CLIENTS: usize = 64;

/// Clients whose requests wait, of each kind. More are let go, and ask again.
const WAITING_CLIENTS: usize = 8;

/// The longest answer that is read: more than a record's line has.
const ANSWER_LENGTH: usize = 16 * 1024;

/// The lock on this network namespace, held until it is dropped.
#[derive(Debug)]
pub struct Control {
    /// Those who ask for the end of this run.
    pub stops: Visits,
    /// Those who ask for anything else.
    pub visits: Visits,
    ending: Ending,
    /// Dropped, it lets the thread end.
    closing: oneshot::Sender<()>,
    closed: oneshot::Receiver<()>,
}

/// Somebody who asked for something.
#[derive(Debug)]
pub struct Visit {
    /// What.
    pub request: Request,
    answers: mpsc::Sender<String>,
}

impl Visit {
    /// Answers, and goes on being able to. Never waits: an answer that cannot be taken is dropped.
    pub fn answer(&self, record: &Record) {
        drop(self.answers.try_send(record.to_line()).inspect_err(|error| debug!(%error, "not answered")));
    }
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
            format!("run {run}, as pid {pid} of its container, since {started_at}; stop it (netloss-agent stop) or wait for its end")
        }
        Some(Holder { run: None, pid, started_at, .. }) => {
            format!(
                "one without a run's name, as pid {pid} of its container, since {started_at}; stop it (netloss-agent stop) or wait for its end"
            )
        }
        None => "it does not answer (stopped, or busy with the kernel)".to_owned(),
    }
}

impl Control {
    /// Takes the lock for this run, and listens. With another holder it blocks for [`ANSWER_LIMIT`] at most, or until a signal comes.
    ///
    /// # Errors
    /// Where another agent has it, with what that says of itself.
    pub fn take(run: Option<&RunId>, signals: &Signals) -> Result<Self, LockError> {
        let listener = match UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(LockError::Held(holder(signals).map(Box::new))),
            bound => bound?,
        };
        listener.set_nonblocking(true)?;
        let (bell, ending) = Ending::new(signals)?;
        let (to_stops, stops) = mpsc::channel(WAITING_CLIENTS);
        let (to_visits, visits) = mpsc::channel(WAITING_CLIENTS);
        let (closing, until) = oneshot::channel();
        let (when_closed, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::UnixListener::from_std(listener)?
        };
        let door = Door { run: run.cloned(), bell, stops: to_stops, visits: to_visits, silent: JoinSet::new(), answered: JoinSet::new() };
        thread::Builder::new().name("control".to_owned()).stack_size(256 * 1024).spawn(move || {
            runtime.block_on(door.listen(listener, until));
            // Nobody may wait for it.
            let _ = when_closed.send(());
        })?;
        Ok(Self { stops: Visits(stops), visits: Visits(visits), ending, closing, closed })
    }

    /// Sees when somebody asks for the end of this run, or a signal comes.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Waits until everybody has taken their answers, but not for long. For the very end.
    pub async fn farewell(self) {
        let Self { stops, visits, closing, closed, .. } = self;
        drop((stops, visits, closing));
        drop(timeout(CLIENT_LIMIT, closed).await);
    }
}

/// Those who have asked for something.
#[derive(Debug)]
pub struct Visits(mpsc::Receiver<Visit>);

impl Visits {
    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Visit {
        match self.0.recv().await {
            Some(visit) => visit,
            // The thread that listens never ends.
            None => std::future::pending().await,
        }
    }
}

/// What listens.
struct Door {
    run: Option<RunId>,
    bell: Bell,
    stops: mpsc::Sender<Visit>,
    visits: mpsc::Sender<Visit>,
    /// Those who have not said what they want.
    silent: JoinSet<io::Result<(tokio::net::UnixStream, Request)>>,
    /// Those who are answered.
    answered: JoinSet<()>,
}

impl Door {
    async fn listen(mut self, listener: tokio::net::UnixListener, mut until: oneshot::Receiver<()>) {
        let mut oldest = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut until => break,
                Some(asked) = self.silent.join_next() => match asked {
                    Ok(Ok((stream, request))) => self.let_in(stream, request),
                    Ok(Err(error)) => debug!(%error, "a client went away"),
                    Err(_) => debug!("a client was let go"),
                },
                Some(_) = self.answered.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        oldest.retain(|client: &tokio::task::AbortHandle| !client.is_finished());
                        if oldest.len() >= SILENT_CLIENTS && let Some(client) = oldest.pop_front() {
                            client.abort();
                        }
                        oldest.push_back(self.silent.spawn(async move { request(&stream).await.map(|request| (stream, request)) }));
                    }
                    Err(error) => {
                        debug!(%error, "cannot accept");
                        // Such as EMFILE: not worth a busy loop.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
        drop((listener, self.stops, self.visits, self.silent));
        drop(timeout(CLIENT_LIMIT, self.answered.join_all()).await);
    }

    /// Passes on what was asked, and the answers.
    fn let_in(&mut self, stream: tokio::net::UnixStream, request: Request) {
        let stops = request.stops(self.run.as_ref());
        if stops {
            self.bell.ring();
        }
        let (answers, lines) = mpsc::channel(4);
        let visits = if stops { &self.stops } else { &self.visits };
        if visits.try_send(Visit { request, answers }).is_ok() {
            self.answered.spawn(async move { drop(pass_on(&stream, lines).await.inspect_err(|error| debug!(%error, "not answered"))) });
        }
    }
}

/// Hears one client, who says what it wants in one line.
///
/// # Errors
/// Where it says nothing that is understood, is too slow, or goes away.
pub async fn request(stream: &tokio::net::UnixStream) -> io::Result<Request> {
    let line = timeout(CLIENT_LIMIT, read_line(stream)).await??;
    Request::from_line(&line).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

async fn pass_on(stream: &tokio::net::UnixStream, mut lines: mpsc::Receiver<String>) -> io::Result<()> {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        timeout(CLIENT_LIMIT, write(stream, line.as_bytes())).await??;
    }
    Ok(())
}

async fn read_line(stream: &tokio::net::UnixStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.contains(&b'\n') && bytes.len() <= REQUEST_LIMIT {
        stream.readable().await?;
        let mut part = [0; 256];
        match stream.try_read(&mut part) {
            Ok(0) => break,
            Ok(length) => bytes.extend(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8(line.to_vec()).map_err(|_| io::ErrorKind::InvalidData.into())
}

async fn write(stream: &tokio::net::UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What became of asking the holder of the lock.
#[derive(Debug)]
pub enum Asked<'a> {
    /// No agent works here.
    Nobody,
    /// One does, and does not answer. `told`: whether the request waits in its socket, where it finds it when it runs again.
    NoAnswer {
        /// Whether it does.
        told: bool,
    },
    /// It answers.
    Answers(Box<Answers<'a>>),
}

/// The records that the holder answers with.
#[derive(Debug)]
pub struct Answers<'a> {
    first: Option<Record>,
    stream: UnixStream,
    signals: &'a Signals,
    /// Read, and not yet a line.
    rest: Vec<u8>,
}

/// Asks the agent that works in this network namespace. Blocks for [`ANSWER_LIMIT`] at most, or until a signal comes.
///
/// # Errors
/// Where the system has no socket.
pub fn ask<'a>(request: &Request, signals: &'a Signals) -> io::Result<Asked<'a>> {
    let until = Instant::now() + ANSWER_LIMIT;
    let mut told = false;
    loop {
        let stream = match dial(until, signals)? {
            Dialled::Connected(stream) => stream,
            Dialled::Nobody => return Ok(Asked::Nobody),
            Dialled::NoRoom => break,
        };
        // A request fits into an empty socket.
        told = (&stream).write_all(format!("{}\n", request.to_line()).as_bytes()).is_ok();
        let mut answers = Answers { first: None, stream, signals, rest: Vec::new() };
        match answers.read(until) {
            Ok(Some(record)) => {
                answers.first = Some(record);
                return Ok(Asked::Answers(Box::new(answers)));
            }
            // It hung up, as one does that is just ending, or has too many clients.
            Ok(None) => {
                let _ = signals.wait(REDIAL);
            }
            Err(_) => break,
        }
    }
    Ok(Asked::NoAnswer { told })
}

/// What became of connecting.
enum Dialled {
    Connected(UnixStream),
    Nobody,
    /// Its queue stayed full, or a signal came.
    NoRoom,
}

/// Connects to the holder, until then at most.
fn dial(until: Instant, signals: &Signals) -> io::Result<Dialled> {
    while Instant::now() < until && !signals.came() {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(stream.as_raw_fd(), &UnixAddr::new_abstract(NAME.as_bytes())?) {
            Ok(()) => return Ok(Dialled::Connected(stream.into())),
            Err(Errno::ECONNREFUSED) => return Ok(Dialled::Nobody),
            // Its queue is full. A socket that blocks would wait for room without an end.
            Err(Errno::EAGAIN) => {
                let _ = signals.wait(REDIAL);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Dialled::NoRoom)
}

impl Answers<'_> {
    /// The next record, if one comes until then and before a signal.
    pub fn next(&mut self, until: Instant) -> Option<Record> {
        self.first.take().or_else(|| self.read(until).ok()?)
    }

    /// None at the end, and for what is no record.
    fn read(&mut self, until: Instant) -> io::Result<Option<Record>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(std::str::from_utf8(&line).ok().and_then(|line| Record::from_line(line.trim_end())));
            }
            if self.rest.len() > ANSWER_LENGTH {
                return Ok(None);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.signals.came() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(None),
                Ok(length) => self.rest.extend(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.signals.wait_or_read(Some(self.stream.as_fd()), left),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Who holds the lock, if it says so.
fn holder(signals: &Signals) -> Option<Holder> {
    let Ok(Asked::Answers(mut answers)) = ask(&Request::Status, signals) else { return None };
    match answers.next(Instant::now())?.event {
        Event::Status(status) => status.holder,
        _ => None,
    }
}
