//! What a bundle says about itself before anything of it is verified: for `inspect`, as lines for a person and as JSON.

use std::fmt;

use serde::Serialize;

use crate::config::ModelConfig;
use crate::digest::Digest;
use crate::key::KeyId;
use crate::names::BundlePath;
use crate::sealed::SealedBundle;
use crate::statement::{BundleKind, ReleaseStatement};

/// A bundle's own words. Nothing of them is verified, and whoever shows them must say so. `release` and `config` are
/// the documents themselves, in the format's spelling.
#[derive(Debug, Serialize)]
pub struct Claims<'a> {
    manifest: Digest,
    /// `model` or `adapter`; `null` without the release statement, which says so.
    kind: Option<&'static str>,
    /// For an adapter, the manifest of the base that it belongs to.
    base: Option<Digest>,
    /// Absent when there is no release statement or it is malformed.
    release: Option<ReleaseStatement>,
    config: &'a ModelConfig,
    attestations: Vec<ClaimedAttestation>,
    files: Vec<ClaimedFile<'a>>,
}

#[derive(Debug, Serialize)]
struct ClaimedAttestation {
    statement: &'static str,
    predicate_type: &'static str,
    key: KeyId,
    /// Whether the key came in a certificate chain.
    certified: bool,
}

#[derive(Debug, Serialize)]
struct ClaimedFile<'a> {
    path: &'a BundlePath,
    bytes: u64,
    digest: Digest,
    media_type: &'static str,
}

impl<'a> Claims<'a> {
    pub(crate) fn of(sealed: &'a SealedBundle) -> Self {
        let manifest = sealed.unverified_manifest();
        let attestations = sealed.unverified_attestations().iter().map(|attestation| ClaimedAttestation {
            statement: attestation.predicate().name(),
            predicate_type: attestation.predicate().uri(),
            key: attestation.key(),
            certified: !attestation.certificates().is_empty(),
        });
        let files = manifest.layers().iter().map(|layer| ClaimedFile {
            path: &layer.path,
            bytes: layer.size,
            digest: layer.digest,
            media_type: layer.kind.media_type(manifest.is_encrypted()),
        });
        let release = sealed.unverified_release().ok();
        let kind = release.as_ref().map(ReleaseStatement::kind);
        Self {
            manifest: manifest.digest(),
            kind: kind.map(BundleKind::name),
            base: kind.and_then(BundleKind::base),
            release,
            config: sealed.unverified_config(),
            attestations: attestations.collect(),
            files: files.collect(),
        }
    }
}

/// Labelled lines, each with its line end.
impl fmt::Display for Claims<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.release {
            None => writeln!(out, "no readable release statement")?,
            Some(release) => {
                writeln!(out, "bundle      {} {}", release.name, release.version)?;
                writeln!(out, "kind        {}", release.kind())?;
                writeln!(
                    out,
                    "numbers     channel {}, counter {}, epoch {}",
                    release.channel, release.counter, release.epoch
                )?;
                writeln!(out, "issued      {}", release.issued_at)?;
                if let Some(time) = release.not_before {
                    writeln!(out, "not before  {time}")?;
                }
                match release.expires {
                    Some(time) => writeln!(out, "expires     {time}")?,
                    None => writeln!(out, "expires     never")?,
                }
                write!(out, "runtime     {} or later", release.requires.runtime.min)?;
                match &release.requires.runtime.below {
                    Some(below) => writeln!(out, ", below {below}")?,
                    None => writeln!(out)?,
                }
                if let Some(encryption) = &release.encryption {
                    writeln!(out, "encryption  {}", encryption.scheme)?;
                    for recipient in &encryption.recipients {
                        writeln!(out, "recipient   {recipient}")?;
                    }
                }
            }
        }
        writeln!(out, "manifest    {}", self.manifest)?;
        for attestation in &self.attestations {
            let certified = if attestation.certified { ", with a certificate chain" } else { "" };
            writeln!(out, "signature   {} by key {}{certified}", attestation.statement, attestation.key)?;
        }
        for file in &self.files {
            writeln!(out, "file        {:>14} bytes  {}  {}", file.bytes, file.digest, file.path)?;
        }
        Ok(())
    }
}
