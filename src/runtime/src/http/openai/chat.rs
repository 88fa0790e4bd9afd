//! `POST /v1/chat/completions` on the wire.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::value::{Ignored, Integer, LogitBias, Number, Object, OneOrMany, Refused, Scalar};
use super::{ReplyHead, Usage};

/// The request body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatCompletionRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<Object<ChatMessage>>,

    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    pub(crate) n: Option<Integer>,
    pub(crate) max_tokens: Option<Integer>,
    pub(crate) max_completion_tokens: Option<Integer>,
    pub(crate) stop: Option<OneOrMany>,

    pub(crate) temperature: Option<Number>,
    pub(crate) top_p: Option<Number>,
    pub(crate) top_k: Option<Integer>,
    pub(crate) min_p: Option<Number>,
    pub(crate) presence_penalty: Option<Number>,
    pub(crate) frequency_penalty: Option<Number>,
    pub(crate) repetition_penalty: Option<Number>,
    pub(crate) logit_bias: Option<LogitBias>,
    pub(crate) seed: Option<Integer>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<Integer>,

    /// Not OpenAI's: options of the model's chat template, as vLLM takes them; checked against an allow-list.
    pub(crate) chat_template_kwargs: Option<BTreeMap<String, Scalar>>,
    pub(crate) response_format: Option<Object<ResponseFormat>>,
    pub(crate) tools: Option<Vec<Refused>>,
    pub(crate) functions: Option<Vec<Refused>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) function_call: Option<ToolChoice>,
    pub(crate) modalities: Option<Vec<String>>,
    pub(crate) store: Option<bool>,
    pub(crate) service_tier: Option<String>,

    pub(crate) audio: Option<Refused>,
    pub(crate) prediction: Option<Refused>,
    pub(crate) reasoning_effort: Option<Refused>,
    pub(crate) verbosity: Option<Refused>,
    pub(crate) web_search_options: Option<Refused>,

    // Accepted and without effect here: they steer OpenAI's own accounting and caching.
    #[serde(rename = "user")]
    _user: Option<Ignored>,
    #[serde(rename = "metadata")]
    _metadata: Option<Ignored>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<Ignored>,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<Ignored>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<Ignored>,
    #[serde(rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<Ignored>,
}

/// One message of the conversation.  The members of an answer that clients send back are known here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    pub(crate) content: Option<Content>,
    pub(crate) name: Option<String>,
    pub(crate) tool_calls: Option<Vec<Refused>>,
    pub(crate) function_call: Option<Refused>,
    pub(crate) tool_call_id: Option<Refused>,
    pub(crate) audio: Option<Refused>,
    #[serde(rename = "refusal")]
    _refusal: Option<Ignored>,
    #[serde(rename = "annotations")]
    _annotations: Option<Ignored>,
}

/// A message's content: a string, or parts.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// One part of a message.  Only text is read; what an image or audio part points at is never looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentPart {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
    #[serde(rename = "image_url")]
    _image_url: Option<Ignored>,
    #[serde(rename = "input_audio")]
    _input_audio: Option<Ignored>,
    #[serde(rename = "file")]
    _file: Option<Ignored>,
    #[serde(rename = "refusal")]
    _refusal: Option<Ignored>,
    #[serde(rename = "video_url")]
    _video_url: Option<Ignored>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(Object(part)) = items.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// `stream_options`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
    // OpenAI pads chunks against traffic analysis when this is on; whoever sets it turns that off.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// `response_format`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(rename = "json_schema")]
    _json_schema: Option<Ignored>,
}

/// `tool_choice`: a word, or an object that names a tool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Word(String),
    Named,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ToolChoice, D::Error> {
        struct ChoiceVisitor;
        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = ToolChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<ToolChoice, E> {
                Ok(ToolChoice::Word(value.to_owned()))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<ToolChoice, A::Error> {
                while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
                Ok(ToolChoice::Named)
            }
        }
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

/// The whole reply.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion {
    #[serde(flatten)]
    pub(crate) head: ReplyHead,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
}

#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: AnswerMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct AnswerMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    pub(crate) refusal: Option<String>,
}

/// The log probabilities of an answer's tokens.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<ChatTokenLogprob>,
    pub(crate) refusal: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChatTokenLogprob {
    #[serde(flatten)]
    pub(crate) chosen: TokenLogprob,
    pub(crate) top_logprobs: Vec<TokenLogprob>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct TokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}

/// One event of a streamed reply.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletionChunk {
    #[serde(flatten)]
    pub(crate) head: ReplyHead,
    pub(crate) choices: Vec<ChunkChoice>,
    /// Absent unless the client asked for usage; then null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}
