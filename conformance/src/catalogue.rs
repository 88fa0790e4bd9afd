//! Every case, in the order in which it runs: what is cheap and basic first, so that a broken appliance is told early.

use anyhow::bail;

use crate::arguments::Profile;
use crate::cases;
use crate::site::Site;
use crate::target::Target;

/// One promise and how it is tested.
#[derive(Debug)]
pub(crate) struct Case {
    /// By which `SPECIFICATION.md` and every report name it.  An id is never given to another promise.
    pub(crate) id: &'static str,
    /// The promise, in one line.
    pub(crate) title: &'static str,
    /// The test: an error is a promise that was not kept.
    pub(crate) check: Check,
}

/// What a test needs before it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Check {
    /// A server that runs, whoever started it.
    Served(fn(&Target) -> anyhow::Result<()>),
    /// A binary, a bundle and a trust root, with which it starts processes of its own.
    Installed(fn(&Site) -> anyhow::Result<()>),
}

impl Case {
    pub(crate) const fn served(
        id: &'static str,
        title: &'static str,
        check: fn(&Target) -> anyhow::Result<()>,
    ) -> Case {
        Case { id, title, check: Check::Served(check) }
    }

    pub(crate) const fn installed(
        id: &'static str,
        title: &'static str,
        check: fn(&Site) -> anyhow::Result<()>,
    ) -> Case {
        Case { id, title, check: Check::Installed(check) }
    }

    fn belongs_to(&self, profile: Profile) -> bool {
        profile == Profile::Full || matches!(self.check, Check::Served(_))
    }
}

/// A reason why a case could not judge this appliance, carried as an error because it ends the case in the same way.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    cases::GROUPS.iter().copied().flatten()
}

/// The cases of a profile, narrowed to ids that begin as one of `wanted`, if any are wanted.
pub(crate) fn select(profile: Profile, wanted: &[String]) -> anyhow::Result<Vec<&'static Case>> {
    if let Some(unknown) = wanted.iter().find(|wanted| !all().any(|case| case.id.starts_with(wanted.as_str()))) {
        bail!("no case begins with {unknown}; `run --profile full --list` names all");
    }
    let is_wanted =
        |case: &&Case| wanted.is_empty() || wanted.iter().any(|wanted| case.id.starts_with(wanted.as_str()));
    let selected: Vec<_> = all().filter(|case| case.belongs_to(profile)).filter(is_wanted).collect();
    if selected.is_empty() {
        bail!("the profile smoke has none of these cases; they need `--profile full`");
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    /// The promises of the specification: the id and the text of each table row that begins with an id.
    fn promises() -> Vec<(&'static str, &'static str)> {
        let rows = include_str!("../SPECIFICATION.md").lines().filter_map(|line| line.strip_prefix("| AMP-"));
        rows.map(|row| {
            let mut cells = row.split('|').map(str::trim);
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect()
    }

    #[test]
    fn the_specification_and_the_code_name_the_same_promises_in_the_same_order() {
        let code: Vec<_> = all().map(|case| (case.id.strip_prefix("AMP-").unwrap(), case.title)).collect();
        for (written, coded) in promises().iter().zip(&code) {
            assert_eq!(written, coded, "SPECIFICATION.md on the left");
        }
        assert_eq!(promises().len(), code.len());
    }

    #[test]
    fn ids_are_unique_and_titles_are_one_line() {
        let ids: BTreeSet<_> = all().map(|case| case.id).collect();
        assert_eq!(ids.len(), all().count());
        for case in all() {
            let parts: Vec<_> = case.id.split('-').collect();
            assert!(parts.len() == 3 && parts[0] == "AMP" && parts[2].len() == 2, "{}", case.id);
            assert!(case.title.len() <= 100 && !case.title.contains(['\n', '|']), "{}: {}", case.id, case.title);
        }
    }

    #[test]
    fn a_selection_is_by_profile_and_by_the_beginning_of_ids() {
        assert!(select(Profile::Smoke, &[]).unwrap().len() < select(Profile::Full, &[]).unwrap().len());
        assert_eq!(select(Profile::Full, &["AMP-API-01".to_owned()]).unwrap().len(), 1);
        assert!(select(Profile::Full, &["AMP-NONE".to_owned()]).is_err());
        assert!(select(Profile::Smoke, &["AMP-TAM".to_owned()]).is_err());
    }
}
