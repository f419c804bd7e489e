//! Staged tasks on a rank that does not see the directories of the job and of the run.
//!
//! Such a rank is *away*. Rank 0 tells it what a task finds in its directory, and sends what the
//! node does not have. From this a *home* is made, a directory that stands for that of the task
//! during one attempt; there the attempt runs like any other. What it leaves in its home rank 0
//! fetches and puts in place before the attempt ends.
//!
//! | on the rank | on rank 0 |
//! |---|---|
//! | asks for the files of a task | `files_for`: names, contents, temporary files, directories |
//! | fetches what its store does not have | `send`: packs one of those |
//! | runs the attempt, hands in what it left | `accept`: puts outputs and streams in place |

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::aside::AttemptDeadline;
use super::attempt::AttemptRun;
use super::carrier::FileCarrier;
use super::files;
use super::output::Output;
use super::runner::Runner;
use super::used_files::{self, UsedFiles};
use super::{Fault, RankContext};
use crate::job::{FileNames, OPERATION_KERNEL, Task, Work};
use crate::model::{CarriedFile, Outcome, Rank, StageUse, State, TaskId, UsedFile};
use crate::store::{
    Content, Digest, HeldFiles, Store, lexical, not_given_up, pack, place_copy, remove_tree, resolve_output,
};

/// Directories of an archive of results: outputs by their names, and the files for standard output
/// and standard error.
const OUTPUTS: &str = "outputs";
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// What an attempt that has not completed has printed is handed in for this long after a stop.
const HAND_IN_GRACE: Duration = Duration::from_secs(30);

/// What a task finds in its directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct TaskFiles {
    pub(super) files: Vec<(String, Content)>,
    /// Temporary files: each with its name in the stores and its version.
    held: Vec<(String, Digest, u64)>,
    /// Directories that outputs lie in.
    dirs: Vec<String>,
    /// The files that count as used once it has completed.
    used: Vec<UsedFile>,
}

/// An attempt in a home of its own.
pub(super) struct AwayAttempt {
    pub(super) task: Task,
    /// The files that it uses, as rank 0 sees them.
    pub(super) used_files: Vec<UsedFile>,
    /// What was moved for it so far.
    pub(super) used: Cell<StageUse>,
    store: Arc<Store>,
}

/// True for a task that reads or writes in its directory itself.
pub(crate) fn is_bound_to_its_directory(task: &Task) -> bool {
    let is_alone = task.inputs.is_empty() && task.outputs.is_empty() && task.stdout.is_none() && task.stderr.is_none();
    !task.is_staged && !matches!(&task.work, Work::Kernel { name, .. } if is_alone && name != OPERATION_KERNEL)
}

/// Why a task cannot run away from its directory, if it cannot.
pub(super) fn refusal(task: &Task, site: &RankContext) -> Option<String> {
    is_bound_to_its_directory(task).then(|| format!(
        "did not start: {} on {} does not see the directory of the run, and without `stage = \"node\"` a task reads and \
         writes {} itself: add `stage = \"node\"`, have the node see that directory, or let the task ask with `labels` \
         for ranks that do",
        site.rank,
        site.node,
        task.dir.display()
    ))
}

/// A name that stays in the directory that it is relative to.
fn is_inside(name: &Path) -> bool {
    let clean = lexical(name);
    let leaves = |depth: i32, part| match part {
        std::path::Component::ParentDir => (depth > 0).then(|| depth - 1),
        std::path::Component::Normal(_) => Some(depth + 1),
        std::path::Component::CurDir => Some(depth),
        _ => None,
    };
    !clean.as_os_str().is_empty() && name.components().try_fold(0, leaves).is_some()
}

/// The names of what a task reads in its directory, each once.
fn names_of(task: &Task) -> Vec<PathBuf> {
    let inputs = task.inputs.iter().map(|(file, _)| file).chain(&task.required).chain(&task.stdin).cloned();
    let mut names = Vec::new();
    for name in inputs.chain(used_files::programs_of(task)).filter(|name| is_inside(name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What a task finds in its directory, encoded for a rank that is away. Files that are not there
/// are left out.
pub(super) fn files_for(
    (store, held): (&Store, Option<&HeldFiles>),
    task: &Task,
    used_files: &UsedFiles,
    is_visible: &dyn Fn(&Path) -> bool,
) -> Result<Vec<u8>, String> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no text", path.display()));
    let mut found = TaskFiles::default();
    for name in names_of(task) {
        let path = task.dir.join(&name);
        if let Some(version) = held.and_then(|held| held.version_of(&path)) {
            found.held.push((text(&name)?, HeldFiles::digest(&path), version));
        } else if (task.required.contains(&name) && is_visible(&path)) || path.exists() {
            let content = store.exact_content_of(&path);
            found.files.push((text(&name)?, content.map_err(|error| format!("{}: {error}", path.display()))?));
        }
    }
    let parents = task.outputs.iter().filter_map(|(file, _)| file.parent());
    for dir in parents.filter(|dir| is_inside(dir) && task.dir.join(dir).is_dir()) {
        found.dirs.push(text(dir)?);
    }
    found.used = used_files.seen(task, held);
    postcard::to_stdvec(&found).map_err(|error| error.to_string())
}

/// Writes a file that a rank has asked for, as an archive.
pub(super) fn send(
    held: Option<&HeldFiles>,
    task: Option<&Task>,
    file: &CarriedFile,
    to: &mut dyn Write,
    is_given_up: &AtomicBool,
) -> io::Result<u64> {
    let from = match (file, task) {
        (CarriedFile::Input { file, .. }, Some(task)) => {
            let name = names_of(task).into_iter().find(|name| name.as_os_str() == file.as_str());
            let name = name.ok_or_else(|| io::Error::other(format!("{} does not read {file}", task.name)))?;
            fs::canonicalize(task.dir.join(name))?
        }
        (CarriedFile::Held { name, version } | CarriedFile::Published { name, version }, _) => {
            let found = held.and_then(|held| held.find_version(&Digest::from_bytes(*name), *version));
            found.ok_or(io::ErrorKind::NotFound)?
        }
        _ => return Err(io::Error::other("there is no such file")),
    };
    pack(&[(PathBuf::new(), from)], to, is_given_up)
}

/// Makes the home of an attempt, with all that the task finds in its directory.
pub(super) fn bring(
    store: &Arc<Store>,
    carrier: &dyn FileCarrier,
    task: &Task,
    home: PathBuf,
    is_given_up: &AtomicBool,
) -> io::Result<AwayAttempt> {
    let start = Instant::now();
    let planned = carrier.plan(task.id, is_given_up)?;
    let found: TaskFiles = postcard::from_bytes(&planned).map_err(io::Error::other)?;
    // An attempt of this number may have begun before.
    remove_tree(&home);
    super::stage::make_private_dir(&home)?;
    let mut used = StageUse::default();
    let place = |name: &str| -> io::Result<PathBuf> {
        let path = match is_inside(Path::new(name)) {
            true => home.join(lexical(Path::new(name))),
            false => return Err(io::Error::other(format!("rank 0 names {name}, which is not in the directory"))),
        };
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(path)
    };
    for (name, content) in &found.files {
        let to = place(name)?;
        // It may lie in a directory that is there already.
        if to.symlink_metadata().is_ok() {
            continue;
        }
        let file = CarriedFile::Input { task: task.id, file: name.clone() };
        let fetch = |to: &Path| carrier.fetch(&file, to, is_given_up);
        let identity = content.identity();
        carrier.needs(&identity, true);
        let came = store.receive(content, &to, &fetch, is_given_up);
        carrier.needs(&identity, false);
        let came = came.map_err(|error| named(name, error))?;
        used.received += came.read;
        used.local += came.bytes - came.read.min(came.bytes);
    }
    for (name, digest, version) in &found.held {
        let file = CarriedFile::Held { name: *digest.bytes(), version: *version };
        let bytes = carrier.fetch(&file, &place(name)?, is_given_up).map_err(|error| named(name, error))?;
        used.received += bytes;
        used.fetched += bytes;
    }
    for name in &found.dirs {
        fs::create_dir_all(place(name)?)?;
    }
    used.in_s = start.elapsed().as_secs_f64();
    let task = Task { dir: home, ..task.clone() };
    Ok(AwayAttempt { task, used_files: found.used, used: Cell::new(used), store: Arc::clone(store) })
}

fn named(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

impl AwayAttempt {
    /// Adds what was moved between the home and the directory of the task on the node's disk: what
    /// was received is not counted again.
    pub(super) fn add(&self, staged: &StageUse) {
        let used = self.used.get();
        let again = used.received + used.local;
        self.used.set(StageUse {
            local: used.local + (staged.read + staged.local).saturating_sub(again),
            in_s: used.in_s + staged.in_s,
            out_s: staged.out_s,
            ..used
        });
    }

    /// Has rank 0 put in place what the attempt has left.
    pub(super) fn hand_in(
        &self,
        carrier: &Arc<dyn FileCarrier>,
        (attempt, is_completed): (u16, bool),
        names: &FileNames<'_>,
        deadline: &AttemptDeadline<'_>,
    ) -> Result<(), Fault> {
        let (start, task) = (Instant::now(), &self.task);
        let mut results = Vec::new();
        let places: Vec<PathBuf> = task.outputs.iter().map(|(file, _)| task.dir.join(file)).collect();
        for ((file, _), place) in task.outputs.iter().zip(&places).filter(|_| is_completed) {
            if place.symlink_metadata().is_ok() {
                let from = resolve_output(place, &places).map_err(|error| Fault::refused(file.display(), &error))?;
                results.push((Path::new(OUTPUTS).join(lexical(file)), from));
            }
        }
        for (name, pattern) in STREAMS.iter().zip([&task.stdout, &task.stderr]) {
            let file = pattern.as_deref().map(|pattern| names.fill(pattern));
            let is_output = |file: &PathBuf| task.outputs.iter().any(|(other, _)| other == file);
            let path = file.filter(|file| is_inside(file) && !is_output(file)).map(|file| task.dir.join(file));
            results.extend(path.filter(|path| path.is_file()).map(|path| (PathBuf::from(name), path)));
        }
        if results.is_empty() {
            return Ok(());
        }
        let bytes: u64 = results.iter().map(|(_, path)| self.store.bytes_of(path)).sum();
        let (given_up, carrier, id) = (carrier, Arc::clone(carrier), task.id);
        let work = move |is_given_up: &_| carrier.hand_in((id, attempt), is_completed, results, is_given_up);
        let handed = deadline.aside("handing in what it has written", work);
        let handed = handed.inspect_err(|_| given_up.give_up((id, attempt)))?;
        let refused = |error| Fault::refused("rank 0 could not put in place what it has written", &error);
        let (written, held) = handed.map_err(refused)?;
        let used = self.used.get();
        let out_s = used.out_s + start.elapsed().as_secs_f64();
        self.used.set(StageUse { written, held, sent: bytes, out_s, ..used });
        Ok(())
    }
}

/// Puts in place what an attempt on another rank has left, from the directory that it was unpacked
/// into. What the task does not declare is left out. Returns the bytes that were put in place, and
/// those that are held.
pub(super) fn accept(
    (store, held): (&Store, Option<&HeldFiles>),
    task: &Task,
    (rank, node, is_completed): (Rank, &str, bool),
    site: &RankContext,
    dir: &Path,
    is_given_up: &AtomicBool,
) -> io::Result<(u64, u64)> {
    if node.is_empty() || node.contains('/') || node.starts_with('.') {
        return Err(io::Error::other("the name of the node is none"));
    }
    let outputs = task.outputs.iter().filter(|_| is_completed);
    let outputs = outputs.map(|(file, _)| (dir.join(OUTPUTS).join(lexical(file)), task.dir.join(file)));
    let is_held = |(_, to): &(PathBuf, PathBuf)| task.temporary.iter().any(|file| task.dir.join(file) == *to);
    let (temporary, kept): (Vec<_>, Vec<_>) = outputs.partition(|output| held.is_some() && is_held(output));
    let all: Vec<PathBuf> = kept.iter().map(|(from, _)| from.clone()).collect();
    for (from, to) in kept.iter().chain(&temporary) {
        let is_kept_link = |from: &Path| resolve_output(from, &all).is_ok_and(|path| path == from);
        check_received(dir, from, &is_kept_link).map_err(|error| named(&to.display().to_string(), error))?;
    }
    let written = store.stage_out(&kept, is_given_up);
    let mut written = written.map_err(|(file, error)| named(&file.display().to_string(), error))?.bytes;
    let mut bytes = 0;
    for (from, to) in &temporary {
        let Some(held) = held else { break };
        not_given_up(is_given_up)?;
        if from.symlink_metadata().is_err() {
            held.discard(to);
            continue;
        }
        bytes += store.bytes_of(from);
        held.hold(from, to, is_given_up)?;
        if let (Some(carrier), Some(version)) = (&site.carrier, held.version_of(to)) {
            carrier.hold(*HeldFiles::digest(to).bytes(), version);
        }
    }
    let names = FileNames { node, rank: rank.0, ..site.file_names(&task.name, task.index) };
    for (name, pattern) in STREAMS.iter().zip([&task.stdout, &task.stderr]) {
        let file = pattern.as_deref().map(|pattern| names.fill(pattern)).filter(|file| is_inside(file));
        if let Some(file) = file.filter(|_| dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file())) {
            written += place_copy(&dir.join(name), &task.dir.join(file), is_given_up)?;
        }
    }
    Ok((written, bytes))
}

/// Refuses what would be read or moved from outside the directory that it was unpacked into, as a
/// link leads there. A link that is itself put in place is not followed.
fn check_received(dir: &Path, from: &Path, is_kept_link: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    let Ok(meta) = from.symlink_metadata() else { return Ok(()) };
    let (root, parent) = (fs::canonicalize(dir)?, fs::canonicalize(from.parent().unwrap_or(dir))?);
    let is_inside = !dir.symlink_metadata()?.is_symlink() && parent.starts_with(&root);
    let stays = |from: &Path| fs::canonicalize(from).is_ok_and(|path| path.starts_with(&root));
    match is_inside && (!meta.is_symlink() || is_kept_link(from) || stays(from)) {
        true => Ok(()),
        false => Err(io::Error::other("what was sent leads out of the directory of the attempt")),
    }
}

/// Waits until a file that a task needs is visible here.
pub(super) fn is_visible(path: &Path, wait: Duration) -> bool {
    files::is_there(path, Instant::now().checked_add(wait), &AtomicBool::new(false))
}

impl Runner {
    /// Runs a task on a rank that does not see its directory.
    pub(super) fn each_away(&self, turn: &AttemptRun, task: &Task, output: &mut Output) -> Result<Outcome, Fault> {
        if let Some(refusal) = refusal(task, &self.site) {
            return Err(Fault::new(refusal));
        }
        let Some(carrier) = self.site.carrier.as_ref().filter(|_| task.is_staged) else {
            return self.each_here(turn, task, output);
        };
        let deadline = AttemptDeadline::begin(turn.control, turn.limits.time);
        let attempt = turn.seat.attempt;
        carrier.begins(task.id);
        let home = self.stages.bring_home(self.cache.store(), carrier, (task, attempt), &deadline)?;
        home.used.set(home.used.get().with_ahead(carrier.bytes_ahead(task.id)));
        let ran = self.each_here(&turn.in_home(&home), &home.task, output);
        let is_completed = ran.as_ref().is_ok_and(|outcome| outcome.ok());
        let names = self.site.file_names(&task.name, task.index);
        // Cancelled or not, what it has printed is kept.
        let deadline = if is_completed { deadline.renewed() } else { deadline.after_the_end(HAND_IN_GRACE) };
        let handed = home.hand_in(carrier, (attempt, is_completed), &names, &deadline);
        output.staged(&home.used.get());
        remove_tree(&home.task.dir);
        match (&ran, handed) {
            (Ok(outcome), Err(fault)) if outcome.ok() => Err(fault),
            (_, Err(fault)) => {
                // Who ends everything at once knows that something is missing.
                if fault.state != State::Cancelled {
                    output.remark(&fault.text);
                }
                ran
            }
            _ => ran,
        }
    }

    /// What a task finds in its directory, for a rank that does not see it.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn files_for(&self, task: TaskId) -> Result<Vec<u8>, String> {
        let (task, wait) = self.expanded(task)?;
        let store = (&**self.cache.store(), self.cache.held().map(|held| &**held));
        files_for(store, &task, &self.used_files, &|path| is_visible(path, wait))
    }

    /// Writes a file that another rank has asked for, as an archive. Returns its number of bytes.
    ///
    /// # Errors
    /// If there is no such file, or it cannot be read or written.
    pub fn send(&self, file: &CarriedFile, to: &mut dyn Write, is_given_up: &AtomicBool) -> io::Result<u64> {
        let task = match file {
            CarriedFile::Input { task, .. } => Some(self.expanded(*task).map_err(io::Error::other)?.0),
            _ => None,
        };
        send(self.cache.held().map(|held| &**held), task.as_ref(), file, to, is_given_up)
    }

    /// A directory for what an attempt on another rank has left.
    ///
    /// # Errors
    /// If the node's disk cannot be used.
    pub fn reception(&self, attempt: (Rank, TaskId, u16)) -> io::Result<PathBuf> {
        let (rank, task, attempt) = attempt;
        self.stages.reception(self.cache.store(), self.cache.held(), (rank, task.0, attempt))
    }

    /// Puts in place what an attempt on another rank has left, which has been unpacked into `dir`,
    /// and removes that. Nothing more is put in place once the attempt is given up. Returns the
    /// bytes that were put in place, and those that are held.
    ///
    /// # Errors
    /// Of reading or writing.
    pub fn accept(
        &self,
        task: TaskId,
        of: (Rank, &str, bool),
        dir: &Path,
        is_given_up: &AtomicBool,
    ) -> io::Result<(u64, u64)> {
        let (task, _) = self.expanded(task).map_err(io::Error::other)?;
        let store = (&**self.cache.store(), self.cache.held().map(|held| &**held));
        let accepted = accept(store, &task, of, &self.site, dir, is_given_up);
        remove_tree(dir);
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_from_outside_the_directory_that_was_unpacked() {
        let tmp = tempfile::tempdir().unwrap();
        let link = |to: &Path, name: &Path| std::os::unix::fs::symlink(to, name).unwrap();
        let (dir, outputs, secret) =
            (tmp.path().join("of-1"), tmp.path().join("of-1/outputs"), tmp.path().join("secret"));
        fs::create_dir_all(outputs.join("sub")).unwrap();
        fs::create_dir(&secret).unwrap();
        for file in [outputs.join("sub/file"), secret.join("file")] {
            fs::write(file, "").unwrap();
        }
        link(&secret.join("file"), &outputs.join("file"));
        link(&secret, &outputs.join("dir"));
        link(Path::new("../../secret"), &outputs.join("up"));
        link(Path::new("sub/file"), &outputs.join("within"));
        link(Path::new("gone"), &outputs.join("dangling"));
        let checked = |name: &str, is_kept| check_received(&dir, &outputs.join(name), &|_| is_kept).is_ok();
        for (name, expected) in [
            ("sub", true),
            ("sub/file", true),
            ("within", true),
            ("nothing", true),
            ("file", false),
            ("dir", false),
            ("dir/file", false),
            ("up/file", false),
            ("dangling", false),
        ] {
            assert_eq!(checked(name, false), expected, "{name}");
        }
        assert!(checked("dangling", true), "it is put in place as a link");
        assert!(!checked("dir/file", true));
        link(&secret, &tmp.path().join("root"));
        let root = tmp.path().join("root");
        assert!(check_received(&root, &root.join("file"), &|_| false).is_err(), "the archive was a link itself");
    }

    #[test]
    fn a_name_stays_in_its_directory() {
        for (name, expected) in [
            ("a", true),
            ("a/b", true),
            ("./a", true),
            ("a/../b", true),
            ("", false),
            (".", false),
            ("a/..", false),
            ("../a", false),
            ("a/../../b", false),
            ("/a", false),
        ] {
            assert_eq!(is_inside(Path::new(name)), expected, "{name}");
        }
    }
}
