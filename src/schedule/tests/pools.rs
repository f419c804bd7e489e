//! Pools in worlds whose ranks come, go and die, and whose capacities change.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::job::Job;
use super::world::{Happening, World};
use super::{random_slots, upheavals};
use crate::model::{Rank, Time};
use crate::schedule::admission::AdmissionQueue;
use crate::schedule::coordinator::StopReason;
use crate::schedule::pools::dealer::PoolDealer;
use crate::schedule::pools::table::{PoolResource, PoolTable, ResourceKind};
use crate::schedule::pools::{PoolOrders, UNLIMITED};
use crate::schedule::resources::{Needs, ResourceLedger};
use crate::seeds::{Named, seeds};

/// A world with pools, which is checked after each step: see `world/units.rs`.
fn world(rng: &mut Rng, seed: u64, with_upheavals: bool) -> (Arc<Job>, World) {
    let slots = random_slots(rng);
    let job = Arc::new(Job::random(rng, &slots).with_pools(rng));
    let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
    if with_upheavals {
        for (time, what) in upheavals(rng, slots.len() as u32) {
            world.at(time, what);
        }
    }
    change_limits(rng, &job, &mut world);
    (job, world)
}

/// Capacities change and tasks are paused; in the end all is as it was.
pub(super) fn change_limits(rng: &mut Rng, job: &Job, world: &mut World) {
    for (resource, of) in (0..).zip(job.pools.resources()) {
        let ResourceKind::Capacity(units) = of.kind else { continue };
        for _ in 0..rng.u32(0..4) {
            let to = [0, rng.u32(0..8), UNLIMITED][rng.usize(0..3)];
            world.at(rng.u64(0..8_000_000), Happening::Limit(resource, to));
        }
        world.at(8_000_000, Happening::Limit(resource, units));
    }
    let tasks = job.graph.task_count() as u32;
    for _ in 0..rng.u32(0..3) {
        let from = rng.u32(0..tasks);
        world.at(rng.u64(0..8_000_000), Happening::Pause(from, rng.u32(from..tasks) + 1, rng.u32(0..3) > 0));
    }
    world.at(8_000_000, Happening::Pause(0, tasks, false));
}

#[test]
fn pools_are_never_above_their_capacity_and_no_task_starves() {
    let (mut complete, mut at_capacity) = (0, 0);
    for seed in seeds(350) {
        let _named = Named(seed, "schedule::tests::pools::pools_are_never_above");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, false);
        world.run();
        assert_eq!(world.finished, Some(StopReason::Complete));
        assert_eq!(super::final_states(&[&world.journal], job.graph.task_count()), job.oracle());
        complete += 1;
        let capacity = |resource: usize| match job.pools.resources()[resource].kind {
            ResourceKind::Capacity(units) => Some(u64::from(units)),
            ResourceKind::Rate { .. } => None,
        };
        at_capacity +=
            (0..world.units.len()).filter(|&r| capacity(r).is_some_and(|units| world.units[r].peak >= units)).count();
    }
    assert!(at_capacity > complete / 2 || std::env::var_os("PHALANX_SEED").is_some());
}

#[test]
fn pools_survive_ranks_that_come_go_and_die() {
    let mut complete = 0;
    for seed in seeds(350) {
        let _named = Named(seed, "schedule::tests::pools::pools_survive");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, true);
        world.run();
        let oracle = job.oracle();
        let finals = world.finals(&oracle);
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => assert_eq!(finals.len(), job.graph.task_count(), "every task has ended"),
            StopReason::Signal(_) => {}
            why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
        complete += usize::from(world.finished == Some(StopReason::Complete));
    }
    assert!(complete > 0 || std::env::var_os("PHALANX_SEED").is_some());
}

/// A rank of the test below: its queue, and the needs of what runs on its slots.
struct QueueOfRank {
    queue: AdmissionQueue<u32, u32>,
    slots: u32,
    running: Vec<Needs>,
    /// Orders that have not arrived yet.
    orders: VecDeque<PoolOrders>,
}

impl QueueOfRank {
    fn idle(&self) -> u32 {
        self.slots - self.running.len() as u32
    }
}

/// Reports of rank 0 and the answers to them are exchanged without delay, before any slot does
/// anything: `deal` must not grant in turns what it recalls.
#[test]
fn reports_and_orders_come_to_rest_when_nothing_starts_or_ends() {
    for seed in seeds(2_000) {
        let _named = Named(seed, "schedule::tests::pools::reports_and_orders_come_to_rest");
        let mut rng = Rng::with_seed(seed);
        let mut table = PoolTable::default();
        for name in ["x", "y"] {
            table.add(PoolResource::capacity(name, Some(rng.u32(1..9)), false));
        }
        let sets = [vec![(0, 1)], vec![(1, 1)], vec![(0, 1), (1, 2)], vec![(0, 2)]];
        let table = Arc::new(table.with_groups((0..).zip(sets).map(|(group, needs)| (group, 1, needs))));
        let mut dealer = PoolDealer::new(Arc::clone(&table));
        let mut ranks: Vec<QueueOfRank> = (0..rng.u32(1..5))
            .map(|_| {
                let slots = rng.u32(1..4);
                let queue = AdmissionQueue::new(ResourceLedger::new(slots, 0, 0, Arc::clone(&table)));
                QueueOfRank { queue, slots, running: Vec::new(), orders: VecDeque::new() }
            })
            .collect();
        let mut now = Time::ZERO;
        for _ in 0..60 {
            let at = rng.usize(0..ranks.len());
            let rank = &mut ranks[at];
            match rng.u32(0..5) {
                0 | 1 => {
                    let needs = Needs { pools: rng.u32(1..5), ..Needs::SLOT };
                    (0..rng.u32(1..6)).for_each(|task| rank.queue.push_task(task, rng.u8(0..3), needs));
                }
                2 => {
                    // Slots that a collection needs are idle and start nothing.
                    let head = rank.queue.head(0).filter(|_| rank.idle() > 0);
                    if let Some(head) = head {
                        rank.queue.admit(&head).expect("it may start");
                        rank.running.push(head.needs);
                    }
                }
                3 if !rank.running.is_empty() => {
                    let needs = rank.running.swap_remove(rng.usize(0..rank.running.len()));
                    rank.queue.take_back(&needs, (0.0, Duration::ZERO));
                }
                _ => now = now.after(Duration::from_micros(rng.u64(0..3_000))),
            }
            // Rank 0 exchanges at once, the others when their messages arrive.
            let arrived = rng.u32(0..16) | 1;
            let mut exchanges = 0;
            while let Some(from) = (0..ranks.len()).find(|&rank| {
                let idle = ranks[rank].idle();
                arrived >> rank & 1 == 1
                    && (!ranks[rank].orders.is_empty() || ranks[rank].queue.is_pool_report_due(idle))
            }) {
                let rank = &mut ranks[from];
                rank.orders.drain(..).for_each(|orders| rank.queue.carry_out_pool_orders(&orders));
                let idle = rank.idle();
                dealer.report(Rank(from as u32), rank.queue.pool_report(idle, true));
                for (to, orders) in dealer.deal(now).orders {
                    ranks[to.index()].orders.push_back(orders);
                }
                exchanges += 1;
                assert!(exchanges < 1_000, "rank 0 and ranks exchange reports and orders without end");
            }
        }
    }
}
