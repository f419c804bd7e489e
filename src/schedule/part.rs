//! The part of a rank: the nodes at home there and the edges that touch them.
//!
//! A part is a few columns, laid out as the ledger reads them between two tasks, so decoding needs
//! no conversion. Everything that can be derived from them (how many edges each node waits for) is
//! left out. On the wire, columns are differences in which a repeated shape is written once (see
//! `numbers`).
//!
//! A part may come from the network: [`Part::waits`] checks that its columns are consistent before
//! they are used as indexes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::dependency_counts::MAX_WAITS;
use crate::graph::ascending::Ascending;
use crate::graph::csr::Csr;
use crate::graph::{Edge, JoinRule};
use crate::numbers;

/// Set in a node's urgency if the task needs more than one slot.
pub const SPECIAL: u8 = 0x80;

/// The nodes at home on one rank and the edges that touch them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The nodes; a node's *local number* is its position here.
    pub nodes: Ascending,
    /// The joins among them (by local number, ascending), with their rules.
    pub joins: Vec<(u32, JoinRule)>,
    /// Urgency of each, higher first, with [`SPECIAL`].
    #[serde(with = "numbers::bytes")]
    pub urgency: Vec<u8>,
    /// Nodes (local numbers) with an edge already violated.
    pub violated: Vec<u32>,
    /// From each node to its successors at home: raw [`Edge`]s to local numbers.
    pub local: Csr,
    /// From each node to the ranks where it has successors.
    pub exports: Csr,
    /// Nodes elsewhere that nodes here need.
    pub imports: Ascending,
    /// From each import to its successors here: raw [`Edge`]s to local numbers.
    pub imported: Csr,
}

/// An inconsistent part, which only a damaged message can contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the part of the graph that this rank was handed is inconsistent in its {0}")]
pub struct UnsoundPart(pub(super) &'static str);

impl Part {
    /// The length of its longest column; a message holds at most [`numbers::MOST`].
    pub fn longest_column(&self) -> usize {
        self.nodes.len().max(self.imports.len()).max(self.local.len()).max(self.exports.len()).max(self.imported.len())
    }

    /// An upper bound on the numbers that encode the part.
    pub fn numbers(&self) -> usize {
        let nodes = 5 * self.nodes.len() + 2 * self.joins.len() + self.violated.len();
        nodes + self.local.len() + self.exports.len() + 2 * self.imports.len() + self.imported.len()
    }

    /// Number of edges into each node that have not been counted yet.
    ///
    /// # Errors
    ///
    /// If the part's columns contradict each other.
    pub fn waits(&self) -> Result<Vec<u32>, UnsoundPart> {
        self.check()?;
        let mut waits = vec![0u32; self.nodes.len()];
        for &raw in self.local.items().iter().chain(self.imported.items()) {
            waits[Edge::from_raw(raw).node() as usize] += 1;
        }
        if waits.iter().all(|&n| n <= MAX_WAITS) { Ok(waits) } else { Err(UnsoundPart("counts")) }
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
