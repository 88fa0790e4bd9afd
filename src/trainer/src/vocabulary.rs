//! The demo model's tokenizer: a small byte-level BPE learnt from the corpus itself, and the chat format around it.
//!
//! Byte-level, so that any input has tokens; small, so that a slip of the finger costs a few known pieces rather than
//! an unknown word. The chat format gives each role one special token and ends each message with `<|end|>`.

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    TokenizerBuilder, TokenizerImpl,
};

use crate::error::TrainerError;

/// Special tokens in the order of their identifiers, which start at 0.
pub const SPECIAL_TOKENS: [&str; 5] = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];
/// Fills rows up; never predicted.
pub const PAD: u32 = 0;
/// Ends every message, and generation.
pub const END: u32 = 1;
/// Opens a system message.
pub const SYSTEM: u32 = 2;
/// Opens a user message.
pub const USER: u32 = 3;
/// Opens an answer.
pub const ASSISTANT: u32 = 4;

/// The chat template: what [`crate::rows`] writes as tokens, said in the language that runtimes read.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

type ByteLevelBpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Learns a tokenizer of `size` tokens from `texts`.
///
/// # Errors
/// What the tokenizer library refuses.
pub fn learn<'a>(texts: impl Iterator<Item = &'a str> + Send, size: usize) -> Result<Tokenizer, TrainerError> {
    let failed = |action| move |source| TrainerError::Tokenizer { action, source };
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer: ByteLevelBpe = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)))
        .with_post_processor(None)
        .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)))
        .build()
        .map_err(failed("assembled"))?;
    tokenizer.train(&mut trainer, texts).map_err(failed("trained"))?;
    let json = tokenizer.to_string(false).map_err(failed("written"))?;
    Tokenizer::from_bytes(json).map_err(failed("read back"))
}

/// `tokenizer_config.json` as Transformers reads it.
pub fn tokenizer_config(context_length: usize) -> serde_json::Value {
    let added: serde_json::Map<_, _> = SPECIAL_TOKENS
        .iter()
        .enumerate()
        .map(|(id, token)| {
            let entry = json!({
                "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": true,
            });
            (id.to_string(), entry)
        })
        .collect();
    json!({
        "added_tokens_decoder": added,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL_TOKENS[END as usize],
        "model_max_length": context_length,
        "pad_token": SPECIAL_TOKENS[PAD as usize],
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}
