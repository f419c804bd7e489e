//! Divides the remaining graph into chunks: nodes are grouped by a key, groups are cut into pieces,
//! and indistinguishable pieces are merged.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Cell, CoarseGraph, NONE};
use crate::graph::csr::Csr;
use crate::model::TaskId;
use crate::scale::remaining::{ENDED, RemainingWork, TaskFacts};

/// Edges between chunks are deduplicated whenever their list has doubled and has at least this
/// length.
const DISTINCT_FROM: usize = 1 << 16;

/// Pieces of a group are similar if the logarithms of their mean sizes, in these units, are equal.
const SIZE_STEPS: f64 = 8.0;

/// A remaining node, while it is sorted into chunks.
#[derive(Clone, Copy)]
struct SortedNode {
    level: u32,
    node: u32,
    /// `None` for joins, which come first within their level: tasks of that level may need them.
    facts: Option<TaskFacts>,
}

/// The grouping of nodes, from fine to coarse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grain {
    /// Every task alone.
    Task,
    /// Level, class and slots.
    Class,
    /// Level and slots.
    Level,
    /// This number of levels together.
    Band(u32),
}

/// Keys sort so that no group needs a later one.
type ChunkKey = (u32, bool, u32, u32);

/// Nodes of one key.
#[derive(Clone, Copy, Default)]
struct NodeGroup {
    members: usize,
    tasks: usize,
    first_chunk: u32,
    /// Members of each piece.
    piece: usize,
    given: usize,
}

pub(super) fn outline(work: &RemainingWork, old: Option<CoarseGraph>) -> CoarseGraph {
    let graph = work.graph();
    let (levels, cell_of) = match old {
        Some(old) => (old.levels, old.cell_of),
        None => (graph.levels(), vec![NONE; graph.task_count()]),
    };
    let mut divider =
        Divider { work, joins: joins(work), outline: CoarseGraph { levels, cell_of, ..CoarseGraph::default() } };
    divider.divide();
    divider.outline
}

struct Divider<'a> {
    work: &'a RemainingWork,
    /// The joins that depend on remaining tasks, ascending.
    joins: Vec<u32>,
    outline: CoarseGraph,
}

impl Divider<'_> {
    fn divide(&mut self) {
        let members = self.work.count() as usize + self.joins.len();
        let grain = if members <= self.work.exact { Grain::Task } else { self.choose_grain() };
        self.outline.made_for = self.work.count();
        self.outline.is_exact = grain == Grain::Task;
        let (index, mut groups) = self.groups(grain);
        self.cut(grain, &index, &mut groups, members.max(1));
        self.fill(grain, &index, &mut groups);
        let pairs = self.pairs();
        let is_cut = |group: &NodeGroup| group.piece < group.members;
        let pairs = match matches!(grain, Grain::Class | Grain::Level) && groups.iter().any(is_cut) {
            true => self.merge_twins(&groups, pairs),
            false => pairs,
        };
        // At most as many as the graph has edges, so not too many.
        self.outline.successors = Csr::build(self.outline.len(), |put| {
            pairs.iter().for_each(|&(from, to)| put(from, to));
        })
        .unwrap_or_default();
    }

    /// All remaining tasks in order of number, then the joins.
    fn each(&self, each: &mut dyn FnMut(SortedNode)) {
        let levels = &self.outline.levels;
        for node in self.work.open.iter() {
            each(SortedNode { level: levels[node as usize], node, facts: Some(self.work.facts(TaskId(node))) });
        }
        self.joins.iter().for_each(|&node| each(SortedNode { level: levels[node as usize], node, facts: None }));
    }

    fn choose_grain(&self) -> Grain {
        // Leaves half of the chunks for cutting wide groups into pieces.
        let enough = self.work.chunks / 2;
        let (mut by_class, mut by_level) = (FxHashSet::default(), FxHashSet::default());
        let mut last = 0;
        self.each(&mut |member| {
            last = last.max(member.level);
            for (keys, grain) in [(&mut by_class, Grain::Class), (&mut by_level, Grain::Level)] {
                if keys.len() <= enough {
                    keys.insert(key(&member, grain));
                }
            }
        });
        match (by_class.len() <= enough, by_level.len() <= enough) {
            (true, _) => Grain::Class,
            (_, true) => Grain::Level,
            _ => Grain::Band((last + 1).div_ceil((self.work.chunks / 4).max(1) as u32).max(1)),
        }
    }

    /// The groups, and the index of each key's group.
    fn groups(&self, grain: Grain) -> (FxHashMap<ChunkKey, u32>, Vec<NodeGroup>) {
        let mut index: FxHashMap<ChunkKey, u32> = FxHashMap::default();
        let mut groups: Vec<NodeGroup> = Vec::new();
        let mut last = None;
        self.each(&mut |member| {
            let key = key(&member, grain);
            let at = match last {
                Some((known, at)) if known == key => at,
                _ => *index.entry(key).or_insert_with(|| {
                    groups.push(NodeGroup::default());
                    groups.len() as u32 - 1
                }),
            };
            last = Some((key, at));
            groups[at as usize].members += 1;
            groups[at as usize].tasks += usize::from(member.facts.is_some());
        });
        (index, groups)
    }

    /// Cuts every group into pieces, in proportion to its members, and numbers them as chunks.
    fn cut(&mut self, grain: Grain, index: &FxHashMap<ChunkKey, u32>, groups: &mut [NodeGroup], members: usize) {
        let mut keys: Vec<(ChunkKey, u32)> = index.iter().map(|(&key, &at)| (key, at)).collect();
        keys.sort_unstable();
        let heights = self.heights(grain);
        for (key, at) in keys {
            let group = &mut groups[at as usize];
            let pieces = match grain {
                Grain::Task => group.members,
                Grain::Band(_) => 1,
                Grain::Class | Grain::Level => (group.members * self.work.chunks / members).clamp(1, group.members),
            };
            group.piece = group.members.div_ceil(pieces);
            group.first_chunk = self.outline.len() as u32;
            for piece in 0..group.members.div_ceil(group.piece) {
                self.outline.slots.push(0);
                self.outline.wave.push(match grain {
                    Grain::Band(_) => (group.tasks as u32).div_ceil(heights.get(&key.0).copied().unwrap_or(1)),
                    _ => group.piece.min(group.members - piece * group.piece) as u32,
                });
            }
        }
    }

    /// For each band, the number of its levels with tasks.
    fn heights(&self, grain: Grain) -> FxHashMap<u32, u32> {
        let mut heights = FxHashMap::default();
        let Grain::Band(height) = grain else { return heights };
        let mut levels: FxHashSet<u32> = FxHashSet::default();
        self.each(&mut |member| {
            if member.facts.is_some() && levels.insert(member.level) {
                *heights.entry(member.level / height).or_default() += 1;
            }
        });
        heights
    }

    /// Puts every node into its chunk, and counts tasks in cells.
    fn fill(&mut self, grain: Grain, index: &FxHashMap<ChunkKey, u32>, groups: &mut [NodeGroup]) {
        let mut outline = std::mem::take(&mut self.outline);
        let mut cells: FxHashMap<(u32, u32, bool), u32> = FxHashMap::default();
        let mut last = (None, NONE);
        self.outline.levels = std::mem::take(&mut outline.levels);
        self.each(&mut |member| {
            let group = &mut groups[index[&key(&member, grain)] as usize];
            let chunk = group.first_chunk + (group.given / group.piece) as u32;
            group.given += 1;
            let Some(facts) = member.facts else {
                outline.chunk_of_join.insert(member.node, chunk);
                return;
            };
            let name = (chunk, facts.class.0, facts.prior.is_some());
            if last.0 != Some(name) {
                let at = *cells.entry(name).or_insert_with(|| {
                    outline.cells.push(Cell::new(chunk, &facts));
                    outline.cells.len() as u32 - 1
                });
                last = (Some(name), at);
            }
            outline.cell_of[member.node as usize] = last.1;
            let slots = &mut outline.slots[chunk as usize];
            *slots = facts.slots.max(1).max(*slots);
            let cell = &mut outline.cells[last.1 as usize];
            cell.count(&facts, self.work.stages[member.node as usize], 1);
            let size = facts.size() as f64 / 1e9;
            cell.mean_square += size * size;
            cell.largest = cell.largest.max(size);
        });
        for cell in &mut outline.cells {
            cell.mean_square /= f64::from((cell.left + cell.running).max(1));
        }
        outline.levels = std::mem::take(&mut self.outline.levels);
        self.outline = outline;
    }

    /// The chunk of a remaining node.
    fn chunk_of(&self, node: u32) -> u32 {
        match self.work.stages.get(node as usize) {
            Some(&ENDED) => NONE,
            Some(_) => self.outline.chunk_of(TaskId(node)),
            None => self.outline.chunk_of_join.get(&node).copied().unwrap_or(NONE),
        }
    }

    /// The edges between chunks, ascending, each once.
    fn pairs(&self) -> Vec<(u32, u32)> {
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut last = (NONE, NONE);
        let mut distinct_at = DISTINCT_FROM;
        self.each(&mut |member| {
            let from = self.chunk_of(member.node);
            for edge in self.work.graph().successors(member.node) {
                let pair = (from, self.chunk_of(edge.node()));
                if pair.1 != NONE && pair.1 != from && last != pair {
                    last = pair;
                    pairs.push(pair);
                }
            }
            if pairs.len() >= distinct_at {
                pairs.sort_unstable();
                pairs.dedup();
                distinct_at = DISTINCT_FROM.max(2 * pairs.len());
            }
        });
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Merges pieces of a group with the same predecessor and successor chunks and tasks of similar
    /// size. Returns the edges between the resulting chunks.
    fn merge_twins(&mut self, groups: &[NodeGroup], pairs: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
        let chunks = self.outline.len();
        let mut neighbours: Vec<(Vec<u32>, Vec<u32>)> = vec![Default::default(); chunks];
        for &(from, to) in &pairs {
            neighbours[from as usize].1.push(to);
            neighbours[to as usize].0.push(from);
        }
        let mut group_of = vec![0u32; chunks];
        for (number, group) in (0..).zip(groups) {
            let pieces = group.members.div_ceil(group.piece);
            group_of[group.first_chunk as usize..][..pieces].fill(number);
        }
        let mut names: FxHashMap<(u32, i64, Vec<u32>, Vec<u32>), u32> = FxHashMap::default();
        let mut renamed: Vec<u32> = Vec::with_capacity(chunks);
        let (mut slots, mut wave) = (Vec::new(), Vec::new());
        let sizes = self.mean_sizes();
        for (chunk, (before, behind)) in neighbours.into_iter().enumerate() {
            let size = (sizes[chunk].max(1e-9).ln() * SIZE_STEPS).round() as i64;
            let next = slots.len() as u32;
            let name = *names.entry((group_of[chunk], size, before, behind)).or_insert(next);
            if name == next {
                slots.push(self.outline.slots[chunk]);
                wave.push(self.outline.wave[chunk]);
            } else {
                slots[name as usize] = self.outline.slots[chunk].max(slots[name as usize]);
                wave[name as usize] += self.outline.wave[chunk];
            }
            renamed.push(name);
        }
        (self.outline.slots, self.outline.wave) = (slots, wave);
        self.rename(&renamed);
        let mut pairs: Vec<(u32, u32)> =
            pairs.into_iter().map(|(from, to)| (renamed[from as usize], renamed[to as usize])).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// For each chunk the mean size of its tasks, in seconds.
    fn mean_sizes(&self) -> Vec<f64> {
        let mut sums = vec![(0.0, 0.0); self.outline.len()];
        for cell in &self.outline.cells {
            let (size, tasks) = &mut sums[cell.chunk as usize];
            *size += cell.size as f64 / 1e9;
            *tasks += f64::from(cell.left);
        }
        sums.into_iter().map(|(size, tasks)| if tasks > 0.0 { size / tasks } else { 0.0 }).collect()
    }

    /// Renumbers chunks; cells of one class in the same chunk are merged.
    fn rename(&mut self, renamed: &[u32]) {
        let outline = &mut self.outline;
        outline.chunk_of_join.values_mut().for_each(|chunk| *chunk = renamed[*chunk as usize]);
        let mut names: FxHashMap<(u32, u32, bool), u32> = FxHashMap::default();
        let mut cells: Vec<Cell> = Vec::new();
        let mut new_cell = Vec::with_capacity(outline.cells.len());
        for mut cell in std::mem::take(&mut outline.cells) {
            cell.chunk = renamed[cell.chunk as usize];
            let next = cells.len() as u32;
            let name = *names.entry((cell.chunk, cell.class.0, cell.is_sized)).or_insert(next);
            match cells.get_mut(name as usize) {
                Some(known) => known.absorb(&cell),
                None => cells.push(cell),
            }
            new_cell.push(name);
        }
        outline.cells = cells;
        for node in self.work.open.iter() {
            let cell = &mut outline.cell_of[node as usize];
            *cell = new_cell[*cell as usize];
        }
    }
}

impl Cell {
    fn absorb(&mut self, other: &Cell) {
        let weight = |cell: &Cell| f64::from(cell.left + cell.running);
        let both = (weight(self) + weight(other)).max(1.0);
        self.mean_square = (self.mean_square * weight(self) + other.mean_square * weight(other)) / both;
        self.largest = self.largest.max(other.largest);
        self.left += other.left;
        self.ready += other.ready;
        self.running += other.running;
        self.size += other.size;
        self.slot_size += other.slot_size;
    }
}

/// The joins that depend on remaining tasks, ascending.
fn joins(work: &RemainingWork) -> Vec<u32> {
    let graph = work.graph();
    let tasks = graph.task_count() as u32;
    let (mut joins, mut last): (FxHashSet<u32>, u32) = (FxHashSet::default(), NONE);
    for node in work.open.iter() {
        for join in graph.successors(node).map(|edge| edge.node()).filter(|&next| next >= tasks) {
            if join != last {
                joins.insert(join);
                last = join;
            }
        }
    }
    let mut joins: Vec<u32> = joins.into_iter().collect();
    joins.sort_unstable();
    joins
}

fn key(member: &SortedNode, grain: Grain) -> ChunkKey {
    let SortedNode { level, node, facts } = *member;
    match (grain, facts) {
        (Grain::Band(height), _) => (level / height, true, 0, 0),
        (Grain::Task, Some(facts)) => (level, true, facts.class.0, node),
        (Grain::Class, Some(facts)) => (level, true, facts.class.0, facts.slots.max(1)),
        (Grain::Level, Some(facts)) => (level, true, 0, facts.slots.max(1)),
        (_, None) => (level, false, node, 0),
    }
}
