//! One agent per network namespace: an abstract unix socket (unix(7)) is the lock, and the way to speak to who holds it.
//!
//! Such a name belongs to the network namespace, so all containers of a pod share it, and it vanishes with its owner, however that
//! dies. What is asked and answered stands in [`netloss_contract::Request`]. Anything in the pod may ask, and nobody who asks can delay
//! the loss's end: each connection is served by a task of its own, with a limit on their number, on the request and on the time.

use netloss_contract::{Event, Holder, REQUEST_LIMIT, Record, Request};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;

/// The socket's name.
const NAME: &str = "netloss-agent";

/// How long the holder has to say who it is; one that takes longer counts as one that hangs.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Before one that hung up is asked again.
const REDIAL: Duration = Duration::from_millis(20);

/// How long a client has to ask, and to take an answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(2);

/// Clients that are served at once. More wait in the socket's queue.
const CLIENTS: usize = 8;

/// The longest answer that is read: more than a record's line has.
const ANSWER_LENGTH: u64 = 16 * 1024;

/// The lock on this network namespace, held until it is dropped.
#[derive(Debug)]
pub struct Control {
    visits: mpsc::Receiver<Visit>,
    places: Arc<Semaphore>,
    listening: JoinHandle<()>,
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
    /// Takes the lock, and listens.
    ///
    /// # Errors
    /// Where another agent has it, with what that says of itself.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn take() -> Result<Self, LockError> {
        let listener = match UnixListener::bind_addr(&address()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(LockError::Held(holder().map(Box::new))),
            bound => bound?,
        };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (sender, visits) = mpsc::channel(CLIENTS);
        let places = Arc::new(Semaphore::new(CLIENTS));
        let listening = tokio::spawn(listen(listener, sender, Arc::clone(&places)));
        Ok(Self { visits, places, listening })
    }

    /// The next one who asks. Cancel safe.
    pub async fn visit(&mut self) -> Visit {
        match self.visits.recv().await {
            Some(visit) => visit,
            // The task that listens never ends.
            None => std::future::pending().await,
        }
    }

    /// Waits until everybody has taken their answers, but not for long. For the very end.
    pub async fn farewell(self) {
        drop(self.visits);
        // It keeps a place for the next one.
        self.listening.abort();
        let all = u32::try_from(CLIENTS).unwrap_or(1);
        drop(timeout(CLIENT_LIMIT, self.places.acquire_many(all)).await);
    }
}

async fn listen(listener: tokio::net::UnixListener, visits: mpsc::Sender<Visit>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let visits = visits.clone();
                tokio::spawn(async move {
                    drop(serve(&stream, &visits).await.inspect_err(|error| debug!(%error, "a client went away")));
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "cannot accept");
                // Such as EMFILE: not worth a busy loop.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Hears one client, who says what it wants in one line, and passes on the answers.
///
/// # Errors
/// Where it says nothing that is understood, is too slow, or goes away.
pub async fn serve(stream: &tokio::net::UnixStream, visits: &mpsc::Sender<Visit>) -> io::Result<()> {
    let line = timeout(CLIENT_LIMIT, read_line(stream)).await??;
    let Some(request) = Request::from_line(&line) else { return Err(io::ErrorKind::InvalidData.into()) };
    let (answers, mut lines) = mpsc::channel(4);
    timeout(CLIENT_LIMIT, visits.send(Visit { request, answers })).await?.map_err(|_| io::ErrorKind::BrokenPipe)?;
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
pub enum Asked {
    /// No agent works here.
    Nobody,
    /// One does, and does not answer.
    NoAnswer,
    /// It answers.
    Answers(Box<Answers>),
}

/// The records that the holder answers with.
#[derive(Debug)]
pub struct Answers {
    first: Option<Record>,
    stream: BufReader<UnixStream>,
}

/// Asks the agent that works in this network namespace. Blocks for some seconds at most.
///
/// # Errors
/// Where the system has no socket.
pub fn ask(request: &Request) -> io::Result<Asked> {
    let begun = Instant::now();
    while begun.elapsed() < ANSWER_LIMIT {
        let mut stream = match UnixStream::connect_addr(&address()?) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Asked::Nobody),
            // Its queue is full: it has not listened for long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Asked::NoAnswer),
            connected => connected?,
        };
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        drop(stream.write_all(format!("{}\n", request.to_line()).as_bytes()));
        let mut answers = Answers { first: None, stream: BufReader::new(stream) };
        match answers.read(ANSWER_LIMIT) {
            Ok(Some(record)) => {
                answers.first = Some(record);
                return Ok(Asked::Answers(Box::new(answers)));
            }
            // It hung up, as one does that is just ending.
            Ok(None) => std::thread::sleep(REDIAL),
            Err(_) => break,
        }
    }
    Ok(Asked::NoAnswer)
}

impl Answers {
    /// The next record, if one comes in that time.
    pub fn next(&mut self, limit: Duration) -> Option<Record> {
        self.first.take().or_else(|| self.read(limit).ok()?)
    }

    /// None at the end, and for what is no record.
    fn read(&mut self, limit: Duration) -> io::Result<Option<Record>> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        (&mut self.stream).take(ANSWER_LENGTH).read_line(&mut line)?;
        Ok(Record::from_line(line.trim_end()))
    }
}

/// Who holds the lock, if it says so.
fn holder() -> Option<Holder> {
    let Ok(Asked::Answers(mut answers)) = ask(&Request::Status) else { return None };
    match answers.next(ANSWER_LIMIT)?.event {
        Event::Status(status) => status.holder,
        _ => None,
    }
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(NAME)
}
