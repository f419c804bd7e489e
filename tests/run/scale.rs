//! Many tasks: all are run once, memory stays small, nothing leaks. Rates are printed, not
//! asserted.

use crate::support::{Dir, mpirun, phalanx};

/// Runs a job on this number of ranks (0: alone) and returns the figures of its report.
fn run(dir: &Dir, ranks: u32, args: &[&str]) -> serde_json::Value {
    let command = if ranks == 0 { phalanx(dir) } else { mpirun(dir, ranks) };
    command.args(["run", "job.toml", "--quiet"]).args(args).run().ok();
    phalanx(dir).args(["report", "latest", "--json"]).run().ok().json()
}

fn completed(report: &serde_json::Value) -> u64 {
    report["tasks"]["COMPLETED"].as_u64().expect("a count")
}

#[test]
fn a_hundred_thousand_kernels() {
    for ranks in [0, 2] {
        let dir = Dir::new("kernels");
        dir.job("job.toml", "[[task]]\nname = \"n\"\narray = \"0-99999\"\nkernel = \"noop\"\n");
        let report = run(&dir, ranks, &["--slots", "2"]);
        assert_eq!(completed(&report), 100_000);
        println!("{ranks} ranks: {:.0} kernels/s", 1e5 / report["wall_s"].as_f64().expect("a time"));
        // The journal, not the program, says that each ran once.
        let csv = phalanx(&dir).args(["report", "latest", "--tasks"]).run().ok().stdout().to_owned();
        let mut seen = vec![0; 100_000];
        for line in csv.lines().skip(1) {
            let index: usize = line.split(',').nth(1).and_then(|i| i.parse().ok()).expect("an index");
            seen[index] += 1;
        }
        assert!(seen.iter().all(|&n| n == 1), "each task once");
    }
}

#[test]
fn thousands_of_commands() {
    for ranks in [0, 2] {
        let dir = Dir::new("commands");
        dir.job("job.toml", "[[task]]\nname = \"t\"\narray = \"0-1999\"\ncommand = [\"/bin/true\"]\n");
        let report = run(&dir, ranks, &["--slots", "2"]);
        assert_eq!(completed(&report), 2000);
        println!("{ranks} ranks: {:.0} commands/s", 2e3 / report["wall_s"].as_f64().expect("a time"));
    }
}

/// A number from a process's status file, 0 once it has gone.
fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn descriptors_memory_and_threads_do_not_grow_with_the_tasks() {
    let dir = Dir::new("leaks");
    let job = r#"
        [[task]]
        name = "t"
        array = "0-2999"
        command = "echo {index}; echo {index} >&2"
        [[task]]
        name = "file"
        array = "0-299"
        command = "cat"
        stdin = "job.toml"
        stdout = "out/%x-%a"
        retries = 1
        time = "1h"
    "#;
    dir.job("job.toml", job);
    let mut running = mpirun(&dir, 2).args(["run", "job.toml", "--quiet", "--slots", "2"]).start();
    let mut most = [0; 3];
    while running.is_running() {
        for pid in running.ranks() {
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
            // The system keeps the high-water mark of memory itself.
            for (most, now) in most.iter_mut().zip([descriptors, status(pid, "VmHWM"), status(pid, "Threads")]) {
                *most = now.max(*most);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.wait().ok();
    let [descriptors, kib, threads] = most;
    println!("at most {descriptors} descriptors, {threads} threads and {} MiB in one rank", kib >> 10);
    assert!(descriptors > 0, "no rank was ever looked at");
    assert!(descriptors < 100 && threads < 40 && kib < 200 << 10, "{most:?}");
}

#[test]
fn a_million_kernels_fit_in_little_memory() {
    let dir = Dir::new("million");
    dir.job("job.toml", "[[task]]\nname = \"n\"\narray = \"0-999999\"\nkernel = \"noop\"\n");
    let mut running = phalanx(&dir).args(["run", "job.toml", "--quiet", "--slots", "2"]).start();
    let mut peak = 0;
    while running.is_running() {
        // The kernel's own high-water mark, so that looking now and then is enough.
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.ranks().first().unwrap_or(&0)));
        let line = status.unwrap_or_default();
        let kib = line.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.wait().ok();
    println!("peak memory: {} MiB for a million tasks", peak >> 10);
    assert!(peak > 0, "the program was never looked at");
    assert!(peak < 400 << 10, "{peak} KiB for a million tasks");
}
