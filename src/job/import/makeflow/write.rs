//! Writes the rules as tasks of a job file.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::variables::{DEFAULT, END};
use super::{MakeRule, MakeflowReader};
use crate::job::import::write::{JobFileWriter, TaskNames, protect, table};
use crate::job::import::{Imported, Options};

impl MakeflowReader {
    pub(super) fn write(mut self, options: &Options) -> Imported {
        let name = options.job_name(None, "makeflow");
        let mut document = JobFileWriter::new("Imported from Makeflow rules.", name);
        self.exported.sort_unstable();
        self.exported.dedup();
        let rules = std::mem::take(&mut self.rules);
        let (shared, own): (Vec<&String>, Vec<&String>) = self.exported.iter().partition(|name| {
            let mut values = rules.iter().map(|rule| self.value(rule, name));
            let first = values.next().flatten();
            values.all(|value| value == first)
        });
        if rules.iter().any(|rule| shared.iter().any(|name| self.value(rule, name).is_some())) {
            document.section("[job.env]");
            for name in &shared {
                if let Some(value) = rules.first().and_then(|rule| self.value(rule, name)) {
                    document.field(&Value::from(name.as_str()).to_string(), value);
                }
            }
        }
        let mut names = TaskNames::default();
        let mut warnings = Vec::new();
        for rule in &rules {
            document.task(&names.unique(rule.outputs.first().map_or("rule", String::as_str)));
            self.write_rule(rule, &mut document, &mut warnings);
            let env = own.iter().filter_map(|name| Some((name, self.value(rule, name)?)));
            let env: Table = env.map(|(name, value)| (name.to_string(), protect(value, &["name"]).into())).collect();
            document.optional("env", Some(env).filter(|env| !env.is_empty()));
        }
        self.warnings.extend(warnings);
        Imported { toml: document.finish(), warnings: self.warnings }
    }

    /// The value of a variable for a rule.
    fn value<'a>(&'a self, rule: &'a MakeRule, name: &str) -> Option<&'a str> {
        let own = rule.variables.get(name).map(String::as_str);
        own.or_else(|| self.variables.get(&rule.category, name, rule.number))
    }

    fn write_rule(&self, rule: &MakeRule, document: &mut JobFileWriter, warnings: &mut Vec<String>) {
        if rule.category != DEFAULT {
            document.field("class", rule.category.as_str());
        }
        document.field("command", protect(&rule.command, &["name"]));
        let inputs: Vec<&String> = rule.inputs.iter().filter(|input| !rule.outputs.contains(input)).collect();
        if inputs.len() < rule.inputs.len() {
            warnings.push(format!("line {}: a file that this rule reads and writes counts as output only", rule.line));
        }
        for (key, files) in [("inputs", inputs), ("outputs", rule.outputs.iter().collect())] {
            document.list(key, files.into_iter().map(|file| declared(file, &self.sizes)));
        }
        self.write_resources(rule, document, warnings);
    }

    /// Resources of the rule itself take precedence over those of its category at the end of the
    /// file.
    fn write_resources(&self, rule: &MakeRule, document: &mut JobFileWriter, warnings: &mut Vec<String>) {
        for (name, key, unit) in
            [("CORES", "cpus", ""), ("GPUS", "gpus", ""), ("MEMORY", "memory", "M"), ("WALL_TIME", "time", "s")]
        {
            let own = rule.variables.get(name).map(String::as_str);
            let Some(value) = own.or_else(|| self.variables.get(&rule.category, name, END)) else { continue };
            match value.trim().parse::<u32>().ok().filter(|number| !unit.is_empty() || *number <= 1024) {
                // No request.
                Some(0) => {}
                Some(number) if unit.is_empty() => document.field(key, number),
                Some(number) => document.field(key, format!("{number}{unit}")),
                None => warnings.push(format!("line {}: {name} = {value} is left out", rule.line)),
            }
        }
    }
}

/// A file with its size, if that is known.
fn declared(file: &str, sizes: &BTreeMap<String, String>) -> Value {
    let name = Value::from(protect(file, &["name"]));
    // Makeflow sizes are in bytes or have a unit, as in job files.
    match sizes.get(file).filter(|size| crate::job::units::parse_size(size).is_ok()) {
        Some(size) => table([("file", name), ("size", size.as_str().into())]),
        None => name,
    }
}
