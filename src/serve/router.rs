//! The router of all routes: each request passes the guard before anything of it is read, and its body is bounded in size and time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, on};
use tower_http::catch_panic::CatchPanicLayer;

use super::app::App;
use super::auth::{Class, Guard, is_preflight};
use super::error::ApiError;
use super::routes::{self, Handler, JSON, Route};

/// Largest body, and how long its reading may take.
const MAX_BODY: usize = 8 << 20;
const BODY_TIME: Duration = Duration::from_secs(30);

/// The router of all routes; each request passes the guard before anything of it is read.
pub(super) fn router(app: &Arc<App>, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let mut router = Router::new();
    for route in routes::all() {
        let filter = if route.method == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        router = router.route(route.path, method(filter, route, app.clone(), guard.clone()));
    }
    let (for_fallback, for_method) = (guard.clone(), guard.clone());
    router
        .fallback(move |request: Request| async move {
            let error = ApiError::not_found("not_found", "there is no such route; GET /openapi.json lists them");
            outside(&for_fallback, &request, error)
        })
        .method_not_allowed_fallback(move |request: Request| async move {
            let message = "the route does not take this method";
            outside(&for_method, &request, ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message))
        })
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::fault("the request panicked: a fault in lorakit, please report it").into_response()
        }))
}

fn method(filter: MethodFilter, route: Route, app: Arc<App>, guard: Arc<Guard>) -> MethodRouter {
    let Route { class, handler, content, .. } = route;
    on(filter, move |request: Request| {
        let (app, guard) = (app.clone(), guard.clone());
        async move {
            let origin = guard.named_origin(request.headers());
            let mut response = match answer(&app, &guard, class, handler, request).await {
                Ok(response) => response,
                Err(error) => return readable(error.into_response(), origin),
            };
            let done = response.status().is_success();
            if done && content != JSON && !response.headers().contains_key(header::CONTENT_SECURITY_POLICY) {
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
            }
            readable(response, origin)
        }
    })
}

async fn answer(
    app: &Arc<App>,
    guard: &Guard,
    class: Class,
    handler: Handler,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let asker = guard.pass(class, request.headers())?;
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let last = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
    let body = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), MAX_BODY)).await;
    let body = body.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time"))?;
    let body = body.map_err(|_| too_large())?;
    handler(app.clone(), asker, last, body).await
}

fn too_large() -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("a body has at most {MAX_BODY} bytes"))
}

/// What is said to requests that no route takes; those of foreign hosts are told no more than that.
fn outside(guard: &Guard, request: &Request, error: ApiError) -> Response<Body> {
    if let Err(refused) = guard.pass(Class::Open, request.headers()) {
        return refused.into_response();
    }
    let origin = guard.named_origin(request.headers());
    if origin.is_some() && is_preflight(request.method(), request.headers()) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
        return readable(response, origin);
    }
    readable(error.into_response(), origin)
}

/// Lets a page of an origin that was named read the answer.
fn readable(mut response: Response<Body>, origin: Option<String>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}
