//! Requests that change the run, each equivalent to the command of the same name.
//!
//! A run is changed through its control socket only. A request over HTTP goes there as well, with
//! the address of its sender, so that the journal records every change and its origin. The JSON
//! body is read completely first. Unknown keys are rejected, because the client may have meant to
//! narrow the request.

use std::path::Path;

use hyper::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::control::{Question, ask_as};

/// A path that is written by POST.
pub(super) struct ChangePath {
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// True if an empty body is not enough.
    pub(super) needs_body: bool,
    /// The schema of the body.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    /// Parses the body; the error says what is wrong with it.
    pub(super) question: fn(&[u8]) -> Result<Question, String>,
    /// Maximum size of the body in bytes.
    pub(super) max_bytes: usize,
}

impl ChangePath {
    const fn new<T: ChangeRequest>(path: &'static str, summary: &'static str, needs_body: bool) -> ChangePath {
        ChangePath { path, summary, needs_body, schema: T::json_schema, question: parse::<T>, max_bytes: T::MAX_BYTES }
    }
}

/// All changes.
pub(super) const CHANGES: [ChangePath; 9] = [
    ChangePath::new::<ScaleRequest>("/api/v1/scale", "Changes the number of ranks, as `phalanx scale`.", true),
    ChangePath::new::<Nothing>("/api/v1/rebalance", "Rebalances the remaining work, as `phalanx rebalance`.", false),
    ChangePath::new::<LimitRequest>("/api/v1/limit", "Changes the limit of a pool, as `phalanx limit`.", true),
    ChangePath::new::<PauseRequest>("/api/v1/pause", "Pauses the run or some of its tasks, as `phalanx pause`.", false),
    ChangePath::new::<ResumeRequest>("/api/v1/resume", "Starts paused tasks again, as `phalanx resume`.", false),
    ChangePath::new::<DrainRequest>("/api/v1/drain", "Drains the ranks of a node, as `phalanx drain`.", true),
    ChangePath::new::<AddRequest>("/api/v1/add", "Adds tasks to the run, as `phalanx add`.", true),
    ChangePath::new::<CloseRequest>("/api/v1/close", "Lets an open run end, as `phalanx close`.", false),
    ChangePath::new::<Cancel>(
        "/api/v1/cancel",
        "Ends the run, or cancels some of its tasks; completed tasks stay completed. As `phalanx cancel`.",
        false,
    ),
];

/// Result of a change.
#[derive(Serialize, JsonSchema)]
pub(super) struct Did {
    /// True if the run carries it out.
    pub ok: bool,
    /// What the run does, or why not.
    pub text: String,
}

/// A number of ranks.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScaleRequest {
    /// `+2` more, `-1` fewer, or `6` in total, which the policy then keeps; `auto` lets it decide
    /// again.
    #[schemars(extend("pattern" = "^([+-]?[0-9]+|auto)$"))]
    ranks: String,
    /// Exceed the `max_ranks` of the job file. What the provider of nodes holds is never exceeded.
    #[serde(default)]
    force: bool,
}

/// A limit of a pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitRequest {
    /// Name of the pool, or of the task whose array has a limit.
    pool: String,
    /// Units that may be in use at once; 0 starts nothing more, and null lifts the limit.
    #[serde(deserialize_with = "required_units")]
    units: Option<u32>,
}

/// `null` lifts a limit, but a missing key must not.
fn required_units<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Option::deserialize(deserializer)
}

/// Tasks to pause.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PauseRequest {
    /// A task such as `tile[3]`, or all tasks of an array (`tile`); without it, the whole run.
    #[serde(default)]
    task: Option<String>,
}

/// Tasks to resume.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResumeRequest {
    /// A task such as `tile[3]`, or all tasks of an array (`tile`); without it, all paused tasks.
    #[serde(default)]
    task: Option<String>,
}

/// Ranks to drain.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    /// Name of a node, or number of a rank.
    what: String,
}

/// Tasks to add.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddRequest {
    /// `[[task]]` tables as in a job file (TOML). They may need tasks of the run.
    tables: String,
    /// Of a run of several job files, the job that they belong to; default: the first that is open.
    #[serde(default)]
    job: Option<String>,
    /// Check the tables, and add nothing.
    #[serde(default)]
    dry_run: bool,
}

/// No arguments.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CloseRequest {}

/// Tasks to cancel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cancel {
    /// A task such as `tile[3]`, or all tasks of an array (`tile`); without it, the whole run ends.
    #[serde(default)]
    task: Option<String>,
}

/// No arguments.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The body of a request, and the change that it requests.
trait ChangeRequest: for<'a> Deserialize<'a> + JsonSchema {
    /// A valid body, for an error message.
    const EXAMPLE: &str;
    /// Maximum size in bytes.
    const MAX_BYTES: usize = 4096;

    fn question(self) -> Result<Question, String>;
}

impl ChangeRequest for ScaleRequest {
    const EXAMPLE: &str = "{\"ranks\": \"+2\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Scale { to: self.ranks.parse()?, force: self.force })
    }
}

impl ChangeRequest for LimitRequest {
    const EXAMPLE: &str = "{\"pool\": \"licences\", \"units\": 8}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Limit { pool: self.pool, units: self.units })
    }
}

impl ChangeRequest for PauseRequest {
    const EXAMPLE: &str = "{} for the whole run, or {\"task\": \"tile\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Pause { task: self.task })
    }
}

impl ChangeRequest for ResumeRequest {
    const EXAMPLE: &str = "{} for all tasks, or {\"task\": \"tile\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Resume { task: self.task })
    }
}

impl ChangeRequest for DrainRequest {
    const EXAMPLE: &str = "{\"what\": \"NODE or number of a rank\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Drain { what: self.what })
    }
}

impl ChangeRequest for Nothing {
    const EXAMPLE: &str = "{}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Rebalance)
    }
}

impl ChangeRequest for AddRequest {
    const MAX_BYTES: usize = 1 << 20;
    const EXAMPLE: &str = "{\"tables\": \"[[task]]\\nname = 'more'\\ncommand = 'true'\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Add { text: self.tables, file: "tables".into(), job: self.job, dry_run: self.dry_run })
    }
}

impl ChangeRequest for CloseRequest {
    const EXAMPLE: &str = "{}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Close)
    }
}

impl ChangeRequest for Cancel {
    const EXAMPLE: &str = "{} for the whole run, or {\"task\": \"tile[3]\"}";

    fn question(self) -> Result<Question, String> {
        Ok(Question::Cancel { task: self.task })
    }
}

/// Parses a request; the error says what is wrong with its body.
fn parse<T: ChangeRequest>(body: &[u8]) -> Result<Question, String> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let body: T =
        serde_json::from_slice(body).map_err(|error| format!("invalid body ({error}); send {}", T::EXAMPLE))?;
    body.question()
}

/// Sends the request to the run on behalf of `peer`. Blocks until the answer arrives, so the server
/// thread must not call it.
pub(super) fn put(run: &Path, peer: &str, question: &Question) -> (StatusCode, Did) {
    match ask_as(&format!("{peer} over HTTP"), run, question) {
        Ok(answer) if answer.ok => (StatusCode::OK, Did { ok: true, text: answer.text }),
        Ok(answer) => (StatusCode::CONFLICT, Did { ok: false, text: answer.text }),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Did { ok: false, text: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Scale as Ranks;

    #[test]
    fn the_words_are_those_of_the_commands() {
        let scale = |body: &str| parse::<ScaleRequest>(body.as_bytes());
        assert_eq!(scale("{\"ranks\": \"+2\"}"), Ok(Question::Scale { to: Ranks::More(2), force: false }));
        let forced = "{\"ranks\": \"6\", \"force\": true}";
        assert_eq!(scale(forced), Ok(Question::Scale { to: Ranks::To(6), force: true }));
        for body in ["", "{}", "{\"ranks\": 2}", "{\"ranks\": \"two\"}", "{\"ranks\":\"2\",\"x\":1}", "\u{0}", "[1"] {
            assert!(scale(body).is_err(), "{body}");
        }
        assert_eq!(parse::<DrainRequest>(b"{\"what\":\"n1\"}"), Ok(Question::Drain { what: "n1".into() }));
        let limit = parse::<LimitRequest>(b"{\"pool\":\"db\",\"units\":8}");
        assert_eq!(limit, Ok(Question::Limit { pool: "db".into(), units: Some(8) }));
        let lifted = parse::<LimitRequest>(b"{\"pool\":\"db\",\"units\":null}");
        assert_eq!(lifted, Ok(Question::Limit { pool: "db".into(), units: None }));
        assert!(parse::<LimitRequest>(b"{\"pool\":\"db\"}").is_err(), "a limit must not be lifted by mistake");
        assert_eq!(parse::<PauseRequest>(b""), Ok(Question::Pause { task: None }));
        assert_eq!(parse::<ResumeRequest>(b"{\"task\":\"a\"}"), Ok(Question::Resume { task: Some("a".into()) }));
        assert_eq!(parse::<Nothing>(b""), Ok(Question::Rebalance));
        assert_eq!(parse::<CloseRequest>(b""), Ok(Question::Close));
        let add = Question::Add { text: "[[task]]".into(), file: "tables".into(), job: None, dry_run: false };
        assert_eq!(parse::<AddRequest>(b"{\"tables\":\"[[task]]\"}"), Ok(add));
        assert!(parse::<AddRequest>(b"{}").is_err());
        assert_eq!(parse::<Cancel>(b"{}"), Ok(Question::Cancel { task: None }));
        assert_eq!(parse::<Cancel>(b"{\"task\":\"a\"}"), Ok(Question::Cancel { task: Some("a".into()) }));
        // A misspelt key must not cancel the whole run instead of one task.
        assert!(parse::<Cancel>(b"{\"tsk\":\"a\"}").is_err());
    }
}
