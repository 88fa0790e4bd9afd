//! Builds the binaries that customers receive, and judges the artefacts instead of the intention: is what was built
//! really static, small, and free of the crates that may not ship?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::process;

/// The target whose standard library is installed everywhere; `.cargo/config.toml` links it statically.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the finished binaries lie.
pub(crate) const FOLDER: &str = "target/dist";

/// Where they are built, below the workspace.
const BUILD_FOLDER: &str = "target/dist-build";

/// The package that is built alone.
const RUNTIME: &str = "ampoule";

/// The largest binary that we hand out, in bytes.
const MAX_SIZE: u64 = 60_000_000;

/// One binary that customers receive.
pub(crate) struct Binary {
    /// The name of the program.
    pub(crate) name: &'static str,
    /// The package that it belongs to.
    pub(crate) package: &'static str,
    /// What its unstripped twin must name, as a proof that there are symbols to look at.
    own_symbol: &'static str,
    /// What must have left no symbol in it.
    forbidden_symbols: &'static [&'static str],
}

/// All of them, the runtime first.
pub(crate) const BINARIES: [Binary; 4] = [
    Binary {
        name: "ampoule",
        package: RUNTIME,
        own_symbol: "ampoule_bundle",
        forbidden_symbols: &["ampoule_trainer", "ampoule_sealing"],
    },
    Binary {
        name: "ampoule-trainer",
        package: "ampoule-trainer",
        own_symbol: "ampoule_trainer",
        forbidden_symbols: &["ampoule_conformance"],
    },
    Binary {
        name: "ampoule-seal",
        package: "ampoule-sealing",
        own_symbol: "ampoule_sealing",
        forbidden_symbols: &["ampoule_trainer", "ampoule_conformance"],
    },
    Binary {
        name: "ampoule-conformance",
        package: "ampoule-conformance",
        own_symbol: "ampoule_conformance",
        // The judge knows no crate of the product.  A mangled name tells a crate's length: the runtime's is seven.
        forbidden_symbols: &[
            "ampoule_bundle",
            "ampoule_inference",
            "ampoule_sealing",
            "ampoule_trainer",
            "7ampoule4boot",
            "7ampoule3cli",
        ],
    },
];

/// Builds these binaries, checks them, and returns the folder of the stripped ones.
pub(crate) fn run(binaries: &[Binary]) -> anyhow::Result<PathBuf> {
    let folder = build(&process::workspace_root(), binaries)?;
    for binary in binaries {
        let (shipped, twin) = (folder.join(binary.name), twin(&process::workspace_root(), binary));
        check_size(&shipped)?;
        check_static(&shipped)?;
        check_symbols(binary, &twin)?;
        check_runs_in_an_empty_root(binary, &shipped)?;
        let size = std::fs::metadata(&shipped)?.len() as f64 / 1e6;
        println!("{FOLDER}/{}: {size:.1} MB, static, runs in an empty root", binary.name);
    }
    Ok(PathBuf::from(FOLDER))
}

/// Builds the unstripped twins in the workspace `root`, in a target folder of their own, and stripped copies of them
/// whose folder is returned.  Features unify over the packages of one build, so the runtime is built alone.
pub(crate) fn build(root: &Path, binaries: &[Binary]) -> anyhow::Result<PathBuf> {
    let is_runtime = |binary: &&Binary| binary.package == RUNTIME;
    let (runtime, others): (Vec<&Binary>, Vec<&Binary>) = binaries.iter().partition(is_runtime);
    for packages in [runtime, others].iter().filter(|packages| !packages.is_empty()) {
        let mut command = process::cargo();
        command.current_dir(root).args(["build", "--locked", "--profile=dist", "--target", TARGET]);
        command.args(packages.iter().map(|binary| format!("--package={}", binary.package)));
        command.arg("--target-dir").arg(root.join(BUILD_FOLDER));
        let remapped = remapped_prefixes(root)?;
        let for_rust: Vec<String> =
            remapped.iter().map(|(from, to)| format!("\"--remap-path-prefix={from}={to}\"")).collect();
        let for_rust = format!("{},\"-Clink-arg=-Wl,--build-id=none\"", for_rust.join(","));
        command.arg("--config").arg(format!("target.{TARGET}.rustflags=[{for_rust}]"));
        let for_c: String = remapped.iter().map(|(from, to)| format!(" -ffile-prefix-map={from}={to}")).collect();
        command.env("CFLAGS", format!("-g0{for_c}"));
        command.envs([("SOURCE_DATE_EPOCH", "0"), ("LC_ALL", "C"), ("TZ", "UTC")]);
        // The profile strips what it builds; the twin keeps its symbols, and a copy of it is stripped here.
        command.env("CARGO_PROFILE_DIST_STRIP", "none").env_remove("CARGO_TARGET_DIR");
        process::run(&mut command)?;
    }
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for binary in binaries {
        strip(&twin(root, binary), &folder.join(binary.name))?;
    }
    Ok(folder)
}

/// Writes a copy of `binary` without its symbols.
pub(crate) fn strip(binary: &Path, stripped: &Path) -> anyhow::Result<()> {
    process::run(Command::new("strip").arg("--strip-all").arg("-o").arg(stripped).arg(binary))
}

fn twin(root: &Path, binary: &Binary) -> PathBuf {
    root.join(BUILD_FOLDER).join(TARGET).join("dist").join(binary.name)
}

/// This machine's folders, and what stands for each in the binaries.
fn remapped_prefixes(root: &Path) -> anyhow::Result<[(String, &'static str); 3]> {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok([(root.display().to_string(), "/ampoule"), (home, "/cargo"), (sysroot.trim().to_owned(), "/rust")])
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

fn check_symbols(binary: &Binary, twin: &Path) -> anyhow::Result<()> {
    let symbols = process::output(Command::new("nm").arg(twin))?;
    ensure!(
        symbols.contains(binary.own_symbol),
        "{} has no symbol of our own: it was stripped too early",
        twin.display()
    );
    for crate_name in binary.forbidden_symbols {
        if let Some(line) = symbols.lines().find(|line| line.contains(crate_name)) {
            bail!("{} contains a symbol of {crate_name}: {line}", twin.display());
        }
    }
    Ok(())
}

/// Starts the binary where there is nothing else: no loader, no library, no `/etc`, no `/proc`.
fn check_runs_in_an_empty_root(binary: &Binary, shipped: &Path) -> anyhow::Result<()> {
    let root = Path::new(FOLDER).join("empty-root");
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    std::fs::copy(shipped, root.join(binary.name))?;
    // A user namespace lets an ordinary user change the root; the superuser needs none, and may be denied one.
    let is_superuser = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    let in_empty_root = |arguments: &[&str]| {
        let mut command = Command::new(if is_superuser { "chroot" } else { "unshare" });
        if !is_superuser {
            command.args(["--map-root-user", "chroot"]);
        }
        process::output(command.arg(&root).arg(format!("/{}", binary.name)).args(arguments))
    };
    let version = in_empty_root(&["--version"])?;
    ensure!(version.starts_with(&format!("{} ", binary.name)), "in an empty root it printed {version:?}");
    if binary.name == "ampoule" {
        in_empty_root(&["demo", "--once"])?;
    }
    Ok(())
}
