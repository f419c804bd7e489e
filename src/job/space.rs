//! The elements of one `[[task]]` table: a single task, the indices of an array, the combinations
//! of a matrix, or the points of a pattern.
//!
//! Nothing is stored per element: an element is a number from 0, from which its index and the
//! values along its axes are computed, so an array of a million tasks takes a few words.

use std::borrow::Cow;
use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::scalar::Scalar;
use super::selector::{Selector, quoted};
use super::units::{IndexSet, shorten};
use super::values::AxisSpec;
use crate::graph::pattern::Pattern;

/// One axis of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub name: String,
    pub values: AxisSpec,
    /// True for a further column of a table: the axis has the position of the one before it.
    pub tied: bool,
    /// Number of axes, from this one on, whose values together are another at each position; 0 if
    /// values do not name the elements (see [`Space::matrix`]).
    pub naming: usize,
}

/// Maximum length of the values that name an element, in bytes; a longer name has the index.
const MAX_NAME_BYTES: usize = 64;

/// Axes that vary together: a single axis, or the columns of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dimension<'a> {
    pub axes: &'a [Axis],
    /// Distance between elements that are neighbours along this dimension alone.
    pub stride: u64,
}

impl Dimension<'_> {
    /// Number of positions.
    pub(crate) fn len(&self) -> u64 {
        self.axes.first().map_or(1, Axis::len)
    }

    /// The position of an element along this dimension.
    pub(crate) fn position(&self, element: u32) -> u64 {
        u64::from(element) / self.stride % self.len()
    }

    /// True if one of its axes has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.axes.iter().any(|axis| axis.name == name)
    }

    /// Number of its axes, the first ones, that together have other values at each position.
    fn naming(&self) -> Option<usize> {
        (1..=self.axes.len()).find(|&count| {
            let axes = &self.axes[..count];
            if matches!(axes, [Axis { values: AxisSpec::Set(_), .. }]) {
                return true;
            }
            let row = |at: u64| axes.iter().map(|axis| axis.value(at).to_string()).collect::<Vec<_>>();
            let mut seen = FxHashSet::default();
            (0..self.len()).all(|at| seen.insert(row(at)))
        })
    }

    /// For each position, the position of `other` with the same value along every axis of `other`,
    /// if there is one. Of equal rows the nth corresponds to the nth. `None` if an axis of `other`
    /// is missing here.
    pub(crate) fn same_values(&self, other: &Dimension<'_>) -> Option<Vec<Option<u64>>> {
        let is_here = |axis: &Axis| self.has(&axis.name);
        let mut places = vec![None; usize::try_from(self.len()).ok()?];
        other.axes.iter().all(is_here).then(|| self.pair(other, other.axes, &mut places))?;
        Some(places)
    }

    /// For each position, the position of `other` that it was: that with the same values along the
    /// axes that both have, else that with the same values along the first columns, which tell the
    /// rows of `other` apart.
    fn former(&self, other: &Dimension<'_>) -> Vec<Option<u64>> {
        let shared: Vec<Axis> = other.axes.iter().filter(|axis| self.has(&axis.name)).cloned().collect();
        let mut places = vec![None; usize::try_from(self.len()).unwrap_or(0)];
        self.pair(other, &shared, &mut places);
        let names = other.naming().map(|count| &other.axes[..count]).unwrap_or_default();
        if !names.is_empty() && names.len() < other.axes.len() && names.iter().all(|axis| self.has(&axis.name)) {
            self.pair(other, names, &mut places);
        }
        places
    }

    /// Gives each position without a place the position of `other` with the same values along these
    /// axes of `other`, which are here too, if that is still free. Of equal rows the nth
    /// corresponds to the nth.
    fn pair(&self, other: &Dimension<'_>, axes: &[Axis], places: &mut [Option<u64>]) {
        let own = |axis: &Axis| self.axes.iter().find(|own| own.name == axis.name);
        let here: Vec<&Axis> = axes.iter().filter_map(own).collect();
        let row = |axes: &mut dyn Iterator<Item = &Axis>, at: u64| {
            axes.map(|axis| axis.value(at).to_string()).collect::<Vec<_>>()
        };
        let taken: FxHashSet<u64> = places.iter().flatten().copied().collect();
        let mut free: FxHashMap<Vec<String>, VecDeque<u64>> = FxHashMap::default();
        for at in (0..other.len()).filter(|at| !taken.contains(at)) {
            free.entry(row(&mut axes.iter(), at)).or_default().push_back(at);
        }
        for (at, place) in (0..).zip(places).filter(|(_, place)| place.is_none()) {
            *place = free.get_mut(&row(&mut here.iter().copied(), at)).and_then(VecDeque::pop_front);
        }
    }
}

impl Axis {
    /// An axis of its own.
    pub(crate) fn new(name: &str, values: AxisSpec) -> Axis {
        Axis { name: name.to_owned(), values, tied: false, naming: 0 }
    }

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
    /// A matrix. Its elements are named by their values if that is unambiguous: along each
    /// dimension each position has other values, and not all values are whole numbers, which would
    /// look like indices.
    pub(crate) fn matrix(axes: Vec<Axis>) -> Space {
        let mut space = Space::Matrix(axes);
        let naming: Option<Vec<usize>> = space.dimensions().iter().map(Dimension::naming).collect();
        let are_whole = space.axes().iter().filter(|axis| !axis.tied).all(Axis::is_whole);
        if let (Space::Matrix(axes), false, Some(naming)) = (&mut space, are_whole, naming) {
            axes.iter_mut().filter(|axis| !axis.tied).zip(naming).for_each(|(axis, count)| axis.naming = count);
        }
        space
    }

    /// What stands in the brackets of an element's name, without the index: its values along the
    /// axes that tell it from others, in their order. `None` if it is named by its index.
    pub(crate) fn value_name(&self, element: u32) -> Option<String> {
        let axes = self.axes();
        if !axes.iter().any(|axis| axis.naming > 0) {
            return None;
        }
        let mut name = String::new();
        let mut is_plain = true;
        for (at, axis) in axes.iter().enumerate().filter(|(_, axis)| !axis.tied) {
            for (column, named) in axes.iter().enumerate().skip(at).take(axis.naming) {
                let value = self.value(column, element).to_string();
                let value = quoted(&value);
                let comma = if name.is_empty() { "" } else { "," };
                let by_name = if is_plain { String::new() } else { format!("{}=", named.name) };
                name.push_str(&format!("{comma}{by_name}{value}"));
            }
            // A column that is left out moves what follows to another place.
            let columns = 1 + axes[at + 1..].iter().take_while(|axis| axis.tied).count();
            is_plain &= columns == axis.naming;
        }
        if IndexSet::parse(&name).is_ok() {
            name.insert_str(0, &format!("{}=", axes[0].name));
        }
        let is_short = name.len() <= MAX_NAME_BYTES && !name.contains(char::is_control);
        is_short.then_some(name)
    }

    /// The name of an element of the group with this name: `align[NA3]`, `tile[3]`, `merge`.
    pub(crate) fn element_name(&self, group: &str, element: u32) -> String {
        match (self.value_name(element), self.index(element)) {
            (Some(values), _) => format!("{group}[{values}]"),
            (None, Some(index)) => format!("{group}[{index}]"),
            (None, None) => group.to_owned(),
        }
    }

    /// Number of elements, saturating.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Space::One => 1,
            Space::Array(indices) => indices.len(),
            Space::Matrix(_) => self.dimensions().first().map_or(1, |first| first.stride.saturating_mul(first.len())),
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

    /// The axes of a matrix by dimension, in order.
    pub(crate) fn dimensions(&self) -> Vec<Dimension<'_>> {
        let axes = self.axes();
        let mut dimensions = Vec::new();
        let (mut stride, mut end) = (1u64, axes.len());
        for at in (0..axes.len()).rev().filter(|&at| !axes[at].tied) {
            dimensions.push(Dimension { axes: &axes[at..end], stride });
            stride = stride.saturating_mul(axes[at].len());
            end = at;
        }
        dimensions.reverse();
        dimensions
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

    /// The first text along an axis for which this is true.
    pub(crate) fn text_where(&self, axis: usize, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        let AxisSpec::List(values) = &self.axes().get(axis)?.values else { return None };
        let texts = values.iter().filter_map(|value| if let Scalar::Text(text) = value { Some(&**text) } else { None });
        texts.into_iter().find(|text| is_wanted(text))
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
        let faster = axes.iter().skip(axis + 1).filter(|axis| !axis.tied);
        let faster = faster.fold(1, |product: u64, axis| product.saturating_mul(axis.len()));
        match axes.get(axis) {
            Some(axis) => axis.value(u64::from(element) / faster % axis.len()),
            None => Cow::Owned(Scalar::Int(0)),
        }
    }

    /// For each element the element of `other` that it was, if there is one: of matrices that with
    /// the same values along its axes, where the rows of a table keep their columns that tell them
    /// apart; of others that with the same index.
    pub(crate) fn former(&self, other: &Space) -> Vec<Option<u32>> {
        let count = u32::try_from(self.len()).unwrap_or(u32::MAX);
        if self == other {
            return (0..count).map(Some).collect();
        }
        let (Space::Matrix(_), Space::Matrix(_)) = (self, other) else {
            return (0..count).map(|element| other.element(self.index(element)?)).collect();
        };
        let own = self.dimensions();
        let mut pairs = Vec::new();
        for there in other.dimensions() {
            let alike = |here: &&Dimension<'_>| there.axes.iter().any(|axis| here.has(&axis.name));
            let Some(here) = own.iter().find(alike) else { return vec![None; count as usize] };
            pairs.push((*here, here.former(&there), there.stride));
        }
        if own.len() != pairs.len() {
            return vec![None; count as usize];
        }
        let place = |element: u32| {
            let place = |(here, places, stride): &(Dimension<'_>, Vec<Option<u64>>, u64)| {
                Some(places[here.position(element) as usize]? * stride)
            };
            u32::try_from(pairs.iter().map(place).sum::<Option<u64>>()?).ok()
        };
        (0..count).map(place).collect()
    }

    /// The elements that the text in the brackets of a name stands for, in ascending order:
    /// indices, or values along the axes of a matrix.
    ///
    /// # Errors
    /// Why it stands for none, as a sentence without its subject, the family.
    pub(crate) fn select(&self, text: &str) -> Result<Vec<u32>, String> {
        if !self.is_indexed() {
            return Err("is neither an array nor a matrix, so it has no elements".to_owned());
        }
        match (IndexSet::parse(text), Selector::new(self)) {
            (Ok(set), selector) => {
                let element = |index| {
                    let by_value = selector.as_ref().map_or("", |_| "; for a value write AXIS=VALUE");
                    let missing = || {
                        let indices = self.indices().to_string();
                        format!("has no such index: {index} (its indices are {}{by_value})", shorten(&indices))
                    };
                    self.element(index).ok_or_else(missing)
                };
                set.iter().map(element).collect()
            }
            (Err(_), Some(selector)) => {
                selector.elements(text).map_err(|reason| format!("has no such element: {reason}"))
            }
            (Err(error), None) => Err(format!("is an array, so its elements are named by indices: {error}")),
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
        for dimension in self.dimensions() {
            let places = 1..dimension.len().min(1000);
            samples.extend(places.filter_map(|i| u32::try_from(i.saturating_mul(dimension.stride)).ok()));
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
        Space::Matrix(vec![axis("a", floats, false), axis("b", set, false)])
    }

    fn axis(name: &str, values: AxisSpec, tied: bool) -> Axis {
        Axis { tied, ..Axis::new(name, values) }
    }

    fn words(words: &[&str]) -> AxisSpec {
        AxisSpec::List(words.iter().map(|word| Scalar::Text((*word).into())).collect())
    }

    #[test]
    fn columns_of_a_table_vary_together() {
        let seeds = AxisSpec::Set(IndexSet::parse("1-2").unwrap());
        let table = [axis("s", words(&["x", "y"]), false), axis("f", words(&["x.fq", "y.fq"]), true)];
        let space = Space::Matrix(table.into_iter().chain([axis("seed", seeds, false)]).collect());
        assert_eq!(space.len(), 4);
        let row = |e| format!("{} {} {}", space.value(0, e), space.value(1, e), space.value(2, e));
        assert_eq!([0, 1, 2, 3].map(row), ["x x.fq 1", "x x.fq 2", "y y.fq 1", "y y.fq 2"]);
        assert_eq!(space.samples(), [0, 1, 2, 3]);
    }

    #[test]
    fn elements_are_found_again_by_their_values() {
        let of = |samples: &[&str], seeds: &str, turned: bool| {
            let mut axes = vec![
                axis("s", words(samples), false),
                axis("seed", AxisSpec::Set(IndexSet::parse(seeds).unwrap()), false),
            ];
            if turned {
                axes.reverse();
            }
            Space::Matrix(axes)
        };
        let (old, new) = (of(&["a", "b", "c"], "0-1", false), of(&["b", "x", "a"], "1-2", true));
        // Elements of the new one: b1 x1 a1 b2 x2 a2; of the old one: a0 a1 b0 b1 c0 c1.
        assert_eq!(new.former(&old), [Some(3), None, Some(1), None, None, None]);
        assert_eq!(of(&["a", "a"], "0", false).former(&of(&["b", "a", "a", "a"], "0", false)), [Some(1), Some(2)]);
        assert_eq!(of(&["a"], "0", false).former(&Space::Matrix(vec![axis("s", words(&["a"]), false)])), [None]);
        assert_eq!(Space::Matrix(vec![axis("s", words(&["a"]), false)]).former(&of(&["a"], "0", false)), [None]);
    }

    #[test]
    fn rows_of_a_table_are_found_again_when_a_column_changes() {
        let table = |columns: &[(&str, &[&str])]| {
            let axes = columns.iter().zip(0..).map(|((name, values), at)| axis(name, words(values), at > 0));
            Space::Matrix(axes.collect())
        };
        let old = table(&[("s", &["a", "b", "c"]), ("q", &["1", "2", "3"])]);
        let found = |columns| table(columns).former(&old);
        assert_eq!(found(&[("s", &["c", "a", "d"]), ("q", &["9", "1", "3"])]), [Some(2), Some(0), None]);
        let added: &[(&str, &[&str])] = &[("s", &["a", "b"]), ("new", &["x", "y"]), ("q", &["1", "7"])];
        assert_eq!(found(added), [Some(0), Some(1)]);
        assert_eq!(found(&[("s", &["b", "a"])]), [Some(1), Some(0)]);
        assert_eq!(found(&[("other", &["a", "b"])]), [None, None]);
        // Where the first column does not tell rows apart, the second one does, too.
        let lanes = table(&[("s", &["a", "a"]), ("lane", &["1", "2"]), ("q", &["5", "6"])]);
        let new = table(&[("s", &["a", "a"]), ("lane", &["2", "1"]), ("q", &["6", "7"])]);
        assert_eq!(new.former(&lanes), [Some(1), Some(0)]);
    }

    #[test]
    fn elements_are_named_by_their_values_where_these_are_names() {
        let set = |text: &str| AxisSpec::Set(IndexSet::parse(text).unwrap());
        let names = |axes: Vec<Axis>| {
            let space = Space::matrix(axes);
            let count = space.len() as u32;
            let names: Vec<Option<String>> = (0..count).map(|element| space.value_name(element)).collect();
            for (element, name) in (0..count).zip(&names).filter_map(|(e, name)| Some((e, name.as_ref()?))) {
                assert_eq!(space.select(name), Ok(vec![element]), "{name}");
            }
            names.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(vec![axis("s", words(&["NA1", "NA3"]), false)]), "NA1 NA3");
        let seeds = || axis("seed", set("1-2"), false);
        assert_eq!(names(vec![axis("s", words(&["a", "b,c"]), false), seeds()]), "a,1 a,2 \"b,c\",1 \"b,c\",2");
        assert_eq!(names(vec![seeds(), axis("s", words(&["a"]), false)]), "1,a 2,a");
        // Whole numbers look like indices.
        assert_eq!(names(vec![seeds(), axis("k", set("5-6"), false)]), "   ");
        assert_eq!(names(vec![axis("s", words(&["007", "x"]), false)]), "s=007 x");
        // The first columns of a table that tell its rows apart; what follows is then named.
        let table = |second: &[&str]| {
            vec![
                axis("s", words(&["a", "a", "b"]), false),
                axis("lane", words(second), true),
                axis("f", words(&["x", "y", "z"]), true),
            ]
        };
        assert_eq!(names(table(&["L1", "L2", "L1"])), "a,L1 a,L2 b,L1");
        let with_seeds = table(&["L1", "L2", "L1"]).into_iter().chain([axis("seed", set("9"), false)]).collect();
        assert_eq!(names(with_seeds), "a,L1,seed=9 a,L2,seed=9 b,L1,seed=9");
        // Equal rows, long values and line breaks.
        assert_eq!(names(vec![axis("s", words(&["a", "a"]), false)]), " ");
        assert_eq!(names(vec![axis("s", words(&[&"x".repeat(99), "a\nb", "c"]), false)]), "  c");
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
