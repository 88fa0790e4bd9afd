//! Builds the one binary that customers receive, and judges the artefact instead of the intention: is what was built
//! really static, small, and free of the crates that may not ship?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::process;

/// The target whose standard library is installed everywhere; `.cargo/config.toml` links it statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The largest binary that we hand out, in bytes.
const MAX_SIZE: u64 = 60_000_000;

/// Crates of ours that must have left no symbol in the binary.
const FORBIDDEN_SYMBOLS: &[&str] = &["ampoule_trainer", "ampoule_sealing"];

/// Builds `ampoule`, checks it, and returns the path of the stripped binary.
pub(crate) fn run() -> anyhow::Result<PathBuf> {
    let twin = build()?;
    let shipped = PathBuf::from("target/dist/ampoule");
    std::fs::create_dir_all("target/dist")?;
    process::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&shipped).arg(&twin))?;

    check_size(&shipped)?;
    check_static(&shipped)?;
    check_symbols(&twin)?;
    check_runs_in_an_empty_root(&shipped)?;
    let size = std::fs::metadata(&shipped)?.len();
    println!("target/dist/ampoule: {:.1} MB, static, runs in an empty root", size as f64 / 1e6);
    Ok(shipped)
}

/// Builds the unstripped twin of the shipped binary, alone and in a target folder of its own: features unify over the
/// packages of one build, so nothing else may be selected beside it.
fn build() -> anyhow::Result<PathBuf> {
    let folder = "target/dist-build";
    let mut command = process::cargo();
    command.args([
        "build",
        "--locked",
        "--profile=dist",
        "--package=ampoule",
        "--target",
        TARGET,
        "--target-dir",
        folder,
    ]);
    let remapped = remapped_prefixes()?;
    command.arg("--config").arg(format!("target.{TARGET}.rustflags=[{remapped}]"));
    command.envs([("SOURCE_DATE_EPOCH", "0"), ("LC_ALL", "C"), ("TZ", "UTC"), ("CFLAGS", "-g0")]);
    // The profile strips what it builds; the twin keeps its symbols, and `run` strips a copy of it.
    command.env("CARGO_PROFILE_DIST_STRIP", "none");
    process::run(&mut command)?;
    Ok(Path::new(folder).join(TARGET).join("dist/ampoule"))
}

/// Compiler arguments that keep this machine's folders out of the binary.
fn remapped_prefixes() -> anyhow::Result<String> {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
    let sources = process::workspace_root().to_string_lossy().into_owned();
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let prefixes = [(sources.as_str(), "/ampoule"), (&home, "/cargo"), (sysroot.trim(), "/rust")];
    let mut flags: Vec<String> =
        prefixes.iter().map(|(from, to)| format!("\"--remap-path-prefix={from}={to}\"")).collect();
    flags.push("\"-Clink-arg=-Wl,--build-id=none\"".into());
    Ok(flags.join(","))
}

fn check_size(binary: &Path) -> anyhow::Result<()> {
    let size = std::fs::metadata(binary)?.len();
    ensure!(size <= MAX_SIZE, "{} has {size} bytes, at most {MAX_SIZE} are allowed", binary.display());
    Ok(())
}

fn check_static(binary: &Path) -> anyhow::Result<()> {
    // `ldd` ends with 1 for a binary without a dynamic section, so only its words are looked at.
    let output = Command::new("ldd").arg(binary).output().context("ldd did not start")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(
        text.contains("statically linked") || text.contains("not a dynamic executable"),
        "ldd does not call {} static: {text}",
        binary.display()
    );
    Ok(())
}

fn check_symbols(twin: &Path) -> anyhow::Result<()> {
    let symbols = process::output(Command::new("nm").arg(twin))?;
    ensure!(
        symbols.contains("ampoule_bundle"),
        "{} has no symbol of our own: it was stripped too early",
        twin.display()
    );
    for crate_name in FORBIDDEN_SYMBOLS {
        if let Some(line) = symbols.lines().find(|line| line.contains(crate_name)) {
            bail!("{} contains a symbol of {crate_name}: {line}", twin.display());
        }
    }
    Ok(())
}

/// Starts the binary where there is nothing else: no loader, no library, no `/etc`, no `/proc`.
fn check_runs_in_an_empty_root(binary: &Path) -> anyhow::Result<()> {
    let root = PathBuf::from("target/dist/empty-root");
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    std::fs::copy(binary, root.join("ampoule"))?;
    // A user namespace lets an ordinary user change the root; the superuser needs none, and may be denied one.
    let is_superuser = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    let in_empty_root = |arguments: &[&str]| {
        let mut command = Command::new(if is_superuser { "chroot" } else { "unshare" });
        if !is_superuser {
            command.args(["--map-root-user", "chroot"]);
        }
        process::output(command.arg(&root).arg("/ampoule").args(arguments))
    };
    let version = in_empty_root(&["--version"])?;
    ensure!(version.starts_with("ampoule "), "in an empty root the binary printed {version:?}");
    in_empty_root(&["demo", "--once"])?;
    Ok(())
}
