//! An encrypted and authenticated TCP connection between two sides that know the run's secret.
//!
//! The protocol is Noise (`NNpsk0`, X25519, ChaCha20-Poly1305, BLAKE2s). Both sides mix the secret
//! into fresh keys: the secret never travels, and learning it later does not decrypt recorded
//! traffic. A replayed opening fails because the other side's keys are new each time.
//!
//! Before the handshake both sides send the program's name and the protocol's version in clear
//! text, so that incompatible builds get a clear error message. This text is part of the Noise
//! prologue, so that nobody can change it on the way.
//!
//! Afterwards the stream consists of records of at most 65,535 bytes: a length (2 bytes), then the
//! encrypted text. Records are numbered implicitly, so none can be dropped, repeated or reordered.
//! Reading and writing are independent and belong to different threads.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snow::{Builder, HandshakeState, StatelessTransportState};
use thiserror::Error;

use super::contact::Secret;
use crate::schedule::protocol::VERSION;

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// What both sides send first; the protocol's version follows.
const NAME: [u8; 8] = *b"PHALANX\n";
const HELLO_BYTES: usize = NAME.len() + 2;

/// Size of each side's handshake message in bytes: a public key and the authentication tag.
const OPENING_BYTES: usize = 48;

/// Size of the authentication tag at the end of each record, in bytes.
const TAG_BYTES: usize = 16;

/// Largest plain text of a record, in bytes.
pub const MAX_RECORD_BYTES: usize = u16::MAX as usize - TAG_BYTES;

/// Why a connection was refused, or broke.
#[derive(Debug, Error)]
pub enum SecureError {
    /// The other side is not Phalanx.
    #[error("it does not speak Phalanx's protocol")]
    Foreign,
    /// The other side has another version of the protocol.
    #[error(
        "it speaks version {0} of the protocol, this side version {VERSION}: use the same build of Phalanx everywhere"
    )]
    Version(u16),
    /// The other side does not know the secret.
    #[error("it does not know this run's secret")]
    Secret,
    /// A record was forged or damaged on its way.
    #[error("a record is forged or damaged")]
    Forged,
    /// The network or the other side failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A cryptographic operation failed.
    #[error("cryptography: {0}")]
    Crypto(snow::Error),
}

/// The two directions of a connection.
pub struct Channel {
    /// Receives from the other side.
    pub reader: SecureReader,
    /// Sends to the other side.
    pub writer: SecureWriter,
}

/// The receiving direction of a [`Channel`].
pub struct SecureReader {
    stream: TcpStream,
    keys: Arc<StatelessTransportState>,
    next: u64,
    sealed: Vec<u8>,
    text: Vec<u8>,
}

/// The sending direction of a [`Channel`].
pub struct SecureWriter {
    stream: TcpStream,
    keys: Arc<StatelessTransportState>,
    next: u64,
    sealed: Vec<u8>,
}

/// Performs the handshake on the connecting side; the other side calls [`accept`]. The handshake
/// must complete within `limit`.
///
/// # Errors
/// If the other side does not know the secret, is no Phalanx of this version, or does not answer in
/// time.
pub fn connect(stream: TcpStream, secret: &Secret, limit: Duration) -> Result<Channel, SecureError> {
    let mut stream = DeadlineStream::new(stream, limit);
    let mut noise = builder(secret)?.build_initiator().map_err(SecureError::Crypto)?;
    stream.write_all(&hello())?;
    write_opening(&mut stream, &mut noise)?;
    read_hello(&mut stream)?;
    // A side with another secret closes the connection after it has read our opening.
    read_opening(&mut stream, &mut noise).map_err(|error| match error {
        SecureError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => SecureError::Secret,
        other => other,
    })?;
    channel(stream, noise)
}

/// Performs the handshake on the accepting side. It must complete within `limit`.
///
/// # Errors
/// If the other side does not prove in time that it knows the secret.
pub fn accept(stream: TcpStream, secret: &Secret, limit: Duration) -> Result<Channel, SecureError> {
    let mut stream = DeadlineStream::new(stream, limit);
    let mut noise = builder(secret)?.build_responder().map_err(SecureError::Crypto)?;
    let theirs = read_hello(&mut stream);
    if matches!(theirs, Ok(()) | Err(SecureError::Version(_))) {
        // Sent to another version too, so that it can name both versions in its error.
        stream.write_all(&hello())?;
    }
    theirs?;
    read_opening(&mut stream, &mut noise)?;
    write_opening(&mut stream, &mut noise)?;
    channel(stream, noise)
}

fn hello() -> [u8; HELLO_BYTES] {
    let mut hello = [0; HELLO_BYTES];
    hello[..NAME.len()].copy_from_slice(&NAME);
    hello[NAME.len()..].copy_from_slice(&VERSION.to_le_bytes());
    hello
}

fn builder(secret: &Secret) -> Result<Builder<'_>, SecureError> {
    let params = NOISE.parse().map_err(SecureError::Crypto)?;
    let builder = Builder::new(params).psk(0, &secret.0).map_err(SecureError::Crypto)?;
    // Built at run time, as the version must be part of it.
    static PROLOGUE: std::sync::OnceLock<[u8; HELLO_BYTES]> = std::sync::OnceLock::new();
    builder.prologue(PROLOGUE.get_or_init(hello)).map_err(SecureError::Crypto)
}

fn read_hello(stream: &mut DeadlineStream) -> Result<(), SecureError> {
    let mut theirs = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs)?;
    let (name, version) = theirs.split_at(NAME.len());
    if name != NAME {
        return Err(SecureError::Foreign);
    }
    match u16::from_le_bytes([version[0], version[1]]) {
        VERSION => Ok(()),
        other => Err(SecureError::Version(other)),
    }
}

fn write_opening(stream: &mut DeadlineStream, noise: &mut HandshakeState) -> Result<(), SecureError> {
    let mut opening = [0; OPENING_BYTES];
    let size = noise.write_message(&[], &mut opening).map_err(SecureError::Crypto)?;
    debug_assert_eq!(size, OPENING_BYTES);
    Ok(stream.write_all(&opening)?)
}

fn read_opening(stream: &mut DeadlineStream, noise: &mut HandshakeState) -> Result<(), SecureError> {
    let mut opening = [0; OPENING_BYTES];
    stream.read_exact(&mut opening)?;
    noise.read_message(&opening, &mut [0; OPENING_BYTES]).map(drop).map_err(|_| SecureError::Secret)
}

fn channel(stream: DeadlineStream, noise: HandshakeState) -> Result<Channel, SecureError> {
    let keys = Arc::new(noise.into_stateless_transport_mode().map_err(SecureError::Crypto)?);
    let stream = stream.inner;
    let reader = SecureReader {
        stream: stream.try_clone()?,
        keys: Arc::clone(&keys),
        next: 0,
        sealed: vec![0; u16::MAX as usize],
        text: vec![0; u16::MAX as usize],
    };
    let writer = SecureWriter { stream, keys, next: 0, sealed: vec![0; 2 + u16::MAX as usize] };
    Ok(Channel { reader, writer })
}

impl SecureReader {
    /// Returns the text of the next record, or `None` if the other side has closed the connection.
    /// Waits as long as the stream's time limit.
    ///
    /// # Errors
    /// If nothing arrives in time, the connection breaks, or a record fails authentication.
    pub fn read(&mut self) -> Result<Option<&[u8]>, SecureError> {
        let mut size = [0; 2];
        let first = loop {
            match self.stream.read(&mut size[..1]) {
                // A process that is stopped and continued gets EINTR in a read with a time limit.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                first => break first?,
            }
        };
        match first {
            0 => return Ok(None),
            _ => self.stream.read_exact(&mut size[1..])?,
        }
        let sealed = &mut self.sealed[..usize::from(u16::from_be_bytes(size))];
        self.stream.read_exact(sealed)?;
        let read = self.keys.read_message(self.next, sealed, &mut self.text).map_err(|_| SecureError::Forged)?;
        self.next += 1;
        Ok(Some(&self.text[..read]))
    }

    /// Sets how long a read waits for the next bytes.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }
}

impl SecureWriter {
    /// Sends text in one or more records.
    ///
    /// # Errors
    /// If the connection breaks, or the other side does not take it in time.
    pub fn write(&mut self, text: &[u8]) -> Result<(), SecureError> {
        for piece in text.chunks(MAX_RECORD_BYTES) {
            let size = self.keys.write_message(self.next, piece, &mut self.sealed[2..]).map_err(SecureError::Crypto)?;
            self.next += 1;
            self.sealed[..2].copy_from_slice(&(size as u16).to_be_bytes());
            self.stream.write_all(&self.sealed[..2 + size])?;
        }
        Ok(())
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A stream with one deadline for all its reads and writes, however slowly the other side sends.
struct DeadlineStream {
    inner: TcpStream,
    due: Instant,
}

impl DeadlineStream {
    fn new(inner: TcpStream, limit: Duration) -> DeadlineStream {
        DeadlineStream { inner, due: Instant::now() + limit }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.due.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.set_read_timeout(Some(self.left()?))?;
        self.inner.read(buffer)
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.set_write_timeout(Some(self.left()?))?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (there, listener.accept().unwrap().0)
    }

    fn pair(a: [u8; 32], b: [u8; 32]) -> (Result<Channel, SecureError>, Result<Channel, SecureError>) {
        let (there, here) = ends();
        let other = thread::spawn(move || connect(there, &Secret(a), LIMIT));
        let here = accept(here, &Secret(b), LIMIT);
        (other.join().unwrap(), here)
    }

    #[test]
    fn who_knows_the_secret_is_understood_both_ways() {
        let (there, here) = pair([7; 32], [7; 32]);
        let (mut there, mut here) = (there.unwrap(), here.unwrap());
        let text: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let sent = text.clone();
        let writer = thread::spawn(move || there.writer.write(&sent).map(|()| there));
        let mut came = Vec::new();
        while came.len() < text.len() {
            came.extend_from_slice(here.reader.read().unwrap().unwrap());
        }
        assert!(came == text);
        let mut there = writer.join().unwrap().unwrap();
        here.writer.write(b"well").unwrap();
        assert_eq!(there.reader.read().unwrap(), Some(&b"well"[..]));
        drop(here);
        assert!(there.reader.read().unwrap().is_none());
    }

    #[test]
    fn another_secret_is_refused_on_both_sides() {
        let (there, here) = pair([7; 32], [8; 32]);
        assert!(matches!(here, Err(SecureError::Secret)));
        assert!(there.is_err());
    }

    #[test]
    fn strangers_and_other_builds_are_told_apart() {
        let answer = |bytes: &'static [u8]| {
            let (mut there, here) = ends();
            there.write_all(bytes).unwrap();
            drop(there.shutdown(std::net::Shutdown::Write));
            accept(here, &Secret([0; 32]), LIMIT).err().unwrap()
        };
        assert!(matches!(answer(b"GET / HTTP/1.1\r\n\r\n"), SecureError::Foreign));
        assert!(matches!(answer(b"PHALANX\n\xff\xff"), SecureError::Version(0xFFFF)));
        assert!(matches!(answer(b"PHAL"), SecureError::Io(_)));
        assert!(matches!(answer(b""), SecureError::Io(_)));
    }

    #[test]
    fn a_side_that_says_nothing_is_given_up_in_time() {
        let (_there, here) = ends();
        let error = accept(here, &Secret([0; 32]), Duration::from_millis(20)).err().unwrap();
        assert!(matches!(error, SecureError::Io(_)), "{error}");
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let (there, here) = pair([7; 32], [7; 32]);
        let (mut there, mut here) = (there.unwrap(), here.unwrap());
        let mut sealed = vec![0; 64];
        let size = there.writer.keys.write_message(0, b"text", &mut sealed).unwrap();
        sealed[3] ^= 1;
        there.writer.stream.write_all(&(size as u16).to_be_bytes()).unwrap();
        there.writer.stream.write_all(&sealed[..size]).unwrap();
        assert!(matches!(here.reader.read(), Err(SecureError::Forged)));
    }
}
