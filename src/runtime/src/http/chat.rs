//! `POST /v1/chat/completions`.

use ampoule_inference::text::Tokenizer;
use ampoule_inference::{ModelKind, TokenLogprobs};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonReply};

use super::access::RequestRecord;
use super::error::{ApiError, echo};
use super::generation::{ChoiceEvent, Generation, Order};
use super::limits::Json;
use super::openai::chat::{
    AnswerMessage, ChatChoice, ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatLogprobs,
    ChatTokenLogprob, ChunkChoice, Delta, TokenLogprob, ToolChoice,
};
use super::openai::value::{Integer, Object};
use super::openai::{ReplyHead, Usage};
use super::parameters::{OutputLimit, SamplingFields, integer, stop_rules};
use super::prompt;
use super::sse::{self, Streamed};
use super::state::Appliance;

/// OpenAI's limit.
const MAX_TOP_LOGPROBS: i128 = 20;

pub(crate) async fn create(
    State(appliance): State<Appliance>,
    Extension(record): Extension<RequestRecord>,
    Json(request, memory): Json<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let target = appliance.require_model_of(ModelKind::Generator, &request.model)?;
    refuse_unsupported(&request)?;
    let streamed = Streamed::of(request.stream, request.stream_options.as_ref())?;
    let read = |appliance: &Appliance| order(appliance, request);
    let order = Order { adapter: target.adapter.clone(), ..appliance.off_thread(&record, memory, read).await? };
    let object = if streamed == Streamed::No { "chat.completion" } else { "chat.completion.chunk" };
    let reply = Reply {
        head: appliance.reply_head("chatcmpl", object, &target),
        tokenizer: appliance.engine().text().tokenizer().clone(),
    };
    let generation = Generation::start(&appliance, &record, order)?;
    match streamed {
        Streamed::No => whole(generation, reply).await,
        Streamed::Yes { usage } => Ok(sse::respond(generation, Stream { reply, usage })),
    }
}

fn order(appliance: &Appliance, request: ChatCompletionRequest) -> Result<Order, ApiError> {
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
    let (param, asked) = match (request.max_completion_tokens, request.max_tokens) {
        (Some(_), Some(_)) => {
            let message = "Give `max_completion_tokens` or the older `max_tokens`, not both.";
            return Err(ApiError::invalid("max_tokens", message));
        }
        (Some(asked), None) => ("max_completion_tokens", Some(asked)),
        (None, asked) => ("max_tokens", asked),
    };
    let output = OutputLimit {
        param,
        asked: integer(param, asked, 1..=context as i128)?,
        otherwise: None,
        cap: limits.max_output_tokens,
        context,
    };
    let choices = integer("n", request.n, 1..=limits.max_choices as i128)?.unwrap_or(1);
    let logprobs = logprobs(request.logprobs, request.top_logprobs)?;
    let stop = stop_rules(request.stop)?;
    let conversation = prompt::conversation(appliance, request.messages, request.chat_template_kwargs)?;
    let prompt = prompt::chat_tokens(appliance, &conversation)?;
    let prompts = vec![prompt];
    Ok(Order { prompts, prompt_param: "messages", adapter: None, choices, output, sampling, stop, logprobs })
}

fn logprobs(wanted: Option<bool>, top: Option<Integer>) -> Result<Option<u8>, ApiError> {
    let top = integer("top_logprobs", top, 0..=MAX_TOP_LOGPROBS)?;
    match (wanted.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")),
    }
}

/// Refuses what would change the answer's meaning and is not supported here, rather than leaving it out in silence.
///
/// A value that asks for nothing, such as an empty list of tools or the service tier `auto`, passes: clients send such
/// values unasked.
fn refuse_unsupported(request: &ChatCompletionRequest) -> Result<(), ApiError> {
    let refuse = |param: &str, message: &str| Err(ApiError::unsupported(param, message));
    let chooses_tool = |choice: &Option<ToolChoice>| match choice {
        None => false,
        Some(ToolChoice::Word(word)) => !matches!(word.as_str(), "none" | "auto"),
        Some(ToolChoice::Named) => true,
    };
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return refuse("tools", "Tools are not supported.");
    }
    if request.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
        return refuse("functions", "Functions are not supported.");
    }
    if chooses_tool(&request.tool_choice) {
        return refuse("tool_choice", "There are no tools to choose from.");
    }
    if chooses_tool(&request.function_call) {
        return refuse("function_call", "There are no functions to call.");
    }
    if let Some(Object(format)) = request.response_format.as_ref().filter(|Object(format)| format.kind != "text") {
        let message = format!("The response format {} is not supported; use \"text\".", echo(&format.kind));
        return Err(ApiError::unsupported("response_format", message));
    }
    if request.modalities.as_ref().is_some_and(|modalities| modalities.iter().any(|modality| modality != "text")) {
        return refuse("modalities", "Only text is supported.");
    }
    if request.store == Some(true) {
        return refuse("store", "Nothing is stored here; leave `store` out or make it false.");
    }
    if request.service_tier.as_deref().is_some_and(|tier| !matches!(tier, "auto" | "default")) {
        return refuse("service_tier", "There are no service tiers here.");
    }
    for (param, value) in [
        ("audio", request.audio),
        ("prediction", request.prediction),
        ("reasoning_effort", request.reasoning_effort),
        ("verbosity", request.verbosity),
        ("web_search_options", request.web_search_options),
    ] {
        if value.is_some() {
            return refuse(param, &format!("`{param}` is not supported."));
        }
    }
    Ok(())
}

/// What all parts of one answer have in common.
struct Reply {
    head: ReplyHead,
    tokenizer: Tokenizer,
}

impl Reply {
    fn logprob(&self, token: u32, logprob: f32) -> TokenLogprob {
        let bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        TokenLogprob { token: self.tokenizer.token_text(token).unwrap_or_default(), logprob, bytes }
    }

    fn logprobs(&self, token: u32, logprobs: &TokenLogprobs) -> ChatTokenLogprob {
        ChatTokenLogprob {
            chosen: self.logprob(token, logprobs.logprob),
            top_logprobs: logprobs.top.iter().map(|&(token, logprob)| self.logprob(token, logprob)).collect(),
        }
    }
}

async fn whole(mut generation: Generation, reply: Reply) -> Result<Response, ApiError> {
    let logprobs = generation.wants_logprobs().then(ChatLogprobs::default);
    let mut choices: Vec<ChatChoice> = (0..generation.choices())
        .map(|index| ChatChoice {
            index,
            message: AnswerMessage { role: "assistant", content: String::new(), refusal: None },
            logprobs: logprobs.clone(),
            finish_reason: "",
        })
        .collect();
    while let Some(event) = generation.next().await {
        let (choice, event) = event?;
        let choice = &mut choices[choice];
        match event {
            ChoiceEvent::Token { token, text, logprobs } => {
                choice.message.content.push_str(&text);
                if let (Some(all), Some(logprobs)) = (&mut choice.logprobs, logprobs) {
                    all.content.push(reply.logprobs(token, &logprobs));
                }
            }
            ChoiceEvent::Finished(reason) => choice.finish_reason = reason,
        }
    }
    let body = ChatCompletion { head: reply.head, choices, usage: generation.usage() };
    Ok(JsonReply(body).into_response())
}

struct Stream {
    reply: Reply,
    usage: bool,
}

impl Stream {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatCompletionChunk {
        ChatCompletionChunk { head: self.reply.head.clone(), choices, usage: self.usage.then_some(usage) }
    }
}

impl sse::Narrator for Stream {
    type Event = ChatCompletionChunk;

    fn opening(&mut self, index: usize) -> Option<ChatCompletionChunk> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(self.chunk(vec![ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None))
    }

    fn event(&mut self, index: usize, event: ChoiceEvent) -> Option<ChatCompletionChunk> {
        let choice = match event {
            ChoiceEvent::Token { text, logprobs: None, .. } if text.is_empty() => return None,
            ChoiceEvent::Token { token, text, logprobs } => ChunkChoice {
                index,
                delta: Delta { role: None, content: Some(text) },
                logprobs: logprobs.map(|logprobs| ChatLogprobs {
                    content: vec![self.reply.logprobs(token, &logprobs)],
                    refusal: None,
                }),
                finish_reason: None,
            },
            ChoiceEvent::Finished(reason) => {
                ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason: Some(reason) }
            }
        };
        Some(self.chunk(vec![choice], None))
    }

    fn usage(&mut self, usage: Usage) -> Option<ChatCompletionChunk> {
        self.usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
