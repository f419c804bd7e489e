//! `phalanx cache`: looks after the results of tasks that are kept.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{print, refuse};
use crate::exec::Kernels;
use crate::job::units::{parse_duration, parse_size};
use crate::job::{self, CacheSettings};
use crate::observe::{
    Paint, ShownLevel, cache_texts, level_json, results_json, to_stdout, verified_json, write_level, write_removed,
    write_results, write_verified,
};
use crate::store::{Limits, ListedResult, StoreConfig, StoreDir};
use crate::text::counted;

/// Shortest beginning of a key by which `drop` finds a result.
const MIN_KEY: usize = 8;

/// Looks after the cache of results: what is in it, why a task was not taken from it, checking and
/// clearing it. Without --job or --dir: the cache of this node that jobs use by default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show where the cache is, and how much it holds.
    Info(ShowArgs),
    /// List the results, most recently used first.
    List(ShowArgs),
    /// Say where the result of a task came from in a run, or why the task ran.
    Why(WhyArgs),
    /// Remove results by the name of their task.
    Drop(DropArgs),
    /// Read everything that is kept, and remove what is damaged.
    Verify(ShowArgs),
    /// Remove results that were not used for longest, and contents that belong to none.
    Prune(PruneArgs),
}

/// Which cache is meant.
#[derive(Debug, clap::Args)]
struct Place {
    /// The cache of this job file: its `node_dir` on this node, and its `dir`.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    job: Option<PathBuf>,
    /// The cache in this directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct WhyArgs {
    /// The task, such as `align` or `align[3]`.
    task: String,
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
}

#[derive(Debug, clap::Args)]
struct DropArgs {
    /// Name of a task: `align` (with all indices), `align[3]`, `job/align`; `*` stands for any
    /// characters. Or the beginning of a key, of at least 8 digits.
    pattern: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    #[command(flatten)]
    place: Place,
    /// Remove results that were not used for this long, such as 30d or 12h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
    /// Bring the cache down to this size, such as 5G [default: the `size` of the job, else 20G].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// Remove everything.
    #[arg(long, conflicts_with_all = ["older_than", "size"])]
    all: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// A level that a verb works on.
struct ChosenLevel {
    name: &'static str,
    path: PathBuf,
    is_shared: bool,
    /// Maximum size in bytes, if it has one.
    limit: Option<u64>,
}

impl ChosenLevel {
    fn shown(&self) -> ShownLevel<'_> {
        ShownLevel { name: self.name, path: &self.path }
    }

    /// Opens the level; `None` if it does not exist.
    fn open(&self) -> Result<Option<StoreDir>, String> {
        if !self.path.exists() {
            return Ok(None);
        }
        let opened = StoreDir::open(&self.path, self.is_shared);
        opened.map(Some).map_err(|error| format!("the cache in {}: {error}", self.path.display()))
    }
}

impl Place {
    fn levels(&self) -> Result<Vec<ChosenLevel>, ExitCode> {
        if let Some(dir) = &self.dir {
            if !dir.is_dir() {
                return Err(refuse(format_args!("there is no directory {}", dir.display())));
            }
            return Ok(vec![ChosenLevel { name: "", path: dir.clone(), is_shared: true, limit: None }]);
        }
        let settings = match &self.job {
            None => CacheSettings::default(),
            Some(file) => settings_of(file)?,
        };
        let node = settings.node_dir.unwrap_or_else(StoreConfig::default_node_dir);
        let node = ChosenLevel { name: "node", path: node, is_shared: false, limit: Some(settings.size) };
        let shared = settings.dir.map(|path| ChosenLevel { name: "shared", path, is_shared: true, limit: None });
        Ok(std::iter::once(node).chain(shared).collect())
    }
}

fn settings_of(file: &Path) -> Result<CacheSettings, ExitCode> {
    job::load(file, &Kernels::builtin())
        .map(|loaded| loaded.job.cache)
        .map_err(|mistakes| super::check::refuse(&mistakes))
}

pub(super) fn main(args: Args) -> ExitCode {
    let done = match args.verb {
        Verb::Info(args) => info(&args),
        Verb::List(args) => list(&args),
        Verb::Why(args) => Ok(why(&args)),
        Verb::Drop(args) => drop_results(&args),
        Verb::Verify(args) => verify(&args),
        Verb::Prune(args) => prune(&args),
    };
    done.unwrap_or_else(|code| code)
}

/// Calls `each` with the levels that exist.
fn for_each(
    place: &Place,
    mut each: impl FnMut(&ChosenLevel, &StoreDir) -> Result<(), String>,
) -> Result<usize, ExitCode> {
    let mut found = 0;
    for level in place.levels()? {
        if let Some(dir) = level.open().map_err(refuse)? {
            each(&level, &dir).map_err(refuse)?;
            found += 1;
        }
    }
    Ok(found)
}

fn show(write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), crate::observe::ReportError>) -> Result<(), String> {
    to_stdout(write).map_err(|error| error.to_string())
}

fn info(args: &ShowArgs) -> Result<ExitCode, ExitCode> {
    let mut all = Vec::new();
    for level in args.place.levels()? {
        let info = level.open().map_err(refuse)?.map(|dir| dir.info());
        if args.json {
            all.push(level_json(level.shown(), info.as_ref(), level.limit));
        } else {
            show(|out| write_level(out, level.shown(), info.as_ref(), level.limit)).map_err(refuse)?;
        }
    }
    Ok(if args.json { print(&format!("{:#}\n", serde_json::Value::Array(all))) } else { ExitCode::SUCCESS })
}

fn list(args: &ShowArgs) -> Result<ExitCode, ExitCode> {
    let mut all = Vec::new();
    let paint = Paint::for_stream(&std::io::stdout());
    let found = for_each(&args.place, |level, dir| {
        let results = dir.list();
        if args.json {
            all.extend(results_json(level.shown(), &results));
            return Ok(());
        }
        show(|out| write_results(out, level.shown(), &results, paint))
    })?;
    match args.json {
        true => Ok(print(&format!("{:#}\n", serde_json::Value::Array(all)))),
        false if found == 0 => Ok(print("there is no cache here\n")),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn why(args: &WhyArgs) -> ExitCode {
    let view = match super::view::find(&args.run) {
        Ok(view) => view,
        Err(error) => return refuse(error),
    };
    match view.subject().job.find(&args.task) {
        Err(error) => return refuse(error),
        Ok(tasks) if tasks.len() > 1 => {
            let n = tasks.len();
            return refuse(format_args!("`{}` stands for {n} tasks; name one, as in `{0}[3]`", args.task));
        }
        Ok(_) => {}
    }
    let texts = cache_texts(&view, &args.task);
    if texts.is_empty() {
        return print(&format!(
            "{} has not asked the cache in the run {}: it has not ended, or does not say `cache = true`\n",
            args.task,
            view.name()
        ));
    }
    let text: String = texts.iter().map(|text| format!("{text}\n")).collect();
    print(&format!("{} in the run {}\n{text}", args.task, view.name()))
}

fn drop_results(args: &DropArgs) -> Result<ExitCode, ExitCode> {
    let mut dropped_any = false;
    for_each(&args.place, |level, dir| {
        let dropped = dir.drop_results(|result| is_meant(&args.pattern, result));
        dropped_any |= dropped.results > 0;
        show(|out| write_removed(out, level.shown(), (dropped.results, dropped.bytes), dir.info().bytes))?;
        all_removed(level, dropped.refused)
    })?;
    match dropped_any {
        true => Ok(ExitCode::SUCCESS),
        false => {
            Err(refuse(format_args!("no result is of a task `{}`; `phalanx cache list` lists them", args.pattern)))
        }
    }
}

/// True if a pattern means a result: by its task, with or without index and job, or by its key.
fn is_meant(pattern: &str, result: &ListedResult) -> bool {
    let task = result.origin.task.as_str();
    let plain = task.split_once('[').map_or(task, |(plain, _)| plain);
    let names = [task.to_owned(), plain.to_owned()];
    let with_job = names.iter().map(|name| format!("{}/{name}", result.origin.job));
    let is_key = pattern.len() >= MIN_KEY && result.key.to_string().starts_with(pattern);
    is_key || names.iter().cloned().chain(with_job).any(|name| matches(pattern.as_bytes(), name.as_bytes()))
}

/// True if a text is what a pattern says, where `*` stands for any characters.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // After the last star: its place in the pattern, and how far it reaches in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, reach)) = star {
            star = Some((at, reach + 1));
            (p, t) = (at + 1, reach + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn verify(args: &ShowArgs) -> Result<ExitCode, ExitCode> {
    let (mut all, mut is_damaged) = (Vec::new(), false);
    let found = for_each(&args.place, |level, dir| {
        let verified = dir.verify();
        is_damaged |= !verified.damaged_results.is_empty() || !verified.damaged_objects.is_empty();
        if args.json {
            all.push(verified_json(level.shown(), &verified));
            return Ok(());
        }
        show(|out| write_verified(out, level.shown(), &verified))
    })?;
    let printed = match args.json {
        true => print(&format!("{:#}\n", serde_json::Value::Array(all))),
        false if found == 0 => print("there is no cache here\n"),
        false => ExitCode::SUCCESS,
    };
    Ok(if is_damaged { ExitCode::FAILURE } else { printed })
}

/// An error if files of a level could not be removed.
fn all_removed(level: &ChosenLevel, refused: u64) -> Result<(), String> {
    match refused {
        0 => Ok(()),
        _ => {
            let (files, place) = (counted(refused, "file"), level.path.display());
            Err(format!("{files} in {place} could not be removed: they belong to another user, or it is read-only"))
        }
    }
}

fn prune(args: &PruneArgs) -> Result<ExitCode, ExitCode> {
    let found = for_each(&args.place, |level, dir| {
        let limits = match args.all {
            true => Limits { age: Some(Duration::ZERO), size: Some(0), is_alone: true, ..Limits::default() },
            false => Limits {
                age: args.older_than,
                size: args.size.or(level.limit.filter(|_| args.older_than.is_none())),
                ..Limits::default()
            },
        };
        let Some(pruned) = dir.prune(&limits) else {
            return Err(format!("another process is removing results from {} now", level.path.display()));
        };
        show(|out| write_removed(out, level.shown(), (pruned.results, pruned.bytes), pruned.left))?;
        all_removed(level, pruned.refused)
    })?;
    Ok(if found == 0 { print("there is no cache here\n") } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        let is = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(is("align", "align") && !is("align", "aligned") && !is("align", "alig"));
        assert!(is("al*", "align") && is("*", "") && is("a*g*", "align") && is("*[3]", "align[3]"));
        assert!(!is("a*z", "align") && is("a**n", "align") && !is("", "a") && is("*n*n*", "aligned n"));
    }
}
