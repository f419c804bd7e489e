//! Stealing where tasks read, on the disk of their node, what others have written there.

use std::sync::Arc;

use crate::job::Retry;
use crate::model::{Attempt, Outcome, Rank, RankRoom, Shortfalls, TaskId, Time};
use crate::schedule::action::WorkerAction;
use crate::schedule::dependency_counts::CompletionEffects;
use crate::schedule::locality::ReadFiles;
use crate::schedule::protocol::{HandOut, Lease, Load, Message};
use crate::schedule::ranks::Ranks;
use crate::schedule::worker::{Facts, Pace, Worker, WorkerEvent};

/// Task 10 reads what task 0 writes, task 11 what task 1 writes, and so on; each file has so many
/// bytes.
struct Files {
    node: u64,
    bytes: u64,
}

impl Facts for Files {
    fn retry(&self, _: TaskId) -> Retry {
        Retry::NONE
    }

    fn movable(&self, _: TaskId) -> bool {
        true
    }

    fn needs_gang(&self, _: TaskId, _: RankRoom, _: u32) -> bool {
        false
    }

    fn data_node(&self) -> Option<u64> {
        Some(self.node)
    }

    fn is_staged(&self, _: TaskId) -> bool {
        true
    }

    fn reads(&self, task: TaskId) -> Vec<ReadFiles> {
        let writer = task.0.checked_sub(10).map(TaskId);
        writer.map(|writer| ReadFiles { writer, bytes: Some(self.bytes) }).into_iter().collect()
    }
}

/// A rank of two, on which these tasks have completed in 20 ms each.
fn rank(me: u32, facts: Files, done: std::ops::Range<u32>) -> Worker {
    let mut worker = Worker::new(Rank(me), RankRoom::of_slots(1), Arc::new(facts), Pace::default());
    let hand_out = Box::new(HandOut { active: Ranks::first(2), ..HandOut::default() });
    let message = WorkerEvent::Message { from: Rank::ZERO, message: Message::HandOut(hand_out) };
    worker.step(Time::ZERO, message, &mut Vec::new());
    let (start, end) = (Time::ZERO, Time(20_000_000));
    let attempt = |task| Attempt {
        task: TaskId(task),
        attempt: 1,
        outcome: Outcome::OK,
        last: true,
        rank: Rank(me),
        slot: 0,
        ready: start,
        start,
        end,
    };
    let (attempts, effects) = (done.map(attempt).collect(), CompletionEffects::default());
    worker.step(end, WorkerEvent::Completed { attempts, effects }, &mut Vec::new());
    worker
}

fn lease(task: u32) -> Lease {
    let (home, ready, short) = (Rank::ZERO, Time::ZERO, Shortfalls::NONE);
    Lease { task: TaskId(task), home, attempt: 1, urgency: 0, ready, short }
}

/// What rank 0 gives and what it keeps of tasks 10 to 15, if the files of 10 to 12 are there and
/// those of 13 to 15 with rank 1, which asks.
fn stolen(nodes: [u64; 2], bytes: u64) -> (Vec<u32>, Vec<u32>) {
    let now = Time(30_000_000);
    let [mut victim, mut thief] =
        [(0, 0..3), (1, 3..6)].map(|(me, done)| rank(me, Files { node: nodes[me as usize], bytes }, done));
    let mut sent = Vec::new();
    thief.step(now, WorkerEvent::Load(Load { idle: 2, ..Load::default() }), &mut sent);
    thief.step(now.after(std::time::Duration::from_secs(1)), WorkerEvent::Tick, &mut sent);
    let asks = |action: &WorkerAction| match action {
        WorkerAction::Send { to: Rank::ZERO, message: message @ Message::StealNear { .. } } => Some(message.clone()),
        _ => None,
    };
    let message = sent.iter().find_map(asks).expect("it asks for work");
    victim.step(now, WorkerEvent::Load(Load { busy: 1, ready: 6, ..Load::default() }), &mut Vec::new());
    let mut actions = Vec::new();
    victim.step(now, WorkerEvent::Message { from: Rank(1), message }, &mut actions);
    let taken = actions.iter().find_map(|action| match action {
        WorkerAction::Surrender { to: Rank(1), max } => Some(*max),
        _ => None,
    });
    let leases = (10..10 + taken.expect("it gives")).map(lease).collect();
    let (mut given, mut kept) = (Vec::new(), Vec::new());
    actions.clear();
    victim.step(now, WorkerEvent::Surrendered { to: Rank(1), leases }, &mut actions);
    for action in actions {
        match action {
            WorkerAction::Send { message: Message::StealReply { leases, .. }, .. } => {
                given.extend(leases.iter().map(|lease| lease.task.0));
            }
            WorkerAction::StartLease(lease) => kept.push(lease.task.0),
            _ => {}
        }
    }
    (given, kept)
}

#[test]
fn a_thief_gets_the_tasks_whose_files_are_near_it() {
    assert_eq!(stolen([1, 2], 1 << 20), (vec![13, 14], vec![10, 11, 12, 15]));
}

#[test]
fn ranks_of_one_node_need_not_weigh() {
    assert_eq!(stolen([1, 1], 1 << 20), (vec![10, 11], vec![]));
}
