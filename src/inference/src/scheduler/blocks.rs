//! The memory in which the numbers of tokens are kept, counted in blocks, and what full blocks hold, so that a prompt
//! that begins as an earlier one did is not computed again.
//!
//! What a full block holds is told exactly: by its tokens and by the very block that stands before it, whose content is
//! told likewise, down to a sequence's first block and its [`Domain`].  Nothing is hashed, so nothing can collide: a
//! block is found by whoever has the same tokens from the first one on, and by nobody else.
//!
//! For that a block must stay as long as the one after it is known.  It does: whoever uses a block uses the one before
//! it and releases it later, so of blocks that nobody uses the last of a row is always taken away first.

use std::collections::{BTreeMap, BTreeSet};

pub use ampoule_kernels::BLOCK_TOKENS;

/// What the numbers of a token depend on beside the tokens up to it, and who may profit from them: blocks are shared
/// within a domain alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain {
    /// Who shares: requests of different scopes cannot learn from the time they take what the others asked.
    pub scope: u64,
    /// The adapter they are computed with, by a number that no other adapter ever had.
    pub adapter: u64,
    /// Tells apart what a model computes differently for sequences of different reach.
    pub variant: u32,
}

/// What stands before a block in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Before {
    Nothing(Domain),
    Block(u32),
}

/// What a full block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Content {
    pub(super) before: Before,
    pub(super) tokens: [u32; BLOCK_TOKENS],
}

/// All blocks.  Each is free, or used by so many sequences, or unused with known content, which is also called cached.
#[derive(Debug)]
pub(super) struct BlockPool {
    blocks: Vec<Block>,
    /// Blocks that hold nothing of use; the next to be taken stands last.
    free: Vec<u32>,
    /// Unused blocks with known content under the number of their release: the one that was used longest ago comes
    /// first.
    cached: BTreeSet<(u64, u32)>,
    known: BTreeMap<Content, u32>,
    releases: u64,
}

#[derive(Debug, Clone, Default)]
struct Block {
    users: usize,
    content: Option<Content>,
    /// The number of its last release.
    released: u64,
}

impl BlockPool {
    pub(super) fn new(blocks: u32) -> BlockPool {
        BlockPool {
            blocks: vec![Block::default(); blocks as usize],
            free: (0..blocks).rev().collect(),
            cached: BTreeSet::new(),
            known: BTreeMap::new(),
            releases: 0,
        }
    }

    /// How many blocks there are.
    pub(super) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// How many blocks nobody uses, though their content is known.
    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    /// How many blocks can be taken.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    /// A block to write into: a free one, or else the one that was used longest ago, whose content is forgotten.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop().or_else(|| {
            let (_, oldest) = self.cached.pop_first()?;
            let content = self.entry(oldest).content.take();
            self.known.remove(&content.expect("a cached block's content is known"));
            Some(oldest)
        })?;
        self.entry(block).users = 1;
        Some(block)
    }

    /// The block with this content, for one more user.
    pub(super) fn share(&mut self, content: &Content) -> Option<u32> {
        let block = *self.known.get(content)?;
        let entry = &mut self.blocks[block as usize];
        if entry.users == 0 {
            self.cached.remove(&(entry.released, block));
        }
        entry.users += 1;
        Some(block)
    }

    /// The block with this content, if somebody uses it.
    pub(super) fn in_use(&self, content: &Content) -> Option<u32> {
        self.known.get(content).copied().filter(|&block| self.blocks[block as usize].users > 0)
    }

    /// Makes known what a block holds that its only user has filled.  If another block holds the same already, its user
    /// gets that one instead, which is returned.
    pub(super) fn publish(&mut self, block: u32, content: Content) -> u32 {
        if let Some(same) = self.share(&content) {
            self.release(block);
            return same;
        }
        self.known.insert(content, block);
        self.entry(block).content = Some(content);
        block
    }

    /// Takes a block back from one of its users, who gives back the later blocks of a sequence before the earlier ones.
    pub(super) fn release(&mut self, block: u32) {
        self.releases += 1;
        let number = self.releases;
        let entry = self.entry(block);
        entry.users = entry.users.checked_sub(1).expect("only who uses a block releases it");
        if entry.users > 0 {
            return;
        }
        entry.released = number;
        if entry.content.is_some() {
            self.cached.insert((number, block));
        } else {
            self.free.push(block);
        }
    }

    fn entry(&mut self, block: u32) -> &mut Block {
        &mut self.blocks[block as usize]
    }
}

#[cfg(test)]
impl BlockPool {
    pub(super) fn users(&self, block: u32) -> usize {
        self.blocks[block as usize].users
    }

    pub(super) fn content(&self, block: u32) -> Option<Content> {
        self.blocks[block as usize].content
    }

    /// What must be true of a pool between any two calls.
    pub(super) fn check(&self) {
        let mut unused: Vec<u32> =
            self.free.iter().copied().chain(self.cached.iter().map(|&(_, block)| block)).collect();
        unused.sort_unstable();
        let without_users = (0..).zip(&self.blocks).filter(|(_, block)| block.users == 0).map(|(block, _)| block);
        assert!(without_users.eq(unused), "each block without users is free or cached, once");
        assert!(self.free.iter().all(|&block| self.content(block).is_none()));
        let told = (0..).zip(&self.blocks).filter_map(|(block, entry)| Some((entry.content?, block)));
        assert_eq!(told.collect::<BTreeMap<Content, u32>>(), self.known);
        for (content, &block) in &self.known {
            if let Before::Block(before) = content.before {
                assert!(self.content(before).is_some(), "what stands before a known block is known");
                assert!(self.users(before) >= usize::from(self.users(block) > 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(token: u32) -> Content {
        Content { before: Before::Nothing(Domain::default()), tokens: [token; BLOCK_TOKENS] }
    }

    fn after(block: u32, token: u32) -> Content {
        Content { before: Before::Block(block), tokens: [token; BLOCK_TOKENS] }
    }

    #[test]
    fn blocks_are_taken_until_there_are_none() {
        let mut pool = BlockPool::new(2);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(0), Some(1), None));
        pool.release(1);
        assert_eq!((pool.available(), pool.cached(), pool.take()), (1, 0, Some(1)));
        pool.check();
    }

    #[test]
    fn what_is_known_is_shared_and_outlives_its_users() {
        let mut pool = BlockPool::new(2);
        let block = pool.take().expect("a block");
        assert_eq!((pool.share(&first(7)), pool.publish(block, first(7)), pool.share(&first(7))), (None, 0, Some(0)));
        assert_eq!((pool.users(0), pool.in_use(&first(7))), (2, Some(0)));
        pool.release(0);
        pool.release(0);
        assert_eq!((pool.cached(), pool.in_use(&first(7)), pool.share(&first(7))), (1, None, Some(0)));
        pool.check();
    }

    #[test]
    fn the_same_tokens_in_another_domain_or_after_another_block_are_something_else() {
        let mut pool = BlockPool::new(3);
        let blocks: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        pool.publish(blocks[0], first(7));
        pool.publish(blocks[1], after(0, 7));
        for domain in [
            Domain { scope: 1, ..Domain::default() },
            Domain { adapter: 1, ..Domain::default() },
            Domain { variant: 1, ..Domain::default() },
        ] {
            assert_eq!(pool.share(&Content { before: Before::Nothing(domain), ..first(7) }), None);
        }
        assert_eq!(
            (pool.share(&after(1, 7)), pool.share(&after(0, 8)), pool.share(&after(0, 7))),
            (None, None, Some(1))
        );
    }

    #[test]
    fn what_was_filled_twice_is_kept_once() {
        let mut pool = BlockPool::new(2);
        let blocks = [pool.take().expect("a block"), pool.take().expect("a block")];
        assert_eq!(blocks.map(|block| pool.publish(block, first(7))), [0, 0]);
        assert_eq!((pool.users(0), pool.available(), pool.cached()), (2, 1, 0));
        pool.check();
    }

    #[test]
    fn the_content_used_longest_ago_is_forgotten_first_and_the_end_of_a_row_before_its_beginning() {
        let mut pool = BlockPool::new(3);
        let blocks: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        pool.publish(blocks[0], first(1));
        pool.publish(blocks[1], after(0, 2));
        pool.publish(blocks[2], first(3));
        for block in [2, 1, 0] {
            pool.release(block);
        }
        assert_eq!(pool.share(&first(3)), Some(2));
        pool.release(2);
        for expected in [1, 0, 2] {
            assert_eq!(pool.take(), Some(expected));
            pool.check();
        }
        assert_eq!(pool.share(&first(1)), None);
    }
}
