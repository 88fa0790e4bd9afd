//! `cargo xtask mutants`: cargo-mutants changes the code that verifies and admits, one place at a time, and the tests of the
//! bundle crate have to notice every change, but for those that `src/bundle/mutants.toml` lists with a reason.
//!
//! That takes the better part of an hour, and cargo-mutants itself is built in two minutes: too long for every landing. So
//! `cargo xtask test` holds the list alone against the sources, which needs no tool: an entry must name a function that
//! there is, in a file that is mutated, and say why.  The whole is for whoever changes these files or their tests, and for
//! a release.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::process;

/// Another release may find other places to change.
const INSTALL: &str = "cargo install --locked --debug --version 27.1.0 cargo-mutants";
/// What is mutated: what verifies a bundle, what admits it, and what both stand on.
const FILES: &[&str] = &[
    "attestation.rs",
    "certificate/der.rs",
    "certificate/fields.rs",
    "certificate/mod.rs",
    "policy.rs",
    "policy/footprint.rs",
    "policy/marks.rs",
    "policy/report.rs",
    "policy/rule.rs",
    "sealed.rs",
    "trust/chain.rs",
    "trust/document.rs",
    "trust/downgrade.rs",
    "trust/revocation.rs",
    "trust/root.rs",
    "trust/summary.rs",
    "unlock.rs",
    "verified.rs",
    "verify.rs",
    "weights.rs",
];
/// Where they lie.
const SOURCES: &str = "src/bundle/src";
/// The survivors that are accepted, with their reasons.
const LIST: &str = "src/bundle/mutants.toml";
/// Everything that a run builds and writes.
const FOLDER: &str = "target/mutants";
/// Tests that take long without optimisation and ask about archives, weight headers and age files. Leaving them out cannot
/// make the verdict milder: what only they would notice counts as a survivor.
const LEFT_OUT: &[&str] = &[
    "tampering::",
    "canonical_form::",
    "gguf_headers::",
    "c03_a_thin_bundle_is_no_bundle",
    "a_stranger_s_reader_agrees",
    "what_is_opened_is_read_alike_by_python",
    "other_tools_read_the_file",
    "whatever_is_sealed_opens_again",
    "sizes_and_counts_are_capped",
    "every_vector_has_the_verdict",
    "c21_a_payload_that_was_not_sealed_so",
];
/// The others together take three seconds.
const TEST_LIMIT_SECONDS: &str = "120";

/// What to mutate.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these files below `src/bundle/src`; all that verify and admit otherwise.
    #[arg(value_name = "FILE", value_parser = clap::builder::PossibleValuesParser::new(FILES))]
    files: Vec<String>,
    /// Write the table and the list into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// One mutant that survives, and why that is accepted.
pub(crate) struct Survivor {
    file: String,
    mutant: String,
    reason: String,
}

/// How often each mutant of a file survived. The same change may be possible in several places of one function.
type Survivors = BTreeMap<(String, String), usize>;

/// Mutates, tests, and compares what survives with the list.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !process::is_installed("cargo-mutants") {
        bail!("cargo-mutants is missing; `{INSTALL}` builds it in two minutes");
    }
    let listed = check_list()?;
    let files: Vec<&str> = match &options.files[..] {
        [] => FILES.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    mutate(&files)?;
    let results = Path::new(FOLDER).join("mutants.out");
    let (rows, survivors) = read_results(&results)?;
    let mut text = table(&files, &rows);
    let concerned: Vec<&Survivor> = listed.iter().filter(|entry| files.contains(&entry.file.as_str())).collect();
    for Survivor { file, mutant, reason } in &concerned {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n- `{file}`: {mutant}. {reason}");
    }
    text.push('\n');
    print!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    compare(&concerned, &survivors)
}

/// What the list says. Every entry names a file that is mutated and a function in it, and gives a reason.
pub(crate) fn check_list() -> anyhow::Result<Vec<Survivor>> {
    let text = std::fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    let listed: toml::Table = toml::from_str(&text).with_context(|| format!("{LIST} is no TOML"))?;
    let entries = listed.get("survivor").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut survivors = Vec::new();
    for entry in entries {
        let member = |name: &str| {
            let found = entry.get(name).and_then(toml::Value::as_str).filter(|found| !found.trim().is_empty());
            found.map(str::to_owned).with_context(|| format!("{LIST}: an entry without `{name}`: {entry}"))
        };
        let survivor = Survivor { file: member("file")?, mutant: member("mutant")?, reason: member("reason")? };
        let Survivor { file, mutant, .. } = &survivor;
        if !FILES.contains(&file.as_str()) {
            bail!("{LIST}: {file} is not mutated");
        }
        let source = std::fs::read_to_string(Path::new(SOURCES).join(file)).with_context(|| format!("no {file}"))?;
        let function = function_of(mutant).with_context(|| format!("{LIST}: `{mutant}` names no function"))?;
        if ![format!("fn {function}("), format!("fn {function}<")].iter().any(|start| source.contains(start)) {
            bail!("{LIST}: {file} has no function {function}; take the entry out, or run `cargo xtask mutants {file}`");
        }
        survivors.push(survivor);
    }
    println!("{} survivors are listed, each with a function and a reason", survivors.len());
    Ok(survivors)
}

/// The plain name of the function that a mutant is in: `replace … in Type::name`, `replace Type::name … with …`.
fn function_of(mutant: &str) -> Option<&str> {
    let whole = match mutant.rsplit_once(" in ") {
        Some((_, function)) => function,
        None => mutant.strip_prefix("replace ")?.split(" -> ").next()?.split(" with ").next()?,
    };
    whole.rsplit("::").next().filter(|name| name.chars().all(|letter| letter.is_alphanumeric() || letter == '_'))
}

fn mutate(files: &[&str]) -> anyhow::Result<()> {
    let mut command = process::cargo();
    command.args(["mutants", "--package=ampoule-bundle", "--no-shuffle", "--colors=never"]);
    command.args(["--output", FOLDER, "--timeout", TEST_LIMIT_SECONDS]);
    for file in files {
        command.arg("--file").arg(format!("{SOURCES}/{file}"));
    }
    command.args(["--", "--locked", "--all-targets", "--"]);
    for test in LEFT_OUT {
        command.args(["--skip", test]);
    }
    // Only what a mutant changes is compiled anew, in seconds; optimised it would take a minute each time.
    command
        .env("CARGO_TARGET_DIR", process::workspace_root().join(FOLDER))
        .env("CARGO_INCREMENTAL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "none");
    let status = command.status().with_context(|| format!("{command:?} did not start"))?;
    // 2 and 3 are survivors and mutants that hang, which are counted below.
    match status.code() {
        Some(0 | 2 | 3) => Ok(()),
        _ => bail!("{command:?} ended with {status}"),
    }
}

#[derive(Default)]
struct Row {
    caught: u32,
    hanging: u32,
    impossible: u32,
    surviving: u32,
}

fn read_results(folder: &Path) -> anyhow::Result<(BTreeMap<String, Row>, Survivors)> {
    let path = folder.join("outcomes.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let outcomes: Value = serde_json::from_str(&text)?;
    let (mut rows, mut survivors) = (BTreeMap::<String, Row>::new(), Survivors::new());
    for outcome in outcomes["outcomes"].as_array().context("outcomes.json lists no outcomes")? {
        let Some(mutant) = outcome["scenario"]["Mutant"].as_object() else { continue };
        let member = |name: &str| mutant[name].as_str().with_context(|| format!("a mutant without {name}"));
        let file = member("file")?;
        let file = file.strip_prefix(SOURCES).unwrap_or(file).trim_start_matches('/').to_owned();
        let row = rows.entry(file.clone()).or_default();
        match outcome["summary"].as_str() {
            Some("CaughtMutant") => row.caught += 1,
            Some("Timeout") => row.hanging += 1,
            Some("Unviable") => row.impossible += 1,
            Some("MissedMutant") => {
                row.surviving += 1;
                // `FILE:LINE:COLUMN: what is changed`; lines move, so they do not identify it.
                let name = member("name")?.splitn(4, ':').nth(3).context("a mutant without a place")?.trim();
                *survivors.entry((file, name.to_owned())).or_default() += 1;
            }
            other => bail!("cargo-mutants says {other:?} of `{}`", member("name")?),
        }
    }
    Ok((rows, survivors))
}

fn table(files: &[&str], rows: &BTreeMap<String, Row>) -> String {
    let mut text =
        String::from("| file | mutants | noticed | hang | do not compile | survive |\n|---|---|---|---|---|---|\n");
    let mut line = |name: &str, row: &Row| {
        let Row { caught, hanging, impossible, surviving } = row;
        let all = caught + hanging + impossible + surviving;
        let _ = writeln!(text, "| {name} | {all} | {caught} | {hanging} | {impossible} | {surviving} |");
    };
    let (none, mut total) = (Row::default(), Row::default());
    for file in files {
        let row = rows.get(*file).unwrap_or(&none);
        line(file, row);
        total.caught += row.caught;
        total.hanging += row.hanging;
        total.impossible += row.impossible;
        total.surviving += row.surviving;
    }
    line("all", &total);
    text
}

/// Fails for a survivor that is not listed, and for an entry that survives no more.
fn compare(listed: &[&Survivor], found: &Survivors) -> anyhow::Result<()> {
    let mut expected = Survivors::new();
    for entry in listed {
        *expected.entry((entry.file.clone(), entry.mutant.clone())).or_default() += 1;
    }
    let surplus = |these: &Survivors, those: &Survivors| -> Vec<String> {
        let more = |(mutant, count): &(&(String, String), &usize)| **count > those.get(mutant).copied().unwrap_or(0);
        these.iter().filter(more).map(|((file, mutant), _)| format!("  {file}: {mutant}")).collect()
    };
    let (new, gone) = (surplus(found, &expected), surplus(&expected, found));
    if !new.is_empty() || !gone.is_empty() {
        bail!(
            "{} mutants survive and are not in {LIST}:\n{}\n{} are in it and survive no more:\n{}",
            new.len(),
            new.join("\n"),
            gone.len(),
            gone.join("\n")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_names_its_function() {
        for (mutant, function) in [
            ("replace < with <= in Examiner<'_>::check_trust", Some("check_trust")),
            (
                "replace match guard self.now < expires with true in Examiner<'_>::check_validity",
                Some("check_validity"),
            ),
            ("replace <impl fmt::Display for Bytes>::fmt -> fmt::Result with Ok(Default::default())", Some("fmt")),
            ("replace Examiner<'_>::hold with ()", Some("hold")),
            ("replace list -> String with String::new()", Some("list")),
            ("delete ! in time", Some("time")),
            ("something else", None),
        ] {
            assert_eq!(function_of(mutant), function, "{mutant}");
        }
    }

    #[test]
    fn neither_a_new_survivor_nor_an_entry_that_is_caught_passes() {
        let entry = |mutant: &str| Survivor { file: "a.rs".into(), mutant: mutant.into(), reason: "so".into() };
        let found = |mutant: &str, count| Survivors::from([(("a.rs".to_owned(), mutant.to_owned()), count)]);
        let (x, y) = (entry("x"), entry("y"));
        compare(&[&x], &found("x", 1)).expect("it is listed");
        compare(&[&x, &x], &found("x", 2)).expect("both are listed");
        for (listed, found) in [
            (&[][..], found("x", 1)),
            (&[&x][..], Survivors::new()),
            (&[&x, &y][..], found("x", 1)),
            (&[&x][..], found("x", 2)),
            (&[&x, &x][..], found("x", 1)),
        ] {
            assert!(compare(listed, &found).is_err());
        }
    }
}
