//! `--only KEY=VALUE|VALUE,KEY=VALUE`: the instances and settings that are run.

use std::collections::BTreeMap;

use super::instance::Instance;
use super::setting::Setting;

/// What `--only` can name.
const KEYS: [&str; 11] =
    ["name", "family", "half", "knowledge", "tasks", "delay", "minimum", "nodes", "fault", "intent", "setting"];

/// The accepted values of some properties.
#[derive(Clone, Debug, Default)]
pub struct Selection(BTreeMap<String, Vec<String>>);

impl Selection {
    /// Parses the argument of `--only`.
    pub fn parse(text: &str) -> Result<Selection, String> {
        let mut wanted = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, values) = part.split_once('=').ok_or(format!("`{part}` is not KEY=VALUE"))?;
            if !KEYS.contains(&key) {
                return Err(format!("`{key}` is no property; there are {}", KEYS.join(", ")));
            }
            wanted.insert(key.to_owned(), values.split('|').map(str::to_owned).collect());
        }
        Ok(Selection(wanted))
    }

    fn accepts(&self, key: &str, value: &str) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(|wanted| wanted == value))
    }

    /// True if the workflow of this name and family may be wanted: the rest is known later.
    pub fn has_name(&self, name: &str, family: &str) -> bool {
        self.accepts("name", name) && self.accepts("family", family)
    }

    /// True if this instance is wanted. `tasks=300` means at most 300.
    pub fn has_instance(&self, instance: &Instance) -> bool {
        let most = self.0.get("tasks").and_then(|values| values.first()).and_then(|n| n.parse::<u32>().ok());
        self.accepts("half", &instance.half().to_string())
            && self.accepts("knowledge", instance.knowledge.name())
            && most.is_none_or(|most| instance.prepared.tasks() <= most)
    }

    /// True if this setting is wanted.
    pub fn has_setting(&self, setting: &Setting) -> bool {
        self.accepts("delay", &setting.delay_s.to_string())
            && self.accepts("minimum", &setting.minimum_s.to_string())
            && self.accepts("nodes", &setting.nodes.to_string())
            && self.accepts("fault", setting.fault.name())
            && self.accepts("intent", setting.intent_name())
            && self.accepts("setting", &setting.number.to_string())
    }
}
