//! Dependencies as the job file states them: between groups of tasks.
//!
//! An array of a million tasks that all depend on one other task is a single link;
//! `TaskGraph::build` creates the edges.

use std::ops::Range;

use super::pattern::Pattern;

/// Number of a group of tasks (one `[[task]]` table of the job file), in file order.
pub type GroupId = u32;

/// The condition on the end of the predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Condition {
    /// It must complete (`afterok`, the default).
    Ok,
    /// It must end without success (`afternotok`); of an array all tasks must end, at least one of
    /// them without success.
    NotOk,
    /// It must end, in any state (`afterany`).
    Any,
}

/// Which elements of one group depend on which elements of another. Elements are numbered from 0
/// within their group.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkShape {
    /// Every element depends on every element of the predecessor group.
    All,
    /// Element `i` depends on element `i`; both groups have the same number of elements.
    Each,
    /// Every element depends on this element of the predecessor group.
    One(u32),
    /// Exactly these pairs `(predecessor element, successor element)`.
    Pairs(Vec<(u32, u32)>),
    /// The dependencies of a pattern; both ends are the group whose elements are its points.
    Pattern(Pattern),
}

/// A dependency between two groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The predecessor group.
    pub from: GroupId,
    /// The successor group.
    pub to: GroupId,
    /// The dependent elements.
    pub shape: LinkShape,
    /// The condition on the predecessor.
    pub on: Condition,
    /// Bytes along each edge (sizes of the files that imply it); 0 if unknown.
    pub bytes: u64,
    /// The statement in the job file (byte range), for messages about cycles.
    pub span: Range<usize>,
}
