//! The lines of a data file, which may come from anywhere: each is capped before anything parses it, none is held that
//! is too long, and a JSON object that says one thing twice is refused, because a parser that keeps the last of two
//! equal keys learns something else than a reader sees.

use std::io::{self, BufRead, Read};

use ampoule_bundle::BundleError;
use serde_json::Value;

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

/// Reads a line as one JSON value, as strictly as what is signed is read: no field of an example is a number, and no text
/// that is learnt holds U+0000.
///
/// # Errors
/// What is wrong, and where in the line.
pub(super) fn json(text: &str) -> Result<Value, String> {
    if text.starts_with('\u{feff}') {
        return Err("the file begins with a byte order mark: save it as UTF-8 without one".to_owned());
    }
    ampoule_bundle::json::parse_value("the line", text.as_bytes()).map_err(|error| {
        let said = match error {
            BundleError::MalformedJson { reason, .. } => reason,
            other => other.to_string(),
        };
        // The parser sees one line of many, so that its own count of them would mislead.
        format!("not strict JSON: {}", said.replace(" at line 1 column ", ", column "))
    })
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
        assert!(json("\u{feff}{}").unwrap_err().contains("byte order mark"));
        assert_eq!(json(r#"{"a":[1,-2,null,true,"b"]}"#).unwrap().to_string(), r#"{"a":[1,-2,null,true,"b"]}"#);
        assert_eq!(json("{} x").unwrap_err(), "not strict JSON: trailing characters, column 4");
        let twice = json(r#"{"a":{"b":1,"\u0062":2}}"#).unwrap_err();
        assert_eq!(twice, "not strict JSON: the key `b` occurs twice, column 23");
        assert_eq!(json(r#"{"a":0.5}"#).unwrap_err(), "not strict JSON: a number is not a plain integer, column 8");
        let long = format!(r#"{{"{0}":1,"{0}":2}}"#, "k".repeat(1000));
        assert!(json(&long).unwrap_err().len() < 140);
    }
}
