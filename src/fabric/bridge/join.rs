//! The end of a link at a rank that joins.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::contact::Contact;
use super::link::{self, LinkSender, Pulse};
use super::secure::{self, Channel, SecureError, SecureReader};
use super::stream::FrameKind;
use super::{Ask, JoinAnswer, PATIENCE, SILENCE};
use crate::fabric::FabricError;
use crate::fabric::routed::{Outside, Passed};
use crate::model::Rank;

/// How often the end of a closed link is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// Whoever joins tries again for so long while it may help.
const PERSISTENCE: Duration = Duration::from_secs(60);

/// The first pause is about as long as this; each further one is twice as long as the one before
/// ...
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So often it may be that the run hangs up after this side's proof because it has too many
/// connections, and not because the proof is wrong.
const PROOFS: u32 = 5;

/// Why a run cannot be joined.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Nobody answers there.
    #[error("cannot reach the run at {address}: {source} (is it over, or on another network?)")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Somebody answers who is not the run that the contact file speaks of.
    #[error("{address} is not the run that the contact file speaks of: {source}")]
    Stranger {
        /// Where.
        address: String,
        /// What was wrong.
        source: SecureError,
    },
    /// None of several addresses leads to the run.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Nowhere(Vec<JoinError>),
    /// The run does not want another rank.
    #[error("the run refused: {0}")]
    Refused(String),
    /// It hung up, or said something else.
    #[error("the run did not answer: {0}")]
    Silent(String),
    /// The system gives no threads.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl JoinError {
    /// True if a further attempt may do better, the first of them having failed so `before` times.
    fn may_pass(&self, before: u32) -> bool {
        match self {
            // Nobody listens there any more.
            JoinError::Unreachable { source, .. } => source.kind() != io::ErrorKind::ConnectionRefused,
            JoinError::Stranger { source, .. } => match source {
                SecureError::Io(_) => true,
                SecureError::Secret => before < PROOFS,
                _ => false,
            },
            JoinError::Nowhere(errors) => errors.iter().any(|error| error.may_pass(before)),
            JoinError::Silent(_) => true,
            JoinError::Refused(_) | JoinError::Thread(_) => false,
        }
    }
}

/// The pauses of somebody who tries again to join. They grow, and differ between those who began
/// together, so that a world of hundreds of ranks comes in however few connections the run looks
/// at.
pub struct Pauses {
    next: Duration,
    tried: u32,
    until: Instant,
}

impl Pauses {
    /// From now on.
    pub fn begin() -> Pauses {
        Pauses { next: FIRST_PAUSE, tried: 0, until: Instant::now() + PERSISTENCE }
    }

    /// How long to wait before the next attempt; `None` if there should be none.
    pub fn after(&mut self, error: &JoinError) -> Option<Duration> {
        self.tried += 1;
        let pause = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (2 * self.next).min(LONGEST_PAUSE);
        (error.may_pass(self.tried) && Instant::now() + pause < self.until).then_some(pause)
    }
}

/// The link of a rank that joined.
pub struct Joined {
    link: LinkSender,
    frames: Receiver<Passed>,
    pulse: Pulse,
    came: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

/// Asks a run to be let in; returns this rank's number and its link. `notify` is called, from another thread, when a frame has come or
/// the link has ended.
///
/// # Errors
/// See [`JoinError`].
pub fn join(contact: &Contact, ask: &Ask, notify: impl Fn() + Send + 'static) -> Result<(Rank, Joined), JoinError> {
    let Channel { mut reader, writer } = reach(contact)?;
    reader.set_limit(SILENCE).map_err(JoinError::Thread)?;
    let link = LinkSender::start(writer).map_err(JoinError::Thread)?;
    let content = postcard::to_stdvec(ask).map_err(|error| JoinError::Silent(error.to_string()))?;
    link.send(FrameKind::Ask, Rank::ZERO, Rank::ZERO, &content);
    let me = answer(&mut reader)?;
    let (put, frames) = channel();
    let (came, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (has_come, is_over) = (Arc::clone(&came), Arc::clone(&over));
    let pulse = Pulse::start();
    let beats = pulse.clone();
    let carry = move || {
        let why = link::read(&mut reader, Some(&beats), |frame| {
            if frame.kind != FrameKind::Data || frame.to != me {
                return Err("it sent a frame that is not for this rank".into());
            }
            let passed = Passed { from: frame.from, to: frame.to, frame: frame.content };
            put.send(passed).map_err(|_| String::from("this rank has left"))?;
            if !has_come.swap(true, SeqCst) {
                notify();
            }
            Ok(())
        });
        tracing::debug!("the link to the coordinator has ended: {why}");
        is_over.store(true, SeqCst);
        drop(put);
        has_come.store(true, SeqCst);
        notify();
    };
    thread::Builder::new().name("bridge-in".into()).spawn(carry).map_err(JoinError::Thread)?;
    Ok((me, Joined { link, frames, pulse, came, over }))
}

/// Finds the run at the first of its addresses that leads to it: on another node an address may
/// belong to somebody else.
fn reach(contact: &Contact) -> Result<Channel, JoinError> {
    let mut failed = Vec::new();
    for address in &contact.addresses {
        let unreachable = |source| JoinError::Unreachable { address: address.clone(), source };
        let stranger = |source| JoinError::Stranger { address: address.clone(), source };
        let open = |stream| secure::connect(stream, &contact.secret, PATIENCE).map_err(stranger);
        match connect(address).map_err(unreachable).and_then(open) {
            Ok(channel) => return Ok(channel),
            Err(error) => failed.push(error),
        }
    }
    match failed.pop() {
        Some(only) if failed.is_empty() => Err(only),
        last => Err(JoinError::Nowhere(failed.into_iter().chain(last).collect())),
    }
}

/// Connects to the first of a name's addresses that answers.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits for the run's answer.
fn answer(reader: &mut SecureReader) -> Result<Rank, JoinError> {
    let mut answer = None;
    let why = link::read(reader, None, |frame| {
        answer = (frame.kind == FrameKind::Answer)
            .then(|| postcard::from_bytes::<JoinAnswer>(&frame.content).ok())
            .flatten();
        Err("it answered with something else".into())
    });
    match answer {
        Some(JoinAnswer::Admitted { rank }) => Ok(Rank(rank)),
        Some(JoinAnswer::Refused { reason }) => Err(JoinError::Refused(reason)),
        None => Err(JoinError::Silent(why)),
    }
}

impl Outside for Joined {
    fn send(&mut self, from: Rank, to: Rank, frame: &[u8]) {
        self.link.send(FrameKind::Data, from, to, frame);
    }

    fn receive(&mut self) -> Result<Option<Passed>, FabricError> {
        if !self.came.load(SeqCst) {
            return Ok(None);
        }
        self.came.store(false, SeqCst);
        match self.frames.try_recv() {
            Ok(passed) => {
                self.came.store(true, SeqCst);
                Ok(Some(passed))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                self.came.store(true, SeqCst);
                Err(FabricError::Gone(Rank::ZERO))
            }
        }
    }

    fn drained(&mut self) -> bool {
        self.link.drained()
    }

    fn is_silent(&self) -> bool {
        self.pulse.is_missing()
    }

    fn close(&mut self, limit: Duration) {
        self.link.finish();
        let end = Instant::now() + limit;
        while !(self.link.drained() || self.over.load(SeqCst)) && Instant::now() < end {
            thread::sleep(LOOK);
        }
    }
}
