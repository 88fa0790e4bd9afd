//! The contract that a vendor writes by hand: a JSON file of the release statement's optional parts.
//!
//! ```json
//! { "requires": { "runtime": { "min": "0.1.0", "features": [] }, "cpuFeatures": ["avx2"], "endpoints": [] },
//!   "constraints": { "maxContextLength": 4096, "authentication": "required", "promptLogging": "off", "egress": "none" },
//!   "slo": { "timeToFirstTokenP95Milliseconds": 500 } }
//! ```
//!
//! Every member may be absent. The names and values are those of the signed statement (`bundles/FORMAT.md`), read by the
//! same strict parser, so that nothing is signed that the runtime would read otherwise.

use std::path::Path;

use ampoule_bundle::BundlePath;
use ampoule_bundle::json;
use ampoule_bundle::statement::{Constraints, KnownAnswers, Requirements, ServiceLevel};
use serde::{Deserialize, Serialize};

use crate::error::SealingError;
use crate::files;
use crate::source::{NamedFile, SmallFileKind};

/// A contract is written by hand, known answers by a tool; both are far below this.
const CONTRACT_LIMIT_BYTES: u64 = 8 << 20;

/// The optional parts of a release statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Contract {
    /// What the runtime and the host must offer; absent asks for this release of the runtime and nothing else.
    pub requires: Option<Requirements>,
    /// What local configuration may not widen; absent gives the strictest values that fit every model.
    pub constraints: Constraints,
    /// Path of the sealed JSON Schema of the settings that a site may inject.
    pub settings_schema: Option<BundlePath>,
    /// The promised service level.
    pub slo: Option<ServiceLevel>,
    /// Inputs and outputs that the runtime must reproduce.
    pub known_answers: Option<KnownAnswers>,
    /// Path of the sealed reference profile.
    pub reference_profile: Option<BundlePath>,
}

impl Contract {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// When it is not strict JSON of this shape; the message names the member.
    pub fn read(path: &Path) -> Result<Contract, SealingError> {
        let bytes = files::read_capped(path, CONTRACT_LIMIT_BYTES)?;
        let contract = json::parse(&path.display().to_string(), &bytes);
        contract.map_err(|error| SealingError::Contract(Box::new(error)))
    }

    /// The files that the contract names, which are sealed with the model.
    pub(crate) fn files(&self) -> Vec<NamedFile<'_>> {
        let schema = self.settings_schema.as_ref().map(|path| ("settingsSchema", path, SmallFileKind::Configuration));
        let profile =
            self.reference_profile.as_ref().map(|path| ("referenceProfile", path, SmallFileKind::Documentation));
        let named = [schema, profile].into_iter().flatten();
        named.map(|(member, path, kind)| NamedFile { member, path, kind }).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn absent_parts_have_the_strict_defaults_and_unknown_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contract.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Contract::read(&path)
        };
        assert_eq!(read("{}").unwrap(), Contract::default());
        let contract = read(r#"{"slo":{"interTokenP95Milliseconds":40}}"#).unwrap();
        assert_eq!(contract.slo.unwrap().inter_token_p95_milliseconds, Some(40));
        assert!(read(r#"{"constraint":{}}"#).is_err(), "an unknown member");
        assert!(read(r#"{"slo":{},"slo":{}}"#).is_err(), "a member given twice");
        for list in [r"[]", r#"{"slo":[null,40,null]}"#] {
            let refused = read(list);
            assert!(matches!(refused, Err(SealingError::Contract(_))), "a list for an object: {list}: {refused:?}");
        }
    }
}
