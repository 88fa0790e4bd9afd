//! The digests of a folder's files: each file is opened once, read in order, and hashed by as many threads as there are
//! cores. No more files are open than twice the threads, and each thread holds one block.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ampoule_bundle::Hasher;
use blake2::{Blake2b512, Digest};

use super::error::OmsError;
use super::statement::{HashType, Method, Resource, Serialization, check_signable};
use super::tree::{Found, Tree};
use crate::error::SealingError;
use crate::progress::Progress;

/// How much is read at a time; large enough that the system call costs nothing beside the hashing.
const BLOCK_BYTES: usize = 1 << 20;

/// A range of an open file that becomes one resource.
struct Range {
    file: Arc<File>,
    /// The file's name, for messages.
    file_name: Arc<str>,
    resource_name: String,
    start: u64,
    end: u64,
    /// The file's length when it was opened.
    length: u64,
}

/// The resources of `files`, in the order that is signed: by name, and within a file by position.
pub(crate) fn resources(
    tree: &Tree,
    files: &[Found],
    serialization: &Serialization,
    progress: &Progress,
) -> Result<Vec<Resource>, SealingError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = sync_channel::<(usize, Range)>(threads);
    let receiver = Mutex::new(receiver);
    let stop = AtomicBool::new(false);
    let results = thread::scope(|scope| {
        let work = || hash_all(&receiver, &stop, serialization.hash, tree, progress);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let sent = open_all(tree, files, serialization.method, |number, range| {
            !stop.load(Ordering::Relaxed) && sender.send((number, range)).is_ok()
        });
        drop(sender);
        let results: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("hashing does not panic")).collect();
        sent.map(|()| results)
    })?;
    let mut numbered = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered.into_iter().map(|(_, resource)| resource).collect())
}

/// Opens each file and passes its ranges on, numbered in order, until `pass_on` takes no more.
fn open_all(
    tree: &Tree,
    files: &[Found],
    method: Method,
    pass_on: impl Fn(usize, Range) -> bool,
) -> Result<(), SealingError> {
    let mut number = 0;
    for found in files {
        check_signable(&found.name, method)?;
        let file = Arc::new(tree.open_file(&found.name)?);
        let length = file.metadata().map_err(|source| tree.unreadable(Path::new(&found.name), source))?.len();
        let (file_name, mut start): (Arc<str>, u64) = (found.name.as_str().into(), 0);
        let size = match method {
            Method::Files => u64::MAX,
            Method::Shards { size } => size,
        };
        while start < length || (method == Method::Files && start == 0) {
            let end = start.saturating_add(size).min(length);
            let resource_name = match method {
                Method::Files => found.name.clone(),
                Method::Shards { .. } => format!("{}:{start}:{end}", found.name),
            };
            let range =
                Range { file: Arc::clone(&file), file_name: Arc::clone(&file_name), resource_name, start, end, length };
            if !pass_on(number, range) {
                return Ok(());
            }
            number += 1;
            if end == length {
                break;
            }
            start = end;
        }
    }
    Ok(())
}

/// One thread's work.
fn hash_all(
    ranges: &Mutex<Receiver<(usize, Range)>>,
    stop: &AtomicBool,
    hash: HashType,
    tree: &Tree,
    progress: &Progress,
) -> Result<Vec<(usize, Resource)>, SealingError> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut hashed = Ok(Vec::new());
    loop {
        let next = ranges.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, range)) = next else { return hashed };
        // After an error the rest is taken and dropped, so that the sender does not wait for ever.
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        let name = &range.file_name;
        let digest = match range.digest(hash, &mut block, progress) {
            Ok(Some(digest)) => Ok(digest),
            Ok(None) => Err(OmsError::Moved { name: name.to_string() }.into()),
            Err(source) => Err(tree.unreadable(Path::new(&**name), source)),
        };
        match (&mut hashed, digest) {
            (Ok(hashed), Ok(digest)) => hashed.push((number, Resource { name: range.resource_name, digest })),
            (_, Err(error)) => {
                stop.store(true, Ordering::Relaxed);
                hashed = Err(error);
            }
            (Err(_), Ok(_)) => {}
        }
    }
}

impl Range {
    /// The digest; `None` where the file is no longer as long as it was.
    fn digest(&self, hash: HashType, block: &mut [u8], progress: &Progress) -> io::Result<Option<Vec<u8>>> {
        let mut hashing = Hashing::new(hash);
        let mut position = self.start;
        while position < self.end {
            let wanted = usize::try_from(self.end - position).map_or(block.len(), |rest| rest.min(block.len()));
            match self.file.read_at(&mut block[..wanted], position) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    hashing.update(&block[..count]);
                    progress.advance(count as u64);
                    position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_as_long = self.file.metadata()?.len() == self.length;
        Ok(is_as_long.then(|| hashing.finish()))
    }
}

enum Hashing {
    Sha256(Box<Hasher>),
    Blake2b(Box<Blake2b512>),
    Blake3(Box<blake3::Hasher>),
}

impl Hashing {
    fn new(hash: HashType) -> Hashing {
        match hash {
            HashType::Sha256 => Hashing::Sha256(Box::new(Hasher::new())),
            HashType::Blake2b => Hashing::Blake2b(Box::new(Blake2b512::new())),
            HashType::Blake3 => Hashing::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hashing::Sha256(hasher) => hasher.update(bytes),
            Hashing::Blake2b(hasher) => hasher.update(bytes),
            Hashing::Blake3(hasher) => drop(hasher.update(bytes)),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hashing::Sha256(hasher) => hasher.finish().as_bytes().to_vec(),
            Hashing::Blake2b(hasher) => hasher.finalize().to_vec(),
            Hashing::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    fn resources_of(folder: &Path, method: Method, hash: HashType) -> Result<Vec<Resource>, SealingError> {
        let serialization = Serialization { method, hash, allow_symlinks: false, ignore_paths: BTreeSet::new() };
        let tree = Tree::open(folder, false).unwrap();
        let files = tree.survey(&serialization.ignore_paths).unwrap();
        resources(&tree, &files, &serialization, &Progress::hidden())
    }

    fn names(resources: &[Resource]) -> Vec<&str> {
        resources.iter().map(|resource| resource.name.as_str()).collect()
    }

    #[test]
    fn files_and_shards_come_in_order_and_an_empty_file_has_no_shard() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("b", &b"0123456789012345678901234"[..]), ("a", b""), ("c", b"0123456789")] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let files = resources_of(folder.path(), Method::Files, HashType::Sha256).unwrap();
        assert_eq!(names(&files), ["a", "b", "c"]);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(&files[0].digest), empty);
        let shards = resources_of(folder.path(), Method::Shards { size: 10 }, HashType::Sha256).unwrap();
        assert_eq!(names(&shards), ["b:0:10", "b:10:20", "b:20:25", "c:0:10"]);
        assert_eq!(shards[0].digest, files[2].digest);
        fs::write(folder.path().join("a:b"), "x").unwrap();
        let refused = resources_of(folder.path(), Method::Shards { size: 10 }, HashType::Sha256).unwrap_err();
        assert!(matches!(refused, SealingError::Oms(OmsError::Name { .. })), "{refused}");
    }

    #[test]
    fn every_hash_function_is_the_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("abc"), "abc").unwrap();
        // The examples of FIPS 180, RFC 7693 and BLAKE3's own test vectors.
        for (hash, expected) in [
            (HashType::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                HashType::Blake2b,
                "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
                 7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
            ),
            (HashType::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
        ] {
            let found = resources_of(folder.path(), Method::Files, hash).unwrap();
            assert_eq!(hex::encode(&found[0].digest), expected);
        }
    }

    #[test]
    fn c19_a_file_that_changes_between_the_survey_and_the_reading_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        for number in 0..100 {
            fs::write(folder.path().join(format!("{number:02}")), "content").unwrap();
        }
        let serialization = Serialization {
            method: Method::Files,
            hash: HashType::Sha256,
            allow_symlinks: false,
            ignore_paths: BTreeSet::new(),
        };
        let tree = Tree::open(folder.path(), false).unwrap();
        let files = tree.survey(&BTreeSet::new()).unwrap();
        let victim = folder.path().join("50");
        fs::remove_file(&victim).unwrap();
        std::os::unix::fs::symlink(outside.path(), &victim).unwrap();
        let refused = resources(&tree, &files, &serialization, &Progress::hidden()).unwrap_err();
        let SealingError::Oms(OmsError::Unreadable { path, .. }) = &refused else { panic!("{refused}") };
        assert_eq!(*path, victim);
        fs::remove_file(&victim).unwrap();
        fs::create_dir(&victim).unwrap();
        assert!(resources(&tree, &files, &serialization, &Progress::hidden()).is_err());

        let mut range = Range {
            file: Arc::new(File::open(folder.path().join("00")).unwrap()),
            file_name: "00".into(),
            resource_name: "00".to_owned(),
            start: 0,
            end: 7,
            length: 8,
        };
        let mut block = [0; 4];
        let mut digest = |range: &Range| range.digest(HashType::Sha256, &mut block, &Progress::hidden()).unwrap();
        assert_eq!(digest(&range), None, "it became shorter");
        range.length = 7;
        assert!(digest(&range).is_some());
        range.end = 9;
        assert_eq!(digest(&range), None, "it ends before its end");
    }
}
