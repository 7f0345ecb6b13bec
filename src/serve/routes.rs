//! Every route in one table, of which the router, OpenAPI and the list of `docs/security.md` are made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Method, Response};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::app::App;
use super::auth::{Asker, Class};
use super::error::ApiError;
use super::fields::Field;
use super::{adapters, chat, completions, models, page, responses, scrape, texts};

/// What a handler does.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, ApiError>> + Send>>;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) class: Class,
    pub(super) doc: &'static str,
    /// Tables of its body's fields.
    pub(super) body: Option<&'static [&'static [Field]]>,
    /// Statuses that it answers with beside 200 and those of its class.
    pub(super) statuses: &'static [u16],
    /// Content type of a 200.
    pub(super) content: &'static str,
    pub(super) handler: Handler,
}

/// Gets the state, who asks, the last part of the path where this has a parameter, and the body.
pub(super) type Handler = fn(Arc<App>, Asker, String, Bytes) -> Answer;

pub(super) const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

fn get(path: &'static str, class: Class, doc: &'static str, handler: Handler) -> Route {
    Route { method: Method::GET, path, class, doc, body: None, statuses: &[], content: JSON, handler }
}

fn post(
    path: &'static str,
    class: Class,
    doc: &'static str,
    body: &'static [&'static [Field]],
    statuses: &'static [u16],
    handler: Handler,
) -> Route {
    Route { method: Method::POST, path, class, doc, body: Some(body), statuses, content: JSON, handler }
}

/// What is there at once.
fn ready(value: Result<Value, ApiError>) -> Answer {
    Box::pin(std::future::ready(value.map(|value| axum::Json(value).into_response())))
}

/// The table.
pub(super) fn all() -> Vec<Route> {
    let mut all = asking();
    all.extend(acting());
    all.extend(looking());
    all
}

fn asking() -> Vec<Route> {
    const ANSWER: &[u16] = &[400, 404, 408, 413, 429, 500, 503];
    use Class::Inference;
    vec![
        post("/v1/chat/completions", Inference, "Answers a conversation.", &chat::TABLES, ANSWER, |app, asker, _, body| {
            Box::pin(chat::handle(app, asker, body))
        }),
        post(
            "/v1/completions",
            Inference,
            "Goes on with texts, and scores them.",
            &completions::TABLES,
            ANSWER,
            |app, asker, _, body| Box::pin(completions::handle(app, asker, body)),
        ),
        post(
            "/v1/responses",
            Inference,
            "Answers a conversation, without state.",
            &responses::TABLES,
            ANSWER,
            |app, asker, _, body| Box::pin(responses::handle(app, asker, body)),
        ),
        post("/tokenize", Inference, "The token ids of a text.", &[&texts::TOKENIZE], &[400, 408, 413], |app, asker, _, body| {
            Box::pin(texts::tokenize(app, asker, body))
        }),
        post(
            "/detokenize",
            Inference,
            "The text of token ids.",
            &[&texts::DETOKENIZE],
            &[400, 408, 413],
            |app, asker, _, body| Box::pin(texts::detokenize(app, asker, body)),
        ),
        get("/tokenizer_info", Inference, "The tokens that begin and end texts.", |app, _, _, _| {
            ready(Ok(texts::tokenizer_info(&app)))
        }),
        post(
            "/apply-template",
            Inference,
            "What the model reads of a conversation.",
            &texts::TEMPLATE_TABLES,
            ANSWER,
            |app, asker, _, body| Box::pin(texts::apply_template(app, asker, body)),
        ),
        get("/v1/models", Inference, "What can be named in `model`.", |app, _, _, _| ready(Ok(models::all(&app)))),
        Route {
            statuses: &[404],
            ..get("/v1/models/{id}", Inference, "One of them.", |app, _, id, _| ready(models::one(&app, &id)))
        },
    ]
}

fn acting() -> Vec<Route> {
    const ACT: &[u16] = &[400, 404, 408, 409, 413, 429, 500];
    use Class::{Admin, Inference};
    let text = |route: Route| Route { content: TEXT, ..route };
    vec![
        text(post(
            "/v1/load_lora_adapter",
            Admin,
            "Loads a folder under a name (vLLM's, mistral.rs').",
            &[&adapters::LOAD],
            ACT,
            |app, _, _, body| Box::pin(adapters::load(app, body)),
        )),
        text(post("/v1/unload_lora_adapter", Admin, "Takes a name away.", &[&adapters::UNLOAD], ACT, |app, _, _, body| {
            Box::pin(adapters::unload(app, body))
        })),
        text(post(
            "/v1/rollback_lora_adapter",
            Admin,
            "Lets an earlier generation answer again.",
            &[&adapters::ROLL_BACK],
            ACT,
            |app, _, _, body| Box::pin(adapters::roll_back(app, body)),
        )),
        get("/v1/lora_adapters", Admin, "Adapters, their generations, and what there is room for.", |app, _, _, _| {
            ready(Ok(adapters::list(&app)))
        }),
        get("/lora-adapters", Inference, "Adapters by index (llama.cpp's).", |app, _, _, _| {
            ready(Ok(adapters::list_by_index(&app)))
        }),
        Route {
            body: None,
            ..post(
                "/lora-adapters",
                Admin,
                "Scales of adapters on the base, for requests that give none: a list of `{id, scale}`.",
                &[],
                &[400, 408, 413],
                |app, _, _, body| Box::pin(adapters::set_scales(app, body)),
            )
        },
    ]
}

fn looking() -> Vec<Route> {
    use Class::{Admin, Open};
    let page = |route: Route| Route { content: "text/html; charset=utf-8", ..route };
    vec![
        get("/health", Open, "Whether the server is there.", |_, _, _, _| ready(Ok(json!({"status": "ok"})))),
        Route {
            statuses: &[503],
            ..get("/ready", Open, "Whether it takes requests.", |app, _, _, _| {
                ready(if app.engine.is_ending() { Err(ApiError::ending()) } else { Ok(json!({"status": "ready"})) })
            })
        },
        Route {
            content: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            statuses: &[500],
            ..get("/metrics", Admin, "What is counted (Prometheus).", |app, _, _, _| {
                let text = scrape::text(&app).map_err(|e| ApiError::fault(e.to_string()));
                Box::pin(std::future::ready(text.map(IntoResponse::into_response)))
            })
        },
        get("/openapi.json", Open, "This list, for programs.", |app, _, _, _| {
            ready(Ok(app.document.get().cloned().unwrap_or_default()))
        }),
        page(get("/", Open, "The page.", |_, _, _, _| Box::pin(std::future::ready(Ok(page::file("index.html")))))),
        Route {
            statuses: &[404],
            // Each file says its own.
            content: "text/*",
            ..page(get("/page/{file}", Open, "Files of the page.", |_, _, file, _| {
                Box::pin(std::future::ready(Ok(page::file(&file))))
            }))
        },
    ]
}
