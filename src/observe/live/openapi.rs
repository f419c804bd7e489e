//! The description of the API (OpenAPI 3.1), made from the tables of paths and from the types of
//! the answers: their comments are its descriptions.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::routes::{JSON, Parameter, ROUTES};
use super::steer::{CHANGES, Did};

const ABOUT: &str = "What `phalanx run --listen` serves. GET changes nothing. POST requests a change of the run, \
as the command of the same name does; the run records it in its journal. Times are in seconds; unless stated \
otherwise they count from the beginning of the session.";

/// Why a request was not answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ApiError {
    /// The reason, as text for a person.
    pub(super) error: String,
}

/// The description of the API, in JSON.
pub(super) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut description = describe();
        join_lines(&mut description);
        description.to_string()
    });
    &DOCUMENT
}

fn describe() -> Value {
    let by_name = |settings: &mut SchemaSettings| settings.definitions_path = "/components/schemas".into();
    let mut answers = SchemaSettings::draft2020_12().for_serialize().with(by_name).into_generator();
    let in_place = |settings: &mut SchemaSettings| settings.inline_subschemas = true;
    let mut bodies = SchemaSettings::draft2020_12().with(in_place).into_generator();
    let error = answers.subschema_for::<ApiError>();
    let did = answers.subschema_for::<Did>();
    let mut paths = Map::new();
    for route in ROUTES.iter() {
        let operation = json!({
            "summary": route.summary,
            "parameters": route.parameters.iter().map(Parameter::describe).collect::<Vec<_>>(),
            "responses": {
                "200": response(route.summary, route.media_type, &(route.schema)(&mut answers)),
                "401": response("The token is missing or wrong.", JSON, &error),
                "503": response("The run cannot be read yet, or no longer.", JSON, &error),
            },
        });
        paths.insert(route.path.to_owned(), json!({ "get": operation }));
    }
    for change in &CHANGES {
        let operation = json!({
            "summary": change.summary,
            "security": [{ "bearer": [] }],
            "requestBody": {
                "required": change.needs_body,
                "content": { JSON: { "schema": (change.schema)(&mut bodies) } },
            },
            "responses": {
                "200": response("The run carries it out.", JSON, &did),
                "400": response("The body is not as described.", JSON, &error),
                "401": response("The token is missing or wrong; this requires it in the header.", JSON, &error),
                "409": response("The run refuses it, or can carry out only a part.", JSON, &did),
                "413": response("The body is too large.", JSON, &error),
                "503": response("The run cannot be reached any more.", JSON, &did),
            },
        });
        paths.insert(change.path.to_owned(), json!({ "post": operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Phalanx: a run", "version": "1", "description": ABOUT },
        "security": [{ "bearer": [] }, { "query": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "The token that the run printed." },
                "query": { "type": "apiKey", "in": "query", "name": "token" },
            },
            "schemas": answers.take_definitions(true),
        },
    })
}

/// Joins the lines of comments that are descriptions.
fn join_lines(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(join_lines),
        Value::Array(list) => list.iter_mut().for_each(join_lines),
        Value::String(text) => *text = text.replace('\n', " "),
        _ => {}
    }
}

/// The description of a possible response.
fn response(description: &str, media_type: &str, schema: &Schema) -> Value {
    // The parameters of the media type matter to no client.
    let media_type = media_type.split(';').next().unwrap_or(media_type);
    json!({ "description": description, "content": { media_type: { "schema": schema } } })
}
