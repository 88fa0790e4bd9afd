//! Bytes that claim to be a trust root: the one signed file that a person may edit, so that white space is free in it.

#![no_main]

use ampoule_bundle::{Role, TrustRoot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(root) = TrustRoot::pin(bytes) else { return };
    assert!(root.version() >= 1);
    let release = root.role(Role::Release).expect("a root without the role is refused");
    assert!((1..=release.keyids.len()).contains(&release.threshold));
    assert!(release.keyids.iter().all(|id| root.key(*id).is_some()));
});
