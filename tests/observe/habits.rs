//! Small habits of a well-behaved command: completions, manual pages, quiet, colours only where
//! they are wanted.

use crate::support::{self, Dir, TestCommand, phalanx, shell};

const JOB: &str =
    "[[task]]\nname = \"a\"\narray = \"0-3\"\nkernel = \"noop\"\n[[task]]\nname = \"b\"\ncommand = \"exit 3\"\n";

#[test]
fn completions_know_the_verbs() {
    let dir = Dir::new("completions");
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = phalanx(&dir).args(["completions", name]).run().ok();
        for word in ["analyze", "top", "listen", "completions"] {
            assert!(text.stdout().contains(word), "{word} is not in the completions for {name}");
        }
    }
    dir.file("c.bash", phalanx(&dir).args(["completions", "bash"]).run().ok().stdout());
    // Bash itself completes `phalanx anal`.
    let line =
        "source ./c.bash; COMP_WORDS=(phalanx anal); COMP_CWORD=1; _phalanx phalanx anal phalanx; echo ${COMPREPLY[@]}";
    TestCommand::new("bash", dir.path()).args(["-c", line]).run().ok().says("analyze");
    phalanx(&dir).args(["completions", "nonsense"]).run().code(2);
}

/// The example of a module with stand-ins for the commands of Environment Modules and Lmod.
const MODULE: &str = r#"
foreach command {module-whatis conflict prereq} { proc $command args {} }
proc setenv {name value} { set ::env($name) $value }
proc prepend-path {name value} {
    set old [expr {[info exists ::env($name)] ? $::env($name) : ""}]
    set ::env($name) [expr {$old eq "" ? $value : "$value:$old"}]
}
source [lindex $argv 0]
foreach name {PATH MANPATH XDG_DATA_DIRS} { puts "$name=$env($name)" }
"#;

#[test]
fn the_module_hides_nothing_of_the_system() {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(tclsh) = std::env::split_paths(&paths).map(|dir| dir.join("tclsh")).find(|path| path.is_file()) else {
        return support::skip_loudly("there is no tclsh");
    };
    let dir = Dir::new("module");
    dir.file("load.tcl", MODULE);
    let file = support::repository().join("docs/modulefile");
    let load = |before: &[(&str, &str)]| {
        let mut command = std::process::Command::new(&tclsh);
        command.arg(dir.path().join("load.tcl")).arg(&file).env_clear().env("PATH", "/usr/bin:/bin");
        let output = command.envs(before.iter().copied()).output().expect("tclsh starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for before in [&[][..], &[("MANPATH", ""), ("XDG_DATA_DIRS", "")]] {
        let said = load(before);
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
        assert!(value("MANPATH").ends_with(':'), "no empty element stands for the system's pages: {said}");
        assert!(value("XDG_DATA_DIRS").ends_with("/share:/usr/local/share:/usr/share"), "{said}");
        assert!(value("PATH").ends_with("/bin:/usr/bin:/bin"), "{said}");
    }
    let said = load(&[("MANPATH", "/x/man"), ("XDG_DATA_DIRS", "/x/share")]);
    assert!(said.contains("/man:/x/man\n") && said.contains("/share:/x/share\n"), "{said}");
}

#[test]
fn q_ends_top() {
    let dir = Dir::new("q");
    dir.job("long.toml", "[[task]]\nname = \"long\"\ncommand = \"until test -e end; do sleep 0.05; done\"\n");
    let run = phalanx(&dir).args(["run", "long.toml", "-q", "--slots", "1", "--run-dir", "run"]).start();
    support::wait_for("the run to begin", 120, || dir.has("run/control/socket").then_some(()));
    // `script` gives it a terminal; a frame takes an hour, so only the key can end it.
    let line = format!("printf q | script -qec \"'{}' top run --every 3600\" typescript", support::program().display());
    TestCommand::new("bash", dir.path()).args(["-c", &line]).run().ok();
    assert!(dir.read("typescript").contains("RUNNING"), "it shows the run before");
    dir.file("end", "");
    run.wait_clean().ok();
}

#[test]
fn there_is_a_manual_page_for_each_verb() {
    let dir = Dir::new("man");
    phalanx(&dir).args(["man", "share/man1"]).run().ok();
    let pages = dir.list("share/man1");
    for verb in ["phalanx", "phalanx-run", "phalanx-top", "phalanx-analyze", "phalanx-trace", "phalanx-bench-metg"] {
        assert!(pages.contains(&format!("{verb}.1")), "{verb} is missing: {pages:?}");
    }
    let page = dir.read("share/man1/phalanx-run.1");
    assert!(page.contains(".TH") && page.contains("listen") && page.contains("resume"), "{page}");
    dir.file("file", "");
    phalanx(&dir).args(["man", "file/man1"]).run().code(2).says("cannot write manual pages");
}

#[test]
fn quiet_says_nothing_but_what_went_wrong() {
    let dir = Dir::new("quiet");
    dir.job("q.toml", JOB);
    let output = phalanx(&dir).args(["run", "q.toml", "--quiet"]).run().code(1);
    assert_eq!((output.stdout(), output.stderr()), ("", ""));
    phalanx(&dir).args(["run", "missing.toml", "--quiet"]).run().code(2).says("missing.toml");
}

#[test]
fn a_log_of_json_lines_holds_nothing_else() {
    let dir = Dir::new("json-lines");
    dir.job("j.toml", JOB);
    let lines = |args: &[&str], code: i32| -> Vec<serde_json::Value> {
        let output = phalanx(&dir).args(["--log-format", "json"]).args(args).run().code(code);
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        output.stderr().lines().map(line).collect()
    };
    let said = |lines: &[serde_json::Value], text: &str| {
        let holds = |line: &&serde_json::Value| line["message"].as_str().is_some_and(|message| message.contains(text));
        lines.iter().find(holds).unwrap_or_else(|| panic!("{text} is missing in {lines:#?}"))["level"].clone()
    };
    let run = lines(&["run", "j.toml", "--listen", "127.0.0.1:0"], 1);
    assert_eq!(["the run's page: ", "100 % ended"].map(|text| said(&run, text)), ["INFO", "INFO"]);
    assert_eq!(said(&lines(&["run", "missing.toml"], 2), "missing.toml").as_str().map(|it| it != "INFO"), Some(true));
    assert_eq!(said(&lines(&["status", "nothing"], 2), "nothing"), "ERROR");
}

#[test]
fn colours_only_on_terminals_and_never_with_no_color() {
    let dir = Dir::new("colours");
    dir.job("c.toml", JOB);
    // `script` gives the command a terminal.
    let on_terminal = |variable: &str| {
        let line = format!(
            "env -u NO_COLOR TERM=xterm {variable} script -qec 'phalanx run c.toml --run-dir run{variable}' /dev/null"
        );
        let output = shell(&dir, &line).run();
        output.stdout().to_owned()
    };
    let colour = |text: &str| text.contains("\x1b[31m") || text.contains("\x1b[32m");
    if shell(&dir, "command -v script").run().exit() != 0 {
        return support::skip_loudly("there is no `script` to make a terminal with");
    }
    assert!(colour(&on_terminal("")), "no colours on a terminal");
    let plain = on_terminal("NO_COLOR=1");
    assert!(plain.contains("FAILED") && !colour(&plain), "colours in spite of NO_COLOR: {plain:?}");
    let piped = phalanx(&dir).args(["run", "c.toml"]).env("TERM", "xterm").run().code(1);
    assert!(!piped.stdout().contains('\x1b') && !piped.stderr().contains('\x1b'), "{piped}");
}
