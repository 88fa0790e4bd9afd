//! Where a symbolic link in a model's folder may lead: no further than what the vendor meant by naming the folder.
//!
//! The hub's cache is made of links, `models--ORG--NAME/snapshots/REVISION/config.json` to `../../blobs/DIGEST`, so links
//! cannot be refused as such. But whoever put the folder together need not be the one who seals it, and a link to a file of
//! the machine would be signed and handed out with the rest. So a link stays in the folder or leads to the blobs of the
//! folder's own repository in the cache, and any other one stops the sealing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::SealingError;

/// What an entry of a folder is, once it is known to lead nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File,
    Folder,
}

/// How far the links of one folder may lead.
#[derive(Debug)]
pub(crate) struct Reach {
    folder: PathBuf,
    /// The blobs of the cache's repository that the folder is a snapshot of.
    blobs: Option<PathBuf>,
}

impl Reach {
    pub(crate) fn of(folder: &Path) -> Result<Reach, SealingError> {
        let resolved = fs::canonicalize(folder);
        let folder = resolved.map_err(|source| SealingError::Read { path: folder.to_owned(), source })?;
        let blobs = repository_of(&folder).map(|repository| repository.join("blobs"));
        Ok(Reach { folder, blobs })
    }

    /// Looks at the entry `path`, which messages call `name`. What `is_left_out` is not followed.
    pub(crate) fn look_at(&self, path: &Path, name: &str, is_left_out: bool) -> Result<Entry, SealingError> {
        let in_context = |source: io::Error| SealingError::Read { path: path.to_owned(), source };
        if fs::symlink_metadata(path).map_err(in_context)?.is_symlink() {
            if is_left_out {
                return Ok(Entry::File);
            }
            let resolved = fs::canonicalize(path).map_err(in_context)?;
            if !self.includes(&resolved) {
                let target = fs::read_link(path).map_err(in_context)?;
                return Err(SealingError::LinkLeadsElsewhere {
                    name: name.to_owned(),
                    target,
                    folder: self.folder.clone(),
                });
            }
        }
        let found = fs::metadata(path).map_err(in_context)?;
        if found.is_dir() {
            Ok(Entry::Folder)
        } else if found.is_file() || is_left_out {
            Ok(Entry::File)
        } else {
            Err(SealingError::NotAModelFile { path: path.to_owned() })
        }
    }

    fn includes(&self, resolved: &Path) -> bool {
        resolved.starts_with(&self.folder) || self.blobs.as_ref().is_some_and(|blobs| resolved.starts_with(blobs))
    }
}

/// `…/models--ORG--NAME`, where the folder is `…/models--ORG--NAME/snapshots/REVISION` or lies below it.
fn repository_of(folder: &Path) -> Option<&Path> {
    folder.ancestors().find_map(|revision| {
        let snapshots = revision.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let repository = snapshots.parent()?;
        repository.file_name()?.to_str()?.starts_with("models--").then_some(repository)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Makes a link in `folder` and looks at it.
    fn look(folder: &Path, target: &str) -> Result<Entry, SealingError> {
        let link = folder.join("config.json");
        symlink(target, &link).unwrap();
        let found = Reach::of(folder).unwrap().look_at(&link, "config.json", false);
        fs::remove_file(link).unwrap();
        found
    }

    #[test]
    fn a_link_stays_in_its_folder_or_leads_to_the_blobs_of_its_own_repository() {
        let place = tempfile::tempdir().unwrap();
        let (model, other) = (place.path().join("models--a--b"), place.path().join("models--a--c"));
        let snapshot = model.join("snapshots/0123/onnx");
        for folder in [&snapshot, &model.join("blobs"), &other.join("blobs"), &place.path().join("plain/snapshots/1")] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("file"), "content").unwrap();
        }
        for (folder, target) in [("snapshots/0123", "../../blobs/file"), ("snapshots/0123/onnx", "../../../blobs/file")]
        {
            assert_eq!(look(&model.join(folder), target).unwrap(), Entry::File, "{target}");
        }
        assert_eq!(look(&model.join("snapshots/0123"), "onnx").unwrap(), Entry::Folder);
        assert_eq!(look(&snapshot, "file").unwrap(), Entry::File);
        let absolute = model.join("blobs/file").display().to_string();
        assert_eq!(look(&snapshot, &absolute).unwrap(), Entry::File);
        let plain = place.path().join("plain/snapshots/1");
        for (folder, target) in [
            (&snapshot, "/etc/passwd"),
            (&snapshot, "../../../../models--a--c/blobs/file"),
            (&snapshot, "../../../blobs/../../models--a--c/blobs/file"),
            (&snapshot, "../../.."),
            (&snapshot, "/dev/zero"),
            (&plain, "../../../models--a--b/blobs/file"),
        ] {
            let refused = look(folder, target).unwrap_err();
            assert!(matches!(refused, SealingError::LinkLeadsElsewhere { .. }), "{target}: {refused}");
            let told = refused.to_string();
            assert!(told.contains("config.json") && told.contains(target) && told.contains("copy the file"), "{told}");
        }
        // The blobs themselves are not to be a way out.
        fs::remove_dir_all(model.join("blobs")).unwrap();
        symlink("../models--a--c/blobs", model.join("blobs")).unwrap();
        let refused = look(&model.join("snapshots/0123"), "../../blobs/file").unwrap_err();
        assert!(matches!(refused, SealingError::LinkLeadsElsewhere { .. }), "{refused}");
    }

    #[test]
    fn what_is_neither_a_file_nor_a_folder_is_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("config.json");
        let _listener = UnixListener::bind(&socket).unwrap();
        let reach = Reach::of(folder.path()).unwrap();
        let refused = reach.look_at(&socket, "config.json", false).unwrap_err();
        assert!(matches!(refused, SealingError::NotAModelFile { .. }), "{refused}");
        assert_eq!(reach.look_at(&socket, "config.json", true).unwrap(), Entry::File);
    }
}
