//! The built-in page: its files, compiled in, and the headers that keep it from loading anything else.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

/// What the page may load: itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_bytes!(concat!("page/", $name)).as_slice())),*] };
}

const FILES: [(&str, &[u8]); 17] = files![
    "index.html",
    "style.css",
    "admin.css",
    "theme.js",
    "app.js",
    "state.js",
    "api.js",
    "dom.js",
    "settings.js",
    "chat.js",
    "thread.js",
    "columns.js",
    "markdown.js",
    "diff.js",
    "export.js",
    "admin.js",
    "metrics.js",
];

/// A file of the page, by its name.
pub(super) fn file(name: &str) -> Response<Body> {
    let Some((name, bytes)) = FILES.iter().find(|(known, _)| *known == name) else {
        return super::error::ApiError::not_found("not_found", "there is no such file of the page").into_response();
    };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    let mut response = (StatusCode::OK, *bytes).into_response();
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
