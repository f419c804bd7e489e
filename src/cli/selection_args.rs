//! The options that choose a part of a job, which `run`, `plan`, `simulate` and `check` share; and
//! labels of ranks, which `run` and `join` share.

use crate::job::check_name;
use crate::workload::Selection;

/// Which tasks of the job.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SelectionArgs {
    /// Run this task and all that it needs, and nothing else but the tasks that these add. TASK is
    /// an array, or elements of one, such as `tile[3]`, `tile[0-9]` or `align[sample=NA3]`. May be
    /// repeated.
    #[arg(long, value_name = "TASK", help_heading = "Parts of the job")]
    until: Vec<String>,
    /// Run this task alone, with the tasks that it adds. What it needs must be complete in the run
    /// that --resume continues, or its declared outputs must be there. May be repeated; adds to
    /// --until.
    #[arg(long, value_name = "TASK", help_heading = "Parts of the job")]
    only: Vec<String>,
    /// Leave out this task and all that needs it. May be repeated.
    #[arg(long, value_name = "TASK", help_heading = "Parts of the job")]
    omit: Vec<String>,
}

impl SelectionArgs {
    /// The selection.
    pub(super) fn selection(&self) -> Selection {
        let SelectionArgs { until, only, omit } = self.clone();
        Selection { until, only, omit }
    }
}

/// Reads a label of a rank.
pub(super) fn label(text: &str) -> Result<String, String> {
    check_name(text.trim()).map(|()| text.trim().to_owned())
}
