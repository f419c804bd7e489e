//! What the result cache did in a run: hits and misses by class and reason, where a task's result
//! came from, and why a task ran again.

use std::collections::BTreeMap;
use std::io::Write;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::print::ReportError;
use super::report::write_columns;
use super::run_view::RunView;
use super::style::{Paint, bytes, count};
use crate::journal::{Session, cache_uses, utc};
use crate::model::{CacheMiss, CacheUse, KeyDifference, TaskId};
use crate::text::{counted, seconds};

/// Maximum number of components listed that differ.
const MAX_DIFFERENCES: usize = 10;
/// Maximum length of a value that is shown.
const MAX_VALUE: usize = 160;

/// Hits and misses of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassCache {
    /// Look-ups that found a result.
    pub hits: u64,
    /// Look-ups that found none, by reason.
    pub misses: BTreeMap<String, u64>,
    /// Slot-seconds that the tasks took when they ran whose results were taken.
    pub saved_s: f64,
}

impl ClassCache {
    pub(super) fn missed(&self) -> u64 {
        self.misses.values().sum()
    }

    /// Misses by reason, in words.
    pub(super) fn reasons(&self) -> String {
        if self.misses.is_empty() { "-".to_owned() } else { reasons_text(&self.misses) }
    }
}

/// What the cache did in all sessions of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CacheFigures {
    /// Look-ups that found a result.
    pub hits: u64,
    /// Look-ups that found none.
    pub misses: u64,
    /// Hits by level.
    pub levels: BTreeMap<String, u64>,
    /// Misses by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Completed tasks whose result was not stored, by reason.
    pub not_stored: BTreeMap<String, u64>,
    /// Slot-seconds that the tasks took when they ran whose results were taken.
    pub saved_s: f64,
    /// Bytes that were written to put outputs in place.
    pub restored_bytes: u64,
    /// Figures of each class.
    pub classes: BTreeMap<String, ClassCache>,
}

impl CacheFigures {
    /// The figures of a run; `None` if no task used the cache.
    pub fn of(run: &RunView) -> Option<CacheFigures> {
        let mut figures = CacheFigures::default();
        for (session, subject) in run.sessions() {
            for (task, _, used) in cache_uses(&run.dir, session.began.session) {
                figures.add(subject.job.class(task), subject.job.slots(task), &used);
            }
        }
        (figures.hits + figures.misses > 0).then_some(figures)
    }

    fn add(&mut self, class: &str, slots: u32, used: &CacheUse) {
        let class = self.classes.entry(class.to_owned()).or_default();
        if let Some(hit) = &used.hit {
            let saved_s = hit.took_s * f64::from(slots);
            self.hits += 1;
            self.saved_s += saved_s;
            self.restored_bytes += hit.restored;
            *self.levels.entry(hit.level.clone()).or_default() += 1;
            class.hits += 1;
            class.saved_s += saved_s;
        }
        if let Some(miss) = &used.miss {
            self.misses += 1;
            *self.reasons.entry(miss.reason.clone()).or_default() += 1;
            *class.misses.entry(miss.reason.clone()).or_default() += 1;
        }
        if let Some(reason) = &used.not_stored {
            *self.not_stored.entry(reason.clone()).or_default() += 1;
        }
    }

    /// The figures in one line.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} taken from the cache", counted(self.hits, "result"));
        if self.misses > 0 {
            text.push_str(&format!(", {} not there ({})", count(self.misses), reasons_text(&self.reasons)));
        }
        if self.saved_s > 0.0 {
            text.push_str(&format!("; {} of work saved", seconds(self.saved_s)));
        }
        text
    }
}

fn reasons_text(reasons: &BTreeMap<String, u64>) -> String {
    let one = |(reason, n): (&String, &u64)| format!("{} {}", count(*n), reason.replace('_', " "));
    reasons.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Writes hits and misses by class, and why results were not stored.
pub(super) fn write_cache(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let Some(figures) = CacheFigures::of(run) else { return Ok(()) };
    writeln!(out, "\n{}", paint.bold("Result cache"))?;
    let row = |(name, class): (&String, &ClassCache)| {
        let missed = class.missed();
        let rate = 100.0 * class.hits as f64 / (class.hits + missed).max(1) as f64;
        let numbers = [count(class.hits), count(missed), format!("{rate:.0} %"), seconds(class.saved_s)];
        [vec![name.clone()], numbers.to_vec(), vec![class.reasons()]].concat()
    };
    let rows: Vec<Vec<String>> = figures.classes.iter().map(row).collect();
    write_columns(out, &["class", "hits", "misses", "hit rate", "saved", "why it ran"], &rows, paint)?;
    for (reason, n) in &figures.not_stored {
        writeln!(out, "  {} not stored: {reason}", counted(*n, "result"))?;
    }
    Ok(())
}

/// What the cache did in a session, by task and attempt.
pub(super) fn by_attempt_of_session(run: &RunView, session: &Session) -> FxHashMap<(TaskId, u16), CacheUse> {
    let uses = cache_uses(&run.dir, session.began.session);
    uses.into_iter().map(|(task, attempt, used)| ((task, attempt), used)).collect()
}

/// What the cache did, in a few words.
pub(super) fn short_text(used: &CacheUse) -> String {
    match (&used.hit, &used.miss) {
        (Some(hit), _) => format!("hit: {} of {} ({})", hit.task, hit.run, hit.level),
        (None, Some(miss)) => {
            let names: Vec<&str> = miss.differences.iter().take(3).map(|d| d.name.as_str()).collect();
            let more = if miss.differences.len() > 3 { ", ..." } else { "" };
            let names = if names.is_empty() { String::new() } else { format!(": {}{more}", names.join(", ")) };
            format!("miss: {}{names}", miss.reason)
        }
        (None, None) => String::new(),
    }
}

/// Where the result of a task came from, or why the task ran, in the last session in which it used
/// the cache; one line each. Empty if it never did.
pub fn cache_texts(run: &RunView, name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for (session, subject) in run.sessions() {
        let found = subject.job.find(name).unwrap_or_default();
        let [task] = found[..] else { continue };
        let uses = cache_uses(&run.dir, session.began.session);
        if let Some((_, _, used)) = uses.iter().rfind(|(other, ..)| *other == task) {
            texts = texts_of(used);
        }
    }
    texts
}

/// What the cache did for an attempt, in whole sentences.
pub(super) fn texts_of(used: &CacheUse) -> Vec<String> {
    let mut texts = Vec::new();
    if let Some(hit) = &used.hit {
        let when = utc(hit.unix_s.saturating_mul(1_000_000_000));
        let took = seconds(hit.took_s);
        texts.push(format!(
            "its result was taken from the cache ({} level): that of {} in the run {}, which took {took} and ended at {when}",
            hit.level, hit.task, hit.run
        ));
        if hit.restored > 0 {
            texts.push(format!("{} were written to put its outputs in place", bytes(hit.restored)));
        }
    }
    if let Some(miss) = &used.miss {
        texts.push(format!("it ran: {}", miss_text(miss)));
        texts.extend(miss.differences.iter().take(MAX_DIFFERENCES).map(difference_text));
        if let Some(more) = miss.differences.len().checked_sub(MAX_DIFFERENCES).filter(|more| *more > 0) {
            texts.push(format!("  and {more} more"));
        }
    }
    if let Some(reason) = &used.not_stored {
        texts.push(format!("its result was not stored: {reason}"));
    }
    texts
}

fn miss_text(miss: &CacheMiss) -> String {
    match miss.reason.as_str() {
        "new" => "the cache knows no result of a task of this name".to_owned(),
        "changed" => {
            let n = counted(miss.differences.len() as u64, "component");
            format!("{n} of its key differ from the last result, of the run {}", miss.run)
        }
        "evicted" => format!("its result of the run {} is no longer in the cache", miss.run),
        "expired" => "its result was not used for longer than `ttl`".to_owned(),
        "damaged" => format!("its result was damaged: {}", miss.detail),
        "not_restored" => format!("its outputs could not be put in place: {}", miss.detail),
        "no_key" => format!("the cache could not be asked: {}", miss.detail),
        other => format!("{other}: {}", miss.detail),
    }
}

fn difference_text(difference: &KeyDifference) -> String {
    let KeyDifference { name, was, now } = difference;
    match (was, now) {
        (Some(was), Some(now)) => format!("  {name}: was {}, is {}", shown(was), shown(now)),
        (None, Some(now)) => format!("  {name}: is new, {}", shown(now)),
        (Some(was), None) => format!("  {name}: was {}, is gone", shown(was)),
        (None, None) => format!("  {name}"),
    }
}

/// A value on one line: digests and long texts are shortened.
fn shown(value: &str) -> String {
    let short = |word: &str| match word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => word[..12].to_owned(),
        false => word.to_owned(),
    };
    let text = value.split(' ').map(short).collect::<Vec<_>>().join(" ").replace('\n', "; ");
    let cut = (0..=MAX_VALUE.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    if text.is_empty() {
        "empty".to_owned()
    } else if cut < text.len() {
        format!("`{}...`", &text[..cut])
    } else {
        format!("`{text}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CacheHit;

    fn hit(level: &str, took_s: f64) -> CacheUse {
        let hit =
            CacheHit { level: level.into(), run: "w-1".into(), task: "a[1]".into(), took_s, ..CacheHit::default() };
        CacheUse { hit: Some(hit), ..CacheUse::default() }
    }

    fn miss(reason: &str, differences: Vec<KeyDifference>) -> CacheUse {
        let miss = CacheMiss { reason: reason.into(), run: "w-1".into(), differences, ..CacheMiss::default() };
        CacheUse { miss: Some(miss), ..CacheUse::default() }
    }

    #[test]
    fn hits_and_misses_are_counted_by_class_level_and_reason() {
        let mut figures = CacheFigures::default();
        figures.add("a", 2, &hit("node", 3.0));
        figures.add("a", 1, &hit("memory", 1.0));
        figures.add("b", 1, &miss("changed", Vec::new()));
        figures.add("b", 1, &miss("not_restored", Vec::new()));
        assert_eq!((figures.hits, figures.misses, figures.saved_s), (2, 2, 7.0));
        assert_eq!(figures.classes["b"].missed(), 2);
        let text = figures.text();
        assert_eq!(
            text,
            "2 results taken from the cache, 2 not there (1 changed, 1 not restored); 7.00 s of work saved"
        );
    }

    #[test]
    fn why_a_task_ran_names_each_component_with_both_values() {
        let digest = |byte: &str| format!("file {}", byte.repeat(32));
        let difference = KeyDifference { name: "input x".into(), was: Some(digest("ab")), now: Some(digest("cd")) };
        let gone = KeyDifference { name: "variable A".into(), was: Some(String::new()), now: None };
        let used = miss("changed", vec![difference, gone]);
        assert_eq!(
            texts_of(&used),
            [
                "it ran: 2 components of its key differ from the last result, of the run w-1",
                "  input x: was `file abababababab`, is `file cdcdcdcdcdcd`",
                "  variable A: was empty, is gone",
            ]
        );
        assert_eq!(short_text(&used), "miss: changed: input x, variable A");
        assert!(texts_of(&hit("node", 3.0))[0].contains("that of a[1] in the run w-1, which took 3.00 s"));
    }
}
