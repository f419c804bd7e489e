//! Parses lines of shell, to find constructs of bash that a plain `sh` does not understand, and the
//! shell options that a prologue sets. Quoted text and here-documents are data and are ignored.

use std::path::Path;

use tree_sitter::{Node, Parser, TreeCursor};

/// The `sh` of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sh {
    /// Its name, such as `dash`.
    pub name: String,
    knows: Knows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    /// All constructs that are checked here.
    All,
    /// The extensions of BusyBox.
    Some,
    /// The POSIX standard only.
    Standard,
}

impl Sh {
    /// The shell that `sh` resolves to on this machine.
    pub(crate) fn here() -> Sh {
        let path = std::fs::canonicalize("/bin/sh").unwrap_or_else(|_| "/bin/sh".into());
        Sh::called(&path)
    }

    fn called(path: &Path) -> Sh {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let knows = match &*name {
            "bash" | "zsh" | "zsh5" | "ksh" | "ksh93" | "mksh" => Knows::All,
            "busybox" => Knows::Some,
            _ => Knows::Standard,
        };
        Sh { name, knows }
    }

    /// The constructs of a line that this shell does not understand or interprets differently, each
    /// once, as typed.
    pub(crate) fn foreign(&self, line: &str) -> Vec<String> {
        // Most lines contain none of the relevant characters and need no parser.
        if self.knows == Knows::All || !may_be_foreign(line) {
            return Vec::new();
        }
        let mut found: Vec<String> = Vec::new();
        each_node(line, &|_| true, &mut |node| {
            let Some((text, is_known)) = foreign(node, line) else { return };
            let is_fine = is_known && self.knows == Knows::Some;
            if !is_fine && !found.contains(&text) {
                found.push(text);
            }
        });
        found
    }
}

/// Variables that bash sets, and that are empty elsewhere.
const VARIABLES: [&str; 9] =
    ["RANDOM", "SECONDS", "UID", "EUID", "BASHPID", "EPOCHSECONDS", "PIPESTATUS", "FUNCNAME", "BASH_SOURCE"];

/// True if a line may contain such a construct, so that it must be parsed.
fn may_be_foreign(line: &str) -> bool {
    const SIGNS: [&str; 19] = [
        "&>", ">&", "[[", "<(", ">(", "((", "|&", "<<<", "$'", "${", "(", "{", "source", "function", "declare",
        "typeset", "let ", "shopt", "+=",
    ];
    const WORDS: [&str; 6] = ["==", "select", "pushd", "popd", "mapfile", "readarray"];
    SIGNS.iter().chain(&WORDS).chain(&VARIABLES).any(|sign| line.contains(sign))
}

/// The bash construct that a node represents, as typed, and whether BusyBox supports it.
fn foreign(node: Node<'_>, line: &str) -> Option<(String, bool)> {
    let text = |node: Node<'_>| line.get(node.byte_range()).unwrap_or_default();
    let short = |text: &str| {
        let first = text.lines().next().unwrap_or_default();
        match first.char_indices().nth(30) {
            Some((at, _)) => format!("{}...", &first[..at]),
            None => first.to_owned(),
        }
    };
    let own = |what: &str| Some((what.to_owned(), false));
    let shared = |what: &str| Some((what.to_owned(), true));
    let parent = node.parent().map_or("", |parent| parent.kind());
    match node.kind() {
        "&>" | "&>>" => shared(node.kind()),
        // With a number after it this copies a descriptor, which every shell supports.
        ">&" if parent == "file_redirect" => {
            let target = node.parent().and_then(|redirect| redirect.child_by_field_name("destination"));
            let is_file = target.is_some_and(|target| target.kind() != "number" && text(target) != "-");
            if is_file { own(">& FILE") } else { None }
        }
        "[[" => shared("[["),
        "==" if parent == "binary_expression" && in_single_brackets(node) => shared("== in [ ]"),
        "<(" | ">(" if parent == "process_substitution" => own(&format!("{})", node.kind())),
        "((" if matches!(parent, "compound_statement" | "c_style_for_statement") => own("(( ))"),
        "|&" => own("|&"),
        "+=" if parent == "variable_assignment" => own("+="),
        "herestring_redirect" => own("<<<"),
        "ansi_c_string" => shared("$'...'"),
        "brace_expression" => own(&short(text(node))),
        "concatenation" if is_brace_list(node, line) => own(&short(text(node))),
        "array" => own("arrays"),
        "subscript" => own("arrays"),
        "function" if parent == "function_definition" => shared("function"),
        "select" => own("select"),
        // One that the line sets itself is a variable like any other.
        "variable_name" if parent.ends_with("expansion") && !line.contains(&format!("{}=", text(node))) => {
            let name = VARIABLES.into_iter().find(|name| *name == text(node))?;
            let found = format!("${name}");
            if name == "RANDOM" { shared(&found) } else { own(&found) }
        }
        "expansion" => expansion(text(node)).map(|kind| (kind.to_owned(), false)),
        "command_name" => match text(node) {
            word @ ("source" | "let") => shared(word),
            word @ ("shopt" | "pushd" | "popd" | "mapfile" | "readarray") => own(word),
            _ => None,
        },
        word @ ("declare" | "typeset") if parent == "declaration_command" => own(word),
        _ => None,
    }
}

fn in_single_brackets(node: Node<'_>) -> bool {
    let mut at = node;
    while let Some(parent) = at.parent() {
        if parent.kind() == "test_command" {
            return parent.child(0).is_some_and(|first| first.kind() == "[");
        }
        at = parent;
    }
    false
}

/// `{a,b}`, `{a..c}`, unquoted: the braces are tokens of their own.
fn is_brace_list(node: Node<'_>, line: &str) -> bool {
    let mut cursor = node.walk();
    let words: Vec<&str> = node
        .children(&mut cursor)
        .filter(|c| c.kind() == "word" || c.kind() == "{" || c.kind() == "}")
        .filter_map(|child| line.get(child.byte_range()))
        .collect();
    let Some(open) = words.iter().position(|word| *word == "{") else { return false };
    let Some(close) = words[open..].iter().position(|word| *word == "}") else { return false };
    words[open + 1..open + close].iter().any(|word| word.contains(',') || word.contains(".."))
}

/// The kind of an expansion that is not in the standard.
fn expansion(text: &str) -> Option<&'static str> {
    let inner = text.strip_prefix("${")?;
    if inner.starts_with('!') {
        return Some("${!NAME}");
    }
    let name = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let rest = &inner[name..];
    match rest.chars().next()? {
        _ if name == 0 => None,
        '/' => Some("${NAME/...}"),
        '^' | ',' => Some("${NAME^} or ${NAME,}"),
        '@' => Some("${NAME@...}"),
        ':' if !rest[1..].starts_with(['-', '=', '?', '+']) => Some("${NAME:FROM:COUNT}"),
        _ => None,
    }
}

/// Calls `show` for each node of a line whose ancestors are all `wanted`, in the order of the text.
fn each_node(line: &str, wanted: &dyn Fn(Node<'_>) -> bool, show: &mut dyn FnMut(Node<'_>)) {
    let mut parser = Parser::new();
    let language = tree_sitter_bash::LANGUAGE.into();
    let Some(tree) = parser.set_language(&language).ok().and_then(|()| parser.parse(line, None)) else { return };
    let mut cursor: TreeCursor<'_> = tree.walk();
    loop {
        let node = cursor.node();
        show(node);
        // Text that the parser does not understand is not checked.
        if wanted(node) && !node.is_error() && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

/// True if a byte of a line stands in single quotes, a here-document, an expansion or a comment.
pub(crate) fn is_quoted(line: &str, at: usize) -> bool {
    const QUOTES: [&str; 8] = [
        "raw_string",
        "ansi_c_string",
        "heredoc_body",
        "heredoc_content",
        "comment",
        "expansion",
        "regex",
        "arithmetic_expansion",
    ];
    let mut is_quoted = false;
    let holds = |node: Node<'_>| node.byte_range().contains(&at);
    each_node(line, &holds, &mut |node| is_quoted |= holds(node) && QUOTES.contains(&node.kind()));
    is_quoted
}

/// True if the word at a byte of a line stands outside of quotes and is no name of a command, so
/// that the shell divides it at blanks.
pub(crate) fn is_divided(line: &str, at: usize) -> bool {
    const WHOLE: [&str; 9] = [
        "string",
        "raw_string",
        "ansi_c_string",
        "translated_string",
        "heredoc_body",
        "heredoc_content",
        "comment",
        "command_name",
        "regex",
    ];
    let mut is_divided = true;
    let holds = |node: Node<'_>| node.byte_range().contains(&at);
    // What the parser does not understand is not judged.
    each_node(line, &holds, &mut |node| {
        is_divided &= !(holds(node) && (node.is_error() || WHOLE.contains(&node.kind())));
    });
    is_divided
}

/// The shell options that a prologue sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrologueOptions {
    /// Whether it leaves `set -e` on or off; `None` if it does not change it.
    pub errexit: Option<bool>,
    /// The commands that set options, to repeat them in another shell.
    pub commands: Vec<String>,
}

impl PrologueOptions {
    /// Finds the options. Commands in a subshell or function are ignored, because they do not
    /// affect the command.
    pub(crate) fn of(prologue: &str) -> PrologueOptions {
        let mut options = PrologueOptions::default();
        if !prologue.contains("set") && !prologue.contains("shopt") {
            return options;
        }
        let stays = |node: Node<'_>| {
            !matches!(
                node.kind(),
                "subshell" | "command_substitution" | "process_substitution" | "function_definition" | "pipeline"
            )
        };
        each_node(prologue, &stays, &mut |node| {
            if node.kind() == "command" && node.parent().is_none_or(stays) {
                options.note(prologue.get(node.byte_range()).unwrap_or_default());
            }
        });
        options
    }

    fn note(&mut self, command: &str) {
        let mut words = command.split_ascii_whitespace();
        match words.next() {
            Some("shopt") => self.commands.push(command.to_owned()),
            Some("set") => {
                let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
                let mut sets = false;
                for (at, word) in words.iter().enumerate() {
                    let Some(on) = word.strip_prefix('-').map(|_| true).or(word.strip_prefix('+').map(|_| false))
                    else {
                        continue;
                    };
                    sets = true;
                    let named = word.ends_with('o') && words.get(at + 1) == Some(&"errexit");
                    if named || word[1..].contains('e') {
                        self.errexit = Some(on);
                    }
                }
                if sets {
                    self.commands.push(command.to_owned());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_bash_are_found_where_they_are_words() {
        let dash = Sh::called(Path::new("/usr/bin/dash"));
        for (line, found) in [
            ("( sleep 2; echo a ) &> log", "&>"),
            ("make &>> log", "&>>"),
            ("make >& log", ">& FILE"),
            ("[[ 1 == 1 ]] && echo yes", "[["),
            ("[ a == b ]", "== in [ ]"),
            ("diff <(sort a) <(sort b)", "<()"),
            ("tee >(gzip > x) < y", ">()"),
            ("source env.sh", "source"),
            ("for i in {1..3}; do echo $i; done", "{1..3}"),
            ("cp a.{x,y} b", "a.{x,y}"),
            ("echo {a..c}", "{a..c}"),
            ("a=(1 2)", "arrays"),
            ("echo ${a[1]}", "arrays"),
            ("cat <<< x", "<<<"),
            ("function f { x; }", "function"),
            ("for ((i=0;i<3;i++)); do x; done", "(( ))"),
            ("(( x++ ))", "(( ))"),
            ("echo $'a\\n'", "$'...'"),
            ("a |& b", "|&"),
            ("echo ${x//a/b}", "${NAME/...}"),
            ("echo ${x^^}", "${NAME^} or ${NAME,}"),
            ("echo ${!x}", "${!NAME}"),
            ("echo ${x:1:2}", "${NAME:FROM:COUNT}"),
            ("select x in a b; do y; done", "select"),
            ("declare -a x", "declare"),
            ("x+=1", "+="),
            ("echo seed $RANDOM", "$RANDOM"),
            ("echo \"${SECONDS}\"", "$SECONDS"),
            ("if true; then echo $(source x); fi", "source"),
        ] {
            assert!(dash.foreign(line).contains(&found.to_owned()), "{line}: {:?}", dash.foreign(line));
        }
        for line in [
            "echo '&> [[ {1..3} <( source' \"&> (( <<<\"",
            "cmd > f 2>&1 <&3 2>&- >&2",
            "find . -exec ls {} \\;",
            "awk '{print $1}' f | sed -e 's/{a,b}//' # [[ &> source",
            "echo ${x-y} ${x:-y} ${x%%.*} ${x#a} ${#x} $((x+1)) {index} a{b}",
            "cat <<EOF\n[[ x ]] &> {1..3}\nEOF",
            "(cd x && make) && { echo done; }",
            "[ a = b ] && test x = y",
            "./source let; echo function select",
            "f() { echo; }",
            "echo a \\&\\> b",
            "RANDOM=4; echo $RANDOM '$SECONDS' UID",
        ] {
            assert_eq!(dash.foreign(line), [""; 0], "{line}");
        }
        assert_eq!(Sh::called(Path::new("/usr/bin/bash")).foreign("a &> b"), [""; 0]);
        assert_eq!(Sh::called(Path::new("/bin/busybox")).foreign("[[ a ]] && b <(c)"), ["<()"]);
    }

    #[test]
    fn words_outside_of_quotes_are_divided() {
        for line in ["cat X", "a; b -i X > y", "x=X b", "if true; then cat aX; fi", "cat < X | sort", "echo $(ls X)"] {
            assert!(is_divided(line, line.find('X').unwrap()), "{line}");
        }
        for line in [
            "cat \"X\"",
            "cat 'X'",
            "X a",
            "a; X -v",
            "echo a # X",
            "cat <<E\nX\nE",
            "bash -c 'cat X'",
            "cat \"a $(ls X)\"",
        ] {
            assert!(!is_divided(line, line.find('X').unwrap()), "{line}");
        }
    }

    #[test]
    fn options_that_a_prologue_sets_are_seen() {
        let errexit = |text: &str| PrologueOptions::of(text).errexit;
        for text in
            ["set -e", "set -eu", "set -o errexit", "set -euo pipefail", "if true; then\nset -e\nfi", "a; set -xe"]
        {
            assert_eq!(errexit(text), Some(true), "{text}");
        }
        assert_eq!(errexit("set -e\nset +e"), Some(false));
        for text in ["set -u", "set -- -e", "echo set -e", "(set -e)", "f() { set -e; }", "x=$(set -e)", "# set -e", ""]
        {
            assert_eq!(errexit(text), None, "{text}");
        }
        let options = PrologueOptions::of("module load x\nset -u -o pipefail; shopt -s nullglob\nset a b");
        assert_eq!(options.commands, ["set -u -o pipefail", "shopt -s nullglob"]);
    }
}
