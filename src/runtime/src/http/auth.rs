//! The one layer that lets requests in.  It lies around the whole router, so that a path added later, or a path that
//! does not exist, is behind it without anybody thinking of it.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, Method};

use super::access::RequestRecord;
use super::error::ApiError;
use super::state::Appliance;

/// Where Anthropic's clients put the key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What answers without a key: the two probes, whose answers are a status and an empty body, and the shell of the status
/// page, whose bytes are part of the binary and the same at every site.
///
/// Kubernetes' kubelet sends no credentials, and "alive" and "ready" tell a stranger nothing that connecting would not.
/// A browser cannot send a key before it has a page to type it into; whatever that page shows, it asks for with the key.
const PUBLIC_PATHS: [&str; 3] = ["/livez", "/readyz", "/"];

/// Passes requests that carry an accepted key; all others get the same 401, whatever is wrong with them.
pub(crate) async fn require_key(State(appliance): State<Appliance>, request: Request, next: Next) -> Response {
    if is_public(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    let Some((number, key)) = presented_key(request.headers()).and_then(|key| appliance.keys().authenticate(key))
    else {
        return ApiError::unauthenticated().into_response();
    };
    if let Some(record) = request.extensions().get::<RequestRecord>() {
        record.set_key(number, &key.name);
    }
    next.run(request).await
}

fn is_public(method: &Method, path: &str) -> bool {
    (method == Method::GET || method == Method::HEAD) && PUBLIC_PATHS.contains(&path)
}

/// The key in `Authorization: Bearer KEY`, or else in `x-api-key: KEY`.  A header given twice is no key at all: two
/// parties could each read another one of the two.
fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let single = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        values.next().is_none().then_some(first.as_bytes())
    };
    if headers.contains_key(AUTHORIZATION) {
        let value = single(&AUTHORIZATION)?;
        let (scheme, key) = value.split_at_checked("Bearer ".len())?;
        return scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key.trim_ascii());
    }
    single(&X_API_KEY).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn key(headers: &[(HeaderName, &'static str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        presented_key(&map).map(|key| String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn a_key_is_found_in_either_header_and_never_in_two() {
        assert_eq!(key(&[(AUTHORIZATION, "Bearer k")]).as_deref(), Some("k"));
        assert_eq!(key(&[(AUTHORIZATION, "bearer   k ")]).as_deref(), Some("k"));
        assert_eq!(key(&[(X_API_KEY, "k")]).as_deref(), Some("k"));
        assert_eq!(key(&[(AUTHORIZATION, "Bearer k"), (X_API_KEY, "j")]).as_deref(), Some("k"));
        for none in [
            &[][..],
            &[(AUTHORIZATION, "k")],
            &[(AUTHORIZATION, "Basic k")],
            &[(AUTHORIZATION, "Bearer")],
            &[(AUTHORIZATION, "Bearer k"), (AUTHORIZATION, "Bearer j")],
            &[(AUTHORIZATION, "Basic k"), (X_API_KEY, "k")],
            &[(X_API_KEY, "k"), (X_API_KEY, "j")],
        ] {
            assert_eq!(key(none), None, "{none:?}");
        }
    }

    #[test]
    fn only_the_probes_and_the_shell_are_public() {
        assert!(is_public(&Method::GET, "/livez") && is_public(&Method::HEAD, "/readyz"));
        assert!(is_public(&Method::GET, "/") && !is_public(&Method::POST, "/"));
        for path in [
            "",
            "//",
            "/index.html",
            "/v1/status",
            "/livez/",
            "/livez/..",
            "//livez",
            "/LIVEZ",
            "/v1/health/live",
            "/v1/models",
            "/metrics",
        ] {
            assert!(!is_public(&Method::GET, path), "{path}");
        }
        assert!(!is_public(&Method::POST, "/livez"));
    }
}
