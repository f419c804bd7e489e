//! A program that defines its own kernel and runs a job on one process, or on all ranks of an
//! `mpirun`:
//!
//! ```console
//! cargo run --example own_kernel
//! mpirun -n 3 target/debug/examples/own_kernel
//! ```
//!
//! It estimates pi: a first task adds 40 others, which count how many random points fall into a
//! quarter circle and write their counts to files, and a last one, which adds them up. Every rank
//! runs this same `main`, so every rank has the kernels.

use std::path::Path;
use std::sync::Arc;

use phalanx::exec::{ArgError, Args, Kernels, Prepared};
use phalanx::runtime::{self, Options};

const JOB: &str = r#"
[job]
name = "pi"

[[task]]
name = "plan"
kernel = "plan"
args = { parts = 40 }
"#;

/// What the first task adds, for `PARTS` parts.
const ADDED: &str = r#"
[[task]]
name = "count"
array = "1-PARTS"
kernel = "count_hits"
args = { points = 200_000, seed = "{index}", output = "hits/{index}" }

[[task]]
name = "pi"
needs = "count"
command = "cat hits/* | awk '{ hits += $1; points += $2 } END { print 4 * hits / points }'"
"#;

/// Adds the tasks that do the work.
fn plan(table: &toml::Table) -> Result<Prepared, ArgError> {
    let parts: u64 = Args::new(table, &["parts"])?.need("parts")?;
    Ok(Arc::new(move |context| {
        context.add_tasks(&ADDED.replace("PARTS", &parts.to_string()));
        Ok(())
    }))
}

/// Reads the arguments once and returns the function that runs for each task.
fn count_hits(table: &toml::Table) -> Result<Prepared, ArgError> {
    let args = Args::new(table, &["points", "seed", "output"])?;
    let points: u64 = args.need("points")?;
    let seed: u64 = args.need("seed")?;
    let output: String = args.need("output")?;
    Ok(Arc::new(move |context| {
        let mut random = fastrand::Rng::with_seed(seed);
        let inside = |(x, y): (f64, f64)| x * x + y * y <= 1.0;
        let hits = (0..points).filter(|_| inside((random.f64(), random.f64()))).count();
        let file = context.path(Path::new(&output));
        let parent = file.parent().ok_or("the output has no directory")?;
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        std::fs::write(&file, format!("{hits} {points}\n")).map_err(|error| format!("{}: {error}", file.display()))
    }))
}

fn main() {
    // Only rank 0 reads the job file and sends it to the others.
    let job = std::env::temp_dir().join(format!("pi-{}.toml", std::process::id()));
    if let Err(error) = std::fs::write(&job, JOB) {
        eprintln!("cannot write {}: {error}", job.display());
        std::process::exit(1);
    }
    let mut kernels = Kernels::builtin();
    kernels.register("plan", plan);
    kernels.register("count_hits", count_hits);
    let result = runtime::run(&Options::new(&job), kernels, |result| match result {
        Ok(finished) => {
            if let Some(dir) = &finished.run_dir {
                println!("exit code {}; `phalanx report {} --task pi` shows pi", finished.exit_code, dir.display());
            }
        }
        Err(error) => eprintln!("{error}"),
    });
    // Each process wrote a file of its own; a leftover is harmless.
    let _ = std::fs::remove_file(&job);
    std::process::exit(result.map_or_else(|error| error.exit_code(), |finished| finished.exit_code));
}
