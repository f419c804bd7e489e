//! Dependencies as the job file states them: between groups of tasks, not yet between single tasks.
//!
//! An array of a million tasks that all need one other task is one link here; `TaskGraph::build` makes the
//! edges.

use std::ops::Range;

use super::pattern::Pattern;

/// Number of a group of tasks (one `[[task]]` table of the job file), in file order.
pub type GroupId = u32;

/// Which end of the predecessor lets the successor start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Condition {
    /// It must complete (`afterok`, the default).
    Ok,
    /// It must end without success (`afternotok`); for a whole array: all must end, at least one without success.
    NotOk,
    /// It must end, whichever way (`afterany`).
    Any,
}

/// Which elements of one group need which elements of another. Elements count from 0 within their group.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkShape {
    /// Every element needs every element of the predecessor group.
    All,
    /// Element `i` needs element `i`; both groups have the same number of elements.
    Each,
    /// Every element needs this one element of the predecessor group.
    One(u32),
    /// Exactly these pairs `(predecessor element, successor element)`.
    Pairs(Vec<(u32, u32)>),
    /// The points of a pattern need each other as it says; both ends are the one group whose elements these points are.
    Pattern(Pattern),
}

/// One dependency between two groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The group that is needed.
    pub from: GroupId,
    /// The group that needs it.
    pub to: GroupId,
    /// Which elements of them.
    pub shape: LinkShape,
    /// Which end lets the successor start.
    pub on: Condition,
    /// Bytes that travel along each single edge (sizes of the files that imply it); 0 if unknown.
    pub bytes: u64,
    /// Where the job file says so (byte range), for messages about cycles.
    pub span: Range<usize>,
}
