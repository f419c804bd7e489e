//! `--bound`: what a policy with foresight would do.
//!
//! A *course* says from when on how many ranks are wanted. Of each instance and setting, local
//! search finds the course with the least burden (time and money joined at the exchange rate of the
//! job); the simulator judges each with the durations, delays and faults that the policies meet. It
//! begins with the courses that the policies took, so none of them is better than the bound.

use std::fmt::Write;

use fastrand::Rng;
use phalanx::scale::{Estimates, Observation, Policy, Prices, Target};
use rayon::prelude::*;

use super::instance::Instance;
use super::rng;
use super::setting::Setting;
use super::trial::{Row, run_policy};

/// Instances of more tasks have no bound: their search would take too long.
pub const MAX_TASKS: u32 = 200;

/// Courses that are tried for an instance in a setting.
const TRIES: usize = 400;

/// Wanted ranks from a time in seconds on; the first time is 0.
pub type Course = Vec<(f64, u32)>;

/// Follows a course.
struct Follow(Course);

impl Policy for Follow {
    fn name(&self) -> &str {
        "course"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, _: &Prices) -> Target {
        let now = seen.now.seconds();
        let last = self.0.iter().rev().find(|(from, _)| *from <= now);
        Target::plain(last.map_or(1, |(_, ranks)| *ranks), "it is known to be best")
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// By how many percent each policy is worse than the bound, for one instance in one setting.
pub struct Regret {
    /// The half of the corpus.
    half: char,
    /// The regret of each policy.
    policies: Vec<(String, f64)>,
}

/// The regret of the policies that ran an instance in a setting.
pub fn regret(instance: &Instance, setting: &Setting, rows: &[Row]) -> Regret {
    let least = least_burden(instance, setting, rows);
    let regret = |row: &Row| (row.policy.clone(), 100.0 * ((row.burden() - least).exp() - 1.0));
    Regret { half: instance.half(), policies: rows.iter().map(regret).collect() }
}

fn least_burden(instance: &Instance, setting: &Setting, rows: &[Row]) -> f64 {
    let judge = |course: &Course| {
        let row = run_policy(instance, setting, "course", Box::new(Follow(course.clone())));
        if row.complete { row.burden() } else { f64::INFINITY }
    };
    let mut rng = rng(&format!("{}/bound{}", instance.name, setting.number), setting.seed);
    let taken = rows.iter().map(|row| row.course.clone());
    let still = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64].into_iter().filter(|ranks| *ranks <= setting.nodes);
    let first = taken.chain(still.map(|ranks| vec![(0.0, ranks)]));
    let mut known: Vec<(f64, Course)> = first.map(|course| (judge(&course), course)).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    known.truncate(8);
    let end = rows.iter().map(|row| row.makespan_s).fold(1.0, f64::max);
    for _ in 0..TRIES {
        // The better half of the known courses is changed, the worst one is replaced.
        let from = rng.usize(0..known.len().div_ceil(2));
        let course = neighbour(&known[from].1, setting.nodes, end, &mut rng);
        let burden = judge(&course);
        let worst = known.last().map_or(f64::INFINITY, |(burden, _)| *burden);
        if burden < worst && known.iter().all(|(known, _)| *known != burden) {
            known.pop();
            known.push((burden, course));
            known.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
    }
    let best = known.first().map_or(f64::INFINITY, |(burden, _)| *burden);
    rows.iter().filter(|row| row.complete).map(Row::burden).fold(best, f64::min)
}

/// A course that differs a little.
fn neighbour(course: &Course, most: u32, end: f64, rng: &mut Rng) -> Course {
    let mut course = course.clone();
    let at = rng.usize(0..course.len());
    let upto = course.get(at + 1).map_or(end, |next| next.0);
    let level = |ranks: u32, rng: &mut Rng| {
        let step = rng.u32(1..=(most / 8).max(1));
        let changed = match rng.u32(0..4) {
            0 => ranks.saturating_sub(step),
            1 => ranks + step,
            2 => ranks / 2,
            _ => ranks * 2,
        };
        changed.clamp(1, most)
    };
    match rng.u32(0..4) {
        0 if course.len() > 1 && at > 0 => {
            course.remove(at);
        }
        1 if at > 0 => {
            let before = course[at - 1].0;
            course[at].0 = before + (upto - before) * rng.f64();
        }
        2 if course.len() < 40 => {
            let (from, ranks) = course[at];
            course.insert(at + 1, (from + (upto - from).max(0.0) * rng.f64(), level(ranks, rng)));
        }
        _ => course[at].1 = level(course[at].1, rng),
    }
    course
}

/// The table of regrets.
pub fn table(regrets: &[Regret]) -> String {
    let mut text = format!("\n## Regret: burden against the best course with foresight, up to {MAX_TASKS} tasks\n");
    for half in ['A', 'B'] {
        let of: Vec<&Regret> = regrets.iter().filter(|regret| regret.half == half).collect();
        let Some(first) = of.first() else { continue };
        let _ = writeln!(
            text,
            "\n### Half {half}, {} settings\n\n| policy | median % | 90th percentile % |\n|---|---:|---:|",
            of.len()
        );
        for (at, (name, _)) in first.policies.iter().enumerate() {
            let mut values: Vec<f64> = of.iter().map(|regret| regret.policies[at].1).collect();
            values.sort_by(f64::total_cmp);
            let quantile = |q: usize| values[(values.len() * q / 100).min(values.len() - 1)];
            let _ = writeln!(text, "| {name} | {:.1} | {:.1} |", quantile(50), quantile(90));
        }
    }
    text
}

/// The regrets of all fields without a budget.
pub fn regrets(fields: &[(&Instance, Setting)], rows: &[Row]) -> Vec<Regret> {
    let of = |(instance, setting): &(&Instance, Setting)| {
        let is_of = |row: &&Row| row.instance == instance.name && row.setting == setting.number;
        let rows: Vec<Row> = rows.iter().filter(is_of).cloned().collect();
        regret(instance, setting, &rows)
    };
    let small = |(instance, setting): &&(&Instance, Setting)| {
        instance.prepared.tasks() <= MAX_TASKS && setting.budget.is_none()
    };
    fields.par_iter().with_max_len(1).filter(small).map(of).collect()
}
