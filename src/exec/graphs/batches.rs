//! Batches of changes of a data graph, as files of the run directory.
//!
//! The first line of a file names the task that wrote it: a resumed run drops the batches of tasks
//! that run again ([`FormerBatches`]), so that these start from the version that they had.

use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};

use crate::data::DataGraphError;
use crate::data::exchange::SingleRank;
use crate::data::operations::{self, Edges};
use crate::data::part::GraphPart;
use crate::data::rows::EdgeList;
use crate::model::TaskId;

/// The directory of a run in which each graph has a directory of batches.
pub const BATCHES_DIR: &str = "graphs";

/// The task that wrote a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchWriter {
    /// Its number in the job of that session.
    pub task: TaskId,
    /// The session of the run.
    pub session: u32,
}

/// The first line of a batch.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    insert: bool,
    /// `None` in runs of former versions of Phalanx.
    writer: Option<BatchWriter>,
}

impl Header {
    fn text(&self) -> String {
        let what = if self.insert { "insert" } else { "delete" };
        match self.writer {
            Some(BatchWriter { task, session }) => format!("# {what} by task {} of session {session}\n", task.0),
            None => format!("# {what}\n"),
        }
    }

    fn parse(line: &str) -> Option<Header> {
        let mut words = line.split_whitespace();
        let insert = match (words.next()?, words.next()?) {
            ("#", "insert") => true,
            ("#", "delete") => false,
            _ => return None,
        };
        let writer = match words.collect::<Vec<_>>()[..] {
            [] => None,
            ["by", "task", task, "of", "session", session] => {
                Some(BatchWriter { task: TaskId(task.parse().ok()?), session: session.parse().ok()? })
            }
            _ => return None,
        };
        Some(Header { insert, writer })
    }

    fn read(file: &Path) -> std::io::Result<Option<Header>> {
        let mut first = String::new();
        std::io::BufReader::new(std::fs::File::open(file)?).read_line(&mut first)?;
        Ok(Header::parse(&first))
    }
}

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
        Some(self.dir.as_ref()?.join(file_name(part.version() + 1)))
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
        let Some(Header { insert, .. }) = Header::read(&file).map_err(cannot)? else {
            let text = format!("{}:1: expected `# insert` or `# delete`", file.display());
            return Err(DataGraphError::refused(text));
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
    pub fn keep(
        &self,
        part: &GraphPart,
        batch: &EdgeList,
        insert: bool,
        writer: BatchWriter,
    ) -> Result<bool, DataGraphError> {
        let Some(file) = self.after(part) else { return Ok(true) };
        let mut text = Header { insert, writer: Some(writer) }.text();
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

fn file_name(version: u64) -> String {
    format!("{version:09}.el")
}

/// The batches that the earlier sessions of a run have left, and which of them stay.
#[derive(Debug, Default)]
pub struct FormerBatches {
    /// Of each graph the directory and the files, in the order of versions, each with true if it
    /// stays.
    graphs: Vec<(PathBuf, Vec<(PathBuf, bool)>)>,
}

impl FormerBatches {
    /// Finds the batches of these graphs in the directory of a run; `stays` tells whether the task
    /// that wrote a batch stays complete. Batches without a writer stay.
    ///
    /// # Errors
    /// If a directory or a file cannot be read.
    pub fn find<'a>(
        run_dir: &Path,
        graphs: impl Iterator<Item = &'a str>,
        stays: &dyn Fn(BatchWriter) -> bool,
    ) -> Result<FormerBatches, DataGraphError> {
        let mut found = FormerBatches::default();
        for graph in graphs {
            let dir = run_dir.join(BATCHES_DIR).join(graph);
            let read = || -> std::io::Result<Vec<(PathBuf, bool)>> {
                let mut files = Vec::new();
                for entry in std::fs::read_dir(&dir)? {
                    let path = entry?.path();
                    if path.extension().is_some_and(|ending| ending == "el") {
                        let writer = Header::read(&path)?.and_then(|header| header.writer);
                        files.push((path, writer.is_none_or(stays)));
                    }
                }
                files.sort_unstable();
                Ok(files)
            };
            match read() {
                Ok(files) => found.graphs.push((dir, files)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{}: cannot read the batches of changes: {error}", dir.display());
                    return Err(DataGraphError::refused(text));
                }
            }
        }
        Ok(found)
    }

    /// Deletes the batches that do not stay, and numbers the others from version 2 on. No operation
    /// may run meanwhile. If it is interrupted, the next call completes it.
    ///
    /// # Errors
    /// If a file cannot be deleted or renamed.
    pub fn settle(&self) -> Result<(), DataGraphError> {
        for (dir, files) in &self.graphs {
            let settle = || {
                files.iter().filter(|(_, stays)| !stays).try_for_each(|(file, _)| std::fs::remove_file(file))?;
                let stay = files.iter().filter(|(_, stays)| *stays);
                stay.zip(2..).try_for_each(|((file, _), version)| std::fs::rename(file, dir.join(file_name(version))))
            };
            settle().map_err(|error: std::io::Error| {
                DataGraphError::refused(format!("{}: cannot drop batches of changes: {error}", dir.display()))
            })?;
        }
        Ok(())
    }
}

/// An empty batch for a rank that has read none.
pub(super) fn no_edges(part: &GraphPart) -> EdgeList {
    EdgeList { ends: Vec::new(), weights: part.is_weighted().then(Vec::new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_tasks_that_run_again_are_dropped_and_the_others_numbered_anew() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("graphs/g");
        std::fs::create_dir_all(&dir).unwrap();
        let write = |version: u64, header: &Header| {
            std::fs::write(dir.join(file_name(version)), header.text() + &format!("{version} 1\n")).unwrap();
        };
        let by = |task, session| Some(BatchWriter { task: TaskId(task), session });
        write(2, &Header { insert: true, writer: by(4, 1) });
        write(3, &Header { insert: false, writer: by(5, 1) });
        write(4, &Header { insert: true, writer: None });
        write(5, &Header { insert: true, writer: by(4, 2) });
        let stays = |writer: BatchWriter| writer.task.0 == 5 || writer.session == 2;
        // A second time nothing changes.
        for _ in 0..2 {
            let found = FormerBatches::find(run.path(), ["absent", "g"].into_iter(), &stays).unwrap();
            found.settle().unwrap();
            let text = |version| std::fs::read_to_string(dir.join(file_name(version))).unwrap();
            assert_eq!(text(2), "# delete by task 5 of session 1\n3 1\n");
            assert_eq!(text(3), "# insert\n4 1\n");
            assert_eq!(text(4), "# insert by task 4 of session 2\n5 1\n");
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3);
        }
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        for insert in [true, false] {
            for writer in [None, Some(BatchWriter { task: TaskId(7), session: 3 })] {
                let header = Header { insert, writer };
                assert_eq!(Header::parse(&header.text()), Some(header));
            }
        }
        assert_eq!(Header::parse("# insert by task x of session 1"), None);
        assert_eq!(Header::parse("1 2"), None);
    }
}
