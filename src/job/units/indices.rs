//! Sets of indices in Slurm's notation for job arrays: `0-99`, `1-100:2`, `1,3,7-9`, with `%limit`.
//!
//! A set is stored as ascending, disjoint runs. A million indices take one run, and look-ups in
//! both directions (the n-th index, the position of an index) are binary searches.

use std::fmt;

use super::UnitError;

/// Interleaved runs (`0-98:2,1-99:2`) are merged by listing their indices, up to this number.
const MAX_MERGED: u64 = 1 << 20;

/// Exclusive maximum of an index, so that sums cannot overflow.
const MAX_INDEX: u64 = 1 << 48;

const FORMS: &str = "write 0-99, 1-100:2 or 1,3,7-9";

/// `first, first + step, ..., last`; earlier runs have `before` indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexRun {
    first: u64,
    last: u64,
    step: u64,
    before: u64,
}

impl IndexRun {
    fn len(&self) -> u64 {
        (self.last - self.first) / self.step + 1
    }
}

/// A set of indices in ascending order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSet {
    runs: Vec<IndexRun>,
}

impl IndexSet {
    /// `0, 1, ..., count - 1`; a count of zero is treated as one.
    pub fn first(count: u64) -> IndexSet {
        IndexSet { runs: vec![IndexRun { first: 0, last: count.saturating_sub(1), step: 1, before: 0 }] }
    }

    /// Parses `0-99`, `1-100:2`, `1,3,7-9`. Duplicate indices count once.
    pub fn parse(text: &str) -> Result<IndexSet, UnitError> {
        let fail = |reason: String| UnitError::new("a set of indices", text, reason);
        if text.trim().is_empty() {
            return Err(fail(format!("it is empty; {FORMS}")));
        }
        let runs = text.split(',').map(parse_run).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        IndexSet::merge(runs).map_err(fail)
    }

    fn merge(mut runs: Vec<IndexRun>) -> Result<IndexSet, String> {
        runs.sort_by_key(|run| run.first);
        if runs.windows(2).any(|pair| pair[0].last >= pair[1].first) {
            let total = runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.len()));
            if total > MAX_MERGED {
                return Err("its ranges overlap; write them so that they do not".into());
            }
            let mut all: Vec<u64> = runs.iter().flat_map(indices_of).collect();
            all.sort_unstable();
            all.dedup();
            runs = all.into_iter().map(|i| IndexRun { first: i, last: i, step: 1, before: 0 }).collect();
        }
        let mut merged = join(runs);
        let mut before = 0;
        for run in &mut merged {
            run.before = before;
            before += run.len();
        }
        Ok(IndexSet { runs: merged })
    }

    /// Number of indices, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a set of indices is never empty")]
    pub fn len(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.before + run.len())
    }

    /// The index at a position, from 0 in ascending order.
    pub fn nth(&self, position: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.before <= position).checked_sub(1)?;
        let run = self.runs.get(at)?;
        let index = run.first + (position - run.before).checked_mul(run.step)?;
        (index <= run.last).then_some(index)
    }

    /// The position of an index, if the set contains it.
    pub fn position(&self, index: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.first <= index).checked_sub(1)?;
        let run = self.runs.get(at)?;
        let inside = index <= run.last && (index - run.first).is_multiple_of(run.step);
        inside.then(|| run.before + (index - run.first) / run.step)
    }

    /// The indices in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(indices_of)
    }
}

fn indices_of(run: &IndexRun) -> impl Iterator<Item = u64> + use<> {
    let (first, step) = (run.first, run.step);
    (0..run.len()).map(move |i| first + i * step)
}

/// Joins adjacent runs that continue each other, so that equal simple sets have equal runs.
fn join(runs: Vec<IndexRun>) -> Vec<IndexRun> {
    let mut joined: Vec<IndexRun> = Vec::new();
    for run in runs {
        if let Some(previous) = joined.last_mut() {
            let gap = run.first - previous.last;
            let continues_previous = previous.len() == 1 || gap == previous.step;
            let continues_run = run.len() == 1 || gap == run.step;
            if continues_previous && continues_run && (gap == 1 || previous.len() > 1) {
                previous.step = gap;
                previous.last = run.last;
                continue;
            }
        }
        joined.push(run);
    }
    joined
}

fn parse_run(text: &str) -> Result<IndexRun, String> {
    let text = text.trim();
    let (range, step) = match text.split_once(':') {
        Some((range, step)) => (range, number(step)?),
        None => (text, 1),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None if range != text => return Err(format!("`{text}` has a step but no range; {FORMS}")),
        None => (number(range)?, number(range)?),
    };
    if step == 0 {
        return Err(format!("the step of `{text}` is 0"));
    }
    if last < first {
        return Err(format!("`{text}` ends before it begins"));
    }
    let last = first + (last - first) / step * step;
    // A single index gets step 1, so that equal sets compare equal.
    Ok(IndexRun { first, last, step: if first == last { 1 } else { step }, before: 0 })
}

fn number(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{}` is not a whole number; {FORMS}", super::shorten(text)));
    }
    text.parse().ok().filter(|n| *n < MAX_INDEX).ok_or_else(|| format!("`{}` is too large", super::shorten(text)))
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.runs.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match (run.len(), run.step) {
                (1, _) => write!(f, "{}", run.first)?,
                (_, 1) => write!(f, "{}-{}", run.first, run.last)?,
                (_, step) => write!(f, "{}-{}:{step}", run.first, run.last)?,
            }
        }
        Ok(())
    }
}

/// Parses the value of `array`: a set of indices, optionally with `%limit` (maximum number of
/// concurrent tasks).
pub fn parse_array(text: &str) -> Result<(IndexSet, Option<u32>), UnitError> {
    let Some((set, limit)) = text.split_once('%') else {
        return Ok((IndexSet::parse(text)?, None));
    };
    let limit = limit.trim();
    match limit.parse::<u32>() {
        Ok(limit) if limit > 0 => Ok((IndexSet::parse(set)?, Some(limit))),
        _ => Err(UnitError::new("an array", text, format!("the limit after % must be at least 1, not `{limit}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_slurms_forms() {
        let set = |text| IndexSet::parse(text).unwrap().iter().collect::<Vec<_>>();
        assert_eq!(set("0-3"), [0, 1, 2, 3]);
        assert_eq!(set("1-8:3"), [1, 4, 7]);
        assert_eq!(set("7-9,1,3"), [1, 3, 7, 8, 9]);
        assert_eq!(set("1-5,3"), [1, 2, 3, 4, 5]);
        assert_eq!(set("0-8:2,1-9:2"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(parse_array("0-9%2").unwrap().1, Some(2));
    }

    #[test]
    fn equal_sets_are_equal_however_written() {
        assert_eq!(IndexSet::parse("0,1,2,3").unwrap(), IndexSet::parse("0-3").unwrap());
        assert_eq!(IndexSet::parse("0-4,5-9").unwrap(), IndexSet::first(10));
        assert_eq!(IndexSet::parse("5:7").map_err(|e| e.reason.contains("no range")), Err(true));
    }

    #[test]
    fn refuses_nonsense_and_is_bounded() {
        for text in [
            "",
            ",",
            "1-",
            "-1",
            "3-1",
            "1-9:0",
            "a",
            "1,,2",
            "1-2-3",
            "0-9%0",
            "0-9%",
            "0-9%x",
            "999999999999999999999",
        ] {
            assert!(parse_array(text).is_err(), "{text}");
        }
        assert!(IndexSet::parse("0-99999999,5-99999999").is_err());
        assert_eq!(IndexSet::parse("0-999999999").unwrap().len(), 1_000_000_000);
    }

    proptest! {
        #[test]
        fn position_and_nth_agree_and_text_reads_back(
            parts in prop::collection::vec((0u64..200, 0u64..30, 1u64..5), 1..6)
        ) {
            let text: Vec<String> = parts.iter().map(|(a, n, s)| format!("{a}-{}:{s}", a + n)).collect();
            let set = IndexSet::parse(&text.join(",")).unwrap();
            let all: Vec<u64> = set.iter().collect();
            prop_assert_eq!(all.len() as u64, set.len());
            prop_assert!(all.windows(2).all(|w| w[0] < w[1]));
            for (i, index) in all.iter().enumerate() {
                prop_assert_eq!(set.nth(i as u64), Some(*index));
                prop_assert_eq!(set.position(*index), Some(i as u64));
            }
            prop_assert_eq!(set.nth(set.len()), None);
            for index in 0..250 {
                prop_assert_eq!(set.position(index).is_some(), all.contains(&index));
            }
            let again = IndexSet::parse(&set.to_string()).unwrap();
            prop_assert_eq!(again.iter().collect::<Vec<_>>(), all);
        }

        #[test]
        fn no_text_panics(text in "[-0-9:,%]{0,24}|\\PC{0,12}") {
            let _ = parse_array(&text);
        }
    }
}
