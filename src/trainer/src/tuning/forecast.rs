//! What a run will take, told before it begins: steps, tokens, and the memory that it adds to what the base holds.
//!
//! The memory follows from the model's shapes. A pass that is trained keeps what each operator was given until the way
//! back has passed it, which is most of it; beside that stand the adapter with its moments, the widest operator of the
//! way back, and a part of the logits. The terms are those of `ampoule-inference`'s `model/gradient`; a test holds the
//! sum against what real runs took.

use std::fmt;

use ampoule_inference::model::{Activation, Config, NormPlacement, Projections, QueryKeyNorm};

use crate::error::TrainerError;
use crate::memory::{Bytes, Memory};

use super::lessons::Lesson;
use super::low_rank::Targets;
use super::schedule::Settings;

const FLOAT_BYTES: u64 = 4;

/// What an allocator holds back, and all else.
const REST_BYTES: u64 = 3 << 20;

/// A thread's stack, and its buffers of the matrix product.
const THREAD_BYTES: u64 = 512 << 10;

/// How much more an allocator takes than was asked for, in per cent.
const ALLOCATOR_PERCENT: u64 = 5;

/// As many logits as the loss holds at once, before and after it has a gradient.
const LOGITS_AT_ONCE: u64 = 16 << 20;

/// What a run will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Tokens that are read in all steps together, those that only fill up shorter examples aside.
    pub tokens: u64,
    /// Bytes that the run takes at its peak, beside what is held when it begins.
    pub added_bytes: u64,
    /// Bytes that are held already; `None` where the system does not tell.
    pub held_bytes: Option<u64>,
    /// Whether the base's answers to what is rehearsed are yet to come, so that their lengths are guessed.
    pub guesses_answers: bool,
    #[serde(skip)]
    batch: usize,
    #[serde(skip)]
    longest: usize,
}

impl Forecast {
    /// Foresees a run. Rehearsals that the base has not answered yet are taken to be answered at half as much again as
    /// the longest answer of the lessons.
    ///
    /// # Errors
    /// A target that the model does not have.
    pub fn of(
        config: &Config,
        targets: &Targets,
        settings: &Settings,
        lessons: &[Lesson],
        rehearsals: &[Lesson],
        memory: Option<Memory>,
    ) -> Result<Self, TrainerError> {
        let matrices: usize = targets.modules(config)?.values().map(|[output, input]| output + input).sum();
        let adapter = (matrices * settings.rank) as u64;
        let most_learnt = lessons.iter().map(Lesson::learnt).max().unwrap_or(0);
        let longest_lesson = lessons.iter().map(|lesson| lesson.tokens.len()).max().unwrap_or(0);
        let answered = |lesson: &Lesson| match lesson.learnt() {
            0 => (lesson.tokens.len() + most_learnt + most_learnt / 2)
                .min(settings.max_tokens.min(config.context_length)),
            _ => lesson.tokens.len(),
        };
        let longest = rehearsals.iter().map(answered).max().unwrap_or(0).max(longest_lesson);
        let steps = settings.steps(lessons.len());
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.map(|length| length as u64).sum::<u64>();
        let of_lessons = sum(&mut lessons.iter().map(|lesson| lesson.tokens.len())) * settings.epochs as u64;
        let pass_of_rehearsals = rehearsals.len().div_ceil(settings.batch).max(1) as u64;
        let of_rehearsals = sum(&mut rehearsals.iter().map(answered)) * steps as u64 / pass_of_rehearsals;
        let rows = |lessons: &[Lesson]| settings.batch.min(lessons.len());
        let pass = Pass {
            config,
            rows: rows(lessons) as u64,
            taught_rows: rows(rehearsals) as u64,
            row_tokens: longest as u64,
            threads: candle_core::utils::get_num_threads() as u64,
        };
        Ok(Self {
            steps,
            tokens: of_lessons + of_rehearsals,
            added_bytes: added_bytes(&pass, adapter),
            held_bytes: memory.map(|memory| memory.held),
            guesses_answers: rehearsals.iter().any(|lesson| lesson.learnt() == 0),
            batch: settings.batch,
            longest,
        })
    }

    /// Refuses a run that would not fit.
    ///
    /// # Errors
    /// [`TrainerError::Memory`].
    pub fn check(&self, memory: Memory) -> Result<(), TrainerError> {
        if self.added_bytes <= memory.available {
            return Ok(());
        }
        Err(TrainerError::Memory {
            needed: self.added_bytes,
            held: memory.held,
            available: memory.available,
            batch: self.batch,
            longest: self.longest,
        })
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (about, why) =
            if self.guesses_answers { ("about ", " (the base's answers are yet to come)") } else { ("", "") };
        write!(f, "{} steps over {about}{} tokens{why}; ", self.steps, self.tokens)?;
        let added = Bytes(self.added_bytes);
        match self.held_bytes {
            Some(held) => {
                let all = Bytes(self.added_bytes + held);
                write!(
                    f,
                    "about {all} of memory at the peak: {} are held already, and training adds {added}",
                    Bytes(held)
                )
            }
            None => write!(f, "training adds about {added} of memory at the peak to what is held already"),
        }
    }
}

/// One step's pass over a batch.
struct Pass<'a> {
    config: &'a Config,
    /// Rows of examples.
    rows: u64,
    /// Rows of rehearsals, which the base goes through too.
    taught_rows: u64,
    row_tokens: u64,
    threads: u64,
}

fn added_bytes(pass: &Pass<'_>, adapter: u64) -> u64 {
    // The matrices, two moments, the best by the held-out examples; and on the way back the gradients.
    let adapter_alone = 4 * adapter;
    let training = adapter_alone + adapter + pass.kept() + pass.passing();
    // A checkpoint is laid out and serialised whole, when the pass is over.
    let writing = adapter_alone + 2 * adapter_alone;
    let floats = training.max(writing).max(adapter_alone + pass.answering());
    let bytes = floats * FLOAT_BYTES;
    bytes + bytes * ALLOCATOR_PERCENT / 100 + REST_BYTES + pass.threads * THREAD_BYTES
}

impl Pass<'_> {
    fn tokens(&self) -> u64 {
        (self.rows + self.taught_rows) * self.row_tokens
    }

    /// Widths of hidden states, of all queries, of all keys, and of the feed-forward network.
    fn widths(&self) -> [u64; 4] {
        let Config { hidden_size, head_count, key_value_head_count, head_dimension, intermediate_size, .. } =
            self.config;
        [hidden_size, &(head_count * head_dimension), &(key_value_head_count * head_dimension), intermediate_size]
            .map(|width| *width as u64)
    }

    /// Floats that are kept until the way back.
    fn kept(&self) -> u64 {
        let config = self.config;
        let [hidden, query, key, inner] = self.widths();
        // Two norms, two projections to the residual stream, two sums; queries, keys, values and their mixture; gate,
        // up and their product.
        let mut layer = 6 * hidden + 2 * query + 2 * key + 3 * inner;
        if config.norm_placement == NormPlacement::Around {
            layer += 2 * hidden;
        }
        if config.residual_scale.is_some() {
            layer += 2 * hidden;
        }
        if config.query_key_norm == QueryKeyNorm::PerHead {
            layer += query + key;
        }
        if config.projections == Projections::Fused {
            layer += query + 2 * key + 2 * inner;
        }
        if config.activation != Activation::Silu {
            layer += inner;
        }
        // The embeddings; and the rows that learn, their norm and their gradient.
        self.tokens() * (config.layers.len() as u64 * layer + hidden + 3 * hidden)
    }

    /// Floats of the widest moment beside what is kept: an operator's results, their gradients and the sums of those.
    fn passing(&self) -> u64 {
        let [hidden, query, key, inner] = self.widths();
        let operator = (6 * inner).max(6 * (query + 2 * key)) + 4 * hidden;
        let heads = self.config.head_count as u64 / self.config.key_value_head_count as u64;
        let groups = (self.config.key_value_head_count as u64 * (self.rows + self.taught_rows)).min(self.threads);
        // Scores, weights, and the gradients of both, of each group that is computed at one time.
        let scores = 5 * groups * heads * self.row_tokens * self.row_tokens;
        self.tokens() * operator + scores.max(self.logits())
    }

    fn logits(&self) -> u64 {
        let vocabulary = self.config.vocabulary_size as u64;
        let at_once = |rows: u64| (rows * self.row_tokens * vocabulary).min(LOGITS_AT_ONCE.max(vocabulary));
        // Those of rehearsals stand beside the base's own.
        at_once(self.rows).max(2 * at_once(self.taught_rows))
    }

    /// Floats that it takes to put one example to the model, whose scores exist at once for all heads.
    fn answering(&self) -> u64 {
        let [hidden, query, key, inner] = self.widths();
        let keys = 2 * key * self.config.layers.len() as u64;
        let scores = 4 * self.config.head_count as u64 * self.row_tokens * self.row_tokens;
        scores + self.row_tokens * (keys + 4 * hidden + 2 * query + 3 * inner)
    }
}
