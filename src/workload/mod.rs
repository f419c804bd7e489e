//! A job made ready to run: everything that a real run and a simulated one both derive from the job
//! file, once. Pure: it reads no clock and no file.
//!
//! | file | one idea |
//! |---|---|
//! | `prepared` | [`PreparedJob`]: job, graph, estimates, order and urgency |
//! | `fair` | the shares of families |
//! | `estimates` | how long each task takes, in memory for each group |
//! | `requirements` | what a task needs of a rank |
//! | `selection` | which tasks of the job a run is to run |
//! | `temporaries` | how long temporary outputs are needed |
//! | `unordered` | changes of data graphs without an order |
//! | `walltime` | the margin before the end of an allocation |
//! | `placement` | which tasks fit on which ranks, homes |
//! | `pools` | the pools of a job, limits of arrays included |

mod estimates;
pub(crate) mod fair;
pub(crate) mod placement;
pub(crate) mod pools;
mod prepared;
pub(crate) mod requirements;
mod selection;
pub(crate) mod staged_files;
mod temporaries;
mod unordered;
pub(crate) mod walltime;

pub use estimates::{TaskEstimates, estimate_ns};
pub use prepared::{PreparedJob, graph_of};
pub(crate) use prepared::{check_added, refused_selection};
pub use selection::{Selected, Selection};
pub(crate) use temporaries::{Temporaries, TemporaryFile};
pub(crate) use unordered::unordered_changes;
pub use walltime::block_time;
