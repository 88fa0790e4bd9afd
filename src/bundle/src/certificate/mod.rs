//! Certificates: a trust root may pin a private authority in the place of a key, and whoever that authority certifies
//! signs.
//!
//! The path from leaf to authority is built and its signatures, name constraints and basic constraints are checked by
//! webpki. Beyond that a leaf must be for code signing, and every certificate must be valid at the time of use. That
//! time is not known while a bundle is verified, so the stretch of time in which all of the chain holds comes out, and
//! admission compares.

mod der;
mod fields;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::error::BundleError;
use crate::key::KeyId;
use crate::limits;
use crate::manifest::check_limit;
use crate::timestamp::Timestamp;

pub use fields::Certificate;
use fields::{CERTIFICATE_SIGN, CODE_SIGNING};

/// An authority that a trust root pins: its certificate and, if it says so, whom alone it may speak for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    certificate: Certificate,
    identity: Option<String>,
    id: KeyId,
}

/// The time in which something holds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: Timestamp,
    /// The last second.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whether `time` lies within.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        self.not_before <= time && time <= self.not_after
    }
}

impl Authority {
    /// The authority with this certificate (PEM), for the leaf whose one alternative name is `identity`, or for every
    /// leaf.
    ///
    /// # Errors
    /// [`BundleError::MalformedCertificate`] and [`BundleError::MalformedKey`].
    pub fn new(pem: &str, identity: Option<&str>) -> Result<Self, BundleError> {
        let refuse = |reason| BundleError::MalformedCertificate { reason };
        let [certificate] = chain_from_pem(pem)?
            .try_into()
            .map_err(|_| refuse("an authority is one certificate, and there are several"))?;
        if to_pem(&certificate) != pem {
            return Err(refuse("its PEM must have LF line ends and base64 lines of 64 characters each"));
        }
        if identity.is_some_and(|identity| identity.is_empty() || !identity.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(refuse("the identity must be a mail address, a DNS name or a URI in ASCII"));
        }
        let id = KeyId::of_pem(&identity.map_or_else(|| pem.to_owned(), |identity| format!("{pem}{identity}\n")));
        Ok(Self { certificate, identity: identity.map(str::to_owned), id })
    }

    /// The id under which a root lists it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Since when and until when the leaf of this chain may sign by the word of this authority. `None` when the chain
    /// leads to another authority, or the leaf is somebody else than this one speaks for.
    ///
    /// # Errors
    /// [`BundleError::BadCertificateChain`] when the chain is this authority's and breaks a rule.
    pub(crate) fn vouches_for(&self, chain: &[Certificate]) -> Result<Option<Validity>, BundleError> {
        let refuse = |reason: String| Err(BundleError::BadCertificateChain { authority: self.id, reason });
        let Some((leaf, issuers)) = chain.split_first() else { return Ok(None) };
        let all = || chain.iter().chain([&self.certificate]).map(Certificate::fields);
        let earliest = all().map(|fields| fields.not_before).max().unwrap_or(self.certificate.fields().not_before);
        let latest = all().map(|fields| fields.not_after).min().unwrap_or(self.certificate.fields().not_after);
        let validity = Validity { not_before: earliest, not_after: latest };
        match self.check_path(leaf, issuers, earliest) {
            Ok(()) => {}
            // Another authority, which may have this one's name.
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => return Ok(None),
            Err(error) => return refuse(in_words(&error)),
        }
        let fields = leaf.fields();
        if self.identity.as_ref().is_some_and(|identity| fields.names != [identity.as_str()]) {
            return Ok(None);
        }
        if latest < earliest {
            return refuse("there is no moment at which all its certificates are valid".to_owned());
        }
        if let Some(defect) = leaf.defect_as_leaf() {
            return refuse(defect.to_owned());
        }
        let may_certify = |certificate: &Certificate| {
            certificate.fields().key_usage.is_none_or(|usage| usage & CERTIFICATE_SIGN != 0)
        };
        if !issuers.iter().chain([&self.certificate]).all(may_certify) {
            return refuse("the key usage of an issuer lacks keyCertSign".to_owned());
        }
        if self.certificate.fields().path_length.is_some_and(|most| issuers.len() > usize::from(most)) {
            return refuse("there are more issuers in it than the authority's path length allows".to_owned());
        }
        Ok(Some(validity))
    }

    fn check_path(&self, leaf: &Certificate, issuers: &[Certificate], time: Timestamp) -> Result<(), webpki::Error> {
        let seconds = u64::try_from(time.as_second()).map_err(|_| webpki::Error::BadDerTime)?;
        let leaf = CertificateDer::from(leaf.der());
        let issuers: Vec<CertificateDer<'_>> =
            issuers.iter().map(|issuer| CertificateDer::from(issuer.der())).collect();
        let authority = CertificateDer::from(self.certificate.der());
        let path = EndEntityCert::try_from(&leaf)?;
        // The hash follows the curve, as with bare keys.
        let algorithms = [webpki::ring::ECDSA_P256_SHA256, webpki::ring::ECDSA_P384_SHA384];
        // Issuers need not name a purpose; that the leaf does is asked for above.
        let usage = KeyUsage::required_if_present(CODE_SIGNING);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        path.verify_for_usage(
            &algorithms,
            &[anchor_from_trusted_cert(&authority)?],
            &issuers,
            time,
            usage,
            None,
            None,
        )?;
        Ok(())
    }
}

/// What is wrong with a path, in plain words where the common mistakes are.
fn in_words(error: &webpki::Error) -> String {
    use webpki::Error;
    let words = match error {
        Error::CaUsedAsEndEntity => "its leaf is the certificate of an authority",
        Error::EndEntityUsedAsCa => "an issuer in it is no authority",
        Error::PathLenConstraintViolated => "there are more issuers in it than an issuer's path length allows",
        Error::NameConstraintViolation => "its leaf has a name that an issuer may not certify",
        Error::RequiredEkuNotFoundContext(_) => "a certificate in it is for another purpose than codeSigning",
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => "its certificates are not valid at the same time",
        other => return format!("no path leads from it to the authority ({other:?})"),
    };
    words.to_owned()
}

/// Reads the certificates of a PEM text, leaf first.
///
/// # Errors
/// [`BundleError::MalformedCertificate`] for anything else between them, and [`BundleError::TooLarge`] for too many.
pub fn chain_from_pem(text: &str) -> Result<Vec<Certificate>, BundleError> {
    let refuse = |reason| BundleError::MalformedCertificate { reason };
    let text = text.replace("\r\n", "\n");
    let mut rest = text.trim();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let body = rest.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END));
        let (body, after) = body.ok_or_else(|| refuse("expected PEM text of certificates and nothing else"))?;
        let der = STANDARD.decode(body.replace('\n', "")).map_err(|_| refuse("the base64 of its PEM is wrong"))?;
        chain.push(Certificate::from_der(&der)?);
        check_length(chain.len())?;
        rest = after.trim_start();
    }
    if chain.is_empty() {
        return Err(refuse("there is no certificate in the PEM text"));
    }
    Ok(chain)
}

/// Refuses a chain longer than any has a reason to be.
pub(crate) fn check_length(certificates: usize) -> Result<(), BundleError> {
    check_limit("the number of certificates in a chain", certificates as u64, limits::MAX_CERTIFICATES)
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----";

/// The one PEM spelling of a certificate.
#[must_use]
pub fn to_pem(certificate: &Certificate) -> String {
    let base64 = STANDARD.encode(certificate.der());
    let mut pem = BEGIN.to_owned();
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem + END + "\n"
}
