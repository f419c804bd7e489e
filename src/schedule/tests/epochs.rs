//! What an epoch costs: messages are counted in bytes, as they travel.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::job::{Job, Terms, alone};
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::model::{Rank, Time};
use crate::schedule::coordinator::{Change, Coordinator, CoordinatorAction, CoordinatorEvent, Member, Tasks};
use crate::schedule::pools::table::PoolTable;
use crate::schedule::protocol::{HandOut, Message, Stop};

const RANKS: u32 = 8;

/// Pairs of tasks of which one needs the other, in blocks on eight ranks.
fn pairs(count: u32) -> Coordinator {
    let link = Link { from: 0, to: 1, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 };
    let graph = Arc::new(TaskGraph::build(&[count, count], &[link]).expect("a graph"));
    let tasks = 2 * count as usize;
    let job = Job {
        graph: Arc::clone(&graph),
        counts: vec![count, count],
        retries: vec![0; tasks],
        elsewhere: vec![false; tasks],
        movable: vec![true; tasks],
        gangs: BTreeMap::new(),
        fails: HashSet::new(),
        duration: vec![1; tasks],
        needs: vec![1; tasks],
        max_failures: None,
        pools: Arc::default(),
        pool_resources: PoolTable::default(),
        pool_needs: Vec::new(),
    };
    let home = (0..2 * count).map(|task| task % count * RANKS / count).collect();
    let (urgency, advice) = (vec![0; tasks], Box::new(Terms(Arc::new(job))));
    let tasks = Tasks { graph, home, urgency, advice, pools: Arc::default(), fair: Vec::new() };
    Coordinator::new(tasks, &|_| false, vec![slots(); RANKS as usize], None, Box::new(|_| alone()))
}

fn slots() -> Member {
    Member { slots: 2, ..Member::default() }
}

fn step(coordinator: &mut Coordinator, event: CoordinatorEvent) -> Vec<CoordinatorAction> {
    let mut actions = Vec::new();
    coordinator.step(Time(1), event, &mut actions);
    actions
}

/// All ranks acknowledge a change; returns what each is sent then.
fn change(coordinator: &mut Coordinator, event: CoordinatorEvent) -> Vec<(Rank, Message)> {
    messages(change_actions(coordinator, event))
}

fn change_actions(coordinator: &mut Coordinator, event: CoordinatorEvent) -> Vec<CoordinatorAction> {
    let prepare = step(coordinator, event);
    let asked = prepare.into_iter().filter_map(|action| match action {
        CoordinatorAction::Send { to, message: Message::Prepare { .. } } => Some(to),
        _ => None,
    });
    let mut sent = Vec::new();
    for from in asked.collect::<Vec<Rank>>() {
        let (kept, lent, counted) = (Vec::new(), Vec::new(), Vec::new());
        let message = Message::Ack { epoch: coordinator.epoch(), kept, lent, counted };
        sent.extend(step(coordinator, CoordinatorEvent::Message { from, message }));
    }
    sent
}

fn messages(actions: Vec<CoordinatorAction>) -> Vec<(Rank, Message)> {
    let message = |action| match action {
        CoordinatorAction::Send { to, message } => Some((to, message)),
        _ => None,
    };
    actions.into_iter().filter_map(message).collect()
}

/// What each rank is handed, and how many bytes that takes.
fn hand_outs(sent: &[(Rank, Message)]) -> Vec<(Rank, &HandOut, usize)> {
    let bytes = |message| postcard::to_stdvec(message).expect("encodes").len();
    let mut all = Vec::new();
    for (to, message) in sent {
        if let Message::HandOut(hand_out) = message {
            all.push((*to, &**hand_out, bytes(message)));
        }
    }
    all
}

#[test]
fn an_epoch_costs_bytes_for_what_moves() {
    let count = 40_000;
    let mut coordinator = pairs(count);
    let arrive = |rank| CoordinatorEvent::Change { rank: Rank(rank), change: Change::Arrive(slots()) };
    let sent = change(&mut coordinator, arrive(RANKS));
    for (to, hand_out, bytes) in hand_outs(&sent) {
        let moved = hand_out.amends.as_ref().map_or(0, |amends| amends.gone.len());
        let share = (2 * count / RANKS / (RANKS + 1)) as usize;
        match to.0 == RANKS {
            true => assert!(hand_out.amends.is_none() && hand_out.part.nodes.len().abs_diff(share * 8) < 100),
            false => assert!(
                hand_out.part.nodes.is_empty() && moved.abs_diff(share) < 20 && bytes < 2 * moved + 200,
                "{to}: {moved} of {} move in {bytes} bytes",
                2 * count / RANKS
            ),
        }
    }
    let sent = change(&mut coordinator, CoordinatorEvent::Rebalance);
    for (to, _, bytes) in hand_outs(&sent) {
        assert!(bytes < 200, "{to}: {bytes} bytes for nothing");
    }
}

#[test]
fn a_cancellation_is_told_to_each_rank_once() {
    let mut coordinator = pairs(16);
    let notes = |sent: &[(Rank, Message)]| -> Vec<Rank> {
        sent.iter().filter(|sent| matches!(sent.1, Message::Cancel { .. })).map(|sent| sent.0).collect()
    };
    step(&mut coordinator, CoordinatorEvent::Cancel { tasks: 0..4 });
    let arrive = CoordinatorEvent::Change { rank: Rank(RANKS), change: Change::Arrive(slots()) };
    assert_eq!(notes(&change(&mut coordinator, arrive)), [Rank(RANKS)], "it has not learnt of it");
    assert_eq!(notes(&change(&mut coordinator, CoordinatorEvent::Rebalance)), []);
}

#[test]
fn a_part_that_no_message_holds_moves_nothing_and_stops_the_run() {
    let mut coordinator = pairs(400).with_longest_list(20);
    let lost = CoordinatorEvent::Change { rank: Rank(1), change: Change::Lose };
    let actions = change_actions(&mut coordinator, lost);
    let sent = messages(actions.clone());
    let handed = hand_outs(&sent);
    assert_eq!(handed.len(), RANKS as usize - 1, "nobody stays frozen");
    assert!(handed.iter().all(|(_, hand_out, _)| hand_out.part.nodes.is_empty()), "{handed:?}");
    let notes = actions
        .iter()
        .any(|action| matches!(action, CoordinatorAction::Error(text) if text.contains("--resume on more ranks")));
    assert!(notes && coordinator.is_stopping(), "{actions:?}");
    let stops = sent.iter().filter(|sent| matches!(sent.1, Message::Stop { how: Stop::Drain })).count();
    assert_eq!(stops, RANKS as usize - 1);
}

#[test]
fn ranks_that_arrive_soon_after_a_change_are_handed_tasks_together() {
    let mut coordinator = pairs(1000);
    let mut actions = Vec::new();
    let mut at = |now, event| {
        actions.clear();
        coordinator.step(Time(now), event, &mut actions);
        let prepared =
            actions.iter().any(|a| matches!(a, CoordinatorAction::Send { message: Message::Prepare { .. }, .. }));
        (prepared, coordinator.next_tick())
    };
    let arrive = |rank| CoordinatorEvent::Change { rank: Rank(rank), change: Change::Arrive(slots()) };
    assert_eq!(at(1_000_000, arrive(RANKS)), (true, None), "the first is not kept waiting");
    for from in (0..RANKS).map(Rank) {
        let (kept, lent, counted) = (Vec::new(), Vec::new(), Vec::new());
        at(3_000_000, CoordinatorEvent::Message { from, message: Message::Ack { epoch: 1, kept, lent, counted } });
    }
    // The change took 2 ms, and some time to cut.
    let (prepared, due) = at(4_000_000, arrive(RANKS + 1));
    let due = due.expect("it waits");
    assert!(!prepared && due > Time(5_000_000) && due < Time(6_000_000), "{due:?}");
    assert_eq!(at(4_500_000, arrive(RANKS + 2)), (false, Some(due)));
    assert_eq!(at(due.0 - 1, CoordinatorEvent::Tick), (false, Some(due)));
    assert_eq!(at(due.0, CoordinatorEvent::Tick), (true, None));
}
