//! From one trust root to the next: one version at a time, signed by both, each key counted once.

use ampoule_bundle::{BundleError, Counter, Curve, Digest, Epoch, ErrorClass, Role, RootDocument, TrustRoot};

use crate::ecdsa::malleated;
use crate::sample::{Signer, draft, open_and_verify, root_document, signed};

/// A root of this version whose `root` role has these keys and threshold; the first of them releases too.
fn with_root_keys(version: u64, keys: &[&Signer], threshold: usize) -> RootDocument {
    root_document(version, &[(Role::Root, keys, threshold), (Role::Release, &keys[..1], 1)])
}

fn pin(document: &RootDocument) -> TrustRoot {
    TrustRoot::pin(&document.to_bytes()).unwrap()
}

fn keys<const N: usize>() -> [Signer; N] {
    std::array::from_fn(|index| Signer::new(if index % 2 == 0 { Curve::P256 } else { Curve::P384 }))
}

#[test]
fn a_root_signed_by_both_thresholds_succeeds() {
    let [a, b, c] = keys();
    let first = pin(&with_root_keys(1, &[&a, &b], 2));
    let next = signed(&with_root_keys(2, &[&b, &c], 2), &[&a, &b, &c]);
    let second = first.succeed(&next).unwrap();
    assert_eq!((second.version(), second.digest()), (2, Digest::of(&next)));
    assert_eq!(second.key(a.id()), None);
    let third = second.succeed(&signed(&with_root_keys(3, &[&c], 1), &[&b, &c])).unwrap();
    assert_eq!(third.version(), 3);
}

#[test]
fn a_threshold_of_each_root_must_sign() {
    let [a, b, c, stranger] = keys();
    let old = with_root_keys(1, &[&a, &b], 2);
    let new = with_root_keys(2, &[&b, &c], 2);
    for (signers, whose) in [
        (&[][..], "the root before it"),
        (&[&b, &c], "the root before it"),
        (&[&a, &stranger, &c], "the root before it"),
        (&[&a, &b], "the root itself"),
        (&[&a, &b, &stranger], "the root itself"),
    ] {
        let error = pin(&old).succeed(&signed(&new, signers)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Signature);
        let expected = matches!(&error, BundleError::TooFewDocumentSignatures { whose: found, .. } if *found == whose);
        assert!(expected, "{whose}: {error}");
    }
}

#[test]
fn c15_one_key_counts_once_however_often_it_signs() {
    let [a, b] = keys();
    let old = with_root_keys(1, &[&a, &b], 2);
    let mut new = with_root_keys(2, &[&a, &b], 2);
    let payload = new.payload();
    let signature = a.sign(&payload);
    let twin = malleated(&signature);
    assert!(a.public.verifies(&payload, &twin), "(r, n - s) is a right signature too");
    for der in [signature.clone(), signature, a.sign(&payload), twin] {
        new.add_signature(a.id(), &der);
    }
    let error = pin(&old).succeed(&new.to_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::TooFewDocumentSignatures { found: 1, required: 2, .. }), "{error}");
    pin(&old).succeed(&signed(&new, &[&b])).unwrap();
}

#[test]
fn c15_one_key_under_two_ids_is_refused() {
    let [a, b] = keys();
    let mut new = with_root_keys(2, &[&a], 1);
    let key = new.signed.keys[&a.id()].clone();
    new.signed.keys.insert(b.id(), key);
    new.signed.roles.get_mut(&Role::Root).unwrap().keyids.insert(b.id());
    new.signed.roles.get_mut(&Role::Root).unwrap().threshold = 2;
    let old = pin(&with_root_keys(1, &[&a], 1));
    let error = old.succeed(&signed(&new, &[&a])).unwrap_err();
    assert!(matches!(error, BundleError::MalformedTrustRoot { .. }), "{error}");
}

#[test]
fn a_wrong_signature_refuses_even_beside_enough_right_ones() {
    let [a, b] = keys();
    let old = with_root_keys(1, &[&a, &b], 1);
    let mut new = with_root_keys(2, &[&a, &b], 1);
    new.add_signature(a.id(), &a.sign(&new.payload()));
    new.add_signature(b.id(), &b.sign(b"something else"));
    let error = pin(&old).succeed(&new.to_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::BadDocumentSignature { key, .. } if key == b.id()), "{error}");
    let error = TrustRoot::pin(&new.to_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::BadDocumentSignature { key, .. } if key == b.id()), "pinned: {error}");
}

#[test]
fn c13_the_signature_on_another_document_is_none_on_a_root() {
    let [a] = keys();
    let old = with_root_keys(1, &[&a], 1);
    let mut new = with_root_keys(2, &[&a], 1);
    // The bytes of the file, and the statement form of the same bytes.
    for message in [new.to_bytes(), ampoule_bundle::pre_authentication_encoding("root", &new.payload())] {
        new.signatures.clear();
        new.add_signature(a.id(), &a.sign(&message));
        let error = pin(&old).succeed(&new.to_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::BadDocumentSignature { .. }), "{error}");
    }
}

#[test]
fn c16_an_older_root_and_a_gap_are_refused() {
    let [a] = keys();
    for (from, to) in [(2, 1), (2, 2), (1, 3), ((1 << 53) - 1, 1)] {
        let old = pin(&with_root_keys(from, &[&a], 1));
        let error = old.succeed(&signed(&with_root_keys(to, &[&a], 1), &[&a])).unwrap_err();
        let expected =
            matches!(error, BundleError::RootVersion { found, expected } if found == to && expected == from + 1);
        assert!(expected, "{from} to {to}: {error}");
    }
}

#[test]
fn a_root_without_root_keys_begins_and_ends_its_chain() {
    let [a] = keys();
    let without = |version| root_document(version, &[(Role::Release, &[&a], 1)]);
    let error = pin(&without(1)).succeed(&signed(&with_root_keys(2, &[&a], 1), &[&a])).unwrap_err();
    assert!(matches!(error, BundleError::MissingRole { whose: "the root before it", .. }), "{error}");
    let error = pin(&with_root_keys(1, &[&a], 1)).succeed(&signed(&without(2), &[&a])).unwrap_err();
    assert!(matches!(error, BundleError::MissingRole { whose: "the root itself", .. }), "{error}");
}

#[test]
fn c17_a_rotation_takes_a_stolen_key_away_and_the_next_epoch_begins_anew() {
    let [root_key, stolen, fresh] = keys();
    let document = |version, release: &Signer, epoch| {
        let mut document = root_document(version, &[(Role::Root, &[&root_key], 1), (Role::Release, &[release], 1)]);
        document.signed.maximum_epoch = Some(Epoch(epoch));
        document
    };
    let mut poisoned = draft();
    poisoned.release.counter = Counter((1 << 53) - 1);
    let first = pin(&document(1, &stolen, 1));
    open_and_verify(poisoned.seal(&[&stolen]), &first).unwrap();

    let second = first.succeed(&signed(&document(2, &fresh, 2), &[&root_key])).unwrap();
    let error = open_and_verify(poisoned.seal(&[&stolen]), &second).err().expect("the stolen key is gone");
    assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{error}");
    let mut recovered = draft();
    (recovered.release.epoch, recovered.release.counter) = (Epoch(2), Counter(1));
    open_and_verify(recovered.seal(&[&fresh]), &second).unwrap();
}
