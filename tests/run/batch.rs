//! `batch`: tasks that one shell runs one after the other are tasks of their own.

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx};

#[test]
fn results_of_a_batch_are_kept_and_taken_one_by_one() {
    let dir = Dir::new("batch-cache");
    dir.job(
        "job.toml",
        "[cache]\nnode_dir = 'node'\n[[task]]\nname = 'made'\narray = '0-6'\nbatch = 3\ncache = true\n\
         outputs = ['made-{index}']\ncommand = 'echo {index} >> ran; echo of {index} > made-{index}'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).run().ok().says("7 completed");
    (0..7).for_each(|index| std::fs::remove_file(dir.path().join(format!("made-{index}"))).expect("it was made"));
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).run().ok().says("7 completed");
    assert_eq!(dir.read("ran").lines().count(), 7, "none ran twice");
    (0..7).for_each(|index| assert_eq!(dir.read(&format!("made-{index}")), format!("of {index}\n")));
}

#[test]
fn of_a_batch_only_the_task_without_its_output_or_above_its_memory_fails() {
    let dir = Dir::new("batch-fails");
    dir.job(
        "job.toml",
        "[job]\noutput_wait = '0s'\n[[task]]\nname = 'file'\narray = '0-4'\nbatch = 5\noutputs = ['file-{index}']\n\
         command = 'test {index} = 2 || touch file-{index}'\n\
         [[task]]\nname = 'large'\narray = '0-4'\nbatch = 5\nmemory = '100M'\n\
         command = 'test {index} != 2 || (head -c 300000000 /dev/zero; sleep 600) | tail -n 1 > /dev/null'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).run().code(1).says("8 completed");
    let trace = Trace::of(&dir, "run");
    for index in 0..5 {
        let [file, large] = if index == 2 { ["FAILED", "OUT_OF_MEMORY"] } else { ["COMPLETED"; 2] };
        assert_eq!(trace.state(&format!("file[{index}]")), file);
        assert_eq!(trace.state(&format!("large[{index}]")), large);
    }
}

#[test]
fn each_task_of_a_batch_adds_tasks_of_its_own() {
    let dir = Dir::new("batch-adds");
    dir.file("tables", "[[task]]\nname = 'added-N'\nneeds = 'adds[N]'\ncommand = 'echo N >> added'\n");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'adds'\narray = '0-4'\nbatch = 5\n\
         command = 'test {index} = 3 || sed s/N/{index}/g tables > $PHALANX_ADD'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).run().ok().says("9 completed");
    let text = dir.read("added");
    let mut added: Vec<&str> = text.lines().collect();
    added.sort_unstable();
    assert_eq!(added, ["0", "1", "2", "4"]);
}
