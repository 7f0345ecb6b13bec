//! Adapters at run time, in the spellings of vLLM, mistral.rs and llama.cpp.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::registry::{Act, LoadAct, Refusal};
use super::target::{self, MOST_PARTS, off_the_runtime};

/// Acts on adapters that may wait for one another.
const MOST_ACTS: usize = 16;

pub(super) const LOAD: [Field; 5] = [
    required("lora_name", Kind::Text(128), "The name that requests give."),
    required("lora_path", Kind::Text(128), "The name of a folder below the folder of adapters; no path."),
    field("load_inplace", Kind::Bool, "What the name stands for is replaced."),
    field("expected_generation", Kind::Text(64), "Only if the name stands for this generation now; with `load_inplace` alone."),
    field("base_model_name", Kind::Text(512), "Not read: there is one base."),
];

pub(super) const UNLOAD: [Field; 2] = [
    required("lora_name", Kind::Text(128), "The name that is taken away."),
    field("lora_int_id", Kind::Integer(0, i64::MAX), "Not read: names are enough."),
];

pub(super) const ROLL_BACK: [Field; 2] = [
    required("lora_name", Kind::Text(128), "The name."),
    required("generation", Kind::Text(64), "An earlier generation of it, by its id."),
];

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Off => {
                let message = "adapters cannot be changed here: the server was started without --adapters";
                ApiError::new(StatusCode::BAD_REQUEST, "adapters_off", message)
            }
            Refusal::There(name) => {
                let message = format!("The lora adapter '{name}' has already been loaded; `load_inplace: true` replaces it");
                ApiError::field("lora_name", message)
            }
            Refusal::Other { expected, is } => {
                let is = is.map_or("nothing".to_string(), |is| format!("`{is}`"));
                let message = format!("the name stands for {is}, not for `{expected}` as expected");
                ApiError::new(StatusCode::CONFLICT, "lora_generation_mismatch", message).at("expected_generation")
            }
            Refusal::Unknown(name) => {
                ApiError::not_found("lora_adapter_not_found", format!("The lora adapter '{name}' cannot be found"))
                    .at("lora_name")
            }
            Refusal::UnknownGeneration(id) => {
                ApiError::not_found("lora_generation_not_found", format!("no generation `{id}` of this name is kept"))
                    .at("generation")
            }
            Refusal::Bad(error) => {
                let missing = error.to_string().contains("No such file");
                let error = ApiError::from(error);
                if missing { ApiError { status: StatusCode::NOT_FOUND, ..error } } else { error }.at("lora_path")
            }
        }
    }
}

/// One of the acts that may go on or wait at once; it counts until its work has ended, whoever still waits for it.
struct Acting(Arc<App>);

impl Drop for Acting {
    fn drop(&mut self) {
        self.0.acts.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs an act off the runtime, few at once.
async fn act(app: &Arc<App>, work: impl FnOnce(&App) -> Result<Act, Refusal> + Send + 'static) -> Result<Act, ApiError> {
    let taken = app.acts.fetch_add(1, Ordering::SeqCst);
    let acting = Acting(app.clone());
    if taken >= MOST_ACTS {
        return Err(ApiError::busy("lora_load_busy", "other adapters are being loaded; try again in a moment"));
    }
    off_the_runtime(move || work(&acting.0)).await
}

fn told(text: String, act: &Act) -> Response<Body> {
    let (generation, version) = (act.generation.version.id().to_string(), act.generation.version.version);
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.extend(generation.parse().map(|value| ("x-adapter-generation".parse().ok(), value)).ok());
    headers.extend(version.to_string().parse().map(|value| ("x-adapter-version".parse().ok(), value)).ok());
    response
}

/// `POST /v1/load_lora_adapter`.
///
/// # Errors
/// 400, 404, 409, 429 as the API says.
pub(super) async fn load(app: Arc<App>, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &[&LOAD])?;
    let own = |name: &str| fields.text(name).unwrap_or_default().to_string();
    let (name, folder) = (own("lora_name"), own("lora_path"));
    let expected = fields.text("expected_generation").map(str::to_string);
    let replace = fields.bool("load_inplace").unwrap_or(false);
    if expected.is_some() && !replace {
        return Err(ApiError::field("expected_generation", "`expected_generation` needs `load_inplace: true`"));
    }
    let taken = name == app.settings.base_name || name == "base" || app.assistants.load().get(&name).is_some();
    if taken {
        return Err(ApiError::field("lora_name", format!("`{name}` is the name of the base or of an assistant")));
    }
    let done = act(&app, {
        let name = name.clone();
        move |app| {
            let act = LoadAct { name: &name, folder: &folder, replace, expected: expected.as_deref(), ..LoadAct::default() };
            app.registry.load(&act)
        }
    })
    .await?;
    app.metrics.swapped();
    let notes = done.loaded.notes.iter().map(|note| format!("\nnote: {note}")).collect::<String>();
    Ok(told(format!("Success: LoRA adapter '{name}' added successfully.{notes}"), &done))
}

/// `POST /v1/unload_lora_adapter`.
///
/// # Errors
/// 400, 404 as the API says.
pub(super) async fn unload(app: Arc<App>, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &[&UNLOAD])?;
    let name = fields.text("lora_name").unwrap_or_default().to_string();
    let (shared, own) = (app.clone(), name.clone());
    off_the_runtime(move || shared.registry.unload(&own)).await?;
    app.metrics.swapped();
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

/// `POST /v1/rollback_lora_adapter`.
///
/// # Errors
/// 400, 404 as the API says.
pub(super) async fn roll_back(app: Arc<App>, body: Bytes) -> Result<Response<Body>, ApiError> {
    let fields = Fields::read(&body, &[&ROLL_BACK])?;
    let own = |name: &str| fields.text(name).unwrap_or_default().to_string();
    let (name, id) = (own("lora_name"), own("generation"));
    let done = act(&app, {
        let name = name.clone();
        move |app| app.registry.roll_back(&name, &id)
    })
    .await?;
    app.metrics.swapped();
    Ok(told(format!("Success: LoRA adapter '{name}' answers in generation {}.", done.generation.version.id()), &done))
}

/// `GET /v1/lora_adapters`.
pub(super) fn list(app: &App) -> Value {
    let published = app.registry.published();
    let one = |(name, generation): (&String, &Arc<super::registry::Generation>)| {
        let version = &generation.version;
        let loaded = app.registry.cache.look(&version.hash);
        let history = app.registry.versions(name);
        let history: Vec<Value> =
            history.iter().map(|v| json!({"generation": v.id(), "version": v.version, "published": v.published})).collect();
        json!({
            "id": name,
            "generation": version.id(),
            "version": version.version,
            "rank": loaded.as_ref().map(|l| l.rank),
            "bytes": loaded.as_ref().map(|l| l.bytes),
            "notes": loaded.as_ref().map(|l| l.notes.clone()),
            "state": if loaded.is_some() { "loaded" } else { "on_disk" },
            "requests": generation.requests(),
            "published": version.published,
            "history": history,
        })
    };
    let data: Vec<Value> = published.iter().map(one).collect();
    let all = published.values().cloned().chain(app.registry.retired());
    let generations: Vec<Value> = all
        .map(|g| json!({"generation": g.version.id(), "id": g.name, "version": g.version.version, "leases": g.requests()}))
        .collect();
    let broken = app.registry.broken.iter().map(|(name, why)| json!({"id": name, "why": why}));
    let (bytes, loaded) = app.registry.cache.occupied();
    let limits = &app.registry.cache.limits;
    json!({
        "object": "list",
        "data": data,
        "generations": generations,
        "broken": broken.collect::<Vec<_>>(),
        "limits": {
            "max_rank": limits.rank,
            "max_file_bytes": limits.file_bytes,
            "budget_bytes": limits.budget,
            "occupied_bytes": bytes,
            "loaded": loaded,
        },
    })
}

/// `GET /lora-adapters`: llama.cpp's list. An id is a name's for good; with the scales at which each acts on the base where a request gives none.
pub(super) fn list_by_index(app: &App) -> Value {
    let scales = app.scales.load();
    let scale = |name: &str| scales.iter().find(|(known, _)| known == name).map_or(0.0, |(_, scale)| *scale);
    let published = app.registry.published();
    let mut listed: Vec<_> = published.values().collect();
    listed.sort_by_key(|generation| generation.index);
    listed.into_iter().map(|g| json!({"id": g.index, "path": g.name, "scale": scale(&g.name)})).collect()
}

/// `POST /lora-adapters`: the scales of requests from now on that ask the base and give none; until the server ends.
///
/// # Errors
/// 400 for a body that is no list of `{id, scale}`, and for ids that there are not.
pub(super) async fn set_scales(app: Arc<App>, body: Bytes) -> Result<Response<Body>, ApiError> {
    let list: Value = serde_json::from_slice(&body).map_err(|e| ApiError::field("body", format!("the body is not JSON: {e}")))?;
    let list = list.as_array().filter(|list| list.len() <= MOST_PARTS);
    let list =
        list.ok_or_else(|| ApiError::field("body", format!("the body is no list of at most {MOST_PARTS} of {{id, scale}}")))?;
    let scales = target::scales(&app, list, "body")?;
    app.scales.store(Arc::new(scales));
    Ok(axum::Json(json!({"success": true})).into_response())
}
