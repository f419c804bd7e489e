//! One connection of the bridge in use: frames that leave are queued for a thread that writes, frames that come are read by another.
//!
//! Whoever sends never waits for the network. A side that does not read what it is sent costs no
//! memory without end: once [`MOST_WAITING`] bytes wait, the link is cut. The writer joins what has
//! gathered meanwhile into few records, and shows that this side lives when there
//! is nothing to say. A side that ends a link in order has its last frames delivered first.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use super::secure::{SecureError, SecureReader, SecureWriter};
use super::stream::{FrameKind, FrameSplitter, ReceivedFrame, put};
use super::{BEAT, SILENCE, TWO_BEATS_MISSING};
use crate::model::Rank;

/// So much is gathered before it is encrypted and sent.
const GATHER: usize = 1 << 18;

/// So many bytes may wait to be sent; then the other side is taken for one that does not read. It
/// is minutes of messages, or more, over a slow network.
pub const MOST_WAITING: usize = 64 << 20;

/// A frame counts as no more than this: what a rank is handed may be large, and comes once.
const MOST_WEIGHT: usize = 1 << 16;

/// The sending side of a link.
pub struct LinkSender {
    /// Taken once nothing more is to be sent.
    outgoing: Option<Sender<Vec<u8>>>,
    state: Arc<LinkState>,
    stream: TcpStream,
}

#[derive(Default)]
struct LinkState {
    queued: AtomicU64,
    written: AtomicU64,
    /// The weight of what is queued and not written.
    waiting: AtomicUsize,
    broken: AtomicBool,
    /// The other side does not read.
    overrun: AtomicBool,
}

impl LinkSender {
    /// Starts to write.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(writer: SecureWriter) -> io::Result<LinkSender> {
        let stream = writer.stream().try_clone()?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        let (outgoing, queue) = channel();
        let state = Arc::new(LinkState::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("bridge-out".into()).spawn(move || write(writer, &queue, &shared))?;
        Ok(LinkSender { outgoing: Some(outgoing), state, stream })
    }

    /// Queues a frame. What a broken link is given is lost, and whoever reads it hears that it broke.
    pub fn send(&self, kind: FrameKind, from: Rank, to: Rank, content: &[u8]) {
        let Some(outgoing) = &self.outgoing else { return };
        let mut frame = Vec::new();
        put(&mut frame, kind, from, to, content);
        let before = self.state.waiting.fetch_add(weight(&frame), SeqCst);
        if before > MOST_WAITING {
            self.state.overrun.store(true, SeqCst);
            return self.cut();
        }
        self.state.queued.fetch_add(1, SeqCst);
        if outgoing.send(frame).is_err() {
            self.state.broken.store(true, SeqCst);
        }
    }

    /// Why the link was cut on this side, if it was.
    pub fn complaint(&self) -> Option<String> {
        let overrun = self.state.overrun.load(SeqCst);
        overrun.then(|| format!("it does not read what it is sent: {} MiB waited", MOST_WAITING >> 20))
    }

    /// True once all that was sent has left, or never will.
    pub fn drained(&self) -> bool {
        let LinkState { queued, written, broken, .. } = &*self.state;
        broken.load(SeqCst) || written.load(SeqCst) == queued.load(SeqCst)
    }

    /// Nothing more is sent: the other side hears so after the last frame.
    pub fn finish(&mut self) {
        self.outgoing = None;
    }

    /// Ends the link at once.
    pub fn cut(&self) {
        // It may be gone already, which is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn write(mut writer: SecureWriter, queue: &Receiver<Vec<u8>>, state: &LinkState) {
    let end = match write_all(&mut writer, queue, state) {
        Ok(()) => Shutdown::Write,
        Err(error) => {
            tracing::debug!(%error, "a link of the bridge cannot be written to");
            state.broken.store(true, SeqCst);
            // The reader hears of it so.
            Shutdown::Both
        }
    };
    let _ = writer.stream().shutdown(end);
}

fn write_all(writer: &mut SecureWriter, queue: &Receiver<Vec<u8>>, state: &LinkState) -> Result<(), SecureError> {
    let mut beat = Vec::new();
    put(&mut beat, FrameKind::Beat, Rank::ZERO, Rank::ZERO, &[]);
    loop {
        let mut text = match queue.recv_timeout(BEAT) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => {
                writer.write(&beat)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let (mut frames, mut weights) = (1, weight(&text));
        while text.len() < GATHER
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
    frame.len().min(MOST_WEIGHT)
}

/// When something has last come over a link.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds after that.
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// Something comes now.
    pub fn start() -> Pulse {
        Pulse { began: Instant::now(), last: Arc::default() }
    }

    /// Something has come.
    pub fn beat(&self) {
        self.last.store(self.now(), SeqCst);
    }

    /// True if two heartbeats are missing.
    pub fn is_missing(&self) -> bool {
        u128::from(self.now().saturating_sub(self.last.load(SeqCst))) > TWO_BEATS_MISSING.as_millis()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Reads a link to its end, heartbeats aside. Returns why it ended. `each` may end it with a reason of its own.
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
                return format!("nothing has been heard from it for {} s", SILENCE.as_secs());
            }
            Err(error) => return format!("the connection broke: {error}"),
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
