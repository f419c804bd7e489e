//! Rank 0's end of the control socket: threads read questions and queue them for rank 0.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::{Answer, Asked, Question, SOCKET, folder};

/// A client must send its question within this time.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest number of clients at a time.
const MAX_CLIENTS: u32 = 32;

/// Largest size of a question in bytes.
const MAX_QUESTION_BYTES: u64 = 4096;

/// A question that awaits its answer.
#[derive(Debug)]
pub struct PendingRequest {
    /// The question.
    pub question: Question,
    /// Who asks, if not the user at a terminal.
    pub by: Option<String>,
    back: Sender<Answer>,
}

impl PendingRequest {
    /// Sends the answer.
    pub fn answer(self, answer: Answer) {
        // The client may have disconnected.
        let _ = self.back.send(answer);
    }
}

/// The listener of the control socket. Dropping it removes the socket.
pub struct Server {
    calls: Receiver<PendingRequest>,
    folder: PathBuf,
    shared: Arc<ServerState>,
}

struct ServerState {
    calls: Sender<PendingRequest>,
    notify: Box<dyn Fn() + Send + Sync>,
    callers: AtomicU32,
    closing: AtomicBool,
}

/// Calls `act` with a short path to a folder: a socket's path may have only 107 bytes, and the
/// paths of run directories are long.
pub(super) fn through<T>(folder: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let handle = File::open(folder)?;
    act(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())))
}

impl Server {
    /// Opens the socket of a run. Other threads call `notify` when a question has arrived.
    ///
    /// # Errors
    /// If the file system has no sockets, or the directory cannot be written to.
    pub fn open(run: &Path, notify: impl Fn() + Send + Sync + 'static) -> io::Result<Server> {
        let folder = folder(run);
        // Removes what an earlier session left behind.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let listener = through(&folder, |short| UnixListener::bind(short.join(SOCKET)))?;
        let (calls, taken) = channel();
        let (callers, closing) = (AtomicU32::new(0), AtomicBool::new(false));
        let shared = Arc::new(ServerState { calls, notify: Box::new(notify), callers, closing });
        let listening = Arc::clone(&shared);
        thread::Builder::new().name("control".into()).spawn(move || listen(&listening, &listener))?;
        Ok(Server { calls: taken, folder, shared })
    }

    /// Returns the next question, if there is one.
    pub fn next(&self) -> Option<PendingRequest> {
        self.calls.try_recv().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        // Wakes the listener, then removes the socket. Both may have been removed with the run
        // directory.
        drop(through(&self.folder, |short| UnixStream::connect(short.join(SOCKET))));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn listen(shared: &Arc<ServerState>, listener: &UnixListener) {
    while let accepted = listener.accept()
        && !shared.closing.load(SeqCst)
    {
        let Ok((stream, _)) = accepted else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if shared.callers.fetch_add(1, SeqCst) >= MAX_CLIENTS {
            shared.callers.fetch_sub(1, SeqCst);
            continue;
        }
        let serving = Arc::clone(shared);
        let serve = move || {
            if let Err(error) = serve(&serving, stream) {
                tracing::debug!(%error, "a question was not answered");
            }
            serving.callers.fetch_sub(1, SeqCst);
        };
        if let Err(error) = thread::Builder::new().name("control".into()).spawn(serve) {
            shared.callers.fetch_sub(1, SeqCst);
            tracing::warn!(%error, "cannot serve the control socket");
        }
    }
}

fn serve(shared: &ServerState, mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(QUESTION_TIMEOUT))?;
    stream.set_write_timeout(Some(QUESTION_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(MAX_QUESTION_BYTES)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Asked<Question>>(&line) {
        Ok(Asked { by, question }) => {
            let (back, answered) = channel();
            let call = PendingRequest { question, by, back };
            shared.calls.send(call).map_err(|_| io::ErrorKind::BrokenPipe)?;
            (shared.notify)();
            // The run drops the question if it ends meanwhile.
            answered.recv().map_err(|_| io::ErrorKind::BrokenPipe)?
        }
        Err(error) => Answer::refused(format!("invalid question: {error}")),
    };
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}
