//! `phalanx limit`, `pause` and `resume`: what of a live run may start.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use serde_json::Value;

use super::steer::put;
use super::{page_hint, print, refuse};
use crate::control::{Question, ask};
use crate::journal::{RUNS, RunDir};
use crate::text::seconds;

/// Lists the pools of a live run, or changes how many units of a pool may be in use at once.
#[derive(Debug, clap::Args)]
pub(super) struct LimitArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// `licences=8` sets the limit of a pool, or of an array by the name of its task; 0 starts no
    /// further task of it, `none` lifts the limit. Running tasks go on.
    limits: Vec<NewLimit>,
}

/// Pauses a live run, or some of its tasks: running tasks go on, and no further one is started
/// until `phalanx resume`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// Pause only this task (`tile[3]`, `tile[0-9]`), or all tasks of an array (`tile`).
    task: Option<String>,
}

/// Starts tasks again that `phalanx pause` has paused. (A run that has ended is continued with
/// `phalanx run JOB --resume`.)
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// Resume only this task (`tile[3]`, `tile[0-9]`), or all tasks of an array (`tile`).
    task: Option<String>,
}

/// A new limit, as a user types it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NewLimit {
    pool: String,
    units: Option<u32>,
}

impl FromStr for NewLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<NewLimit, String> {
        let (pool, units) = text.split_once('=').ok_or("write POOL=UNITS, such as `licences=8`")?;
        let units = match units.trim() {
            "none" => None,
            digits => match digits.parse::<u32>() {
                Ok(units) if units < u32::MAX => Some(units),
                _ => {
                    return Err(format!("`{digits}` is no number of units; 0 pauses the pool, `none` lifts its limit"));
                }
            },
        };
        Ok(NewLimit { pool: pool.trim().to_owned(), units })
    }
}

pub(super) fn limit(args: LimitArgs) -> ExitCode {
    if args.limits.is_empty() {
        return match args.run.parse::<NewLimit>() {
            Ok(_) => refuse(format_args!("name the run first: phalanx limit latest {}", args.run)),
            Err(_) => list(&args.run),
        };
    }
    let set = |NewLimit { pool, units }| put(&args.run, &Question::Limit { pool, units });
    args.limits.into_iter().map(set).find(|done| *done != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
}

pub(super) fn pause(args: PauseArgs) -> ExitCode {
    put(&args.run, &Question::Pause { task: args.task })
}

pub(super) fn resume(args: ResumeArgs) -> ExitCode {
    put(&args.run, &Question::Resume { task: args.task })
}

/// Lists the pools of a run.
fn list(run: &str) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    match ask(dir.path(), &Question::Pools) {
        Ok(answer) => {
            let pools = answer.status.unwrap_or_default();
            match pools.as_array().is_none_or(Vec::is_empty) {
                true => print(&format!("{}: the job has no pools and no arrays with a limit\n", dir.name())),
                false => print(&text(&pools)),
            }
        }
        Err(error) => refuse(format_args!("{}: {error}{}", dir.name(), page_hint(&dir))),
    }
}

/// The pools in words, a line each: what is in use, who holds it, and what waits.
pub(super) fn text(pools: &Value) -> String {
    let mut text = String::new();
    for pool in pools.as_array().into_iter().flatten() {
        let number = |key: &str| pool[key].as_u64().unwrap_or_default();
        let kind = if pool["kind"] == "array" { "array" } else { "pool" };
        let name = pool["pool"].as_str().unwrap_or("-");
        let _ = write!(text, "  {kind:<7} {name:<16} ");
        let _ = match (pool["rate_per_s"].as_f64(), pool["capacity"].as_u64()) {
            (Some(rate), _) => {
                write!(text, "{} start{} per second", rate_text(rate), if rate == 1.0 { "" } else { "s" })
            }
            (None, Some(capacity)) => write!(text, "{} of {capacity} in use", number("in_use")),
            (None, None) => write!(text, "{} in use", number("in_use")),
        };
        let holders: Vec<String> = pool["holders"].as_array().into_iter().flatten().map(holder).collect();
        if !holders.is_empty() {
            let _ = write!(text, " by {}", holders.join(", "));
        }
        if pool["rate_per_s"].is_null() && pool["capacity"].is_null() {
            text += "; no limit";
        }
        if number("waiting") > 0 {
            // Their number is known only as far as slots are free for them.
            text += "; tasks wait for it";
        }
        let waited = pool["at_limit_s"].as_f64().unwrap_or_default();
        if waited > 0.0 {
            let _ = write!(text, "; {} at the limit", seconds(waited));
        }
        text.push('\n');
    }
    text
}

fn holder(holder: &Value) -> String {
    let units = holder["units"].as_u64().unwrap_or_default();
    match holder["task"].as_str() {
        Some(task) => format!("{task} ({units})"),
        None => format!("rank {} ({units})", holder["rank"].as_u64().unwrap_or_default()),
    }
}

fn rate_text(rate: f64) -> String {
    if rate >= 1.0 { format!("{rate:.0}") } else { format!("{rate:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_pool_with_units() {
        let limit = |text: &str| text.parse::<NewLimit>().map(|limit| (limit.pool, limit.units));
        assert_eq!(limit("db=8"), Ok(("db".into(), Some(8))));
        assert_eq!(limit("db=0"), Ok(("db".into(), Some(0))));
        assert_eq!(limit("db=none"), Ok(("db".into(), None)));
        for wrong in ["db", "db=", "db=-1", "db=many", "db=4294967295"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }
}
