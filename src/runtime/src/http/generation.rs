//! Runs the generations of one request: hands them to the engine, merges their events, measures them.
//!
//! Dropping a [`Generation`] drops its tickets, and the engine cancels the work at its next step.  That is how a client
//! that leaves stops costing anything, at whatever point it leaves (THREATS C41).

use std::sync::Arc;
use std::time::Instant;

use ampoule_inference::{
    FinishReason, GenerationRequest, InferenceError, LoadedAdapter, Sampling, StopRules, SubmitError, Ticket,
    TokenEvent, TokenLogprobs,
};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, unfold};

use super::access::RequestRecord;
use super::error::ApiError;
use super::openai::Usage;
use super::parameters::OutputLimit;
use super::state::Appliance;

/// What one request asks the engine for: `choices` answers to each prompt.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The field that the prompts came from, for refusals.
    pub(crate) prompt_param: &'static str,
    /// The adapter that was asked for.
    pub(crate) adapter: Option<Arc<LoadedAdapter>>,
    pub(crate) choices: usize,
    pub(crate) output: OutputLimit,
    pub(crate) sampling: Sampling,
    pub(crate) stop: StopRules,
    pub(crate) logprobs: Option<u8>,
}

/// The running generations of one request.
pub(crate) struct Generation {
    events: SelectAll<BoxStream<'static, (usize, TokenEvent)>>,
    choices: Vec<ChoiceProgress>,
    wants_logprobs: bool,
    submitted: Instant,
    usage: Usage,
    appliance: Appliance,
    record: RequestRecord,
}

/// How far one of the choices is.
#[derive(Debug, Clone, Copy, Default)]
struct ChoiceProgress {
    last_token: Option<Instant>,
    tokens: u64,
}

/// What happened to one of the choices.
#[derive(Debug)]
pub(crate) enum ChoiceEvent {
    /// A token, and the text that it completed.
    Token { token: u32, text: String, logprobs: Option<TokenLogprobs> },
    /// The choice's last event: OpenAI's word for why.
    Finished(&'static str),
}

impl Generation {
    /// Submits all of an order or none of it.
    pub(crate) fn start(appliance: &Appliance, record: &RequestRecord, order: Order) -> Result<Generation, ApiError> {
        let prompt_param = order.prompt_param;
        let mut prompt_tokens = 0;
        let mut tickets = Vec::new();
        for prompt in order.prompts {
            let max_tokens = order.output.for_prompt(prompt_param, prompt.len())?;
            prompt_tokens += prompt.len() as u64;
            for choice in 0..order.choices {
                // The first choice is what a request for a single one would get; the others draw differently.
                let seed = order.sampling.seed.wrapping_add(choice as u64);
                let request = GenerationRequest {
                    sampling: Sampling { seed, ..order.sampling.clone() },
                    stop: order.stop.clone(),
                    logprobs: order.logprobs,
                    tenant: record.tenant(),
                    adapter: order.adapter.clone(),
                    ..GenerationRequest::new(prompt.clone(), max_tokens)
                };
                let ticket = appliance.engine().submit(request);
                tickets.push(ticket.map_err(|error| refusal(prompt_param, error))?);
            }
        }
        record.add_prompt_tokens(prompt_tokens);
        appliance.metrics().add_prompt_tokens(prompt_tokens);
        Ok(Generation {
            choices: vec![ChoiceProgress::default(); tickets.len()],
            wants_logprobs: order.logprobs.is_some(),
            submitted: Instant::now(),
            events: tickets.into_iter().enumerate().map(|(index, ticket)| events(index, ticket)).collect(),
            usage: Usage::new(prompt_tokens, 0),
            appliance: appliance.clone(),
            record: record.clone(),
        })
    }

    /// How many choices there are.
    pub(crate) fn choices(&self) -> usize {
        self.choices.len()
    }

    /// Whether the client asked for log probabilities, if only of an answer without tokens.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.wants_logprobs
    }

    /// The next event of any choice; `None` when all have finished.  May be dropped and called again without a loss.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, ChoiceEvent), ApiError>> {
        loop {
            let (choice, event) = self.events.next().await?;
            return Some(match event {
                TokenEvent::Started => {
                    self.appliance.metrics().began_after(self.submitted.elapsed());
                    continue;
                }
                TokenEvent::Token { token, text, logprobs } => {
                    self.measure(choice);
                    // Counted one by one: a client that leaves has had what it has had.
                    self.count(choice, 1);
                    Ok((choice, ChoiceEvent::Token { token, text, logprobs }))
                }
                TokenEvent::Finished { reason, usage } => self.finished(choice, reason, usage.completion_tokens),
                TokenEvent::Failed(InferenceError::EngineStopped) => {
                    Err(ApiError::unavailable("The server stopped before the answer ended."))
                }
                TokenEvent::Failed(error) => Err(ApiError::internal(error)),
            });
        }
    }

    /// What the request has cost so far: all of it, once [`Generation::next`] has returned `None`.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn record(&self) -> &RequestRecord {
        &self.record
    }

    fn finished(&mut self, choice: usize, reason: FinishReason, tokens: u64) -> Result<(usize, ChoiceEvent), ApiError> {
        self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens.saturating_add(tokens));
        // A token that ends the answer and is not part of it was generated too.
        self.count(choice, tokens.saturating_sub(self.choices[choice].tokens));
        match reason {
            FinishReason::Stop => Ok((choice, ChoiceEvent::Finished("stop"))),
            FinishReason::Length => Ok((choice, ChoiceEvent::Finished("length"))),
            FinishReason::Cancelled => Err(ApiError::unavailable("The server stopped before the answer ended.")),
        }
    }

    fn count(&mut self, choice: usize, tokens: u64) {
        self.choices[choice].tokens += tokens;
        self.record.add_completion_tokens(tokens);
        self.appliance.metrics().add_generation_tokens(tokens);
    }

    fn measure(&mut self, choice: usize) {
        let now = Instant::now();
        match self.choices[choice].last_token.replace(now) {
            Some(last) => self.appliance.metrics().next_token_after(now.duration_since(last)),
            None => {
                let waited = now.duration_since(self.record.started());
                self.record.set_first_token(waited);
                self.appliance.metrics().first_token_after(waited);
            }
        }
    }
}

fn events(choice: usize, ticket: Ticket) -> BoxStream<'static, (usize, TokenEvent)> {
    unfold(ticket, move |mut ticket| async move { ticket.next().await.map(|event| ((choice, event), ticket)) }).boxed()
}

/// The engine's refusals as a client should read them.
pub(crate) fn refusal(prompt_param: &'static str, error: SubmitError) -> ApiError {
    match error {
        SubmitError::Overloaded { .. } => ApiError::overloaded(),
        SubmitError::Stopped => ApiError::unavailable("The server takes no more requests."),
        SubmitError::EmptyPrompt | SubmitError::NoInput => ApiError::invalid(
            prompt_param,
            format!("`{prompt_param}` must not be empty: it gives a prompt of no tokens."),
        ),
        SubmitError::PromptTooLong { found, limit } => {
            let message = format!("The text has {found} tokens; at most {limit} are possible. Please shorten it.");
            ApiError::context_length(prompt_param, message)
        }
        SubmitError::TokenOutOfRange { token, vocabulary_size } => {
            let message = format!(
                "`{prompt_param}` has the token {token}, which this model does not know: its tokens are numbered below {vocabulary_size}."
            );
            ApiError::invalid(prompt_param, message)
        }
        SubmitError::NothingToGenerate => ApiError::invalid("max_tokens", "`max_tokens` must be at least 1."),
        SubmitError::ParameterOutOfRange { name, found, allowed } => {
            ApiError::invalid(name, format!("`{name}` must be {allowed}; found {found}."))
        }
        SubmitError::TooManyStopStrings { .. } | SubmitError::StopStringLength { .. } => {
            ApiError::invalid("stop", "`stop` holds too many texts, or one that is empty or too long.")
        }
        SubmitError::WrongKind { found, .. } => ApiError::unsupported_model(found),
        other => ApiError::internal(other),
    }
}
