//! `GET /v1/models`, `/v1/models/{id}`: what can be named in `model`.

use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::registry::Generation;

fn card(app: &App, id: &str, kind: &str) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": app.started,
        "owned_by": "lorakit",
        "root": app.settings.base_name,
        "parent": null,
        "max_model_len": app.engine.longest(),
        "kind": kind,
        "adapter": null,
        "adapter_generation": null,
        "adapter_version": null,
        "greeting": null,
        "description": null,
        "permission": [],
    })
}

fn stamp(card: &mut Value, generation: &Generation) {
    card["created"] = json!(generation.version.published);
    card["adapter"] = json!(generation.name);
    card["adapter_generation"] = json!(generation.version.id());
    card["adapter_version"] = json!(generation.version.version);
}

/// All models: the base, adapters, assistants.
pub(super) fn all(app: &App) -> Value {
    let mut cards = vec![card(app, &app.settings.base_name, "base")];
    for (name, generation) in app.registry.published().iter() {
        let mut card = card(app, name, "adapter");
        card["root"] = json!(name);
        card["parent"] = json!(app.settings.base_name);
        stamp(&mut card, generation);
        cards.push(card);
    }
    for assistant in app.assistants.load().iter() {
        let mut card = card(app, &assistant.name, "assistant");
        let adapter = assistant.adapter.as_deref();
        card["parent"] = json!(adapter.unwrap_or(&app.settings.base_name));
        card["adapter"] = json!(adapter);
        card["greeting"] = json!(assistant.greeting);
        card["description"] = json!(assistant.description);
        card["language"] = json!(assistant.language);
        if let Some(generation) = adapter.and_then(|name| app.registry.current(name)) {
            stamp(&mut card, &generation);
        }
        cards.push(card);
    }
    json!({"object": "list", "data": cards})
}

/// # Errors
/// 404 for one that there is not.
pub(super) fn one(app: &App, id: &str) -> Result<Value, ApiError> {
    let all = all(app);
    let found = all["data"].as_array().and_then(|cards| cards.iter().find(|card| card["id"] == id));
    found
        .cloned()
        .ok_or_else(|| ApiError::not_found("model_not_found", format!("there is no model `{id}`; GET /v1/models lists them")))
}
