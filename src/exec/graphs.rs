//! The data graphs of a run on this rank: loaded for the first operation that needs them, and kept
//! until the run ends.
//!
//! A graph has versions. An operation that reads keeps the version with which it started; a batch
//! of changes makes the next version. Each batch is a file of the run directory, numbered by the
//! version that it makes, and is written before that version becomes visible. So all ranks agree on
//! the order of batches (each number is taken once), each rank applies the batches of others before
//! it runs an operation, and a resumed run reads the source and then the batches of tasks that
//! stay complete. Edges are a set, so applying a batch twice is harmless.
//!
//! A graph is either held whole by each rank that executes operations on it, or *divided*: each
//! active rank holds a range of its vertices, and all of them execute an operation together. When
//! other ranks execute the next one, it is divided anew among them, from the source and the
//! batches. The rank that leads (place 0) takes the locks for all, so operations that run side by
//! side never wait for each other in a circle.
//!
//! The result of an operation is cached for a while (`results`). An equal operation on the same
//! version takes it from the cache, and waits for one in progress instead of computing the same
//! again. Of a divided graph each rank caches the values of its own vertices.

mod batches;
mod results;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use batches::{BATCHES_DIR, BatchWriter, FormerBatches};
use batches::{Batches, no_edges};
use results::ResultCache;

use super::Peers;
use super::kernel::Context;
use crate::data::exchange::{Exchange, SingleRank, Stopped, gather, largest, pack, smallest, sum, unpack};
use crate::data::operations::{self, Edges, Operation, OperationAnswer, VertexValues};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, agree};
use crate::job::DataGraph;
use crate::model::Rank;

/// Poll interval for a lock that another operation holds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The graphs of a run.
#[derive(Default)]
pub struct Graphs {
    all: BTreeMap<String, Resident>,
}

struct Resident {
    graph: DataGraph,
    /// Where the batches of changes are kept.
    batches: Batches,
    /// What operations use that this rank executes alone: all of the graph.
    alone: Held,
    /// What operations use that it executes with others: its part.
    together: Held,
    /// A kernel has asked for all of it, so a rank may hold both.
    is_wanted_whole: AtomicBool,
}

/// What a rank holds of a graph.
#[derive(Default)]
struct Held {
    /// Taken by the rank that leads, while the graph is loaded or changed.
    loading: Mutex<()>,
    division: Mutex<Option<Division>>,
    results: ResultCache,
}

/// A graph as it was divided among some ranks.
#[derive(Clone)]
struct Division {
    ranks: Vec<Rank>,
    /// The number of the attempt that divided it: equal on two ranks if their parts belong
    /// together.
    number: u64,
    part: GraphPart,
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

/// Takes a lock that others may hold for long, and gives up when the task must stop or a rank that
/// executes it too is lost.
fn lock_or_stop<'m, T>(mutex: &'m Mutex<T>, context: &Context) -> Result<MutexGuard<'m, T>, DataGraphError> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(std::sync::TryLockError::Poisoned(guard)) => return Ok(guard.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => {
                context.sleep(LOCK_POLL_INTERVAL);
                ContextExchange::new(context).check()?;
            }
        }
    }
}

/// Waits until the leader has its lock. What a rank reads afterwards is what all ranks had left
/// when the operation that held the lock before ended.
fn wait_for_leader(exchange: &mut ContextExchange) -> Result<(), Stopped> {
    sum(exchange, [0]).map(|_| ())
}

/// The exchange of a task: with the ranks that execute it together, or of this rank alone.
pub struct ContextExchange<'a, 'b> {
    context: &'a Context<'b>,
}

impl<'a, 'b> ContextExchange<'a, 'b> {
    /// The exchange of the task that this context belongs to.
    pub fn new(context: &'a Context<'b>) -> ContextExchange<'a, 'b> {
        ContextExchange { context }
    }
}

impl Exchange for ContextExchange<'_, '_> {
    fn place(&self) -> usize {
        self.context.peers().map_or(0, Peers::place)
    }

    fn ranks(&self) -> usize {
        self.context.peers().map_or(1, |peers| peers.ranks().len())
    }

    fn swap(&mut self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Stopped> {
        self.check()?;
        match self.context.peers() {
            Some(peers) => peers.swap(outgoing, &|| self.context.cancelled()),
            None => Ok(outgoing),
        }
    }

    fn check(&mut self) -> Result<(), Stopped> {
        if self.context.cancelled() {
            return Err(Stopped::Cancelled);
        }
        self.context.peers().map_or(Ok(()), Peers::check)
    }
}

impl Graphs {
    /// Declares the graphs of a job; batches of changes are written to `dir`.
    pub fn new(graphs: &[DataGraph], dir: Option<&Path>) -> Graphs {
        let resident = |graph: &DataGraph| Resident {
            graph: graph.clone(),
            batches: Batches::new(dir.map(|dir| dir.join(&graph.name))),
            alone: Held::default(),
            together: Held::default(),
            is_wanted_whole: AtomicBool::new(false),
        };
        Graphs { all: graphs.iter().map(|graph| (graph.name.clone(), resident(graph))).collect() }
    }

    fn resident(&self, name: &str) -> Result<&Resident, DataGraphError> {
        self.all.get(name).ok_or_else(|| DataGraphError::refused(format!("the job has no graph called `{name}`")))
    }

    /// Returns the present version of a graph, all of it, and loads it if necessary.
    ///
    /// # Errors
    /// If there is no graph of that name, the job asks that it be divided, it cannot be loaded, or
    /// the task must stop.
    pub fn part(&self, name: &str, context: &Context) -> Result<GraphPart, DataGraphError> {
        let resident = self.resident(name)?;
        if resident.graph.divide == Some(true) {
            return Err(DataGraphError::refused(format!(
                "the graph `{name}` is divided among the ranks (`divide = true`), and a kernel needs all of it: set \
                 `divide = false`"
            )));
        }
        resident.is_wanted_whole.store(true, Relaxed);
        resident.present_alone(context).map(|division| division.part)
    }

    /// Runs an operation on the present version, or takes the cached result of an equal one.
    /// `each`: values of single vertices are wanted. The flag returned is true if the result came
    /// from the cache. Ranks that execute it together all call this.
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
        let resident = self.resident(name)?;
        let mut exchange = ContextExchange::new(context);
        let held = resident.held(context);
        let is_leader = exchange.place() == 0;
        let Operation::Change { insert, edges } = operation else {
            let division = match context.peers() {
                None => resident.present_alone(context)?,
                Some(_) => {
                    let _loading = is_leader.then(|| lock_or_stop(&held.loading, context)).transpose()?;
                    context.rayon().install(|| resident.present(held, &mut exchange, context))?
                }
            };
            return held.answer(&mut exchange, division, operation, context, each);
        };
        let _loading = is_leader.then(|| lock_or_stop(&held.loading, context)).transpose()?;
        let change = || resident.change(held, &mut exchange, (*insert, edges), context);
        context.rayon().install(change).map(|found| (Arc::new(found), false))
    }
}

impl Held {
    /// The result of an operation that reads: a cached one if all ranks have it, or a new one.
    fn answer(
        &self,
        exchange: &mut ContextExchange,
        division: Division,
        operation: &Operation,
        context: &Context,
        each: bool,
    ) -> Result<(Arc<OperationResult>, bool), DataGraphError> {
        let compute = |exchange: &mut ContextExchange, part: GraphPart| {
            let begin = Instant::now();
            let run = || operations::run(exchange, &part, operation, context.dir(), each);
            let answer = context.rayon().install(run)?;
            Ok::<_, DataGraphError>(OperationResult { part, answer, seconds: begin.elapsed().as_secs_f64() })
        };
        if matches!(operation, Operation::Save { .. }) {
            return compute(exchange, division.part).map(|found| (Arc::new(found), false));
        }
        // Only for counting triangles it is cheaper to leave out the values.
        let each = each || *operation != Operation::Triangles;
        let place = self.results.place((division.number, division.part.version()), operation, each);
        // The leader keeps its place locked until all have a result; nobody else keeps one locked.
        let mut own = if exchange.place() == 0 { Some(lock_or_stop(&place, context)?) } else { None };
        wait_for_leader(exchange)?;
        let found = own.as_deref().map_or_else(|| lock(&place).clone(), Option::clone);
        let [all_have] = smallest(exchange, [u64::from(found.is_some())])?;
        if let Some(found) = found.filter(|_| all_have == 1) {
            return Ok((found, true));
        }
        let new = Arc::new(compute(exchange, division.part)?);
        if own.is_none() {
            *lock(&place) = Some(Arc::clone(&new));
        }
        sum(exchange, [0])?;
        if let Some(own) = &mut own {
            **own = Some(Arc::clone(&new));
        }
        Ok((new, false))
    }

    /// Forgets everything.
    fn clear(&self) {
        *lock(&self.division) = None;
        self.results.clear();
    }
}

impl Resident {
    /// What operations use that are executed by as many ranks as this one.
    fn held(&self, context: &Context) -> &Held {
        if context.peers().is_some() { &self.together } else { &self.alone }
    }

    /// The present version on this rank alone.
    fn present_alone(&self, context: &Context) -> Result<Division, DataGraphError> {
        let present = lock(&self.alone.division).clone();
        if let Some(present) = present.filter(|present| !self.batches.go_beyond(&present.part)) {
            return Ok(present);
        }
        let _loading = lock_or_stop(&self.alone.loading, context)?;
        let mut exchange = ContextExchange::new(context);
        context.rayon().install(|| self.present(&self.alone, &mut exchange, context))
    }

    /// The present version on the ranks that execute the task. It is loaded if they do not all hold
    /// parts that belong together, and the batches written since are applied.
    fn present(
        &self,
        held: &Held,
        exchange: &mut ContextExchange,
        context: &Context,
    ) -> Result<Division, DataGraphError> {
        wait_for_leader(exchange)?;
        let ranks = context.peers().map_or_else(|| vec![context.rank()], |peers| peers.ranks().to_vec());
        let own = lock(&held.division).clone().filter(|division| division.ranks == ranks);
        let [number, version] = own.as_ref().map_or([0; 2], |own| [own.number, own.part.version()]);
        let [least, most, oldest, newest] = smallest(exchange, [number, !number, version, !version])?;
        if let Some(own) = own.filter(|_| least != 0 && least == !most && oldest == !newest) {
            return self.caught_up(held, exchange, own);
        }
        held.clear();
        if self.graph.is_divided && !self.is_wanted_whole.load(Relaxed) {
            let other = if context.peers().is_some() { &self.alone } else { &self.together };
            other.clear();
        }
        let part = self.graph.source.load(exchange)?;
        let number = context.peers().map_or(1, |peers| u64::from(peers.number()));
        tracing::debug!(graph = self.graph.name, ranks = ranks.len(), bytes = part.bytes(), "a data graph is loaded");
        let division = Division { ranks, number, part };
        *lock(&held.division) = Some(division.clone());
        self.caught_up(held, exchange, division)
    }

    /// Applies the batches written since that version, by these ranks or others. The leader reads
    /// them. When it returns on one rank, all hold the version that it returns.
    fn caught_up(
        &self,
        held: &Held,
        exchange: &mut ContextExchange,
        mut division: Division,
    ) -> Result<Division, DataGraphError> {
        loop {
            let is_leader = exchange.place() == 0;
            let [is_behind] = largest(exchange, [u64::from(is_leader && self.batches.go_beyond(&division.part))])?;
            if is_behind == 0 {
                return Ok(division);
            }
            let read = match is_leader {
                true => self.batches.next(&division.part),
                false => Ok((false, no_edges(&division.part))),
            };
            let (insert, batch) = agree(exchange, read)?;
            let [insert] = largest(exchange, [u64::from(insert)])?;
            division.part = division.part.changed(exchange, batch, insert == 1)?.0;
            *lock(&held.division) = Some(division.clone());
        }
    }

    /// Inserts or deletes edges and makes the next version.
    fn change(
        &self,
        held: &Held,
        exchange: &mut ContextExchange,
        (insert, edges): (bool, &Edges),
        context: &Context,
    ) -> Result<OperationResult, DataGraphError> {
        let begin = Instant::now();
        let mut division = self.present(held, exchange, context)?;
        loop {
            let part = &division.part;
            let is_leader = exchange.place() == 0;
            // The leader reads all edges, as it writes the batch.
            let read = match is_leader {
                true => operations::read_changes(&mut SingleRank::unstoppable(), part, edges, context.dir()),
                false => Ok(no_edges(part)),
            };
            let batch = agree(exchange, read)?;
            let (next, count) = part.changed(exchange, batch.clone(), insert)?;
            let writer = BatchWriter { task: context.task(), session: context.session() };
            let kept = if is_leader { self.batches.keep(part, &batch, insert, writer) } else { Ok(true) };
            let kept = agree(exchange, kept)?;
            let [kept] = smallest(exchange, [u64::from(kept)])?;
            if kept == 0 {
                division = self.caught_up(held, exchange, division)?;
                continue;
            }
            division.part = next;
            *lock(&held.division) = Some(division.clone());
            held.results.forget_before(division.part.version() - 1);
            // The leader frees its lock when all hold the new version.
            sum(exchange, [0])?;
            let answer = operations::changed(count, insert);
            return Ok(OperationResult { part: division.part, answer, seconds: begin.elapsed().as_secs_f64() });
        }
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
    // Without the name of the job, which precedes it in a run of several.
    put("graph", name.rsplit('/').next().unwrap_or(name).into());
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
    let mut bytes: Vec<u64> = Vec::new();
    for of_rank in gather(exchange, pack([part.bytes()]))? {
        bytes.extend(unpack::<u64>(&of_rank)?);
    }
    put("ranks", bytes.len().into());
    put("part_bytes", bytes.into());
    put("cached", cached.into());
    let mut text = format!("{{{}}}\n", line.join(","));
    if top > 0 && !matches!(answer.values, VertexValues::None) {
        text += &operations::top(exchange, part, &answer.values, top)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::generate::{GeneratedKind, Generator};
    use crate::data::source::{GraphSource, Origin};
    use crate::exec::control::Control;
    use crate::exec::kernel::KernelCall;
    use crate::exec::output::Output;
    use crate::exec::{ExecContext, OutputSink, RankContext};
    use crate::model::{Outcome, Shortfalls, Stream, TaskId};

    struct Nowhere;

    impl OutputSink for Nowhere {
        fn append(&self, _: TaskId, _: u16, _: Stream, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }

        fn finish(&self, _: TaskId, _: u16, _: Outcome) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_kernel_gets_all_of_a_graph_unless_the_job_divides_it() {
        let generator = Generator { kind: GeneratedKind::Grid, scale: 4, degree: 1, seed: 1 };
        let source = GraphSource { origin: Origin::Generated(generator), directed: None, weights: None };
        let graph =
            |name: &str, divide| DataGraph { name: name.into(), source: source.clone(), divide, is_divided: true };
        let graphs = Graphs::new(&[graph("large", None), graph("chosen", Some(true))], None);
        let team = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let rayon = || Arc::clone(&team);
        let seat = ExecContext {
            slot: 0,
            attempt: 1,
            short: Shortfalls::NONE,
            cpus: &[],
            numa: None,
            gpus: &[],
            hosts: &[],
            rayon: &rayon,
            peers: None,
        };
        let site = RankContext::new("r-1", Rank(0), "n", 1);
        let (control, output) = (Control::new().unwrap(), Output::new(&Nowhere, TaskId(0), 1));
        let (dir, index) = (Path::new("."), || None);
        let call = KernelCall {
            task: TaskId(0),
            name: "t",
            job: "",
            dir,
            seat: &seat,
            site: &site,
            graphs: &graphs,
            index: &index,
        };
        let context = Context::new(call, &control, None, &output);
        assert_eq!(context.graph("large").unwrap().own().len(), 16);
        let refusal = context.graph("chosen").unwrap_err().to_string();
        assert!(refusal.contains("`chosen` is divided") && refusal.contains("`divide = false`"), "{refusal}");
    }
}
