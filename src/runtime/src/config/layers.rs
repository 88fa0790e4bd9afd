//! The layers and their merge.  The only module that knows figment: it merges the layers in order of precedence and
//! remembers for each value which layer it came from.
//!
//! Each layer is checked by itself before the merge, so that a mistake is reported even where a higher layer would
//! have covered it: the day that layer is removed is the wrong day to learn of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Num, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value as Json;

use super::effective::{Effective, Entry, Origin};
use super::environment::Environment;
use super::error::{ConfigError, ConfigErrors};
use super::options::{ConfigOption, Kind, Options};
use super::raw::RawConfig;
use crate::permissions;

/// A configuration file is a page or two; whatever is larger was named by mistake.
const FILE_LIMIT_BYTES: u64 = 1024 * 1024;

/// One value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// The dotted key of the option.
    pub key: String,
    /// The flag as typed, for messages: `--listen`, `--set`.
    pub flag: String,
    /// Its text.
    pub text: String,
}

impl FlagValue {
    /// Reads the argument of `--set`.
    ///
    /// # Errors
    /// [`ConfigError::NotAnAssignment`] when there is no equals sign.
    pub fn assignment(argument: &str) -> Result<FlagValue, ConfigError> {
        let (key, text) =
            argument.split_once('=').ok_or_else(|| ConfigError::NotAnAssignment { found: argument.to_owned() })?;
        let key = key.trim().to_owned();
        Ok(FlagValue { flag: format!("--set {key}"), key, text: text.to_owned() })
    }
}

/// All layers that the site controls, lowest first, each already checked by itself.
#[derive(Debug, Clone)]
pub struct Layers {
    layers: Vec<Layer>,
}

impl Layers {
    /// Reads the files in order (a later one wins), then the environment, then the flags.  Without files on the
    /// command line the one that the environment names is read; no file is read that nobody named.
    ///
    /// # Errors
    /// Every mistake in every layer.
    pub fn read(files: &[PathBuf], environment: &Environment, flags: &[FlagValue]) -> Result<Layers, ConfigErrors> {
        let mut reading = Reading::default();
        match environment.config_file() {
            Ok(Some(path)) if files.is_empty() => reading.file(Path::new(path)),
            Ok(_) => files.iter().for_each(|path| reading.file(path)),
            Err(error) => reading.errors.push(error),
        }
        for (variable, text) in environment.settings() {
            reading.variable(variable, text);
        }
        for flag in flags {
            let origin = Origin::Flag(flag.flag.clone());
            match Options::all().get(&flag.key) {
                Some(option) => reading.text(option, origin, &flag.text),
                None => reading.unknown_key(&flag.key, origin),
            }
        }
        reading.finish()
    }

    /// No layer at all: only the built-in values and what a bundle proposes.
    pub fn none() -> Layers {
        Layers { layers: Vec::new() }
    }

    /// Merges the layers over the built-in values.
    pub fn merge(&self) -> Effective {
        self.merge_over(None)
    }

    /// Merges the layers over the built-in values and what the bundle proposes.  A proposal for an option that this
    /// runtime does not have, or of the wrong shape, is refused: the bundle was made for another runtime.
    ///
    /// # Errors
    /// Every proposal that is no value of an option.
    pub fn merge_with_bundle(
        &self,
        bundle: &str,
        proposals: &BTreeMap<String, Json>,
    ) -> Result<Effective, ConfigErrors> {
        let mut reading = Reading::default();
        let origin = Origin::Bundle(bundle.to_owned());
        for (key, value) in proposals {
            match Options::all().get(key) {
                Some(option) => {
                    reading.value(option, origin.clone(), Value::serialize(value).unwrap_or(Value::from("")))
                }
                None => reading.unknown_key(key, origin.clone()),
            }
        }
        Ok(self.merge_over(Some(reading.finish()?)))
    }

    fn merge_over(&self, bundle: Option<Layers>) -> Effective {
        let built_in = Layer {
            origin: Origin::BuiltIn,
            values: Value::serialize(RawConfig::built_in())
                .ok()
                .and_then(Value::into_dict)
                .map(without_empty)
                .expect("the built-in values are a plain table"),
        };
        let bundle = bundle.map(|layers| layers.layers).unwrap_or_default();
        let layers: Vec<&Layer> = std::iter::once(&built_in).chain(&bundle).chain(&self.layers).collect();
        let figment = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(*layer));
        let raw = figment.extract().expect("every value was checked against its option when its layer was read");
        // A layer's name is its origin spelled out, which is how figment's answer is turned back into the type.
        let origin_of = |name: &str| layers.iter().find(|layer| layer.origin.to_string() == name);
        let entries = Options::all()
            .iter()
            .filter_map(|option| {
                let value = serde_json::to_value(figment.find_value(&option.key).ok()?).ok()?;
                let layer = origin_of(&figment.find_metadata(&option.key)?.name)?;
                Some((option.key.clone(), Entry { value, origin: layer.origin.clone() }))
            })
            .collect();
        Effective { raw, entries }
    }
}

/// One source of values.
#[derive(Debug, Clone)]
struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// Collects layers and mistakes side by side.
#[derive(Default)]
struct Reading {
    layers: Vec<Layer>,
    errors: Vec<ConfigError>,
}

impl Reading {
    fn finish(self) -> Result<Layers, ConfigErrors> {
        if self.errors.is_empty() { Ok(Layers { layers: self.layers }) } else { Err(ConfigErrors(self.errors)) }
    }

    fn file(&mut self, path: &Path) {
        match read_toml(path) {
            Ok(table) => self.table("", table, &Origin::File(path.to_owned())),
            Err(error) => self.errors.push(error),
        }
    }

    fn table(&mut self, prefix: &str, table: Dict, origin: &Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            let is_table = Options::all().iter().any(|option| option.key.starts_with(&format!("{key}.")));
            match (Options::all().get(&key), value) {
                (Some(option), value) => self.value(option, origin.clone(), value),
                (None, Value::Dict(_, nested)) if is_table => self.table(&key, nested, origin),
                (None, _) => self.unknown_key(&key, origin.clone()),
            }
        }
    }

    fn variable(&mut self, variable: &str, text: Option<&str>) {
        let option = Options::all().iter().find(|option| option.variable() == variable);
        match (option, text) {
            (Some(option), Some(text)) => self.text(option, Origin::Variable(variable.to_owned()), text),
            (Some(_), None) => self.errors.push(ConfigError::NotText { variable: variable.to_owned() }),
            (None, _) => self.errors.push(ConfigError::UnknownVariable {
                variable: variable.to_owned(),
                suggestion: Options::all().nearest_variable(variable),
            }),
        }
    }

    /// A value that came as text is read in the shape of its option, so that a model called `7` stays a name.
    fn text(&mut self, option: &ConfigOption, origin: Origin, text: &str) {
        let value = match &option.kind {
            Kind::Boolean => text.parse().map(|value: bool| Value::from(value)).ok(),
            Kind::Integer { .. } => text.parse().map(|value: i128| Value::from(value)).ok(),
            Kind::Choice(_) | Kind::Text => Some(Value::from(text)),
        };
        self.value(option, origin, value.unwrap_or_else(|| Value::from(text)));
    }

    fn value(&mut self, option: &ConfigOption, origin: Origin, value: Value) {
        match check(option, &origin, &value) {
            Ok(()) => self.layers.push(Layer { origin, values: nested(&option.key, settled(option, value)) }),
            Err(error) => self.errors.push(error),
        }
    }

    fn unknown_key(&mut self, key: &str, origin: Origin) {
        let suggestion = Options::all().nearest(key);
        self.errors.push(ConfigError::UnknownKey { key: key.to_owned(), origin, suggestion });
    }
}

fn check(option: &ConfigOption, origin: &Origin, value: &Value) -> Result<(), ConfigError> {
    let wrong_type = |expected: String| ConfigError::WrongType {
        key: option.key.clone(),
        found: value.to_actual().to_string(),
        expected,
        origin: origin.clone(),
    };
    match (&option.kind, value) {
        (Kind::Boolean, Value::Bool(..)) => Ok(()),
        (Kind::Boolean, _) => Err(wrong_type("true or false".to_owned())),
        (Kind::Integer { minimum, maximum }, Value::Num(_, number)) if !is_fraction(number) => {
            let found = number.to_i128().or_else(|| number.to_u128().and_then(|n| i128::try_from(n).ok()));
            match found {
                Some(found) if (i128::from(*minimum)..=i128::from(*maximum)).contains(&found) => Ok(()),
                found => Err(ConfigError::OutOfBounds {
                    key: option.key.clone(),
                    found: found.unwrap_or(i128::MAX),
                    minimum: *minimum,
                    maximum: *maximum,
                    origin: origin.clone(),
                }),
            }
        }
        (Kind::Integer { .. }, _) => Err(wrong_type("a whole number".to_owned())),
        (Kind::Choice(words), Value::String(_, word)) if words.contains(word) => Ok(()),
        (Kind::Choice(words), _) => Err(wrong_type(format!("one of {}", words.join(", ")))),
        (Kind::Text, Value::String(_, text)) if !text.is_empty() => Ok(()),
        (Kind::Text, _) => Err(wrong_type("text that is not empty".to_owned())),
    }
}

/// One type for all whole numbers, wherever they came from; the bounds have been checked.
fn settled(option: &ConfigOption, value: Value) -> Value {
    match (&option.kind, value.to_i128().and_then(|number| u64::try_from(number).ok())) {
        (Kind::Integer { .. }, Some(number)) => Value::from(number),
        _ => value,
    }
}

fn is_fraction(number: &Num) -> bool {
    matches!(number, Num::F32(_) | Num::F64(_))
}

fn nested(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        Some((table, rest)) => Dict::from([(table.to_owned(), Value::from(nested(rest, value)))]),
        None => Dict::from([(key.to_owned(), value)]),
    }
}

/// Leaves out what is not set, so that it neither covers a lower layer nor counts as a value.
fn without_empty(values: Dict) -> Dict {
    let keep = |value: Value| match value {
        Value::Empty(..) => None,
        Value::Dict(tag, nested) => Some(Value::Dict(tag, without_empty(nested))).filter(|value| match value {
            Value::Dict(_, nested) => !nested.is_empty(),
            _ => true,
        }),
        value => Some(value),
    };
    values.into_iter().filter_map(|(key, value)| Some((key, keep(value)?))).collect()
}

fn read_toml(path: &Path) -> Result<Dict, ConfigError> {
    let unreadable =
        |error: std::io::Error| ConfigError::UnreadableFile { path: path.to_owned(), reason: error.to_string() };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    if let Some(found) = permissions::writable_by_all(&file).map_err(unreadable)? {
        return Err(ConfigError::WritableFile { path: path.to_owned(), found });
    }
    file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(ConfigError::FileTooLarge { path: path.to_owned(), limit: FILE_LIMIT_BYTES });
    }
    toml::from_str(&text).map_err(|error| ConfigError::NotToml {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}
