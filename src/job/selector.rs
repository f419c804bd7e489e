//! Elements of a matrix by the values along its axes, as they stand in the brackets of a name:
//! `align[NA3]`, `align[sample=NA3]`, `align[sample=NA3,seed=1]`, `align["a, b"]`.

use std::cell::OnceCell;

use rustc_hash::FxHashMap;

use super::diagnostic::closest;
use super::space::{Axis, Dimension, Space};
use super::units::{IndexSet, shorten};

/// Maximum number of values among which one that is similar is sought.
const MAX_COMPARED: usize = 10_000;

/// Positions along an axis by value.
type Places = FxHashMap<String, Vec<u64>>;

/// Finds elements of a matrix by their values.
pub(crate) struct Selector<'a> {
    axes: &'a [Axis],
    dimensions: Vec<Dimension<'a>>,
    /// For each axis; made when the axis is first asked for.
    places: Vec<OnceCell<Places>>,
}

/// Quotes a value that would not be read as one value within brackets.
pub(crate) fn quoted(value: &str) -> String {
    let is_plain = value.trim() == value && !value.is_empty() && !value.contains([',', '"', '=']);
    match is_plain || IndexSet::parse(value).is_ok() {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('"', "\"\"")),
    }
}

impl<'a> Selector<'a> {
    /// A selector for a matrix; `None` for another family, whose elements have indices only.
    pub(crate) fn new(space: &'a Space) -> Option<Selector<'a>> {
        let axes = space.axes();
        let places = axes.iter().map(|_| OnceCell::new()).collect();
        (!axes.is_empty()).then(|| Selector { axes, dimensions: space.dimensions(), places })
    }

    /// The elements, in ascending order, with the values that the text gives: each as `AXIS=VALUE`,
    /// or without name in the order of the axes. At axes without a value all count.
    ///
    /// # Errors
    /// What is wrong with the text, and what might be meant.
    pub(crate) fn elements(&self, text: &str) -> Result<Vec<u32>, String> {
        let whole = text.trim();
        let parts = match self.places(0).contains_key(whole) {
            true => vec![(0, whole.to_owned())],
            false => self.parts(text)?,
        };
        let mut allowed: Vec<Option<Vec<u64>>> = vec![None; self.dimensions.len()];
        for (axis, value) in &parts {
            let places = self.places(*axis).get(value).ok_or_else(|| self.unknown_value(*axis, value))?;
            let dimension = self.axes[..=*axis].iter().filter(|axis| !axis.tied).count() - 1;
            let allowed = &mut allowed[dimension];
            match allowed {
                None => *allowed = Some(places.clone()),
                Some(allowed) => allowed.retain(|place| places.contains(place)),
            }
        }
        let mut elements = vec![0u64];
        for (dimension, allowed) in self.dimensions.iter().zip(allowed) {
            let allowed = allowed.unwrap_or_else(|| (0..dimension.len()).collect());
            let steps = |from: u64| allowed.iter().map(move |place| from + place * dimension.stride);
            elements = elements.into_iter().flat_map(steps).collect();
        }
        if elements.is_empty() {
            return Err(format!("no row of its table holds all of `{}`", shorten(text)));
        }
        Ok(elements.into_iter().filter_map(|element| u32::try_from(element).ok()).collect())
    }

    fn places(&self, axis: usize) -> &Places {
        self.places[axis].get_or_init(|| {
            let mut places = Places::default();
            let axis = &self.axes[axis];
            for at in 0..axis.len() {
                places.entry(axis.value(at).to_string()).or_default().push(at);
            }
            places
        })
    }

    /// The axes with their values that a text gives.
    fn parts(&self, text: &str) -> Result<Vec<(usize, String)>, String> {
        let mut parts: Vec<(usize, String)> = Vec::new();
        let mut rest = text;
        loop {
            let typed_axis = rest.split_once('=').and_then(|(name, after)| {
                let axis = self.axes.iter().position(|axis| axis.name == name.trim())?;
                Some((axis, after))
            });
            let (axis, value) = typed_axis.unwrap_or((parts.len(), rest));
            let (value, after) = split_value(value)?;
            if axis >= self.axes.len() {
                let names: Vec<&str> = self.axes.iter().map(|axis| axis.name.as_str()).collect();
                return Err(format!("{value:?} is one value too many: its axes are {}", names.join(", ")));
            }
            if parts.iter().any(|(other, _)| *other == axis) {
                return Err(format!("it gives two values for the axis `{}`", self.axes[axis].name));
            }
            parts.push((axis, value));
            match after {
                Some(after) => rest = after,
                None => return Ok(parts),
            }
        }
    }

    fn unknown_value(&self, axis: usize, value: &str) -> String {
        let name = &self.axes[axis].name;
        let typed =
            value.split_once('=').map(|(name, _)| name.trim()).filter(|name| super::scalar::is_identifier(name));
        if let Some(typed) = typed {
            let names: Vec<&str> = self.axes.iter().map(|axis| axis.name.as_str()).collect();
            return format!("it has no axis `{}`: its axes are {}", shorten(typed), names.join(", "));
        }
        let known = self.places(axis).keys().take(MAX_COMPARED).map(String::as_str);
        let meant = closest(value, known).map_or(String::new(), |meant| format!("; did you mean `{}`?", quoted(meant)));
        format!("its axis `{name}` has no value {:?}{meant}", shorten(value))
    }
}

/// Splits the first value, which may be quoted, off a text, and what follows its comma.
fn split_value(text: &str) -> Result<(String, Option<&str>), String> {
    let Some(mut rest) = text.trim_start().strip_prefix('"') else {
        return Ok(match text.split_once(',') {
            Some((value, after)) => (value.trim().to_owned(), Some(after)),
            None => (text.trim().to_owned(), None),
        });
    };
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => {
                let after = after.trim_start();
                return match after.strip_prefix(',') {
                    Some(next) => Ok((value, Some(next))),
                    None if after.is_empty() => Ok((value, None)),
                    None => Err(format!("{:?} follows a quoted value", shorten(after))),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scalar::Scalar;
    use super::super::values::AxisSpec;
    use super::*;

    fn axis(name: &str, values: &[&str], tied: bool) -> Axis {
        let values = values.iter().map(|value| Scalar::typed(value)).collect();
        Axis { tied, ..Axis::new(name, AxisSpec::List(values)) }
    }

    #[test]
    fn elements_are_found_by_their_values() {
        let axes = vec![
            axis("sample", &["NA1", "NA3", "a, b", "x=y"], false),
            axis("batch", &["1", "1", "2", "2"], true),
            axis("seed", &["5", "6"], false),
        ];
        let space = Space::Matrix(axes);
        let selector = Selector::new(&space).unwrap();
        let of = |text: &str| selector.elements(text);
        assert_eq!(of("NA3"), Ok(vec![2, 3]));
        assert_eq!(of("sample=NA3"), Ok(vec![2, 3]));
        assert_eq!(of(" seed = 6 , sample = NA3 "), Ok(vec![3]));
        assert_eq!(of("NA3,1,6"), Ok(vec![3]));
        assert_eq!(of("batch=2"), Ok(vec![4, 5, 6, 7]));
        assert_eq!(of("batch=2,seed=5"), Ok(vec![4, 6]));
        assert_eq!(of("a, b"), Ok(vec![4, 5]));
        assert_eq!(of("\"a, b\",seed=6"), Ok(vec![5]));
        assert_eq!(of("x=y"), Ok(vec![6, 7]));
        for (text, says) in [
            ("NA4", "did you mean"),
            ("smaple=NA3", "no axis `smaple`: its axes are sample, batch, seed"),
            ("NA3,batch=2", "no row of its table"),
            ("NA3,1,5,7", "one value too many"),
            ("sample=NA3,sample=NA1", "two values"),
            ("\"NA3", "a quote is not closed"),
            ("", "no value \"\""),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_value_is_found_as_it_is_quoted(
            values in prop::collection::hash_set("[-a-z0-9, \"=\\[\\]é漢{}%]{0,6}", 1..8),
        ) {
            let values: Vec<String> = values.into_iter().collect();
            let words: Vec<&str> = values.iter().map(String::as_str).collect();
            let space = Space::Matrix(vec![axis("s", &words, false), axis("t", &["u", "v"], false)]);
            let selector = Selector::new(&space).unwrap();
            for (at, value) in (0..).zip(&values) {
                let named = selector.elements(&format!("t=v,s=\"{}\"", value.replace('"', "\"\"")));
                prop_assert_eq!(named, Ok(vec![at * 2 + 1]));
                if IndexSet::parse(value).is_err() {
                    prop_assert_eq!(selector.elements(&format!("s={},t=u", quoted(value))), Ok(vec![at * 2]));
                }
            }
        }

        #[test]
        fn no_text_panics(text in "[-a-z0-9, \"=]{0,16}|\\PC{0,12}") {
            let space = Space::Matrix(vec![axis("s", &["a", "b"], false), axis("t", &["u", "v"], false)]);
            let _ = Selector::new(&space).unwrap().elements(&text);
        }
    }
}
