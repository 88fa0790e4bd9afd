//! Who may change a file that decides what this host trusts and serves: the trust root, the configuration, the state of a
//! store.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The mode of an open file that every user of this host may write; `None` for one that they may not.
pub(crate) fn writable_by_all(file: &File) -> io::Result<Option<u32>> {
    Ok(ampoule_bundle::writable_by_all(file.metadata()?.mode()))
}
