//! Loads the weights of an admitted bundle, FORMAT.md step 18: one pass that reads, hashes and hands over.
//!
//! ```text
//!            ┌ header: verified before, hashed from memory
//! weight file┤ tensor ─read (, decrypt)─► the sink's memory ─hash─► sink.place
//!            └ …                                                      │ every digest matched
//!                                                                     ▼
//!                                                                sink.finish ─► the model
//! ```
//!
//! The bytes that were hashed are the bytes that are used: each is read once, into memory that the sink gave for it. A
//! file that changes underneath gives a wrong digest, never a wrong model.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::Hasher;
use crate::error::BundleError;
use crate::names::BundlePath;
use crate::policy::{AdmissionNotice, HighWaterMarks};
use crate::reader::{CHUNK_BYTES, Reader};
use crate::source::{Source, read_exact_at};
use crate::statement::{AdapterBinding, ReleaseStatement};
use crate::tensor::{TensorInfo, TensorMemory, TensorSink};
use crate::verified::{BundleIdentity, VerifiedBundle};
use crate::verify::{RawHeader, check_digest};
use crate::weights::WeightFile;

/// A bundle that may run here. Its small files are verified; its weights are verified while they are loaded.
pub struct AdmittedBundle {
    bundle: VerifiedBundle,
    notices: Vec<AdmissionNotice>,
    marks: HighWaterMarks,
}

/// Why the weights could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E: std::error::Error> {
    /// They could not be read, or their digest is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The sink refused a tensor or the whole.
    #[error(transparent)]
    Sink(E),
}

impl AdmittedBundle {
    pub(crate) fn new(bundle: VerifiedBundle, notices: Vec<AdmissionNotice>, marks: HighWaterMarks) -> Self {
        Self { bundle, notices, marks }
    }

    /// Which bundle this is.
    #[must_use]
    pub fn identity(&self) -> &BundleIdentity {
        &self.bundle.identity
    }

    /// What its vendor states about it.
    #[must_use]
    pub fn release(&self) -> &ReleaseStatement {
        &self.bundle.release
    }

    /// What an adapter of it is bound to; `None` when it has no tokenizer.
    #[must_use]
    pub fn adapter_binding(&self) -> Option<&AdapterBinding> {
        self.bundle.adapter_binding.as_ref()
    }

    /// What the operator must be told although the bundle is admitted.
    #[must_use]
    pub fn notices(&self) -> &[AdmissionNotice] {
        &self.notices
    }

    /// What the high-water marks are to be raised to once the bundle is taken into use, and not before.
    #[must_use]
    pub fn marks(&self) -> &HighWaterMarks {
        &self.marks
    }

    /// The content of a verified small file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.bundle.files.get(path).map(Vec::as_slice)
    }

    /// All verified small files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&BundlePath, &[u8])> {
        self.bundle.files()
    }

    /// The weight files with their verified and checked headers.
    #[must_use]
    pub fn weights(&self) -> &[WeightFile] {
        &self.bundle.weights
    }

    /// The length of all weight files together, in bytes: what `progress` adds up to.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.bundle.weight_bytes()
    }

    /// Whether the bundle is encrypted and nobody has opened it: it can be kept, and not be used.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.bundle.is_locked()
    }

    /// Loads all weights into `sink`, several files at a time. `progress` is told, from several threads, how many more
    /// bytes have been read.
    ///
    /// # Errors
    /// [`LoadError::Bundle`] when a file cannot be read or its digest is wrong: the sink is dropped then and nothing of it
    /// gets out. [`LoadError::Sink`] when the sink refuses.
    pub fn load_weights<S: TensorSink>(
        &self,
        sink: S,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<S::Output, LoadError<S::Error>>
    where
        S::Error: Send,
    {
        if self.bundle.is_locked() {
            return Err(LoadError::Bundle(BundleError::Locked));
        }
        in_parallel(&self.bundle.weights, |file| {
            let mut pass = Pass::begin(&*self.bundle.source, file, progress)?;
            for tensor in file.header.tensors() {
                let length = usize::try_from(tensor.length).expect("a weight file is below 8 GiB");
                let mut memory = sink.open(tensor.entry(), length).map_err(LoadError::Sink)?;
                pass.tensor(tensor, length, &mut memory)?;
                sink.place(tensor.entry(), memory).map_err(LoadError::Sink)?;
            }
            pass.finish().map_err(LoadError::Bundle)
        })?;
        sink.finish().map_err(LoadError::Sink)
    }
}

impl VerifiedBundle {
    /// The length of all weight files together, in bytes: what `progress` adds up to.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let locked = self.locked.iter().flat_map(|locked| &locked.headers).map(|header| header.layer.size);
        self.weights.iter().map(|file| file.length).chain(locked).sum()
    }

    /// Hashes all weights and keeps nothing, refusing what loading refuses: what `ampoule verify` does beyond opening.
    /// Of a locked bundle the weights are hashed as they lie in it.
    ///
    /// # Errors
    /// [`BundleError::DigestMismatch`] for the first file whose content is not what is signed, and
    /// [`BundleError::WeightHeader`] when bytes that belong to no tensor are not zero.
    pub fn check_weights(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<(), BundleError> {
        if let Some(locked) = &self.locked {
            return in_parallel(&locked.headers, |header| hash_locked(&*self.source, header, progress));
        }
        in_parallel(&self.weights, |file| {
            let mut pass = Pass::begin(&*self.source, file, progress)?;
            for tensor in file.header.tensors() {
                pass.skim_to(tensor.offset, Gap::Zeros)?;
                pass.skim_to(tensor.offset + tensor.length, Gap::Content)?;
            }
            pass.finish()
        })
    }
}

/// Runs `work` on every file, on as many threads as the machine has cores, and stops at the first error.
fn in_parallel<T: Sync, E: Send>(files: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work(file) {
                failed.store(true, Ordering::Relaxed);
                first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if files.len() > 1 { cores().min(files.len()) } else { 1 };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Hashes an encrypted weight file that nobody can read.
fn hash_locked(
    source: &dyn Source,
    RawHeader { layer, offset, bytes }: &RawHeader,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), BundleError> {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    let mut position = bytes.len() as u64;
    progress(position);
    let mut buffer = vec![0; CHUNK_BYTES];
    while position < layer.size {
        let count = usize::try_from(layer.size - position).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
        read_exact_at(source, &mut buffer[..count], offset + position, layer.path.as_str())?;
        hasher.update(&buffer[..count]);
        position += count as u64;
        progress(count as u64);
    }
    check_digest(layer.path.as_str(), hasher.finish(), layer.digest)
}

/// What may stand in bytes that are skimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Zeros only: padding between tensors.
    Zeros,
    /// Anything: a tensor's own bytes, which are hashed and not kept.
    Content,
}

/// One pass over one weight file: every byte is read once, in order, and hashed.
struct Pass<'a> {
    file: &'a WeightFile,
    progress: &'a (dyn Fn(u64) + Sync),
    reader: Reader<'a>,
    position: u64,
}

impl<'a> Pass<'a> {
    /// Begins behind the header.
    fn begin(
        source: &'a dyn Source,
        file: &'a WeightFile,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Result<Self, BundleError> {
        let mut pass = Self { file, progress, reader: Reader::new(source, file), position: 0 };
        pass.skim_to(file.header.length(), Gap::Content)?;
        Ok(pass)
    }

    /// Reads the next tensor into the memory that its sink gave for it.
    fn tensor(
        &mut self,
        tensor: &TensorInfo,
        length: usize,
        memory: &mut impl TensorMemory,
    ) -> Result<(), BundleError> {
        self.skim_to(tensor.offset, Gap::Zeros)?;
        let mut left = length;
        while left > 0 {
            let room = memory.room();
            let count = room.len().min(left).min(CHUNK_BYTES);
            self.read(&mut room[..count])?;
            memory.filled(count);
            left -= count;
        }
        Ok(())
    }

    /// Reads up to `target` and keeps nothing.
    fn skim_to(&mut self, target: u64, gap: Gap) -> Result<(), BundleError> {
        if self.position >= target {
            return Ok(());
        }
        let mut buffer =
            vec![0; usize::try_from(target - self.position).map_or(CHUNK_BYTES, |gap| gap.min(CHUNK_BYTES))];
        while self.position < target {
            let start = self.position;
            let count = usize::try_from(target - start).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            self.read(&mut buffer[..count])?;
            if gap == Gap::Zeros && buffer[..count].iter().any(|&byte| byte != 0) {
                let defect = crate::error::WeightHeaderError::Unexplained { offset: start, found: count as u64 };
                return Err(BundleError::WeightHeader { path: self.file.path.to_string(), defect });
            }
        }
        Ok(())
    }

    fn read(&mut self, chunk: &mut [u8]) -> Result<(), BundleError> {
        self.reader.read(chunk)?;
        self.position += chunk.len() as u64;
        (self.progress)(chunk.len() as u64);
        Ok(())
    }

    /// Hashes what is left, which is padding, and compares.
    fn finish(mut self) -> Result<(), BundleError> {
        self.skim_to(self.file.length, Gap::Zeros)?;
        self.reader.finish()
    }
}
