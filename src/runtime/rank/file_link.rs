//! Files on their way between ranks.
//!
//! A rank that needs a file asks the coordinator for a source (`schedule/transfers`) and the source
//! for the file. That travels as an archive, in pieces of bounded size: the receiver allows so
//! many, and more as it writes them, so neither end holds much of it. All work with disks is done
//! in threads of their own; the engine only passes messages and pieces on.
//!
//! Pieces are in `file_link/pieces`, the threads that serve other ranks in `file_link/services`,
//! what rank 0 takes in of ranks that do not see the run directory in `file_link/receptions`, what
//! is fetched before a task has a slot in `file_link/prefetcher`.
//!
//! | who | waits for | ends when |
//! |---|---|---|
//! | the thread of an attempt | an answer, pieces | the attempt is given up, the other rank is gone or falls silent, the run is over |
//! | a thread that sends | leave to send more | the receiver wants no more, is gone or silent, the run is over |

mod pieces;
mod prefetcher;
mod receptions;
mod services;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pieces::PieceReader;
pub(super) use pieces::PieceWriter;
use pieces::{Incoming, WINDOW};
use prefetcher::Prefetcher;
use receptions::Receptions;
pub(super) use receptions::{AttemptOf, Reception};
pub(super) use services::Service;
use services::Services;

use super::piece_queue::PieceQueue;
use crate::exec::{AheadFlags, FileCarrier, remove_tree, unpack};
use crate::fabric::wire::Piece;
use crate::model::{CarriedFile, Rank, TaskId};
use crate::runtime::event_wait::EventWait;
use crate::schedule::file_messages::FileMessage;
use crate::schedule::protocol::Message;

/// How often a thread that waits looks whether its attempt is given up.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Attempts to get a temporary file from another source.
const MAX_SOURCES: usize = 3;

/// How long a file for a task that has not begun waits behind others for a source.
const MAX_AHEAD_WAIT: Duration = Duration::from_secs(1);

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
    receptions: Arc<Receptions>,
    /// Files of tasks that wait for a slot.
    pub(super) prefetcher: Prefetcher,
    /// What waits to be done for other ranks.
    pub(super) services: Services,
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
    /// Ranks that have left or are lost.
    gone: HashSet<Rank>,
    is_closed: bool,
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
        let (receptions, prefetcher, services) = Default::default();
        FileLink {
            me,
            node,
            is_away,
            event_wait,
            pieces,
            has_messages,
            state,
            changed,
            receptions,
            prefetcher,
            services,
        }
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
        self.receptions.lose(&state.gone);
        drop(state);
        self.changed.notify_all();
    }

    /// Rank 0 begins to take in what an attempt has left.
    pub(super) fn begin_reception(&self, of: AttemptOf) -> Reception {
        let state = self.state();
        self.receptions.begin(of, state.gone.contains(&of.0))
    }

    /// What an attempt has left is not to be put in place any more.
    pub(super) fn end_reception(&self, of: AttemptOf) {
        self.receptions.end(of);
        self.changed.notify_all();
    }

    /// The run is over: whoever waits ends.
    pub(in crate::runtime) fn close(&self) {
        self.prefetcher.close();
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
    /// asked once it is given up: a message about that is the last one. Where the question can
    /// wait, `is_awaited` says when it no longer can.
    fn ask(
        &self,
        to: Rank,
        message: FileMessage,
        is_given_up: &AtomicBool,
        mut is_awaited: Option<&dyn Fn() -> bool>,
    ) -> (u32, io::Result<FileMessage>) {
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
                    if is_awaited.take_if(|is_awaited| is_awaited()).is_some() {
                        state.messages.push((to, Message::Files { id, message: FileMessage::Hurry }));
                        self.has_messages.store(true, Release);
                        self.event_wait.notify();
                    }
                    state = self.wait(state);
                    continue;
                }
            };
            state.asked.remove(&id);
            return (id, end);
        }
    }

    /// Fetches a file from the rank that the coordinator names.
    /// For a task that has not begun, `is_awaited` says when one that has needs it, too.
    fn fetch_once(
        &self,
        file: &CarriedFile,
        to: &Path,
        is_given_up: &AtomicBool,
        is_awaited: Option<&dyn Fn() -> bool>,
    ) -> io::Result<u64> {
        let seek = FileMessage::Seek { file: file.clone(), ahead: is_awaited.is_some() };
        let (id, answer) = self.ask(Rank::ZERO, seek, is_given_up, is_awaited);
        let fetched = match answer {
            Ok(FileMessage::Source { rank: Some(source) }) => self.fetch_from(source, id, file, to, is_given_up),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::NotFound, "no rank sends it")),
            Err(error) => Err(error),
        };
        let has_given_up = fetched.is_err() && is_given_up.load(Relaxed);
        self.post_about(Rank::ZERO, id, FileMessage::Ended { arrived: (!has_given_up).then_some(fetched.is_ok()) });
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
        self.state().incoming.insert(id, Incoming::new(source));
        let _awaiting = self.pieces.await_pieces();
        self.post_about(source, id, FileMessage::Get { file: file.clone() });
        let mut reader = PieceReader::new(self, source, id, is_given_up);
        let unpacked = unpack(&mut reader, to, is_given_up);
        self.state().incoming.remove(&id);
        unpacked.inspect_err(|_| {
            self.post_about(source, id, FileMessage::Credit { pieces: 0 });
            remove_tree(to);
        })
    }
}

impl FileCarrier for FileLink {
    fn plan(&self, task: TaskId, is_given_up: &AtomicBool) -> io::Result<Vec<u8>> {
        match self.ask(Rank::ZERO, FileMessage::Plan { task }, is_given_up, None).1? {
            FileMessage::Planned { files } => files.map_err(io::Error::other),
            _ => Err(io::Error::other("rank 0 has given another answer")),
        }
    }

    fn fetch(&self, file: &CarriedFile, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        let mut tries = 1;
        loop {
            let fetched = self.fetch_once(file, to, is_given_up, None);
            match (&fetched, file) {
                (Err(error), CarriedFile::Held { .. })
                    if tries < MAX_SOURCES && error.kind() != io::ErrorKind::NotFound =>
                {
                    tracing::debug!("another source is tried: {error}");
                    tries += 1;
                }
                // Only rank 0 sees the copy in the run directory.
                (Err(_), &CarriedFile::Held { name, version }) if self.is_away => {
                    return self.fetch_once(&CarriedFile::Published { name, version }, to, is_given_up, None);
                }
                _ => return fetched,
            }
        }
    }

    fn fetch_ahead(&self, file: &CarriedFile, to: &Path, flags: &AheadFlags) -> io::Result<u64> {
        // Readers on the node wait behind the lock of what is on its way, those of other ranks too.
        let since = Instant::now();
        let is_awaited = || {
            flags.is_awaited.load(Relaxed)
                || self.prefetcher.is_needed(&flags.file)
                || since.elapsed() >= MAX_AHEAD_WAIT
        };
        self.fetch_once(file, to, &flags.is_given_up, Some(&is_awaited))
    }

    fn needs(&self, name: &str, is_needed: bool) {
        self.prefetcher.needs(name, is_needed);
    }

    fn begins(&self, task: TaskId) {
        self.task_begins(task);
    }

    fn bytes_ahead(&self, task: TaskId) -> u64 {
        self.prefetcher.bytes_of(task)
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
        let (_, answer) = self.ask(Rank::ZERO, take, is_given_up, None);
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
    use crate::fabric::wire::{PieceKind, PieceStream};

    pub(super) fn link() -> FileLink {
        FileLink::new(Rank(1), "n".into(), false, Arc::new(EventWait::new().unwrap()), Arc::default())
    }

    #[test]
    fn nothing_is_asked_after_it_was_given_up() {
        let link = link();
        let take = FileMessage::Take { task: TaskId(1), attempt: 1, node: "n".into(), completed: true };
        let (_, answer) = link.ask(Rank::ZERO, take, &AtomicBool::new(true), None);
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
            let thread = std::thread::spawn(move || at.fetch_once(&file, &to, &AtomicBool::new(false), None));
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
        assert!(link.receptions.is_empty());
    }
}
