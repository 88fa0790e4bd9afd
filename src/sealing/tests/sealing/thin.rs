//! A thin bundle carries what the old bundle lacks, names its base, and never takes another file's place.

use ampoule_bundle::archive::ThinBundle;
use ampoule_bundle::{LayerKind, SealedBundle};
use ampoule_sealing::SealingError;
use ampoule_sealing::countersign::countersign;
use ampoule_sealing::diff::diff;

use crate::draft::Draft;
use crate::support::{other_key, safetensors};

#[test]
fn what_both_bundles_hold_is_spared() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, readme: &[u8]| {
        let weights = safetensors(&[("a", "U8", &[2], b"ab")]);
        let layers =
            vec![("README.md", LayerKind::Doc, readme.to_vec()), ("model.safetensors", LayerKind::Weight, weights)];
        let path = folder.path().join(name);
        std::fs::write(&path, Draft::of(layers).to_bytes()).unwrap();
        path
    };
    let (old, new) = (write("old.bundle", b"old"), write("new.bundle", b"newer"));
    let out = folder.path().join("thin.bundle");
    let difference = diff(&old, &new, &out).unwrap();
    let manifest = |path| SealedBundle::open(std::fs::File::open(path).unwrap()).unwrap().unverified_manifest().clone();
    let weights = manifest(&new).layers()[1].clone();
    assert_eq!((difference.carried_bytes, difference.spared_bytes), (5, weights.size));
    assert_eq!((difference.manifest, difference.base), (manifest(&new).digest(), manifest(&old).digest()));
    let thin = ThinBundle::open(std::fs::File::open(&out).unwrap()).unwrap();
    assert!(thin.layer(weights.digest).is_none() && thin.layer(manifest(&new).layers()[0].digest).is_some());
    assert_eq!(thin.base().manifest, difference.base);
    let again = diff(&old, &new, &out);
    assert!(matches!(again, Err(SealingError::AlreadyExists { .. })), "{again:?}");
    let other = folder.path().join("other.bundle");
    let nothing = diff(&old, &old, &other);
    assert!(matches!(nothing, Err(SealingError::NothingNew { .. })), "{nothing:?}");
    // The same model with one signature more is something new, and carries no file.
    let signed = folder.path().join("signed.bundle");
    countersign(&old, other_key(), &signed).unwrap();
    assert_eq!(diff(&old, &signed, &other).unwrap().carried_bytes, 0);
    std::fs::remove_file(&other).unwrap();
    let of_a_thin_one = diff(&out, &new, &other);
    assert!(of_a_thin_one.is_err(), "a thin bundle is no base: {of_a_thin_one:?}");
}
