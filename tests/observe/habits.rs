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
