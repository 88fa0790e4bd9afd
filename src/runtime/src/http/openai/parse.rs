//! From the bytes of a body to a wire type, or to an error that names the field at fault.

use serde::de::DeserializeOwned;

use super::value::Object;
use crate::http::error::{ApiError, Param};

/// A parser's message longer than this is cut: it may quote a value as long as the whole body.
const MAX_MESSAGE_CHARACTERS: usize = 240;

/// Reads a body as one JSON object of type `T`.
///
/// The depth of nesting is limited to 128 by serde_json, and `T` names every field it knows, so nothing unknown is
/// built up in memory.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let message = format!("The request body is not valid UTF-8 from byte {} on.", error.valid_up_to());
        ApiError::invalid(Param::NONE, message).coded("invalid_utf8")
    })?;
    if text.trim_start().is_empty() {
        return Err(ApiError::invalid(Param::NONE, "The request body is empty; a JSON object is wanted."));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(explain)?;
    json.end().map_err(|error| syntax_error(&error))?;
    Ok(value)
}

fn explain(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let inner = error.inner();
    if !inner.is_data() {
        return syntax_error(inner);
    }
    let path = (path != ".").then_some(path);
    let message = inner.to_string();
    // serde reports these three as text only; the field's name stands between the first two backticks.
    for (prefix, said) in [
        ("unknown field `", "Unrecognized request argument supplied"),
        ("missing field `", "A required argument is missing"),
        ("duplicate field `", "An argument is given twice"),
    ] {
        if let Some(name) = message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()) {
            let param = join(path.as_deref(), name);
            return ApiError::invalid(shorten(&param), format!("{said}: {}", crate::http::error::echo(&param)));
        }
    }
    ApiError::invalid(path.map(|path| shorten(&path)), format!("Wrong type or value: {}.", shorten(&message)))
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    let message = format!("The request body is not valid JSON: {}.", shorten(&error.to_string()));
    ApiError::invalid(Param::NONE, message).coded("invalid_json")
}

/// The container's path and the field's name as one path, unless the container's path ends in that field already.
fn join(path: Option<&str>, name: &str) -> String {
    match path {
        None => name.to_owned(),
        Some(path) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(path) => format!("{path}.{name}"),
    }
}

/// Keeps the beginning, which says what was found, and the end, which says what was expected and where.
fn shorten(message: &str) -> String {
    let length = message.chars().count();
    if length <= MAX_MESSAGE_CHARACTERS {
        return message.to_owned();
    }
    let half = MAX_MESSAGE_CHARACTERS / 2;
    let head: String = message.chars().take(half).collect();
    let tail: String = message.chars().skip(length - half).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::http::openai::value::{Inputs, Integer, Number};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are of interest")]
    struct Outer {
        name: String,
        count: Option<Integer>,
        share: Option<Number>,
        items: Option<Vec<Object<Inner>>>,
        input: Option<Inputs>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are of interest")]
    struct Inner {
        role: String,
    }

    fn check(body: &str, param: Option<&str>, message: &str) {
        let error = parse::<Outer>(body.as_bytes()).unwrap_err().body().error;
        assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
        assert!(error.message.contains(message), "{body}: {}", error.message);
        for leak in ["struct", "i128", "u32", "f64", "Outer", "Inner", "sequence of"] {
            assert!(!error.message.contains(leak), "{body} leaks {leak}: {}", error.message);
        }
    }

    #[test]
    fn the_field_at_fault_is_named() {
        check("{}", Some("name"), "missing: `name`");
        check(r#"{"name":"a","color":1}"#, Some("color"), "Unrecognized request argument supplied: `color`");
        check(r#"{"name":"a","name":"b"}"#, Some("name"), "twice");
        check(r#"{"name":5}"#, Some("name"), "expected a string");
        check(r#"{"name":"a","count":"1"}"#, Some("count"), "expected an integer");
        check(r#"{"name":"a","count":1.5}"#, Some("count"), "expected an integer");
        check(r#"{"name":"a","share":"x"}"#, Some("share"), "expected a number");
        check(r#"{"name":"a","items":[{"role":"x"},{}]}"#, Some("items[1].role"), "missing");
        check(r#"{"name":"a","items":[{"role":"x","y":1}]}"#, Some("items[0].y"), "Unrecognized");
        check(r#"{"name":"a","items":[["x"]]}"#, Some("items[0]"), "expected an object");
        check(r#"{"name":"a","input":[1,-1]}"#, Some("input[1]"), "-1 is no token number");
        check(r#"{"name":"a","input":[[1],[4294967296]]}"#, Some("input[1][0]"), "4294967296 is no token number");
        check(r#"{"name":"a","input":["x",1]}"#, Some("input[1]"), "expected a string");
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        check("", None, "is empty");
        check("  ", None, "is empty");
        check("[\"a\"]", None, "expected an object");
        check("\"a\"", None, "expected an object");
        check("{\"name\":\"a\"} x", None, "not valid JSON");
        check("{\"name\":", None, "not valid JSON");
        check("{\"name\":NaN}", None, "not valid JSON");
        check("{\"name\":\"a\",\"share\":1e999}", None, "out of range");
        check(r#"{"name":"\ud800"}"#, None, "not valid JSON");
        check(&format!("{{\"input\":{}", "[".repeat(1000)), Some("input[0][0]"), "expected an integer");
        let error = parse::<Outer>(b"{\"name\":\"\xff\"}").unwrap_err().body().error;
        assert_eq!(error.code, Some("invalid_utf8"));
    }

    #[test]
    fn a_huge_value_is_not_repeated() {
        let body = json!({ "name": "a", "count": "a".repeat(1_000_000) }).to_string();
        let error = parse::<Outer>(body.as_bytes()).unwrap_err().body().error;
        assert!(error.message.len() < 400 && error.message.contains("expected an integer"), "{}", error.message);
    }

    #[test]
    fn integers_beyond_64_bits_keep_their_size() {
        for (text, value) in
            [("-1", -1), ("18446744073709551615", (1i128 << 64) - 1), ("18446744073709551616", 1 << 64)]
        {
            let outer: Outer = parse(format!(r#"{{"name":"a","count":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(outer.count, Some(Integer(value)));
        }
    }
}
