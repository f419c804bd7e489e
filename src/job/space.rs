//! The elements of one `[[task]]` table: a single task, the indices of an array, the combinations
//! of a matrix, or the points of a pattern.
//!
//! Nothing is stored per element: an element is a number from 0, from which its index and the
//! values along its axes are computed, so an array of a million tasks takes a few words.

use std::borrow::Cow;

use super::scalar::Scalar;
use super::units::IndexSet;
use super::values::AxisSpec;
use crate::graph::pattern::Pattern;

/// One axis of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub name: String,
    pub values: AxisSpec,
}

impl Axis {
    pub(crate) fn len(&self) -> u64 {
        match &self.values {
            AxisSpec::Set(set) => set.len(),
            AxisSpec::List(values) => values.len() as u64,
        }
    }

    pub(crate) fn value(&self, at: u64) -> Cow<'_, Scalar> {
        match &self.values {
            AxisSpec::Set(set) => Cow::Owned(whole(set.nth(at).unwrap_or(0))),
            AxisSpec::List(values) => {
                usize::try_from(at).ok().and_then(|at| values.get(at)).map_or(Cow::Owned(Scalar::Int(0)), Cow::Borrowed)
            }
        }
    }

    /// The value at a position, if it is an integer.
    pub(crate) fn whole_value(&self, at: u64) -> Option<i64> {
        match *self.value(at) {
            Scalar::Int(value) => Some(value),
            _ => None,
        }
    }

    /// Minimum and maximum, if the values are integers.
    pub(crate) fn range(&self) -> Option<(i64, i64)> {
        let values = || (0..self.len()).filter_map(|at| self.whole_value(at));
        Some((values().min()?, values().max()?))
    }

    /// True if every value is an integer.
    fn is_whole(&self) -> bool {
        match &self.values {
            AxisSpec::Set(_) => true,
            AxisSpec::List(values) => values.iter().all(|value| matches!(value, Scalar::Int(_))),
        }
    }
}

fn whole(value: u64) -> Scalar {
    // Indices are far below the maximum of `i64` (see `IndexSet`).
    Scalar::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The elements of a group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Space {
    One,
    Array(IndexSet),
    Matrix(Vec<Axis>),
    Pattern(Pattern),
}

/// Names of the two coordinates of a pattern's points, used like axes.
const PLACE: [&str; 2] = ["step", "point"];

impl Space {
    /// Number of elements, saturating.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Space::One => 1,
            Space::Array(indices) => indices.len(),
            Space::Matrix(axes) => axes.iter().fold(1, |product, axis| product.saturating_mul(axis.len())),
            Space::Pattern(pattern) => pattern.count(),
        }
    }

    /// True for arrays, matrices and patterns, whose elements have an index.
    pub(crate) fn is_indexed(&self) -> bool {
        !matches!(self, Space::One)
    }

    /// The axes of a matrix.
    pub(crate) fn axes(&self) -> &[Axis] {
        match self {
            Space::Matrix(axes) => axes,
            _ => &[],
        }
    }

    /// Names of the axes in order.
    pub(crate) fn axis_names(&self) -> Vec<&str> {
        match self {
            Space::Pattern(_) => PLACE.to_vec(),
            other => other.axes().iter().map(|axis| axis.name.as_str()).collect(),
        }
    }

    /// True if every value along an axis is an integer.
    pub(crate) fn is_whole(&self, axis: usize) -> bool {
        match self {
            Space::Pattern(_) => true,
            other => other.axes().get(axis).is_some_and(Axis::is_whole),
        }
    }

    /// Maximum length of a value along any axis, in bytes.
    pub(crate) fn longest_value(&self) -> usize {
        let longest = |axis: &Axis| match &axis.values {
            AxisSpec::Set(_) => 20,
            AxisSpec::List(values) => {
                values.iter().map(|v| if let Scalar::Text(text) = v { text.len() } else { 24 }).max().unwrap_or(0)
            }
        };
        self.axes().iter().map(longest).max().unwrap_or(0)
    }

    /// The index of an element: the array's index, or its number within the matrix or pattern.
    pub(crate) fn index(&self, element: u32) -> Option<u64> {
        match self {
            Space::One => None,
            Space::Array(indices) => indices.nth(u64::from(element)),
            Space::Matrix(_) | Space::Pattern(_) => Some(u64::from(element)),
        }
    }

    /// The element with this index.
    pub(crate) fn element(&self, index: u64) -> Option<u32> {
        let at = match self {
            Space::One => None,
            Space::Array(indices) => indices.position(index),
            Space::Matrix(_) | Space::Pattern(_) => (index < self.len()).then_some(index),
        };
        at.and_then(|at| u32::try_from(at).ok())
    }

    /// The value of an element along an axis; the last axis varies fastest.
    pub(crate) fn value(&self, axis: usize, element: u32) -> Cow<'_, Scalar> {
        if let Space::Pattern(pattern) = self {
            let (step, point) = pattern.place(element.into());
            return Cow::Owned(Scalar::Int(if axis == 0 { step } else { point }.into()));
        }
        let axes = self.axes();
        let faster = axes.iter().skip(axis + 1).fold(1, |product: u64, axis| product.saturating_mul(axis.len()));
        match axes.get(axis) {
            Some(axis) => axis.value(u64::from(element) / faster % axis.len()),
            None => Cow::Owned(Scalar::Int(0)),
        }
    }

    /// The indices, for messages: "0-99".
    pub(crate) fn indices(&self) -> IndexSet {
        match self {
            Space::Array(indices) => indices.clone(),
            other => IndexSet::first(other.len()),
        }
    }

    /// A few elements that together cover every value of every axis (of long axes the first
    /// thousand values), for checks that would take too long for every element.
    pub(crate) fn samples(&self) -> Vec<u32> {
        let last = u32::try_from(self.len() - 1).unwrap_or(u32::MAX);
        let mut samples = vec![0, last];
        if let Space::Pattern(pattern) = self {
            let firsts = (0..pattern.steps.min(1000)).map(|step| pattern.first(step));
            let widest = pattern.first(pattern.steps / 2);
            samples
                .extend(firsts.chain((0..1000).map(|i| widest + i)).filter_map(|element| u32::try_from(element).ok()));
        }
        let mut stride = 1u64;
        for axis in self.axes().iter().rev() {
            samples.extend((1..axis.len().min(1000)).filter_map(|i| u32::try_from(i.saturating_mul(stride)).ok()));
            stride = stride.saturating_mul(axis.len());
        }
        samples.sort_unstable();
        samples.dedup();
        samples.retain(|element| *element <= last);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Space {
        let floats = AxisSpec::List(vec![Scalar::Float(0.5), Scalar::Float(1.0)]);
        let set = AxisSpec::Set(IndexSet::parse("3-7:2").unwrap());
        Space::Matrix(vec![Axis { name: "a".into(), values: floats }, Axis { name: "b".into(), values: set }])
    }

    #[test]
    fn the_last_axis_varies_fastest() {
        let space = matrix();
        let rows: Vec<String> = (0..6).map(|e| format!("{} {}", space.value(0, e), space.value(1, e))).collect();
        assert_eq!(rows, ["0.5 3", "0.5 5", "0.5 7", "1.0 3", "1.0 5", "1.0 7"]);
    }

    #[test]
    fn samples_show_every_value() {
        let space = matrix();
        for axis in 0..2 {
            let mut seen: Vec<String> = space.samples().iter().map(|e| space.value(axis, *e).to_string()).collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len() as u64, space.axes()[axis].len());
        }
    }

    #[test]
    fn index_and_element_are_inverse() {
        let array = Space::Array(IndexSet::parse("5-50:5").unwrap());
        assert_eq!((array.index(2), array.element(15), array.element(16)), (Some(15), Some(2), None));
    }
}
