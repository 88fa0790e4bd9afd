//! Chains of certificates: from the one that signed a model to an authority that the verifier named.
//!
//! `webpki` builds the path and checks signatures, validity, constraints and names on the way. It takes an authority as
//! given, though, and does not look at key usage; both are looked at here. "Now" is an argument, and it is the present: the
//! reference client judges a chain at the moment when its first certificate began, and so never sees one expire.

use std::path::PathBuf;
use std::time::Duration;

use ampoule_bundle::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath, anchor_from_trusted_cert,
};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use super::error::OmsError;
use super::key::OmsPublicKey;
use crate::error::SealingError;
use crate::files;

/// From the signing certificate to the authority, both counted.
const MAX_CERTIFICATES: usize = 5;

/// A file of certificates is some thousand bytes; a system's whole list of authorities is a quarter of this.
const MAX_CERTIFICATE_FILE_BYTES: u64 = 1 << 20;

const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");

/// Elliptic curves alone, as for the keys.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
];

/// Reads the certificates of these PEM files, in their order.
///
/// # Errors
/// `Certificates` for a file that holds none.
pub fn read_certificates(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, SealingError> {
    let mut certificates = Vec::new();
    for path in paths {
        let refuse = || OmsError::Certificates { path: path.clone() };
        let text = files::read_capped(path, MAX_CERTIFICATE_FILE_BYTES)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let found = found.ok().filter(|found| !found.is_empty()).ok_or_else(refuse)?;
        certificates.extend(found.into_iter().map(|der| der.to_vec()));
    }
    Ok(certificates)
}

/// Checks that the first of `chain` is a certificate for `key` that may sign models, before anything is signed.
///
/// # Errors
/// `CertificateOfAnotherKey`, `Certificate`.
pub(crate) fn check_signing_chain(chain: &[Vec<u8>], key: &OmsPublicKey) -> Result<(), SealingError> {
    match key_of(&signing_certificate(chain)?)? == *key {
        true => Ok(()),
        false => Err(OmsError::CertificateOfAnotherKey.into()),
    }
}

/// The key of the first certificate of `chain`, if a chain leads from it to one of the certificates in `trusted`.
///
/// # Errors
/// `Certificate`, with what is wrong.
pub(crate) fn verify_chain(
    chain: &[Vec<u8>],
    trusted: &[Vec<u8>],
    now: Timestamp,
) -> Result<OmsPublicKey, SealingError> {
    let signing = signing_certificate(chain)?;
    let key = key_of(&signing)?;
    // Whoever names the very certificate needs no chain to it; a copy that nobody vouches for does.
    if trusted.contains(&chain[0]) && is_self_issued(&signing) {
        return if is_valid(&signing, now) { Ok(key) } else { Err(refuse("it is not valid at this time")) };
    }
    let ders: Vec<CertificateDer<'_>> = trusted.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (mut roots, mut others) = (Vec::new(), Vec::new());
    for (certificate, der) in trusted.iter().zip(&ders) {
        match is_self_issued(&parse(certificate)?) {
            true => roots.push(der),
            false => others.push(der.clone()),
        }
    }
    others.extend(chain[1..].iter().map(|der| CertificateDer::from(der.as_slice())));
    let anchors: Result<Vec<_>, Error> = roots.iter().map(|der| anchor_from_trusted_cert(der)).collect();
    let anchors = anchors.map_err(|error| refuse(&format!("an authority cannot be read: {error}")))?;

    let first = CertificateDer::from(chain[0].as_slice());
    let first = EndEntityCert::try_from(&first).map_err(|error| refuse(&format!("it cannot be read: {error}")))?;
    let check = |path: &VerifiedPath<'_>| {
        let anchor = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        check_path(path, anchor.map(|index| roots[index].as_ref()), now)
    };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
    let verified = first.verify_for_usage(ALGORITHMS, &anchors, &others, time, AnyUsage, None, Some(&check));
    verified.map_err(|error| refuse(&format!("no chain leads to an authority of --certificate-chain: {error}")))?;
    Ok(key)
}

/// What `webpki` leaves to its caller: the usage of each authority's key, and the root itself.
fn check_path(path: &VerifiedPath<'_>, root: Option<&[u8]>, now: Timestamp) -> Result<(), Error> {
    let between = path.intermediate_certificates().map(|certificate| certificate.der().to_vec());
    let between: Vec<Vec<u8>> = between.collect();
    if between.len() + 2 > MAX_CERTIFICATES {
        return Err(Error::MaximumPathDepthExceeded);
    }
    let root = root.ok_or(Error::UnknownIssuer)?;
    for der in between.iter().map(Vec::as_slice).chain([root]) {
        let certificate = Certificate::from_der(der).map_err(|_| Error::BadDer)?;
        if usage(&certificate)?.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(Error::EndEntityUsedAsCa);
        }
    }
    let root = Certificate::from_der(root).map_err(|_| Error::BadDer)?;
    if !is_valid(&root, now) {
        return Err(Error::UnknownIssuer);
    }
    let constraints = root.tbs_certificate().get_extension::<BasicConstraints>();
    let constraints = constraints.map_err(|_| Error::ExtensionValueInvalid)?.map(|(_, found)| found);
    match constraints {
        Some(constraints) if !constraints.ca => Err(Error::EndEntityUsedAsCa),
        Some(BasicConstraints { path_len_constraint: Some(longest), .. }) if usize::from(longest) < between.len() => {
            Err(Error::PathLenConstraintViolated)
        }
        Some(_) => Ok(()),
        None => Err(Error::EndEntityUsedAsCa),
    }
}

/// The reference client asks nothing of the extended key usage on the way, and so it is asked of the signing certificate
/// alone, by [`signing_certificate`].
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The first certificate, if the chain is no longer than allowed and that certificate may sign.
fn signing_certificate(chain: &[Vec<u8>]) -> Result<Certificate, SealingError> {
    if chain.is_empty() || chain.len() > MAX_CERTIFICATES {
        return Err(refuse(&format!("a chain has 1 to {MAX_CERTIFICATES} certificates, this one {}", chain.len())));
    }
    let certificate = parse(&chain[0])?;
    let usage = usage(&certificate).map_err(|error| refuse(&error.to_string()))?;
    let extended = certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>();
    let extended = extended.map_err(|error| refuse(&error.to_string()))?;
    let may_sign = usage.is_some_and(|usage| usage.digital_signature())
        || extended.is_some_and(|(_, extended)| extended.0.contains(&CODE_SIGNING));
    match may_sign {
        true => Ok(certificate),
        false => Err(refuse("its usage is neither digitalSignature nor codeSigning")),
    }
}

fn key_of(certificate: &Certificate) -> Result<OmsPublicKey, SealingError> {
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der();
    let key = spki.ok().and_then(|spki| OmsPublicKey::from_der(&spki));
    key.ok_or_else(|| refuse("its key is not ECDSA on P-256, P-384 or P-521"))
}

fn usage(certificate: &Certificate) -> Result<Option<KeyUsage>, Error> {
    let found = certificate.tbs_certificate().get_extension::<KeyUsage>();
    Ok(found.map_err(|_| Error::ExtensionValueInvalid)?.map(|(_, usage)| usage))
}

fn is_self_issued(certificate: &Certificate) -> bool {
    certificate.tbs_certificate().subject() == certificate.tbs_certificate().issuer()
}

fn is_valid(certificate: &Certificate, now: Timestamp) -> bool {
    let validity = certificate.tbs_certificate().validity();
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    validity.not_before.to_unix_duration() <= now && now <= validity.not_after.to_unix_duration()
}

fn parse(der: &[u8]) -> Result<Certificate, SealingError> {
    Certificate::from_der(der).map_err(|error| refuse(&format!("it cannot be read: {error}")))
}

fn refuse(reason: &str) -> SealingError {
    OmsError::Certificate { reason: reason.to_owned() }.into()
}
