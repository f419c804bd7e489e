//! A live run: read from its directory, shown in a terminal (`phalanx top`) and served over HTTP
//! (`run --listen`).
//!
//! Both use the same [`Live`]: the journal for ended attempts, the samples for running and waiting
//! tasks. Nothing is computed without a viewer, and the run itself is not queried: a viewer only
//! reads two files. Requests that change the run go to its control socket, as those of the commands
//! do.
//!
//! | file | one idea |
//! |---|---|
//! | `totals` | sums over ended attempts, updated as the journal grows |
//! | `top` | one frame for a terminal |
//! | `api` | JSON answers |
//! | `metrics` | Prometheus answers |
//! | `gantt` | what ran in an interval of time, limited to what a chart can show |
//! | `members` | current and former ranks of the run |
//! | `routes` | the paths that are read, with their answers |
//! | `openapi` | the description of the API |
//! | `http` | authentication, and dispatch of requests |
//! | `steer` | requests that change the run |
//! | `metric` | value of a metric by name |
//! | `watcher` | alerts, and the metrics file |

mod api;
mod gantt;
mod http;
mod members;
mod metric;
mod metrics;
mod openapi;
mod routes;
mod steer;
mod top;
mod totals;
mod watcher;

use super::measures::MeasureReader;
use super::pool_samples::{AllPools, PoolSample};
use super::print::ReportError;
use super::run_view::{Parse, RunState, RunView};
use super::samples::RecordedSamples;
use super::spending::Spending;
use super::staging::StagingReader;
use super::vitals::AllVitals;
use crate::journal::RunDir;
use crate::model::RankState;
use crate::scale::Forecast;
use members::RankEntry;
use totals::Totals;

pub use http::{Listener, Serving};
pub use top::write_frame;
pub use watcher::{Orders, Watcher};

/// A run that is read repeatedly.
pub struct Live {
    view: RunView,
    samples: RecordedSamples,
    totals: Totals,
    members: Vec<RankEntry>,
    spending: Option<Spending>,
    vitals: AllVitals,
    measures: MeasureReader,
    staging: StagingReader,
    pools: AllPools,
    /// Name of the run.
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
            staging: StagingReader::default(),
            pools: AllPools::default(),
            name: dir.name(),
        };
        live.count();
        Ok(live)
    }

    /// Reads what was appended since the last call.
    ///
    /// # Errors
    /// If its journal can no longer be read.
    pub fn refresh(&mut self, parse: Parse<'_>) -> Result<(), ReportError> {
        self.view.refresh(parse)?;
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        self.samples.read_on(&self.view.dir.samples());
        self.vitals.read_on(&self.view.dir.vitals());
        self.measures.read_on(&self.view.dir.measures());
        self.staging.read_on(&self.view);
        self.pools.read_on(&self.view.dir.pools());
        self.totals.count(&self.view);
        self.members = members::members(&self.view);
        self.spending = Spending::of(&self.view);
    }

    /// True until the run has ended.
    pub fn goes_on(&self) -> bool {
        self.view.state() == RunState::Running
    }

    /// Duration of the last session, so far or in total, in seconds.
    fn elapsed_s(&self) -> f64 {
        self.view.wall_ns(self.view.session()) as f64 / 1e9
    }

    /// Tasks that end per second: recently, or over the whole session once it has ended.
    fn tasks_per_s(&self) -> f64 {
        let lately = self.samples.tasks_per_s();
        if self.goes_on() && lately > 0.0 {
            return lately;
        }
        let elapsed = self.elapsed_s();
        if elapsed > 0.0 { self.totals.ended_here() as f64 / elapsed } else { 0.0 }
    }

    /// Number of paused tasks of a live run.
    fn paused(&self) -> u64 {
        self.samples.last().filter(|_| self.goes_on()).map_or(0, |sample| sample.paused)
    }

    /// True if the whole run is paused, so that nobody knows when it ends.
    fn is_paused(&self) -> bool {
        self.paused() > 0 && self.paused() >= u64::from(self.view.subject().job.task_count())
    }

    /// The pools of a live run.
    fn pools(&self) -> impl Iterator<Item = &PoolSample> {
        self.pools.latest().filter(|_| self.goes_on())
    }

    /// Remaining time in seconds; `None` if unknown or if no task remains.
    fn remaining_s(&self) -> Option<f64> {
        if self.is_paused() {
            return None;
        }
        let foreseen = self.forecast().map(|forecast| (forecast.finish_q50_s - self.elapsed_s()).max(0.0));
        foreseen.or_else(|| self.samples.remaining_s()).filter(|_| self.goes_on())
    }

    /// Latest forecast of a live run; costs include earlier sessions.
    fn forecast(&self) -> Option<Forecast> {
        self.samples.last().filter(|_| self.goes_on() && !self.is_paused())?.forecast
    }

    /// The active ranks.
    fn active(&self) -> impl Iterator<Item = &RankEntry> {
        self.members.iter().filter(|member| member.state == RankState::Active)
    }

    /// Slots of the active ranks.
    fn slots(&self) -> u64 {
        self.active().map(|member| u64::from(member.slots)).sum()
    }

    /// Share of the slot time, since the ranks became active, that ended attempts used.
    fn used(&self) -> Option<f64> {
        let held: f64 = self.members.iter().map(|member| member.active_s * f64::from(member.slots)).sum();
        (held > 0.0).then(|| (self.totals.work_s() / held).min(1.0))
    }

    /// Mean over maximum of the work per slot of ranks, per time active; `None` for a single rank.
    fn balance(&self) -> Option<f64> {
        let took_part = self.members.iter().filter(|member| member.slots > 0 && member.active_s > 0.0);
        let work = |rank| self.totals.ranks.get(&rank).map_or(0.0, |totals| totals.work_s);
        let shares: Vec<f64> = took_part.map(|it| work(it.rank) / (it.active_s * f64::from(it.slots))).collect();
        let most = shares.iter().copied().fold(0.0, f64::max);
        (shares.len() > 1 && most > 0.0).then(|| shares.iter().sum::<f64>() / shares.len() as f64 / most)
    }

    /// Running tasks and ready ones, from the latest sample; zeros once the run has ended.
    fn running_and_queued(&self) -> (u64, u64) {
        let open = u64::from(self.view.tasks_to_run()).saturating_sub(self.totals.ended());
        if self.goes_on() { self.samples.running_and_ready(open) } else { (0, 0) }
    }
}

#[cfg(test)]
mod tests;
