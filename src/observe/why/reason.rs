//! Why a task is in its state: one type with all reasons, and each in words.
//!
//! A part of Phalanx that can make a task wait, run again or not run at all has its variants here.
//! `waits` finds the reasons of tasks that have not started, `ends` those of tasks that have.

use serde::Serialize;

use crate::observe::style::bytes;
use crate::text::{counted, counted_are, seconds};

/// A reason. In JSON its kind is the field `reason`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum TaskReason {
    /// A task that it needs has not ended.
    Needs {
        /// The needed task.
        task: String,
        /// What is required of it: `complete`, `fail` or `end`.
        must: &'static str,
        /// Its state.
        state: &'static str,
        /// How long it has been running, in seconds, if it is known to run.
        running_s: Option<f64>,
    },
    /// Further tasks that it needs have not ended.
    NeedsMore {
        /// Their number.
        tasks: u64,
    },
    /// It failed, and another attempt follows.
    Retry {
        /// Number of the next attempt.
        attempt: u16,
        /// Attempts that remain, this one included.
        left: u16,
        /// Time until then in seconds; 0 if that has passed.
        in_s: f64,
    },
    /// As many tasks of its family run as may.
    Limit {
        /// Name of the family.
        family: String,
        /// The limit.
        limit: u32,
        /// Those known to run.
        running: u32,
        /// Those that have not ended, the running ones included.
        open: u32,
    },
    /// It has been paused.
    Paused,
    /// A pool has too few units left.
    Pool {
        /// The pool, what is in use of it, and by whom.
        pool: String,
    },
    /// No rank has what it asks for.
    NoRank {
        /// What it asks for.
        wanted: String,
        /// Requested nodes that have not arrived.
        nodes_coming: u32,
    },
    /// No rank has the labels that it asks for.
    Labels {
        /// The labels.
        labels: Vec<String>,
        /// Requested nodes that have not arrived.
        nodes_coming: u32,
    },
    /// It needs several ranks at once, which are collected for one such task at a time.
    Gang {
        /// What it asks for.
        wanted: String,
    },
    /// It needs more ranks at once than take part.
    GangRoom {
        /// What it asks for.
        wanted: String,
        /// For how many of its MPI ranks there is room.
        room: u32,
        /// Requested nodes that have not arrived.
        nodes_coming: u32,
    },
    /// The memory of its rank is taken.
    Memory {
        /// The rank.
        rank: u32,
        /// Its node.
        node: String,
        /// Bytes that it asks for.
        wanted: u64,
        /// Bytes that running tasks have taken.
        taken: u64,
        /// Bytes that the rank has.
        has: u64,
    },
    /// The GPUs of its rank are taken.
    Gpus {
        /// The rank.
        rank: u32,
        /// Its node.
        node: String,
        /// GPUs that it asks for.
        wanted: u32,
        /// GPUs that running tasks have taken.
        taken: u32,
        /// GPUs that the rank has.
        has: u32,
    },
    /// The slots of its rank are busy.
    Slots {
        /// The rank.
        rank: u32,
        /// Its node.
        node: String,
        /// Slots that it needs at once.
        wanted: u32,
        /// Slots without work.
        idle: u32,
        /// Slots of the rank.
        has: u32,
        /// Ready tasks at home there.
        ready: u32,
        /// Busy slots of which it is not known what they run: tasks that started within the last
        /// second.
        unnamed: u32,
    },
    /// Only some ranks have what it asks for.
    Placement {
        /// Number of such ranks.
        able: u32,
        /// Number of ranks that take part.
        ranks: u32,
        /// What it asks for.
        wanted: String,
    },
    /// Nothing holds it up: it starts now, or has started within the last second.
    Starts {
        /// Its rank.
        rank: u32,
        /// The node of the rank.
        node: String,
    },
    /// It has run for less than a second, so it is not known where.
    JustStarted,
    /// It has not ended, but this task has ended in a way that lets it never start.
    WillBeSkipped {
        /// The task.
        task: String,
        /// Its state.
        state: &'static str,
    },
    /// It was cancelled, and ends when what it needs has ended.
    WillBeCancelled,
    /// Rank 0 cannot be asked from here.
    NotKnown,
    /// The user asked for a part of the job without it.
    LeftOut {
        /// The options that say so.
        words: String,
    },
    /// The run is stopping and starts nothing more.
    Stopping,
    /// The run ended first.
    RunEnded {
        /// How it ended.
        how: String,
    },
    /// It was cancelled.
    Cancelled {
        /// By whom, in the words of the journal.
        how: String,
    },
    /// It was skipped because of these tasks: each is the one that the task before it needed.
    Because {
        /// The tasks with their states; the last one is the cause.
        chain: Vec<NamedState>,
    },
    /// An earlier session of the run had completed it.
    TakenOver {
        /// That session.
        session: u32,
    },
    /// It had completed, and ran again.
    RunAgain {
        /// The session that ran it again.
        session: u32,
        /// Why, as the end of a sentence that begins with the task.
        why: String,
    },
    /// Why Phalanx itself failed an attempt.
    Failed {
        /// The reason.
        why: String,
    },
    /// An attempt that was not the last one.
    RanBefore {
        /// Number of the attempt.
        attempt: u16,
        /// How it ended.
        how: String,
        /// Where it ran.
        node: String,
        /// How long, in seconds.
        ran_s: f64,
        /// Why Phalanx itself ended it, if it did.
        why: Option<String>,
    },
    /// It failed, and no attempt is left.
    NoAttemptLeft {
        /// Attempts that were made.
        attempts: u16,
    },
    /// Where its result came from the cache, or why the task ran instead.
    Cache {
        /// What the cache did.
        text: String,
    },
    /// A known cause of such a failure, and what helps.
    Hint {
        /// What helps.
        text: String,
    },
}

/// A task with its state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedState {
    /// The task.
    pub task: String,
    /// Its state.
    pub state: &'static str,
}

impl TaskReason {
    /// The reason as a sentence without its end.
    pub fn text(&self) -> String {
        use TaskReason::*;
        match self {
            Needs { task, must, state, running_s } => {
                let since = running_s.map(|s| format!(" for {}", seconds(s))).unwrap_or_default();
                format!("waits for {task}, which must {must} and is {state}{since}")
            }
            NeedsMore { tasks } => format!("and for {}", counted(*tasks, "further task")),
            Retry { attempt, left, in_s } => {
                let left = if *left == 1 { "the last one".to_owned() } else { format!("{left} are left") };
                match in_s {
                    s if *s > 0.0 => format!("attempt {attempt} follows in {} ({left})", seconds(*s)),
                    _ => format!("attempt {attempt} follows as soon as it finds a place ({left})"),
                }
            }
            Limit { family, limit, running, open } => {
                let verb = if *running == 1 { "runs" } else { "run" };
                let most = counted(*limit, "task");
                format!("at most {most} of {family} at once: {running} {verb} of {open} that have not ended")
            }
            Paused => "it is paused: `phalanx resume RUN TASK` lets it start".to_owned(),
            Pool { pool } => format!("waits for {pool}"),
            NoRank { wanted, nodes_coming } => {
                format!("no rank that takes part has {wanted}{}", requested(*nodes_coming))
            }
            Labels { labels, nodes_coming } => format!(
                "waits for a rank with {}, and none that takes part has {}{}",
                label_words(labels),
                if labels.len() == 1 { "it" } else { "all of them" },
                requested(*nodes_coming)
            ),
            Gang { wanted } => {
                format!("needs {wanted} on several ranks at once: waits until these have room for it")
            }
            GangRoom { wanted, room, nodes_coming } => format!(
                "waits for further ranks: it needs {wanted}, and those that take part have room for {}{}",
                counted(*room, "MPI rank"),
                requested(*nodes_coming)
            ),
            Memory { rank, node, wanted, taken, has } => format!(
                "waits for {} of memory on rank {rank} ({node}): {} of {} are taken",
                bytes(*wanted),
                bytes(*taken),
                bytes(*has)
            ),
            Gpus { rank, node, wanted, taken, has } => {
                format!("waits for {} of rank {rank} ({node}): {taken} of {has} are taken", counted(*wanted, "GPU"))
            }
            Slots { rank, node, wanted, idle, has, ready, unnamed } => {
                let queue = if *ready > 1 { format!("; {ready} tasks are ready there") } else { String::new() };
                let busy = has.saturating_sub(*idle);
                let what = counted(*wanted, "slot");
                let maybe = match unnamed {
                    0 => String::new(),
                    1 => "; one of them with a task that started within the last second, maybe this one".to_owned(),
                    n => format!("; {n} of them with tasks that started within the last second, maybe this one"),
                };
                format!("waits for {what} of rank {rank} ({node}): {busy} of {has} are busy{maybe}{queue}")
            }
            Placement { able, ranks, wanted } => {
                let (has, of) = (if *able == 1 { "has" } else { "have" }, counted(*ranks, "rank"));
                format!("only {able} of {of} {has} {wanted}")
            }
            Starts { rank, node } => {
                format!("rank {rank} ({node}) has room: it starts now, or has run for less than a second")
            }
            JustStarted => "has run for less than a second".to_owned(),
            WillBeSkipped { task, state } => {
                format!("will be skipped: {task} was {state}; it counts as SKIPPED once what it needs has ended")
            }
            WillBeCancelled => "is cancelled: it counts as CANCELLED once what it needs has ended".to_owned(),
            NotKnown => "rank 0 cannot be reached from here, so what it waits for is not known".to_owned(),
            LeftOut { words } => format!("left out of the last session by {words}; --resume without that runs it"),
            Stopping => "the run is stopping and starts nothing more; --resume runs it".to_owned(),
            RunEnded { how } => format!("the run ended first: {how}; --resume runs it"),
            Cancelled { how } => how.clone(),
            Because { chain } => {
                let links = chain.iter().map(|link| format!("{} ({})", link.task, link.state));
                format!("because of {}", links.collect::<Vec<_>>().join(", which needed "))
            }
            TakenOver { session } => format!("completed in session {session}; the resumed run did not run it again"),
            RunAgain { session, why } => {
                let it = if why.starts_with("its ") { "" } else { "it " };
                format!("had completed before session {session}, which ran it again: {it}{why}")
            }
            Failed { why } => format!("reason: {why}"),
            RanBefore { attempt, how, node, ran_s, why } => {
                let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                format!(
                    "attempt {attempt} ended after {} on {node}: {how}{why}; another attempt was due",
                    seconds(*ran_s)
                )
            }
            NoAttemptLeft { attempts: 1 } => "no further attempt: the job file gives it no `retries`".to_owned(),
            NoAttemptLeft { attempts } => format!("no further attempt: all {attempts} have failed"),
            Cache { text } => format!("cache: {text}"),
            Hint { text } => format!("hint: {text}"),
        }
    }
}

/// The labels `a` and `b` in words.
pub(super) fn label_words(labels: &[String]) -> String {
    format!("the label{} {}", if labels.len() == 1 { "" } else { "s" }, labels.join(" and "))
}

/// The end of a sentence: requested nodes that have not arrived.
fn requested(nodes: u32) -> String {
    if nodes == 0 { String::new() } else { format!("; {} requested", counted_are(nodes, "node")) }
}
