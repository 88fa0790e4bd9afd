//! Holds the pages of a release to its folder: a file that a page names beside itself is one that the customer has.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

/// Refuses a release with a page that names a file of it which is not there.
pub(super) fn check(tree: &Path) -> Result<()> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        if entry.path().is_dir() {
            folders.push(format!("{}/", entry.file_name().to_string_lossy()));
        }
    }
    let mut missing = Vec::new();
    visit(tree, tree, &folders, &mut missing)?;
    ensure!(missing.is_empty(), "pages of the release name what it does not hold: {}", missing.join(", "));
    Ok(())
}

fn visit(tree: &Path, folder: &Path, folders: &[String], missing: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(tree, &path, folders, missing)?;
        } else if path.extension().is_some_and(|ending| ending == "md") {
            let page = fs::read_to_string(&path)?;
            let named = named(&page, folders).into_iter();
            let lost = named.filter(|name| !folder.join(name).exists() && !tree.join(name).exists());
            missing.extend(lost.map(|name| format!("{name} ({})", path.display())));
        }
    }
    Ok(())
}

/// The files that a page names: the targets of its links that lead to no other host, and every word that begins with one
/// of the release's own folders.
fn named<'a>(page: &'a str, folders: &[String]) -> Vec<&'a str> {
    let links = page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let links = links.filter(|target| !target.is_empty() && !target.contains("://"));
    let words = page.split(|letter: char| letter.is_whitespace() || "`()[]\"',;".contains(letter));
    let words = words.map(|word| word.trim_end_matches(['.', ':']));
    links.chain(words.filter(|word| folders.iter().any(|folder| word.starts_with(folder.as_str())))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_page_that_names_a_missing_file_is_found() {
        let tree = std::env::temp_dir().join(format!("ampoule-pages-{}", std::process::id()));
        fs::create_dir_all(tree.join("docs/deep")).unwrap();
        fs::write(tree.join("docs/there.md"), "").unwrap();
        let write = |page: &str| fs::write(tree.join("docs/page.md"), page).unwrap();
        write(
            "[there](there.md), [a part](there.md#part), [far](https://example.com/a.md); `docs/there.md`, docs/deep/.",
        );
        check(&tree).unwrap();
        for page in ["see `docs/README.md` beside this page", "[gone](gone.md)", "run docs/gone.sh."] {
            write(page);
            assert!(check(&tree).is_err(), "{page}");
        }
        fs::remove_dir_all(tree).unwrap();
    }
}
