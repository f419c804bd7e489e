//! Knowing: what a run shows while it goes on, and what can be asked about it afterwards.
//!
//! The closing summary of `run` and everything that `report` prints are made from the journal by the same code, so they
//! say the same, whether the run is over, still going on or was killed. Nothing here changes a run.
//!
//! Text goes to a writer that is handed in; only [`to_stdout`] and [`progress`] know a terminal. Standard output is for
//! results, standard error for progress and logs.

mod alerts;
pub mod analyze;
mod chain;
mod estimate;
mod explain;
mod failures;
mod figures;
mod history_text;
pub mod html;
mod idle;
mod job_view;
mod jsonl;
mod latency;
pub mod live;
pub mod logging;
mod measures;
mod nodes;
mod print;
pub mod progress;
pub mod report;
mod resume;
mod run_view;
mod samples;
mod skip_cause;
mod spending;
mod steps;
mod style;
mod summary;
mod tables;
mod terminal;
mod timeline;
pub mod trace;
mod vitals;

pub use estimate::RunProgress;
pub use explain::{write_decision, write_decisions, write_decisions_json};
pub use figures::{Figures, StateCounts};
pub(crate) use history_text::{expected_text, moment_text};
pub use job_view::{JobView, Label, SessionJob};
pub use print::{ReportError, to_stdout};
pub use run_view::{Parse, RunState, RunView};
pub use samples::{RecordedSamples, Sample};
pub use style::Paint;
pub(crate) use style::{LISTED, and_more, bytes, some};
pub use summary::write_summary;

#[cfg(test)]
mod tests;
