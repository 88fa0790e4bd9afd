//! What lies in a folder against what was signed.

use std::collections::BTreeMap;
use std::fmt;

use super::statement::Resource;

/// How many names of one kind are told; a folder of a thousand strange files would fill the terminal.
const NAMES_TOLD: usize = 5;

/// The names in which a folder differs from its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Signed, and not there.
    pub missing: Vec<String>,
    /// There, and not signed.
    pub unsigned: Vec<String>,
    /// There with other content.
    pub changed: Vec<String>,
}

impl Differences {
    /// Compares resources by name and digest.
    pub(crate) fn between(signed: &[Resource], found: &[Resource]) -> Differences {
        let by_name = |resources: &[Resource]| -> BTreeMap<String, Vec<u8>> {
            resources.iter().map(|resource| (resource.name.clone(), resource.digest.clone())).collect()
        };
        let (signed, found) = (by_name(signed), by_name(found));
        let mut differences = Differences::default();
        for (name, digest) in &signed {
            match found.get(name) {
                None => differences.missing.push(name.clone()),
                Some(other) if other != digest => differences.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        differences.unsigned = found.into_keys().filter(|name| !signed.contains_key(name)).collect();
        differences
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unsigned.is_empty() && self.changed.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, names) in [("missing", &self.missing), ("not signed", &self.unsigned), ("changed", &self.changed)] {
            if names.is_empty() {
                continue;
            }
            let rest = names.len().saturating_sub(NAMES_TOLD);
            let told: Vec<String> = names.iter().take(NAMES_TOLD).map(|name| name.escape_debug().to_string()).collect();
            write!(formatter, "{separator}{what}: {}", told.join(", "))?;
            if rest > 0 {
                write!(formatter, " and {rest} more")?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_and_counted() {
        let resource = |name: &str, digest: u8| Resource { name: name.to_owned(), digest: vec![digest] };
        let signed = [resource("a", 1), resource("b", 1), resource("c", 1)];
        assert!(Differences::between(&signed, &signed).is_empty());
        let mut found = vec![resource("a", 1), resource("b", 2)];
        found.extend((0..7).map(|number| resource(&format!("x{number}\n"), 0)));
        let told = Differences::between(&signed, &found).to_string();
        assert_eq!(told, r"missing: c; not signed: x0\n, x1\n, x2\n, x3\n, x4\n and 2 more; changed: b");
    }
}
