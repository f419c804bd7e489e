//! A run while it goes on: `top`, and the page and API of `run --listen`, asked by a client that
//! knows nothing but HTTP and the description of the API.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::browser::{self, Browser};
use crate::support::{Dir, Running, TestCommand, free_ports, hook, mpirun, phalanx, skip_loudly, wait_for};
use serde_json::Value;

/// Tasks that run until a file exists; one of them fails at once.
const JOB: &str = r#"
[job]
name = "long"
[[task]]
name = "early"
array = "0-19"
command = "true"
[[task]]
name = "broken"
command = "echo 'it <broke>' >&2; exit 9"
[[task]]
name = "late"
array = "0-9"
needs = ["early", "afterany:broken"]
command = "while ! test -e end; do sleep 0.05; done"
"#;

/// A live run, and its address.
struct Listening {
    run: Running,
    dir: Dir,
    address: String,
    token: String,
}

/// Address and token of a run's page, from the file that is its user's alone: a log has no token.
fn page_of(run: &Running, dir: &Dir) -> (String, String) {
    wait_for("where the page is", 120, || run.stderr_so_far().contains("the run's page: ").then_some(()));
    let said = run.stderr_so_far();
    let url = dir.read("phalanx-runs/latest/page");
    let parts = url.trim().strip_prefix("http://").and_then(|rest| rest.split_once("/?token="));
    let (address, token) = parts.expect("an address and a token");
    assert!(said.contains(address) && said.contains("/page") && !said.contains(token), "{said}");
    let about = dir.path().join("phalanx-runs/latest/page").metadata().expect("the file is there");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    (address.to_owned(), token.to_owned())
}

impl Listening {
    fn start(name: &str, ranks: u32) -> Listening {
        Listening::with(name, ranks, "")
    }

    /// A run whose job file says more than [`JOB`] does.
    fn with(name: &str, ranks: u32, more: &str) -> Listening {
        let dir = Dir::new(name);
        dir.job("long.toml", &format!("{JOB}{more}"));
        let run =
            mpirun(&dir, ranks).args(["run", "long.toml", "-q", "--slots", "2", "--listen", "127.0.0.1:0"]).start();
        let (address, token) = page_of(&run, &dir);
        let listening = Listening { run, dir, address, token };
        wait_for("the early tasks to end", 120, || {
            let state = listening.json("/api/v1/run");
            let ended = state["completed"] == 20 && state["failed"] == 1 && state["running"].as_u64() > Some(0);
            ended.then_some(())
        });
        listening
    }

    /// Sends these bytes and returns all that comes back.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address)
            .unwrap_or_else(|error| panic!("it does not listen: {error}\n{}", self.run.stderr_so_far()));
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
        // It may have answered and closed before all has been sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status, head and body of the answer to a request with the token.
    fn ask(&self, method: &str, path: &str) -> (u32, String, String) {
        self.send(method, path, "")
    }

    /// The same for a request with a body.
    fn send(&self, method: &str, path: &str, body: &str) -> (u32, String, String) {
        let Listening { token, .. } = self;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let answer = self.raw(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, head.to_lowercase(), body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (status, head, body) = self.ask("GET", path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains("application/json"), "{head}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    fn end(self) {
        self.dir.file("end", "");
        self.run.wait_clean().code(1);
    }
}

/// What of `value` is not as the schema says: the part of JSON Schema that the description uses.
fn violations(value: &Value, schema: &Value, all: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(path) = schema["$ref"].as_str() {
        let target = all.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{path} leads nowhere"));
        return violations(value, target, all, at, found);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let of = |option: &Value| {
            let mut found = Vec::new();
            violations(value, option, all, at, &mut found);
            found
        };
        let best = options.iter().map(of).min_by_key(Vec::len).unwrap_or_default();
        return found.extend(best);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{at}: a schema without a type"),
    };
    let is = |kind: &&&str| match **kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: unknown type {other}"),
    };
    if !types.iter().any(|kind| is(&kind)) {
        found.push(format!("{at} is {value}, not {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{at} is {value}, not one of {}", schema["enum"]));
    }
    if let (Some(map), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(required.filter(|name| !map.contains_key(*name)).map(|name| format!("{at} has no {name}")));
        for (name, value) in map {
            match properties.get(name) {
                Some(schema) => violations(value, schema, all, &format!("{at}.{name}"), found),
                None => found.push(format!("{at}.{name} is not described")),
            }
        }
    }
    if let (Some(list), Some(items)) = (value.as_array(), schema.get("items")) {
        list.iter().enumerate().for_each(|(i, value)| violations(value, items, all, &format!("{at}[{i}]"), found));
    }
}

/// The paths that programs may rely on.
const PUBLISHED: [(&str, &str); 22] = [
    ("/api/v1/add", "post"),
    ("/api/v1/cancel", "post"),
    ("/api/v1/classes", "get"),
    ("/api/v1/close", "post"),
    ("/api/v1/decisions", "get"),
    ("/api/v1/drain", "post"),
    ("/api/v1/failures", "get"),
    ("/api/v1/history", "get"),
    ("/api/v1/limit", "post"),
    ("/api/v1/measures", "get"),
    ("/api/v1/nodes", "get"),
    ("/api/v1/openapi.json", "get"),
    ("/api/v1/pause", "post"),
    ("/api/v1/ranks", "get"),
    ("/api/v1/rebalance", "post"),
    ("/api/v1/resume", "post"),
    ("/api/v1/run", "get"),
    ("/api/v1/scale", "post"),
    ("/api/v1/sites", "get"),
    ("/api/v1/spend", "get"),
    ("/api/v1/timeline", "get"),
    ("/metrics", "get"),
];

#[test]
fn the_api_is_as_described() {
    let run = Listening::start("api", 2);
    let description = run.json("/api/v1/openapi.json");
    let paths = description["paths"].as_object().expect("paths");
    let methods = |methods: &Value| methods.as_object().expect("methods").keys().cloned().collect::<Vec<_>>().join(" ");
    let described: BTreeSet<(&str, String)> = paths.iter().map(|(path, all)| (&**path, methods(all))).collect();
    assert_eq!(described, PUBLISHED.iter().map(|&(path, method)| (path, method.to_owned())).collect());
    for (path, methods) in paths.iter().filter(|(_, methods)| methods.get("get").is_some()) {
        let content = &methods["get"]["responses"]["200"]["content"];
        let Some(schema) = content.get("application/json").map(|json| &json["schema"]) else {
            assert_eq!(path, "/metrics");
            continue;
        };
        let mut found = Vec::new();
        violations(&run.json(path), schema, &description, path, &mut found);
        assert!(found.is_empty(), "{found:#?}");
        // Whatever is given as a parameter, the answer keeps its form.
        for nonsense in
            ["from=NaN&to=-1&points=0&columns=0", "from=1e300&to=inf&points=99999999999&columns=x", "%00&&=&from"]
        {
            violations(&run.json(&format!("{path}?{nonsense}")), schema, &description, path, &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }
    let (status, _, body) = run.ask("GET", "/api/v1/nothing");
    assert_eq!(status, 404);
    let mut found = Vec::new();
    let error = &description["components"]["schemas"]["Error"];
    violations(&serde_json::from_str(&body).expect("JSON"), error, &description, "error", &mut found);
    assert!(found.is_empty(), "{found:#?}");
    run.end();
}

#[test]
fn the_api_tells_what_happens() {
    let run = Listening::start("api-facts", 2);
    let about = run.json("/api/v1/run");
    assert_eq!((&about["state"], &about["tasks"], &about["slots"]), (&"RUNNING".into(), &31.into(), &4.into()));
    let ended: u64 = run.json("/api/v1/ranks")["ranks"]
        .as_array()
        .expect("ranks")
        .iter()
        .filter_map(|r| r["attempts"].as_u64())
        .sum();
    assert_eq!(ended, 21);
    let failure = &run.json("/api/v1/failures")["failures"][0];
    assert_eq!((&failure["task"], &failure["exit"]), (&"broken".into(), &9.into()));
    assert_eq!(failure["stderr"], "it <broke>");
    assert_eq!(run.json("/api/v1/timeline")["bars"].as_array().map(Vec::len), Some(21));
    wait_for("a first sample", 120, || {
        let history = run.json("/api/v1/history");
        (!history["samples"].as_array().expect("samples").is_empty()).then_some(())
    });

    // Both ranks tell what they use.
    wait_for("what ranks use", 120, || {
        let ranks = run.json("/api/v1/ranks");
        ranks["ranks"].as_array()?.iter().all(|rank| rank["memory"].as_u64() > Some(1 << 20)).then_some(())
    });
    let top = phalanx(&run.dir).args(["top", "--once"]).run().ok();
    top.says("RUNNING").says("20 of 31 done").says("broken: FAILED, exit 9").says("it <broke>");
    run.dir.file("end", "");
    let Listening { run, dir, address, .. } = run;
    run.wait_clean().code(1);
    assert!(TcpStream::connect(&address).is_err(), "it still listens");
    phalanx(&dir).args(["top", "latest"]).run().ok().says("30 of 31 done").says("FAILED");
}

#[test]
fn metrics_are_in_the_format_of_prometheus() {
    let run = Listening::start("metrics", 1);
    let (status, head, text) = run.ask("GET", "/metrics");
    assert!(status == 200 && head.contains("text/plain; version=0.0.4"), "{head}");
    let mut types = std::collections::BTreeMap::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(types.insert(name, kind).is_none(), "{name} is declared twice");
        } else if !line.starts_with('#') {
            let (series_of, value) = line.rsplit_once(' ').expect("a series and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(series_of), "{series_of} is there twice");
            let name = series_of.split('{').next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let kind = types.get(name).or(types.get(base)).unwrap_or_else(|| panic!("{name} has no type"));
            assert!(name.starts_with("phalanx_") && (*kind != "counter" || name.ends_with("_total")), "{name}");
        }
    }
    for expected in [
        "phalanx_tasks{state=\"completed\"} 20",
        "phalanx_tasks{state=\"left_out\"} 0",
        "phalanx_attempts_total{class=\"broken\",state=\"failed\"} 1",
        "phalanx_task_run_seconds_bucket{class=\"early\",le=\"+Inf\"} 20",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    run.end();
}

#[test]
fn strangers_and_floods_are_turned_away() {
    let run = Listening::start("strangers", 1);
    let refused = |request: &str| {
        let answer = run.raw(request.as_bytes());
        let status = answer.split(' ').nth(1).map(str::to_owned);
        assert!(!answer.contains("long"), "something was told: {answer}");
        status.unwrap_or_else(|| "none".into())
    };
    let get =
        |path: &str, head: &str| refused(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n"));
    let almost = &run.token[..run.token.len() - 1];
    for path in ["/", "/metrics", "/api/v1/run", "/api/v1/openapi.json", &format!("/?token={almost}"), "/?token="] {
        assert_eq!(get(path, ""), "401", "{path}");
    }
    assert_eq!(get("/metrics", "Authorization: Bearer nonsense\r\n"), "401");
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(run.ask(method, "/api/v1/run").0, 405);
    }
    // What changes the run wants the token in the header: a link or a form elsewhere could not put
    // it there.
    let post = |path: &str| refused(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert_eq!(post("/api/v1/cancel"), "401");
    assert_eq!(post(&format!("/api/v1/cancel?token={}", run.token)), "401");
    assert_eq!(run.ask("GET", "/api/v1/cancel").0, 405);
    for body in ["{", "{\"ranks\": 3}", "{\"ranks\": \"many\"}"] {
        assert_eq!(run.send("POST", "/api/v1/scale", body).0, 400, "{body}");
    }
    // A body that is too large is refused by its announced length: nothing of it is sent here.
    let scale = |more: &str| {
        let (token, path) = (&run.token, "/api/v1/scale");
        refused(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}"))
    };
    assert_eq!(scale("Content-Length: 10000\r\n\r\n"), "413");
    let chunk = "x".repeat(0x2000);
    assert_eq!(scale(&format!("Transfer-Encoding: chunked\r\n\r\n2000\r\n{chunk}\r\n")), "413");
    // A head that never ends is cut off, one that is no HTTP is refused; both leave the server as
    // it was.
    let long = "x".repeat(100_000);
    assert!(["431", "414", "400", "none"].contains(&get("/", &format!("X: {long}\r\n")).as_str()));
    assert!(["400", "none"].contains(&refused("\0\u{1}nonsense\r\n\r\n").as_str()));
    run.end();
}

#[test]
fn connections_without_the_token_keep_nobody_waiting() {
    let run = Listening::start("crowd", 1);
    let half = |_| {
        let mut stream = TcpStream::connect(&run.address).expect("it is accepted");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x").expect("it is read");
        stream
    };
    let mut crowd: Vec<TcpStream> = (0..200).map(half).collect();
    assert_eq!(run.json("/api/v1/run")["state"], "RUNNING");
    // The oldest have made room: they are closed without a word.
    for stream in &mut crowd[..100] {
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "");
    }
    drop(crowd);
    // The answer waits for nobody's time to run out: even the first of those that came before it is
    // still open then. A machine that is very slow for once is given further tries.
    let undisturbed = (0..4).any(|_| {
        let mut crowd: Vec<TcpStream> = (0..50).map(half).collect();
        assert_eq!(run.json("/api/v1/run")["state"], "RUNNING");
        crowd[0].set_nonblocking(true).expect("a socket need not block");
        let read = crowd[0].read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert!(undisturbed, "the run answers only when others have had their time");
    run.end();
}

/// Holds the answer to a POST against the description of the API, which was asked for before: the
/// run may be over after the answer.
fn check_answer(description: &Value, path: &str, (status, _, body): &(u32, String, String)) -> Value {
    let schema = &description["paths"][path]["post"]["responses"][status.to_string()]["content"]["application/json"];
    let answer: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    let mut found = Vec::new();
    violations(&answer, &schema["schema"], description, path, &mut found);
    assert!(found.is_empty(), "{status}: {found:#?}");
    answer
}

const LOCAL: &str = "[capacity]\nprovider = \"local\"\n";

/// The states of the ranks, by number.
fn states(run: &Listening) -> Vec<String> {
    let ranks = run.json("/api/v1/ranks");
    let states = ranks["ranks"].as_array().expect("ranks").iter().map(|rank| rank["state"].as_str().expect("a state"));
    states.map(str::to_owned).collect()
}

#[test]
fn a_run_is_changed_over_http_as_by_the_commands() {
    let run = Listening::with("steered", 1, LOCAL);
    let description = run.json("/api/v1/openapi.json");
    let post = |path: &str, body: &str| {
        let answer = run.send("POST", path, body);
        (answer.0, check_answer(&description, path, &answer))
    };
    let (status, answer) = post("/api/v1/scale", "{\"ranks\": \"+1\"}");
    assert!(
        status == 200 && answer["text"].as_str().is_some_and(|text| text.contains("1 node is requested")),
        "{answer}"
    );
    wait_for("the rank to join", 120, || (states(&run) == ["active", "active"]).then_some(()));
    assert_eq!(post("/api/v1/rebalance", "").0, 200);
    let (status, answer) = post("/api/v1/drain", "{\"what\": \"nowhere\"}");
    assert!(status == 409 && answer["ok"] == false, "{answer}");
    assert_eq!(post("/api/v1/drain", "{\"what\": \"1\"}").0, 200);
    wait_for("the rank to drain", 120, || (states(&run)[1] != "active").then_some(()));
    every_second_is_accounted_for(&run.json("/api/v1/nodes"));
    assert_eq!(post("/api/v1/cancel", "{\"task\": \"nothing\"}").0, 409);
    assert_eq!(post("/api/v1/cancel", "{\"task\": \"late[9]\"}").0, 200);
    wait_for("the task to be cancelled", 120, || (run.json("/api/v1/run")["cancelled"] == 1).then_some(()));
    assert_eq!(post("/api/v1/cancel", "{}").0, 200);
    let Listening { run, dir, .. } = run;
    run.wait_clean().code(143);
    // Each of them is in the journal, with its origin.
    phalanx(&dir).args(["report", "latest", "--html", "r.html"]).run();
    let report = dir.read("r.html");
    for verb in ["scale", "rebalance", "drain", "cancel"] {
        let line = report.split("<tr>").find(|row| row.contains("over HTTP") && row.contains(verb));
        assert!(line.is_some(), "{verb} is not in {report}");
    }
}

/// Of two nodes, one of which came as a block.
#[track_caller]
fn every_second_is_accounted_for(answer: &Value) {
    let nodes = answer["nodes"].as_array().expect("a list");
    assert_eq!([&nodes[0]["block"], &nodes[1]["block"]], [&Value::Null, &1.into()], "{answer:#}");
    for node in nodes {
        let seconds = |key: &str| node[key].as_f64().expect("a number");
        let parts = ["starting_s", "working_s", "starving_s", "leaving_s"].map(seconds);
        assert!(parts.iter().all(|part| *part > -1e-6), "{node:#}");
        assert!((parts.iter().sum::<f64>() - seconds("held_s")).abs() < 1e-6, "{node:#}");
    }
}

#[test]
fn a_click_on_the_page_scales_the_run() {
    let Some(program) = browser::program() else { return skip_loudly("there is no Chromium") };
    let run = Listening::with("click", 1, LOCAL);
    let mut browser = Browser::open(&program, &run.dir, &format!("http://{}/?token={}", run.address, run.token));
    wait_for("the page to show the run", 120, || (browser.text("#state") == "RUNNING").then_some(()));
    // It asks for confirmation, and a refusal changes nothing.
    browser.click("#more");
    assert_eq!(browser.value("document.querySelector('#ask').open"), true);
    browser.click("#ask button[value=no]");
    assert_eq!(browser.value("document.querySelector('#ask').open"), false);
    assert_eq!(states(&run), ["active"]);
    browser.click("#more");
    browser.click("#yes");
    wait_for("the answer on the page", 120, || browser.text("#did").starts_with("Done: ").then_some(()));
    wait_for("the rank to join", 120, || (states(&run) == ["active", "active"]).then_some(()));
    wait_for("the page to show it", 120, || browser.text("#tiles").contains("slots on 2 ranks").then_some(()));
    wait_for("its node on the page", 120, || browser.text("#nodes").contains("block 1").then_some(()));
    // By keyboard, too.
    let button = "document.querySelector('#ranks button')";
    wait_for("the button", 120, || {
        (!browser.value(&format!("{button}?.dataset.rank ?? null")).is_null()).then_some(())
    });
    browser.value(&format!("{button}.focus()"));
    browser.press("Enter");
    assert_eq!(browser.text("#question").split(" on ").next(), Some("Drain rank 1"));
    browser.value("document.querySelector('#yes').focus()");
    browser.press("Enter");
    wait_for("the rank to drain", 120, || (states(&run)[1] != "active").then_some(()));
    drop(browser);
    run.end();
}

/// The next call of a webhook.
#[track_caller]
fn called(hook: &TcpListener) -> TcpStream {
    hook.set_nonblocking(true).expect("a listener need not block");
    let stream = wait_for("the webhook to be called", 120, || hook.accept().ok()).0;
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
    stream
}

/// A job with a single alert, which goes to a webhook.
fn hooked(address: &str) -> String {
    format!(
        "[[task]]\nname = \"t\"\nkernel = \"noop\"\n\
         [[alert]]\nname = \"over\"\nmetric = \"completed\"\nabove = 0\nwebhook = \"https://{address}/hook\"\n"
    )
}

/// The webhook of somebody who keeps their own certificates, as centres do, is trusted by
/// SSL_CERT_FILE and by nothing else.
#[test]
fn a_webhook_over_https_is_called_if_its_certificate_is_trusted() {
    let dir = Dir::new("https");
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    dir.file("ca.pem", &own.cert.pem());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key.into()))
        .map(std::sync::Arc::new)
        .expect("a server");
    let hook = TcpListener::bind("localhost:0").expect("a port");
    dir.job("a.toml", &hooked(&format!("localhost:{}", hook.local_addr().expect("an address").port())));
    // What the server receives, or why it receives nothing.
    let call = |stream: TcpStream| -> std::io::Result<String> {
        let session = rustls::ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
        hook::answer(rustls::StreamOwned::new(session, stream), "200 OK", "")
    };
    let run = |certificates: &str| {
        let environment = phalanx(&dir).env("SSL_CERT_FILE", certificates).env("SSL_CERT_DIR", "");
        environment.args(["run", "a.toml", "-q"]).start()
    };

    let trusting = run("ca.pem");
    let said = call(called(&hook)).expect("it speaks");
    assert!(said.starts_with("POST /hook HTTP/1.1\r\n") && said.contains("\"alert\":\"over\""), "{said}");
    let output = trusting.wait().ok();
    assert!(!output.stderr().contains("cannot post"), "{output}");

    dir.file("other.pem", &rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate").cert.pem());
    let wary = run("other.pem");
    call(called(&hook)).expect_err("nothing is told to a stranger");
    wary.wait().ok().says("cannot post to https://localhost").says("invalid peer certificate");
    run("missing.pem").wait().ok().says("check SSL_CERT_FILE");
}

/// Tasks that measure something; the values make alerts, which reach a file, a command and a
/// webhook.
#[test]
fn alerts_of_what_tasks_measure_reach_whom_they_name() {
    let dir = Dir::new("alerts");
    let hook = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hook.local_addr().expect("an address");
    dir.job(
        "a.toml",
        &format!(
            r#"
[[task]]
name = "train"
array = "0-5"
command = "echo loss $(({{index}} - 3)) >> $PHALANX_METRICS; echo nonsense >> $PHALANX_METRICS"
[[task]]
name = "bad"
command = "exit 3"
[[task]]
name = "late"
needs = "train"
command = "while ! test -e end; do sleep 0.05; done"
[[alert]]
name = "failures"
metric = "failed"
above = 0
file = "alerts.jsonl"
command = "cat > told; echo $PHALANX_ALERT >> names"
[[alert]]
name = "negative"
metric = "custom.loss"
below = 100
webhook = "http://{address}/hook"
[[alert]]
name = "never"
metric = "queued"
above = 1000
file = "never"
"#
        ),
    );
    let run = mpirun(&dir, 2).args(["run", "a.toml", "-q", "--metrics-file", "run.prom"]).start();
    let said = hook::answer(called(&hook), "200 OK", "").expect("it speaks");
    assert!(said.starts_with("POST /hook HTTP/1.1\r\n") && said.contains("\"metric\":\"custom.loss\""), "{said}");
    wait_for("the other alert", 120, || dir.has("names").then_some(()));
    wait_for("what ranks use, and what tasks measured", 120, || {
        let metrics = dir.has("run.prom").then(|| dir.read("run.prom"))?;
        metrics.contains("phalanx_rank_memory_bytes").then_some(())
    });
    dir.file("end", "");
    run.wait_clean().code(1);
    // Notified once, not every second; an alert that never held was never raised.
    let lines: Vec<Value> =
        dir.read("alerts.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["alert"], &lines[0]["value"], &lines[0]["run"]),
        (&"failures".into(), &1.0.into(), &"a-1".into())
    );
    assert_eq!((dir.read("names").trim(), dir.has("never")), ("failures", false));
    let report = phalanx(&dir).args(["report", "--json"]).run().json();
    let loss = &report["measures"]["loss"];
    assert_eq!(
        (&loss["count"], &loss["min"], &loss["max"], &loss["sum"]),
        (&6.into(), &(-3.0).into(), &2.0.into(), &(-3.0).into())
    );
    let text = phalanx(&dir).args(["report"]).run();
    text.says("alert failures: failed is 1, above 0").says("Values of tasks");
    phalanx(&dir).args(["report", "--task", "train[0]"]).run().says("left out of $PHALANX_METRICS: 1 line,");
    // What ranks used is in the trace and in the page of the report.
    phalanx(&dir).args(["trace", "latest", "-o", "t.json"]).run().ok();
    phalanx(&dir).args(["report", "latest", "--html", "r.html"]).run();
    assert!(dir.read("t.json").contains("\"memory (MiB)\"") && dir.read("r.html").contains("What the nodes used"));
    // The last state of the run is in the collector's file.
    let metrics = dir.read("run.prom");
    assert!(metrics.contains("phalanx_tasks{state=\"completed\"} 7"), "{metrics}");
    assert!(metrics.contains("phalanx_custom_values_total{name=\"loss\"} 6"), "{metrics}");
}

/// Asks a Prometheus on this machine; what it answers to a query, as a list of series.
fn prometheus(address: &str, query: &str) -> Result<Vec<Value>, String> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
    let request = format!("GET /api/v1/query?query={escaped} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let body = &answer[answer.find('{').ok_or("no JSON")?..=answer.rfind('}').ok_or("no JSON")?];
    let body: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {body}"))?;
    match &body["data"]["result"] {
        Value::Array(series) => Ok(series.clone()),
        _ => Err(body.to_string()),
    }
}

/// A real Prometheus scrapes a real run, and every query of the dashboard finds something.
#[test]
fn every_query_of_the_dashboard_is_answered_by_prometheus() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|dir| dir.join("prometheus").is_file()) {
        return skip_loudly("there is no Prometheus");
    }
    let job = "[[task]]\nname = \"told\"\ncommand = \"echo loss 2 >> $PHALANX_METRICS\"\n\
        [[task]]\nname = \"broken\"\ncommand = \"exit 9\"\n\
        [[task]]\nname = \"again\"\narray = \"0-9999\"\ncommand = \"test -e end || sleep 0.3\"\n\
        [scaling]\npolicy = \"predictive\"\nmax_ranks = 2\ninterval = \"1s\"\n[cost]\nnode_hour = 36.0\nbudget = 1000.0\n";
    let dir = Dir::new("prometheus");
    dir.job("long.toml", job);
    let run = mpirun(&dir, 2).args(["run", "long.toml", "-q", "--slots", "2", "--listen", "127.0.0.1:0"]).start();
    let (target, token) = page_of(&run, &dir);
    let port = format!("127.0.0.1:{}", free_ports(1)[0]);
    let config = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: phalanx\n    authorization:\n      credentials: {token}\n    \
         static_configs:\n      - targets: [\"{target}\"]\n"
    );
    dir.file("prometheus.yml", &config);
    let listen = format!("--web.listen-address={port}");
    let server = TestCommand::new("prometheus", dir.path())
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", &listen])
        .start();
    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let mut open: Vec<String> = queries.map(|t| t["expr"].as_str().expect("a query").to_owned()).collect();
    assert!(open.len() > 15);
    let mut said = String::new();
    for _ in 0..600 {
        open.retain(|query| {
            let query = query.replace("$__rate_interval", "15s").replace("$run", ".*");
            let answer = prometheus(&port, &query);
            said = format!("{answer:?}");
            !answer.is_ok_and(|series| series.iter().any(|s| s["value"][1] != "NaN"))
        });
        if open.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(open.is_empty(), "{open:#?} found nothing: {said}");
    drop(server);
    dir.file("end", "");
    run.wait_clean().code(1);
}

#[test]
fn an_address_that_cannot_be_had_is_refused_before_anything_runs() {
    let dir = Dir::new("occupied");
    dir.job("long.toml", JOB);
    let occupied = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = occupied.local_addr().expect("an address").to_string();
    let output = phalanx(&dir).args(["run", "long.toml", "--listen", &address]).run().code(2);
    output.says("cannot listen on").says("--listen");
    assert!(!dir.has("phalanx-runs"), "a run was begun");
    phalanx(&dir).args(["run", "long.toml", "--listen", "nonsense"]).run().code(2).says("--listen");
}

/// The document that a browser makes of a page, after its scripts have run for a while.
fn rendered(browser: &PathBuf, dir: &Dir, url: &str) -> String {
    let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
    let output = TestCommand::new(browser, dir.path())
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=4000",
            "--dump-dom",
            &profile,
            url,
        ])
        .run()
        .ok();
    output.stdout().to_owned()
}

#[test]
fn the_page_shows_the_run_in_a_browser() {
    let Some(browser) = browser::program() else { return skip_loudly("there is no Chromium") };
    let run = Listening::start("page", 2);
    let page = rendered(&browser, &run.dir, &format!("http://{}/?token={}", run.address, run.token));
    for part in [
        "<h1 id=\"name\">long-1</h1>",
        "RUNNING",
        "<b>20</b><span>completed</span>",
        "it &lt;broke&gt;",
        "<td>early</td>",
        "exit 9",
    ] {
        assert!(page.contains(part), "{part:?} is missing in\n{page}");
    }
    // It has been answered: the notice that says otherwise was put away.
    assert!(page.contains("id=\"gone\" role=\"status\" style=\"display: none;\""), "{page}");
    // The page loads nothing from other sites.
    assert!(!page.contains("https:"), "{page}");
    run.end();
}

#[test]
fn the_report_opens_in_a_browser() {
    let Some(browser) = browser::program() else { return skip_loudly("there is no Chromium") };
    let dir = Dir::new("report-browser");
    dir.job("a.toml", "[[task]]\nname = \"a\"\narray = \"0-9\"\nkernel = \"noop\"\n");
    phalanx(&dir).args(["run", "a.toml", "-q"]).run().ok();
    phalanx(&dir).args(["report", "--html", "r.html"]).run().ok();
    let page = rendered(&browser, &dir, &format!("file://{}", dir.path().join("r.html").display()));
    for part in ["<h1>a-1</h1>", "COMPLETED", "</svg>", "What slots did"] {
        assert!(page.contains(part), "{part:?} is missing in\n{page}");
    }
}
