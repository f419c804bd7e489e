//! Observability: what a run shows while it is live, and what can be queried afterwards.
//!
//! The closing summary of `run` and all output of `report` come from the journal through the same
//! code, so they agree for finished, live and killed runs. Nothing here changes a run.
//!
//! Functions write text to a writer that the caller passes; only [`to_stdout`] and [`progress`] use
//! the terminal. Standard output is for results, standard error for progress and logs.

mod alerts;
pub mod analyze;
mod cache;
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
mod live_output;
pub mod logging;
mod measures;
mod node_types;
mod nodes;
mod pool_samples;
mod pools;
mod print;
pub mod progress;
mod recommend;
pub mod report;
mod resume;
mod run_view;
mod runs;
mod samples;
mod skip_cause;
mod slots;
mod spending;
mod staging;
mod standing;
mod steps;
mod stored;
mod style;
mod summary;
mod tables;
mod terminal;
mod timeline;
pub mod trace;
mod vitals;
mod why;

pub use cache::{CacheFigures, cache_texts};
pub use estimate::RunProgress;
pub use explain::{write_decision, write_decisions, write_decisions_json};
pub use figures::{Figures, StateCounts};
pub(crate) use history_text::{expected_text, moment_text};
pub use job_view::{JobView, Label, SessionJob};
pub use live_output::follow_task;
pub use pool_samples::PoolSample;
pub use print::{ReportError, to_stdout};
pub use recommend::{ClassRequests, Recommendations, Request, Savings};
pub(crate) use report::command_of;
pub use run_view::{Parse, RunState, RunView};
pub use runs::{ListedRun, disk_space, list_runs, old_runs, write_runs, write_runs_json};
pub use samples::{RecordedSamples, Sample};
pub use staging::StagingFigures;
pub use standing::{Standing, TaskCounts};
pub use stored::{
    ShownLevel, level_json, results_json, verified_json, write_level, write_removed, write_results, write_verified,
};
pub use style::Paint;
pub(crate) use style::{LISTED, and_more, bytes, printable};
pub use summary::{SIGNALLED, write_summary};
pub(crate) use terminal::{NOTICE, is_logged, tell};
pub use why::{
    LiveRank, LiveRunning, LiveTask, LiveTasks, TaskExplanation, TaskReason, write_task_reasons,
    write_task_reasons_json,
};

#[cfg(test)]
mod tests;
