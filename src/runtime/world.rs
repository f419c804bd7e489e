//! The handshake of a world: rank 0 says what is to be run, every rank says what it has, and rank 0 hands out the tasks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::crew::{Crew, lock};
use super::engine::Engine;
use super::glue;
use super::head::{Estimate, Head};
use super::start::{Start, estimate_ns, start};
use super::wake::Wake;
use super::walltime::Walltime;
use super::{Finished, Options, RunError, pilot};
use crate::exec::{Kernels, Runner, Site};
use crate::fabric::{Fabric, wire};
use crate::graph::partition::{self, Method, Partition, Problem};
use crate::job::{self, Group, Job};
use crate::journal::{Began, GraphFacts, OutputWriter, RankInfo, Record, RunDir, RunLock};
use crate::model::{Rank, TaskId};
use crate::observe::progress::Progress;
use crate::pool::{Pool, PoolConfig};
use crate::schedule::coordinator::{Coordinator, Member, Why};
use crate::schedule::gang;
use crate::schedule::handout::Cutter;
use crate::schedule::ledger::SPECIAL;
use crate::schedule::protocol::{Hello, Message, Standing, VERSION, Welcome};
use crate::schedule::worker::{Pace, Worker};
use crate::topology::{Place, Topology};

/// How long rank 0 waits for the others to say what they have, and they for it.
const HANDSHAKE: Duration = Duration::from_secs(300);

/// What this process brings to a run.
struct Outfit {
    topology: Topology,
    places: Vec<Place>,
    hello: Hello,
}

impl Outfit {
    fn new(mut topology: Topology, welcome: &Welcome) -> Outfit {
        if welcome.masks.len() > 1 {
            topology.grant.agree(&topology.machine, &welcome.masks);
        }
        let slots = welcome.slots.map(|s| s as usize);
        let places = if welcome.works { topology.places(slots) } else { Vec::new() };
        let hello = Hello {
            version: VERSION,
            node: topology.machine.node.clone(),
            pid: std::process::id(),
            slots: places.len() as u32,
            memory: topology.grant.memory,
            gpus: topology.grant.gpus.len() as u32,
        };
        Outfit { topology, places, hello }
    }
}

/// Rank 0's run.
pub(super) fn lead(
    fabric: &mut Box<dyn Fabric>,
    options: &Options,
    kernels: Kernels,
    wake: Wake,
) -> Result<Finished, RunError> {
    let begun = prepare(fabric.as_mut(), options, &kernels)
        .and_then(|(start, outfit, hellos)| begin(fabric, start, outfit, &hellos, kernels, wake, options));
    match begun {
        Ok(begun) => begun.lead(fabric),
        Err(error) => {
            dismiss(fabric.as_mut());
            Err(error)
        }
    }
}

fn prepare(
    fabric: &mut dyn Fabric,
    options: &Options,
    kernels: &Kernels,
) -> Result<(Start, Outfit, Vec<Hello>), RunError> {
    if options.coordinator_only && fabric.size() < 2 {
        return Err(RunError::Refused(
            "--coordinator-only leaves nobody to run tasks: start more ranks with mpirun, or leave it out".into(),
        ));
    }
    let start = start(options, kernels)?;
    match assemble(fabric, options, &start) {
        Ok((outfit, hellos)) => Ok((start, outfit, hellos)),
        Err(error) => {
            start.take_back();
            Err(error)
        }
    }
}

/// Finds out what every rank has, and whether it is enough.
fn assemble(fabric: &mut dyn Fabric, options: &Options, start: &Start) -> Result<(Outfit, Vec<Hello>), RunError> {
    let topology = Topology::discover();
    let here = (topology.machine.node.clone(), topology.grant.mask.clone());
    let arrived = gather(fabric, here, |message| match message {
        Message::Arrived { node, mask } => Some((node, mask)),
        _ => None,
    })?;
    let welcome = |rank: u32| {
        let node = &arrived[rank as usize].0;
        let masks = arrived.iter().filter(|a| a.0 == *node).map(|a| a.1.clone()).collect();
        Welcome { masks, ..start.welcome.clone() }
    };
    for rank in 1..fabric.size() {
        send(fabric, Rank(rank), &Message::Welcome(Box::new(welcome(rank))))?;
    }
    let mine = Welcome { works: !options.coordinator_only, ..welcome(0) };
    let outfit = Outfit::new(topology, &mine);
    let hellos = gather(fabric, outfit.hello.clone(), |message| match message {
        Message::Hello(hello) => Some(hello),
        _ => None,
    })?;
    check_fits(&start.job, &hellos)?;
    Ok((outfit, hellos))
}

/// Waits until every rank has said one thing.
fn gather<T>(fabric: &mut dyn Fabric, mine: T, pick: impl Fn(Message) -> Option<T>) -> Result<Vec<T>, RunError> {
    let mut said: Vec<Option<T>> = (0..fabric.size()).map(|_| None).collect();
    said[0] = Some(mine);
    let end = Instant::now() + HANDSHAKE;
    while said.iter().any(Option::is_none) {
        match receive(fabric)? {
            Some((from, Message::Broken { reason })) => {
                return Err(RunError::Refused(format!("{from} cannot take part: {reason}")));
            }
            Some((from, message)) => {
                if let Some(picked) = pick(message) {
                    said[from.index()] = Some(picked);
                }
            }
            None if Instant::now() > end => {
                let missing: Vec<String> =
                    (0..said.len()).filter(|&r| said[r].is_none()).map(|r| r.to_string()).collect();
                return Err(RunError::Refused(format!(
                    "ranks {} have not answered for {} s",
                    missing.join(", "),
                    HANDSHAKE.as_secs()
                )));
            }
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    Ok(said.into_iter().flatten().collect())
}

/// Refuses a job with a task that no rank, or for an MPI task no set of ranks, can ever run.
fn check_fits(job: &Job, hellos: &[Hello]) -> Result<(), RunError> {
    let members = members(hellos);
    let misfits: Vec<String> = job
        .groups
        .iter()
        .filter(|group| match group.mpi {
            Some(_) => gang::place(glue::shape(group), &members).is_none(),
            None => !hellos.iter().any(|hello| fits(group, hello)),
        })
        .map(|group| misfit(group, hellos))
        .collect();
    if misfits.is_empty() {
        return Ok(());
    }
    Err(RunError::Refused(misfits.join("\n")))
}

fn fits(group: &Group, hello: &Hello) -> bool {
    hello.slots > 0
        && group.cpus <= hello.slots
        && group.memory.is_none_or(|memory| memory <= hello.memory)
        && group.gpus <= hello.gpus
}

fn misfit(group: &Group, hellos: &[Hello]) -> String {
    let most = |of: fn(&Hello) -> u64| hellos.iter().map(of).max().unwrap_or(0);
    let slots = most(|h| u64::from(h.slots));
    let all: u64 = hellos.iter().map(|h| u64::from(h.slots)).sum();
    let name = &group.name;
    match group.mpi {
        Some(mpi) => format!(
            "task `{name}` needs {} MPI ranks of {} CPUs, but this run has {all} slots on {} ranks: start more ranks, or give each more slots with --slots",
            mpi.ranks,
            group.cpus,
            hellos.len()
        ),
        None => format!(
            "task `{name}` fits on no rank: it asks for {} CPUs, {} MiB of memory and {} GPUs; the most that a rank has is {slots} slots, {} MiB and {} GPUs: lower what it asks for, or start ranks with more (--slots, or the launcher's options)",
            group.cpus,
            group.memory.unwrap_or(0) >> 20,
            group.gpus,
            most(|h| h.memory) >> 20,
            most(|h| u64::from(h.gpus)),
        ),
    }
}

fn members(hellos: &[Hello]) -> Vec<Member> {
    hellos.iter().map(|hello| Member { node: hello.node.clone(), slots: hello.slots }).collect()
}

fn standing(hellos: &[Hello], rank: usize) -> Standing {
    let working = |hellos: &[Hello]| hellos.iter().filter(|h| h.slots > 0).count() as u32;
    Standing { position: working(&hellos[..rank]), workers: working(hellos) }
}

fn divide(start: &Start, hellos: &[Hello]) -> Partition {
    let job = &start.job;
    let slots: Vec<u32> = hellos.iter().map(|h| h.slots).collect();
    let duration = |task: TaskId| estimate_ns(job, task);
    let standings: Vec<Standing> = (0..hellos.len()).map(|rank| standing(hellos, rank)).collect();
    let fitting = |task: TaskId, rank: usize| {
        let group = job.group(task);
        let allowed = group.limit.is_none_or(|limit| standings[rank].share(limit) > 0);
        // An MPI task may have its home anywhere: the coordinator brings its ranks together.
        allowed && (group.mpi.is_some() || fits(group, &hellos[rank]))
    };
    let problem =
        Problem { graph: &start.graph, order: &start.order, duration: &duration, slots: &slots, fits: &fitting };
    let method = match job.partition {
        job::Partition::Bands => Method::Bands,
        job::Partition::Eft => Method::EarliestFinish,
        job::Partition::RoundRobin => Method::RoundRobin,
    };
    partition::partition(&problem, method)
}

/// A run of which every rank has its part.
struct Begun {
    crew: Arc<Crew>,
    pool: Option<Pool<Crew>>,
    dir: RunDir,
    lock: RunLock,
}

fn begin(
    fabric: &mut Box<dyn Fabric>,
    mut start: Start,
    outfit: Outfit,
    hellos: &[Hello],
    kernels: Kernels,
    wake: Wake,
    options: &Options,
) -> Result<Begun, RunError> {
    let divided = divide(&start, hellos);
    remember(&mut start, hellos, &divided)?;
    let mut done = vec![false; start.graph.node_count()];
    for run in &start.kept {
        done[run.first.index()..][..run.count as usize].fill(true);
    }
    let job = Arc::clone(&start.job);
    let mut urgency = partition::urgency(&start.graph, &start.order, &|task| job.group(task).priority);
    for group in job.groups.iter().filter(|group| glue::is_special(group)) {
        urgency[group.first.index()..][..group.count as usize].iter_mut().for_each(|u| *u |= SPECIAL);
    }
    let is_done = |node: u32| done[node as usize];
    let cutter = Cutter::new(&start.graph, &divided.home, &urgency, hellos.len(), &is_done);
    let hand_out = |rank: usize| Message::HandOut {
        epoch: 1,
        part: Box::new(cutter.part(rank)),
        standing: standing(hellos, rank),
    };
    for rank in 1..hellos.len() {
        send(fabric.as_mut(), Rank(rank as u32), &hand_out(rank))?;
    }
    let shapes: Vec<gang::Shape> = job.groups.iter().map(glue::shape).collect();
    let lookup = Arc::clone(&job);
    let coordinator = Coordinator::new(
        start.graph.task_count() as u32,
        &|task| done[task.index()],
        members(hellos),
        job.max_failures,
        Box::new(move |task| shapes[lookup.group_of(task).0 as usize]),
    );
    let lookup = Arc::clone(&job);
    let estimate: Estimate = Arc::new(move |task| estimate_ns(&lookup, task));
    let progress = Progress::new(options.progress, &start.welcome.run_name);
    let walltime = Walltime::from_environment();
    let head = Head::new(coordinator, start.journal, progress, walltime, estimate, hellos.len() as u32);
    let seat = Seat { welcome: start.welcome, job: Arc::clone(&job), outfit };
    let (crew, pool) = seat.take(fabric, Some(head), kernels, wake)?;
    let first = [(Rank::ZERO, hand_out(0))].to_vec();
    {
        let mut engine = lock(&crew.engine);
        let now = crew.clock.now();
        let begun = engine.head().map(|head| head.begin(now)).unwrap_or_default();
        engine.post(&crew, first.into_iter().chain(begun).collect());
    }
    Ok(Begun { crew, pool, dir: start.dir, lock: start.lock })
}

impl Begun {
    /// Leads the run to its end.
    fn lead(self, fabric: &mut Box<dyn Fabric>) -> Result<Finished, RunError> {
        let Begun { crew, pool, dir, lock: held } = self;
        let alone = lock(&crew.engine).is_alone();
        pilot(&crew, alone);
        drop(pool);
        let mut engine = lock(&crew.engine);
        let broken = engine.broken().map(str::to_owned);
        let (back, head) = engine.take_apart();
        *fabric = back;
        let exit_code = head.map_or(1, |mut head| {
            let code = exit_code(&head);
            head.close(crew.clock.now(), code);
            code
        });
        drop(held);
        match broken {
            Some(reason) => Err(RunError::Broken(reason)),
            None => Ok(Finished { exit_code, run_dir: Some(PathBuf::from(dir.path())) }),
        }
    }
}

/// Writes how the session begins.
fn remember(start: &mut Start, hellos: &[Hello], divided: &Partition) -> Result<(), RunError> {
    let info = |(rank, hello): (usize, &Hello)| RankInfo {
        rank: rank as u32,
        node: hello.node.clone(),
        slots: hello.slots,
        pid: hello.pid,
    };
    let began = Began {
        session: start.welcome.session,
        unix_ns: start.welcome.began_unix_ns,
        phalanx: env!("CARGO_PKG_VERSION").to_owned(),
        job_text: start.welcome.job_text.clone(),
        job_path: start.welcome.job_path.clone().into(),
        dir: start.welcome.base_dir.clone().into(),
        ranks: hellos.iter().enumerate().map(info).collect(),
        command: std::env::args().collect(),
        kept: start.kept.clone(),
    };
    start.dir.write_job(&start.welcome.job_text)?;
    start.journal.append(&Record::Began(began))?;
    let graph = &start.graph;
    start.journal.append(&Record::Graph(GraphFacts {
        tasks: graph.task_count() as u32,
        joins: (graph.node_count() - graph.task_count()) as u32,
        edges: graph.edge_count() as u64,
        critical_path_ns: start.order.critical_path,
        work_ns: start.order.work,
        cut_edges: divided.cut_edges,
        cut_bytes: divided.cut_bytes,
    }))?;
    Ok(())
}

fn exit_code(head: &Head) -> i32 {
    let tally = head.tally();
    match head.finished() {
        // A skipped task alone is no failure: what it was to mend did not happen.
        Some(Why::Complete) if tally.failed + tally.cancelled == 0 => 0,
        Some(Why::Complete | Why::Failures) | None => 1,
        Some(Why::Walltime) => 4,
        Some(Why::Signal(signal)) => 128 + signal,
        Some(Why::Broken(_)) => 1,
    }
}

/// Any other rank's run.
pub(super) fn follow(fabric: &mut Box<dyn Fabric>, kernels: Kernels, wake: Wake) -> Result<Finished, RunError> {
    let silent = Finished { exit_code: 0, run_dir: None };
    let topology = Topology::discover();
    let (node, mask) = (topology.machine.node.clone(), topology.grant.mask.clone());
    send(fabric.as_mut(), Rank::ZERO, &Message::Arrived { node, mask })?;
    let Some(welcome) = await_welcome(fabric.as_mut())? else { return Ok(silent) };
    match sit_down(fabric, welcome, topology, kernels, wake) {
        Ok(()) => Ok(silent),
        Err(error) => {
            let reason = error.to_string();
            send(fabric.as_mut(), Rank::ZERO, &Message::Broken { reason })?;
            Err(error)
        }
    }
}

fn sit_down(
    fabric: &mut Box<dyn Fabric>,
    welcome: Welcome,
    topology: Topology,
    kernels: Kernels,
    wake: Wake,
) -> Result<(), RunError> {
    let base = PathBuf::from(&welcome.base_dir);
    let loaded = job::parse(&welcome.job_text, &welcome.job_path, &base, &kernels).map_err(RunError::Job)?;
    let outfit = Outfit::new(topology, &welcome);
    send(fabric.as_mut(), Rank::ZERO, &Message::Hello(outfit.hello.clone()))?;
    let seat = Seat { welcome, job: Arc::new(loaded.job), outfit };
    let (crew, pool) = seat.take(fabric, None, kernels, wake)?;
    pilot(&crew, false);
    drop(pool);
    let (back, _) = lock(&crew.engine).take_apart();
    *fabric = back;
    Ok(())
}

/// A rank that knows what it is to run and what it has.
struct Seat {
    welcome: Welcome,
    job: Arc<Job>,
    outfit: Outfit,
}

impl Seat {
    /// Starts the rank's slots and its engine, which takes the fabric over.
    fn take(
        self,
        fabric: &mut Box<dyn Fabric>,
        head: Option<Head>,
        kernels: Kernels,
        wake: Wake,
    ) -> Result<(Arc<Crew>, Option<Pool<Crew>>), RunError> {
        let Seat { welcome, job, outfit } = self;
        let slots = outfit.places.len();
        let rank = fabric.me();
        let dir = RunDir::open(&PathBuf::from(&welcome.run_dir))?;
        let output = OutputWriter::create(&dir, welcome.session, rank, job.output)
            .map_err(|error| RunError::Refused(error.to_string()))?;
        // Besides the slots, the leaders of MPI tasks have a seat.
        let seats = (2 * slots).max(1) as u16;
        let site = Site::new(welcome.run_name.clone(), rank, outfit.hello.node.clone(), seats);
        let runner = Runner::new(Arc::clone(&job) as Arc<dyn crate::exec::TaskSource>, kernels, site, Arc::new(output))
            .map_err(|error| RunError::Refused(error.to_string()))?;
        let facts = Arc::clone(&job) as Arc<dyn crate::schedule::worker::Facts>;
        let worker = Worker::new(rank, fabric.size(), slots as u32, facts, Pace::default());
        let taken = std::mem::replace(fabric, Box::new(crate::fabric::Alone));
        let engine = Engine::new(taken, worker, head);
        let clock = Clock::new(welcome.began_unix_ns);
        let crew = Arc::new(Crew::new(rank, clock, wake, runner, job, engine, slots));
        lock(&crew.engine).set_crew(&crew);
        if slots == 0 {
            return Ok((crew, None));
        }
        let gpus = (0..outfit.hello.gpus).collect();
        let config = PoolConfig { places: outfit.places, memory: outfit.topology.grant.memory, gpus };
        match Pool::start(config, Arc::clone(&crew)) {
            Ok(pool) => {
                crew.set_pool(pool.handle());
                Ok((crew, Some(pool)))
            }
            Err(error) => {
                *fabric = lock(&crew.engine).take_apart().0;
                Err(RunError::Refused(error.to_string()))
            }
        }
    }
}

/// Waits for what rank 0 has to say; `None` if it says that there is nothing to do.
fn await_welcome(fabric: &mut dyn Fabric) -> Result<Option<Welcome>, RunError> {
    let end = Instant::now() + HANDSHAKE;
    loop {
        match receive(fabric)? {
            Some((_, Message::Welcome(welcome))) => return Ok(Some(*welcome)),
            Some((_, Message::Finish)) => return Ok(None),
            Some(_) => {}
            None if Instant::now() > end => {
                let waited = HANDSHAKE.as_secs();
                return Err(RunError::Refused(format!("rank 0 has said nothing for {waited} s")));
            }
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

/// Tells all other ranks that there will be no run.
fn dismiss(fabric: &mut dyn Fabric) {
    for rank in 1..fabric.size() {
        if let Err(error) = send(fabric, Rank(rank), &Message::Finish) {
            tracing::error!("{error}");
        }
    }
}

fn send(fabric: &mut dyn Fabric, to: Rank, message: &Message) -> Result<(), RunError> {
    Ok(fabric.send(to, wire::encode(message))?)
}

fn receive(fabric: &mut dyn Fabric) -> Result<Option<(Rank, Message)>, RunError> {
    let Some((from, frame)) = fabric.receive()? else { return Ok(None) };
    let message = wire::decode(&frame).map_err(|error| RunError::Refused(format!("{from}: {error}")))?;
    Ok(Some((from, message)))
}

/// Moves what is under way until every frame has left, or `limit` is over.
pub(super) fn settle(fabric: &mut dyn Fabric, limit: Duration) {
    let end = Instant::now() + limit;
    while !fabric.drained() && Instant::now() < end {
        std::thread::sleep(Duration::from_micros(200));
    }
}
