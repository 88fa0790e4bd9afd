//! Text to tokens and back.
//!
//! Normalization, pre-tokenization and the models are the tokenizers library's; ids equal Transformers' because the same
//! code makes them. What stands here is what the library leaves open: which spellings of special tokens count, how much
//! text is accepted, and SentencePiece models that come without a list of merges.

use std::{collections::HashSet, ops::Range, sync::Arc};

use tokenizers::{
    AddedToken, Encoding, Model as _, NormalizedString, Normalizer as _, OffsetType, PreTokenizedString,
    PreTokenizer as _, Token, normalizer,
};

use super::{
    Detokenizer, SpecialTokensInOutput, TextError,
    added::AddedTokens,
    detokenizer::{Decoder, Entry},
    sentence_piece::SentencePiece,
};

/// Whether a text that spells a special token yields that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// It does: for prompts that an operator wrote, and for parity with Transformers.
    Recognise,
    /// It does not; no special token comes out of the text. For text from outside.
    AsPlainText,
}

/// Whether the tokens that the tokenizer puts around a text (BOS, or `[CLS]` and `[SEP]`) are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affixes {
    /// As Transformers' `add_special_tokens=True`: completions and embeddings.
    Add,
    /// Only the text itself: chat prompts, whose template writes BOS.
    Omit,
}

/// How many bytes of text are accepted.
///
/// A token stands for at most some dozens of bytes, so a limit derived from the context length refuses nothing that
/// could have been served, and bounds the time and memory of everything after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteLimit(pub usize);

impl ByteLimit {
    /// Bytes that one token may stand for before a text is refused unread.
    const BYTES_PER_TOKEN: usize = 64;

    /// The limit for a model whose context holds this many tokens.
    #[must_use]
    pub fn for_context(tokens: usize) -> Self {
        Self(tokens.saturating_mul(Self::BYTES_PER_TOKEN))
    }

    pub(super) fn check(self, text: &str) -> Result<(), TextError> {
        if text.len() > self.0 {
            return Err(TextError::TooLong { found: text.len(), limit: self.0 });
        }
        Ok(())
    }
}

/// The tokenizer of a model. Cheap to clone, and free to share between threads.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    library: tokenizers::Tokenizer,
    sentence_piece: Option<SentencePiece>,
    added: AddedTokens,
    special: HashSet<u32>,
    decoder: Arc<Decoder>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    roles: SpecialRoles,
}

/// The tokens that mean something to the serving loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpecialRoles {
    /// Put at the beginning of a sequence.
    pub(super) beginning: Option<u32>,
    /// Each of them ends a sequence; sorted.
    pub(super) end: Vec<u32>,
    /// Fills up a batch.
    pub(super) padding: Option<u32>,
}

impl Tokenizer {
    /// Assembles a tokenizer. `decoder` is the `decoder` section of a tokenizer.json.
    pub(super) fn assemble(
        mut library: tokenizers::Tokenizer,
        sentence_piece: Option<SentencePiece>,
        vocabulary: Vec<Option<String>>,
        decoder: Option<&serde_json::Value>,
        roles: SpecialRoles,
    ) -> Result<Self, TextError> {
        let file = |reason: String| TextError::File { file: "tokenizer.json", reason };
        library.with_truncation(None).map_err(|error| file(error.to_string()))?;
        library.with_padding(None);
        let mut tokens: Vec<(u32, AddedToken)> = library.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let added = AddedTokens::new(&tokens, |text| {
            let mut normalized = NormalizedString::from(text);
            match library.get_normalizer().map(|normalizer| normalizer.normalize(&mut normalized)) {
                Some(Err(_)) => text.to_owned(),
                _ => normalized.get().to_owned(),
            }
        })?;
        let special: HashSet<u32> = tokens.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let mut entries: Vec<Option<Entry>> = (0_u32..)
            .zip(vocabulary)
            .map(|(id, text)| text.map(|text| Entry { text: text.into_boxed_str(), special: special.contains(&id) }))
            .collect();
        while entries.last().is_some_and(Option::is_none) {
            entries.pop();
        }
        let decoder = Arc::new(Decoder::new(entries, decoder)?);
        let (prefix, suffix) = affixes(&library).map_err(file)?;
        Ok(Self(Arc::new(Parts { library, sentence_piece, added, special, decoder, prefix, suffix, roles })))
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// [`TextError::TooLong`] if the text exceeds the limit; [`TextError::Tokenize`] if the model cannot express it.
    pub fn encode(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
        affixes: Affixes,
        limit: ByteLimit,
    ) -> Result<Vec<u32>, TextError> {
        limit.check(text)?;
        let body = match special_tokens {
            SpecialTokens::Recognise => self.encode_whole(text)?,
            SpecialTokens::AsPlainText => self.encode_between(text, &[])?,
        };
        Ok(match affixes {
            Affixes::Omit => body,
            Affixes::Add => [&self.0.prefix, &body, &self.0.suffix].into_iter().flatten().copied().collect(),
        })
    }

    /// The tokens that [`Affixes::Add`] puts before and after a text.
    #[must_use]
    pub fn affixes(&self) -> (&[u32], &[u32]) {
        (&self.0.prefix, &self.0.suffix)
    }

    /// Decodes tokens; invalid bytes become U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32], special_tokens: SpecialTokensInOutput) -> String {
        let mut detokenizer = self.detokenizer(special_tokens);
        let mut text = String::new();
        for token in tokens {
            text.push_str(&detokenizer.push(*token));
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// A detokenizer for one stream of tokens.
    #[must_use]
    pub fn detokenizer(&self, special_tokens: SpecialTokensInOutput) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.0.decoder), special_tokens)
    }

    /// The highest token id plus one. A model's embedding may have more rows.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.0.decoder.vocabulary_size()
    }

    /// The bytes that a token stands for in the middle of a text; `None` if there is no such token.
    #[must_use]
    pub fn token_bytes(&self, token: u32) -> Option<Vec<u8>> {
        self.0.decoder.token_bytes(token)
    }

    /// The text that a token stands for, with U+FFFD for bytes that are no characters of their own.
    #[must_use]
    pub fn token_text(&self, token: u32) -> Option<String> {
        self.token_bytes(token).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The id of a token by its spelling in the vocabulary.
    #[must_use]
    pub fn token_id(&self, spelling: &str) -> Option<u32> {
        self.0.library.token_to_id(spelling)
    }

    /// Whether a token is special: it structures the sequence and is left out of decoded text.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.0.special.contains(&token)
    }

    /// The token that begins a sequence, if the model has one.
    #[must_use]
    pub fn beginning_of_sequence(&self) -> Option<u32> {
        self.0.roles.beginning
    }

    /// The tokens that end a sequence, sorted.
    #[must_use]
    pub fn end_of_sequence(&self) -> &[u32] {
        &self.0.roles.end
    }

    /// The token that fills up a batch, if the model has one.
    #[must_use]
    pub fn padding(&self) -> Option<u32> {
        self.0.roles.padding
    }

    /// Encodes a text in which every spelling of an added token counts.
    pub(super) fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let library = &self.0.library;
        let pieces = library.get_added_vocabulary().extract_and_normalize(library.get_normalizer(), text);
        self.encode_pieces(pieces, &|piece| self.encode_piece(piece))
    }

    /// Encodes a text in which only the given special tokens count: their spans, in order, with their ids. Added tokens
    /// that are not special always count.
    pub(super) fn encode_between(&self, text: &str, specials: &[(Range<usize>, u32)]) -> Result<Vec<u32>, TextError> {
        let parts = &*self.0;
        let mut pieces = PreTokenizedString::from(text);
        pieces
            .split(|_, sequence| {
                let mut found = Vec::new();
                let mut end = 0;
                for (span, id) in specials.iter().cloned().chain([(text.len()..text.len(), 0)]) {
                    let gap = end..span.start;
                    let ordinary = parts.added.verbatim(&text[gap]).filter(|found| !found.special);
                    found.extend(ordinary.map(|found| (found.span.start + end..found.span.end + end, found.id)));
                    end = span.end;
                    found.push((span, id));
                }
                found.pop();
                Ok(split_at(&sequence, found))
            })
            .map_err(tokenize_error)?;
        pieces
            .split(|_, mut sequence| {
                if let Some(normalizer) = parts.library.get_normalizer() {
                    normalizer.normalize(&mut sequence)?;
                }
                let found = parts.added.normalized(sequence.get()).filter(|found| !found.special);
                let found = found.map(|found| (found.span, found.id)).collect();
                Ok(split_at(&sequence, found))
            })
            .map_err(tokenize_error)?;
        self.encode_pieces(pieces, &|piece| self.encode_plain_piece(piece))
    }

    /// The special tokens that a text spells: their spans and ids, by the tokenizer's rules about what stands around them.
    pub(super) fn special_matches(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        self.0.added.special(text).map(|found| (found.span, found.id)).collect()
    }

    /// Where a text spells special tokens, whatever stands around them.
    pub(super) fn special_spellings<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.0.added.special_spellings(text)
    }

    fn encode_pieces(
        &self,
        mut pieces: PreTokenizedString,
        encode: &dyn Fn(&str) -> tokenizers::Result<Vec<u32>>,
    ) -> Result<Vec<u32>, TextError> {
        if let Some(pre_tokenizer) = self.0.library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(tokenize_error)?;
        }
        pieces
            .tokenize(|piece| {
                Ok(encode(piece.get())?.into_iter().map(|id| Token::new(id, String::new(), (0, 0))).collect())
            })
            .map_err(tokenize_error)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(tokenize_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_piece(&self, piece: &str) -> tokenizers::Result<Vec<u32>> {
        match &self.0.sentence_piece {
            Some(model) => Ok(model.encode(piece)?),
            None => Ok(self.0.library.get_model().tokenize(piece)?.into_iter().map(|token| token.id).collect()),
        }
    }

    /// Encodes a piece of plain text so that no special token comes out of it.
    ///
    /// Some models have their special tokens in the vocabulary of plain text. Where one comes out, the text is cut inside
    /// each such spelling and the parts are encoded apart.
    fn encode_plain_piece(&self, piece: &str) -> tokenizers::Result<Vec<u32>> {
        let ids = self.encode_piece(piece)?;
        if !ids.iter().any(|id| self.0.special.contains(id)) {
            return Ok(ids);
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for spelling in self.special_spellings(piece) {
            let first = piece[spelling.clone()].chars().next().map_or(0, char::len_utf8);
            let cut = spelling.start + first;
            if cut < spelling.end {
                parts.extend(self.encode_piece(&piece[start..cut])?);
                start = cut;
            }
        }
        parts.extend(self.encode_piece(&piece[start..])?);
        Ok(parts)
    }
}

/// Cuts a sequence into the given tokens and what stands between them.
fn split_at(
    sequence: &NormalizedString,
    found: Vec<(Range<usize>, u32)>,
) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
    let slice = |range: Range<usize>| {
        sequence.slice(normalizer::Range::Normalized(range)).expect("matches end at character boundaries")
    };
    let mut out = Vec::with_capacity(2 * found.len() + 1);
    let mut end = 0;
    for (span, id) in found {
        if end < span.start {
            out.push((slice(end..span.start), None));
        }
        end = span.end;
        out.push((slice(span), Some(vec![Token::new(id, String::new(), (0, 0))])));
    }
    if end < sequence.get().len() {
        out.push((slice(end..sequence.get().len()), None));
    }
    out
}

fn tokenize_error(error: Box<dyn std::error::Error + Send + Sync>) -> TextError {
    match error.downcast::<TextError>() {
        Ok(error) => *error,
        Err(error) => TextError::Tokenize { reason: error.to_string() },
    }
}

/// Learns what the post-processor puts around a text by giving it a token that no vocabulary has.
fn affixes(library: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    const BODY: u32 = u32::MAX;
    let body = Encoding::from_tokens(vec![Token::new(BODY, String::new(), (0, 0))], 0);
    let around = library.post_process(body, None, true).map_err(|error| error.to_string())?;
    let mut parts = around.get_ids().split(|id| *id == BODY);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(prefix), Some(suffix), None) => Ok((prefix.to_vec(), suffix.to_vec())),
        _ => Err("its post-processor does not keep the text exactly once".to_owned()),
    }
}
