//! A thread of rank 0 that watches the run for those who do not look at it: it tells of alerts, and keeps a file of metrics up to date for a
//! collector such as Prometheus' node_exporter.
//!
//! It reads what the run writes, as the page does, and looks a last time when the run ends. Whatever is slow or broken about whom it tells
//! is no concern of the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Live, metric, metrics};
use crate::job::Alert;
use crate::journal::{Began, RunDir, unix_now_ns, utc};
use crate::observe::alerts::{AlertWatch, Telling, Told, tell};
use crate::observe::job_view::SessionJob;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Time between two writings of the file of metrics; collectors look four times a minute.
const WRITE: Duration = Duration::from_secs(5);

/// What is to be watched.
pub struct Orders {
    /// The alerts of the job.
    pub alerts: Vec<Alert>,
    /// Where the metrics are written for a collector.
    pub metrics_file: Option<PathBuf>,
}

/// Watches a run until it is dropped.
pub struct Watcher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch, if there is anything to watch for. What is to be noted in the journal comes out of the receiver.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn begin(
        dir: &RunDir,
        read: fn(&Began) -> Result<SessionJob, String>,
        orders: Orders,
    ) -> std::io::Result<Option<(Watcher, Receiver<String>)>> {
        if orders.alerts.is_empty() && orders.metrics_file.is_none() {
            return Ok(None);
        }
        let ((stop, stopped), (notes, noted)) = (channel(), channel());
        let dir = dir.clone();
        let rounds = move || WatchRounds::new(dir, read, orders, notes).go(&stopped);
        let thread = std::thread::Builder::new().name("phalanx-watch".into()).spawn(rounds)?;
        Ok(Some((Watcher { stop: Some(stop), thread: Some(thread) }, noted)))
    }
}

impl Drop for Watcher {
    /// Waits for a last look.
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches for alerts has panicked");
        }
    }
}

struct WatchRounds {
    dir: RunDir,
    read: fn(&Began) -> Result<SessionJob, String>,
    watches: Vec<AlertWatch>,
    metrics_file: Option<PathBuf>,
    written: Option<Instant>,
    notes: Sender<String>,
    live: Option<Live>,
    /// Trouble with the file of metrics is told once.
    troubled: bool,
}

impl WatchRounds {
    fn new(
        dir: RunDir,
        read: fn(&Began) -> Result<SessionJob, String>,
        orders: Orders,
        notes: Sender<String>,
    ) -> WatchRounds {
        let Orders { alerts, metrics_file } = orders;
        let watches = alerts.into_iter().map(AlertWatch::new).collect();
        WatchRounds { dir, read, watches, metrics_file, written: None, notes, live: None, troubled: false }
    }

    fn go(mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
            self.look(false);
        }
        self.look(true);
    }

    fn look(&mut self, last: bool) {
        // A journal that cannot be read yet can be the next time; one that is damaged is told of elsewhere.
        let live = match self.live.take() {
            None => Live::open(&self.dir, &self.read).ok(),
            Some(mut live) => live.refresh(&self.read).is_ok().then_some(live),
        };
        let Some(live) = live else { return };
        for watch in &mut self.watches {
            if let Some(told) = watch.look(live.elapsed_s(), metric::value(&live, &watch.alert.metric)) {
                // Who would note it is there until this thread has ended.
                let _ = self.notes.send(told.text.clone());
                for trouble in tell(&watch.alert, &told, &telling(&live, &watch.alert, &told)) {
                    let _ = self.notes.send(trouble);
                }
            }
        }
        if let Some(path) = &self.metrics_file
            && (last || self.written.is_none_or(|at| at.elapsed() >= WRITE))
        {
            self.written = Some(Instant::now());
            if let Err(error) = replace(path, &metrics::text(&live))
                && !std::mem::replace(&mut self.troubled, true)
            {
                let _ = self.notes.send(format!("cannot write the metrics to {}: {error}", path.display()));
            }
        }
        self.live = Some(live);
    }
}

fn telling<'a>(live: &'a Live, alert: &'a Alert, told: &'a Told) -> Telling<'a> {
    Telling {
        run: &live.name,
        job: live.view.subject().job.name(),
        run_dir: live.view.dir.path().display().to_string(),
        alert: &alert.name,
        metric: &alert.metric,
        value: told.value,
        threshold: told.threshold,
        t: told.t,
        for_s: told.for_s,
        time: utc(unix_now_ns()),
        text: &told.text,
    }
}

/// Replaces a file as a whole, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
