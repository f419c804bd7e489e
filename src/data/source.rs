//! The origin of a graph, and how to load it.

use std::path::PathBuf;

use super::exchange::Exchange;
use super::format::{self, GraphFile, GraphFormat};
use super::generate::Generator;
use super::part::GraphPart;
use super::{DataGraphError, agree};

/// The source of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphSource {
    /// File or generator.
    pub origin: Origin,
    /// Whether edges have a direction; `None`: as the format says, else true.
    pub directed: Option<bool>,
    /// Weights of edges; `None`: those of the file, if its format has any.
    pub weights: Option<WeightSource>,
}

/// File or generator.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A file. The format follows from the name's ending unless it is given.
    File(PathBuf, Option<GraphFormat>),
    /// A generator.
    Generated(Generator),
}

/// The source of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSource {
    /// No weights; every edge counts as 1.
    None,
    /// The weights in the file.
    File,
    /// Whole numbers of this inclusive range, drawn from a seed for each pair of ids.
    Uniform {
        /// The smallest.
        from: u32,
        /// The largest.
        to: u32,
        /// Seed of the random number generator.
        seed: u64,
    },
}

impl WeightSource {
    /// The function that draws the weight of an edge, the same in both directions; `None` if
    /// weights are not drawn.
    pub fn draw(self) -> Option<impl Fn(u64, u64) -> f64 + Sync> {
        let WeightSource::Uniform { from, to, seed } = self else { return None };
        let range = u64::from(to.saturating_sub(from)) + 1;
        Some(move |u: u64, v: u64| {
            let mixed = mix(mix(seed ^ mix(u.min(v))) ^ u.max(v));
            // The upper half times the range, with a bias of at most 2^-32.
            f64::from(from + (((mixed >> 32) * range) >> 32) as u32)
        })
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl GraphSource {
    /// The files that the graph is read from.
    pub fn files(&self) -> Vec<GraphFile> {
        match &self.origin {
            Origin::File(path, format) => format::files(path, *format),
            Origin::Generated(_) => Vec::new(),
        }
    }

    /// Loads the graph: every rank reads or generates its own piece, then the pieces are
    /// distributed.
    ///
    /// # Errors
    /// If the file cannot be read (with file, line and reason), or communication fails. All ranks
    /// get the same error.
    pub fn load(&self, exchange: &mut dyn Exchange) -> Result<GraphPart, DataGraphError> {
        let part = match &self.origin {
            Origin::Generated(generator) => {
                let refused = match (self.directed, self.weights) {
                    (Some(true), _) => Some("a generated graph is undirected: `directed` must be false"),
                    (_, Some(WeightSource::File)) => Some("a generated graph has no weights from a file"),
                    _ => None,
                };
                agree(exchange, refused.map_or(Ok(()), |reason| Err(DataGraphError::refused(reason))))?;
                let draw = self.weights.and_then(WeightSource::draw);
                let weigh = draw.as_ref().map(|draw| draw as &(dyn Fn(u64, u64) -> f64 + Sync));
                generator.part(exchange, weigh)
            }
            Origin::File(path, format) => format::load(exchange, path, *format, self.directed, self.weights),
        }?;
        Ok(part.with_weight_source(self.weights))
    }
}
