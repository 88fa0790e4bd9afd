//! The options there are, as a table derived from `RawConfig`'s JSON Schema, so that a field added there is known
//! everywhere: in the environment, in `--set`, in `config show`, in a did-you-mean and in the bounds that are checked.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

use super::environment::PREFIX;
use super::raw::RawConfig;

/// The shape of an option's value, which decides how text from the environment or a flag is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number within bounds, both included.
    Integer {
        /// The least value.
        minimum: u64,
        /// The greatest value.
        maximum: u64,
    },
    /// One of these words.
    Choice(Vec<String>),
    /// Any text; a path is text too.
    Text,
}

/// One option.
#[derive(Debug, Clone)]
pub struct ConfigOption {
    /// Its dotted key, as in `limits.body_bytes`.
    pub key: String,
    /// The shape of its value.
    pub kind: Kind,
    /// What it means, for the operator.
    pub description: String,
}

impl ConfigOption {
    /// The environment variable that sets it, as in `AMPOULE_LIMITS__BODY_BYTES`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.replace('.', "__").to_uppercase())
    }
}

/// The table of all options, in the order in which `RawConfig` declares them.
#[derive(Debug)]
pub struct Options(Vec<ConfigOption>);

impl Options {
    /// The one table.
    pub fn all() -> &'static Options {
        static TABLE: LazyLock<Options> = LazyLock::new(|| Options::from_schema(&Options::schema()));
        &TABLE
    }

    /// The JSON Schema of the configuration file, with the built-in values as defaults.
    pub fn schema() -> Json {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<RawConfig>().to_value();
        let built_in = serde_json::to_value(RawConfig::built_in()).expect("the built-in values are plain JSON");
        describe(&mut schema, &built_in);
        schema["title"] = Json::from("Configuration of ampoule");
        one_line(&mut schema["description"]);
        schema
    }

    /// Walks the options in order.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigOption> {
        self.0.iter()
    }

    /// The option with this dotted key.
    pub fn get(&self, key: &str) -> Option<&ConfigOption> {
        self.0.iter().find(|option| option.key == key)
    }

    /// The known key that looks most like `unknown`, if one is near enough to be meant.
    pub fn nearest(&self, unknown: &str) -> Option<String> {
        nearest(unknown, self.0.iter().map(|option| option.key.as_str()))
    }

    /// The known variable that looks most like `unknown`.
    pub fn nearest_variable(&self, unknown: &str) -> Option<String> {
        let variables: Vec<String> = self.0.iter().map(ConfigOption::variable).collect();
        // The prefix is the same in all of them and says nothing about likeness.
        let prefix = super::environment::PREFIX;
        let known = variables.iter().filter_map(|variable| variable.strip_prefix(prefix));
        let found = nearest(unknown.strip_prefix(prefix).unwrap_or(unknown), known)?;
        Some(format!("{prefix}{found}"))
    }

    fn from_schema(schema: &Json) -> Options {
        let mut options = Vec::new();
        collect("", schema, &mut options);
        Options(options)
    }
}

fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    // A word alone (`certificate_file`) is compared with the last part of each key too: leaving out the table is as
    // common a slip as a wrong letter.
    let score = |candidate: &str| {
        let whole = strsim::jaro_winkler(unknown, candidate);
        let last = candidate.rsplit('.').next().map_or(0.0, |last| strsim::jaro_winkler(unknown, last));
        whole.max(last)
    };
    known
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.85)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate.to_owned())
}

fn collect(prefix: &str, schema: &Json, options: &mut Vec<ConfigOption>) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
    for (name, property) in properties {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if property.get("properties").is_some() {
            collect(&key, property, options);
        } else {
            let description = property["description"].as_str().unwrap_or_default().to_owned();
            options.push(ConfigOption { key, kind: kind(property), description });
        }
    }
}

fn kind(property: &Json) -> Kind {
    if let Some(choices) = property.get("enum").and_then(Json::as_array) {
        return Kind::Choice(choices.iter().filter_map(Json::as_str).map(str::to_owned).collect());
    }
    match property["type"].as_str() {
        Some("boolean") => Kind::Boolean,
        Some("integer") => Kind::Integer {
            minimum: property["minimum"].as_u64().unwrap_or(0),
            maximum: property["maximum"].as_u64().unwrap_or(u64::MAX),
        },
        _ => Kind::Text,
    }
}

/// Rewrites what the derive says about `Option` fields: in a file there is no null, a key is there or it is not.
fn describe(schema: &mut Json, built_in: &Json) {
    let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) else { return };
    for (name, property) in properties {
        let default = &built_in[name.as_str()];
        let Some(property) = property.as_object_mut() else { continue };
        property.remove("default");
        if let Some(description) = property.get_mut("description") {
            one_line(description);
        }
        if property.contains_key("properties") {
            let mut nested = Json::Object(std::mem::take(property));
            describe(&mut nested, default);
            if let Json::Object(nested) = nested {
                *property = nested;
            }
            continue;
        }
        without_null(property);
        property.remove("format");
        if !default.is_null() {
            property.insert("default".to_owned(), default.clone());
        }
    }
}

/// A comment's line breaks are those of the source file.
fn one_line(description: &mut Json) {
    if let Some(text) = description.as_str() {
        *description = Json::from(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

fn without_null(property: &mut Map<String, Json>) {
    if let Some(types) = property.get("type").and_then(Json::as_array)
        && let Some(kind) = types.iter().find(|kind| kind.as_str() != Some("null"))
    {
        let kind = kind.clone();
        property.insert("type".to_owned(), kind);
    }
    if let Some(Json::Array(choices)) = property.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    // A described enum inside an Option comes as `anyOf [the enum, null]`: lift the enum out.
    if let Some(Json::Array(mut variants)) = property.remove("anyOf")
        && let Some(Json::Object(inner)) = (!variants.is_empty()).then(|| variants.swap_remove(0))
    {
        for (name, value) in inner {
            property.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::is_service_link;

    #[test]
    fn every_option_has_a_kind_and_a_description() {
        let keys: Vec<_> = Options::all().iter().map(|option| option.key.as_str()).collect();
        assert!(
            keys.contains(&"bundle") && keys.contains(&"limits.body_bytes") && keys.contains(&"log.level"),
            "{keys:?}"
        );
        for option in Options::all().iter() {
            assert!(option.description.len() > 10, "{} has no description", option.key);
        }
        let words = ["error", "warn", "info", "debug", "trace"].map(str::to_owned).to_vec();
        assert_eq!(Options::all().get("log.level").unwrap().kind, Kind::Choice(words));
        let seconds = &Options::all().get("drain_deadline_seconds").unwrap().kind;
        assert_eq!(*seconds, Kind::Integer { minimum: 0, maximum: 3600 });
        assert_eq!(Options::all().get("allow_plain_http_beyond_loopback").unwrap().kind, Kind::Boolean);
    }

    #[test]
    fn a_slip_finds_what_was_meant() {
        let check = |unknown: &str, meant: Option<&str>| {
            assert_eq!(Options::all().nearest(unknown).as_deref(), meant, "{unknown}");
        };
        check("bundel", Some("bundle"));
        check("trustroot", Some("trust_root"));
        check("limits.body_byte", Some("limits.body_bytes"));
        check("certificate_file", Some("tls.certificate_file"));
        check("colour", None);
    }

    // Kubernetes sets AMPOULE_PORT and the like for a service called `ampoule`.  An option whose variable looked like
    // one of those could never be set.
    #[test]
    fn no_option_can_be_mistaken_for_a_service_link() {
        for option in Options::all().iter() {
            assert!(!is_service_link(&option.variable()), "{}", option.variable());
        }
    }
}
