//! One agent per network namespace: an abstract unix socket (unix(7)) is the lock, and the way to speak to who holds it.
//!
//! Such a name belongs to the network namespace, so all containers of a pod share it, and it vanishes with its owner, however that
//! dies. What is asked and answered stands in [`netloss_contract::Request`]. Anything in the pod may ask, and nobody who asks can delay
//! the loss's end. A thread of its own listens, which waits neither for the kernel nor for the rest of the agent: a request for the end rings the
//! bell of [`crate::ending`] as soon as it is read. Whoever is about to make or prolong a loss reads what waits in the socket itself, so no request
//! that was written before is missed, however long the process did not run. Each connection has one time limit for its request; of those that have
//! not said what they want, the oldest make room for new ones. A client is closed only after its last word was read.
//!
//! Anything in the pod may hold the name, too. Whoever asks has one time limit for all of it (a full queue, the request, the answer), and signals
//! end the waiting.

use crate::{
    ending::{Bell, Ending, Requests},
    signals::Signals,
};
use netloss_contract::{Event, Holder, REQUEST_LIMIT, Record, Request, RunId};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, socket},
    },
};
use std::{
    collections::VecDeque,
    io::{self, PipeWriter, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tracing::debug;

/// The socket's name.
const NAME: &str = "netloss-agent";

/// How long the holder has to say who it is; one that takes longer counts as one that hangs. A judgement between a
/// container whose CPU is throttled and a person who waits.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Before one that hung up, or whose queue is full, is asked again: 250 attempts in [`ANSWER_LIMIT`].
const REDIAL: Duration = Duration::from_millis(20);

/// How long a client has to send its request, which `netloss-agent` writes at once. Shorter than [`ANSWER_LIMIT`]: silent clients are closed
/// before the next one gives up waiting for room.
const CLIENT_LIMIT: Duration = Duration::from_secs(2);

/// Connections that may wait to be accepted (listen(2)): `SOMAXCONN` of Linux before 5.4, which each supported kernel takes. Also the work of one reading: whoever connected before it began is among so many.
const BACKLOG: u8 = 128;

/// Clients that have not said yet what they want: half of [`BACKLOG`], and few of the 1024 descriptors that a process has by default. Of more, the oldest are closed, after what they have said by then was read.
const SILENT_CLIENTS: usize = 64;

/// Clients whose requests wait, of each kind. A judgement: one person, one controller and a few repetitions of each. More are closed, and ask again; a request for the end has rung the bell all the same.
const WAITING_CLIENTS: usize = 8;

/// Before the next attempt to accept where the system has no descriptor left: not worth a busy loop.
const NO_DESCRIPTOR: Duration = Duration::from_secs(1);

/// The longest answer that is read, in bytes: four times a record's line (`netloss_contract::LINE_LIMIT`), as answers of later versions may
/// be longer.
const ANSWER_LENGTH: usize = 16 * 1024;

/// The lock on this network namespace, held until it and its [`Ending`] are dropped.
#[derive(Debug)]
pub struct Control {
    /// Those who ask for the end of this run.
    pub stops: ClientRequests,
    /// Those who ask for anything else.
    pub visits: ClientRequests,
    ending: Ending,
    /// Closed, it lets the thread end.
    _open: PipeWriter,
}

/// Somebody who asked for something.
#[derive(Debug)]
pub struct ClientRequest {
    /// What.
    pub request: Request,
    stream: UnixStream,
}

impl ClientRequest {
    /// Answers, and goes on being able to. Never waits: an answer that the socket does not take at once is dropped. It takes more than the
    /// two that anybody gets.
    pub fn answer(&self, record: &Record) {
        let line = record.to_line() + "\n";
        drop((&self.stream).write_all(line.as_bytes()).inspect_err(|error| debug!(%error, "not answered")));
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
        let (to_stops, stops) = mpsc::channel(WAITING_CLIENTS);
        let (to_visits, visits) = mpsc::channel(WAITING_CLIENTS);
        let (bell, rung) = Bell::new()?;
        let door = Door::new(listener, run.cloned(), bell, (to_stops, to_visits))?;
        let (until, open) = io::pipe()?;
        door.epoll.add(&until, readable(CLOSED)).map_err(io::Error::from)?;
        let door = Arc::new(Mutex::new(door));
        let ending = Ending::new(signals, rung, Arc::clone(&door) as Arc<dyn Requests>)?;
        thread::Builder::new().name("control".to_owned()).stack_size(128 * 1024).spawn(move || {
            let _until = until;
            wait_for_clients(&door);
        })?;
        Ok(Self { stops: ClientRequests(stops), visits: ClientRequests(visits), ending, _open: open })
    }

    /// Sees when somebody asks for the end of this run, or a signal comes.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.ending
    }
}

/// Those who have asked for something.
#[derive(Debug)]
pub struct ClientRequests(mpsc::Receiver<ClientRequest>);

impl ClientRequests {
    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> ClientRequest {
        match self.0.recv().await {
            Some(visit) => visit,
            // The thread that listens never ends.
            None => std::future::pending().await,
        }
    }
}

/// Where requests come in.
#[derive(Debug)]
struct Door {
    listener: UnixListener,
    /// Has the listener and those who have not said what they want.
    epoll: Arc<Epoll>,
    run: Option<RunId>,
    bell: Bell,
    stops: mpsc::Sender<ClientRequest>,
    visits: mpsc::Sender<ClientRequest>,
    /// Those who have not said what they want, the oldest first.
    silent: VecDeque<Client>,
    /// Whether the last attempt to accept found the system without a descriptor.
    deaf: bool,
}

/// Somebody who has not said yet what it wants.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    /// What it has said so far.
    said: Vec<u8>,
    until: Instant,
}

/// What epoll says of the pipe whose closing ends the thread, and of everything else.
const CLOSED: u64 = 1;
const CLIENTS: u64 = 0;

fn readable(data: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, data)
}

fn lock(door: &Mutex<Door>) -> MutexGuard<'_, Door> {
    door.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads requests as they come, until the lock is given back.
fn wait_for_clients(door: &Mutex<Door>) {
    let epoll = Arc::clone(&lock(door).epoll);
    loop {
        let mut events = [EpollEvent::empty(); 8];
        let limit = lock(door).pause().map_or(EpollTimeout::NONE, |pause| {
            // Not less than that, which would be a busy loop.
            EpollTimeout::try_from(pause + Duration::from_micros(999)).unwrap_or(EpollTimeout::MAX)
        });
        let ready = epoll.wait(&mut events, limit).unwrap_or(0);
        if events[..ready].iter().any(|event| event.data() == CLOSED) {
            break;
        }
        let mut door = lock(door);
        door.read_all();
        if door.deaf {
            drop(door);
            thread::sleep(NO_DESCRIPTOR);
        }
    }
}

impl Requests for Mutex<Door> {
    fn read(&self) {
        lock(self).read_all();
    }
}

impl Door {
    fn new(
        listener: UnixListener,
        run: Option<RunId>,
        bell: Bell,
        (stops, visits): (mpsc::Sender<ClientRequest>, mpsc::Sender<ClientRequest>),
    ) -> io::Result<Self> {
        listen(&listener, Backlog::new(BACKLOG)?)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, readable(CLIENTS))?;
        Ok(Self { listener, epoll: Arc::new(epoll), run, bell, stops, visits, silent: VecDeque::new(), deaf: false })
    }

    /// Until a silent client's time is over.
    fn pause(&self) -> Option<Duration> {
        self.silent.front().map(|client| client.until.saturating_duration_since(Instant::now()))
    }

    /// Reads everything that was written before this began, and waits for nothing. Then lets those go whose time is over.
    fn read_all(&mut self) {
        for client in std::mem::take(&mut self.silent) {
            self.hear(client);
        }
        self.deaf = false;
        for _ in 0..=BACKLOG {
            match self.listener.accept() {
                Ok((stream, _)) => self.come_in(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    debug!(%error, "cannot accept");
                    self.deaf = true;
                    break;
                }
            }
        }
        let now = Instant::now();
        while self.silent.len() > SILENT_CLIENTS || self.silent.front().is_some_and(|client| client.until <= now) {
            self.dismiss();
        }
    }

    fn come_in(&mut self, stream: UnixStream) {
        if let Err(error) = stream.set_nonblocking(true).and_then(|()| Ok(self.epoll.add(&stream, readable(CLIENTS))?)) {
            debug!(%error, "cannot listen to a client");
            return;
        }
        self.hear(Client { stream, said: Vec::new(), until: Instant::now() + CLIENT_LIMIT });
    }

    /// Reads what a client says. It is asked again later where it has not said all.
    fn hear(&mut self, mut client: Client) {
        match request(&client.stream, &mut client.said) {
            None => self.silent.push_back(client),
            Some(Ok(request)) => self.let_in(client.stream, request),
            Some(Err(error)) => debug!(%error, "a client went away"),
        }
    }

    /// Closes the oldest client. What it wrote by then is read, and it can write no more, so none is taken for heard that was not.
    fn dismiss(&mut self) {
        let Some(mut client) = self.silent.pop_front() else { return };
        drop(client.stream.shutdown(Shutdown::Read));
        match request(&client.stream, &mut client.said) {
            Some(Ok(request)) => self.let_in(client.stream, request),
            Some(Err(error)) => debug!(%error, "a client went away"),
            None => debug!("a client was let go"),
        }
    }

    /// Passes on what was asked.
    fn let_in(&mut self, stream: UnixStream, request: Request) {
        let stops = request.stops(self.run.as_ref());
        if stops {
            self.bell.ring();
        }
        let _ = self.epoll.delete(&stream);
        let visits = if stops { &self.stops } else { &self.visits };
        drop(visits.try_send(ClientRequest { request, stream }));
    }
}

/// Reads what a client has said by now, which wants something in one line. None while it may say more.
///
/// # Errors
/// Where it says nothing that is understood, or goes away.
pub fn request(mut stream: &UnixStream, said: &mut Vec<u8>) -> Option<io::Result<Request>> {
    let mut part = [0; 256];
    while !said.contains(&b'\n') && said.len() <= REQUEST_LIMIT {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => said.extend(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Some(Err(error)),
        }
    }
    let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let request = std::str::from_utf8(line).ok().and_then(Request::from_line);
    Some(request.ok_or_else(|| io::ErrorKind::InvalidData.into()))
}

/// What became of asking the holder of the lock.
#[derive(Debug)]
pub enum Asked<'a> {
    /// No agent works here.
    Nobody,
    /// One does, and does not answer. `told`: whether the request waits in its socket, where an agent reads it before it makes or prolongs a
    /// loss.
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
    let mut hung_up = false;
    loop {
        let stream = match dial(until, signals)? {
            Dialled::Connected(stream) => stream,
            Dialled::Nobody => return Ok(Asked::Nobody),
            Dialled::NoRoom => return Ok(Asked::NoAnswer { told: false }),
        };
        // A request fits into an empty socket.
        let told = (&stream).write_all(format!("{}\n", request.to_line()).as_bytes()).is_ok();
        let mut answers = Answers { first: None, stream, signals, rest: Vec::new() };
        match answers.read(until) {
            Ok(Some(record)) => {
                answers.first = Some(record);
                return Ok(Asked::Answers(Box::new(answers)));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Asked::NoAnswer { told: told && !hung_up }),
            // It hung up, as one does that is just ending, or has too many clients: with this connection went what was written into it, and what
            // waits in the next one may go the same way.
            Ok(None) | Err(_) => {
                hung_up = true;
                let _ = signals.wait(REDIAL);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: &[u8] = b"{\"request\":\"stop\"}\n";

    struct Room {
        door: Door,
        address: SocketAddr,
        rung: io::PipeReader,
        stops: mpsc::Receiver<ClientRequest>,
        _visits: mpsc::Receiver<ClientRequest>,
    }

    fn room(name: &str) -> Room {
        let address = SocketAddr::from_abstract_name(format!("netloss-test-{}-{name}", std::process::id())).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (to_stops, stops) = mpsc::channel(WAITING_CLIENTS);
        let (to_visits, visits) = mpsc::channel(WAITING_CLIENTS);
        let (bell, rung) = Bell::new().unwrap();
        let door = Door::new(listener, None, bell, (to_stops, to_visits)).unwrap();
        Room { door, address, rung, stops, _visits: visits }
    }

    impl Room {
        fn client(&self) -> UnixStream {
            UnixStream::connect_addr(&self.address).unwrap()
        }

        fn has_rung(&self) -> bool {
            let mut fds = [nix::poll::PollFd::new(self.rung.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap() > 0
        }
    }

    #[test]
    fn reads_a_request_that_waits_before_or_behind_a_crowd() {
        for before in [0, 1, 63, 64, 65, 120] {
            let mut room = room(&format!("crowd-{before}"));
            let crowd: Vec<_> = (0..before).map(|_| room.client()).collect();
            let mut stop = room.client();
            stop.write_all(STOP).unwrap();
            let more: Vec<_> = (before..120).map(|_| room.client()).collect();
            room.door.read_all();
            assert!(room.has_rung(), "{before} clients came first");
            assert_eq!(room.stops.try_recv().unwrap().request, Request::Stop { run: None });
            assert!(room.door.silent.len() <= SILENT_CLIENTS);
            drop((crowd, more));
        }
    }

    /// It was silent when it was accepted, and has spoken since.
    #[test]
    fn reads_a_silent_client_before_it_makes_room() {
        let mut room = room("room");
        let mut oldest = room.client();
        room.door.read_all();
        assert_eq!(room.door.silent.len(), 1);
        oldest.write_all(STOP).unwrap();
        room.door.dismiss();
        assert!(room.has_rung());
    }

    /// Whoever can still write is not taken for one that was closed.
    #[test]
    fn a_client_that_was_closed_cannot_write() {
        let mut room = room("closed");
        let mut silent = room.client();
        room.door.read_all();
        room.door.dismiss();
        assert!(silent.write_all(STOP).is_err());
        assert!(!room.has_rung());
    }

    #[test]
    fn closes_a_client_whose_time_is_over_and_reads_it_first() {
        let mut room = room("late");
        let (mut speaks, silent) = (room.client(), room.client());
        room.door.read_all();
        room.door.silent.iter_mut().for_each(|client| client.until = Instant::now());
        speaks.write_all(STOP).unwrap();
        room.door.read_all();
        assert!(room.has_rung() && room.door.silent.is_empty());
        assert_eq!((&silent).read(&mut [0]).unwrap(), 0, "it was closed");
    }
}
