//! Finds the free pieces of a `.bundle` file and compares the rest with what they imply.
//!
//! The reader walks from header to header only through the part that is small and bounded. Each header is generated anew
//! from the name and the size in it and compared, so there is no second way to read one.

use super::layout::{Form, Piece, blob_name};
use super::{Entry, index, tar, thin};
use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::limits;
use crate::manifest::{Manifest, check_limit};
use crate::source::{Source, read_exact_at};

/// What is free in a bundle beside the contents of its layers; nothing in it is trusted yet.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The model manifest.
    pub manifest: Manifest,
    /// The ModelPack config's bytes.
    pub config: Vec<u8>,
    /// The attestations.
    pub attestations: Vec<Attestation>,
}

/// FORMAT.md steps 2 to 5: reads manifest, attestations and config.
pub(crate) fn read_parts(source: &dyn Source, length: u64) -> Result<Parts, BundleError> {
    let mut walker = Walker::new(source, length);
    step_02_read_layout_files(&mut walker)?;
    let manifest = step_03_read_manifest(&mut walker)?;
    let attestations = step_04_read_attestations(&mut walker)?;
    let config = step_05_read_config(&mut walker)?;
    Ok(Parts { manifest, config, attestations })
}

/// The layout's two files; what they say is compared later.
fn step_02_read_layout_files(walker: &mut Walker<'_>) -> Result<(), BundleError> {
    if !walker.begins_with(b"oci-layout\0")? {
        let is_thin = walker.begins_with(thin::FIRST_BYTES)?;
        return Err(if is_thin { BundleError::ThinBundle } else { BundleError::NotABundle });
    }
    walker.named("oci-layout", limits::MAX_INDEX_BYTES)?;
    walker.named("index.json", limits::MAX_INDEX_BYTES)?;
    Ok(())
}

fn step_03_read_manifest(walker: &mut Walker<'_>) -> Result<Manifest, BundleError> {
    Manifest::parse(walker.blob("the model manifest", limits::MAX_MANIFEST_BYTES)?)
}

/// The two indexes, which are compared later, then pairs up to the empty config.
fn step_04_read_attestations(walker: &mut Walker<'_>) -> Result<Vec<Attestation>, BundleError> {
    walker.blob("the index `bundle`", limits::MAX_INDEX_BYTES)?;
    walker.blob("the index of attestations", limits::MAX_INDEX_BYTES)?;
    let end = blob_name(Digest::of(index::EMPTY_CONFIG));
    let mut attestations = Vec::new();
    let mut total = 0u64;
    while walker.peek_name()? != end {
        check_limit("the number of attestations", attestations.len() as u64 + 1, limits::MAX_ATTESTATIONS as u64)?;
        walker.blob("the manifest of an attestation", limits::MAX_REFERRER_BYTES)?;
        let bytes = walker.blob("an attestation", limits::MAX_ATTESTATION_BYTES)?;
        total += bytes.len() as u64;
        check_limit("the length in bytes of all attestations", total, limits::MAX_ATTESTATIONS_TOTAL_BYTES)?;
        attestations.push(Attestation::parse(&format!("attestation {}", attestations.len() + 1), bytes)?);
    }
    Ok(attestations)
}

fn step_05_read_config(walker: &mut Walker<'_>) -> Result<Vec<u8>, BundleError> {
    walker.blob("the empty config", limits::MAX_INDEX_BYTES)?;
    walker.blob("the model config", limits::MAX_CONFIG_BYTES)
}

/// Every byte that is not a layer's content is the one that the form gives, and the file has exactly
/// the form's length.
pub(crate) fn step_06_compare_with_layout(source: &dyn Source, length: u64, form: &Form) -> Result<(), BundleError> {
    let mut buffer = Vec::new();
    for piece in &form.pieces {
        let Piece::Fixed { offset, what, bytes } = piece else { continue };
        let needed = offset + bytes.len() as u64;
        if needed > length {
            return Err(BundleError::Truncated { what: (*what).to_owned(), needed, length });
        }
        buffer.resize(bytes.len(), 0);
        read_exact_at(source, &mut buffer, *offset, what)?;
        if buffer != *bytes {
            let position = buffer.iter().zip(bytes).take_while(|(found, expected)| found == expected).count();
            return Err(BundleError::NotCanonical { offset: offset + position as u64, what: (*what).to_owned() });
        }
    }
    if length != form.length {
        return Err(BundleError::TrailingBytes { found: length, expected: form.length });
    }
    Ok(())
}

/// Walks from entry to entry.
pub(super) struct Walker<'a> {
    source: &'a dyn Source,
    length: u64,
    offset: u64,
}

impl<'a> Walker<'a> {
    pub(super) fn new(source: &'a dyn Source, length: u64) -> Self {
        Self { source, length, offset: 0 }
    }

    /// Whether the file begins with these bytes.
    pub(super) fn begins_with(&self, expected: &[u8]) -> Result<bool, BundleError> {
        if self.length < expected.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; expected.len()];
        read_exact_at(self.source, &mut found, 0, "the first tar header")?;
        Ok(found == expected)
    }

    /// The name in the header at the current offset.
    fn peek_name(&self) -> Result<String, BundleError> {
        Ok(self.header()?.0.name)
    }

    /// Reads the entry that must have this name.
    pub(super) fn named(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
        let (entry, bytes) = self.entry(&format!("`{name}`"), limit)?;
        if entry.name != name {
            return Err(self.unexpected(&entry, &format!("`{name}`")));
        }
        self.advance(&entry);
        Ok(bytes)
    }

    /// Reads the entry that must be a blob named by its own digest.
    pub(super) fn blob(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
        let (entry, bytes) = self.entry(what, limit)?;
        let Some(expected) = entry.name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok()) else {
            return Err(self.unexpected(&entry, &format!("{what} (`blobs/sha256/<digest>`)")));
        };
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(BundleError::DigestMismatch { what: what.to_owned(), found, expected });
        }
        self.advance(&entry);
        Ok(bytes)
    }

    fn entry(&self, what: &str, limit: u64) -> Result<(Entry, Vec<u8>), BundleError> {
        let (entry, header) = self.header()?;
        check_limit(&format!("the length in bytes of {what}"), entry.size, limit)?;
        let generated = tar::file_header(&entry);
        if header != generated {
            let position = header.iter().zip(&generated).take_while(|(found, expected)| found == expected).count();
            return Err(BundleError::NotCanonical {
                offset: self.offset + position as u64,
                what: format!("the tar header of {what}"),
            });
        }
        let start = self.offset + tar::BLOCK;
        let needed = start + entry.size;
        if needed > self.length {
            return Err(BundleError::Truncated { what: what.to_owned(), needed, length: self.length });
        }
        let mut bytes = vec![0; usize::try_from(entry.size).expect("the limit fits")];
        read_exact_at(self.source, &mut bytes, start, what)?;
        Ok((entry, bytes))
    }

    /// The header at the current offset, with the name and the size that it holds.
    fn header(&self) -> Result<(Entry, [u8; 512]), BundleError> {
        let needed = self.offset + tar::BLOCK;
        if needed > self.length {
            return Err(BundleError::Truncated { what: "a tar header".to_owned(), needed, length: self.length });
        }
        let mut block = [0; 512];
        read_exact_at(self.source, &mut block, self.offset, "a tar header")?;
        let refuse = |position: u64, what: &str| BundleError::NotCanonical {
            offset: self.offset + position,
            what: format!("a tar header's {what}"),
        };
        let end = block[..100].iter().position(|&byte| byte == 0).ok_or_else(|| refuse(0, "name"))?;
        let name = std::str::from_utf8(&block[..end]).map_err(|_| refuse(0, "name"))?.to_owned();
        let size = std::str::from_utf8(&block[124..135])
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| u64::from_str_radix(text, 8).ok())
            .ok_or_else(|| refuse(124, "size"))?;
        Ok((Entry { name, size }, block))
    }

    fn advance(&mut self, entry: &Entry) {
        self.offset += tar::BLOCK + entry.size + tar::padding_after(entry.size);
    }

    fn unexpected(&self, entry: &Entry, expected: &str) -> BundleError {
        BundleError::UnexpectedEntry {
            offset: self.offset,
            found: crate::digest::shorten(&entry.name),
            expected: expected.to_owned(),
        }
    }
}
