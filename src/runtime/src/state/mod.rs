//! What this installation remembers of what it has taken into use, so that nothing older is taken into use again.
//!
//! ```text
//! DIR/high-water.json      the high-water marks: a chain of records, replaced by one rename
//! DIR/high-water.log       when the state was made and reset, by whom and why; only ever added to
//! DIR/high-water.partial   what an interrupted writer left behind; the next writer begins it anew
//! DIR/high-water.lock      locked by whoever changes the state; readers need no lock
//! ```
//!
//! A state that is lost or damaged is no first start: it refuses, until a backup or `ampoule state reset` mends it.  An
//! older copy of it is not noticed, so who may write here can take marks back.  They are raised when a model has given its
//! known answers and before it is ready, so what is refused or interrupted before leaves them as they were.

mod chain;
mod error;
mod file;
mod keeping;

use std::path::{Path, PathBuf};

use ampoule_bundle::{Digest, HighWaterMarks, Timestamp};
use serde_json::json;

pub use chain::{Cause, Chain, Record};
pub use error::StateError;
pub use keeping::Keeping;

use file::{Found, Writer};

/// The longest reason of a reset.
const REASON_LIMIT: usize = 500;

/// One look at the state in a folder.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
    chain: Chain,
}

impl State {
    /// Makes a state in a folder that is there and has none.
    ///
    /// # Errors
    /// [`StateError::Exists`], and [`StateError::Lost`] where there was one.
    pub fn create(folder: &Path) -> Result<State, StateError> {
        let writer = Writer::lock(folder)?;
        match file::read(folder)? {
            Found::Chain(_) => return Err(StateError::Exists { folder: folder.to_owned() }),
            Found::Nothing { was_there: true } => return Err(StateError::Lost { folder: folder.to_owned() }),
            Found::Nothing { was_there: false } => {}
        }
        let (now, uid) = (now(), writer.uid()?);
        let chain = Chain::begin(Cause::Created { uid }, now, &HighWaterMarks::none());
        // The log comes second: a log without a state is a state that was lost.
        writer.replace(&chain.to_bytes())?;
        writer.log(&json!({ "time": now, "event": "created", "uid": uid }).to_string())?;
        Ok(State { folder: folder.to_owned(), chain })
    }

    /// Reads the state of a folder.
    ///
    /// # Errors
    /// [`StateError`] when there is none or it cannot be used.
    pub fn open(folder: &Path) -> Result<State, StateError> {
        let bytes = match file::read(folder)? {
            Found::Chain(bytes) => bytes,
            Found::Nothing { was_there: true } => return Err(StateError::Lost { folder: folder.to_owned() }),
            Found::Nothing { was_there: false } => return Err(StateError::Missing { folder: folder.to_owned() }),
        };
        let document = file::chain_path(folder).display().to_string();
        let chain = Chain::parse(&document, &bytes)
            .map_err(|reason| StateError::Damaged { folder: folder.to_owned(), reason })?;
        Ok(State { folder: folder.to_owned(), chain })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was seen so far.
    pub fn marks(&self) -> HighWaterMarks {
        self.chain.last().marks()
    }

    /// What happened, oldest first, as far back as it is kept.
    pub fn records(&self) -> &[Record] {
        self.chain.records()
    }

    /// Raises the marks to what was seen, durably.  What others have raised them to since this look counts too.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be written; the marks are then as they were.
    pub fn raise(&mut self, seen: &HighWaterMarks, by: &str) -> Result<(), StateError> {
        let writer = Writer::lock(&self.folder)?;
        let current = State::open(&self.folder)?;
        let mut marks = current.marks();
        marks.raise(seen);
        if marks != current.marks() {
            let chain = current.chain.with(Cause::Raised { by: by.to_owned() }, now(), &marks);
            writer.replace(&chain.to_bytes())?;
            self.chain = chain;
        } else {
            self.chain = current.chain;
        }
        Ok(())
    }

    /// Begins anew with no mark at all, whatever is there, and keeps on record why.
    ///
    /// # Errors
    /// [`StateError::Reason`], or when the state cannot be written.
    pub fn reset(folder: &Path, reason: &str) -> Result<State, StateError> {
        let length = reason.chars().count();
        if reason.trim().is_empty() || length > REASON_LIMIT || reason.chars().any(char::is_control) {
            return Err(StateError::Reason { limit: REASON_LIMIT });
        }
        let writer = Writer::lock(folder)?;
        let (lost, before) = match file::read(folder) {
            Ok(Found::Chain(bytes)) => (Some(Digest::of(&bytes)), Chain::parse("the state", &bytes).ok()),
            // What is too large to be a state is not worth a digest either.
            Ok(Found::Nothing { .. }) | Err(StateError::Damaged { .. }) => (None, None),
            Err(error) => return Err(error),
        };
        let (now, uid) = (now(), writer.uid()?);
        // The log comes first: there is no reset that is not on record.
        let event = json!({ "time": now, "event": "reset", "uid": uid, "reason": reason, "lost": lost });
        writer.log(&event.to_string())?;
        let cause = Cause::Reset { reason: reason.to_owned(), uid, lost };
        let chain = match before {
            Some(before) => before.with(cause, now, &HighWaterMarks::none()),
            None => Chain::begin(cause, now, &HighWaterMarks::none()),
        };
        writer.replace(&chain.to_bytes())?;
        Ok(State { folder: folder.to_owned(), chain })
    }
}

fn now() -> Timestamp {
    Timestamp::new(jiff::Timestamp::now())
}
