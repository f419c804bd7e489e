//! Results that are not computed twice: what runs again and what does not, and what cannot go wrong
//! with a store that is damaged, full, read-only, or shared by several runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::checker::Trace;
use crate::support::{Dir, Output, mpirun, phalanx, wait_for};

/// Three levels: `make` writes a file per index from an external file, `square` reads it, `sum`
/// reads all. Each task that runs leaves its name in the file `ran`.
fn workflow(each: u32) -> String {
    let last = each - 1;
    format!(
        "[cache]\nnode_dir = \"node\"\n[defaults]\ncache = true\n\
         [[task]]\nname = \"make\"\narray = \"0-{last}\"\ninputs = \"seed-{{index}}\"\noutputs = \"made/{{index}}\"\n\
         command = \"mkdir -p made && cat seed-{{index}} > made/{{index}}; echo made {{index}}; echo make-{{index}} >> ran\"\n\
         [[task]]\nname = \"square\"\narray = \"0-{last}\"\ninputs = \"made/{{index}}\"\noutputs = \"sq/{{index}}\"\n\
         command = \"mkdir -p sq; n=$(cat made/{{index}}); echo $((n * n)) > sq/{{index}}; echo square-{{index}} >> ran\"\n\
         [[task]]\nname = \"sum\"\nneeds = \"square\"\ninputs = \"sq\"\noutputs = \"total\"\n\
         command = \"cat sq/* | awk '{{ s += $1 }} END {{ print s }}' > total; cat total; echo sum >> ran\"\n"
    )
}

fn set_up(name: &str, each: u32) -> Dir {
    let dir = Dir::new(name);
    dir.job("w.toml", &workflow(each));
    for index in 0..each {
        dir.file(&format!("seed-{index}"), &format!("{index}\n"));
    }
    dir
}

/// The names of the tasks that ran since the last call, in order of their names.
fn ran(dir: &Dir) -> Vec<String> {
    let path = dir.path().join("ran");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn run(dir: &Dir) -> Output {
    phalanx(dir).args(["run", "w.toml"]).run().ok()
}

fn total(each: u64) -> String {
    format!("{}\n", (0..each).map(|n| n * n).sum::<u64>())
}

/// The files of the store of a kind.
fn stored(dir: &Dir, kind: &str) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(&dir.path().join("node").join(kind)).flat_map(|dir| entries(&dir).collect::<Vec<_>>()).collect()
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn programs_that_a_task_makes_in_its_output_directory_are_no_part_of_its_key() {
    let dir = Dir::new("cache-own-program");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n\
         [[task]]\nname = \"build\"\ncache = true\ninputs = \"prog.in\"\noutputs = \"build\"\n\
         command = \"mkdir -p build; cp prog.in build/prog; chmod +x build/prog; ./build/prog; echo build >> ran\"\n",
    );
    dir.file("prog.in", "#!/bin/sh\necho made\n");
    run(&dir);
    assert_eq!(ran(&dir), ["build"]);
    run(&dir);
    assert_eq!(ran(&dir), [""; 0], "with the program there");
    fs::remove_dir_all(dir.path().join("build")).unwrap();
    run(&dir);
    assert_eq!(ran(&dir), [""; 0], "without it");
    assert!(dir.read("build/prog").contains("made"));
    dir.file("prog.in", "#!/bin/sh\necho other\n");
    run(&dir);
    assert_eq!(ran(&dir), ["build"]);
}

#[test]
fn a_thousand_tasks_run_once_and_then_only_what_depends_on_a_change() {
    let dir = set_up("cache-thousand", 500);
    mpirun(&dir, 2).args(["run", "w.toml"]).run().ok();
    assert_eq!(ran(&dir).len(), 1001);
    assert_eq!(dir.read("total"), total(500));

    // Nothing runs, also where outputs are gone.
    fs::remove_dir_all(dir.path().join("made")).unwrap();
    fs::remove_file(dir.path().join("total")).unwrap();
    let second = mpirun(&dir, 2).args(["run", "w.toml"]).run().ok();
    assert_eq!(ran(&dir), [""; 0]);
    assert_eq!((dir.read("total"), dir.read("made/7")), (total(500), "7\n".to_owned()));
    assert!(second.stdout().contains("1,001 results taken from the cache"), "{second}");

    // What it printed is there.
    let shown = phalanx(&dir).args(["report", "w", "--task", "make[3]"]).run().ok();
    assert!(shown.stdout().contains("made 3") && shown.stdout().contains("make[3] in the run w-1"), "{shown}");

    // A changed time is no change.
    let seed = dir.path().join("seed-7");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1000);
    fs::File::options().write(true).open(&seed).unwrap().set_modified(later).unwrap();
    run(&dir);
    assert_eq!(ran(&dir), [""; 0]);

    // A changed content is one for exactly those that depend on it.
    fs::write(&seed, "8\n").unwrap();
    run(&dir);
    assert_eq!(ran(&dir), ["make-7", "square-7", "sum"]);
    let why = phalanx(&dir).args(["cache", "why", "make[7]"]).run().ok();
    assert!(why.stdout().contains("input seed-7: was `file "), "{why}");
    assert_eq!(Trace::of(&dir, "w").completed().len(), 1001);

    // Back to the old content: nothing runs.
    fs::write(&seed, "7\n").unwrap();
    run(&dir);
    assert_eq!((ran(&dir), dir.read("total")), (vec![], total(500)));
}

#[test]
fn reports_say_what_came_from_the_cache() {
    let dir = set_up("cache-report", 3);
    run(&dir);
    let json = phalanx(&dir).args(["report", "w", "--json"]).run().ok().json();
    assert_eq!((&json["cache"]["hits"], &json["cache"]["misses"]), (&0.into(), &7.into()));
    assert_eq!(json["cache"]["reasons"]["new"], 7);
    fs::remove_file(dir.path().join("total")).unwrap();
    run(&dir);
    let json = phalanx(&dir).args(["report", "w", "--json"]).run().ok().json();
    assert_eq!((&json["cache"]["hits"], &json["cache"]["levels"]["node"]), (&7.into(), &7.into()));
    assert!(json["cache"]["saved_s"].as_f64().unwrap() > 0.0);
    assert_eq!(json["cache"]["classes"]["square"]["hits"], 3);
    let csv = phalanx(&dir).args(["report", "w", "--tasks"]).run().ok();
    assert!(csv.stdout().contains(",hit: sum of w-1 (node)"), "{csv}");
    let task = phalanx(&dir).args(["report", "w", "--task", "sum", "--json"]).run().ok().json();
    assert_eq!(task["tasks"][0]["attempts"][0]["cache"]["hit"]["run"], "w-1");
    let report = phalanx(&dir).args(["report", "w"]).run().ok();
    assert!(report.stdout().contains("Result cache"), "{report}");
    assert!(dir.read("phalanx-runs/w-2/report.html").contains("<h2>Result cache</h2>"));
}

#[test]
fn failures_and_what_has_no_result_are_never_stored() {
    let dir = Dir::new("cache-never");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n[defaults]\ncache = true\n\
         [[task]]\nname = \"fails\"\ncommand = \"echo fails >> ran; echo text; exit 3\"\n\
         [[task]]\nname = \"silent\"\ncache = true\ncommand = \"echo silent >> ran\"\n\
         [[task]]\nname = \"prints\"\ncommand = \"echo prints >> ran; echo text; echo error >&2\"\n\
         [[task]]\nname = \"changes\"\ninputs = \"in\"\noutputs = \"out\"\ncommand = \"echo changes >> ran; echo x >> in; cp in out\"\n\
         [[task]]\nname = \"opts\"\noutputs = [\"o\", { file = \"never\", optional = true }]\ncommand = \"echo opts >> ran; echo o > o\"\n",
    );
    dir.file("in", "in\n");
    let checked = phalanx(&dir).args(["check", "w.toml"]).run().ok();
    assert!(checked.stderr().contains("`silent` declares no `outputs`"), "{checked}");
    for expected in [&["changes", "fails", "opts", "prints", "silent"][..], &["changes", "fails", "silent"]] {
        phalanx(&dir).args(["run", "w.toml"]).run().code(1);
        assert_eq!(ran(&dir), expected);
    }
    let report = phalanx(&dir).args(["report", "w"]).run().ok();
    assert!(report.stdout().contains("not stored: it declares no outputs and printed nothing"), "{report}");
    assert!(report.stdout().contains("changed while it ran"), "{report}");
    let task = phalanx(&dir).args(["report", "w", "--task", "prints"]).run().ok();
    assert!(task.stdout().contains("text") && task.stdout().contains("error"), "{task}");
}

#[test]
fn a_task_sees_its_name_and_index_only_if_they_are_in_its_key() {
    let dir = Dir::new("cache-names");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n[defaults]\ncache = true\n\
         [[task]]\nname = \"same\"\ncommand = \"echo same >> ran; echo same\"\n\
         [[task]]\nname = \"index\"\narray = \"0-2\"\ncommand = \"echo index >> ran; echo $PHALANX_ARRAY_INDEX\"\n\
         [[task]]\nname = \"script\"\narray = \"0-1\"\ncommand = \"sh ./s.sh\"\n",
    );
    dir.file("s.sh", "echo script >> ran; echo $PHALANX_TASK_NAME $PHALANX_ARRAY_INDEX\n");
    run(&dir);
    assert_eq!(ran(&dir), ["index", "index", "index", "same", "script", "script"]);
    let printed = |task: &str| {
        let shown = phalanx(&dir).args(["report", "w", "--task", task]).run().ok();
        shown.stdout().lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!([printed("index[2]"), printed("script[1]")], ["2", "script 1"]);
    // Another name alone is no other task, unless it can see its name; a changed script is one.
    let text = dir.read("w.toml").replace("\"same\"\ncommand", "\"renamed\"\ncommand");
    dir.job("w.toml", &text.replace("name = \"script\"", "name = \"other\""));
    run(&dir);
    assert_eq!(ran(&dir), ["script", "script"]);
    dir.file("s.sh", "echo script >> ran; echo v2 $PHALANX_TASK_NAME\n");
    run(&dir);
    assert_eq!(ran(&dir), ["script", "script"]);
    assert_eq!(printed("other[0]"), "v2 other");
}

#[test]
fn modes_links_and_directories_come_back() {
    let dir = Dir::new("cache-kinds");
    dir.job(
        "w.toml",
        "[cache]\nnode_dir = \"node\"\n\
         [[task]]\nname = \"t\"\ncache = true\noutputs = [\"tree\", \"tool\", \"link\"]\nstdout = \"log-%j\"\n\
         command = \"mkdir -p tree/sub && echo a > tree/sub/a && ln -s sub/a tree/b && echo x > tool && chmod 750 tool && ln -sfn tool link; echo logged; echo t >> ran\"\n",
    );
    run(&dir);
    for name in ["tree", "tool", "link"] {
        let path = dir.path().join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    run(&dir);
    assert_eq!(ran(&dir), ["t"]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(dir.path().join("tool")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(fs::read_link(dir.path().join("tree/b")).unwrap(), Path::new("sub/a"));
    assert_eq!(fs::read_link(dir.path().join("link")).unwrap(), Path::new("tool"));
    assert_eq!((dir.read("tree/b"), dir.read("log-w-2")), ("a\n".to_owned(), "logged\n".to_owned()));
}

#[test]
fn damage_costs_time_and_nothing_else() {
    let dir = set_up("cache-damage", 4);
    run(&dir);
    ran(&dir);
    let damages: [&dyn Fn(&Path); 3] =
        [&|path| overwrite(path, b""), &|path| overwrite(path, &[7; 100]), &|path| fs::remove_file(path).unwrap()];
    for damage in damages {
        for kind in ["objects", "results"] {
            stored(&dir, kind).iter().for_each(|path| damage(path));
            for name in ["made", "sq"] {
                fs::remove_dir_all(dir.path().join(name)).unwrap();
            }
            fs::remove_file(dir.path().join("total")).unwrap();
            run(&dir);
            assert_eq!(dir.read("total"), total(4));
            assert!(ran(&dir).len() >= 7, "what was damaged ran again");
            run(&dir);
            assert_eq!(ran(&dir), [""; 0], "and is stored anew");
        }
    }
    overwrite(&stored(&dir, "objects")[0], b"wrong");
    let verified = phalanx(&dir).args(["cache", "verify", "--job", "w.toml"]).run().code(1);
    assert!(verified.stdout().contains("its content is not what its name says"), "{verified}");
    phalanx(&dir).args(["cache", "verify", "--job", "w.toml"]).run().ok();
}

#[test]
fn a_store_that_cannot_be_used_is_told_once_and_harms_nobody() {
    let dir = set_up("cache-readonly", 4);
    // Root may write anywhere: a file stands where the store wants a directory.
    dir.file(
        "node/CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# Results of tasks, kept by phalanx.\n",
    );
    dir.file("node/tmp", "in the way");
    let first = run(&dir);
    assert_eq!((ran(&dir).len(), dir.read("total")), (9, total(4)));
    assert_eq!(first.stderr().matches("no longer stored").count(), 1, "{first}");
    fs::remove_dir_all(dir.path().join("node")).unwrap();
    dir.file("node", "no directory");
    let second = run(&dir);
    assert_eq!((ran(&dir).len(), dir.read("total")), (9, total(4)));
    assert_eq!(second.stderr().matches("cannot be used").count(), 1, "{second}");
}

#[test]
fn two_runs_at_once_and_one_that_is_killed_leave_a_whole_store() {
    let dir = set_up("cache-killed", 40);
    for round in 0..3u64 {
        let mut running = phalanx(&dir).args(["run", "w.toml"]).start();
        let some = 5 + 20 * round as usize;
        wait_for("results", 60, || (stored(&dir, "results").len() >= some || !running.is_running()).then_some(()));
        running.kill_all();
        running.wait();
    }
    // In a directory of its own: two runs that write the same files are refused.
    let other = set_up("cache-other", 40);
    let node = format!("node_dir = \"{}\"", dir.path().join("node").display());
    other.job("w.toml", &workflow(40).replace("node_dir = \"node\"", &node));
    let runs = [&dir, &other].map(|dir| phalanx(dir).args(["run", "w.toml"]).start());
    runs.into_iter().for_each(|run| drop(run.wait().ok()));
    assert_eq!([&dir, &other].map(|dir| dir.read("total")), [total(40), total(40)]);
    phalanx(&dir).args(["cache", "verify", "--job", "w.toml"]).run().ok();
    ran(&dir);
    run(&dir);
    assert_eq!((ran(&dir), dir.read("total")), (vec![], total(40)));
}

#[test]
fn another_directory_and_another_node_use_the_shared_level() {
    let dir = set_up("cache-shared", 4);
    let with_dir =
        |node: &str| workflow(4).replace("node_dir = \"node\"", &format!("dir = \"shared\"\nnode_dir = \"{node}\""));
    dir.job("w.toml", &with_dir("one"));
    run(&dir);
    assert_eq!(ran(&dir).len(), 9);
    dir.job("w.toml", &with_dir("two"));
    fs::remove_dir_all(dir.path().join("sq")).unwrap();
    run(&dir);
    assert_eq!((ran(&dir), dir.read("total")), (vec![], total(4)));
    let json = phalanx(&dir).args(["report", "w", "--json"]).run().ok().json();
    assert_eq!(json["cache"]["levels"]["shared"], 9);
    // It was copied to the node.
    fs::remove_dir_all(dir.path().join("shared")).unwrap();
    run(&dir);
    assert_eq!(ran(&dir), [""; 0]);
}

#[test]
fn the_cache_is_listed_dropped_and_pruned() {
    let dir = set_up("cache-admin", 3);
    let cache = |args: &[&str]| {
        let words = [&["cache"], args, &["--job", "w.toml"]].concat();
        phalanx(&dir).args(words).run()
    };
    assert!(cache(&["info"]).ok().stdout().contains("does not exist yet"));
    run(&dir);
    ran(&dir);
    let info = cache(&["info", "--json"]).ok().json();
    assert_eq!((&info[0]["results"], &info[0]["level"]), (&7.into(), &"node".into()));
    let list = cache(&["list", "--json"]).ok().json();
    assert_eq!(list.as_array().unwrap().len(), 7);
    assert!(cache(&["list"]).ok().stdout().contains("w/square[2]"));
    cache(&["drop", "nothing"]).code(2).says("no result is of a task `nothing`");
    cache(&["drop", "square"]).ok().says("3 results removed");
    run(&dir);
    assert_eq!(ran(&dir), ["square-0", "square-1", "square-2"], "the sum of the same squares is known");
    let why = phalanx(&dir).args(["cache", "why", "square[1]"]).run().ok();
    assert!(why.stdout().contains("is no longer in the cache"), "{why}");
    cache(&["drop", "w/make[1]"]).ok();
    cache(&["prune", "--older-than", "1h"]).ok().says("0 results removed");
    cache(&["prune", "--all"]).ok().says("0 B left");
    phalanx(&dir).args(["cache", "list", "--dir", "nowhere"]).run().code(2);
    run(&dir);
    assert_eq!(ran(&dir).len(), 7);
}

#[test]
fn kernels_are_cached_and_salt_and_environment_count() {
    let dir = Dir::new("cache-kernel");
    let job = |more: &str, env: &str| {
        format!(
            "[cache]\nnode_dir = \"node\"\n\
             [[task]]\nname = \"k\"\nkernel = \"mandelbrot\"\noutputs = \"out.bin\"\ncache = true\n\
             args = {{ width = 64, height = 64, band = 0, bands = 1, center = [-0.5, 0.0], span = 3.0, iterations = 50, output = \"out.bin\" }}\n\
             [[task]]\nname = \"c\"\ncommand = \"echo c >> ran; echo $A $V\"\nenv = {{ {env} }}\ncache = {{ ignore_env = [\"V\"]{more} }}\n"
        )
    };
    let mut hits = Vec::new();
    for (more, env) in
        [("", "A = 1, V = 1"), ("", "A = 1, V = 2"), ("", "A = 2, V = 2"), (", salt = \"v2\"", "A = 2, V = 2")]
    {
        dir.job("w.toml", &job(more, env));
        run(&dir);
        let json = phalanx(&dir).args(["report", "w", "--json"]).run().ok().json();
        hits.push((json["cache"]["classes"]["k"]["hits"].as_u64().unwrap(), ran(&dir).len()));
    }
    assert_eq!(hits, [(0, 1), (1, 0), (1, 1), (1, 1)]);
}

/// Results from the cache say nothing of how long tasks take: neither the history, nor
/// recommendations, nor the comparison with other tasks of the class have them.
#[test]
fn durations_of_hits_count_nowhere() {
    let dir = Dir::new("cache-durations");
    let command = "command = \"sleep 0.05; echo {index} > {name}-{index}\"\n";
    dir.job(
        "w.toml",
        &format!(
            "[cache]\nnode_dir = \"node\"\n[[task]]\nname = \"t\"\narray = \"0-4\"\ncache = true\n\
             outputs = \"t-{{index}}\"\n{command}"
        ),
    );
    for run in 1..=3 {
        let out = phalanx(&dir).args(["run", "w.toml"]).run().ok();
        assert_eq!(out.stdout().contains("5 results taken from the cache"), run > 1, "{out}");
    }
    assert_eq!(dir.read("phalanx-runs/w.history.jsonl").lines().count(), 1, "the other runs learnt nothing");
    let recommended = phalanx(&dir).args(["recommend", "w.toml", "--json"]).run().ok().json();
    assert_eq!(recommended["recommended"]["classes"][0]["measured"], 5, "{recommended:#}");
    let told = phalanx(&dir).args(["explain", "--task", "t[1]"]).run().ok();
    assert!(!told.stdout().contains("took longer"), "{told}");
    assert!(told.stdout().contains("taken from the cache"), "{told}");
    // A task that ran in two sessions is one task.
    dir.job("u.toml", &format!("[[task]]\nname = \"u\"\narray = \"0-2\"\n{command}"));
    phalanx(&dir).args(["run", "u.toml"]).run().ok();
    phalanx(&dir).args(["run", "u.toml", "--resume", "--rerun", "u"]).run().ok();
    phalanx(&dir).args(["explain", "--task", "u[1]"]).run().ok().says("of 2 other tasks of `u` took longer");
}
