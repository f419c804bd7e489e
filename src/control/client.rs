//! The client side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::server::through;
use super::{Answer, Asked, MAX_LINE_BYTES, Question, SOCKET, folder};

/// Timeout for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a process that was killed may go on listening.
const MAX_DYING: Duration = Duration::from_secs(5);

/// Interval at which a question is repeated to a run that seems to die.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Why a run did not answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is no socket, or no process listens on it.
    #[error(
        "the run cannot be reached: {0}; it has ended, or its rank 0 is on another node (`phalanx report` shows a run that has ended)"
    )]
    Unreachable(io::Error),
    /// The control socket admits only the user of the run.
    #[error(
        "the run belongs to another user ({0}): only that user can ask or steer it (`phalanx report` reads its directory)"
    )]
    NotOwned(io::Error),
    /// The run closed the connection, or sent an invalid answer.
    #[error("the run did not answer: {0}")]
    Silent(String),
}

/// Sends a question to the run in this directory, as its user.
///
/// # Errors
/// See [`ControlError`].
pub fn ask(run: &Path, question: &Question) -> Result<Answer, ControlError> {
    put(run, &Asked { by: None, question })
}

/// As [`ask`], on behalf of `by`, who is named in the journal.
///
/// # Errors
/// See [`ControlError`].
pub fn ask_as(by: &str, run: &Path, question: &Question) -> Result<Answer, ControlError> {
    put(run, &Asked { by: Some(by.to_owned()), question })
}

/// Sends a question. A run that dies resets the connection or closes it without an answer; then the
/// question is repeated until nobody listens any more, which says that the run has ended.
fn put(run: &Path, asked: &Asked<&Question>) -> Result<Answer, ControlError> {
    let begun = Instant::now();
    loop {
        match put_once(run, asked) {
            Err(error) if error.is_cut_off() && begun.elapsed() < MAX_DYING => std::thread::sleep(RETRY_INTERVAL),
            Err(Refused::Unreachable(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ControlError::NotOwned(error));
            }
            Err(Refused::Unreachable(error)) => return Err(ControlError::Unreachable(error)),
            Err(Refused::Silent(error)) => return Err(ControlError::Silent(error.to_string())),
            Ok(answer) => return Ok(answer),
        }
    }
}

/// Why one attempt failed.
enum Refused {
    /// Nobody listens.
    Unreachable(io::Error),
    /// There is no valid answer.
    Silent(io::Error),
}

impl Refused {
    /// True if the other side ended the connection.
    fn is_cut_off(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Refused::Silent(error) if [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind()))
    }
}

fn put_once(run: &Path, asked: &Asked<&Question>) -> Result<Answer, Refused> {
    let connect = |path: &Path| {
        loop {
            match UnixStream::connect(path.join(SOCKET)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                connected => return connected,
            }
        }
    };
    let mut stream = through(&folder(run), connect).map_err(Refused::Unreachable)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(Refused::Silent)?;
    let mut line = serde_json::to_string(asked).map_err(|error| Refused::Silent(error.into()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(Refused::Silent)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut answer).map_err(Refused::Silent)?;
    if answer.is_empty() {
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it answered");
        return Err(Refused::Silent(ended));
    }
    serde_json::from_str(&answer).map_err(|error| Refused::Silent(error.into()))
}
