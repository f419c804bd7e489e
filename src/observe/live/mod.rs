//! A run while it goes on: followed from its directory, shown in a terminal (`phalanx top`) and served over HTTP (`run --listen`).
//!
//! Both look at the same [`Live`]: the journal for what has ended, the samples beside it for what is running and waiting. Nothing is
//! computed for a viewer that nobody is, and the run itself is not asked: who watches costs it no more than reading two files. Who wants to
//! change it asks at its control socket, as the commands do.
//!
//! | file | one idea |
//! |---|---|
//! | `totals` | sums over what has ended, kept up to date as the journal grows |
//! | `top` | one frame for a terminal |
//! | `api` | the answers, as JSON |
//! | `metrics` | the answers, for Prometheus |
//! | `gantt` | what ran in a stretch of time, in as much detail as a picture can show |
//! | `members` | the ranks that are or have been in the run |
//! | `http` | who may ask, and how requests become answers |
//! | `steer` | requests that change the run |
//! | `metric` | the value of a metric by its name |
//! | `watcher` | alerts, and a file of metrics, for those who do not look |

mod api;
mod gantt;
mod http;
mod members;
mod metric;
mod metrics;
mod steer;
mod top;
mod totals;
mod watcher;

use super::measures::MeasureReader;
use super::print::ReportError;
use super::run_view::{Parse, RunState, RunView};
use super::samples::RecordedSamples;
use super::spending::Spending;
use super::vitals::AllVitals;
use crate::journal::RunDir;
use crate::model::RankState;
use crate::scale::Forecast;
use members::RankEntry;
use totals::Totals;

pub use http::{Listener, OPENAPI, Serving, routes};
pub use top::write_frame;
pub use watcher::{Orders, Watcher};

/// A run that is followed.
pub struct Live {
    view: RunView,
    samples: RecordedSamples,
    totals: Totals,
    members: Vec<RankEntry>,
    spending: Option<Spending>,
    vitals: AllVitals,
    measures: MeasureReader,
    /// The run's name.
    name: String,
}

impl Live {
    /// Reads a run for the first time.
    ///
    /// # Errors
    /// As [`RunView::load`].
    pub fn open(dir: &RunDir, parse: Parse<'_>) -> Result<Live, ReportError> {
        let mut live = Live {
            view: RunView::load(dir, parse)?,
            samples: RecordedSamples::default(),
            totals: Totals::default(),
            members: Vec::new(),
            spending: None,
            vitals: AllVitals::default(),
            measures: MeasureReader::default(),
            name: dir.name(),
        };
        live.count();
        Ok(live)
    }

    /// Reads what has happened since.
    ///
    /// # Errors
    /// If its journal cannot be read any more.
    pub fn refresh(&mut self, parse: Parse<'_>) -> Result<(), ReportError> {
        self.view.refresh(parse)?;
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        self.samples.read_on(&self.view.dir.samples());
        self.vitals.read_on(&self.view.dir.vitals());
        self.measures.read_on(&self.view.dir.measures());
        self.totals.count(&self.view);
        self.members = members::members(&self.view);
        self.spending = Spending::of(&self.view);
    }

    /// True until the run has ended, however.
    pub fn goes_on(&self) -> bool {
        self.view.state() == RunState::Running
    }

    /// How long the last session has been going on, or was, in seconds.
    fn elapsed_s(&self) -> f64 {
        self.view.wall_ns(self.view.session()) as f64 / 1e9
    }

    /// Tasks that end in a second: lately, or over the whole session once it is over.
    fn tasks_per_s(&self) -> f64 {
        let lately = self.samples.tasks_per_s();
        if self.goes_on() && lately > 0.0 {
            return lately;
        }
        let elapsed = self.elapsed_s();
        if elapsed > 0.0 { self.totals.ended_here() as f64 / elapsed } else { 0.0 }
    }

    /// How long the rest will take, in seconds; `None` if nothing is known, or nothing is left.
    fn remaining_s(&self) -> Option<f64> {
        let foreseen = self.forecast().map(|forecast| (forecast.finish_q50_s - self.elapsed_s()).max(0.0));
        foreseen.or_else(|| self.samples.remaining_s()).filter(|_| self.goes_on())
    }

    /// When the end was last foreseen for, while the run goes on, and what all of it will cost, earlier sessions included.
    fn forecast(&self) -> Option<Forecast> {
        let forecast = self.samples.last().filter(|_| self.goes_on()).and_then(|sample| sample.forecast)?;
        let earlier = self.spending.as_ref().map_or(0.0, |spending| spending.earlier);
        let Forecast { cost_q10, cost_q50, cost_q90, .. } = forecast;
        let [cost_q10, cost_q50, cost_q90] = [cost_q10, cost_q50, cost_q90].map(|cost| earlier + cost);
        Some(Forecast { cost_q10, cost_q50, cost_q90, ..forecast })
    }

    /// The ranks that take part now.
    fn active(&self) -> impl Iterator<Item = &RankEntry> {
        self.members.iter().filter(|member| member.state == RankState::Active)
    }

    /// Slots of the ranks that take part now.
    fn slots(&self) -> u64 {
        self.active().map(|member| u64::from(member.slots)).sum()
    }

    /// The share of the time of all slots, from when their rank took part, that ended attempts held.
    fn used(&self) -> Option<f64> {
        let held: f64 = self.members.iter().map(|member| member.active_s * f64::from(member.slots)).sum();
        (held > 0.0).then(|| (self.totals.work_s() / held).min(1.0))
    }

    /// Mean over maximum of what the slots of ranks did while those took part; `None` for a single rank.
    fn balance(&self) -> Option<f64> {
        let took_part = self.members.iter().filter(|member| member.slots > 0 && member.active_s > 0.0);
        let work = |rank| self.totals.ranks.get(&rank).map_or(0.0, |totals| totals.work_s);
        let shares: Vec<f64> = took_part.map(|it| work(it.rank) / (it.active_s * f64::from(it.slots))).collect();
        let most = shares.iter().copied().fold(0.0, f64::max);
        (shares.len() > 1 && most > 0.0).then(|| shares.iter().sum::<f64>() / shares.len() as f64 / most)
    }

    /// Tasks that run and tasks that only wait for a slot, at the latest sample of a run that goes on.
    fn running_and_queued(&self) -> (u64, u64) {
        let last = self.samples.last().filter(|_| self.goes_on());
        last.map_or((0, 0), |sample| (sample.running, sample.queued))
    }
}

#[cfg(test)]
mod tests;
