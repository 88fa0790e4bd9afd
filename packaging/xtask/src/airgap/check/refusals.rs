//! What cannot be meant is refused before anything is touched: a prefix inside the release itself, a removal of nothing,
//! a fingerprint that is none.  What is written down in another way is no mistake.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Delivery, expect, script};

pub(super) fn check(delivery: &Delivery, work: &Path) -> Result<()> {
    check_fingerprints(delivery, work)?;
    check_prefixes(delivery, work)?;
    check_removals(delivery, work)?;
    println!(
        "a prefix in the release, a removal of nothing and a fingerprint that is none are refused, nothing touched"
    );
    Ok(())
}

/// Capitals and blanks around are how people write; anything else is no fingerprint, and is not to be called a forgery.
fn check_fingerprints(delivery: &Delivery, work: &Path) -> Result<()> {
    let fingerprint = &delivery.fingerprint;
    let prefix = work.join("nothing").display().to_string();
    let verify = |written: &str| script(&delivery.tree, "verify.sh", &["--fingerprint", written]);
    let install = |written: &str| {
        script(&delivery.tree, "install.sh", &["--fingerprint", written, "--prefix", &prefix, "--dry-run"])
    };
    for written in [fingerprint.to_uppercase(), format!("  {fingerprint}\t"), format!("{fingerprint}\r\n")] {
        expect("verify.sh", &verify(&written)?, 0, &["verified: "])?;
        expect("install.sh", &install(&written)?, 0, &["nothing was changed"])?;
    }
    let doubled = format!("{fingerprint}\n{fingerprint}");
    for written in ["12", &fingerprint[1..], &fingerprint.replace(|digit: char| digit.is_ascii_digit(), "g"), &doubled]
    {
        expect("verify.sh", &verify(written)?, 2, &["a fingerprint has 64 hex digits"])?;
        expect("install.sh", &install(written)?, 2, &["a fingerprint has 64 hex digits", "nothing was installed"])?;
    }
    Ok(())
}

/// The release is never copied into itself, whatever the way that the prefix names.
fn check_prefixes(delivery: &Delivery, work: &Path) -> Result<()> {
    let (tree, link, linked) = (&delivery.tree, work.join("link"), work.join("linked"));
    symlink(tree, &link)?;
    fs::create_dir(&linked)?;
    symlink(tree.join("docs"), linked.join("lib"))?;
    let install = |prefix: &Path, more: &[&str]| {
        let mut command = Command::new("sh");
        command.arg("./install.sh").args(["--fingerprint", &delivery.fingerprint, "--prefix"]).arg(prefix).args(more);
        command.current_dir(tree).stdin(Stdio::null()).output().context("install.sh did not start")
    };
    let name = tree.file_name().context("the release's folder has no name")?;
    let around = Path::new("..").join(name).join("site");
    let inside = [tree.clone(), tree.join("docs/a/b"), link.join("site"), linked.clone(), "site".into(), around];
    for prefix in inside {
        let refused = install(&prefix, &[])?;
        expect("a prefix inside", &refused, 2, &["lies in the unpacked release", "nothing was installed"])?;
    }
    let unknown = install(&work.join("absent/../site"), &[])?;
    expect("a prefix beyond what is there", &unknown, 2, &["by another path", "nothing was installed"])?;
    expect("a prefix beside", &install(Path::new("../site"), &["--dry-run"])?, 0, &["nothing was changed"])?;
    expect("verify.sh", &script(tree, "verify.sh", &["--fingerprint", &delivery.fingerprint])?, 0, &["verified: "])?;
    fs::remove_file(&link)?;
    fs::remove_dir_all(&linked).with_context(|| format!("cannot remove {}", linked.display()))
}

/// Where nothing is installed, nothing is said to be removed.
fn check_removals(delivery: &Delivery, work: &Path) -> Result<()> {
    let (absent, empty) = (work.join("absent"), work.join("empty"));
    fs::create_dir(&empty)?;
    for prefix in [&absent, &empty] {
        let removed = script(&delivery.tree, "uninstall.sh", &["--prefix", &prefix.display().to_string()])?;
        expect("a removal of nothing", &removed, 1, &["nothing is installed in"])?;
    }
    ensure!(!absent.exists() && empty.is_dir(), "a removal of nothing changed something");
    Ok(fs::remove_dir(&empty)?)
}
