//! Which files of a folder a signature is about: the reference client's rules, so that both give one verdict.
//!
//! Every regular file counts, hidden ones too; an empty folder does not. Links are refused unless they are allowed, and then
//! a link to a file counts as that file and a link to a folder as nothing. That holds in ignored folders as well: there
//! nothing is hashed, and a link or a pipe is refused all the same.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::error::OmsError;
use crate::error::SealingError;
use crate::folder::{Folder, Kind};

/// What of a model's folder belongs to its repository and not to the model; looked for at the top level alone.
pub(crate) const GIT_PATHS: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// A folder of a model, held open.
#[derive(Debug)]
pub(crate) struct Tree {
    folder: Folder,
    path: PathBuf,
    allow_symlinks: bool,
}

/// A file that was found, and how long it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) length: u64,
}

impl Tree {
    pub(crate) fn open(path: &Path, allow_symlinks: bool) -> Result<Tree, SealingError> {
        let opened = Folder::open(path);
        let folder = opened.map_err(|source| OmsError::Unreadable { path: path.to_owned(), source })?;
        Ok(Tree { folder, path: path.to_owned(), allow_symlinks })
    }

    /// All files, sorted by name, but for those at or below a path of `ignored`.
    pub(crate) fn survey(&self, ignored: &BTreeSet<String>) -> Result<Vec<Found>, SealingError> {
        // Without its last slash, which would follow the link.
        let named: PathBuf = self.path.components().collect();
        let is_link = std::fs::symlink_metadata(&named).is_ok_and(|found| found.is_symlink());
        if is_link && !self.allow_symlinks {
            return Err(OmsError::Link { name: shown(&named) }.into());
        }
        let ignored: Vec<&Path> = ignored.iter().map(Path::new).collect();
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let entries = self.folder.below(&folder).and_then(|opened| opened.entries());
            for (name, kind) in entries.map_err(|source| self.unreadable(&folder, source))? {
                let relative = folder.join(&name);
                let is_file = match kind {
                    Kind::Folder => {
                        folders.push(relative);
                        continue;
                    }
                    Kind::File => true,
                    Kind::Link => self.link_is_file(&relative)?,
                    Kind::Special => return Err(OmsError::Special { name: shown(&relative) }.into()),
                };
                if is_file && !ignored.iter().any(|path| relative.starts_with(path)) {
                    found.push(self.measure(&relative)?);
                }
            }
        }
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    /// Those of `names` that are there, whatever else is.
    pub(crate) fn look_for(
        &self,
        names: &BTreeSet<String>,
        ignored: &BTreeSet<String>,
    ) -> Result<Vec<Found>, SealingError> {
        let mut found = Vec::new();
        for name in names.iter().filter(|name| !ignored.iter().any(|path| Path::new(name).starts_with(path))) {
            let relative = Path::new(name);
            let kind = if self.allow_symlinks {
                self.folder.followed(relative).map(|(kind, _)| kind)
            } else {
                self.folder.kind(relative)
            };
            match kind {
                Ok(Kind::File) => found.push(self.measure(relative)?),
                Ok(Kind::Link) => return Err(OmsError::Link { name: name.clone() }.into()),
                Ok(Kind::Special) => return Err(OmsError::Special { name: name.clone() }.into()),
                Ok(Kind::Folder) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.unreadable(relative, source)),
            }
        }
        Ok(found)
    }

    /// Opens a file that was found.
    pub(crate) fn open_file(&self, name: &str) -> Result<std::fs::File, SealingError> {
        let relative = Path::new(name);
        let opened = match self.allow_symlinks {
            true => self.folder.open_followed(relative),
            false => self.folder.open_file(relative),
        };
        opened.map_err(|source| self.unreadable(relative, source))
    }

    pub(crate) fn unreadable(&self, relative: &Path, source: io::Error) -> SealingError {
        OmsError::Unreadable { path: self.path.join(relative), source }.into()
    }

    fn measure(&self, relative: &Path) -> Result<Found, SealingError> {
        let name = relative.to_str();
        let name = name.ok_or_else(|| SealingError::UnreadableName { path: self.path.join(relative) })?.to_owned();
        let (_, length) = self.folder.followed(relative).map_err(|source| self.unreadable(relative, source))?;
        Ok(Found { name, length })
    }

    fn link_is_file(&self, relative: &Path) -> Result<bool, SealingError> {
        if !self.allow_symlinks {
            return Err(OmsError::Link { name: shown(relative) }.into());
        }
        match self.folder.followed(relative).map_err(|source| self.unreadable(relative, source))? {
            (Kind::File, _) => Ok(true),
            (Kind::Folder, _) => Ok(false),
            _ => Err(OmsError::Special { name: shown(relative) }.into()),
        }
    }
}

/// The paths of `named` that lie in `folder`, relative to it; others concern nothing in it. `named` is relative to the
/// current folder, as everywhere on a command line.
pub(crate) fn within<'a>(
    folder: &Path,
    named: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<BTreeSet<String>, SealingError> {
    let in_context = |path: &Path| {
        let path = path.to_owned();
        |source| SealingError::from(OmsError::Unreadable { path, source })
    };
    let root = folder.canonicalize().map_err(in_context(folder))?;
    let mut names = BTreeSet::new();
    for path in named {
        let resolved = resolve(path).map_err(in_context(path))?;
        let Ok(relative) = resolved.strip_prefix(&root) else { continue };
        let name = relative.to_str().ok_or_else(|| SealingError::UnreadableName { path: path.clone() })?;
        super::statement::check_name(name)?;
        names.insert(name.to_owned());
    }
    Ok(names)
}

/// The absolute path without links, of which the last parts need not exist yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut missing: Vec<&OsStr> = Vec::new();
    let absolute = std::path::absolute(path)?;
    let mut existing = absolute.as_path();
    loop {
        match existing.canonicalize() {
            Ok(resolved) => return Ok(missing.iter().rev().fold(resolved, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(name), Some(parent)) = (existing.file_name(), existing.parent()) else { return Err(error) };
                missing.push(name);
                existing = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

fn shown(relative: &Path) -> String {
    relative.to_string_lossy().into_owned()
}
