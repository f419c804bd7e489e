//! The ids of vertices in files.
//!
//! Internally, vertices are numbered from 0 in ascending order of their ids, so an order by number
//! is an order by id. A graph with consecutive ids needs no table.

use super::Vertex;

/// Ids of all vertices, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VertexIds {
    /// Consecutive ids.
    Dense {
        /// Id of vertex 0.
        first: u64,
        /// Number of vertices.
        count: Vertex,
    },
    /// All ids fit into 32 bits.
    Narrow(Box<[u32]>),
    /// Some ids need 64 bits.
    Wide(Box<[u64]>),
}

impl VertexIds {
    /// Makes them from ascending ids without duplicates. `None` if there are more than vertex
    /// numbers.
    pub fn from_sorted(ids: Vec<u64>) -> Option<VertexIds> {
        let count = Vertex::try_from(ids.len()).ok().filter(|&count| count < Vertex::MAX)?;
        let (first, last) = (ids.first().copied().unwrap_or(0), ids.last().copied().unwrap_or(0));
        Some(match () {
            () if ids.is_empty() || last - first == u64::from(count) - 1 => VertexIds::Dense { first, count },
            () if u32::try_from(last).is_ok() => VertexIds::Narrow(ids.iter().map(|&id| id as u32).collect()),
            () => VertexIds::Wide(ids.into_boxed_slice()),
        })
    }

    /// Number of vertices.
    pub fn count(&self) -> Vertex {
        match self {
            VertexIds::Dense { count, .. } => *count,
            VertexIds::Narrow(ids) => ids.len() as Vertex,
            VertexIds::Wide(ids) => ids.len() as Vertex,
        }
    }

    /// The id of a vertex.
    pub fn id(&self, vertex: Vertex) -> u64 {
        match self {
            VertexIds::Dense { first, .. } => first + u64::from(vertex),
            VertexIds::Narrow(ids) => u64::from(ids[vertex as usize]),
            VertexIds::Wide(ids) => ids[vertex as usize],
        }
    }

    /// The vertex of that id.
    pub fn vertex(&self, id: u64) -> Option<Vertex> {
        match self {
            VertexIds::Dense { first, count } => {
                id.checked_sub(*first).filter(|&v| v < u64::from(*count)).map(|v| v as Vertex)
            }
            VertexIds::Narrow(ids) => {
                u32::try_from(id).ok().and_then(|id| ids.binary_search(&id).ok()).map(|at| at as Vertex)
            }
            VertexIds::Wide(ids) => ids.binary_search(&id).ok().map(|at| at as Vertex),
        }
    }

    /// Size of the table in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            VertexIds::Dense { .. } => 0,
            VertexIds::Narrow(ids) => 4 * ids.len() as u64,
            VertexIds::Wide(ids) => 8 * ids.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VertexIds;

    #[test]
    fn ids_are_found_in_every_form() {
        for ids in [vec![], vec![7], vec![3, 4, 5], vec![0, 2, 9, 4_000_000_000], vec![1, u64::MAX]] {
            let table = VertexIds::from_sorted(ids.clone()).unwrap();
            assert_eq!(table.count() as usize, ids.len());
            for (v, &id) in ids.iter().enumerate() {
                assert_eq!((table.id(v as u32), table.vertex(id)), (id, Some(v as u32)));
            }
            assert!((0..20).all(|id| table.vertex(id).is_some() == ids.contains(&id)));
        }
    }
}
