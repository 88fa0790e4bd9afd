//! What a run will take, told before it begins: steps, tokens, and the memory that it adds to what the base holds.
//!
//! The memory follows from the model's shapes. A pass that is trained keeps what each operator was given until the way
//! back has passed it, which is most of it; beside that stand the adapter with its moments, the widest operator of the
//! way back, and a part of the logits. The terms are those of `ampoule-inference`'s `model/gradient`; a test holds the
//! sum against what real runs took. What is only tested passes forward, a batch at a time, and what is quoted or kept
//! aside is asked one by one; either takes more than training where its examples are much longer.

use std::fmt;

use ampoule_inference::model::{Activation, Config, NormPlacement, Projections, QueryKeyNorm};

use crate::error::TrainerError;
use crate::memory::{Bytes, Memory};

use super::answers::{SPARE_TOKENS, last_learnt};
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

/// What a run goes through.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// What is learnt.
    pub lessons: &'a [Lesson],
    /// What is rehearsed.
    pub rehearsals: &'a [Lesson],
    /// Whether the base has answered the rehearsals; before that, the lengths of its answers are guessed.
    pub is_answered: bool,
    /// What is only tested.
    pub held_out: &'a [Lesson],
}

/// What a run does when it takes most, and so what makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    /// It trains on a batch.
    Training {
        /// Examples in a step.
        batch: usize,
        /// Tokens of the longest of them.
        longest: usize,
    },
    /// It tries a batch of the held-out examples.
    Evaluation {
        /// Examples in a batch.
        batch: usize,
        /// Tokens of the longest of them.
        longest: usize,
    },
    /// It asks an example.
    Asking {
        /// Tokens of the longest prompt.
        longest: usize,
    },
    /// It writes a checkpoint.
    Writing {
        /// The adapter's rank.
        rank: usize,
    },
}

/// The cure, as part of a sentence.
impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peak::Training { batch, longest } => {
                write!(f, "lower --batch (now {batch}) or --max-tokens (the longest example has {longest})")
            }
            Peak::Evaluation { batch, longest } => {
                write!(f, "lower --batch (now {batch}) or --max-tokens (the longest held-out example has {longest})")
            }
            Peak::Asking { longest } => write!(f, "shorten the longest prompt, which has {longest} tokens"),
            Peak::Writing { rank } => write!(f, "lower --rank (now {rank}) or name fewer --targets"),
        }
    }
}

/// What a run adds to what is held already, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    bytes: u64,
    peak: Peak,
}

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
    /// Bytes that may be taken beside them; `None` where the system does not tell.
    pub available_bytes: Option<u64>,
    /// Whether what the run adds is available; `None` where the system does not tell.
    pub fits: Option<bool>,
    /// Whether the base's answers to what is rehearsed are yet to come, so that their lengths are guessed.
    pub guesses_answers: bool,
    /// What the run adds even if the base answers nothing.
    #[serde(skip)]
    certain: Need,
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
        material: Material<'_>,
        memory: Option<Memory>,
    ) -> Result<Self, TrainerError> {
        let Material { lessons, rehearsals, is_answered, .. } = material;
        let matrices: usize = targets.modules(config)?.values().map(|[output, input]| output + input).sum();
        let adapter = (matrices * settings.rank) as u64;
        let most_learnt = lessons.iter().map(Lesson::learnt).max().unwrap_or(0);
        let guess = if is_answered { 0 } else { most_learnt + most_learnt / 2 };
        let most_tokens = settings.max_tokens.min(config.context_length);
        let answered = |lesson: &Lesson| match guess {
            0 => lesson.tokens.len(),
            guess => (lesson.tokens.len() + guess).min(most_tokens),
        };
        let steps = settings.steps(lessons.len());
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.map(|length| length as u64).sum::<u64>();
        let of_lessons = sum(&mut lessons.iter().map(|lesson| lesson.tokens.len())) * settings.epochs as u64;
        let pass_of_rehearsals = rehearsals.len().div_ceil(settings.batch).max(1) as u64;
        let of_rehearsals = sum(&mut rehearsals.iter().map(answered)) * steps as u64 / pass_of_rehearsals;
        let longest_rehearsal = |length: &dyn Fn(&Lesson) -> usize| rehearsals.iter().map(length).max().unwrap_or(0);
        let foreseen = need(config, settings, material, longest_rehearsal(&answered), adapter);
        let certain = need(config, settings, material, longest_rehearsal(&|lesson| lesson.tokens.len()), adapter);
        Ok(Self {
            steps,
            tokens: of_lessons + of_rehearsals,
            added_bytes: foreseen.bytes,
            held_bytes: memory.map(|memory| memory.held),
            available_bytes: memory.map(|memory| memory.available),
            fits: memory.map(|memory| foreseen.bytes <= memory.available),
            guesses_answers: !is_answered && !rehearsals.is_empty(),
            certain,
        })
    }

    /// Refuses a run that would not fit. What rests on a guess refuses nothing: then [`Forecast::fits`] alone says that the
    /// run may not fit.
    ///
    /// # Errors
    /// [`TrainerError::Memory`].
    pub fn check(&self) -> Result<(), TrainerError> {
        let Need { bytes: needed, peak } = self.certain;
        match self.held_bytes.zip(self.available_bytes) {
            Some((held, available)) if needed > available => {
                Err(TrainerError::Memory { needed, held, available, peak })
            }
            _ => Ok(()),
        }
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

/// One pass over a batch.
struct Pass<'a> {
    config: &'a Config,
    /// Rows of examples.
    rows: u64,
    /// Rows of rehearsals, which the base goes through too.
    taught_rows: u64,
    row_tokens: u64,
    threads: u64,
}

/// What a run of this material adds, if the longest rehearsal with its answer has so many tokens.
fn need(config: &Config, settings: &Settings, material: Material<'_>, longest_rehearsal: usize, adapter: u64) -> Need {
    let Material { lessons, rehearsals, held_out, .. } = material;
    let longest = |lessons: &[Lesson]| lessons.iter().map(|lesson| lesson.tokens.len()).max().unwrap_or(0);
    let rows = |lessons: &[Lesson]| settings.batch.min(lessons.len()) as u64;
    let threads = candle_core::utils::get_num_threads() as u64;
    let (row_tokens, batch) = (longest(lessons).max(longest_rehearsal), settings.batch);
    let taught_rows = rows(rehearsals);
    let pass = Pass { config, rows: rows(lessons), taught_rows, row_tokens: row_tokens as u64, threads };
    let longest_held_out = longest(held_out);
    let most_learnt = held_out.iter().map(Lesson::learnt).max().unwrap_or(0);
    let test = Pass { config, rows: rows(held_out), taught_rows: 0, row_tokens: longest_held_out as u64, threads };
    // The report quotes held-out examples if there are any; rehearsals are asked before the run and after it.
    let asked = if held_out.is_empty() { lessons } else { held_out };
    let prompt = asked.iter().chain(rehearsals).map(prompt_tokens).max().unwrap_or(0);
    let said = longest(asked).max(longest_rehearsal) + SPARE_TOKENS;

    // Threads keep what they allocated for the scores of passes, and a question that is asked later comes on top.
    let kept_scores = test.scores(2).max(pass.scores(5));
    // The matrices, two moments, the best by the held-out examples; and on the way back the gradients.
    let adapter_alone = 4 * adapter;
    let moments = [
        (adapter_alone + adapter + pass.kept() + pass.passing(), Peak::Training { batch, longest: row_tokens }),
        (
            adapter_alone + test.testing(most_learnt as u64 * test.rows),
            Peak::Evaluation { batch, longest: longest_held_out },
        ),
        (adapter_alone + kept_scores + asking(config, prompt as u64, said as u64), Peak::Asking { longest: prompt }),
        // A checkpoint is laid out and serialised whole, when the pass is over.
        (adapter_alone + 2 * adapter_alone, Peak::Writing { rank: settings.rank }),
    ];
    let [first, ..] = moments;
    let (floats, peak) = moments.into_iter().fold(first, |most, next| if next.0 > most.0 { next } else { most });
    let bytes = floats * FLOAT_BYTES;
    Need { bytes: bytes + bytes * ALLOCATOR_PERCENT / 100 + REST_BYTES + threads * THREAD_BYTES, peak }
}

/// What is put to the model of an example, or of a question that is not answered yet.
fn prompt_tokens(lesson: &Lesson) -> usize {
    if lesson.learnt() == 0 { lesson.tokens.len() } else { last_learnt(lesson).0.len() }
}

/// Floats that it takes to put one example to the model, whose scores exist at once for all heads.
fn asking(config: &Config, prompt_tokens: u64, said_tokens: u64) -> u64 {
    let [hidden, query, key, inner] = widths(config);
    let keys = 2 * key * config.layers.len() as u64;
    let scores = 4 * config.head_count as u64 * prompt_tokens * prompt_tokens;
    scores + said_tokens * keys + prompt_tokens * (4 * hidden + 2 * query + 3 * inner)
}

/// Widths of hidden states, of all queries, of all keys, and of the feed-forward network.
fn widths(config: &Config) -> [u64; 4] {
    let Config { hidden_size, head_count, key_value_head_count, head_dimension, intermediate_size, .. } = config;
    [hidden_size, &(head_count * head_dimension), &(key_value_head_count * head_dimension), intermediate_size]
        .map(|width| *width as u64)
}

impl Pass<'_> {
    fn tokens(&self) -> u64 {
        (self.rows + self.taught_rows) * self.row_tokens
    }

    /// Floats that are kept until the way back.
    fn kept(&self) -> u64 {
        let config = self.config;
        let [hidden, query, key, inner] = widths(self.config);
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
        let [hidden, query, key, inner] = widths(self.config);
        let operator = (6 * inner).max(6 * (query + 2 * key)) + 4 * hidden;
        // Scores, weights, and the gradients of both.
        self.tokens() * operator + self.scores(5).max(self.logits())
    }

    fn logits(&self) -> u64 {
        let vocabulary = self.config.vocabulary_size as u64;
        let at_once = |rows: u64| (rows * self.row_tokens * vocabulary).min(LOGITS_AT_ONCE.max(vocabulary));
        // Those of rehearsals stand beside the base's own.
        at_once(self.rows).max(2 * at_once(self.taught_rows))
    }

    /// Floats of a pass that only goes forward, of which nothing is kept: the widest operator beside the residual stream.
    fn testing(&self, learnt: u64) -> u64 {
        let [hidden, query, key, inner] = widths(self.config);
        let operator = (4 * inner).max(4 * query + 4 * key) + 4 * hidden;
        // Of the tokens that would be learnt: their rows and the norm of those, beside a part of the logits.
        let vocabulary = self.config.vocabulary_size as u64;
        let last = learnt * 2 * hidden + (learnt * vocabulary).min(LOGITS_AT_ONCE.max(vocabulary));
        self.tokens() * operator + self.scores(2).max(last)
    }

    /// So many matrices of scores of each group that is computed at one time.
    fn scores(&self, matrices: u64) -> u64 {
        let heads = self.config.head_count as u64 / self.config.key_value_head_count as u64;
        let groups = (self.config.key_value_head_count as u64 * (self.rows + self.taught_rows)).min(self.threads);
        matrices * groups * heads * self.row_tokens * self.row_tokens
    }
}
