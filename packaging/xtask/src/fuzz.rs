//! Feeds the parsers of untrusted bytes with inputs that a fuzzer invents, from the committed corpus onwards.
//!
//! `test` gives each target a minute; before a release each gets a day (`--seconds 86400`).  A crash, a hang or an
//! allocation beyond the limit ends the run with the input that caused it, which then becomes a test of the crate.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process;

/// The fuzz targets' workspace.
const FOLDER: &str = "src/bundle/fuzz";
/// Where the instrumented binaries are built, apart from all others.
const TARGET_FOLDER: &str = "target/fuzz";
/// No input is worth more memory than this at once: limits are checked before memory is asked for.
const ALLOCATION_LIMIT_MIB: u32 = 256;
/// What a process may grow to, with the fuzzer's own corpus in it.
const MEMORY_LIMIT_MIB: u32 = 2048;
/// How long one input may take, with instrumentation.
const INPUT_LIMIT_SECONDS: u32 = 10;

/// Every target, by the name of its file.
pub(crate) const TARGETS: &[&str] = &["archive", "manifest", "attestation", "age", "trust_root", "safetensors", "gguf"];

/// What to fuzz and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets; all of them otherwise.
    #[arg(value_name = "TARGET", value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// Add what reaches new code to the committed corpus afterwards.
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// A minute of each.
    pub(crate) fn short() -> Options {
        Options { seconds: 60, targets: Vec::new(), keep: false }
    }
}

/// Builds the targets and runs them, one on each core.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let build = ["fuzz", "build", "--fuzz-dir", FOLDER, "--target-dir", TARGET_FOLDER];
    // The instrumentation is a matter of the compiler, not of the language: it does not take a nightly one.
    process::run(process::cargo().args(build).env("RUSTC_BOOTSTRAP", "1"))?;
    let chosen: VecDeque<&str> = match &options.targets[..] {
        [] => TARGETS.iter().copied().collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let waiting = Mutex::new(chosen);
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop_front());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let worker = || std::iter::from_fn(next).try_for_each(|target| fuzz(target, options));
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

fn fuzz(target: &str, options: &Options) -> anyhow::Result<()> {
    let binary = Path::new(TARGET_FOLDER).join("x86_64-unknown-linux-gnu/release").join(target);
    let committed = Path::new(FOLDER).join("corpus").join(target);
    // What is found goes beside the committed inputs: a check must leave the tree as it was.
    let found = folder(&["found", target])?;
    let crashes = folder(&["crashes", target])?;
    let mut command = Command::new(&binary);
    command
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-malloc_limit_mb={ALLOCATION_LIMIT_MIB}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .args([&found, &committed]);
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the fuzz target {target} ended with {}\n{told}\nthe input lies in {}", output.status, crashes.display());
    }
    let statistic = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |line| line.trim_start_matches(':').trim()).to_owned()
    };
    println!(
        "{target:12} {:>4} s  {:>9} inputs  {:>6} new  {:>5} MiB",
        Duration::from_secs(options.seconds).as_secs(),
        statistic("number_of_executed_units"),
        statistic("new_units_added"),
        statistic("peak_rss_mb"),
    );
    if options.keep {
        process::run(Command::new(&binary).args(["-merge=1", "-verbosity=0"]).args([&committed, &found]))?;
    }
    Ok(())
}

fn folder(names: &[&str]) -> anyhow::Result<PathBuf> {
    let path = names.iter().fold(PathBuf::from(TARGET_FOLDER), |path, name| path.join(name));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
