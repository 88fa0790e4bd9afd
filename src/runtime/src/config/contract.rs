//! What a bundle's release statement means for this site's configuration: values that it proposes where the site is
//! silent, and bounds that the site may tighten and never loosen.
//!
//! The bounds come from two places in the signed scope: the statement's `constraints`, and the settings schema, a JSON
//! Schema over the same keys as the configuration file.

use std::collections::BTreeMap;

use ampoule_bundle::statement::ReleaseStatement;
use ampoule_bundle::{BundleName, Setting, SettingsSchema};
use serde_json::Value as Json;

use super::effective::{Effective, Origin};
use super::error::{ConfigError, ConfigErrors};
use super::layers::Layers;
use super::options::Options;

/// The bundle's side of the configuration.
#[derive(Debug, Clone)]
pub struct Contract {
    bundle: String,
    proposals: BTreeMap<String, Json>,
    bounds: Vec<Bound>,
}

#[derive(Debug, Clone)]
struct Bound {
    key: String,
    rule: &'static str,
    allowed: Allowed,
}

#[derive(Debug, Clone, PartialEq)]
enum Allowed {
    AtMost(u64),
    AtLeast(u64),
    OneOf(Vec<Json>),
}

impl Contract {
    /// Reads the contract from a verified statement and the settings schema that it names, if any.
    ///
    /// # Errors
    /// [`ConfigError::SettingsSchema`] when that schema is not understood, [`ConfigError::BelongsToSite`] when it speaks about
    /// an option that is the site's alone.
    pub fn of(release: &ReleaseStatement, settings_schema: Option<&[u8]>) -> Result<Contract, ConfigErrors> {
        let bundle = format!("{} {}", release.name, release.version);
        let mut contract = Contract { bundle, proposals: BTreeMap::new(), bounds: Vec::new() };
        if let Some(most) = release.constraints.max_context_length {
            contract.bound("limits.context_tokens", "constraints.maxContextLength", Allowed::AtMost(most.into()));
        }
        if let Some(most) = release.constraints.max_output_tokens {
            contract.bound("limits.output_tokens", "constraints.maxOutputTokens", Allowed::AtMost(most.into()));
        }
        if let Some(bytes) = settings_schema {
            let schema = SettingsSchema::parse(bytes).map_err(|error| {
                let reason = error.to_string();
                ConfigErrors::from(ConfigError::SettingsSchema { bundle: contract.bundle.clone(), reason })
            })?;
            schema.0.into_iter().try_for_each(|(key, setting)| contract.take(key, setting))?;
        }
        Ok(contract)
    }

    /// Merges the site's layers over the bundle's proposals and holds the result against the bounds.
    ///
    /// # Errors
    /// Every value of the site that loosens a bound, with both values and both sources; and every proposal that is no
    /// value of an option of this runtime.
    pub fn apply(&self, layers: &Layers) -> Result<Effective, ConfigErrors> {
        let effective = layers.merge_with_bundle(&self.bundle, &self.proposals_within_bounds(layers))?;
        let errors: Vec<ConfigError> = self
            .bounds
            .iter()
            .filter_map(|bound| {
                let entry = effective.get(&bound.key)?;
                let holds = bound.allowed.permits(&entry.value);
                (!holds).then(|| ConfigError::LoosensBundle {
                    key: bound.key.as_str().into(),
                    found: entry.value.to_string().into(),
                    origin: entry.origin.clone(),
                    allowed: bound.allowed.describe().into(),
                    rule: bound.rule,
                    bundle: self.bundle.as_str().into(),
                })
            })
            .collect();
        if errors.is_empty() { Ok(effective) } else { Err(ConfigErrors(errors)) }
    }

    /// Where the site is silent, a bound pulls the value to itself: silence is not a wish for more.
    fn proposals_within_bounds(&self, layers: &Layers) -> BTreeMap<String, Json> {
        let without_bundle = layers.merge();
        let mut proposals = self.proposals.clone();
        for bound in &self.bounds {
            let site_is_silent = without_bundle.origin(&bound.key) == Origin::BuiltIn;
            let value = proposals.get(&bound.key).or(without_bundle.get(&bound.key).map(|entry| &entry.value));
            if site_is_silent && !value.is_some_and(|value| bound.allowed.permits(value)) {
                proposals.insert(bound.key.clone(), bound.allowed.nearest());
            }
        }
        proposals
    }

    fn bound(&mut self, key: &str, rule: &'static str, allowed: Allowed) {
        self.bounds.push(Bound { key: key.to_owned(), rule, allowed });
    }

    fn take(&mut self, key: String, setting: Setting) -> Result<(), ConfigErrors> {
        if Options::all().get(&key).is_none() {
            // Proposing it lets the merge refuse it by name, with what was probably meant.
            self.proposals.insert(key, Json::Null);
            return Ok(());
        }
        let Setting { default, minimum, maximum, one_of, only } = setting;
        // It becomes part of answers, log lines and pages, as a bundle's own name does.
        let is_unfit = |name: &Json| name.as_str().is_none_or(|name| name.parse::<BundleName>().is_err());
        if !is_open_to_bundles(&key) || (key == "model_name" && default.as_ref().is_some_and(is_unfit)) {
            return Err(ConfigError::BelongsToSite { key, bundle: self.bundle.clone() }.into());
        }
        if let Some(value) = default {
            self.proposals.insert(key.clone(), value);
        }
        let bounds = [
            ("settings schema, minimum", minimum.map(Allowed::AtLeast)),
            ("settings schema, maximum", maximum.map(Allowed::AtMost)),
            ("settings schema, enum", one_of.map(Allowed::OneOf)),
            ("settings schema, const", only.map(|only| Allowed::OneOf(vec![only]))),
        ];
        for (rule, allowed) in bounds {
            if let Some(allowed) = allowed {
                self.bound(&key, rule, allowed);
            }
        }
        Ok(())
    }
}

/// A bundle has a say in how its model is served.  Files, addresses and logs are the site's own, and they are in use
/// before a bundle has been read.
fn is_open_to_bundles(key: &str) -> bool {
    key.starts_with("limits.") || matches!(key, "model_name" | "readiness_grace_seconds" | "drain_deadline_seconds")
}

impl Allowed {
    fn permits(&self, value: &Json) -> bool {
        match self {
            Allowed::AtMost(most) => value.as_u64().is_some_and(|value| value <= *most),
            Allowed::AtLeast(least) => value.as_u64().is_some_and(|value| value >= *least),
            Allowed::OneOf(words) => words.contains(value),
        }
    }

    fn nearest(&self) -> Json {
        match self {
            Allowed::AtMost(bound) | Allowed::AtLeast(bound) => Json::from(*bound),
            Allowed::OneOf(words) => words.first().cloned().unwrap_or(Json::Null),
        }
    }

    fn describe(&self) -> String {
        match self {
            Allowed::AtMost(most) => format!("at most {most}"),
            Allowed::AtLeast(least) => format!("at least {least}"),
            Allowed::OneOf(words) => match words.as_slice() {
                [only] => format!("only {only}"),
                words => format!("one of {}", words.iter().map(Json::to_string).collect::<Vec<_>>().join(", ")),
            },
        }
    }
}
