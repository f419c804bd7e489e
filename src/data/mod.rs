//! Data graphs: graphs that stay on the ranks while a graph of operations runs over them.
//!
//! Vertices are numbered in ascending order of their ids and lie in contiguous ranges over the ranks; each rank holds the rows
//! (neighbours) of its own vertices in compressed form, and the rows of the opposite direction where the graph is directed. An operation is one
//! function that runs on every rank at once: it computes on the rank's own vertices with all threads that it is given, and
//! exchanges what changed once per round. Results do not depend on how many ranks or threads there are.
//!
//! | file | one idea |
//! |---|---|
//! | `source` | where a graph comes from: file or generator, direction, weights |
//! | `format/` | files in six formats, in pieces |
//! | `generate` | graphs made from a seed |
//! | `ids` | names of vertices in the file, numbers inside |
//! | `rows` | neighbours of a range of vertices, and versions of them |
//! | `part` | what one rank holds; who owns what |
//! | `visit` | a rank's share for petgraph's algorithms |
//! | `exchange` | how ranks talk in a round |
//! | `operations/` | the operations |
//!
//! Nothing here knows tasks, jobs or MPI.

pub mod exchange;
pub mod format;
pub mod generate;
pub mod ids;
pub mod operations;
pub mod part;
pub mod rows;
pub mod source;
mod visit;

/// Number of a vertex, from 0 in ascending order of ids.
pub type Vertex = u32;

/// What makes a graph, or an operation on it, impossible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DataGraphError {
    /// The input is wrong, or cannot be read or written. The text names file, line and reason.
    #[error("{0}")]
    Refused(String),
    /// The operation ended before it was done.
    #[error(transparent)]
    Stopped(#[from] exchange::Stopped),
}

impl DataGraphError {
    /// An input that is refused, with the reason.
    pub fn refused(reason: impl Into<String>) -> DataGraphError {
        DataGraphError::Refused(reason.into())
    }
}

/// All ranks fail if one does, with the same reason: whoever failed tells the others instead of leaving them waiting.
///
/// # Errors
/// What failed here or elsewhere.
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
