//! One sequence: its tokens, how many of them are computed, and the blocks that hold what was computed.
//!
//! ```text
//! tokens   [ prompt | chosen so far           | drafted, for one step ]
//!          [ computed           | pending     ]
//! blocks   [ full, shared     ][ own, in part ][ own, to be written   ]
//! ```
//!
//! At least the last token is pending, because its logits choose the next one.  A block is shared only once it is full
//! of computed tokens, and only blocks that are not are written into; so no block is ever copied before it is written.

use super::blocks::{BLOCK_TOKENS, Before, BlockPool, Content, Domain};
use super::queue::Place;
use super::{SequenceId, Work};

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) domain: Domain,
    pub(super) place: Place,
    /// The number of its turn among the prompts: the lowest is served first.
    pub(super) turn: u64,
    /// Prompt and chosen tokens; behind them, between plan and advance, the drafted ones that were granted.
    tokens: Vec<u32>,
    /// How many tokens there are without drafted ones.
    length: usize,
    /// How many tokens there may ever be.
    limit: usize,
    /// Proposed to come after the last token.
    drafts: Vec<u32>,
    computed: usize,
    /// How many tokens the last plan computes.
    planned: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    pub(super) fn new(prompt: Vec<u32>, limit: usize, domain: Domain, place: Place) -> Sequence {
        let length = prompt.len();
        let (tokens, drafts, blocks) = (prompt, Vec::new(), Vec::new());
        Sequence { domain, place, turn: 0, tokens, length, limit, drafts, computed: 0, planned: 0, blocks }
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// How many tokens there are without drafted ones.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// How many of the tokens that it was admitted for it does not have.
    pub(super) fn unused(&self) -> usize {
        self.limit - self.length
    }

    /// How many tokens must be computed before the next one can be chosen; at least 1.
    pub(super) fn pending(&self) -> usize {
        self.length - self.computed
    }

    /// Whether it is past its prompt: each step computes its last token and gives the next one.
    pub(super) fn generates(&self) -> bool {
        self.pending() == 1
    }

    /// Whether there is a place for the next token.
    pub(super) fn has_room(&self) -> bool {
        self.blocks.len() * BLOCK_TOKENS > self.computed
    }

    /// How many more blocks the tokens need that there are.
    pub(super) fn blocks_to_come(&self) -> usize {
        self.length.div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len())
    }

    /// How many of the blocks that a sequence without any needs are in use by others, so that it can share them.
    pub(super) fn blocks_in_use(&self, pool: &BlockPool) -> usize {
        let mut before = Before::Nothing(self.domain);
        let mut found = 0;
        for tokens in self.tokens[..self.length - 1].as_chunks().0 {
            // Whoever uses a block uses those before it too, so the first one that nobody uses ends the search.
            let Some(block) = pool.in_use(&Content { before, tokens: *tokens }) else { break };
            before = Before::Block(block);
            found += 1;
        }
        found
    }

    /// Takes over what others have computed already, in the place of computing it; gives the number of tokens.
    pub(super) fn reuse(&mut self, pool: &mut BlockPool) -> usize {
        let computed = self.computed;
        while let Some(block) = self.next_content().and_then(|content| pool.share(&content)) {
            let index = self.computed / BLOCK_TOKENS;
            match self.blocks.get_mut(index) {
                Some(own) => pool.release(std::mem::replace(own, block)),
                None => self.blocks.push(block),
            }
            self.computed = (index + 1) * BLOCK_TOKENS;
        }
        self.computed - computed
    }

    /// What the block of the next token holds once it is full, if it can be shared: the last token is always computed.
    pub(super) fn next_content(&self) -> Option<Content> {
        let index = self.computed / BLOCK_TOKENS;
        ((index + 1) * BLOCK_TOKENS < self.length).then(|| self.content(index))
    }

    /// Takes blocks for the next `count` tokens, as far as there are any; gives how many of the tokens have room.
    pub(super) fn grow(&mut self, count: usize, pool: &mut BlockPool) -> usize {
        while self.blocks.len() * BLOCK_TOKENS < self.computed + count {
            let Some(block) = pool.take() else { break };
            self.blocks.push(block);
        }
        count.min(self.blocks.len() * BLOCK_TOKENS - self.computed)
    }

    /// Remembers proposals for the tokens after the last one.
    pub(super) fn draft(&mut self, tokens: &[u32]) {
        self.drafts.clear();
        if self.generates() {
            // The last token that there may be is chosen, and never computed.
            self.drafts.extend(tokens.iter().take(self.limit.saturating_sub(self.length + 1)));
        }
    }

    /// Appends up to `most` drafted tokens, as many as find room; gives their number.
    pub(super) fn grant_drafts(&mut self, most: usize, pool: &mut BlockPool) -> usize {
        let count = self.drafts.len().min(most);
        let granted = self.grow(1 + count, pool) - 1;
        self.tokens.extend(self.drafts.drain(..).take(granted));
        granted
    }

    /// Plans the next `count` tokens.
    pub(super) fn plan(&mut self, id: SequenceId, count: usize) -> Work {
        self.planned = count;
        let end = self.computed + count;
        Work { id, positions: self.computed..end, logits: end.min(self.length - 1)..end }
    }

    /// Counts what was planned as computed, up to the last of the chosen tokens.
    pub(super) fn advance(&mut self, chosen: &[u32], pool: &mut BlockPool) {
        assert!(self.planned > 0, "a sequence advances by what was planned");
        let end = self.computed + self.planned;
        let logits = (end + 1).saturating_sub(self.length);
        let allowed = logits.min(1)..=logits;
        assert!(allowed.contains(&chosen.len()), "{} tokens were chosen where {allowed:?} can be", chosen.len());
        if let [confirmed @ .., _] = chosen {
            assert!(self.tokens[self.length..].starts_with(confirmed), "tokens before the last chosen were drafted");
        }
        let filled = self.computed / BLOCK_TOKENS;
        self.computed = if logits == 0 { end } else { self.length - 1 + chosen.len() };
        self.tokens.truncate(self.length);
        self.tokens.extend(chosen);
        self.length = self.tokens.len();
        assert!(self.length <= self.limit, "more tokens than were asked for");
        for index in filled..self.computed / BLOCK_TOKENS {
            self.blocks[index] = pool.publish(self.blocks[index], self.content(index));
        }
        self.withdraw(pool);
    }

    /// Gives back what only a plan needed: the drafted tokens, and blocks behind the computed ones.
    pub(super) fn withdraw(&mut self, pool: &mut BlockPool) {
        self.planned = 0;
        self.tokens.truncate(self.length);
        self.release_from(self.computed.div_ceil(BLOCK_TOKENS), pool);
    }

    /// Gives back all blocks: everything is to be computed anew.
    pub(super) fn restart(&mut self, pool: &mut BlockPool) {
        self.computed = 0;
        // They were to follow the last token, which will not be the last one any more when they could be computed.
        self.drafts.clear();
        self.withdraw(pool);
    }

    /// The later blocks first, as the pool wants it.
    fn release_from(&mut self, index: usize, pool: &mut BlockPool) {
        while self.blocks.len() > index {
            self.blocks.pop().into_iter().for_each(|block| pool.release(block));
        }
    }

    fn content(&self, index: usize) -> Content {
        let start = index * BLOCK_TOKENS;
        let before = match start {
            0 => Before::Nothing(self.domain),
            _ => Before::Block(self.blocks[index - 1]),
        };
        let mut tokens = [0; BLOCK_TOKENS];
        tokens.copy_from_slice(&self.tokens[start..start + BLOCK_TOKENS]);
        Content { before, tokens }
    }
}

#[cfg(test)]
impl Sequence {
    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    /// What must be true of a sequence between any two calls: its full blocks are known for what they hold, and those
    /// that it may write into are its own.
    pub(super) fn check(&self, pool: &BlockPool) {
        assert!(self.computed < self.length && self.length <= self.tokens.len() && self.length <= self.limit);
        assert!(self.drafts.is_empty() || self.generates(), "drafted tokens follow the last one");
        for (index, &block) in self.blocks.iter().enumerate() {
            let full = index < self.computed / BLOCK_TOKENS;
            assert_eq!(pool.content(block), full.then(|| self.content(index)));
            assert!(full || pool.users(block) == 1);
        }
    }
}
