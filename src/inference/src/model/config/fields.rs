//! A reader of configuration objects that knows what it has not yet been asked for.
//!
//! Every family takes the fields it understands; whatever is left at the end is either on the list of fields that say
//! nothing about the computation, or refused by name.

use serde_json::{Map, Value};

use crate::model::ModelError;

/// The fields of one JSON object, consumed one by one.
pub(super) struct Fields {
    /// Path of this object within the file, ending in a dot; empty for the outermost.
    prefix: String,
    architecture: String,
    values: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(architecture: &str, prefix: &str, values: Map<String, Value>) -> Self {
        Self { prefix: prefix.to_owned(), architecture: architecture.to_owned(), values }
    }

    /// Takes a field; `null` is the same as absent, as in Transformers.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn invalid(&self, name: &str, found: &Value, expected: &'static str) -> ModelError {
        ModelError::InvalidConfigField { field: self.path(name), found: shorten(found), expected }
    }

    /// The error for a value that is well formed and asks for something that this runtime lacks.
    pub(super) fn unsupported(&self, name: &str, found: impl ToString, supported: &'static str) -> ModelError {
        ModelError::UnsupportedConfigField { field: self.path(name), found: found.to_string(), supported }
    }

    /// The error for two fields that exclude each other.
    pub(super) fn conflict(&self, first: &str, second: &str) -> ModelError {
        ModelError::ConflictingConfigFields { first: self.path(first), second: self.path(second) }
    }

    pub(super) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| ModelError::MissingConfigField { field: self.path(name) })
    }

    pub(super) fn size(&mut self, name: &str) -> Result<Option<usize>, ModelError> {
        self.take(name)
            .map(|value| {
                let size = value.as_u64().and_then(|number| usize::try_from(number).ok());
                size.ok_or_else(|| self.invalid(name, &value, "a whole number, not negative"))
            })
            .transpose()
    }

    pub(super) fn required_size(&mut self, name: &str) -> Result<usize, ModelError> {
        let size = self.size(name)?;
        self.required(name, size)
    }

    /// A finite number above zero; all real-valued fields of these families are.
    pub(super) fn positive(&mut self, name: &str) -> Result<Option<f64>, ModelError> {
        self.take(name)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
                number.ok_or_else(|| self.invalid(name, &value, "a finite number above zero"))
            })
            .transpose()
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ModelError> {
        self.take(name)
            .map(|value| value.as_bool().ok_or_else(|| self.invalid(name, &value, "true or false")))
            .transpose()
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ModelError> {
        self.take(name)
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(self.invalid(name, &other, "a string")),
            })
            .transpose()
    }

    pub(super) fn positives(&mut self, name: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.take(name)
            .map(|value| {
                let numbers = value.as_array().and_then(|items| {
                    items.iter().map(|item| item.as_f64().filter(|n| n.is_finite() && *n > 0.0)).collect()
                });
                numbers.ok_or_else(|| self.invalid(name, &value, "a list of finite numbers above zero"))
            })
            .transpose()
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ModelError> {
        self.take(name)
            .map(|value| {
                let texts = value
                    .as_array()
                    .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
                texts.ok_or_else(|| self.invalid(name, &value, "a list of strings"))
            })
            .transpose()
    }

    /// A list of zeros and ones.
    pub(super) fn bits(&mut self, name: &str) -> Result<Option<Vec<bool>>, ModelError> {
        self.take(name)
            .map(|value| {
                let bits = value.as_array().and_then(|items| {
                    items
                        .iter()
                        .map(|item| match item.as_u64() {
                            Some(0) => Some(false),
                            Some(1) => Some(true),
                            _ => None,
                        })
                        .collect()
                });
                bits.ok_or_else(|| self.invalid(name, &value, "a list of zeros and ones"))
            })
            .transpose()
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>, ModelError> {
        self.take(name)
            .map(|value| match value {
                Value::Object(values) => {
                    Ok(Fields::new(&self.architecture, &format!("{}{name}.", self.prefix), values))
                }
                other => Err(self.invalid(name, &other, "an object")),
            })
            .transpose()
    }

    /// Whether the file has this field, be it `null`; it is left in place.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Takes fields that nothing is done about, and refuses every value but the one that asks for nothing.
    pub(super) fn require_neutral(&mut self, neutral: &[(&str, &'static str)]) -> Result<(), ModelError> {
        for (name, value) in neutral {
            let found = self.take(name).map(|found| shorten(&found));
            if let Some(found) = found.filter(|found| found != value) {
                return Err(self.unsupported(name, found, value));
            }
        }
        Ok(())
    }

    /// Refuses every field that was neither taken nor is listed as saying nothing about the computation.
    ///
    /// `null` stands for "not set" and is let through under any name.
    pub(super) fn finish(self, inert: &[&str]) -> Result<(), ModelError> {
        for (name, value) in &self.values {
            if !value.is_null() && !inert.contains(&name.as_str()) {
                return Err(ModelError::UnknownConfigField {
                    field: self.path(name),
                    architecture: self.architecture.clone(),
                });
            }
        }
        Ok(())
    }
}

/// The value as it stands in the file, cut so that a hostile one does not fill the log.
fn shorten(value: &Value) -> String {
    const MAX_CHARACTERS: usize = 64;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
