//! A run while it goes on: followed from its directory, shown in a terminal (`phalanx top`) and served over HTTP (`run --listen`).
//!
//! Both look at the same [`Live`]: the journal for what has ended, the samples beside it for what is running and waiting. Nothing is
//! computed for a viewer that nobody is, and the run itself is never asked: who watches costs it no more than reading two files.
//!
//! | file | one idea |
//! |---|---|
//! | `totals` | sums over what has ended, kept up to date as the journal grows |
//! | `top` | one frame for a terminal |
//! | `api` | the answers, as JSON |
//! | `metrics` | the answers, for Prometheus |
//! | `gantt` | what ran in a stretch of time, in as much detail as a picture can show |
//! | `http` | who may ask, and how requests become answers |

mod api;
mod gantt;
mod http;
mod metrics;
mod top;
mod totals;

use super::print::ReportError;
use super::run_view::{Parse, RunState, RunView};
use super::samples::Samples;
use crate::journal::RunDir;
use crate::scale::Forecast;
use totals::Totals;

pub use http::{Listener, OPENAPI, Serving, routes};
pub use top::write_frame;

/// A run that is followed.
pub struct Live {
    view: RunView,
    samples: Samples,
    totals: Totals,
}

impl Live {
    /// Reads a run for the first time.
    ///
    /// # Errors
    /// As [`RunView::load`].
    pub fn open(dir: &RunDir, parse: Parse<'_>) -> Result<Live, ReportError> {
        let mut live =
            Live { view: RunView::load(dir, parse)?, samples: Samples::default(), totals: Totals::default() };
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
        self.totals.count(&self.view);
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

    /// When the end was last foreseen for, while the run goes on.
    fn forecast(&self) -> Option<Forecast> {
        self.samples.last().filter(|_| self.goes_on()).and_then(|sample| sample.forecast)
    }

    /// Tasks that run and tasks that only wait for a slot, at the latest sample of a run that goes on.
    fn running_and_queued(&self) -> (u64, u64) {
        let last = self.samples.last().filter(|_| self.goes_on());
        last.map_or((0, 0), |sample| (sample.running, sample.queued))
    }
}

#[cfg(test)]
mod tests;
