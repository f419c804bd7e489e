//! Captured output of tasks: one pair of growing files per rank and session, not one file per task.
//!
//! ```text
//! outputs/s1/rank-0.out     standard output of all tasks that rank 0 ran in session 1, in chunks
//! outputs/s1/rank-0.err     standard error
//! outputs/s1/rank-0.idx     24 bytes per chunk: task u32, attempt u16, stream u8, 0 u8,
//!                           offset u64, length u64;
//!                           for each ended command the same with stream 3:
//!                           CPU time (ns) and peak memory (bytes)
//! outputs/s1/rank-0.files   a JSON line per completed task that used files (see `used_files`)
//! outputs/s1/rank-0.cache   a JSON line per attempt at a task that uses the result cache
//! outputs/s1/rank-0.stage   a JSON line per attempt at a task that runs on the node's disk
//! outputs/s1/rank-0.held/   long output of running tasks that may be discarded
//! ```
//!
//! Threads never wait for each other: each reserves its place in a file by an atomic add, and
//! writes there. A chunk is written before its index entry, so that a reader, during the run or
//! after a kill, finds only complete chunks. Places that were reserved and never written are
//! entries of zeros, which readers skip.

mod attempt_lines;
mod follow;
mod held;
mod index;
mod line_file;
mod reader;
mod used_files;
mod writer;

pub use attempt_lines::{StageWriter, cache_uses, stage_files, stage_uses};
pub use follow::OutputFollower;
pub use reader::{OutputReader, last_lines};
pub use used_files::UsedFilesReader;
pub use writer::OutputWriter;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::rundir::RunDir;
use crate::model::{Rank, Stream, TaskId};

/// The file name extension for a stream.
fn extension(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    }
}

/// Captured output could not be written or read.
#[derive(Debug, Error)]
#[error("cannot {doing} {}: {source}", path.display())]
pub struct OutputError {
    /// The operation that failed, e.g. `write`.
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl OutputError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
        move |source| OutputError { doing, path: path.to_owned(), source }
    }
}

/// The stream and attempt that a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct OutputKey {
    task: TaskId,
    attempt: u16,
    stream: Stream,
}

/// The file of a rank and session with this extension.
fn file(run: &RunDir, session: u32, rank: Rank, extension: &str) -> PathBuf {
    run.outputs().join(format!("s{session}")).join(format!("rank-{}.{extension}", rank.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::KeepOutput;
    use crate::journal::replay::tests::attempt;
    use crate::model::{Outcome, State};
    use proptest::prelude::*;

    const FAILED: Outcome = Outcome { state: State::Failed, exit: 1, cached: false };

    fn run_dir() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        (dir, run)
    }

    fn all(run: &RunDir, task: u32, stream: Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        OutputReader::new(run).copy(1, &attempt(task), stream, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn output_that_is_gone_is_known_to_be_lost() {
        let (_dir, run) = run_dir();
        let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
        writer.append(TaskId(1), 1, Stream::Out, b"text\n").unwrap();
        writer.append(TaskId(2), 1, Stream::Out, b"more\n").unwrap();
        drop(writer);
        let [data, index] = ["out", "idx"].map(|extension| file(&run, 1, Rank(0), extension));
        let lost = |task, stream| OutputReader::new(&run).lost(1, &attempt(task), stream).unwrap();
        assert_eq!([lost(1, Stream::Out), lost(3, Stream::Out), lost(1, Stream::Err)], [None, None, None]);
        let text = std::fs::read(&data).unwrap();
        std::fs::write(&data, &text[..7]).unwrap();
        assert_eq!([lost(1, Stream::Out), lost(2, Stream::Out)], [None, Some(data.clone())], "cut short");
        std::fs::remove_file(&data).unwrap();
        assert_eq!([lost(1, Stream::Out), lost(3, Stream::Out)], [Some(data.clone()), None]);
        std::fs::write(&data, &text).unwrap();
        std::fs::write(&index, [7; 48]).unwrap();
        assert_eq!([lost(1, Stream::Out), lost(1, Stream::Err)], [Some(index.clone()), None], "a damaged index");
        std::fs::remove_file(&index).unwrap();
        assert_eq!(lost(1, Stream::Out), Some(index));
    }

    #[test]
    fn chunks_of_many_threads_come_back_whole_and_in_order() {
        let (_dir, run) = run_dir();
        let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
        std::thread::scope(|scope| {
            for task in 0..8u32 {
                let writer = &writer;
                scope.spawn(move || {
                    for line in 0..50 {
                        let text = format!("task {task} line {line}\n");
                        writer.append(TaskId(task), 1, Stream::Out, text.as_bytes()).unwrap();
                    }
                    writer.append(TaskId(task), 1, Stream::Err, b"oops\n").unwrap();
                });
            }
        });
        for task in 0..8 {
            let expected: String = (0..50).map(|line| format!("task {task} line {line}\n")).collect();
            assert_eq!(all(&run, task, Stream::Out), expected.as_bytes());
            assert_eq!(all(&run, task, Stream::Err), b"oops\n");
        }
    }

    #[test]
    fn the_tail_is_bounded_by_lines_and_by_bytes() {
        let (_dir, run) = run_dir();
        let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
        for line in ["one\n", "two\nth", "ree\n", "four"] {
            writer.append(TaskId(0), 1, Stream::Err, line.as_bytes()).unwrap();
        }
        let reader = OutputReader::new(&run);
        let tail = |lines, bytes| {
            let bytes = reader.tail(1, &attempt(0), Stream::Err, lines, bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(tail(2, 100), "three\nfour");
        assert_eq!(tail(9, 100), "one\ntwo\nthree\nfour");
        assert_eq!(tail(9, 7), "ee\nfour");
        assert_eq!(tail(0, 100), "");
        assert_eq!(
            reader.tail(1, &crate::model::Attempt { rank: Rank(3), ..attempt(0) }, Stream::Err, 5, 100).unwrap(),
            b""
        );
        assert_eq!(reader.length(1, &attempt(0), Stream::Err).unwrap(), 18);
    }

    #[test]
    fn only_failed_output_is_kept_if_the_job_says_so() {
        let (_dir, run) = run_dir();
        let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::Failed).unwrap();
        let long = b"0123456789abcdef".repeat(20_000);
        for task in 0..4u32 {
            for part in long.chunks(if task < 2 { 50_000 } else { 10 }).take(10) {
                writer.append(TaskId(task), 1, Stream::Out, part).unwrap();
            }
        }
        for task in 0..4u32 {
            let outcome = if task % 2 == 0 { Outcome::OK } else { FAILED };
            writer.finish(TaskId(task), 1, outcome).unwrap();
        }
        assert_eq!(all(&run, 0, Stream::Out), b"");
        assert_eq!(all(&run, 1, Stream::Out), long);
        assert_eq!(all(&run, 2, Stream::Out), b"");
        assert_eq!(all(&run, 3, Stream::Out), &long[..100]);
        let size = std::fs::metadata(file(&run, 1, Rank(0), "out")).unwrap().len();
        assert_eq!(size, long.len() as u64 + 100);
        drop(writer);
        assert!(!file(&run, 1, Rank(0), "held").exists());
    }

    #[test]
    fn a_writer_that_finds_files_goes_on_behind_them() {
        let (_dir, run) = run_dir();
        for text in ["before", "after"] {
            let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
            writer.append(TaskId(0), 1, Stream::Out, text.as_bytes()).unwrap();
            // As after a kill in the middle of writing an entry.
            let index = file(&run, 1, Rank(0), "idx");
            let whole = std::fs::read(&index).unwrap();
            std::fs::write(&index, [&whole[..], b"torn"].concat()).unwrap();
        }
        assert_eq!(all(&run, 0, Stream::Out), b"beforeafter");
    }

    #[test]
    fn a_torn_index_and_missing_data_cost_only_themselves() {
        let (_dir, run) = run_dir();
        let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
        writer.append(TaskId(0), 1, Stream::Out, b"first").unwrap();
        writer.append(TaskId(0), 1, Stream::Out, b"second").unwrap();
        let (index, data) = (file(&run, 1, Rank(0), "idx"), file(&run, 1, Rank(0), "out"));
        let whole = std::fs::read(&index).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&index, &whole[..cut]).unwrap();
            let expected: &[u8] = if cut < 24 { b"" } else { b"first" };
            assert_eq!(all(&run, 0, Stream::Out), expected, "cut at {cut}");
        }
        std::fs::write(&index, [&[0; 24], &whole[..]].concat()).unwrap();
        std::fs::write(&data, b"firstse").unwrap();
        assert_eq!(all(&run, 0, Stream::Out), b"firstse");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_index_is_survived(bytes in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..200)) {
            let (_dir, run) = run_dir();
            let writer = OutputWriter::create(&run, 1, Rank(0), KeepOutput::All).unwrap();
            writer.append(TaskId(0), 1, Stream::Out, b"text").unwrap();
            std::fs::write(file(&run, 1, Rank(0), "idx"), &bytes).unwrap();
            let length = all(&run, 0, Stream::Out).len();
            prop_assert!(length <= 4 * (bytes.len() / 24));
        }
    }
}
