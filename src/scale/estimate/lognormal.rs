//! A log-normal distribution of a positive quantity, updated by every observation.
//!
//! Durations of tasks of one class spread by factors rather than by seconds, so their logarithms
//! are taken to be normal. Mean and variance are both unknown. With the conjugate
//! normal-inverse-gamma prior (Murphy, "Conjugate Bayesian analysis of the Gaussian distribution",
//! 2007, section 3) the next value follows Student's t, which is wide after two observations and
//! close to normal after thirty. So intervals are valid from the first observation on, without a
//! switch from "unknown" to "known".
//!
//! With many observations, the quantiles of the last few hundred are used instead: they are valid
//! for any shape (two modes, a heavy tail) and adapt to changes.

use std::sync::LazyLock;
use std::time::Duration;

use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

use super::Quantiles;

/// Observations kept for empirical quantiles.
const KEPT_OBSERVATIONS: usize = 256;

/// With fewer observations, the fitted distribution is used.
const MIN_EMPIRICAL_OBSERVATIONS: usize = 64;

/// Upper limit on unfinished values that are considered one by one.
const MAX_UNFINISHED_SAMPLES: usize = 1024;

/// Upper limit on unfinished values that are added to the observations, approximately.
const MAX_UNFINISHED_ADDED: u64 = 4096;

/// Iterations of expectation and maximisation over unfinished values.
const EM_ITERATIONS: usize = 4;

/// Beyond this number of deviations, the normal distribution's tail is too thin for arithmetic.
const MAX_DEVIATIONS: f64 = 6.0;

/// A value this many deviations above the mean of logarithms follows no observation: a cause other
/// than chance holds it up. Of the tens of thousands of tasks that run at once on a large machine,
/// some always are as rare as one in a thousand; as rare as this is one in three hundred thousand.
const BEYOND: f64 = 4.5;

/// The rest of such a value is asked for at most this share of them: the tail of a scale-free prior
/// has no mean, and one of thousands of running tasks would seem to run for ever.
const MAX_SHARE_BEYOND: f64 = 0.75;

/// From this number of degrees of freedom on, Student's t is taken to be normal.
const NORMAL_FROM: f64 = 200.0;

/// Number of values that represent a whole distribution ([`LogNormal::spread`]).
pub const SPREAD: usize = 32;

/// The middles of [`SPREAD`] equal parts of the standard normal distribution.
static NORMAL_POINTS: LazyLock<[f64; SPREAD]> = LazyLock::new(|| std::array::from_fn(|k| normal_point(middle(k))));

/// Intervals of [`T90`].
const T90_STEPS: usize = 256;

/// The 90 % points of Student's t, at equal distances of the inverse of the degrees of freedom from
/// 0 to 1/2. They are nearly a polynomial of that inverse, so interpolation is exact to six digits,
/// and takes a thousandth of the time of the inverse incomplete beta function.
static T90: LazyLock<[f64; T90_STEPS + 1]> = LazyLock::new(|| {
    std::array::from_fn(|k| match k {
        0 => Z90,
        _ => StudentsT::new(0.0, 1.0, 2.0 * T90_STEPS as f64 / k as f64).map_or(Z90, |t| t.inverse_cdf(0.9)),
    })
});

/// The 90 % point of the standard normal distribution.
const Z90: f64 = 1.281_551_565_544_6;

/// Logarithms beyond this are clamped: e^46 seconds is longer than the age of the universe.
const LONGEST_LOG: f64 = 46.0;

/// The estimated distribution of a positive quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct LogNormal {
    /// Mean of the logarithm, and the number of observations that it counts as.
    mean: f64,
    weight: f64,
    /// Shape and scale of the inverse gamma distribution of the variance.
    shape: f64,
    scale: f64,
    /// Number of actual observations.
    seen: u64,
    /// Logarithms of the latest observations, as a ring, and the same sorted.
    latest: Vec<f64>,
    next: usize,
    sorted: Vec<f64>,
}

impl LogNormal {
    /// A guess from outside (a job file, an earlier run) that counts as one observation and may
    /// well be off by half.
    pub fn guess(median: f64) -> LogNormal {
        LogNormal::prior(median, 2.0, 0.12)
    }

    /// What a job file says of a task. Tasks of a class keep its proportions (a deviation of 0.22
    /// in logarithms), while all of them together may well take half as long again, or less.
    pub fn estimated(median: f64) -> LogNormal {
        LogNormal::prior(median, 0.7, 0.05)
    }

    /// The same where each task has an estimate of its own (a deviation of 0.14).
    pub fn estimated_one_by_one(median: f64) -> LogNormal {
        LogNormal::prior(median, 0.7, 0.02)
    }

    /// Only an order of magnitude: counts as a hundredth of an observation.
    pub fn unknown(median: f64) -> LogNormal {
        LogNormal::prior(median, 0.01, 0.05)
    }

    /// For a class of tasks without any information, before other classes provide some: durations
    /// of the classes of one job usually differ by a factor of e, and often by far more.
    pub fn of_other_classes(median: f64) -> LogNormal {
        LogNormal { shape: 2.0, ..LogNormal::prior(median, 0.3, 2.0) }
    }

    /// From earlier runs: mean and variance of the logarithm, counting as `worth` observations.
    pub fn learnt(mean_log: f64, variance_log: f64, worth: f64) -> LogNormal {
        let shape = 1.0 + worth / 2.0;
        let scale = shape * variance_log.clamp(1e-4, 9.0);
        LogNormal { mean: bounded(mean_log), shape, scale, ..LogNormal::prior(1.0, worth.max(0.2), 0.05) }
    }

    fn prior(median: f64, weight: f64, scale: f64) -> LogNormal {
        LogNormal {
            mean: log(median),
            weight,
            shape: 1.0,
            scale,
            seen: 0,
            latest: Vec::new(),
            next: 0,
            sorted: Vec::new(),
        }
    }

    /// Learns from one observation; ignores anything that is not a positive number.
    pub fn observe(&mut self, value: f64) {
        if !value.is_finite() || value <= 0.0 {
            return;
        }
        let x = log(value);
        self.learn(x, 1.0);
        self.seen += 1;
        if self.latest.len() < KEPT_OBSERVATIONS {
            self.latest.push(x);
        } else {
            let oldest = std::mem::replace(&mut self.latest[self.next], x);
            let at = self.sorted.partition_point(|y| *y < oldest);
            self.sorted.remove(at);
        }
        self.sorted.insert(self.sorted.partition_point(|y| *y < x), x);
        self.next = (self.next + 1) % KEPT_OBSERVATIONS;
    }

    /// The distribution including unfinished values that have reached `elapsed` so far. Without
    /// them it would be too low: of values that began together, the low ones are complete first.
    /// Each counts as its expected final value, weighted by the probability that it would have been
    /// complete by now (expectation and maximisation in turns: Dempster, Laird and Rubin 1977). The
    /// second number of each pair is a count.
    pub fn with_open(&self, elapsed: &[(f64, u32)]) -> LogNormal {
        let mut belief = self.clone();
        // Very many values are represented by a sample at equal distances.
        let each = elapsed.len().div_ceil(MAX_UNFINISHED_SAMPLES).max(1);
        let open = || {
            let some = elapsed.iter().step_by(each).filter(|(value, _)| *value > 0.0);
            some.map(|&(value, count)| (log(value), u64::from(count) * each as u64))
        };
        for _ in 0..EM_ITERATIONS {
            let mut next = self.clone();
            for (value, count) in open() {
                let (mean, variance, share) = belief.beyond(value);
                next.learn(mean, share * count as f64);
                next.scale += 0.5 * share * count as f64 * variance;
            }
            belief = next;
        }
        if self.latest.len() >= MIN_EMPIRICAL_OBSERVATIONS {
            // A value that others of the sample would hardly outlast counts as complete, at its
            // mean.
            let thinned = open().map(|(_, count)| count).sum::<u64>().div_ceil(MAX_UNFINISHED_ADDED).max(1);
            let late =
                open().map(|(value, count)| (belief.beyond(value), count)).filter(|((_, _, share), _)| *share > 0.5);
            let late: Vec<f64> = late
                .flat_map(|((mean, _, _), count)| std::iter::repeat_n(mean, count.div_ceil(thinned) as usize))
                .collect();
            belief.sorted.extend(late);
            belief.sorted.sort_unstable_by(f64::total_cmp);
        }
        belief
    }

    /// Mean and variance of the logarithms above `x`, and the share below it.
    fn beyond(&self, x: f64) -> (f64, f64, f64) {
        let deviation = self.variance().sqrt().max(1e-6);
        let z = ((x - self.mean) / deviation).min(MAX_DEVIATIONS);
        let normal = standard_normal();
        let hazard = normal.pdf(z) / normal.sf(z);
        let variance = deviation * deviation * (1.0 + z * hazard - hazard * hazard).max(0.0);
        ((self.mean + deviation * hazard).max(x), variance, normal.cdf(z))
    }

    /// Counts the logarithm `x` as `share` of an observation.
    fn learn(&mut self, x: f64, share: f64) {
        let apart = x - self.mean;
        self.scale += 0.5 * share * self.weight / (self.weight + share) * apart * apart;
        self.mean += share * apart / (self.weight + share);
        self.weight += share;
        self.shape += 0.5 * share;
    }

    /// The distribution that also counts a value as several observations.
    #[must_use]
    pub fn with_prior(&self, value: f64, worth: f64) -> LogNormal {
        let mut belief = self.clone();
        if value.is_finite() && value > 0.0 {
            belief.learn(log(value), worth);
        }
        belief
    }

    /// How many observations were made.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Mean and variance of the logarithm, for the record of the run.
    pub fn moments(&self) -> (f64, f64) {
        (self.mean, self.variance())
    }

    /// Quantiles of the next value.
    pub fn quantiles(&self) -> Quantiles {
        if self.latest.len() >= MIN_EMPIRICAL_OBSERVATIONS {
            let at = |p: f64| exp(quantile(&self.sorted, p));
            return Quantiles { q10: at(0.1), q50: at(0.5), q90: at(0.9) };
        }
        let half = self.t90() * (self.variance() * (1.0 + 1.0 / self.weight)).sqrt();
        Quantiles { q10: exp(self.mean - half), q50: exp(self.mean), q90: exp(self.mean + half) }
    }

    /// Factor by which the median itself may be underestimated (90 % point): 1 for perfect
    /// knowledge.
    pub fn doubt(&self) -> f64 {
        exp(self.t90() * (self.variance() / self.weight).sqrt())
    }

    /// [`SPREAD`] values that represent the whole distribution, ascending: its quantiles at the
    /// middles of equal parts.
    pub fn spread(&self) -> [f64; SPREAD] {
        if self.latest.len() >= MIN_EMPIRICAL_OBSERVATIONS {
            return std::array::from_fn(|k| exp(quantile(&self.sorted, middle(k))));
        }
        let deviation = self.variance().sqrt();
        NORMAL_POINTS.map(|point| exp(self.mean + deviation * point))
    }

    /// The numbers that determine all of its quantiles; `None` once single observations count.
    pub fn key(&self) -> Option<[u64; 4]> {
        let numbers = [self.mean, self.weight, self.shape, self.scale];
        (self.latest.len() < MIN_EMPIRICAL_OBSERVATIONS).then(|| numbers.map(f64::to_bits))
    }

    /// The time left for a value that has already reached `elapsed`: a share `p` of such values
    /// ends sooner.
    pub fn rest(&self, elapsed: f64, p: f64) -> f64 {
        let deviation = self.variance().sqrt();
        let place = match elapsed > 0.0 && deviation > 0.0 {
            true => (log(elapsed) - self.mean) / deviation,
            false => f64::NEG_INFINITY,
        };
        if place > BEYOND {
            // What has lasted this long lasts as long again (the median under a scale-free prior).
            let p = p.min(MAX_SHARE_BEYOND);
            return elapsed * p / (1.0 - p);
        }
        let passed = standard_normal().cdf(place);
        (exp(self.mean + deviation * normal_point(passed + p * (1.0 - passed))) - elapsed).max(0.0)
    }

    /// True if a value is so extreme (one in a thousand) that a cause other than chance is likely.
    pub fn is_odd(&self, value: f64) -> bool {
        self.seen >= 10 && (log(value) - self.mean).abs() > 3.29 * self.variance().sqrt().max(0.05)
    }

    fn variance(&self) -> f64 {
        (self.scale / self.shape).min(9.0)
    }

    /// The 90 % point of Student's t at the degrees of freedom that the observations give, at least
    /// two.
    fn t90(&self) -> f64 {
        let freedom = (2.0 * self.shape).max(2.0);
        if freedom > NORMAL_FROM {
            return Z90;
        }
        let at = 2.0 * T90_STEPS as f64 / freedom;
        let (below, share) = (at.floor() as usize, at.fract());
        T90[below] + share * (T90[(below + 1).min(T90_STEPS)] - T90[below])
    }
}

/// The middle of part `k` when 0 to 1 is divided into [`SPREAD`] equal parts.
fn middle(k: usize) -> f64 {
    (k as f64 + 0.5) / SPREAD as f64
}

/// A duration in seconds, clamped to what the distribution accepts.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().max(1e-9)
}

fn log(value: f64) -> f64 {
    bounded(value.max(1e-20).ln())
}

fn exp(log: f64) -> f64 {
    bounded(log).exp()
}

fn bounded(log: f64) -> f64 {
    if log.is_nan() { 0.0 } else { log.clamp(-LONGEST_LOG, LONGEST_LOG) }
}

fn standard_normal() -> Normal {
    Normal::standard()
}

/// The point below which the standard normal distribution has the share `p`.
pub(crate) fn normal_point(p: f64) -> f64 {
    standard_normal().inverse_cdf(p.clamp(1e-9, 1.0 - 1e-9))
}

/// Linear interpolation between order statistics (Hyndman and Fan 1996, definition 6: unbiased
/// coverage).
pub(crate) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = (p * (sorted.len() as f64 + 1.0) - 1.0).clamp(0.0, last as f64);
    let (below, share) = (at.floor() as usize, at.fract());
    sorted[below] + share * (sorted[(below + 1).min(last)] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws from a log-normal distribution.
    fn draws(seed: u64, median: f64, deviation: f64) -> impl FnMut() -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        move || median * (deviation * normal_point(random.f64())).exp()
    }

    #[test]
    fn students_t_is_interpolated_closely() {
        for shape in (100..9000).map(|k| f64::from(k) / 100.0) {
            let belief = LogNormal { shape, ..LogNormal::guess(1.0) };
            let exact = StudentsT::new(0.0, 1.0, 2.0 * shape).unwrap().inverse_cdf(0.9);
            assert!((belief.t90() / exact - 1.0).abs() < 2e-6, "{shape}: {} {exact}", belief.t90());
        }
    }

    #[test]
    fn intervals_cover_what_they_promise() {
        // 80 % intervals for the next value, after few and after many observations, for narrow and
        // for wide classes.
        for seen in [8, 15, 40, 100, 300] {
            let (mut inside, mut all) = (0, 0);
            for class in 0..400 {
                let deviation = [0.15, 0.3, 0.6, 1.2][class % 4];
                let mut draw = draws(class as u64 * 31 + seen, 0.01 * 10f64.powi(class as i32 % 6), deviation);
                let mut belief = LogNormal::unknown(10.0);
                (0..seen).for_each(|_| belief.observe(draw()));
                let interval = belief.quantiles();
                for _ in 0..25 {
                    let value = draw();
                    inside += usize::from(interval.q10 <= value && value <= interval.q90);
                    all += 1;
                }
            }
            let coverage = inside as f64 / all as f64;
            assert!((0.75..0.90).contains(&coverage), "after {seen} observations {coverage}");
        }
    }

    #[test]
    fn few_observations_correct_a_wrong_guess() {
        let mut belief = LogNormal::guess(100.0);
        (0..5).for_each(|_| belief.observe(10.0));
        let quantiles = belief.quantiles();
        assert!(quantiles.q50 < 20.0 && quantiles.q10 < 10.0 && quantiles.q90 > 10.0, "{quantiles:?}");
        assert!(LogNormal::unknown(10.0).doubt() > 4.0 && belief.doubt() < 3.0);
    }

    #[test]
    fn the_rest_of_a_long_wait_grows() {
        let mut belief = LogNormal::unknown(10.0);
        let mut draw = draws(7, 10.0, 0.3);
        (0..50).for_each(|_| belief.observe(draw()));
        assert!((belief.rest(0.0, 0.5) - 10.0).abs() < 2.0);
        assert!(belief.rest(9.0, 0.5) < 5.0 && belief.rest(9.0, 0.9) > belief.rest(9.0, 0.5));
        assert!(belief.rest(1000.0, 0.5) >= 1000.0);
        assert!(belief.is_odd(1000.0) && !belief.is_odd(11.0));
    }

    #[test]
    fn the_slowest_of_very_many_is_not_thought_to_run_for_ever() {
        let mut belief = LogNormal::unknown(60.0);
        let mut draw = draws(3, 60.0, 0.2);
        (0..1000).for_each(|_| belief.observe(draw()));
        // Of 11,500 values with a spread of 0.2, one or two reach 130; the part that each
        // represents may be the last of all.
        for elapsed in 0..=130 {
            let rest = belief.rest(f64::from(elapsed), 1.0 - 0.5 / 11_500.0);
            assert!(f64::from(elapsed) + rest < 200.0, "{elapsed}: {rest}");
        }
        assert!(belief.rest(1000.0, 0.9999) <= 3000.0);
    }

    #[test]
    fn what_still_runs_keeps_the_belief_from_being_too_low() {
        // Sixteen begin together; six are complete, and ten still run.
        let (mut low, mut mended) = (0.0, 0.0);
        for seed in 0..200 {
            let mut draw = draws(seed, 10.0, 0.5);
            let mut values: Vec<f64> = (0..16).map(|_| draw()).collect();
            values.sort_by(f64::total_cmp);
            let mut belief = LogNormal::unknown(10.0);
            values[..6].iter().for_each(|&value| belief.observe(value));
            low += belief.mean / 200.0;
            mended += belief.with_open(&[(values[5], 10)]).mean / 200.0;
        }
        assert!(low.exp() < 6.5 && mended.exp() > 7.5 && mended.exp() < 11.0, "{} {}", low.exp(), mended.exp());
        // A value that has just begun carries no information.
        let belief = LogNormal::guess(10.0);
        let same = belief.with_open(&[(0.01, 1); 10]);
        assert!((same.mean - belief.mean).abs() < 1e-3 && same.weight < belief.weight + 0.01);
        assert!(belief.with_open(&[(1000.0, 1)]).mean.exp() > 50.0);
    }

    #[test]
    fn of_a_known_class_the_tasks_that_outlast_all_others_still_count() {
        let mut belief = LogNormal::unknown(10.0);
        let mut draw = draws(3, 10.0, 0.3);
        (0..100).for_each(|_| belief.observe(draw()));
        let seen = belief.quantiles();
        // A value that has just begun carries no information; one that lasts long does, mainly
        // about the tail.
        assert_eq!(belief.with_open(&[(0.1, 20)]).quantiles(), seen);
        let mended = belief.with_open(&[(100.0, 1); 20]).quantiles();
        assert!(mended.q90 >= 100.0 && seen.q90 < 20.0, "{mended:?}");
        assert!(mended.q50 > seen.q50 && mended.q50 < 15.0, "{mended:?}");
    }

    #[test]
    fn of_very_many_open_values_some_stand_for_all() {
        let belief = LogNormal::guess(10.0);
        let (few, many) = (belief.with_open(&[(30.0, 1); 1000]), belief.with_open(&[(30.0, 1); 10_000]));
        assert!(many.weight > 5.0 * few.weight && (many.mean / few.mean - 1.0).abs() < 0.5, "{few:?} {many:?}");
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut belief = LogNormal::guess(1.0);
        for value in [f64::NAN, f64::INFINITY, 0.0, -3.0] {
            belief.observe(value);
        }
        assert_eq!(belief, LogNormal::guess(1.0));
    }

    #[test]
    fn order_statistics_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.0), 1.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
