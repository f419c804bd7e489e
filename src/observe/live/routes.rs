//! The paths that are read by GET: one table for the server and for the description of the API.

use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Live, api, gantt, metrics, openapi};

/// The media type of answers in JSON.
pub(super) const JSON: &str = "application/json";

/// The function that computes an answer.
type Endpoint = Box<dyn Fn(&Live, &Query) -> String + Send + Sync>;

/// A path that is read by GET.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// The media type of the answer.
    pub(super) media_type: &'static str,
    /// The schema of the answer.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    /// Computes the answer.
    pub(super) answer: Endpoint,
}

/// A parameter of the query string. Every parameter has a default.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) json_type: &'static str,
    pub(super) description: &'static str,
}

impl Parameter {
    /// Its description in the form of OpenAPI.
    pub(super) fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "in": "query",
            "required": false,
            "schema": { "type": self.json_type },
            "description": self.description,
        })
    }
}

const FROM: Parameter =
    Parameter { name: "from", json_type: "number", description: "Seconds since the session began [0]." };
const TO: Parameter =
    Parameter { name: "to", json_type: "number", description: "Seconds since the session began [now]." };
const POINTS: Parameter = Parameter {
    name: "points",
    json_type: "integer",
    description: "Maximum number of points, up to 1000 [300]; of more samples several are combined.",
};
const COLUMNS: Parameter =
    Parameter { name: "columns", json_type: "integer", description: "Number of columns, up to 400 [240]." };

/// All paths that are read by GET, but for the page itself.
pub(super) static ROUTES: LazyLock<[Route; 13]> = LazyLock::new(|| {
    [
        path("/api/v1/run", "The state of the run.", &[], |live, _| api::run(live)),
        path("/api/v1/ranks", "The ranks, and what each has done.", &[], |live, _| api::ranks(live)),
        path("/api/v1/nodes", "The nodes of the session, and how each spent its time.", &[], |live, _| {
            api::nodes(live)
        }),
        path("/api/v1/classes", "Run times by class of tasks.", &[], |live, _| api::classes(live)),
        path("/api/v1/history", "The progress of the run over time.", &[FROM, TO, POINTS], |live, query| {
            api::history(live, query.number("from"), query.number("to"), query.number("points"))
        }),
        path("/api/v1/timeline", "What ran where.", &[FROM, TO, COLUMNS], |live, query| {
            gantt::timeline(live, query.number("from"), query.number("to"), query.number("columns"))
        }),
        path("/api/v1/decisions", "The latest scaling decisions, the latest first.", &[], |live, _| {
            api::decisions(live)
        }),
        path("/api/v1/sites", "The sites of the job, as of the last request for nodes.", &[], |live, _| {
            api::sites(live)
        }),
        path(
            "/api/v1/spend",
            "The cost of the run over time, as billed; empty if nodes have no price.",
            &[POINTS],
            |live, query| api::spend(live, query.number("points")),
        ),
        path("/api/v1/measures", "Values that tasks wrote to `$PHALANX_METRICS`, by name.", &[], |live, _| {
            api::measures(live)
        }),
        path("/api/v1/failures", "The latest failures.", &[], |live, _| api::failures(live)),
        Route {
            path: "/api/v1/openapi.json",
            summary: "This description.",
            parameters: &[],
            media_type: JSON,
            schema: |_| json_schema!({ "type": "object" }),
            answer: Box::new(|_, _| openapi::document().to_owned()),
        },
        Route {
            path: "/metrics",
            summary: "The metrics of the run for Prometheus.",
            parameters: &[],
            media_type: "text/plain; version=0.0.4; charset=utf-8",
            schema: |_| json_schema!({ "type": "string" }),
            answer: Box::new(|live, _| metrics::text(live)),
        },
    ]
});

/// A path whose answer is a value of type `T` in JSON.
fn path<T: Serialize + JsonSchema>(
    path: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    answer: impl Fn(&Live, &Query) -> T + Send + Sync + 'static,
) -> Route {
    Route {
        path,
        summary,
        parameters,
        media_type: JSON,
        schema: |generator| generator.subschema_for::<T>(),
        answer: Box::new(move |live, query| to_json(&answer(live, query))),
    }
}

/// An answer in JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    // Serializing these structures cannot fail.
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// The query string. Invalid values count as absent.
pub(super) struct Query<'a>(pub(super) &'a str);

impl Query<'_> {
    /// The value of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
    }

    /// The value of a parameter, if it is a number of this type.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_leniently() {
        let query = Query("from=1.5&to=x&&token=abc&from=9");
        assert_eq!((query.number("from"), query.number::<f64>("to")), (Some(1.5), None));
        assert_eq!((query.text("token"), query.text("fro")), (Some("abc"), None));
    }
}
