//! Rows of training data: talks laid end to end as tokens, with a mark on each token that the model must predict.
//!
//! Only answers are marked: the model learns to answer, not to ask. Row `r` of step `s` is a function of the seed, `s`
//! and `r` alone, so there is no state to keep and no order to lose.
//!
//! ```text
//! [<|system|> … <|end|>] <|user|> question <|end|> <|assistant|> answer <|end|> <|user|> … <|pad|> <|pad|>
//!                                                                ^^^^^^^^^^^^^ marked
//! ```

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::corpus::{Corpus, Turn};
use crate::error::TrainerError;
use crate::recipe::DataMix;
use crate::vocabulary::{ASSISTANT, END, PAD, SYSTEM, USER};

/// What a stream of random numbers is for; keeps the streams of one seed apart.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// The text that the tokenizer learns from.
    Vocabulary = 1,
    /// Initial weights.
    Weights = 2,
    /// Training rows.
    Rows = 3,
    /// Initial matrices of an adapter.
    Adapter = 4,
    /// The order of examples.
    Order = 5,
    /// The order of rehearsals, and which questions the demo's corpus gives to be rehearsed.
    Rehearsal = 6,
    /// Which rehearsals are kept aside.
    KeptAside = 7,
}

/// A generator for one purpose and one counter below 2^56.
pub fn stream(seed: u64, purpose: Purpose, counter: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 56) | counter);
    rng
}

/// Rows of equal length, and where in them the answers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Tokens in a row.
    pub row_tokens: usize,
    /// The tokens, row after row.
    pub inputs: Vec<u32>,
    /// Indices into `inputs` whose next token is to be predicted.
    pub positions: Vec<u32>,
    /// The next token at each of `positions`; those beyond have no target but the base's own opinion.
    pub targets: Vec<u32>,
}

/// Draws batches from a corpus.
#[derive(Debug)]
pub struct RowSampler<'a> {
    corpus: &'a Corpus,
    tokenizer: &'a Tokenizer,
    mix: &'a DataMix,
    seed: u64,
}

impl<'a> RowSampler<'a> {
    /// A sampler of this corpus in these tokens.
    pub fn new(corpus: &'a Corpus, tokenizer: &'a Tokenizer, mix: &'a DataMix, seed: u64) -> Self {
        Self { corpus, tokenizer, mix, seed }
    }

    /// The batch of a step counted from 1.
    ///
    /// # Errors
    /// Corpus defects that only drawing reveals.
    pub fn batch(&self, step: usize) -> Result<Batch, TrainerError> {
        let mix = self.mix;
        let is_long = mix.long_every > 0 && step.is_multiple_of(mix.long_every);
        let (rows, row_tokens) =
            if is_long { (mix.long_rows, mix.long_row_tokens) } else { (mix.rows, mix.row_tokens) };
        let mut batch = Batch { rows, row_tokens, inputs: Vec::new(), positions: Vec::new(), targets: Vec::new() };
        for row in 0..rows {
            let counter = ((step as u64) << 16) | row as u64;
            let mut rng = stream(self.seed, Purpose::Rows, counter);
            let marked = self.row(row_tokens + 1, &mut rng)?;
            for (offset, pair) in marked.windows(2).enumerate() {
                if pair[1].is_answer {
                    batch.positions.push((row * row_tokens + offset) as u32);
                    batch.targets.push(pair[1].token);
                }
            }
            batch.inputs.extend(marked[..row_tokens].iter().map(|marked| marked.token));
        }
        Ok(batch)
    }

    /// One row of exactly `length` marked tokens.
    fn row(&self, length: usize, rng: &mut impl Rng) -> Result<Vec<Marked>, TrainerError> {
        let mut row = Vec::with_capacity(length);
        if rng.random_bool(self.mix.system_prompt_share) {
            self.append_message(SYSTEM, &self.corpus.system_prompt(rng), &mut row)?;
        }
        // A row ends at the first turn that does not fit: trying on until a short one fits would favour short answers.
        // Only the first turn is cut instead, since the beginning of an answer is what decides it: short rows teach
        // telling questions apart, at a fraction of the cost of whole talks, and long rows teach the rest.
        let opening = row.len();
        'row: loop {
            for turn in self.corpus.talk(self.mix.foreign_share, rng)? {
                let start = row.len();
                self.append_turn(&turn, &mut row)?;
                if row.len() > length {
                    row.truncate(if start == opening { length } else { start });
                    break 'row;
                }
            }
        }
        row.resize(length, Marked { token: PAD, is_answer: false });
        Ok(row)
    }

    fn append_turn(&self, turn: &Turn, row: &mut Vec<Marked>) -> Result<(), TrainerError> {
        self.append_message(USER, &turn.question, row)?;
        let answer = row.len() + 1;
        self.append_message(ASSISTANT, &turn.answer, row)?;
        row[answer..].iter_mut().for_each(|marked| marked.is_answer = true);
        Ok(())
    }

    fn append_message(&self, role: u32, text: &str, row: &mut Vec<Marked>) -> Result<(), TrainerError> {
        let ids = encode(self.tokenizer, text)?;
        let tokens = std::iter::once(role).chain(ids).chain(std::iter::once(END));
        row.extend(tokens.map(|token| Marked { token, is_answer: false }));
        Ok(())
    }
}

/// The prompt that asks one question.
///
/// # Errors
/// What the tokenizer library refuses.
pub fn prompt(tokenizer: &Tokenizer, question: &str) -> Result<Vec<u32>, TrainerError> {
    let mut tokens = vec![USER];
    tokens.extend(encode(tokenizer, question)?);
    tokens.extend([END, ASSISTANT]);
    Ok(tokens)
}

#[derive(Clone, Copy, Debug)]
struct Marked {
    token: u32,
    is_answer: bool,
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TrainerError> {
    let encoding =
        tokenizer.encode_fast(text, false).map_err(|source| TrainerError::Tokenizer { action: "used", source })?;
    Ok(encoding.get_ids().to_vec())
}
