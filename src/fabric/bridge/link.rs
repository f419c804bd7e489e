//! An open connection of the bridge: one thread writes queued frames, another reads arriving ones.
//!
//! Sending never waits for the network. If the other side does not read, the queue is bounded: the
//! link is cut once [`MAX_QUEUED_BYTES`] bytes wait, and nothing is forwarded to it while
//! `MAX_FORWARDED_BYTES` wait. The writer packs queued frames into few
//! records and sends heartbeats when the queue is empty. Ending a link in order delivers the queued
//! frames first.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use super::secure::{SecureError, SecureReader, SecureWriter};
use super::stream::{FrameKind, FrameSplitter, ReceivedFrame, put};
use super::{HEARTBEAT_INTERVAL, MAX_SILENCE, TWO_BEATS_MISSING};
use crate::model::Rank;

/// Bytes of frames that the writer gathers before it encrypts and sends them.
const MAX_BATCH_BYTES: usize = 1 << 18;

/// Largest number of bytes in the queue; beyond it the other side counts as not reading. Over a
/// slow network this is minutes of messages or more.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// While more bytes than this are in the queue, nothing is forwarded to the other side.
const MAX_FORWARDED_BYTES: usize = 16 << 20;

/// Upper bound on what one frame counts towards [`MAX_QUEUED_BYTES`]: a hand-out may be large, but
/// is sent once.
const MAX_FRAME_WEIGHT_BYTES: usize = 1 << 16;

/// The sending side of a link.
pub struct LinkSender {
    /// `None` once the link is finished: nothing more is sent.
    outgoing: Option<Sender<Vec<u8>>>,
    state: Arc<LinkState>,
    stream: TcpStream,
}

#[derive(Default)]
struct LinkState {
    queued: AtomicU64,
    written: AtomicU64,
    /// Bytes that are queued and not yet written, each frame counted up to
    /// [`MAX_FRAME_WEIGHT_BYTES`].
    waiting: AtomicUsize,
    broken: AtomicBool,
    /// True if the queue exceeded its bound because the other side does not read.
    overrun: AtomicBool,
}

impl LinkSender {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(writer: SecureWriter) -> io::Result<LinkSender> {
        let stream = writer.stream().try_clone()?;
        stream.set_write_timeout(Some(MAX_SILENCE))?;
        stream.set_nodelay(true)?;
        let (outgoing, queue) = channel();
        let state = Arc::new(LinkState::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("bridge-out".into()).spawn(move || write(writer, &queue, &shared))?;
        Ok(LinkSender { outgoing: Some(outgoing), state, stream })
    }

    /// Queues a frame. Frames for a broken link are dropped; its reader reports the break.
    pub fn send(&self, kind: FrameKind, from: Rank, to: Rank, content: &[u8]) {
        let Some(outgoing) = &self.outgoing else { return };
        let mut frame = Vec::new();
        put(&mut frame, kind, from, to, content);
        let before = self.state.waiting.fetch_add(weight(&frame), SeqCst);
        if before > MAX_QUEUED_BYTES {
            self.state.overrun.store(true, SeqCst);
            return self.cut();
        }
        self.state.queued.fetch_add(1, SeqCst);
        if outgoing.send(frame).is_err() {
            self.state.broken.store(true, SeqCst);
        }
    }

    /// True while nothing more should be forwarded on the link.
    pub fn is_full(&self) -> bool {
        !self.state.broken.load(SeqCst) && self.state.waiting.load(SeqCst) > MAX_FORWARDED_BYTES
    }

    /// Why the link was cut on this side, if it was.
    pub fn cut_reason(&self) -> Option<String> {
        let overrun = self.state.overrun.load(SeqCst);
        overrun.then(|| format!("it does not read what it is sent: {} MiB waited", MAX_QUEUED_BYTES >> 20))
    }

    /// True once the queue is empty or the link is broken.
    pub fn drained(&self) -> bool {
        let LinkState { queued, written, broken, .. } = &*self.state;
        broken.load(SeqCst) || written.load(SeqCst) == queued.load(SeqCst)
    }

    /// Sends the queued frames and then closes the sending side.
    pub fn finish(&mut self) {
        self.outgoing = None;
    }

    /// Closes the link at once.
    pub fn cut(&self) {
        // An error means that the connection is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn write(mut writer: SecureWriter, queue: &Receiver<Vec<u8>>, state: &LinkState) {
    let end = match write_all(&mut writer, queue, state) {
        Ok(()) => Shutdown::Write,
        Err(error) => {
            tracing::debug!(%error, "cannot write to a link of the bridge");
            state.broken.store(true, SeqCst);
            // Shutting down both directions makes the reader notice.
            Shutdown::Both
        }
    };
    let _ = writer.stream().shutdown(end);
}

fn write_all(writer: &mut SecureWriter, queue: &Receiver<Vec<u8>>, state: &LinkState) -> Result<(), SecureError> {
    let mut beat = Vec::new();
    put(&mut beat, FrameKind::Beat, Rank::ZERO, Rank::ZERO, &[]);
    loop {
        let mut text = match queue.recv_timeout(HEARTBEAT_INTERVAL) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => {
                writer.write(&beat)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let (mut frames, mut weights) = (1, weight(&text));
        while text.len() < MAX_BATCH_BYTES
            && let Ok(more) = queue.try_recv()
        {
            text.extend_from_slice(&more);
            frames += 1;
            weights += weight(&more);
        }
        writer.write(&text)?;
        state.written.fetch_add(frames, SeqCst);
        state.waiting.fetch_sub(weights, SeqCst);
    }
}

fn weight(frame: &[u8]) -> usize {
    frame.len().min(MAX_FRAME_WEIGHT_BYTES)
}

/// When data last arrived on a link.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds after `start`.
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Starts measuring; the present counts as an arrival.
    pub fn start() -> Pulse {
        Pulse { began: Instant::now(), last: Arc::default() }
    }

    /// Records an arrival.
    pub fn beat(&self) {
        self.last.store(self.now(), SeqCst);
    }

    /// True if two heartbeats are overdue.
    pub fn is_missing(&self) -> bool {
        u128::from(self.now().saturating_sub(self.last.load(SeqCst))) > TWO_BEATS_MISSING.as_millis()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Reads frames until the link ends and passes each to `each`, except heartbeats. Returns why the
/// link ended. `each` may end it by returning a reason.
pub fn read(
    reader: &mut SecureReader,
    pulse: Option<&Pulse>,
    mut each: impl FnMut(ReceivedFrame) -> Result<(), String>,
) -> String {
    let mut frames = FrameSplitter::default();
    loop {
        match frames.take() {
            Ok(Some(ReceivedFrame { kind: FrameKind::Beat, .. })) => continue,
            Ok(Some(frame)) => match each(frame) {
                Ok(()) => continue,
                Err(why) => return why,
            },
            Ok(None) => {}
            Err(error) => return format!("it sent {error}"),
        }
        match reader.read() {
            Ok(Some(text)) => {
                pulse.into_iter().for_each(Pulse::beat);
                frames.push(text);
            }
            Ok(None) => return "it closed the connection".into(),
            Err(SecureError::Io(error)) if is_silence(&error) => {
                return format!("nothing has arrived from it for {} s", MAX_SILENCE.as_secs());
            }
            Err(error) => return format!("the connection broke: {error}"),
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
