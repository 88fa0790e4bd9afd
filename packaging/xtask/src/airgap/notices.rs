//! The third-party notices: who wrote what is linked, under which licence, and the licence texts as their authors ship
//! them.  A text that many crates share to the letter is printed once, under all their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::linked::{CrateId, Library, Linked};

/// How the files begin that hold licences and what must be told along with them.
const BEGINNINGS: &[&str] = &["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

const RULE: &str = "--------------------------------------------------------------------------------";

/// Writes the notices of everything that is not ours.
pub(super) fn write(crates: &BTreeMap<CrateId, Linked>, libraries: &[Library]) -> Result<String> {
    let mut list = String::new();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = Vec::new();
    let mut tell = |title: &str, licence: &str, files: Vec<PathBuf>| -> Result<()> {
        writeln!(list, "{title}: {licence}")?;
        if files.is_empty() {
            without.push(format!("{title}: {licence}"));
        }
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("cannot read the licence {}", file.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim().to_owned();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            texts.entry(text).or_default().insert(format!("{title} ({name})"));
        }
        Ok(())
    };
    for library in libraries {
        tell(&format!("{} {}", library.name, library.version), library.licence, library.texts.clone())?;
    }
    // A crate without a checksum comes from no registry: it is ours.
    for ((name, version), one) in crates.iter().filter(|(_, one)| one.checksum.is_some()) {
        tell(&format!("{name} {version}"), &one.licence, licence_files(&one.folder)?)?;
    }

    let mut notices = String::from("THIRD-PARTY NOTICES\n\nThe binaries of this release contain:\n\n");
    notices.push_str(&list);
    if !without.is_empty() {
        notices.push_str(
            "\nOf these, the following come without a licence text of their own; the one they name holds:\n\n",
        );
        without.iter().for_each(|title| notices.extend([title.as_str(), "\n"]));
    }
    for (text, titles) in texts {
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        write!(notices, "\n{RULE}\n{}\n{RULE}\n\n{text}\n", titles.join("\n"))?;
    }
    Ok(notices)
}

/// The files at the top of a crate that tell of its licence, by name.
fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.path().is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
