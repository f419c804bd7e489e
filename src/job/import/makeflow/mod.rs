//! Imports Makeflow's make-like rules: `outputs : inputs`, then one command on a line that begins
//! with a blank.
//!
//! Files imply the dependencies, as in Makeflow. The text is read like Makeflow's own parser does
//! (`lexer`), so that files and commands are the same. What that parser rejects is rejected, except
//! where the meaning is clear. Variables that the file does not define are left to the shell.

mod lexer;
mod variables;
mod write;

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use self::lexer::{Cursor, Lexer, LexerContext, LexerToken};
use self::variables::{DEFAULT, Variables};
use super::{ImportError, Imported, Options, plain_text};

/// Resources that `.MAKEFLOW` may set; their values are numbers.
const RESOURCES: [&str; 5] = ["CORES", "MEMORY", "DISK", "WALL_TIME", "MPI_PROCESSES"];

struct MakeRule {
    line: usize,
    /// Number of rules before it.
    number: usize,
    outputs: Vec<String>,
    inputs: Vec<String>,
    category: String,
    variables: BTreeMap<String, String>,
    command: String,
}

/// Imports a makeflow in make syntax.
///
/// # Errors
/// If a line cannot be read, or uses a feature that Phalanx does not support (renamed files, JX).
pub fn makeflow(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = plain_text(text)?;
    if text.trim_start().starts_with('{') {
        return Err(ImportError::new(
            1,
            "this is Makeflow's JSON or JX form; write it as rules first: makeflow_viz -D make",
        ));
    }
    let mut reader = MakeflowReader { category: DEFAULT.into(), ..MakeflowReader::default() };
    reader.read(Cursor { rest: &text, line: 1 })?;
    if reader.rules.is_empty() {
        return Err(ImportError::new(1, "there is no rule"));
    }
    Ok(reader.write(options))
}

#[derive(Default)]
struct MakeflowReader {
    variables: Variables,
    /// Category of the following rules.
    category: String,
    exported: Vec<String>,
    sizes: BTreeMap<String, String>,
    /// The rule whose command is still missing.
    open: Option<MakeRule>,
    rules: Vec<MakeRule>,
    warnings: Vec<String>,
    /// Warnings that are reported once only.
    warned: FxHashSet<String>,
}

impl MakeflowReader {
    fn read(&mut self, mut cursor: Cursor<'_>) -> Result<(), ImportError> {
        while let Some(c) = cursor.peek() {
            let at = cursor.line;
            let read = match c {
                '\n' => {
                    cursor.next();
                    Ok(())
                }
                '#' => {
                    cursor.skip_comment();
                    Ok(())
                }
                ' ' | '\t' => self.command(&mut cursor),
                '@' => {
                    cursor.next();
                    self.keyword(&mut cursor)
                }
                _ if cursor.is_rule() => self.rule(&mut cursor),
                _ => self.keyword(&mut cursor),
            };
            read.map_err(|reason| ImportError::new(at, reason))?;
        }
        match self.open.take() {
            Some(rule) => Err(ImportError::new(rule.line, NO_COMMAND)),
            None => Ok(()),
        }
    }

    /// Reads one construct with the current variables.
    fn lex<T>(
        &mut self,
        cursor: &mut Cursor<'_>,
        read: impl FnOnce(&mut Lexer<'_, '_, '_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let (at, number) = (cursor.line, self.rules.len());
        let own = self.open.as_ref().map(|rule| &rule.variables);
        let value = |name: &str| {
            let own = own.and_then(|own| own.get(name)).map(String::as_str);
            own.or_else(|| self.variables.get(&self.category, name, number)).map(String::from)
        };
        let context = LexerContext::new(&value);
        let mut lexer = Lexer::new(*cursor, &context);
        let result = read(&mut lexer);
        *cursor = lexer.cursor;
        let undefined = context.undefined.into_inner();
        for name in undefined {
            self.warn_once(at, &name, &format!("${name} is not defined in this file and is left to the shell"));
        }
        result
    }

    fn warn(&mut self, at: usize, text: impl std::fmt::Display) {
        self.warnings.push(format!("line {at}: {text}"));
    }

    fn warn_once(&mut self, at: usize, about: &str, text: &str) {
        if self.warned.insert(about.to_string()) {
            self.warn(at, text);
        }
    }

    fn rule(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if let Some(rule) = &self.open {
            return Err(format!("the rule of line {} has no command before this one", rule.line));
        }
        let at = cursor.line;
        let tokens = self.lex(cursor, |lexer| lexer.files())?;
        let (mut outputs, mut inputs, mut after_colon) = (Vec::new(), Vec::new(), false);
        for token in tokens {
            match token {
                LexerToken::Colon => after_colon = true,
                LexerToken::Blank => {}
                LexerToken::Arrow => return Err("files that are renamed on the way (`a->b`) are not supported".into()),
                // An empty name is a pair of quotes without content.
                LexerToken::Text(file) if file.is_empty() => {}
                LexerToken::Text(file) if after_colon => inputs.push(file),
                LexerToken::Text(file) => outputs.push(file),
            }
        }
        self.open = Some(MakeRule {
            line: at,
            number: self.rules.len(),
            outputs,
            inputs,
            category: self.category.clone(),
            variables: BTreeMap::new(),
            command: String::new(),
        });
        Ok(())
    }

    fn command(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let at = cursor.line;
        let mut tokens = self.lex(cursor, |lexer| lexer.command())?;
        tokens.drain(..tokens.iter().take_while(|token| **token == LexerToken::Blank).count());
        if tokens.is_empty() {
            return Ok(());
        }
        let Some(mut rule) = self.open.take() else {
            return Err("this command belongs to no rule, or is its second one; join both with `&&`".into());
        };
        let mut nested = false;
        while let [LexerToken::Text(word), rest @ ..] = &tokens[..] {
            match word.as_str() {
                "LOCAL" => self.warn(at, "LOCAL is left out; this task may run on any rank"),
                "MAKEFLOW" => nested = true,
                _ => break,
            }
            tokens = rest.iter().skip_while(|token| **token == LexerToken::Blank).cloned().collect();
        }
        let command: String = tokens
            .iter()
            .map(|token| match token {
                LexerToken::Text(text) => text,
                _ => " ",
            })
            .collect();
        if command.is_empty() {
            return Err("this command is empty".into());
        }
        rule.command = command;
        if nested {
            self.warn(
                at,
                "the inner makeflow is run by the command `makeflow`; import it for itself to have its tasks here",
            );
            rule.command.insert_str(0, "makeflow -T local ");
        }
        self.rules.push(rule);
        Ok(())
    }

    /// Reads an `export`, a directive or a variable.
    fn keyword(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        cursor.skip_blanks();
        let at = cursor.line;
        let name = cursor.name();
        match name.as_str() {
            "export" => self.export(cursor),
            _ if name.starts_with('.') => {
                let line = self.lex(cursor, |lexer| lexer.value())?;
                self.directive(at, &name, &line)
            }
            _ => self.assign(cursor, &name),
        }
    }

    fn export(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if let Some(rule) = &self.open {
            return Err(format!("the rule of line {} has no command before this `export`", rule.line));
        }
        loop {
            cursor.skip_blanks();
            if cursor.peek() == Some('#') {
                cursor.skip_comment();
            }
            if matches!(cursor.peek(), None | Some('\n')) {
                break;
            }
            let name = cursor.name();
            let assigned = cursor.rest.trim_start_matches([' ', '\t']).starts_with(['=', '+']);
            if assigned {
                self.assign(cursor, &name)?;
            } else if name.is_empty() {
                return Err("`export` needs the names of variables, or NAME=value".into());
            }
            self.exported.push(name);
        }
        Ok(())
    }

    fn assign(&mut self, cursor: &mut Cursor<'_>, name: &str) -> Result<(), String> {
        let at = cursor.line;
        cursor.skip_blanks();
        let append = cursor.rest.starts_with("+=");
        cursor.rest = cursor
            .rest
            .strip_prefix(if append { "+=" } else { "=" })
            .ok_or("this is neither a rule (`outputs : inputs`) nor a variable (`NAME = value`, `NAME += value`)")?;
        if name.is_empty() {
            return Err("this variable has no name".into());
        }
        let value = self.lex(cursor, |lexer| lexer.value())?;
        self.set(at, name, append, value);
        Ok(())
    }

    fn set(&mut self, at: usize, name: &str, append: bool, value: String) {
        if let Some((_, meaning)) = WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
            self.warn(at, format_args!("{name} is left out; {meaning}"));
        }
        let number = self.rules.len();
        // `+=` always appends to a variable of the category `default`, or to that of the rule.
        let known = self.variables.get(DEFAULT, name, number);
        match &mut self.open {
            Some(rule) => {
                let known = rule.variables.get(name).map(String::as_str).or(known);
                let value = appended(known.filter(|_| append), value);
                if matches!(name, "CATEGORY" | "SYMBOL") {
                    rule.category = value.clone();
                }
                rule.variables.insert(name.into(), value);
            }
            None => {
                let value = appended(known.filter(|_| append), value);
                let of_all = append || name == "CATEGORY";
                if matches!(name, "CATEGORY" | "SYMBOL") {
                    self.category = value.clone();
                }
                let category = if of_all { DEFAULT } else { &self.category };
                self.variables.set(category, name, number, value);
            }
        }
    }

    fn directive(&mut self, at: usize, directive: &str, arguments: &str) -> Result<(), String> {
        let words: Vec<&str> = arguments.split_whitespace().map(|word| word.trim_matches(['\'', '"'])).collect();
        match (directive, &words[..]) {
            (".SIZE", [file, size]) => {
                self.sizes.insert(file.to_string(), size.to_string());
                Ok(())
            }
            (".MAKEFLOW", ["CATEGORY", value]) => {
                self.set(at, "CATEGORY", false, value.to_string());
                Ok(())
            }
            (".MAKEFLOW", ["MODE", "MAX_THROUGHPUT" | "MIN_WASTE" | "FIXED"]) => {
                self.warn(at, "the allocation mode is left out; tasks get what they ask for");
                Ok(())
            }
            (".MAKEFLOW", [name, value]) if RESOURCES.contains(name) => {
                if !value.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(format!("{name} must be a number, not {value:?}"));
                }
                self.set(at, name, false, value.to_string());
                Ok(())
            }
            (".UMBRELLA", ["SPEC", spec]) => {
                self.warn(at, format_args!("the environment {spec} is left out; tasks run in that of their node"));
                Ok(())
            }
            (".SIZE", _) => Err("`.SIZE` needs a file and its size".into()),
            (".MAKEFLOW", _) => Err(format!(
                "`.MAKEFLOW {arguments}` is not known; write CATEGORY, MODE (MAX_THROUGHPUT, MIN_WASTE or FIXED), {} and a value",
                RESOURCES.join(", ")
            )),
            _ => Err(format!("the directive {directive} is not known; .MAKEFLOW, .SIZE and .UMBRELLA SPEC are")),
        }
    }
}

const NO_COMMAND: &str = "this rule has no command; it is the line after it that begins with a blank";

/// Variables that affect Makeflow and have no effect here.
const WITHOUT_EFFECT: [(&str, &str); 7] = [
    ("BATCH_OPTIONS", "options of a batch system belong in the script that starts Phalanx"),
    ("BATCH_LOCAL", "this task may run on any rank"),
    ("DISK", "disk space is not a resource here"),
    ("MPI_PROCESSES", "give the task `mpi = { ranks = ... }` if its command is an MPI program"),
    ("SPEC", "tasks run in the environment of their node"),
    ("GC_COLLECT_LIST", "files are not removed"),
    ("GC_PRESERVE_LIST", "files are not removed"),
];

fn appended(known: Option<&str>, value: String) -> String {
    known.map_or_else(|| value.clone(), |known| format!("{known} {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(text: &str) -> (toml::Table, Vec<String>) {
        let imported = makeflow(text, &Options::default()).unwrap_or_else(|error| panic!("{text}\n{error}"));
        (toml::from_str(&imported.toml).unwrap(), imported.warnings)
    }

    /// The only field of this name in each task.
    fn fields(text: &str, key: &str) -> Vec<String> {
        let tasks = import(text).0["task"].as_array().unwrap().clone();
        tasks.iter().map(|task| task.get(key).map_or(String::new(), |value| value.to_string())).collect()
    }

    fn commands(text: &str) -> Vec<String> {
        let tasks = import(text).0["task"].as_array().unwrap().clone();
        tasks.iter().map(|task| task["command"].as_str().unwrap().to_string()).collect()
    }

    #[test]
    fn rules_variables_and_resources() {
        let text = "CONVERT=/usr/bin/convert\nCORES=2\nMODE=fast\nexport MODE\n.SIZE a.jpg 3M\n\nb.jpg: a.jpg \\\n  c.cfg\n\t$(CONVERT) -swirl 90 a.jpg ${HOME} b.jpg\n\nd.gif: b.jpg\n@CATEGORY=join\n\tLOCAL join b.jpg > d.gif\n";
        let imported = makeflow(text, &Options::default()).unwrap();
        for part in [
            "/usr/bin/convert -swirl 90 a.jpg ${HOME} b.jpg",
            "inputs = [{ file = \"a.jpg\", size = \"3M\" }, \"c.cfg\"]",
            "outputs = [\"b.jpg\"]",
            "cpus = 2",
            "\"MODE\" = \"fast\"",
            "class = \"join\"",
            "command = \"join b.jpg > d.gif\"",
        ] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    }

    #[test]
    fn commands_lose_one_level_of_backslashes_and_their_comments() {
        for (command, expected) in [
            (r#"echo \$HOME \"quoted\""#, r#"echo $HOME "quoted""#),
            (r#"echo \\\$ it\'s"#, r#"echo \$ it's"#),
            (r##"echo a#b \# "# no" # c"##, "echo a"),
            (r##"echo \#a "x # y"  'z # w' # c"##, r##"echo #a "x # y" 'z # w' "##),
            (r#"echo "say \\\"hi\\\"" 'a\b'"#, r#"echo "say \"hi\"" 'ab'"#),
            ("a \\\n  b\\\nc", "a   b c"),
            ("echo ${X}a$X.b$(X)", "echo 5a5.b5"),
            (r#"echo "$X" '$X' \${X}"#, r#"echo "5" '$X' ${X}"#),
            (r"awk '{print \$1}'", "awk '{print $1}'"),
        ] {
            assert_eq!(commands(&format!("X=5\na:\n\t{command}\n")), [expected], "{command}");
        }
    }

    #[test]
    fn values_keep_their_quotes_and_lose_their_comments() {
        for (value, expected) in [
            ("-m \"hello world\"", "echo -m \"hello world\" x"),
            ("5 # five", "echo 5 x"),
            ("5#five", "echo 5 x"),
            ("'a $b' # c", "echo 'a $b' x"),
            ("\"a # b\"", "echo \"a # b\" x"),
            ("a \\\n b", "echo a b x"),
            (r"a\#b", "echo a#b x"),
            ("", "echo x"),
        ] {
            let squeezed = commands(&format!("X={value}\na:\n\techo $X x\n"))[0].replace("  ", " ");
            assert_eq!(squeezed, expected, "{value}");
        }
    }

    #[test]
    fn names_of_files_are_unquoted() {
        let text = "V=C D\nW=\"H I\" \"J K\"\n\"A\":\n\ttrue\nB$V 'q r': A # c\n\ttrue\n\"$V\" a\\ b x'y'\"z\" $W: \\\n  a-b c--d \\\ne\n\ttrue\n";
        assert_eq!(
            fields(text, "outputs"),
            [r#"["A"]"#, r#"["BC", "D", "q r"]"#, r#"["C D", "a b", "xyz", "H I", "J K"]"#]
        );
        assert_eq!(fields(text, "inputs"), ["", r#"["A"]"#, r#"["a-b", "c--d", "e"]"#]);
        assert_eq!(fields("'${V}' \\$W:\n\ttrue\n", "outputs"), [r#"["${V}", "$W"]"#]);
    }

    #[test]
    fn resources_belong_to_categories_and_to_rules() {
        let text = ".MAKEFLOW CATEGORY small\n.MAKEFLOW CORES 1\na:\n\ttrue\n.MAKEFLOW CATEGORY big\n.MAKEFLOW CORES 2\nMEMORY=7\nb:\n\ttrue\nCATEGORY=none\nc:\nd:\n"
            .replace("c:\nd:\n", "c:\n\ttrue\nd:\nCORES=4\n@CATEGORY=big\n\ttrue\n");
        assert_eq!(fields(&text, "class"), ["\"small\"", "\"big\"", "\"none\"", "\"big\""]);
        assert_eq!(fields(&text, "cpus"), ["1", "2", "", "4"]);
        assert_eq!(fields(&text, "memory"), ["", "\"7M\"", "", "\"7M\""]);
        let default = "CORES=3\nCATEGORY=one\na:\n\ttrue\n";
        assert_eq!(fields(default, "cpus"), ["3"]);
    }

    #[test]
    fn variables_hold_where_makeflow_lets_them_hold() {
        let text = "V=1\na:\n V=0\n\techo\n"; // A blank begins a command.
        assert!(makeflow(text, &Options::default()).is_err());
        let text = "V=1\na:\nV=0\n\techo $V\nb:\n\techo $V\nc:\nV+=2\n\techo $V\nV=3\nd:\n# c\n\n  \n    echo $V\nCATEGORY=x\nW=1\ne:\n\techo $V$W\nCATEGORY=y\nf:\n\techo $W\n";
        assert_eq!(commands(text), ["echo 0", "echo 1", "echo 1 2", "echo 3", "echo 31", "echo ${W}"]);
    }

    #[test]
    fn exported_variables_have_the_value_that_their_rule_sees() {
        let text = "export W=3 4\nV=1\na:\n\ttrue\nb:\nV=2\n\ttrue\nexport V HOME\n";
        let (table, warnings) = import(text);
        assert_eq!(table["job"]["env"]["W"].as_str(), Some("3 4"));
        assert_eq!(fields(text, "env"), ["{ V = \"1\" }", "{ V = \"2\" }"]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_has_no_counterpart_is_named_with_its_line() {
        let text = "BATCH_OPTIONS=\"-q long\"\n.MAKEFLOW MODE FIXED\n.UMBRELLA SPEC u\n.MAKEFLOW DISK 5\na: \n@BATCH_LOCAL=1\n\tLOCAL MAKEFLOW x.mf $UNKNOWN\n: a\n\techo $UNKNOWN\n";
        let (table, warnings) = import(text);
        let lines: Vec<&str> = warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 6", "line 7", "line 7", "line 7"]);
        assert_eq!(table["task"][0]["command"].as_str(), Some("makeflow -T local x.mf ${UNKNOWN}"));
        assert_eq!(table["task"][1]["name"].as_str(), Some("rule"));
    }

    #[test]
    fn ends_of_lines_and_marks_of_other_systems_are_read() {
        assert_eq!(commands("\u{feff}a: b \\\r\n c\r\n\techo x\r\n"), ["echo x"]);
        assert_eq!(commands("a:\n\techo x"), ["echo x"]);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("a: b\n", 1),
            ("\ttrue\n", 1),
            ("a: b\n\ttrue\n\tfalse\n", 3),
            ("a->c: b\n\ttrue\n", 1),
            ("nonsense\n", 1),
            ("{\"rules\":[]}", 1),
            ("\n.WHATEVER SPEC x\n", 2),
            ("# nothing\n", 1),
            ("a: b\nc: d\n\ttrue\n", 2),
            ("a:\n\techo $$\n", 2),
            ("a:\n\techo $(date +%s)\n", 2),
            ("a:\n\n\techo \"it's\"\n", 3),
            (":\"open\n  x\n", 1),
            ("=bad\n", 1),
            ("$X: b\n\ttrue\n", 1),
            (".MAKEFLOW CORES many\n", 1),
            (".MAKEFLOW WHAT 1\n", 1),
            ("X ?= 1\n", 1),
        ] {
            assert_eq!(makeflow(text, &Options::default()).err().map(|error| error.line), Some(line), "{text:?}");
        }
    }

    #[test]
    fn variables_cannot_grow_without_end() {
        let mut text = String::from("A=xxxxxxxxxxxxxxxx\n");
        (0..40).for_each(|_| text.push_str("A=$(A)$(A)\n"));
        assert!(makeflow(&text, &Options::default()).is_err());
        assert!(makeflow("A=\\$A\na:\n\techo $A\n", &Options::default()).is_err());
    }
}
