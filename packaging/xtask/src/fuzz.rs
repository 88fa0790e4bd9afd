//! Feeds the parsers of untrusted bytes with inputs that a fuzzer invents, from the committed corpus onwards.
//!
//! `test` gives each target a minute of a processor; before a release each gets a day (`--seconds 86400`).  A crash, a
//! hang or an allocation beyond the limit ends the run with the input that caused it, which then becomes a test of the
//! crate.

use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions};

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
/// So long a process runs at most; then another one goes on from what it found.
const ROUND_SECONDS: u64 = 300;

/// Every target, by the name of its file.
pub(crate) const TARGETS: &[&str] = &["archive", "manifest", "attestation", "age", "trust_root", "safetensors", "gguf"];

/// What to fuzz and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How much processor time each target gets.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets; all of them otherwise.
    #[arg(value_name = "TARGET", value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// Add what reaches new code to the committed corpus afterwards.
    #[arg(long)]
    keep: bool,
    /// Write the table into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Options {
    /// A minute of each.
    pub(crate) fn short() -> Options {
        Options { seconds: 60, targets: Vec::new(), keep: false, out: None }
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
    let rows = std::thread::scope(|scope| {
        let worker =
            || std::iter::from_fn(next).map(|target| fuzz(target, options)).collect::<anyhow::Result<Vec<_>>>();
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let joined =
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?);
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    if let Some(path) = &options.out {
        let rows: String = rows.into_iter().flatten().map(|row| format!("{row}\n")).collect();
        let table = format!("{HEADING}\n|---|---|---|---|---|\n{rows}");
        std::fs::write(path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What the columns of the table are.
const HEADING: &str = "| target | processor s | inputs | new inputs kept | peak MiB |";

/// What came of one target.
struct Row {
    target: String,
    processor_seconds: f64,
    inputs: u64,
    kept: u64,
    peak_mib: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { target, processor_seconds, inputs, kept, peak_mib } = self;
        write!(formatter, "| {target} | {processor_seconds:.0} | {inputs} | {kept} | {peak_mib} |")
    }
}

/// Runs one target until it has had its share, which on a busy machine takes longer than the clock says.
#[expect(clippy::cast_precision_loss, reason = "seconds are few")]
fn fuzz(target: &str, options: &Options) -> anyhow::Result<Row> {
    let binary = Path::new(TARGET_FOLDER).join("x86_64-unknown-linux-gnu/release").join(target);
    let committed = Path::new(FOLDER).join("corpus").join(target);
    // What is found goes beside the committed inputs: a check must leave the tree as it was.
    let found = folder(&["found", target])?;
    let crashes = folder(&["crashes", target])?;
    let mut row = Row { target: target.to_owned(), processor_seconds: 0.0, inputs: 0, kept: 0, peak_mib: 0 };
    while row.processor_seconds < options.seconds as f64 {
        let left = (options.seconds as f64 - row.processor_seconds).ceil();
        let mut command = Command::new(&binary);
        command
            .arg(format!("-max_total_time={}", left.min(ROUND_SECONDS as f64)))
            .arg(format!("-malloc_limit_mb={ALLOCATION_LIMIT_MIB}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
            .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .args([&found, &committed]);
        let told = round(&mut command, &mut row)
            .with_context(|| format!("the fuzz target {target}; its input lies in {}", crashes.display()))?;
        let statistic = |name: &str| -> anyhow::Result<u64> {
            let line = told.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.trim().parse().ok())
                .with_context(|| format!("no {name} in what it told:\n{told}"))
        };
        row.inputs += statistic("number_of_executed_units")?;
        row.kept += statistic("new_units_added")?;
        row.peak_mib = row.peak_mib.max(statistic("peak_rss_mb")?);
    }
    println!("{row}");
    if options.keep {
        process::run(Command::new(&binary).args(["-merge=1", "-verbosity=0"]).args([&committed, &found]))?;
    }
    Ok(row)
}

/// Runs a process to its end, adds the processor time that it took, and returns what it told.
fn round(command: &mut Command, row: &mut Row) -> anyhow::Result<String> {
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("{command:?} did not start"))?;
    let mut told = Vec::new();
    child.stderr.take().context("it has no standard error")?.read_to_end(&mut told)?;
    let told = String::from_utf8_lossy(&told).into_owned();
    // It is only looked at, so that its times can still be read.
    rustix::process::waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    row.processor_seconds += processor_seconds(child.id())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ended with {status}\n{told}");
    }
    Ok(told)
}

/// The processor time of a process, from proc(5): fields 14 and 15 of its `stat`, counted behind its name.
#[expect(clippy::cast_precision_loss, reason = "ticks of hours are few")]
fn processor_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in the process's stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn folder(names: &[&str]) -> anyhow::Result<PathBuf> {
    let path = names.iter().fold(PathBuf::from(TARGET_FOLDER), |path, name| path.join(name));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
