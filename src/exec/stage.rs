//! Tasks that run in a directory of their own on the node's disk (`stage = "node"`).
//!
//! Before the command starts, its declared inputs, and the programs and scripts that it names by
//! path, are copied into an empty directory below the node's level of the store; contents that the
//! store has are taken from there. After it has succeeded its declared outputs go into the store
//! and to their places. The directory is then removed. That of a failed attempt is kept for a
//! while, within bounds, for whoever wants to see what went wrong.
//!
//! Outputs with `keep = false` have no place: they pass from the directory of one task to those of
//! others through the store (`HeldFiles`), until rank 0 says that the last reader is done.
//!
//! Everything that touches a file happens aside from the slot's thread, within the time limit.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::aside::AttemptDeadline;
use super::away::AwayAttempt;
use super::command::CommandAttempt;
use super::rank_dir::RankDir;
use super::{Fault, FileCarrier, away, used_files};
use crate::job::Task;
use crate::model::{CarriedFile, Outcome, Rank, StageUse, State, TaskId};
use crate::store::{Content, Digest, HeldFiles, Store, check_links, lexical, remove_tree};

/// Directories below the node's level: of ranks, and of failed attempts.
const RUNNING: &str = "stage";
const FAILED: &str = "failed";

/// Prefix of the directories of ranks.
const PREFIX: &str = "rank-";

/// Number of directories of failed attempts that a node keeps. Each may take this part of the
/// maximum size of the node's level.
const MAX_KEPT: usize = 10;

/// Where the tasks of a rank are staged.
#[derive(Default)]
pub(super) struct Stages {
    /// The directory of this rank; made by the first task, with why it cannot be.
    dir: OnceLock<Result<RankDir, String>>,
    /// Threads that remove files.
    removing: Mutex<Vec<JoinHandle<()>>>,
}

/// An attempt in a directory of its own.
pub(super) struct StagedAttempt {
    /// The task as it runs there.
    pub(super) task: Task,
    /// What was moved for it.
    pub(super) used: StageUse,
    /// The directories that it has left, by their places; without a content, if the node's store
    /// does not have it.
    pub(super) directories: Vec<(PathBuf, Option<Content>)>,
    store: Arc<Store>,
    held: Option<Arc<HeldFiles>>,
    carrier: Option<Arc<dyn FileCarrier>>,
    /// Directory of the task.
    home: PathBuf,
    /// Name of the directory if it is kept.
    kept: PathBuf,
}

impl Stages {
    fn dir(&self, store: &Store, held: Option<&Arc<HeldFiles>>) -> Result<&Path, Fault> {
        let make = || -> io::Result<RankDir> {
            let place = store.node_dir()?.join(RUNNING);
            make_private_dir(&place)?;
            if let Some(held) = held {
                held.remove_abandoned();
            }
            RankDir::create(&place, PREFIX, &remove_tree)
        };
        let made = self.dir.get_or_init(|| make().map_err(|error| error.to_string()));
        made.as_ref().map(RankDir::path).map_err(|error| {
            let help = "choose another directory with `[cache] node_dir`";
            Fault::new(format!("did not start: it cannot be staged on the node's disk: {error} ({help})"))
        })
    }

    /// Makes the directory of an attempt with all that it reads. `home`: on a rank that is away.
    pub(super) fn begin(
        &self,
        (store, held): (&Arc<Store>, Option<&Arc<HeldFiles>>),
        attempt: &CommandAttempt,
        home: Option<&AwayAttempt>,
    ) -> Result<StagedAttempt, Fault> {
        let (task, site) = (attempt.task, attempt.site);
        if attempt.seat.hosts.iter().any(|host| host.node != site.node) {
            let text = "did not start: `stage` gives it a directory on one node, and it runs on several: leave \
                        `stage` out, or ask for MPI ranks that fit on one node";
            return Err(Fault::new(text));
        }
        let start = Instant::now();
        let dir = self.dir(store, held)?.join(format!("{}.{}", task.id.0, attempt.seat.attempt));
        let (store, from, to) = (Arc::clone(store), task.clone(), dir.clone());
        let carrier = site.carrier.clone();
        let bring = attempt.deadline.aside("bringing its inputs to the node's disk", {
            let (store, held, carrier) = (Arc::clone(&store), held.cloned(), carrier.clone());
            let is_home = home.is_some() && task.cache.is_none();
            move |is_given_up| bring((&store, held.as_deref(), carrier.as_deref()), (&from, is_home), &to, is_given_up)
        });
        let brought = bring.and_then(|brought| {
            brought.map_err(|(file, error)| {
                let what = format!("did not start: cannot bring {} to the node's disk", file.display());
                Fault::refused(what, &error)
            })
        });
        let mut used = brought.inspect_err(|_| remove_tree(&dir))?;
        used.in_s = start.elapsed().as_secs_f64();
        let index = task.index.map_or_else(String::new, |index| format!("-{index}"));
        let kept = PathBuf::from(format!("{}-{}{index}", site.job_id, task.name));
        Ok(StagedAttempt {
            task: as_staged(attempt, dir),
            used,
            directories: Vec::new(),
            store,
            held: held.cloned(),
            carrier,
            home: task.dir.clone(),
            kept,
        })
    }

    /// Makes the home of an attempt on a rank that is away (see [`away`]).
    pub(super) fn bring_home(
        &self,
        store: &Arc<Store>,
        carrier: &Arc<dyn FileCarrier>,
        (task, attempt): (&Task, u16),
        deadline: &AttemptDeadline<'_>,
    ) -> Result<AwayAttempt, Fault> {
        let home = self.dir(store, None)?.join(format!("{}.{attempt}.home", task.id.0));
        let brought = deadline.aside("bringing its files from rank 0", {
            let (store, carrier, task, home) = (Arc::clone(store), Arc::clone(carrier), task.clone(), home.clone());
            move |is_given_up| away::bring(&store, &*carrier, &task, home, is_given_up)
        });
        let refused = |error| Fault::refused("did not start: its files could not be brought from rank 0", &error);
        brought.and_then(|brought| brought.map_err(refused)).inspect_err(|_| remove_tree(&home))
    }

    /// A place for what comes for a task ahead; nothing is there.
    pub(super) fn ahead(&self, store: &Store, task: TaskId) -> io::Result<PathBuf> {
        let dir = self.dir(store, None).map_err(|fault| io::Error::other(fault.text))?;
        let place = dir.join(format!("{}.ahead", task.0));
        remove_tree(&place);
        Ok(place)
    }

    /// A directory for what an attempt on another rank has left; nothing is there.
    pub(super) fn reception(
        &self,
        store: &Store,
        held: Option<&Arc<HeldFiles>>,
        (rank, task, attempt): (Rank, u32, u16),
    ) -> io::Result<PathBuf> {
        let dir = self.dir(store, held).map_err(|fault| io::Error::other(fault.text))?;
        let dir = dir.join(format!("{task}.{attempt}.of-{}", rank.0));
        remove_tree(&dir);
        Ok(dir)
    }

    /// Removes files that nobody reads any more, in a thread of its own.
    pub(super) fn discard(&self, held: &Arc<HeldFiles>, files: Vec<PathBuf>) {
        let held = Arc::clone(held);
        let remove = move || files.iter().for_each(|file| held.discard(file));
        let mut removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        removing.retain(|thread| !thread.is_finished());
        // Without a thread the files go a week after the run.
        removing.extend(std::thread::Builder::new().name("discard".into()).spawn(remove).ok());
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        for thread in std::mem::take(self.removing.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            // A panic has been reported by its thread.
            let _ = thread.join();
        }
    }
}

/// The files that must be in the directory of a task before it starts: of a staged one, those that
/// are not held elsewhere.
pub(super) fn required_at_home(
    task: &Task,
    held: Option<&Arc<HeldFiles>>,
    deadline: &AttemptDeadline<'_>,
) -> Result<Vec<PathBuf>, Fault> {
    let Some(held) = held.filter(|_| task.is_staged).cloned() else { return Ok(task.required.clone()) };
    let (dir, mut required) = (task.dir.clone(), task.required.clone());
    deadline.aside("checking for its inputs", move |_| {
        required.retain(|file| held.find(&dir.join(file)).is_none());
        required
    })
}

/// The task of an attempt as it runs in `dir`. Its files for standard input and output are in its
/// own directory, unless they are declared.
fn as_staged(attempt: &CommandAttempt, dir: PathBuf) -> Task {
    let task = attempt.task;
    let names = attempt.site.file_names(&task.name, task.index);
    let at = |file: &Option<PathBuf>, declared: &[(PathBuf, Option<u64>)]| {
        let file = names.fill(file.as_deref()?);
        let is_declared = declared.iter().any(|(other, _)| *other == file);
        let path = if is_declared { file } else { task.dir.join(file) };
        // The patterns are filled in already.
        Some(PathBuf::from(path.to_string_lossy().replace('%', "%%")))
    };
    Task {
        stdin: at(&task.stdin, &task.inputs),
        stdout: at(&task.stdout, &task.outputs),
        stderr: at(&task.stderr, &task.outputs),
        dir,
        ..task.clone()
    }
}

/// Makes the directory and copies into it what the task reads. An error comes with the file. What
/// lies in a home that stands for the directory of the task (`is_home`) is moved: nobody reads it
/// there any more.
fn bring(
    (store, held, carrier): (&Store, Option<&HeldFiles>, Option<&dyn FileCarrier>),
    (task, is_home): (&Task, bool),
    dir: &Path,
    is_given_up: &AtomicBool,
) -> Result<StageUse, (PathBuf, io::Error)> {
    let named = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    // An attempt of this number may have begun before, and come back from a lost rank.
    remove_tree(dir);
    make_private_dir(dir).map_err(named(dir))?;
    let mut used = StageUse::default();
    let carry = |name: &Digest, version: u64, to: &Path| {
        let file = CarriedFile::Held { name: *name.bytes(), version };
        let fetched = carrier?.fetch(&file, to, is_given_up);
        fetched.inspect_err(|error| tracing::debug!("a temporary file is read in the run directory: {error}")).ok()
    };
    let inputs = task.inputs.iter().map(|(file, _)| file.clone());
    // An image is outside, and need not be here.
    let files = inputs.chain(used_files::programs_of(task)).filter(|file| file.is_relative());
    for file in files {
        let (from, place) = (task.dir.join(&file), lexical(&file));
        let to = dir.join(&place);
        let is_outside = place.as_os_str().is_empty() || file.starts_with("..");
        if is_outside || to.symlink_metadata().is_ok() {
            continue;
        }
        let parent = to.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(named(parent))?;
        let held = held.map_or(Ok(None), |held| {
            let name = HeldFiles::digest(&from).to_string();
            carrier.iter().for_each(|carrier| carrier.needs(&name, true));
            let came = held.stage_in(&from, &to, &carry, is_given_up);
            carrier.iter().for_each(|carrier| carrier.needs(&name, false));
            came
        });
        if let Some(came) = held.map_err(named(&file))? {
            used.fetched += came.fetched;
            used.received += came.received;
            used.local += came.bytes - came.fetched.min(came.bytes);
            continue;
        }
        if fs::metadata(&from).is_err() {
            // It may be missing.
            continue;
        }
        if is_home && !from.is_symlink() && fs::rename(&from, &to).is_ok() {
            used.local += store.bytes_of(&to);
            continue;
        }
        let staged = store.stage_in(&from, &to, is_given_up).map_err(named(&file))?;
        used.read += staged.read;
        used.local += staged.bytes - staged.read;
    }
    for (file, _) in &task.outputs {
        // A command finds the directories that it would find in its own.
        let parents = lexical(file).parent().map(Path::to_owned).filter(|parent| task.dir.join(parent).is_dir());
        if let Some(parent) = parents {
            fs::create_dir_all(dir.join(&parent)).map_err(named(&parent))?;
        }
    }
    Ok(used)
}

impl StagedAttempt {
    /// Takes the outputs of the command, which has succeeded, to their places.
    pub(super) fn deliver(&mut self, attempt: &CommandAttempt) -> Result<(), Fault> {
        let start = Instant::now();
        let (mut held, mut kept) = (Vec::new(), Vec::new());
        for (file, _) in &self.task.outputs {
            let is_held = self.held.is_some() && self.task.temporary.contains(file);
            let list = if is_held { &mut held } else { &mut kept };
            list.push((self.task.dir.join(file), self.home.join(file)));
        }
        let (store, files, carrier) = (Arc::clone(&self.store), self.held.clone(), self.carrier.clone());
        let dir = self.task.dir.clone();
        let work = move |is_given_up: &AtomicBool| {
            let names = [fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone()), dir];
            for (from, to) in kept.iter().chain(&held).filter(|(from, _)| from.exists()) {
                let checked = fs::canonicalize(from).and_then(|path| check_links(&path, &names));
                checked.map_err(|error| (to.clone(), error))?;
            }
            let written = store.stage_out(&kept, is_given_up)?;
            let mut bytes = 0;
            for (from, to) in &held {
                let Some(files) = &files else { break };
                if from.symlink_metadata().is_err() {
                    // What an earlier attempt has left is not of this one.
                    files.discard(to);
                    continue;
                }
                bytes += store.bytes_of(from);
                files.hold(from, to, is_given_up).map_err(|error| (to.clone(), error))?;
                if let (Some(carrier), Some(version)) = (&carrier, files.version_of(to)) {
                    carrier.hold(*HeldFiles::digest(to).bytes(), version);
                }
            }
            Ok((written, bytes))
        };
        let delivered = attempt.deadline.renewed().aside("taking its outputs to their places", work)?;
        let delivered = delivered.map_err(|(file, error): (PathBuf, io::Error)| {
            let what = format!("it succeeded, but its output {} could not be put in place", file.display());
            Fault::refused(what, &error)
        });
        let (staged, held) = delivered?;
        (self.used.written, self.used.held) = (staged.bytes, held);
        self.directories = staged.directories;
        self.used.out_s = start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Removes the directory. That of an attempt that failed by itself is kept; returns what to say
    /// of that.
    pub(super) fn end(self, ended: Result<Outcome, State>, attempt: &CommandAttempt) -> Option<String> {
        let state = ended.map_or_else(|state| state, |outcome| outcome.state);
        let is_own_failure = matches!(state, State::Failed | State::Timeout | State::OutOfMemory);
        let (dir, node) = (self.task.dir, &attempt.site.node);
        let work = move |_: &AtomicBool| {
            let kept = is_own_failure.then(|| keep(&self.store, &dir, &self.kept));
            if !matches!(kept, Some(Ok(_))) {
                remove_tree(&dir);
            }
            kept
        };
        // A thread that cannot be started leaves the directory to the end of the rank.
        match attempt.deadline.untimed().aside("removing its directory", work).ok().flatten()? {
            Ok(path) => Some(format!("its directory is kept on {node} for a while: {}", path.display())),
            Err(why) => Some(format!("its directory on {node} is not kept: {why}")),
        }
    }
}

/// Keeps the directory of a failed attempt, in place of an earlier one of its task and of the
/// oldest.
fn keep(store: &Store, dir: &Path, name: &Path) -> Result<PathBuf, String> {
    let text = |error: io::Error| error.to_string();
    let place = store.node_dir().map_err(text)?.join(FAILED);
    if !store.is_within(dir, MAX_KEPT as u64) {
        return Err(format!("it is larger than a {MAX_KEPT}th of the cache's size"));
    }
    make_private_dir(&place).map_err(text)?;
    let to = place.join(name);
    remove_tree(&to);
    fs::rename(dir, &to).map_err(text)?;
    // The time of the directory says when it was kept.
    let _ = fs::File::open(&to).and_then(|dir| dir.set_modified(std::time::SystemTime::now()));
    let entries = fs::read_dir(&place).into_iter().flatten().flatten();
    let mut kept: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    kept.sort_unstable();
    let more = kept.len().saturating_sub(MAX_KEPT);
    kept[..more].iter().for_each(|(_, path)| remove_tree(path));
    Ok(to)
}

pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
