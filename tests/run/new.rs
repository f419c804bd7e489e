//! `phalanx new` and `--version`: what a newcomer types first.

use crate::support::{Dir, phalanx};

#[test]
fn a_new_job_of_each_kind_is_right_and_completes() {
    for kind in ["sweep", "pipeline", "mpi", "graph", "elastic"] {
        let dir = Dir::new("new");
        phalanx(&dir).args(["new", kind]).run().ok().says(&format!("phalanx run {kind}.toml"));
        let file = format!("{kind}.toml");
        let checked = phalanx(&dir).args(["check", &file]).run().ok();
        assert!(!checked.stderr().contains("warning"), "{checked}");
        phalanx(&dir).args(["run", &file, "--slots", "2"]).run().ok();
    }
}

#[test]
fn a_new_job_overwrites_nothing() {
    let dir = Dir::new("new-there");
    dir.file("sweep.toml", "mine");
    phalanx(&dir).args(["new", "sweep"]).run().code(2).says("sweep.toml exists already");
    assert_eq!(dir.read("sweep.toml"), "mine");
    phalanx(&dir).args(["new", "sweep", "my sweep.toml"]).run().ok().says("phalanx run 'my sweep.toml'");
    let printed = phalanx(&dir).args(["new", "sweep", "-"]).run().ok();
    assert_eq!(printed.stdout(), dir.read("my sweep.toml"));
    phalanx(&dir).args(["new", "nothing"]).run().code(2).says("pipeline");
    phalanx(&dir).args(["new", "mpi", "no/such/folder.toml"]).run().code(2).says("cannot write no/such/folder.toml");
}

#[test]
fn the_version_names_the_libraries() {
    let dir = Dir::new("version");
    let output = phalanx(&dir).args(["--version"]).run().ok();
    let lines: Vec<&str> = output.stdout().lines().collect();
    assert!(lines[0].starts_with(concat!("phalanx ", env!("CARGO_PKG_VERSION"))), "{output}");
    assert!(lines[1].contains("MPI") || lines[1].contains("MPICH"), "{output}");
    assert!(lines[2].starts_with("hwloc "), "{output}");
}

#[test]
fn an_installation_has_manual_pages_completions_and_examples() {
    let dir = Dir::new("stage");
    let stage = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/stage");
    let program = crate::support::program();
    let staged = std::process::Command::new(stage).arg(program).arg(dir.path().join("root")).arg("/opt/x").output();
    let staged = staged.expect("bash runs");
    assert!(staged.status.success(), "{}", String::from_utf8_lossy(&staged.stderr));
    let has = |name: &str, text: &str| {
        let read = std::fs::read_to_string(dir.path().join("root").join(name));
        assert!(read.unwrap_or_else(|error| panic!("{name}: {error}")).contains(text), "{name}");
    };
    has("share/man/man1/phalanx-run.1", ".TH");
    has("share/bash-completion/completions/phalanx", "--resume");
    has("share/zsh/site-functions/_phalanx", "#compdef phalanx");
    has("share/fish/vendor_completions.d/phalanx.fish", "complete -c phalanx");
    has("share/phalanx/slurm/phalanx.sbatch", "#SBATCH");
    has("share/phalanx/modulefiles/phalanx", "set root /opt/x\n");
    has("share/doc/phalanx/docs/job-file.md", "matrix");
    assert!(dir.path().join("root/bin/phalanx").exists());
}
