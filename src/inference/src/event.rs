//! What the engine answers: a stream of token events for a generation, one result for an embedding.  A ticket is the
//! receiving end; dropping it cancels the work at the engine's next step.

use tokio::sync::{mpsc, oneshot};

use crate::error::InferenceError;

/// One thing that happened to a generation, in order.
#[derive(Debug)]
pub enum TokenEvent {
    /// The wait is over: the engine begins with the prompt.  The first event of every generation that gets this far.
    Started,
    /// A token was chosen and its text is certain: no stop string can begin in it any more.
    Token {
        /// The token's id.
        token: u32,
        /// The text that this token completes: whole characters only, empty while a character is incomplete.
        text: String,
        /// Log-probabilities, when they were asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The last event of a completion that ended as it should.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// The last event of a completion that the engine could not continue.
    Failed(InferenceError),
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the context length.
    Length,
    /// The engine was stopped.
    Cancelled,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt (of all inputs, for embeddings).
    pub prompt_tokens: u64,
    /// Tokens that were generated, those included that ended the completion and are not emitted.
    pub completion_tokens: u64,
}

/// Log-probabilities at one step: natural logarithms of the model's own distribution, before any transform.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was chosen.
    pub logprob: f32,
    /// The most likely tokens, highest first, the lower id first among equals; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// The receiving end of one generation.
#[derive(Debug)]
pub struct Ticket {
    events: mpsc::UnboundedReceiver<TokenEvent>,
    ended: bool,
}

impl Ticket {
    pub(crate) fn new(events: mpsc::UnboundedReceiver<TokenEvent>) -> Ticket {
        Ticket { events, ended: false }
    }

    /// The next event; `None` after `Finished` or `Failed`, one of which always comes.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        let event = self.events.recv().await;
        self.close(event)
    }

    /// As [`Ticket::next`], for threads outside an async runtime; panics inside one.
    pub fn blocking_next(&mut self) -> Option<TokenEvent> {
        let event = self.events.blocking_recv();
        self.close(event)
    }

    /// Makes sure that there is exactly one last event, even if the engine went away without a word.
    fn close(&mut self, event: Option<TokenEvent>) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        let event = event.unwrap_or(TokenEvent::Failed(InferenceError::EngineStopped));
        self.ended = !matches!(event, TokenEvent::Started | TokenEvent::Token { .. });
        Some(event)
    }
}

/// The vectors of one embedding request.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector per input, in the order of the inputs.
    pub vectors: Vec<Vec<f32>>,
    /// What it cost; no completion tokens.
    pub usage: Usage,
}

/// The receiving end of one embedding request.
#[derive(Debug)]
pub struct EmbeddingTicket {
    pub(crate) result: oneshot::Receiver<Result<Embeddings, InferenceError>>,
}

impl EmbeddingTicket {
    /// Waits for the vectors.
    pub async fn wait(self) -> Result<Embeddings, InferenceError> {
        self.result.await.unwrap_or(Err(InferenceError::EngineStopped))
    }

    /// As [`EmbeddingTicket::wait`], for threads outside an async runtime; panics inside one.
    pub fn blocking_wait(self) -> Result<Embeddings, InferenceError> {
        self.result.blocking_recv().unwrap_or(Err(InferenceError::EngineStopped))
    }
}
