//! The value of `container`: the image of a task, or none.

use serde_json::{Value, json};
use toml::de::DeValue;

use super::WordValue;
use crate::job::container::ContainerRuntime;
use crate::job::diagnostic::Findings;
use crate::job::read::{Read, TomlNode, mismatch};
use crate::job::spec::ContainerTable;

/// The container of a task; `None` for a task that has none although `[defaults]` names one.
#[derive(Clone, Debug)]
pub(crate) struct ContainerUse(pub Option<ContainerTable>);

impl Read for ContainerUse {
    fn expected() -> String {
        "a table with an `image`, or false".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [{ "const": false }, ContainerTable::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref() {
            DeValue::Boolean(false) => Some(ContainerUse(None)),
            DeValue::Table(_) => ContainerTable::read(key, node, findings).map(|table| ContainerUse(Some(table))),
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}

impl WordValue for ContainerRuntime {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("auto", ContainerRuntime::Auto, "the first that is installed and runs images of this kind"),
        ("apptainer", ContainerRuntime::Apptainer, "Apptainer, else Singularity"),
        ("charliecloud", ContainerRuntime::Charliecloud, "Charliecloud (ch-run)"),
        ("podman", ContainerRuntime::Podman, "Podman"),
    ];
}
