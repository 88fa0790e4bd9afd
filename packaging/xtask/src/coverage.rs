//! `cargo xtask coverage`: which lines of the bundle crate its own tests reach, file by file, as cargo-tarpaulin counts.
//!
//! The tests of the other crates do not count, although sealing and runtime use most of it too: what this crate promises
//! its own tests have to show, and the others would need candle compiled once more.
//!
//! cargo-tarpaulin is built from source in some minutes and compiles all anew with counters in it: too long for every
//! landing.  So `cargo xtask test` looks at the newest committed table alone: it must have enough lines reached, and have
//! a row for each source file that there is, so that no file comes in that nobody has measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::process;

/// Another release may count other lines.
const INSTALL: &str = "cargo install --locked --debug --version 0.37.5 cargo-tarpaulin";
/// What is measured.
const SOURCES: &str = "src/bundle/src";
/// Everything that a run builds and writes.
const FOLDER: &str = "target/coverage";
/// The committed tables: one in each folder of results that has one.
const RESULTS: &str = "conformance/benchmarks";
/// Tests that take a minute and more even optimised: every bit, every cut. What only they reach does not count.
const LEFT_OUT: &[&str] = &["tampering::", "c03_a_thin_bundle_is_no_bundle", "real_vocabularies_are_read"];
/// Of so many lines in a thousand the tests must reach: 95 %.
const LEAST_PER_MILLE: u64 = 950;

/// Where the table goes.
#[derive(Args)]
pub(crate) struct Options {
    /// Write the table into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Lines that the tests reach, and lines that could be reached.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Lines {
    reached: u64,
    all: u64,
}

impl Lines {
    fn are_enough(self) -> bool {
        self.all > 0 && self.reached * 1000 >= self.all * LEAST_PER_MILLE
    }
}

/// Measures, and prints the table.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !process::is_installed("cargo-tarpaulin") {
        bail!("cargo-tarpaulin is missing; `{INSTALL}` builds it in some minutes");
    }
    std::fs::create_dir_all(FOLDER)?;
    let mut tarpaulin = process::cargo();
    // Nothing is optimised: the dependencies, which the dev profile would optimise, are compiled for this run alone.
    tarpaulin.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    tarpaulin.args(["tarpaulin", "--locked", "--release", "--package=ampoule-bundle", "--engine=llvm", "--skip-clean"]);
    tarpaulin.args(["--include-files=src/bundle/src/*", "--out=json", "--output-dir", FOLDER, "--target-dir"]);
    tarpaulin.args([&format!("{FOLDER}/build"), "--"]);
    for test in LEFT_OUT {
        tarpaulin.args(["--skip", test]);
    }
    process::run(&mut tarpaulin)?;
    let report = std::fs::read_to_string(Path::new(FOLDER).join("tarpaulin-report.json"))?;
    let text = table(&read_report(&report)?);
    print!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    check_table(&text)
}

/// Whether the newest committed table is about all files that there are, and good enough.
pub(crate) fn check_committed() -> anyhow::Result<()> {
    let mut tables = Vec::new();
    for folder in std::fs::read_dir(RESULTS)? {
        let table = folder?.path().join("coverage.md");
        if table.is_file() {
            tables.push(table);
        }
    }
    // The folders' names begin with their dates.
    let newest = tables.iter().max().with_context(|| format!("no folder in {RESULTS} has a coverage.md"))?;
    check_table(&std::fs::read_to_string(newest)?).with_context(|| {
        format!("{} is not good enough; `cargo xtask coverage --out FILE` measures anew", newest.display())
    })
}

/// The lines of each file in tarpaulin's report.
fn read_report(report: &str) -> anyhow::Result<BTreeMap<String, Lines>> {
    let report: Value = serde_json::from_str(report)?;
    let mut files = BTreeMap::new();
    for file in report["files"].as_array().context("tarpaulin's report lists no files")? {
        let path: PathBuf = file["path"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let root = process::workspace_root();
        let Some(path) = path.strip_prefix(root.join(SOURCES)).ok().and_then(Path::to_str) else { continue };
        let count = |name: &str| file[name].as_u64().with_context(|| format!("{path} without `{name}`"));
        files.insert(path.to_owned(), Lines { reached: count("covered")?, all: count("coverable")? });
    }
    // What holds declarations alone has no lines, and a row all the same.
    for path in sources()? {
        files.entry(path).or_default();
    }
    Ok(files)
}

/// Every source file of the crate.
fn sources() -> anyhow::Result<BTreeSet<String>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "--", SOURCES];
    let listing = process::output(Command::new("git").args(list))?;
    let paths = listing.lines().filter(|path| Path::new(path).is_file());
    Ok(paths
        .filter_map(|path| path.strip_prefix(SOURCES))
        .map(|path| path.trim_start_matches('/').to_owned())
        .collect())
}

fn table(files: &BTreeMap<String, Lines>) -> String {
    let mut text = String::from("| file | lines | reached | |\n|---|---|---|---|\n");
    let mut total = Lines::default();
    let mut row = |name: &str, Lines { reached, all }: Lines| {
        let share = match all {
            0 => "none to reach".to_owned(),
            all => format!("{:.1} %", 100.0 * reached as f64 / all as f64),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {all} | {reached} | {share} |");
    };
    for (name, lines) in files {
        row(name, *lines);
        total = Lines { reached: total.reached + lines.reached, all: total.all + lines.all };
    }
    row("all", total);
    text
}

/// Reads a table as [`table`] writes it, from whatever text it stands in.
fn read_table(text: &str) -> BTreeMap<&str, Lines> {
    text.lines().filter_map(read_row).collect()
}

fn read_row(line: &str) -> Option<(&str, Lines)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let name = cells.next()?;
    let all = cells.next()?.parse().ok()?;
    Some((name, Lines { all, reached: cells.next()?.parse().ok()? }))
}

/// Refuses a table that lacks a file or names one that is gone, and one in which too few lines are reached.
fn check_table(text: &str) -> anyhow::Result<()> {
    let mut rows = read_table(text);
    let total = rows.remove("all").context("the table of covered lines has no row `all`")?;
    let sources = sources()?;
    let measured: BTreeSet<String> = rows.keys().map(|name| (*name).to_owned()).collect();
    if measured != sources {
        let differing: Vec<&String> = measured.symmetric_difference(&sources).collect();
        bail!("the table of covered lines and {SOURCES} differ in {differing:?}");
    }
    if !total.are_enough() {
        bail!("{} of {} lines are reached, wanted are {LEAST_PER_MILLE} of 1000", total.reached, total.all);
    }
    println!("{} of {} lines of {} files are reached", total.reached, total.all, rows.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_too_few_lines_are_refused() {
        let lines = |reached, all| Lines { reached, all };
        let files = BTreeMap::from([("a.rs".to_owned(), lines(19, 20)), ("b/c.rs".to_owned(), lines(0, 0))]);
        let text = format!("# A title\n\n{}", table(&files));
        let expected = BTreeMap::from([("a.rs", lines(19, 20)), ("b/c.rs", lines(0, 0)), ("all", lines(19, 20))]);
        assert_eq!(read_table(&text), expected);
        assert!(lines(95, 100).are_enough() && lines(1, 1).are_enough());
        assert!(!lines(949, 1000).are_enough() && !lines(0, 0).are_enough());
        assert!(check_table(&text).is_err(), "these are not the files of the crate");
        assert!(check_table("no table").is_err());
    }
}
