//! The life of an installation: a dry run, an installation, the same again, the next release, a killed update, the way
//! back, and the removal; for one user, and for the system where this process may have an `/etc` of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Delivery, VERSION, expect, is_superuser, script};
use crate::process;

/// After how many milliseconds an update is killed, each time in the middle of something else.
const KILLED_AFTER_MILLISECONDS: [u64; 6] = [150, 400, 700, 1000, 1400, 1900];

/// An installation below a folder of its own.
struct Site<'a> {
    prefix: PathBuf,
    fingerprint: &'a str,
}

/// Installs, updates, goes back and removes below a prefix.
pub(super) fn check_prefix(first: &Delivery, next: &Delivery, work: &Path) -> Result<()> {
    let site = Site { prefix: work.join("site"), fingerprint: &first.fingerprint };
    let (old, new) = (VERSION.to_owned(), format!("{VERSION}+2"));
    expect("a dry run", &site.install(first, &["--dry-run"])?, 0, &["would run: mkdir", "nothing was changed"])?;
    ensure!(!site.prefix.exists(), "a dry run left something behind");
    expect("an installation", &site.install(first, &[])?, 0, &[&format!("ampoule {old} is installed"), "Next:"])?;
    site.expect_in_use(&old)?;
    let before = site.listing()?;
    expect("the same again", &site.install(first, &[])?, 0, &[&format!("ampoule {old} is already installed")])?;
    ensure!(site.listing()? == before, "a second installation of the same release changed something");
    expect("a rollback to nothing", &site.install(first, &["--rollback"])?, 1, &["there is no previous release"])?;

    // What the site wrote survives everything that follows.
    fs::write(site.prefix.join("etc/ampoule/ampoule.toml"), "listen = '127.0.0.1:1'\n")?;
    fs::write(site.prefix.join("var/lib/ampoule/model"), "the site's")?;
    for after in KILLED_AFTER_MILLISECONDS {
        site.kill_update(next, Duration::from_millis(after))?;
        let version = process::output(Command::new(site.prefix.join("bin/ampoule")).arg("--version"))?;
        ensure!(version.starts_with("ampoule "), "after a killed update the binary says {version:?}");
    }
    site.install(next, &[])?;
    site.expect_in_use(&new)?;
    expect("a rollback", &site.install(next, &["--rollback"])?, 0, &[&format!("ampoule {old} is in use again")])?;
    site.expect_in_use(&old)?;
    let forward = site.install(next, &[])?;
    expect("forward again", &forward, 0, &["--rollback goes back", &format!("which is {old} until then")])?;
    ensure!(!String::from_utf8_lossy(&forward.stdout).contains("keys add"), "an update tells the first steps again");
    site.expect_in_use(&new)?;

    let licence = site.prefix.join("lib/ampoule/current/docs/LICENSE");
    let whole = fs::read(&licence)?;
    fs::write(&licence, "changed")?;
    expect("verify-self", &site.verify_self()?, 11, &["changed: docs/LICENSE"])?;
    expect("a damaged installation", &site.install(next, &[])?, 11, &["has changed since"])?;
    fs::write(&licence, whole)?;
    expect("verify-self", &site.verify_self()?, 0, &[])?;

    let before = site.listing()?;
    expect("a dry removal", &site.uninstall(next, &["--dry-run"])?, 0, &["nothing was changed"])?;
    ensure!(site.listing()? == before, "a dry run removed something");
    expect("a removal", &site.uninstall(next, &[])?, 0, &["left, because it is the site's"])?;
    let left = site.listing()?;
    let expected = ["etc/ampoule/ampoule.toml", "var/lib/ampoule/model"];
    ensure!(left == expected, "a removal left {left:?}, and not {expected:?}");
    expect("a removal of what is gone", &site.uninstall(next, &[])?, 1, &["nothing is installed in"])?;
    println!("a release installs, updates when killed and not, goes back, and goes away below a prefix");
    Ok(())
}

/// Whatever rights the unpacked folder has, and whoever changes it behind the first check, what is installed is what was
/// signed, with the rights that the page names.
pub(super) fn check_source(delivery: &Delivery, work: &Path) -> Result<()> {
    let (tree, prefix, tools) = (work.join("source"), work.join("rights"), work.join("tools"));
    process::output(Command::new("cp").args(["-r", "--"]).arg(&delivery.tree).arg(&tree))?;
    for (mode, what) in [("0777", "."), ("06777", "bin/ampoule"), ("07777", "docs"), ("0666", "docs/LICENSE")] {
        let recursive = if what == "." { &["-R"][..] } else { &[] };
        process::output(Command::new("chmod").args(recursive).arg(mode).arg(tree.join(what)))?;
    }
    let target = prefix.display().to_string();
    let arguments = ["--fingerprint", &delivery.fingerprint, "--prefix", &target];
    expect("an installation", &script(&tree, "install.sh", &arguments)?, 0, &["is installed in"])?;
    let wrong = "( -type d ! -perm 0755 -o -type f ( -path */bin/* -o -name *.sh ) ! -perm 0755 \
                 -o -type f ! -path */bin/* ! -name *.sh ! -perm 0644 ) -printf %m:%P\\n";
    let found = process::output(Command::new("find").arg(&prefix).args(wrong.split_whitespace()))?;
    ensure!(found.is_empty(), "these have other rights than the page says:\n{found}");
    fs::remove_dir_all(&prefix)?;

    // Stands for somebody who may write into the unpacked folder, and does as soon as it was verified: mkdir is the first
    // step after that.
    fs::create_dir(&tools)?;
    // The checker that lies there is exchanged too, for one that finds everything in order.
    let mkdir = "#!/bin/sh\necho '# by somebody else' >>\"$TREE/etc/ampoule.toml\"\necho 'exit 0' >\"$TREE/verify.sh\"\n\
                 exec /bin/mkdir \"$@\"\n";
    fs::write(tools.join("mkdir"), mkdir)?;
    fs::set_permissions(tools.join("mkdir"), fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut install = Command::new("sh");
    install.arg(tree.join("install.sh")).args(arguments).env("PATH", path).env("TREE", &tree).stdin(Stdio::null());
    expect("a source that changes", &install.output()?, 11, &[" is not what was signed"])?;
    ensure!(!prefix.join("etc/ampoule/ampoule.toml").exists(), "a configuration that nobody signed was installed");
    ensure!(!prefix.join("bin/ampoule").exists(), "a release that nobody signed is in use");
    for folder in [&tree, &prefix, &tools] {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    println!("what is installed is the verified copy, with fixed rights");
    Ok(())
}

impl Site<'_> {
    fn install(&self, delivery: &Delivery, more: &[&str]) -> Result<Output> {
        let prefix = self.prefix.display().to_string();
        let arguments = ["--fingerprint", self.fingerprint, "--prefix", &prefix];
        script(&delivery.tree, "install.sh", &[&arguments[..], more].concat())
    }

    fn uninstall(&self, delivery: &Delivery, more: &[&str]) -> Result<Output> {
        let prefix = self.prefix.display().to_string();
        script(&delivery.tree, "uninstall.sh", &[&["--prefix", &prefix][..], more].concat())
    }

    fn verify_self(&self) -> Result<Output> {
        let mut command = Command::new(self.prefix.join("bin/ampoule"));
        let output = command.args(["verify-self", "--fingerprint", self.fingerprint]).stdin(Stdio::null()).output();
        output.context("the installed binary did not start")
    }

    /// The binary on the path belongs to this release, and the whole release is what was signed.
    fn expect_in_use(&self, release: &str) -> Result<()> {
        let current = fs::read_link(self.prefix.join("lib/ampoule/current"))?;
        ensure!(current == Path::new(release), "{} is in use and not {release}", current.display());
        expect("verify-self", &self.verify_self()?, 0, &[&format!("ampoule {release} for x86_64-linux")])
    }

    /// Starts an update and kills it with all that it started.
    fn kill_update(&self, delivery: &Delivery, after: Duration) -> Result<()> {
        let mut install = Command::new("sh");
        install.arg(delivery.tree.join("install.sh")).args(["--fingerprint", self.fingerprint, "--prefix"]);
        install.arg(&self.prefix).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = install.spawn().context("install.sh did not start")?;
        std::thread::sleep(after);
        // It may have ended by itself on a fast machine, which is as good.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status();
        child.wait()?;
        Ok(())
    }

    /// Every file and link below the prefix, with its target.
    fn listing(&self) -> Result<Vec<String>> {
        let mut find = Command::new("find");
        find.arg(&self.prefix).args(["!", "-type", "d", "-printf", "%P %l\n"]);
        let mut lines: Vec<String> =
            process::output(&mut find)?.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.sort();
        Ok(lines)
    }
}

/// Installs for the system, where `/etc`, `/usr/local` and `/var/lib` can be others for this check alone.
pub(super) fn check_system(delivery: &Delivery) -> Result<Vec<String>> {
    const WHAT: &str = "installing for the system";
    const MOUNTS: &str = "mount -t tmpfs none /etc && mount -t tmpfs none /usr/local && mount -t tmpfs none /var/lib &&
        mount -t tmpfs none /run && echo root:x:0:0::/:/bin/sh >/etc/passwd && echo root:x:0: >/etc/group";
    const LIFE: &str = "set -eu
        mkdir -p /etc/systemd/system
        sh \"$TREE/install.sh\" --fingerprint \"$FINGERPRINT\" --dry-run
        test ! -e /usr/local/lib/ampoule
        sh \"$TREE/install.sh\" --fingerprint \"$FINGERPRINT\" | sed -n '/chgrp/p' >/run/next
        /usr/local/bin/ampoule keys add alice --keys-file /etc/ampoule/keys.jsonl >/dev/null
        sh -e /run/next
        test \"$(stat -c %a:%G /etc/ampoule/keys.jsonl)\" = 640:ampoule
        /usr/local/bin/ampoule verify-self --fingerprint \"$FINGERPRINT\"
        id ampoule
        grep -q '^ExecStart=/usr/local/bin/ampoule serve' /etc/systemd/system/ampoule.service
        cmp /usr/local/lib/ampoule/current/systemd/ampoule.service /etc/systemd/system/ampoule.service
        grep -q /var/lib/ampoule /etc/ampoule/ampoule.toml
        test -d /var/lib/ampoule
        echo changed >>/etc/ampoule/ampoule.toml
        sh \"$TREE/install.sh\" --fingerprint \"$FINGERPRINT\" | grep 'already installed'
        tail -n 1 /etc/ampoule/ampoule.toml | grep changed
        sh \"$TREE/uninstall.sh\"
        test ! -e /usr/local/lib/ampoule && test ! -e /usr/local/bin/ampoule
        test ! -e /etc/systemd/system/ampoule.service && test -e /etc/ampoule/ampoule.toml";
    if !is_superuser() {
        return Ok(vec![format!("{WHAT} (it needs the superuser here)")]);
    }
    let in_namespace = |life: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c"]).arg(format!("{MOUNTS}\n{life}"));
        unshare.env("TREE", &delivery.tree).env("FINGERPRINT", &delivery.fingerprint);
        unshare
    };
    if let Err(error) = process::output(&mut in_namespace("true")) {
        return Ok(vec![format!("{WHAT} (no mount namespace: {error:#})")]);
    }
    process::output(&mut in_namespace(LIFE))?;
    println!("a release installs for the system, once, and goes away");
    Ok(Vec::new())
}
