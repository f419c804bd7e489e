//! Tasks that run in an image: with Charliecloud in a tree made of this machine's own programs, and
//! with programs that play Apptainer and Podman, for what they are given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::checker::Trace;
use crate::support::{Dir, TestCommand, mpicc, phalanx, repository, send, skip_loudly, wait_for};

/// True if there is a program in the `PATH`.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Says that a test is skipped where Charliecloud is missing or the system refuses it. The image is
/// tried from the directory around it, as tasks are: outside of `/tmp` that one is bound.
fn can_contain(image: &Path, options: &[&str]) -> bool {
    if !has("ch-run") {
        skip_loudly("Charliecloud is not installed (package charliecloud-runtime)");
        return false;
    }
    let ch_run = || {
        let mut command = Command::new("ch-run");
        command.env("USER", "u");
        command
    };
    let mut try_it = ch_run();
    let dir = image.parent().expect("an image is in a directory");
    if !dir.starts_with("/tmp") {
        let help = ch_run().arg("--help").output().expect("ch-run can be started");
        let is_offered =
            [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains("write-fake"));
        try_it.args(is_offered.then_some("--write-fake"));
        try_it.arg("-b").arg(format!("{0}:{0}", dir.display())).arg("-c").arg(dir);
    }
    let tried = try_it.args(options).arg(image).args(["--", "sh", "-c", "true"]).output();
    let tried = tried.expect("ch-run can be started");
    if !tried.status.success() {
        skip_loudly(&format!("Charliecloud runs nothing here: {}", String::from_utf8_lossy(&tried.stderr)));
    }
    tried.status.success()
}

/// A tree with the places that runtimes expect, and a file `/inside`.
fn empty_image(dir: &Dir) -> PathBuf {
    let image = dir.path().join("image");
    for folder in ["bin", "dev", "etc", "home", "proc", "sys", "tmp", "usr", "data"] {
        fs::create_dir_all(image.join(folder)).expect("a folder");
    }
    for file in ["etc/passwd", "etc/group", "etc/hosts", "etc/resolv.conf"] {
        fs::write(image.join(file), "").expect("a file");
    }
    fs::write(image.join("inside"), "one\n").expect("a file");
    image
}

/// A tree with a few programs of this machine and the libraries that they need.
fn image(dir: &Dir) -> PathBuf {
    let image = empty_image(dir);
    for program in ["sh", "cat", "sleep", "touch"] {
        let here = Path::new("/bin").join(program);
        fs::copy(&here, image.join("bin").join(program)).expect("a program of every machine");
        let listed = Command::new("ldd").arg(&here).output().expect("ldd is there");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for library in listed.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
            let place = image.join(&library[1..]);
            fs::create_dir_all(place.parent().expect("a library is in a folder")).expect("a folder");
            fs::copy(library, place).expect("a library");
        }
    }
    image
}

/// A tree whose programs and libraries are those of this machine, which are bound.
fn image_of_here(dir: &Dir) -> PathBuf {
    let image = empty_image(dir);
    fs::remove_dir(image.join("bin")).expect("it is empty");
    for name in ["bin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), image.join(name)).expect("a link");
    }
    image
}

const DEFAULTS: &str = "[defaults]\ncontainer = { image = \"./image\", runtime = \"charliecloud\" }\n";

#[test]
fn a_task_in_an_image_sees_what_it_sees_outside() {
    let dir = Dir::new("contained");
    if !can_contain(&image(&dir), &[]) {
        return;
    }
    dir.file("data/d", "bound\n");
    dir.job(
        "job.toml",
        r#"
        [[task]]
        name = "in"
        array = "1-2"
        dir = "place"
        env = { GREETING = "hello, you" }
        container = { image = "./image", bind = ["data:/data"] }
        command = "cat /inside /data/d > {index}; echo $(pwd) $GREETING $PHALANX_TASK_NAME $PHALANX_ARRAY_INDEX $PHALANX_CPUS >> {index}; echo loss 0.5 > $PHALANX_METRICS"
        [[task]]
        name = "words"
        command = ["sh", "-c", "cat /inside; echo '[[task]]\nname = \"added\"\ncommand = \"touch added\"' > $PHALANX_ADD"]
        stdout = "words"
        [[task]]
        name = "elsewhere"
        container = { image = "./image", workdir = "/data" }
        command = "pwd; cat"
        stdin = "data/d"
        stdout = "elsewhere"
        [[task]]
        name = "out"
        container = false
        command = "test ! -e /inside"
        [defaults]
        container = { image = "./image" }
        "#,
    );
    fs::create_dir(dir.path().join("place")).expect("a folder");
    let checked = phalanx(&dir).args(["check", "job.toml"]).run().ok();
    assert!(!checked.stderr().contains("warning"), "{checked}");
    // Temporary files elsewhere hide nothing.
    let run = phalanx(&dir).env("TMPDIR", dir.path()).args(["run", "job.toml", "--slots", "2", "--run-dir", "run"]);
    run.run().ok();
    for index in ["1", "2"] {
        let place = dir.path().join("place");
        let said = format!("one\nbound\n{} hello, you in {index} 1\n", place.display());
        assert_eq!(dir.read(&format!("place/{index}")), said);
    }
    assert_eq!((dir.read("elsewhere"), dir.read("words")), ("/data\nbound\n".to_owned(), "one\n".to_owned()));
    assert!(dir.has("added"));
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok();
    assert!(report.stdout().contains("loss"), "{report}");
}

#[test]
fn limits_and_leftovers_hold_in_an_image() {
    let dir = Dir::new("contained-limits");
    if !can_contain(&image(&dir), &[]) {
        return;
    }
    let job = r#"
        [[task]]
        name = "long"
        time = "2s"
        command = "sleep 600 & sleep 600"
        [[task]]
        name = "leaves"
        command = "sleep 600 & echo"
        [[task]]
        name = "big"
        memory = "64M"
        command = "while :; do x=$x$(cat chunk); sleep 0.02; done"
        [[task]]
        name = "code"
        command = "exit 7"
    "#;
    dir.file("chunk", &"x".repeat(4 << 20));
    dir.job("job.toml", &format!("{DEFAULTS}{job}"));
    phalanx(&dir).args(["run", "job.toml", "--slots", "3", "--run-dir", "run"]).start().wait_clean().code(1);
    let trace = Trace::of(&dir, "run");
    let states = ["long", "leaves", "big", "code"].map(|task| trace.state(task));
    assert_eq!(states, ["TIMEOUT", "COMPLETED", "OUT_OF_MEMORY", "FAILED"]);

    dir.job("job.toml", &format!("{DEFAULTS}[[task]]\nname = \"t\"\ncommand = \"touch begun; sleep 600\"\n"));
    let run = phalanx(&dir).args(["run", "job.toml", "--run-dir", "killed"]).start();
    wait_for("the task to begin", 120, || dir.has("begun").then_some(()));
    send(run.ranks()[0], libc::SIGKILL);
    drop(run.wait_clean());
}

#[test]
fn a_result_is_taken_from_the_cache_until_the_image_changes() {
    let dir = Dir::new("contained-cache");
    let image = image(&dir);
    if !can_contain(&image, &[]) {
        return;
    }
    let task =
        "[[task]]\nname = \"t\"\ncache = true\noutputs = [\"out\"]\ncommand = \"echo x >> ran; cat /inside > out\"\n";
    dir.job("job.toml", &format!("{DEFAULTS}[cache]\nnode_dir = \"store\"\n{task}"));
    let run = || drop(phalanx(&dir).args(["run", "job.toml"]).run().ok());
    let ran = || dir.read("ran").lines().count();
    run();
    run();
    assert_eq!((dir.read("out").as_str(), ran()), ("one\n", 1));
    fs::write(image.join("inside"), "another\n").expect("a file");
    run();
    assert_eq!((dir.read("out").as_str(), ran()), ("another\n", 2));
}

#[test]
fn images_out_of_a_matrix_and_bound_directories_are_in_the_key() {
    let dir = Dir::new("played-cache");
    player(&dir, "apptainer", "*.sif");
    ["v1", "v2"].iter().for_each(|version| drop(dir.file(&format!("{version}/data"), version)));
    let write = |images: &str, bind: &str| {
        let text = r#"
            [job]
            prologue = ["PATH=$PWD/bin:$PATH"]
            [cache]
            node_dir = "store"
            [[task]]
            name = "t"
            cache = true
            matrix = { image = [IMAGES] }
            container = { image = "{image}", runtime = "apptainer", bind = ["BIND:/in"] }
            command = "echo x >> ran; echo done"
        "#;
        dir.job("job.toml", &text.replace("IMAGES", images).replace("BIND", bind));
    };
    let run = || {
        phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).run().ok();
        dir.read("ran").lines().count()
    };
    dir.file("a.sif", "a");
    dir.file("b.sif", "b");
    write("\"./a.sif\", \"./b.sif\"", "v1");
    assert_eq!([run(), run()], [2, 2], "each image has a result of its own");
    dir.file("b.sif", "another");
    assert_eq!([run(), run()], [3, 3], "its content counts");
    write("\"./a.sif\", \"./b.sif\"", "v2");
    assert_eq!([run(), run()], [5, 5], "what is bound at another place counts");
}

#[test]
fn a_prologue_that_fails_once_costs_one_attempt() {
    let dir = Dir::new("played-prologue");
    let image = dir.path().join("x.sif").display().to_string();
    player(&dir, "apptainer", &image);
    dir.file("x.sif", "");
    dir.job(
        "job.toml",
        r#"
        [job]
        prologue = ["echo loading podman", "if mkdir first 2>/dev/null; then echo no such module >&2; false; fi", "PATH=$PWD/bin:$PATH"]
        [[task]]
        name = "t"
        array = "1-2"
        container = { image = "x.sif" }
        command = "echo {index} >> ran"
        "#,
    );
    let run = phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).run().code(1);
    run.says("cannot find out which container runtimes are here").says("no such module");
    let trace = Trace::of(&dir, "run");
    let mut states = ["t[1]", "t[2]"].map(|task| trace.state(task));
    states.sort_unstable();
    assert_eq!(states, ["COMPLETED", "FAILED"]);
}

#[test]
fn a_variable_too_long_for_a_program_is_one_of_the_shell_in_an_image() {
    let dir = Dir::new("played-long");
    player(&dir, "apptainer", &dir.path().join("x.sif").display().to_string());
    dir.file("x.sif", "");
    let long = "x".repeat(200 << 10);
    dir.job(
        "job.toml",
        &format!(
            "[job]\nprologue = [\"PATH=$PWD/bin:$PATH\"]\nenv = {{ LONG = \"{long}\" }}\n[[task]]\nname = \"t\"\n\
             container = {{ image = \"x.sif\" }}\ncommand = \"echo ${{#LONG}} > length\"\n"
        ),
    );
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "run"]).run().ok();
    assert_eq!(dir.read("length").trim(), (200 << 10).to_string());
}

#[test]
fn ranks_of_an_mpi_task_run_each_in_the_image() {
    let dir = Dir::new("contained-mpi");
    if !Path::new("/lib").is_symlink() {
        return skip_loudly("/lib is no part of /usr here");
    }
    let image = image_of_here(&dir);
    let source = repository().join("tests/mpi_programs/world.c");
    let built = mpicc().args(["-o"]).arg(dir.path().join("world")).arg(source).status();
    assert!(built.expect("mpicc is there").success());
    if !can_contain(&image, &["-b", "/usr:/usr"]) {
        return;
    }
    dir.job(
        "job.toml",
        "[[task]]\nname = \"m\"\nmpi = { ranks = 2 }\n\
         container = { image = \"./image\", runtime = \"charliecloud\", bind = [\"/usr\", \"/etc\"] }\n\
         command = \"cat /inside >> ranks; exec ./world 2\"\nstdout = \"out\"\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "2", "--run-dir", "run"]).run().ok();
    assert_eq!(dir.read("ranks").lines().count(), 2);
    assert!(dir.read("out").contains('2'), "{}", dir.read("out"));
}

#[test]
fn an_image_or_a_runtime_that_is_missing_is_named() {
    let dir = Dir::new("no-image");
    dir.job(
        "job.toml",
        "[[task]]\nname = \"t\"\ncommand = \"true\"\ncontainer = { image = \"tools.sif\" }\n\
         [[task]]\nname = \"made\"\ncommand = \"true\"\ncontainer = { image = \"made.sif\" }\n\
         [[task]]\nname = \"make\"\ncommand = \"touch made.sif\"\noutputs = [\"made.sif\"]\n",
    );
    fs::create_dir(dir.path().join("bin")).expect("a folder");
    symlink("/bin/sh", dir.path().join("bin/sh")).expect("a link");
    symlink("/usr/bin/touch", dir.path().join("bin/touch")).expect("a link");
    let alone = |command: TestCommand| command.env("PATH", dir.path().join("bin"));
    let checked = alone(phalanx(&dir)).args(["check", "job.toml"]).run().ok();
    let checked = checked.says("tools.sif does not exist").says("it needs apptainer or singularity");
    assert!(!checked.stderr().contains("made.sif does not exist"), "{checked}");
    let images = alone(phalanx(&dir)).args(["check", "job.toml", "--json"]).run().ok().json()["images"].clone();
    assert!(images[0]["image"].as_str().is_some_and(|image| image.ends_with("/tools.sif")), "{images}");
    assert!(images[0]["program"].is_null(), "{images}");
    alone(phalanx(&dir)).args(["run", "job.toml", "--run-dir", "run"]).run().code(1).says("no program in PATH runs");
    let trace = Trace::of(&dir, "run");
    assert_eq!(["t", "make", "made"].map(|task| trace.state(task)), ["FAILED", "COMPLETED", "FAILED"]);
}

/// A program that notes its arguments and its environment, and runs what follows the image.
fn player(dir: &Dir, name: &str, image: &str) {
    let text = format!(
        "#!/bin/sh\necho \"$@\" > {name}.args\nenv > {name}.env\nuntil case $1 in {image}) ;; *) false ;; esac; do shift; done\nshift\nexec \"$@\"\n"
    );
    let path = dir.file(&format!("bin/{name}"), &text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it can be run");
}

#[test]
fn apptainer_and_podman_get_the_image_the_directory_and_the_environment() {
    let dir = Dir::new("played");
    let here = dir.path().display().to_string();
    player(&dir, "apptainer", &format!("{here}/x.sif"));
    player(&dir, "podman", "alpine:3");
    dir.file("x.sif", "");
    // A prologue as `module load` brings the programs.
    dir.job(
        "job.toml",
        r#"
        [job]
        prologue = ["PATH=$PWD/bin:$PATH"]
        env = { A = "1, 2" }
        [[task]]
        name = "a"
        container = { image = "x.sif", gpu = true, bind = ["/usr/share"] }
        command = "echo $PHALANX_TASK_NAME $A > a"
        [[task]]
        name = "p"
        container = { image = "alpine:3" }
        command = ["sh", "-c", "echo $PHALANX_TASK_NAME $A > p"]
        "#,
    );
    let checked = phalanx(&dir).args(["check", "job.toml"]).run().ok();
    assert!(!checked.stderr().contains("warning"), "{checked}");
    phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).run().ok();
    assert_eq!((dir.read("a"), dir.read("p")), ("a 1, 2\n".to_owned(), "p 1, 2\n".to_owned()));
    let apptainer = dir.read("apptainer.args");
    let begins = format!("exec --nv --bind {here}:{here} --bind /usr/share:/usr/share ");
    assert!(apptainer.starts_with(&begins), "{apptainer}");
    assert!(apptainer.contains(&format!("--pwd {here} {here}/x.sif sh -c ")), "{apptainer}");
    assert!(dir.read("apptainer.env").contains("APPTAINERENV_A=1, 2\n"));
    let podman = dir.read("podman.args");
    assert!(podman.starts_with("run --rm --interactive ") && podman.contains(" --env A "), "{podman}");
    assert!(podman.contains(&format!("--workdir {here} --entrypoint= alpine:3 sh -c ")), "{podman}");
}
