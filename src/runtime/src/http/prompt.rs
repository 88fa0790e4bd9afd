//! From what a client wrote to token numbers: chat messages through the sealed template, texts through the tokenizer.
//!
//! All of it is bounded before it begins: a text longer than the context could ever hold is refused by its length in
//! bytes, so that a megabyte of "a" costs a comparison and not a tokenisation (THREATS C27).

use ampoule_inference::text::{
    Affixes, ByteLimit, Conversation, Fault, Message, Role, SpecialTokens, TemplateOptions, TextError,
};

use super::error::{ApiError, echo};
use super::openai::chat::{ChatMessage, Content};
use super::openai::value::{Inputs, Object, Scalar};
use super::state::Appliance;

/// The messages of a chat as the template wants them.
pub(crate) fn conversation(
    appliance: &Appliance,
    messages: Vec<Object<ChatMessage>>,
    options: Option<std::collections::BTreeMap<String, Scalar>>,
) -> Result<Conversation, ApiError> {
    let mut messages: Vec<Message> = messages
        .into_iter()
        .enumerate()
        .map(|(index, Object(message))| read_message(index, message))
        .collect::<Result<_, _>>()?;
    if !appliance.engine().text().names_developer() {
        // OpenAI's newer word for the same thing; a template that does not know it may leave the instructions out.
        for message in messages.iter_mut().filter(|message| message.role == Role::Developer) {
            message.role = Role::System;
        }
    }
    if messages.iter().all(|message| message.content.as_deref().is_none_or(str::is_empty)) {
        return Err(ApiError::invalid("messages", "`messages` must hold at least one message with a text."));
    }
    let now = appliance.now().to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let mut conversation = Conversation::new(messages, now);
    let mut checked = TemplateOptions::default();
    for (name, Scalar(value)) in options.unwrap_or_default() {
        let refused = |error: TextError| ApiError::invalid("chat_template_kwargs", capitalised(&error.to_string()));
        checked.insert(&name, &value).map_err(refused)?;
    }
    conversation.options = checked;
    Ok(conversation)
}

fn read_message(index: usize, message: ChatMessage) -> Result<Message, ApiError> {
    let at = |member: &str| format!("messages[{index}].{member}");
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) || message.function_call.is_some() {
        return Err(ApiError::unsupported(&at("tool_calls"), "Tool calls are not supported."));
    }
    if message.tool_call_id.is_some() || matches!(message.role.as_str(), "tool" | "function") {
        return Err(ApiError::unsupported(&at("role"), "Answers of tools are not supported."));
    }
    if message.audio.is_some() {
        return Err(ApiError::unsupported(&at("audio"), "Audio is not supported."));
    }
    let role: Role = message.role.parse().map_err(|_| {
        let message = format!("The role {} is not one of system, developer, user, assistant.", echo(&message.role));
        ApiError::invalid(at("role"), message)
    })?;
    let content = match message.content {
        None => return Err(ApiError::invalid(at("content"), "A message needs a `content`.")),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut texts = Vec::with_capacity(parts.len());
            for (number, part) in parts.into_iter().enumerate() {
                match (part.kind.as_str(), part.text) {
                    ("text", Some(text)) => texts.push(text),
                    ("text", None) => {
                        let at = at(&format!("content[{number}].text"));
                        return Err(ApiError::invalid(at, "A text part needs a `text`."));
                    }
                    (kind, _) => {
                        let message = format!(
                            "Content of type {} is not supported: this model reads text. Nothing was fetched.",
                            echo(kind)
                        );
                        return Err(ApiError::unsupported(&at(&format!("content[{number}].type")), message));
                    }
                }
            }
            texts.join("\n")
        }
    };
    Ok(Message { name: message.name, ..Message::new(role, content) })
}

/// The prompt of a chat.
pub(crate) fn chat_tokens(appliance: &Appliance, conversation: &Conversation) -> Result<Vec<u32>, ApiError> {
    let limit = byte_limit(appliance);
    // Compared before the template runs, because rendering costs many times what this does.
    let written: usize =
        conversation.messages.iter().filter_map(|message| message.content.as_ref()).map(String::len).sum();
    if written > limit.0 {
        return Err(explain("messages", TextError::TooLong { found: written, limit: limit.0 }));
    }
    appliance.engine().text().chat_prompt(conversation, limit).map_err(|error| explain("messages", error))
}

/// The prompts of a completion.
///
/// A text that spells a special token means that token here: the prompt of this endpoint is the model's whole input,
/// and whoever writes it writes the format too.  In a chat the same letters stay letters (THREATS C26).
pub(crate) fn completion_tokens(appliance: &Appliance, prompts: &Inputs) -> Result<Vec<Vec<u32>>, ApiError> {
    let tokenizer = appliance.engine().text().tokenizer();
    let limit = byte_limit(appliance);
    tokens("prompt", prompts, |text| tokenizer.encode(text, SpecialTokens::Recognise, Affixes::Add, limit))
}

/// The inputs of an embedding request.
pub(crate) fn embedding_tokens(appliance: &Appliance, inputs: &Inputs) -> Result<Vec<Vec<u32>>, ApiError> {
    tokens("input", inputs, |text| appliance.engine().embedding_tokens(text))
}

fn tokens(
    param: &'static str,
    inputs: &Inputs,
    encode: impl Fn(&str) -> Result<Vec<u32>, TextError>,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let empty = || ApiError::invalid(param, format!("`{param}` must not be empty, nor hold anything empty."));
    if inputs.len() == 0 {
        return Err(empty());
    }
    match inputs {
        Inputs::Texts(texts) if texts.iter().any(String::is_empty) => Err(empty()),
        Inputs::Tokens(lists) if lists.iter().any(Vec::is_empty) => Err(empty()),
        Inputs::Texts(texts) => texts.iter().map(|text| encode(text).map_err(|error| explain(param, error))).collect(),
        Inputs::Tokens(lists) => Ok(lists.clone()),
    }
}

fn byte_limit(appliance: &Appliance) -> ByteLimit {
    ByteLimit::for_context(appliance.engine().context_limit())
}

/// Which of the text module's refusals a client may read in their own words, and which only the log.
fn explain(param: &'static str, error: TextError) -> ApiError {
    match &error {
        TextError::TooLong { found, limit } => {
            let message =
                format!("The text has {found} bytes; at most {limit} can fit this model's context. Please shorten it.");
            ApiError::context_length(param, message)
        }
        TextError::EmptyConversation | TextError::NoChatTemplate => {
            ApiError::invalid(param, capitalised(&error.to_string()))
        }
        TextError::TemplateRaised { message } => {
            ApiError::invalid(param, format!("The model's chat template refuses this: {}.", echo(message)))
        }
        _ if error.fault() == Fault::Client => {
            // The details may quote the conversation, so even the log gets no more than the kind of failure.
            let kind = format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
            ApiError::invalid(param, "The model's chat template or tokenizer cannot express this input.").because(kind)
        }
        _ => ApiError::internal(error),
    }
}

/// Library messages begin in lower case and have no full stop.
fn capitalised(message: &str) -> String {
    let mut letters = message.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_s_own_refusal_is_told() {
        let raised = TextError::TemplateRaised { message: "only \u{1b}[31m users speak here".to_owned() };
        let refused = format!("{:?}", explain("messages", raised));
        assert!(refused.contains("400") && refused.contains("\"messages\""), "{refused}");
        assert!(refused.contains("refuses this: `only ") && !refused.contains('\u{1b}'), "{refused}");
    }
}
