//! Rank 0, from the job file to the end of the run.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::autoscaler::Autoscaler;
use super::driver::{CoordinatorDriver, SessionIdentity};
use super::join_listener::JoinListener;
use super::prepare::PreparedRun;
use super::pricing;
use super::provisioner::{self, Provisioner, listen_on};
use super::recording::Recording;
use super::run_history::HistoryRecorder;
use crate::capacity::slurm::NodeFeatures;
use crate::capacity::{NodeTable, RankFacts};
use crate::control::Server;
use crate::exec::{Kernels, held_files};
use crate::fabric::routed::RoutedFabric;
use crate::fabric::{Alone, Fabric};
use crate::graph::GAP;
use crate::graph::partition::Partition;
use crate::job::{Job, ProviderKind, SlotRange};
use crate::journal::{
    AsyncJournal, Began, GraphFacts, KeptRun, LeftOut, LimitChange, RUNS, RankInfo, Record, Requests, RunDir, RunLock,
};
use crate::model::{Attempt, Offers, Outcome, Rank, TaskId, Time};
use crate::numbers;
use crate::observe::live::{Listener, Orders, Serving, Watcher};
use crate::observe::progress::Progress;
use crate::pool::Pool;
use crate::runtime::event_wait::EventWait;
use crate::runtime::rank::executor::Executor;
use crate::runtime::rank::main_loop::main_loop;
use crate::runtime::rank::setup::{RankResources, RankSetup};
use crate::runtime::world::handshake::{dismiss, gather, send};
use crate::runtime::{Finished, MAX_CLOSE_WAIT, Options, RunError, subject_of};
use crate::schedule::coordinator::{Coordinator, Member, Tasks};
use crate::schedule::handout::PartBuilder;
use crate::schedule::pools::UNLIMITED;
use crate::schedule::protocol::{HandOut, Hello, Message, Welcome};
use crate::schedule::ranks::Ranks;
use crate::topology::Topology;
use crate::workload::placement::FurtherNodes;
use crate::workload::{PreparedJob, placement, requirements};

/// Runs rank 0 from the job file to the end of the run.
///
/// # Errors
/// If the run cannot begin, or its journal is incomplete.
pub(crate) fn run(
    fabric: &mut Box<dyn Fabric>,
    options: &Options,
    kernels: Kernels,
    wake: Arc<EventWait>,
) -> Result<Finished, RunError> {
    match prepare(fabric, options, kernels, wake) {
        Ok(run) => run.run_to_end(fabric),
        Err(error) => {
            dismiss(fabric.as_mut());
            Err(error)
        }
    }
}

/// A run that is under way.
struct Run {
    executor: Arc<Executor>,
    pool: Option<Pool<Executor>>,
    run_dir: RunDir,
    dir: PathBuf,
    lock: RunLock,
    /// Ranks may join.
    open: bool,
    /// Raises alerts until the run is over.
    watcher: Option<Watcher>,
    /// Serves the run's page until the run is over.
    serving: Option<Serving>,
}

impl Run {
    /// Runs to the end, and gives everything back.
    fn run_to_end(self, fabric: &mut Box<dyn Fabric>) -> Result<Finished, RunError> {
        main_loop(&self.executor);
        self.executor.shared.close();
        drop(self.pool);
        self.executor.shared.output_receiver.finish();
        self.run_dir.unmark();
        let mut engine = self.executor.engine.lock();
        let broken = engine.broken().map(str::to_owned);
        let (back, mut driver) = engine.take_apart();
        let exit_code = driver.as_mut().map_or(1, |driver| driver.conclude(self.executor.shared.clock.now()));
        *fabric = back;
        if self.open {
            *fabric = fabric.close(MAX_CLOSE_WAIT).unwrap_or_else(|| Box::new(Alone));
        }
        drop(self.watcher);
        let recorded = driver.map_or(Ok(()), |driver| driver.close(self.executor.shared.clock.now()));
        drop(self.serving);
        drop(self.lock);
        match (broken, recorded) {
            (_, Err(error)) => Err(RunError::Unrecorded { dir: self.dir, error }),
            (Some(reason), _) => Err(RunError::Broken(reason)),
            (None, Ok(())) => Ok(Finished { exit_code, run_dir: Some(self.dir) }),
        }
    }
}

/// Prepares the run up to the start of the first tasks.
fn prepare(
    fabric: &mut Box<dyn Fabric>,
    options: &Options,
    kernels: Kernels,
    wake: Arc<EventWait>,
) -> Result<Run, RunError> {
    let listener = options.listen.map(listen).transpose()?;
    let mut start = PreparedRun::open(options, &kernels)?;
    start.dir.mark(start.welcome.began_unix_ns)?;
    let features = node_features(&start.prepared.job);
    let slots = start.prepared.job.slots;
    let ready =
        handshake(fabric.as_mut(), &wake, &start.welcome, (options, slots)).and_then(|(resources, mut hellos)| {
            hellos.iter_mut().for_each(|hello| hello.add_labels(features.of(&hello.node)));
            check(&start.prepared, &hellos).map(|()| (resources, hellos))
        });
    let (resources, hellos) = match ready {
        Ok(found) => found,
        Err(error) => {
            start.take_back();
            return Err(error);
        }
    };
    if resources.has_other_nodes(start.welcome.open, fabric.size()) {
        let held = held_files(&start.prepared.job.cache, start.dir.path(), true);
        if let Err(error) = held.publish_all() {
            tracing::warn!("other nodes cannot read the temporary files of an earlier session: {error}");
        }
    }
    let members = placement::members(&hellos);
    let rules = start.prepared.placement_rules(&members);
    let divided = start.prepared.divide(&members, &rules);
    let infos = infos(&hellos);
    record_beginning(&mut start, &infos, &members, &divided)?;
    let PreparedRun {
        prepared,
        dir,
        lock: held,
        mut journal,
        kept,
        welcome,
        earlier,
        ended,
        past,
        limits,
        is_closed,
        ..
    } = start;
    let done = Done::of(&kept, &prepared);
    let left_out = (prepared.left_out_count(), Arc::clone(&prepared.left_out));
    let autoscaler = Autoscaler::new(&prepared, &infos, &members, &|task| done.has(task), earlier, &past);
    let fair = prepared.family_slots();
    let PreparedJob { job, graph, estimates, order, urgency, pools, .. } = prepared;
    drop(order);
    let unplaced = placement::unplaced(&job, &members, &rules, &divided.home, &|task| !done.has(task));
    let tasks = Tasks { graph, home: divided.home, urgency, advice: Box::new(rules), pools, fair }.with_gap(GAP);
    let ranks = members.len();
    let mut coordinator = coordinator(&job, tasks, members, &done).with_left_out(left_out.0);
    keep_limits(&mut coordinator, &limits);
    if job.open && !is_closed {
        tracing::info!("the run is open: it waits for `phalanx add` until `phalanx close`");
        coordinator.set_open(true, &mut Vec::new());
    }
    let first = hand_out(fabric.as_mut(), &mut coordinator, ranks, &done, &unplaced)?;
    drop(done);
    let slots = infos.iter().map(|info| info.slots).sum();
    let history = HistoryRecorder::new(
        past,
        &job,
        &welcome.run_name,
        slots,
        welcome.began_unix_ns,
        kept.is_empty() && left_out.0 == 0,
    );
    if let Some(past) = history.before() {
        journal.append(&Record::Past(Box::new(past)))?;
    }
    let journal = AsyncJournal::spawn(journal).map_err(|source| RunError::System { what: "start a thread", source })?;
    let progress = Progress::new(options.progress, &welcome.run_name).recorded(&dir, welcome.session);
    let facts = |info: RankInfo| RankFacts { node: info.node, slots: info.slots, pid: info.pid };
    let mut nodes = NodeTable::new(infos.into_iter().map(facts));
    let server = control_socket(&welcome.run_dir, &wake);
    let open = welcome.open;
    let mut joining = None;
    if let Some(listen) = listen_on(options, &job) {
        let (listener, outer) = JoinListener::open(&listen, welcome.clone(), features, Arc::clone(&wake))?;
        joining = Some((listener, Provisioner::new(&job, &welcome, &ended, &mut nodes.blocks)?));
        let world = std::mem::replace(fabric, Box::new(Alone));
        *fabric = Box::new(RoutedFabric::new(world, Rank::ZERO, Some(Box::new(outer))));
    }
    let serving = listener.map(|listener| serve(listener, &dir)).transpose()?;
    let (watcher, alerts) = watch(&dir, &job, options)?.unzip();
    let recording = Recording::new(journal, progress, history, alerts, (Arc::clone(&job), estimates), &coordinator);
    let identity =
        SessionIdentity { name: welcome.run_name.clone(), session: welcome.session, earlier_cost: earlier.cost };
    let mut driver = CoordinatorDriver::new(
        identity,
        coordinator,
        Arc::clone(&job),
        nodes,
        recording,
        autoscaler,
        (server, kernels.clone()),
    )
    .with_left_out(left_out.1);
    if let Some((listener, provisioner)) = joining {
        driver = driver.with_joining(listener, provisioner);
    }
    driver.has_unplaced = unplaced.iter().any(|tasks| !tasks.is_empty());
    let run_dir = dir.clone();
    let setup = RankSetup { welcome, job, resources, dir: Some(dir) };
    let (executor, pool) = setup.start(fabric, Some(driver), kernels, wake)?;
    {
        let mut engine = executor.engine.lock();
        let now = executor.shared.clock.now();
        let begun = engine.coordinator().map(|driver| driver.begin(now)).unwrap_or_default();
        engine.post([(Rank::ZERO, first)].into_iter().chain(begun).collect());
    }
    let dir = PathBuf::from(run_dir.path());
    Ok(Run { executor, pool, run_dir, dir, lock: held, open, watcher, serving })
}

/// The features of Slurm's nodes, which are labels of the ranks there, if the job asks for labels.
fn node_features(job: &Job) -> NodeFeatures {
    let asks = job.groups.iter().any(|group| !group.labels.is_empty());
    let slurm = job.sites.iter().filter(|site| site.capacity.provider == ProviderKind::Slurm);
    let here = std::env::var_os("SLURM_JOB_ID").map(|_| None);
    let clusters: BTreeSet<Option<&str>> =
        slurm.map(|site| site.capacity.cluster.as_deref()).chain(here).filter(|_| asks).collect();
    clusters.into_iter().map(NodeFeatures::ask).fold(NodeFeatures::default(), NodeFeatures::or)
}

/// Refuses a job that can run neither here nor on nodes that it can request.
fn check(prepared: &PreparedJob, hellos: &[Hello]) -> Result<(), RunError> {
    let (job, members) = (&prepared.job, placement::members(hellos));
    if hellos.iter().all(|hello| hello.slots == 0) && job.sites.is_empty() {
        return Err(RunError::Refused(
            "--coordinator-only leaves nobody to run tasks: start more ranks with mpirun, name a [capacity] to ask for nodes, or leave it \
             out"
            .into(),
        ));
    }
    let offers = if placement::lacks_ranks(job, &members) { provisioner::offers(&job.sites)? } else { Offers::Nothing };
    let most_ranks = job.scaling.as_ref().map_or(0, |scaling| scaling.max_ranks);
    prepared.check(&members, &FurtherNodes { offers, most_ranks }).map_err(RunError::Refused)
}

/// Opens the run's control socket. A run without it continues, but takes no commands.
fn control_socket(run_dir: &str, wake: &Arc<EventWait>) -> Option<Server> {
    let wake = Arc::clone(wake);
    let opened = Server::open(run_dir.as_ref(), move || wake.notify());
    opened
        .inspect_err(|error| tracing::warn!(%error, "no control socket: `phalanx status` and the like will not work"))
        .ok()
}

/// The handshake with the other ranks of the world: they send their places, receive the run's
/// facts, and send their resources.
fn handshake(
    fabric: &mut dyn Fabric,
    wake: &EventWait,
    welcome: &Welcome,
    (options, slots): (&Options, Option<SlotRange>),
) -> Result<(RankResources, Vec<Hello>), RunError> {
    let topology = Topology::discover();
    let here = (topology.machine.node.clone(), topology.grant.mask.clone());
    let arrived = gather(fabric, wake, here, |message| match message {
        Message::Arrived { node, mask } => Some((node, mask)),
        _ => None,
    })?;
    let mut masks: HashMap<&str, Vec<Vec<u32>>> = HashMap::new();
    for (node, mask) in &arrived {
        masks.entry(node).or_default().push(mask.clone());
    }
    let welcome_of = |rank: usize| Welcome { masks: masks[arrived[rank].0.as_str()].clone(), ..welcome.clone() };
    for rank in 1..fabric.size() {
        send(fabric, Rank(rank), &Message::Welcome(Box::new(welcome_of(rank as usize))))?;
    }
    let own = Welcome { works: !options.coordinator_only, ..welcome_of(0) };
    let resources = RankResources::new(topology, &own, &options.labels, slots);
    let hellos = gather(fabric, wake, resources.hello.clone(), |message| match message {
        Message::Hello(hello) => Some(hello),
        _ => None,
    })?;
    Ok((resources, hellos))
}

/// For each node of the graph, whether nobody is to run it: an earlier session completed it, or it
/// is left out. Nothing if there are no such nodes.
struct Done(Vec<bool>);

impl Done {
    fn of(kept: &[KeptRun], prepared: &PreparedJob) -> Done {
        let left_out = &prepared.left_out;
        let none = kept.is_empty() && left_out.is_empty();
        let mut done = vec![false; if none { 0 } else { prepared.graph.node_count() }];
        done.iter_mut().zip(left_out.iter()).for_each(|(done, out)| *done = *out);
        for run in kept {
            done[run.first.index()..][..run.count as usize].fill(true);
        }
        Done(done)
    }

    fn has(&self, node: u32) -> bool {
        self.0.get(node as usize) == Some(&true)
    }
}

/// Sends each rank its part of the graph; returns rank 0's own. No rank starts the `unplaced` tasks
/// that it is home to.
fn hand_out(
    fabric: &mut dyn Fabric,
    coordinator: &mut Coordinator,
    ranks: usize,
    done: &Done,
    unplaced: &[Vec<TaskId>],
) -> Result<Message, RunError> {
    let (mut units, terms) = (coordinator.first_units(), coordinator.steal_terms());
    let tasks = coordinator.tasks();
    let free = tasks.graph.free_numbers();
    let ended = |node: u32| (done.has(node) || free.contains(&node)).then_some(true);
    let cutter = PartBuilder::new(&tasks.graph, &tasks.home, &tasks.urgency, ranks, &ended);
    let mut message = |rank: usize| {
        let part = cutter.part(rank);
        let units = units.remove(&Rank(rank as u32)).unwrap_or_default();
        let (out, stealing) = (unplaced[rank].clone(), terms[rank]);
        let active = Ranks::first(ranks as u32);
        let hand_out = HandOut { part, units, active, out, stealing, ..HandOut::default() };
        match hand_out.oversize(numbers::MOST) {
            // A single rank sends no parts.
            Some(size) if ranks > 1 => Err(RunError::Refused(format!(
                "rank {rank} would be at home to more than a message holds ({size} tasks or dependencies): start more ranks"
            ))),
            _ => Ok(Message::HandOut(Box::new(hand_out))),
        }
    };
    for rank in 1..ranks {
        send(fabric, Rank(rank as u32), &message(rank)?)?;
    }
    message(0)
}

/// The coordinator of the run.
fn coordinator(job: &Arc<Job>, tasks: Tasks, members: Vec<Member>, done: &Done) -> Coordinator {
    let lookup = Arc::clone(job);
    let shape = Box::new(move |task| requirements::shape(lookup.group(task)));
    Coordinator::new(tasks, &|task| done.has(task.0), members, job.max_failures, shape)
}

/// Limits of pools that the user changed in earlier sessions still hold.
fn keep_limits(coordinator: &mut Coordinator, limits: &[LimitChange]) {
    for LimitChange { pool, units, .. } in limits {
        let Some(resource) = coordinator.pools().table().capacity_of(pool) else { continue };
        let largest = coordinator.pools().table().largest_need(resource);
        coordinator.keep_limit(resource, units.unwrap_or(UNLIMITED));
        match units {
            Some(0) => {
                tracing::warn!("`{pool}` is still paused by its limit of 0: `phalanx limit RUN {pool}=none` lifts it")
            }
            Some(units) if *units < largest => tracing::warn!(
                "the limit of `{pool}` is still {units}, and a task needs {largest}: \
                 `phalanx limit RUN {pool}={largest}` lets it start"
            ),
            Some(units) => tracing::info!("the limit of `{pool}` is {units}, as in the session before"),
            None => tracing::info!("`{pool}` has no limit, as in the session before"),
        }
    }
}

/// The ranks as the journal records them.
fn infos(hellos: &[Hello]) -> Vec<RankInfo> {
    let info =
        |(rank, hello): (u32, &Hello)| RankInfo { rank, node: hello.node.clone(), slots: hello.slots, pid: hello.pid };
    (0..).zip(hellos).map(info).collect()
}

/// Binds the address of the run's page, early enough to refuse it.
fn listen(address: SocketAddr) -> Result<Listener, RunError> {
    Listener::bind(address)
        .map_err(|source| RunError::Refused(format!("cannot listen on {address}: {source}; choose another --listen")))
}

/// Serves the run's page.
fn serve(listener: Listener, dir: &RunDir) -> Result<Serving, RunError> {
    listener.serve(dir, subject_of).map_err(|source| RunError::System { what: "start a thread for --listen", source })
}

/// Starts the thread that raises alerts and updates the file of metrics.
fn watch(dir: &RunDir, job: &Job, options: &Options) -> Result<Option<(Watcher, Receiver<String>)>, RunError> {
    let orders = Orders { alerts: job.alerts.clone(), metrics_file: options.metrics_file.clone() };
    Watcher::begin(dir, subject_of, orders)
        .map_err(|source| RunError::System { what: "start a thread for alerts", source })
}

/// Environment variable by which a batch script passes the command that continues the run.
const CONTINUE: &str = "PHALANX_CONTINUE";

/// How the journal says that a task is complete which the job of the former session did not have.
fn recalled(task: TaskId) -> Attempt {
    let (at, outcome) = (Time::ZERO, Outcome::OK);
    Attempt { task, attempt: 0, outcome, last: true, rank: Rank::ZERO, slot: 0, ready: at, start: at, end: at }
}

/// Writes the job, the ranks and the graph to the journal.
fn record_beginning(
    start: &mut PreparedRun,
    ranks: &[RankInfo],
    members: &[Member],
    divided: &Partition,
) -> Result<(), RunError> {
    let terms = pricing::terms(&start.prepared.job, ranks);
    let began = Began {
        session: start.welcome.session,
        unix_ns: start.welcome.began_unix_ns,
        phalanx: env!("CARGO_PKG_VERSION").to_owned(),
        job_text: start.welcome.job_text.clone(),
        job_path: start.welcome.job_path.clone().into(),
        dir: start.welcome.base_dir.clone().into(),
        ranks: ranks.to_vec(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        kept: start.kept.iter().filter(|run| start.recalled.binary_search(&run.first).is_err()).copied().collect(),
    };
    start.dir.write_job(&start.welcome.job_text)?;
    start.dir.write_continuation(std::env::var(CONTINUE).ok().as_deref())?;
    start.dir.write_launcher(&crate::system::launch::command())?;
    start.journal.append(&Record::Began(began))?;
    // Only now: the journal says that the tasks whose batches are dropped run again.
    start.former_batches.settle().map_err(|error| RunError::Refused(error.to_string()))?;
    if start.welcome.session > 1 {
        start.dir.become_latest(Path::new(RUNS));
    }
    start.journal.append(&Record::Requests(Requests {
        most: members.iter().map(|member| member.memory).max().unwrap_or(0),
        auto: start.welcome.auto_memory.clone(),
        short: start.welcome.short.clone(),
    }))?;
    if !start.prepared.left_out.is_empty() {
        start.journal.append(&Record::LeftOut(LeftOut::of(&start.selection, &start.prepared.left_out)))?;
    }
    if !start.begun.is_empty() {
        start.journal.append(&Record::StillBegun(std::mem::take(&mut start.begun)))?;
    }
    if !start.recalled.is_empty() {
        start.journal.append(&Record::Attempts(start.recalled.iter().map(|task| recalled(*task)).collect()))?;
    }
    let PreparedJob { graph, order, .. } = &start.prepared;
    start.journal.append(&Record::Graph(GraphFacts {
        tasks: graph.task_count() as u32,
        joins: (graph.node_count() - graph.task_count()) as u32,
        edges: graph.edge_count() as u64,
        critical_path_ns: order.critical_path,
        work_ns: order.work,
        cut_edges: divided.cut_edges,
        cut_bytes: divided.cut_bytes,
    }))?;
    if !start.run_again.is_empty() {
        start.journal.append(&Record::RunAgain(std::mem::take(&mut start.run_again)))?;
    }
    if let Some(terms) = terms {
        start.journal.append(&Record::Terms(terms))?;
    }
    // Others can read now what this run writes.
    start.alone = None;
    Ok(())
}
