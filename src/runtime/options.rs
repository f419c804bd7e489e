//! What a user asks of a run.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::observe::progress::Mode;
use crate::workload::Selection;

/// What a user asks of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The job file, or several that run as one job. Only rank 0 reads them.
    pub jobs: Vec<PathBuf>,
    /// Where the run keeps its files; `None`: `phalanx-runs/<job>-<number>`.
    pub run_dir: Option<PathBuf>,
    /// Resume the latest run of this job, or the one in `run_dir`.
    pub resume: bool,
    /// Tell the user how the run relates to earlier ones of its job.
    pub mention_earlier: bool,
    /// Tasks to run again although they have completed, with their dependents; only with `resume`.
    pub rerun: Vec<String>,
    /// Which tasks of the job to run.
    pub selection: Selection,
    /// Slots of each rank; `None`: the CPUs that the launcher granted.
    pub slots: Option<u32>,
    /// Labels of this rank, beside those in `PHALANX_LABELS`.
    pub labels: Vec<String>,
    /// Rank 0 runs no tasks.
    pub coordinator_only: bool,
    /// Start no further task after this number of failures; overrides the job file.
    pub max_failures: Option<u32>,
    /// Continue however many tasks fail; overrides the job file.
    pub keep_going: bool,
    /// Where rank 0 listens for ranks that join (`HOST` or `HOST:PORT`); `None`: as the job says.
    pub join_on: Option<String>,
    /// How progress is shown.
    pub progress: Mode,
    /// Where rank 0 serves a page and an API about the run; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// File that rank 0 updates with the metrics of the run, in the text format of Prometheus;
    /// `None`: none.
    pub metrics_file: Option<PathBuf>,
}

impl Options {
    /// The defaults for a job file.
    pub fn new(job: impl Into<PathBuf>) -> Options {
        Options {
            jobs: vec![job.into()],
            run_dir: None,
            resume: false,
            mention_earlier: true,
            rerun: Vec::new(),
            selection: Selection::default(),
            slots: None,
            labels: Vec::new(),
            coordinator_only: false,
            max_failures: None,
            keep_going: false,
            join_on: None,
            progress: Mode::detect(false),
            listen: None,
            metrics_file: None,
        }
    }
}
