//! `phalanx mcp`: the protocol over standard input and output, by hand and with the client of the
//! protocol's own Python package.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Dir, phalanx, program, shell, skip_loudly, wait_for};

const JOB: &str = "[[task]]\nname = 'gate'\ncommand = 'while [ ! -e go ]; do sleep 0.05; done'\n\
                   [[task]]\nname = 'bad'\ncommand = 'echo oops >&2; exit 3'\n[[task]]\nname = 'next'\nneeds = 'gate'\n\
                   command = 'true'\n";

/// A server and the number of its last request.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    number: u64,
}

impl Server {
    fn start(dir: &Dir) -> Server {
        let mut command = Command::new(program());
        command.arg("mcp").current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("its output")));
        Server { child, input, output, number: 0 }
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let message = json!({ "jsonrpc": "2.0", "id": self.number, "method": method, "params": params });
        writeln!(self.input.as_mut().expect("it listens"), "{message}").expect("it reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        let answer: Value = serde_json::from_str(&line).expect("JSON on one line");
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&"2.0".into(), &self.number.into()));
        answer
    }

    /// The text of a call and whether it is an error.
    fn call(&mut self, tool: &str, arguments: &Value) -> (String, bool) {
        let result = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }))["result"].clone();
        let text = result["content"][0]["text"].as_str().expect("a text").to_owned();
        (text, result["isError"].as_bool().expect("whether it failed"))
    }

    fn json(&mut self, tool: &str, arguments: &Value) -> Value {
        let (text, failed) = self.call(tool, arguments);
        assert!(!failed, "{tool}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{tool} answers JSON: {text}"))
    }

    /// Closes its input, at which it ends.
    fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().expect("it ends").success());
    }
}

#[test]
fn an_agent_looks_at_a_run_and_changes_it() {
    let dir = Dir::new("mcp");
    dir.job("job.toml", JOB);
    let run = phalanx(&dir).args(["run", "job.toml", "-q", "--slots", "2"]).start();
    wait_for("the run to answer and its journal to have the failure", 60, || {
        let failed = phalanx(&dir).args(["report", "--failed"]).run();
        (dir.has("phalanx-runs/latest/control/socket") && failed.stdout().contains("oops")).then_some(())
    });
    let mut server = Server::start(&dir);
    let begun = server.ask("initialize", &json!({ "protocolVersion": "2025-06-18", "capabilities": {} }));
    assert_eq!(begun["result"]["serverInfo"]["name"], "phalanx");
    assert_eq!(server.ask("tools/list", &json!({}))["result"]["tools"].as_array().map(Vec::len), Some(16));

    assert_eq!(server.json("status", &json!({}))["run_state"], "RUNNING");
    assert_eq!(server.json("failures", &json!({}))["failures"][0]["output"][0]["text"], "oops");
    let next = server.json("explain", &json!({ "task": "next" }));
    assert_eq!(next["tasks"][0]["reasons"][0]["task"], "gate");
    assert!(server.json("plan", &json!({ "job": "job.toml" }))["candidates"].is_array());
    server.json("check", &json!({ "job": "job.toml" }));
    server.json("simulate", &json!({ "job": "job.toml" }));
    assert_eq!(server.json("status", &json!({}))["run_state"], "RUNNING", "a simulation is not the latest run");

    // What does not fit is an error that says why, and ends nothing.
    let (text, failed) = server.call("check", &json!({ "job": "nix.toml" }));
    assert!(failed && text.contains("nix.toml"), "{text}");
    let (text, failed) = server.call("check", &json!({ "jobs": "job.toml" }));
    assert!(failed && text.contains("do not fit"), "{text}");
    let (text, failed) = server.call("scale", &json!({ "ranks": "many" }));
    assert!(failed && text.contains("`many`"), "{text}");
    // An option in place of a file stays a name.
    let (text, failed) = server.call("check", &json!({ "job": "--help" }));
    assert!(failed && text.contains("--help"), "{text}");

    let more = "[[task]]\nname = 'more'\nneeds = 'next'\ncommand = 'true'\n";
    let dry = server.json("add", &json!({ "tables": more, "dry_run": true }));
    assert!(dry["now"].as_str().is_some_and(|text| text.contains("1 task is accepted")), "{dry}");
    let (text, failed) = server.call("add", &json!({ "tables": more.replace("next", "nix") }));
    assert!(failed && text.contains("there is no task called `nix`"), "{text}");
    let (text, failed) = server.call("add", &json!({ "tables": more }));
    assert!(!failed && text.contains("1 task is added"), "{text}");

    let dry = server.json("cancel", &json!({ "task": "next", "dry_run": true }));
    assert_eq!((&dry["dry_run"], &dry["would_run"]), (&true.into(), &"phalanx cancel latest next".into()));
    assert_eq!(dry["now"]["tasks"][0]["state"], "PENDING");
    assert_eq!(server.json("explain", &json!({ "task": "next" }))["tasks"][0]["state"], "PENDING", "nothing happened");
    let (text, failed) = server.call("cancel", &json!({ "task": "next" }));
    assert!(!failed, "{text}");
    let (text, failed) = server.call("drain", &json!({ "what": "0" }));
    assert!(failed && text.contains("cannot be drained"), "{text}");

    dir.file("go", "");
    run.wait().code(1);
    assert_eq!(server.json("report", &json!({}))["state"], "FAILED");
    assert_eq!(server.json("explain", &json!({ "task": "next" }))["tasks"][0]["state"], "CANCELLED");
    for changed in [json!({ "dry_run": true }), json!({ "task": "next", "dry_run": true })] {
        let (text, failed) = server.call("cancel", &changed);
        assert!(failed && text.contains("ended"), "{text}");
    }
    server.json("analyze", &json!({}));
    server.end();
}

/// The client of the protocol's Python package finds and calls the tools.
#[test]
fn the_client_of_the_python_package_is_served() {
    let dir = Dir::new("mcp-client");
    if shell(&dir, "python3 -c 'import mcp'").run().exit() != 0 {
        return skip_loudly("the Python package `mcp` is not installed: pip install mcp");
    }
    dir.job("job.toml", "[[task]]\nname = 'a'\ncommand = 'true'\n");
    dir.file(
        "client.py",
        "import asyncio, json, sys\nfrom mcp import ClientSession, StdioServerParameters\n\
         from mcp.client.stdio import stdio_client\n\
         async def main():\n    server = StdioServerParameters(command=sys.argv[1], args=['mcp'])\n    \
         async with stdio_client(server) as (read, write):\n        \
         async with ClientSession(read, write) as session:\n            \
         await session.initialize()\n            \
         print(sorted(tool.name for tool in (await session.list_tools()).tools))\n            \
         plan = await session.call_tool('plan', {'job': 'job.toml'})\n            \
         print('planned', len(json.loads(plan.content[0].text)['candidates']) > 0)\n            \
         print('refused', '\"isError\":true' in (await session.call_tool('status', {'run': 'nix'})).model_dump_json(by_alias=True))\nasyncio.run(main())\n",
    );
    let program = program().display().to_string();
    let said = shell(&dir, &format!("python3 client.py '{program}'")).run().ok();
    said.says("'analyze', 'cancel', 'check', 'drain', 'explain', 'failures', 'limit', 'pause', 'plan', 'recommend'")
        .says("planned True")
        .says("refused True");
}
