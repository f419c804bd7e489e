//! Requests that change the run, each equivalent to the command of the same name.
//!
//! A run is changed through its control socket only. A request over HTTP goes there as well, with
//! the address of its sender, so that the journal records every change and its origin. The JSON
//! body is read completely first. Unknown keys are rejected, because the client may have meant to
//! narrow the request.

use std::path::Path;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::control::{Question, ask_as};

/// The paths of changes, all POST.
pub(super) const VERBS: [&str; 4] = ["/api/v1/scale", "/api/v1/rebalance", "/api/v1/drain", "/api/v1/cancel"];

/// Maximum size of a body in bytes.
pub(super) const BODY: usize = 4096;

/// Result of a change.
#[derive(Serialize)]
pub(super) struct Did {
    /// True if the run carried it out.
    pub ok: bool,
    /// What the run did, or why it did not.
    pub text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleRequest {
    ranks: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    #[serde(default)]
    task: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Parses a request; the error says what is wrong with its body.
pub(super) fn question(path: &str, body: &[u8]) -> Result<Question, String> {
    fn read<'a, T: Deserialize<'a>>(body: &'a [u8], example: &str) -> Result<T, String> {
        let body: &[u8] = if body.is_empty() { b"{}" } else { body };
        serde_json::from_slice(body).map_err(|error| format!("invalid body ({error}); send {example}"))
    }
    match path {
        "/api/v1/scale" => {
            let ScaleRequest { ranks } = read(body, "{\"ranks\": \"+2\"}")?;
            Ok(Question::Scale { to: ranks.parse()? })
        }
        "/api/v1/drain" => {
            let DrainRequest { what } = read(body, "{\"what\": \"NODE or number of a rank\"}")?;
            Ok(Question::Drain { what })
        }
        "/api/v1/rebalance" => read(body, "{}").map(|Nothing {}| Question::Rebalance),
        _ => {
            let Cancel { task } = read(body, "{} for the whole run, or {\"task\": \"tile[3]\"}")?;
            Ok(Question::Cancel { task })
        }
    }
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
        let scale = |body: &str| question("/api/v1/scale", body.as_bytes());
        assert_eq!(scale("{\"ranks\": \"+2\"}"), Ok(Question::Scale { to: Ranks::More(2) }));
        assert_eq!(scale("{\"ranks\": \"6\"}"), Ok(Question::Scale { to: Ranks::To(6) }));
        for body in ["", "{}", "{\"ranks\": 2}", "{\"ranks\": \"two\"}", "{\"ranks\":\"2\",\"x\":1}", "\u{0}", "[1"] {
            assert!(scale(body).is_err(), "{body}");
        }
        assert_eq!(question("/api/v1/drain", b"{\"what\":\"n1\"}"), Ok(Question::Drain { what: "n1".into() }));
        assert_eq!(question("/api/v1/rebalance", b""), Ok(Question::Rebalance));
        assert_eq!(question("/api/v1/cancel", b"{}"), Ok(Question::Cancel { task: None }));
        assert_eq!(question("/api/v1/cancel", b"{\"task\":\"a\"}"), Ok(Question::Cancel { task: Some("a".into()) }));
        // A misspelt key must not cancel the whole run instead of one task.
        assert!(question("/api/v1/cancel", b"{\"tsk\":\"a\"}").is_err());
    }
}
