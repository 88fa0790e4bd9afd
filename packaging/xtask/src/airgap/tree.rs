//! The folder that a customer unpacks: what goes into it, from where, and with which rights.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::dist;

/// Single files: where they lie here, and where there.
const FILES: &[(&str, &str)] = &[
    ("airgap/INSTALL.md", "INSTALL.md"),
    ("airgap/verify.sh", "verify.sh"),
    ("airgap/install.sh", "install.sh"),
    ("airgap/uninstall.sh", "uninstall.sh"),
    ("airgap/ampoule.toml", "etc/ampoule.toml"),
    ("airgap/README.md", "docs/README.md"),
    ("airgap/CONTAINER.md", "docs/CONTAINER.md"),
    ("bundles/FORMAT.md", "docs/FORMAT.md"),
    ("conformance/SPECIFICATION.md", "docs/SPECIFICATION.md"),
    ("LICENSE", "docs/LICENSE"),
    ("bundles/demo/demo.bundle", "bundles/demo.bundle"),
];

/// Whole folders, with the endings of the files that are taken.
const FOLDERS: &[(&str, &str, &[&str])] = &[
    ("packaging/observability", "docs/observability", &["md", "yaml", "json"]),
    ("packaging/observability/runbooks", "docs/observability/runbooks", &["md"]),
    ("bundles/schemas", "docs/schemas", &["json"]),
    ("packaging/kubernetes", "kubernetes", &["md", "yaml", "toml"]),
];

/// The folder with examples to train on.
const EXAMPLES: &str = "bundles/demo/lessons";

/// The folder with the systemd units and the page about them.
const UNITS: &str = "packaging/systemd";

/// What the units name, and what stands for it where install.sh has put the release.
const INSTALLED: &[(&str, &str)] = &[
    ("/usr/bin/ampoule", "/usr/local/bin/ampoule"),
    ("file:///usr/share/doc/ampoule/", "file:///usr/local/lib/ampoule/current/docs/"),
];

/// Makes the folder anew; only the signature of an earlier run is kept.
pub(super) fn lay_out(folder: &Path, binaries: &Path, trust_root: &Path) -> Result<()> {
    let signature = folder.join("RELEASE.sig");
    let kept = fs::read(&signature).ok();
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(kept) = kept {
        fs::write(&signature, kept)?;
    }

    for binary in &dist::BINARIES {
        copy(&binaries.join(binary.name), &folder.join("bin").join(binary.name))?;
    }
    for (from, to) in FILES {
        copy(Path::new(from), &folder.join(to))?;
    }
    for (from, to, endings) in FOLDERS {
        copy_folder(Path::new(from), &folder.join(to), endings)?;
    }
    if Path::new(EXAMPLES).is_dir() {
        copy_whole(Path::new(EXAMPLES), &folder.join("examples"))?;
    }
    copy(trust_root, &folder.join("trust/root.json"))?;
    units(&folder.join("systemd"))
}

/// Programs may be run and everything be read by all; nothing but its owner may write.
pub(super) fn set_modes(folder: &Path) -> Result<()> {
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the rights of {}", path.display()))
    };
    set(folder, 0o755)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            set_modes(&path)?;
        } else {
            let is_script = path.extension().is_some_and(|ending| ending == "sh");
            set(&path, if is_script || folder.ends_with("bin") { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// The systemd units and their page, naming the binary where install.sh puts it.
fn units(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut count = 0;
    for entry in fs::read_dir(UNITS)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_unit = name.to_string_lossy().starts_with("ampoule.");
        if is_unit || name == "README.md" {
            let mut text = fs::read_to_string(entry.path())?;
            for (packaged, installed) in INSTALLED {
                text = text.replace(packaged, installed);
            }
            fs::write(folder.join(name), text)?;
            count += usize::from(is_unit);
        }
    }
    ensure!(count > 0, "{UNITS} holds no unit of the name ampoule.*");
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, endings: &[&str]) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if path.is_file() && endings.contains(&ending) {
            copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let copied = to.join(entry.file_name());
        if entry.path().is_dir() { copy_whole(&entry.path(), &copied)? } else { copy(&entry.path(), &copied)? }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::process;

    /// A customer has none of these.
    const OF_THE_SOURCES: &[&str] =
        &["cargo xtask", "src/", "packaging/", "conformance/", "airgap/", "target/", "bundles/FORMAT"];

    #[test]
    fn the_pages_of_a_release_name_nothing_that_a_customer_lacks() {
        let root = process::workspace_root();
        let mut files: Vec<_> = FILES.iter().map(|(from, _)| root.join(from)).collect();
        let units = (UNITS, "systemd", &["md", "service", "socket"][..]);
        for (from, _, endings) in FOLDERS.iter().chain([&units]) {
            let entries = fs::read_dir(root.join(from)).unwrap().map(|entry| entry.unwrap().path());
            files.extend(
                entries.filter(|path| endings.iter().any(|ending| path.extension().unwrap_or_default() == *ending)),
            );
        }
        let mut read = 0;
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            read += 1;
            for word in OF_THE_SOURCES {
                assert!(!text.contains(word), "{} names {word}", file.display());
            }
        }
        assert!(read > 28, "only {read} pages were read");
    }
}
