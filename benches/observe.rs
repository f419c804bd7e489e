//! What being watched costs a run of tasks of 1 ms: CPU time of the thread behind `--listen`, and of the whole process beyond its tasks, with
//! nobody at the page and with a page that asks for everything every two seconds, as a browser does.
//!
//! `cargo bench --bench observe`. The bound is 1 %; it fails if the listening thread needs more of a core than that.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOB: &str = "[[task]]\nname = \"ms\"\narray = \"0-19999\"\nkernel = \"busy\"\nargs = { seconds = 0.001 }\n";
const PATHS: [&str; 7] = [
    "/api/v1/run",
    "/api/v1/ranks",
    "/api/v1/classes",
    "/api/v1/history",
    "/api/v1/failures",
    "/api/v1/timeline?columns=300",
    "/metrics",
];
/// Share of a core that being watched may cost.
const BOUND: f64 = 0.01;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("watched.toml"), JOB).expect("a job file");
    let mut worst = 0.0f64;
    for polled in [false, true] {
        let (wall, cpu) = watched(dir.path(), polled);
        let share = cpu / wall;
        worst = worst.max(share);
        let who = if polled { "a page that asks every 2 s" } else { "nobody" };
        println!(
            "watched by {who}: wall {wall:.2} s, listening thread {:.2} ms of CPU, {:.3} % of a core",
            cpu * 1e3,
            share * 100.0
        );
    }
    assert!(worst < BOUND, "being watched costs {:.2} % of a core", worst * 100.0);
}

/// Wall time of a run and CPU time of its listening thread, in seconds.
fn watched(dir: &Path, polled: bool) -> (f64, f64) {
    let said = dir.join("stderr");
    let mut run = Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .args(["run", "watched.toml", "-q", "--slots", "2", "--listen", "127.0.0.1:0"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&said).expect("a file"))
        .spawn()
        .expect("phalanx starts");
    let began = Instant::now();
    let (address, token) = loop {
        let text = fs::read_to_string(&said).expect("a file");
        match text.split_once("http://").and_then(|(_, url)| url.trim().split_once("/?token=")) {
            Some((address, token)) => break (address.to_owned(), token.to_owned()),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (mut cpu, mut asked) = (0.0, Instant::now());
    while run.try_wait().expect("a child").is_none() {
        if polled && asked.elapsed() > Duration::from_secs(2) {
            asked = Instant::now();
            PATHS.iter().for_each(|path| ask(&address, &token, path));
        }
        cpu = listening(&run).unwrap_or(cpu);
        std::thread::sleep(Duration::from_millis(100));
    }
    (began.elapsed().as_secs_f64(), cpu)
}

/// A run that ends while it is asked is no concern here.
fn ask(address: &str, token: &str, path: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut Vec::new());
}

/// CPU seconds of the listening thread, as the kernel's scheduler counts them.
fn listening(run: &Child) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{}/task", run.id())).ok()?.flatten();
    let mut threads = threads.map(|thread| thread.path());
    let ours =
        threads.find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "phalanx-listen"))?;
    let counted = fs::read_to_string(ours.join("schedstat")).ok()?;
    Some(counted.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}
