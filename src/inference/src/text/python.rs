//! The parts of Python that chat templates can see: `str()`, `repr()`, `json.dumps` and a few string methods.
//!
//! Templates are written and tested against Jinja2 in Python, so a prompt is only right if booleans print as `True`,
//! floats keep their `.0` and JSON has Python's separators. Everything else of Jinja2 is minijinja's own.

use std::{fmt::Write as _, sync::Arc};

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Object, ObjectRepr, ValueKind, from_args},
};

/// Values nest deeper than this only by malice; the recursion below must end before the stack does.
const MAX_DEPTH: usize = 128;

/// Writes what Python's `str()` gives for a template value.
pub(super) fn write_str(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => write_repr(out, value, 0)?,
    }
    Ok(())
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_string_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

fn write_string_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn write_number(out: &mut String, value: &Value) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
    } else {
        // The conversion cannot fail for a number; zero would only hide a change in minijinja.
        write_float(out, f64::try_from(value.clone()).unwrap_or(f64::NAN));
    }
}

/// Python's `repr` of a float: the shortest digits that read back, scientific below 1e-4 and from 1e16.
fn write_float(out: &mut String, number: f64) {
    if number.is_nan() || number.is_infinite() {
        out.push_str(if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        });
        return;
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("Rust's {:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust's {:e} writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
}

/// The `tojson` filter as Transformers defines it: `json.dumps` with its keyword arguments, no HTML escapes.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::from(u8::try_from(indent)?)),
        }),
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

struct JsonStyle {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl JsonStyle {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write_number(out, value),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                for item in value.try_iter()? {
                    self.open(out, if empty { "[" } else { &self.item }, depth + 1);
                    self.write(out, &item, depth + 1)?;
                    empty = false;
                }
                self.close(out, empty, "[", "]", depth);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                for (index, key) in keys.iter().enumerate() {
                    self.open(out, if index == 0 { "{" } else { &self.item }, depth + 1);
                    let mut name = String::new();
                    match key.as_str() {
                        Some(text) => name.push_str(text),
                        None => self.write(&mut name, key, MAX_DEPTH)?,
                    }
                    self.write_string(out, &name);
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(key)?, depth + 1)?;
                }
                self.close(out, keys.is_empty(), "{", "}", depth);
            }
            _ if is_none(value) => out.push_str("null"),
            kind => {
                let reason = format!("a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn open(&self, out: &mut String, before: &str, depth: usize) {
        out.push_str(before);
        self.break_line(out, depth);
    }

    fn close(&self, out: &mut String, empty: bool, open: &str, close: &str, depth: usize) {
        if empty {
            out.push_str(open);
        } else {
            self.break_line(out, depth);
        }
        out.push_str(close);
    }

    fn break_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ascii && !matches!(c, ' '..='~')) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply"));
    }
    Ok(())
}

/// The `trim` filter: Python's `str.strip`, on what Python calls whitespace, of the value as text.
pub(super) fn trim(value: &Value, characters: Option<&str>) -> Result<String, Error> {
    let mut text = String::new();
    write_str(&mut text, value)?;
    Ok(strip(&text, characters, Side::Both).to_owned())
}

/// A `None` that cannot be iterated, as in Python. minijinja's own counts as an empty list, so a template that needs
/// tools would quietly render a prompt without them.
#[derive(Debug)]
struct Absent;

impl Object for Absent {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("None")
    }
}

/// The value of a template variable that was not given, such as `tools`.
pub(super) fn absent() -> Value {
    Value::from_object(Absent)
}

/// The `none` test, which also knows [`absent`] values.
pub(super) fn is_none(value: &Value) -> bool {
    value.is_none() || value.downcast_object_ref::<Absent>().is_some()
}

/// Python's string methods that minijinja's own compatibility layer lacks or strips differently.
pub(super) fn call_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let side = match method {
            "strip" => Some(Side::Both),
            "lstrip" => Some(Side::Left),
            "rstrip" => Some(Side::Right),
            _ => None,
        };
        if let Some(side) = side {
            let (characters,): (Option<&str>,) = from_args(args)?;
            return Ok(Value::from(strip(text, characters, side)));
        }
        if let "removeprefix" | "removesuffix" = method {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            return Ok(Value::from(rest.unwrap_or(text)));
        }
        if let "partition" | "rpartition" = method {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match method {
                "partition" => match text.split_once(separator) {
                    Some((head, tail)) => [head, separator, tail],
                    None => [text, "", ""],
                },
                _ => match text.rsplit_once(separator) {
                    Some((head, tail)) => [head, separator, tail],
                    None => ["", "", text],
                },
            };
            return Ok(parts.into_iter().map(Value::from).collect());
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Left,
    Right,
}

/// What Python's `str.strip` takes away: Unicode's whitespace and four control characters.
pub(super) fn is_whitespace(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'a>(text: &'a str, characters: Option<&str>, side: Side) -> &'a str {
    let goes = |c: char| match characters {
        Some(characters) => characters.contains(c),
        None => is_whitespace(c),
    };
    let text = if side == Side::Right { text } else { text.trim_start_matches(goes) };
    if side == Side::Left { text } else { text.trim_end_matches(goes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(value: serde_json::Value, expected: &str) {
        let mut out = String::new();
        write_str(&mut out, &Value::from_serialize(&value)).unwrap();
        assert_eq!(out, expected);
    }

    #[test]
    fn str_is_pythons() {
        check(serde_json::json!(true), "True");
        check(serde_json::json!(null), "None");
        check(serde_json::json!(1.0), "1.0");
        check(serde_json::json!(1e16), "1e+16");
        check(serde_json::json!(123_456_789_012_345.6), "123456789012345.6");
        check(serde_json::json!(0.0001), "0.0001");
        check(serde_json::json!(0.000_012_5), "1.25e-05");
        check(serde_json::json!(-0.0), "-0.0");
        check(serde_json::json!(7), "7");
        check(serde_json::json!(["a", "it's", "\"'", 1, {"k": null}]), r#"['a', "it's", '"\'', 1, {'k': None}]"#);
        check(serde_json::json!("plain 'text'"), "plain 'text'");
    }
}
