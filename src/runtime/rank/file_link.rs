//! Files on their way between ranks.
//!
//! A rank that needs a file asks the coordinator for a source (`schedule/transfers`) and the source
//! for the file. That travels as an archive, in pieces of bounded size: the receiver allows so
//! many, and more as it writes them, so neither end holds much of it. All work with disks is done
//! in threads of their own; the engine only passes messages and pieces on.
//!
//! | who | waits for | ends when |
//! |---|---|---|
//! | the thread of an attempt | an answer, pieces | the attempt is given up, the other rank is gone or falls silent, the run is over |
//! | a thread that sends | leave to send more | the receiver wants no more, is gone or silent, the run is over |

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::piece_queue::PieceQueue;
use crate::exec::{FileCarrier, remove_tree, unpack};
use crate::fabric::wire::{MAX_PIECE_BYTES, Piece, PieceKind, PieceStream};
use crate::model::{CarriedFile, Rank, TaskId};
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{FileMessage, Message};

/// Pieces of a transfer that are on their way or wait at the receiver, at most.
const WINDOW: u32 = 8;

/// The receiver allows further pieces when it has taken this many.
const CREDIT: u32 = WINDOW / 2;

/// A rank that sends nothing more, or wants nothing, for this long has failed. The first piece may
/// take longer: the rank has others to serve.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// How often a thread that waits looks whether its attempt is given up.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Threads for each [`Service`], at most; further requests wait.
const MAX_THREADS: [usize; 2] = [64, 16];

/// Attempts to get a temporary file from another source.
const MAX_SOURCES: usize = 3;

/// What waits to be done for other ranks.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// What a rank does for others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Service {
    /// It answers and sends.
    Send,
    /// Rank 0 takes in what attempts have left; these may take long, and do not hold up the others.
    TakeIn,
}

/// An attempt on a rank.
pub(super) type AttemptOf = (Rank, TaskId, u16);

/// What the threads of a rank that move files share with its engine.
pub(in crate::runtime) struct FileLink {
    me: Rank,
    node: String,
    is_away: bool,
    event_wait: Arc<EventWait>,
    pieces: Arc<PieceQueue>,
    /// `messages` is not empty.
    has_messages: AtomicBool,
    state: Mutex<LinkState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinkState {
    next: u32,
    messages: Vec<(Rank, Message)>,
    /// Questions, each with the rank that is to answer it, and its answer.
    asked: HashMap<u32, (Rank, Option<FileMessage>)>,
    incoming: HashMap<u32, Incoming>,
    /// How many pieces a receiver allows.
    outgoing: HashMap<(Rank, u32), u32>,
    /// What attempts have left that rank 0 is to fetch.
    results: HashMap<(TaskId, u16), Vec<(PathBuf, PathBuf)>>,
    /// What rank 0 takes in; the flag is set when it is not to be put in place any more.
    receptions: HashMap<AttemptOf, Arc<AtomicBool>>,
    /// Ranks that have left or are lost.
    gone: HashSet<Rank>,
    services: [ServiceState; 2],
    is_closed: bool,
}

#[derive(Default)]
struct ServiceState {
    work: VecDeque<Work>,
    threads: usize,
}

/// A transfer that arrives here.
struct Incoming {
    from: Rank,
    pieces: VecDeque<Vec<u8>>,
    next: u32,
    /// How it has ended.
    end: Option<Result<(), String>>,
}

impl fmt::Debug for FileLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLink").field("me", &self.me).finish_non_exhaustive()
    }
}

impl FileLink {
    pub(super) fn new(
        me: Rank,
        node: String,
        is_away: bool,
        event_wait: Arc<EventWait>,
        pieces: Arc<PieceQueue>,
    ) -> FileLink {
        let (has_messages, state, changed) = (AtomicBool::new(false), Mutex::default(), Condvar::new());
        FileLink { me, node, is_away, event_wait, pieces, has_messages, state, changed }
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, LinkState>) -> MutexGuard<'a, LinkState> {
        self.changed.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Leaves a message for the engine.
    pub(super) fn post(&self, to: Rank, message: Message) {
        self.state().messages.push((to, message));
        self.has_messages.store(true, Release);
        self.event_wait.notify();
    }

    pub(super) fn post_about(&self, to: Rank, id: u32, message: FileMessage) {
        self.post(to, Message::Files { id, message });
    }

    /// Messages that the engine is to send.
    pub(super) fn take_messages(&self) -> Vec<(Rank, Message)> {
        if !self.has_messages.load(Acquire) || !self.has_messages.swap(false, Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.state().messages)
    }

    /// Ranks have left or are lost: nothing more arrives from them.
    pub(super) fn lose(&self, ranks: impl Iterator<Item = Rank>) {
        let mut state = self.state();
        state.gone.extend(ranks);
        let of_gone = state.receptions.iter().filter(|((rank, ..), _)| state.gone.contains(rank));
        of_gone.for_each(|(_, is_given_up)| is_given_up.store(true, Relaxed));
        drop(state);
        self.changed.notify_all();
    }

    /// Rank 0 begins to take in what an attempt has left.
    pub(super) fn begin_reception(self: &Arc<Self>, of: AttemptOf) -> Reception {
        let mut state = self.state();
        let is_given_up = Arc::new(AtomicBool::new(state.gone.contains(&of.0)));
        state.receptions.insert(of, Arc::clone(&is_given_up));
        Reception { link: Arc::clone(self), of, is_given_up }
    }

    /// What an attempt has left is not to be put in place any more.
    pub(super) fn end_reception(&self, of: AttemptOf) {
        self.state().receptions.get(&of).into_iter().for_each(|is_given_up| is_given_up.store(true, Relaxed));
        self.changed.notify_all();
    }

    /// The run is over: whoever waits ends.
    pub(in crate::runtime) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    /// Takes a piece in.
    pub(super) fn receive(&self, from: Rank, id: u32, piece: Piece) {
        let mut state = self.state();
        let Some(incoming) = state.incoming.get_mut(&id).filter(|incoming| incoming.from == from) else { return };
        incoming.receive(piece);
        drop(state);
        self.changed.notify_all();
    }

    /// A rank asks for a transfer from here.
    pub(super) fn begin_sending(&self, to: Rank, id: u32) {
        self.state().outgoing.insert((to, id), WINDOW);
    }

    /// What an attempt has left that rank 0 is to fetch.
    pub(super) fn results(&self, attempt: (TaskId, u16)) -> Option<Vec<(PathBuf, PathBuf)>> {
        self.state().results.get(&attempt).cloned()
    }

    /// Leaves work for the threads that serve. True if another one is to be started.
    pub(super) fn add_work(&self, service: Service, work: Work) -> bool {
        let mut state = self.state();
        let ServiceState { work: waiting, threads } = &mut state.services[service as usize];
        waiting.push_back(work);
        let is_allowed = *threads < MAX_THREADS[service as usize];
        *threads += usize::from(is_allowed);
        is_allowed
    }

    /// A thread that serves could not be started. Returns the work that no thread will do.
    pub(super) fn lacks_thread(&self, service: Service) -> VecDeque<Work> {
        let mut state = self.state();
        let ServiceState { work, threads } = &mut state.services[service as usize];
        *threads -= 1;
        if *threads == 0 { std::mem::take(work) } else { VecDeque::new() }
    }

    /// What a thread that serves does next; if there is nothing, it ends.
    pub(super) fn next_work(&self, service: Service) -> Option<Work> {
        let mut state = self.state();
        let ServiceState { work, threads } = &mut state.services[service as usize];
        let work = work.pop_front();
        *threads -= usize::from(work.is_none());
        work
    }

    pub(super) fn answer(&self, from: Rank, id: u32, message: FileMessage) {
        if let Some((_, answer)) = self.state().asked.get_mut(&id).filter(|(asked, _)| *asked == from) {
            *answer = Some(message);
        }
        self.changed.notify_all();
    }

    pub(super) fn credit(&self, from: Rank, id: u32, pieces: u32) {
        let mut state = self.state();
        match pieces {
            0 => drop(state.outgoing.remove(&(from, id))),
            _ => {
                let left = state.outgoing.get_mut(&(from, id));
                left.into_iter().for_each(|left| *left = left.saturating_add(pieces).min(WINDOW));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Asks a rank and waits for its answer. Returns it with the number of the question. Nothing is
    /// asked once it is given up: a message about that is the last one.
    fn ask(&self, to: Rank, message: FileMessage, is_given_up: &AtomicBool) -> (u32, io::Result<FileMessage>) {
        let mut state = self.state();
        state.next = state.next.wrapping_add(1);
        let id = state.next;
        if is_given_up.load(Relaxed) {
            return (id, Err(io::ErrorKind::Interrupted.into()));
        }
        state.asked.insert(id, (to, None));
        state.messages.push((to, Message::Files { id, message }));
        self.has_messages.store(true, Release);
        self.event_wait.notify();
        loop {
            let answer = state.asked.get_mut(&id).and_then(|(_, answer)| answer.take());
            let end = match answer {
                Some(answer) => Ok(answer),
                None if is_given_up.load(Relaxed) => Err(io::ErrorKind::Interrupted.into()),
                None if state.is_closed => Err(io::Error::other("the run is over")),
                None => {
                    state = self.wait(state);
                    continue;
                }
            };
            state.asked.remove(&id);
            return (id, end);
        }
    }

    /// Fetches a file from the rank that the coordinator names.
    fn fetch_once(&self, file: &CarriedFile, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        let (id, answer) = self.ask(Rank::ZERO, FileMessage::Seek { file: file.clone() }, is_given_up);
        let fetched = match answer {
            Ok(FileMessage::Source { rank: Some(source) }) => self.fetch_from(source, id, file, to, is_given_up),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::NotFound, "no rank sends it")),
            Err(error) => Err(error),
        };
        self.post_about(Rank::ZERO, id, FileMessage::Ended { arrived: fetched.is_ok() });
        if let (Ok(_), &CarriedFile::Held { name, version }, false) = (&fetched, file, self.is_away) {
            self.hold(name, version);
        }
        fetched
    }

    fn fetch_from(
        &self,
        source: Rank,
        id: u32,
        file: &CarriedFile,
        to: &Path,
        is_given_up: &AtomicBool,
    ) -> io::Result<u64> {
        if source == self.me {
            return Err(io::Error::other("a rank does not send to itself"));
        }
        let incoming = Incoming { from: source, pieces: VecDeque::new(), next: 0, end: None };
        self.state().incoming.insert(id, incoming);
        let _awaiting = self.pieces.await_pieces();
        self.post_about(source, id, FileMessage::Get { file: file.clone() });
        let mut reader = PieceReader { link: self, source, id, is_given_up, piece: Vec::new(), at: 0, taken: 0 };
        let unpacked = unpack(&mut reader, to, is_given_up);
        self.state().incoming.remove(&id);
        unpacked.inspect_err(|_| {
            self.post_about(source, id, FileMessage::Credit { pieces: 0 });
            remove_tree(to);
        })
    }
}

/// What rank 0 takes in of an attempt, until it is dropped.
pub(super) struct Reception {
    link: Arc<FileLink>,
    pub(super) of: AttemptOf,
    /// It is not to be put in place any more.
    pub(super) is_given_up: Arc<AtomicBool>,
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.link.state().receptions.remove(&self.of);
    }
}

impl Incoming {
    fn receive(&mut self, piece: Piece) {
        if self.end.is_some() {
            return;
        }
        match piece.kind {
            PieceKind::Failed => self.end = Some(Err(String::from_utf8_lossy(piece.bytes).into_owned())),
            _ if piece.round != self.next || self.pieces.len() >= WINDOW as usize => {
                self.end = Some(Err("it has sent what was not asked for".to_owned()));
            }
            kind => {
                self.pieces.push_back(piece.bytes.to_vec());
                self.next += 1;
                self.end = (kind == PieceKind::Last).then_some(Ok(()));
            }
        }
    }
}

/// The bytes of a transfer as they arrive.
struct PieceReader<'a> {
    link: &'a FileLink,
    source: Rank,
    id: u32,
    is_given_up: &'a AtomicBool,
    piece: Vec<u8>,
    at: usize,
    taken: u32,
}

impl PieceReader<'_> {
    /// The next piece; `None` after the last one.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (link, source) = (self.link, self.source);
        let start = Instant::now();
        let mut state = link.state();
        loop {
            let Some(incoming) = state.incoming.get_mut(&self.id) else { return Ok(None) };
            if let Some(piece) = incoming.pieces.pop_front() {
                drop(state);
                self.taken += 1;
                if self.taken.is_multiple_of(CREDIT) {
                    link.post_about(source, self.id, FileMessage::Credit { pieces: CREDIT });
                }
                return Ok(Some(piece));
            }
            match incoming.end.take() {
                Some(Ok(())) => return Ok(None),
                Some(Err(reason)) => return Err(io::Error::other(format!("{source} could not send it: {reason}"))),
                None if state.gone.contains(&source) => {
                    return Err(io::Error::other(format!("{source} is gone, which sent it")));
                }
                None if self.is_given_up.load(Relaxed) => return Err(io::ErrorKind::Interrupted.into()),
                None if state.is_closed => return Err(io::Error::other("the run is over")),
                None if self.taken > 0 && start.elapsed() > MAX_SILENCE => {
                    let text = format!("{source} has sent nothing for {} s", MAX_SILENCE.as_secs());
                    return Err(io::Error::other(text));
                }
                None => state = link.wait(state),
            }
        }
    }
}

impl Read for PieceReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.next() {
                Ok(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(None) => return Ok(0),
                // Whoever reads would try again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(io::Error::other("given up")),
                Err(error) => return Err(error),
            }
        }
        let length = into.len().min(self.piece.len() - self.at);
        into[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Cuts a stream into pieces for another rank.
pub(super) struct PieceWriter<'a> {
    link: &'a FileLink,
    to: Rank,
    id: u32,
    round: u32,
    bytes: Vec<u8>,
}

impl<'a> PieceWriter<'a> {
    pub(super) fn new(link: &'a FileLink, to: Rank, id: u32) -> PieceWriter<'a> {
        PieceWriter { link, to, id, round: 0, bytes: Vec::new() }
    }

    fn send(&mut self, kind: PieceKind) {
        let piece = Piece { stream: PieceStream::Files(self.id), round: self.round, kind, bytes: &self.bytes };
        self.link.pieces.add(std::iter::once((self.to, piece)));
        self.link.event_wait.notify();
        self.round += 1;
        self.bytes.clear();
    }

    /// Waits until the receiver allows another piece.
    fn await_credit(&self) -> io::Result<()> {
        let start = Instant::now();
        let mut state = self.link.state();
        loop {
            let is_over = state.is_closed || state.gone.contains(&self.to) || start.elapsed() > MAX_SILENCE;
            match state.outgoing.get_mut(&(self.to, self.id)) {
                None => return Err(io::Error::other("it is not wanted any more")),
                Some(_) if is_over => return Err(io::Error::other(format!("{} does not take it", self.to))),
                Some(0) => state = self.link.wait(state),
                Some(left) => {
                    *left -= 1;
                    return Ok(());
                }
            }
        }
    }

    /// Sends the rest, or why there is none.
    pub(super) fn finish(mut self, sent: io::Result<u64>) {
        match sent.and_then(|_| self.await_credit()) {
            Ok(()) => self.send(PieceKind::Last),
            Err(error) => {
                let reason = error.to_string();
                self.bytes = reason.as_bytes()[..reason.floor_char_boundary(MAX_PIECE_BYTES)].to_vec();
                self.send(PieceKind::Failed);
            }
        }
        self.link.state().outgoing.remove(&(self.to, self.id));
    }
}

impl Write for PieceWriter<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.bytes.len() == MAX_PIECE_BYTES {
            self.await_credit()?;
            self.send(PieceKind::More);
        }
        let length = from.len().min(MAX_PIECE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&from[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileCarrier for FileLink {
    fn plan(&self, task: TaskId, is_given_up: &AtomicBool) -> io::Result<Vec<u8>> {
        match self.ask(Rank::ZERO, FileMessage::Plan { task }, is_given_up).1? {
            FileMessage::Planned { files } => files.map_err(io::Error::other),
            _ => Err(io::Error::other("rank 0 has given another answer")),
        }
    }

    fn fetch(&self, file: &CarriedFile, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        let mut tries = 1;
        loop {
            let fetched = self.fetch_once(file, to, is_given_up);
            match (&fetched, file) {
                (Err(error), CarriedFile::Held { .. })
                    if tries < MAX_SOURCES && error.kind() != io::ErrorKind::NotFound =>
                {
                    tracing::debug!("another source is tried: {error}");
                    tries += 1;
                }
                // Only rank 0 sees the copy in the run directory.
                (Err(_), &CarriedFile::Held { name, version }) if self.is_away => {
                    return self.fetch_once(&CarriedFile::Published { name, version }, to, is_given_up);
                }
                _ => return fetched,
            }
        }
    }

    fn hand_in(
        &self,
        (task, attempt): (TaskId, u16),
        is_completed: bool,
        results: Vec<(PathBuf, PathBuf)>,
        is_given_up: &AtomicBool,
    ) -> io::Result<(u64, u64)> {
        self.state().results.insert((task, attempt), results);
        let take = FileMessage::Take { task, attempt, node: self.node.clone(), completed: is_completed };
        let (_, answer) = self.ask(Rank::ZERO, take, is_given_up);
        self.state().results.remove(&(task, attempt));
        match answer? {
            FileMessage::Taken { result } => result.map_err(io::Error::other),
            _ => Err(io::Error::other("rank 0 has given another answer")),
        }
    }

    fn give_up(&self, (task, attempt): (TaskId, u16)) {
        self.post_about(Rank::ZERO, 0, FileMessage::GiveUp { task, attempt });
    }

    fn hold(&self, name: [u8; 32], version: u64) {
        self.post_about(Rank::ZERO, 0, FileMessage::Holds { name, version });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> FileLink {
        FileLink::new(Rank(1), "n".into(), false, Arc::new(EventWait::new().unwrap()), Arc::default())
    }

    fn piece(round: u32, kind: PieceKind, bytes: &[u8]) -> Piece<'_> {
        Piece { stream: PieceStream::Files(1), round, kind, bytes }
    }

    /// A link to which pieces are sent as the transfer 1 from rank 2.
    fn receiving() -> FileLink {
        let link = link();
        let incoming = Incoming { from: Rank(2), pieces: VecDeque::new(), next: 0, end: None };
        link.state().incoming.insert(1, incoming);
        link
    }

    fn read(link: &FileLink) -> io::Result<Vec<u8>> {
        let is_given_up = AtomicBool::new(false);
        let (piece, at, taken) = (Vec::new(), 0, 0);
        let mut reader = PieceReader { link, source: Rank(2), id: 1, is_given_up: &is_given_up, piece, at, taken };
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn pieces_become_a_stream_and_the_sender_may_send_more() {
        let link = receiving();
        for round in 0..CREDIT {
            link.receive(Rank(2), 1, piece(round, PieceKind::More, b"ab"));
        }
        link.receive(Rank(3), 1, piece(CREDIT, PieceKind::Last, b"of another rank"));
        link.receive(Rank(2), 1, piece(CREDIT, PieceKind::Last, b"c"));
        assert_eq!(read(&link).unwrap(), [&b"ab".repeat(CREDIT as usize)[..], b"c"].concat());
        let credit = FileMessage::Credit { pieces: CREDIT };
        assert_eq!(link.take_messages(), [(Rank(2), Message::Files { id: 1, message: credit })]);
    }

    #[test]
    fn a_transfer_ends_with_its_sender() {
        let failed = receiving();
        failed.receive(Rank(2), 1, piece(0, PieceKind::Failed, b"disk full"));
        assert!(read(&failed).unwrap_err().to_string().contains("rank 2 could not send it: disk full"));
        let lost = receiving();
        lost.receive(Rank(2), 1, piece(0, PieceKind::More, b"ab"));
        lost.lose([Rank(2)].into_iter());
        assert!(read(&lost).unwrap_err().to_string().contains("rank 2 is gone"));
        let closed = receiving();
        closed.close();
        assert!(read(&closed).unwrap_err().to_string().contains("the run is over"));
    }

    #[test]
    fn who_sends_more_than_was_allowed_is_refused() {
        let link = receiving();
        (0..=WINDOW).for_each(|round| link.receive(Rank(2), 1, piece(round, PieceKind::More, b"x")));
        assert!(read(&link).unwrap_err().to_string().contains("what was not asked for"));
        let link = receiving();
        link.receive(Rank(2), 1, piece(1, PieceKind::Last, b"x"));
        assert!(read(&link).is_err(), "the first piece is missing");
    }

    #[test]
    fn what_is_taken_in_is_given_up_with_its_attempt_and_its_rank() {
        let link = Arc::new(link());
        let [kept, given_up, of_gone] =
            [(2, 1), (2, 2), (3, 1)].map(|(rank, attempt)| link.begin_reception((Rank(rank), TaskId(7), attempt)));
        link.end_reception((Rank(2), TaskId(7), 2));
        link.end_reception((Rank(2), TaskId(8), 1));
        link.lose([Rank(3)].into_iter());
        let flags = |receptions: [&Reception; 3]| receptions.map(|reception| reception.is_given_up.load(Relaxed));
        assert_eq!(flags([&kept, &given_up, &of_gone]), [false, true, true]);
        assert!(link.begin_reception((Rank(3), TaskId(9), 1)).is_given_up.load(Relaxed), "a message of a lost rank");
        drop((kept, given_up, of_gone));
        assert!(link.state().receptions.is_empty());
    }

    #[test]
    fn nothing_is_asked_after_it_was_given_up() {
        let link = link();
        let take = FileMessage::Take { task: TaskId(1), attempt: 1, node: "n".into(), completed: true };
        let (_, answer) = link.ask(Rank::ZERO, take, &AtomicBool::new(true));
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(link.take_messages().is_empty());
    }

    #[test]
    fn only_who_keeps_a_temporary_file_becomes_a_source() {
        for is_away in [false, true] {
            let event_wait = Arc::new(EventWait::new().unwrap());
            let link = Arc::new(FileLink::new(Rank(1), "n".into(), is_away, event_wait, Arc::default()));
            let (dir, at) = (tempfile::tempdir().unwrap(), Arc::clone(&link));
            let to = dir.path().join("file");
            let file = CarriedFile::Held { name: [7; 32], version: 3 };
            let thread = std::thread::spawn(move || at.fetch_once(&file, &to, &AtomicBool::new(false)));
            let next = || {
                loop {
                    match link.take_messages().pop() {
                        Some((_, Message::Files { id, message })) => return (id, message),
                        _ => std::thread::yield_now(),
                    }
                }
            };
            let (id, _) = next();
            link.answer(Rank::ZERO, id, FileMessage::Source { rank: Some(Rank(2)) });
            assert!(matches!(next(), (_, FileMessage::Get { .. })));
            let mut archive = Vec::new();
            let empty = dir.path().join("empty");
            std::fs::write(&empty, "").unwrap();
            crate::exec::pack(&[(PathBuf::new(), empty)], &mut archive, &AtomicBool::new(false)).unwrap();
            let last = Piece { stream: PieceStream::Files(id), round: 0, kind: PieceKind::Last, bytes: &archive };
            link.receive(Rank(2), id, last);
            thread.join().unwrap().unwrap();
            let mut messages = link.take_messages();
            messages
                .retain(|(_, message)| matches!(message, Message::Files { message: FileMessage::Holds { .. }, .. }));
            assert_eq!(messages.len(), usize::from(!is_away));
        }
    }

    #[test]
    fn work_that_no_thread_will_do_comes_back() {
        let link = link();
        assert!(link.add_work(Service::TakeIn, Box::new(|| ())));
        assert!(link.add_work(Service::TakeIn, Box::new(|| ())));
        assert!(link.lacks_thread(Service::TakeIn).is_empty(), "another thread does it");
        assert_eq!(link.lacks_thread(Service::TakeIn).len(), 2);
        let starts = (0..100).filter(|_| link.add_work(Service::TakeIn, Box::new(|| ()))).count();
        assert_eq!(starts, MAX_THREADS[1]);
        assert!(link.add_work(Service::Send, Box::new(|| ())), "who takes in does not hold up who sends");
    }

    #[test]
    fn a_sender_waits_for_leave() {
        let link = Arc::new(link());
        link.state().outgoing.insert((Rank(2), 5), 1);
        let sender = Arc::clone(&link);
        let thread = std::thread::spawn(move || {
            let mut writer = PieceWriter::new(&sender, Rank(2), 5);
            let sent = writer.write_all(&vec![7; 2 * MAX_PIECE_BYTES + 1]).map(|()| 0);
            writer.finish(sent);
        });
        while link.pieces.take(1).is_empty() {
            std::thread::yield_now();
        }
        assert!(link.pieces.take(1).is_empty(), "one piece was allowed");
        link.credit(Rank(2), 5, 9);
        thread.join().unwrap();
        assert_eq!(link.pieces.take(9).len(), 2);
        assert!(link.state().outgoing.is_empty());
        link.credit(Rank(2), 5, 1);
        assert!(link.state().outgoing.is_empty(), "a transfer that has ended");
    }
}
