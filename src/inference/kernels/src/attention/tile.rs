//! Some rows' queries against all that they see: the loops over parts and steps that every attention shares.

use std::cell::RefCell;
use std::ops::Range;

use super::Attention;
use super::apart::{Load, Places};
use super::softmax::{Finish, Merge, STEP_TOKENS, STEP_VECTORS, Soften, State};
use super::step::{Memory, Sight, Step, within};
use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::simd::LANES;
use crate::{Isa, math, rows};

/// The rows of one head of keys and values that share a pass.
pub(super) struct Rows<'a> {
    pub(super) attention: &'a Attention,
    /// Which head of keys and values.
    pub(super) head: usize,
    /// Which rows of the batch.
    pub(super) rows: Range<usize>,
    /// `[rows, heads * dimension]`.
    pub(super) query: &'a [f32],
    /// `[rows, heads * dimension]`.
    pub(super) into: &'a Pieces<f32>,
}

pub(super) struct Tile<'a, M> {
    pub(super) rows: Rows<'a>,
    pub(super) sight: Sight,
    pub(super) memory: M,
}

/// How many tokens a part of a sequence has.  A part's state is computed by itself, and what a query has of a sequence
/// is that of its parts, merged from the first to the last: so any thread can compute a part.
const PART_TOKENS: usize = 16 * STEP_TOKENS;

/// What a thread keeps while it computes a tile.  A query is one row of one head.
#[derive(Default)]
struct Scratch {
    room: Room,
    /// The states of the parts so far and of the next one.
    states: [Buffer<f32>; 2],
}

/// What a part is computed in.
#[derive(Default)]
struct Room {
    /// `[query][dimension]`.
    queries: Buffer<f32>,
    /// `[dimension][64 tokens]`.
    keys: Buffer<f32>,
    /// `[64 tokens][dimension, filled up]`.
    values: Buffer<f32>,
    /// `[query][64 tokens]`.
    scores: Buffer<f32>,
    /// `[query, filled up]`.
    factors: Buffer<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<M: Memory> Tile<'_, M> {
    /// How many queries there are.
    pub(super) fn queries(&self) -> usize {
        self.rows.rows.len() * self.rows.attention.group()
    }

    /// Which tokens any row sees.
    pub(super) fn tokens(&self) -> Range<usize> {
        self.sight.of(0).start..self.sight.of(self.rows.rows.len() - 1).end
    }

    /// In which parts of the sequence these are.
    pub(super) fn parts(&self) -> Range<usize> {
        let tokens = self.tokens();
        tokens.start / PART_TOKENS..tokens.end.div_ceil(PART_TOKENS)
    }

    /// How much room the state after a part takes.
    pub(super) fn state_length(&self) -> usize {
        State::length(self.queries(), self.vectors())
    }

    fn vectors(&self) -> usize {
        self.rows.attention.dimension.div_ceil(LANES)
    }

    /// Computes the whole tile.
    ///
    /// # Safety
    /// `query` and `into` must hold the rows, and nobody else may use the part of `into` that belongs to the rows and
    /// the heads that share the head of keys and values.
    pub(super) unsafe fn compute(&self, isa: Isa) {
        SCRATCH.with_borrow_mut(|Scratch { room, states: [state, next] }| {
            state.reserve_zeroed(self.state_length());
            let mut parts = self.parts();
            if let Some(first) = parts.next() {
                self.sum_part(isa, first, room, state);
            }
            for part in parts {
                next.reserve_zeroed(self.state_length());
                self.sum_part(isa, part, room, next);
                self.merge(isa, state, next);
            }
            // SAFETY: the caller's.
            unsafe { self.finish(isa, state) };
        });
    }

    /// Sets `state` to what the queries have of a part of the sequence.
    pub(super) fn compute_part(&self, isa: Isa, part: usize, state: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.sum_part(isa, part, &mut scratch.room, state));
    }

    /// Computes the tile from the states of its parts, which stand one after the other.
    ///
    /// # Safety
    /// As for [`Tile::compute`].
    pub(super) unsafe fn compute_merged(&self, isa: Isa, states: &mut [f32]) {
        let (state, later) = states.split_at_mut(self.state_length());
        for next in later.chunks_exact_mut(self.state_length()) {
            self.merge(isa, state, next);
        }
        // SAFETY: the caller's.
        unsafe { self.finish(isa, state) };
    }

    /// Sets `state` to what the queries have of a part of the sequence.
    fn sum_part(&self, isa: Isa, part: usize, room: &mut Room, state: &mut [f32]) {
        let Attention { dimension, softcap, .. } = *self.rows.attention;
        let (queries, vectors) = (self.queries(), self.vectors());
        room.reserve(queries, dimension);
        let query = &mut room.queries[..queries * dimension];
        let keys = &mut room.keys[..dimension * STEP_TOKENS];
        let values = &mut room.values[..STEP_TOKENS * vectors * LANES];
        let scores = room.scores[..queries * STEP_TOKENS].as_chunks_mut().0;
        let factors = &mut room.factors[..queries.next_multiple_of(LANES)];
        let mut state = State::of(state, queries, vectors);
        state.clear();
        self.load(isa, query);
        let tokens = self.tokens();
        let tokens = tokens.start.max(part * PART_TOKENS)..tokens.end.min((part + 1) * PART_TOKENS);
        for step in tokens.start / STEP_TOKENS..tokens.end.div_ceil(STEP_TOKENS) {
            let first = step * STEP_TOKENS;
            let step = Step { first, seen: within(&tokens, first) };
            self.memory.score(isa, &step, query, keys, scores);
            if let Some(cap) = softcap {
                rows::softcap(isa, scores.as_flattened_mut(), cap * math::LOG2_E);
            }
            let vectors = step.places().end;
            if !self.all_see(first..first + vectors * LANES) {
                self.mask(first, vectors, scores);
            }
            let State { results, sums, greatest } = &mut state;
            isa.run(Soften { scores, vectors, greatest, sums, factors });
            self.memory.weigh(isa, &step, scores, factors, values, results);
        }
    }

    /// Merges the state of a later part into that of those before it.
    fn merge(&self, isa: Isa, state: &mut [f32], later: &mut [f32]) {
        let (queries, vectors) = (self.queries(), self.vectors());
        let (mut into, later) = (State::of(state, queries, vectors), State::of(later, queries, vectors));
        isa.run(Merge { into: &mut into, later: &later, vectors });
    }

    /// # Safety
    /// As for [`Tile::compute`].
    unsafe fn finish(&self, isa: Isa, state: &mut [f32]) {
        let Rows { attention, rows, into, .. } = &self.rows;
        let length = attention.group() * attention.dimension;
        // SAFETY: the caller's, for these are the rows' parts that belong to the head.
        let into = unsafe { Places::new(into.at(self.rows.start()), attention.width(), rows.len(), length) };
        let state = State::of(state, self.queries(), self.vectors());
        isa.run(Finish { state, into, dimension: attention.dimension });
    }

    /// Copies the queries, multiplied by what makes their scores exponents of two.
    fn load(&self, isa: Isa, into: &mut [f32]) {
        let attention = self.rows.attention;
        isa.run(Load {
            rows: &self.rows.query[self.rows.start()..],
            stride: attention.width(),
            length: attention.group() * attention.dimension,
            factor: attention.scale * math::LOG2_E,
            into,
        });
    }

    /// Whether every row sees all of these tokens.  No row sees earlier ones than the row before it does.
    fn all_see(&self, tokens: Range<usize>) -> bool {
        self.sight.of(self.rows.rows.len() - 1).start <= tokens.start && tokens.end <= self.sight.of(0).end
    }

    /// Gives what rows do not see in the first vectors of the step from `first` on the least score.
    fn mask(&self, first: usize, vectors: usize, scores: &mut [[f32; LANES]]) {
        for (row, scores) in scores.chunks_exact_mut(self.rows.attention.group() * STEP_VECTORS).enumerate() {
            let own = within(&self.sight.of(row), first);
            let (start, end) = (own.start.min(vectors * LANES), own.end.min(vectors * LANES));
            for scores in scores.chunks_exact_mut(STEP_VECTORS) {
                let scores = scores[..vectors].as_flattened_mut();
                scores[..start].fill(f32::NEG_INFINITY);
                scores[end..].fill(f32::NEG_INFINITY);
            }
        }
    }
}

impl Rows<'_> {
    /// Where the first row begins in `query` and `into`, with the first head of the group.
    fn start(&self) -> usize {
        let Attention { dimension, .. } = *self.attention;
        self.rows.start * self.attention.width() + self.head * self.attention.group() * dimension
    }
}

impl Room {
    fn reserve(&mut self, queries: usize, dimension: usize) {
        self.queries.reserve_zeroed(queries * dimension);
        self.keys.reserve_zeroed(dimension * STEP_TOKENS);
        self.values.reserve_zeroed(STEP_TOKENS * dimension.next_multiple_of(LANES));
        self.scores.reserve_zeroed(queries * STEP_TOKENS);
        self.factors.reserve_zeroed(queries.next_multiple_of(LANES));
    }
}
