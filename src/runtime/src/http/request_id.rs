//! The identifier by which a request is found again in the log: the client's own if it is harmless, else a new one.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The header's name, in requests and in answers.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest identifier that is taken over from a client.
const MAX_LENGTH: usize = 128;

/// One request's identifier: 1 to 128 of the characters `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The identifier that the client sent, or a new one: a value with other characters, or two values, would put a
    /// client's bytes into our log lines, so it is replaced.
    pub(crate) fn from_headers(headers: &HeaderMap) -> RequestId {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
            (Some(value), None) if is_harmless(value) => RequestId(value.to_owned()),
            _ => RequestId(random_identifier()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn header_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("the alphabet of an identifier is a subset of what headers allow")
    }
}

/// 128 random bits in hexadecimal, also used in the `id` of replies.
pub(crate) fn random_identifier() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

fn is_harmless(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !value.is_empty() && value.len() <= MAX_LENGTH && value.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn taken_over(value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::from_headers(&headers).as_str().as_bytes() == value
    }

    #[test]
    fn c46_only_a_harmless_identifier_is_taken_over() {
        assert!(taken_over(b"trace-1.A_z"));
        assert!(taken_over(&[b'a'; 128]));
        for bad in [&b""[..], b"a b", b"a\tb", b"\xe2\x80\xae", b"a;b", b"{\"a\":1}", &[b'a'; 129]] {
            assert!(!taken_over(bad), "{bad:?}");
        }
    }

    #[test]
    fn two_identifiers_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(X_REQUEST_ID, HeaderValue::from_static("a"));
        headers.append(X_REQUEST_ID, HeaderValue::from_static("b"));
        assert_eq!(RequestId::from_headers(&headers).as_str().len(), 32);
        assert_ne!(RequestId::from_headers(&headers), RequestId::from_headers(&headers));
    }
}
