//! Tasks that run in a directory of their own on the node's disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Dir, mpirun, phalanx};

/// Names in a directory.
fn names(dir: &Dir, path: &str) -> Vec<String> {
    let entries = fs::read_dir(dir.path().join(path)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_staged_task_sees_what_it_declares_and_leaves_what_it_declares() {
    let dir = Dir::new("stage");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n[defaults]\nretries = 1\n\
         [[task]]\nname = \"make\"\narray = \"0-3\"\nstage = \"node\"\ninputs = \"seed\"\n\
         outputs = [\"made/{index}\", { file = \"log-{index}\", optional = true }]\nstdout = \"seen-%a\"\n\
         command = \"ls -a; mkdir -p made/{index}; ln -s x made/{index}/link; echo $(cat seed) {index} > made/{index}/x; \
         chmod 750 made/{index}/x; echo changed > seed; ./tool.sh\"\n\
         [[task]]\nname = \"sum\"\nstage = \"node\"\ninputs = \"made\"\noutputs = \"total\"\n\
         command = \"cat made/*/x > total\"\n",
    );
    dir.file("seed", "5\n");
    dir.file("tool.sh", "#!/bin/sh\nexit 0\n");
    dir.file("other", "");
    fs::set_permissions(dir.path().join("tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    mpirun(&dir, 2).args(["run", "w.toml"]).run().ok();
    assert_eq!(dir.read("total"), "5 0\n5 1\n5 2\n5 3\n");
    assert_eq!(dir.read("seed"), "5\n", "what a task does to its inputs changes nothing elsewhere");
    assert_eq!(dir.read("seen-2"), ".\n..\nseed\ntool.sh\n");
    let made = dir.path().join("made/2");
    assert_eq!(fs::metadata(made.join("x")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(fs::read_link(made.join("link")).unwrap().to_str(), Some("x"));
    assert_eq!(names(&dir, "node/stage"), [""; 0]);
    // The next run finds the contents on the node.
    phalanx(&dir).args(["run", "w.toml"]).run().ok();
    let used = names(&dir, "phalanx-runs/w-2/outputs/s1").into_iter().find(|name| name.ends_with(".stage")).unwrap();
    let lines = dir.read(&format!("phalanx-runs/w-2/outputs/s1/{used}"));
    assert!(lines.lines().all(|line| line.contains("\"in_s\":")), "{lines}");
}

#[test]
fn of_a_staged_task_that_fails_the_directory_is_kept_and_the_next_attempt_begins_with_an_empty_one() {
    let dir = Dir::new("stage-fail");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n\
         [[task]]\nname = \"half\"\nstage = \"node\"\noutputs = [\"a\", \"b\"]\nretries = 1\n\
         command = \"ls; echo done > a; echo part > part; mkdir closed; chmod 0 closed\"\n\
         [[task]]\nname = \"well\"\nstage = \"node\"\noutputs = \"c\"\ncommand = \"echo > c\"\n",
    );
    let ran = phalanx(&dir).args(["run", "w.toml"]).run().code(1);
    assert!(ran.stdout().contains("did not write its output b"), "{ran}");
    let report = phalanx(&dir).args(["report", "w", "--task", "half"]).run().ok();
    assert!(report.stdout().contains("its directory is kept on "), "{report}");
    assert!(!report.stdout().contains("\npart\n"), "the second attempt found what the first had left: {report}");
    assert_eq!(names(&dir, "node/failed"), ["w-1-half"]);
    assert_eq!(names(&dir, "node/failed/w-1-half"), ["a", "closed", "part"]);
    assert!(!dir.path().join("a").exists(), "a failed task leaves nothing at its place");
    assert_eq!(names(&dir, "node/stage"), [""; 0]);
}
