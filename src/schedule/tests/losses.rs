//! What the coordinator makes of a loss, event by event.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::job::{Job, Terms, alone, mpi_task};
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::model::{Attempt, Labels, Outcome, Rank, RankRoom, SetAside, Shortfalls, State, TaskId, Time};
use crate::schedule::coordinator::{
    Change, Coordinator, CoordinatorAction, CoordinatorEvent, Member, StopReason, Tasks,
};
use crate::schedule::dependency_counts::End;
use crate::schedule::gang::Shape;
use crate::schedule::pools::table::PoolTable;
use crate::schedule::protocol::{HandOut, Lease, Load, Message, Stop};
use crate::schedule::worker::{self, Pace, Worker};

/// Two ranks with two slots; each task of a chain needs the one before as the conditions say.
fn two_ranks(chain: &[Condition], home: &[u32], gang: Shape) -> Coordinator {
    let link =
        |(from, &on): (u32, &Condition)| Link { from, to: from + 1, shape: LinkShape::All, on, bytes: 0, span: 0..0 };
    let links: Vec<Link> = (0..).zip(chain).map(link).collect();
    let graph = Arc::new(TaskGraph::build(&vec![1; home.len()], &links).expect("a chain"));
    let tasks = home.len();
    let job = Job { graph: Arc::clone(&graph), ..plain_job(tasks) };
    let (urgency, advice) = (vec![0; graph.node_count()], Box::new(Terms(Arc::new(job))));
    let members = vec![Member { slots: 2, ..Member::default() }; 2];
    let tasks = Tasks { graph, home: home.to_vec(), urgency, advice, pools: Arc::default(), fair: Vec::new() };
    Coordinator::new(tasks, &|_| false, members, None, Box::new(move |_| gang.clone()))
}

fn plain_job(tasks: usize) -> Job {
    Job {
        max_failures: None,
        graph: Arc::new(TaskGraph::build(&[tasks as u32], &[]).expect("no edges")),
        counts: Vec::new(),
        retries: vec![0; tasks],
        elsewhere: vec![false; tasks],
        movable: vec![true; tasks],
        gangs: BTreeMap::new(),
        fails: HashSet::new(),
        duration: vec![1; tasks],
        needs: vec![1; tasks],
        pools: Arc::default(),
        pool_resources: PoolTable::default(),
        pool_needs: Vec::new(),
    }
}

fn step(coordinator: &mut Coordinator, event: CoordinatorEvent) -> Vec<CoordinatorAction> {
    let mut actions = Vec::new();
    coordinator.step(Time(1), event, &mut actions);
    actions
}

fn says(coordinator: &mut Coordinator, from: u32, message: Message) -> Vec<CoordinatorAction> {
    step(coordinator, CoordinatorEvent::Message { from: Rank(from), message })
}

/// Rank 1 is lost while rank 0 runs its own tasks.
fn lose(coordinator: &mut Coordinator, kept: &[u32]) -> Vec<CoordinatorAction> {
    step(coordinator, CoordinatorEvent::Change { rank: Rank(1), change: Change::Lose });
    let kept = kept.iter().map(|&task| (TaskId(task), 1)).collect();
    says(coordinator, 0, Message::Ack { epoch: 1, kept, lent: Vec::new(), counted: Vec::new() })
}

#[test]
fn whether_a_task_failed_or_was_skipped_follows_from_what_it_needs() {
    for (needed, follows) in [(State::Completed, State::Failed), (State::Failed, State::Skipped)] {
        let mut coordinator = two_ranks(&[Condition::Ok, Condition::NotOk], &[1, 1, 0], alone());
        lose(&mut coordinator, &[2]);
        assert_eq!(coordinator.final_state(TaskId(1)), None, "it has not completed; nobody knows more");
        let (rank, outcome) = (Rank::ZERO, Outcome { state: needed, exit: 0, cached: false });
        let (ready, start, end) = (Time(1), Time(1), Time(1));
        let attempt = Attempt { task: TaskId(0), attempt: 1, outcome, last: true, rank, slot: 0, ready, start, end };
        let report = Message::Report { attempts: vec![attempt], started: Vec::new(), load: Load::default() };
        says(&mut coordinator, 0, report);
        assert_eq!(coordinator.final_state(TaskId(1)), Some(follows));
    }
}

#[test]
fn a_task_that_has_begun_does_not_wait_for_what_runs_again() {
    let mut coordinator = two_ranks(&[Condition::Any], &[1, 1], alone());
    let parts = lose(&mut coordinator, &[1]).into_iter().filter_map(|action| match action {
        CoordinatorAction::Send { to: Rank::ZERO, message: Message::HandOut(hand_out) } => Some(hand_out.part),
        _ => None,
    });
    let waits: Vec<Vec<u32>> = parts.map(|part| part.waits().expect("sound")).collect();
    assert_eq!(waits, [[0, 0]], "its end counts when it comes");
}

#[test]
fn slots_of_a_gang_whose_leader_is_lost_during_a_stop_are_free() {
    let lease =
        Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time(0), short: Shortfalls::NONE };
    let mut coordinator = two_ranks(&[], &[0], mpi_task(4, Labels::default()));
    let leader = Member { slots: 3, ..Member::default() };
    step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(2), change: Change::Arrive(leader) });
    for rank in [0, 1] {
        says(
            &mut coordinator,
            rank,
            Message::Ack { epoch: 1, kept: Vec::new(), lent: Vec::new(), counted: Vec::new() },
        );
    }
    says(&mut coordinator, 0, Message::GangReady { lease });
    for rank in [0, 2] {
        says(&mut coordinator, rank, Message::Held { gang: 1, aside: SetAside::default() });
    }
    step(&mut coordinator, CoordinatorEvent::Stop { how: Stop::Kill, why: StopReason::Signal(2) });
    let freed = step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(2), change: Change::Lose });
    assert!(
        freed.contains(&CoordinatorAction::Send { to: Rank(0), message: Message::Release { gang: 1 } }),
        "{freed:?}"
    );
}

/// What is sent, and to whom.
fn messages(actions: &[CoordinatorAction]) -> impl Iterator<Item = (Rank, &Message)> {
    actions.iter().filter_map(|action| match action {
        CoordinatorAction::Send { to, message } => Some((*to, message)),
        _ => None,
    })
}

#[test]
fn an_end_that_only_its_home_knows_is_told_while_the_run_ends() {
    let mut coordinator = two_ranks(&[Condition::Any], &[0, 0], alone());
    step(&mut coordinator, CoordinatorEvent::Stop { how: Stop::Drain, why: StopReason::Signal(2) });
    says(&mut coordinator, 0, Message::Stopped);
    // Rank 1 ran task 0 on lease, reported to its home, and dies before the home has reported it.
    let asked = step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(1), change: Change::Lose });
    assert!(!asked.iter().any(|action| matches!(action, CoordinatorAction::Finished(_))), "{asked:?}");
    let counted = vec![(0, End::Completed)];
    let ended = says(&mut coordinator, 0, Message::Ack { epoch: 1, kept: Vec::new(), lent: Vec::new(), counted });
    assert_eq!(coordinator.final_state(TaskId(0)), Some(State::Completed));
    assert!(ended.contains(&CoordinatorAction::Finished(StopReason::Signal(2))), "{ended:?}");
}

#[test]
fn slots_of_a_gang_whose_leader_has_left_are_free() {
    let lease =
        Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time(0), short: Shortfalls::NONE };
    let mut coordinator = two_ranks(&[], &[0], mpi_task(4, Labels::default()));
    let leader = Member { slots: 3, ..Member::default() };
    step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(2), change: Change::Arrive(leader) });
    let ack = |epoch| Message::Ack { epoch, kept: Vec::new(), lent: Vec::new(), counted: Vec::new() };
    (0..2).for_each(|rank| drop(says(&mut coordinator, rank, ack(1))));
    let asked = says(&mut coordinator, 0, Message::GangReady { lease });
    let leads = |(to, message): (Rank, &Message)| matches!(message, Message::Hold { leads: true, .. }).then_some(to);
    let leader = messages(&asked).find_map(leads).expect("somebody leads");
    let other = (0..3).find(|&rank| {
        messages(&asked).any(|(to, m)| matches!(m, Message::Hold { leads: false, .. }) && to == Rank(rank))
    });
    let other = other.expect("somebody else takes part");
    assert_ne!(leader, Rank::ZERO, "rank 0 cannot be drained");
    for rank in [leader.0, other] {
        says(&mut coordinator, rank, Message::Held { gang: 1, aside: SetAside::default() });
    }
    step(&mut coordinator, CoordinatorEvent::Change { rank: leader, change: Change::Drain });
    (0..3).for_each(|rank| drop(says(&mut coordinator, rank, ack(2))));
    let freed = says(&mut coordinator, leader.0, Message::Emptied { epoch: 2 });
    let release = CoordinatorAction::Send { to: Rank(other), message: Message::Release { gang: 1 } };
    assert!(freed.contains(&release), "{freed:?}");
}

#[test]
fn the_leader_of_an_operation_learns_once_that_a_rank_of_it_is_lost() {
    let short = Shortfalls::NONE;
    let lease = Lease { task: TaskId(0), home: Rank(1), attempt: 1, urgency: 0, ready: Time(0), short };
    let mut coordinator = two_ranks(&[], &[1], Shape::Everywhere { cpus: 3 });
    let third = Member { slots: 3, ..Member::default() };
    step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(2), change: Change::Arrive(third) });
    let ack = |epoch| Message::Ack { epoch, kept: Vec::new(), lent: Vec::new(), counted: Vec::new() };
    (0..2).for_each(|rank| drop(says(&mut coordinator, rank, ack(1))));
    let asked = says(&mut coordinator, 1, Message::GangReady { lease });
    let slots = |(to, message): (Rank, &Message)| match message {
        Message::Hold { host, .. } => Some((to.0, host.slots)),
        _ => None,
    };
    assert_eq!(messages(&asked).filter_map(slots).collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 3)]);
    let mut begun = Vec::new();
    (0..3).for_each(|rank| begun = says(&mut coordinator, rank, Message::Held { gang: 1, aside: SetAside::default() }));
    let shares = messages(&begun).filter(|(_, message)| matches!(message, Message::Share { .. }));
    assert_eq!(shares.map(|(to, _)| to).collect::<Vec<_>>(), [Rank(1), Rank(2)]);
    let all = [Rank(0), Rank(1), Rank(2)];
    let launches = |(to, message): (Rank, &Message)| {
        matches!(message, Message::Launch { ranks, .. } if *ranks == all).then_some(to)
    };
    assert_eq!(messages(&begun).find_map(launches), Some(Rank(0)));
    let lost = |actions: &[CoordinatorAction]| -> Vec<(Rank, Rank)> {
        let lost = |(to, message): (Rank, &Message)| match message {
            Message::MemberLost { gang: 1, rank } => Some((to, *rank)),
            _ => None,
        };
        messages(actions).filter_map(lost).collect()
    };
    let told = step(&mut coordinator, CoordinatorEvent::Change { rank: Rank(2), change: Change::Lose });
    assert_eq!(lost(&told), [(Rank(0), Rank(2))]);
    assert_eq!(lost(&step(&mut coordinator, CoordinatorEvent::Tick)), []);
    let freed = says(&mut coordinator, 0, Message::GangEnded { gang: 1 });
    let releases = messages(&freed).filter(|(_, message)| matches!(message, Message::Release { gang: 1 }));
    assert_eq!(releases.map(|(to, _)| to).collect::<Vec<_>>(), [Rank(1)], "rank 2 is gone");
}

/// The rank on which a task failed is an hour before rank 0, and the one that tries it again two
/// behind.
#[test]
fn the_wait_before_a_further_attempt_does_not_depend_on_clocks() {
    const HOUR: u64 = 3_600_000_000_000;
    let mut coordinator = two_ranks(&[], &[1], alone());
    let (rank, outcome) = (Rank(1), Outcome { state: State::Failed, exit: 1, cached: false });
    let (ready, start, end) = (Time(4 * HOUR), Time(4 * HOUR), Time(4 * HOUR));
    let attempt = Attempt { task: TaskId(0), attempt: 1, outcome, last: false, rank, slot: 0, ready, start, end };
    let report = Message::Report { attempts: vec![attempt], started: Vec::new(), load: Load::default() };
    coordinator.step(Time(3 * HOUR), CoordinatorEvent::Message { from: rank, message: report }, &mut Vec::new());
    let drain = CoordinatorEvent::Change { rank: Rank(1), change: Change::Drain };
    coordinator.step(Time(3 * HOUR), drain, &mut Vec::new());
    let ack = || Message::Ack { epoch: 1, kept: Vec::new(), lent: Vec::new(), counted: Vec::new() };
    let mut sent = Vec::new();
    for from in [Rank(0), Rank(1)] {
        coordinator.step(Time(3 * HOUR + 100_000), CoordinatorEvent::Message { from, message: ack() }, &mut sent);
    }
    let handed = messages(&sent).find(|(to, message)| *to == Rank::ZERO && matches!(message, Message::HandOut(_)));
    let Some((_, Message::HandOut(hand_out))) = handed else { panic!("{sent:?}") };
    // It takes the place of a part that was never there.
    let hand_out = HandOut { amends: None, ..(**hand_out).clone() };
    let job = Job { retries: vec![1], ..plain_job(1) };
    let mut worker = Worker::new(Rank(0), RankRoom::of_slots(1), Arc::new(job), Pace::default());
    let message = Message::HandOut(Box::new(hand_out));
    worker.step(Time(HOUR), worker::WorkerEvent::Message { from: Rank::ZERO, message }, &mut Vec::new());
    assert_eq!(worker.next_duty(), Some(Time(HOUR + 200_000)), "300 us, of which 100 have passed");
}
