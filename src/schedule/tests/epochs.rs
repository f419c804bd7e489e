//! What an epoch costs: messages are counted in bytes, as they travel.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::job::{Job, Terms};
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::model::{Rank, Time};
use crate::schedule::coordinator::{Action, Change, Coordinator, Event, Member, Tasks};
use crate::schedule::gang::Shape;
use crate::schedule::protocol::{HandOut, Message};

const RANKS: u32 = 8;

/// Pairs of tasks of which one needs the other, in blocks on eight ranks.
fn pairs(count: u32) -> Coordinator {
    let link = Link { from: 0, to: 1, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 };
    let graph = Arc::new(TaskGraph::build(&[count, count], &[link]).expect("a graph"));
    let tasks = 2 * count as usize;
    let job = Job {
        graph: Arc::clone(&graph),
        retries: vec![0; tasks],
        elsewhere: vec![false; tasks],
        movable: vec![true; tasks],
        gangs: BTreeMap::new(),
        fails: HashSet::new(),
        duration: vec![1; tasks],
        needs: vec![1; tasks],
        max_failures: None,
    };
    let home = (0..2 * count).map(|task| task % count * RANKS / count).collect();
    let (urgency, advice) = (vec![0; tasks], Box::new(Terms(Arc::new(job))));
    let tasks = Tasks { graph, home, urgency, advice };
    let alone = Shape { ranks: 1, cpus: 1, per_node: None };
    Coordinator::new(tasks, &|_| false, vec![slots(); RANKS as usize], None, Box::new(move |_| alone))
}

fn slots() -> Member {
    Member { slots: 2, ..Member::default() }
}

fn step(coordinator: &mut Coordinator, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    coordinator.step(Time(1), event, &mut actions);
    actions
}

/// All ranks acknowledge a change; returns what each is sent then.
fn change(coordinator: &mut Coordinator, event: Event) -> Vec<(Rank, Message)> {
    let prepare = step(coordinator, event);
    let asked = prepare.into_iter().filter_map(|action| match action {
        Action::Send { to, message: Message::Prepare { .. } } => Some(to),
        _ => None,
    });
    let mut sent = Vec::new();
    for from in asked.collect::<Vec<Rank>>() {
        let (kept, lent, counted) = (Vec::new(), Vec::new(), Vec::new());
        let message = Message::Ack { epoch: coordinator.epoch(), kept, lent, counted };
        sent.extend(step(coordinator, Event::Message { from, message }));
    }
    let message = |action| match action {
        Action::Send { to, message } => Some((to, message)),
        _ => None,
    };
    sent.into_iter().filter_map(message).collect()
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
    let arrive = |rank| Event::Change { rank: Rank(rank), change: Change::Arrive(slots()) };
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
    let sent = change(&mut coordinator, Event::Rebalance);
    for (to, _, bytes) in hand_outs(&sent) {
        assert!(bytes < 200, "{to}: {bytes} bytes for nothing");
    }
}

#[test]
fn a_cancellation_is_told_to_each_rank_once() {
    let mut coordinator = pairs(16);
    let told = |sent: &[(Rank, Message)]| -> Vec<Rank> {
        sent.iter().filter(|sent| matches!(sent.1, Message::Cancel { .. })).map(|sent| sent.0).collect()
    };
    step(&mut coordinator, Event::Cancel { tasks: 0..4 });
    let arrive = Event::Change { rank: Rank(RANKS), change: Change::Arrive(slots()) };
    assert_eq!(told(&change(&mut coordinator, arrive)), [Rank(RANKS)], "it has not heard of it");
    assert_eq!(told(&change(&mut coordinator, Event::Rebalance)), []);
}
