//! Responses with the headers that each of them carries. Pure.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// What a browser may do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A page: files of this page and nothing else.
    Page,
    /// The page with the player. It compiles WebAssembly (`wasm-unsafe-eval` allows that, and no `eval` of JavaScript) and
    /// clones templates, which Trusted Types would not let it make.
    Player,
    /// Not a page: if it is shown as one all the same, it can do nothing.
    File,
}

macro_rules! page_policy {
    ($script:literal, $end:literal) => {
        concat!(
            "default-src 'none'; script-src ",
            $script,
            "; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
            $end
        )
    };
}

impl Policy {
    /// The Content-Security-Policy header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Page => page_policy!("'self'", "; require-trusted-types-for 'script'; trusted-types 'none'"),
            Self::Player => page_policy!("'self' 'wasm-unsafe-eval'", ""),
            Self::File => "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
        }
    }
}

/// On every response.
const ALWAYS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=(), fullscreen=(self)",
    ),
];

/// A response with all headers. It is not stored anywhere unless the caller says otherwise.
#[must_use]
pub fn respond(status: StatusCode, kind: &'static str, policy: Policy, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(ALWAYS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy.as_str()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A page.
#[must_use]
pub fn page(status: StatusCode, policy: Policy, markup: String) -> Response<Full<Bytes>> {
    respond(status, "text/html; charset=utf-8", policy, markup)
}

/// One line.
#[must_use]
pub fn line(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Policy::File, format!("{text}\n"))
}
