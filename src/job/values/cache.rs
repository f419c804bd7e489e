//! The value of `cache`: whether and how a task uses the result cache.

use serde_json::{Value, json};
use toml::de::DeValue;

use crate::job::cache::CacheRules;
use crate::job::diagnostic::Findings;
use crate::job::read::{Read, TomlNode, mismatch};
use crate::job::spec::CacheTable;

/// Whether a task uses the cache, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CacheUse(pub Option<CacheRules>);

impl Read for CacheUse {
    fn expected() -> String {
        "true, false, or a table of `salt` and `ignore_env`".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [{ "type": "boolean" }, CacheTable::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref() {
            DeValue::Boolean(uses) => Some(CacheUse(uses.then(CacheRules::default))),
            DeValue::Table(_) => {
                let table = CacheTable::read(key, node, findings)?;
                let names = table.ignore_env.iter().flat_map(|names| &names.value.0);
                Some(CacheUse(Some(CacheRules {
                    salt: table.salt.map(|salt| salt.value).unwrap_or_default(),
                    ignore_env: names.map(|name| name.value.clone()).collect(),
                })))
            }
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}
