//! Chooses new homes for open tasks when ranks join or leave, or carry unequal shares of the work.
//!
//! Long tasks that any rank may steal move first, to the ranks where they can end first
//! (`graph::long_tasks`). Any other task moves only if it must (its rank is no longer active, or
//! cannot run it) or, when the remaining work is balanced, as part of the excess share of its rank.
//! It goes to a rank below its share, by remaining work per slot (slow and unreliable ranks count
//! for less, `score`): to the home of most of its predecessors if that is such a rank, otherwise to
//! the rank with the best score. Only ranks that suit it are considered: those with special
//! equipment are kept free for tasks that need it. Tasks follow their predecessors, so a chain
//! moves as a whole. Where the job asks for a placement by load alone, its rule chooses the rank
//! instead. Tasks that an active rank runs or is about to run stay there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::dependency_counts::End;
use super::membership::Member;
use super::score::RankRecord;
use crate::graph::TaskGraph;
use crate::graph::deal::{Dealer, LoadRule, RankLoad};
use crate::graph::long_tasks::{self, OpenWork, RankSpeed};
use crate::model::{Labels, NodeNeed, Rank, TaskId};

/// Approximate time in nanoseconds per node of the graph that rank 0 needs to choose new homes and
/// to cut the parts anew.
pub(super) const NODE_NS: u64 = 100;

/// Approximate further time per node where tasks are long.
pub(super) const LONG_NODE_NS: u64 = 400;

/// A task that has been running for as long as was estimated still takes one part of that, divided
/// into this number.
const OVERDUE_PARTS: u64 = 8;

/// Home of a node that has none yet.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Facts about tasks that the choice of homes depends on.
pub trait Advice: Send {
    /// The class of a task: a number shared by all tasks that are expected to take equally long (in
    /// proportion to [`Advice::work`]) and to fail equally often, and a range of task numbers
    /// around it that belong to that class.
    fn class(&self, task: TaskId) -> (u32, Range<u32>);
    /// Estimated duration of a task in nanoseconds.
    fn work(&self, task: TaskId) -> u64;
    /// Slots that a task takes.
    fn width(&self, task: TaskId) -> u32 {
        let _ = task;
        1
    }
    /// True for a task that any rank may steal: it needs one slot and nothing else.
    fn is_movable(&self, task: TaskId) -> bool {
        let _ = task;
        true
    }
    /// True if a rank has the resources for a task; then so has a rank with more of them. A task
    /// that no single rank can hold may be at home on any.
    fn fits(&self, task: TaskId, member: &Member) -> bool;
    /// True if a rank has the resources for a task and is not kept free for tasks that fewer ranks
    /// can run.
    fn suits(&self, task: TaskId, member: &Member) -> bool {
        self.fits(task, member)
    }
    /// True if some tasks are such that only some of the ranks can run them.
    fn binds_tasks(&self) -> bool {
        false
    }
    /// True for such a task.
    fn is_bound(&self, task: TaskId) -> bool {
        let _ = task;
        false
    }
    /// The labels that a rank must have to run a task.
    fn labels(&self, task: TaskId) -> Labels {
        let _ = task;
        Labels::default()
    }
    /// What a node must have to run a task.
    fn need(&self, task: TaskId) -> NodeNeed {
        NodeNeed { labels: self.labels(task), ..NodeNeed::default() }
    }
    /// The sets of labels that tasks of the job ask for, each once.
    fn label_sets(&self) -> &[Labels] {
        &[]
    }
    /// The rule by which tasks that change their home are dealt; `None`: they follow their
    /// predecessors while there is room, otherwise to the rank with the most room.
    fn load_rule(&self) -> Option<LoadRule> {
        None
    }
    /// True if tasks read, on the disk of their node, what others have written there: then it
    /// matters where these ran.
    fn passes_files(&self) -> bool {
        false
    }
    /// Learns the ranks that tasks run on from now on.
    fn meet(&mut self, members: &[Member]);
}

/// The remaining work and the ranks.
pub(super) struct Remains<'a> {
    pub(super) graph: &'a TaskGraph,
    /// For each node how it ended, if it has.
    pub(super) ended: &'a [Option<End>],
    /// The rank that runs or is about to run a task.
    pub(super) kept: &'a FxHashMap<TaskId, Rank>,
    /// How long a kept task has been running, in nanoseconds; 0 if that is not known.
    pub(super) elapsed: &'a dyn Fn(TaskId) -> u64,
    /// All ranks; an inactive one has no slots.
    pub(super) members: &'a [Member],
    /// What each rank has shown so far.
    pub(super) record: &'a dyn Fn(Rank) -> RankRecord,
    pub(super) advice: &'a dyn Advice,
    /// Tasks that have completed on another rank than their home, with that rank, where it matters.
    pub(super) made: &'a FxHashMap<TaskId, Rank>,
    /// True to balance the work, false to move only long tasks and what must move.
    pub(super) even_out: bool,
}

impl Remains<'_> {
    fn work(&self, node: u32) -> u64 {
        if (node as usize) < self.graph.task_count() { self.advice.work(TaskId(node)).max(1) } else { 0 }
    }

    /// The work of a node that has not been done yet.
    fn rest(&self, node: u32) -> u64 {
        if self.ended[node as usize].is_some() {
            return 0;
        }
        let work = self.work(node);
        match self.kept.contains_key(&TaskId(node)) {
            true => work.saturating_sub((self.elapsed)(TaskId(node))).max(work / OVERDUE_PARTS),
            false => work,
        }
    }

    fn fits(&self, node: u32, rank: u32) -> bool {
        let (Some(member), task) = (self.members.get(rank as usize), TaskId(node)) else { return false };
        let is_join = (node as usize) >= self.graph.task_count();
        member.slots > 0 && (is_join || self.advice.fits(task, member))
    }

    /// True if a task that moves may go to a rank.
    fn suits(&self, node: u32, rank: u32) -> bool {
        let (Some(member), task) = (self.members.get(rank as usize), TaskId(node)) else { return false };
        let is_join = (node as usize) >= self.graph.task_count();
        member.slots > 0 && (is_join || self.advice.suits(task, member))
    }
}

/// Open tasks that no rank can take.
#[derive(Debug, Default)]
pub(super) struct Homeless {
    /// Their number.
    pub(super) tasks: u32,
    /// One task of each array.
    pub(super) some: Vec<TaskId>,
    /// True if long tasks were placed, which takes rank 0 longer.
    pub(super) has_long: bool,
}

/// Chooses homes anew. Returns the open tasks that no rank can take: they are at home on an active
/// rank, which counts what they wait for and does not start them. A task kept by an inactive rank
/// that no other can take is at home there.
pub(super) fn choose(remains: &Remains<'_>, home: &mut [u32]) -> Homeless {
    let before = home.to_vec();
    let placed = if remains.advice.load_rule().is_some() { Vec::new() } else { place_long_tasks(remains, home) };
    let is_placed = |node: u32| placed.get(node as usize) == Some(&true);
    let mut scales = Scales::new(remains, home, &is_placed);
    let mut dealer = remains.advice.load_rule().map(|rule| dealer(rule, remains, home));
    let mut homeless = Homeless { has_long: !placed.is_empty(), ..Homeless::default() };
    let mut alike = 0..0;
    let active = (0..).zip(remains.members).find(|(_, member)| member.slots > 0).map(|(rank, _)| rank);
    for node in remains.graph.topological().iter().filter(|&node| remains.ended[node as usize].is_none()) {
        let at = home[node as usize];
        let next = match remains.kept.get(&TaskId(node)) {
            Some(keeper) if !remains.fits(node, at) => Some(keeper.0).filter(|&rank| remains.fits(node, rank)),
            Some(_) => Some(at),
            None if is_placed(node) && remains.fits(node, at) => Some(at),
            None if remains.fits(node, at) => Some(scales.lighten(remains, (&before, home), node, &mut dealer)),
            None => None,
        };
        let next = next.or_else(|| match &mut dealer {
            Some(dealer) => dealer.choose(remains.work(node), &|rank| remains.suits(node, rank)),
            None => scales.near(remains, home, node).or_else(|| scales.lightest(remains, node)),
        });
        // A home must receive the result. The rank that runs the task can also retry it.
        let next = next.or_else(|| remains.kept.get(&TaskId(node)).map(|keeper| keeper.0));
        match next {
            Some(next) => {
                scales.carry(remains.work(node), at, next);
                if let Some(dealer) = dealer.as_mut().filter(|_| next != at) {
                    if at != NOWHERE {
                        dealer.take(at, remains.work(node));
                    }
                    dealer.give(next, remains.work(node));
                }
                home[node as usize] = next;
            }
            None if (node as usize) < remains.graph.task_count() => {
                homeless.tasks += 1;
                if remains.members.get(at as usize).is_none_or(|member| member.slots == 0) {
                    home[node as usize] = active.unwrap_or(at);
                }
                if !alike.contains(&node) {
                    alike = remains.advice.class(TaskId(node)).1;
                    homeless.some.push(TaskId(node));
                }
            }
            None => {}
        }
    }
    homeless
}

/// Moves the long tasks to the ranks where they can end first; returns whether each node is one.
/// Tasks that any rank may steal suit the same ranks.
fn place_long_tasks(remains: &Remains<'_>, home: &mut [u32]) -> Vec<bool> {
    let mut open = (0..remains.graph.task_count() as u32).filter(|&task| remains.ended[task as usize].is_none());
    let Some(plain) = open.find(|&task| remains.advice.is_movable(TaskId(task))) else { return Vec::new() };
    let speed = |(rank, member): (u32, &Member)| RankSpeed {
        slots: member.slots,
        pace: (remains.record)(Rank(rank)).pace(),
        is_open: remains.suits(plain, rank),
    };
    let ranks: Vec<RankSpeed> = (0..).zip(remains.members).map(speed).collect();
    let work: Vec<u64> = (0..remains.graph.node_count() as u32).map(|node| remains.rest(node)).collect();
    let mut running: Vec<(TaskId, u32)> = remains.kept.iter().map(|(&task, rank)| (task, rank.0)).collect();
    running.sort_unstable();
    let open = OpenWork {
        graph: remains.graph,
        work: &work,
        width: &|task| remains.advice.width(task),
        is_movable: &|task| remains.advice.is_movable(task),
        running: &running,
        ranks: &ranks,
    };
    long_tasks::place(&open, home)
}

/// Deals tasks by a rule to ranks with the open tasks that they have.
fn dealer(rule: LoadRule, remains: &Remains<'_>, home: &[u32]) -> Dealer {
    let load = |(rank, member): (u32, &Member)| {
        let speed = (remains.record)(Rank(rank)).pace();
        RankLoad { slots: member.slots, speed, ..RankLoad::default() }
    };
    let mut loads: Vec<RankLoad> = (0..).zip(remains.members).map(load).collect();
    for task in (0..remains.graph.task_count()).filter(|&task| remains.ended[task].is_none() && home[task] != NOWHERE) {
        let load = &mut loads[home[task] as usize];
        (load.tasks, load.work) = (load.tasks + 1, load.work + u128::from(remains.work(task as u32)));
    }
    Dealer::new(rule, loads)
}

/// The work that each rank has, and the share that it should have.
struct Scales {
    load: Vec<u128>,
    share: Vec<u128>,
    /// Strength in hundredths of a slot, adjusted for what the rank has shown.
    strength: Vec<u128>,
    /// The work that a task would find before it because slots are busy.
    busy: Vec<u128>,
    /// The work of each rank without its long tasks, how much of that it must give away, and (times
    /// what may move) how much of it is due now.
    had: Vec<u128>,
    give: Vec<u128>,
    due: Vec<u128>,
    /// Ranks by score, the best first; an outdated entry is corrected when it is taken.
    lightest: BinaryHeap<Reverse<(u128, u32)>>,
}

impl Scales {
    fn new(remains: &Remains<'_>, home: &[u32], is_placed: &dyn Fn(u32) -> bool) -> Scales {
        let ranks = remains.members.len();
        let (mut load, mut had) = (vec![0u128; ranks], vec![0u128; ranks]);
        for node in remains.graph.topological().iter().filter(|&node| remains.ended[node as usize].is_none()) {
            if let Some(load) = load.get_mut(home[node as usize] as usize) {
                *load += u128::from(remains.work(node));
                if !is_placed(node) {
                    had[home[node as usize] as usize] += u128::from(remains.work(node));
                }
            }
        }
        let records: Vec<RankRecord> = (0..ranks as u32).map(|rank| (remains.record)(Rank(rank))).collect();
        let hundredths = |(record, member): (&RankRecord, &Member)| {
            u128::from(member.slots) * ((100.0 * record.pace()) as u128).max(1)
        };
        let strength: Vec<u128> = records.iter().zip(remains.members).map(hundredths).collect();
        let all = strength.iter().sum::<u128>().max(1);
        let total: u128 = load.iter().sum();
        let share: Vec<u128> = strength.iter().map(|&strength| (total * strength).div_ceil(all)).collect();
        let excess = |((&load, &share), &had): ((&u128, &u128), &u128)| match remains.even_out {
            true => load.saturating_sub(share).min(had),
            false => 0,
        };
        let give = load.iter().zip(&share).zip(&had).map(excess).collect();
        let open = remains.ended.iter().filter(|ended| ended.is_none()).count().max(1) as u128;
        let busy =
            |(record, member): (&RankRecord, &Member)| record.wait(total / open).saturating_mul(member.slots.into());
        let busy = records.iter().zip(remains.members).map(busy).collect();
        let (due, lightest) = (vec![0; ranks], BinaryHeap::new());
        let mut scales = Scales { due, had, load, share, strength, busy, give, lightest };
        let able = (0..ranks as u32).filter(|&rank| scales.strength[rank as usize] > 0);
        scales.lightest = able.map(|rank| Reverse((scales.score(rank), rank))).collect();
        scales
    }

    /// How late a task would be on a rank: the lower, the better.
    fn score(&self, rank: u32) -> u128 {
        let at = rank as usize;
        (self.load[at] + self.busy[at]) / self.strength[at]
    }

    fn carry(&mut self, work: u64, from: u32, to: u32) {
        if let Some(load) = self.load.get_mut(from as usize) {
            *load = load.saturating_sub(work.into());
        }
        self.load[to as usize] += u128::from(work);
    }

    fn has_room(&self, rank: u32) -> bool {
        self.load.get(rank as usize).is_some_and(|&load| load < self.share[rank as usize])
    }

    /// The new home of a task that may stay: with its predecessors, or away as part of its rank's
    /// excess.
    fn lighten(
        &mut self,
        remains: &Remains<'_>,
        (before, home): (&[u32], &[u32]),
        node: u32,
        dealer: &mut Option<Dealer>,
    ) -> u32 {
        let at = home[node as usize];
        if self.give[at as usize] == 0 {
            return at;
        }
        let open = |p: &u32| remains.ended[*p as usize].is_none() && before[*p as usize] == at;
        let leader = remains.graph.predecessors(node).map(|edge| edge.node()).find(open);
        if let Some(leader) = leader.filter(|_| dealer.is_none()) {
            let to = home[leader as usize];
            return if self.has_room(to) && remains.suits(node, to) { to } else { at };
        }
        let work = u128::from(remains.work(node));
        self.due[at as usize] += work * self.give[at as usize];
        if self.due[at as usize] < work * self.had[at as usize] {
            return at;
        }
        let to = match dealer {
            Some(dealer) => dealer.choose(remains.work(node), &|to| self.has_room(to) && remains.suits(node, to)),
            None => self.lightest(remains, node).filter(|&to| self.has_room(to)),
        };
        match to {
            Some(to) => {
                self.due[at as usize] -= work * self.had[at as usize];
                to
            }
            None => at,
        }
    }

    /// The rank where most of a task's predecessors ran or are at home, if there is room.
    fn near(&self, remains: &Remains<'_>, home: &[u32], node: u32) -> Option<u32> {
        let place = |before: u32| remains.made.get(&TaskId(before)).map_or(home[before as usize], |rank| rank.0);
        let mut homes: Vec<u32> = remains.graph.predecessors(node).map(|edge| place(edge.node())).collect();
        homes.sort_unstable();
        let runs = homes.chunk_by(|a, b| a == b).filter(|run| self.has_room(run[0]) && remains.suits(node, run[0]));
        runs.max_by_key(|run| (run.len(), Reverse(run[0]))).map(|run| run[0])
    }

    /// The rank with the best score of those that suit a task.
    fn lightest(&mut self, remains: &Remains<'_>, node: u32) -> Option<u32> {
        let mut passed = Vec::new();
        let mut found = None;
        while let Some(Reverse((load, rank))) = self.lightest.pop() {
            let now = self.score(rank);
            if load < now {
                self.lightest.push(Reverse((now, rank)));
                continue;
            }
            passed.push(Reverse((now, rank)));
            if remains.suits(node, rank) {
                found = Some(rank);
                break;
            }
        }
        self.lightest.extend(passed);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Condition, Link, LinkShape};

    #[derive(Default)]
    struct Alike(Option<LoadRule>);

    impl Advice for Alike {
        fn class(&self, _: TaskId) -> (u32, Range<u32>) {
            (0, 0..u32::MAX)
        }

        fn work(&self, _: TaskId) -> u64 {
            10
        }

        fn fits(&self, task: TaskId, member: &Member) -> bool {
            task.0 != 99 || member.gpus > 0
        }

        fn load_rule(&self) -> Option<LoadRule> {
            self.0
        }

        fn meet(&mut self, _: &[Member]) {}
    }

    fn chosen(graph: &TaskGraph, home: &[u32], slots: &[u32], kept: &[(u32, u32)], even_out: bool) -> (Vec<u32>, u32) {
        chosen_by(&Alike(None), graph, home, slots, kept, even_out)
    }

    /// Homes after a rank has left, with tasks that have ended on other ranks than their home.
    fn chosen_after(graph: &TaskGraph, home: &[u32], slots: &[u32], made: &[(u32, u32)]) -> Vec<u32> {
        let ended: Vec<Option<End>> = (0..graph.node_count() as u32)
            .map(|node| made.iter().any(|made| made.0 == node).then_some(End::Completed))
            .collect();
        let made = made.iter().map(|&(task, rank)| (TaskId(task), Rank(rank))).collect();
        let members: Vec<Member> = slots.iter().map(|&slots| Member { slots, ..Member::default() }).collect();
        let remains = Remains {
            graph,
            ended: &ended,
            kept: &FxHashMap::default(),
            elapsed: &|_| 0,
            members: &members,
            record: &|_| RankRecord::default(),
            advice: &Alike(None),
            made: &made,
            even_out: false,
        };
        let mut home = home.to_vec();
        choose(&remains, &mut home);
        home
    }

    #[test]
    fn a_task_goes_where_its_files_were_made() {
        let link = |from, to| Link { from, to, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[40, 40], &[link(0, 1)]).unwrap();
        // All are at home on rank 0, which leaves; the first half of them ran elsewhere.
        let made: Vec<(u32, u32)> = (0..40).map(|task| (task, 1 + task * 7 % 2)).collect();
        let expected: Vec<u32> = made.iter().map(|made| made.1).collect();
        assert_eq!(chosen_after(&graph, &[0; 80], &[0, 1, 1], &made)[40..], expected);
    }

    fn chosen_by(
        advice: &Alike,
        graph: &TaskGraph,
        home: &[u32],
        slots: &[u32],
        kept: &[(u32, u32)],
        even_out: bool,
    ) -> (Vec<u32>, u32) {
        let ended = vec![None; graph.node_count()];
        let kept = kept.iter().map(|&(task, rank)| (TaskId(task), Rank(rank))).collect();
        let members: Vec<Member> = slots.iter().map(|&slots| Member { slots, ..Member::default() }).collect();
        let (members, advice) = (&members[..], advice as &dyn Advice);
        let slow = RankRecord { slowness: 3.0, ..RankRecord::default() };
        let record: &dyn Fn(Rank) -> RankRecord = &|rank| if rank == Rank(7) { slow } else { RankRecord::default() };
        let elapsed = &|_| 0;
        let made = &FxHashMap::default();
        let remains = Remains { graph, ended: &ended, kept: &kept, elapsed, members, record, advice, made, even_out };
        let mut home = home.to_vec();
        let homeless = choose(&remains, &mut home).tasks;
        (home, homeless)
    }

    fn count(home: &[u32], rank: u32) -> usize {
        home.iter().filter(|&&home| home == rank).count()
    }

    #[test]
    fn a_rank_that_joins_gets_its_share_and_nothing_else_moves() {
        let bag = TaskGraph::build(&[90], &[]).unwrap();
        let before: Vec<u32> = (0..90).map(|task| task % 2).collect();
        let (home, homeless) = chosen(&bag, &before, &[1, 1, 1], &[], true);
        assert_eq!((count(&home, 0), count(&home, 1), count(&home, 2), homeless), (30, 30, 30, 0));
        assert!(home.iter().zip(&before).all(|(now, before)| now == before || *now == 2));
        assert_eq!(chosen(&bag, &before, &[1, 1, 1], &[], false).0, before, "nobody must move");
    }

    #[test]
    fn the_tasks_of_a_rank_that_goes_are_shared_out_by_slots() {
        let bag = TaskGraph::build(&[60], &[]).unwrap();
        let before: Vec<u32> = (0..60).map(|task| task % 3).collect();
        let (home, _) = chosen(&bag, &before, &[1, 3, 0], &[(2, 0), (5, 2)], false);
        assert_eq!((count(&home, 2), home[2]), (0, 0), "a task goes home to who runs it");
        assert!(count(&home, 1) > 35, "{home:?}");
    }

    #[test]
    fn few_tasks_go_where_slots_are_free_even_if_none_must_move() {
        let bag = TaskGraph::build(&[4], &[]).unwrap();
        let home = |kept: &[(u32, u32)]| chosen(&bag, &vec![0; bag.node_count()], &[1, 1], kept, false).0[..4].to_vec();
        assert_eq!(home(&[]), [0, 1, 0, 1]);
        assert_eq!(home(&[(0, 0), (1, 0)]), [0, 0, 1, 1], "two are under way on rank 0");
    }

    #[test]
    fn every_rule_deals_what_must_move_and_what_is_too_much() {
        use LoadRule::{DynamicThreshold, LeastLoaded, Predictive, RoundRobin, WeightedRoundRobin};
        let bag = TaskGraph::build(&[120], &[]).unwrap();
        for rule in [RoundRobin, LeastLoaded, WeightedRoundRobin, DynamicThreshold, Predictive] {
            let by = |home: &[u32], slots: &[u32], even_out| {
                let (home, homeless) = chosen_by(&Alike(Some(rule)), &bag, home, slots, &[(2, 0), (5, 1)], even_out);
                assert_eq!(homeless, 1, "{rule:?}: 99 fits nowhere");
                (0..slots.len() as u32).map(|rank| count(&home, rank)).collect::<Vec<_>>()
            };
            let thirds: Vec<u32> = (0..120).map(|task| task % 3).collect();
            let left = by(&thirds, &[1, 1, 0], false);
            assert!(left[2] == 0 && left.iter().sum::<usize>() == 120, "{rule:?}: {left:?}");
            assert!(left[0].abs_diff(left[1]) <= 20, "{rule:?}: {left:?}");
            let halves: Vec<u32> = (0..120).map(|task| task % 2).collect();
            let joined = by(&halves, &[1, 1, 1], true);
            assert!(joined.iter().all(|&tasks| (38..=42).contains(&tasks)), "{rule:?}: {joined:?}");
        }
    }

    #[test]
    fn a_slow_rank_gets_less() {
        let bag = TaskGraph::build(&[220], &[]).unwrap();
        let (home, _) = chosen(&bag, &vec![7; 220], &[1; 8], &[], true);
        assert!((9..12).contains(&count(&home, 7)), "one that takes three times as long: {home:?}");
    }

    #[test]
    fn chains_move_whole() {
        let links: Vec<Link> = (1..5)
            .map(|to| Link { from: to - 1, to, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 })
            .collect();
        let chains = TaskGraph::build(&[10; 5], &links).unwrap();
        let (home, _) = chosen(&chains, &[0; 50], &[1, 1], &[], true);
        assert_eq!(count(&home, 1), 25);
        assert!((0..10).all(|chain| (1..5).all(|step| home[chain] == home[chain + 10 * step])), "{home:?}");
    }

    #[test]
    fn what_fits_nowhere_stays_and_is_counted() {
        let bag = TaskGraph::build(&[100], &[]).unwrap();
        let (home, homeless) = chosen(&bag, &[1; 100], &[1, 0], &[], false);
        assert_eq!((count(&home, 1), home[99], homeless), (0, 0, 1), "a rank that takes part counts for it");
        assert_eq!(chosen(&bag, &[1; 100], &[0, 0], &[], true).1, 100);
    }
}
