//! The dependence patterns of Task Bench (Slaughter et al., "Task Bench: A Parameterized Benchmark
//! for Evaluating Parallel Runtime Performance", SC'20, section II and the code published with it).
//!
//! A pattern is a grid of `steps` rows with at most `width` points each; a point depends on points
//! of the previous row. Points are numbered row by row without gaps, also where rows have different
//! lengths. Nothing is stored: rows and dependencies are computed, so a pattern of a million points
//! takes a few words.
//!
//! All functions are total: no width, number of steps or radix makes them panic.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Period, in steps, of the dependencies of `spread` and `random_nearest` (Task Bench's default).
const PERIOD: u32 = 3;

/// Which points of the previous step a point depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dependence {
    /// No point.
    Trivial,
    /// The same point.
    NoComm,
    /// The same point and its two neighbours.
    Stencil1d,
    /// The same point and its left neighbour, in a diamond: the wave of a discrete-ordinates sweep.
    Dom,
    /// The parent: rows double until they have the full width.
    Tree,
    /// The same point and the two points at a distance that doubles with each step: a butterfly.
    Fft,
    /// The `radix` nearest points.
    Nearest {
        /// Number of points, including the same point.
        radix: u32,
    },
    /// `radix` distant points, at distances that change with each step.
    Spread {
        /// Number of points, including the same point.
        radix: u32,
    },
    /// A random subset of the nearest points.
    RandomNearest {
        /// Number of points to choose from, including the same point.
        radix: u32,
        /// Probability of each other point, 0 to 1.
        fraction: f64,
        /// Seed of the choice.
        seed: u64,
    },
    /// All points.
    AllToAll,
}

impl Dependence {
    /// All patterns: name in Task Bench, usual parameters, and description.
    pub const NAMED: &[(&str, Dependence, &str)] = &[
        ("trivial", Dependence::Trivial, "no dependencies"),
        ("no_comm", Dependence::NoComm, "the same point of the previous step"),
        ("stencil_1d", Dependence::Stencil1d, "the same point and its two neighbours"),
        ("dom", Dependence::Dom, "the same point and its left neighbour, in a diamond"),
        ("tree", Dependence::Tree, "the parent; steps double until they have the full width"),
        ("fft", Dependence::Fft, "the same point and the points at a distance that doubles with each step"),
        ("nearest", Dependence::Nearest { radix: 5 }, "the `radix` nearest points"),
        ("spread", Dependence::Spread { radix: 5 }, "`radix` distant points, which change with each step"),
        (
            "random_nearest",
            Dependence::RandomNearest { radix: 5, fraction: 0.25, seed: 0 },
            "the same point, and each other of the `radix` nearest points with probability `fraction`",
        ),
        ("all_to_all", Dependence::AllToAll, "every point"),
    ];

    /// Name in Task Bench.
    pub fn name(&self) -> &'static str {
        let same = |other: &Dependence| std::mem::discriminant(other) == std::mem::discriminant(self);
        Dependence::NAMED.iter().find(|(_, other, _)| same(other)).map_or("", |(name, ..)| name)
    }

    /// The radix, if the pattern has one.
    pub fn radix_mut(&mut self) -> Option<&mut u32> {
        match self {
            Dependence::Nearest { radix } | Dependence::Spread { radix } | Dependence::RandomNearest { radix, .. } => {
                Some(radix)
            }
            _ => None,
        }
    }
}

/// A grid of points with their dependencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pattern {
    /// Dependencies of a point on the previous step.
    pub dependence: Dependence,
    /// Maximum number of points per step; in some patterns steps have different widths.
    pub width: u32,
    /// Number of steps.
    pub steps: u32,
}

impl Pattern {
    /// Total number of points.
    pub fn count(&self) -> u64 {
        self.first(self.steps)
    }

    /// Number of the first point of a step, i.e. the number of points in the steps before it.
    pub fn first(&self, step: u32) -> u64 {
        let width = u64::from(self.width);
        match self.dependence {
            Dependence::Dom => {
                // A diamond is a ramp up, and the same ramp from the other end.
                let half = self.steps.div_ceil(2);
                match step <= half {
                    true => self.ramp(step),
                    false => {
                        self.ramp(half) + self.ramp(self.steps - half) - self.ramp(self.steps.saturating_sub(step))
                    }
                }
            }
            Dependence::Tree => {
                let doubling = step.min(levels(self.width));
                (1u64 << doubling) - 1 + u64::from(step - doubling) * width
            }
            _ => u64::from(step) * width,
        }
    }

    /// Number of points in the first `steps` steps of a diamond, whose widths grow 1, 2, 3 ... up
    /// to the full width.
    fn ramp(&self, steps: u32) -> u64 {
        let grown = u64::from(steps.min(self.width));
        grown * (grown + 1) / 2 + (u64::from(steps) - grown) * u64::from(self.width)
    }

    /// The points of a step.
    pub fn points(&self, step: u32) -> Range<u32> {
        match self.dependence {
            Dependence::Dom => {
                let offset = (u64::from(step) + u64::from(self.width)).saturating_sub(u64::from(self.steps)) as u32;
                let length = self.width.min(step.saturating_add(1)).min(self.steps.saturating_sub(step));
                offset..offset + length
            }
            Dependence::Tree => 0..1u32.checked_shl(step).unwrap_or(u32::MAX).min(self.width),
            _ => 0..self.width,
        }
    }

    /// Step and point of a point number.
    pub fn place(&self, number: u64) -> (u32, u32) {
        let (mut low, mut high) = (0, self.steps);
        // Binary search for the last step that begins at or before the number.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.first(middle) <= number {
                true => low = middle,
                false => high = middle,
            }
        }
        (low, self.points(low).start.saturating_add((number - self.first(low)) as u32))
    }

    /// Writes the points of the previous step that a point depends on into `found`, ascending.
    pub fn needs(&self, step: u32, point: u32, found: &mut Vec<u32>) {
        found.clear();
        let Some(before) = step.checked_sub(1).map(|before| self.points(before)) else { return };
        let within = |low: u32, high: u32| low.max(before.start)..high.saturating_add(1).min(before.end);
        let nearest = |radix: u32| match radix {
            0 => 0..0,
            _ => within(point.saturating_sub(radix / 2), point.saturating_add((radix - 1) / 2)),
        };
        match self.dependence {
            Dependence::Trivial => {}
            Dependence::NoComm => found.extend(within(point, point)),
            Dependence::Stencil1d => found.extend(within(point.saturating_sub(1), point.saturating_add(1))),
            Dependence::Dom => found.extend(within(point.saturating_sub(1), point)),
            Dependence::Tree => found.extend(within(point / 2, point / 2)),
            Dependence::Fft => {
                let distance = 1u32 << ((step - 1) % levels(self.width).max(1));
                let three = [point.checked_sub(distance), Some(point), point.checked_add(distance)];
                found.extend(three.into_iter().flatten().filter(|p| before.contains(p)));
            }
            Dependence::Nearest { radix } => found.extend(nearest(radix)),
            Dependence::Spread { radix } => self.spread(step, point, radix, found),
            Dependence::RandomNearest { radix, fraction, seed } => {
                let chosen = |other: u32| {
                    let words = [radix, step % PERIOD, other, point];
                    let bytes: [u8; 16] = std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4]);
                    // Maps the upper 53 bits to a number from 0 to 1.
                    (xxh3_64_with_seed(&bytes, seed) >> 11) as f64 / (1u64 << 53) as f64
                };
                found.extend(nearest(radix).filter(|&other| other == point || chosen(other) < fraction));
            }
            Dependence::AllToAll => found.extend(before),
        }
    }

    fn spread(&self, step: u32, point: u32, radix: u32, found: &mut Vec<u32>) {
        let (width, radix) = (u64::from(self.width), u64::from(radix.min(self.width)));
        // With a longer period the last point would coincide with the first.
        let period = u64::from(PERIOD).min(width.div_ceil(radix.max(1)));
        let turn = u64::from(step) % period.max(1);
        let far = |i: u64| (u64::from(point) + i * width / radix + if i > 0 { turn } else { 0 }) % width;
        found.extend((0..radix).map(|i| far(i) as u32));
        found.sort_unstable();
        found.dedup();
    }

    /// Maximum number of dependencies of a point.
    pub fn most_needs(&self) -> u32 {
        match self.dependence {
            Dependence::Trivial => 0,
            Dependence::NoComm | Dependence::Tree => 1,
            Dependence::Dom => 2,
            Dependence::Stencil1d | Dependence::Fft => 3,
            Dependence::Nearest { radix } | Dependence::Spread { radix } | Dependence::RandomNearest { radix, .. } => {
                radix.min(self.width)
            }
            Dependence::AllToAll => self.width,
        }
    }

    /// Calls `pair(needed, needing)` with the numbers of each dependency, ordered by `needing`.
    /// Only for patterns whose point numbers fit in 32 bits.
    pub fn each_pair(&self, mut pair: impl FnMut(u32, u32)) {
        let mut needs = Vec::new();
        for step in 1..self.steps {
            let (before, now) = (self.first(step - 1) as u32, self.first(step) as u32);
            let (first_before, points) = (self.points(step - 1).start, self.points(step));
            for point in points.clone() {
                self.needs(step, point, &mut needs);
                needs.iter().for_each(|&need| pair(before + (need - first_before), now + (point - points.start)));
            }
        }
    }
}

/// Number of doublings from 1 to at least `width`.
fn levels(width: u32) -> u32 {
    width.max(1).ilog2() + u32::from(!width.max(1).is_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TaskGraph;
    use crate::graph::link::{Condition, Link, LinkShape};
    use proptest::prelude::*;

    /// Offset and width of a step as Task Bench defines them.
    fn row(p: &Pattern, t: i64) -> (i64, i64) {
        let (width, steps) = (i64::from(p.width), i64::from(p.steps));
        match p.dependence {
            Dependence::Dom => ((t + width - steps).max(0), width.min(t + 1).min(steps - t)),
            Dependence::Tree => (0, width.min(1 << t.min(40))),
            _ => (0, width),
        }
    }

    /// True if point `p` of step `t` depends on point `q` of the previous step, decided for one
    /// pair at a time.
    fn is_needed(pattern: &Pattern, t: i64, p: i64, q: i64) -> bool {
        let width = i64::from(pattern.width);
        let near = |radix: u32| q >= p - i64::from(radix / 2) && q <= p + (i64::from(radix) - 1).div_euclid(2);
        match pattern.dependence {
            Dependence::Trivial => false,
            Dependence::NoComm => p == q,
            Dependence::Stencil1d => (p - q).abs() <= 1,
            Dependence::Dom => q == p || q == p - 1,
            Dependence::Tree => q == p / 2,
            Dependence::Fft => {
                let sets = ((width as f64).log2().ceil() as i64).max(1);
                let distance = 1 << ((t + sets - 1) % sets);
                q == p || (p - q).abs() == distance
            }
            Dependence::Nearest { radix } => near(radix),
            Dependence::Spread { radix } => {
                let radix = i64::from(radix).min(width);
                let turn = t % 3.min((width + radix - 1) / radix);
                (0..radix).any(|i| (p + i * width / radix + if i > 0 { turn } else { 0 }) % width == q)
            }
            // The random choice has its own test; its candidates are those of `nearest`.
            Dependence::RandomNearest { radix, .. } => near(radix),
            Dependence::AllToAll => true,
        }
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        (0..Dependence::NAMED.len(), 1..40u32, 1..30u32, 1..9u32).prop_map(|(which, width, steps, radix)| {
            let mut dependence = Dependence::NAMED[which].1;
            dependence.radix_mut().into_iter().for_each(|r| *r = radix);
            if let Dependence::RandomNearest { fraction, .. } = &mut dependence {
                *fraction = 1.0;
            }
            Pattern { dependence, width, steps }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_numbered_without_gaps(pattern in patterns()) {
            let mut number = 0;
            for step in 0..pattern.steps {
                let (offset, width) = row(&pattern, i64::from(step));
                let points = pattern.points(step);
                prop_assert_eq!((i64::from(points.start), points.len() as i64), (offset, width));
                prop_assert!(points.end <= pattern.width && !points.is_empty());
                for point in points {
                    prop_assert_eq!(pattern.place(number), (step, point));
                    number += 1;
                }
                prop_assert_eq!(pattern.first(step + 1), number);
            }
            prop_assert_eq!(pattern.count(), number);
        }

        #[test]
        fn edges_are_those_of_the_definition(pattern in patterns()) {
            let mut expected = Vec::new();
            for t in 1..i64::from(pattern.steps) {
                let ((before, width_before), (now, width)) = (row(&pattern, t - 1), row(&pattern, t));
                for p in now..now + width {
                    let needs: Vec<i64> = (before..before + width_before).filter(|&q| is_needed(&pattern, t, p, q)).collect();
                    prop_assert!(needs.len() <= pattern.most_needs() as usize);
                    let number = pattern.first(t as u32) as i64 + p - now;
                    expected.extend(needs.iter().map(|q| ((pattern.first(t as u32 - 1) as i64 + q - before) as u32, number as u32)));
                }
            }
            let mut found = Vec::new();
            pattern.each_pair(|from, to| found.push((from, to)));
            prop_assert_eq!(&found, &expected);

            let link = Link { from: 0, to: 0, shape: LinkShape::Pattern(pattern), on: Condition::Ok, bytes: 0, span: 0..1 };
            let graph = TaskGraph::build(&[pattern.count() as u32], &[link]).expect("no pattern has a cycle");
            prop_assert_eq!(graph.edge_count(), expected.len());
            for node in 0..graph.task_count() as u32 {
                let needed: Vec<u32> = expected.iter().filter(|(_, to)| *to == node).map(|(from, _)| *from).collect();
                prop_assert_eq!(graph.predecessors(node).map(|e| e.node()).collect::<Vec<_>>(), needed);
            }
        }
    }

    #[test]
    fn random_needs_follow_fraction_and_seed() {
        let edges = |fraction, seed| {
            let dependence = Dependence::RandomNearest { radix: 5, fraction, seed };
            let mut found = Vec::new();
            Pattern { dependence, width: 64, steps: 64 }.each_pair(|from, to| found.push((from, to)));
            found
        };
        let own = 64 * 63;
        assert!(edges(0.0, 1).len() == own && edges(0.0, 1).iter().all(|(from, to)| from + 64 == *to));
        let all = edges(1.0, 1).len() - own;
        // The choice repeats every three steps, so there are about 750 independent draws, and the
        // share is accurate to a few hundredths.
        let share = (edges(0.25, 1).len() - own) as f64 / all as f64;
        assert!((0.15..0.35).contains(&share), "{share}");
        assert_eq!(edges(0.25, 1), edges(0.25, 1));
        assert_ne!(edges(0.25, 1), edges(0.25, 2));
    }

    #[test]
    fn nothing_overflows() {
        for (name, dependence, _) in Dependence::NAMED {
            assert_eq!(dependence.name(), *name);
            for (width, steps) in [(0, 0), (1, 1), (u32::MAX, 3), (3, u32::MAX), (u32::MAX, u32::MAX)] {
                let pattern = Pattern { dependence: *dependence, width, steps };
                let count = pattern.count();
                if width > 0 && steps > 0 {
                    let (step, point) = pattern.place(count - 1);
                    assert!(step == steps - 1 && point < width, "{pattern:?}");
                }
                if !matches!(dependence, Dependence::AllToAll) && width > 0 {
                    pattern.needs(2, width - 1, &mut Vec::new());
                }
            }
        }
    }
}
