//! Where a symbolic link in a model's folder may lead: no further than what the vendor meant by naming the folder.
//!
//! The hub's cache is made of links, `models--ORG--NAME/snapshots/REVISION/config.json` to `../../blobs/DIGEST`, so links
//! cannot be refused as such. But whoever put the folder together need not be the one who seals it, and a link to a file of
//! the machine would be signed and handed out with the rest. So a link stays in the folder or leads to the blobs of the
//! folder's own repository in the cache, and any other one stops the sealing.
//!
//! Both folders are held open. Where a name leads is asked of the system, and that place is opened from one of the two,
//! without any link: who changes the name in between gets another file of the same folders sealed, or an error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::content::OpenFile;
use crate::error::SealingError;
use crate::folder::{Folder, Kind};

/// What an entry of a folder is, once it is known to lead nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    File,
    Folder,
}

/// How far the links of one folder may lead.
#[derive(Debug)]
pub(crate) struct Reach {
    folder: Place,
    /// The blobs of the cache's repository that the folder is a snapshot of.
    blobs: Option<Place>,
}

/// A folder that is held open, with the path that leads to it without links.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    opened: Folder,
}

impl Reach {
    pub(crate) fn of(folder: &Path) -> Result<Reach, SealingError> {
        let in_context = |source| SealingError::Read { path: folder.to_owned(), source };
        let path = fs::canonicalize(folder).map_err(in_context)?;
        let opened = Folder::open(&path).map_err(in_context)?;
        let blobs = repository_of(&path).and_then(|repository| {
            // Where the blobs are a link themselves, they are no place to lead to.
            let opened = Folder::open(repository).and_then(|repository| repository.below(Path::new("blobs"))).ok()?;
            Some(Place { path: repository.join("blobs"), opened })
        });
        Ok(Reach { folder: Place { path, opened }, blobs })
    }

    /// Looks at the entry that messages call `name`. What `is_left_out` is not followed.
    pub(crate) fn look_at(&self, name: &str, is_left_out: bool) -> Result<Entry, SealingError> {
        let path = self.folder.path.join(name);
        let in_context = |source| SealingError::Read { path: path.clone(), source };
        if is_left_out && fs::symlink_metadata(&path).map_err(in_context)?.is_symlink() {
            return Ok(Entry::File);
        }
        let (place, relative) = self.find(name)?;
        let kind = if relative.as_os_str().is_empty() { Ok(Kind::Folder) } else { place.opened.kind(&relative) };
        match kind.map_err(in_context)? {
            Kind::Folder => Ok(Entry::Folder),
            Kind::File => Ok(Entry::File),
            _ if is_left_out => Ok(Entry::File),
            _ => Err(SealingError::NotAModelFile { path }),
        }
    }

    /// The names in the folder `name`, which is empty for the whole.
    pub(crate) fn names_in(&self, name: &str) -> Result<Vec<String>, SealingError> {
        let path = self.folder.path.join(name);
        let (place, relative) = self.find(name)?;
        let entries = place.opened.below(&relative).and_then(|folder| folder.entries());
        let entries = entries.map_err(|source| SealingError::Read { path: path.clone(), source })?;
        let text = |name: std::ffi::OsString| {
            name.into_string().map_err(|name| SealingError::UnreadableName { path: path.join(name) })
        };
        entries.into_iter().map(|(name, _)| text(name)).collect()
    }

    /// Opens the file `name`, whatever it is by now: a regular file in reach, or an error.
    pub(crate) fn open(&self, name: &str) -> Result<OpenFile, SealingError> {
        let path = self.folder.path.join(name);
        let (place, relative) = self.find(name)?;
        let file = place.opened.open_file(&relative);
        let file = file.map_err(|source| SealingError::Read { path: path.clone(), source })?;
        OpenFile::of(file, &path)
    }

    /// Where `name` leads: one of the two places, and the path below it.
    fn find(&self, name: &str) -> Result<(&Place, PathBuf), SealingError> {
        let path = self.folder.path.join(name);
        let in_context = |source: io::Error| SealingError::Read { path: path.clone(), source };
        let resolved = fs::canonicalize(&path).map_err(in_context)?;
        for place in [Some(&self.folder), self.blobs.as_ref()].into_iter().flatten() {
            if let Ok(relative) = resolved.strip_prefix(&place.path) {
                return Ok((place, relative.to_owned()));
            }
        }
        let target = fs::read_link(&path).unwrap_or(resolved);
        Err(SealingError::LinkLeadsElsewhere { name: name.to_owned(), target, folder: self.folder.path.clone() })
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
        let reach = Reach::of(folder).unwrap();
        let found = reach.look_at("config.json", false);
        assert_eq!(reach.open("config.json").is_ok(), matches!(found, Ok(Entry::File)), "{target}");
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
        let refused = reach.look_at("config.json", false).unwrap_err();
        assert!(matches!(refused, SealingError::NotAModelFile { .. }), "{refused}");
        assert_eq!(reach.look_at("config.json", true).unwrap(), Entry::File);
    }

    #[test]
    fn c19_what_is_swapped_between_survey_and_reading_never_leads_out() {
        let place = tempfile::tempdir().unwrap();
        let (folder, secret) = (place.path().join("model"), place.path().join("secret"));
        fs::create_dir(&folder).unwrap();
        fs::write(&secret, "secret").unwrap();
        let config = folder.join("config.json");
        fs::write(&config, "content").unwrap();
        let reach = Reach::of(&folder).unwrap();
        assert_eq!(reach.look_at("config.json", false).unwrap(), Entry::File);
        let opened = reach.open("config.json").unwrap();

        fs::remove_file(&config).unwrap();
        symlink(&secret, &config).unwrap();
        assert!(matches!(reach.open("config.json"), Err(SealingError::LinkLeadsElsewhere { .. })));
        assert_eq!(opened.read(0, 7).unwrap(), b"content", "what is open stays what it was");

        // Swapped as often as can be while it is opened: either of the two that are allowed, or an error.
        fs::write(folder.join("other"), "other").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for target in [Path::new("other"), &secret] {
                        let _ = fs::remove_file(folder.join("next"));
                        symlink(target, folder.join("next")).unwrap();
                        fs::rename(folder.join("next"), &config).unwrap();
                    }
                }
            });
            for _ in 0..2000 {
                if let Ok(file) = reach.open("config.json") {
                    assert_eq!(file.read(0, file.length).unwrap(), b"other");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
