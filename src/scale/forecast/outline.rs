//! The outline of a graph: few chunks of like tasks in place of many tasks, so that a decision takes milliseconds whatever the size.
//!
//! A chunk holds tasks of one level, class and width that lie side by side in the job; up to a limit every task is a chunk of its own
//! and nothing is lost. A chunk can be started in parts of any size, so bags, sweeps and fork-joins lose nothing either. What is lost
//! beyond the limit is that a chunk waits for *all* tasks of the chunks before it. Graphs with more levels than the limit are cut
//! into bands of levels, each a chunk that runs in as many waves as it has levels.
//!
//! An outline is made once and remains right while tasks end; it is made anew when the remaining tasks have halved.

use rustc_hash::FxHashSet;

use crate::graph::TaskGraph;
use crate::graph::csr::Csr;
use crate::scale::observation::{Remaining, RemainingTask};

/// Marks a node that is in no chunk.
pub(super) const NONE: u32 = u32::MAX;

/// Chunks with the dependencies between them. Chunks are numbered so that none needs one of a higher number.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    /// For each node of the graph its chunk.
    pub of: Vec<u32>,
    /// For each chunk the slots that one of its tasks takes; 0 for a join.
    pub slots: Vec<u32>,
    /// For each chunk how many of its tasks run in one wave: all of them, but for bands.
    pub wave: Vec<u32>,
    /// From each chunk to those that need it.
    pub successors: Csr,
    /// How many tasks remained when it was made.
    pub made_for: u64,
}

/// A remaining node, as it is sorted into chunks.
#[derive(Clone, Copy)]
struct Member {
    level: u32,
    /// False for joins, which come first within their level: tasks of that level may need them.
    task: bool,
    class: u32,
    slots: u32,
    node: u32,
}

/// By what nodes are put together, from fine to coarse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grain {
    /// Every task by itself.
    Task,
    /// Level, class and slots.
    Class,
    /// Level and slots.
    Level,
    /// So many levels together.
    Band(u32),
}

impl Outline {
    /// Outlines what remains of a graph: task by task up to `exact` nodes, in about `limit` chunks beyond.
    pub fn new(remaining: &dyn Remaining, levels: &[u32], exact: usize, limit: usize) -> Outline {
        let graph = remaining.graph();
        let mut members = members(remaining, levels);
        let made_for = members.iter().filter(|m| m.task).count() as u64;
        let grain = if members.len() <= exact { Grain::Task } else { choose_grain(&members, limit) };
        members.sort_unstable_by_key(|m| sort_key(m, grain));
        let mut outline = Outline { of: vec![NONE; graph.node_count()], made_for, ..Outline::default() };
        outline.cut(&members, grain, limit);
        outline.connect(graph, &members);
        outline
    }

    /// Gives every member its chunk; equal shares of each group of like members.
    fn cut(&mut self, members: &[Member], grain: Grain, limit: usize) {
        for group in members.chunk_by(|a, b| group_key(a, grain) == group_key(b, grain)) {
            let share = (group.len() * limit) / members.len().max(1);
            let pieces = match grain {
                Grain::Task => group.len(),
                Grain::Band(_) => 1,
                Grain::Class | Grain::Level => share.clamp(1, group.len()),
            };
            let size = group.len().div_ceil(pieces);
            for piece in group.chunks(size) {
                let chunk = self.slots.len() as u32;
                piece.iter().for_each(|m| self.of[m.node as usize] = chunk);
                self.slots.push(piece.iter().map(|m| m.slots).max().unwrap_or(0));
                self.wave.push(match grain {
                    Grain::Band(_) => (piece.iter().filter(|m| m.task).count() as u32).div_ceil(distinct_levels(piece)),
                    _ => piece.len() as u32,
                });
            }
        }
    }

    /// Makes one edge of all edges between the members of two chunks.
    fn connect(&mut self, graph: &TaskGraph, members: &[Member]) {
        let mut pairs: Vec<u64> = Vec::new();
        let mut last = (NONE, NONE);
        for member in members {
            let from = self.of[member.node as usize];
            for edge in graph.successors(member.node) {
                let to = self.of[edge.node() as usize];
                if to != NONE && to != from && last != (from, to) {
                    last = (from, to);
                    pairs.push(u64::from(from) << 32 | u64::from(to));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        // As many as the graph has edges, so not too many.
        self.successors = Csr::build(self.slots.len(), |put| {
            pairs.iter().for_each(|&pair| put((pair >> 32) as u32, pair as u32));
        })
        .unwrap_or_default();
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

/// All remaining tasks, and the joins among what they lead to.
fn members(remaining: &dyn Remaining, levels: &[u32]) -> Vec<Member> {
    let graph = remaining.graph();
    let tasks = graph.task_count() as u32;
    let mut members = Vec::new();
    let mut joins: FxHashSet<u32> = FxHashSet::default();
    remaining.each(&mut |t: RemainingTask| {
        let node = t.task.0;
        members.push(Member {
            level: levels[node as usize],
            task: true,
            class: t.class.0,
            slots: t.slots.max(1),
            node,
        });
        joins.extend(graph.successors(node).map(|e| e.node()).filter(|&n| n >= tasks));
    });
    members.extend(joins.into_iter().map(|node| Member {
        level: levels[node as usize],
        task: false,
        class: node,
        slots: 0,
        node,
    }));
    members
}

fn choose_grain(members: &[Member], limit: usize) -> Grain {
    let groups = |grain| {
        let keys: FxHashSet<(u32, bool, u32, u32)> = members.iter().map(|m| group_key(m, grain)).collect();
        keys.len()
    };
    // Half of the limit is left for cutting wide groups into pieces.
    let enough = limit / 2;
    if groups(Grain::Class) <= enough {
        return Grain::Class;
    }
    if groups(Grain::Level) <= enough {
        return Grain::Level;
    }
    let levels = members.iter().map(|m| m.level).max().unwrap_or(0) + 1;
    Grain::Band(levels.div_ceil((limit / 4).max(1) as u32).max(1))
}

fn group_key(m: &Member, grain: Grain) -> (u32, bool, u32, u32) {
    match grain {
        Grain::Task => (m.level, m.task, m.class, m.node),
        Grain::Class => (m.level, m.task, m.class, m.slots),
        Grain::Level if m.task => (m.level, true, 0, m.slots),
        Grain::Level => (m.level, false, m.class, 0),
        Grain::Band(height) => (m.level / height, true, 0, 0),
    }
}

fn sort_key(m: &Member, grain: Grain) -> ((u32, bool, u32, u32), u32) {
    (group_key(m, grain), m.node)
}

fn distinct_levels(members: &[Member]) -> u32 {
    let levels: FxHashSet<u32> = members.iter().filter(|m| m.task).map(|m| m.level).collect();
    (levels.len() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::LinkShape;
    use crate::scale::testing::World;

    fn outline(world: &World, limit: usize) -> Outline {
        Outline::new(world, &world.graph.levels(), limit, limit)
    }

    /// No chunk needs a chunk of a higher number, and every task is in one.
    fn check(outline: &Outline, world: &World) {
        for chunk in 0..outline.len() {
            assert!(outline.successors.row(chunk).iter().all(|&next| next as usize > chunk));
        }
        assert!((0..world.graph.task_count()).all(|t| outline.of[t] != NONE));
    }

    #[test]
    fn small_graphs_are_kept_task_by_task() {
        let world = World::phases(&[5, 7], 1.0);
        let outline = outline(&world, 100);
        assert_eq!(outline.len(), 13, "twelve tasks and a join");
        check(&outline, &world);
    }

    #[test]
    fn wide_graphs_are_cut_into_pieces_and_keep_their_shape() {
        let each = World::new(&[10_000, 10_000], &[(0, 1, LinkShape::Each)], &[1.0, 2.0]);
        let outline = outline(&each, 200);
        check(&outline, &each);
        assert!((150..=210).contains(&outline.len()), "{}", outline.len());
        let first = outline.of[0] as usize;
        assert_eq!(outline.successors.row(first).len(), 1, "element by element stays piece by piece");
    }

    #[test]
    fn deep_graphs_become_bands() {
        let chain = World::chain(10_000, 1.0);
        let outline = outline(&chain, 100);
        check(&outline, &chain);
        assert!(outline.len() <= 30, "{}", outline.len());
        assert!(outline.wave.iter().all(|&wave| wave == 1));
        assert_eq!(outline.successors.len(), outline.len() - 1);
    }
}
