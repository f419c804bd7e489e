//! Collects the links between groups and reduces their number: equal links are merged, and links to
//! all single elements of a group become one link to the group.
//!
//! Links are added successor by successor, so that only those to the current group need a look-up.

use rustc_hash::FxHashMap;

use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::job::read::Span;

/// A look-up table with capacity for more groups than this is replaced for the next group, because
/// clearing it takes time in proportion to its capacity.
const MAX_REUSED: usize = 64;

/// The links found so far.
pub(crate) struct Links {
    counts: Vec<u32>,
    list: Vec<Link>,
    /// Start of the links to the current group in `list`.
    present: usize,
    /// These links by source group.
    by_source: FxHashMap<GroupId, Vec<usize>>,
}

impl Links {
    pub(crate) fn new(counts: Vec<u32>) -> Links {
        Links { counts, list: Vec::new(), present: 0, by_source: FxHashMap::default() }
    }

    /// The simplest equivalent shape.
    fn simplify(&self, from: GroupId, to: GroupId, shape: LinkShape) -> LinkShape {
        let (from, to) = (self.counts[from as usize], self.counts[to as usize]);
        match shape {
            LinkShape::One(_) if from == 1 => LinkShape::All,
            LinkShape::Each if from == 1 => LinkShape::All,
            LinkShape::Pairs(pairs) => shape_of(pairs, from, to),
            other => other,
        }
    }

    /// The links from a group to the current one.
    fn from(&self, from: GroupId) -> impl Iterator<Item = &Link> {
        self.by_source.get(&from).into_iter().flatten().map(|at| &self.list[*at])
    }

    /// The groups that the current one depends on.
    pub(super) fn sources(&self) -> impl Iterator<Item = GroupId> {
        self.by_source.keys().copied()
    }

    /// Adds a dependency of `needs`. Returns the place of an earlier one that contradicts it.
    pub(super) fn add_need(&mut self, link: Link) -> Option<Span> {
        let shape = self.simplify(link.from, link.to, link.shape);
        let contradicts = |earlier: &&Link| {
            earlier.shape == shape
                && matches!(
                    (earlier.on, link.on),
                    (Condition::Ok, Condition::NotOk) | (Condition::NotOk, Condition::Ok)
                )
        };
        if let Some(earlier) = self.from(link.from).find(contradicts) {
            return Some(earlier.span.clone());
        }
        self.merge(Link { shape, ..link });
        None
    }

    /// Adds a dependency implied by a file. If `needs` states another condition for the same group,
    /// that condition holds, and the file only adds its bytes.
    pub(crate) fn add_file(&mut self, link: Link) {
        let shape = self.simplify(link.from, link.to, link.shape);
        let conditions: Vec<Condition> = self.from(link.from).map(|earlier| earlier.on).collect();
        let on = conditions.iter().copied().find(|on| *on != Condition::Ok).unwrap_or(Condition::Ok);
        let same_shape = self.from(link.from).any(|earlier| earlier.shape == shape && earlier.on == on);
        if on == Condition::Ok || same_shape {
            self.merge(Link { shape, on, ..link });
        }
    }

    /// Adds a link, or adds its bytes to an equal one.
    pub(super) fn merge(&mut self, link: Link) {
        let at = self.by_source.entry(link.from).or_default();
        match at.iter().find(|at| self.list[**at].on == link.on && self.list[**at].shape == link.shape) {
            Some(at) => self.list[*at].bytes = self.list[*at].bytes.saturating_add(link.bytes),
            None => {
                at.push(self.list.len());
                self.list.push(link);
            }
        }
    }

    /// Ends the current group: the next links lead to another one.
    pub(crate) fn close_group(&mut self) {
        let mut dropped = Vec::new();
        for (from, members) in &self.by_source {
            let count = self.counts[*from as usize] as usize;
            if members.len() < count {
                continue;
            }
            let is_one = |at: &&usize| matches!(self.list[**at].shape, LinkShape::One(_));
            let ones: Vec<usize> = members.iter().filter(is_one).copied().collect();
            let alike = |at: &usize| {
                (self.list[*at].on, self.list[*at].bytes) == (self.list[ones[0]].on, self.list[ones[0]].bytes)
            };
            // Equal links are already merged, so if there are as many as elements, they cover all
            // elements.
            if ones.len() == count && ones.iter().all(alike) && self.list[ones[0]].on != Condition::NotOk {
                self.list[ones[0]].shape = LinkShape::All;
                dropped.extend_from_slice(&ones[1..]);
            }
        }
        if !dropped.is_empty() {
            self.drop_links(dropped);
        }
        self.present = self.list.len();
        if self.by_source.capacity() > MAX_REUSED {
            self.by_source = FxHashMap::default();
        } else {
            self.by_source.clear();
        }
    }

    /// Removes links to the current group.
    fn drop_links(&mut self, mut dropped: Vec<usize>) {
        dropped.sort_unstable();
        let mut dropped = dropped.into_iter().peekable();
        let kept = self.list.split_off(self.present);
        let numbered = (self.present..).zip(kept);
        self.list.extend(numbered.filter(|(at, _)| dropped.next_if_eq(at).is_none()).map(|(_, link)| link));
    }

    /// The links, successor by successor, in the order in which they were found.
    pub(crate) fn finish(mut self) -> Vec<Link> {
        self.close_group();
        self.list
    }
}

/// The shape of a list of pairs of elements.
fn shape_of(mut pairs: Vec<(u32, u32)>, from: u32, to: u32) -> LinkShape {
    pairs.sort_unstable_by_key(|(from, to)| (*to, *from));
    pairs.dedup();
    let count = pairs.len() as u64;
    if count == u64::from(from) * u64::from(to) {
        return LinkShape::All;
    }
    match pairs.first() {
        Some((first, _)) if count == u64::from(to) && pairs.iter().all(|(from, _)| from == first) => {
            LinkShape::One(*first)
        }
        _ if from == to && count == u64::from(to) && pairs.iter().all(|(from, to)| from == to) => LinkShape::Each,
        _ => LinkShape::Pairs(pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(shape: LinkShape, on: Condition, bytes: u64) -> Link {
        Link { from: 0, to: 1, shape, on, bytes, span: 0..1 }
    }

    #[test]
    fn shapes_are_recognised() {
        assert_eq!(shape_of(vec![(0, 0), (1, 1)], 2, 2), LinkShape::Each);
        assert_eq!(shape_of(vec![(1, 0), (1, 1)], 2, 2), LinkShape::One(1));
        assert_eq!(shape_of(vec![(1, 1), (1, 0), (0, 0), (0, 1)], 2, 2), LinkShape::All);
        assert_eq!(shape_of(vec![(1, 0), (1, 0)], 2, 2), LinkShape::Pairs(vec![(1, 0)]));
    }

    #[test]
    fn needs_and_files_between_the_same_tasks_are_one_link() {
        let mut links = Links::new(vec![3, 3]);
        links.add_need(link(LinkShape::Each, Condition::Ok, 0));
        links.add_file(link(LinkShape::Pairs(vec![(0, 0), (1, 1), (2, 2)]), Condition::Ok, 7));
        assert_eq!(links.finish(), [link(LinkShape::Each, Condition::Ok, 7)]);
    }

    #[test]
    fn all_single_elements_are_the_whole() {
        let mut links = Links::new(vec![2, 1]);
        links.add_file(link(LinkShape::One(1), Condition::Ok, 5));
        links.add_file(link(LinkShape::One(0), Condition::Ok, 5));
        assert_eq!(links.finish(), [link(LinkShape::All, Condition::Ok, 5)]);
    }

    #[test]
    fn a_file_does_not_undo_a_condition() {
        let mut links = Links::new(vec![2, 2]);
        links.add_need(link(LinkShape::All, Condition::NotOk, 0));
        links.add_file(link(LinkShape::Each, Condition::Ok, 5));
        assert_eq!(links.finish(), [link(LinkShape::All, Condition::NotOk, 0)]);
    }

    #[test]
    fn contradictions_are_found() {
        let mut links = Links::new(vec![2, 2]);
        assert_eq!(links.add_need(link(LinkShape::All, Condition::NotOk, 0)), None);
        assert_eq!(links.add_need(link(LinkShape::All, Condition::Ok, 0)), Some(0..1));
    }
}
