//! Builds a rank's new part from its present part and the changes that rank 0 sends at an epoch.
//!
//! Rank 0 sends only changes, so the bytes of an epoch are proportional to the tasks that change
//! home. The result is the part that `handout` would have cut, except that a node may still be
//! exported to ranks that no longer need it; they ignore it.

use rustc_hash::FxHashMap;

use super::dependency_counts::{DependencyCounts, End};
use super::part::{Part, UnsoundPart};
use super::protocol::Amendment;
use super::ranks::Ranks;
use crate::graph::csr::Csr;
use crate::graph::{Edge, JoinRule};
use crate::model::Rank;

/// No local number.
const NONE: u32 = u32::MAX;

/// The origin of a node of the new part.
#[derive(Clone, Copy)]
enum Source {
    /// The present part, with the local number there.
    Kept(u32),
    /// The arriving nodes, with the local number there.
    Come(u32),
}

/// Edges from a node elsewhere, as rows of up to two tables.
#[derive(Clone, Copy, Default)]
struct EdgeRows {
    imported: Option<u32>,
    /// The node itself, if its home was here until now.
    left: Option<u32>,
    come: Option<u32>,
}

/// Builds the new part from the ledger's part and the amendment. `lost`: ranks that receive no
/// messages any more.
///
/// # Errors
///
/// If the arriving nodes contradict each other.
pub(super) fn amended(
    ledger: &DependencyCounts,
    come: &Part,
    amendment: &Amendment,
    lost: &Ranks,
) -> Result<Part, UnsoundPart> {
    come.waits()?;
    let had = ledger.part();
    let ended: FxHashMap<u32, End> = amendment.ended.iter().copied().collect();
    let mut gone = amendment.gone.iter().peekable();
    let is_kept = |&local: &u32| {
        let node = had.nodes.get(local);
        while gone.next_if(|&gone| gone < node).is_some() {}
        gone.peek() != Some(&node) && !ledger.is_ended(local) && !ended.contains_key(&node)
    };
    let kept: Vec<u32> = (0..had.nodes.len() as u32).filter(is_kept).collect();
    let sources = merged(had, &kept, come);
    let mut amend = Amend { had, come, kept: vec![NONE; had.nodes.len()], arrived: vec![NONE; come.nodes.len()] };
    for (new, &(_, source)) in (0..).zip(&sources) {
        match source {
            Source::Kept(local) => amend.kept[local as usize] = new,
            Source::Come(local) => amend.arrived[local as usize] = new,
        }
    }
    let local = amend.local(&sources);
    let (imports, imported) = amend.imports(ledger, &ended);
    let exports = amend.exports(&sources, amendment, lost);
    let joins = sources.iter().zip(0..).filter_map(|(&(_, source), new)| Some((new, amend.rule(source)?))).collect();
    let urgency = |&(_, source): &(u32, Source)| match source {
        Source::Kept(local) => had.urgency[local as usize],
        Source::Come(local) => come.urgency[local as usize],
    };
    Ok(Part {
        violated: amend.violated(ledger, &ended),
        urgency: sources.iter().map(urgency).collect(),
        nodes: sources.iter().map(|source| source.0).collect(),
        joins,
        local,
        exports,
        imports,
        imported,
    })
}

/// The nodes of the new part in order.
fn merged(had: &Part, kept: &[u32], come: &Part) -> Vec<(u32, Source)> {
    let mut sources: Vec<(u32, Source)> = Vec::with_capacity(kept.len() + come.nodes.len());
    let mut kept = kept.iter().map(|&local| (had.nodes.get(local), Source::Kept(local))).peekable();
    for (local, node) in (0..).zip(come.nodes.iter()) {
        while let Some(before) = kept.next_if(|kept| kept.0 < node) {
            sources.push(before);
        }
        // A node that is already here has not arrived.
        kept.next_if(|kept| kept.0 == node);
        sources.push((node, Source::Come(local)));
    }
    sources.extend(kept);
    sources
}

struct Amend<'a> {
    had: &'a Part,
    come: &'a Part,
    /// New local numbers: of each node that was here, if it stays, and of each arriving node.
    kept: Vec<u32>,
    arrived: Vec<u32>,
}

impl Amend<'_> {
    /// The same edges with new local numbers, without those to nodes that are not here.
    fn edges<'a>(row: &'a [u32], numbers: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        row.iter().filter_map(|&raw| {
            let edge = Edge::from_raw(raw);
            let to = numbers[edge.node() as usize];
            (to != NONE).then(|| Edge::new(to, edge.on()).raw())
        })
    }

    /// Edges between nodes whose home is here from now on.
    fn local(&self, sources: &[(u32, Source)]) -> Csr {
        let (had, come) = (self.had, self.come);
        let most = had.local.len() + had.imported.len() + come.local.len() + come.imported.len();
        Csr::in_order(sources.len(), most, |new, out| {
            let (node, source) = sources[new as usize];
            match source {
                Source::Kept(local) => {
                    out.extend(Self::edges(had.local.row(local as usize), &self.kept));
                    if let Some(at) = come.imports.position(node) {
                        out.extend(Self::edges(come.imported.row(at as usize), &self.arrived));
                    }
                }
                Source::Come(local) => {
                    out.extend(Self::edges(come.local.row(local as usize), &self.arrived));
                    if let Some(at) = had.imports.position(node) {
                        out.extend(Self::edges(had.imported.row(at as usize), &self.kept));
                    }
                }
            }
        })
    }

    /// Open nodes elsewhere that nodes here need, and the edges from them.
    fn imports(
        &self,
        ledger: &DependencyCounts,
        ended: &FxHashMap<u32, End>,
    ) -> (crate::graph::ascending::Ascending, Csr) {
        let (had, come) = (self.had, self.come);
        let mut rows: Vec<(u32, EdgeRows)> = Vec::new();
        for (at, node) in (0..).zip(had.imports.iter()).filter(|&(at, _)| !ledger.is_counted(at)) {
            rows.push((node, EdgeRows { imported: Some(at), ..EdgeRows::default() }));
        }
        let left = (0..).zip(had.nodes.iter()).filter(|&(local, _)| self.kept[local as usize] == NONE);
        for (local, node) in left.filter(|&(local, _)| !ledger.is_ended(local)) {
            rows.push((node, EdgeRows { left: Some(local), ..EdgeRows::default() }));
        }
        for (at, node) in (0..).zip(come.imports.iter()) {
            rows.push((node, EdgeRows { come: Some(at), ..EdgeRows::default() }));
        }
        rows.sort_by_key(|row| row.0);
        rows.dedup_by(|next, row| {
            let same = next.0 == row.0;
            if same {
                let (a, b) = (next.1, &mut row.1);
                b.imported = b.imported.or(a.imported);
                b.left = b.left.or(a.left);
                b.come = b.come.or(a.come);
            }
            same
        });
        let is_here = |node: u32| {
            let kept = had.nodes.position(node).is_some_and(|local| self.kept[local as usize] != NONE);
            kept || come.nodes.position(node).is_some()
        };
        rows.retain(|&(node, rows)| {
            !ended.contains_key(&node) && !is_here(node) && self.edges_from_outside(rows).next().is_some()
        });
        let most = rows.iter().map(|&(_, rows)| self.edges_from_outside(rows).count()).sum();
        let imported =
            Csr::in_order(rows.len(), most, |at, out| out.extend(self.edges_from_outside(rows[at as usize].1)));
        (rows.iter().map(|row| row.0).collect(), imported)
    }

    fn edges_from_outside(&self, rows: EdgeRows) -> impl Iterator<Item = u32> + '_ {
        let row = |csr: &'_ Csr, at: Option<u32>| at.map_or(0..0, |at| csr.range(at as usize));
        let (had, come) = (self.had, self.come);
        let imported = &had.imported.items()[row(&had.imported, rows.imported)];
        let left = &had.local.items()[row(&had.local, rows.left)];
        let arrived = &come.imported.items()[row(&come.imported, rows.come)];
        Self::edges(imported, &self.kept)
            .chain(Self::edges(left, &self.kept))
            .chain(Self::edges(arrived, &self.arrived))
    }

    /// From each node to the other ranks that need it.
    fn exports(&self, sources: &[(u32, Source)], amendment: &Amendment, lost: &Ranks) -> Csr {
        let (had, come) = (self.had, self.come);
        let needed = &amendment.needed;
        let most = had.exports.len() + come.exports.len() + needed.len();
        Csr::in_order(sources.len(), most, |new, out| {
            let (node, source) = sources[new as usize];
            let from = out.len();
            match source {
                Source::Kept(local) => {
                    let still = had.exports.row(local as usize).iter().filter(|&&rank| !lost.contains(Rank(rank)));
                    out.extend(still);
                    let at = needed.partition_point(|needed| needed.0 < node);
                    out.extend(needed[at..].iter().take_while(|needed| needed.0 == node).map(|needed| needed.1));
                }
                Source::Come(local) => out.extend(come.exports.row(local as usize)),
            }
            let mut ranks = out.split_off(from);
            ranks.sort_unstable();
            ranks.dedup();
            out.append(&mut ranks);
        })
    }

    fn rule(&self, source: Source) -> Option<JoinRule> {
        let (joins, local) = match source {
            Source::Kept(local) => (&self.had.joins, local),
            Source::Come(local) => (&self.come.joins, local),
        };
        joins.binary_search_by_key(&local, |join| join.0).ok().map(|at| joins[at].1)
    }

    /// Nodes with a violated edge.
    fn violated(&self, ledger: &DependencyCounts, ended: &FxHashMap<u32, End>) -> Vec<u32> {
        let (had, come) = (self.had, self.come);
        let before = (0..had.nodes.len() as u32).filter(|&local| ledger.is_violated(local));
        let mut violated: Vec<u32> = before.map(|local| self.kept[local as usize]).collect();
        violated.extend(come.violated.iter().map(|&local| self.arrived[local as usize]));
        for (&node, end) in ended {
            // Edges that were counted before have already set the flag.
            let row = match (had.nodes.position(node), had.imports.position(node)) {
                (Some(local), _) if !ledger.is_ended(local) => had.local.row(local as usize),
                (None, Some(at)) if !ledger.is_counted(at) => had.imported.row(at as usize),
                _ => continue,
            };
            let against = row.iter().map(|&raw| Edge::from_raw(raw)).filter(|edge| edge.violated_by(end.ok()));
            violated.extend(against.map(|edge| self.kept[edge.node() as usize]));
        }
        violated.retain(|&new| new != NONE);
        violated.sort_unstable();
        violated.dedup();
        violated
    }
}
