//! Requests that change the run: each is the question that the command of the same name asks.
//!
//! There is one way to change a run, its control socket; what comes over HTTP takes that way like everybody else, under the name of who sent
//! it, so that the journal has a line about every change and who wanted it. A body is JSON of a few words and is read whole before
//! anything is done; a key that is not expected is refused rather than ignored, for it may have been meant to narrow what is done.

use std::path::Path;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::control::{Question, ask_as};

/// The paths that change something, all by POST.
pub(super) const VERBS: [&str; 4] = ["/api/v1/scale", "/api/v1/rebalance", "/api/v1/drain", "/api/v1/cancel"];

/// The longest body, in bytes.
pub(super) const BODY: usize = 4096;

/// What came of it.
#[derive(Serialize)]
pub(super) struct Did {
    /// Whether the run did what was asked.
    pub ok: bool,
    /// What it did, or why not.
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

/// The question behind a request; the error says what is wrong with its body.
pub(super) fn question(path: &str, body: &[u8]) -> Result<Question, String> {
    fn read<'a, T: Deserialize<'a>>(body: &'a [u8], example: &str) -> Result<T, String> {
        let body: &[u8] = if body.is_empty() { b"{}" } else { body };
        serde_json::from_slice(body).map_err(|error| format!("the body is not as expected ({error}); send {example}"))
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
            let Cancel { task } = read(body, "{} for all of the run, or {\"task\": \"tile[3]\"}")?;
            Ok(Question::Cancel { task })
        }
    }
}

/// Asks the run, on behalf of whoever is at `peer`. Waits for the answer, so it is not for the thread that serves.
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
        // Who means one task must not end the whole run.
        assert!(question("/api/v1/cancel", b"{\"tsk\":\"a\"}").is_err());
    }
}
