//! The client side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::server::through;
use super::{Answer, Asked, MAX_LINE_BYTES, Question, SOCKET, folder};

/// Timeout for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a run did not answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is no socket, or no process listens on it.
    #[error(
        "the run cannot be reached: {0}; it has ended, or its rank 0 is on another node (`phalanx report` shows a run that has ended)"
    )]
    Unreachable(io::Error),
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

fn put(run: &Path, asked: &Asked<&Question>) -> Result<Answer, ControlError> {
    let silent = |error: &dyn std::fmt::Display| ControlError::Silent(error.to_string());
    let connect = |path: &Path| {
        loop {
            match UnixStream::connect(path.join(SOCKET)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                connected => return connected,
            }
        }
    };
    let mut stream = through(&folder(run), connect).map_err(ControlError::Unreachable)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(|error| silent(&error))?;
    let mut line = serde_json::to_string(asked).map_err(|error| silent(&error))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(|error| silent(&error))?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut answer).map_err(|error| silent(&error))?;
    if answer.is_empty() {
        return Err(ControlError::Silent("it ended before it answered".into()));
    }
    serde_json::from_str(&answer).map_err(|error| silent(&error))
}
