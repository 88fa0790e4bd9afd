//! Strict JSON for everything that is signed.
//!
//! A parser that keeps the last of two equal keys, rounds a number or ignores what follows the document reads something
//! else than the signer meant. So a document is read once, by one parser, into a tree that refuses duplicate keys,
//! nesting below [`limits::MAX_JSON_DEPTH`], U+0000, fractions, exponents, `-0` and integers beyond 2^53 − 1, and only then turned
//! into its type. Documents that this project writes must moreover be in canonical form (RFC 8785): one value, one text.

use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::BundleError;
use crate::limits;

/// Reads `bytes` strictly as a `T`. `document` names it in errors.
///
/// # Errors
/// [`BundleError::MalformedJson`] when it is not strict JSON or not of `T`'s shape.
///
/// # Panics
/// As [`canonical`].
pub fn parse<T: DeserializeOwned + Serialize>(document: &str, bytes: &[u8]) -> Result<T, BundleError> {
    parse_tree(document, parse_value(document, bytes)?)
}

/// As [`parse`], for what other tools wrote: a whole number may be spelled `1000.0`, as protobuf's `Struct` has no other.
///
/// # Errors
/// As [`parse`].
///
/// # Panics
/// As [`canonical`].
pub fn parse_foreign<T: DeserializeOwned + Serialize>(document: &str, bytes: &[u8]) -> Result<T, BundleError> {
    parse_tree(document, read_tree(document, bytes, Numbers::Whole)?)
}

fn parse_tree<T: DeserializeOwned + Serialize>(document: &str, tree: Value) -> Result<T, BundleError> {
    let value: T = T::deserialize(&tree).map_err(|error| malformed(document, &error))?;
    if !has_objects_of(&tree, &to_tree(&value)) {
        return Err(malformed(document, &Error::custom("a list stands where an object must")));
    }
    Ok(value)
}

/// Serde takes a list of the members' values for a type with named members. So wherever `written`, which is the value
/// written again, has an object, `read` must have one. What is absent in one of them does not count.
fn has_objects_of(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            written.iter().all(|(key, written)| read.get(key).is_none_or(|read| has_objects_of(read, written)))
        }
        (Value::Array(read), Value::Array(written)) => {
            read.iter().zip(written).all(|(read, written)| has_objects_of(read, written))
        }
        (_, Value::Object(_)) => false,
        _ => true,
    }
}

/// Reads `bytes` strictly as a `T` and refuses them unless they are the canonical text of that `T`.
///
/// # Errors
/// As [`parse`], and [`BundleError::NotCanonicalJson`].
pub fn parse_canonical<T: DeserializeOwned + Serialize>(document: &str, bytes: &[u8]) -> Result<T, BundleError> {
    tree_to_canonical(document, bytes, parse_value(document, bytes)?)
}

/// As [`parse_canonical`], from the tree that [`parse_value`] gave for `bytes`.
pub(crate) fn tree_to_canonical<T: DeserializeOwned + Serialize>(
    document: &str,
    bytes: &[u8],
    tree: Value,
) -> Result<T, BundleError> {
    if !has_ascii_keys(&tree) {
        return Err(malformed(document, &Error::custom("a key is not ASCII")));
    }
    let value: T = serde_json::from_value(tree).map_err(|error| malformed(document, &error))?;
    let canonical = canonical(&value);
    if canonical != bytes {
        let offset = canonical.iter().zip(bytes).take_while(|(left, right)| left == right).count();
        return Err(BundleError::NotCanonicalJson { document: document.to_owned(), offset });
    }
    Ok(value)
}

/// The canonical text (RFC 8785) of `value`: members sorted, no white space, integers only.
///
/// # Panics
/// If `value` has a map with keys that are not text; the types of this crate have none.
pub fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    let mut tree = to_tree(value);
    tree.sort_all_objects();
    serde_json::to_vec(&tree).expect("a JSON tree always has a text")
}

fn to_tree<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("the types of this crate have text keys and integers only")
}

/// RFC 8785 sorts keys by UTF-16 and this crate by UTF-8, which is the same order for ASCII alone.
fn has_ascii_keys(tree: &Value) -> bool {
    match tree {
        Value::Object(members) => members.iter().all(|(key, member)| key.is_ascii() && has_ascii_keys(member)),
        Value::Array(items) => items.iter().all(has_ascii_keys),
        _ => true,
    }
}

/// Reads `bytes` strictly into a tree.
///
/// # Errors
/// [`BundleError::MalformedJson`].
pub fn parse_value(document: &str, bytes: &[u8]) -> Result<Value, BundleError> {
    read_tree(document, bytes, Numbers::Integers)
}

fn read_tree(document: &str, bytes: &[u8], numbers: Numbers) -> Result<Value, BundleError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut remaining = limits::MAX_JSON_VALUES;
    let value = StrictValue { depth: 0, numbers, remaining: &mut remaining }
        .deserialize(&mut deserializer)
        .map_err(|error| malformed(document, &error))?;
    deserializer.end().map_err(|error| malformed(document, &error))?;
    Ok(value)
}

fn malformed(document: &str, error: &serde_json::Error) -> BundleError {
    BundleError::MalformedJson { document: document.to_owned(), reason: crate::digest::shorten(&error.to_string()) }
}

/// The parser reads a fraction to within some units in the last place, which are less than 1 below this.
const EXACT_BELOW: f64 = (1_u64 << 50) as f64;

/// Which spellings of a number are taken.
#[derive(Clone, Copy)]
enum Numbers {
    /// Digits alone.
    Integers,
    /// With a fraction of zero, or an exponent, too.
    Whole,
}

/// One value at a depth, with the number of values that may still come.
struct StrictValue<'a> {
    depth: usize,
    numbers: Numbers,
    remaining: &'a mut usize,
}

impl StrictValue<'_> {
    fn inner(&mut self) -> StrictValue<'_> {
        StrictValue { depth: self.depth + 1, numbers: self.numbers, remaining: self.remaining }
    }

    fn check_depth<E: Error>(&self) -> Result<(), E> {
        if self.depth >= limits::MAX_JSON_DEPTH {
            return Err(E::custom("it is nested more than 32 levels deep"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(remaining) = self.remaining.checked_sub(1) else {
            return Err(D::Error::custom("it holds more than 2^20 values"));
        };
        *self.remaining = remaining;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("strict JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if value > limits::MAX_JSON_INTEGER {
            return Err(E::custom("an integer is larger than 2^53 - 1"));
        }
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > limits::MAX_JSON_INTEGER {
            return Err(E::custom("an integer is smaller than -(2^53 - 1)"));
        }
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let is_exact = value.fract() == 0.0 && value.abs() < EXACT_BELOW;
        match self.numbers {
            Numbers::Whole if is_exact => Ok((value as i64).into()),
            _ => Err(E::custom("a number is not a plain integer")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        check_text::<E>(&value)?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.inner())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            check_text::<A::Error>(&key)?;
            let value = members.next_value_seed(self.inner())?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{}` occurs twice", crate::digest::shorten(&key))));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A text ends at U+0000 for some readers and not for others.
fn check_text<E: Error>(text: &str) -> Result<(), E> {
    if text.contains('\0') {
        return Err(E::custom("a text holds U+0000"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn c09_what_two_parsers_could_read_differently_is_refused() {
        let deep = "[".repeat(1_000_000);
        let many = format!("[{}0]", "0,".repeat(limits::MAX_JSON_VALUES));
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            "\u{feff}{}",
            "{} {}",
            "{}x",
            "{\"a\":1,}",
            "[1.0]",
            "[1e3]",
            "[1e999]",
            "[-0]",
            "[NaN]",
            "[9007199254740992]",
            "[-9007199254740992]",
            "[18446744073709551616]",
            r#"["\ud800"]"#,
            r#"["a\u0000b"]"#,
            r#"{"a\u0000":1}"#,
            "[\"\u{0}\"]",
            "",
            "{",
            deep.as_str(),
            many.as_str(),
        ] {
            assert!(parse_value("test", text.as_bytes()).is_err(), "{}", crate::digest::shorten(text));
        }
        assert!(parse_value("test", b"[\"\xff\"]").is_err(), "invalid UTF-8");
    }

    #[test]
    fn a_foreign_number_may_have_a_fraction_of_zero_and_no_other() {
        let read = |text: &str| parse_foreign::<u64>("test", text.as_bytes());
        for (text, expected) in [("1000.0", 1000), ("1e3", 1000), ("7", 7), ("1125899906842623.0", (1 << 50) - 1)] {
            assert_eq!(read(text).expect("whole"), expected, "{text}");
            assert_eq!(parse::<u64>("test", text.as_bytes()).is_ok(), text == "7", "{text}");
        }
        for text in ["1000.5", "1e-3", "1125899906842624.0", "9007199254740991.0", "1e999", "1.0 ", "NaN", "-1.0"] {
            assert_eq!(read(text).is_ok(), text == "1.0 ", "{text}");
        }
    }

    #[test]
    fn depth_is_counted_exactly() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_value("test", nested(32).as_bytes()).is_ok());
        assert!(parse_value("test", nested(33).as_bytes()).is_err());
    }

    #[test]
    fn a_list_never_stands_for_an_object() {
        #[derive(Debug, Deserialize, Serialize)]
        struct Outer {
            inner: Option<Inner>,
            list: Vec<Inner>,
        }
        #[derive(Debug, Deserialize, Serialize)]
        struct Inner {
            number: u32,
        }
        let read = |text: &str| parse::<Outer>("test", text.as_bytes());
        read(r#"{"inner":{"number":1},"list":[{"number":2}]}"#).expect("objects");
        read(r#"{"list":[]}"#).expect("an absent member");
        for text in [r"[{},[]]", r"[null,[]]", r#"{"inner":[1],"list":[]}"#, r#"{"list":[{"number":1},[2]]}"#] {
            assert!(matches!(read(text), Err(BundleError::MalformedJson { .. })), "{text}");
        }
    }

    #[test]
    fn keys_that_two_writers_could_sort_differently_are_refused() {
        // By UTF-8 the first is the lower one, by UTF-16 the second.
        for text in ["{\"\u{ffff}\":1,\"\u{10000}\":2}", r#"{"a":[{"ä":1}]}"#] {
            let found = parse_canonical::<Value>("test", text.as_bytes());
            assert!(matches!(found, Err(BundleError::MalformedJson { .. })), "{text}");
        }
    }

    #[test]
    fn canonical_text_is_the_only_text() {
        let value: Value = parse_canonical("test", br#"{"a":[1,-2,"\u0001\n\"\\/"],"b":null}"#).expect("canonical");
        assert_eq!(canonical(&value), br#"{"a":[1,-2,"\u0001\n\"\\/"],"b":null}"#);
        for text in [r#"{"b":1,"a":2}"#, r#"{"a": 1}"#, "{}\n", r#"["\u0041"]"#, r#"["\/"]"#, r#"["\u000a"]"#] {
            let found = parse_canonical::<Value>("test", text.as_bytes());
            assert!(matches!(found, Err(BundleError::NotCanonicalJson { .. })), "{text}");
        }
    }
}
