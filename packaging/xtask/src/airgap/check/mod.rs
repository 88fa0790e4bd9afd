//! Holds the tarball against what a customer relies on, with his tools: openssl, sha256sum, tar and a shell.
//!
//! Whatever is damaged must be refused and named, and nothing be installed; what is whole must install, update, go back
//! and go away as its page says.  Each check begins with a folder of its own.

mod installing;
mod life;
mod page;
mod refusals;
mod tampering;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Options, VERSION};
use crate::{dist, process};

/// A release as it is handed out, and as a customer unpacks it.
struct Delivery {
    /// The tarball; its signature and `vendor.pub` lie beside it.
    archive: PathBuf,
    /// The unpacked folder.
    tree: PathBuf,
    /// What the customer is told by another way.
    fingerprint: String,
}

/// Packs `binaries`, built by the step before, and checks what comes out.  Returns what could not be checked here, and
/// why.
pub(crate) fn run(binaries: &Path, has_python: bool) -> Result<Vec<String>> {
    let work = process::workspace_root().join("target/airgap-check");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    let stripped = work.join("binaries");
    fs::create_dir_all(&stripped)?;
    for binary in &dist::BINARIES {
        dist::strip(&binaries.join(binary.name), &stripped.join(binary.name))?;
    }

    let first = deliver(&stripped, Options::of_test(&work.join("first"), VERSION))?;
    check_determinism(&first, &stripped, &work.join("second"))?;
    tampering::check_archive(&first)?;
    tampering::check_tree(&first, &work)?;
    let next = deliver(&stripped, Options::of_test(&work.join("next"), &format!("{VERSION}+2")))?;
    refusals::check(&first, &work)?;
    installing::check_prefix(&first, &next, &work)?;
    installing::check_source(&first, &work)?;
    let mut skips = installing::check_system(&first)?;
    skips.extend(page::check(&first, &next, &work)?);
    skips.extend(life::check(&stripped, &work)?);
    if has_python {
        check_bill_of_materials(&first)?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(skips)
}

/// Writes a tarball and unpacks it beside.
fn deliver(binaries: &Path, options: Options) -> Result<Delivery> {
    let archive = super::write(&options, binaries)?;
    let Options { out, release, .. } = options;
    let unpacked = out.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    process::output(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked))?;
    let told = process::output(Command::new("sha256sum").arg(out.join("vendor.pub")))?;
    let fingerprint = told.split(' ').next().unwrap_or_default().to_owned();
    Ok(Delivery { archive, tree: unpacked.join(format!("ampoule-{release}")), fingerprint })
}

/// The same files, packed elsewhere with the same signature of their list, are the same tarball.
fn check_determinism(first: &Delivery, binaries: &Path, elsewhere: &Path) -> Result<()> {
    let folder = elsewhere.join(format!("ampoule-{VERSION}"));
    fs::create_dir_all(&folder)?;
    fs::copy(first.tree.join("RELEASE.sig"), folder.join("RELEASE.sig"))?;
    let second = deliver(binaries, Options::of_test(elsewhere, VERSION))?;
    ensure!(fs::read(&first.archive)? == fs::read(&second.archive)?, "the same files give two different tarballs");
    fs::remove_dir_all(elsewhere)?;
    println!("packed twice, the tarball is the same to the bit");
    Ok(())
}

/// Lets a stock validator judge the bill of materials by the official schema.
fn check_bill_of_materials(delivery: &Delivery) -> Result<()> {
    const VALIDATE: &str = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(error and str(error)[:2000])";
    let venv = process::workspace_root().join("target/venv/sbom");
    let make = ["conformance/clients/venv.sh", "packaging/sbom-requirements.txt"];
    process::run(Command::new("sh").args(make).arg(&venv))?;
    let file = delivery.tree.join("sbom.cdx.json");
    process::output(Command::new(venv.join("bin/python")).args(["-c", VALIDATE]).arg(&file))?;
    println!("the bill of materials is valid CycloneDX 1.5");
    Ok(())
}

/// Runs one of the release's scripts, as it lies in `tree`, to its end.
fn script(tree: &Path, name: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("sh");
    command.arg(tree.join(name)).args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("{command:?} did not start"))
}

/// Requires an exit code, and words in what was told.
fn expect(what: &str, output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let told = [output.stdout.as_slice(), &output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    ensure!(output.status.code() == Some(code), "{what}: {} and not {code}:\n{told}", output.status);
    for word in words {
        ensure!(told.contains(word), "{what}: {word:?} is not in:\n{told}");
    }
    Ok(())
}

/// Runs a program in a folder of its own, with nothing of this environment but the search path, and in a network that
/// holds nothing; in this machine's network where none can be made, and then says so.
fn run_alone(name: &str, program: &str, variables: &[(&str, &str)], folder: &Path) -> Result<(String, Vec<String>)> {
    let run = |command: &mut Command| {
        let command = command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        process::output(command.env("HOME", folder).envs(variables.iter().copied()).current_dir(folder))
    };
    let without_network = |program: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(if is_superuser() { &[][..] } else { &["--map-root-user"] });
        unshare.args(["--net", "sh", "-c", "ip link set lo up && exec sh -c \"$0\"", program]);
        unshare
    };
    match run(&mut without_network("true")) {
        Ok(_) => Ok((run(&mut without_network(program))?, Vec::new())),
        Err(error) => {
            let told = run(Command::new("sh").arg("-c").arg(program))?;
            Ok((told, vec![format!("{name} in a network of its own ({error:#})")]))
        }
    }
}

/// Puts what a customer is handed into `folder`.
fn hand_out(delivery: &Delivery, folder: &Path) -> Result<()> {
    let handed_out = delivery.archive.parent().context("the tarball lies in no folder")?;
    let name = delivery.archive.file_name().context("the tarball has no name")?.to_string_lossy().into_owned();
    fs::create_dir_all(folder)?;
    for file in [name.clone(), format!("{name}.sig"), "vendor.pub".to_owned()] {
        fs::copy(handed_out.join(&file), folder.join(&file)).with_context(|| format!("cannot hand out {file}"))?;
    }
    Ok(())
}

/// Whether this process may do what only the superuser may.
fn is_superuser() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|user| user.trim() == "0")
}
