//! What is done stays done: whatever ends a run, the next one goes on from there, and it notices
//! what has been changed.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::thread::sleep;
use std::time::Duration;

use crate::support::checker::{Row, Trace};
use crate::support::{Dir, Output, mpirun, phalanx, shell, wait_for};

const FAMILIES: u32 = 4;
const EACH: u32 = 500;

/// 2,000 short commands; each leaves its name in the file `ran`. Dependencies go across the arrays,
/// and so across ranks.
fn two_thousand() -> String {
    let mut toml = String::from("[job]\npartition = \"round_robin\"\n");
    for family in 0..FAMILIES {
        let needs = match family {
            0 => String::new(),
            1 => "needs = [\"t0[{index}]\"]\n".to_owned(),
            2 => "needs = [\"t0[0-9]\", \"t1[{index}]\"]\n".to_owned(),
            last => format!("needs = [\"t{}[{{index}}]\"]\n", last - 1),
        };
        toml += &format!(
            "[[task]]\nname = \"t{family}\"\narray = \"0-{}\"\n{needs}\
             command = \"echo 't{family}[{{index}}]' >> ran; sleep 0.005\"\n",
            EACH - 1
        );
    }
    toml
}

/// The edges of that job.
fn edges() -> Vec<(String, String)> {
    let mut edges = Vec::new();
    for index in 0..EACH {
        for family in 1..FAMILIES {
            edges.push((format!("t{}[{index}]", family - 1), format!("t{family}[{index}]")));
        }
        edges.extend((0..10).map(|first| (format!("t0[{first}]"), format!("t2[{index}]"))));
    }
    edges
}

fn lines(dir: &Dir, name: &str) -> Vec<String> {
    if dir.has(name) { dir.read(name).lines().map(str::to_owned).collect() } else { Vec::new() }
}

#[test]
fn chains_run_in_order_and_go_on_where_they_broke() {
    let dir = Dir::new("chains");
    // Each segment reads what the one before has left, and says which it was; the third of member 1
    // fails at first.
    let command = "test {part} = 1 || grep -qx $(({part}-1)) {member}; test {member}-{part} != 1-3 -o -e mended; \
                   echo {part} >> {member}";
    dir.job(
        "chains.toml",
        &format!(
            "[[task]]\nname = \"segment\"\nmatrix = {{ member = \"0-2\", part = \"1-5\" }}\n\
             needs = \"segment[{{part}}-1]\"\ncommand = \"set -e; {command}\"\n"
        ),
    );
    phalanx(&dir).args(["check", "chains.toml"]).run().ok().says("12 dependencies in 5 levels");
    mpirun(&dir, 3).args(["run", "chains.toml", "--run-dir", "run"]).run().code(1);
    assert_eq!(["0", "1", "2"].map(|member| lines(&dir, member).len()), [5, 2, 5]);
    dir.file("mended", "");
    mpirun(&dir, 2).args(["run", "chains.toml", "--run-dir", "run", "--resume"]).run().ok();
    for member in ["0", "1", "2"] {
        assert_eq!(lines(&dir, member), ["1", "2", "3", "4", "5"], "member {member}");
    }
    phalanx(&dir).args(["simulate", "chains.toml", "--ranks", "2", "--slots", "2"]).run().ok().says("15 completed");
    phalanx(&dir).args(["plan", "chains.toml", "--ranks", "1..3", "--slots", "1"]).run().ok().says("critical path");
}

#[test]
fn the_progress_at_the_end_is_what_is_true_at_the_end() {
    let dir = Dir::new("last-line");
    dir.job("one.toml", "[[task]]\nname = \"a\"\ncommand = \"sleep 0.3\"\n");
    let output = mpirun(&dir, 8).args(["run", "one.toml"]).run().ok();
    let last = output.stderr().lines().rfind(|line| line.contains(" done")).expect("a line of progress").to_owned();
    assert!(last.contains("100 % ended, 1 of 1 done") && !last.contains("running"), "{last}");
}

#[test]
fn twenty_kills_lose_nothing_and_repeat_nothing() {
    let seed = std::env::var("PHALANX_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("PHALANX_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = Dir::new("kills");
    dir.job("job.toml", &two_thousand());
    let mut done: HashSet<String> = HashSet::new();
    for kill in 0..20 {
        let before = lines(&dir, "ran").len();
        // Alone or on several ranks: a resume may have other ranks than the run before it.
        let command = if random.u32(0..3) == 0 { phalanx(&dir) } else { mpirun(&dir, random.u32(2..4)) };
        let resume: &[&str] = if kill == 0 { &[] } else { &["--resume"] };
        let mut running = command.args(["run", "job.toml", "--slots", "2"]).args(resume).start();
        if kill == 0 {
            wait_for("the first task", 120, || dir.has("ran").then_some(()));
        }
        sleep(Duration::from_millis(random.u64(20..700)));
        running.kill_all();
        drop(running);
        for task in &lines(&dir, "ran")[before..] {
            assert!(!done.contains(task), "{task} was complete before kill {kill}, and ran again (seed {seed})");
        }
        let now = Trace::of(&dir, "latest").completed();
        assert!(done.is_subset(&now), "kill {kill} lost completed tasks (seed {seed})");
        println!("kill {kill}: {} complete", now.len());
        done = now;
    }
    let before = lines(&dir, "ran").len();
    mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2", "--resume"]).run().ok();
    let ran = lines(&dir, "ran");
    assert!(ran[before..].iter().all(|task| !done.contains(task)), "seed {seed}");
    let all: HashSet<&str> = ran.iter().map(String::as_str).collect();
    assert_eq!(all.len() as u32, FAMILIES * EACH, "a task is missing (seed {seed})");
    check_history(&Trace::of(&dir, "latest"));
}

/// Over all sessions every task completed exactly once, and none started before what it needs had
/// ended.
fn check_history(trace: &Trace) {
    let mut completed: HashMap<String, &Row> = HashMap::new();
    for row in trace.0.iter().filter(|row| row.state == "COMPLETED") {
        let twice = completed.insert(row.task(), row);
        assert!(twice.is_none(), "{row:?} and {twice:?}");
    }
    assert_eq!(completed.len() as u32, FAMILIES * EACH);
    for (before, after) in edges() {
        let (first, then) = (completed[&before], completed[&after]);
        assert!(then.start >= first.end, "{first:?}\n{then:?}");
    }
}

/// Runs `job.toml` with the given text; every command of these jobs appends a line to the file
/// `ran`. Returns the lines that were added.
fn run(dir: &Dir, toml: &str, args: &[&str]) -> (Output, Vec<String>) {
    let before = lines(dir, "ran").len();
    dir.job("job.toml", toml);
    let out = phalanx(dir).args(["run", "job.toml"]).args(args).run();
    let mut ran = lines(dir, "ran").split_off(before);
    ran.sort();
    (out, ran)
}

const CHAIN: &str = r#"
    [[task]]
    name = "a"
    command = "echo a >> ran"
    [[task]]
    name = "b"
    command = "echo b >> ran"
    needs = ["a"]
    [[task]]
    name = "c"
    command = "echo c >> ran"
    needs = ["b"]
    [[task]]
    name = "other"
    command = "echo other >> ran"
"#;

#[test]
fn a_changed_command_runs_again_with_what_needs_it() {
    let dir = Dir::new("changed");
    run(&dir, CHAIN, &[]).0.ok();
    let (out, ran) = run(&dir, CHAIN, &["--resume"]);
    out.ok();
    assert_eq!(ran, [""; 0], "nothing was changed");
    // Neither a comment, nor another order, nor limits make a task another one.
    let cosmetic = CHAIN.replace("name = \"b\"", "# A remark.\nname = \"b\"\ntime = \"1h\"\nretries = 2");
    let (out, ran) = run(&dir, &cosmetic, &["--resume"]);
    out.ok();
    assert_eq!(ran, [""; 0]);
    let changed = CHAIN.replace("echo b", "echo new-b");
    let (out, ran) = run(&dir, &changed, &["--resume"]);
    out.ok();
    assert_eq!(ran, ["c", "new-b"]);
    // An environment variable that a task sees changes what it does.
    let changed = changed.replace("name = \"other\"", "name = \"other\"\nenv = { X = \"1\" }");
    let (out, ran) = run(&dir, &changed, &["--resume"]);
    out.ok();
    assert_eq!(ran, ["other"]);
    let trace = Trace::of(&dir, "latest");
    let times = |task: &str| trace.attempts(task).len();
    assert_eq!(["a", "b", "c", "other"].map(times), [1, 2, 2, 2]);
    let shown = phalanx(&dir).args(["report", "latest", "--task", "b"]).run().ok();
    assert!(shown.stdout().contains("session 1") && shown.stdout().contains("session 4"), "{shown}");
}

#[test]
fn new_tasks_and_edges_are_noticed() {
    let dir = Dir::new("grown");
    run(&dir, CHAIN, &[]).0.ok();
    let more = CHAIN.to_owned() + "[[task]]\nname = \"d\"\ncommand = \"echo d >> ran\"\nneeds = [\"c\"]\n";
    let (out, ran) = run(&dir, &more, &["--resume"]);
    out.ok();
    assert_eq!(ran, ["d"]);
    // A task put in front of one that is done makes it run again.
    let front = "[[task]]\nname = \"front\"\ncommand = \"echo front >> ran\"\n".to_owned();
    let more = front + &more.replace("needs = [\"b\"]", "needs = [\"b\", \"front\"]");
    let (out, ran) = run(&dir, &more, &["--resume"]);
    out.ok();
    assert_eq!(ran, ["c", "d", "front"]);
}

#[test]
fn an_array_that_grew_runs_its_new_elements() {
    let dir = Dir::new("array");
    let job = |array: &str, name: &str| {
        format!(
            "[[task]]\nname = '{name}'\narray = '{array}'\ncommand = 'echo {{index}} >> ran'\n\
             [[task]]\nname = 'each'\narray = '{array}'\ncommand = 'echo e{{index}} >> ran'\nneeds = ['{name}[{{index}}]']\n\
             [[task]]\nname = 'sum'\ncommand = 'echo sum >> ran'\nneeds = ['{name}']\n"
        )
    };
    run(&dir, &job("0-4", "t"), &[]).0.ok();
    let (out, ran) = run(&dir, &job("0-6", "t"), &["--resume"]);
    out.ok();
    assert_eq!(ran, ["5", "6", "e5", "e6", "sum"]);
    // Smaller again: all that is left is done, but the sum was over others.
    let (out, ran) = run(&dir, &job("2-5", "t"), &["--resume"]);
    out.ok();
    assert!(ran.iter().all(|line| line == "sum"), "{ran:?}");
    // Under another name they are other tasks.
    let (out, ran) = run(&dir, &job("2-5", "u"), &["--resume"]);
    out.ok();
    assert_eq!(ran, ["2", "3", "4", "5", "e2", "e3", "e4", "e5", "sum"]);
}

#[test]
fn failed_tasks_run_again_and_what_was_skipped_follows() {
    let dir = Dir::new("failed");
    let job = r#"
        [[task]]
        name = "good"
        command = "echo good >> ran"
        [[task]]
        name = "bad"
        command = "echo bad >> ran; test -e mended"
        [[task]]
        name = "after"
        command = "echo after >> ran"
        needs = ["good", "bad"]
    "#;
    let (out, ran) = run(&dir, job, &[]);
    out.code(1);
    assert_eq!(ran, ["bad", "good"]);
    dir.file("mended", "");
    let (out, ran) = run(&dir, job, &["--resume"]);
    out.code(0);
    assert_eq!(ran, ["after", "bad"]);
    phalanx(&dir).args(["report", "latest", "--failed"]).run().ok().says("no task");
    let json = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
    assert_eq!((&json["tasks"]["COMPLETED"], &json["sessions"]), (&3.into(), &2.into()), "{json}");
}

/// The files of a run are found below its directory.
fn journal(dir: &Dir) -> std::path::PathBuf {
    dir.path().join("phalanx-runs/latest/journal")
}

#[test]
fn a_journal_cut_short_anywhere_is_continued() {
    let job = "[[task]]\nname = 't'\narray = '0-19'\ncommand = 'echo {index} >> ran'\n\
               [[task]]\nname = 'u'\narray = '0-19'\ncommand = 'echo u{index} >> ran'\nneeds = ['t[{index}]']\n";
    let dir = Dir::new("torn");
    run(&dir, job, &["--slots", "2"]).0.ok();
    let whole = std::fs::read(journal(&dir)).expect("the journal can be read");
    let began = Trace::of(&dir, "latest");
    assert_eq!(began.completed().len(), 40);
    // From the last byte to the middle of the first record, which holds the job itself.
    for cut in (1..whole.len()).step_by(whole.len() / 25) {
        std::fs::write(journal(&dir), &whole[..whole.len() - cut]).expect("the journal can be written");
        let report = phalanx(&dir).args(["report", "latest", "--tasks"]).run();
        let done = if report.exit() == 0 { Trace::parse(report.stdout()).completed() } else { Default::default() };
        let (out, ran) = run(&dir, job, &["--slots", "2", "--resume"]);
        let header = whole.len() - cut < 16;
        if header && out.exit() != 0 {
            assert!(out.stderr().contains("journal"), "{out}");
            continue;
        }
        out.ok();
        let again = |line: &String| match line.strip_prefix('u') {
            Some(index) => format!("u[{index}]"),
            None => format!("t[{line}]"),
        };
        let again: HashSet<String> = ran.iter().map(again).collect();
        assert!(again.is_disjoint(&done), "with {cut} bytes cut, these ran again: {:?}", again.intersection(&done));
        assert_eq!(Trace::of(&dir, "latest").completed().len(), 40, "with {cut} bytes cut");
    }
}

#[test]
fn a_damaged_journal_is_refused_with_its_place() {
    let dir = Dir::new("damaged");
    let job = "[[task]]\nname = 't'\narray = '0-199'\ncommand = 'echo {index} >> ran'\n";
    run(&dir, job, &["--slots", "2"]).0.ok();
    let mut bytes = std::fs::read(journal(&dir)).expect("the journal can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(journal(&dir), &bytes).expect("the journal can be written");
    let (out, ran) = run(&dir, job, &["--resume"]);
    let out = out.code(1);
    assert_eq!(ran, [""; 0], "a journal that lies is not built upon");
    assert!(out.stderr().contains("journal") && out.stderr().contains("byte"), "{out}");
    assert_eq!(std::fs::read(journal(&dir)).expect("the journal can be read"), bytes, "and left as it is");
    // A report shows what can be read, and says that it is not all.
    let report = phalanx(&dir).args(["report", "latest"]).run();
    assert!(report.exit() != 0 && report.stderr().contains("journal"), "{report}");
    // A file that is no journal at all.
    OpenOptions::new().write(true).open(journal(&dir)).and_then(|f| f.set_len(3)).expect("the journal can be cut");
    std::fs::write(journal(&dir), "this is a diary").expect("the journal can be written");
    assert_ne!(run(&dir, job, &["--resume"]).0.exit(), 0);
}

#[test]
fn a_resume_without_an_earlier_run_just_runs() {
    let dir = Dir::new("nothing");
    phalanx(&dir).args(["run", "absent.toml", "--resume"]).run().code(2);
    dir.job("job.toml", CHAIN);
    phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok().says("all of it runs");
    let (out, ran) = run(&dir, CHAIN, &["--resume"]);
    out.ok().says("there is no earlier run of job to resume: all of it runs");
    assert_eq!(ran.len(), 4);
    let (out, ran) = run(&dir, CHAIN, &["--resume", "--run-dir", "own"]);
    out.ok().says("no earlier run");
    assert_eq!(ran.len(), 4);
    let (out, ran) = run(&dir, CHAIN, &["--resume", "--run-dir", "own"]);
    assert!(!out.ok().stderr().contains("earlier run"));
    assert_eq!(ran.len(), 0);
}

/// Tasks of `align` that ran, by the lines that they wrote.
const SAMPLES: &str = r#"
    [[task]]
    name = "align"
    matrix = { sample = { file = "samples.txt%2" } }
    command = ["sh", "-c", "printf '%s\n' \"$1\" >> ran", "x", "{sample}"]
    [[task]]
    name = "call"
    matrix = { csv = "samples.csv", seed = "1-2" }
    needs = "align[sample={sample}]"
    command = ["sh", "-c", "printf '%s\n' \"$1\" >> ran", "x", "{sample}/{fastq}/{seed}"]
"#;

#[test]
fn a_task_of_a_matrix_is_what_its_values_say() {
    let dir = Dir::new("samples");
    dir.file("samples.txt", "\u{feff}NA1\r\n\r\nNA 2, x\r\nNA3\r\n");
    dir.file("samples.csv", "sample,fastq\nNA1,1.fq\n\"NA 2, x\",2.fq\n");
    let (out, ran) = run(&dir, SAMPLES, &[]);
    out.ok();
    let first = ["NA 2, x", "NA 2, x/2.fq/1", "NA 2, x/2.fq/2", "NA1", "NA1/1.fq/1", "NA1/1.fq/2", "NA3"];
    assert_eq!(ran, first);
    // A sample in front of the others, and one less: nothing else runs again, on other ranks
    // either.
    dir.file("samples.txt", "NA0\nNA1\nNA 2, x\n");
    dir.file("samples.csv", "sample\tfastq\nNA0\t0.fq\nNA1\t1.fq\nNA 2, x\t2.fq\n");
    mpirun(&dir, 2).args(["run", "job.toml", "--resume"]).run().ok();
    let mut ran = lines(&dir, "ran").split_off(first.len());
    ran.sort();
    assert_eq!(ran, ["NA0", "NA0/0.fq/1", "NA0/0.fq/2"]);
    // The journal knows the lists although they are gone.
    std::fs::remove_file(dir.path().join("samples.txt")).expect("it was there");
    for name in ["align[NA1]", "align[sample=NA1]", "align[1]"] {
        let shown = phalanx(&dir).args(["report", "latest", "--task", name]).run().ok();
        assert!(shown.stdout().contains("COMPLETED") && shown.stdout().contains("x NA1"), "{name}: {shown}");
    }
    let shown = phalanx(&dir).args(["report", "latest", "--task", "call[\"NA 2, x\",seed=2]"]).run().ok();
    assert!(shown.stdout().contains("NA 2, x/2.fq/2"), "{shown}");
    phalanx(&dir).args(["report", "latest", "--task", "align[NA9]"]).run().code(2).says("did you mean `NA");
    phalanx(&dir).args(["report", "latest", "--task", "align[7]"]).run().code(2).says("its indices are 0-2");
    dir.file("samples.txt", "NA0\nNA1\nNA 2, x\n");
    let (out, ran) = run(&dir, SAMPLES, &["--resume", "--rerun", "align[NA1]"]);
    out.ok();
    assert_eq!(ran, ["NA1", "NA1/1.fq/1", "NA1/1.fq/2"]);
    let (out, _) = run(&dir, SAMPLES, &["--resume", "--rerun", "align[smaple=NA1]"]);
    out.code(2).says("no axis `smaple`");
}

#[test]
fn mistakes_in_lists_name_file_and_line() {
    let dir = Dir::new("lists");
    dir.job("job.toml", SAMPLES);
    let check = || phalanx(&dir).args(["check", "job.toml"]).run().code(2);
    check().says("cannot read").says("samples.txt");
    dir.file("samples.txt", "NA1\nNA2\nNA1\n");
    dir.file("samples.csv", "sample,fastq\nNA1,1.fq\nNA2\n");
    check()
        .says("samples.txt, line 3: \"NA1\" stands in line 1 already")
        .says("samples.csv, line 3: fields: 1, but 2 in the header");
    dir.file("samples.txt", "NA1\nNA2\n");
    dir.file("samples.csv", "sample,fastq\nNA1,1.fq\nNA3,3.fq\n");
    check().says("its axis `sample` has no value \"NA3\"; did you mean `NA");
    dir.file("samples.csv", "sample,fastq\nNA1,1.fq\n");
    let limited = SAMPLES.replace("seed = \"1-2\"", "sample = [\"a\"]");
    dir.job("job.toml", &limited);
    check().says("the axis `sample` comes from a table and from another axis");
    dir.job("job.toml", &SAMPLES.replace("samples.csv\"", "samples.csv%3\"").replace("\"1-2\"", "\"1-2%0\""));
    check().says("the limit after %");
}

/// A chain over files: `make` writes what `use` reads, with a script and an input beside it.
const FILES: &str = r#"
    [[task]]
    name = "make"
    command = "echo make >> ran; cat in.txt > made.txt"
    inputs = "in.txt"
    outputs = "made.txt"
    [[task]]
    name = "use"
    array = "0-1"
    command = "sh tools/step.sh {index}; echo use{index} >> ran; cat made.txt > used-{index}.txt"
    inputs = ["made.txt", "own-{index}.txt"]
    outputs = "used-{index}.txt"
    [[task]]
    name = "other"
    command = "echo other >> ran"
"#;

#[test]
fn what_changed_runs_again_and_says_why() {
    let dir = Dir::new("files");
    let write = |name: &str, text: &str| dir.file(name, text);
    let age = |name: &str| {
        let file = OpenOptions::new().append(true).open(dir.path().join(name)).expect("the file can be opened");
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(7)).expect("its time can be set");
    };
    for (name, text) in [("in.txt", "1"), ("own-0.txt", "1"), ("own-1.txt", "1"), ("tools/step.sh", "true\n")] {
        write(name, text);
    }
    run(&dir, FILES, &[]).0.ok();
    let why = || phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok().stdout().to_owned();
    let again = || {
        let (out, ran) = run(&dir, FILES, &["--resume"]);
        (out.ok().stderr().to_owned(), ran)
    };
    assert!(why().contains("4 of 4 tasks are complete; 0 would run"), "{}", why());
    // Touched, and written with the same content: nothing has changed.
    write("in.txt", "1");
    ["in.txt", "tools/step.sh", "own-0.txt"].into_iter().for_each(age);
    assert_eq!(again().1, [""; 0]);
    write("own-1.txt", "22");
    assert!(why().contains("1 would run\n  use[1]: its input own-1.txt has changed\n"), "{}", why());
    let (said, ran) = again();
    assert_eq!(ran, ["use1"]);
    assert!(said.contains("run again: use[1]: its input own-1.txt has changed"), "{said}");
    assert_eq!(again().1, [""; 0], "what it used then is known");
    // Of the same length and time, but other content: only a newer time makes that worth a look.
    write("in.txt", "2");
    age("in.txt");
    let said = why();
    assert!(said.contains("make: its input in.txt has changed"), "{said}");
    assert!(said.contains("use[0]: needs make, which runs again"), "{said}");
    assert_eq!(again().1, ["make", "use0", "use1"]);
    write("tools/step.sh", "true # better\n");
    assert!(why().contains("use[0]: its program tools/step.sh has changed"), "{}", why());
    assert_eq!(again().1, ["use0", "use1"]);
    // A result that is gone is made again; an intermediate one is not missed until then.
    let remove = |name: &str| std::fs::remove_file(dir.path().join(name)).expect("it was there");
    remove("made.txt");
    assert_eq!(again().1, [""; 0]);
    remove("used-0.txt");
    let said = why();
    assert!(said.contains("make: its output made.txt is missing"), "{said}");
    assert!(said.contains("use[0]: its output used-0.txt is missing") && !said.contains("use[1]"), "{said}");
    assert_eq!(again().1, ["make", "use0"]);
    remove("own-0.txt");
    assert!(why().contains("4 of 4 tasks are complete"), "{}", why());
    // Several ranks each write down what their tasks used.
    write("own-0.txt", "3");
    mpirun(&dir, 3).args(["run", "job.toml", "--resume"]).run().ok();
    assert!(why().contains("4 of 4 tasks are complete"), "{}", why());
    // Without the record nobody can tell whether inputs have changed.
    write("own-0.txt", "4444");
    let outputs = dir.path().join("phalanx-runs/latest/outputs");
    for session in std::fs::read_dir(outputs).expect("outputs").flatten() {
        for file in std::fs::read_dir(session.path()).expect("a session").flatten() {
            if file.path().extension().is_some_and(|ending| ending == "files") {
                std::fs::remove_file(file.path()).expect("it was there");
            }
        }
    }
    let said = why();
    assert!(said.contains("1 of 4 tasks are complete; 3 would run"), "{said}");
    assert!(said.contains("make: the state of its inputs was not recorded when it ran"), "{said}");
}

/// Tasks that write into a directory, one that reads it, and one that reads it and writes into it.
const DIRECTORY: &str = r#"
    [[task]]
    name = "report"
    command = "echo report >> ran; ls results > report.txt"
    inputs = ["results", "data"]
    [[task]]
    name = "sum"
    command = "echo sum >> ran; ls results > results/sum.txt"
    inputs = "results"
    outputs = "results/sum.txt"
    [[task]]
    name = "work"
    array = "0-1"
    command = "mkdir -p results/{index}; sleep 0.2; echo work{index} >> ran; touch results/{index}/x.txt"
    outputs = "results/{index}/x.txt"
    [[task]]
    name = "piece"
    command = "echo piece >> ran; cat tree/deep/leaf.txt"
    inputs = "tree/deep/leaf.txt"
    [[task]]
    name = "tree"
    command = "mkdir -p tree/deep; sleep 0.2; echo tree >> ran; echo > tree/deep/leaf.txt"
    outputs = "tree"
"#;

#[test]
fn directories_order_tasks_and_what_is_in_them_is_compared() {
    let dir = Dir::new("directories");
    dir.file("data/a", "1");
    let (out, _) = run(&dir, DIRECTORY, &["--slots", "4"]);
    out.ok();
    let at = |task: &str| lines(&dir, "ran").iter().position(|line| line == task).expect("it ran");
    let order = [("work0", "sum"), ("work1", "sum"), ("sum", "report"), ("work1", "report"), ("tree", "piece")];
    for (first, then) in order {
        assert!(at(first) < at(then), "{first} before {then}: {:?}", lines(&dir, "ran"));
    }
    assert!(dir.read("report.txt").contains("sum.txt"));
    let again = || run(&dir, DIRECTORY, &["--resume"]).1;
    assert_eq!(again(), [""; 0]);
    let why = || phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok().stdout().to_owned();
    dir.file("data/deep/b", "");
    assert!(why().contains("report: its input data has changed"), "{}", why());
    assert_eq!(again(), ["report"]);
    assert_eq!(again(), [""; 0]);
    // What `sum` reads it changes itself.
    dir.file("results/1/y.txt", "new");
    assert_eq!(again(), ["report"]);
    std::fs::remove_dir_all(dir.path().join("data")).expect("it was there");
    assert!(why().contains("6 of 6 tasks are complete"), "{}", why());
    assert_eq!(again(), [""; 0]);
}

#[test]
fn a_run_of_another_job_is_not_taken_over() {
    let dir = Dir::new("foreign");
    let job = |file: &str, command: &str| {
        dir.job(file, &format!("[[task]]\nname = 't'\ncommand = '{command}'\n"));
    };
    job("A.toml", "echo A >> ran");
    job("B.toml", "echo B >> ran");
    phalanx(&dir).args(["run", "A.toml", "-q"]).run().ok();
    for preview in [&["-n"][..], &[]] {
        let taken = ["run", "B.toml", "--resume", "--run-dir", "phalanx-runs/A-1"];
        let out = phalanx(&dir).args(taken).args(preview).run().code(2);
        out.says("A-1 is a run of job A (A.toml), not of B: leave out --run-dir").says("name = \"A\"");
    }
    phalanx(&dir).args(["run", "A.toml", "--resume", "-n"]).run().ok().says("1 of 1 tasks are complete; 0 would run");
    // A renamed file is the same job with its former name, or as long as it is as it was.
    std::fs::rename(dir.path().join("A.toml"), dir.path().join("C.toml")).expect("it was there");
    let resumed = |job: &str| phalanx(&dir).args(["run", job, "--resume", "--run-dir", "phalanx-runs/A-1"]).run();
    resumed("C.toml").ok();
    dir.job("D.toml", "[job]\nname = 'C'\n[[task]]\nname = 't'\ncommand = 'echo D >> ran'\n");
    resumed("D.toml").ok();
    assert_eq!(lines(&dir, "ran"), ["A", "D"]);
    // Of several files one that it was made of is enough.
    job("A.toml", "echo A >> ran");
    phalanx(&dir).args(["run", "A.toml", "B.toml", "-q"]).run().ok();
    phalanx(&dir)
        .args(["run", "B.toml", "A.toml", "--resume", "-n"])
        .run()
        .ok()
        .says("no earlier run of B+A to resume: all of it runs; A+B-1 is a run of these files in another order");
    let several = ["A.toml", "C.toml", "--resume", "-n", "--run-dir", "phalanx-runs/A+B-1"];
    phalanx(&dir).args(["run"]).args(several).run().ok().says("1 of 2 tasks are complete");
    phalanx(&dir).args(["run", "C.toml"]).args(&several[2..]).run().code(2).says("a run of job A+B");
}

#[test]
fn a_run_that_was_killed_before_its_first_record_hides_no_earlier_one() {
    let dir = Dir::new("stillborn");
    run(&dir, CHAIN, &["-q"]).0.ok();
    std::fs::create_dir(dir.path().join("phalanx-runs/job-2")).expect("a directory");
    dir.file("phalanx-runs/job-2/journal", "PHLXJRNL\u{2}\0\0\0");
    phalanx(&dir).args(["runs"]).run().ok().says("NO_RECORD");
    phalanx(&dir)
        .args(["run", "job.toml", "--resume", "-n"])
        .run()
        .ok()
        .says("job-2 was killed before anything was recorded: job-1 is resumed")
        .says("job-1: 4 of 4 tasks are complete");
    let (out, ran) = run(&dir, CHAIN, &["--resume"]);
    out.ok().says("job-1 is resumed");
    assert_eq!(ran, [""; 0]);
    phalanx(&dir).args(["report", "job"]).run().ok().says("job-1");
}

#[test]
fn a_task_that_needs_others_than_before_runs_again() {
    let dir = Dir::new("other-needs");
    let job = "[[task]]\nname = 'part'\nmatrix = { p = { file = 'list' } }\ncommand = 'echo {p} >> ran; echo {p} > {p}.txt'\n\
               [[task]]\nname = 'join'\nneeds = 'part'\ncommand = 'echo join >> ran'\n";
    dir.file("list", "a\nb\nc\n");
    run(&dir, job, &["-q"]).0.ok();
    dir.file("list", "a\nc\n");
    let (out, ran) = run(&dir, job, &["--resume"]);
    out.ok().says("join: no longer needs part[b], as it did when it ran");
    assert_eq!(ran, ["join"]);
    assert_eq!(run(&dir, job, &["--resume"]).1, [""; 0]);
    // What was forgotten at first.
    let job = "[[task]]\nname = 'use'\ncommand = 'echo use >> ran'\n\
               [[task]]\nname = 'make'\ncommand = 'echo make >> ran; echo > x'\noutputs = 'x'\n";
    run(&dir, job, &["-q"]).0.ok();
    let preview = |job: &str| {
        dir.job("job.toml", job);
        phalanx(&dir).args(["run", "job.toml", "--resume", "-n"]).run().ok().stdout().to_owned()
    };
    let mended = |line: &str| job.replace("'use'\n", &format!("'use'\n{line}\n"));
    let said = preview(&mended("needs = 'make'"));
    assert!(said.contains("1 would run\n  use: needs make, which it did not when it ran\n"), "{said}");
    let said = preview(&mended("inputs = 'x'"));
    assert!(said.contains("1 would run\n  use: now declares the input x\n"), "{said}");
    let (out, ran) = run(&dir, &mended("inputs = 'x'"), &["--resume"]);
    out.ok();
    assert_eq!(ran, ["use"]);
    // In other words, they are the same needs.
    assert!(preview(&mended("inputs = 'x'\nneeds = 'make'")).contains("0 would run"));
}

#[test]
fn a_column_that_no_command_uses_changes_no_task() {
    let dir = Dir::new("columns");
    let job = "[[task]]\nname = 't'\nmatrix = { csv = 'table.csv' }\ncommand = 'echo {s}-{q} >> ran'\n";
    let why = || phalanx(&dir).args(["run", "job.toml", "--resume", "-n"]).run().ok().stdout().to_owned();
    dir.file("table.csv", "s,q,note\na,1,x\nb,2,y\n");
    run(&dir, job, &["-q"]).0.ok();
    dir.file("table.csv", "s,q,note,more\na,1,x,5\nb,2,changed,6\n");
    assert!(why().contains("2 of 2 tasks are complete; 0 would run"), "{}", why());
    dir.file("table.csv", "s,q\na,1\nb,3\nc,4\n");
    let said = why();
    assert!(said.contains("1 of 3 tasks are complete; 2 would run"), "{said}");
    assert!(said.contains("t[b]: its value `q` was 2, is 3\n      echo b-3 >> ran\n  t[c]: is new\n"), "{said}");
    let (out, ran) = run(&dir, job, &["--resume"]);
    out.ok();
    assert_eq!(ran, ["b-3", "c-4"]);
}

#[test]
fn a_task_to_run_again_that_is_left_out_is_refused() {
    let dir = Dir::new("rerun-left-out");
    run(&dir, CHAIN, &["-q"]).0.ok();
    for preview in [&["-n"][..], &[]] {
        let out = run(&dir, CHAIN, &[&["--resume", "--rerun", "c", "--until", "b"], preview].concat()).0;
        out.code(2).says("`--rerun c` names what `--until b` leaves out: choose c too (`--until c`)");
    }
    run(&dir, CHAIN, &["--only", "a[3", "-n"]).0.code(2).says("the bracket in `a[3` is not closed");
    run(&dir, CHAIN, &["--resume", "--rerun", "b", "--until", "b", "-n"]).0.ok().says("b: is named by --rerun");
}

#[test]
fn an_earlier_run_is_mentioned_and_asked_about() {
    let dir = Dir::new("earlier");
    let job = "[[task]]\nname = 'a'\ncommand = 'echo a >> ran'\n[[task]]\nname = 'b'\nneeds = 'a'\n\
               command = 'echo b >> ran; test -e mended'\n";
    let (out, _) = run(&dir, job, &[]);
    let out = out.code(1);
    assert!(!out.stderr().contains("--resume` would"), "{out}");
    let (out, ran) = run(&dir, job, &[]);
    out.code(1).says("job-1 has not completed: `--resume` would save 1 of 2 tasks");
    assert_eq!(ran, ["a", "b"]);
    let out = mpirun(&dir, 3).args(["run", "job.toml"]).run().code(1);
    assert_eq!(out.stderr().matches("would save").count(), 1, "{out}");
    let (out, _) = run(&dir, job, &["--quiet"]);
    assert!(!out.code(1).stderr().contains("would save"));
    if shell(&dir, "command -v script").run().exit() != 0 {
        return crate::support::skip_loudly("there is no `script` to make a terminal with");
    }
    let asked = |answer: &str| {
        let before = lines(&dir, "ran").len();
        let line =
            format!("printf '{answer}' | script -qec '{} run job.toml' /dev/null", crate::support::program().display());
        let out = shell(&dir, &line).run();
        assert!(out.stdout().contains("job-4 has not completed: 1 of 2 tasks are complete there"), "{out}");
        (out, lines(&dir, "ran").split_off(before))
    };
    let (out, ran) = asked("what\\nc\\n");
    assert_eq!((out.exit(), ran), (2, Vec::new()));
    let (_, ran) = asked("r\\n");
    assert_eq!(ran, ["b"]);
    dir.file("mended", "");
    let (_, ran) = asked("n\\n");
    assert_eq!(ran, ["a", "b"]);
    assert!(dir.has("phalanx-runs/job-5") && !dir.has("phalanx-runs/job-6"));
    // It has completed: nothing is said.
    let (out, _) = run(&dir, job, &[]);
    assert!(!out.ok().stderr().contains("would save"));
}

/// A task that fails until there is a file `mended`, and then writes `done`.
const MENDABLE: &str = "[[task]]\nname = \"t\"\ncommand = \"test -e mended && echo x >> done\"\n";

/// The line that an output tells to paste.
fn to_continue(out: &Output) -> String {
    let line = out.stdout().lines().find_map(|line| line.strip_prefix("To continue: "));
    line.unwrap_or_else(|| panic!("no line to continue with in: {}", out.stdout())).to_owned()
}

#[test]
fn the_line_to_continue_with_works_when_it_is_pasted() {
    let dir = Dir::new("paste it");
    dir.job("it's a job.toml", MENDABLE);
    let place = |name: &str| dir.path().join(name);
    // From the directory of the run, with one rank and with two, with options, and with a run
    // directory elsewhere.
    let elsewhere = place("other place/run 1").to_string_lossy().into_owned();
    let piped = format!("{} run - --slots 1 < \"it's a job.toml\"", crate::support::program().display());
    let runs: Vec<Box<dyn Fn() -> Output>> = vec![
        Box::new(|| phalanx(&dir).args(["run", "it's a job.toml", "--slots", "1"]).run()),
        Box::new(|| mpirun(&dir, 2).args(["run", "it's a job.toml"]).run()),
        Box::new(|| phalanx(&dir).args(["run", "it's a job.toml", "--run-dir", &elsewhere]).run()),
        Box::new(|| crate::support::shell(&dir, &piped).run()),
    ];
    let home = Dir::new("home");
    for run in runs {
        let line = to_continue(&run().code(1));
        assert!(!line.starts_with("cd "), "it is read where it is to be run: {line}");
        // The report shows the line for any other directory.
        let folder = dir.path().join("phalanx-runs");
        let latest = if line.contains("other place") { place("other place/run 1") } else { folder.join("latest") };
        let far = to_continue(&phalanx(&home).args(["report".as_ref(), latest.as_os_str()]).run().ok());
        assert!(far.starts_with("cd "), "{far}");
        dir.file("mended", "");
        crate::support::shell(&home, &far).run().ok();
        assert_eq!(lines(&dir, "done"), ["x"]);
        // There is nothing left to do for the line of the log.
        crate::support::shell(&dir, &line).run().ok();
        assert_eq!(lines(&dir, "done"), ["x"]);
        std::fs::remove_file(place("mended")).unwrap();
        std::fs::remove_file(place("done")).unwrap();
    }
}

#[test]
fn a_batch_job_says_what_continues_it_from_a_login_node() {
    let dir = Dir::new("batch");
    dir.job("job.toml", MENDABLE);
    let line = "phalanx submit --resume job.toml --nodes=2";
    let out = phalanx(&dir).args(["run", "job.toml"]).env("PHALANX_CONTINUE", line).run().code(1);
    assert_eq!(to_continue(&out), line);
    // A session in a terminal is continued there.
    let out = phalanx(&dir).args(["run", "job.toml", "--resume"]).run().code(1);
    assert!(to_continue(&out).ends_with("run job.toml --resume"), "{}", out.stdout());
}

#[test]
fn what_is_complete_stays_so_while_its_inputs_cannot_be_reached() {
    let dir = Dir::new("unreachable");
    let text = "[[task]]\nname = 'a'\narray = '1-2'\ninputs = 'raw/{index}'\noutputs = 'a-{index}'\n\
                command = 'cat raw/{index} tools/head > a-{index}; ./tools/count'\n\
                [[task]]\nname = 'b'\narray = '1-2'\ninputs = 'a-{index}'\noutputs = 'b-{index}'\n\
                command = 'cat a-{index} > b-{index}'\n";
    dir.job("job.toml", text);
    for file in ["raw/1", "raw/2", "tools/head"] {
        dir.file(file, file);
    }
    dir.file("tools/count", "#!/bin/sh\n");
    let tool = dir.path().join("tools/count");
    std::fs::set_permissions(tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let resume = |more: &[&str]| phalanx(&dir).args([&["run", "job.toml", "--resume"], more].concat()).run();
    let renamed = |from: &str, to: &str| std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    phalanx(&dir).args(["run", "job.toml"]).run().ok();
    renamed("raw", "away");
    renamed("tools", "gone");
    for more in [&["-n"][..], &[], &["-n"]] {
        let said = resume(more).ok();
        said.says("raw/1 (and 2 other files), which complete tasks have read, are missing");
    }
    resume(&["-n"]).ok().says("4 of 4 tasks are complete; 0 would run");
    // What would have to run again could only fail: nothing is begun, so nothing is lost.
    ["a-1", "b-1"].iter().for_each(|file| std::fs::remove_file(dir.path().join(file)).unwrap());
    for more in [&["-n"][..], &[], &["--rerun", "a[1]"]] {
        let said = resume(more).code(2);
        said.says("a[1] has completed and would run again (").says("its input raw/1 is missing and no task writes it");
    }
    renamed("away", "raw");
    renamed("gone", "tools");
    resume(&["-n"]).ok().says("2 of 4 tasks are complete; 2 would run");
    dir.job("job.toml", &text.replace("name = 'a'\n", "name = 'a'\nenv = { CASE = '2' }\n"));
    resume(&["-n"]).ok().says("a[2]: its variable CASE has changed");
    resume(&[]).ok().says("4 completed");
}

#[test]
fn a_task_that_runs_again_may_make_what_it_does_not_declare() {
    let dir = Dir::new("undeclared");
    dir.file("side", "");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'a'\ncommand = 'echo a > side'\n\
         [[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'true'\n\
         [[task]]\nname = 'c'\nneeds = 'b'\ninputs = 'side'\noutputs = 'c'\ncommand = 'cp side c'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().ok();
    std::fs::remove_file(dir.path().join("side")).unwrap();
    phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "c"]).run().code(2).says("side is missing");
    phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "a"]).run().ok().says("3 completed");
}

#[test]
fn a_resume_with_nothing_to_do_leaves_the_figures_as_they_were() {
    let dir = Dir::new("resume-figures");
    dir.job(
        "job.toml",
        "[cost]\nnode_hour = 3600\nminimum = '20s'\ndeadline = '1h'\n[[task]]\nname = 'a'\narray = '1-4'\ncommand = 'sleep 0.05'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).run().code(0);
    let figures = || {
        let report = phalanx(&dir).args(["report", "--json"]).run().ok().json();
        let nodes = report["nodes_held"].as_array().map(Vec::len);
        (report["slots"].clone(), report["cost"].clone(), nodes, report["deadline_missed"].clone())
    };
    let before = figures();
    assert_eq!((&before.0, &before.3), (&2.into(), &false.into()));
    phalanx(&dir).args(["run", "job.toml", "--resume", "--slots", "1"]).run().code(0);
    assert_eq!(figures(), before);
}
