//! How much memory a model would take, part by part, as admission compares it with what the process may use.  The parts
//! are foreseen by whoever knows the model's shapes; here they are only added up and told.

use std::fmt;

/// A number of bytes as people read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        let mib = self.0 as f64 / MIB;
        if mib < 1024.0 {
            write!(formatter, "{:.0} MiB", mib.ceil())
        } else {
            write!(formatter, "{:.1} GiB", mib / 1024.0)
        }
    }
}

/// What takes memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPart {
    /// What it is, for the operator.
    pub what: &'static str,
    /// How much it takes at most.
    pub bytes: u64,
    /// The setting that lowers it, if one does.
    pub lowered_by: Option<&'static str>,
}

/// All that takes memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(pub Vec<MemoryPart>);

impl Footprint {
    /// All parts together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "about {}: ", Bytes(self.bytes()))?;
        for (index, part) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{} {}", part.what, Bytes(part.bytes))?;
            if let Some(setting) = part.lowered_by {
                write!(formatter, " [`{setting}`]")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footprint_names_its_parts_and_what_lowers_them() {
        let part = |what, bytes, lowered_by| MemoryPart { what, bytes, lowered_by };
        let footprint =
            Footprint(vec![part("weights", 3 << 29, None), part("cache", (20 << 20) + 1, Some("limits.token_budget"))]);
        assert_eq!(footprint.to_string(), "about 1.5 GiB: weights 1.5 GiB, cache 21 MiB [`limits.token_budget`]");
        assert_eq!([(1 << 30) - 1, 1 << 30].map(|bytes| Bytes(bytes).to_string()), ["1024 MiB", "1.0 GiB"]);
        assert_eq!(Footprint(vec![part("a", u64::MAX, None), part("b", 1, None)]).bytes(), u64::MAX);
    }
}
