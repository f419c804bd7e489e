//! Generates graphs from a seed; the result is the same on any number of ranks.
//!
//! `kron` and `urand` are those of the GAP benchmark suite (Beamer, Asanovic and Patterson, arXiv
//! 1508.03619, section 4): edges in blocks of 2^18, each from a Mersenne twister seeded with seed +
//! block; the ids of `kron` are shuffled afterwards. With GAP's seed the graphs are identical to
//! GAP's. `grid` connects neighbours in a rectangle of 2^scale vertices.

use rayon::prelude::*;

use super::exchange::{Exchange, largest};
use super::ids::VertexIds;
use super::part::GraphPart;
use super::rows::EdgeList;
use super::{DataGraphError, Vertex};

/// GAP's seed.
pub const GAP_SEED: u32 = 27_491_095;

/// Edges per block.
const EDGES_PER_BLOCK: u64 = 1 << 18;

/// The parameters of a generated graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generator {
    /// The kind of graph.
    pub kind: GeneratedKind,
    /// Binary logarithm of the number of vertices.
    pub scale: u32,
    /// Edges per vertex, before duplicates and loops are removed; ignored for grids.
    pub degree: u32,
    /// Seed of the random number generator.
    pub seed: u32,
}

/// Kinds of generated graphs; all are undirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeneratedKind {
    /// Power-law degrees (Graph500's parameters).
    Kron,
    /// Both ends are uniformly random.
    Urand,
    /// A rectangle in which each vertex has up to four neighbours.
    Grid,
}

impl GeneratedKind {
    /// All kinds, by their names.
    pub const ALL: [(&'static str, GeneratedKind); 3] =
        [("kron", GeneratedKind::Kron), ("urand", GeneratedKind::Urand), ("grid", GeneratedKind::Grid)];

    /// The kind of that name.
    pub fn named(name: &str) -> Option<GeneratedKind> {
        GeneratedKind::ALL.iter().find(|known| known.0 == name).map(|known| known.1)
    }
}

impl Generator {
    /// Number of edges, before duplicates and loops are removed.
    pub fn edges(&self) -> u64 {
        let degree = if self.kind == GeneratedKind::Grid { 2 } else { u64::from(self.degree) };
        degree << self.scale.min(48)
    }

    /// Generates the graph, a part of the edges on each rank, and distributes it. `weigh` computes
    /// the weight of an edge.
    ///
    /// # Errors
    /// If communication fails.
    pub fn part(
        &self,
        exchange: &mut dyn Exchange,
        weigh: Option<&(dyn Fn(u64, u64) -> f64 + Sync)>,
    ) -> Result<GraphPart, DataGraphError> {
        let mut ends = match self.kind {
            GeneratedKind::Grid => self.grid(exchange),
            GeneratedKind::Kron | GeneratedKind::Urand => self.random(exchange),
        };
        ends.retain(|&(u, v)| u != v);
        // As in GAP, vertices after the last one with an edge do not exist.
        let last = ends.par_iter().map(|&(u, v)| u64::from(u.max(v)) + 1).max().unwrap_or(0);
        let [count] = largest(exchange, [last])?;
        let count = if self.kind == GeneratedKind::Grid { 1 << self.scale } else { count };
        let weights = weigh.map(|weigh| ends.par_iter().map(|&(u, v)| weigh(u64::from(u), u64::from(v))).collect());
        let ids = VertexIds::Dense { first: 0, count: count as Vertex };
        GraphPart::build(exchange, ids, EdgeList { ends, weights }, false)
    }

    fn random(&self, exchange: &dyn Exchange) -> Vec<(Vertex, Vertex)> {
        let edges = u64::from(self.degree) << self.scale;
        let shuffled = (self.kind == GeneratedKind::Kron).then(|| permutation(1 << self.scale, self.seed));
        let blocks: Vec<u64> = (0..edges.div_ceil(EDGES_PER_BLOCK))
            .filter(|block| *block as usize % exchange.ranks() == exchange.place())
            .collect();
        let of_block = |&block: &u64| -> Vec<(Vertex, Vertex)> {
            let mut random = Twister::new(self.seed.wrapping_add(block as u32));
            let count = EDGES_PER_BLOCK.min(edges - block * EDGES_PER_BLOCK);
            (0..count)
                .map(|_| match &shuffled {
                    Some(to) => {
                        let (u, v) = kron_edge(&mut random, self.scale);
                        (to[u as usize], to[v as usize])
                    }
                    None => {
                        let mask = (1u32 << self.scale) - 1;
                        // 2^32 is a multiple of the number of vertices. GAP's compiled code draws
                        // the second end first.
                        let v = random.next() & mask;
                        (random.next() & mask, v)
                    }
                })
                .collect()
        };
        blocks.par_iter().map(of_block).collect::<Vec<_>>().concat()
    }

    fn grid(&self, exchange: &dyn Exchange) -> Vec<(Vertex, Vertex)> {
        let (columns, count) = (1u32 << self.scale.div_ceil(2), 1u64 << self.scale);
        let (ranks, place) = (exchange.ranks() as u64, exchange.place() as u64);
        let own = (count * place / ranks) as u32..(count * (place + 1) / ranks) as u32;
        let right = |v: u32| (v % columns + 1 < columns).then(|| (v, v + 1));
        let below = |v: u32| (u64::from(v) + u64::from(columns) < count).then(|| (v, v + columns));
        own.flat_map(|v| right(v).into_iter().chain(below(v))).collect()
    }
}

fn kron_edge(random: &mut Twister, scale: u32) -> (u32, u32) {
    // The products are truncated, as in GAP.
    const A: u32 = (0.57 * u32::MAX as f64) as u32;
    const B: u32 = (0.19 * u32::MAX as f64) as u32;
    const C: u32 = B;
    let (mut u, mut v) = (0, 0);
    for _ in 0..scale {
        let point = random.next();
        (u, v) = (u << 1, v << 1);
        if point < A + B {
            v += u32::from(point > A);
        } else {
            u += 1;
            v += u32::from(point > A + B + C);
        }
    }
    (u, v)
}

/// The permutation made by the C++ standard library of GCC 11 and later (`std::shuffle`: Fisher and
/// Yates, two positions from one number while their product fits).
fn permutation(count: usize, seed: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..count as u32).collect();
    let mut random = Twister::new(seed);
    let mut next = 1;
    if (count as u64) * (count as u64) <= u64::from(u32::MAX) {
        if count.is_multiple_of(2) && count > 1 {
            all.swap(1, random.below(2) as usize);
            next = 2;
        }
        while next < count {
            let (first, second) = (next as u64 + 1, next as u64 + 2);
            let both = random.below(first * second);
            all.swap(next, (both / second) as usize);
            all.swap(next + 1, (both % second) as usize);
            next += 2;
        }
    } else {
        while next < count {
            let to = random.below(next as u64 + 1) as usize;
            all.swap(next, to);
            next += 1;
        }
    }
    all
}

/// The Mersenne twister MT19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998).
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Twister {
        let mut state = [seed; 624];
        for i in 1..624 {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Twister { state, at: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (mixed >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut number = self.state[self.at];
        self.at += 1;
        number ^= number >> 11;
        number ^= (number << 7) & 0x9d2c_5680;
        number ^= (number << 15) & 0xefc6_0000;
        number ^ (number >> 18)
    }

    /// A uniform number below `limit` (Lemire, ACM TOMACS 29, 2019, algorithm 5).
    fn below(&mut self, limit: u64) -> u64 {
        let limit = limit as u32;
        let mut product = u64::from(self.next()) * u64::from(limit);
        if (product as u32) < limit {
            let threshold = limit.wrapping_neg() % limit;
            while (product as u32) < threshold {
                product = u64::from(self.next()) * u64::from(limit);
            }
        }
        product >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::exchange::SingleRank;

    #[test]
    fn the_twister_is_the_published_one() {
        let mut random = Twister::new(5489);
        let numbers: Vec<u32> = (0..10_000).map(|_| random.next()).collect();
        // The C++ standard specifies the ten thousandth number.
        assert_eq!((numbers[0], numbers[9_999]), (3_499_211_612, 4_123_659_995));
    }

    #[test]
    fn a_grid_has_the_edges_of_a_rectangle() {
        let grid = Generator { kind: GeneratedKind::Grid, scale: 5, degree: 4, seed: 1 };
        let part = grid.part(&mut SingleRank::unstoppable(), None).unwrap();
        // 4 rows of 8.
        assert_eq!((part.vertices(), part.edges()), (32, 4 * 7 + 3 * 8));
        assert_eq!(part.outgoing().row(9), [1, 8, 10, 17]);
    }
}
