//! What a run claims is what its journal holds: exit code, summary and the record of its end come
//! after the last sync.

use std::path::PathBuf;
use std::process::Command;

use crate::support::checker::Trace;
use crate::support::{Dir, Output, is_root, phalanx, shell, skip_loudly};

/// A file system of its own, as small as that.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where mounting is not allowed.
    fn mount(dir: &Dir, size: &str) -> Option<SmallDisk> {
        let place = dir.path().join("disk");
        std::fs::create_dir(&place).expect("a folder");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&place).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(place)),
            _ => None,
        }
    }

    /// Makes room.
    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", &format!("remount,size={size}")]).arg(&self.0).status();
        assert!(grown.expect("mount").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nobody uses it any more; what is left of it goes with the folder's mount namespace
        // otherwise.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The run has failed, says so, and claims no more than the journal.
#[track_caller]
fn failed_truly(dir: &Dir, output: &Output, run: &str, tasks: u64) {
    assert_eq!(output.exit(), 1, "{output}");
    assert!(output.stderr().contains("cannot write") || output.stderr().contains("cannot flush"), "{output}");
    assert!(output.stderr().contains("--resume"), "{output}");
    assert!(!output.stdout().contains("COMPLETED"), "{output}");
    let told = phalanx(dir).args(["report", run, "--json"]).run().json();
    let completed = told["tasks"]["COMPLETED"].as_u64().unwrap_or(0);
    assert!(completed < tasks, "{told}");
    assert_eq!(told["state"], "INTERRUPTED", "{told}");
}

/// All complete, each with one successful attempt.
#[track_caller]
fn complete_once(dir: &Dir, run: &str, tasks: usize) {
    let trace = Trace::of(dir, run);
    let completed = trace.0.iter().filter(|row| row.state == "COMPLETED").count();
    assert_eq!((completed, trace.completed().len()), (tasks, tasks));
}

const MANY: &str = "[[task]]\nname = 'n'\narray = '0-3999'\nkernel = 'noop'\n";

#[test]
fn a_journal_on_a_full_disk_ends_the_run_with_what_it_holds() {
    for flush in ["never", "1s", "always"] {
        let dir = Dir::new("full");
        dir.job("job.toml", &format!("[job]\nflush = '{flush}'\n{MANY}"));
        let Some(disk) = SmallDisk::mount(&dir, "20k") else {
            assert!(!is_root() || std::env::var_os("PHALANX_REQUIRE_SLURM").is_none(), "root cannot mount a tmpfs");
            return skip_loudly("no file system can be mounted here");
        };
        let run = |resume: &[&str]| {
            phalanx(&dir).args(["run", "job.toml", "--slots", "2", "--run-dir", "disk/run"]).args(resume).run()
        };
        failed_truly(&dir, &run(&[]), "disk/run", 4000);
        disk.grow("20m");
        run(&["--resume"]).ok();
        complete_once(&dir, "disk/run", 4000);
    }
}

#[test]
fn a_journal_that_may_not_grow_ends_the_run_with_what_it_holds() {
    let dir = Dir::new("limit");
    dir.job("job.toml", MANY);
    let line = "ulimit -f 16; exec phalanx run job.toml --slots 2";
    failed_truly(&dir, &shell(&dir, line).run(), "latest", 4000);
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok();
    complete_once(&dir, "latest", 4000);
}
