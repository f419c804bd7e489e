//! Jobs for which nodes come and go, and how they went: shared by the tests that need a Slurm.
#![allow(dead_code, reason = "each test program uses a part of it")]

use phalanx::journal::{BlockChange, replay};

use crate::support::checker::{Row, Trace};
use crate::support::slurm::Slurm;
use crate::support::{Dir, phalanx, repository};

/// What differs between jobs.
#[derive(Clone, Copy)]
pub struct Settings {
    pub provider: &'static str,
    pub policy: &'static str,
    /// Further lines of `[capacity]`.
    pub capacity: &'static str,
    /// Further lines of `[cost]`.
    pub cost: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { provider: "slurm", policy: "hybrid", capacity: "", cost: "" }
    }
}

/// So many times a wide phase (`w0`, `w1`, ...) and a narrow one (a chain `n0-0`, `n0-1`, ...), of tasks of a second.
pub fn phased(settings: Settings, wide: u32, narrow: u32, times: u32) -> String {
    let Settings { provider, policy, capacity, cost } = settings;
    let mut job = format!(
        "[job]\nname = \"phases\"\n[capacity]\nprovider = \"{provider}\"\nlisten = \"127.0.0.1\"\n{capacity}\n\
         [scaling]\npolicy = \"{policy}\"\nmax_ranks = 4\ninterval = \"1s\"\n\
         [cost]\nnode_hour = 36.0\nminimum = \"0s\"\n{cost}\n",
    );
    let mut task = |name: &str, more: &str| {
        job += &format!(
            "[[task]]\nname = \"{name}\"\nkernel = \"sleep\"\nargs = {{ seconds = 1 }}\nestimate = \"1s\"\n{more}"
        );
    };
    let mut before = String::new();
    for phase in 0..times {
        if wide > 0 {
            task(&format!("w{phase}"), &format!("array = \"1-{wide}\"\n{before}"));
            before = format!("needs = [\"w{phase}\"]\n");
        }
        for k in 0..narrow {
            task(&format!("n{phase}-{k}"), &before);
            before = format!("needs = [\"n{phase}-{k}\"]\n");
        }
    }
    job
}

/// One wide phase and a narrow one.
pub fn phases(wide: u32, narrow: u32) -> String {
    phased(Settings { capacity: "time = \"10m\"", ..Settings::default() }, wide, narrow, 1)
}

/// Submits the batch script with a job of one slot a node, in the run directory `run`.
pub fn submit(slurm: &Slurm, dir: &Dir, nodes: &str, job: &str) -> u32 {
    dir.job("job.toml", job);
    let script = repository().join("slurm/phalanx.sbatch");
    let script = script.to_str().expect("the repository's path is text");
    slurm.sbatch(dir, [nodes, script, "job.toml", "--slots", "1", "--run-dir", "run"])
}

/// The attempts that the run `run` has recorded so far; none while it has not begun.
pub fn rows(dir: &Dir) -> Vec<Row> {
    let output = phalanx(dir).args(["report", "run", "--tasks"]).run();
    if output.exit() == 0 { Trace::parse(output.stdout()).0 } else { Vec::new() }
}

/// Jobs that run.
pub fn running(slurm: &Slurm) -> usize {
    slurm.squeue().iter().filter(|job| job.state == "RUNNING").count()
}

/// Nodes that nobody holds.
pub fn idle(slurm: &Slurm) -> usize {
    slurm.sinfo().iter().filter(|node| node.1 == "idle").count()
}

/// What the journal of a run says last of each block of its last session.
pub fn blocks(dir: &Dir, run: &str) -> Vec<BlockChange> {
    let replay = replay(&dir.path().join(run).join("journal")).expect("the journal can be read");
    let mut blocks: Vec<BlockChange> = Vec::new();
    for change in replay.last_session().map(|session| session.blocks.clone()).unwrap_or_default() {
        match blocks.iter_mut().find(|block| block.block == change.block) {
            Some(block) => *block = change,
            None => blocks.push(change),
        }
    }
    blocks
}

/// What a run has noted in its last session.
pub fn notes(dir: &Dir, run: &str) -> Vec<String> {
    let replay = replay(&dir.path().join(run).join("journal")).expect("the journal can be read");
    let notes = replay.last_session().map(|session| session.notes.clone()).unwrap_or_default();
    notes.into_iter().map(|note| note.text).collect()
}

/// When a run began, in seconds since 1970.
pub fn began(dir: &Dir, run: &str) -> f64 {
    let replay = replay(&dir.path().join(run).join("journal")).expect("the journal can be read");
    replay.last_session().map_or(0.0, |session| session.began.unix_ns as f64 / 1e9)
}

/// The tasks of one wide phase and a narrow one.
pub fn names(wide: u32, narrow: u32) -> Vec<String> {
    (1..=wide).map(|k| format!("w0[{k}]")).chain((0..narrow).map(|k| format!("n0-{k}"))).collect()
}
