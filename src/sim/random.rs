//! Random draws of the simulation: reproducible, and independent of the order in which they are
//! made.
//!
//! Each subject (a task's duration, a node's slowness, a request's delay) has a generator of its
//! own, seeded from the run's seed and the subject's number. So a task takes equally long under
//! every policy and on every number of ranks, and a comparison shows differences between policies
//! rather than between draws.

use std::time::Duration;

use fastrand::Rng;

/// The subject of a draw; draws for different subjects are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Duration and failure of an attempt.
    Task,
    /// Slowness and loss of a node.
    Node,
    /// Delay and failure of a request for a node.
    Request,
    /// Message delays.
    Network,
    /// Memory that a task uses.
    Memory,
}

/// The generator for one subject and number.
pub fn generator(seed: u64, subject: Subject, number: u64) -> Rng {
    let mut state = seed ^ (subject as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    state = mix(state).wrapping_add(number);
    Rng::with_seed(mix(state))
}

/// SplitMix64's finaliser (Steele et al., OOPSLA 2014): neighbouring numbers give unrelated
/// generators.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A draw from the standard normal distribution (Box and Muller, 1958).
pub fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// The time until the next event at `rate` events per hour; `None` if there are none.
pub fn waiting(rng: &mut Rng, rate: f64) -> Option<Duration> {
    let hours = -(1.0 - rng.f64()).ln() / rate;
    Duration::try_from_secs_f64(hours * 3600.0).ok().filter(|_| rate > 0.0)
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// A constant.
    Constant(Duration),
    /// Uniform between the two.
    Uniform(Duration, Duration),
    /// Log-normal: half of the draws lie below the median; sigma is the spread of the logarithm.
    LogNormal {
        /// The median.
        median: Duration,
        /// Standard deviation of the natural logarithm.
        sigma: f64,
    },
    /// A uniform choice from measured values. Never empty.
    Measured(Vec<Duration>),
}

impl Distribution {
    /// Draws a value.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        match self {
            Distribution::Constant(time) => *time,
            Distribution::Uniform(from, to) => *from + to.saturating_sub(*from).mul_f64(rng.f64()),
            Distribution::LogNormal { median, sigma } => stretch(*median, (sigma * normal(rng)).exp()),
            Distribution::Measured(times) => times[rng.usize(0..times.len())],
        }
    }

    /// The median.
    pub fn median(&self) -> Duration {
        match self {
            Distribution::Constant(time) => *time,
            Distribution::Uniform(from, to) => *from + to.saturating_sub(*from) / 2,
            Distribution::LogNormal { median, .. } => *median,
            Distribution::Measured(times) => {
                let mut sorted = times.clone();
                sorted.sort_unstable();
                sorted[sorted.len() / 2]
            }
        }
    }
}

/// A time multiplied by a factor, at most a century.
pub fn stretch(time: Duration, factor: f64) -> Duration {
    const CENTURY: f64 = 36_525.0 * 86_400.0;
    Duration::from_secs_f64((time.as_secs_f64() * factor).clamp(0.0, CENTURY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_subject_and_number_and_on_nothing_else() {
        let draw = |seed, subject, number| generator(seed, subject, number).u64(..);
        assert_eq!(draw(1, Subject::Task, 7), draw(1, Subject::Task, 7));
        let others = [draw(2, Subject::Task, 7), draw(1, Subject::Node, 7), draw(1, Subject::Task, 8)];
        assert!(others.iter().all(|&other| other != draw(1, Subject::Task, 7)));
    }

    #[test]
    fn distributions_have_the_median_that_they_say() {
        let s = Duration::from_secs;
        let all = [
            Distribution::Constant(s(60)),
            Distribution::Uniform(s(30), s(90)),
            Distribution::LogNormal { median: s(60), sigma: 0.5 },
            Distribution::Measured(vec![s(10), s(60), s(300)]),
        ];
        for distribution in all {
            let mut draws: Vec<f64> =
                (0..2001).map(|i| distribution.draw(&mut generator(3, Subject::Request, i)).as_secs_f64()).collect();
            draws.sort_by(f64::total_cmp);
            let (found, said) = (draws[1000], distribution.median().as_secs_f64());
            assert!((found - said).abs() < 0.06 * said, "{distribution:?}: {found}");
        }
    }

    #[test]
    fn rare_events_are_rare_and_impossible_ones_never_come() {
        let mut rng = generator(1, Subject::Node, 0);
        assert_eq!(waiting(&mut rng, 0.0), None);
        let mean = (0..1000).map(|_| waiting(&mut rng, 2.0).unwrap().as_secs_f64()).sum::<f64>() / 1000.0;
        assert!((mean - 1800.0).abs() < 200.0, "{mean}");
    }
}
