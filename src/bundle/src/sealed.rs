//! A bundle that has been opened: well-formed, in canonical form, and trusted in nothing yet.

use std::io::Write;
use std::sync::Arc;

use crate::archive::{Layout, Parts, copy_checked, read_parts, step_06_compare_with_layout};
use crate::attestation::Attestation;
use crate::claims::Claims;
use crate::config::ModelConfig;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::manifest::Manifest;
use crate::source::{Excerpt, Source};
use crate::statement::{Predicate, ReleaseStatement, Statement};
use crate::trust::TrustRoot;
use crate::verified::VerifiedBundle;
use crate::verify;

/// An opened bundle. Its only way on is [`SealedBundle::verify`]. A clone reads from the same open source.
#[derive(Clone)]
pub struct SealedBundle {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) manifest: Manifest,
    pub(crate) attestations: Vec<Attestation>,
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
}

impl SealedBundle {
    /// Opens a bundle: FORMAT.md steps 1 to 6. Reads everything but the layers' contents, within the format's limits.
    ///
    /// # Errors
    /// [`BundleError`] when the file is no bundle or differs in any byte from its canonical form.
    pub fn open(source: impl Source + 'static) -> Result<Self, BundleError> {
        let source: Arc<dyn Source> = Arc::new(source);
        let length = step_01_measure(&*source)?;
        // Steps 2 to 5.
        let Parts { manifest, config, attestations } = read_parts(&*source, length)?;
        let parsed_config = ModelConfig::parse(&config)?;
        let layout = Layout::derive(&manifest, &config, &attestations)?;
        step_06_compare_with_layout(&*source, length, layout.form())?;
        Ok(Self { source, manifest, attestations, config: parsed_config, layout })
    }

    /// Verifies the bundle against the pinned keys: FORMAT.md steps 7 to 16. There is no lenient mode.
    ///
    /// # Errors
    /// [`BundleError`] at the first step that fails.
    pub fn verify(self, root: &TrustRoot) -> Result<VerifiedBundle, BundleError> {
        verify::verify(self, root)
    }

    /// The digest of this file's `index.json`. It names the manifest and every attestation by digest, and in canonical form
    /// all other bytes follow from these: two bundle files with one content digest are the same file, byte for byte, once
    /// their layers have been held against the manifest. (The manifest's own digest stays the same when only the
    /// statements about it change.)
    #[must_use]
    pub fn content_digest(&self) -> Digest {
        self.layout.index_digest()
    }

    /// Copies the content of the manifest's layer `index` to `out` and checks its digest on the way, for export.
    ///
    /// # Errors
    /// [`BundleError::DigestMismatch`] when what was copied is not what the manifest names; [`BundleError::Io`] and
    /// [`BundleError::Write`].
    ///
    /// # Panics
    /// If the manifest has no layer `index`.
    pub fn copy_layer(&self, index: usize, out: &mut dyn Write) -> Result<(), BundleError> {
        let layer = &self.manifest.layers()[index];
        let start = self.layout.layer_offset(index);
        copy_checked(layer.path.as_str(), layer.digest, layer.size, &*self.source, start, out)
    }

    /// The content of the manifest's layer `index`, as it lies in the bundle. CAUTION: nothing holds it against its digest
    /// but whoever writes it into another bundle.
    ///
    /// # Panics
    /// If the manifest has no layer `index`.
    #[must_use]
    pub fn layer(&self, index: usize) -> impl Source + use<> {
        let (start, length) = (self.layout.layer_offset(index), self.manifest.layers()[index].size);
        Excerpt { source: Arc::clone(&self.source), start, length }
    }

    /// What the file says about itself. CAUTION: unverified; for `inspect` and messages only.
    #[must_use]
    pub fn claims(&self) -> Claims<'_> {
        Claims::of(self)
    }

    /// What the release statement claims. CAUTION: unverified; for `inspect` and messages only.
    ///
    /// # Errors
    /// When there is no release statement, or it is malformed.
    pub fn unverified_release(&self) -> Result<ReleaseStatement, BundleError> {
        let attestation = self.attestations.iter().find(|attestation| attestation.predicate() == Predicate::Release);
        let attestation = attestation.ok_or(BundleError::MissingStatement { statement: Predicate::Release.name() })?;
        Ok(Statement::parse(attestation.payload())?.predicate)
    }

    /// The manifest. CAUTION: unverified; for `inspect` and messages only.
    #[must_use]
    pub fn unverified_manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ModelPack config. CAUTION: unverified; for `inspect` and messages only.
    #[must_use]
    pub fn unverified_config(&self) -> &ModelConfig {
        &self.config
    }

    /// All that the bundle is made of but the contents of its layers. CAUTION: unverified; for keeping it elsewhere.
    #[must_use]
    pub fn unverified_parts(&self) -> Parts {
        // The config was read in its one spelling.
        let config = self.config.to_bytes();
        Parts { manifest: self.manifest.clone(), config, attestations: self.attestations.clone() }
    }

    /// The attestations. CAUTION: unverified; for `inspect`, export and messages only.
    #[must_use]
    pub fn unverified_attestations(&self) -> &[Attestation] {
        &self.attestations
    }
}

/// The length is asked once; every later read is checked against it.
fn step_01_measure(source: &dyn Source) -> Result<u64, BundleError> {
    source.length().map_err(|source| BundleError::Io { what: "the bundle's length".to_owned(), source })
}
