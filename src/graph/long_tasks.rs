//! Homes of long tasks: each on the rank where it can end first.
//!
//! Ranks with equal sums of work do not end together if one of them has the longest tasks: these
//! wait at home for each other while other ranks start short ones, and a rank steals only when it
//! has nothing of its own to start. So tasks that are long compared with the work that remains per
//! slot are placed by list scheduling in time, the most urgent first (Graham, "Bounds on
//! multiprocessing timing anomalies", 1969).
//!
//! Only tasks that any rank may steal are placed: they need one slot and nothing else, so the model
//! knows all that they wait for, and a mistake is corrected by stealing. All others take time, but
//! no slot. The effort is that of counting dependencies, and one pass over the tasks where none is
//! long.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::TaskGraph;
use crate::model::TaskId;

/// A task is long if its duration is at least one part of the work that remains per slot, divided
/// into this number.
const LONG_PARTS: u128 = 8;

/// A long task stays on its rank if it ends elsewhere earlier by at most one part of its duration,
/// divided into this number.
const STAY_PARTS: u64 = 16;

/// Bandwidth between ranks that is assumed for what a task reads: a common cluster network.
pub(crate) const BYTES_PER_NS: u64 = 1;

/// Speeds of ranks are compared in steps of this size.
const PACE_STEP: f64 = 0.05;

/// No node.
const NONE: u32 = u32::MAX;

/// Ranks, the one with the first free slot first.
type RanksInTime = BinaryHeap<Reverse<(u64, u32)>>;

/// A rank that runs tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankSpeed {
    /// Its slots; a rank without any gets no tasks.
    pub slots: u32,
    /// Its speed relative to the estimates.
    pub pace: f64,
    /// True if tasks that any rank may steal may go there.
    pub is_open: bool,
}

/// The remaining work.
pub struct OpenWork<'a> {
    /// The graph.
    pub graph: &'a TaskGraph,
    /// Remaining duration of each node in nanoseconds; 0 for a join, and for one that has ended.
    pub work: &'a [u64],
    /// Slots that a task takes.
    pub width: &'a dyn Fn(TaskId) -> u32,
    /// True for a task that any rank may steal.
    pub is_movable: &'a dyn Fn(TaskId) -> bool,
    /// Tasks that run or are about to run, with their ranks; they stay there.
    pub running: &'a [(TaskId, u32)],
    /// The ranks, by number.
    pub ranks: &'a [RankSpeed],
}

/// Moves long tasks that do not run to the ranks where they can end first. Returns for each node
/// whether it is such a task; nothing if none is.
pub fn place(open: &OpenWork<'_>, home: &mut [u32]) -> Vec<bool> {
    let tasks = open.graph.task_count();
    let slots: f64 = open.ranks.iter().map(|rank| f64::from(rank.slots) * rank.pace).sum();
    let (mut total, mut longest) = (0u128, 0u64);
    for (task, &work) in (0..).zip(&open.work[..tasks]).filter(|(_, work)| **work > 0) {
        total += u128::from(work) * u128::from((open.width)(TaskId(task)));
        longest = longest.max(work);
    }
    let bound = ((total / LONG_PARTS) as f64 / slots.max(1e-9)) as u64;
    if longest <= bound || !open.ranks.iter().any(|rank| rank.is_open) {
        return Vec::new();
    }
    let is_long = |(task, work): (u32, &u64)| *work > bound && (open.is_movable)(TaskId(task));
    let mut is_long: Vec<bool> = (0..).zip(&open.work[..tasks]).map(is_long).collect();
    is_long.resize(open.graph.node_count(), false);
    open.running.iter().for_each(|(task, _)| is_long[task.index()] = false);
    if !is_long.contains(&true) {
        return Vec::new();
    }
    Placement::new(open, &is_long, home).run();
    is_long
}

/// A schedule of the long tasks.
struct Placement<'a, 'b> {
    open: &'a OpenWork<'a>,
    is_long: &'a [bool],
    home: &'b mut [u32],
    before: Vec<u32>,
    upward: Vec<u64>,
    /// Unfinished predecessors of each node, the latest end of the others, and which of them that
    /// is.
    waits: Vec<u32>,
    release: Vec<u64>,
    leader: Vec<u32>,
    /// Bytes that each node gets from nodes that were at home with it.
    near_bytes: Vec<u64>,
    /// When the running tasks end.
    running_until: FxHashMap<u32, u64>,
    /// For each rank when its slots become free, the first one first.
    free: Vec<BinaryHeap<Reverse<u64>>>,
    /// Ranks that take long tasks, those of one speed together, by their first free slot. An
    /// outdated entry is corrected when it is looked at.
    first: Vec<(f64, RanksInTime)>,
    /// Long tasks that wait for others until then; those that can start, the most urgent first.
    soon: BinaryHeap<Reverse<(u64, u32)>>,
    ready: BinaryHeap<(u64, Reverse<u32>)>,
}

impl<'a, 'b> Placement<'a, 'b> {
    fn new(open: &'a OpenWork<'a>, is_long: &'a [bool], home: &'b mut [u32]) -> Placement<'a, 'b> {
        let (graph, nodes) = (open.graph, open.graph.node_count());
        let mut waits = vec![0u32; nodes];
        (0..nodes as u32).flat_map(|node| graph.successors(node)).for_each(|edge| waits[edge.node() as usize] += 1);
        let free: Vec<BinaryHeap<Reverse<u64>>> =
            open.ranks.iter().map(|rank| (0..rank.slots).map(|_| Reverse(0)).collect()).collect();
        let mut first: Vec<(f64, RanksInTime)> = Vec::new();
        for (rank, speed) in (0..).zip(open.ranks).filter(|(_, speed)| speed.is_open && speed.slots > 0) {
            let pace = pace_of(speed);
            match first.iter_mut().find(|(other, _)| *other == pace) {
                Some((_, ranks)) => ranks.push(Reverse((0, rank))),
                None => first.push((pace, BinaryHeap::from([Reverse((0, rank))]))),
            }
        }
        Placement {
            before: home.to_vec(),
            upward: graph.order(&|task| open.work[task.index()]).upward,
            release: vec![0; nodes],
            leader: vec![NONE; nodes],
            near_bytes: vec![0; nodes],
            first,
            soon: BinaryHeap::new(),
            ready: BinaryHeap::new(),
            running_until: FxHashMap::default(),
            open,
            is_long,
            home,
            waits,
            free,
        }
    }

    fn run(mut self) {
        for &(task, rank) in self.open.running {
            let until = self.occupy(task.0, rank, 0);
            self.running_until.insert(task.0, until);
        }
        let roots: Vec<u32> = (0..).zip(&self.waits).filter(|(_, waits)| **waits == 0).map(|(node, _)| node).collect();
        let mut passed = Vec::new();
        roots.into_iter().for_each(|node| self.released(node, &mut passed));
        loop {
            while let Some((node, end)) = passed.pop() {
                self.pass(node, end, &mut passed);
            }
            let Some(node) = self.next() else { break };
            self.home[node as usize] = self.choose(node);
            let end = self.occupy(node, self.home[node as usize], self.release[node as usize]);
            passed.push((node, end));
        }
    }

    /// A node waits for nothing more: a long task waits for a slot, any other ends in its time.
    fn released(&mut self, node: u32, passed: &mut Vec<(u32, u64)>) {
        let release = self.release[node as usize];
        if self.is_long[node as usize] {
            return self.soon.push(Reverse((release, node)));
        }
        let end = || release.saturating_add(self.open.work[node as usize]);
        passed.push((node, self.running_until.get(&node).copied().unwrap_or_else(end)));
    }

    /// A node has ended: those that wait for it may be released.
    fn pass(&mut self, node: u32, end: u64, passed: &mut Vec<(u32, u64)>) {
        for (number, edge) in self.open.graph.successors(node).enumerate() {
            let next = edge.node() as usize;
            if self.before[node as usize] == self.before[next] {
                let bytes = &mut self.near_bytes[next];
                *bytes = bytes.saturating_add(self.open.graph.edge_bytes(node, number));
            }
            if end >= self.release[next] {
                (self.release[next], self.leader[next]) = (end, node);
            }
            self.waits[next] -= 1;
            if self.waits[next] == 0 {
                self.released(edge.node(), passed);
            }
        }
    }

    /// The most urgent long task that can start when the next slot is free.
    fn next(&mut self) -> Option<u32> {
        let now = (0..self.first.len()).filter_map(|class| self.first_free(class)).map(|(at, _)| at).min();
        let now = now.unwrap_or(0);
        let until = match self.ready.is_empty() {
            true => now.max(self.soon.peek()?.0.0),
            false => now,
        };
        while let Some(&Reverse((_, node))) = self.soon.peek().filter(|soon| soon.0.0 <= until) {
            self.soon.pop();
            self.ready.push((self.upward[node as usize], Reverse(node)));
        }
        self.ready.pop().map(|(_, Reverse(node))| node)
    }

    /// The rank for a task: that of the task before if both were on one rank, or its own, unless it
    /// ends clearly earlier on another, and earlier than what it reads gets there.
    fn choose(&mut self, node: u32) -> u32 {
        let at = node as usize;
        let (work, release, leader) = (self.open.work[at], self.release[at], self.leader[at] as usize);
        let together = self.before.get(leader).is_some_and(|&home| home == self.before[at]);
        let stay = if together { self.home[leader] } else { self.home[at] };
        let end = |pace: f64, slot: u64| slot.max(release).saturating_add((work as f64 / pace) as u64);
        let best = (0..self.first.len()).filter_map(|class| {
            let (slot, rank) = self.first_free(class)?;
            Some((end(self.first[class].0, slot), slot, rank))
        });
        let Some((soonest, _, best)) = best.min() else { return stay };
        let patience = (work / STAY_PARTS).saturating_add(self.near_bytes[at] / BYTES_PER_NS);
        let speed = self.open.ranks.get(stay as usize).filter(|speed| speed.is_open);
        let slot = self.free.get(stay as usize).and_then(|free| free.peek());
        let stays = speed.zip(slot).map(|(speed, slot)| end(pace_of(speed), slot.0));
        if stays.is_some_and(|ends| ends <= soonest.saturating_add(patience)) { stay } else { best }
    }

    /// The rank of a speed with the first free slot, and when that is free.
    fn first_free(&mut self, class: usize) -> Option<(u64, u32)> {
        let ranks = &mut self.first[class].1;
        loop {
            let &Reverse((at, rank)) = ranks.peek()?;
            let now = self.free[rank as usize].peek()?.0;
            if at == now {
                return Some((at, rank));
            }
            ranks.pop();
            ranks.push(Reverse((now, rank)));
        }
    }

    /// Runs a task on a rank from `release` on, as soon as it has free slots; returns its end.
    fn occupy(&mut self, node: u32, rank: u32, release: u64) -> u64 {
        let (work, width) = (self.open.work[node as usize], (self.open.width)(TaskId(node)) as usize);
        let Some(free) = self.free.get_mut(rank as usize).filter(|free| !free.is_empty()) else {
            return release.saturating_add(work);
        };
        let width = width.clamp(1, free.len());
        let start = (0..width).filter_map(|_| free.pop()).fold(release, |start, Reverse(slot)| start.max(slot));
        let end = start.saturating_add((work as f64 / pace_of(&self.open.ranks[rank as usize])) as u64);
        free.extend((0..width).map(|_| Reverse(end)));
        end
    }
}

/// The speed of a rank in steps, at least one step.
fn pace_of(speed: &RankSpeed) -> f64 {
    ((speed.pace / PACE_STEP).round() * PACE_STEP).max(PACE_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Condition, Link, LinkShape};
    use fastrand::Rng;

    /// A graph with durations, ranks with these slots, and where its tasks are at home.
    struct Case {
        graph: TaskGraph,
        work: Vec<u64>,
        slots: Vec<u32>,
        home: Vec<u32>,
    }

    impl Case {
        /// Layers of tasks that each need up to two of the layer before; a few take far longer than
        /// the others.
        fn random(seed: u64) -> Case {
            let mut rng = Rng::with_seed(seed);
            let widths: Vec<u32> = (0..rng.u32(1..6)).map(|_| rng.u32(1..40)).collect();
            let firsts: Vec<u32> =
                widths.iter().scan(0, |sum, width| Some(std::mem::replace(sum, *sum + width))).collect();
            let tasks: u32 = widths.iter().sum();
            let mut links = Vec::new();
            for layer in 1..widths.len() {
                for task in firsts[layer]..firsts[layer] + widths[layer] {
                    for _ in 0..rng.u32(0..3) {
                        let from = firsts[layer - 1] + rng.u32(0..widths[layer - 1]);
                        links.push(Link {
                            from,
                            to: task,
                            shape: LinkShape::Each,
                            on: Condition::Ok,
                            bytes: 0,
                            span: 0..0,
                        });
                    }
                }
            }
            let graph = TaskGraph::build(&vec![1; tasks as usize], &links).unwrap();
            let draw = |_| 100 + rng.u64(0..900) * if rng.u32(0..8) == 0 { 20 } else { 1 };
            let work = (0..tasks).map(draw).collect();
            let slots: Vec<u32> = (0..rng.u32(1..6)).map(|_| rng.u32(1..5)).collect();
            let home = (0..graph.node_count()).map(|_| rng.u32(0..slots.len() as u32)).collect();
            Case { graph, work, slots, home }
        }

        fn bag(work: &[u64], slots: &[u32]) -> Case {
            let graph = TaskGraph::build(&vec![1; work.len()], &[]).unwrap();
            let home = vec![0; graph.node_count()];
            Case { graph, work: work.to_vec(), slots: slots.to_vec(), home }
        }

        fn place(&mut self, running: &[(TaskId, u32)]) -> Vec<bool> {
            self.place_on(&vec![1.0; self.slots.len()], running, &|_| true)
        }

        /// With ranks of these speeds, and where not all tasks can be stolen.
        fn place_on(
            &mut self,
            pace: &[f64],
            running: &[(TaskId, u32)],
            is_movable: &dyn Fn(TaskId) -> bool,
        ) -> Vec<bool> {
            let ranks = self.slots.iter().zip(pace);
            let ranks: Vec<RankSpeed> =
                ranks.map(|(&slots, &pace)| RankSpeed { slots, pace, is_open: slots > 0 }).collect();
            let mut work = self.work.clone();
            work.resize(self.graph.node_count(), 0);
            let open = OpenWork { graph: &self.graph, work: &work, width: &|_| 1, is_movable, running, ranks: &ranks };
            place(&open, &mut self.home)
        }

        /// When each task can start, starts and ends if ranks start their own long tasks by upward
        /// rank, and short tasks take no slot.
        fn replay(&self, is_long: &[bool]) -> Vec<(u64, u64, u64)> {
            let nodes = self.graph.node_count();
            let work = |node: usize| self.work.get(node).copied().unwrap_or(0);
            let upward = self.graph.order(&|task| work(task.index())).upward;
            let mut times = vec![(0, u64::MAX, u64::MAX); nodes];
            let mut free = self.slots.clone();
            let mut now = 0;
            loop {
                // A node that takes no time lets others start at the same moment.
                let mut changed = true;
                while std::mem::take(&mut changed) {
                    let done = |node: usize| {
                        self.graph.predecessors(node as u32).all(|edge| times[edge.node() as usize].2 <= now)
                    };
                    let mut able: Vec<usize> = (0..nodes).filter(|&n| times[n].1 == u64::MAX && done(n)).collect();
                    able.sort_by_key(|&n| (Reverse(upward[n]), n));
                    for node in able {
                        let before = self.graph.predecessors(node as u32).map(|edge| times[edge.node() as usize].2);
                        times[node].0 = before.max().unwrap_or(0);
                        let slots = &mut free[self.home[node] as usize];
                        if is_long.get(node) == Some(&true) {
                            if *slots == 0 {
                                continue;
                            }
                            *slots -= 1;
                        }
                        (times[node].1, times[node].2) = (now, now + work(node));
                        changed |= work(node) == 0;
                    }
                }
                let ends = times.iter().filter(|t| t.2 != u64::MAX && t.2 > now).map(|t| t.2);
                let Some(next) = ends.min() else { break };
                now = next;
                let ended = (0..nodes).filter(|&n| times[n].2 == now && is_long.get(n) == Some(&true));
                ended.for_each(|node| free[self.home[node] as usize] += 1);
            }
            times
        }
    }

    #[test]
    fn no_long_task_waits_while_a_slot_elsewhere_is_free() {
        let mut waited = 0;
        for seed in 0..300 {
            let mut case = Case::random(seed);
            let is_long = case.place(&[]);
            let times = case.replay(&is_long);
            let longest = case.work.iter().copied().max().unwrap_or(0);
            let long = || (0..is_long.len()).filter(|&node| is_long[node]);
            for task in long() {
                let (ready, start, _) = times[task];
                waited += u32::from(start > ready);
                // Whether it starts at all, and in time spans between ends of others.
                assert_ne!(start, u64::MAX, "seed {seed}: {task} never starts");
                let changes = long().flat_map(|other| [times[other].1, times[other].2]);
                let mut moments: Vec<u64> = changes.filter(|&at| ready < at && at < start).collect();
                moments.extend([ready, start]);
                moments.sort_unstable();
                let idle: u64 = moments
                    .windows(2)
                    .filter(|span| {
                        (0..case.slots.len()).any(|rank| {
                            let busy = long().filter(|&other| {
                                case.home[other] as usize == rank
                                    && times[other].1 <= span[0]
                                    && span[0] < times[other].2
                            });
                            busy.count() < case.slots[rank] as usize
                        })
                    })
                    .map(|span| span[1] - span[0])
                    .sum();
                assert!(idle <= longest / STAY_PARTS, "seed {seed}: {task} waits {idle} beside a free slot");
            }
        }
        assert!(waited > 100, "{waited}");
    }

    #[test]
    fn the_longest_of_a_bag_start_first_and_short_tasks_stay() {
        let mut work = vec![1000; 8];
        work.extend([1; 400]);
        let mut case = Case::bag(&work, &[2, 2, 2, 2]);
        let is_long = case.place(&[]);
        assert_eq!(is_long.iter().filter(|long| **long).count(), 8);
        for rank in 0..4 {
            assert_eq!((0..8).filter(|&task| case.home[task] == rank).count(), 2, "{:?}", case.home);
        }
        assert!(case.home[8..].iter().all(|&home| home == 0));
        let mut alike = Case::bag(&[10; 400], &[2, 2]);
        assert!(alike.place(&[]).is_empty(), "none is long");
    }

    #[test]
    fn running_tasks_keep_their_slots() {
        // Rank 0 runs two tasks for 500 more, rank 1 one for 2000.
        let mut case = Case::bag(&[500, 500, 2000, 900, 800, 700], &[2, 2]);
        case.place(&[(TaskId(0), 0), (TaskId(1), 0), (TaskId(2), 1)]);
        assert_eq!(case.home[3..6], [1, 0, 0]);
        // A rank that takes no tasks still ends what it runs.
        let mut case = Case::bag(&[500, 900, 800], &[0, 1, 1]);
        case.place(&[(TaskId(0), 0)]);
        assert_eq!(case.home[1..3], [1, 2]);
    }

    #[test]
    fn a_slow_rank_gets_what_ends_there_first() {
        // Rank 1 needs four times as long: it ends one task of 100 when rank 0 ends the fourth.
        let mut case = Case::bag(&[100; 5], &[1, 1]);
        case.place_on(&[1.0, 0.25], &[], &|_| true);
        assert_eq!(case.home[..5].iter().filter(|&&home| home == 1).count(), 1, "{:?}", case.home);
        // One that runs there ends soon, and yet the other is no better.
        let mut case = Case::bag(&[60, 100], &[1, 1]);
        case.place_on(&[1.0, 0.25], &[(TaskId(0), 0)], &|_| true);
        assert_eq!(case.home[..2], [0, 0]);
    }

    #[test]
    fn what_cannot_be_stolen_stays() {
        let mut case = Case::bag(&[1000, 1000, 1000, 1000], &[1, 1]);
        let is_long = case.place_on(&[1.0; 2], &[], &|task| task.0 > 1);
        assert_eq!(is_long[..4], [false, false, true, true]);
        assert_eq!(case.home[..4], [0, 0, 0, 1]);
        assert!(case.place_on(&[1.0; 2], &[], &|_| false).is_empty());
    }

    #[test]
    fn a_chain_of_long_tasks_moves_as_a_whole() {
        let link = |(from, to)| Link { from, to, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 };
        let links: Vec<Link> = (0..16).map(|task| (task, task + 4)).map(link).collect();
        let graph = TaskGraph::build(&[1; 20], &links).unwrap();
        let home = vec![0; graph.node_count()];
        let mut case = Case { graph, work: vec![100; 20], slots: vec![1; 4], home };
        case.place(&[]);
        let mut ranks: Vec<u32> = case.home[..4].to_vec();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2, 3]);
        assert!((4..20).all(|task| case.home[task] == case.home[task - 4]), "{:?}", case.home);
    }
}
