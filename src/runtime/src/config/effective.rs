//! The merged configuration: for every option its value and where it came from.  This is what `config show` prints
//! and what the configuration's digest is taken over.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::options::Options;
use super::raw::RawConfig;
use ampoule_bundle::Digest;

/// Where a value came from, in rising precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The runtime's own default.
    BuiltIn,
    /// The settings that the bundle proposes.
    Bundle(String),
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(String),
    /// A flag, as typed.
    Flag(String),
    /// The process that started this one and passed it a socket.
    Inherited,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => write!(formatter, "built in"),
            Origin::Bundle(name) => write!(formatter, "bundle {name}"),
            Origin::File(path) => write!(formatter, "file {}", path.display()),
            Origin::Variable(name) => write!(formatter, "environment variable {name}"),
            Origin::Flag(flag) => write!(formatter, "flag {flag}"),
            Origin::Inherited => write!(formatter, "the inherited socket"),
        }
    }
}

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value, in the shape of its option.
    pub value: Json,
    /// Which layer won.
    pub origin: Origin,
}

/// The merged configuration.  Keys that nobody set and that have no default are absent.
#[derive(Debug, Clone)]
pub struct Effective {
    pub(super) raw: RawConfig,
    pub(super) entries: BTreeMap<String, Entry>,
}

impl Effective {
    /// The effective value of an option.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Where an option's value came from; built in when nobody set it.
    pub fn origin(&self, key: &str) -> Origin {
        self.entries.get(key).map_or(Origin::BuiltIn, |entry| entry.origin.clone())
    }

    /// A path as it is to be opened: relative to the file that names it, or to the working folder when a flag or a
    /// variable does.
    pub(super) fn resolve(&self, key: &str, path: &Path) -> PathBuf {
        match self.origin(key) {
            Origin::File(file) => file.parent().unwrap_or(Path::new("")).join(path),
            _ => path.to_owned(),
        }
    }

    /// SHA-256 over the effective values as one line of JSON with sorted keys.  Where a value came from does not enter:
    /// two sites that run the same settings have the same digest.
    pub fn digest(&self) -> Digest {
        let values: BTreeMap<&str, &Json> =
            self.entries.iter().map(|(key, entry)| (key.as_str(), &entry.value)).collect();
        Digest::of(serde_json::to_string(&values).expect("plain values always serialise").as_bytes())
    }

    /// The table that `config show` prints: key, value, origin, one option per line, in the order of the schema.
    pub fn to_table(&self) -> String {
        let rows: Vec<[String; 3]> = Options::all()
            .iter()
            .map(|option| match self.get(&option.key) {
                Some(entry) => [option.key.clone(), entry.value.to_string(), entry.origin.to_string()],
                None => [option.key.clone(), "-".to_owned(), "not set".to_owned()],
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(48);
        let (keys, values) = (width(0), width(1));
        let mut table = String::new();
        for [key, value, origin] in rows {
            table.push_str(&format!("{key:keys$}  {value:values$}  {origin}\n"));
        }
        table.push_str(&format!("\nconfiguration digest {}\n", self.digest()));
        table
    }

    /// The same for programs.
    pub fn to_json(&self) -> Json {
        let options: serde_json::Map<String, Json> = Options::all()
            .iter()
            .filter_map(|option| {
                let entry = self.get(&option.key)?;
                Some((option.key.clone(), json!({ "value": entry.value, "origin": entry.origin.to_string() })))
            })
            .collect();
        json!({ "digest": self.digest().to_string(), "options": options })
    }
}
