//! Queries file systems with a time limit: a mount whose server is down blocks the calling thread
//! forever.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;
use std::time::Duration;

/// Upper bound on the wait for one answer; a busy file system answers well within it.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Queries in a thread of its own. After the first query without an answer it makes no further
/// ones.
#[derive(Default)]
pub(crate) struct FileProbe {
    /// Set at the first query; `None` if the system could not start a thread.
    thread: OnceLock<Option<Sender<Probe>>>,
    unanswered: OnceLock<PathBuf>,
}

type Probe = Box<dyn FnOnce() + Send>;

impl FileProbe {
    /// Whether the file exists; `None` if its file system gives no answer in time.
    pub(crate) fn exists(&self, path: &Path) -> Option<bool> {
        self.ask(path, Path::exists)
    }

    /// Returns the result of `question` for the file; `None` if its file system does not answer in
    /// time, or an earlier query got no answer.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        question: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Option<T> {
        if self.unanswered.get().is_some() {
            return None;
        }
        let Some(thread) = self.thread.get_or_init(start) else { return Some(question(path)) };
        let (answer, answers) = channel();
        let asked = path.to_owned();
        // A late answer has no receiver any more.
        let ask = move || drop(answer.send(question(&asked)));
        let answer = thread.send(Box::new(ask)).ok().and_then(|()| answers.recv_timeout(ANSWER_TIMEOUT).ok());
        if answer.is_none() {
            self.unanswered.get_or_init(|| path.to_owned());
        }
        answer
    }

    /// The file whose file system did not answer, if there was one.
    pub(crate) fn unanswered(&self) -> Option<&Path> {
        self.unanswered.get().map(PathBuf::as_path)
    }
}

fn start() -> Option<Sender<Probe>> {
    let (sender, questions) = channel::<Probe>();
    let serve = move || questions.into_iter().for_each(|question| question());
    Builder::new().name("file-probe".into()).spawn(serve).ok().map(|_| sender)
}
