//! Edges that are not yet in rows.

use rayon::prelude::*;

use crate::data::Vertex;

/// Edges that are not yet in rows: source, target, and optionally weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EdgeList {
    /// Source and target.
    pub ends: Vec<(Vertex, Vertex)>,
    /// One per edge, or `None`.
    pub weights: Option<Vec<f64>>,
}

impl EdgeList {
    /// Appends the reverse of each edge, except for loops.
    pub fn mirror(&mut self) {
        let more: Vec<usize> = (0..self.ends.len()).filter(|&e| self.ends[e].0 != self.ends[e].1).collect();
        let turned: Vec<(Vertex, Vertex)> = more.par_iter().map(|&e| (self.ends[e].1, self.ends[e].0)).collect();
        self.ends.extend(turned);
        if let Some(weights) = &mut self.weights {
            let turned: Vec<f64> = more.par_iter().map(|&e| weights[e]).collect();
            weights.extend(turned);
        }
    }

    /// Returns the edges with source and target exchanged.
    pub fn turned(&self) -> EdgeList {
        EdgeList { ends: self.ends.par_iter().map(|&(u, v)| (v, u)).collect(), weights: self.weights.clone() }
    }
}
