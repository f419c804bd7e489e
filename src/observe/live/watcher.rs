//! A thread of rank 0 that evaluates alerts and keeps a metrics file up to date for collectors such
//! as the node_exporter of Prometheus.
//!
//! It reads the run directory as the page does, once more when the run ends. Slow or failing
//! receivers do not affect the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Live, metric, metrics};
use crate::job::Alert;
use crate::journal::{RunDir, Session, unix_now_ns, utc};
use crate::observe::alerts::{AlertWatch, Telling, Told, tell};
use crate::observe::job_view::SessionJob;

/// Interval between two evaluations.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two writes of the metrics file; collectors usually read it every 15 s.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);

/// What to watch.
pub struct Orders {
    /// Alerts of the job.
    pub alerts: Vec<Alert>,
    /// Path of the metrics file.
    pub metrics_file: Option<PathBuf>,
}

/// Watches a run until it is dropped.
pub struct Watcher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread, if there is anything to watch. Notes for the journal arrive at the
    /// receiver.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn begin(
        dir: &RunDir,
        read: fn(&Session) -> Result<SessionJob, String>,
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
    /// Waits for the final evaluation.
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches for alerts has panicked");
        }
    }
}

struct WatchRounds {
    dir: RunDir,
    read: fn(&Session) -> Result<SessionJob, String>,
    watches: Vec<AlertWatch>,
    metrics_file: Option<PathBuf>,
    written: Option<Instant>,
    notes: Sender<String>,
    live: Option<Live>,
    /// A failure to write the metrics file is reported once.
    troubled: bool,
}

impl WatchRounds {
    fn new(
        dir: RunDir,
        read: fn(&Session) -> Result<SessionJob, String>,
        orders: Orders,
        notes: Sender<String>,
    ) -> WatchRounds {
        let Orders { alerts, metrics_file } = orders;
        let watches = alerts.into_iter().map(AlertWatch::new).collect();
        WatchRounds { dir, read, watches, metrics_file, written: None, notes, live: None, troubled: false }
    }

    fn go(mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(WATCH_INTERVAL) {
            self.look(false);
        }
        self.look(true);
    }

    fn look(&mut self, last: bool) {
        // A journal that cannot be read yet may be readable later; damage is reported elsewhere.
        let live = match self.live.take() {
            None => Live::open(&self.dir, &self.read).ok(),
            Some(mut live) => live.refresh(&self.read).is_ok().then_some(live),
        };
        let Some(live) = live else { return };
        for watch in &mut self.watches {
            if let Some(told) = watch.look(live.elapsed_s(), metric::value(&live, &watch.alert.metric)) {
                // The receiver outlives this thread.
                let _ = self.notes.send(told.text.clone());
                for trouble in tell(&watch.alert, &told, &telling(&live, &watch.alert, &told)) {
                    let _ = self.notes.send(trouble);
                }
            }
        }
        if let Some(path) = &self.metrics_file
            && (last || self.written.is_none_or(|at| at.elapsed() >= METRICS_INTERVAL))
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

/// Replaces a file atomically, so that readers never see a partial one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
