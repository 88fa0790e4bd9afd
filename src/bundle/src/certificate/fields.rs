//! What is read from one certificate beyond what the path's verification reads: validity, key, and the extensions that
//! say what the key is for and whose it is.

use crate::error::BundleError;
use crate::key::PublicKey;
use crate::timestamp::Timestamp;

use super::Validity;
use super::der::{Reader, only, tag};

/// One certificate. Who issued it is not known by having read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    fields: Fields,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) key: PublicKey,
    /// The bits of the key usage, the first one highest; `None` without the extension.
    pub(super) key_usage: Option<u8>,
    /// Whether the extended key usage names code signing.
    pub(super) signs_code: bool,
    /// How many certificates of authorities may stand between this authority and a leaf; `None` is any number.
    pub(super) path_length: Option<u8>,
    /// The subject's alternative names: mail addresses, DNS names and URIs.
    pub(super) names: Vec<String>,
}

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const SUBJECT_NAMES: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// `id-kp-codeSigning`, 1.3.6.1.5.5.7.3.3.
pub(super) const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// The bit of a key usage that lets a key sign what is no certificate.
const DIGITAL_SIGNATURE: u8 = 0x80;
/// The bit of a key usage that lets a key sign certificates.
pub(super) const CERTIFICATE_SIGN: u8 = 0x04;

impl Certificate {
    /// Reads a certificate in DER. Its key must be ECDSA on P-256 or P-384.
    ///
    /// # Errors
    /// [`BundleError::MalformedCertificate`] and [`BundleError::MalformedKey`].
    pub fn from_der(der: &[u8]) -> Result<Self, BundleError> {
        let refuse = |reason| BundleError::MalformedCertificate { reason };
        let mut signed = only(der, tag::SEQUENCE).ok_or_else(|| refuse("it is no X.509 certificate in DER"))?;
        let body = signed.nested(tag::SEQUENCE).ok_or_else(|| refuse("it is no X.509 certificate in DER"))?;
        let fields = read_body(body)?;
        Ok(Self { der: der.to_vec(), fields })
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certified key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.fields.key
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        Validity { not_before: self.fields.not_before, not_after: self.fields.not_after }
    }

    /// Why the certified key may not sign a bundle, if it may not.
    #[must_use]
    pub fn defect_as_leaf(&self) -> Option<&'static str> {
        if !self.fields.signs_code {
            return Some("its leaf lacks the extended key usage codeSigning");
        }
        let unusable = self.fields.key_usage.is_some_and(|usage| usage & DIGITAL_SIGNATURE == 0);
        unusable.then_some("the key usage of its leaf lacks digitalSignature")
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }
}

fn read_body(mut body: Reader<'_>) -> Result<Fields, BundleError> {
    let refuse = |reason| BundleError::MalformedCertificate { reason };
    let shape = || refuse("its fields are not those of X.509 version 3");
    // Version 3, the only one with extensions.
    let version = body.nested(tag::VERSION).and_then(|mut version| version.expect(tag::INTEGER));
    if version != Some(&[2]) {
        return Err(shape());
    }
    body.expect(tag::INTEGER).ok_or_else(shape)?;
    for _algorithm_and_issuer in 0..2 {
        body.expect(tag::SEQUENCE).ok_or_else(shape)?;
    }
    let mut validity = body.nested(tag::SEQUENCE).ok_or_else(shape)?;
    let times = (time(&mut validity), time(&mut validity), validity.is_at_end());
    let (Some(not_before), Some(not_after), true) = times else {
        return Err(refuse("its validity is not two times in the forms of RFC 5280"));
    };
    body.expect(tag::SEQUENCE).ok_or_else(shape)?;
    let key = PublicKey::from_spki_der(body.element().ok_or_else(shape)?.whole)?;
    let mut fields =
        Fields { not_before, not_after, key, key_usage: None, signs_code: false, path_length: None, names: Vec::new() };
    while let Some(element) = body.element() {
        if element.tag != tag::EXTENSIONS {
            continue;
        }
        let mut list = only(element.content, tag::SEQUENCE).ok_or_else(shape)?;
        while !list.is_at_end() {
            let extension = list.nested(tag::SEQUENCE).ok_or_else(shape)?;
            read_extension(extension, &mut fields).ok_or_else(|| refuse("one of its extensions is malformed"))?;
        }
    }
    if !body.is_at_end() {
        return Err(shape());
    }
    Ok(fields)
}

/// That no extension comes twice, and that none is critical and unknown, is checked with the path.
fn read_extension(mut extension: Reader<'_>, fields: &mut Fields) -> Option<()> {
    let id = extension.expect(tag::OID)?;
    if extension.peek_tag() == Some(tag::BOOLEAN) {
        extension.element()?;
    }
    let value = extension.expect(tag::OCTET_STRING)?;
    match id {
        KEY_USAGE => {
            let bits = Reader::new(value).expect(tag::BIT_STRING)?;
            fields.key_usage = Some(bits.get(1).copied().unwrap_or(0));
        }
        EXTENDED_KEY_USAGE => {
            let mut purposes = only(value, tag::SEQUENCE)?;
            while !purposes.is_at_end() {
                fields.signs_code |= purposes.expect(tag::OID)? == CODE_SIGNING;
            }
        }
        BASIC_CONSTRAINTS => {
            let mut constraints = only(value, tag::SEQUENCE)?;
            if constraints.peek_tag() == Some(tag::BOOLEAN) {
                constraints.element()?;
            }
            if !constraints.is_at_end() {
                fields.path_length = match constraints.expect(tag::INTEGER)? {
                    &[length @ 0..=0x7f] => Some(length),
                    // More than any chain has here.
                    _ => Some(u8::MAX),
                };
            }
        }
        SUBJECT_NAMES => {
            let mut names = only(value, tag::SEQUENCE)?;
            while !names.is_at_end() {
                let name = names.element()?;
                if [tag::EMAIL_NAME, tag::DNS_NAME, tag::URI_NAME].contains(&name.tag) {
                    let text = std::str::from_utf8(name.content).ok().filter(|text| text.is_ascii())?;
                    fields.names.push(text.to_owned());
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// `YYMMDDhhmmssZ` until 2049 and `YYYYMMDDhhmmssZ` from then on, as RFC 5280 has it.
fn time(reader: &mut Reader<'_>) -> Option<Timestamp> {
    let element = reader.element()?;
    let digits = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let digits = match (element.tag, digits.len()) {
        (tag::UTC_TIME, 12) if *digits >= *"50" => format!("19{digits}"),
        (tag::UTC_TIME, 12) => format!("20{digits}"),
        (tag::GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    let (date, clock) = ((part(0, 4), part(4, 6), part(6, 8)), (part(8, 10), part(10, 12), part(12, 14)));
    format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, clock.0, clock.1, clock.2).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_spelling_until_2049_and_another_from_then_on() {
        for (tag, text, expected) in [
            (tag::UTC_TIME, "491231235959Z", Some("2049-12-31T23:59:59Z")),
            (tag::UTC_TIME, "500101000000Z", Some("1950-01-01T00:00:00Z")),
            (tag::GENERALIZED_TIME, "20500101000000Z", Some("2050-01-01T00:00:00Z")),
            (tag::UTC_TIME, "20500101000000Z", None),
            (tag::GENERALIZED_TIME, "491231235959Z", None),
            (tag::INTEGER, "491231235959Z", None),
            (tag::UTC_TIME, "491231235959", None),
            (tag::UTC_TIME, "4912312359Z", None),
            (tag::UTC_TIME, "491331235959Z", None),
            (tag::UTC_TIME, "49123123595+Z", None),
            (tag::UTC_TIME, "4ä123123595Z", None),
        ] {
            let element = [&[tag, u8::try_from(text.len()).expect("it is short")], text.as_bytes()].concat();
            let found = time(&mut Reader::new(&element)).map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
