//! `POST /v1/completions`.

use std::collections::BTreeMap;

use ampoule_inference::text::{SpecialTokensInOutput, Tokenizer};
use ampoule_inference::{ModelKind, TokenLogprobs};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonReply};

use super::access::RequestRecord;
use super::error::ApiError;
use super::generation::{ChoiceEvent, Generation, Order};
use super::limits::Json;
use super::openai::completions::{Completion, CompletionChoice, CompletionLogprobs, CompletionRequest};
use super::openai::value::Inputs;
use super::openai::{ReplyHead, Usage};
use super::parameters::{OutputLimit, SamplingFields, integer, stop_rules};
use super::prompt;
use super::sse::{self, Streamed};
use super::state::Appliance;

/// OpenAI's limit.
const MAX_LOGPROBS: i128 = 5;

/// How long an answer is if the client does not say; OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

pub(crate) async fn create(
    State(appliance): State<Appliance>,
    Extension(record): Extension<RequestRecord>,
    Json(request, memory): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let target = appliance.require_model_of(ModelKind::Generator, &request.model)?;
    refuse_unsupported(&request)?;
    let streamed = Streamed::of(request.stream, request.stream_options.as_ref())?;
    let (order, echoes) = appliance.off_thread(&record, memory, |appliance| order(appliance, request)).await?;
    let order = Order { adapter: target.adapter.clone(), ..order };
    let reply = Reply {
        head: appliance.reply_head("cmpl", "text_completion", &target),
        tokenizer: appliance.engine().text().tokenizer().clone(),
        choices_per_prompt: order.choices,
        echoes,
    };
    let generation = Generation::start(&appliance, &record, order)?;
    match streamed {
        Streamed::No => whole(generation, reply).await,
        Streamed::Yes { usage } => {
            let offsets = (0..generation.choices()).map(|choice| characters(reply.echo(choice))).collect();
            Ok(sse::respond(generation, Stream { reply, usage, offsets }))
        }
    }
}

/// The work, and the texts with which the answers begin if the client asked for its prompts back.
fn order(appliance: &Appliance, request: CompletionRequest) -> Result<(Order, Option<Vec<String>>), ApiError> {
    let profile = appliance.engine().profile();
    let limits = appliance.limits();
    let context = appliance.engine().context_limit();
    let sampling = SamplingFields {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        repetition_penalty: request.repetition_penalty,
        logit_bias: request.logit_bias.as_ref(),
        seed: request.seed,
    };
    let sampling = sampling.check(&appliance.served().defaults, profile.vocabulary_size)?;
    let choices = integer("n", request.n, 1..=limits.max_choices as i128)?.unwrap_or(1);
    if request.prompt.len().saturating_mul(choices) > limits.max_choices {
        let message = format!("One request may ask for {} answers: prompts times `n`.", limits.max_choices);
        return Err(ApiError::invalid("prompt", message));
    }
    let output = OutputLimit {
        param: "max_tokens",
        asked: integer("max_tokens", request.max_tokens, 1..=context as i128)?,
        otherwise: Some(DEFAULT_MAX_TOKENS),
        cap: limits.max_output_tokens,
        context,
    };
    let logprobs = integer("logprobs", request.logprobs, 0..=MAX_LOGPROBS)?;
    let stop = stop_rules(request.stop)?;
    let prompts = prompt::completion_tokens(appliance, &request.prompt)?;
    let echoes = request.echo.unwrap_or(false).then(|| match request.prompt {
        Inputs::Texts(texts) => texts,
        Inputs::Tokens(lists) => {
            let tokenizer = appliance.engine().text().tokenizer();
            lists.iter().map(|list| tokenizer.decode(list, SpecialTokensInOutput::Keep)).collect()
        }
    });
    let order = Order { prompts, prompt_param: "prompt", adapter: None, choices, output, sampling, stop, logprobs };
    Ok((order, echoes))
}

fn refuse_unsupported(request: &CompletionRequest) -> Result<(), ApiError> {
    if request.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::unsupported("suffix", "`suffix` is not supported."));
    }
    // Its default is 1, which clients send unasked; choosing among several would need them all generated.
    if integer::<u8>("best_of", request.best_of, 1..=20)?.is_some_and(|best_of| best_of != 1) {
        return Err(ApiError::unsupported("best_of", "`best_of` other than 1 is not supported; use `n`."));
    }
    if request.echo == Some(true) && request.logprobs.is_some() {
        let message = "`logprobs` of an echoed prompt are not supported; leave out `echo` or `logprobs`.";
        return Err(ApiError::unsupported("echo", message));
    }
    Ok(())
}

/// What all parts of one answer have in common.
struct Reply {
    head: ReplyHead,
    tokenizer: Tokenizer,
    choices_per_prompt: usize,
    echoes: Option<Vec<String>>,
}

impl Reply {
    /// The text with which a choice begins before anything is generated.
    fn echo(&self, choice: usize) -> &str {
        self.echoes.as_ref().map_or("", |echoes| &echoes[choice / self.choices_per_prompt])
    }

    fn body(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion { head: self.head.clone(), choices, usage }
    }

    /// Appends one token to the four parallel lists.
    fn add_logprobs(&self, lists: &mut CompletionLogprobs, token: u32, logprobs: &TokenLogprobs, offset: usize) {
        let text = |token| self.tokenizer.token_text(token).unwrap_or_default();
        let mut top = BTreeMap::new();
        for &(token, logprob) in &logprobs.top {
            // Two tokens may have the same text; the likelier one comes first and stays.
            top.entry(text(token)).or_insert(logprob);
        }
        lists.tokens.push(text(token));
        lists.token_logprobs.push(logprobs.logprob);
        lists.top_logprobs.push(top);
        lists.text_offset.push(offset);
    }
}

async fn whole(mut generation: Generation, reply: Reply) -> Result<Response, ApiError> {
    let logprobs = generation.wants_logprobs().then(CompletionLogprobs::default);
    let mut choices: Vec<CompletionChoice> = (0..generation.choices())
        .map(|index| CompletionChoice {
            index,
            text: reply.echo(index).to_owned(),
            logprobs: logprobs.clone(),
            finish_reason: None,
        })
        .collect();
    let mut offsets: Vec<usize> = choices.iter().map(|choice| characters(&choice.text)).collect();
    while let Some(event) = generation.next().await {
        let (index, event) = event?;
        let choice = &mut choices[index];
        match event {
            ChoiceEvent::Token { token, text, logprobs } => {
                if let (Some(lists), Some(logprobs)) = (&mut choice.logprobs, logprobs) {
                    reply.add_logprobs(lists, token, &logprobs, offsets[index]);
                }
                offsets[index] += characters(&text);
                choice.text.push_str(&text);
            }
            ChoiceEvent::Finished(reason) => choice.finish_reason = Some(reason),
        }
    }
    let body = reply.body(choices, Some(Some(generation.usage())));
    Ok(JsonReply(body).into_response())
}

struct Stream {
    reply: Reply,
    usage: bool,
    /// How many characters each choice has so far.
    offsets: Vec<usize>,
}

impl Stream {
    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        self.reply.body(choices, self.usage.then_some(usage))
    }
}

impl sse::Narrator for Stream {
    type Event = Completion;

    fn opening(&mut self, index: usize) -> Option<Completion> {
        let text = self.reply.echo(index).to_owned();
        if text.is_empty() {
            return None;
        }
        Some(self.chunk(vec![CompletionChoice { index, text, logprobs: None, finish_reason: None }], None))
    }

    fn event(&mut self, index: usize, event: ChoiceEvent) -> Option<Completion> {
        let choice = match event {
            ChoiceEvent::Token { text, logprobs: None, .. } if text.is_empty() => return None,
            ChoiceEvent::Token { token, text, logprobs } => {
                let logprobs = logprobs.map(|logprobs| {
                    let mut lists = CompletionLogprobs::default();
                    self.reply.add_logprobs(&mut lists, token, &logprobs, self.offsets[index]);
                    lists
                });
                self.offsets[index] += characters(&text);
                CompletionChoice { index, text, logprobs, finish_reason: None }
            }
            ChoiceEvent::Finished(reason) => {
                CompletionChoice { index, text: String::new(), logprobs: None, finish_reason: Some(reason) }
            }
        };
        Some(self.chunk(vec![choice], None))
    }

    fn usage(&mut self, usage: Usage) -> Option<Completion> {
        self.usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}

fn characters(text: &str) -> usize {
    text.chars().count()
}
