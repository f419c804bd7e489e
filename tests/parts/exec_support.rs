//! What the tests and the benchmark of `exec` share: tasks without a job file, and a sink that
//! keeps everything in memory.
#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phalanx::exec::{ExecContext, Kernels, OutputSink, RankContext, Runner, Stream, TaskSource};
use phalanx::graph::link::GroupId;
use phalanx::job::{Group, Retry, Task, Work};
use phalanx::model::{Outcome, Rank, Shortfalls, TaskId};

/// A group of one task or of many equal ones.
pub struct Spec {
    pub group: Group,
    pub task: Task,
    pub constant: bool,
}

impl Spec {
    pub fn new(work: Work) -> Spec {
        let group = Group {
            name: "t".into(),
            first: TaskId(0),
            count: 1,
            indexed: false,
            limit: None,
            share: None,
            batch: 1,
            pools: Box::default(),
            cpus: 1,
            memory: None,
            gpus: 0,
            labels: Default::default(),
            time: None,
            retry: Retry::NONE.into(),
            priority: 0,
            estimate: None,
            class: "t".into(),
            mpi: None,
            is_divided: false,
        };
        let task = Task {
            id: TaskId(0),
            name: "t".to_owned(),
            index: None,
            work,
            stdin: None,
            stdout: None,
            stderr: None,
            dir: std::env::current_dir().unwrap(),
            env: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            required: Vec::new(),
            promised: Vec::new(),
            shell: None,
            temporary: Vec::new(),
            keeps_background: false,
            is_staged: false,
            cache: None,
            container: None,
        };
        Spec { group, task, constant: false }
    }

    pub fn shell(line: &str) -> Spec {
        Spec::new(Work::Shell(line.to_owned()))
    }

    pub fn command(words: &[&str]) -> Spec {
        Spec::new(Work::Command(words.iter().map(|w| (*w).to_owned()).collect()))
    }

    pub fn kernel(name: &str, args: &str) -> Spec {
        Spec::new(Work::Kernel { name: name.to_owned(), args: args.parse().unwrap() })
    }

    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Spec {
        self.task.dir = dir.into();
        self
    }

    pub fn time(mut self, limit: Duration) -> Spec {
        self.group.time = Some(limit);
        self
    }

    pub fn memory(mut self, bytes: u64) -> Spec {
        self.group.memory = Some(bytes);
        self
    }

    pub fn batch(mut self, tasks: u32) -> Spec {
        self.group.batch = tasks;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Spec {
        self.task.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An array of `count` tasks that are all the same.
    pub fn array(mut self, count: u32) -> Spec {
        self.group.count = count;
        self.group.indexed = true;
        self.constant = true;
        self
    }
}

/// A job made of specs.
#[derive(Default)]
pub struct Job {
    groups: Vec<Group>,
    specs: Vec<Spec>,
    pub env: Vec<(String, String)>,
    pub prologue: Vec<String>,
}

impl Job {
    pub fn new(specs: impl IntoIterator<Item = Spec>) -> Job {
        let mut job = Job::default();
        let mut next = 0;
        for mut spec in specs {
            spec.group.first = TaskId(next);
            next += spec.group.count;
            job.groups.push(spec.group.clone());
            job.specs.push(spec);
        }
        job
    }

    fn of(&self, id: TaskId) -> Option<&Spec> {
        self.specs.iter().zip(&self.groups).rev().find(|(_, g)| g.first <= id).map(|(spec, _)| spec)
    }
}

impl TaskSource for Job {
    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn task(&self, id: TaskId) -> Result<Task, String> {
        let spec = self.of(id).ok_or("no such task")?;
        Ok(Task { id, index: self.index(id), ..spec.task.clone() })
    }

    fn index(&self, id: TaskId) -> Option<u64> {
        let group = &self.of(id)?.group;
        group.indexed.then(|| u64::from(id.0 - group.first.0))
    }

    fn constant(&self, group: GroupId) -> bool {
        self.specs[group as usize].constant
    }

    fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn prologues(&self) -> Vec<&[String]> {
        vec![&self.prologue]
    }
}

/// Keeps what tasks print.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<(TaskId, Stream), Vec<u8>>>, Mutex<Vec<(TaskId, Outcome)>>);

impl Memory {
    /// The attempts that have ended, and how.
    pub fn finished(&self) -> Vec<(TaskId, Outcome)> {
        self.1.lock().unwrap().clone()
    }

    pub fn bytes(&self, task: u32, stream: Stream) -> Vec<u8> {
        self.0.lock().unwrap().get(&(TaskId(task), stream)).cloned().unwrap_or_default()
    }

    pub fn out(&self, task: u32) -> String {
        String::from_utf8(self.bytes(task, Stream::Out)).unwrap()
    }

    pub fn err(&self, task: u32) -> String {
        String::from_utf8(self.bytes(task, Stream::Err)).unwrap()
    }
}

impl OutputSink for Memory {
    fn append(&self, task: TaskId, _: u16, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().entry((task, stream)).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&self, task: TaskId, _: u16, outcome: Outcome) -> io::Result<()> {
        self.1.lock().unwrap().push((task, outcome));
        Ok(())
    }
}

/// A runner with two slots, and what its tasks print.
pub struct Bench {
    pub runner: Runner,
    pub sink: Arc<Memory>,
}

pub fn site() -> RankContext {
    RankContext { grace: Duration::from_millis(500), ..RankContext::new("test-1", Rank(3), "here", 2) }
}

pub fn bench(job: Job) -> Bench {
    bench_with(job, Kernels::builtin(), site())
}

pub fn bench_with(job: Job, kernels: Kernels, site: RankContext) -> Bench {
    let sink = Arc::new(Memory::default());
    Bench { runner: Runner::new(Arc::new(job), kernels, site, sink.clone()).unwrap(), sink }
}

pub fn pool() -> Arc<rayon::ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap())
}

pub fn seat(slot: u16) -> ExecContext<'static> {
    ExecContext {
        peers: None,
        slot,
        attempt: 1,
        short: Shortfalls::NONE,
        cpus: &[],
        numa: None,
        gpus: &[],
        hosts: &[],
        rayon: &pool,
    }
}

impl Bench {
    pub fn run(&self, task: u32) -> Outcome {
        self.runner.run(TaskId(task), &seat(0))
    }
}

/// Runs one task on its own.
pub fn once(spec: Spec) -> (Outcome, String, String) {
    let bench = bench(Job::new([spec]));
    let outcome = bench.run(0);
    (outcome, bench.sink.out(0), bench.sink.err(0))
}
