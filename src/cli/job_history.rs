//! What earlier runs of a job say of the next one, for `plan` and `simulate`.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::cluster_args::{Waits, learnt_waits};
use super::complain;
use crate::job::Job;
use crate::journal::{HistoryFile, RUNS, unix_now_ns};
use crate::observe::{Paint, expected_text, moment_text};
use crate::runtime::{kind_of, recall};
use crate::scale::estimate::{Expected, History, Learnt, Moment, Quantiles, RunRecord};
use crate::sim::ClassSpread;
use crate::text::{counted, seconds};

/// What earlier runs of the job predict for the next one.
#[derive(Debug, Default, Serialize)]
pub(super) struct JobHistory {
    /// Number of earlier runs.
    runs: usize,
    /// Task durations learnt from them, for classes that have no estimate.
    pub(super) learnt: Vec<Learnt>,
    /// Assumed start of the next run: now.
    moment: Option<Moment>,
    /// Expected duration of a run like the last one at such a moment, and its total task time.
    wall: Option<Expected>,
    work: Option<Expected>,
    /// Delay until requested nodes arrive at such a moment, in seconds.
    delay: Option<Quantiles>,
    /// The distribution of that for each `[[site]]`, by name.
    #[serde(skip)]
    pub(super) waits: Waits,
}

impl JobHistory {
    /// Reads the history of a job, by default that beside its runs, and fills in estimates that the
    /// job file lacks.
    pub(super) fn of(file: Option<&Path>, job: &mut Job) -> JobHistory {
        let file = file.map_or_else(|| HistoryFile::under(Path::new(RUNS), &job.name), HistoryFile::at);
        let history = match file.read() {
            Ok((history, odd)) => {
                if odd > 0 {
                    complain(format_args!("{odd} lines of {} cannot be read and are skipped", file.path().display()));
                }
                history
            }
            Err(error) => {
                complain(format_args!("cannot read {}: {error}", file.path().display()));
                History::default()
            }
        };
        let now = unix_now_ns() / 1_000_000_000;
        let moment = Moment::of_unix(now);
        let last = history.runs.iter().rev().find(|run| run.whole);
        let next = last.map(|run| RunRecord { began_unix_s: now, ..run.clone() });
        JobHistory {
            waits: learnt_waits(&history, job, moment),
            runs: history.runs.len(),
            learnt: recall(job, &history, moment),
            moment: Some(moment),
            wall: next.as_ref().and_then(|next| history.expect_wall(next)),
            work: next.as_ref().and_then(|next| history.expect_work(next)),
            delay: history.delay(&kind_of(job.sites.first()), moment).map(|delay| delay.quantiles()),
        }
    }

    /// The spread of the durations of each class that was learnt, for a simulated cluster.
    pub(super) fn spreads(&self) -> impl Iterator<Item = ClassSpread> {
        self.learnt.iter().map(|learnt| ClassSpread {
            name: learnt.class.clone(),
            spread: Some(learnt.spread),
            memory: Arc::default(),
        })
    }

    /// Describes it, for a person; empty without earlier runs.
    pub(super) fn text(&self, paint: Paint) -> String {
        let Some(moment) = self.moment.filter(|_| self.runs > 0) else { return String::new() };
        let mut text = format!("history: {} of this job", counted(self.runs as u64, "run"));
        if let Some(durations) = learnt_text(&self.learnt) {
            text += &format!("; durations learnt for tasks without an estimate: {durations}");
        }
        text.push('\n');
        if let Some((wall, work)) = self.wall.as_ref().zip(self.work.as_ref()) {
            let when = moment_text(moment);
            text += &format!(
                "A run like the last one, {when}, takes {}; total task time {}",
                expected_text(wall),
                seconds(work.seconds.q50)
            );
            if let Some(delay) = &self.delay {
                text += &format!(
                    "; nodes arrive after {} (8 of 10 within {} .. {})",
                    seconds(delay.q50),
                    seconds(delay.q10),
                    seconds(delay.q90)
                );
            }
            text.push('\n');
        }
        paint.dim(text.trim_end()) + "\n"
    }
}

/// The classes with their durations; `None` if nothing was learnt.
pub(super) fn learnt_text(learnt: &[Learnt]) -> Option<String> {
    let names = learnt.iter().take(6).map(|it| format!("`{}` {}", it.class, seconds(it.seconds)));
    let names = names.collect::<Vec<_>>().join(", ");
    match learnt.len() {
        0 => None,
        1..=6 => Some(names),
        many => Some(format!("{names} and {} more", many - 6)),
    }
}
