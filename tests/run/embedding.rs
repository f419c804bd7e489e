//! A program with kernels of its own runs them through the library, alone and on the ranks of an mpirun.

use crate::support::{self, Dir};

/// The example, which cargo builds beside the tests.
fn example() -> String {
    let exe = std::env::current_exe().expect("a test has a path");
    let target = exe.ancestors().nth(2).expect("target/debug/deps/test").to_owned();
    let example = target.join("examples/own_kernel");
    assert!(example.exists(), "build it first: cargo build --examples (`make test` and a plain `cargo test` do)");
    example.display().to_string()
}

#[test]
fn a_program_runs_its_own_kernels_on_all_ranks() {
    for launcher in ["", "mpirun --oversubscribe -n 3 "] {
        let dir = Dir::new("embedding");
        support::shell(&dir, &format!("{launcher}{}", example())).run().ok();
        let pi: f64 = support::phalanx(&dir)
            .args(["report", "latest", "--task", "pi"])
            .run()
            .ok()
            .stdout()
            .lines()
            .find_map(|line| line.trim().parse().ok())
            .expect("the estimate is in the task's output");
        assert!((3.12..3.16).contains(&pi), "{pi}");
    }
}
