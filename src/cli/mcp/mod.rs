//! `phalanx mcp`: the verbs as tools for agents, by the Model Context Protocol over standard input
//! and output (<https://modelcontextprotocol.io>, transport `stdio`).
//!
//! Each message is one line of JSON-RPC 2.0. The server keeps no state: a call of a tool is a call
//! of the verb with `--json`, in a process of its own, so an agent sees what a person sees and can
//! do nothing that the verbs cannot. The protocol needs four methods, which are answered here
//! rather than by a framework with an async runtime behind it. Messages are answered one after the
//! other, so a long simulation holds up those behind it.

mod tools;

use std::io::{BufRead, Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::tools::{call, descriptions};
use super::refuse;

/// Versions of the protocol that are spoken, newest first. They do not differ in what is used here;
/// the one between them, 2025-03-26, has batches of messages.
const VERSIONS: [&str; 2] = ["2025-06-18", "2024-11-05"];

/// Longest message in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Error codes of JSON-RPC.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;

const INSTRUCTIONS: &str = "Phalanx runs graphs of tasks on MPI clusters. `check`, `plan` and `simulate` look at a job \
file before it runs; `status`, `explain`, `report`, `failures` and `analyze` at a run; `recommend` at what a job's runs \
used. `scale`, `drain`, `limit`, `add`, `pause`, `resume` and `cancel` change a live run: call them with `dry_run` \
first.";

/// Serves the verbs as tools for agents: the Model Context Protocol on standard input and output.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run that tools act on if a call names none: a directory, a name such as mosaic-3, a
    /// job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
}

pub(super) fn main(args: Args) -> ExitCode {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(_) => {}
            Err(error) => return refuse(format_args!("cannot read standard input: {error}")),
        }
        if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
            // The rest of the message must not count as another one.
            if let Err(error) = input.skip_until(b'\n') {
                return refuse(format_args!("cannot read standard input: {error}"));
            }
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Some(answer) = answer(&args.run, &line) else { continue };
        let mut out = std::io::stdout().lock();
        // A client that is gone asks nothing more.
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            return ExitCode::SUCCESS;
        }
    }
}

/// The answer to a message; `None` for a notification.
fn answer(run: &str, line: &[u8]) -> Option<Value> {
    let error = |id: Value, code: i32, text: String| {
        Some(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } }))
    };
    let message: Value = match serde_json::from_slice(line) {
        Ok(message) => message,
        Err(reason) => return error(Value::Null, PARSE_ERROR, format!("this is no JSON: {reason}")),
    };
    let Some(method) = message["method"].as_str() else {
        // An answer of the client to a question that was never asked.
        let is_answer = message.get("result").is_some() || message.get("error").is_some();
        let id = message.get("id").cloned().unwrap_or_default();
        return if is_answer { None } else { error(id, INVALID_REQUEST, "a request has a `method`".to_owned()) };
    };
    let id = message.get("id").filter(|id| !id.is_null())?.clone();
    let params = &message["params"];
    let result = match method {
        "initialize" => initialized(params),
        "ping" => json!({}),
        "tools/list" => json!({ "tools": descriptions() }),
        "tools/call" => {
            let name = params["name"].as_str().unwrap_or_default();
            let arguments = params.get("arguments").filter(|it| !it.is_null()).cloned().unwrap_or_else(|| json!({}));
            match call(run, name, arguments) {
                Some(Ok(text)) => json!({ "content": [{ "type": "text", "text": text }], "isError": false }),
                Some(Err(text)) => json!({ "content": [{ "type": "text", "text": text }], "isError": true }),
                None => return error(id, INVALID_PARAMS, format!("there is no tool `{name}`")),
            }
        }
        other => return error(id, METHOD_NOT_FOUND, format!("there is no method `{other}`")),
    };
    Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn initialized(params: &Value) -> Value {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS.into_iter().find(|version| *version == asked).unwrap_or(VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": { "tools": {} },
        "serverInfo": { "name": "phalanx", "version": env!("CARGO_PKG_VERSION") },
        "instructions": INSTRUCTIONS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(message: &Value) -> Value {
        answer("latest", message.to_string().as_bytes()).expect("an answer")
    }

    #[test]
    fn a_version_that_is_spoken_is_kept() {
        let version = |asked: &str| {
            let params = json!({ "protocolVersion": asked });
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
            ask(&message)["result"]["protocolVersion"].clone()
        };
        assert_eq!([version("2024-11-05"), version("2099-01-01")], ["2024-11-05", "2025-06-18"]);
    }

    #[test]
    fn what_is_no_request_gets_an_error_or_silence() {
        let code = |line: &[u8]| answer("latest", line).map(|answer| answer["error"]["code"].as_i64());
        assert_eq!(code(b"nonsense"), Some(Some(-32700)));
        assert_eq!(code(b"[]"), Some(Some(-32600)));
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":1,"method":"nix"}"#), Some(Some(-32601)));
        let unknown = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nix"}}"#;
        assert_eq!(code(unknown), Some(Some(-32602)));
        assert_eq!(code(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), None);
        assert_eq!(code(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#), None);
    }

    #[test]
    fn every_tool_has_a_schema_and_says_whether_it_only_reads() {
        let listed = ask(&json!({ "jsonrpc": "2.0", "id": "a", "method": "tools/list" }));
        let tools = listed["result"]["tools"].as_array().expect("tools");
        for tool in tools {
            assert_eq!(tool["inputSchema"]["type"], "object", "{tool:#}");
            let changes = tool["inputSchema"]["properties"].get("dry_run").is_some();
            assert_eq!(tool["annotations"]["readOnlyHint"], !changes, "{tool:#}");
            assert!(tool["description"].as_str().is_some_and(|text| text.len() > 20), "{tool:#}");
        }
        assert_eq!(tools.len(), 16);
    }
}
