//! The joining rank's end of a link.

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
use super::{Ask, HANDSHAKE_TIMEOUT, JoinAnswer, MAX_SILENCE};
use crate::fabric::FabricError;
use crate::fabric::routed::{Outside, Passed};
use crate::model::Rank;

/// Poll interval while a link is closing.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A joining rank retries for at most this long, as long as the error may be temporary.
const MAX_RETRY_TIME: Duration = Duration::from_secs(60);

/// Approximate first pause between two attempts. Each further pause is twice as long ...
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// ... up to this limit.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Number of failed proofs after which the secret is taken to be wrong. Fewer failures may mean
/// that the hub closed the connection because it had too many.
const MAX_FAILED_PROOFS: u32 = 5;

/// Why a run cannot be joined.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Connecting to the address failed.
    #[error("cannot reach the run at {address}: {source} (is it over, or on another network?)")]
    Unreachable {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Another program answers, not the run of the contact file.
    #[error("{address} is not the run of the contact file: {source}")]
    Stranger {
        /// The address.
        address: String,
        /// Why it is not that run.
        source: SecureError,
    },
    /// None of the addresses leads to the run.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Nowhere(Vec<JoinError>),
    /// Rank 0 refused the request, for this reason.
    #[error("the run refused: {0}")]
    Refused(String),
    /// The run closed the connection or sent an unexpected answer.
    #[error("the run did not answer: {0}")]
    Silent(String),
    /// The system could not start a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl JoinError {
    /// True if a retry may succeed. `before` counts the earlier attempts that failed with an
    /// unproven secret.
    fn is_temporary(&self, before: u32) -> bool {
        match self {
            // No process listens at the address any more.
            JoinError::Unreachable { source, .. } => source.kind() != io::ErrorKind::ConnectionRefused,
            JoinError::Stranger { source, .. } => match source {
                SecureError::Io(_) => true,
                SecureError::Secret => before < MAX_FAILED_PROOFS,
                _ => false,
            },
            JoinError::Nowhere(errors) => errors.iter().any(|error| error.is_temporary(before)),
            JoinError::Silent(_) => true,
            JoinError::Refused(_) | JoinError::Thread(_) => false,
        }
    }
}

/// Pauses between a rank's attempts to join. They grow exponentially and are randomised, so that
/// hundreds of ranks that start together do not retry together.
pub struct Pauses {
    next: Duration,
    tried: u32,
    until: Instant,
}

impl Pauses {
    /// Starts the retry time now.
    pub fn begin() -> Pauses {
        Pauses { next: FIRST_RETRY_PAUSE, tried: 0, until: Instant::now() + MAX_RETRY_TIME }
    }

    /// Returns how long to wait before the next attempt, or `None` if the rank should give up.
    pub fn after(&mut self, error: &JoinError) -> Option<Duration> {
        self.tried += 1;
        let pause = self.next.mul_f64(0.5 + fastrand::f64());
        self.next = (2 * self.next).min(MAX_RETRY_PAUSE);
        (error.is_temporary(self.tried) && Instant::now() + pause < self.until).then_some(pause)
    }
}

/// A joined rank's link to rank 0.
pub struct Joined {
    link: LinkSender,
    frames: Receiver<Passed>,
    pulse: Pulse,
    came: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

/// Requests to join a run; returns the assigned rank number and the link. Another thread calls
/// `notify` when a frame has arrived or the link has ended.
///
/// # Errors
/// See [`JoinError`].
pub fn join(contact: &Contact, ask: &Ask, notify: impl Fn() + Send + 'static) -> Result<(Rank, Joined), JoinError> {
    let Channel { mut reader, writer } = reach(contact)?;
    reader.set_limit(MAX_SILENCE).map_err(JoinError::Thread)?;
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

/// Connects to the run at the first address that leads to it. On another node an address may belong
/// to another program.
fn reach(contact: &Contact) -> Result<Channel, JoinError> {
    let mut failed = Vec::new();
    for address in &contact.addresses {
        let unreachable = |source| JoinError::Unreachable { address: address.clone(), source };
        let stranger = |source| JoinError::Stranger { address: address.clone(), source };
        let open = |stream| secure::connect(stream, &contact.secret, HANDSHAKE_TIMEOUT).map_err(stranger);
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

/// Connects to the first address of a host name that answers.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits for rank 0's answer to the request.
fn answer(reader: &mut SecureReader) -> Result<Rank, JoinError> {
    let mut answer = None;
    let why = link::read(reader, None, |frame| {
        answer = (frame.kind == FrameKind::Answer)
            .then(|| postcard::from_bytes::<JoinAnswer>(&frame.content).ok())
            .flatten();
        Err("it sent an unexpected answer".into())
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
            thread::sleep(CLOSE_POLL_INTERVAL);
        }
    }
}
