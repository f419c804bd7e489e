//! The history of a job: durations from earlier runs, and those of this run for later ones.
//!
//! Before the run, classes without an estimate in the job file get the duration that earlier runs
//! measured. During the run, durations of tasks and delays of nodes are summed up. At its end the
//! run is compared with the earlier ones and added to them. A history that cannot be read or
//! written fails no run: a warning is logged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::capacity::SiteId;
use crate::graph::link::GroupId;
use crate::job::{Group, Job, PolicyKind, Site};
use crate::journal::{HistoryFile, PastRuns};
use crate::model::{Attempt, Time};
use crate::scale::estimate::{Anomaly, History, Learnt, Moment, RunRecord, RunStats};
use crate::workload::requirements;

/// Gives classes without an estimate the duration that earlier runs measured; returns these
/// classes.
pub fn recall(job: &mut Job, history: &History, moment: Moment) -> Vec<Learnt> {
    if history.runs.is_empty() {
        return Vec::new();
    }
    let mut learnt: Vec<Learnt> = Vec::new();
    let mut known: HashMap<Arc<str>, Option<Duration>> = HashMap::new();
    let mut ask = |class: &Arc<str>| {
        let found = history.learnt(class, moment)?;
        let estimate = Duration::try_from_secs_f64(found.seconds.max(1e-9)).ok();
        learnt.extend(estimate.is_some().then_some(found));
        estimate
    };
    for group in job.groups.iter_mut().filter(|group| group.estimate.is_none()) {
        group.estimate = *known.entry(Arc::clone(&group.class)).or_insert_with_key(&mut ask);
    }
    learnt
}

/// The history of a job at the beginning of a run.
pub(super) struct LoadedHistory {
    file: HistoryFile,
    pub(super) history: History,
    pub(super) moment: Moment,
    pub(super) learnt: Vec<Learnt>,
}

impl LoadedHistory {
    /// Reads the history and completes the estimates of the job.
    pub(super) fn load(file: HistoryFile, job: &mut Job, began_unix_ns: u64) -> LoadedHistory {
        let history = match file.read() {
            Ok((history, 0)) => history,
            Ok((history, odd)) => {
                tracing::warn!("lines of {} that cannot be read are skipped: {odd}", file.path().display());
                history
            }
            Err(error) => {
                tracing::warn!("cannot read {}: {error}; nothing is known of earlier runs", file.path().display());
                History::default()
            }
        };
        let moment = Moment::of_unix(began_unix_ns / 1_000_000_000);
        let learnt = recall(job, &history, moment);
        LoadedHistory { file, history, moment, learnt }
    }
}

/// The kind of the nodes of a site, as the history names it; `None`: without a provider.
pub fn kind_of(site: Option<&Site>) -> String {
    match site {
        None => "woken".to_owned(),
        Some(Site { terms: Some(terms), capacity }) => match capacity.nodes_per_block {
            0 | 1 => format!("site {}", terms.name),
            nodes => format!("site {} x{nodes}", terms.name),
        },
        Some(site) => site.capacity.provider.name().to_owned(),
    }
}

/// The class of a group that the job file does not have.
const NO_CLASS: u32 = u32::MAX;

/// Sums up what a run measures.
pub(super) struct HistoryRecorder {
    past: LoadedHistory,
    job: Arc<Job>,
    /// The class of each group.
    classes: Vec<u32>,
    lessons: RunStats,
    run: RunRecord,
}

impl HistoryRecorder {
    /// The recorder of a run of this name that begins with this number of slots. `anew`: no earlier
    /// session completed tasks of it.
    pub(super) fn new(
        past: LoadedHistory,
        job: &Arc<Job>,
        run: &str,
        slots: u32,
        began_unix_ns: u64,
        anew: bool,
    ) -> HistoryRecorder {
        let (classes, firsts) = job.classes();
        let sizes =
            firsts.iter().map(|&first| &job.groups[first as usize]).map(|group| (&*group.class, group.estimate));
        let policy = job.scaling.as_ref().map_or(PolicyKind::Fixed, |scaling| scaling.policy).name();
        HistoryRecorder {
            lessons: RunStats::new(sizes),
            classes,
            past,
            run: RunRecord {
                run: run.to_owned(),
                began_unix_s: began_unix_ns / 1_000_000_000,
                tasks: job.task_count() as u32,
                slots,
                policy: policy.to_owned(),
                whole: anew,
                wall_s: 0.0,
                work_s: 0.0,
                classes: Vec::new(),
                delays: Vec::new(),
            },
            job: Arc::clone(job),
        }
    }

    /// What is known before the run; `None` for the first run of a job.
    pub(super) fn before(&self) -> Option<PastRuns> {
        let LoadedHistory { history, learnt, .. } = &self.past;
        (!history.runs.is_empty()).then(|| PastRuns {
            runs: history.runs.len() as u32,
            learnt: learnt.clone(),
            wall: history.expect_wall(&self.run),
            work: history.expect_work(&self.run),
        })
    }

    /// The job has more groups. Durations of classes that the job file does not have are not
    /// learnt.
    pub(super) fn grow(&mut self, job: &Arc<Job>) {
        let known: FxHashMap<&str, u32> =
            self.job.groups.iter().zip(&self.classes).map(|(group, class)| (&*group.class, *class)).collect();
        let class = |group: &Group| known.get(&*group.class).copied().unwrap_or(NO_CLASS);
        let classes: Vec<u32> = job.groups[self.classes.len()..].iter().map(class).collect();
        self.classes.extend(classes);
        self.job = Arc::clone(job);
    }

    /// An attempt at a task of this group has ended.
    #[inline]
    pub(super) fn attempt_ended(&mut self, attempt: &Attempt, group: GroupId, estimate_ns: u64) {
        let Some(&class) = self.classes.get(group as usize).filter(|_| attempt.attempt > 0) else { return };
        if attempt.outcome.cached {
            // What the cache answered says nothing of how long tasks and the job take.
            self.run.whole = false;
            return;
        }
        let took = attempt.end.since(attempt.start);
        if !took.is_zero() {
            self.lessons.worked(took, self.job.groups.get(group as usize).map_or(1, requirements::slots));
        }
        if attempt.shows_duration() && class != NO_CLASS {
            self.lessons.completed(class as usize, Some(Duration::from_nanos(estimate_ns)), took);
        }
    }

    /// A requested node took this long to join.
    pub(super) fn node_arrived(&mut self, site: SiteId, delay: Duration) {
        self.lessons.arrived(&kind_of(self.job.sites.get(site.index())), delay);
    }

    /// Adds the run to the history and returns the anomalies of it. `complete`: all of its
    /// tasks completed.
    pub(super) fn close(&mut self, now: Time, complete: bool) -> Vec<Anomaly> {
        let whole = self.run.whole && complete;
        let run = self.lessons.tell(RunRecord { whole, wall_s: now.seconds(), ..self.run.clone() });
        if run.classes.is_empty() {
            return Vec::new();
        }
        if let Err(error) = self.past.file.append(&run) {
            let path = self.past.file.path().display();
            tracing::warn!("cannot write {path}: {error}; later runs will know nothing of this one");
        }
        self.past.history.unusual(&run)
    }
}
