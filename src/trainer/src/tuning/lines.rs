//! The lines of a data file, which may come from anywhere: each is capped before anything parses it, none is held that
//! is too long, and a JSON object that says one thing twice is refused, because a parser that keeps the last of two
//! equal keys learns something else than a reader sees.

use std::fmt;
use std::io::{self, BufRead, Read};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The longest line that is read, in bytes. A tokenizer takes more than a hundred bytes for each byte of a text, and a
/// text of this length has more tokens than a pass could hold.
pub(super) const MAX_LINE_BYTES: u64 = 1 << 20;

/// One line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its bytes.
    Whole(Vec<u8>),
    /// It was passed over.
    TooLong {
        /// How many bytes it has.
        found: u64,
    },
}

/// The next line; `None` at the end.
pub(super) fn next(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes)? as u64;
    if read == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if read > MAX_LINE_BYTES {
        return Ok(Some(Line::TooLong { found: read + pass_over(reader)? }));
    }
    Ok(Some(Line::Whole(bytes)))
}

/// How many bytes are left of a line, which is read to its end.
fn pass_over(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut passed = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (found, used) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at, at + 1),
            None => (buffer.len(), buffer.len()),
        };
        passed += found as u64;
        reader.consume(used);
        if used == 0 || used > found {
            return Ok(passed);
        }
    }
}

/// Reads a line as one JSON value.
///
/// # Errors
/// What is wrong, where in the line, and for a key that occurs twice what to do.
pub(super) fn json(text: &str) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Distinct.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| {
        let said = error.to_string();
        // The parser sees one line of many, so that its own count of them would mislead.
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
        let prefix = if error.is_data() { "" } else { "not JSON: " };
        format!("{prefix}{what} (column {})", error.column())
    })
}

/// Any value, in whose objects no key occurs twice.
struct Distinct;

impl<'de> DeserializeSeed<'de> for Distinct {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Distinct)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                let key = shortened(&key);
                return Err(A::Error::custom(format!("the key `{key}` occurs twice: keep one of the two")));
            }
            map.insert(key, members.next_value_seed(Distinct)?);
        }
        Ok(Value::Object(map))
    }
}

/// A name from a file as an error quotes it: in one line, and not as long as its writer likes.
pub(super) fn shortened(name: &str) -> String {
    const MAX_CHARACTERS: usize = 40;
    let mut said: String = name.chars().take(MAX_CHARACTERS).collect::<String>().escape_debug().to_string();
    if name.chars().nth(MAX_CHARACTERS).is_some() {
        said.push('…');
    }
    said
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_measured_and_passed_over() {
        let limit = MAX_LINE_BYTES as usize;
        let lines = |bytes: Vec<u8>| {
            let mut reader = io::BufReader::new(&bytes[..]);
            std::iter::from_fn(move || next(&mut reader).unwrap()).collect::<Vec<_>>()
        };
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(lines(b"a\n\nb".to_vec()), [whole("a"), whole(""), whole("b")]);
        let longest = "x".repeat(limit);
        assert_eq!(lines(format!("{longest}\n{longest}").into_bytes()), [whole(&longest), whole(&longest)]);
        for end in ["", "\n"] {
            let found = lines(format!("{longest}x\na\n{longest}{longest}{end}").into_bytes());
            let too_long = |found| Line::TooLong { found };
            assert_eq!(found, [too_long(MAX_LINE_BYTES + 1), whole("a"), too_long(2 * MAX_LINE_BYTES)]);
        }
    }

    #[test]
    fn what_is_no_json_is_named_with_its_column() {
        assert_eq!(json(r#"{"a":[1,-2,0.5,null,true,"b"]}"#).unwrap().to_string(), r#"{"a":[1,-2,0.5,null,true,"b"]}"#);
        assert_eq!(json("{} x").unwrap_err(), "not JSON: trailing characters (column 4)");
        assert_eq!(
            json(r#"{"a":{"b":1,"\u0062":2}}"#).unwrap_err(),
            "the key `b` occurs twice: keep one of the two (column 20)"
        );
        let long = format!(r#"{{"{0}":1,"{0}":2}}"#, "k".repeat(1000));
        assert!(json(&long).unwrap_err().len() < 140);
    }
}
