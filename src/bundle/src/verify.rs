//! Decides whether a bundle is authentic: one function for each step of FORMAT.md §8, in order.
//!
//! Nothing here is lenient and nothing is optional: a wrong signature by a pinned key refuses the bundle even if enough
//! others are right, and a signature by a key that is not pinned counts for nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::{BundleError, WeightHeaderError};
use crate::gguf::GgufHeader;
use crate::key::KeyId;
use crate::limits;
use crate::manifest::{Layer, LayerKind, WeightFormat, check_limit};
use crate::names::{BundleName, BundlePath, BundleVersion, Channel, Counter, Epoch};
use crate::safetensors::SafetensorsHeader;
use crate::sealed::SealedBundle;
use crate::source::{Source, read_exact_at};
use crate::statement::{CosignStatement, OmsStatement, Predicate, PredicateType, ReleaseStatement, Statement};
use crate::tensor::TensorInfo;
use crate::timestamp::Timestamp;
use crate::trust::{Role, TrustRoot};

/// A bundle whose signatures, small files and weight headers have been verified. It may not run yet: that is for
/// [`VerifiedBundle::admit`] to decide.
pub struct VerifiedBundle {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) identity: BundleIdentity,
    pub(crate) release: ReleaseStatement,
    pub(crate) files: BTreeMap<BundlePath, Vec<u8>>,
    pub(crate) weights: Vec<WeightFile>,
    pub(crate) root_version: u64,
    pub(crate) root_expires: Timestamp,
}

impl VerifiedBundle {
    /// Which bundle this is.
    #[must_use]
    pub fn identity(&self) -> &BundleIdentity {
        &self.identity
    }

    /// What its vendor states about it.
    #[must_use]
    pub fn release(&self) -> &ReleaseStatement {
        &self.release
    }

    /// The weight files, with verified and checked headers.
    #[must_use]
    pub fn weights(&self) -> &[WeightFile] {
        &self.weights
    }

    /// The verified small files.
    pub fn files(&self) -> impl Iterator<Item = (&BundlePath, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path, bytes.as_slice()))
    }
}

/// Which bundle this is, by verified statements alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleIdentity {
    /// Its name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
    /// Its monotonic number.
    pub counter: Counter,
    /// The key epoch of the counter.
    pub epoch: Epoch,
    /// Its release channel.
    pub channel: Channel,
    /// The digest of its manifest: the same digest is the same bundle.
    pub manifest: Digest,
    /// The pinned keys that signed the release statement, sorted.
    pub signers: Vec<KeyId>,
    /// When the release statement was made.
    pub issued_at: Timestamp,
    /// When it expires, if it does.
    pub expires: Option<Timestamp>,
    /// The digest of the trust root that it was verified against.
    pub root_digest: Digest,
}

/// A weight file whose header was verified and then checked.
#[derive(Debug, Clone)]
pub struct WeightFile {
    /// Its path.
    pub path: BundlePath,
    /// Its checked header.
    pub header: WeightHeader,
    /// Its length in bytes.
    pub length: u64,
    /// Its digest, against which loading checks the whole file.
    pub digest: Digest,
    /// Where its content starts in the bundle file.
    pub(crate) offset: u64,
    /// The header's bytes, verified; loading hashes these and does not read them again.
    pub(crate) header_bytes: Vec<u8>,
}

/// A checked header, by format.
#[derive(Debug, Clone)]
pub enum WeightHeader {
    /// Of a safetensors file.
    Safetensors(SafetensorsHeader),
    /// Of a GGUF file.
    Gguf(GgufHeader),
}

impl WeightHeader {
    /// The tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        match self {
            Self::Safetensors(header) => header.tensors(),
            Self::Gguf(header) => &header.tensors,
        }
    }

    /// The header's length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Safetensors(header) => header.length(),
            Self::Gguf(header) => header.length(),
        }
    }

    /// Reads and checks the header of a weight file that is not in a bundle yet; a sealer signs its length and digest.
    /// Returns the header and its bytes.
    ///
    /// # Errors
    /// [`BundleError::WeightHeader`] when it does not fit, [`BundleError::Io`] when it cannot be read.
    pub fn read(path: &BundlePath, format: WeightFormat, source: &dyn Source) -> Result<(Self, Vec<u8>), BundleError> {
        let what = path.as_str();
        let file_length = source.length().map_err(|source| BundleError::Io { what: what.to_owned(), source })?;
        let refuse = |defect| BundleError::WeightHeader { path: path.to_string(), defect };
        let wanted = match format {
            WeightFormat::Safetensors => {
                let mut prefix = vec![0; usize::try_from(file_length.min(8)).expect("at most 8")];
                read_exact_at(source, &mut prefix, 0, what)?;
                SafetensorsHeader::needed_bytes(&prefix).map_err(refuse)?
            }
            // A GGUF header does not say how long it is.
            WeightFormat::Gguf => limits::MAX_GGUF_HEADER_BYTES,
        };
        let mut bytes = vec![0; usize::try_from(wanted.min(file_length)).expect("the cap fits")];
        read_exact_at(source, &mut bytes, 0, what)?;
        let header = Self::parse(format, &bytes, file_length).map_err(refuse)?;
        bytes.truncate(usize::try_from(header.length()).expect("not longer than what was read"));
        Ok((header, bytes))
    }

    fn parse(format: WeightFormat, bytes: &[u8], file_length: u64) -> Result<Self, WeightHeaderError> {
        match format {
            WeightFormat::Safetensors => SafetensorsHeader::parse_prefix(bytes, file_length).map(Self::Safetensors),
            WeightFormat::Gguf => GgufHeader::parse_prefix(bytes, file_length).map(Self::Gguf),
        }
    }
}

/// FORMAT.md steps 7 to 16.
pub(crate) fn verify(bundle: SealedBundle, root: &TrustRoot) -> Result<VerifiedBundle, BundleError> {
    let signers = step_07_check_signatures(&bundle.attestations, root)?;
    let payloads = step_08_collect_payloads(&bundle.attestations)?;
    let release = step_09_read_release(&payloads, &bundle)?;
    let release_signers = step_10_count_signers(&release, &bundle.attestations, &signers, root)?;
    step_11_check_model_signing(&payloads, &bundle, &release)?;
    step_12_check_cosign(&payloads, &bundle)?;
    step_13_check_config(&bundle, &release)?;
    let files = step_14_read_small_files(&bundle, &release)?;
    let raw_headers = step_15_read_weight_headers(&bundle, &release)?;
    let weights = step_16_check_weight_headers(raw_headers)?;
    let identity = BundleIdentity {
        name: release.name.clone(),
        version: release.version.clone(),
        counter: release.counter,
        epoch: release.epoch,
        channel: release.channel.clone(),
        manifest: bundle.manifest.digest(),
        signers: release_signers,
        issued_at: release.issued_at,
        expires: release.expires,
        root_digest: root.digest(),
    };
    Ok(VerifiedBundle {
        source: bundle.source,
        identity,
        release,
        files,
        weights,
        root_version: root.version(),
        root_expires: root.expires(),
    })
}

/// For each statement, the pinned keys whose signatures on it are right.
type Signers = BTreeMap<Predicate, BTreeSet<KeyId>>;

/// Checks each signature whose hint names a pinned key. A hint that names no pinned key counts for nothing.
fn step_07_check_signatures(attestations: &[Attestation], root: &TrustRoot) -> Result<Signers, BundleError> {
    let mut signers = Signers::new();
    for attestation in attestations {
        let Some(key) = root.key(attestation.key()) else { continue };
        if !attestation.is_signed_by(key) {
            return Err(BundleError::BadSignature { key: key.id(), statement: attestation.predicate().name() });
        }
        signers.entry(attestation.predicate()).or_default().insert(key.id());
    }
    // Nothing of a payload is read before a pinned key has signed it.
    for predicate in [Predicate::Release, Predicate::ModelSigning] {
        if !signers.contains_key(&predicate) {
            return Err(unsigned(predicate, attestations, Role::Release, 0, 1));
        }
    }
    Ok(signers)
}

/// The refusal when too few pinned keys signed a statement, or nobody did.
fn unsigned(
    predicate: Predicate,
    attestations: &[Attestation],
    role: Role,
    found: usize,
    required: usize,
) -> BundleError {
    let named: BTreeSet<String> = attestations
        .iter()
        .filter(|attestation| attestation.predicate() == predicate)
        .map(|attestation| attestation.key().to_string())
        .collect();
    if named.is_empty() {
        return BundleError::MissingStatement { statement: predicate.name() };
    }
    let named = named.into_iter().collect::<Vec<_>>().join(", ");
    BundleError::TooFewSignatures { statement: predicate.name(), role: role.name(), found, required, named }
}

/// The payload of each statement.
type Payloads<'a> = BTreeMap<Predicate, &'a [u8]>;

/// All attestations of one statement carry identical bytes, so that every signature counts for the same thing.
fn step_08_collect_payloads(attestations: &[Attestation]) -> Result<Payloads<'_>, BundleError> {
    let mut payloads = Payloads::new();
    for attestation in attestations {
        let first = *payloads.entry(attestation.predicate()).or_insert(attestation.payload());
        if first != attestation.payload() {
            return Err(BundleError::DifferingStatements { statement: attestation.predicate().name() });
        }
    }
    Ok(payloads)
}

/// Reads the release statement and checks that it is about this manifest and this format.
fn step_09_read_release(payloads: &Payloads<'_>, bundle: &SealedBundle) -> Result<ReleaseStatement, BundleError> {
    let statement: Statement<ReleaseStatement> = read_statement(payloads)?;
    check_subject(&statement, bundle.manifest.digest())?;
    let release = statement.predicate;
    agree(
        "the bundle's name",
        "the statement's subject",
        &statement.subject_name,
        "the release statement",
        &release.name,
    )?;
    if release.format_version != limits::FORMAT_VERSION {
        let found = release.format_version.to_string();
        return Err(BundleError::UnsupportedFormat { found, supported: limits::FORMAT_VERSION });
    }
    Ok(release)
}

/// The release statement is signed by a threshold of the role that may sign it, and the model signing statement by at
/// least one key of that role. A vendor's `release` keys sign anything; a customer's `site` keys sign adapters only.
fn step_10_count_signers(
    release: &ReleaseStatement,
    attestations: &[Attestation],
    signers: &Signers,
    root: &TrustRoot,
) -> Result<Vec<KeyId>, BundleError> {
    let roles: &[Role] = if release.adapter.is_some() { &[Role::Release, Role::Site] } else { &[Role::Release] };
    let mut refusal = None;
    for &role in roles {
        match count_role(role, attestations, signers, root) {
            Ok(release_signers) => return Ok(release_signers),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.expect("at least one role is tried"))
}

fn count_role(
    role: Role,
    attestations: &[Attestation],
    signers: &Signers,
    root: &TrustRoot,
) -> Result<Vec<KeyId>, BundleError> {
    let (members, threshold) = match root.role(role) {
        Some(keys) => (keys.keyids.clone(), keys.threshold),
        None => (BTreeSet::new(), 1),
    };
    let mut release_signers = Vec::new();
    for (predicate, required) in [(Predicate::ModelSigning, 1), (Predicate::Release, threshold)] {
        let signed = signers.get(&predicate).cloned().unwrap_or_default();
        release_signers = signed.intersection(&members).copied().collect();
        if release_signers.len() < required {
            return Err(unsigned(predicate, attestations, role, release_signers.len(), required));
        }
    }
    Ok(release_signers)
}

/// The model signing statement lists exactly the manifest's layers, and its root is the one that the release names.
fn step_11_check_model_signing(
    payloads: &Payloads<'_>,
    bundle: &SealedBundle,
    release: &ReleaseStatement,
) -> Result<(), BundleError> {
    let statement: Statement<OmsStatement> = read_statement(payloads)?;
    let expected = OmsStatement::about(&release.name, bundle.manifest.layers());
    let (found_files, expected_files) = (&statement.predicate.resources, &expected.predicate.resources);
    for (found, expected) in found_files.iter().zip(expected_files) {
        let describe = |path: &BundlePath, digest: &Digest| format!("{path} {digest}");
        agree(
            "the files of the bundle",
            "the model signing statement",
            &describe(&found.name, &found.digest),
            "the manifest",
            &describe(&expected.name, &expected.digest),
        )?;
    }
    agree(
        "the number of files",
        "the model signing statement",
        &found_files.len(),
        "the manifest",
        &expected_files.len(),
    )?;
    if statement.predicate.serialization != expected.predicate.serialization {
        return Err(crate::manifest::wrong_field(
            "model signing statement",
            "serialization",
            "another one",
            "method files, hash_type sha256, allow_symlinks false",
        ));
    }
    check_subject(&statement, expected.subject)?;
    agree("the root over all files", "the release statement", &release.oms_root, "the manifest", &expected.subject)?;
    agree(
        "the bundle's name",
        "the model signing statement",
        &statement.subject_name,
        "the release statement",
        &release.name,
    )
}

/// A cosign statement, if there is one, is about this manifest. It never suffices.
fn step_12_check_cosign(payloads: &Payloads<'_>, bundle: &SealedBundle) -> Result<(), BundleError> {
    if !payloads.contains_key(&Predicate::Cosign) {
        return Ok(());
    }
    let statement: Statement<CosignStatement> = read_statement(payloads)?;
    check_subject(&statement, bundle.manifest.digest())
}

/// The ModelPack config says the same name, version and layers as what is signed.
fn step_13_check_config(bundle: &SealedBundle, release: &ReleaseStatement) -> Result<(), BundleError> {
    let descriptor = &bundle.config.descriptor;
    let (config, statement) = ("the model config", "the release statement");
    agree("the bundle's name", config, &descriptor.name, statement, &release.name)?;
    agree("the bundle's version", config, &descriptor.version, statement, &release.version)?;
    let diff_ids = &bundle.config.modelfs.diff_ids;
    let layers = bundle.manifest.layers();
    agree("the number of layers", config, &diff_ids.len(), "the manifest", &layers.len())?;
    for (diff_id, layer) in diff_ids.iter().zip(layers) {
        agree(&format!("the digest of `{}`", layer.path), config, diff_id, "the manifest", &layer.digest)?;
    }
    Ok(())
}

/// Reads every file that is not a weight and checks its digest; those that the release refers to are among them.
fn step_14_read_small_files(
    bundle: &SealedBundle,
    release: &ReleaseStatement,
) -> Result<BTreeMap<BundlePath, Vec<u8>>, BundleError> {
    let mut files = BTreeMap::new();
    for (index, layer) in bundle.manifest.layers().iter().enumerate() {
        if layer.kind == LayerKind::Weight {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(layer.size).expect("the limit fits")];
        read_exact_at(&*bundle.source, &mut bytes, bundle.layout.layer_offset(index), layer.path.as_str())?;
        check_digest(layer.path.as_str(), Digest::of(&bytes), layer.digest)?;
        files.insert(layer.path.clone(), bytes);
    }
    check_references(release, &files)?;
    Ok(files)
}

/// Sealed files that the release statement refers to are there.
fn check_references(release: &ReleaseStatement, files: &BTreeMap<BundlePath, Vec<u8>>) -> Result<(), BundleError> {
    let references = [("settings schema", &release.settings_schema), ("reference profile", &release.reference_profile)];
    for (what, path) in references {
        if let Some(path) = path
            && !files.contains_key(path)
        {
            return Err(BundleError::Disagreement {
                what: format!("the {what}"),
                left_name: "the release statement",
                left: path.to_string(),
                right_name: "the manifest",
                right: "no such file".to_owned(),
            });
        }
    }
    Ok(())
}

/// A weight layer with the bytes of its header, verified and not parsed yet.
struct RawHeader<'a> {
    layer: &'a Layer,
    offset: u64,
    bytes: Vec<u8>,
}

/// Reads each weight file's header by the length that the release statement gives and checks its digest.
fn step_15_read_weight_headers<'a>(
    bundle: &'a SealedBundle,
    release: &ReleaseStatement,
) -> Result<Vec<RawHeader<'a>>, BundleError> {
    let layers: Vec<(usize, &Layer)> =
        bundle.manifest.layers().iter().enumerate().filter(|(_, layer)| layer.kind == LayerKind::Weight).collect();
    let (statement, manifest) = ("the release statement", "the manifest");
    agree("the number of weight files", statement, &release.weights.len(), manifest, &layers.len())?;
    let mut headers = Vec::new();
    for (&(index, layer), signed) in layers.iter().zip(&release.weights) {
        agree("the weight files", statement, &signed.path, manifest, &layer.path)?;
        let limit = match WeightFormat::of_path(&layer.path) {
            Some(WeightFormat::Safetensors) => limits::MAX_SAFETENSORS_HEADER_BYTES + 8,
            Some(WeightFormat::Gguf) | None => limits::MAX_GGUF_HEADER_BYTES,
        };
        let what = format!("the header of `{}`", layer.path);
        check_limit(&format!("the length in bytes of {what}"), signed.header_length, limit.min(layer.size))?;
        let mut bytes = vec![0; usize::try_from(signed.header_length).expect("the limit fits")];
        let offset = bundle.layout.layer_offset(index);
        read_exact_at(&*bundle.source, &mut bytes, offset, &what)?;
        check_digest(&what, Digest::of(&bytes), signed.header_digest)?;
        headers.push(RawHeader { layer, offset, bytes });
    }
    Ok(headers)
}

/// Parses the verified headers with this crate's checked parsers, before any model code sees them.
fn step_16_check_weight_headers(headers: Vec<RawHeader<'_>>) -> Result<Vec<WeightFile>, BundleError> {
    let mut weights = Vec::with_capacity(headers.len());
    let mut owners: HashMap<String, String> = HashMap::new();
    for RawHeader { layer, offset, bytes } in headers {
        let path = layer.path.to_string();
        let refuse = |defect| BundleError::WeightHeader { path: path.clone(), defect };
        let format = WeightFormat::of_path(&layer.path)
            .ok_or_else(|| BundleError::UnknownWeightFormat { path: layer.path.to_string() })?;
        let header = WeightHeader::parse(format, &bytes, layer.size).map_err(refuse)?;
        if header.length() != bytes.len() as u64 {
            return Err(refuse(WeightHeaderError::Length { found: header.length(), expected: bytes.len() as u64 }));
        }
        for tensor in header.tensors() {
            if let Some(first) = owners.insert(tensor.name.clone(), path.clone()) {
                return Err(BundleError::RepeatedTensor {
                    tensor: crate::digest::shorten(&tensor.name),
                    first,
                    second: path,
                });
            }
        }
        weights.push(WeightFile {
            path: layer.path.clone(),
            header,
            length: layer.size,
            digest: layer.digest,
            offset,
            header_bytes: bytes,
        });
    }
    Ok(weights)
}

fn read_statement<P>(payloads: &Payloads<'_>) -> Result<Statement<P>, BundleError>
where
    P: PredicateType + serde::Serialize + serde::de::DeserializeOwned,
{
    let payload =
        payloads.get(&P::PREDICATE).ok_or(BundleError::MissingStatement { statement: P::PREDICATE.name() })?;
    Statement::parse(payload)
}

fn check_subject<P: PredicateType>(statement: &Statement<P>, expected: Digest) -> Result<(), BundleError> {
    if statement.subject != expected {
        return Err(BundleError::WrongSubject { statement: P::PREDICATE.name(), found: statement.subject, expected });
    }
    Ok(())
}

fn check_digest(what: &str, found: Digest, expected: Digest) -> Result<(), BundleError> {
    if found != expected {
        return Err(BundleError::DigestMismatch { what: what.to_owned(), found, expected });
    }
    Ok(())
}

/// Compares two values that must agree and names both when they do not.
fn agree(
    what: &str,
    left_name: &'static str,
    left: &impl ToString,
    right_name: &'static str,
    right: &impl ToString,
) -> Result<(), BundleError> {
    let (left, right) = (left.to_string(), right.to_string());
    if left != right {
        return Err(BundleError::Disagreement { what: what.to_owned(), left_name, left, right_name, right });
    }
    Ok(())
}
