//! Makeflow's make-like rules: `outputs : inputs`, then one command after a tab.
//!
//! Files make the dependencies here as there. Variables of the file are replaced; others are the shell's and are left to it.

use std::collections::BTreeMap;

use super::write::{Document, Names, list, protect, quote};
use super::{ImportError, Imported, Options, check_text};

/// Values of variables longer than this are refused: each may repeat others twice.
const LONGEST: usize = 1 << 20;

type Variables = BTreeMap<String, String>;

struct Rule {
    line: usize,
    outputs: Vec<String>,
    inputs: Vec<String>,
    variables: Variables,
    command: Option<String>,
}

/// Imports a makeflow in the syntax of make.
///
/// # Errors
/// If a line cannot be read, or asks for what Phalanx does not do (nested workflows, renamed files, JX).
pub fn makeflow(text: &str, options: &Options) -> Result<Imported, ImportError> {
    check_text(text)?;
    if text.trim_start().starts_with('{') {
        return Err(ImportError::new(
            1,
            "this is Makeflow's JSON or JX form; write it as rules first: makeflow_viz -D make",
        ));
    }
    let mut reader = Reader::default();
    for (at, line) in logical_lines(text) {
        reader.line(at, &line)?;
    }
    reader.end_rule()?;
    if reader.rules.is_empty() {
        return Err(ImportError::new(1, "there is no rule"));
    }
    reader.write(options)
}

/// Lines with their numbers, joined where one ends in a backslash.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (at, line) in text.lines().enumerate() {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| continued) {
            Some((_, whole)) => {
                whole.push(' ');
                whole.push_str(part.trim_start());
            }
            None => lines.push((at + 1, part.to_string())),
        }
        continued = more;
    }
    lines
}

#[derive(Default)]
struct Reader {
    variables: Variables,
    exported: Vec<String>,
    sizes: BTreeMap<String, String>,
    open: Option<Rule>,
    rules: Vec<Rule>,
    warnings: Vec<String>,
}

impl Reader {
    fn line(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return Ok(());
        }
        if line.starts_with('\t') && !trimmed.starts_with('@') {
            return self.command(at, trimmed);
        }
        if let Some((name, append, value)) = assignment(trimmed.trim_start_matches('@')) {
            return self.assign(at, name, append, value, trimmed.starts_with('@'));
        }
        if let Some(name) = trimmed.strip_prefix("export ") {
            self.exported
                .extend(name.split_whitespace().map(|name| name.split('=').next().unwrap_or(name).to_string()));
            return match assignment(name) {
                Some((name, append, value)) => self.assign(at, name, append, value, false),
                None => Ok(()),
            };
        }
        if trimmed.starts_with('.') && trimmed.split_whitespace().next().is_some_and(|word| !word.contains(':')) {
            return self.directive(at, trimmed);
        }
        self.end_rule()?;
        self.rule(at, trimmed)
    }

    fn rule(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let line = self.expand(line, &Variables::new()).map_err(|reason| ImportError::new(at, reason))?;
        let (outputs, inputs) = line.split_once(':').ok_or_else(|| {
            ImportError::new(at, "this is neither a rule (`outputs : inputs`) nor a variable (`NAME = value`)")
        })?;
        if line.contains("->") {
            return Err(ImportError::new(at, "files that are renamed on the way (`a->b`) are not supported"));
        }
        let files = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let (outputs, inputs) = (files(outputs), files(inputs));
        if outputs.is_empty() {
            return Err(ImportError::new(at, "this rule makes no file"));
        }
        self.open = Some(Rule { line: at, outputs, inputs, variables: Variables::new(), command: None });
        Ok(())
    }

    fn command(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let Some(mut rule) = self.open.take() else {
            return Err(ImportError::new(at, "this command belongs to no rule"));
        };
        if rule.command.is_some() {
            return Err(ImportError::new(at, "this rule has a second command; join both with `&&`"));
        }
        let mut line = line;
        if let Some(rest) = line.strip_prefix("LOCAL ") {
            line = rest.trim_start();
            self.warnings.push(format!("line {at}: LOCAL is left out; this task may run on any rank"));
        }
        if line.starts_with("MAKEFLOW ") {
            return Err(ImportError::new(at, "a makeflow inside a makeflow is not supported; import it for itself"));
        }
        rule.command = Some(self.expand(line, &rule.variables).map_err(|reason| ImportError::new(at, reason))?);
        self.open = Some(rule);
        Ok(())
    }

    fn assign(&mut self, at: usize, name: &str, append: bool, value: &str, local: bool) -> Result<(), ImportError> {
        if !local {
            self.end_rule()?;
        }
        let here = self.open.as_ref().map(|rule| rule.variables.clone()).unwrap_or_default();
        let mut value =
            self.expand(value.trim().trim_matches('"'), &here).map_err(|reason| ImportError::new(at, reason))?;
        if let Some(before) = here.get(name).or_else(|| self.variables.get(name)).filter(|_| append) {
            value = format!("{before} {value}");
        }
        if value.len() > LONGEST {
            return Err(ImportError::new(at, format!("the value of {name} is too long")));
        }
        match (local, &mut self.open) {
            (true, Some(rule)) => rule.variables.insert(name.to_string(), value),
            (true, None) => return Err(ImportError::new(at, "this variable belongs to no rule")),
            (false, _) => self.variables.insert(name.to_string(), value),
        };
        Ok(())
    }

    fn directive(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [".SIZE", file, size] => {
                self.sizes.insert(file.to_string(), size.to_string());
                Ok(())
            }
            [".MAKEFLOW", name @ ("CATEGORY" | "CORES" | "MEMORY" | "DISK"), value] => {
                let local = self.open.is_some();
                self.assign(at, name, false, value, local)
            }
            [".MAKEFLOW", "MODE", _] => {
                self.warnings.push(format!("line {at}: the allocation mode is left out"));
                Ok(())
            }
            _ => Err(ImportError::new(at, format!("the directive {} is not supported", words[0]))),
        }
    }

    fn end_rule(&mut self) -> Result<(), ImportError> {
        let Some(mut rule) = self.open.take() else { return Ok(()) };
        if rule.command.is_none() {
            return Err(ImportError::new(rule.line, "this rule has no command; it begins with a tab"));
        }
        // Resources are those in force where the rule stands.
        for name in ["CATEGORY", "CORES", "MEMORY", "GPUS", "DISK", "WALL_TIME"] {
            if let (None, Some(value)) = (rule.variables.get(name), self.variables.get(name)) {
                rule.variables.insert(name.into(), value.clone());
            }
        }
        self.rules.push(rule);
        Ok(())
    }

    /// Replaces `$NAME`, `$(NAME)` and `${NAME}` where the file defines them. Others become `${NAME}`, which is the shell's.
    fn expand(&self, text: &str, local: &Variables) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            if let Some(tail) = after.strip_prefix('$').filter(|_| !before.ends_with('\\')) {
                expanded.push('$');
                rest = tail;
                continue;
            }
            let (name, tail) = variable(after);
            let value = local.get(name).or_else(|| self.variables.get(name)).filter(|_| !before.ends_with('\\'));
            match value {
                Some(value) => expanded.push_str(value),
                None if name.is_empty() || before.ends_with('\\') => expanded.push('$'),
                None => expanded.push_str(&format!("${{{name}}}")),
            }
            rest = if name.is_empty() || before.ends_with('\\') { after } else { tail };
            if expanded.len() > LONGEST {
                return Err("this line becomes too long when its variables are replaced".into());
            }
        }
        Ok(expanded + rest)
    }

    fn write(mut self, options: &Options) -> Result<Imported, ImportError> {
        let mut document =
            Document::new("Imported from Makeflow rules.", options.name.as_deref().unwrap_or("makeflow"));
        let exported: Vec<_> =
            self.exported.iter().filter_map(|name| Some((name, self.variables.get(name)?))).collect();
        let exported: BTreeMap<_, _> = exported.into_iter().collect();
        if !exported.is_empty() {
            document.section("[job.env]");
            exported.iter().for_each(|(name, value)| document.field(&quote(name), quote(value)));
        }
        let mut names = Names::default();
        for rule in &self.rules {
            document.task(&names.unique(&rule.outputs[0]));
            rule.write(&self.sizes, &mut document, &mut self.warnings);
        }
        Ok(Imported { toml: document.finish(), warnings: self.warnings })
    }
}

impl Rule {
    fn write(&self, sizes: &BTreeMap<String, String>, document: &mut Document, warnings: &mut Vec<String>) {
        if let Some(category) = self.variables.get("CATEGORY") {
            document.field("class", quote(category));
        }
        document.field("command", quote(&protect(self.command.as_deref().unwrap_or_default(), &["name"])));
        let files = |files: &[String]| {
            let entries = files.iter().map(|file| {
                let name = quote(&protect(file, &["name"]));
                // Makeflow gives sizes in bytes or with a unit, as they are written here.
                match sizes.get(file).filter(|size| crate::job::units::parse_size(size).is_ok()) {
                    Some(size) => format!("{{ file = {name}, size = {} }}", quote(size)),
                    None => name,
                }
            });
            list(&entries.collect::<Vec<_>>())
        };
        let inputs: Vec<String> = self.inputs.iter().filter(|input| !self.outputs.contains(input)).cloned().collect();
        if inputs.len() < self.inputs.len() {
            warnings.push(format!("line {}: a file that this rule reads and writes counts as output only", self.line));
        }
        if !inputs.is_empty() {
            document.field("inputs", files(&inputs));
        }
        document.field("outputs", files(&self.outputs));
        self.write_resources(document, warnings);
    }

    fn write_resources(&self, document: &mut Document, warnings: &mut Vec<String>) {
        for (name, key, unit) in
            [("CORES", "cpus", ""), ("GPUS", "gpus", ""), ("MEMORY", "memory", "M"), ("WALL_TIME", "time", "s")]
        {
            let Some(value) = self.variables.get(name) else { continue };
            match value.parse::<u32>().ok().filter(|number| *number > 0 && (!unit.is_empty() || *number <= 1024)) {
                Some(number) if unit.is_empty() => document.field(key, number.to_string()),
                Some(number) => document.field(key, quote(&format!("{number}{unit}"))),
                None => warnings.push(format!("line {}: {name} = {value} is left out", self.line)),
            }
        }
        if self.variables.contains_key("DISK") {
            warnings.push(format!("line {}: DISK is left out; disk space is not a resource here", self.line));
        }
    }
}

/// Takes `NAME = value` or `NAME += value` apart.
fn assignment(line: &str) -> Option<(&str, bool, &str)> {
    let (name, value) = line.split_once('=')?;
    let (name, append) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
    let name = name.trim();
    crate::job::template::is_identifier(name).then_some((name, append, value))
}

/// The variable that follows a `$`, and what follows it; empty if there is none.
fn variable(after: &str) -> (&str, &str) {
    for (open, close) in [('(', ')'), ('{', '}')] {
        if let Some((name, tail)) = after.strip_prefix(open).and_then(|inside| inside.split_once(close)) {
            return if crate::job::template::is_identifier(name) { (name, tail) } else { ("", after) };
        }
    }
    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    let name = &after[..end];
    if crate::job::template::is_identifier(name) { (name, &after[end..]) } else { ("", after) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_variables_and_resources() {
        let text = "CONVERT=/usr/bin/convert\nCORES=2\nexport MODE=fast\n.SIZE a.jpg 3M\n\nb.jpg: a.jpg \\\n  c.cfg\n\t$(CONVERT) -swirl 90 a.jpg $@x ${HOME} b.jpg\n\nd.gif: b.jpg\n@CATEGORY=join\n\tLOCAL join b.jpg > d.gif\n";
        let imported = makeflow(text, &Options::default()).unwrap();
        for part in [
            "/usr/bin/convert -swirl 90 a.jpg $@x ${HOME} b.jpg",
            "inputs = [{ file = \"a.jpg\", size = \"3M\" }, \"c.cfg\"]",
            "outputs = [\"b.jpg\"]",
            "cpus = 2",
            "\"MODE\" = \"fast\"",
            "class = \"join\"",
            "command = \"join b.jpg > d.gif\"",
        ] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        assert_eq!(imported.warnings.len(), 1);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("a: b\n", 1),
            ("\ttrue\n", 1),
            ("a: b\n\ttrue\n\tfalse\n", 3),
            ("a: b\n\tMAKEFLOW x\n", 2),
            ("a->c: b\n\ttrue\n", 1),
            ("nonsense\n", 1),
            ("{\"rules\":[]}", 1),
            ("\n.UMBRELLA SPEC x\n", 2),
            (": b\n\ttrue\n", 1),
            ("# nothing\n", 1),
        ] {
            assert_eq!(makeflow(text, &Options::default()).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn variables_cannot_grow_without_end() {
        let mut text = String::from("A=xxxxxxxxxxxxxxxx\n");
        (0..40).for_each(|_| text.push_str("A=$(A)$(A)\n"));
        assert!(makeflow(&text, &Options::default()).is_err());
    }
}
