//! Rank 0's end of the bridge: accepts connections, authenticates them, and maps ranks to links.
//!
//! | state of a link | event | next state |
//! |---|---|---|
//! | new | proves that it knows the secret, sends a request | requesting; rank 0 gets an event |
//! | new | times out, sends invalid data, or is the oldest of too many | closed, logged |
//! | requesting | rank 0 admits it under a rank number | open: frames pass in both directions |
//! | requesting | rank 0 refuses it | closed after the answer is sent |
//! | open | breaks, times out, or sends invalid frames | closed; rank 0 gets an event |
//!
//! The hub takes no decisions about ranks; it forwards frames and reports events. Both wait in
//! queues until rank 0 polls them; the hub calls `notify` when it adds something. Once
//! `MAX_UNREAD_BYTES` bytes are queued, the hub stops reading from links, so that TCP flow control
//! holds the senders back.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::contact::Secret;
use super::link::{self, LinkSender};
use super::secure::{self, Channel, SecureReader};
use super::stream::{FrameKind, ReceivedFrame};
use super::{Ask, HANDSHAKE_TIMEOUT, JoinAnswer, MAX_SILENCE};
use crate::fabric::FabricError;
use crate::fabric::routed::{Outside, Passed};
use crate::model::Rank;
use crate::system::strangers::Strangers;

/// Largest number of unauthenticated connections at a time; a further one closes the oldest
/// connection of the address with the most.
const MAX_UNAUTHENTICATED: usize = 128;

/// Refused connections that are logged; further ones are only counted, to keep the log short.
const MAX_LOGGED_REFUSALS: u32 = 100;

/// Poll interval while all links are closing.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Largest total size of frames that rank 0 has not polled, in bytes.
const MAX_UNREAD_BYTES: usize = 256 << 20;

/// Identifies a connection of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

/// An event on a link, for rank 0.
#[derive(Debug)]
pub enum LinkEvent {
    /// A process that knows the secret requests to join. Rank 0 answers it with [`Hub::admit`] or
    /// [`Hub::refuse`].
    Knock {
        /// Its connection.
        link: LinkId,
        /// Its request.
        ask: Ask,
        /// Its network address.
        peer: SocketAddr,
    },
    /// The link of a rank has ended.
    Gone {
        /// The rank.
        rank: Rank,
        /// Why, as far as this side knows.
        why: String,
    },
}

/// Rank 0's listener and its links to the ranks that joined. Dropping it stops the listener.
pub struct Hub {
    shared: Arc<HubState>,
    address: SocketAddr,
}

/// The frame queues of a [`Hub`], for rank 0's fabric.
pub struct Outer {
    shared: Arc<HubState>,
    frames: Receiver<Passed>,
    /// A link was full when a frame was last sent or received.
    is_full: bool,
}

struct HubState {
    secret: Secret,
    notify: Box<dyn Fn() + Send + Sync>,
    frames: Sender<Passed>,
    unread: Unread,
    /// True if `frames` holds something that rank 0 has not polled.
    has_unread: AtomicBool,
    events: Sender<LinkEvent>,
    table: Mutex<LinkTable>,
    /// Connections that are not authenticated yet, each with the handle that closes it.
    strangers: Mutex<Strangers<TcpStream>>,
    refused: AtomicU32,
    closing: AtomicBool,
}

#[derive(Default)]
struct LinkTable {
    next: u64,
    links: HashMap<LinkId, OpenLink>,
    by_rank: HashMap<Rank, LinkId>,
}

struct OpenLink {
    link: LinkSender,
    rank: Option<Rank>,
}

impl Hub {
    /// Starts listening on an address of this machine; port 0 selects a free port. The hub calls
    /// `notify` from other threads.
    ///
    /// # Errors
    /// If the address does not belong to this machine or is in use.
    pub fn open(
        address: SocketAddr,
        secret: Secret,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<(Hub, Outer, Receiver<LinkEvent>)> {
        Hub::bounded(address, secret, notify, MAX_UNREAD_BYTES)
    }

    /// As [`open`](Hub::open), with another bound on the bytes that wait for rank 0.
    pub(super) fn bounded(
        address: SocketAddr,
        secret: Secret,
        notify: impl Fn() + Send + Sync + 'static,
        most_unread: usize,
    ) -> io::Result<(Hub, Outer, Receiver<LinkEvent>)> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let ((frames, taken), (events, reported)) = (channel(), channel());
        let shared = Arc::new(HubState {
            secret,
            notify: Box::new(notify),
            frames,
            unread: Unread::new(most_unread),
            has_unread: AtomicBool::new(false),
            events,
            table: Mutex::default(),
            strangers: Mutex::new(Strangers::new(MAX_UNAUTHENTICATED)),
            refused: AtomicU32::new(0),
            closing: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        thread::Builder::new().name("bridge-listen".into()).spawn(move || listening.listen(&listener))?;
        let outer = Outer { shared: Arc::clone(&shared), frames: taken, is_full: false };
        Ok((Hub { shared, address }, outer, reported))
    }

    /// The address on which the hub listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Admits a requesting connection as `rank`. Returns false if the connection has closed
    /// meanwhile.
    pub fn admit(&self, link: LinkId, rank: Rank) -> bool {
        let mut table = self.shared.table();
        let Some(entry) = table.links.get_mut(&link) else { return false };
        entry.rank = Some(rank);
        entry.link.answer(&JoinAnswer::Admitted { rank: rank.0 });
        table.by_rank.insert(rank, link);
        true
    }

    /// Refuses a requesting connection and sends it the reason.
    pub fn refuse(&self, link: LinkId, reason: &str) {
        if let Some(entry) = self.shared.table().links.get_mut(&link) {
            entry.link.answer(&JoinAnswer::Refused { reason: reason.to_owned() });
            entry.link.finish();
        }
    }

    /// Closes the link of a rank at once.
    pub fn cut(&self, rank: Rank) {
        let table = self.shared.table();
        if let Some(entry) = table.by_rank.get(&rank).and_then(|link| table.links.get(link)) {
            entry.link.cut();
        }
    }
}

impl Drop for Hub {
    /// Stops listening. Links stay open until [`Outer`] is dropped too.
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        // The listener blocks in `accept`; this connection wakes it. If connecting fails, the
        // listener has already stopped.
        let mut own = self.address;
        if own.ip().is_unspecified() {
            own.set_ip(if own.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        drop(TcpStream::connect_timeout(&own, Duration::from_secs(1)));
    }
}

impl LinkSender {
    fn answer(&self, answer: &JoinAnswer) {
        // Two small variants: encoding them cannot fail.
        let content = postcard::to_stdvec(answer).unwrap_or_default();
        self.send(FrameKind::Answer, Rank::ZERO, Rank::ZERO, &content);
    }
}

impl HubState {
    fn table(&self) -> MutexGuard<'_, LinkTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        let mut number = 0;
        while let accepted = listener.accept()
            && !self.closing.load(SeqCst)
        {
            match accepted {
                Ok((stream, peer)) => {
                    number += 1;
                    self.serve_in_thread(number, stream, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Most likely the process has no free descriptors; some may become free.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Serves a new connection in a thread of its own.
    fn serve_in_thread(self: &Arc<Self>, number: u64, stream: TcpStream, peer: SocketAddr) {
        let end = match stream.try_clone() {
            Ok(end) => end,
            Err(error) => return self.log_refusal(peer, &error.to_string()),
        };
        if let Some(oldest) = self.strangers().come(number, peer.ip(), end) {
            // The thread that serves it then finds it closed.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let shared = Arc::clone(self);
        let authenticated =
            thread::Builder::new().name("bridge-in".into()).spawn(move || shared.serve(number, stream, peer));
        if let Err(error) = authenticated {
            self.strangers().leave(number);
            self.log_refusal(peer, &error.to_string());
        }
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers<TcpStream>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_refusal(&self, peer: SocketAddr, why: &str) {
        if self.refused.fetch_add(1, SeqCst) < MAX_LOGGED_REFUSALS {
            tracing::warn!(%peer, "refused a connection: {why}");
        }
    }

    /// Serves a connection from its first byte to its last.
    fn serve(&self, number: u64, stream: TcpStream, peer: SocketAddr) {
        let authenticated = self.authenticate(stream);
        let was_there = self.strangers().leave(number).is_some();
        match authenticated.and_then(|authenticated| {
            was_there.then_some(authenticated).ok_or_else(|| "it was closed to make room for newer ones".into())
        }) {
            Ok((ask, reader, link)) => {
                let id = self.add_link(link);
                tracing::debug!(%peer, ?ask, "a process requests to join");
                self.publish(LinkEvent::Knock { link: id, ask, peer });
                self.receive_frames(id, reader);
            }
            Err(why) => self.log_refusal(peer, &why),
        }
    }

    /// Authenticates a connection and reads its request.
    fn authenticate(&self, stream: TcpStream) -> Result<(Ask, SecureReader, LinkSender), String> {
        let begun = Instant::now();
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let Channel { mut reader, writer } =
            secure::accept(stream, &self.secret, HANDSHAKE_TIMEOUT).map_err(|error| text(&error))?;
        let left = HANDSHAKE_TIMEOUT.saturating_sub(begun.elapsed()).max(CLOSE_POLL_INTERVAL);
        reader.set_limit(left).map_err(|error| text(&error))?;
        let mut asked = None;
        let why = link::read(&mut reader, None, |frame| {
            asked = (frame.kind == FrameKind::Ask).then(|| postcard::from_bytes::<Ask>(&frame.content).ok()).flatten();
            Err("it knows the secret but sent no request".into())
        });
        let ask = asked.ok_or(why)?;
        reader.set_limit(MAX_SILENCE).map_err(|error| text(&error))?;
        let link = LinkSender::start(writer).map_err(|error| text(&error))?;
        Ok((ask, reader, link))
    }

    fn add_link(&self, link: LinkSender) -> LinkId {
        let mut table = self.table();
        let id = LinkId(table.next);
        table.next += 1;
        table.links.insert(id, OpenLink { link, rank: None });
        id
    }

    /// Queues the frames that arrive on a link, until the link ends.
    fn receive_frames(&self, id: LinkId, mut reader: SecureReader) {
        let mut rank = None;
        let why = link::read(&mut reader, None, |frame| {
            rank = rank.or_else(|| self.table().links.get(&id).and_then(|entry| entry.rank));
            let ReceivedFrame { kind, from, to, content } = frame;
            if kind != FrameKind::Data || rank != Some(from) {
                return Err(format!("it sent an invalid frame ({kind:?} from {from})"));
            }
            self.unread.add(content.len());
            // The receiver is gone: the run is over.
            self.frames.send(Passed { from, to, frame: content }).map_err(|_| String::from("the run is over"))?;
            if !self.has_unread.swap(true, SeqCst) {
                (self.notify)();
            }
            Ok(())
        });
        let mut table = self.table();
        if let Some(entry) = table.links.remove(&id) {
            let why = entry.link.cut_reason().unwrap_or(why);
            entry.link.cut();
            if let Some(rank) = entry.rank {
                table.by_rank.remove(&rank);
                drop(table);
                self.publish(LinkEvent::Gone { rank, why });
            }
        }
    }

    fn publish(&self, event: LinkEvent) {
        // Sending fails only after the run is over, when no one receives events.
        let _ = self.events.send(event);
        (self.notify)();
    }
}

#[cfg(test)]
impl Outer {
    /// Bytes of frames that wait for rank 0.
    pub(super) fn unread(&self) -> usize {
        self.shared.unread.bytes().unwrap_or_default()
    }
}

impl Outside for Outer {
    fn send(&mut self, from: Rank, to: Rank, frame: &[u8]) {
        let table = self.shared.table();
        match table.by_rank.get(&to).and_then(|link| table.links.get(link)) {
            Some(entry) => {
                entry.link.send(FrameKind::Data, from, to, frame);
                self.is_full |= entry.link.is_full();
            }
            None => tracing::debug!(%to, "dropped a frame for a rank that has left"),
        }
    }

    #[inline]
    fn receive(&mut self) -> Result<Option<Passed>, FabricError> {
        if !self.shared.has_unread.load(SeqCst) {
            return Ok(None);
        }
        if let Ok(passed) = self.frames.try_recv() {
            self.shared.unread.take(passed.frame.len());
            return Ok(Some(passed));
        }
        // Cleared before the last poll: a frame that is queued afterwards sets it again.
        self.shared.has_unread.store(false, SeqCst);
        let last = self.frames.try_recv().ok();
        if let Some(passed) = &last {
            self.shared.unread.take(passed.frame.len());
            self.shared.has_unread.store(true, SeqCst);
        }
        Ok(last)
    }

    fn drained(&mut self) -> bool {
        self.shared.table().links.values().all(|entry| entry.link.drained())
    }

    #[inline]
    fn is_full(&mut self) -> bool {
        self.is_full = self.is_full && self.shared.table().links.values().any(|entry| entry.link.is_full());
        self.is_full
    }

    fn close(&mut self, limit: Duration) {
        self.shared.unread.close();
        self.shared.closing.store(true, SeqCst);
        self.shared.table().links.values_mut().for_each(|entry| entry.link.finish());
        let end = Instant::now() + limit;
        // Ranks that received the end of the run close their links themselves.
        while !self.shared.table().links.is_empty() && Instant::now() < end {
            thread::sleep(CLOSE_POLL_INTERVAL);
        }
        self.shared.table().links.values().for_each(|entry| entry.link.cut());
    }
}

impl Drop for Outer {
    /// No one polls any more: wakes the threads that wait for room.
    fn drop(&mut self) {
        self.shared.unread.close();
    }
}

/// Counts the bytes that wait for rank 0, and blocks threads that would exceed the bound.
struct Unread {
    most: usize,
    /// `None` once no one polls any more.
    bytes: Mutex<Option<usize>>,
    fell: Condvar,
}

impl Unread {
    fn new(most: usize) -> Unread {
        Unread { most, bytes: Mutex::new(Some(0)), fell: Condvar::new() }
    }

    fn bytes(&self) -> MutexGuard<'_, Option<usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is room, or until no one polls any more. A frame larger than the bound is
    /// accepted when the queue is empty.
    fn add(&self, bytes: usize) {
        let no_room =
            |unread: &mut Option<usize>| unread.is_some_and(|unread| unread > 0 && unread + bytes > self.most);
        let mut unread = self.fell.wait_while(self.bytes(), no_room).unwrap_or_else(PoisonError::into_inner);
        if let Some(unread) = &mut *unread {
            *unread += bytes;
        }
    }

    fn take(&self, bytes: usize) {
        if let Some(unread) = &mut *self.bytes() {
            *unread = unread.saturating_sub(bytes);
        }
        self.fell.notify_all();
    }

    fn close(&self) {
        *self.bytes() = None;
        self.fell.notify_all();
    }
}
