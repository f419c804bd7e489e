//! The dealer with ranks that are played by the test.

use std::sync::Arc;

use super::dealer::{Dealt, Holder, LOST_LEASE, PoolDealer};
use super::stock::QUANTUM;
use super::table::{PoolResource, PoolTable, ResourceKind};
use super::{PoolClaim, PoolOrders, PoolReport, UNLIMITED};
use crate::model::{Rank, Shortfalls, TaskId, Time};
use crate::schedule::protocol::Lease;

/// Pools `x` and `y` of these capacities and a rate; set 1 needs an `x`, set 2 one of each, set 3 a
/// `y`, set 4 a start.
fn dealer(x: u32, y: u32) -> PoolDealer {
    let mut table = PoolTable::default();
    table.add(PoolResource::capacity("x", Some(x), false));
    table.add(PoolResource::capacity("y", Some(y), false));
    let kind = ResourceKind::Rate { starts: 10, per_ns: 1_000_000_000 };
    table.add(PoolResource { name: "r".into(), kind, is_array_limit: false });
    let needs = [vec![(0, 1)], vec![(0, 1), (1, 1)], vec![(1, 1)], vec![(2, 1)]];
    PoolDealer::new(Arc::new(table.with_groups((0..).zip(needs).map(|(group, needs)| (group, 1, needs)))))
}

fn claim(set: u32, tasks: u32, kept: &[u32]) -> PoolClaim {
    PoolClaim { set, tasks, level: 1, ahead: false, kept: kept.to_vec() }
}

fn report(seen: u32, used: &[(u32, u32)], claims: Vec<PoolClaim>) -> PoolReport {
    PoolReport { seen, returned: Vec::new(), used: used.to_vec(), claims }
}

fn orders(dealt: &Dealt, rank: u32) -> PoolOrders {
    dealt.orders.get(&Rank(rank)).cloned().unwrap_or_default()
}

#[test]
fn units_go_to_claims_in_their_order_and_an_even_share_first() {
    let mut dealer = dealer(4, 1);
    for rank in 0..2 {
        dealer.report(Rank(rank), report(0, &[], vec![claim(1, 9, &[0])]));
    }
    let dealt = dealer.deal(Time(0));
    assert_eq!([orders(&dealt, 0).granted, orders(&dealt, 1).granted], [vec![(0, 2)], vec![(0, 2)]]);
    assert_eq!(dealer.dealt(0), 4);
    assert!(dealer.deal(Time(0)).orders.is_empty(), "nothing has happened");
}

#[test]
fn a_single_unit_goes_round_after_a_quantum() {
    let mut dealer = dealer(1, 1);
    dealer.report(Rank(0), report(0, &[], vec![claim(1, 1, &[0])]));
    dealer.deal(Time(0));
    dealer.report(Rank(0), report(1, &[(0, 1)], Vec::new()));
    dealer.report(Rank(1), report(0, &[], vec![claim(1, 1, &[0])]));
    assert!(dealer.deal(Time(5)).orders.is_empty(), "it has only just been granted");
    let due = dealer.due().unwrap();
    assert_eq!(due, Time::ZERO.after(QUANTUM));
    let dealt = dealer.deal(due);
    assert_eq!(orders(&dealt, 0).owed, [(0, 1)]);
    dealer.report(Rank(0), PoolReport { returned: vec![(0, 1)], ..report(2, &[], Vec::new()) });
    assert_eq!(orders(&dealer.deal(due), 1).granted, [(0, 1)]);
}

#[test]
fn idle_units_come_back_at_once_but_not_those_kept_for_an_older_claim() {
    let mut dealer = dealer(2, 1);
    dealer.report(Rank(0), report(0, &[], vec![claim(2, 1, &[0, 0])]));
    dealer.deal(Time(0));
    dealer.report(Rank(0), report(1, &[(0, 1), (1, 1)], vec![claim(1, 1, &[0])]));
    dealer.deal(Time(1));
    // Rank 0 has two `x`, one of them for a claim that still lacks a `y`.
    dealer.report(Rank(0), report(2, &[(0, 0), (1, 1)], vec![claim(2, 1, &[1, 0])]));
    dealer.report(Rank(1), report(0, &[], vec![claim(1, 1, &[0])]));
    let dealt = dealer.deal(Time(2));
    assert_eq!(orders(&dealt, 0).owed, [(0, 1)], "one `x` is kept for the older claim");
}

#[test]
fn who_asks_ahead_gets_what_nobody_wants_and_gives_it_back() {
    let mut dealer = dealer(1, 1);
    dealer.report(Rank(0), report(0, &[], vec![PoolClaim { ahead: true, ..claim(1, 1, &[0]) }]));
    assert_eq!(orders(&dealer.deal(Time(0)), 0).granted, [(0, 1)]);
    dealer.report(Rank(0), report(1, &[(0, 0)], Vec::new()));
    dealer.report(Rank(1), report(0, &[], vec![claim(1, 1, &[0])]));
    assert_eq!(orders(&dealer.deal(Time(1)), 0).owed, [(0, 1)]);
    dealer.report(Rank(0), PoolReport { returned: vec![(0, 1)], ..report(2, &[], Vec::new()) });
    dealer.deal(Time(2));
    dealer.report(Rank(1), report(1, &[(0, 1)], Vec::new()));
    dealer.report(Rank(0), report(2, &[], vec![PoolClaim { ahead: true, ..claim(1, 1, &[0]) }]));
    assert!(dealer.deal(Time(9_000_000)).orders.is_empty());
}

#[test]
fn a_lost_lease_stays_bound_and_one_that_left_does_not() {
    let mut dealer = dealer(2, 1);
    for rank in 0..2 {
        dealer.report(Rank(rank), report(0, &[], vec![claim(1, 1, &[0])]));
    }
    dealer.deal(Time(0));
    dealer.lost(Time(0), Rank(0));
    dealer.left(Rank(1));
    dealer.report(Rank(2), report(0, &[], vec![claim(1, 2, &[0])]));
    assert_eq!(orders(&dealer.deal(Time(1)), 2).granted, [(0, 1)]);
    dealer.report(Rank(2), report(1, &[(0, 1)], vec![claim(1, 1, &[0])]));
    assert!(dealer.deal(Time(2)).orders.is_empty());
    let due = dealer.due().unwrap();
    assert_eq!(due, Time(0).after(LOST_LEASE));
    assert_eq!(orders(&dealer.deal(due), 2).granted, [(0, 1)]);
}

#[test]
fn only_what_is_short_is_waited_for() {
    let mut dealer = dealer(5, 2);
    dealer.report(Rank(0), report(0, &[], vec![claim(2, 9, &[0, 0])]));
    dealer.deal(Time(0));
    dealer.report(Rank(0), report(1, &[(0, 2), (1, 2)], vec![claim(2, 7, &[0, 0])]));
    dealer.deal(Time(1));
    let states = dealer.states(Time(1_000_000_001));
    assert_eq!([states[0].waiting, states[1].waiting], [0, 7], "{states:?}");
    assert_eq!(states[0].counters.at_limit.as_secs(), 0, "three `x` are left");
    assert!(states[1].counters.at_limit.as_secs() > 0);
}

#[test]
fn a_lowered_capacity_calls_units_back_and_grants_none() {
    let mut dealer = dealer(3, 1);
    dealer.report(Rank(0), report(0, &[], vec![claim(1, 3, &[0])]));
    dealer.deal(Time(0));
    dealer.report(Rank(0), report(1, &[(0, 3)], vec![claim(1, 1, &[0])]));
    dealer.set_capacity(0, 1);
    assert_eq!(orders(&dealer.deal(Time(1)), 0), PoolOrders { granted: vec![], owed: vec![(0, 2)] });
    dealer.report(Rank(0), PoolReport { returned: vec![(0, 2)], ..report(2, &[(0, 1)], vec![claim(1, 1, &[0])]) });
    assert!(orders(&dealer.deal(Time(2)), 0).granted.is_empty());
    dealer.set_capacity(0, UNLIMITED);
    assert!(orders(&dealer.deal(Time(3)), 0).granted[0].1 > 1);
}

#[test]
fn starts_of_a_rate_are_dealt_as_time_passes() {
    let mut dealer = dealer(1, 1);
    dealer.report(Rank(0), report(0, &[], vec![claim(4, 5, &[0])]));
    assert_eq!(orders(&dealer.deal(Time(0)), 0).granted, [(2, 1)]);
    dealer.report(Rank(0), report(1, &[], vec![claim(4, 4, &[0])]));
    assert!(dealer.deal(Time(1)).orders.is_empty());
    assert_eq!(dealer.due(), Some(Time(100_000_000)));
    assert_eq!(orders(&dealer.deal(Time(100_000_000)), 0).granted, [(2, 1)]);
}

#[test]
fn an_mpi_task_on_several_ranks_holds_its_units_until_it_ends() {
    let mut dealer = dealer(1, 1);
    let lease =
        Lease { task: TaskId(1), home: Rank(0), attempt: 1, urgency: 3, ready: Time(0), short: Shortfalls::NONE };
    assert!(dealer.gang_ready(lease) && !dealer.gang_ready(Lease { task: TaskId(9), ..lease }));
    assert_eq!(dealer.deal(Time(0)).gangs, [lease]);
    assert_eq!(dealer.states(Time(0))[0].holders, [(Holder::Gang(TaskId(1), 1), 1)]);
    dealer.withdraw_gangs(|task, _| task == TaskId(1));
    assert_eq!((dealer.dealt(0), dealer.dealt(1)), (0, 0));
}

#[test]
fn first_units_are_an_even_share_and_leave_no_claim_behind() {
    let mut dealer = dealer(5, 1);
    let claims = |tasks| vec![claim(1, tasks, &[0]), claim(3, tasks, &[0])];
    let first = dealer.deal_first([(Rank(0), claims(9)), (Rank(1), claims(2))].into());
    assert_eq!([&first[&Rank(0)].granted, &first[&Rank(1)].granted], [&vec![(0, 3), (1, 1)], &vec![(0, 2)]]);
    assert_eq!((dealer.states(Time(0))[1].waiting, dealer.due().map(|_| ())), (0, None));
    // Reports from before the units have arrived claim nothing.
    dealer.report(Rank(1), report(0, &[], vec![claim(3, 1, &[0])]));
    assert!(dealer.deal(Time(1)).orders.is_empty());
    dealer.report(Rank(1), report(1, &[], vec![claim(3, 1, &[0])]));
    dealer.report(Rank(0), report(1, &[], Vec::new()));
    assert_eq!(orders(&dealer.deal(Time(2)), 0).owed, [(1, 1)], "idle units go to those who can use them");
}

/// A claim of this urgency for one `x`.
fn urgent(level: u8, ahead: bool) -> PoolClaim {
    PoolClaim { level, ahead, ..claim(1, 1, &[0]) }
}

#[test]
fn units_go_to_more_urgent_tasks_of_other_ranks_even_beyond_an_even_share() {
    let mut dealer = dealer(2, 1);
    for rank in 0..2 {
        dealer.report(Rank(rank), report(0, &[], vec![urgent(5, false)]));
    }
    dealer.deal(Time(0));
    // Both use one. Rank 0 has only less urgent tasks left, and rank 1 another urgent one.
    dealer.report(Rank(0), report(1, &[(0, 1)], vec![urgent(2, true)]));
    dealer.report(Rank(1), report(1, &[(0, 1)], vec![urgent(5, false)]));
    assert!(dealer.deal(Time(1)).orders.is_empty(), "it has only just been granted");
    let due = dealer.due().unwrap();
    let dealt = dealer.deal(due);
    assert_eq!((orders(&dealt, 0).owed, orders(&dealt, 1).owed), (vec![(0, 1)], vec![]));
    dealer.report(Rank(0), PoolReport { returned: vec![(0, 1)], ..report(2, &[], vec![urgent(2, false)]) });
    let dealt = dealer.deal(due);
    assert_eq!((orders(&dealt, 0).granted, orders(&dealt, 1).granted), (vec![], vec![(0, 1)]));
    // Rank 0 has less than its share, but rank 1 has a more urgent task for each of them.
    dealer.report(Rank(1), report(2, &[(0, 2)], vec![urgent(5, true)]));
    assert!(dealer.deal(Time(9_000_000_000)).orders.is_empty());
    dealer.report(Rank(1), report(2, &[(0, 2)], vec![urgent(2, true)]));
    assert_eq!(orders(&dealer.deal(Time(9_000_000_000)), 1).owed, [(0, 1)]);
}
