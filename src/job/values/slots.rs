//! `[job] slots`: a number of slots, or a range.

use serde_json::{Value, json};
use toml::de::DeValue;

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{Read, TomlNode, Whole, mismatch};
use crate::job::slots::SlotCount;
use crate::job::spec::SlotsTable;
use crate::job::units::shorten;

/// The most slots of a rank.
const MOST: i64 = 65535;

/// A number of slots: 4, or "2x" for two per CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlotCountSpec(pub SlotCount);

impl Read for SlotCountSpec {
    fn expected() -> String {
        "a whole number, or a multiple of the CPUs such as \"2x\"".into()
    }

    fn schema() -> Value {
        let factor = json!({ "type": "string", "pattern": "^[0-9]+([.][0-9]+)?x$", "examples": ["2x"] });
        json!({ "oneOf": [Whole::<1, MOST>::schema(), factor] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            let DeValue::Integer(_) = node.get_ref() else {
                mismatch::<Self>(key, node, findings);
                return None;
            };
            let slots = Whole::<1, MOST>::read(key, node, findings)?;
            return u32::try_from(slots.0).ok().map(|slots| SlotCountSpec(SlotCount::Fixed(slots)));
        };
        let factor = text.strip_suffix('x').and_then(|factor| factor.parse::<f64>().ok());
        match factor.filter(|factor| (0.01..=1000.0).contains(factor)) {
            Some(factor) => Some(SlotCountSpec(SlotCount::PerCpu(factor))),
            None => {
                let error = Diagnostic::error(format!("`{key}`: `{}` is no multiple of the CPUs", shorten(text)));
                findings
                    .push(error.at(&node.span()).help("write for example \"2x\" for two slots per CPU, or a number"));
                None
            }
        }
    }
}

/// A number of slots, or a table with the least and the most.
#[derive(Clone, Debug)]
pub(crate) enum SlotsSpec {
    Count(SlotCount),
    Table(SlotsTable),
}

impl Read for SlotsSpec {
    fn expected() -> String {
        "a number of slots, or a table such as { min = 2, max = \"2x\" }".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [SlotCountSpec::schema(), SlotsTable::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref() {
            DeValue::Table(_) => SlotsTable::read(key, node, findings).map(SlotsSpec::Table),
            DeValue::Integer(_) | DeValue::String(_) => {
                SlotCountSpec::read(key, node, findings).map(|count| SlotsSpec::Count(count.0))
            }
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}
