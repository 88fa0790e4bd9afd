//! Loads the weights of an admitted bundle, FORMAT.md step 18: one pass that reads, hashes and hands over.
//!
//! ```text
//!            ┌ header: verified before, hashed from memory
//! weight file┤ tensor ─read─► owned memory ─hash─► sink.place
//!            └ …                                       │ every digest matched
//!                                                      ▼
//!                                                 sink.finish ─► the model
//! ```
//!
//! The bytes that were hashed are the bytes that are used: each is read once, into memory that belongs to the tensor. A
//! file that changes underneath gives a wrong digest, never a wrong model.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::Hasher;
use crate::error::BundleError;
use crate::names::BundlePath;
use crate::policy::{AdmissionNotice, HighWaterMarks};
use crate::source::{Source, read_exact_at};
use crate::statement::{AdapterBinding, ReleaseStatement};
use crate::tensor::{TensorInfo, TensorSink};
use crate::verified::{BundleIdentity, VerifiedBundle};
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
        for_each_weight_file(&self.bundle.weights, |file| {
            let mut pass = Pass::begin(&*self.bundle.source, file, progress);
            for tensor in file.header.tensors() {
                let data = pass.tensor(tensor)?;
                sink.place(tensor.entry(), data).map_err(LoadError::Sink)?;
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
        self.weights.iter().map(|file| file.length).sum()
    }

    /// Hashes all weights and keeps nothing, refusing what loading refuses: what `ampoule verify` does beyond opening.
    ///
    /// # Errors
    /// [`BundleError::DigestMismatch`] for the first file whose content is not what is signed, and
    /// [`BundleError::WeightHeader`] when bytes that belong to no tensor are not zero.
    pub fn check_weights(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<(), BundleError> {
        for_each_weight_file(&self.weights, |file| {
            let mut pass = Pass::begin(&*self.source, file, progress);
            for tensor in file.header.tensors() {
                pass.skim_to(tensor.offset, Gap::Zeros)?;
                pass.skim_to(tensor.offset + tensor.length, Gap::Content)?;
            }
            pass.finish()
        })
    }
}

/// Runs `work` on every file, on as many threads as the machine has cores, and stops at the first error.
fn for_each_weight_file<E: Send>(
    files: &[WeightFile],
    work: impl Fn(&WeightFile) -> Result<(), E> + Sync,
) -> Result<(), E> {
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

/// What may stand in bytes that are skimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Zeros only: padding between tensors.
    Zeros,
    /// Anything: a tensor's own bytes, which are hashed and not kept.
    Content,
}

/// How much is read and hashed at once; it stays in the cache between the two.
const CHUNK_BYTES: usize = 256 << 10;

/// One pass over one weight file: every byte is read once, in order, and hashed.
struct Pass<'a> {
    source: &'a dyn Source,
    file: &'a WeightFile,
    progress: &'a (dyn Fn(u64) + Sync),
    hasher: Hasher,
    position: u64,
}

impl<'a> Pass<'a> {
    /// Begins behind the header, whose verified bytes are hashed from memory.
    fn begin(source: &'a dyn Source, file: &'a WeightFile, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&file.header_bytes);
        let position = file.header_bytes.len() as u64;
        progress(position);
        Self { source, file, progress, hasher, position }
    }

    /// Reads the next tensor into memory of its own.
    fn tensor(&mut self, tensor: &TensorInfo) -> Result<Vec<u8>, BundleError> {
        self.skim_to(tensor.offset, Gap::Zeros)?;
        // The header was checked against the file's length, so this is not more than the file holds.
        let mut data = vec![0; usize::try_from(tensor.length).expect("a weight file is below 8 GiB")];
        for chunk in data.chunks_mut(CHUNK_BYTES) {
            self.read(chunk)?;
        }
        Ok(data)
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
        read_exact_at(self.source, chunk, self.file.offset + self.position, self.file.path.as_str())?;
        self.hasher.update(chunk);
        self.position += chunk.len() as u64;
        (self.progress)(chunk.len() as u64);
        Ok(())
    }

    /// Hashes what is left, which is padding, and compares.
    fn finish(mut self) -> Result<(), BundleError> {
        self.skim_to(self.file.length, Gap::Zeros)?;
        let (found, expected) = (self.hasher.finish(), self.file.digest);
        if found != expected {
            return Err(BundleError::DigestMismatch { what: self.file.path.to_string(), found, expected });
        }
        Ok(())
    }
}
