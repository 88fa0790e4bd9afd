//! From a conversation to the tokens of a prompt, such that no message can forge the prompt's structure.
//!
//! A message may spell `<|im_end|>`. Transformers would make the special token of it; here it stays text, while every
//! conversation without such spellings gives exactly Transformers' tokens. Templates may trim, cut, replace and join
//! what messages say, so it is not enough to look at the messages. The conversation is therefore rendered twice:
//!
//! ```text
//!   plain     <|im_start|>user⏎Hi <|im_end|> there<|im_end|>⏎
//!   marked    <|im_start|>user⏎·H·i ·<·|·i·m·_·e·n·d·|·> ·t·h·e·r·e<|im_end|>⏎      (· is a private character)
//! ```
//!
//! In the marked text every character of a message is preceded by a mark, so what still reads as a special token was
//! written by the template. If both texts agree, its places are the places that count. A template that looks into the
//! messages (for `</think>`, say) may render the marked ones differently; then the sequence of special tokens must be
//! the same in both, or the marked rendering itself becomes the prompt.

use std::{collections::HashSet, ops::Range};

use ampoule_bundle::GgufHeader;

use super::{
    ByteLimit, ChatTemplate, Conversation, TextError, Tokenizer, gguf,
    hugging_face::{self, HuggingFaceFiles, SideFiles},
    python::is_whitespace,
};

/// A model's tokenizer together with its chat template.
#[derive(Debug, Clone)]
pub struct TextProcessor {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// A second template that some models have for conversations with tools.
    tool_template: Option<ChatTemplate>,
}

impl TextProcessor {
    /// Reads the text files of a bundle; `file` gives the bytes of a file by its name.
    ///
    /// # Errors
    /// [`TextError`] if there is no tokenizer.json, or if one of the files cannot be used.
    pub fn from_bundle_files<'a>(file: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, TextError> {
        let tokenizer = file("tokenizer.json").ok_or_else(|| TextError::File {
            file: "tokenizer.json",
            reason: "the bundle does not contain it".to_owned(),
        })?;
        let files = HuggingFaceFiles {
            tokenizer,
            tokenizer_config: file("tokenizer_config.json"),
            special_tokens_map: file("special_tokens_map.json"),
            generation_config: file("generation_config.json"),
            config: file("config.json"),
            chat_template: file("chat_template.jinja"),
        };
        let side = SideFiles::read(&files)?;
        let template = |name: &str| {
            let source = side.templates.get(name);
            source.map(|source| ChatTemplate::new(source, side.named.clone())).transpose()
        };
        Ok(Self {
            tokenizer: hugging_face::from_side_files(tokenizer, &side)?,
            template: template("default")?,
            tool_template: template("tool_use")?,
        })
    }

    /// Reads the tokenizer and the chat template from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`TextError`] if the metadata is incomplete, or if its kind of tokenizer is not known here.
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_gguf(header)?;
        let named = gguf::named_tokens(header);
        let template = gguf::chat_template(header).map(|source| ChatTemplate::new(source, named)).transpose()?;
        Ok(Self { tokenizer, template, tool_template: None })
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether conversations can become prompts.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Whether the chat template has words for instructions of the application's developer.  Most know the system's
    /// only, and many of those leave out what comes from anybody they do not know.
    #[must_use]
    pub fn names_developer(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::names_developer)
    }

    /// The tokens that end an answer, sorted.
    #[must_use]
    pub fn end_of_sequence(&self) -> &[u32] {
        self.tokenizer.end_of_sequence()
    }

    /// Renders a conversation and encodes it.
    ///
    /// `limit` bounds the rendered text in bytes.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], [`TextError::TooLong`], the template's refusals and failures.
    pub fn chat_prompt(&self, conversation: &Conversation, limit: ByteLimit) -> Result<Vec<u32>, TextError> {
        let template = match &self.tool_template {
            Some(template) if !conversation.tools.is_empty() => template,
            _ => self.template.as_ref().ok_or(TextError::NoChatTemplate)?,
        };
        let plain = match template.render(conversation, limit.0) {
            Err(TextError::TemplateOutput { limit }) => return Err(TextError::TooLong { found: limit + 1, limit }),
            rendered => rendered?,
        };
        let mark = unused_character(conversation, &plain).ok_or(TextError::NoMarkerLeft)?;
        let tokenizer = &self.tokenizer;
        // A mark takes up to four bytes and stands before each character.
        let marked_limit = limit.0.saturating_mul(5);
        let every = template.render_marked(conversation, marked_limit, &|text| {
            if is_name(text) && tokenizer.special_spellings(text).next().is_none() {
                text.to_owned()
            } else {
                mark_every_character(text, mark)
            }
        })?;
        let trusted = Marked::new(&every, mark, tokenizer);
        if trusted.text == plain {
            return if trusted.specials == tokenizer.special_matches(&plain) {
                tokenizer.encode_whole(&plain)
            } else {
                tokenizer.encode_between(&plain, &trusted.specials)
            };
        }
        // The template looked into the messages. Mark as little as possible, so that it sees what it looks for.
        let least = template.render_marked(conversation, marked_limit, &|text| {
            mark_spellings(text, mark, tokenizer.special_spellings(text))
        })?;
        let candidate = Marked::new(&least, mark, tokenizer);
        if !candidate.ids().eq(trusted.ids()) {
            return tokenizer.encode_between(&trusted.text, &trusted.specials);
        }
        if least == plain {
            tokenizer.encode_whole(&plain)
        } else {
            tokenizer.encode_between(&candidate.text, &candidate.specials)
        }
    }
}

/// A rendering without its marks, and the special tokens that were whole while the marks were in it.
struct Marked {
    text: String,
    specials: Vec<(Range<usize>, u32)>,
}

impl Marked {
    fn new(marked: &str, mark: char, tokenizer: &Tokenizer) -> Self {
        let mut specials = tokenizer.special_matches(marked);
        // A token of a single character has no inside for a mark; the one right before it tells that a message wrote it.
        // Before a longer token a mark says nothing: a template may have cut the character away that it belonged to.
        specials.retain(|(span, _)| {
            marked[span.clone()].trim().chars().nth(1).is_some() || !marked[..span.start].ends_with(mark)
        });
        let mut marks = marked.match_indices(mark).map(|(position, _)| position).peekable();
        let mut removed = 0;
        let mut shift = |position: usize| {
            while marks.next_if(|found| *found < position).is_some() {
                removed += mark.len_utf8();
            }
            position - removed
        };
        for (span, _) in &mut specials {
            let start = shift(span.start);
            *span = start..shift(span.end);
        }
        Self { text: marked.replace(mark, ""), specials }
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.specials.iter().map(|(_, id)| *id)
    }
}

/// A private-use character that neither the conversation nor its rendering contains.
fn unused_character(conversation: &Conversation, rendered: &str) -> Option<char> {
    let mut used = HashSet::new();
    let mut note = |text: &str| used.extend(text.chars().filter(|c| is_private(*c)));
    note(rendered);
    for message in &conversation.messages {
        for text in [&message.content, &message.name, &message.reasoning_content, &message.tool_call_id] {
            note(text.as_deref().unwrap_or_default());
        }
        for call in &message.tool_calls {
            note(&call.name);
            note(call.id.as_deref().unwrap_or_default());
            note_json(&call.arguments, &mut note);
        }
    }
    for json in conversation.tools.iter().chain(&conversation.documents) {
        note_json(json, &mut note);
    }
    PRIVATE_USE.into_iter().flatten().find(|c| !used.contains(c))
}

/// Unicode's three private-use areas.
const PRIVATE_USE: [std::ops::RangeInclusive<char>; 3] =
    ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}', '\u{100000}'..='\u{10fffd}'];

fn is_private(c: char) -> bool {
    PRIVATE_USE.iter().any(|area| area.contains(&c))
}

fn note_json(json: &serde_json::Value, note: &mut dyn FnMut(&str)) {
    match json {
        serde_json::Value::String(text) => note(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| note_json(item, note)),
        serde_json::Value::Object(fields) => {
            for (name, item) in fields {
                note(name);
                note_json(item, note);
            }
        }
        _ => {}
    }
}

/// Whether a text is a plain name such as `function` or `get_weather`. Templates look such names up in objects and
/// compare them, and no special token is spelled with one alone, so they go unmarked.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte))
}

/// Whitespace stays unmarked: templates trim it.
fn mark_every_character(text: &str, mark: char) -> String {
    let mut marked = String::with_capacity(text.len() * (1 + mark.len_utf8()));
    for c in text.chars() {
        if !is_whitespace(c) {
            marked.push(mark);
        }
        marked.push(c);
    }
    marked
}

/// Puts a mark inside each spelling of a special token.
fn mark_spellings(text: &str, mark: char, spellings: impl Iterator<Item = Range<usize>>) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut end = 0;
    for span in spellings {
        let first = text[span.clone()].chars().next().map_or(0, char::len_utf8);
        if first == span.len() {
            marked.push_str(&text[end..span.start]);
            marked.push(mark);
            end = span.start;
        } else {
            marked.push_str(&text[end..span.start + first]);
            marked.push(mark);
            end = span.start + first;
        }
    }
    marked.push_str(&text[end..]);
    marked
}
