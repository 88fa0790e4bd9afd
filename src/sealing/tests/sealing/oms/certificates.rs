//! Which chains of certificates a model signature may have: one defect each, and the time at which they must hold.

use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};

use super::*;

/// What differs from a good chain; the default is one.
struct Chain {
    curve: &'static SignatureAlgorithm,
    signer: fn(&mut CertificateParams),
    middle: fn(&mut CertificateParams),
    root: fn(&mut CertificateParams),
    /// How many authorities there are between the root and the signer.
    between: usize,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { curve: &PKCS_ECDSA_P256_SHA256, signer: |_| {}, middle: |_| {}, root: |_| {}, between: 1 }
    }
}

/// A chain with the signer's key: its certificates from the signer's to the root's, in DER.
struct Made {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.not_before, parameters.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    parameters
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

impl Chain {
    fn make(&self) -> Made {
        let new_key = || KeyPair::generate_for(self.curve).unwrap();
        let mut root = authority("root");
        (self.root)(&mut root);
        let mut issuers = vec![CertifiedIssuer::self_signed(root, new_key()).unwrap()];
        for number in 0..self.between {
            let mut middle = authority(&format!("middle {number}"));
            (self.middle)(&mut middle);
            let issuer = CertifiedIssuer::signed_by(middle, new_key(), issuers.last().unwrap()).unwrap();
            issuers.push(issuer);
        }
        let (key, mut signer) = (new_key(), parameters("signer"));
        signer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (self.signer)(&mut signer);
        let certificate: Certificate = signer.signed_by(&key, issuers.last().unwrap()).unwrap();
        let mut chain = vec![certificate.der().to_vec()];
        chain.extend(issuers.iter().rev().map(|issuer| issuer.der().to_vec()));
        Made { key, chain }
    }
}

impl Made {
    fn root(&self) -> Vec<u8> {
        self.chain.last().unwrap().clone()
    }

    /// Signs a folder with this chain.
    fn sign(&self, place: &Path) -> Result<(), SealingError> {
        let file = place.join("signer.key");
        fs::write(&file, self.key.serialize_pem()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let key = OmsKey::open(&file, || panic!("it is in the clear"))?;
        oms::sign(&selection(place), None, &key, &Signer::Certificates(self.chain.clone())).map(drop)
    }
}

fn selection(place: &Path) -> Selection {
    Selection {
        folder: place.join("model"),
        signature: place.join("sig"),
        ignore_paths: Vec::new(),
        ignore_git_paths: true,
        allow_symlinks: false,
    }
}

fn verify(place: &Path, authorities: &[Vec<u8>], now: &str) -> Result<(), SealingError> {
    oms::verify(&selection(place), &Trust::Authorities(authorities.to_vec(), time(now)), false).map(drop)
}

#[track_caller]
fn refused(result: Result<(), SealingError>, part: &str) {
    match result {
        Err(SealingError::Oms(OmsError::Certificate { reason })) if reason.contains(part) => {}
        other => panic!("expected a certificate to be refused with `{part}`: {other:?}"),
    }
}

const NOW: &str = "2026-06-01T00:00:00Z";

#[test]
fn a_chain_to_a_named_authority_holds_while_its_certificates_do() {
    for chain in [
        Chain::default(),
        Chain { curve: &PKCS_ECDSA_P384_SHA384, ..Chain::default() },
        Chain { between: 0, ..Chain::default() },
        Chain { between: 3, ..Chain::default() },
        Chain {
            signer: |signer| {
                signer.key_usages.clear();
                signer.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            },
            ..Chain::default()
        },
        Chain {
            root: |root| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)),
            middle: |middle| middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            ..Chain::default()
        },
    ] {
        let (place, made) = (place(), chain.make());
        made.sign(place.path()).unwrap();
        verify(place.path(), &[made.root()], NOW).unwrap();
        // An authority between may be named beside the root, and alone it is none.
        verify(place.path(), &made.chain[1..], NOW).unwrap();
        for (authorities, now, part) in [
            (vec![made.root()], "2025-12-31T00:00:00Z", "no chain leads"),
            (vec![made.root()], "2027-01-02T00:00:00Z", "no chain leads"),
            (vec![Chain::default().make().root()], NOW, "no chain leads"),
        ] {
            refused(verify(place.path(), &authorities, now), part);
        }
        if chain.between > 0 {
            refused(verify(place.path(), &made.chain[1..2], NOW), "no chain leads");
        }
        let mut swapped = made.chain.clone();
        swapped.reverse();
        let swapped = Made { key: KeyPair::generate().unwrap(), chain: swapped };
        assert!(swapped.sign(place.path()).is_err(), "an authority's certificate comes first");
    }
}

#[test]
fn a_chain_with_one_defect_is_refused() {
    let not_yet = |parameters: &mut CertificateParams| parameters.not_before = date_time_ymd(2026, 7, 1);
    let no_authority = |parameters: &mut CertificateParams| parameters.is_ca = IsCa::ExplicitNoCa;
    for (what, chain) in [
        ("the signer's begins later", Chain { signer: not_yet, ..Chain::default() }),
        ("one between begins later", Chain { middle: not_yet, ..Chain::default() }),
        ("the root's begins later", Chain { root: not_yet, ..Chain::default() }),
        ("one between is no authority", Chain { middle: no_authority, ..Chain::default() }),
        ("the root is no authority", Chain { root: no_authority, ..Chain::default() }),
        (
            "one between may not certify",
            Chain { middle: |middle| middle.key_usages = vec![KeyUsagePurpose::CrlSign], ..Chain::default() },
        ),
        (
            "the root may not certify",
            Chain { root: |root| root.key_usages = vec![KeyUsagePurpose::CrlSign], ..Chain::default() },
        ),
        (
            "the root's path is shorter",
            Chain { root: |root| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), ..Chain::default() },
        ),
        (
            "the path between is shorter",
            Chain {
                middle: |middle| middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
                between: 2,
                ..Chain::default()
            },
        ),
        (
            "the signer is an authority",
            Chain { signer: |signer| signer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), ..Chain::default() },
        ),
    ] {
        let (place, made) = (place(), chain.make());
        made.sign(place.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let result = verify(place.path(), &[made.root()], NOW);
        assert!(matches!(&result, Err(SealingError::Oms(OmsError::Certificate { .. }))), "{what}: {result:?}");
    }
}

#[test]
fn c11_a_signer_that_may_not_sign_or_has_another_kind_of_key_is_refused_at_once() {
    let place = place();
    let made =
        Chain { signer: |signer| signer.key_usages = vec![KeyUsagePurpose::KeyAgreement], ..Chain::default() }.make();
    refused(made.sign(place.path()), "usage");
    let mut six = Chain { between: 4, ..Chain::default() }.make();
    refused(six.sign(place.path()), "1 to 5 certificates");
    // Its root is left out of the signature, and the whole is too long all the same.
    let root = six.chain.pop().unwrap();
    six.sign(place.path()).unwrap();
    refused(verify(place.path(), &[root], NOW), "no chain leads");

    let other = Chain { curve: &PKCS_ED25519, ..Chain::default() }.make();
    let signer = Made { key: KeyPair::generate().unwrap(), chain: other.chain };
    refused(signer.sign(place.path()), "not ECDSA");
    let (first, second) = (Chain::default().make(), Chain::default().make());
    let mixed = Made { key: first.key, chain: second.chain };
    assert!(matches!(mixed.sign(place.path()), Err(SealingError::Oms(OmsError::CertificateOfAnotherKey))));
}

#[test]
fn a_certificate_that_is_named_itself_needs_no_chain_and_still_a_time() {
    let place = place();
    let key = KeyPair::generate().unwrap();
    let mut alone = parameters("alone");
    alone.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let chain = vec![alone.self_signed(&key).unwrap().der().to_vec()];
    let made = Made { key, chain };
    made.sign(place.path()).unwrap();
    verify(place.path(), &[made.root()], NOW).unwrap();
    refused(verify(place.path(), &[made.root()], "2027-01-02T00:00:00Z"), "not valid at this time");
    refused(verify(place.path(), &[Chain::default().make().root()], NOW), "no chain leads");
}
