//! Jobs for which nodes come and go, and how they went: shared by the tests that need a Slurm.

use std::collections::HashSet;

use phalanx::journal::{BlockChange, replay};

use crate::support::checker::{Row, Trace};
use crate::support::slurm::Slurm;
use crate::support::{Dir, phalanx, repository, wait_for};

/// What differs between jobs.
#[derive(Clone, Copy)]
pub struct Settings {
    pub provider: &'static str,
    pub policy: &'static str,
    /// Further lines of `[capacity]`.
    pub capacity: &'static str,
    /// Further lines of `[cost]`.
    pub cost: &'static str,
    /// The test says when a phase may end ([`release`]): a narrow one waits for that, a wide one
    /// should have work for minutes.
    pub held: bool,
}

/// Phases that the test ends: none is over before what the test waits for has come about.
pub const HELD: Settings =
    Settings { provider: "slurm", policy: "hybrid", capacity: "time = \"10m\"", cost: "", held: true };

impl Default for Settings {
    fn default() -> Settings {
        Settings { provider: "slurm", policy: "hybrid", capacity: "", cost: "", held: false }
    }
}

/// So many times a wide phase (`w0`, `w1`, ...) and a narrow one (a chain `n0-0`, `n0-1`, ...), of
/// tasks of a second.
pub fn phased(settings: Settings, wide: u32, narrow: u32, times: u32) -> String {
    let Settings { provider, policy, capacity, cost, held } = settings;
    let mut job = format!(
        "[job]\nname = \"phases\"\n[capacity]\nprovider = \"{provider}\"\nlisten = \"127.0.0.1\"\n{capacity}\n\
         [scaling]\npolicy = \"{policy}\"\nmax_ranks = 4\ninterval = \"1s\"\n\
         [cost]\nnode_hour = 36.0\nminimum = \"0s\"\n{cost}\n",
    );
    let mut task = |name: &str, more: &str, command: Option<String>| {
        let what = match command.filter(|_| held) {
            Some(command) => format!("command = \"{command}\""),
            None => "kernel = \"sleep\"\nargs = { seconds = 1 }".into(),
        };
        job += &format!("[[task]]\nname = \"{name}\"\n{what}\nestimate = \"1s\"\n{more}");
    };
    let mut before = String::new();
    for phase in 0..times {
        if wide > 0 {
            let (more, name) = (format!("array = \"1-{wide}\"\n{before}"), format!("w{phase}"));
            // They take as long as is foreseen until the phase may end, and no time from then on:
            // the run stays hungry.
            let command = format!("echo $PHALANX_RANK >> ranks-{phase}; test -e end-{name} || sleep 1");
            task(&name, &more, Some(command));
            before = format!("needs = [\"w{phase}\"]\n");
        }
        for k in 0..narrow {
            let last = format!("until test -e end-n{phase}; do sleep 0.1; done; sleep 1");
            task(&format!("n{phase}-{k}"), &before, (k + 1 == narrow).then_some(last));
            before = format!("needs = [\"n{phase}-{k}\"]\n");
        }
    }
    job
}

/// One wide phase and a narrow one.
pub fn phases(wide: u32, narrow: u32) -> String {
    phased(Settings { held: false, ..HELD }, wide, narrow, 1)
}

/// Waits until this number of ranks works in a wide phase that is held.
#[track_caller]
pub fn widely(dir: &Dir, phase: u32, ranks: usize) {
    let file = format!("ranks-{phase}");
    wait_for("work on all nodes", 180, || {
        let text = dir.has(&file).then(|| dir.read(&file))?;
        (text.lines().collect::<HashSet<_>>().len() == ranks).then_some(())
    });
}

/// Lets a phase that is held (`w0`, `n0`, ...) end.
pub fn release(dir: &Dir, phase: &str) {
    dir.file(&format!("end-{phase}"), "");
}

/// Waits until the run in this directory, which is live, has given back this number of blocks.
#[track_caller]
pub fn given_back(dir: &Dir, count: usize) {
    wait_for("blocks to be given back", 180, || {
        let status = phalanx(dir).args(["status", "run", "--json"]).run().ok().json();
        let released = status["blocks"].as_array()?.iter().filter(|block| block["state"] == "released").count();
        (released == count).then_some(())
    });
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

/// Free nodes.
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
