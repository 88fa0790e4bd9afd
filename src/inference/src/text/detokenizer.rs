//! Tokens back to text, one token at a time.
//!
//! A token may end in the middle of a character, so bytes wait until the character is complete: a client never sees
//! half of one. Decoding a whole sequence is defined as pushing its tokens one by one, which makes the streamed text and
//! the whole text equal by construction, in time linear in the tokens.
//!
//! The steps are those of tokenizer.json's `decoder` section. One thing differs from the tokenizers library on purpose:
//! in an invalid run of byte-fallback tokens the library discards the valid characters of the run too, which a stream
//! has already sent; here only the invalid bytes become U+FFFD.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use super::TextError;

/// Whether tokens such as `<|im_end|>` appear in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokensInOutput {
    /// They appear as they are written.
    Keep,
    /// They are left out.
    Skip,
}

/// Turns a stream of tokens into a stream of text.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    decoder: Arc<Decoder>,
    special_tokens: SpecialTokensInOutput,
    started: bool,
    incomplete: Vec<u8>,
    leading_cut: usize,
}

impl Detokenizer {
    pub(super) fn new(decoder: Arc<Decoder>, special_tokens: SpecialTokensInOutput) -> Self {
        let leading_cut = decoder.leading_cut.map_or(0, |(_, count)| count);
        Self { decoder, special_tokens, started: false, incomplete: Vec::new(), leading_cut }
    }

    /// Takes one token and returns the text that it completes, which may be empty.
    ///
    /// A token outside the vocabulary stands for no text.
    pub fn push(&mut self, token: u32) -> String {
        let decoder = Arc::clone(&self.decoder);
        let Some(entry) = decoder.entry(token) else { return String::new() };
        if entry.special && self.special_tokens == SpecialTokensInOutput::Skip {
            return String::new();
        }
        let position = if self.started { Position::Later } else { Position::First };
        self.started = true;
        let mut out = String::new();
        match decoder.decode_token(&entry.text, position) {
            Piece::Text(text) => {
                self.flush_incomplete(&mut out);
                out.push_str(&text);
            }
            Piece::Bytes(bytes) => {
                self.incomplete.extend_from_slice(&bytes);
                self.take_complete(&mut out);
            }
        }
        self.cut_leading(out)
    }

    /// Whether all bytes so far have become characters.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Ends the stream: returns U+FFFD for bytes that never became a character.
    pub fn finish(mut self) -> String {
        let mut out = String::new();
        self.flush_incomplete(&mut out);
        self.cut_leading(out)
    }

    fn take_complete(&mut self, out: &mut String) {
        let bytes = std::mem::take(&mut self.incomplete);
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(valid).expect("from_utf8 just said that this part is valid"));
                    match error.error_len() {
                        Some(length) => {
                            self.replace(out, length);
                            rest = &tail[length..];
                        }
                        None => {
                            self.incomplete = tail.to_vec();
                            return;
                        }
                    }
                }
            }
        }
    }

    fn flush_incomplete(&mut self, out: &mut String) {
        if !self.incomplete.is_empty() {
            self.replace(out, self.incomplete.len());
            self.incomplete.clear();
        }
    }

    fn replace(&self, out: &mut String, bytes: usize) {
        let count = match self.decoder.replacement {
            Replacement::PerByte => bytes,
            Replacement::PerSequence => 1,
        };
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
    }

    fn cut_leading(&mut self, text: String) -> String {
        let Some((character, _)) = self.decoder.leading_cut else { return text };
        let mut rest = text.as_str();
        while self.leading_cut > 0 && !rest.is_empty() {
            match rest.strip_prefix(character) {
                Some(tail) => {
                    rest = tail;
                    self.leading_cut -= 1;
                }
                None => self.leading_cut = 0,
            }
        }
        rest.to_owned()
    }
}

/// The table of token texts and the steps that turn them into output; shared by all detokenizers of a model.
#[derive(Debug)]
pub(super) struct Decoder {
    entries: Vec<Option<Entry>>,
    steps: Vec<Step>,
    leading_cut: Option<(char, usize)>,
    replacement: Replacement,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) text: Box<str>,
    pub(super) special: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replacement {
    PerByte,
    PerSequence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    First,
    Later,
}

enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
enum Step {
    ByteFallback,
    ByteLevel(HashMap<char, u8>),
    Join,
    Metaspace { replacement: char, cut_first: bool },
    Replace { from: String, to: String },
    Strip { character: char, start: usize, stop: usize },
    WordPiece { prefix: String, cleanup: bool },
}

impl Decoder {
    /// Reads the `decoder` section of a tokenizer.json; `None` joins the tokens by spaces, as the library does.
    pub(super) fn new(entries: Vec<Option<Entry>>, section: Option<&serde_json::Value>) -> Result<Self, TextError> {
        let mut decoder = Self { entries, steps: Vec::new(), leading_cut: None, replacement: Replacement::PerSequence };
        match section.filter(|section| !section.is_null()) {
            None => decoder.steps.push(Step::Join),
            Some(section) => {
                let mut fused = false;
                decoder.add_section(section, &mut fused)?;
            }
        }
        if decoder.steps.iter().any(|step| matches!(step, Step::ByteFallback)) {
            decoder.replacement = Replacement::PerByte;
        }
        Ok(decoder)
    }

    pub(super) fn entry(&self, token: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(token).ok()?)?.as_ref()
    }

    pub(super) fn vocabulary_size(&self) -> usize {
        self.entries.len()
    }

    /// The bytes that a token stands for in the middle of a text.
    pub(super) fn token_bytes(&self, token: u32) -> Option<Vec<u8>> {
        Some(match self.decode_token(&self.entry(token)?.text, Position::Later) {
            Piece::Text(text) => text.into_bytes(),
            Piece::Bytes(bytes) => bytes,
        })
    }

    fn add_section(&mut self, section: &serde_json::Value, fused: &mut bool) -> Result<(), TextError> {
        let malformed = |error: serde_json::Error| TextError::File {
            file: "tokenizer.json",
            reason: format!("its decoder is malformed: {error}"),
        };
        match Section::deserialize(section).map_err(malformed)? {
            Section::Sequence { decoders } => {
                for section in &decoders {
                    self.add_section(section, fused)?;
                }
            }
            Section::Fuse => *fused = true,
            // After fusing there is one token, the whole text; only its beginning can be cut in a stream.
            Section::Strip { content, start, stop } if *fused => {
                if stop > 0 || self.leading_cut.is_some() {
                    return Err(TextError::UnsupportedDecoder { found: "Strip at the end of the text".to_owned() });
                }
                self.leading_cut = Some((content, start));
            }
            other => {
                if *fused {
                    return Err(TextError::UnsupportedDecoder { found: "a step after Fuse".to_owned() });
                }
                self.steps.push(match other {
                    Section::ByteFallback => Step::ByteFallback,
                    Section::ByteLevel => Step::ByteLevel(byte_level_alphabet()),
                    Section::Metaspace { replacement, prepend_scheme, add_prefix_space } => Step::Metaspace {
                        replacement,
                        cut_first: prepend_scheme.as_deref() != Some("never") && add_prefix_space != Some(false),
                    },
                    Section::Replace { pattern: Pattern::String(from), content } => Step::Replace { from, to: content },
                    Section::Replace { pattern: Pattern::Regex(_), .. } => {
                        return Err(TextError::UnsupportedDecoder { found: "Replace by Regex".to_owned() });
                    }
                    Section::Strip { content, start, stop } => Step::Strip { character: content, start, stop },
                    Section::WordPiece { prefix, cleanup } => Step::WordPiece { prefix, cleanup },
                    Section::BytePair => {
                        return Err(TextError::UnsupportedDecoder { found: "BPEDecoder".to_owned() });
                    }
                    Section::Alignment => return Err(TextError::UnsupportedDecoder { found: "CTC".to_owned() }),
                    Section::Sequence { .. } | Section::Fuse => unreachable!("handled above"),
                });
            }
        }
        Ok(())
    }

    fn decode_token(&self, token: &str, position: Position) -> Piece {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return Piece::Bytes(vec![byte]);
                    }
                }
                Step::ByteLevel(alphabet) => {
                    let bytes: Option<Vec<u8>> = text.chars().map(|c| alphabet.get(&c).copied()).collect();
                    return Piece::Bytes(bytes.unwrap_or_else(|| text.into_bytes()));
                }
                Step::Join => {
                    if position == Position::Later {
                        text.insert(0, ' ');
                    }
                }
                Step::Metaspace { replacement, cut_first } => {
                    let cut = *cut_first && position == Position::First;
                    let space = if cut { "" } else { " " };
                    text = text.replace(*replacement, space);
                }
                Step::Replace { from, to } => text = text.replace(from.as_str(), to),
                Step::Strip { character, start, stop } => {
                    let mut rest = text.as_str();
                    for _ in 0..*start {
                        rest = rest.strip_prefix(*character).unwrap_or(rest);
                    }
                    for _ in 0..*stop {
                        rest = rest.strip_suffix(*character).unwrap_or(rest);
                    }
                    text = rest.to_owned();
                }
                Step::WordPiece { prefix, cleanup } => {
                    if position == Position::Later {
                        text = match text.strip_prefix(prefix.as_str()) {
                            Some(rest) => rest.to_owned(),
                            None => format!(" {text}"),
                        };
                    }
                    if *cleanup {
                        text = without_tokenization_spaces(&text);
                    }
                }
            }
        }
        Piece::Text(text)
    }
}

/// The `decoder` section as it is written in tokenizer.json.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Section {
    #[serde(rename = "BPEDecoder")]
    BytePair,
    ByteFallback,
    ByteLevel,
    #[serde(rename = "CTC")]
    Alignment,
    Fuse,
    Metaspace {
        replacement: char,
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        decoders: Vec<serde_json::Value>,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(serde::de::IgnoredAny),
}

/// The byte that a token of the form `<0x0A>` stands for.
pub(super) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100_u32;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                let c = char::from_u32(next).expect("U+0100 to U+0143 are all characters");
                next += 1;
                (c, byte)
            }
        })
        .collect()
}

/// What the library's WordPiece decoder does to each token when `cleanup` is on.
fn without_tokenization_spaces(text: &str) -> String {
    const RULES: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    RULES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
