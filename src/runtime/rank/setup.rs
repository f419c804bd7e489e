//! What a rank has and what it is to run, and how its slots and its engine are started from that.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::driving::EngineLock;
use super::engine::Engine;
use super::executor::Executor;
use super::file_link::FileLink;
use super::gangs::HeldGangs;
use super::ledger_epochs::LedgerEpochs;
use super::live_job::LiveJob;
use super::offers::Offers;
use super::output_link::{OutputPlace, OutputReceiver, OutputSender};
use super::passed_files::PassedFiles;
use super::paused_tasks::PausedTasks;
use super::piece_queue::PieceQueue;
use super::resource_monitor::ResourceMonitor;
use super::sent_reports::SentReports;
use super::shared::Shared;
use super::slot_breather::SlotBreather;
use super::telemetry::{OutputFiles, TaskOutput, TelemetryBuffer};
use crate::exec::{self, BATCHES_DIR, FileCarrier, Kernels, RankContext, Runner, TaskSource};
use crate::fabric::{Alone, Fabric};
use crate::job::{Job, SlotRange};
use crate::journal::{OutputWriter, RunDir, UnreportedEnds};
use crate::model::{Rank, RankRoom, has_labels};
use crate::pool::{Pool, PoolConfig, PoolGpu};
use crate::runtime::RunError;
use crate::runtime::clock::Clock;
use crate::runtime::coordinator::driver::CoordinatorDriver;
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{Hello, Welcome};
use crate::schedule::worker::{Facts, Pace, Worker};
use crate::topology::{Gpu, SlotPlace, Topology};

/// The CPUs, memory and GPUs that this process brings to a run.
pub(in crate::runtime) struct RankResources {
    topology: Topology,
    places: Vec<SlotPlace>,
    /// Places of the slots that there may be beside those.
    extra: Vec<SlotPlace>,
    /// Number of ranks of its world on this node.
    ranks_here: usize,
    pub(in crate::runtime) hello: Hello,
}

impl RankResources {
    /// Divides what the launcher granted among the processes of this node, and the rest into slots.
    /// `labels`: those of the command line, beside those of the environment; `range`: the slots
    /// that the job file asks for.
    pub(in crate::runtime) fn new(
        mut topology: Topology,
        welcome: &Welcome,
        labels: &[String],
        range: Option<SlotRange>,
    ) -> RankResources {
        if welcome.masks.len() > 1 {
            topology.grant.agree(&topology.machine, &welcome.masks);
        }
        let range = range.filter(|_| welcome.slots.is_none());
        let cpus = topology.default_slots();
        let least = range.and_then(|range| range.min).map(|count| count.of(cpus));
        let most = range.and_then(|range| range.max).map_or(0, |count| count.of(cpus));
        let places = match welcome.works {
            true => topology.places(welcome.slots.map(|slots| slots as usize).or(least)),
            false => Vec::new(),
        };
        let more = if welcome.works { most.saturating_sub(places.len()) } else { 0 };
        let extra = topology.floating_places(more);
        let hello = Hello {
            node: topology.machine.node.clone(),
            pid: std::process::id(),
            slots: places.len() as u32,
            memory: topology.grant.memory,
            gpus: topology.grant.gpus.list.len() as u32,
            cpus: topology.grant.cpus.clone(),
            labels: crate::topology::labels(labels),
        };
        RankResources { topology, places, extra, ranks_here: welcome.masks.len(), hello }
    }

    /// True if ranks of other nodes take part in a run of so many, or if others may join it.
    pub(in crate::runtime) fn has_other_nodes(&self, is_open: bool, ranks: u32) -> bool {
        is_open || ranks as usize != self.ranks_here
    }
}

/// Everything from which a rank is started.
pub(in crate::runtime) struct RankSetup {
    pub(in crate::runtime) welcome: Welcome,
    pub(in crate::runtime) job: Arc<Job>,
    pub(in crate::runtime) resources: RankResources,
    /// The run directory; `None` if this rank does not see it.
    pub(in crate::runtime) dir: Option<RunDir>,
}

/// How long a rank looks for the run directory on a shared file system.
const RUN_DIR_WAIT: Duration = Duration::from_secs(10);

/// The run directory as another rank than rank 0 sees it: what stands at its path may be another
/// one, so it must have the mark of the session.
pub(in crate::runtime) fn visible_run_dir(welcome: &Welcome) -> Option<RunDir> {
    let path = Path::new(&welcome.run_dir);
    let is_visible = exec::sees(&RunDir::mark_of(path, welcome.began_unix_ns), RUN_DIR_WAIT);
    is_visible.then(|| RunDir::open(path).ok())?
}

/// Refuses a job with tasks that this rank would have to run, and that need the directory of the
/// job, which it does not see; also temporary outputs that ranks of its node keep to themselves.
pub(in crate::runtime) fn check_away(
    job: &Job,
    resources: &RankResources,
    welcome: &Welcome,
    ranks: u32,
) -> Result<(), RunError> {
    let hello = &resources.hello;
    let is_one_node = !resources.has_other_nodes(welcome.open, ranks);
    if is_one_node && job.has_any_temporaries() {
        return Err(RunError::Refused(format!(
            "it does not see the run directory {}, as the other ranks of this node do, and the job has outputs with \
             `keep = false`: start all ranks where they see the same directories",
            welcome.run_dir
        )));
    }
    let here = job.groups.iter().filter(|group| has_labels(&hello.labels, &group.labels));
    let mut tasks = here.filter_map(|group| job.task(group.first).ok());
    let Some(task) = tasks.find(exec::is_bound_to_its_directory) else { return Ok(()) };
    Err(RunError::Refused(format!(
        "it does not see the run directory ({} on {} is another one, or none), and task `{}` reads and writes {} itself: \
         have the node see that directory, add `stage = \"node\"` to the task, or let it ask with `labels` for ranks that do",
        welcome.run_dir,
        hello.node,
        task.name,
        task.dir.display()
    )))
}

impl RankSetup {
    /// Starts the rank's slots and its engine, which takes the fabric over. After an error the
    /// fabric is back in its place.
    pub(in crate::runtime) fn start(
        self,
        fabric: &mut Box<dyn Fabric>,
        coordinator: Option<CoordinatorDriver>,
        kernels: Kernels,
        event_wait: Arc<EventWait>,
    ) -> Result<(Arc<Executor>, Option<Pool<Executor>>), RunError> {
        let RankSetup { welcome, job, resources, dir } = self;
        let slots = resources.places.len();
        let extra = resources.extra.len();
        let me = fabric.me();
        let refused = |error: &dyn std::error::Error| RunError::Refused(error.to_string());
        let gpus = resources.topology.grant.gpus.clone();
        let pool_gpu =
            |gpu: &Gpu| PoolGpu { number: gpu.ordinal, domain: gpu.device.as_ref().and_then(|device| device.domain) };
        let pool_gpus: Vec<_> = gpus.list.iter().map(pool_gpu).collect();
        let devices = gpus.list.iter().filter_map(|gpu| gpu.device.clone()).collect();
        let site =
            RankContext::new(welcome.run_name.clone(), me, resources.hello.node.clone(), (slots + extra).max(1) as u16);
        let run_dir = dir.as_ref().map(|dir| dir.path().to_owned());
        let graphs = run_dir.as_ref().map(|dir| dir.join(BATCHES_DIR));
        let scripts = run_dir.clone().unwrap_or_else(std::env::temp_dir);
        let is_away = dir.is_none();
        let pieces = Arc::<PieceQueue>::default();
        let node = resources.hello.node.clone();
        let files = Arc::new(FileLink::new(me, node, is_away, Arc::clone(&event_wait), Arc::clone(&pieces)));
        let carrier = Some(Arc::clone(&files) as Arc<dyn FileCarrier>);
        let is_shared = resources.has_other_nodes(welcome.open, fabric.size());
        let user_variables = welcome.user_variables.clone();
        let memory = resources.topology.grant.memory;
        let site = RankContext {
            session: welcome.session,
            memory,
            gpus,
            scripts,
            graphs,
            delivered: dir.as_ref().map(RunDir::delivered),
            run_dir,
            is_shared,
            is_away,
            carrier,
            user_variables,
            ..site
        };
        let source = Arc::clone(&job) as Arc<dyn TaskSource>;
        let telemetry = Arc::new(TelemetryBuffer::default());
        let offers = Arc::new(Offers::new(Arc::clone(&telemetry), Arc::clone(&event_wait)));
        let output_files = match &dir {
            Some(dir) => {
                let writer = OutputWriter::create(dir, welcome.session, me, job.output);
                OutputFiles::Here(Box::new(writer.map_err(|error| refused(&error))?))
            }
            None => OutputFiles::AtRankZero(Arc::new(OutputSender::new(Arc::clone(&event_wait)))),
        };
        let output_sender = match &output_files {
            OutputFiles::AtRankZero(sender) => Some(Arc::clone(sender)),
            OutputFiles::Here(_) => None,
        };
        let kept = dir
            .as_ref()
            .filter(|_| me != Rank::ZERO)
            .map(|dir| SentReports::new(UnreportedEnds::new(dir.path(), welcome.began_unix_ns, me), job.flush));
        let place = dir.filter(|_| me == Rank::ZERO).map(|dir| OutputPlace {
            dir,
            session: welcome.session,
            keep: job.output,
            files: Arc::clone(&files),
            lost: Box::new({
                let telemetry = Arc::clone(&telemetry);
                move |error| telemetry.set_storage_lost(error)
            }),
        });
        let passed = PassedFiles::of(&job, &resources.hello.node).filter(|_| is_shared).map(Arc::new);
        let output = TaskOutput {
            files: output_files,
            telemetry: Arc::clone(&telemetry),
            offers: Arc::clone(&offers),
            passed: passed.clone(),
        };
        let runner = Runner::new(source, kernels.clone(), site, Arc::new(output)).map_err(|e| refused(&e))?;
        let runner = Arc::new(runner);
        let job = Arc::new(LiveJob::new(job, &welcome.short).with_passed_files(passed));
        let facts = Arc::clone(&job) as Arc<dyn Facts>;
        let room = RankRoom { slots: slots as u32, memory, gpus: pool_gpus.len() as u32 };
        let worker = Worker::new(me, room, facts, Pace::default()).with_max_failures(welcome.max_failures);
        let (pools, fair) = job.tables();
        let shared = Arc::new(Shared {
            me,
            clock: Clock::new(welcome.began_unix_ns),
            event_wait,
            runner,
            job,
            kernels,
            offers,
            ledgers: LedgerEpochs::new(),
            pool: OnceLock::new(),
            slots: (0..=slots + extra).map(|_| CachePadded::default()).collect(),
            lane: fabric.near(),
            epoch: AtomicU32::new(0),
            has_received_work: AtomicBool::new(false),
            leases: Mutex::default(),
            breather: OnceLock::new(),
            constrained_waiting: AtomicU32::new(0),
            paused: PausedTasks::default(),
            gangs: HeldGangs::new(pieces),
            files,
            output_sender,
            output_receiver: OutputReceiver::new(place),
            stops_by_failures: worker.stops_by_failures(),
            _monitor: ResourceMonitor::start(Arc::clone(&telemetry), fabric.size(), devices),
            telemetry,
        });
        // A rank that sees the directory of the job gets only temporary files from others.
        let start = shared.job.start();
        if start.stages_inputs() && (is_away || is_shared && start.has_any_temporaries()) {
            shared.files.prefetch(&shared.runner, &shared.clock);
        }
        let fabric_of_engine = std::mem::replace(fabric, Box::new(Alone));
        let mut engine = Engine::new(Arc::clone(&shared), fabric_of_engine, worker, coordinator);
        kept.into_iter().for_each(|reports| engine.keep_reports(reports));
        let executor = Arc::new(Executor { shared, engine: EngineLock::new(engine) });
        if slots == 0 {
            return Ok((executor, None));
        }
        // Starving slots drive the engine at once, but must not before tasks can be started.
        let mut engine = executor.engine.lock();
        let (granted, place) = ((resources.topology.grant.cpus.clone(), memory), resources.topology.grant.local_rank);
        let config =
            PoolConfig { places: resources.places, extra: resources.extra, memory, gpus: pool_gpus, pools, fair };
        match Pool::start(config, Arc::clone(&executor)) {
            Ok(pool) => {
                let shared = &executor.shared;
                shared.set_pool(pool.handle());
                if extra > 0 {
                    let (runner, telemetry) = (Arc::clone(&shared.runner), Arc::clone(&shared.telemetry));
                    let work = (pool.handle(), runner);
                    let _ = shared.breather.set(SlotBreather::start(work, (extra, place), granted, telemetry));
                }
                drop(engine);
                Ok((executor, Some(pool)))
            }
            Err(error) => {
                *fabric = engine.take_apart().0;
                Err(refused(&error))
            }
        }
    }
}
