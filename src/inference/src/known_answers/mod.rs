//! Known answers: what a model computed where it was sealed, and must compute again wherever it is loaded.
//!
//! ```text
//! at the vendor's   texts ─► tokens ─► model ─► highest logits of each step ─► release statement      (record)
//! at the site       release statement ─► tokens ─► model ─► the same numbers, within the tolerance    (replay)
//! ```
//!
//! Generation is teacher-forced: after each step the recorded token is fed, not the one that would be chosen here, so
//! that one difference does not hide all that follow.  Compared are numbers, within the tolerance that the vendor states
//! for this backend; equality to the bit is not to be had across instruction sets.

mod record;
mod replay;

pub use record::Recording;
pub(crate) use record::record;
pub use replay::{Comparison, Miss};
pub(crate) use replay::{replay, replay_trained};

use crate::error::InferenceError;
use crate::model::{Decoder, KvCache, SequenceStep};
use crate::packed::Alone;

/// The backend's name in a release statement's table of tolerances.
const BACKEND: &str = "cpu";

/// Values in a release statement are whole numbers of millionths, so that signed JSON needs no floating point.
const MILLIONTHS: f64 = 1e-6;

/// A sequence that is fed one stretch of tokens after the other, and tells the logits that follow each.
trait Forced {
    /// The logits of the token after `tokens`, one for each token of the vocabulary.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, InferenceError>;
}

impl Forced for Alone<'_> {
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, InferenceError> {
        Ok(Alone::feed(self, tokens)?)
    }
}

/// The same on the decoder that is trained.
struct Trained<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
}

impl Forced for Trained<'_> {
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let mut steps = [SequenceStep { tokens, cache: &mut self.cache, adapter: None }];
        let logits = self.decoder.forward(&mut steps)?;
        Ok(logits.first().map(|logits| logits.to_vec1::<f32>()).transpose()?.unwrap_or_default())
    }
}
