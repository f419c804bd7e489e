//! Files that a task writes for Phalanx: tasks that it adds (`$PHALANX_ADD`), and values that it
//! measures: lines `NAME VALUE` or `NAME=VALUE` in the file that
//! `$PHALANX_METRICS` names.
//!
//! The file lies in a directory of this rank on the node's local disk (`rank_dir`). The task
//! creates it, and the rank reads and removes it when the attempt has ended. The content is not
//! trusted: the file is opened without blocking, must be a regular file, and is read up to a bound.
//! Invalid lines are skipped, and a message in the task's standard error reports them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Fault;
use super::rank_dir::RankDir;
use super::scarcity::is_scarcity;
use crate::model::{Measure, TaskId};
use crate::text::counted;

/// Largest number of bytes of the file that are read.
const MAX_BYTES: u64 = 64 << 10;
/// Largest number of values of one attempt.
const MAX_VALUES: usize = 200;

/// The environment variable that names the file.
pub(super) const VARIABLE: &str = "PHALANX_METRICS";

/// The environment variable that names the file in which a task adds others.
pub(super) const ADD_VARIABLE: &str = "PHALANX_ADD";
/// Largest number of bytes of it.
const MAX_ADDED_BYTES: u64 = 16 << 20;
/// The end of its name.
const ADDED: &str = "add";
/// The end of the name of the file that says that the prologue has succeeded.
const READY: &str = "ready";

/// Prefix of the directories' names. Empty directories with this prefix are removed, as no other
/// program is likely to use it.
const PREFIX: &str = ".phalanx-metrics-";

/// The directory for the files of one rank.
pub(super) struct MeasureFiles {
    /// `None` if no directory could be created: then the variable is not set.
    dir: Option<RankDir>,
}

/// The values that an attempt wrote.
#[derive(Debug, Default, PartialEq)]
pub(super) struct AttemptMeasures {
    pub(super) values: Vec<(String, f64)>,
    /// A message for the user.
    pub(super) complaint: Option<String>,
}

impl MeasureFiles {
    pub(super) fn new() -> MeasureFiles {
        MeasureFiles::below(&std::env::temp_dir())
    }

    fn below(place: &Path) -> MeasureFiles {
        let dir = RankDir::create(place, PREFIX, &remove_leftover);
        MeasureFiles { dir: dir.inspect_err(|error| tracing::warn!("tasks have no ${VARIABLE}: {error}")).ok() }
    }

    /// The directory of the files.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(RankDir::path)
    }

    /// The file of an attempt.
    pub(super) fn file(&self, task: TaskId, attempt: u16) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.path().join(format!("{task}.{attempt}", task = task.0)))
    }

    /// The file in which an attempt may add tasks.
    pub(super) fn added_file(&self, task: TaskId, attempt: u16) -> Option<PathBuf> {
        Some(self.file(task, attempt)?.with_extension(format!("{attempt}-{ADDED}")))
    }

    /// The file that the shell of an attempt makes when it has run the prologue.
    pub(super) fn ready_file(&self, task: TaskId, attempt: u16) -> Option<PathBuf> {
        Some(self.file(task, attempt)?.with_extension(format!("{attempt}-{READY}")))
    }

    /// Reads and removes what an ended attempt adds; nothing if it adds no task.
    ///
    /// # Errors
    /// Why it cannot be read. If the rank lacks resources for it, the file stays for another try.
    pub(super) fn collect_added(&self, task: TaskId, attempt: u16) -> Result<String, Fault> {
        let Some(bytes) = take(self.added_file(task, attempt), ADD_VARIABLE, MAX_ADDED_BYTES)? else {
            return Ok(String::new());
        };
        if bytes.len() as u64 > MAX_ADDED_BYTES {
            return Err(Fault::new(format!(
                "${ADD_VARIABLE} has more than {} MiB: add arrays, or less at once",
                MAX_ADDED_BYTES >> 20
            )));
        }
        String::from_utf8(bytes).map_err(|_| Fault::new(format!("${ADD_VARIABLE} is not valid UTF-8")))
    }

    /// Reads and removes the file of an ended attempt.
    ///
    /// # Errors
    /// As for [`MeasureFiles::collect_added`].
    pub(super) fn collect(&self, task: TaskId, attempt: u16) -> Result<AttemptMeasures, Fault> {
        let Some(mut bytes) = take(self.file(task, attempt), VARIABLE, MAX_BYTES)? else {
            return Ok(AttemptMeasures::default());
        };
        let cut = bytes.len() as u64 > MAX_BYTES;
        bytes.truncate(MAX_BYTES as usize);
        Ok(parse(&bytes, cut))
    }
}

/// Removes a directory with files of attempts. A directory with other content stays.
fn remove_leftover(dir: &Path) {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let of_attempt = |name: &str| {
        name.split_once('.').is_some_and(|(task, attempt)| {
            is_number(task)
                && is_number(attempt.strip_suffix(ADDED).and_then(|a| a.strip_suffix('-')).unwrap_or(attempt))
        })
    };
    for file in files.filter(|file| of_attempt(&file.file_name().to_string_lossy())) {
        let _ = fs::remove_file(file.path());
    }
    let _ = fs::remove_dir(dir);
}

/// Reads a file of an attempt up to one byte more than `most`, and removes it; `None` if there is
/// none. A lack of resources leaves it there.
fn take(path: Option<PathBuf>, variable: &str, most: u64) -> Result<Option<Vec<u8>>, Fault> {
    let Some(path) = path else { return Ok(None) };
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let read = match File::options().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.and_then(|file| read_up_to(file, most)),
    };
    if !read.as_ref().is_err_and(is_scarcity) {
        // If this fails, removing the directory removes it.
        let _ = fs::remove_file(&path);
    }
    read.map(Some).map_err(|error| Fault::refused(format_args!("cannot read ${variable}"), &error))
}

/// Reads a file up to one byte more than `most`.
fn read_up_to(file: File, most: u64) -> std::io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses the values of a file; `cut` if only its beginning was read.
fn parse(bytes: &[u8], cut: bool) -> AttemptMeasures {
    let mut measured = AttemptMeasures::default();
    let mut bad: Vec<String> = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    for line in lines {
        match value(line) {
            Some(value) if measured.values.len() < MAX_VALUES => measured.values.push(value),
            _ => bad.push(line.chars().take(40).filter(|c| !c.is_control()).collect()),
        }
    }
    let more = if cut { format!(", and everything beyond {MAX_BYTES} bytes") } else { String::new() };
    if let Some(first) = bad.first().cloned().or_else(|| cut.then(String::new)) {
        measured.complaint = Some(format!(
            "left out of ${VARIABLE}: {}{more}, the first: `{first}` ({})",
            counted(bad.len() as u64, "line"),
            match pair(&first) {
                Some((_, value)) if !value.is_finite() => "the value must be a finite number".to_owned(),
                _ => format!("a line is NAME VALUE or NAME=VALUE, at most {MAX_VALUES} of them"),
            }
        ));
    }
    measured
}

/// A line `NAME VALUE`, `NAME=VALUE` or `NAME: VALUE` with a finite value.
fn value(line: &str) -> Option<(String, f64)> {
    pair(line).filter(|(_, value)| value.is_finite())
}

fn pair(line: &str) -> Option<(String, f64)> {
    let line = line.trim();
    let (name, value) = line.split_once('=').or_else(|| line.split_once(char::is_whitespace))?;
    let name = name.trim_end();
    let name = name.strip_suffix(':').unwrap_or(name);
    let value = value.trim().parse::<f64>().ok()?;
    Measure::is_name(name).then(|| (name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exec::rank_dir::with_host;

    #[test]
    fn values_are_read_and_the_rest_is_complained_about() {
        let measured = parse(b"loss 0.25\n\n# remark\nsteps 1e3\n  speed.gflops   -7 \n", false);
        let values = [("loss", 0.25), ("steps", 1000.0), ("speed.gflops", -7.0)];
        assert_eq!(measured.values, values.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(measured.complaint, None);
        let measured = parse(b"loss=0.25\n steps = 1e3\nrate: 7\nx=y\na=b=1\n=1\n", false);
        let values = [("loss", 0.25), ("steps", 1000.0), ("rate", 7.0)];
        assert_eq!(measured.values, values.map(|(name, value)| (name.to_owned(), value)));
        assert!(measured.complaint.unwrap().contains("3 lines, the first: `x=y`"));
        let measured = parse(b"loss\n1 2\nx nan\ny inf\nz 1 2\nok 1\n\xff 3\n", false);
        assert_eq!(measured.values, [("ok".to_owned(), 1.0)]);
        assert!(measured.complaint.unwrap().starts_with("left out of $PHALANX_METRICS: 6 lines, the first: `loss`"));
        assert!(
            parse(b"energy nan\n", false)
                .complaint
                .unwrap()
                .ends_with("`energy nan` (the value must be a finite number)")
        );
        let many = "a 1\n".repeat(MAX_VALUES + 5);
        let measured = parse(many.as_bytes(), true);
        assert_eq!(measured.values.len(), MAX_VALUES);
        assert!(measured.complaint.unwrap().contains("5 lines"));
    }

    #[test]
    fn only_a_plain_file_is_read_and_it_is_gone_afterwards() {
        let measures = MeasureFiles::new();
        let path = measures.file(TaskId(3), 1).unwrap();
        assert_eq!(measures.collect(TaskId(3), 1).unwrap(), AttemptMeasures::default());
        fs::write(&path, "a 1\n").unwrap();
        assert_eq!(measures.collect(TaskId(3), 1).unwrap().values, [("a".to_owned(), 1.0)]);
        assert!(!path.exists());
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(measures.collect(TaskId(3), 1).is_err());
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(measures.collect(TaskId(3), 1).is_err());
        assert!(!path.exists());
        fs::write(&path, "a 1\n".repeat(100_000)).unwrap();
        assert!(measures.collect(TaskId(3), 1).unwrap().complaint.unwrap().contains("beyond 65536 bytes"));
    }

    #[test]
    fn what_a_killed_rank_left_goes_when_another_starts() {
        let place = tempfile::tempdir().unwrap();
        let prefix = with_host(PREFIX);
        let [left, used, foreign] =
            [format!("{prefix}old"), format!("{prefix}used"), "other".into()].map(|name| place.path().join(name));
        [&left, &used, &foreign].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        fs::write(left.join("3.1"), "a 1\n").unwrap();
        fs::write(used.join("thesis"), "all of it").unwrap();
        let first = MeasureFiles::below(place.path());
        let second = MeasureFiles::below(place.path());
        assert!(!left.exists() && foreign.exists());
        assert!(used.join("thesis").exists(), "what no rank wrote stays");
        for measures in [&first, &second] {
            fs::write(measures.file(TaskId(3), 1).unwrap(), "a 1\n").unwrap();
            assert_eq!(measures.collect(TaskId(3), 1).unwrap().values.len(), 1, "one that lives keeps its own");
        }
        drop((first, second));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "each takes its own away");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let measured = parse(&bytes, false);
            prop_assert!(measured.values.iter().all(|(name, value)| Measure::is_name(name) && value.is_finite()));
        }
    }
}
