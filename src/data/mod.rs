//! Data graphs: graphs that stay in the memory of the ranks while tasks run operations on them.
//!
//! Vertices are numbered in ascending order of their ids and divided among the ranks in contiguous
//! ranges. Each rank holds the rows (neighbours) of its own vertices in compressed form, and for
//! directed graphs also the rows of the opposite direction. An operation is one function that runs
//! on every rank at once: it computes on the rank's own vertices with all its threads, and
//! exchanges changed values once per round. Results do not depend on the number of ranks or
//! threads.
//!
//! | file | one idea |
//! |---|---|
//! | `source` | the origin of a graph: file or generator, direction, weights |
//! | `format/` | six file formats, read in pieces |
//! | `generate` | graphs generated from a seed |
//! | `ids` | vertex ids in files and numbers in memory |
//! | `rows` | neighbours of a range of vertices, and versions of them |
//! | `part` | one rank's part of a graph; the owner of a vertex |
//! | `visit` | a rank's part for petgraph's algorithms |
//! | `exchange` | communication of the ranks in a round |
//! | `operations/` | the operations |
//!
//! This module does not know tasks, jobs or MPI.

pub mod exchange;
pub mod format;
pub mod generate;
pub mod ids;
pub mod operations;
pub mod part;
pub mod rows;
pub mod source;
mod visit;

/// The number of a vertex, from 0 in ascending order of ids.
pub type Vertex = u32;

/// Why a graph could not be loaded or an operation could not run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DataGraphError {
    /// The input is invalid, or cannot be read or written. The text names file, line and reason.
    #[error("{0}")]
    Refused(String),
    /// The operation ended before it was complete.
    #[error(transparent)]
    Stopped(#[from] exchange::Stopped),
}

impl DataGraphError {
    /// Makes an error for an invalid input.
    pub fn refused(reason: impl Into<String>) -> DataGraphError {
        DataGraphError::Refused(reason.into())
    }
}

/// Makes all ranks fail if one fails, with the same reason, so that none waits for the failed one.
///
/// # Errors
/// The failure of this or another rank.
pub fn agree<T>(exchange: &mut dyn exchange::Exchange, result: Result<T, DataGraphError>) -> Result<T, DataGraphError> {
    let own = match &result {
        Ok(_) => Vec::new(),
        Err(DataGraphError::Stopped(_)) => return result,
        Err(DataGraphError::Refused(reason)) => reason.clone().into_bytes(),
    };
    let all = exchange::gather(exchange, own)?;
    match all.into_iter().find(|reason| !reason.is_empty()) {
        Some(reason) => Err(DataGraphError::Refused(String::from_utf8_lossy(&reason).into_owned())),
        None => result,
    }
}
