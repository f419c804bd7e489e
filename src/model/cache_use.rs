//! What the result cache did for an attempt.

use serde::{Deserialize, Serialize};

/// What the result cache did for an attempt at a task that uses it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheUse {
    /// The key, in hexadecimal digits; empty if none could be computed.
    pub key: String,
    /// The result that was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit: Option<CacheHit>,
    /// Why none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miss: Option<CacheMiss>,
    /// Why the result of the task, which then ran, was not stored. `None` if it was, or if the task
    /// did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_stored: Option<String>,
}

/// A result that was taken from the cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheHit {
    /// The level that had it: `memory`, `node` or `shared`.
    pub level: String,
    /// The run in which the task ran.
    pub run: String,
    /// Name of the task that ran.
    pub task: String,
    /// Time at which it completed, in seconds since 1970 (UTC).
    pub unix_s: u64,
    /// Duration of the task when it ran, in seconds.
    pub took_s: f64,
    /// Bytes that were written to put its outputs in place.
    pub restored: u64,
}

/// Why no result was taken from the cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheMiss {
    /// The reason in one word: `new` (no result of a task of this name is known), `changed` (a
    /// component of the key differs), `evicted` (it was removed to make room), `expired` (it was not
    /// used for its time to live), `damaged` (it or a content of it was damaged or gone),
    /// `not_restored` (its outputs could not be put in place) or `no_key`.
    pub reason: String,
    /// Details, where there are any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The run whose result of a task of this name was compared; empty if there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// The components of the key that differ from that result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<KeyDifference>,
}

/// A component of a key that differs between two tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyDifference {
    /// Name of the component, such as `input a.txt`.
    pub name: String,
    /// Its value when the earlier result was stored; `None` if the key had no such component.
    pub was: Option<String>,
    /// Its value now.
    pub now: Option<String>,
}
