//! The self-test before a switch: another process of this binary loads the bundle and proves it on this host.
//!
//! A model that does not fit into the memory ends the process that loads it, and a child may end without harm; the store
//! is changed by its parent alone, which has seen it succeed. As a server does, the child goes into the sandbox before it
//! looks at the bundle, as far as the host gives one; and it ends with whoever waits for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::catalogue::{Record, Wanted};
use super::error::StoreError;
use super::{OpenWith, Store, steps};
use crate::boot;
use crate::config::{Layers, RuntimeConfig};
use crate::error::Error;
use crate::exit::Exit;
use crate::identity::DecryptionIdentities;
use crate::sandbox::{self, Reach};

/// Loads a bundle of the store and replays its known answers, under the limits of the site's configuration and of the
/// bundle's contract.  Changes nothing.
///
/// # Errors
/// Whatever keeps the bundle from being served.
pub fn self_test(wanted: &Wanted, folder: &Path, with: &OpenWith, layers: &Layers) -> Result<Record, Error> {
    // Nobody would hear its verdict any more.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|source| Error::Host { reason: source.to_string() })?;
    let store = Store::open(folder)?;
    let record = store.find(wanted)?.clone();
    let name = store.describe(&record);
    let root = steps::root_for(&store, &record, with)?;
    let identities = DecryptionIdentities::read(with.identity.as_deref())?;
    let reach = Reach { folders: vec![folder.to_owned()], ..Reach::default() };
    let _inside = sandbox::enter(&reach, false)?;
    let admitted = steps::admit(&store, steps::open_again(&store, &record, &root, &identities)?, &name)?;
    let settled = boot::settle(layers, admitted.release(), |path| admitted.file(path))?;
    boot::prove(admitted, &RuntimeConfig::limits(&settled), &name).map_err(Error::in_store)?;
    Ok(record)
}

/// Runs `ampoule self-test` and waits for its end.  What it tells goes where ours goes.
pub(super) fn in_a_child(
    record: &Record,
    wanted: &Wanted,
    folder: &Path,
    with: &OpenWith,
    configuration: &[PathBuf],
) -> Result<(), StoreError> {
    let not_started = |source| StoreError::SelfTestNotStarted { source };
    let mut command = Command::new(std::env::current_exe().map_err(not_started)?);
    command.arg("self-test").arg(wanted.argument()).arg("--store").arg(folder);
    if let Some(root) = &with.trust_root {
        command.arg("--trust-root").arg(root);
    }
    if let Some(list) = &with.supplements.revocations {
        command.arg("--revocations").arg(list);
    }
    if let Some(token) = &with.supplements.downgrade_token {
        command.arg("--downgrade-token").arg(token);
    }
    if let Some(identity) = &with.identity {
        command.arg("--decryption-identity-file").arg(identity);
    }
    for file in configuration {
        command.arg("--config").arg(file);
    }
    // Only its verdict counts: standard output is the parent's, for one answer.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().map_err(not_started)?;
    if status.success() {
        return Ok(());
    }
    let exit = status.code().and_then(|code| u64::try_from(code).ok()).and_then(Exit::of_code);
    Err(StoreError::SelfTest { title: record.title(), reason: status.to_string(), exit })
}
