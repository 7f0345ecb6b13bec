//! The OpenAPI document, and the list of routes for people, of the table of routes.

use serde_json::{Map, Value, json};

use super::auth::Class;
use super::fields;
use super::routes::{self, Route};

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in routes::all() {
        let method = route.method.as_str().to_ascii_lowercase();
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[method] = operation(&route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lorakit serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One base model, many adapters. Errors have OpenAI's form. A field that is not listed is a 400 that names it.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": "string"},
                    },
                }},
            }},
        },
    })
}

fn operation(route: &Route) -> Value {
    let content = route.content.split(';').next().unwrap_or(route.content);
    let mut responses = Map::new();
    let mut ok = Map::from_iter([(content.to_string(), json!({}))]);
    if route.body.is_some_and(|tables| tables.iter().any(|t| t.iter().any(|f| f.name == "stream"))) {
        ok.insert("text/event-stream".into(), json!({}));
    }
    responses.insert("200".into(), json!({"description": "Done", "content": ok}));
    let mut statuses: Vec<u16> = route.statuses.to_vec();
    // A foreign host or origin is a 403 on every route; what is no route's fault is a 500.
    statuses.push(403);
    if route.class != Class::Open {
        statuses.push(401);
    }
    statuses.sort_unstable();
    for status in statuses {
        let error = json!({"description": "Refused", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}});
        responses.insert(status.to_string(), error);
    }
    let mut operation =
        json!({"summary": route.doc, "description": format!("Class: {}.", route.class.name()), "responses": responses});
    if let Some(tables) = route.body {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": fields::schema(tables)}}});
    } else if route.method == axum::http::Method::POST {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": list_of_scales()}}});
    }
    if route.class != Class::Open {
        // Without keys nobody needs one.
        operation["security"] = json!([{}, {"key": []}]);
    }
    if let Some((_, parameter)) = route.path.split_once('{') {
        let name = parameter.trim_end_matches('}');
        operation["parameters"] = json!([{"name": name, "in": "path", "required": true, "schema": {"type": "string"}}]);
    }
    operation
}

fn list_of_scales() -> Value {
    let entry = json!({
        "type": "object",
        "required": ["id"],
        "additionalProperties": false,
        "properties": {
            "id": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
            "scale": {"type": "number", "minimum": -100, "maximum": 100},
        },
    });
    json!({"type": "array", "maxItems": super::target::MOST_PARTS, "items": entry})
}

/// The table of routes in Markdown, for `docs/security.md`.
pub fn routes_in_markdown() -> String {
    let mut table = "| method | path | class | what |\n|---|---|---|---|\n".to_string();
    for Route { method, path, class, doc, .. } in routes::all() {
        table.push_str(&format!("| {method} | `{path}` | {} | {doc} |\n", class.name()));
    }
    table
}
