//! The corpus: workflows of many shapes and sizes, each with a seed of its own, against which
//! scaling policies are compared.
//!
//! | file | one idea |
//! |---|---|
//! | `generators` | graphs made here |
//! | `generate.py` | graphs made by the recipes of WfCommons, as files |
//! | `instance` | a workflow with what its job file tells about durations |
//! | `setting` | the cluster, prices, intent and budget of a run, drawn by seed |
//! | `trial` | one instance in one setting under one policy |
//! | `report` | the tables |
//! | `moments` | `--forecasts`: forecasts at four moments of a run |
//! | `selection` | `--only` |
//! | `bound` | `--bound`: what a policy with foresight would do |

pub mod bound;
pub mod generators;
pub mod instance;
pub mod moments;
pub mod report;
pub mod selection;
pub mod setting;
pub mod trial;

use fastrand::Rng;
use xxhash_rust::xxh3::xxh3_64;

/// The random numbers of a name. Nothing else influences a draw, so a new family, size or setting
/// changes none of the others.
pub fn rng(name: &str, seed: u64) -> Rng {
    Rng::with_seed(xxh3_64(format!("{name}/{seed}").as_bytes()))
}

/// A draw from the standard normal distribution (Box and Muller, 1958).
pub fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// A draw whose logarithm is uniform between the two.
pub fn log_uniform(rng: &mut Rng, from: f64, to: f64) -> f64 {
    from * (to / from).powf(rng.f64())
}
