//! `cargo xtask test`: every check that a change has to pass, in the order in which a failure costs least.
//!
//! Nothing is skipped silently.  A missing outside tool is named before the work starts and again at the end, with what
//! was skipped for it; where `CI=true`, a skip fails the run.  The one exception is the absence of the shared fixtures,
//! which are too large for the repository: it is printed and allowed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{
    airgap, alerts, bundle, clients, coverage, crash_sweep, dist, edges, fuzz, image, kubernetes, load, model_signing,
    mutants, process, soak, systemd, tidy, tools,
};

/// The prefix with which a test says that it did not do its work.
const SKIP_PREFIX: &str = "skipped: ";

/// The binary that the tests are built with.
pub(crate) const BINARY: &str = "target/x86_64-unknown-linux-gnu/release/ampoule";

/// What a skip that CI allows contains: the shared fixtures lie beside the checkout or nowhere.
const ALLOWED_SKIP: &str = "../shared is missing";

/// On so many folders are model signatures compared here; `cargo xtask model-signing` takes 200.
const FOLDERS_COMPARED: u32 = 24;

/// Runs all checks and sums up.
pub(crate) fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    let missing = tools::missing();
    let mut skips: Vec<String> = missing
        .iter()
        .map(|tool| format!("{} ({} is missing; `cargo xtask tools` installs it)", tool.used_for, tool.program))
        .collect();
    tell_skips(&skips);
    let is_installed = |program: &str| !missing.iter().any(|tool| tool.program == program);

    step("format", || process::run(process::cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", tidy::run)?;
    step("crate edges", edges::run)?;
    step("coverage and mutants", || coverage::check_committed().and_then(|()| mutants::check_list().map(|_| ())))?;
    if is_installed("cargo-deny") {
        let check = ["deny", "--locked", "--config=packaging/deny.toml", "check", "bans", "licenses", "sources"];
        step("dependencies", || process::run(process::cargo().args(check)))?;
    }
    if is_installed("promtool") {
        step("alert rules", alerts::run)?;
    }
    let clippy = ["clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "--deny=warnings"];
    step("clippy", || process::run(process::cargo().args(clippy)))?;
    if is_installed("cargo-fuzz") {
        step("fuzz", || fuzz::run(&fuzz::Options::short()))?;
    }
    let document = ["doc", "--locked", "--release", "--workspace", "--no-deps", "--document-private-items"];
    step("documentation", || process::run(process::cargo().args(document).env("RUSTDOCFLAGS", "--deny=warnings")))?;
    // Builds the binaries too, and with the features of the tests: another selection would compile candle once more.
    let build = ["test", "--locked", "--release", "--workspace", "--no-run"];
    step("build", || process::run(process::cargo().args(build)))?;

    let venv = if is_installed("python3") {
        let venv = step("client venv", clients::venv)?;
        let seal = Path::new(BINARY).with_file_name("ampoule-seal").canonicalize()?;
        step("bundle all-minilm-l6-v2", || bundle::run("all-minilm-l6-v2", Some(&seal)))?;
        Some(venv)
    } else {
        None
    };
    if is_installed("python3") && is_installed("kubectl") {
        step("kubernetes", || kubernetes::run(Path::new(BINARY)))?;
    }
    if is_installed("systemd-analyze") {
        step("systemd", || systemd::run(Path::new(BINARY)))?;
    }
    skips.extend(step("tests", || cargo_test(venv.as_deref()))?);
    let (judged, shipped) = std::thread::scope(|scope| {
        // It is compiled apart from all else, for minutes on one core, beside checks that mostly wait.
        let shipped = scope.spawn(|| check_what_ships(&is_installed));
        (check_from_outside(venv.as_deref(), &is_installed), shipped.join())
    });
    skips.extend(judged?);
    skips.extend(shipped.map_err(|_| anyhow::anyhow!("the thread that built what ships panicked"))??);

    println!("\nall checks passed in {:.0} s, {} skipped", start.elapsed().as_secs_f64(), skips.len());
    tell_skips(&skips);
    let forbidden = skips.iter().filter(|skip| !skip.contains(ALLOWED_SKIP)).count();
    if forbidden > 0 && std::env::var("CI").is_ok_and(|value| value == "true") {
        bail!("{forbidden} checks were skipped; with CI=true none may be");
    }
    Ok(())
}

/// Lets other people's tools, faults and a whole installation judge the binaries that the tests were built with.
fn check_from_outside(venv: Option<&Path>, is_installed: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    let mut skips = Vec::new();
    step("load", || load::measure(&load::Options::short()))?;
    step("soak", || soak::run(&soak::Options::short()))?;
    if let Some(venv) = venv {
        let seal = Path::new(BINARY).with_file_name("ampoule-seal");
        step("model signing", || model_signing::compare(venv, &seal, FOLDERS_COMPARED))?;
    }
    if ["node", "npm", "tar"].into_iter().all(is_installed) {
        step("attestations", model_signing::attestations)?;
    }
    if let Some(venv) = venv {
        step("clients", || {
            let bundles = Path::new("target/bundles");
            let root = Path::new("bundles/fixtures/keys/root.json").to_path_buf();
            clients::run(venv, Path::new(BINARY), &bundles.join("all-minilm-l6-v2.bundle"), &root)
        })?;
    }
    if is_installed("strace") {
        step("crash sweep", || crash_sweep::run(Path::new(BINARY), &crash_sweep::Options::default()))?;
    }
    if ["openssl", "curl", "ip", "nm"].into_iter().all(is_installed) {
        let binaries = Path::new(BINARY).parent().context("the binary lies in no folder")?;
        skips.extend(step("airgap", || airgap::check(binaries, is_installed("python3")))?);
    }
    Ok(skips)
}

/// Builds the runtime as customers receive it, and its image.
fn check_what_ships(is_installed: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    if !["nm", "ldd"].into_iter().all(is_installed) {
        return Ok(Vec::new());
    }
    // The others take as long again, and are built by `airgap` and `reproducible`.
    let binaries = step("dist", || dist::run(&dist::BINARIES[..1]))?;
    step("image", || image::run(Some(binaries.join("ampoule"))))
}

/// Names each thing that was not checked.
pub(crate) fn tell_skips(skips: &[String]) {
    for skip in skips {
        println!("{SKIP_PREFIX}{skip}");
    }
}

/// Runs one check under a heading, and says how long it took.
fn step<T>(name: &str, check: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("\n== {name}");
    let start = Instant::now();
    let result = check().with_context(|| format!("the check '{name}' failed"))?;
    println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Runs all Rust tests, passes their output through, and returns what they said they skipped.
fn cargo_test(venv: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut command = process::cargo();
    // Shown also for tests that pass, because that is where a skip is announced.
    command.args(["test", "--locked", "--release", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    if let Some(venv) = venv {
        command.env("AMPOULE_CLIENT_VENV", venv);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo test did not start")?;
    let output = child.stdout.take().context("cargo test has no standard output")?;
    let mut skips = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{line}")?;
        if let Some(skip) = line.strip_prefix(SKIP_PREFIX) {
            skips.push(skip.to_owned());
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    skips.sort();
    skips.dedup();
    Ok(skips)
}
