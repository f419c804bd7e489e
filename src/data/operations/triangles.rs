//! Counts triangles and computes local clustering coefficients, ignoring directions and loops.
//!
//! Each edge is oriented from its end of lower degree to that of higher degree. For triangles u ->
//! v -> w, u -> w, the neighbours of u are marked, and the lists of v are searched for marks (Chiba
//! and Nishizeki, SIAM J. Comput. 14, 1985; order by degree as in GAP). A list is sent once to each
//! other rank that owns one of its vertices (Sanders and Uhl, arXiv 2302.11443), in rounds of
//! bounded size.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::data::exchange::{Exchange, largest, push, share, sum};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex};

/// Largest number of list entries that a rank sends in one round, except for a single longer list.
const ROUND: usize = 1 << 22;

/// The result.
pub struct Triangles {
    /// Number of triangles in the graph.
    pub total: u64,
    /// Number of triangles of each own vertex; empty if only the total was requested.
    pub counts: Vec<u64>,
}

/// The neighbours of higher order of each own vertex.
struct Oriented {
    first: Vertex,
    offsets: Vec<usize>,
    targets: Vec<Vertex>,
    /// Number of edges of the graph between the two, 1 or 2; empty if not needed.
    times: Vec<u8>,
    /// Neighbours of each own vertex, in both directions, without itself.
    degrees: Vec<u32>,
}

impl Oriented {
    fn list(&self, v: Vertex) -> (&[Vertex], &[u8]) {
        let at = (v - self.first) as usize;
        let range = self.offsets[at]..self.offsets[at + 1];
        (&self.targets[range.clone()], self.times.get(range).unwrap_or_default())
    }

    fn new(exchange: &mut dyn Exchange, part: &GraphPart, with_times: bool) -> Result<Oriented, DataGraphError> {
        let own = part.own();
        let degree = |v: Vertex| {
            let mut degree = 0;
            neighbours(part, v, |_, _| degree += 1);
            degree
        };
        let degrees: Vec<u32> = own.clone().into_par_iter().map(degree).collect();
        let mut all = vec![0u32; part.vertices() as usize];
        all[own.start as usize..own.end as usize].copy_from_slice(&degrees);
        let everything: Vec<u32> = if exchange.ranks() > 1 { (0..own.len() as u32).collect() } else { Vec::new() };
        share(exchange, part.cuts(), &degrees, &everything, |v, degree| all[v as usize] = degree)?;
        let above = |u: Vertex, v: Vertex| (all[v as usize], v) > (all[u as usize], u);
        let lists: Vec<(Vec<Vertex>, Vec<u8>)> = own
            .clone()
            .into_par_iter()
            .map(|u| {
                let (mut list, mut times) = (Vec::new(), Vec::new());
                neighbours(part, u, |v, both| {
                    if above(u, v) {
                        list.push(v);
                        if with_times {
                            times.push(both);
                        }
                    }
                });
                (list, times)
            })
            .collect();
        let mut offsets = vec![0];
        offsets.extend(lists.iter().scan(0, |sum, list| {
            *sum += list.0.len();
            Some(*sum)
        }));
        let (targets, times): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        Ok(Oriented { first: own.start, offsets, targets: targets.concat(), times: times.concat(), degrees })
    }
}

/// Calls `each` for the neighbours of a vertex in either direction, ascending, with the number of
/// edges between the two; an undirected edge counts as two.
fn neighbours(part: &GraphPart, v: Vertex, mut each: impl FnMut(Vertex, u8)) {
    let out = part.outgoing().row(v);
    if !part.is_directed() {
        out.iter().filter(|&&u| u != v).for_each(|&u| each(u, 2));
        return;
    }
    let into = part.incoming().row(v);
    let (mut a, mut b) = (0, 0);
    while a < out.len() || b < into.len() {
        let (x, y) = (out.get(a).copied().unwrap_or(Vertex::MAX), into.get(b).copied().unwrap_or(Vertex::MAX));
        let next = x.min(y);
        a += usize::from(x == next);
        b += usize::from(y == next);
        if next != v {
            each(next, if x == y { 2 } else { 1 });
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Total,
    Each,
    /// For a vertex of a triangle, the number of edges between the other two.
    Opposite,
}

/// One thread's marks and counts.
struct Scratch {
    bits: Vec<u64>,
    times: Vec<u8>,
    counts: Vec<u64>,
    total: u64,
}

struct Counter<'a> {
    part: &'a GraphPart,
    lists: &'a Oriented,
    want: Want,
    scratch: Vec<Mutex<Scratch>>,
}

impl<'a> Counter<'a> {
    fn new(part: &'a GraphPart, lists: &'a Oriented, want: Want) -> Counter<'a> {
        let count = part.vertices() as usize;
        let one = |_| {
            Mutex::new(Scratch {
                bits: vec![0; count.div_ceil(64)],
                times: vec![0; if want == Want::Opposite { count } else { 0 }],
                counts: vec![0; if want == Want::Total { 0 } else { count }],
                total: 0,
            })
        };
        Counter { part, lists, want, scratch: (0..rayon::current_num_threads()).map(one).collect() }
    }

    /// Counts the triangles of `u` through the own vertices in its list.
    fn count(&self, u: Vertex, list: &[Vertex], times: &[u8]) {
        let thread = rayon::current_thread_index().unwrap_or(0);
        let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = &mut *scratch;
        list.iter().for_each(|&v| scratch.bits[v as usize / 64] |= 1 << (v % 64));
        times.iter().zip(list).for_each(|(&both, &v)| scratch.times[v as usize] = both);
        let own = self.part.own();
        let from = list.partition_point(|&v| v < own.start);
        let to = list.partition_point(|&v| v < own.end);
        let bits = &scratch.bits;
        let is_marked = |w: Vertex| bits[w as usize / 64] >> (w % 64) & 1;
        for at in from..to {
            let v = list[at];
            let (second, second_times) = self.lists.list(v);
            match self.want {
                Want::Total => scratch.total += second.iter().map(|&w| is_marked(w)).sum::<u64>(),
                Want::Each => {
                    let mut found = 0;
                    for &w in second {
                        let hit = is_marked(w);
                        found += hit;
                        if hit == 1 {
                            scratch.counts[w as usize] += 1;
                        }
                    }
                    scratch.counts[v as usize] += found;
                    scratch.counts[u as usize] += found;
                    scratch.total += found;
                }
                Want::Opposite => {
                    for (&w, &both) in second.iter().zip(second_times) {
                        if is_marked(w) == 1 {
                            scratch.counts[u as usize] += u64::from(both);
                            scratch.counts[v as usize] += u64::from(scratch.times[w as usize]);
                            scratch.counts[w as usize] += u64::from(times[at]);
                            scratch.total += 1;
                        }
                    }
                }
            }
        }
        list.iter().for_each(|&v| scratch.bits[v as usize / 64] = 0);
    }
}

/// Counts over all ranks.
fn run(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    lists: &Oriented,
    want: Want,
) -> Result<Triangles, DataGraphError> {
    let own = part.own();
    let counter = Counter::new(part, lists, want);
    let blocks: Vec<Vertex> = own.clone().step_by(4096).collect();
    for chunk in blocks.chunks(64) {
        let (from, to) = (chunk[0], chunk[chunk.len() - 1].saturating_add(4096).min(own.end));
        (from..to).into_par_iter().with_min_len(16).for_each(|u| {
            let (list, times) = lists.list(u);
            if list.len() > 1 {
                counter.count(u, list, times);
            }
        });
        // Polled only with one rank, as ranks do not reach this step at the same time.
        if exchange.ranks() == 1 {
            exchange.check()?;
        }
    }
    if exchange.ranks() > 1 {
        remote(exchange, part, lists, &counter)?;
    }
    let mut total = 0;
    let mut counts = vec![0u64; if want == Want::Total { 0 } else { part.vertices() as usize }];
    for scratch in counter.scratch {
        let scratch = scratch.into_inner().unwrap_or_else(PoisonError::into_inner);
        total += scratch.total;
        counts.iter_mut().zip(scratch.counts).for_each(|(sum, more)| *sum += more);
    }
    let [total] = sum(exchange, [total])?;
    if want == Want::Total {
        return Ok(Triangles { total, counts });
    }
    let mut outgoing = vec![Vec::new(); exchange.ranks()];
    for (r, list) in outgoing.iter_mut().enumerate().filter(|&(r, _)| r != exchange.place()) {
        let range = part.cuts()[r]..part.cuts()[r + 1];
        list.extend(range.filter(|&v| counts[v as usize] > 0).map(|v| (v, counts[v as usize])));
    }
    let mut mine = counts[own.start as usize..own.end as usize].to_vec();
    drop(counts);
    if exchange.ranks() > 1 {
        for (v, more) in push(exchange, outgoing)?.into_iter().flatten().filter(|(v, _)| own.contains(v)) {
            mine[(v - own.start) as usize] += more;
        }
    }
    Ok(Triangles { total, counts: mine })
}

/// Sends lists to the other ranks that own some of their vertices, in rounds.
fn remote(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    lists: &Oriented,
    counter: &Counter,
) -> Result<(), DataGraphError> {
    let own = part.own();
    let mut next = own.start;
    loop {
        let mut outgoing: Vec<Vec<u32>> = vec![Vec::new(); exchange.ranks()];
        let mut room = ROUND;
        while next < own.end && room > 0 {
            let (list, times) = lists.list(next);
            if list.len() > 1 {
                let mut at = 0;
                while at < list.len() {
                    let r = part.owner(list[at]);
                    at += list[at..].partition_point(|&v| v < part.cuts()[r + 1]);
                    if r != exchange.place() {
                        outgoing[r].extend([next, list.len() as u32]);
                        outgoing[r].extend(list);
                        outgoing[r].extend(times.iter().map(|&both| u32::from(both)));
                        room = room.saturating_sub(list.len() + times.len() + 2);
                    }
                }
            }
            next += 1;
        }
        let incoming = push(exchange, outgoing)?;
        let mut received = Vec::new();
        for numbers in &incoming {
            let mut rest = numbers.as_slice();
            while let [u, length, tail @ ..] = rest {
                let length = *length as usize;
                let with_times = if lists.times.is_empty() && counter.want != Want::Opposite { 0 } else { length };
                let Some((list, tail)) = tail.split_at_checked(length) else { break };
                let Some((times, tail)) = tail.split_at_checked(with_times) else { break };
                received.push((*u, list, times));
                rest = tail;
            }
        }
        received.par_iter().with_min_len(16).for_each(|&(u, list, times)| {
            let times: Vec<u8> = times.iter().map(|&both| both as u8).collect();
            counter.count(u, list, &times);
        });
        let [left] = largest(exchange, [u64::from(next < own.end)])?;
        if left == 0 {
            return Ok(());
        }
    }
}

/// Counts triangles: of each vertex if `each`, else only the total.
///
/// # Errors
/// If the operation is stopped.
pub fn triangles(exchange: &mut dyn Exchange, part: &GraphPart, each: bool) -> Result<Triangles, DataGraphError> {
    let lists = Oriented::new(exchange, part, false)?;
    run(exchange, part, &lists, if each { Want::Each } else { Want::Total })
}

/// The local clustering coefficient of each own vertex as defined by Graphalytics: the share of
/// ordered pairs of its neighbours (in either direction) that an edge connects. 0 with fewer than
/// two neighbours.
///
/// # Errors
/// If the operation is stopped.
pub fn clustering(exchange: &mut dyn Exchange, part: &GraphPart) -> Result<Vec<f64>, DataGraphError> {
    let lists = Oriented::new(exchange, part, true)?;
    let found = run(exchange, part, &lists, Want::Opposite)?;
    let coefficient = |(&count, &degree): (&u64, &u32)| {
        let pairs = f64::from(degree) * (f64::from(degree) - 1.0);
        if degree < 2 { 0.0 } else { count as f64 / pairs }
    };
    Ok(found.counts.iter().zip(&lists.degrees).map(coefficient).collect())
}
