//! Tasks that run in a directory of their own on the node's disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Dir, mpirun, phalanx, wait_for};

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
    // It finds the directory of its output if another element has made that in the job's.
    assert_eq!(dir.read("seen-2").replace("made\n", ""), ".\n..\nseed\ntool.sh\n");
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

/// `make` writes a file that nobody keeps, `use` reads it, `last` reads all that those write.
fn with_temporaries(last: &str) -> String {
    format!(
        "[cache]\nnode_dir = \"node\"\n\
         [[task]]\nname = \"make\"\narray = \"0-3\"\nstage = \"node\"\n\
         outputs = [\"kept-{{index}}\", {{ file = \"tmp/{{index}}\", keep = false }}]\n\
         command = \"echo {{index}} | tee kept-{{index}} > tmp/{{index}}; echo make-{{index}} >&2\"\n\
         [[task]]\nname = \"use\"\narray = \"0-3\"\nstage = \"node\"\ninputs = \"tmp/{{index}}\"\n\
         outputs = {{ file = \"d-{{index}}\", keep = false }}\n\
         command = \"mkdir d-{{index}}; cp tmp/{{index}} d-{{index}}/x; ln -s x d-{{index}}/link; echo x >> tmp/{{index}}\"\n\
         [[task]]\nname = \"last\"\nstage = \"node\"\ninputs = [\"d-0\", \"d-1\", \"d-2\", \"d-3\", \"tmp/3\"]\n\
         outputs = \"total\"\ncommand = \"{last}\"\n"
    )
}

const LAST: &str = "cat d-*/link tmp/3 > total";

#[test]
fn a_temporary_file_lives_in_the_store_until_its_last_reader_is_done() {
    let dir = Dir::new("stage-temporary");
    fs::create_dir(dir.path().join("tmp")).unwrap();
    dir.job("w.toml", &with_temporaries(LAST));
    let ran = mpirun(&dir, 2).args(["run", "w.toml"]).run().ok();
    assert_eq!(dir.read("total"), "0\n1\n2\n3\n3\n");
    assert_eq!(names(&dir, "node/held"), [""; 0], "{ran}");
    assert_eq!(names(&dir, "tmp"), [""; 0]);
    assert!(!dir.path().join("d-0").exists() && dir.path().join("kept-0").exists());
    assert!(!dir.path().join("phalanx-runs/w-1/held").exists(), "one node needs nothing from the shared file system");
    let json = phalanx(&dir).args(["report", "w", "--json"]).run().ok().json();
    assert_eq!((&json["staging"]["attempts"], &json["staging"]["read_bytes"]), (&9.into(), &0.into()));
    assert!(json["staging"]["held_bytes"].as_u64() > Some(15), "{json}");

    // With a key, what is temporary comes from the cache like everything else.
    dir.job("c.toml", &with_temporaries(LAST).replace("[[task]]\nname", "[[task]]\ncache = true\nname"));
    mpirun(&dir, 2).args(["run", "c.toml"]).run().ok();
    fs::remove_file(dir.path().join("total")).unwrap();
    let again = phalanx(&dir).args(["run", "c.toml"]).run().ok();
    assert!(again.stdout().contains("9 results taken from the cache"), "{again}");
    assert_eq!((dir.read("total").len(), names(&dir, "node/held")), (10, vec![]));
}

#[test]
fn a_temporary_file_that_is_gone_is_made_again_for_those_who_still_read_it() {
    let dir = Dir::new("stage-resume");
    fs::create_dir(dir.path().join("tmp")).unwrap();
    dir.job("w.toml", &with_temporaries("test -e d-0/go || exit 1; exit 2"));
    phalanx(&dir).args(["run", "w.toml"]).run().code(1);
    // Those that `last` reads are held for it: d-0 to d-3, and tmp/3.
    let run = format!("node/held/{}", names(&dir, "node/held")[0]);
    let held = names(&dir, &run);
    assert_eq!(held.len(), 5);
    let is_dir = |name: &&String| dir.path().join(&run).join(name).join("made").is_dir();
    fs::remove_dir_all(dir.path().join(&run).join(held.iter().find(is_dir).unwrap())).unwrap();
    dir.job("w.toml", &with_temporaries(LAST));
    let ran = phalanx(&dir).args(["run", "w.toml", "--resume"]).run().ok();
    assert_eq!(dir.read("total"), "0\n1\n2\n3\n3\n");
    assert!(ran.stdout().contains("9 completed"), "{ran}");
    assert_eq!(names(&dir, "node/held"), [""; 0]);
}

#[test]
fn what_one_node_held_alone_is_there_for_others_that_may_join_later() {
    let dir = Dir::new("stage-join");
    fs::create_dir(dir.path().join("tmp")).unwrap();
    dir.job("w.toml", &with_temporaries("exit 2"));
    phalanx(&dir).args(["run", "w.toml"]).run().code(1);
    assert!(!dir.path().join("phalanx-runs/w-1/held").exists());
    let kept = || fs::metadata(dir.path().join("kept-3")).unwrap().ino();
    let before = kept();
    dir.job("w.toml", &with_temporaries(LAST));
    let ran = phalanx(&dir).args(["run", "w.toml", "--resume", "--join-on", "127.0.0.1"]).run().ok();
    assert_eq!(dir.read("total"), "0\n1\n2\n3\n3\n");
    assert_eq!(kept(), before, "{ran}");
    assert!(dir.path().join("phalanx-runs/w-1/held").exists());
    assert_eq!(names(&dir, "phalanx-runs/w-1/held"), [""; 0], "it was published, and is gone");
    assert_eq!(names(&dir, "node/held"), [""; 0]);
}

/// A job of one staged task, whose output is the directory `made`.
fn makes(dir: &Dir, command: &str) {
    let head = "[cache]\nnode_dir = \"node\"\n[[task]]\nname = \"t\"\nstage = \"node\"\noutputs = \"made\"\n";
    dir.job("w.toml", &format!("{head}command = \"{command}\"\n"));
}

#[test]
fn an_output_directory_has_no_link_into_what_goes() {
    let dir = Dir::new("stage-links");
    makes(&dir, "mkdir made; echo x > made/x; ln -s x made/link");
    phalanx(&dir).args(["run", "w.toml"]).run().ok();
    makes(&dir, "mkdir made; echo x > scratch; ln -s $PWD/scratch made/y");
    let ran = phalanx(&dir).args(["run", "w.toml"]).run().code(1);
    assert!(ran.stdout().contains("the link made/y leads into"), "{ran}");
    assert_eq!(names(&dir, "made"), ["link", "x"]);
}

#[test]
fn of_an_output_directory_what_an_earlier_run_left_goes_and_what_others_have_in_it_stays() {
    let dir = Dir::new("stage-others");
    let run = |command: &str, more: &[&str]| {
        makes(&dir, command);
        phalanx(&dir).args([&["run", "w.toml"][..], more].concat()).run().ok()
    };
    dir.file("made/before", "");
    let ran = run("mkdir -p made/sub; echo 1 > made/x; echo 1 > made/y; echo 1 > made/sub/z", &[]);
    ran.says("made holds 1 other file, which stays: no earlier result is on record there");
    assert_eq!(names(&dir, "made"), ["before", "sub", "x", "y"]);
    // Another run, in a directory of its own.
    dir.file("made/sub/mine", "");
    dir.file("made/y", "changed by hand");
    let ran = run("mkdir made; echo 2 > made/x; echo 2 > made/w", &[]);
    assert_eq!(
        (names(&dir, "made"), names(&dir, "made/sub")),
        (["before", "sub", "w", "x", "y"].map(Into::into).into(), vec!["mine".into()])
    );
    assert_eq!((dir.read("made/x").as_str(), dir.read("made/y").as_str()), ("2\n", "changed by hand"));
    assert!(!ran.stderr().contains("other file"), "what others have is told once: {ran}");
    ran.says("made/y was left by an earlier result and has changed since: it stays");
    // A run directory elsewhere beside phalanx-runs, and where a link to the output leads.
    fs::rename(dir.path().join("made"), dir.path().join("there")).unwrap();
    std::os::unix::fs::symlink("there", dir.path().join("made")).unwrap();
    run("mkdir made; echo 3 > made/v", &["--run-dir", "own"]);
    run("mkdir made; echo 4 > made/u", &[]);
    assert!(dir.path().join("made").is_symlink());
    // By its other name nothing is known of what stood there.
    assert_eq!(names(&dir, "there"), ["before", "sub", "u", "w", "x", "y"]);
}

#[test]
fn what_a_killed_run_has_delivered_in_part_goes_when_it_is_resumed() {
    let dir = Dir::new("stage-killed");
    let made = |letter: &str, count: u32| {
        makes(&dir, &format!("mkdir made; for n in $(seq {count}); do echo {letter} > made/{letter}$n; done"));
    };
    dir.file("made/mine", "");
    made("a", 3);
    phalanx(&dir).args(["run", "w.toml"]).run().ok();
    made("b", 3000);
    let mut killed = phalanx(&dir).args(["run", "w.toml"]).start();
    wait_for("a part of the output", 120, || {
        names(&dir, "made").iter().any(|name| name.starts_with('b')).then_some(())
    });
    killed.kill_all();
    assert!(!dir.path().join("made/a1").exists(), "what was stale goes first");
    dir.file("made/b1", "by hand");
    made("c", 2);
    // A run that was done before it was killed is run again as a new one.
    let resumed = phalanx(&dir).args(["run", "w.toml", "--resume"]).run().ok();
    if names(&dir, "made").iter().all(|name| !name.starts_with('c')) {
        println!("{resumed}");
        phalanx(&dir).args(["run", "w.toml"]).run().ok();
    }
    assert_eq!(names(&dir, "made"), ["b1", "c1", "c2", "mine"]);
    assert_eq!(dir.read("made/b1"), "by hand");
}

#[test]
fn a_hit_of_the_cache_removes_what_was_delivered_and_nothing_else() {
    let dir = Dir::new("stage-hit");
    let run = |letter: &str| {
        makes(&dir, &format!("mkdir made; echo > made/{letter}; echo > made/both"));
        let text = dir.read("w.toml").replace("stage", "cache = true\nstage");
        dir.job("w.toml", &text);
        phalanx(&dir).args(["run", "w.toml"]).run().ok()
    };
    run("a");
    dir.file("made/mine", "");
    run("b");
    assert_eq!(names(&dir, "made"), ["b", "both", "mine"]);
    for letter in ["a", "b"] {
        run(letter).says("1 result taken from the cache");
        assert_eq!(names(&dir, "made"), [letter, "both", "mine"]);
    }
}

#[test]
fn a_hit_takes_the_place_of_what_a_task_without_stage_has_written_itself() {
    let dir = Dir::new("cache-directory");
    let run = |letter: &str| {
        let head = "[cache]\nnode_dir = \"node\"\n[[task]]\nname = \"t\"\ncache = true\noutputs = \"made\"\n";
        let line = format!("rm -f made/[ab]; mkdir -p made; echo > made/{letter}; echo {letter} > made/both");
        dir.job("w.toml", &format!("{head}command = \"{line}\"\n"));
        phalanx(&dir).args(["run", "w.toml"]).run().ok()
    };
    run("a");
    // It is older than the attempt that writes the second result.
    dir.file("made/mine", "");
    run("b");
    for letter in ["a", "b"] {
        run(letter).says("1 result taken from the cache");
        assert_eq!(
            (names(&dir, "made"), dir.read("made/both")),
            ([letter, "both", "mine"].map(Into::into).into(), format!("{letter}\n"))
        );
    }
}

#[test]
fn who_reads_a_temporary_file_must_be_staged_and_name_it() {
    let dir = Dir::new("stage-readers");
    let writer =
        "[[task]]\nname = \"a\"\nstage = \"node\"\noutputs = { file = \"d/x\", keep = false }\ncommand = \"true\"\n";
    let check = |reader: &str| {
        dir.job("w.toml", &format!("{writer}[[task]]\nname = \"b\"\ncommand = \"true\"\n{reader}\n"));
        phalanx(&dir).args(["check", "w.toml"]).run()
    };
    check("inputs = \"d/x\"").code(2).says("add `stage = \"node\"` to `b`, or keep the file");
    check("stage = \"node\"\ninputs = \"d\"").code(2).says("d/x itself under `inputs`");
    check("stage = \"node\"\ninputs = \"d/x\"\nstdin = \"d/x\"").ok();
    check("outputs = { file = \"y\", keep = false }").code(2).says("writes this file in its own directory");
}

#[test]
fn a_temporary_file_stays_for_readers_that_a_run_leaves_out() {
    for part in [["--until", "use"], ["--omit", "last"]] {
        let dir = Dir::new("stage-part");
        dir.job("w.toml", &with_temporaries(LAST));
        phalanx(&dir).args([&["run", "w.toml"][..], &part].concat()).run().ok();
        let run = format!("node/held/{}", names(&dir, "node/held")[0]);
        assert_eq!(names(&dir, &run).len(), 5, "d-0 to d-3 and tmp/3, which `last` reads");
        let dry = phalanx(&dir).args(["run", "w.toml", "--resume", "-n"]).run().ok();
        dry.says("8 of 9 tasks are complete; 1 would run");
        phalanx(&dir).args(["run", "w.toml", "--resume", "--only", "last"]).run().ok();
        assert_eq!(dir.read("total"), "0\n1\n2\n3\n3\n");
        assert_eq!(names(&dir, "node/held"), [""; 0]);
    }
}

/// Cuts a file into a directory of pieces, and counts their lines.
const SPLIT: &str = "[cache]\nnode_dir = \"node\"\n[defaults]\ncache = true\n\
    [[task]]\nname = \"split\"\nstage = \"node\"\ninputs = \"big\"\noutputs = \"pieces\"\n\
    command = \"rm -rf pieces; mkdir pieces; split -l 10 -d big pieces/p.\"\n\
    [[task]]\nname = \"count\"\nstage = \"node\"\ninputs = \"pieces\"\noutputs = \"n\"\n\
    command = \"cat pieces/* | wc -l > n\"\n";

#[test]
fn a_directory_of_an_earlier_run_gives_way_and_what_is_stored_is_what_the_attempt_has_written() {
    let dir = Dir::new("stage-pieces");
    dir.job("w.toml", SPLIT);
    let count = |lines: u32| {
        dir.file("big", &(0..lines).map(|line| format!("{line}\n")).collect::<String>());
        let ran = phalanx(&dir).args(["run", "w.toml"]).run().ok();
        assert_eq!(names(&dir, "pieces").len() as u32, lines.div_ceil(10), "{ran}");
        assert_eq!(dir.read("n").trim(), lines.to_string(), "{ran}");
        ran
    };
    count(50);
    count(12);
    // From here on results come from the cache, over what stands there and over nothing.
    for lines in [50, 12] {
        count(lines).says("2 results taken from the cache");
    }
    fs::remove_dir_all(dir.path().join("pieces")).unwrap();
    count(12).says("2 results taken from the cache");
}

#[test]
fn what_others_write_into_a_directory_stays_and_is_no_part_of_a_result() {
    let dir = Dir::new("stage-shared");
    let task = |name: &str, outputs: &str, more: &str| {
        let path =
            if outputs == "all" || outputs == "plain" { format!("{outputs}/{name}") } else { outputs.to_owned() };
        format!(
            "[[task]]\nname = '{name}'\ncache = true\noutputs = '{outputs}'\n{more}\n\
             command = 'mkdir -p $(dirname {path}); echo > {path}'\n"
        )
    };
    let staged = "stage = 'node'";
    let job = [
        "[cache]\nnode_dir = 'node'\n".to_owned(),
        task("one", "all/one", staged),
        task("two", "all", &format!("{staged}\nneeds = 'one'")),
        task("three", "plain/three", ""),
        task("four", "plain", "needs = 'three'"),
    ];
    dir.job("w.toml", &job.concat());
    phalanx(&dir).args(["run", "w.toml"]).run().ok();
    assert_eq!(
        (names(&dir, "all"), names(&dir, "plain")),
        (vec!["one".into(), "two".into()], vec!["four".into(), "three".into()])
    );
    let four = phalanx(&dir).args(["report", "--task", "four"]).run().ok();
    four.says("others write into its output");
    for left in ["other", ""] {
        fs::remove_dir_all(dir.path().join("all")).unwrap();
        if !left.is_empty() {
            dir.file(&format!("all/{left}"), "");
        }
        // The file that `two` needs is there in name only.
        dir.file("all/one", "");
        let two = phalanx(&dir).args(["run", "w.toml", "--only", "two"]).run().ok();
        two.says("1 result taken from the cache");
        let expected: Vec<&str> = ["one", left, "two"].into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(names(&dir, "all"), expected);
        assert_eq!(dir.read("all/one"), "", "what it found is no part of its result");
    }
}
