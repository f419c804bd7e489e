//! What a rank is handed: the nodes at home there and the edges that touch them.
//!
//! A part is a handful of columns, laid out as the ledger reads them between two tasks: what is
//! decoded is what is used. All that follows from them (how many edges each node waits for) is left
//! out. On the wire, columns are differences in which a shape that repeats is written once (see
//! `numbers`).
//!
//! A part may have travelled: [`Part::waits`] checks that its columns fit together before anybody
//! indexes by them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::dependency_counts::MOST_WAITS;
use crate::graph::ascending::Ascending;
use crate::graph::csr::Csr;
use crate::graph::{Edge, JoinRule};
use crate::numbers;

/// Set in a node's urgency if the task asks for more than one slot.
pub const SPECIAL: u8 = 0x80;

/// The nodes at home on one rank and the edges that touch them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The nodes; a node's *local number* is its position here.
    pub nodes: Ascending,
    /// Which of them (by local number, ascending) are joins, and their rules.
    pub joins: Vec<(u32, JoinRule)>,
    /// Urgency of each, higher first, with [`SPECIAL`].
    #[serde(with = "numbers::bytes")]
    pub urgency: Vec<u8>,
    /// Which of them (local numbers) a predecessor already ended against.
    pub violated: Vec<u32>,
    /// From each to its successors at home: raw [`Edge`]s to local numbers.
    pub local: Csr,
    /// From each to the ranks where it has successors.
    pub exports: Csr,
    /// Nodes elsewhere that nodes here need.
    pub imports: Ascending,
    /// From each of `imports` to the successors here: raw [`Edge`]s to local numbers.
    pub imported: Csr,
}

/// A part that does not hold together, as only a damaged message brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the part of the graph that this rank was handed is inconsistent in its {0}")]
pub struct UnsoundPart(pub(super) &'static str);

impl Part {
    /// The length of its longest column; a message holds at most [`numbers::MOST`].
    pub fn longest_column(&self) -> usize {
        self.nodes.len().max(self.imports.len()).max(self.local.len()).max(self.exports.len()).max(self.imported.len())
    }

    /// At most so many numbers tell all that is in it.
    pub fn numbers(&self) -> usize {
        let nodes = 5 * self.nodes.len() + 2 * self.joins.len() + self.violated.len();
        nodes + self.local.len() + self.exports.len() + 2 * self.imports.len() + self.imported.len()
    }

    /// How many edges into each node are still to be counted.
    ///
    /// # Errors
    /// If the part's columns contradict each other.
    pub fn waits(&self) -> Result<Vec<u32>, UnsoundPart> {
        self.check()?;
        let mut waits = vec![0u32; self.nodes.len()];
        for &raw in self.local.items().iter().chain(self.imported.items()) {
            waits[Edge::from_raw(raw).node() as usize] += 1;
        }
        if waits.iter().all(|&n| n <= MOST_WAITS) { Ok(waits) } else { Err(UnsoundPart("counts")) }
    }

    fn check(&self) -> Result<(), UnsoundPart> {
        let n = self.nodes.len();
        let limit = n as u32;
        let joins = &self.joins;
        let columns: [(&'static str, bool); 7] = [
            ("nodes", n <= Edge::MASK as usize),
            ("urgencies", self.urgency.len() == n),
            ("joins", joins.windows(2).all(|w| w[0].0 < w[1].0) && joins.iter().all(|j| j.0 < limit)),
            ("skipped tasks", self.violated.iter().all(|&v| v < limit)),
            ("edges at home", self.local.is_sound(n, Edge::MASK, limit)),
            ("edges to other ranks", self.exports.is_sound(n, u32::MAX, u32::MAX)),
            ("edges from other ranks", self.imported.is_sound(self.imports.len(), Edge::MASK, limit)),
        ];
        match columns.iter().find(|column| !column.1) {
            Some((name, _)) => Err(UnsoundPart(name)),
            None => Ok(()),
        }
    }
}
