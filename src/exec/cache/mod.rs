//! Tasks that take the result of an equal task instead of running.
//!
//! Before such a task runs, its inputs are hashed and the store is asked for a result of its key.
//! On a hit its outputs are put in place and what the equal task printed is printed again. On a
//! miss the task runs, and what it left is stored if it succeeded, if none of its inputs changed
//! meanwhile, and if it declares outputs or has printed something. (A task that does neither has an
//! effect that nobody can see here, so it is always run.)
//!
//! Everything that touches a file happens aside from the slot's thread, within the time limit of
//! the task. Nothing that goes wrong here fails a task.

mod key;
mod recorder;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::aside::AttemptDeadline;
use super::old_outputs::Stamp;
use super::shared_dirs::SharedDirs;
use super::{Fault, RankContext, TaskSource, used_files};
use crate::job::{CacheRules, CacheSettings, Group, Task, Work};
use crate::model::{CacheHit, CacheMiss, CacheUse, KeyDifference, State};
use crate::store::{
    Components, Content, Digest, HeldFiles, Miss, Origin, OutputName, Store, StoreConfig, StoredResult, Taken, lexical,
};

pub(super) use key::Visible;
use key::{IDENTITY, KeyContext};
pub(super) use recorder::{Recorded, Recorder};

/// Maximum size in bytes of a script that is searched for the variables of a task's identity.
const MAX_SCRIPT: u64 = 4 << 20;

/// Content of a declared input that is not there.
const MISSING: &str = "missing";

/// The cache as the tasks of one rank use it.
pub(super) struct TaskCache {
    settings: CacheSettings,
    /// Directory with records of what is delivered, if the run has a directory.
    records: Option<PathBuf>,
    /// Opened by the first task that uses it.
    store: OnceLock<Arc<Store>>,
    job: String,
    run: String,
    /// Temporary files of the run, if there can be any.
    held: Option<Arc<HeldFiles>>,
    shared: Arc<SharedDirs>,
    env: Vec<(String, String)>,
    /// Of each of the jobs that the run consists of.
    prologues: Vec<Vec<String>>,
}

/// A task as the cache looks at it.
pub(super) struct CacheRequest {
    task: Task,
    /// Its name as it is shown, without that of its job.
    label: String,
    group: Group,
    rules: Arc<CacheRules>,
    /// The tasks of the family have the same work.
    is_alike: bool,
    /// Number of its job among those of the run.
    job: usize,
    /// Temporary files of the run, if the task is staged.
    held: Option<Arc<HeldFiles>>,
    /// Its files for standard input, output and error.
    stdin: Option<PathBuf>,
    streams: [Option<PathBuf>; 2],
}

/// The answer of the cache.
pub(super) enum Answer {
    /// The result of an equal task.
    Hit(Box<(Taken, CacheUse)>),
    /// The task must run.
    Miss(Box<PendingResult>),
}

/// What is known of the outputs that a completed attempt has left.
#[derive(Default)]
pub(super) struct LeftOutputs {
    /// The directories of a staged one that are in the store already, by their places.
    pub(super) directories: Vec<(PathBuf, Option<Content>)>,
    /// An output that it has left as it was.
    pub(super) old: Option<PathBuf>,
}

/// What is known of a task that runs, for storing its result.
pub(super) struct PendingResult {
    pub(super) used: CacheUse,
    /// Which variables of its identity the task sees.
    pub(super) visible: Visible,
    /// `None` if no key could be computed.
    components: Option<Components>,
    /// Its inputs as they were when they were hashed.
    inputs: Vec<InputState>,
}

/// A file that a key was computed from.
struct InputState {
    path: PathBuf,
    /// The content's identity, and what the system said of the file before it was read.
    content: String,
    stamp: Option<Stamp>,
}

impl CacheRequest {
    /// `rules` are with whether the tasks of the family have the same work.
    pub(super) fn new(
        (task, shown): (&Task, &str),
        group: &Group,
        (rules, is_alike): (&Arc<CacheRules>, bool),
        job: usize,
        (site, held): (&RankContext, Option<&Arc<HeldFiles>>),
    ) -> Self {
        let names = site.file_names(&task.name, task.index);
        let file = |path: &Option<PathBuf>| Some(task.dir.join(names.fill(path.as_deref()?)));
        CacheRequest {
            stdin: file(&task.stdin),
            streams: [file(&task.stdout), file(&task.stderr)],
            // Names of several jobs begin with that of the job, which an origin has, too.
            label: task.name.clone() + shown.find('[').map_or("", |at| &shown[at..]),
            held: held.filter(|_| task.is_staged).cloned(),
            task: task.clone(),
            group: group.clone(),
            rules: Arc::clone(rules),
            is_alike,
            job,
        }
    }

    /// True if no file is read to compute the key, or written when a result is taken.
    fn has_no_files(&self) -> bool {
        let task = &self.task;
        let has_streams = self.stdin.is_some() || self.streams.iter().any(Option::is_some);
        task.inputs.is_empty() && task.outputs.is_empty() && !has_streams && !used_files::may_name_programs(&task.work)
    }

    fn place(&self, name: &OutputName) -> PathBuf {
        let stream = |at: usize| self.streams[at].clone().unwrap_or_else(|| "/dev/null".into());
        match name {
            OutputName::Declared(file) => {
                let path = self.task.dir.join(file);
                let is_held = self.task.temporary.contains(file);
                self.held.as_ref().filter(|_| is_held).map_or(path.clone(), |held| held.place(&path))
            }
            OutputName::Stdout => stream(0),
            OutputName::Stderr => stream(1),
        }
    }

    /// Where a temporary output is that the task has written.
    fn held_at(&self, name: &OutputName) -> Option<PathBuf> {
        let OutputName::Declared(file) = name else { return None };
        self.held.as_ref().filter(|_| self.task.temporary.contains(file))?.find(&self.task.dir.join(file))
    }

    /// The files that the task writes, and where they are.
    fn outputs(&self) -> Vec<(OutputName, PathBuf)> {
        let declared = self.task.outputs.iter().map(|(file, _)| OutputName::Declared(file.clone()));
        let is_file = |at: usize| self.streams[at].as_deref().is_some_and(|path| path != Path::new("/dev/null"));
        let streams = [(0, OutputName::Stdout), (1, OutputName::Stderr)].into_iter().filter(|(at, _)| is_file(*at));
        let names = declared.chain(streams.map(|(_, name)| name));
        names.map(|name| (name.clone(), self.held_at(&name).unwrap_or_else(|| self.place(&name)))).collect()
    }

    /// An output that is a directory around the task's own, which putting it back would replace.
    fn output_around_task(&self) -> Option<&Path> {
        let dir = lexical(&self.task.dir);
        let is_around = |file: &&Path| dir.starts_with(lexical(&self.task.dir.join(file)));
        self.task.outputs.iter().map(|(file, _)| file.as_path()).find(is_around)
    }

    /// A device that the task writes to, if it does.
    fn device(&self) -> Option<&Path> {
        let is_device = |path: &&Path| path.starts_with("/dev") && *path != Path::new("/dev/null");
        self.streams.iter().flatten().map(PathBuf::as_path).find(is_device)
    }
}

impl TaskCache {
    pub(super) fn new(source: &dyn TaskSource, site: &RankContext, shared: Arc<SharedDirs>) -> TaskCache {
        TaskCache {
            settings: source.cache(),
            records: site.delivered.as_deref().map(|dir| records_of(dir, source.job_name())),
            store: OnceLock::new(),
            job: source.job_name().to_owned(),
            run: site.job_id.clone(),
            held: site.run_dir.as_deref().map(|run| Arc::new(held_files(&source.cache(), run, site.is_shared))),
            shared,
            env: source.env().to_vec(),
            prologues: source.prologues().into_iter().map(<[String]>::to_vec).collect(),
        }
    }

    /// The store of this node.
    pub(super) fn store(&self) -> &Arc<Store> {
        self.store.get_or_init(|| {
            let CacheSettings { dir, node_dir, size, ttl } = self.settings.clone();
            let node = node_dir.unwrap_or_else(StoreConfig::default_node_dir);
            Arc::new(Store::open(&StoreConfig { node, shared: dir, size, ttl, records: self.records.clone() }))
        })
    }

    /// Temporary files of the run, if there can be any.
    pub(super) fn held(&self) -> Option<&Arc<HeldFiles>> {
        self.held.as_ref()
    }

    /// Asks for the result of a task, and puts its outputs in place.
    pub(super) fn look_up(
        self: &Arc<Self>,
        request: &Arc<CacheRequest>,
        deadline: &AttemptDeadline<'_>,
    ) -> Result<Answer, Fault> {
        if let Some(answer) = self.look_into_memory(request) {
            return Ok(answer);
        }
        let (cache, request) = (Arc::clone(self), Arc::clone(request));
        let work = move |is_given_up: &AtomicBool| cache.answer(&request, is_given_up);
        match deadline.aside("taking its result from the cache", work) {
            // Without an answer the task runs; it is not the cache that fails it.
            Err(fault) if fault.state != State::Cancelled => Ok(no_key(fault.text, Visible::ALL)),
            answer => answer,
        }
    }

    /// The short way of tasks that name no file: it touches no disk.
    fn look_into_memory(&self, request: &CacheRequest) -> Option<Answer> {
        let store = self.store.get().filter(|_| request.has_no_files())?;
        let key = self.components(request, self.visible(request, &[]), &[]).key();
        let taken = store.take_from_memory(&key, &request.group.class)?;
        Some(hit(&key, taken))
    }

    fn answer(&self, request: &CacheRequest, is_given_up: &AtomicBool) -> Answer {
        let store = self.store();
        let programs = used_files::programs_of(&request.task);
        let visible = self.visible(request, &programs);
        if let Some(device) = request.device() {
            return no_key(format!("it writes to the device {}", device.display()), visible);
        }
        if let Some(output) = request.output_around_task() {
            return no_key(format!("its output {} holds the directory that it runs in", output.display()), visible);
        }
        let mut inputs = Vec::new();
        let mut contents = Vec::new();
        for (name, path) in key::files(&request.task, programs, request.stdin.clone()) {
            // A temporary file is not at its place.
            let held = request.held.as_ref().and_then(|held| held.find(&path));
            match input_state(store, held.unwrap_or(path)) {
                Ok(state) => {
                    contents.push((name, state.content.clone()));
                    inputs.push(state);
                }
                Err(error) => return no_key(format!("{name} cannot be read: {error}"), visible),
            }
        }
        let components = self.components(request, visible, &contents);
        let key = components.key();
        if let Some(held) = request.held.as_ref().filter(|_| !request.task.temporary.is_empty())
            && let Err(error) = held.enter()
        {
            return no_key(format!("its temporary outputs could not be held: {error}"), visible);
        }
        match store.take(&key, &request.group.class, &|name| request.place(name), is_given_up) {
            Ok(taken) => {
                for file in &request.task.temporary {
                    let publish = |held: &Arc<HeldFiles>| held.publish(&request.task.dir.join(file), is_given_up);
                    if let Some(Err(error)) = request.held.as_ref().map(publish) {
                        return no_key(format!("{} could not be held: {error}", file.display()), visible);
                    }
                }
                hit(&key, taken)
            }
            Err(miss) => {
                let miss = self.explain(request, &components, miss);
                let used = CacheUse { key: key.to_string(), miss: Some(miss), ..CacheUse::default() };
                Answer::Miss(Box::new(PendingResult { used, visible, components: Some(components), inputs }))
            }
        }
    }

    fn components(&self, request: &CacheRequest, visible: Visible, contents: &[(String, String)]) -> Components {
        let CacheRequest { task, group, rules, .. } = request;
        let prologue = self.prologue(request);
        let context = KeyContext { group, rules, env: &self.env, prologue, contents, visible };
        key::components(task, &context)
    }

    fn prologue(&self, request: &CacheRequest) -> &[String] {
        self.prologues.get(request.job).map_or(&[], Vec::as_slice)
    }

    /// Which variables of its identity a task asks for.
    fn visible(&self, request: &CacheRequest, programs: &[PathBuf]) -> Visible {
        let task = &request.task;
        let mut mentioned = [false; IDENTITY.len()];
        let mut search = |text: &[u8]| {
            for (name, mentioned) in IDENTITY.iter().zip(&mut mentioned) {
                *mentioned = *mentioned || memchr::memmem::find(text, name.as_bytes()).is_some();
            }
        };
        if let Work::Kernel { .. } = task.work {
            // A kernel asks its context, which is seen nowhere in the job file.
            return Visible { id: false, name: true, index: true };
        }
        key::texts(task, &self.env, self.prologue(request)).for_each(|text| search(text.as_bytes()));
        for file in programs {
            let path = task.dir.join(file);
            let is_small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_SCRIPT);
            if let Some(text) = is_small.then(|| fs::read(&path).ok()).flatten() {
                search(&text);
            }
        }
        let [id, name, index] = mentioned;
        Visible { id, name, index: index || (request.group.indexed && request.is_alike) }
    }

    /// Why there is no result: what differs from the last one of a task of this name.
    fn explain(&self, request: &CacheRequest, components: &Components, miss: Miss) -> CacheMiss {
        let plain = |reason: &str, detail| CacheMiss { reason: reason.into(), detail, ..CacheMiss::default() };
        match miss {
            Miss::Damaged(detail) => plain("damaged", detail),
            Miss::NotRestored(detail) => plain("not_restored", detail),
            Miss::Expired => plain("expired", String::new()),
            Miss::Unknown => match self.store().differences(&self.job, &request.label, components) {
                None => plain("new", String::new()),
                Some((origin, differences)) => {
                    let reason = if differences.is_empty() { "evicted" } else { "changed" };
                    let differences = differences.into_iter();
                    let differences = differences.map(|d| KeyDifference { name: d.name, was: d.was, now: d.now });
                    CacheMiss { run: origin.run, differences: differences.collect(), ..plain(reason, String::new()) }
                }
            },
        }
    }

    /// The directories of a completed task that are in the store already, as it has left them.
    /// Fails with why its result is not stored: what others have written into a directory is no
    /// part of it.
    fn known_outputs(
        &self,
        request: &CacheRequest,
        mut left: Vec<(PathBuf, Option<Content>)>,
    ) -> Result<Vec<(OutputName, Content)>, String> {
        let mut known = Vec::new();
        for (name, place) in request.outputs() {
            match left.iter_mut().find(|(other, _)| *other == place) {
                Some((_, content)) => match content.take() {
                    Some(content) => known.push((name, content)),
                    None => return Err(format!("the cache could not take its output {}", place.display())),
                },
                None if place.is_dir() && self.shared.is_shared(request.task.id, &place) => {
                    return Err(format!(
                        "others write into its output {}, too: with `stage = \"node\"` what is its own is known",
                        place.display()
                    ));
                }
                None => {}
            }
        }
        Ok(known)
    }

    /// Stores what a completed task left. Returns why not, if it could not be.
    pub(super) fn store_result(
        self: &Arc<Self>,
        request: &Arc<CacheRequest>,
        pending: PendingResult,
        (recorded, began, took): (Recorded, SystemTime, Duration),
        left: LeftOutputs,
        deadline: &AttemptDeadline<'_>,
    ) -> Option<String> {
        if request.task.outputs.is_empty() && recorded.printed.is_empty() && request.outputs().is_empty() {
            return Some("it declares no outputs and printed nothing".into());
        }
        if recorded.is_too_long() {
            return Some(format!("it printed more than {} MiB", recorder::MAX_PRINTED >> 20));
        }
        if let Some(file) = left.old {
            return Some(format!("it did not write its output {}, which is older", file.display()));
        }
        // Why it has no key was said when it was looked for.
        let components = pending.components?;
        let (cache, request) = (Arc::clone(self), Arc::clone(request));
        let work = move |_: &AtomicBool| {
            if let Some(input) = pending.inputs.iter().find(|input| !input.is_unchanged(cache.store())) {
                return Some(format!("{} changed while it ran", input.path.display()));
            }
            let origin = Origin {
                job: cache.job.clone(),
                task: request.label.clone(),
                class: request.group.class.to_string(),
                run: cache.run.clone(),
                unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
                took_s: took.as_secs_f64(),
            };
            let Recorded { printed, measures, .. } = recorded;
            let outputs = match cache.known_outputs(&request, left.directories) {
                Ok(outputs) => outputs,
                Err(why) => return Some(why),
            };
            let result = StoredResult { origin, components, outputs, printed, measures };
            let stored = cache.store().put(result, &request.outputs());
            if stored.is_ok() && !request.task.is_staged {
                request.outputs().iter().for_each(|(_, place)| cache.store().note_left(place, began));
            }
            stored.err().map(|error| error.to_string())
        };
        deadline.aside("storing its result", work).unwrap_or_else(|fault| Some(fault.text))
    }
}

/// Where the temporary files of a run are, as a job with this cache holds them on this node.
/// The records of what a job delivers: what another job left in the same place is not its own.
fn records_of(dir: &Path, job: &str) -> PathBuf {
    dir.join(&Digest::of(job.as_bytes()).to_string()[..16])
}

pub(crate) fn held_files(settings: &CacheSettings, run_dir: &Path, is_shared: bool) -> HeldFiles {
    let node = settings.node_dir.clone().unwrap_or_else(StoreConfig::default_node_dir);
    // Names of files follow from it.
    let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    HeldFiles::new(&node, &run_dir, is_shared)
}

/// What stands behind a path, for a key.
fn input_state(store: &Store, path: PathBuf) -> io::Result<InputState> {
    let meta = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(InputState { path, content: MISSING.into(), stamp: None });
        }
        meta => meta?,
    };
    let content = store.content_of(&path)?.identity();
    // The state of a directory says nothing of the files in it.
    let stamp = (!meta.is_dir()).then(|| Stamp::of(&meta));
    Ok(InputState { path, content, stamp })
}

impl InputState {
    fn is_unchanged(&self, store: &Store) -> bool {
        match &self.stamp {
            Some(stamp) => fs::metadata(&self.path).is_ok_and(|meta| Stamp::of(&meta) == *stamp),
            None if self.content == MISSING => !self.path.exists(),
            None => store.content_of(&self.path).is_ok_and(|content| content.identity() == self.content),
        }
    }
}

fn hit(key: &Digest, taken: Taken) -> Answer {
    let origin = &taken.origin;
    let hit = CacheHit {
        level: taken.level.name().to_owned(),
        run: origin.run.clone(),
        task: origin.task.clone(),
        unix_s: origin.unix_s,
        took_s: origin.took_s,
        restored: taken.restored,
    };
    let used = CacheUse { key: key.to_string(), hit: Some(hit), ..CacheUse::default() };
    Answer::Hit(Box::new((taken, used)))
}

fn no_key(detail: String, visible: Visible) -> Answer {
    let miss = CacheMiss { reason: "no_key".into(), detail, ..CacheMiss::default() };
    let used = CacheUse { miss: Some(miss), ..CacheUse::default() };
    Answer::Miss(Box::new(PendingResult { used, visible, components: None, inputs: Vec::new() }))
}
