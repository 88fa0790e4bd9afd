//! What an attacker, or a bad disk, might do on the way: each damage is refused, it is named, and nothing is installed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Delivery, expect, script};
use crate::process;

/// How many bytes between the first and the last one are changed, each in a run of its own.
const SAMPLES: u64 = 24;

/// Far longer than the checks of endless files take, and far shorter than reading one of them.
const ENDLESS: Duration = Duration::from_secs(300);

/// openssl accepts the tarball as it is, and refuses it after every change of a bit or of the length.
pub(super) fn check_archive(delivery: &Delivery) -> Result<()> {
    let folder = delivery.archive.parent().context("the tarball lies in no folder")?;
    let damaged = folder.join("damaged.tar.gz");
    fs::copy(&delivery.archive, &damaged)?;
    let accepts = |archive: &Path| -> Result<bool> {
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-verify"]).arg(folder.join("vendor.pub")).arg("-signature");
        openssl.arg(format!("{}.sig", delivery.archive.display())).arg(archive);
        let verdict = openssl.stdin(Stdio::null()).output().context("openssl did not start")?;
        Ok(verdict.status.success() && verdict.stdout == b"Verified OK\n")
    };
    ensure!(accepts(&delivery.archive)?, "openssl refuses the tarball as it was signed");

    let mut file = File::options().read(true).write(true).open(&damaged)?;
    let length = file.metadata()?.len();
    let flip = |file: &mut File, offset: u64, bit: u8| -> Result<()> {
        let mut byte = [0];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.write_all(&[byte[0] ^ (1 << bit)])?)
    };
    for sample in 0..=SAMPLES {
        let (offset, bit) = ((length - 1) * sample / SAMPLES, (sample % 8) as u8);
        flip(&mut file, offset, bit)?;
        ensure!(!accepts(&damaged)?, "openssl accepts the tarball with bit {bit} of byte {offset} flipped");
        flip(&mut file, offset, bit)?;
    }
    ensure!(accepts(&damaged)?, "the tarball is not as it was after the flips were taken back");
    file.set_len(length - 1)?;
    ensure!(!accepts(&damaged)?, "openssl accepts the tarball without its last byte");
    fs::copy(&delivery.archive, &damaged)?;
    File::options().append(true).open(&damaged)?.write_all(&[0])?;
    ensure!(!accepts(&damaged)?, "openssl accepts the tarball with one more byte");
    fs::remove_file(&damaged)?;
    println!("openssl accepts the tarball, and refuses it with {} flipped bits, shorter and longer", SAMPLES + 1);
    Ok(())
}

/// verify.sh names each damage to the unpacked folder, and install.sh then installs nothing.
pub(super) fn check_tree(delivery: &Delivery, work: &Path) -> Result<()> {
    let fingerprint = ["--fingerprint", delivery.fingerprint.as_str()];
    expect("the whole folder", &script(&delivery.tree, "verify.sh", &fingerprint)?, 0, &["verified: "])?;
    let unasked = script(&delivery.tree, "verify.sh", &[])?;
    expect("verify.sh without a fingerprint", &unasked, 2, &[&delivery.fingerprint, "nothing was checked yet"])?;
    let toolless =
        Command::new("/bin/sh").arg(delivery.tree.join("verify.sh")).args(fingerprint).env("PATH", "").output()?;
    expect("verify.sh without its tools", &toolless, 1, &["the tool 'openssl' is missing"])?;

    let mut count = 0;
    let mut check = |damage: &dyn Fn(&Path) -> Result<()>, told: &[&str]| -> Result<()> {
        let tree = work.join("damaged");
        // Hard links cost nothing; so a damage replaces a file and never writes into it.
        process::output(Command::new("cp").args(["-rl", "--"]).arg(&delivery.tree).arg(&tree))?;
        damage(&tree)?;
        let prefix = work.join("nothing");
        let target = prefix.display().to_string();
        let installed = script(&tree, "install.sh", &[&fingerprint[..], &["--prefix", &target]].concat())?;
        // What is told is the verdict of verify.sh, with which install.sh begins.
        expect("install.sh", &installed, 11, &[&["verify.sh: ", "install.sh: nothing was installed"], told].concat())?;
        ensure!(!prefix.exists(), "a refused release left something in {target}");
        count += 1;
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))
    };
    let replace = |name: &'static str| {
        move |tree: &Path| -> Result<()> {
            let mut bytes = fs::read(tree.join(name))?;
            *bytes.last_mut().context("an empty file")? ^= 1;
            fs::remove_file(tree.join(name))?;
            Ok(fs::write(tree.join(name), bytes)?)
        }
    };
    let add = |name: &'static str| move |tree: &Path| -> Result<()> { Ok(fs::write(tree.join(name), "more")?) };
    let remove = |name: &'static str| move |tree: &Path| -> Result<()> { Ok(fs::remove_file(tree.join(name))?) };
    let link = |name: &'static str, target: &'static str| {
        move |tree: &Path| -> Result<()> {
            let aside = tree.parent().context("no parent")?.join("aside");
            fs::rename(tree.join(name), &aside)?;
            if aside.is_dir() {
                fs::remove_dir_all(&aside)?
            } else {
                fs::remove_file(&aside)?
            };
            Ok(symlink(target, tree.join(name))?)
        }
    };
    for binary in ["bin/ampoule", "bin/ampoule-conformance", "bundles/demo.bundle", "docs/LICENSE", "trust/root.json"] {
        check(&replace(binary), &[&format!("changed: {binary}")])?;
    }
    check(&remove("docs/FORMAT.md"), &["missing: docs/FORMAT.md"])?;
    // Whoever read these would never come to their end.
    let replace_by = |name: &'static str, make: &'static dyn Fn(&Path) -> Result<()>| {
        move |tree: &Path| -> Result<()> {
            fs::remove_file(tree.join(name))?;
            make(&tree.join(name))
        }
    };
    let started = Instant::now();
    check(&replace_by("docs/LICENSE", &endless), &["changed: docs/LICENSE"])?;
    check(&replace_by("docs/LICENSE", &pipe), &["changed: docs/LICENSE", "extra: docs/LICENSE (a link, or something"])?;
    check(&replace_by("RELEASE", &pipe), &["missing: RELEASE (or it is no regular file)"])?;
    check(&replace_by("trust/vendor.pub", &endless), &["trust/vendor.pub is longer than 4096 bytes"])?;
    check(&replace_by("RELEASE", &endless), &["RELEASE is longer than 1048576 bytes"])?;
    ensure!(started.elapsed() < ENDLESS, "endless files were read: it took {:?}", started.elapsed());
    check(&remove("RELEASE"), &["missing: RELEASE"])?;
    check(&remove("RELEASE.sig"), &["missing: RELEASE.sig"])?;
    check(&add("bin/more"), &["extra: bin/more"])?;
    check(&add("docs/.hidden"), &["extra: docs/.hidden"])?;
    check(&add("docs/two\nlines"), &["extra: docs/two?lines"])?;
    check(&|tree| Ok(fs::create_dir(tree.join("docs\n"))?), &["extra: docs?"])?;
    check(&add("docs/\u{1b}[2Jgone"), &["extra: docs/?[2Jgone"])?;
    check(&|tree| Ok(fs::create_dir(tree.join("empty"))?), &["extra: empty (a folder)"])?;
    check(&link("docs/LICENSE", "/etc/passwd"), &["missing: docs/LICENSE", "extra: docs/LICENSE (a link"])?;
    check(&link("kubernetes", "docs"), &["extra: kubernetes (a link", "missing: kubernetes/service.yaml"])?;
    check(&replace("RELEASE"), &["RELEASE is not what that key signed"])?;
    check(&replace("RELEASE.sig"), &["RELEASE is not what that key signed"])?;
    let lengthen = |tree: &Path| -> Result<()> {
        let signature = fs::read(tree.join("RELEASE.sig"))?;
        fs::remove_file(tree.join("RELEASE.sig"))?;
        Ok(fs::write(tree.join("RELEASE.sig"), [&signature[..], b"something that nobody signed"].concat())?)
    };
    check(&lengthen, &["RELEASE.sig is longer than 80 bytes"])?;
    check(&replace("trust/vendor.pub"), &["this is another vendor's release, or a forged one"])?;
    check(&|tree| forge(tree), &["this is another vendor's release, or a forged one"])?;
    println!("verify.sh names each of {count} damages, and nothing is installed");
    check_name_that_ends_in_a_line_feed(delivery, work)
}

/// A script that is asked about a folder looks at that one, and not at its neighbour with nearly the same name.
fn check_name_that_ends_in_a_line_feed(delivery: &Delivery, work: &Path) -> Result<()> {
    let (whole, damaged) = (work.join("twin"), work.join("twin\n"));
    for tree in [&whole, &damaged] {
        process::output(Command::new("cp").args(["-rl", "--"]).arg(&delivery.tree).arg(tree))?;
    }
    fs::remove_file(damaged.join("docs/LICENSE"))?;
    let prefix = work.join("nothing");
    let arguments = ["--fingerprint", &delivery.fingerprint];
    expect("verify.sh", &script(&damaged, "verify.sh", &arguments)?, 11, &["missing: docs/LICENSE"])?;
    let target = prefix.display().to_string();
    let installed = script(&damaged, "install.sh", &[&arguments[..], &["--prefix", &target]].concat())?;
    expect("install.sh", &installed, 11, &["missing: docs/LICENSE", "nothing was installed"])?;
    ensure!(!prefix.exists(), "the neighbour of a damaged release was installed");
    expect("verify.sh", &script(&whole, "verify.sh", &arguments)?, 0, &["verified: "])?;
    for tree in [&whole, &damaged] {
        fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    Ok(())
}

/// A file of 4 TiB that takes no space.
fn endless(path: &Path) -> Result<()> {
    Ok(File::create(path)?.set_len(1 << 42)?)
}

/// A pipe into which nobody writes.
fn pipe(path: &Path) -> Result<()> {
    process::output(Command::new("mkfifo").arg(path)).map(drop)
}

/// Signs a changed folder with another key, as a forger would who can do everything but have the vendor's key.
fn forge(tree: &Path) -> Result<()> {
    let keys = process::workspace_root().join("bundles/fixtures/keys");
    for name in ["docs/LICENSE", "RELEASE", "RELEASE.sig", "trust/vendor.pub"] {
        fs::remove_file(tree.join(name))?;
    }
    fs::write(tree.join("docs/LICENSE"), "forged")?;
    let mut seal = Command::new(tree.join("bin/ampoule-seal"));
    seal.args(["release", "--version", super::VERSION, "--platform", "x86_64-linux", "--tree"]).arg(tree);
    seal.arg("--key").arg(keys.join("test.key")).arg("--password-file").arg(keys.join("test.password"));
    process::output(&mut seal).map(drop)
}
