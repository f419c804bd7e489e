//! Rank 0's end of the socket: threads that read questions and hand them to whoever looks after the run.

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

/// Who connects must have asked within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many may ask at a time.
const CALLERS: u32 = 32;

/// A question is shorter than this.
const LONGEST_QUESTION: u64 = 4096;

/// A question that waits for its answer.
#[derive(Debug)]
pub struct PendingRequest {
    /// What is asked.
    pub question: Question,
    /// By whom, if not by the user at a terminal.
    pub by: Option<String>,
    back: Sender<Answer>,
}

impl PendingRequest {
    /// Answers it.
    pub fn answer(self, answer: Answer) {
        // Who asked may have gone.
        let _ = self.back.send(answer);
    }
}

/// See the module's text.
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

/// Does something with a folder under a short name: the name of a socket may have 107 bytes only, and run directories lie deep.
pub(super) fn through<T>(folder: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let handle = File::open(folder)?;
    act(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())))
}

impl Server {
    /// Opens the socket of a run. `notify` is called from other threads when somebody has asked.
    ///
    /// # Errors
    /// If the file system has no sockets, or the directory cannot be written to.
    pub fn open(run: &Path, notify: impl Fn() + Send + Sync + 'static) -> io::Result<Server> {
        let folder = folder(run);
        // What an earlier session left behind.
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

    /// The next question, if somebody has asked.
    pub fn next(&self) -> Option<PendingRequest> {
        self.calls.try_recv().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        // Wakes the listener; then nobody finds the socket any more. Both may be gone with the run directory.
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
        if shared.callers.fetch_add(1, SeqCst) >= CALLERS {
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
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(LONGEST_QUESTION)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Asked<Question>>(&line) {
        Ok(Asked { by, question }) => {
            let (back, answered) = channel();
            let call = PendingRequest { question, by, back };
            shared.calls.send(call).map_err(|_| io::ErrorKind::BrokenPipe)?;
            (shared.notify)();
            // The run drops the question if it ends meanwhile.
            answered.recv().map_err(|_| io::ErrorKind::BrokenPipe)?
        }
        Err(error) => Answer::refused(format!("this is no question: {error}")),
    };
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}
