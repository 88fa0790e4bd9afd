//! Builds a tokenizer from the metadata of a GGUF file.
//!
//! GGUF keeps the vocabulary and names the rest: `tokenizer.ggml.model` says which algorithm, `tokenizer.ggml.pre` which
//! regular expression cuts the text first. A name that is not known here is refused: a tokenizer that is nearly right
//! makes a model that is quietly wrong.

use ampoule_bundle::{GgufArray, GgufHeader, GgufValue};
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::{TextError, Tokenizer, sentence_piece::SentencePiece, tokenizer::SpecialRoles};

/// The values of `tokenizer.ggml.model` that are known here.
const MODELS: &str = "gpt2 (byte-level BPE), llama (SentencePiece), bert (WordPiece)";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level BPE model cuts text before it merges.
struct PreTokenizer {
    name: &'static str,
    pattern: &'static str,
    /// Each digit is a piece of its own.
    digits: bool,
    /// Text is composed to Unicode NFC first.
    compose: bool,
    /// A piece that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    begins: bool,
}

const PLAIN: PreTokenizer =
    PreTokenizer { name: "gpt-2", pattern: GPT2, digits: false, compose: false, ignore_merges: false, begins: false };
const LLAMA_3: PreTokenizer =
    PreTokenizer { name: "llama-bpe", pattern: LLAMA3, ignore_merges: true, begins: true, ..PLAIN };
const QWEN_2: PreTokenizer = PreTokenizer { name: "qwen2", pattern: QWEN2, compose: true, ..PLAIN };
const SINGLE_DIGITS: PreTokenizer = PreTokenizer { name: "smollm", digits: true, ..PLAIN };

/// The values of `tokenizer.ggml.pre` that are known here, for byte-level BPE.
const PRE_TOKENIZERS: [PreTokenizer; 12] = [
    PLAIN,
    PreTokenizer { name: "mpt", ..PLAIN },
    PreTokenizer { name: "olmo", ..PLAIN },
    LLAMA_3,
    PreTokenizer { name: "llama3", ..LLAMA_3 },
    PreTokenizer { name: "llama-v3", ..LLAMA_3 },
    QWEN_2,
    PreTokenizer { name: "deepseek-r1-qwen", ..QWEN_2 },
    SINGLE_DIGITS,
    PreTokenizer { name: "starcoder", ..SINGLE_DIGITS },
    PreTokenizer { name: "refact", ..SINGLE_DIGITS },
    PreTokenizer { name: "tekken", pattern: TEKKEN, ignore_merges: true, begins: true, ..PLAIN },
];

/// End-of-turn tokens by their usual spellings, since many files name only the end of the text.
const END_SPELLINGS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<EOT>"];

impl Tokenizer {
    /// Builds the tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// [`TextError::UnsupportedGgufModel`] and [`TextError::UnsupportedPreTokenizer`] for names that are not known here;
    /// the other `Gguf…` variants for metadata that is incomplete or contradicts itself.
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, TextError> {
        let vocabulary = Vocabulary::read(header)?;
        match text(header, "tokenizer.ggml.model")? {
            "gpt2" => byte_level(header, &vocabulary),
            "llama" => sentence_piece(header, &vocabulary),
            "bert" => word_piece(header, &vocabulary),
            found => Err(TextError::UnsupportedGgufModel { found: shorten(found), supported: MODELS }),
        }
    }
}

/// The chat template of a GGUF file, if it has one.
pub(super) fn chat_template(header: &GgufHeader) -> Option<&str> {
    header.metadata.get("tokenizer.chat_template").and_then(GgufValue::as_str)
}

/// The template variables such as `bos_token` that a GGUF file names.
pub(super) fn named_tokens(header: &GgufHeader) -> Vec<(String, String)> {
    let tokens = header.metadata.get("tokenizer.ggml.tokens").and_then(GgufValue::as_strings).unwrap_or_default();
    // GGUF spells it "seperator".
    let names = [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("sep_token", "seperator"),
        ("pad_token", "padding"),
        ("cls_token", "cls"),
        ("mask_token", "mask"),
    ];
    names
        .into_iter()
        .filter_map(|(name, key)| {
            let id = token_id(header, key)?;
            Some((name.to_owned(), tokens.get(usize::try_from(id).ok()?)?.clone()))
        })
        .collect()
}

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// Part of plain text: 1 (normal) and 6 (byte).
    Plain,
    /// Structure of the sequence: 2 (unknown) and 3 (control).
    Control,
    /// Found in the text before it is cut: 4.
    UserDefined,
    /// Never produced: 5.
    Unused,
}

struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<TokenKind>,
}

impl<'a> Vocabulary<'a> {
    fn read(header: &'a GgufHeader) -> Result<Self, TextError> {
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens = strings(header, "tokenizer.ggml.tokens")?;
        let wrong = TextError::GgufKeyType { key: TYPES, expected: "an array of i32 from 1 to 6" };
        let kinds = match header.metadata.get(TYPES) {
            None => vec![TokenKind::Plain; tokens.len()],
            Some(GgufValue::Array(GgufArray::I32(numbers))) => {
                let kind = |number: &i32| match number {
                    1 | 6 => Some(TokenKind::Plain),
                    2 | 3 => Some(TokenKind::Control),
                    4 => Some(TokenKind::UserDefined),
                    5 => Some(TokenKind::Unused),
                    _ => None,
                };
                numbers.iter().map(kind).collect::<Option<Vec<_>>>().ok_or(wrong)?
            }
            Some(_) => return Err(wrong),
        };
        if kinds.len() != tokens.len() {
            return Err(TextError::GgufTableLength { key: TYPES, found: kinds.len(), expected: tokens.len() });
        }
        if u32::try_from(tokens.len()).is_err() {
            return Err(TextError::GgufKeyType { key: "tokenizer.ggml.tokens", expected: "fewer than 2^32 tokens" });
        }
        Ok(Self { tokens, kinds })
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenKind)> {
        (0_u32..).zip(self.tokens).zip(&self.kinds).map(|((id, text), kind)| (id, text.as_str(), *kind))
    }

    fn get(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// The tokens that are found before the text is cut.
    fn added(&self) -> Vec<AddedToken> {
        self.iter()
            .filter_map(|(_, text, kind)| match kind {
                TokenKind::Control => Some(AddedToken::from(text, true)),
                TokenKind::UserDefined => Some(AddedToken::from(text, false).normalized(false)),
                TokenKind::Plain | TokenKind::Unused => None,
            })
            .collect()
    }

    /// The token that a key names, by id and spelling.
    fn named(&self, header: &GgufHeader, key: &str) -> Option<(u32, &'a str)> {
        let id = token_id(header, key)?;
        Some((id, self.get(id)?))
    }
}

/// What differs between the three kinds of tokenizers, in the form of a tokenizer.json.
struct Sections {
    normalizer: Value,
    pre_tokenizer: Value,
    model: Value,
    decoder: Value,
    /// The names of the keys whose tokens go before and after a text.
    before: Vec<&'static str>,
    after: Vec<&'static str>,
}

fn byte_level(header: &GgufHeader, vocabulary: &Vocabulary<'_>) -> Result<Tokenizer, TextError> {
    let name = text(header, "tokenizer.ggml.pre")?;
    let pre = PRE_TOKENIZERS.iter().find(|pre| pre.name == name).ok_or_else(|| TextError::UnsupportedPreTokenizer {
        found: shorten(name),
        supported: PRE_TOKENIZERS.map(|pre| pre.name).join(", "),
    })?;
    let split = json!({"type": "Split", "pattern": {"Regex": pre.pattern}, "behavior": "Isolated", "invert": false});
    let alphabet = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let mut steps = vec![split, alphabet.clone()];
    if pre.digits {
        steps.insert(0, json!({"type": "Digits", "individual_digits": true}));
    }
    let sections = Sections {
        normalizer: if pre.compose { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        model: json!({
            "type": "BPE",
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary_json(vocabulary.iter().map(|(id, text, _)| (text.to_owned(), id))),
            "merges": strings(header, "tokenizer.ggml.merges")?,
        }),
        decoder: alphabet,
        before: if flag(header, "tokenizer.ggml.add_bos_token")?.unwrap_or(pre.begins) { vec!["bos"] } else { vec![] },
        after: if flag(header, "tokenizer.ggml.add_eos_token")?.unwrap_or(false) { vec!["eos"] } else { vec![] },
    };
    assemble(header, vocabulary, sections, None)
}

fn sentence_piece(header: &GgufHeader, vocabulary: &Vocabulary<'_>) -> Result<Tokenizer, TextError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = match header.metadata.get(SCORES) {
        Some(GgufValue::Array(GgufArray::F32(scores))) => scores,
        Some(_) => return Err(TextError::GgufKeyType { key: SCORES, expected: "an array of f32" }),
        None => return Err(TextError::GgufKeyMissing { key: SCORES }),
    };
    if scores.len() != vocabulary.tokens.len() {
        let (found, expected) = (scores.len(), vocabulary.tokens.len());
        return Err(TextError::GgufTableLength { key: SCORES, found, expected });
    }
    // Control tokens stay out, so that plain text never becomes one.
    let plain = vocabulary.iter().zip(scores).filter(|((_, _, kind), _)| *kind == TokenKind::Plain);
    let pieces = plain.map(|((id, text, _), score)| (id, text, *score));
    let model = SentencePiece::new(pieces, token_id(header, "unknown"));
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prefix = flag(header, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let sections = Sections {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        // The library's model only knows the tokens here; the encoder above does the work.
        model: json!({
            "type": "BPE",
            "vocab": vocabulary_json(vocabulary.iter().map(|(id, text, _)| (text.to_owned(), id))),
            "merges": [],
        }),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        before: if flag(header, "tokenizer.ggml.add_bos_token")?.unwrap_or(true) { vec!["bos"] } else { vec![] },
        after: if flag(header, "tokenizer.ggml.add_eos_token")?.unwrap_or(false) { vec!["eos"] } else { vec![] },
    };
    assemble(header, vocabulary, sections, Some(model))
}

fn word_piece(header: &GgufHeader, vocabulary: &Vocabulary<'_>) -> Result<Tokenizer, TextError> {
    let unknown = vocabulary.named(header, "unknown").map_or("[UNK]", |(_, text)| text);
    let words = vocabulary.iter().map(|(id, text, _)| (word_piece_spelling(text), id));
    let sections = Sections {
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": true,
            "lowercase": true,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        model: json!({
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary_json(words),
        }),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        before: vec!["cls"],
        after: vec!["seperator"],
    };
    assemble(header, vocabulary, sections, None)
}

/// GGUF writes the beginning of a word as U+2581 and its continuation bare; WordPiece has it the other way round.
fn word_piece_spelling(token: &str) -> String {
    match token.strip_prefix('\u{2581}') {
        Some(word) => word.to_owned(),
        None if token.starts_with('[') && token.ends_with(']') => token.to_owned(),
        None => format!("##{token}"),
    }
}

fn assemble(
    header: &GgufHeader,
    vocabulary: &Vocabulary<'_>,
    sections: Sections,
    model: Option<SentencePiece>,
) -> Result<Tokenizer, TextError> {
    let file = |reason: String| TextError::File { file: "the GGUF metadata", reason };
    let post_processor = post_processor(header, vocabulary, &sections);
    let document = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": sections.normalizer,
        "pre_tokenizer": sections.pre_tokenizer,
        "post_processor": post_processor,
        "model": sections.model,
    });
    let mut library: tokenizers::Tokenizer =
        serde_json::from_value(document).map_err(|error| file(error.to_string()))?;
    library.add_tokens(vocabulary.added()).map_err(|error| file(error.to_string()))?;
    let texts = vocabulary.iter().map(|(id, ..)| library.id_to_token(id)).collect();

    let keys = ["eos", "eot", "eom"].into_iter().filter_map(|key| token_id(header, key));
    let spelled = vocabulary
        .iter()
        .filter(|(_, text, kind)| *kind != TokenKind::Plain && END_SPELLINGS.contains(text))
        .map(|(id, ..)| id);
    let mut end: Vec<u32> = keys.chain(spelled).collect();
    end.sort_unstable();
    end.dedup();
    let roles = SpecialRoles { beginning: token_id(header, "bos"), end, padding: token_id(header, "padding") };
    Tokenizer::assemble(library, model, texts, Some(&sections.decoder), roles)
}

fn post_processor(header: &GgufHeader, vocabulary: &Vocabulary<'_>, sections: &Sections) -> Value {
    let named =
        |keys: &[&str]| -> Vec<(u32, &str)> { keys.iter().filter_map(|key| vocabulary.named(header, key)).collect() };
    let (before, after) = (named(&sections.before), named(&sections.after));
    let special = |(_, text): &(u32, &str)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let body = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = before.iter().map(special).chain([body]).chain(after.iter().map(special)).collect();
    let tokens: serde_json::Map<String, Value> = before
        .iter()
        .chain(&after)
        .map(|(id, text)| ((*text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

fn vocabulary_json(tokens: impl Iterator<Item = (String, u32)>) -> Value {
    Value::Object(tokens.map(|(text, id)| (text, Value::from(id))).collect())
}

fn text<'a>(header: &'a GgufHeader, key: &'static str) -> Result<&'a str, TextError> {
    let value = header.metadata.get(key).ok_or(TextError::GgufKeyMissing { key })?;
    value.as_str().ok_or(TextError::GgufKeyType { key, expected: "a text" })
}

fn strings<'a>(header: &'a GgufHeader, key: &'static str) -> Result<&'a [String], TextError> {
    let value = header.metadata.get(key).ok_or(TextError::GgufKeyMissing { key })?;
    value.as_strings().ok_or(TextError::GgufKeyType { key, expected: "an array of texts" })
}

fn flag(header: &GgufHeader, key: &'static str) -> Result<Option<bool>, TextError> {
    let wrong = TextError::GgufKeyType { key, expected: "a truth value" };
    header.metadata.get(key).map(|value| value.as_bool().ok_or(wrong)).transpose()
}

/// The token that `tokenizer.ggml.<name>_token_id` names.
fn token_id(header: &GgufHeader, name: &str) -> Option<u32> {
    let value = header.metadata.get(&format!("tokenizer.ggml.{name}_token_id"))?;
    u32::try_from(value.as_u64()?).ok()
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
