//! What earlier runs of a job tell rank 0, and what this run leaves for later ones.
//!
//! Before the run, the durations of classes for which the job file gives no estimate are taken from earlier runs, as if they stood in the file.
//! While it goes on, what its tasks and nodes took is summed up. At its end it is compared with the earlier ones, and added to them.
//! Nothing of this can fail a run: a history that cannot be read or written is told and done without.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::glue;
use crate::graph::link::GroupId;
use crate::job::{Job, PolicyKind, ProviderKind};
use crate::journal::{HistoryFile, Past};
use crate::model::{Attempt, Time};
use crate::scale::estimate::{Anomaly, History, Learnt, Lessons, Moment, RunRecord};

/// Fills in what earlier runs know of classes without an estimate; says what.
pub fn recall(job: &mut Job, history: &History, moment: Moment) -> Vec<Learnt> {
    let mut learnt: Vec<Learnt> = Vec::new();
    for group in job.groups.iter_mut().filter(|group| group.estimate.is_none()) {
        let known = learnt.iter().find(|known| known.class == group.class).cloned();
        let Some(found) = known.clone().or_else(|| history.learnt(&group.class, moment)) else { continue };
        group.estimate = Duration::try_from_secs_f64(found.seconds.max(1e-9)).ok();
        if known.is_none() && group.estimate.is_some() {
            learnt.push(found);
        }
    }
    learnt
}

/// The history of a job as a run finds it.
pub(super) struct Remembered {
    file: HistoryFile,
    pub(super) history: History,
    pub(super) moment: Moment,
    pub(super) learnt: Vec<Learnt>,
}

impl Remembered {
    /// Reads the history and fills in what it knows of the job.
    pub(super) fn of(file: HistoryFile, job: &mut Job, began_unix_ns: u64) -> Remembered {
        let history = match file.read() {
            Ok((history, 0)) => history,
            Ok((history, odd)) => {
                tracing::warn!("{odd} lines of {} make no sense and are passed over", file.path().display());
                history
            }
            Err(error) => {
                tracing::warn!("cannot read {}: {error}; nothing is known of earlier runs", file.path().display());
                History::default()
            }
        };
        let moment = Moment::of_unix(began_unix_ns / 1_000_000_000);
        let learnt = recall(job, &history, moment);
        Remembered { file, history, moment, learnt }
    }
}

/// The kind of nodes that a job gains, as the history names it.
pub fn kind_of(job: &Job) -> &'static str {
    match job.capacity.provider {
        ProviderKind::None => "woken",
        ProviderKind::Local => "local",
        ProviderKind::Slurm => "slurm",
    }
}

/// What a run finds out, as it goes on.
pub(super) struct Diary {
    past: Remembered,
    job: Arc<Job>,
    /// The class of each group, and the slots that one of its tasks takes.
    groups: Vec<(usize, u32)>,
    lessons: Lessons,
    run: RunRecord,
}

impl Diary {
    /// Of a run of this name that begins with so many slots; `anew` if no earlier session has done anything for it.
    pub(super) fn new(
        past: Remembered,
        job: &Arc<Job>,
        run: &str,
        slots: u32,
        began_unix_ns: u64,
        anew: bool,
    ) -> Diary {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut sizes: Vec<(&str, Option<Duration>)> = Vec::new();
        let mut number = |class| {
            *numbers.entry(class).or_insert_with(|| {
                sizes.push((class, job.groups.iter().find(|group| group.class == class).and_then(|g| g.estimate)));
                sizes.len() - 1
            })
        };
        let groups = job.groups.iter().map(|group| (number(group.class.as_str()), glue::slots(group))).collect();
        let policy = job.scaling.as_ref().map_or(PolicyKind::Fixed, |scaling| scaling.policy).name();
        Diary {
            lessons: Lessons::new(sizes.into_iter()),
            groups,
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

    /// What is known before the run; `None` if there was none before it.
    pub(super) fn before(&self) -> Option<Past> {
        let Remembered { history, learnt, .. } = &self.past;
        (!history.runs.is_empty()).then(|| Past {
            runs: history.runs.len() as u32,
            learnt: learnt.clone(),
            wall: history.expect_wall(&self.run),
            work: history.expect_work(&self.run),
        })
    }

    /// An attempt at a task of this group, estimated at so many nanoseconds, has ended.
    #[inline]
    pub(super) fn ended(&mut self, attempt: &Attempt, group: GroupId, estimate_ns: u64) {
        let Some(&(class, slots)) = self.groups.get(group as usize).filter(|_| attempt.attempt > 0) else { return };
        let took = attempt.end.since(attempt.start);
        if !took.is_zero() {
            self.lessons.worked(took, slots);
        }
        if attempt.outcome.ok() {
            self.lessons.completed(class, Some(Duration::from_nanos(estimate_ns)), took);
        }
    }

    /// A node that was asked for takes part after so long.
    pub(super) fn arrived(&mut self, took: Duration) {
        self.lessons.arrived(kind_of(&self.job), took);
    }

    /// The run is over; `complete` if all of its tasks have completed. Adds it to the history, and says what is unusual about it.
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
