//! The data graphs of a run on this rank: loaded for the first operation that needs them, and kept
//! until the run ends.
//!
//! A graph has versions. An operation that reads keeps the version with which it started; a batch
//! of changes makes the next version. Each batch is a file of the run directory, numbered by the
//! version that it makes, and is written before that version becomes visible. So all ranks agree on
//! the order of batches (each number is taken once), each rank applies the batches of others before
//! it runs an operation, and a resumed run reads the source and then the batches. Edges are a set,
//! so applying a batch twice is harmless.
//!
//! Each rank that runs operations on a graph holds the whole graph.
//!
//! The result of an operation is cached for [`RESULT_LIFETIME`]. An equal operation on the same
//! version takes it from the cache, and waits for one in progress instead of computing the same
//! again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::kernel::Context;
use crate::data::DataGraphError;
use crate::data::exchange::{Exchange, SingleRank, Stopped};
use crate::data::operations::{self, Edges, Operation, OperationAnswer, VertexValues};
use crate::data::part::GraphPart;
use crate::data::rows::EdgeList;
use crate::job::DataGraph;

/// How long results are cached.
const RESULT_LIFETIME: Duration = Duration::from_secs(300);

/// Largest number of cached results per graph.
const MAX_CACHED_RESULTS: usize = 64;

/// Poll interval for a lock that another operation holds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The graphs of a run.
#[derive(Default)]
pub struct Graphs {
    all: BTreeMap<String, Resident>,
}

struct Resident {
    graph: DataGraph,
    /// Directory of the batches; `None` if they are not kept.
    batches: Option<PathBuf>,
    /// Held while it is loaded or changed.
    loading: Mutex<()>,
    part: Mutex<Option<GraphPart>>,
    results: Mutex<Vec<CachedResult>>,
}

/// A cached result, or the place of one in progress.
struct CachedResult {
    version: u64,
    operation: Operation,
    /// True if it includes the values of single vertices, for operations where these are optional.
    each: bool,
    since: Instant,
    found: Arc<Mutex<Option<Arc<OperationResult>>>>,
}

/// The result of an operation, and the version of the graph.
pub struct OperationResult {
    /// The version.
    pub part: GraphPart,
    /// Numbers and values.
    pub answer: OperationAnswer,
    /// Duration in seconds.
    pub seconds: f64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock that others may hold for long, and gives up when the task must stop.
fn lock_or_stop<'m, T>(mutex: &'m Mutex<T>, context: &Context) -> Result<MutexGuard<'m, T>, DataGraphError> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(std::sync::TryLockError::Poisoned(guard)) => return Ok(guard.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => {
                if !context.sleep(LOCK_POLL_INTERVAL) {
                    return Err(Stopped::Cancelled.into());
                }
            }
        }
    }
}

impl Graphs {
    /// Declares the graphs of a job; batches of changes are written to `dir`.
    pub fn new(graphs: &[DataGraph], dir: Option<&Path>) -> Graphs {
        let resident = |graph: &DataGraph| Resident {
            graph: graph.clone(),
            batches: dir.map(|dir| dir.join(&graph.name)),
            loading: Mutex::default(),
            part: Mutex::default(),
            results: Mutex::default(),
        };
        Graphs { all: graphs.iter().map(|graph| (graph.name.clone(), resident(graph))).collect() }
    }

    fn resident(&self, name: &str) -> Result<&Resident, DataGraphError> {
        self.all.get(name).ok_or_else(|| DataGraphError::refused(format!("the job has no graph called `{name}`")))
    }

    /// Returns the present version of a graph and loads it if necessary.
    ///
    /// # Errors
    /// If there is no graph of that name, it cannot be loaded, or the task must stop.
    pub fn part(&self, name: &str, context: &Context) -> Result<GraphPart, DataGraphError> {
        let resident = self.resident(name)?;
        let present = || lock(&resident.part).clone();
        if let Some(part) = present().filter(|part| !resident.is_behind(part)) {
            return Ok(part);
        }
        let _loading = lock_or_stop(&resident.loading, context)?;
        let is_cancelled = || context.cancelled();
        let mut exchange = SingleRank::new(&is_cancelled);
        let part = context.rayon().install(|| {
            let part = match present() {
                Some(part) => part,
                None => resident.graph.source.load(&mut exchange)?,
            };
            resident.caught_up(&mut exchange, part)
        })?;
        *lock(&resident.part) = Some(part.clone());
        Ok(part)
    }

    /// Runs an operation on the present version, or takes the cached result of an equal one.
    /// `each`: values of single vertices are wanted. The flag returned is true if the result came
    /// from the cache.
    ///
    /// # Errors
    /// If it is stopped, or its arguments do not fit the graph.
    pub fn run(
        &self,
        name: &str,
        operation: &Operation,
        context: &Context,
        each: bool,
    ) -> Result<(Arc<OperationResult>, bool), DataGraphError> {
        let part = self.part(name, context)?;
        let resident = self.resident(name)?;
        match operation {
            Operation::Change { insert, edges } => {
                resident.change(*insert, edges, context).map(|found| (Arc::new(found), false))
            }
            Operation::Save { .. } => compute(part, operation, context, each).map(|found| (Arc::new(found), false)),
            _ => {
                // Only for counting triangles it is cheaper to leave out the values.
                let each = each || *operation != Operation::Triangles;
                let place = resident.place_for(part.version(), operation, each);
                let mut found = lock_or_stop(&place, context)?;
                if let Some(found) = &*found {
                    return Ok((Arc::clone(found), true));
                }
                let new = Arc::new(compute(part, operation, context, each)?);
                *found = Some(Arc::clone(&new));
                Ok((new, false))
            }
        }
    }
}

fn compute(
    part: GraphPart,
    operation: &Operation,
    context: &Context,
    each: bool,
) -> Result<OperationResult, DataGraphError> {
    let begin = Instant::now();
    let is_cancelled = || context.cancelled();
    let mut exchange = SingleRank::new(&is_cancelled);
    let run = || operations::run(&mut exchange, &part, operation, context.dir(), each);
    let answer = context.rayon().install(run)?;
    Ok(OperationResult { part, answer, seconds: begin.elapsed().as_secs_f64() })
}

impl Resident {
    /// The file of the batch that makes `version`.
    fn batch(&self, version: u64) -> Option<PathBuf> {
        Some(self.batches.as_ref()?.join(format!("{version:09}.el")))
    }

    /// True if a batch for the next version exists.
    fn is_behind(&self, part: &GraphPart) -> bool {
        self.batch(part.version() + 1).is_some_and(|file| file.exists())
    }

    /// Applies the batches written since that version, by this rank or another.
    fn caught_up(&self, exchange: &mut dyn Exchange, mut part: GraphPart) -> Result<GraphPart, DataGraphError> {
        while let Some(file) = self.batch(part.version() + 1).filter(|file| file.exists()) {
            let cannot =
                |error: std::io::Error| DataGraphError::refused(format!("{}: cannot read it: {error}", file.display()));
            let mut first = String::new();
            let text = std::fs::File::open(&file).map_err(cannot)?;
            std::io::BufReader::new(text).read_line(&mut first).map_err(cannot)?;
            let insert = match first.trim() {
                "# insert" => true,
                "# delete" => false,
                _ => {
                    return Err(DataGraphError::refused(format!(
                        "{}:1: expected `# insert` or `# delete`",
                        file.display()
                    )));
                }
            };
            let edges = Edges::File(file.clone());
            let batch = operations::read_changes(exchange, &part, &edges, Path::new(""))?;
            (part, _) = part.changed(exchange, batch, insert)?;
        }
        Ok(part)
    }

    /// Inserts or deletes edges and makes the next version.
    fn change(&self, insert: bool, edges: &Edges, context: &Context) -> Result<OperationResult, DataGraphError> {
        let _loading = lock_or_stop(&self.loading, context)?;
        let begin = Instant::now();
        let is_cancelled = || context.cancelled();
        let mut exchange = SingleRank::new(&is_cancelled);
        let mut part = lock(&self.part).clone().ok_or_else(|| DataGraphError::refused("the graph is not loaded"))?;
        let (part, count) = context.rayon().install(|| {
            loop {
                part = self.caught_up(&mut exchange, part)?;
                let batch = operations::read_changes(&mut exchange, &part, edges, context.dir())?;
                let (next, count) = part.changed(&mut exchange, batch.clone(), insert)?;
                if self.keep(&part, &batch, next.version(), insert)? {
                    return Ok::<_, DataGraphError>((next, count));
                }
            }
        })?;
        *lock(&self.part) = Some(part.clone());
        lock(&self.results).retain(|kept| kept.version + 1 >= part.version());
        let answer = operations::changed(count, insert);
        Ok(OperationResult { part, answer, seconds: begin.elapsed().as_secs_f64() })
    }

    /// Writes a batch to the run directory as the one that makes `version`. Returns false if
    /// another rank has already written that version.
    fn keep(&self, part: &GraphPart, batch: &EdgeList, version: u64, insert: bool) -> Result<bool, DataGraphError> {
        let Some(file) = self.batch(version) else { return Ok(true) };
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

    /// The cache entry for an operation on a version.
    fn place_for(&self, version: u64, operation: &Operation, each: bool) -> Arc<Mutex<Option<Arc<OperationResult>>>> {
        let mut results = lock(&self.results);
        results.retain(|kept| kept.since.elapsed() < RESULT_LIFETIME);
        let answers =
            |kept: &&CachedResult| kept.version == version && kept.operation == *operation && kept.each >= each;
        if let Some(kept) = results.iter().find(answers) {
            return Arc::clone(&kept.found);
        }
        if results.len() >= MAX_CACHED_RESULTS {
            results.remove(0);
        }
        let found = Arc::default();
        results.push(CachedResult {
            version,
            operation: operation.clone(),
            each,
            since: Instant::now(),
            found: Arc::clone(&found),
        });
        found
    }
}

/// Prints the result of an operation: a line of JSON, then the largest values.
///
/// # Errors
/// If the task must stop.
pub fn report(
    name: &str,
    operation: &Operation,
    found: &OperationResult,
    cached: bool,
    top: usize,
    exchange: &mut dyn Exchange,
) -> Result<String, DataGraphError> {
    let OperationResult { part, answer, seconds } = found;
    let mut line: Vec<String> = Vec::new();
    let mut put = |key: &str, value: serde_json::Value| line.push(format!("\"{key}\":{value}"));
    put("operation", operation.name().into());
    put("graph", name.into());
    put("version", part.version().into());
    put("vertices", part.vertices().into());
    put("edges", part.edges().into());
    put("seconds", (*seconds).into());
    put("edges_per_s", (part.edges() as f64 / seconds.max(1e-9)).into());
    for (key, number) in &answer.facts {
        put(
            key,
            match number {
                operations::ReportedNumber::Whole(number) => (*number).into(),
                operations::ReportedNumber::Real(number) => (*number).into(),
            },
        );
    }
    put("cached", cached.into());
    let mut text = format!("{{{}}}\n", line.join(","));
    if top > 0 && !matches!(answer.values, VertexValues::None) {
        text += &operations::top(exchange, part, &answer.values, top)?;
    }
    Ok(text)
}
