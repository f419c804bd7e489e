//! What every policy is: an observation in, a wish out.

use super::decision::Candidate;
use super::estimate::Estimates;
use super::observation::Observation;
use super::price::Prices;
use crate::job::Scaling;

/// Decides how many ranks there should be. It may remember what it saw, and nothing else.
pub trait Policy {
    /// Its name, as in the job file or on the command line.
    fn name(&self) -> &str;

    /// How many ranks it wishes for now.
    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Wish;
}

/// What a policy wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Supply of ranks (active, joining, requested) that it wants.
    pub ranks: u32,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// What it considered.
    pub candidates: Vec<Candidate>,
    /// Which of them it chose, as an index.
    pub chosen: Option<usize>,
    /// Why, in a sentence.
    pub reason: String,
}

/// The policy with a name: one of the six of the job file, `static-N`, or a comparison policy (see `peers`); `None` if there is
/// none of that name.
pub fn policy_by_name(name: &str, scaling: &Scaling) -> Option<Box<dyn Policy>> {
    let _ = (name, scaling);
    None
}
