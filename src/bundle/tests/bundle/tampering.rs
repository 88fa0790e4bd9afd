//! Every single-bit flip and every truncation of a small bundle is refused: no byte is free to differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ampoule_bundle::Curve;

use crate::sample::{Changed, Cut, Draft, Signer, check, draft, root};

/// The smallest bundle that has one of everything that is needed: a small file, a weight file, two statements.
fn smallest(signer: &Signer) -> Vec<u8> {
    let draft = draft();
    let draft = Draft { files: vec![draft.files[0].clone(), draft.files[3].clone()], ..draft };
    draft.write(&[signer.attest(&draft.release_payload()), signer.attest(&draft.oms_payload())])
}

/// Runs `case` for every number below `count` on all cores.
fn for_all(count: usize, case: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    case(index);
                }
            });
        }
    });
}

#[test]
fn every_single_bit_flip_is_refused() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let bytes: Arc<[u8]> = smallest(&signer).into();
    check(bytes.to_vec(), &root).unwrap();
    assert!(bytes.len() < 32 << 10, "{} bytes take too long", bytes.len());
    for_all(bytes.len() * 8, |bit| {
        let changed = Changed { bytes: Arc::clone(&bytes), position: bit / 8, mask: 1 << (bit % 8) };
        assert!(check(changed, &root).is_err(), "bit {} of byte {} is free to differ", bit % 8, bit / 8);
    });
}

#[test]
fn every_truncation_is_refused() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let bytes: Arc<[u8]> = smallest(&signer).into();
    for_all(bytes.len(), |length| {
        let cut = Cut { bytes: Arc::clone(&bytes), length };
        assert!(check(cut, &root).is_err(), "the first {length} bytes alone are accepted");
    });
}

#[test]
fn whatever_follows_the_end_is_refused() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let bytes = smallest(&signer);
    for extra in [1, 511, 512, 1024, 10240] {
        for filler in [0, b'x'] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + extra, filler);
            assert!(check(longer, &root).is_err(), "{extra} more bytes are accepted");
        }
    }
}
