//! Which pages of other sites may call from browsers (the Fetch standard's CORS protocol), as otelcol decides it.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{HttpRequest, HttpResponse};

/// What pages may ask with: what otelcol's answer names.
const METHODS: [&str; 3] = ["GET", "POST", "HEAD"];

/// Headers that pages may send where none are named, beside those that need no leave.
const HEADERS: [&str; 6] =
    ["accept", "accept-language", "content-language", "content-type", "origin", "x-requested-with"];

/// Which pages of other sites may call, with the credentials of whoever looks at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Their origins, such as `https://*.example.com`; one `*` in each stands for anything, and `*` alone lets in
    /// everybody, without credentials. None unless told.
    pub allowed_origins: Vec<String>,
    /// Headers they may send beside `Accept`, `Content-Type` and the like; `*` for any.
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that they may read beside the usual.
    pub exposed_headers: Vec<String>,
    /// How long a browser may remember what it was told; its own default unless told.
    pub max_age: Option<Duration>,
}

impl Cors {
    /// What an answer to `request` says beside the answer.
    pub(super) fn headers(&self, request: &HttpRequest) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(request) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            let exposed = self.exposed_headers.join(", ");
            if !exposed.is_empty() && !is_preflight(request) {
                say(&mut headers, ACCESS_CONTROL_EXPOSE_HEADERS, &exposed);
            }
        }
        headers
    }

    /// The answer to a browser that asks whether a page may, `None` to anything else.
    pub(super) fn preflight(&self, request: &HttpRequest) -> Option<HttpResponse> {
        if !is_preflight(request) {
            return None;
        }
        let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
        let asked =
            |name| request.headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap_or(""));
        let (method, names) = (asked(ACCESS_CONTROL_REQUEST_METHOD), asked(ACCESS_CONTROL_REQUEST_HEADERS));
        let headers = &mut response.headers;
        if self.allowed(request).is_some() && METHODS.contains(&method) && self.allows_headers(names) {
            say(headers, ACCESS_CONTROL_ALLOW_METHODS, method);
            if !names.is_empty() {
                say(headers, ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
            if let Some(age) = self.max_age {
                headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
            }
        }
        Some(response)
    }

    /// What `Access-Control-Allow-Origin` says to the page that asks, if it may.
    fn allowed(&self, request: &HttpRequest) -> Option<HeaderValue> {
        let origin = request.headers.get(ORIGIN)?;
        if self.allowed_origins.iter().any(|allowed| allowed == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.allowed_origins
            .iter()
            .any(|allowed| matches(&allowed.to_ascii_lowercase(), &text))
            .then(|| origin.clone())
    }

    fn allows_headers(&self, names: &str) -> bool {
        let mut names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.all(|name| {
            let mut allowed = HEADERS.into_iter().chain(self.allowed_headers.iter().map(String::as_str));
            allowed.any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name))
        })
    }
}

fn is_preflight(request: &HttpRequest) -> bool {
    request.method == Method::OPTIONS && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether `text` is `pattern`, in which one `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
    }
}

fn say(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
