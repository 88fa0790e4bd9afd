//! `cargo xtask airgap`: all that a customer without a network receives, in one signed tarball.
//!
//! ```text
//! ampoule-VERSION/                            every file listed in RELEASE, which RELEASE.sig signs
//! ampoule-VERSION-x86_64-linux.tar.gz         the folder: sorted, of no time and no owner
//! ampoule-VERSION-x86_64-linux.tar.gz.sig     what `openssl dgst -sha256 -verify vendor.pub` checks
//! vendor.pub                                  the key, whose fingerprint goes to the customer by another way
//! ```
//!
//! The same files with the same signature of their list give the same tarball.  An ECDSA signature is drawn anew each
//! time, so one that is there from an earlier run, and holds, is kept.

mod check;
mod linked;
mod notices;
mod pages;
mod sbom;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{dist, process, test};

pub(crate) use check::run as check;

/// The version of the workspace, and so of every binary built from it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the binaries run on.
const PLATFORM: &str = "x86_64-linux";
/// The demo's signing key: test material that everybody has.
const TEST_KEY: &str = "bundles/demo/demo.key";
const TEST_PASSWORD: &str = "bundles/demo/demo.password";

/// What goes into the tarball, and who signs it.
#[derive(Args)]
pub(crate) struct Options {
    /// A folder with the four binaries, in place of those that `dist` builds.
    #[arg(long, value_name = "DIR")]
    pub(crate) binaries: Option<PathBuf>,
    /// Where to write.
    #[arg(long, value_name = "DIR", default_value = "target/airgap")]
    pub(crate) out: PathBuf,
    /// The release's version: that of the binaries, or with build metadata, as in 0.1.0+2 for what was packed again.
    #[arg(long, value_name = "VERSION", default_value = VERSION)]
    pub(crate) release: String,
    /// The vendor's encrypted signing key (P-256). Without it the demo's, which protects nothing.
    #[arg(long, value_name = "FILE", requires = "password_file")]
    pub(crate) key: Option<PathBuf>,
    /// The file with that key's password.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) password_file: Option<PathBuf>,
    /// The trust root that customers start from.
    #[arg(long, value_name = "FILE", default_value = "bundles/demo/root.json")]
    pub(crate) trust_root: PathBuf,
}

impl Options {
    /// A release for a test, signed with test material.
    fn of_test(out: &Path, release: &str) -> Options {
        Options {
            binaries: None,
            out: out.to_owned(),
            release: release.to_owned(),
            key: None,
            password_file: None,
            trust_root: "bundles/demo/root.json".into(),
        }
    }
}

/// Writes the tarball, and checks it where that was asked for.
pub(crate) fn run(options: &Options, is_checked: bool) -> Result<()> {
    let binaries = options.binaries.clone().map_or_else(|| dist::run(&dist::BINARIES), Ok)?;
    write(options, &binaries)?;
    if is_checked {
        test::tell_skips(&check(&binaries, process::is_installed("python3"))?);
    }
    Ok(())
}

/// Writes the tarball with its signature and key, and returns its path.
fn write(options: &Options, binaries: &Path) -> Result<PathBuf> {
    check_versions(binaries, &options.release)?;
    let name = format!("ampoule-{}", options.release);
    let folder = options.out.join(&name);
    tree::lay_out(&folder, binaries, &options.trust_root)?;
    let (crates, libraries) = (linked::crates()?, linked::libraries()?);
    fs::write(folder.join("sbom.cdx.json"), sbom::write(&options.release, &folder, &crates, &libraries)?)?;
    fs::write(folder.join("THIRD-PARTY-NOTICES.txt"), notices::write(&crates, &libraries)?)?;

    let (key, password) = match (&options.key, &options.password_file) {
        (Some(key), Some(password)) => (key.as_path(), password.as_path()),
        _ => (Path::new(TEST_KEY), Path::new(TEST_PASSWORD)),
    };
    let sign = |arguments: &[&str], file: &Path| {
        let mut command = Command::new(binaries.join("ampoule-seal"));
        command.args(arguments).arg(file).arg("--key").arg(key).arg("--password-file").arg(password);
        process::output(&mut command)
    };
    sign(&["release", "--version", &options.release, "--platform", PLATFORM, "--tree"], &folder)?;
    pages::check(&folder)?;
    tree::set_modes(&folder)?;
    let archive = options.out.join(format!("{name}-{PLATFORM}.tar.gz"));
    pack(&options.out, &name, &archive)?;
    let told = sign(&["sign"], &archive)?;
    fs::copy(folder.join("trust/vendor.pub"), options.out.join("vendor.pub"))?;

    let size = fs::metadata(&archive)?.len() as f64 / 1e6;
    let fingerprint = told.split_whitespace().last().unwrap_or_default();
    println!("{}: {size:.1} MB", archive.display());
    println!("fingerprint of vendor.pub, to be told to the customer by another way:\n  {fingerprint}");
    if options.key.is_none() {
        println!("SIGNED WITH TEST MATERIAL ({TEST_KEY}): not for customers; name your own key with --key");
    }
    Ok(archive)
}

/// All binaries are of one version, and the release is of that version too.
fn check_versions(binaries: &Path, release: &str) -> Result<()> {
    let core = release.split('+').next().unwrap_or_default();
    for binary in &dist::BINARIES {
        // `--version` of the file and not of a program of that name on the search path.
        let path = binaries.join(binary.name).canonicalize();
        let path = path.with_context(|| format!("{} has no {}", binaries.display(), binary.name))?;
        let told = process::output(Command::new(path).arg("--version"))?;
        let found = told.trim().rsplit(' ').next().unwrap_or_default();
        if found != core {
            bail!("{} is of version {found}, the release is {release}: only what follows a + may differ", binary.name);
        }
    }
    Ok(())
}

/// Packs the folder `name` of `parent`, so that only names, contents and rights get in.
fn pack(parent: &Path, name: &str, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=ustar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    // gzip would write the time and the name of what it compresses.
    tar.arg("--use-compress-program=gzip --no-name -6");
    tar.env("LC_ALL", "C").arg("--file").arg(archive).arg("--directory").arg(parent).arg(name);
    process::output(&mut tar)?;
    ensure!(archive.is_file(), "tar wrote no {}", archive.display());
    Ok(())
}
