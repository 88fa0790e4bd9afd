//! The settings schema: a JSON Schema over the configuration's keys by which a bundle proposes values and bounds them.
//!
//! A schema is a contract, so what is not understood is refused and never passed over: a bound that is spelled in a way
//! that no reader acts on would be one that does not hold.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::BundleError;
use crate::json;
use crate::limits::MAX_SETTINGS_SCHEMA_BYTES;

const DOCUMENT: &str = "the settings schema";
/// What says something to people, and to programs nothing.
const ANNOTATIONS: [&str; 6] = ["$comment", "description", "examples", "title", "type", "$schema"];

/// What a bundle says about each setting, by the setting's key with its parts joined by dots.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SettingsSchema(pub BTreeMap<String, Setting>);

/// What a bundle says about one setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Setting {
    /// The value where the site is silent.
    pub default: Option<Value>,
    /// The least that is allowed.
    pub minimum: Option<u64>,
    /// The most that is allowed.
    pub maximum: Option<u64>,
    /// The values that are allowed.
    pub one_of: Option<Vec<Value>>,
    /// The one value that is allowed.
    pub only: Option<Value>,
}

impl SettingsSchema {
    /// Reads a schema.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`], and [`BundleError::MalformedJson`] for what is no strict JSON, and for each keyword that
    /// is not one of those above or has a value that it cannot have.
    pub fn parse(bytes: &[u8]) -> Result<SettingsSchema, BundleError> {
        if bytes.len() as u64 > MAX_SETTINGS_SCHEMA_BYTES {
            let (what, found) = (format!("the length in bytes of {DOCUMENT}"), bytes.len() as u64);
            return Err(BundleError::TooLarge { what, found, limit: MAX_SETTINGS_SCHEMA_BYTES });
        }
        let tree = json::parse_value(DOCUMENT, bytes)?;
        let mut schema = SettingsSchema::default();
        schema.read_folder("", object("the whole", &tree)?)?;
        Ok(schema)
    }

    /// Reads what holds settings, or further ones that do.
    fn read_folder(&mut self, prefix: &str, members: &Map<String, Value>) -> Result<(), BundleError> {
        for (keyword, value) in members {
            match keyword.as_str() {
                "properties" => {
                    for (name, member) in object("properties", value)? {
                        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                        let member = object(&key, member)?;
                        if member.contains_key("properties") {
                            self.read_folder(&key, member)?;
                        } else {
                            self.0.insert(key.clone(), Setting::read(&key, member)?);
                        }
                    }
                }
                // Every key that no option has is refused in any case.
                "additionalProperties" if *value == Value::Bool(false) => {}
                keyword if ANNOTATIONS.contains(&keyword) => {}
                keyword => return Err(not_understood(prefix, keyword)),
            }
        }
        Ok(())
    }
}

impl Setting {
    fn read(key: &str, members: &Map<String, Value>) -> Result<Setting, BundleError> {
        let mut setting = Setting::default();
        let integer = |keyword: &str, value: &Value| {
            value.as_u64().ok_or_else(|| malformed(format!("`{key}`: `{keyword}` is {value}, must be a whole number")))
        };
        for (keyword, value) in members {
            match keyword.as_str() {
                "default" => setting.default = Some(value.clone()),
                "minimum" => setting.minimum = Some(integer(keyword, value)?),
                "maximum" => setting.maximum = Some(integer(keyword, value)?),
                "const" => setting.only = Some(value.clone()),
                "enum" => match value.as_array().map(Vec::as_slice) {
                    None | Some([]) => return Err(malformed(format!("`{key}`: `enum` must be a list of values"))),
                    Some(words) => setting.one_of = Some(words.to_vec()),
                },
                keyword if ANNOTATIONS.contains(&keyword) => {}
                keyword => return Err(not_understood(key, keyword)),
            }
        }
        Ok(setting)
    }
}

fn object<'a>(what: &str, value: &'a Value) -> Result<&'a Map<String, Value>, BundleError> {
    value.as_object().ok_or_else(|| malformed(format!("`{what}` must be an object")))
}

fn not_understood(key: &str, keyword: &str) -> BundleError {
    malformed(format!(
        "`{key}`: the keyword `{keyword}` is not understood; a setting has `default`, `minimum`, `maximum`, `enum` and `const`"
    ))
}

fn malformed(reason: String) -> BundleError {
    BundleError::MalformedJson { document: DOCUMENT.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn settings_are_read_by_their_keys() {
        let schema = br#"{"type":"object","properties":{"a":{"title":"A","default":1,"minimum":0,"maximum":2},
            "b":{"properties":{"c":{"enum":["x"]},"d":{"const":true}}}},"additionalProperties":false}"#;
        let SettingsSchema(settings) = SettingsSchema::parse(schema).unwrap();
        assert_eq!(settings.keys().collect::<Vec<_>>(), ["a", "b.c", "b.d"]);
        let a = &settings["a"];
        assert_eq!((a.default.clone(), a.minimum, a.maximum), (Some(Value::from(1)), Some(0), Some(2)));
        assert_eq!(settings["b.c"].one_of, Some(vec![Value::from("x")]));
        assert_eq!(settings["b.d"].only, Some(Value::Bool(true)));
    }

    /// THREATS C09: a bound that is passed over is a bound that does not hold.
    #[test]
    fn c09_what_is_not_understood_is_refused() {
        for setting in [
            r#""maximum":16.5"#,
            r#""maximum":"16""#,
            r#""maximum":-1"#,
            r#""maximum":16,"maximum":99"#,
            r#""exclusiveMaximum":16"#,
            r#""allOf":[{"maximum":16}]"#,
            r#""not":{"minimum":17}"#,
            r#""$ref":"elsewhere""#,
            r#""enum":16"#,
            r#""enum":[]"#,
        ] {
            let schema = format!(r#"{{"properties":{{"a":{{{setting}}}}}}}"#);
            let error = SettingsSchema::parse(schema.as_bytes()).unwrap_err();
            assert!(matches!(error, BundleError::MalformedJson { .. }), "{setting}: {error}");
        }
        for schema in [r#"{"allOf":[]}"#, r#"{"additionalProperties":true}"#, "[]", "{", r#"{"properties":{"a":1}}"#] {
            assert!(SettingsSchema::parse(schema.as_bytes()).is_err(), "{schema}");
        }
        let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(64 << 10));
        let error = SettingsSchema::parse(long.as_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
    }
}
