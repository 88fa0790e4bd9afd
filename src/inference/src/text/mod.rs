//! Text in, tokens out, and back: tokenizers, chat templates, detokenizers.
//!
//! A request's way: a [`Conversation`] is rendered by the bundle's sealed [`ChatTemplate`] and encoded so that no
//! message can spell a special token ([`TextProcessor::chat_prompt`]); the model's tokens become text through a
//! [`Detokenizer`], whole characters at a time. Nothing here knows HTTP, files or the time of day.

mod added;
mod conversation;
mod deep_stack;
mod detokenizer;
mod error;
mod gguf;
mod hugging_face;
mod processor;
mod python;
mod sentence_piece;
mod template;
mod tokenizer;

pub use conversation::{Conversation, GenerationPrompt, Message, Role, TemplateOptions, ToolCall};
pub use detokenizer::{Detokenizer, SpecialTokensInOutput};
pub use error::{Fault, TextError};
pub use hugging_face::HuggingFaceFiles;
pub use processor::TextProcessor;
pub use template::ChatTemplate;
pub use tokenizer::{Affixes, ByteLimit, SpecialTokens, Tokenizer};
