//! What `phalanx cache` shows of the levels of a store.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::print::ReportError;
use super::report::write_columns;
use super::style::{Paint, bytes, count};
use crate::journal::utc;
use crate::store::{LevelInfo, ListedResult, Verified};
use crate::text::{counted, seconds};

/// A level that is shown: its name, and its directory.
#[derive(Clone, Copy, Debug)]
pub struct ShownLevel<'a> {
    /// `node`, `shared`, or empty for a directory that the user named.
    pub name: &'a str,
    /// The directory.
    pub path: &'a Path,
}

fn time(at: SystemTime) -> String {
    let ns = at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    utc(ns)
}

/// Writes the figures of a level; `None` for one that does not exist yet.
///
/// # Errors
/// If the output cannot be written.
pub fn write_level(
    out: &mut dyn Write,
    level: ShownLevel<'_>,
    info: Option<&LevelInfo>,
    limit: Option<u64>,
) -> Result<(), ReportError> {
    let name = if level.name.is_empty() { String::new() } else { format!("{}: ", level.name) };
    let Some(info) = info else {
        return Ok(writeln!(out, "{name}{} does not exist yet", level.path.display())?);
    };
    let most = limit.map(|limit| format!(" of at most {}", bytes(limit))).unwrap_or_default();
    writeln!(out, "{name}{}", level.path.display())?;
    let (results, objects) = (counted(info.results, "result"), counted(info.objects, "content"));
    writeln!(out, "  {results}, {objects}, {}{most}", bytes(info.bytes))?;
    if let (Some(oldest), Some(newest)) = (info.oldest, info.newest) {
        writeln!(out, "  results last used between {} and {}", time(oldest), time(newest))?;
    }
    Ok(())
}

/// The figures of a level as JSON.
pub fn level_json(level: ShownLevel<'_>, info: Option<&LevelInfo>, limit: Option<u64>) -> Value {
    json!({
        "level": level.name,
        "dir": level.path,
        "exists": info.is_some(),
        "results": info.map_or(0, |info| info.results),
        "contents": info.map_or(0, |info| info.objects),
        "bytes": info.map_or(0, |info| info.bytes),
        "max_bytes": limit,
        "oldest_use": info.and_then(|info| info.oldest).map(time),
        "newest_use": info.and_then(|info| info.newest).map(time),
    })
}

/// Writes the results of a level as a table.
///
/// # Errors
/// If the output cannot be written.
pub fn write_results(
    out: &mut dyn Write,
    level: ShownLevel<'_>,
    results: &[ListedResult],
    paint: Paint,
) -> Result<(), ReportError> {
    writeln!(out, "{}", paint.bold(level.path.display()))?;
    if results.is_empty() {
        return Ok(writeln!(out, "  no results")?);
    }
    let row = |result: &ListedResult| {
        let origin = &result.origin;
        let task = format!("{}/{}", origin.job, origin.task);
        let made = utc(origin.unix_s.saturating_mul(1_000_000_000));
        let numbers = [count(result.outputs as u64), bytes(result.bytes), seconds(origin.took_s)];
        let names = [task, origin.run.clone(), made, time(result.used)];
        [&names[..], &numbers[..], &[result.key.to_string()[..12].to_owned()]].concat()
    };
    let rows: Vec<Vec<String>> = results.iter().map(row).collect();
    let head = ["task", "run", "made (UTC)", "last used (UTC)", "outputs", "size", "took", "key"];
    write_columns(out, &head, &rows, paint)
}

/// The results of a level as JSON.
pub fn results_json(level: ShownLevel<'_>, results: &[ListedResult]) -> Vec<Value> {
    let one = |result: &ListedResult| {
        let origin = &result.origin;
        json!({
            "level": level.name,
            "key": result.key.to_string(),
            "job": origin.job,
            "task": origin.task,
            "class": origin.class,
            "run": origin.run,
            "made": utc(origin.unix_s.saturating_mul(1_000_000_000)),
            "last_used": time(result.used),
            "took_s": origin.took_s,
            "outputs": result.outputs,
            "bytes": result.bytes,
        })
    };
    results.iter().map(one).collect()
}

/// Writes what a check has found.
///
/// # Errors
/// If the output cannot be written.
pub fn write_verified(out: &mut dyn Write, level: ShownLevel<'_>, verified: &Verified) -> Result<(), ReportError> {
    let (results, objects) = (counted(verified.results, "result"), counted(verified.objects, "content"));
    let size = bytes(verified.bytes);
    writeln!(out, "{}: {results} and {objects} ({size}) are whole", level.path.display())?;
    for fault in verified.damaged_results.iter().chain(&verified.damaged_objects) {
        writeln!(out, "  removed: {fault}")?;
    }
    Ok(())
}

/// What a check has found, as JSON.
pub fn verified_json(level: ShownLevel<'_>, verified: &Verified) -> Value {
    json!({
        "level": level.name,
        "dir": level.path,
        "results": verified.results,
        "contents": verified.objects,
        "bytes": verified.bytes,
        "damaged_results": verified.damaged_results,
        "damaged_contents": verified.damaged_objects,
    })
}

/// Writes what was removed and what is left.
///
/// # Errors
/// If the output cannot be written.
pub fn write_removed(
    out: &mut dyn Write,
    level: ShownLevel<'_>,
    (results, freed): (u64, u64),
    left: u64,
) -> Result<(), ReportError> {
    let place = level.path.display();
    let results = counted(results, "result");
    Ok(writeln!(out, "{place}: {results} removed, {} freed, {} left", bytes(freed), bytes(left))?)
}
