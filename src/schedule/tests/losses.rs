//! What the coordinator makes of a loss, event by event.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::job::{Job, Terms};
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};
use crate::schedule::coordinator::{Action, Change, Coordinator, Event, Member, Tasks, Why};
use crate::schedule::gang::Shape;
use crate::schedule::protocol::{Lease, Load, Message, Stop};

/// Two ranks with two slots; each task of a chain needs the one before as the conditions say.
fn two_ranks(chain: &[Condition], home: &[u32], gang: Shape) -> Coordinator {
    let link =
        |(from, &on): (u32, &Condition)| Link { from, to: from + 1, shape: LinkShape::All, on, bytes: 0, span: 0..0 };
    let links: Vec<Link> = (0..).zip(chain).map(link).collect();
    let graph = Arc::new(TaskGraph::build(&vec![1; home.len()], &links).expect("a chain"));
    let tasks = home.len();
    let job = Job {
        max_failures: None,
        graph: Arc::clone(&graph),
        retries: vec![0; tasks],
        elsewhere: vec![false; tasks],
        movable: vec![true; tasks],
        gangs: BTreeMap::new(),
        fails: HashSet::new(),
        duration: vec![1; tasks],
        needs: vec![1; tasks],
    };
    let (urgency, advice) = (vec![0; graph.node_count()], Box::new(Terms(Arc::new(job))));
    let members = vec![Member { slots: 2, ..Member::default() }; 2];
    let tasks = Tasks { graph, home: home.to_vec(), urgency, advice };
    Coordinator::new(tasks, &|_| false, members, None, Box::new(move |_| gang))
}

fn step(coordinator: &mut Coordinator, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    coordinator.step(Time(1), event, &mut actions);
    actions
}

fn says(coordinator: &mut Coordinator, from: u32, message: Message) -> Vec<Action> {
    step(coordinator, Event::Message { from: Rank(from), message })
}

/// Rank 1 is lost while rank 0 runs its own tasks.
fn lose(coordinator: &mut Coordinator, kept: &[u32]) -> Vec<Action> {
    step(coordinator, Event::Change { rank: Rank(1), change: Change::Lose });
    let kept = kept.iter().map(|&task| (TaskId(task), 1)).collect();
    says(coordinator, 0, Message::Ack { epoch: 1, kept, lent: Vec::new(), counted: Vec::new() })
}

const ALONE: Shape = Shape { ranks: 1, cpus: 1, per_node: None };

#[test]
fn whether_a_task_failed_or_was_skipped_follows_from_what_it_needs() {
    for (needed, follows) in [(State::Completed, State::Failed), (State::Failed, State::Skipped)] {
        let mut coordinator = two_ranks(&[Condition::Ok, Condition::NotOk], &[1, 1, 0], ALONE);
        lose(&mut coordinator, &[2]);
        assert_eq!(coordinator.final_state(TaskId(1)), None, "it has not completed; nobody knows more");
        let (rank, outcome) = (Rank::ZERO, Outcome { state: needed, exit: 0 });
        let (ready, start, end) = (Time(1), Time(1), Time(1));
        let attempt = Attempt { task: TaskId(0), attempt: 1, outcome, last: true, rank, slot: 0, ready, start, end };
        let report = Message::Report { attempts: vec![attempt], started: Vec::new(), load: Load::default() };
        says(&mut coordinator, 0, report);
        assert_eq!(coordinator.final_state(TaskId(1)), Some(follows));
    }
}

#[test]
fn a_task_that_has_begun_does_not_wait_for_what_runs_again() {
    let mut coordinator = two_ranks(&[Condition::Any], &[1, 1], ALONE);
    let parts = lose(&mut coordinator, &[1]).into_iter().filter_map(|action| match action {
        Action::Send { to: Rank::ZERO, message: Message::HandOut(hand_out) } => Some(hand_out.part),
        _ => None,
    });
    let waits: Vec<Vec<u32>> = parts.map(|part| part.waits().expect("sound")).collect();
    assert_eq!(waits, [[0, 0]], "its end counts when it comes");
}

#[test]
fn slots_of_a_gang_whose_leader_is_lost_during_a_stop_are_free() {
    let lease = Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time(0) };
    let mut coordinator = two_ranks(&[], &[0], Shape { ranks: 4, ..ALONE });
    let leader = Member { slots: 3, ..Member::default() };
    step(&mut coordinator, Event::Change { rank: Rank(2), change: Change::Arrive(leader) });
    for rank in [0, 1] {
        says(
            &mut coordinator,
            rank,
            Message::Ack { epoch: 1, kept: Vec::new(), lent: Vec::new(), counted: Vec::new() },
        );
    }
    says(&mut coordinator, 0, Message::GangReady { lease });
    for rank in [0, 2] {
        says(&mut coordinator, rank, Message::Held { gang: 1, cpus: Vec::new() });
    }
    step(&mut coordinator, Event::Stop { how: Stop::Kill, why: Why::Signal(2) });
    let freed = step(&mut coordinator, Event::Change { rank: Rank(2), change: Change::Lose });
    assert!(freed.contains(&Action::Send { to: Rank(0), message: Message::Release { gang: 1 } }), "{freed:?}");
}
