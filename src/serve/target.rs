//! Who answers a request: the base, an adapter, an assistant, or a sum of adapters, by the names that it gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::app::App;
use super::cache::{Loaded, lock};
use super::error::ApiError;
use super::fields::{Field, Fields, Kind, field, required};
use super::messages;
use super::registry::{Generation, Lease};
use crate::data::Message;
use crate::error::{Error, nearest};
use crate::job::{Assistant, today};
use crate::model::PreparedAdapter;

/// Fields that say who answers.
pub(super) const FIELDS: [Field; 3] = [
    required("model", Kind::Text(512), "An assistant, an adapter, or the base; `base:adapter` and `base::adapter` too."),
    field(
        "adapter",
        Kind::TextOrObject(128),
        "An adapter by name, or `{\"generation\": id}` for one of its generations; in place of the model's own.",
    ),
    field(
        "lora",
        Kind::List(MOST_PARTS),
        "`[{\"id\": index or name, \"scale\": number}]`: the sum of these adapters, and no other; index as in `GET /lora-adapters`.",
    ),
];

/// Adapters of a sum at most.
pub(super) const MOST_PARTS: usize = 16;
/// Largest scale of an adapter in a sum, either way.
const MAX_SCALE: f64 = 100.0;

/// Who answers, and in what generation.
pub(super) struct Target {
    /// As it was asked for.
    pub(super) name: String,
    pub(super) assistant: Option<Box<Assistant>>,
    pub(super) acting: Arc<PreparedAdapter>,
    /// In whose template conversations are rendered.
    pub(super) loaded: Arc<Loaded>,
    /// Each choice holds them as long as it goes on.
    pub(super) leases: Vec<Lease>,
    /// What `adapter_generation` says.
    pub(super) generation: Option<String>,
    pub(super) version: Option<u64>,
    /// The assistant's place among its requests.
    _turnstile: Option<Turnstile>,
}

/// One of the requests that an assistant may have at once.
struct Turnstile(Arc<AtomicUsize>);

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A name, looked up.
enum Named {
    Base,
    Adapter(Arc<Generation>),
    Assistant(Box<Assistant>),
}

impl Target {
    /// # Errors
    /// 404 for a name that there is not, 400 for a sum that cannot be made, 429 where the assistant has enough to do.
    pub(super) async fn of(app: &Arc<App>, fields: &Fields) -> Result<Target, ApiError> {
        let name = fields.text("model").unwrap_or_default().to_string();
        let named = named(app, &name)?;
        let base = matches!(named, Named::Base) && fields.value("adapter").is_none();
        let (assistant, mut generation) = match named {
            Named::Base => (None, None),
            Named::Adapter(generation) => (None, Some(generation)),
            Named::Assistant(assistant) => {
                let adapter = assistant.adapter.as_deref().map(|adapter| adapter_of(app, adapter)).transpose();
                let adapter = adapter.map_err(|e| ApiError { message: format!("assistant `{name}`: {}", e.message), ..e })?;
                (Some(assistant), adapter)
            }
        };
        if let Some(adapter) = fields.value("adapter") {
            generation = chosen(app, adapter)?;
        }
        let turnstile = assistant.as_deref().map_or(Ok(None), |a| enter(app, a))?;
        let own = lease(app, generation.clone()).await?;
        let parts = parts(app, fields, generation.as_ref(), base).await?;
        let mut target = Target {
            name,
            assistant,
            acting: own.loaded.prepared.clone(),
            loaded: own.loaded.clone(),
            generation: generation.as_ref().map(|g| g.version.id().to_string()),
            version: generation.as_ref().map(|g| g.version.version),
            leases: vec![own],
            _turnstile: turnstile,
        };
        if let Some(parts) = parts {
            target.sum(app, parts).await?;
        }
        Ok(target)
    }

    /// Lets the sum of `parts` act.
    async fn sum(&mut self, app: &Arc<App>, parts: Vec<(String, Lease, f64)>) -> Result<(), ApiError> {
        let said = |(_, lease, scale): &(String, Lease, f64)| {
            let id = lease.generation.as_ref().map_or("", |g| g.version.id());
            if *scale == 1.0 { id.to_string() } else { format!("{id}*{scale}") }
        };
        self.generation = Some(parts.iter().map(said).collect::<Vec<_>>().join("+")).filter(|said| !said.is_empty());
        if app.engine.is_full() {
            return Err(ApiError::busy("queue_full", "too many requests wait already; try again in a moment"));
        }
        self.version = match parts.as_slice() {
            [(_, lease, scale)] if *scale == 1.0 => lease.generation.as_ref().map(|g| g.version.version),
            _ => None,
        };
        let shared = app.clone();
        let (acting, leases) = off_the_runtime(move || {
            let acting = shared.mixes.get(&parts, shared.engine.model())?;
            Ok::<_, Error>((acting, parts.into_iter().map(|(_, lease, _)| lease).collect::<Vec<_>>()))
        })
        .await
        .map_err(|e| e.at("lora"))?;
        self.acting = acting;
        self.leases.extend(leases);
        Ok(())
    }

    /// A conversation as who answers gets it: behind an assistant's own prompt, where it brings none.
    ///
    /// # Errors
    /// 400 where the assistant takes no other.
    pub(super) fn conversation(&self, given: Vec<Message>) -> Result<Vec<Message>, ApiError> {
        let assistant = self.assistant.as_deref();
        let system = assistant.map(|a| a.system(&today())).transpose()?.flatten();
        messages::with_system(given, system, assistant.is_some_and(|a| a.system_locked))
    }

    /// What an answer says of who gave it.
    pub(super) fn stamp(&self, object: &mut Value) {
        object["model"] = json!(self.name);
        object["adapter_generation"] = json!(self.generation);
        object["adapter_version"] = json!(self.version);
    }
}

/// Runs what takes its time on a thread that may wait.
pub(super) async fn off_the_runtime<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(E::into),
        Err(_) => Err(ApiError::fault("the work panicked: a fault in lorakit, please report it")),
    }
}

fn named(app: &App, name: &str) -> Result<Named, ApiError> {
    let base = app.settings.base_name.as_str();
    if name == base || name == "base" {
        return Ok(Named::Base);
    }
    if let Some(assistant) = app.assistants.load().get(name) {
        return Ok(Named::Assistant(Box::new(assistant.clone())));
    }
    let after = [base, "base"].iter().find_map(|base| name.strip_prefix(base)?.strip_prefix(':'));
    let adapter = after.map_or(name, |rest| rest.strip_prefix(':').unwrap_or(rest));
    adapter_of(app, adapter).map(Named::Adapter).map_err(|e| ApiError { code: "model_not_found", ..e }.at("model"))
}

fn adapter_of(app: &App, name: &str) -> Result<Arc<Generation>, ApiError> {
    if let Some(generation) = app.registry.current(name) {
        return Ok(generation);
    }
    if let Some((_, why)) = app.registry.broken.iter().find(|(broken, _)| broken == name) {
        return Err(ApiError::not_found("lora_adapter_not_found", format!("the adapter `{name}` could not be loaded: {why}")));
    }
    let (published, assistants) = (app.registry.published(), app.assistants.load());
    let there = published
        .keys()
        .map(String::as_str)
        .chain(assistants.iter().map(|a| a.name.as_str()))
        .chain([app.settings.base_name.as_str()]);
    let hint = nearest(name, there).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    Err(ApiError::not_found("lora_adapter_not_found", format!("there is no model `{name}`{hint}; GET /v1/models lists them")))
}

/// The adapter that a request's field `adapter` names.
fn chosen(app: &App, value: &Value) -> Result<Option<Arc<Generation>>, ApiError> {
    if let Some(name) = value.as_str() {
        return adapter_of(app, name).map(Some).map_err(|e| e.at("adapter"));
    }
    let object = value.as_object();
    let id = object.filter(|o| o.len() == 1).and_then(|o| o.get("generation")).and_then(Value::as_str);
    let Some(id) = id else { return Err(ApiError::field("adapter", "`adapter` must be a name or {\"generation\": id}")) };
    let found = app.registry.by_id(id);
    let missing = || ApiError::not_found("lora_generation_mismatch", format!("no generation `{id}` answers now")).at("adapter");
    found.map(Some).ok_or_else(missing)
}

async fn lease(app: &Arc<App>, generation: Option<Arc<Generation>>) -> Result<Lease, ApiError> {
    let Some(generation) = generation else { return Ok(Lease { generation: None, loaded: app.registry.cache.base()? }) };
    if let Some(lease) = app.registry.lease_if_there(&generation) {
        return Ok(lease);
    }
    let shared = app.clone();
    off_the_runtime(move || shared.registry.lease(&generation)).await
}

/// The adapters of the field `lora` with their scales, or those set for the base; none where there are neither.
async fn parts(
    app: &Arc<App>,
    fields: &Fields,
    own: Option<&Arc<Generation>>,
    base: bool,
) -> Result<Option<Vec<(String, Lease, f64)>>, ApiError> {
    let scales = match fields.value("lora") {
        Some(_) => scales(app, fields.list("lora"), "lora")?,
        None if base && !app.scales.load().is_empty() => app.scales.load().as_ref().clone(),
        None => return Ok(None),
    };
    if let Some(own) = own.filter(|own| !scales.iter().any(|(name, _)| *name == own.name)) {
        let message =
            format!("`lora` does not list `{}`, which the model names; list it, with scale 0 to leave it out", own.name);
        return Err(ApiError::field("lora", message));
    }
    let mut parts = Vec::new();
    for (name, scale) in scales {
        // The generation that the request began with, where it is the model's own.
        let generation = match own.filter(|own| own.name == name) {
            Some(own) => own.clone(),
            None => adapter_of(app, &name).map_err(|e| e.at("lora"))?,
        };
        parts.push((name, lease(app, Some(generation)).await?, scale));
    }
    Ok(Some(parts))
}

/// Names and scales of a list of `{id, scale}`, an id being an index or a name.
///
/// # Errors
/// 400, naming `param`.
pub(super) fn scales(app: &App, list: &[Value], param: &str) -> Result<Vec<(String, f64)>, ApiError> {
    let bad = |why: &str| ApiError::field(param, format!("`{param}`: {why}"));
    let published = app.registry.published();
    let mut scales: Vec<(String, f64)> = Vec::new();
    for entry in list {
        let object = entry.as_object().ok_or_else(|| bad("each entry is an object with id and scale"))?;
        if object.keys().any(|key| key != "id" && key != "scale") {
            return Err(bad("an entry has id and scale, nothing else"));
        }
        let name = match object.get("id") {
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Number(n)) => {
                n.as_u64().and_then(|n| published.values().find(|g| g.index == n)).map(|generation| generation.name.clone())
            }
            _ => None,
        };
        let name = name.filter(|name| published.contains_key(name)).ok_or_else(|| bad("there is no adapter of this id"))?;
        let scale = object.get("scale").map_or(Some(1.0), Value::as_f64).filter(|s| s.abs() <= MAX_SCALE);
        let scale = scale.ok_or_else(|| bad("a scale is a number from -100 to 100"))?;
        if scales.iter().any(|(known, _)| *known == name) {
            return Err(bad("an adapter is listed twice"));
        }
        scales.push((name, scale));
    }
    Ok(scales)
}

fn enter(app: &App, assistant: &Assistant) -> Result<Option<Turnstile>, ApiError> {
    let Some(most) = assistant.max_requests else { return Ok(None) };
    let count = lock(&app.by_assistant).entry(assistant.name.clone()).or_default().clone();
    match count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < most).then_some(n + 1)) {
        Ok(_) => Ok(Some(Turnstile(count))),
        Err(_) => Err(ApiError::busy("assistant_busy", format!("`{}` answers {most} requests already", assistant.name))),
    }
}
