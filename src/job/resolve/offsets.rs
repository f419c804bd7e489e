//! Needs at a distance: `step[{index}-1]` is the previous element along an array or along one axis
//! of a matrix.
//!
//! If the needed matrix has the axis of the placeholder, the elements must agree along all its
//! other axes, so that the steps of each ensemble member form a chain of their own. Otherwise the
//! value is the needed index. Beyond the first or last element there is no dependency, which is how
//! a chain begins; a gap between elements is a mistake.

use rustc_hash::FxHashMap;

use crate::job::scalar::Scalar;
use crate::job::space::{Dimension, Space};
use crate::job::template::Placeholder;

/// A placeholder and the number added to its value.
#[derive(Debug, PartialEq)]
pub(super) struct Offset<'a> {
    /// The placeholder with its braces.
    pub placeholder: &'a str,
    pub by: i64,
}

impl Offset<'_> {
    /// Parses `{index}-1` or `{index} + 12`; `None` for anything else.
    pub(super) fn read(text: &str) -> Option<Offset<'_>> {
        let (placeholder, rest) = text.trim().split_at(text.trim().find('}')? + 1);
        let (sign, number) = rest.trim_start().split_at_checked(1)?;
        let digits = number.trim_start();
        let plain = placeholder.starts_with('{') && !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        let by: i64 = digits.parse().ok().filter(|_| plain)?;
        match sign {
            "-" => Some(Offset { placeholder, by: -by }),
            "+" => Some(Offset { placeholder, by }),
            _ => None,
        }
    }
}

/// Error: the needs cannot be resolved.
#[derive(Debug, PartialEq)]
pub(super) enum OffsetError {
    /// The value of the placeholder at this element is not an integer.
    NotWhole(Scalar),
    /// This element needs an index or value that is missing between existing ones.
    Gap { element: u32, wanted: i64 },
    /// The needed matrix has an axis that the task does not have.
    Axis(String),
    /// The needed matrix lacks the element's value along this axis.
    Value { element: u32, axis: String },
}

/// The pairs `(needed element, element)` where `source` is needed at this distance.
pub(super) fn pairs(
    (source, target): (&Space, &Space),
    what: Placeholder,
    by: i64,
) -> Result<Vec<(u32, u32)>, OffsetError> {
    let axis = match what {
        Placeholder::Axis(axis) => target.axes().get(axis).map(|axis| axis.name.as_str()),
        Placeholder::Index | Placeholder::Name => None,
    };
    let along = axis.and_then(|name| Some((name, source.axes().iter().find(|axis| axis.name == name)?)));
    let count = u32::try_from(target.len()).unwrap_or(u32::MAX);
    let mut pairs = Vec::new();
    let matching = along.map(|(name, _)| Matching::new(source, target, name)).transpose()?;
    let range = match along {
        Some((_, axis)) => axis.range(),
        None => range_of_indices(source),
    };
    for element in 0..count {
        let wanted = match value(target, what, element) {
            Scalar::Int(value) => value.saturating_add(by),
            other => return Err(OffsetError::NotWhole(other)),
        };
        let beyond = range.is_none_or(|(least, most)| wanted < least || wanted > most);
        let needed = match &matching {
            Some(matching) => matching.find(wanted, element),
            None => OffsetMatch::of(u64::try_from(wanted).ok().and_then(|index| source.element(index))),
        };
        match needed {
            OffsetMatch::Element(needed) => pairs.push((needed, element)),
            OffsetMatch::Missing if !beyond => return Err(OffsetError::Gap { element, wanted }),
            OffsetMatch::Missing => {}
            OffsetMatch::OtherwiseMissing(axis) => return Err(OffsetError::Value { element, axis }),
        }
    }
    Ok(pairs)
}

fn value(space: &Space, what: Placeholder, element: u32) -> Scalar {
    match what {
        Placeholder::Axis(axis) => space.value(axis, element).into_owned(),
        Placeholder::Index | Placeholder::Name => {
            Scalar::Int(space.index(element).and_then(|index| i64::try_from(index).ok()).unwrap_or(0))
        }
    }
}

fn range_of_indices(space: &Space) -> Option<(i64, i64)> {
    let index = |element: u64| i64::try_from(space.index(u32::try_from(element).ok()?)?).ok();
    Some((index(0)?, index(space.len() - 1)?))
}

enum OffsetMatch {
    Element(u32),
    /// The index or value does not exist.
    Missing,
    /// The needed matrix lacks the element's value along another axis.
    OtherwiseMissing(String),
}

impl OffsetMatch {
    fn of(element: Option<u32>) -> OffsetMatch {
        element.map_or(OffsetMatch::Missing, OffsetMatch::Element)
    }
}

/// Finds elements of a matrix that agree with those of another along all axes but one.
struct Matching<'a> {
    /// Position of each value along the axis of the offset.
    places: FxHashMap<i64, u64>,
    /// Distance between neighbours along that axis.
    stride: u64,
    others: Vec<Other<'a>>,
}

/// A dimension of the needed matrix other than the one of the offset.
struct Other<'a> {
    /// The first of its axes.
    name: &'a str,
    /// Distance between neighbours in the needed matrix.
    stride: u64,
    /// The dimension of the matrix that needs it with the same axes.
    own: Dimension<'a>,
    /// For each position along `own`, the position of the same values in the needed matrix.
    places: Vec<Option<u64>>,
}

impl<'a> Matching<'a> {
    fn new(source: &'a Space, target: &'a Space, along: &str) -> Result<Matching<'a>, OffsetError> {
        let mut matching = Matching { places: FxHashMap::default(), stride: 1, others: Vec::new() };
        for needed in source.dimensions() {
            if let Some(axis) = needed.axes.iter().find(|axis| axis.name == along) {
                matching.stride = needed.stride;
                matching.places = (0..axis.len()).filter_map(|at| Some((axis.whole_value(at)?, at))).collect();
                continue;
            }
            let name = &needed.axes[0].name;
            let own = target.dimensions().into_iter().find(|own| own.has(name));
            let other = own.and_then(|own| {
                let places = own.same_values(&needed)?;
                Some(Other { name, stride: needed.stride, own, places })
            });
            matching.others.push(other.ok_or_else(|| OffsetError::Axis(name.clone()))?);
        }
        Ok(matching)
    }

    fn find(&self, wanted: i64, element: u32) -> OffsetMatch {
        let Some(place) = self.places.get(&wanted) else { return OffsetMatch::Missing };
        let mut needed = place * self.stride;
        for other in &self.others {
            match other.places[other.own.position(element) as usize] {
                Some(place) => needed += place * other.stride,
                None => return OffsetMatch::OtherwiseMissing(other.name.to_owned()),
            }
        }
        OffsetMatch::of(u32::try_from(needed).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        let offset = |placeholder, by| Some(Offset { placeholder, by });
        assert_eq!(Offset::read("{index}-1"), offset("{index}", -1));
        assert_eq!(Offset::read(" {step} + 12 "), offset("{step}", 12));
        for text in
            ["{index}", "3-1", "{index}-", "{index}-{index}", "0-{index}", "{index}*2", "-1", "{index}--1", "{i}é"]
        {
            assert_eq!(Offset::read(text), None, "{text}");
        }
    }
}
