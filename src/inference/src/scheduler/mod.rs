//! Decides what the next forward step computes, and in which memory.  A pure state machine: it knows sequences, their
//! tokens and numbers of blocks; no tensors, no threads and no time.
//!
//! ```text
//! enqueue ─► waiting ─plan─► running ─┬─► plan ─► (the step) ─► advance ─┬─► remove
//!               ▲      memory is short│     ▲       draft, reset         │
//!               └─────────────────────┘     └────────────────────────────┘
//! ```
//!
//! The rules:
//! - Memory is taken as sequences grow, in blocks ([`BLOCK_TOKENS`]).  Who needs a block that is not there gets it from
//!   the sequence that was admitted last, which waits again and is computed anew; its tokens stay.  The one that was
//!   admitted first can therefore always go on, and each sequence is the first one some day.
//! - What is computed is computed once: full blocks are shared by all sequences of a [`Domain`] that begin alike, while
//!   they run and until the memory is needed otherwise.
//! - Tenants are admitted by fair shares of tokens, and of each whoever came first.  Nobody overtakes: a large prompt
//!   that is next waits for room, and the others behind it, so that it cannot starve.
//! - Every sequence that generates gets its next token in every step, and as many drafted ones as the step has room
//!   for.  What is left goes to prompts in turn, and at least [`LEAST_PIECE`] tokens of one, so that prompts advance
//!   beside any number of generating sequences.
//! - Nothing here changes a sequence's numbers, only when they are computed.  The same calls give the same plans.

mod blocks;
mod queue;
mod sequence;

#[cfg(test)]
mod examples;
#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use blocks::BlockPool;
use queue::FairQueue;
use sequence::Sequence;

pub use blocks::{BLOCK_TOKENS, Domain};

/// The least piece of a prompt that is worth a place in a step, but for a prompt's last one: the weights that are read
/// for one token are read for these, too.
pub const LEAST_PIECE: usize = 16;

/// For each sequence that runs already, so many blocks must be left over when another one is admitted: room to generate
/// for a while before anyone must wait again.
const HEADROOM_BLOCKS: usize = 2;

/// A sequence's number; never used twice by one scheduler's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// The limits a scheduler keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// How many sequences may run at once; at least 1.
    pub max_running: usize,
    /// How many blocks of memory there are.
    pub blocks: u32,
}

/// A sequence that is to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSequence {
    /// A number that was not used before.
    pub id: SequenceId,
    /// On whose account it goes.
    pub tenant: u64,
    /// With whom it may share what was computed.
    pub domain: Domain,
    /// The tokens to begin with; at least one.
    pub prompt: Vec<u32>,
    /// How many tokens are chosen at most; at least 1.
    pub completion: usize,
}

/// Why a sequence was not queued: it could not run even if it were alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeverFits {
    /// How many tokens it may come to have.
    pub tokens: usize,
    /// How many there is memory for.
    pub limit: usize,
}

impl fmt::Display for NeverFits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NeverFits { tokens, limit } = self;
        write!(formatter, "a sequence of up to {tokens} tokens never fits into the memory, which holds {limit}")
    }
}

impl std::error::Error for NeverFits {}

/// What a step computes of one sequence: of [`Scheduler::tokens`] those at `positions`, into [`Scheduler::blocks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Whose work.
    pub id: SequenceId,
    /// Which tokens are computed, drafted ones at the end included; never none.  All before them are computed already.
    pub positions: Range<usize>,
    /// The last of these positions, whose logits are needed: none for a piece of a prompt after which more follows, one
    /// to choose the next token by, and one more for each drafted token.
    pub logits: Range<usize>,
}

/// Counts for whoever watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// How many sequences wait.
    pub waiting: usize,
    /// How many sequences run.
    pub running: usize,
    /// How many blocks there are.
    pub blocks: usize,
    /// How many of them running sequences use.
    pub blocks_used: usize,
    /// How many are not used but hold what may be wanted again.
    pub blocks_cached: usize,
    /// How many tokens were to be computed before a sequence could generate, since the start.
    pub tokens_asked: u64,
    /// How many of these were found computed.
    pub tokens_found: u64,
    /// How often a sequence had to wait again, since the start.
    pub preemptions: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    max_running: usize,
    pool: BlockPool,
    queue: FairQueue,
    /// Those that wait and those that run.
    sequences: BTreeMap<SequenceId, Sequence>,
    /// Those that run, in the order of their admission.
    running: Vec<SequenceId>,
    /// How many turns prompts have had or stand in line for.
    turns: u64,
    tokens_asked: u64,
    tokens_found: u64,
    preemptions: u64,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: SchedulerLimits) -> Scheduler {
        Scheduler {
            max_running: limits.max_running.max(1),
            pool: BlockPool::new(limits.blocks),
            queue: FairQueue::default(),
            sequences: BTreeMap::new(),
            running: Vec::new(),
            turns: 0,
            tokens_asked: 0,
            tokens_found: 0,
            preemptions: 0,
        }
    }

    /// How many tokens, prompt and completion, one sequence may have.
    pub fn token_limit(&self) -> usize {
        self.pool.total() * BLOCK_TOKENS
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// [`NeverFits`] for one that is larger than [`Scheduler::token_limit`].
    ///
    /// # Panics
    /// For a sequence without a prompt, or with a number that is in use.
    pub fn enqueue(&mut self, new: NewSequence) -> Result<(), NeverFits> {
        let NewSequence { id, tenant, domain, prompt, completion } = new;
        let (tokens, limit) = (prompt.len().saturating_add(completion), self.token_limit());
        if tokens > limit {
            return Err(NeverFits { tokens, limit });
        }
        assert!(!prompt.is_empty(), "a sequence begins with a token");
        assert!(!self.sequences.contains_key(&id), "a sequence's number is used once");
        let place = self.queue.push(id, tenant, tokens as u64);
        self.sequences.insert(id, Sequence::new(prompt, tokens, domain, place));
        Ok(())
    }

    /// Takes a sequence out, wherever it stands: it finished, failed or was cancelled.  One that is not there is no
    /// error.
    pub fn remove(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.sequences.remove(&id) else { return };
        if let Some(index) = self.running.iter().position(|&running| running == id) {
            self.running.remove(index);
            sequence.restart(&mut self.pool);
            self.queue.settle(sequence.place, sequence.unused() as u64);
        } else {
            self.queue.remove(sequence.place);
        }
    }

    /// Proposes tokens that may come after the last one.  The next plan in which the sequence generates computes the
    /// first so many of them.  Of one that does not generate now, nothing can be proposed, and nothing happens.
    ///
    /// # Panics
    /// For a sequence that is not there.
    pub fn draft(&mut self, id: SequenceId, tokens: &[u32]) {
        self.sequences.get_mut(&id).expect(THERE).draft(tokens);
    }

    /// Admits what may be admitted and says what the next step computes; empty only if nothing is to be done.
    ///
    /// `step_tokens` bounds the step, as far as the rules allow.  Each work is answered by [`Scheduler::advance`], or
    /// its sequence is removed; what is not answered is planned again.
    pub fn plan(&mut self, step_tokens: usize) -> Vec<Work> {
        self.make_room();
        self.admit();
        let mut left = step_tokens;
        let mut plan = self.plan_generating(&mut left);
        self.plan_prompts(left, &mut plan);
        plan
    }

    /// Tells that a sequence's part of the last plan was computed, and which tokens were chosen by its logits: none if
    /// none were needed; otherwise one for each drafted token that was right, which is that token, and one more.
    ///
    /// # Panics
    /// When that is not what was planned.
    pub fn advance(&mut self, id: SequenceId, chosen: &[u32]) {
        let sequence = self.sequences.get_mut(&id).expect(THERE);
        sequence.advance(chosen, &mut self.pool);
    }

    /// Lets a sequence be computed anew from its first token, under another variant of its domain.  Its tokens stay.
    ///
    /// # Panics
    /// For a sequence that is not there.
    pub fn reset(&mut self, id: SequenceId, variant: u32) {
        let sequence = self.sequences.get_mut(&id).expect(THERE);
        sequence.restart(&mut self.pool);
        sequence.domain.variant = variant;
        if self.running.contains(&id) {
            self.tokens_asked += sequence.length() as u64;
            sequence.turn = next(&mut self.turns);
        }
    }

    /// A sequence's tokens: prompt, chosen, and between [`Scheduler::plan`] and [`Scheduler::advance`] drafted ones.
    ///
    /// # Panics
    /// For a sequence that is not there.
    pub fn tokens(&self, id: SequenceId) -> &[u32] {
        self.sequences[&id].tokens()
    }

    /// The blocks of a sequence's positions, of each [`BLOCK_TOKENS`] one.  Good for one step: later the same numbers
    /// may stand elsewhere.
    ///
    /// # Panics
    /// For a sequence that is not there.
    pub fn blocks(&self, id: SequenceId) -> &[u32] {
        self.sequences[&id].blocks()
    }

    /// The sequences whose next token each step gives, in the order of their admission.
    pub fn generating_ids(&self) -> Vec<SequenceId> {
        self.running.iter().copied().filter(|id| self.sequences[id].generates()).collect()
    }

    /// The sequences that wait.
    pub fn waiting_ids(&self) -> impl Iterator<Item = SequenceId> {
        self.queue.ids()
    }

    /// The counts of this moment.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            waiting: self.sequences.len() - self.running.len(),
            running: self.running.len(),
            blocks: self.pool.total(),
            blocks_used: self.pool.total() - self.pool.available(),
            blocks_cached: self.pool.cached(),
            tokens_asked: self.tokens_asked,
            tokens_found: self.tokens_found,
            preemptions: self.preemptions,
        }
    }

    /// Gives every running sequence the blocks of its next tokens, to the one admitted first before the others and at
    /// the cost of those admitted last.  Who is last and finds none misses this step, but keeps what it has while
    /// nobody needs it.
    fn make_room(&mut self) {
        for id in &self.running {
            self.sequences.get_mut(id).expect(THERE).withdraw(&mut self.pool);
        }
        let mut index = 0;
        while let Some(&id) = self.running.get(index) {
            let sequence = self.sequences.get_mut(&id).expect(THERE);
            self.tokens_found += sequence.reuse(&mut self.pool) as u64;
            index += 1;
            while !self.give_least(id) && self.running.len() > index {
                self.preempt_last();
            }
        }
    }

    /// Whether a sequence has the blocks without which it would not advance in a step.
    fn give_least(&mut self, id: SequenceId) -> bool {
        let sequence = self.sequences.get_mut(&id).expect(THERE);
        let least = sequence.pending().min(LEAST_PIECE);
        sequence.grow(least, &mut self.pool) == least
    }

    fn preempt_last(&mut self) {
        let Some(id) = self.running.pop() else { return };
        let sequence = self.sequences.get_mut(&id).expect(THERE);
        sequence.restart(&mut self.pool);
        self.queue.put_back(id, sequence.place);
        self.preemptions += 1;
    }

    /// Admits as long as there are places and blocks: those of the prompt, of the prompts that were admitted before,
    /// and the headroom.
    fn admit(&mut self) {
        let mut promised: usize = self.running.iter().map(|id| self.sequences[id].blocks_to_come()).sum();
        while self.running.len() < self.max_running {
            let Some(id) = self.queue.next() else { return };
            let sequence = self.sequences.get_mut(&id).expect(THERE);
            let wanted = sequence.blocks_to_come() - sequence.blocks_in_use(&self.pool);
            let headroom = HEADROOM_BLOCKS * self.running.len();
            if wanted + promised + headroom > self.pool.available() {
                return;
            }
            self.queue.admit(sequence.place);
            self.running.push(id);
            self.tokens_asked += sequence.length() as u64;
            self.tokens_found += sequence.reuse(&mut self.pool) as u64;
            sequence.turn = next(&mut self.turns);
            self.give_least(id);
            promised += self.sequences[&id].blocks_to_come();
        }
    }

    /// A token of each that generates, and an even share of the step in drafted ones.
    fn plan_generating(&mut self, left: &mut usize) -> Vec<Work> {
        let generates = |id: &SequenceId| self.sequences[id].generates() && self.sequences[id].has_room();
        let generating: Vec<SequenceId> = self.running.iter().copied().filter(generates).collect();
        *left = left.saturating_sub(generating.len());
        let mut plan = Vec::with_capacity(self.running.len());
        for (index, &id) in generating.iter().enumerate() {
            let sequence = self.sequences.get_mut(&id).expect(THERE);
            let share = left.div_ceil(generating.len() - index);
            let granted = sequence.grant_drafts(share, &mut self.pool);
            *left -= granted;
            plan.push(sequence.plan(id, 1 + granted));
        }
        plan
    }

    /// Pieces of prompts, in turn, until the step is full.
    fn plan_prompts(&mut self, mut left: usize, plan: &mut Vec<Work>) {
        let prompts = self.running.iter().map(|&id| (self.sequences[&id].turn, id));
        let mut prompts: Vec<_> = prompts.filter(|(_, id)| !self.sequences[id].generates()).collect();
        prompts.sort_unstable();
        left = left.max(LEAST_PIECE);
        let mut underway = BTreeSet::new();
        for (_, id) in prompts {
            let sequence = self.sequences.get_mut(&id).expect(THERE);
            if left < sequence.pending().min(LEAST_PIECE) {
                return;
            }
            // Another one computes the very same in this step, and then it is there for both.
            let content = sequence.next_content();
            if content.is_some_and(|content| underway.contains(&content)) {
                continue;
            }
            let piece = sequence.grow(sequence.pending().min(left), &mut self.pool);
            if piece > 0 {
                underway.extend(content);
                left -= piece;
                sequence.turn = next(&mut self.turns);
                plan.push(sequence.plan(id, piece));
            }
        }
    }
}

/// What whoever names a sequence answers for; those that wait or run are there.
const THERE: &str = "the sequence is there";

fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}
