//! A program with kernels of its own runs them through the library, alone and on the ranks of an
//! mpirun.

use crate::support::{self, Dir};

/// An example, which cargo builds beside the tests.
fn example(name: &str) -> String {
    let exe = std::env::current_exe().expect("a test has a path");
    let target = exe.ancestors().nth(2).expect("target/debug/deps/test").to_owned();
    let example = target.join("examples").join(name);
    assert!(example.exists(), "build it first: cargo build --examples (`make test` and a plain `cargo test` do)");
    example.display().to_string()
}

#[test]
fn a_program_runs_its_own_kernels_on_all_ranks() {
    for launcher in ["", "mpirun --oversubscribe -n 3 "] {
        let dir = Dir::new("embedding");
        support::shell(&dir, &format!("{launcher}{}", example("own_kernel"))).run().ok();
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

#[test]
fn a_program_runs_its_own_operation_on_a_graph_that_all_ranks_share() {
    let dir = Dir::new("own-operation");
    let run = |launcher: &str| {
        let output = support::shell(&dir, &format!("{launcher}{}", example("own_operation"))).run().ok();
        output.stdout().lines().filter(|line| line.contains("label")).map(str::to_owned).collect::<Vec<_>>()
    };
    let alone = run("");
    assert!(alone.len() > 2 && alone[alone.len() - 1].contains("keep their own label"), "{alone:?}");
    assert_eq!(run("mpirun --oversubscribe -n 3 "), alone);
}
