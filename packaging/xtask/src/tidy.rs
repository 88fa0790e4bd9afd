//! What no compiler checks and every reader notices: that each file says why it exists, that none grows without end, that
//! nothing of one machine leaks into the tree, and that the top level stays the one that the architecture page shows.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::process;

/// A file with more lines than this holds more than one idea.
const MAX_LINES: usize = 600;

/// All that may lie at the top of the tree.  The second row holds what tools force there.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "src",
    "bundles",
    "packaging",
    "airgap",
    "conformance",
    "README.md", //
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    "Cargo.lock",
    "LICENSE",
    "rustfmt.toml",
];

/// Checks every tracked file and names all defects at once.
pub(crate) fn run() -> anyhow::Result<()> {
    let listing =
        process::output(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]))?;
    let mut defects = Vec::new();
    let mut files = 0;
    for path in listing.split_terminator('\0').map(Path::new).filter(|path| path.is_file()) {
        files += 1;
        check_place(path, &mut defects);
        // Bundles, weights and pictures are not text and have nothing to tidy.
        if let Ok(text) = std::fs::read_to_string(path) {
            check_text(path, &text, &mut defects);
        }
    }
    if !defects.is_empty() {
        bail!("{} defects:\n  {}", defects.len(), defects.join("\n  "));
    }
    println!("{files} files are tidy");
    Ok(())
}

fn check_place(path: &Path, defects: &mut Vec<String>) {
    let top = path.iter().next().unwrap_or_default();
    if !TOP_LEVEL.iter().any(|allowed| top == *allowed) {
        defects.push(format!("{}: {} does not belong at the top level", path.display(), top.display()));
    }
}

fn check_text(path: &Path, text: &str, defects: &mut Vec<String>) {
    let shown = path.display();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if extension == "rs" {
        if !text.starts_with("//!") {
            defects.push(format!("{shown}: does not open with a `//!` paragraph that says why it exists"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            defects.push(format!("{shown}: {lines} lines, the limit is {MAX_LINES}"));
        }
    }
    let is_source = ["rs", "toml", "py", "sh", "md", "yaml", "yml", "html", "js", "css"].contains(&extension);
    if !is_source {
        return;
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        defects.push(format!("{shown}: does not end with exactly one line feed"));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if line.ends_with([' ', '\t', '\r']) {
            defects.push(format!("{shown}:{number}: white space at the end of the line"));
        }
        if let Some(found) = machine_path(line) {
            defects.push(format!("{shown}:{number}: names a path of one machine ({found})"));
        }
    }
}

/// The path of a developer's own machine in this line, if there is one.
fn machine_path(line: &str) -> Option<&'static str> {
    // Written in two parts, so that this table is no finding itself.
    const FOLDERS: &[(&str, &str, &str)] = &[
        ("/ro", "ot/", "the superuser's home"),
        ("/wo", "rk/", "a build machine's folder"),
        ("/ho", "me/", "a user's home"),
    ];
    FOLDERS.iter().find(|(start, end, _)| line.contains(&format!("{start}{end}"))).map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_is_found_and_a_good_file_has_none() {
        let check = |path: &str, text: &str| {
            let mut defects = Vec::new();
            check_place(Path::new(path), &mut defects);
            check_text(Path::new(path), text, &mut defects);
            defects.len()
        };
        assert_eq!(check("src/a.rs", "//! Why.\n"), 0);
        assert_eq!(check("src/a.rs", "fn main() {}\n"), 1);
        assert_eq!(check("src/a.rs", &format!("//! Why.\n{}", "//\n".repeat(MAX_LINES))), 1);
        assert_eq!(check("src/a.sh", "echo \n"), 1);
        assert_eq!(check("src/a.md", "text"), 1);
        assert_eq!(check("src/a.md", concat!("see /ho", "me/someone\n")), 1);
        assert_eq!(check("notes/a.md", "text\n"), 1);
    }
}
