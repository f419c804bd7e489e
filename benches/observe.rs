//! What being watched costs a run of tasks of 1 ms: CPU time of all threads that are there for who
//! watches (the page, alerts and the file of metrics, what ranks use), with more and more of it
//! asked for, up to a page that asks for everything every two seconds as a browser does.
//!
//! `cargo bench --bench observe`. CPU time is what the kernel's scheduler counted, so other work on
//! the machine does not matter. The bound is 1 % of the CPU time of the run; it fails if watching
//! needs more.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TASKS: &str = "[[task]]\nname = \"ms\"\narray = \"0-19999\"\nkernel = \"busy\"\nargs = { seconds = 0.001 }\n";
const ALERTS: &str = "[[alert]]\nname = \"failures\"\nmetric = \"failed\"\nabove = 0\n\
    [[alert]]\nname = \"slow\"\nmetric = \"p95_s.ms\"\nabove = 10\n";
const PATHS: [&str; 10] = [
    "/api/v1/run",
    "/api/v1/ranks",
    "/api/v1/classes",
    "/api/v1/history",
    "/api/v1/failures",
    "/api/v1/decisions",
    "/api/v1/spend",
    "/api/v1/measures",
    "/api/v1/timeline?columns=300",
    "/metrics",
];
/// Threads that are there for who watches.
const WATCHING: [&str; 3] = ["phalanx-listen", "phalanx-watch", "vitals"];
/// Share of a run's CPU time that being watched may cost.
const BOUND: f64 = 0.01;

/// How a run is watched.
struct Case {
    what: &'static str,
    job: String,
    arguments: &'static [&'static str],
    /// A page asks every two seconds.
    polled: bool,
}

/// CPU time in seconds.
#[derive(Clone, Copy, Default)]
struct Spent {
    all: f64,
    watching: f64,
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let watched: &[&str] = &["--listen", "127.0.0.1:0", "--metrics-file", "run.prom"];
    let case =
        |what, alerts: &str, arguments, polled| Case { what, job: format!("{TASKS}{alerts}"), arguments, polled };
    let cases = [
        case("nobody", "", &[], false),
        case("nobody, but it listens", "", &["--listen", "127.0.0.1:0"], false),
        case("alerts and a file of metrics", ALERTS, watched, false),
        case("those and a page that asks every 2 s", ALERTS, watched, true),
    ];
    let mut worst = 0.0f64;
    for case in &cases {
        let (wall, spent) = run(dir.path(), case);
        let share = spent.watching / spent.all;
        worst = worst.max(share);
        println!(
            "watched by {:<38} wall {wall:>6.2} s, CPU {:>6.2} s, of that for watching {:>7.2} ms, {:.4} %",
            case.what,
            spent.all,
            spent.watching * 1e3,
            share * 100.0
        );
    }
    assert!(worst < BOUND, "being watched costs {:.2} % of a run", worst * 100.0);
}

/// Wall time of a run, and CPU time of its threads.
fn run(dir: &Path, case: &Case) -> (f64, Spent) {
    fs::write(dir.join("watched.toml"), &case.job).expect("a job file");
    let said = dir.join("stderr");
    let mut run = Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .args(["run", "watched.toml", "-q", "--slots", "2"])
        .args(case.arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("phalanx starts");
    let began = Instant::now();
    let (mut spent, mut asked) = (Spent::default(), Instant::now());
    while run.try_wait().expect("a child").is_none() {
        if case.polled && asked.elapsed() > Duration::from_secs(2) {
            asked = Instant::now();
            let text = fs::read_to_string(&said).expect("a file");
            let url = text.split_once("http://").and_then(|(_, url)| url.lines().next());
            if let Some((address, token)) = url.and_then(|url| url.trim().split_once("/?token=")) {
                PATHS.iter().for_each(|path| ask(address, token, path));
            }
        }
        let now = spent_by(&run);
        // Threads that have ended are no longer counted: the most that was seen is what was spent.
        spent = if now.all > spent.all { now } else { spent };
        std::thread::sleep(Duration::from_millis(20));
    }
    (began.elapsed().as_secs_f64(), spent)
}

/// A run that ends while it is asked is no concern here.
fn ask(address: &str, token: &str, path: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut Vec::new());
}

/// CPU seconds of the threads of a process, as the kernel's scheduler counts them.
fn spent_by(run: &Child) -> Spent {
    let mut spent = Spent::default();
    for thread in fs::read_dir(format!("/proc/{}/task", run.id())).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let counted = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
        spent.all += counted;
        if WATCHING.contains(&read("comm").trim()) {
            spent.watching += counted;
        }
    }
    spent
}
