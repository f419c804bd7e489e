//! The JSON Schema of the job file, with which editors complete and check TOML.

use serde_json::{Value, json};

use super::read::Read;
use super::spec::FileSpec;

/// JSON Schema (draft 2020-12) of the job file, with the documentation of every field.
pub fn schema() -> Value {
    let mut schema = FileSpec::schema();
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".into(), json!("Phalanx job"));
        object.insert("required".into(), json!(["task"]));
    }
    if let Some(task) = schema.pointer_mut("/properties/task/items").and_then(Value::as_object_mut) {
        task.insert(
            "oneOf".into(),
            json!([{ "required": ["command"] }, { "required": ["kernel"] }, { "required": ["graph", "operation"] }]),
        );
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_description() {
        let schema = schema();
        for pointer in ["/properties/job", "/properties/defaults", "/properties/task/items"] {
            let fields = schema.pointer(pointer).and_then(|s| s["properties"].as_object()).unwrap();
            assert!(fields.len() > 5, "{pointer}");
            for (name, field) in fields {
                assert!(field["description"].as_str().is_some_and(|text| text.len() > 10), "{pointer} {name}");
            }
        }
    }

    #[test]
    fn nested_tables_are_closed() {
        let schema = schema();
        assert_eq!(schema["properties"]["task"]["items"]["properties"]["mpi"]["additionalProperties"], false);
    }
}
