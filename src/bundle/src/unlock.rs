//! Opens a verified bundle that is encrypted: FORMAT.md steps 16.1 to 16.4, for whoever has an identity.
//!
//! Everything that is decrypted here was held against a signed digest before, as it lies in the bundle; what comes out is
//! held against the model signing statement, which is inside and covers the plaintext. So neither can somebody encrypt a
//! model that he cannot read and call it his, nor can what is inside be exchanged by who encrypts it.

use std::collections::{BTreeMap, BTreeSet};

use crate::age::{AgeError, CHUNK_BYTES, Cipher, Recipient, SEALED_CHUNK_BYTES, SECRET_BYTES, decrypt};
use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::{BundleError, MaySign, WeightHeaderError};
use crate::names::BundlePath;
use crate::statement::{Encryption, OmsStatement, Predicate, ReleaseStatement, Statement};
use crate::trust::{Role, TrustRoot};
use crate::verified::{VerifiedBundle, Voucher};
use crate::verify::{
    CheckedHeaders, RawHeader, agree, check_digest, check_oms_form, check_settings, check_subject, voucher_of,
};
use crate::weights::{SealedWeights, WeightFile};

/// What an encrypted bundle holds, verified as it lies in the file and readable to nobody yet.
pub(crate) struct Locked {
    /// The files that are no weights, the model signing attestation among them.
    pub(crate) files: BTreeMap<BundlePath, Vec<u8>>,
    /// The beginning of each weight file, as far as its header reaches.
    pub(crate) headers: Vec<RawHeader>,
}

/// How far the way to an encrypted bundle's contents was gone before it is admitted.
pub(crate) enum Decryption {
    /// Whoever tried is none of the recipients; at first nobody has tried.
    Failed { tried: Vec<Recipient> },
    /// It is open.
    Done,
    /// It is only to be stored, and is opened when it is to be used.
    Later,
}

impl VerifiedBundle {
    /// Whether the bundle is encrypted and nobody has opened it: its files and weights cannot be read then.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// Opens an encrypted bundle with the secrets of X25519 identities. A bundle that is not encrypted, or not to one of
    /// them, stays as it is; whether that will do is for [`VerifiedBundle::admit`] to decide.
    ///
    /// # Errors
    /// [`BundleError::Encrypted`] when a layer does not open, and what the steps refuse that hold the plaintext against
    /// the model signing statement.
    pub fn unlock(mut self, secrets: &[[u8; SECRET_BYTES]]) -> Result<Self, BundleError> {
        let Some(encryption) = self.release.encryption.as_ref().filter(|found| found.scheme == Encryption::AGE) else {
            return Ok(self);
        };
        let listed =
            |secret: &&[u8; SECRET_BYTES]| encryption.recipients.contains(&Recipient::of_secret(secret).to_string());
        let Some(secret) = secrets.iter().find(listed) else {
            self.decryption = Decryption::Failed { tried: secrets.iter().map(Recipient::of_secret).collect() };
            return Ok(self);
        };
        let Some(Locked { files, headers }) = self.locked.take() else { return Ok(self) };
        let mut files = step_16_1_decrypt_files(files, secret)?;
        let signature = files.remove(&BundlePath::model_signature()).unwrap_or_default();
        let signature = Attestation::parse("the model signing attestation", signature)?;
        let weights = headers.iter().map(|header| &header.layer.path);
        let paths: BTreeSet<&BundlePath> = files.keys().chain(weights).collect();
        let (digests, signer) =
            step_16_2_check_model_signing(&signature, self.vouchers.role, &self.root, &self.release, &paths)?;
        step_16_3_compare_files(&files, &digests)?;
        check_settings(&self.release, &files)?;
        self.weights = step_16_4_open_weight_headers(headers, secret, &digests)?;
        self.files = files;
        self.vouchers.model_signature = Some(signature);
        self.vouchers.model_signers = vec![signer];
        self.decryption = Decryption::Done;
        Ok(self)
    }

    /// Lets an encrypted bundle be admitted although nobody has opened it: for whoever only stores it.
    #[must_use]
    pub fn leave_locked(mut self) -> Self {
        self.decryption = Decryption::Later;
        self
    }
}

/// The plaintext digest of each file.
type Digests = BTreeMap<BundlePath, Digest>;

/// Decrypts every file that is not a weight, in memory.
fn step_16_1_decrypt_files(
    files: BTreeMap<BundlePath, Vec<u8>>,
    secret: &[u8; SECRET_BYTES],
) -> Result<BTreeMap<BundlePath, Vec<u8>>, BundleError> {
    let opened = |(path, bytes): (BundlePath, Vec<u8>)| {
        let plaintext = decrypt(bytes, secret).map_err(|defect| in_layer(&path, defect))?;
        Ok((path, plaintext))
    };
    files.into_iter().map(opened).collect()
}

/// The statement inside is signed by a key of the role that signed the release, and lists exactly the bundle's files.
fn step_16_2_check_model_signing(
    signature: &Attestation,
    role: Role,
    root: &TrustRoot,
    release: &ReleaseStatement,
    paths: &BTreeSet<&BundlePath>,
) -> Result<(Digests, Voucher), BundleError> {
    let statement = Predicate::ModelSigning.name();
    let Some(signer) = voucher_of(signature, role, root)? else {
        let role = role.name();
        let may_sign = if release.adapter.is_some() { MaySign::Adapter } else { MaySign::Model };
        let named = signature.key().to_string();
        return Err(BundleError::TooFewSignatures { statement, role, found: 0, required: 1, named, may_sign });
    };
    let statement: Statement<OmsStatement> = Statement::parse(signature.payload())?;
    check_oms_form(&statement.predicate)?;
    let found: Vec<&BundlePath> = statement.predicate.resources.iter().map(|resource| &resource.name).collect();
    let (inside, manifest) = ("the model signing statement", "the manifest");
    for (found, expected) in found.iter().zip(paths) {
        agree("the files of the bundle", inside, found, manifest, expected)?;
    }
    agree("the number of files", inside, &found.len(), manifest, &paths.len())?;
    let root = statement.predicate.root();
    check_subject(&statement, root)?;
    let encryption = release.encryption.as_ref().map(|encryption| encryption.plaintext_root);
    agree("the root over the plaintext", "the release statement", &encryption.unwrap_or(root), inside, &root)?;
    agree("the bundle's name", inside, &statement.subject_name, "the release statement", &release.name)?;
    let resources = statement.predicate.resources.into_iter();
    Ok((resources.map(|resource| (resource.name, resource.digest)).collect(), signer))
}

/// What was decrypted is what was signed.
fn step_16_3_compare_files(files: &BTreeMap<BundlePath, Vec<u8>>, digests: &Digests) -> Result<(), BundleError> {
    for (path, bytes) in files {
        check_digest(&format!("the plaintext of `{path}`"), Digest::of(bytes), digests[path])?;
    }
    Ok(())
}

/// Decrypts the beginning of each weight file and parses its header, as step 16 does. What was signed of it reaches to
/// the end of the chunk in which the header ends, and not further.
fn step_16_4_open_weight_headers(
    headers: Vec<RawHeader>,
    secret: &[u8; SECRET_BYTES],
    digests: &Digests,
) -> Result<Vec<WeightFile>, BundleError> {
    let mut checked = CheckedHeaders::default();
    for RawHeader { layer, offset, bytes } in headers {
        let cipher = Cipher::open(&bytes, layer.size, secret).map_err(|defect| in_layer(&layer.path, defect))?;
        let start = open_start(&bytes, &cipher).map_err(|defect| in_layer(&layer.path, defect))?;
        let length = cipher.extent.plaintext_bytes;
        let header = checked.parse(&layer.path, &start, length)?;
        let expected = header.length().div_ceil(CHUNK_BYTES).max(1) * CHUNK_BYTES;
        if start.len() as u64 != expected.min(length) {
            let defect = WeightHeaderError::Length { found: header.length(), expected: start.len() as u64 };
            return Err(BundleError::WeightHeader { path: layer.path.to_string(), defect });
        }
        let sealed = SealedWeights { cipher, digest: layer.digest, length: layer.size };
        let (digest, path) = (digests[&layer.path], layer.path);
        checked.files.push(WeightFile { path, header, length, digest, offset, start: bytes, sealed: Some(sealed) });
    }
    Ok(checked.files)
}

/// The plaintext of the whole chunks with which a layer begins.
fn open_start(bytes: &[u8], cipher: &Cipher) -> Result<Vec<u8>, AgeError> {
    let opener = cipher.opener();
    let chunks = bytes.get(usize::try_from(cipher.extent.start).unwrap_or(usize::MAX)..).unwrap_or_default();
    let mut plaintext = Vec::with_capacity(chunks.len());
    for (index, chunk) in (0..).zip(chunks.chunks(SEALED_CHUNK_BYTES as usize)) {
        let mut chunk = chunk.to_vec();
        plaintext.extend_from_slice(opener.open(index, &mut chunk)?);
    }
    Ok(plaintext)
}

fn in_layer(path: &BundlePath, defect: AgeError) -> BundleError {
    BundleError::Encrypted { path: path.to_string(), defect }
}
