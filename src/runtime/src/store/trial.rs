//! The first start of a bundle that took another one's place.  Until it has become ready the store knows it as on trial,
//! and a server goes back to the bundle before it: at once when it is refused, at the next start when a server died of it.
//!
//! ```text
//! activate ─► pending ─serve begins─► started ─ready─► confirmed
//!                ▲                       ├─stopped before it was ready─► pending
//!                └───────────────────────┤
//!                                        └─refused, or the server died─► reverted: the previous one is active again
//! ```
//!
//! A start is recorded before anything is loaded, because a process that dies of a model records nothing afterwards.  The
//! store stays locked until the trial is decided, so that deciding it cannot fail for somebody else's sake.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Store;
use super::catalogue::{Catalogue, Record, TrialState};
use super::error::StoreError;
use super::writer::StoreWriter;
use crate::error::Error;

/// A trial that has begun.
#[derive(Debug)]
pub struct Trial {
    title: String,
    previous: String,
    /// Gone when the trial is decided; absent from the start where this process may not write to the store.
    writer: Mutex<Option<StoreWriter>>,
    is_recorded: bool,
}

impl Trial {
    /// Begins the trial of the active bundle, if it is on trial.  If an earlier start of it has died, it is given up here.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read, or is being changed by somebody else.
    pub fn begin(folder: &Path) -> Result<Option<Trial>, StoreError> {
        let store = Store::open(folder)?;
        if store.catalogue().trial().is_none() {
            return Ok(None);
        }
        let recorded = StoreWriter::open(folder).and_then(|mut writer| {
            let catalogue = writer.store().catalogue().clone();
            match catalogue.trial() {
                None => {}
                Some(TrialState::Pending) => writer.save(catalogue.with_trial(Some(TrialState::Started)))?,
                Some(TrialState::Started) => {
                    writer.save(catalogue.reverted())?;
                    tell_reverted(&catalogue, "an earlier start of it ended before it was ready");
                }
            }
            Ok(writer)
        });
        let writer = match recorded {
            Err(StoreError::Io { path, source }) if may_not_write(&source) => {
                let file = path.display().to_string();
                tracing::warn!(
                    file,
                    reason = %source,
                    "the active bundle is new and this server may not write to the store: it cannot go back by itself"
                );
                None
            }
            other => Some(other?),
        };
        let store = writer.as_ref().map_or(&store, StoreWriter::store);
        if store.catalogue().trial().is_none() {
            return Ok(None);
        }
        let (title, previous) = (store.active()?.title(), store.previous()?.title());
        Ok(Some(Trial { title, previous, is_recorded: writer.is_some(), writer: Mutex::new(writer) }))
    }

    /// Whether a refusal may end in the previous bundle's being served.
    pub fn can_revert(&self) -> bool {
        self.is_recorded
    }

    /// The bundle has become ready.
    pub fn confirm(&self) {
        match self.decide(|catalogue| catalogue.with_trial(None)) {
            Ok(false) => {}
            Ok(true) => tracing::info!(bundle = self.title, "the new bundle has become ready and is confirmed"),
            // It serves, so this is no reason to end it; but it must not be a surprise either.
            Err(error) => tracing::error!(
                bundle = self.title,
                %error,
                "the new bundle is ready, but that cannot be recorded: the next start will go back to the previous one"
            ),
        }
    }

    /// The bundle was refused for this reason, and the previous one is ready in its place.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be recorded.
    pub fn revert(&self, refusal: &Error) -> Result<(), StoreError> {
        let refusal = refusal.to_string();
        self.decide(|catalogue| {
            tell_reverted(catalogue, &refusal);
            catalogue.reverted()
        })?;
        Ok(())
    }

    /// Nothing was learned about the bundle: the server was told to stop, or would have refused any other too.
    pub fn withdraw(&self) {
        if let Err(error) = self.decide(|catalogue| catalogue.with_trial(Some(TrialState::Pending))) {
            tracing::error!(%error, "the start of the new bundle counts as failed, because the store cannot be written");
        }
    }

    /// What to say about a refusal where this process cannot go back.
    pub fn explain(&self, refusal: Error) -> Error {
        StoreError::Unconfirmed { title: self.title.clone(), source: Box::new(refusal) }.into()
    }

    /// Name and version of the bundle before this one.
    pub fn previous(&self) -> &str {
        &self.previous
    }

    /// Decides the trial; `false` if it is decided already, or not ours to decide.
    fn decide(&self, next: impl FnOnce(&Catalogue) -> Catalogue) -> Result<bool, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(false), |mut writer| {
            let catalogue = next(writer.store().catalogue());
            writer.save(catalogue).map(|()| true)
        })
    }
}

/// Says it where nobody can overlook it: it is an error although the server serves.
fn tell_reverted(before: &Catalogue, reason: &str) {
    let title = |record: Option<&Record>| record.map_or_else(String::new, Record::title);
    tracing::error!(
        given_up = title(before.active()),
        active = title(before.previous()),
        reason,
        "REVERTED: the bundle that was activated last did not become ready; the previous one is active again"
    );
}

fn may_not_write(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
