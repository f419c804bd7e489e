//! The records of a journal.
//!
//! A run directory has one journal for all its *sessions* (the first run and each resume). A session opens with
//! [`Record::Began`], which also says what it takes over from the session before: one record, so that no kill can come
//! between the two and make a later resume forget. Numbers of tasks are those of the session's own job, since the job
//! file may have changed in between. A record is never changed, and new kinds are only added at the end of [`Record`],
//! so that old journals stay readable.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Attempt, BlockState, RankState, Reason, TaskId, Time};
use crate::scale::estimate::{Anomaly, Expected, Learnt};
use crate::scale::{Decision, Effect, NodeTypeId, Prices};
use crate::schedule::coordinator::{StopReason, TaskTally};

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A session began. All times up to the next such record count from here.
    Began(Began),
    /// Attempts that ended, and tasks that were skipped.
    Attempts(#[serde(with = "crate::codec::packed")] Vec<Attempt>),
    /// Something that a person should find in the report.
    Note(Note),
    /// What is known of the job's graph and its partition.
    Graph(GraphFacts),
    /// The session ended.
    Ended(Ended),
    /// On what terms the session runs.
    Terms(Terms),
    /// A rank came, went or paused after the session had begun.
    Rank(RankChange),
    /// A scaling decision.
    Decision(Box<Decision>),
    /// What came of a decision.
    Effect {
        /// Number of the decision.
        number: u32,
        /// What was measured.
        effect: Effect,
    },
    /// A block came, went or changed.
    Block(BlockChange),
    /// What earlier runs of the job have told the session.
    Past(Box<PastRuns>),
    /// What is unusual about the run, against earlier ones.
    Unusual(Vec<Anomaly>),
    /// Why Phalanx itself made attempts fail. They may come before the attempts or after.
    Reasons(Vec<Reason>),
}

/// What earlier runs of a job tell the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastRuns {
    /// How many runs there were.
    pub runs: u32,
    /// Durations that were taken from them.
    pub learnt: Vec<Learnt>,
    /// How long such a run is expected to take, if enough were like it.
    pub wall: Option<Expected>,
    /// How much time in tasks it is expected to bring, summed over slots.
    pub work: Option<Expected>,
}

/// On what terms a session runs: who decides about ranks, what nodes cost, and whether any of it is real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Name of the scaling policy.
    pub policy: String,
    /// What nodes cost, and what may be spent. Ranks that were there from the start are on nodes of type 0.
    pub prices: Prices,
    /// The simulation, if this is one.
    pub simulated: Option<Simulated>,
}

/// What a simulated session followed from, beside the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// The seed.
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
    /// Since when its node is billed; until this record if the rank is gone by it.
    pub billed_since: Time,
}

/// A block's new state, and all that is known of it by then. The bill of its node runs from its grant to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockChange {
    /// When.
    pub time: Time,
    /// Its number.
    pub block: u64,
    /// Its state from now on.
    pub state: BlockState,
    /// What the provider calls it (a job, a process); empty until it does.
    pub name: String,
    /// Its node; empty until it has one.
    pub node: String,
    /// The numbers of its ranks; empty until they have come.
    pub ranks: Range<u32>,
    /// When it was asked for.
    pub asked: Time,
    /// When it got its node, as the provider says.
    pub granted: Option<Time>,
    /// When it gave it back, as the provider says.
    pub ended: Option<Time>,
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
    /// Where the job file was.
    pub job_path: PathBuf,
    /// The directory that Phalanx was started in.
    pub dir: PathBuf,
    /// The ranks that took part from the start, by number.
    pub ranks: Vec<RankInfo>,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// What the session before knew and stays so: the tasks that are complete and need not run again.
    pub kept: Vec<KeptRun>,
}

/// One rank, as it was when it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankInfo {
    /// Its number.
    pub rank: u32,
    /// Name of its node.
    pub node: String,
    /// Slots that it fills with tasks; 0 for one that only coordinates.
    pub slots: u32,
    /// Its process.
    pub pid: u32,
}

/// Consecutive tasks of this session that were consecutive tasks of the session before, too, and keep their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRun {
    /// The first of them.
    pub first: TaskId,
    /// Its number in the session before.
    pub was: TaskId,
    /// How many.
    pub count: u32,
}

/// How grave a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something should be looked at.
    Warning,
    /// Something failed.
    Error,
}

/// Something that a person should find in the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub time: Time,
    /// How grave it is.
    pub level: Level,
    /// The message.
    pub text: String,
}

/// What is known of the job's graph before it runs; durations are estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GraphFacts {
    /// Tasks.
    pub tasks: u32,
    /// Joins.
    pub joins: u32,
    /// Edges, those to and from joins included.
    pub edges: u64,
    /// Longest chain of tasks, in nanoseconds.
    pub critical_path_ns: u64,
    /// Run time times slots, of all tasks together, in nanoseconds.
    pub work_ns: u64,
    /// Edges between tasks with different homes.
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
    /// The end of a run that ended for this reason, with its tasks in these states.
    pub fn of(time: Time, why: &StopReason, tally: &TaskTally) -> Ended {
        // A skipped task alone is no failure: what it was to mend did not happen.
        let all_ok = tally.failed + tally.cancelled == 0;
        let (reason, exit_code) = match why {
            StopReason::Complete if all_ok => (EndReason::Complete, 0),
            StopReason::Complete | StopReason::Failures => (EndReason::Failures, 1),
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
    /// Nothing more can run; some tasks failed.
    Failures,
    /// The budget is spent.
    Budget,
    /// The end of the allocation was near.
    Walltime,
    /// This signal asked for it.
    Signal(i32),
    /// Phalanx itself could not go on.
    Error(String),
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
