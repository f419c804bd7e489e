//! A rank of a run: what it has, and how its slots and its engine are started.

use std::path::Path;
use std::sync::Arc;

use super::engine::Engine;
use super::executor::{Executor, lock};
use super::resource_monitor::ResourceMonitor;
use super::telemetry::{Sink, TelemetryBuffer};
use crate::exec::{Kernels, Runner, Site, TaskSource};
use crate::fabric::{Alone, Fabric};
use crate::job::Job;
use crate::journal::{OutputWriter, RunDir};
use crate::pool::{Pool, PoolConfig, PoolGpu};
use crate::runtime::RunError;
use crate::runtime::clock::Clock;
use crate::runtime::coordinator::driver::CoordinatorDriver;
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{Hello, Welcome};
use crate::schedule::worker::{Facts, Pace, Worker};
use crate::topology::{Gpu, Place, Topology};

/// What this process brings to a run.
pub(in crate::runtime) struct RankResources {
    topology: Topology,
    places: Vec<Place>,
    pub(in crate::runtime) hello: Hello,
}

impl RankResources {
    pub(in crate::runtime) fn new(mut topology: Topology, welcome: &Welcome) -> RankResources {
        if welcome.masks.len() > 1 {
            topology.grant.agree(&topology.machine, &welcome.masks);
        }
        let slots = welcome.slots.map(|s| s as usize);
        let places = if welcome.works { topology.places(slots) } else { Vec::new() };
        let hello = Hello {
            node: topology.machine.node.clone(),
            pid: std::process::id(),
            slots: places.len() as u32,
            memory: topology.grant.memory,
            gpus: topology.grant.gpus.list.len() as u32,
            cpus: topology.grant.cpus.clone(),
        };
        RankResources { topology, places, hello }
    }
}

/// A rank that knows what it is to run and what it has.
pub(in crate::runtime) struct RankSetup {
    pub(in crate::runtime) welcome: Welcome,
    pub(in crate::runtime) job: Arc<Job>,
    pub(in crate::runtime) resources: RankResources,
}

impl RankSetup {
    /// Starts the rank's slots and its engine, which takes the fabric over. On an error the fabric stays where it is.
    pub(in crate::runtime) fn start(
        self,
        fabric: &mut Box<dyn Fabric>,
        head: Option<CoordinatorDriver>,
        kernels: Kernels,
        wake: Arc<EventWait>,
    ) -> Result<(Arc<Executor>, Option<Pool<Executor>>), RunError> {
        let RankSetup { welcome, job, resources } = self;
        let slots = resources.places.len();
        let rank = fabric.me();
        let refused = |error: &dyn std::error::Error| RunError::Refused(error.to_string());
        let dir = RunDir::open(Path::new(&welcome.run_dir))?;
        let output = OutputWriter::create(&dir, welcome.session, rank, job.output).map_err(|e| refused(&e))?;
        let gpus = resources.topology.grant.gpus.clone();
        let pool_gpu =
            |gpu: &Gpu| PoolGpu { number: gpu.ordinal, domain: gpu.device.as_ref().and_then(|device| device.domain) };
        let pool_gpus = gpus.list.iter().map(pool_gpu).collect();
        let devices = gpus.list.iter().filter_map(|gpu| gpu.device.clone()).collect();
        let site = Site::new(welcome.run_name.clone(), rank, resources.hello.node.clone(), slots.max(1) as u16);
        let graphs = Some(dir.path().join("graphs"));
        let site = Site { gpus, scripts: dir.path().to_owned(), graphs, ..site };
        let source = Arc::clone(&job) as Arc<dyn TaskSource>;
        let mailbox = Arc::new(TelemetryBuffer::default());
        let sink = Sink { output, mailbox: Arc::clone(&mailbox) };
        let runner = Runner::new(source, kernels, site, Arc::new(sink)).map_err(|e| refused(&e))?;
        let gauge = ResourceMonitor::begin(Arc::clone(&mailbox), fabric.size(), devices);
        let facts = Arc::clone(&job) as Arc<dyn Facts>;
        let worker = Worker::new(rank, slots as u32, facts, Pace::default()).with_max_failures(welcome.max_failures);
        let engine = Engine::new(std::mem::replace(fabric, Box::new(Alone)), worker, head);
        let clock = Clock::new(welcome.began_unix_ns);
        let crew = Arc::new(Executor::new(rank, clock, wake, runner, job, engine, slots, (mailbox, gauge)));
        // Slots that starve would drive the engine at once; they must not before the crew knows the pool to start tasks in.
        let mut engine = lock(&crew.engine);
        engine.set_crew(&crew);
        if slots == 0 {
            drop(engine);
            return Ok((crew, None));
        }
        let config = PoolConfig { places: resources.places, memory: resources.topology.grant.memory, gpus: pool_gpus };
        match Pool::start(config, Arc::clone(&crew)) {
            Ok(pool) => {
                crew.set_pool(pool.handle());
                drop(engine);
                Ok((crew, Some(pool)))
            }
            Err(error) => {
                *fabric = engine.take_apart().0;
                Err(refused(&error))
            }
        }
    }
}
