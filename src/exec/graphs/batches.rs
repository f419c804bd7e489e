//! Batches of changes of a data graph, as files of the run directory.

use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};

use crate::data::DataGraphError;
use crate::data::exchange::SingleRank;
use crate::data::operations::{self, Edges};
use crate::data::part::GraphPart;
use crate::data::rows::EdgeList;

/// Where the batches of a graph are kept. Each is numbered by the version that it makes.
pub(super) struct Batches {
    /// `None` if they are not kept.
    dir: Option<PathBuf>,
}

impl Batches {
    /// Batches are kept in `dir`, if one is given.
    pub fn new(dir: Option<PathBuf>) -> Batches {
        Batches { dir }
    }

    /// The file of the batch that makes the version after this one.
    fn after(&self, part: &GraphPart) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{:09}.el", part.version() + 1)))
    }

    /// True if the batch that makes the version after this one is kept.
    pub fn go_beyond(&self, part: &GraphPart) -> bool {
        self.after(part).is_some_and(|file| file.exists())
    }

    /// Reads the batch that makes the version after this one: whether it inserts its edges, and
    /// these.
    ///
    /// # Errors
    /// If it cannot be read or is no batch.
    pub fn next(&self, part: &GraphPart) -> Result<(bool, EdgeList), DataGraphError> {
        let Some(file) = self.after(part) else { return Ok((false, no_edges(part))) };
        let cannot =
            |error: std::io::Error| DataGraphError::refused(format!("{}: cannot read it: {error}", file.display()));
        let mut first = String::new();
        let text = std::fs::File::open(&file).map_err(cannot)?;
        std::io::BufReader::new(text).read_line(&mut first).map_err(cannot)?;
        let insert = match first.trim() {
            "# insert" => true,
            "# delete" => false,
            _ => {
                let text = format!("{}:1: expected `# insert` or `# delete`", file.display());
                return Err(DataGraphError::refused(text));
            }
        };
        let edges = Edges::File(file);
        let batch = operations::read_changes(&mut SingleRank::unstoppable(), part, &edges, Path::new(""))?;
        Ok((insert, batch))
    }

    /// Keeps a batch as the one that makes the version after this one. Returns false if another
    /// rank has already kept one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, part: &GraphPart, batch: &EdgeList, insert: bool) -> Result<bool, DataGraphError> {
        let Some(file) = self.after(part) else { return Ok(true) };
        let mut text = String::from(if insert { "# insert\n" } else { "# delete\n" });
        for (at, &(u, v)) in batch.ends.iter().enumerate() {
            // Writing to memory cannot fail.
            let _ = write!(text, "{} {}", part.ids().id(u), part.ids().id(v));
            if let Some(weights) = &batch.weights {
                let _ = write!(text, " {}", weights[at]);
            }
            text.push('\n');
        }
        let dir = file.parent().unwrap_or(Path::new("."));
        let write = || {
            std::fs::create_dir_all(dir)?;
            let mut new = tempfile::NamedTempFile::new_in(dir)?;
            new.write_all(text.as_bytes())?;
            new.as_file().sync_all()?;
            match new.persist_noclobber(&file) {
                Ok(_) => Ok(true),
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error.error),
            }
        };
        write().map_err(|error| DataGraphError::refused(format!("{}: cannot write it: {error}", file.display())))
    }
}

/// An empty batch for a rank that has read none.
pub(super) fn no_edges(part: &GraphPart) -> EdgeList {
    EdgeList { ends: Vec::new(), weights: part.is_weighted().then(Vec::new) }
}
