//! Decides whether a bundle is authentic: one function for each step of FORMAT.md §8, in order.
//!
//! Nothing here is lenient and nothing is optional: a wrong signature by a pinned key refuses the bundle even if enough
//! others are right, and a signature by a key that is not pinned counts for nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::attestation::Attestation;
use crate::certificate::{Certificate, Validity};
use crate::digest::{Digest, printable, shorten};
use crate::error::{BundleError, MaySign, WeightHeaderError};
use crate::key::{KeyId, PublicKey};
use crate::limits;
use crate::manifest::{Layer, LayerKind, WeightFormat, check_limit, wrong_field};
use crate::names::BundlePath;
use crate::sealed::SealedBundle;
use crate::settings::SettingsSchema;
use crate::source::read_exact_at;
use crate::statement::{
    AdapterBinding, CosignStatement, KnownAnswers, OmsSerialization, OmsStatement, Predicate, PredicateType,
    ReleaseStatement, Statement,
};
use crate::timestamp::Timestamp;
use crate::trust::{RevocationList, Role, TrustRoot};
use crate::unlock::{Decryption, Locked};
use crate::verified::{BundleIdentity, VerifiedBundle, Voucher, Vouchers};
use crate::weights::{WeightFile, WeightHeader};

/// FORMAT.md steps 7 to 16; of an encrypted bundle as far as they need no key.
pub(crate) fn verify(bundle: SealedBundle, root: &TrustRoot) -> Result<VerifiedBundle, BundleError> {
    let encrypted = bundle.manifest.is_encrypted();
    let signers = step_07_check_signatures(&bundle, root)?;
    let payloads = step_08_collect_payloads(&bundle.attestations)?;
    let release = step_09_read_release(&payloads, &bundle)?;
    let vouchers = step_10_count_signers(&release, &bundle.attestations, &signers, root, encrypted)?;
    step_11_check_model_signing(&payloads, &bundle, &release)?;
    step_12_check_cosign(&payloads, &bundle)?;
    step_13_check_config(&bundle, &release)?;
    let files = step_14_read_small_files(&bundle, &release)?;
    let raw_headers = step_15_read_weight_headers(&bundle, &release)?;
    let (files, weights, locked) = if encrypted {
        (BTreeMap::new(), Vec::new(), Some(Locked { files, headers: raw_headers }))
    } else {
        check_settings(&release, &files)?;
        (files, step_16_check_weight_headers(raw_headers)?, None)
    };
    let identity = BundleIdentity {
        name: release.name.clone(),
        version: release.version.clone(),
        counter: release.counter,
        epoch: release.epoch,
        channel: release.channel.clone(),
        manifest: bundle.manifest.digest(),
        signers: vouchers.release_signers.iter().map(|voucher| voucher.entry).collect(),
        kind: release.kind(),
        issued_at: release.issued_at,
        expires: release.expires,
        root_digest: root.digest(),
        root_version: root.version(),
        revocation_version: root.revocations().map_or(0, RevocationList::version),
    };
    Ok(VerifiedBundle {
        source: bundle.source,
        identity,
        release,
        vouchers,
        adapter_binding: AdapterBinding::to(&bundle.manifest),
        files,
        weights,
        locked,
        decryption: Decryption::Failed { tried: Vec::new() },
        root: root.clone(),
    })
}

/// For each statement the keys whose signatures on it are right, and for each of them what the root pins it by: the key
/// itself or an authority. Where that is an authority, its word holds for a time.
type Signers = BTreeMap<Predicate, BTreeMap<KeyId, Pinned>>;
type Pinned = BTreeMap<KeyId, Option<Validity>>;

/// Checks each signature by a key that counts: one that is pinned, or that a pinned authority certifies. Others count for
/// nothing, and so does what was revoked. A bundle that was revoked itself is refused whoever signed it. An encrypted bundle
/// has its model signing statement inside, and must not have a readable one.
fn step_07_check_signatures(bundle: &SealedBundle, root: &TrustRoot) -> Result<Signers, BundleError> {
    let manifest = bundle.manifest.digest();
    if let Some(list) = root.revocations().filter(|list| list.has_manifest(manifest)) {
        return Err(BundleError::RevokedManifest { manifest, version: list.version() });
    }
    let attestations = &bundle.attestations;
    let encrypted = bundle.manifest.is_encrypted();
    let is_model_signing = |attestation: &Attestation| attestation.predicate() == Predicate::ModelSigning;
    if encrypted && attestations.iter().any(is_model_signing) {
        return Err(BundleError::ReadableModelSigning);
    }
    let mut signers = Signers::new();
    for attestation in attestations {
        let pinned = pinned_by(attestation, root)?;
        let Some(key) = signing_key(attestation, root).filter(|_| !pinned.is_empty()) else { continue };
        if !attestation.is_signed_by(key) {
            return Err(BundleError::BadSignature { key: key.id(), statement: attestation.predicate().name() });
        }
        let known = signers.entry(attestation.predicate()).or_default().entry(key.id()).or_default();
        for (entry, validity) in pinned {
            // One key may come with several certificates of one authority.
            let longest = known.get(&entry).copied().into_iter().chain([validity]).max_by_key(last);
            known.insert(entry, longest.flatten());
        }
    }
    // Nothing of a payload is read before a pinned key has signed it.
    let required = if encrypted { &[Predicate::Release][..] } else { &[Predicate::Release, Predicate::ModelSigning] };
    for &predicate in required {
        if !signers.contains_key(&predicate) {
            let required = match predicate {
                Predicate::Release => root.role(Role::Release).map_or(1, |keys| keys.threshold),
                _ => 1,
            };
            return Err(unsigned(predicate, attestations, MaySign::Unread, Role::Release, root, 0, required));
        }
    }
    Ok(signers)
}

/// What the root pins the attestation's key by.
fn pinned_by(attestation: &Attestation, root: &TrustRoot) -> Result<Pinned, BundleError> {
    let id = attestation.key();
    if root.has_revoked(id) {
        return Ok(Pinned::new());
    }
    let mut pinned: Pinned = root.key(id).map(|_| (id, None)).into_iter().collect();
    let mut refusal = None;
    for authority in root.authorities().filter(|authority| !root.has_revoked(authority.id())) {
        match authority.vouches_for(attestation.certificates()) {
            Ok(Some(validity)) => {
                pinned.insert(authority.id(), Some(validity));
            }
            Ok(None) => {}
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match refusal {
        Some(error) if pinned.is_empty() => Err(error),
        _ => Ok(pinned),
    }
}

/// The last second of a validity; of two that end together the one that begins first is the longer.
fn last(validity: &Option<Validity>) -> Option<(Timestamp, Reverse<Timestamp>)> {
    validity.map(|validity| (validity.not_after, Reverse(validity.not_before)))
}

/// The refusal when too few pinned keys signed a statement, or nobody did.
fn unsigned(
    predicate: Predicate,
    attestations: &[Attestation],
    may_sign: MaySign,
    role: Role,
    root: &TrustRoot,
    found: usize,
    required: usize,
) -> BundleError {
    let name = |key: KeyId| if root.has_revoked(key) { format!("{key} (revoked)") } else { key.to_string() };
    let named: BTreeSet<String> = attestations
        .iter()
        .filter(|attestation| attestation.predicate() == predicate)
        .map(|attestation| name(attestation.key()))
        .collect();
    if named.is_empty() {
        return BundleError::MissingStatement { statement: predicate.name() };
    }
    let named = named.into_iter().collect::<Vec<_>>().join(", ");
    BundleError::TooFewSignatures { statement: predicate.name(), role: role.name(), found, required, named, may_sign }
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
    let tokens = release.known_answers.as_ref().map_or(0, KnownAnswers::tokens);
    check_limit("the number of tokens of all known answers", tokens, limits::MAX_KNOWN_ANSWER_TOKENS)?;
    Ok(release)
}

/// The release statement is signed by a threshold of the role that may sign it, and the model signing statement by at
/// least one key of that role. A vendor's `release` keys sign anything; a customer's `site` keys sign adapters only.
fn step_10_count_signers(
    release: &ReleaseStatement,
    attestations: &[Attestation],
    signers: &Signers,
    root: &TrustRoot,
    encrypted: bool,
) -> Result<Vouchers, BundleError> {
    let (roles, may_sign): (&[Role], MaySign) = match release.adapter {
        Some(_) => (&[Role::Release, Role::Site], MaySign::Adapter),
        None => (&[Role::Release], MaySign::Model),
    };
    let mut refusal = None;
    for &role in roles {
        match count_role(role, may_sign, attestations, signers, root, encrypted) {
            Ok(vouchers) => return Ok(vouchers),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.expect("at least one role is tried"))
}

fn count_role(
    role: Role,
    may_sign: MaySign,
    attestations: &[Attestation],
    signers: &Signers,
    root: &TrustRoot,
    encrypted: bool,
) -> Result<Vouchers, BundleError> {
    let (members, threshold) = match root.role(role) {
        Some(keys) => (keys.keyids.clone(), keys.threshold),
        None => (BTreeSet::new(), 1),
    };
    let by_members = |predicate| distinct(signers.get(&predicate), &members);
    let model_signers = by_members(Predicate::ModelSigning);
    // By the first of the role's signers, and not the first to lie there: attestations lie in the order of their
    // digests, which differ with each signature.
    let model_signature = model_signers.first().and_then(|signer| {
        let by_it = |attestation: &&Attestation| attestation.key() == signer.key;
        attestations.iter().filter(by_it).find(|attestation| attestation.predicate() == Predicate::ModelSigning)
    });
    let refusal = |predicate, found, required| unsigned(predicate, attestations, may_sign, role, root, found, required);
    if model_signature.is_none() && !encrypted {
        return Err(refusal(Predicate::ModelSigning, 0, 1));
    }
    let model_signature = model_signature.cloned();
    let release_signers = by_members(Predicate::Release);
    if release_signers.len() < threshold {
        return Err(refusal(Predicate::Release, release_signers.len(), threshold));
    }
    Ok(Vouchers { role, release_signers, threshold, model_signers, model_signature })
}

/// Each signing key once, and for each of the root's entries one key at most: whoever holds one key cannot be two, nor can
/// an authority by certifying several.
fn distinct(signers: Option<&BTreeMap<KeyId, Pinned>>, members: &BTreeSet<KeyId>) -> Vec<Voucher> {
    let mut vouchers: BTreeMap<KeyId, Voucher> = BTreeMap::new();
    let mut keys: Vec<(&KeyId, &Pinned)> = signers.into_iter().flatten().collect();
    // A key that only one entry stands for takes it before a key that has a choice.
    keys.sort_by_key(|(_, pinned)| pinned.keys().filter(|entry| members.contains(entry)).count());
    for (&key, pinned) in keys {
        let free = pinned.iter().find(|(entry, _)| members.contains(entry) && !vouchers.contains_key(entry));
        if let Some((&entry, &validity)) = free {
            vouchers.insert(entry, Voucher { entry, key, validity });
        }
    }
    vouchers.into_values().collect()
}

/// Who of a role signed an attestation that lay inside an encrypted bundle, if it was anybody of that role.
pub(crate) fn voucher_of(
    attestation: &Attestation,
    role: Role,
    root: &TrustRoot,
) -> Result<Option<Voucher>, BundleError> {
    let pinned = pinned_by(attestation, root)?;
    let Some(key) = signing_key(attestation, root).filter(|_| !pinned.is_empty()) else { return Ok(None) };
    if !attestation.is_signed_by(key) {
        return Err(BundleError::BadSignature { key: key.id(), statement: attestation.predicate().name() });
    }
    let members = root.role(role).map(|keys| keys.keyids.clone()).unwrap_or_default();
    Ok(distinct(Some(&BTreeMap::from([(key.id(), pinned)])), &members).pop())
}

/// The key that an attestation is to be checked with: its certificate's, or the pinned one that it names.
fn signing_key<'a>(attestation: &'a Attestation, root: &'a TrustRoot) -> Option<&'a PublicKey> {
    attestation.certificates().first().map(Certificate::key).or_else(|| root.key(attestation.key()))
}

/// The release names the root over all layers. In a plain bundle the model signing statement has that root and lists
/// exactly the manifest's layers; that of an encrypted bundle is read when somebody opens it.
fn step_11_check_model_signing(
    payloads: &Payloads<'_>,
    bundle: &SealedBundle,
    release: &ReleaseStatement,
) -> Result<(), BundleError> {
    let expected = OmsStatement::about(&release.name, bundle.manifest.layers());
    agree("the root over all files", "the release statement", &release.oms_root, "the manifest", &expected.subject)?;
    let (encrypted, stated) = (bundle.manifest.is_encrypted(), release.encryption.is_some());
    agree("whether the layers are encrypted", "the release statement", &stated, "the manifest", &encrypted)?;
    if encrypted {
        return Ok(());
    }
    let statement: Statement<OmsStatement> = read_statement(payloads)?;
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
    check_oms_form(&statement.predicate)?;
    check_subject(&statement, expected.subject)?;
    agree(
        "the bundle's name",
        "the model signing statement",
        &statement.subject_name,
        "the release statement",
        &release.name,
    )
}

/// The files were hashed whole, and no link was followed.
pub(crate) fn check_oms_form(statement: &OmsStatement) -> Result<(), BundleError> {
    if statement.serialization == OmsSerialization::WHOLE_FILES {
        return Ok(());
    }
    let expected = "method files, hash_type sha256, allow_symlinks false";
    Err(wrong_field("model signing statement", "serialization", "another one", expected))
}

/// A cosign statement, if there is one, is about this manifest. It never suffices.
fn step_12_check_cosign(payloads: &Payloads<'_>, bundle: &SealedBundle) -> Result<(), BundleError> {
    if !payloads.contains_key(&Predicate::Cosign) {
        return Ok(());
    }
    let statement: Statement<CosignStatement> = read_statement(payloads)?;
    if !statement.subject_name.is_empty() {
        return Err(wrong_field("cosign statement", "subject", &statement.subject_name, "a digest without a name"));
    }
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

/// The settings schema, if there is one, is understood.
pub(crate) fn check_settings(
    release: &ReleaseStatement,
    files: &BTreeMap<BundlePath, Vec<u8>>,
) -> Result<(), BundleError> {
    let schema = release.settings_schema.as_ref().and_then(|path| files.get(path));
    schema.map_or(Ok(()), |bytes| SettingsSchema::parse(bytes).map(|_| ()))
}

/// A weight layer with the bytes of its header, verified and not parsed yet. Of an encrypted one these are the bytes of
/// the age file up to the end of the chunk in which the header ends.
pub(crate) struct RawHeader {
    pub(crate) layer: Layer,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Reads each weight file's header by the length that the release statement gives and checks its digest.
fn step_15_read_weight_headers(
    bundle: &SealedBundle,
    release: &ReleaseStatement,
) -> Result<Vec<RawHeader>, BundleError> {
    let layers: Vec<(usize, &Layer)> =
        bundle.manifest.layers().iter().enumerate().filter(|(_, layer)| layer.kind == LayerKind::Weight).collect();
    let (statement, manifest) = ("the release statement", "the manifest");
    agree("the number of weight files", statement, &release.weights.len(), manifest, &layers.len())?;
    let total = release.weights.iter().fold(0u64, |sum, signed| sum.saturating_add(signed.header_length));
    check_limit("the length in bytes of all weight headers", total, limits::MAX_WEIGHT_HEADERS_TOTAL_BYTES)?;
    let mut headers = Vec::new();
    for (&(index, layer), signed) in layers.iter().zip(&release.weights) {
        agree("the weight files", statement, &signed.path, manifest, &layer.path)?;
        let limit = WeightHeader::most_bytes(WeightFormat::of_path(&layer.path), bundle.manifest.is_encrypted());
        let what = format!("the header of `{}`", layer.path);
        check_limit(&format!("the length in bytes of {what}"), signed.header_length, limit.min(layer.size))?;
        let mut bytes = vec![0; usize::try_from(signed.header_length).expect("the limit fits")];
        let offset = bundle.layout.layer_offset(index);
        read_exact_at(&*bundle.source, &mut bytes, offset, &what)?;
        check_digest(&what, Digest::of(&bytes), signed.header_digest)?;
        headers.push(RawHeader { layer: layer.clone(), offset, bytes });
    }
    Ok(headers)
}

/// Parses the verified headers with this crate's checked parsers, before any model code sees them.
fn step_16_check_weight_headers(headers: Vec<RawHeader>) -> Result<Vec<WeightFile>, BundleError> {
    let mut checked = CheckedHeaders::default();
    for RawHeader { layer, offset, bytes } in headers {
        let header = checked.parse(&layer.path, &bytes, layer.size)?;
        if header.length() != bytes.len() as u64 {
            let defect = WeightHeaderError::Length { found: header.length(), expected: bytes.len() as u64 };
            return Err(BundleError::WeightHeader { path: layer.path.to_string(), defect });
        }
        let (length, digest, path) = (layer.size, layer.digest, layer.path);
        checked.files.push(WeightFile { path, header, length, digest, offset, start: bytes, sealed: None });
    }
    Ok(checked.files)
}

/// The weight files whose headers were checked, and who has which tensor.
#[derive(Default)]
pub(crate) struct CheckedHeaders {
    pub(crate) files: Vec<WeightFile>,
    owners: HashMap<String, String>,
}

impl CheckedHeaders {
    /// Parses one more header, which `bytes` begin with, of a file that is `length` bytes long.
    pub(crate) fn parse(&mut self, path: &BundlePath, bytes: &[u8], length: u64) -> Result<WeightHeader, BundleError> {
        let name = path.to_string();
        let format =
            WeightFormat::of_path(path).ok_or_else(|| BundleError::UnknownWeightFormat { path: name.clone() })?;
        let header = WeightHeader::parse(format, bytes, length)
            .map_err(|defect| BundleError::WeightHeader { path: name.clone(), defect })?;
        for tensor in header.tensors() {
            if let Some(first) = self.owners.insert(tensor.name.clone(), name.clone()) {
                return Err(BundleError::RepeatedTensor { tensor: shorten(&tensor.name), first, second: name });
            }
        }
        Ok(header)
    }
}

fn read_statement<P>(payloads: &Payloads<'_>) -> Result<Statement<P>, BundleError>
where
    P: PredicateType + serde::Serialize + serde::de::DeserializeOwned,
{
    let payload =
        payloads.get(&P::PREDICATE).ok_or(BundleError::MissingStatement { statement: P::PREDICATE.name() })?;
    Statement::parse(payload)
}

pub(crate) fn check_subject<P: PredicateType>(statement: &Statement<P>, expected: Digest) -> Result<(), BundleError> {
    if statement.subject != expected {
        return Err(BundleError::WrongSubject { statement: P::PREDICATE.name(), found: statement.subject, expected });
    }
    Ok(())
}

pub(crate) fn check_digest(what: &str, found: Digest, expected: Digest) -> Result<(), BundleError> {
    if found != expected {
        return Err(BundleError::DigestMismatch { what: what.to_owned(), found, expected });
    }
    Ok(())
}

/// Compares two values that must agree and names both when they do not.
pub(crate) fn agree(
    what: &str,
    left_name: &'static str,
    left: &impl ToString,
    right_name: &'static str,
    right: &impl ToString,
) -> Result<(), BundleError> {
    let (left, right) = (left.to_string(), right.to_string());
    if left != right {
        let (left, right) = (printable(&left), printable(&right));
        return Err(BundleError::Disagreement { what: what.to_owned(), left_name, left, right_name, right });
    }
    Ok(())
}
