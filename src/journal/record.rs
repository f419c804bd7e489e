//! The records of a journal.
//!
//! A run directory has one journal for all its *sessions* (the first run and each resume). A
//! session starts with [`Record::Began`], which also lists what it takes over from the session
//! before: a single record, so that a kill cannot separate the two and make a later resume lose
//! tasks. Task numbers are those of the session's own job, since the job file may have changed in
//! between. Records never change, and new kinds are added only at the end of [`Record`], so that
//! old journals stay readable.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Attempt, BlockState, RankState, Reason, Shortfalls, TaskId, Time};
use crate::scale::estimate::{Anomaly, Expected, Learnt};
use crate::scale::{Advice, Decision, Effect, NodeTypeId, Prices, SiteView};
use crate::schedule::coordinator::{StopReason, TaskTally};

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A session began. All times up to the next such record count from here.
    Began(Began),
    /// Attempts that ended, and tasks that were skipped.
    Attempts(#[serde(with = "crate::codec::packed")] Vec<Attempt>),
    /// A message for the report.
    Note(Note),
    /// Facts about the job's graph and its partition.
    Graph(GraphFacts),
    /// The session ended.
    Ended(Ended),
    /// The terms of the session.
    Terms(Terms),
    /// A rank joined, left or was parked after the session had begun.
    Rank(RankChange),
    /// A scaling decision.
    Decision(Box<Decision>),
    /// The effect of a scaling decision.
    Effect {
        /// Number of the decision.
        number: u32,
        /// The measured effect.
        effect: Effect,
    },
    /// A block was requested, changed or ended.
    Block(BlockChange),
    /// What the session knows from earlier runs of the job.
    Past(Box<PastRuns>),
    /// Anomalies of the run, compared with earlier runs.
    Unusual(Vec<Anomaly>),
    /// Why Phalanx itself failed attempts. May precede or follow the attempts.
    Reasons(Vec<Reason>),
    /// The tasks that the session leaves out.
    LeftOut(LeftOut),
    /// Why tasks that had completed in an earlier session run again in this one.
    RunAgain(Vec<RunAgain>),
    /// The limit of a pool was changed.
    Limit(LimitChange),
    /// What the pools of the session were used for; recorded at its end.
    Pools(Vec<PoolTotals>),
    /// Tasks were added, or a running attempt offers them.
    Added(TaskAddition),
    /// A run that was open for more tasks was closed.
    Closed(Time),
    /// What attempts at tasks ask for, where that is not in the job file.
    Requests(Requests),
    /// A question to the advisor with its answer, before the decision that follows it.
    Advice(Box<Advice>),
    /// A site was asked for nodes, in a run of a job that has several.
    Site(Box<SiteRequest>),
    /// Tasks that may have begun in earlier sessions without completing, with their numbers in the
    /// previous one. The last attempts of those that the session leaves out, which a record before
    /// says, still hold.
    StillBegun(Vec<KeptRun>),
}

/// The tasks that a session leaves out, as its user has asked for a part of the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The options that say so, such as `--until merge`.
    pub words: String,
    /// The tasks, as ascending ranges of numbers.
    pub tasks: Vec<Range<u32>>,
}

impl LeftOut {
    /// The left-out tasks of a session, given for each task whether it is one.
    pub fn of(words: &str, left_out: &[bool]) -> LeftOut {
        let mut tasks: Vec<Range<u32>> = Vec::new();
        for (task, _) in (0..).zip(left_out).filter(|(_, out)| **out) {
            match tasks.last_mut() {
                Some(range) if range.end == task => range.end += 1,
                _ => tasks.push(task..task + 1),
            }
        }
        LeftOut { words: words.to_owned(), tasks }
    }

    /// Their number.
    pub fn count(&self) -> u32 {
        self.tasks.iter().map(|range| range.end.saturating_sub(range.start)).sum()
    }

    /// True if a task is among them.
    pub fn has(&self, task: TaskId) -> bool {
        let after = self.tasks.partition_point(|range| range.start <= task.0);
        after.checked_sub(1).is_some_and(|at| self.tasks[at].contains(&task.0))
    }
}

/// What the attempts of a session ask for, as far as the job file does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Bytes of memory of the largest rank at the beginning: no attempt asks for more.
    pub most: u64,
    /// What first attempts at tasks with `memory = "auto"` ask for, in bytes by class.
    pub auto: Vec<(String, u64)>,
    /// Tasks of which attempts of earlier sessions fell short of what they needed.
    pub short: Vec<(TaskId, Shortfalls)>,
}

/// Why consecutive tasks, which had completed in an earlier session, run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAgain {
    /// The first of them, in the numbers of the session that runs them again.
    pub first: TaskId,
    /// Their number.
    pub count: u32,
    /// The reason, as the end of a sentence that begins with the task.
    pub why: String,
}

impl RunAgain {
    /// Upper limit on the reasons of a session, so that a journal stays small where each of a
    /// million tasks has a reason of its own.
    pub const MAX_RECORDED: usize = 10_000;

    /// True if this is about the task.
    pub fn covers(&self, task: TaskId) -> bool {
        task.0.checked_sub(self.first.0).is_some_and(|offset| offset < self.count)
    }
}

/// Tasks that are added to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAddition {
    /// When.
    pub time: Time,
    /// The attempt that offers them: they count once it has completed. `None`: a user added them,
    /// and they count at once.
    pub by: Option<Offerer>,
    /// Their tables, as in a job file.
    #[serde(with = "crate::codec::shared_text")]
    pub text: Arc<str>,
}

/// An attempt that offers tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offerer {
    /// Its task.
    pub task: TaskId,
    /// Its number.
    pub attempt: u16,
}

/// A changed limit of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// When.
    pub time: Time,
    /// The pool, or the task whose array has a limit.
    pub pool: String,
    /// Units that may be in use at once; `None`: no limit.
    pub units: Option<u32>,
}

/// What a pool was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolTotals {
    /// The pool, or the task whose array has a limit.
    pub pool: String,
    /// True for a rate of starts, which a pool may have besides its capacity.
    pub is_rate: bool,
    /// True for the limit of an array.
    pub is_array_limit: bool,
    /// Units at the end; `None`: no limit.
    pub capacity: Option<u32>,
    /// Most units in use at once.
    pub peak: u32,
    /// Units that ranks gave back for others.
    pub hand_overs: u64,
    /// Time during which tasks waited for it.
    pub at_limit: Duration,
}

/// What a session knows from earlier runs of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastRuns {
    /// Number of earlier runs.
    pub runs: u32,
    /// Durations learnt from them.
    pub learnt: Vec<Learnt>,
    /// Expected wall time of such a run, if enough earlier runs were similar.
    pub wall: Option<Expected>,
    /// Expected total task time, summed over slots.
    pub work: Option<Expected>,
}

/// The terms of a session: its scaling policy, its prices, and whether it is simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Name of the scaling policy.
    pub policy: String,
    /// Prices of nodes and the budget. Ranks that took part from the start are on nodes of type 0.
    pub prices: Prices,
    /// The simulation, if the session is simulated.
    pub simulated: Option<Simulated>,
}

/// The inputs of a simulated session besides the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// Seed of the random number generator.
    pub seed: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Text of the cluster file; empty if there was none.
    pub text: String,
}

/// A rank's new state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankChange {
    /// When.
    pub time: Time,
    /// The rank, by number, with what it has.
    pub info: RankInfo,
    /// Type of its node.
    pub node_type: NodeTypeId,
    /// Its state from now on.
    pub state: RankState,
    /// When the billing of its node began. If the rank has left by then, billing ends with this
    /// record.
    pub billed_since: Time,
}

/// A block's new state with all that is known of the block so far. Its node is billed from its
/// grant to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockChange {
    /// When.
    pub time: Time,
    /// Its number.
    pub block: u64,
    /// Its state from now on.
    pub state: BlockState,
    /// The provider's name for it (a job, a process); empty until known.
    pub name: String,
    /// Name of its node; empty until it has one.
    pub node: String,
    /// The numbers of its ranks; empty until they have joined.
    pub ranks: Range<u32>,
    /// When it was requested.
    pub asked: Time,
    /// When it got its node, according to the provider.
    pub granted: Option<Time>,
    /// When it released its node, according to the provider.
    pub ended: Option<Time>,
}

/// A request for nodes to one of several sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteRequest {
    /// When.
    pub time: Time,
    /// The place in the job of the site that was asked.
    pub site: u32,
    /// The blocks that were requested, one node each.
    pub blocks: Vec<u64>,
    /// Why, in words.
    pub reason: String,
    /// The sites, in the order in which they are asked.
    pub candidates: Vec<SiteView>,
}

impl SiteRequest {
    /// The site that was asked.
    pub fn asked(&self) -> Option<&SiteView> {
        self.candidates.iter().find(|candidate| candidate.site == self.site)
    }
}

/// How a session began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Began {
    /// 1 for the first session of the run directory.
    pub session: u32,
    /// When, in nanoseconds since 1970 (UTC).
    pub unix_ns: u64,
    /// Version of Phalanx.
    pub phalanx: String,
    /// The job file's text.
    #[serde(with = "crate::codec::shared_text")]
    pub job_text: Arc<str>,
    /// Path of the job file.
    pub job_path: PathBuf,
    /// The directory that Phalanx was started in.
    pub dir: PathBuf,
    /// The ranks that took part from the start, by number.
    pub ranks: Vec<RankInfo>,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// Tasks that completed in the previous session and need not run again.
    pub kept: Vec<KeptRun>,
}

/// A rank, as it was when it joined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankInfo {
    /// Its number.
    pub rank: u32,
    /// Name of its node.
    pub node: String,
    /// Slots that it fills with tasks; 0 for a rank that only coordinates.
    pub slots: u32,
    /// Its process id.
    pub pid: u32,
}

/// Consecutive tasks that were also consecutive in the previous session and keep their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRun {
    /// The first of them.
    pub first: TaskId,
    /// Its number in the previous session.
    pub was: TaskId,
    /// How many.
    pub count: u32,
}

/// Severity of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Information.
    Info,
    /// Something needs attention.
    Warning,
    /// Something failed.
    Error,
}

/// A message for the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub time: Time,
    /// Its severity.
    pub level: Level,
    /// The message.
    pub text: String,
}

/// Facts about the job's graph before it runs; durations are estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GraphFacts {
    /// Number of tasks.
    pub tasks: u32,
    /// Number of joins.
    pub joins: u32,
    /// Number of edges, including those to and from joins.
    pub edges: u64,
    /// Longest chain of tasks, in nanoseconds.
    pub critical_path_ns: u64,
    /// Sum over all tasks of duration times slots, in nanoseconds.
    pub work_ns: u64,
    /// Number of edges between tasks with different homes.
    pub cut_edges: u64,
    /// Bytes on those edges.
    pub cut_bytes: u64,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub time: Time,
    /// Why.
    pub reason: EndReason,
    /// Exit code of Phalanx.
    pub exit_code: i32,
}

impl Ended {
    /// Makes the record for a run that ended for this reason with these task states.
    pub fn of(time: Time, why: &StopReason, tally: &TaskTally) -> Ended {
        // Skipped tasks alone are no failure: the condition they handle did not occur.
        let all_ok = tally.failed + tally.cancelled == 0;
        let (reason, exit_code) = match why {
            StopReason::Complete if all_ok => (EndReason::Complete, 0),
            StopReason::Complete => (EndReason::Failures, 1),
            StopReason::Failures => (EndReason::MaxFailures, 1),
            StopReason::Broken(reason) => (EndReason::Error(reason.clone()), 1),
            StopReason::Budget => (EndReason::Budget, 3),
            StopReason::Walltime => (EndReason::Walltime, 4),
            StopReason::Signal(signal) => (EndReason::Signal(*signal), 128 + signal),
        };
        Ended { time, reason, exit_code }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Every task has completed.
    Complete,
    /// No further task can run, and some tasks failed.
    Failures,
    /// The budget is spent.
    Budget,
    /// The end of the allocation was near.
    Walltime,
    /// This signal requested it.
    Signal(i32),
    /// Phalanx itself failed.
    Error(String),
    /// As many tasks failed as `max_failures` allows.
    MaxFailures,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::any_attempt;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let ranks = prop::collection::vec((any::<u32>(), ".*", any::<u32>(), any::<u32>()), 0..3).prop_map(|ranks| {
            ranks.into_iter().map(|(rank, node, slots, pid)| RankInfo { rank, node, slots, pid }).collect()
        });
        let kept = prop::collection::vec(any::<[u32; 3]>(), 0..5).prop_map(|runs| {
            let run = |[first, was, count]: [u32; 3]| KeptRun { first: TaskId(first), was: TaskId(was), count };
            runs.into_iter().map(run).collect()
        });
        let began =
            (any::<u32>(), any::<u64>(), ".*", ranks, kept).prop_map(|(session, unix_ns, job_text, ranks, kept)| {
                Began {
                    session,
                    unix_ns,
                    phalanx: "1.2.3".into(),
                    job_text: job_text.into(),
                    job_path: "/a/b.toml".into(),
                    dir: "/a".into(),
                    ranks,
                    command: vec!["phalanx".into(), "run".into()],
                    kept,
                }
            });
        let note = (any::<u64>(), ".*").prop_map(|(time, text)| Note { time: Time(time), level: Level::Warning, text });
        prop_oneof![
            began.prop_map(Record::Began),
            prop::collection::vec(any_attempt(), 0..9).prop_map(Record::Attempts),
            note.prop_map(Record::Note),
            any::<i32>().prop_map(|signal| Record::Ended(Ended {
                time: Time(1),
                reason: EndReason::Signal(signal),
                exit_code: 130
            })),
        ]
    }

    #[test]
    fn what_is_left_out_is_kept_as_ranges() {
        let left_out = LeftOut::of("--until b", &[true, true, false, true, false]);
        assert_eq!((left_out.tasks.as_slice(), left_out.count()), (&[0..2, 3..4][..], 3));
        let has: Vec<bool> = (0..5).map(|task| left_out.has(TaskId(task))).collect();
        assert_eq!(has, [true, true, false, true, false]);
    }

    proptest! {
        #[test]
        fn any_record_comes_back(record in any_record()) {
            let bytes = postcard::to_stdvec(&record).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Record>(&bytes).unwrap(), record);
        }

        #[test]
        fn any_payload_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = postcard::from_bytes::<Record>(&bytes);
        }
    }
}
