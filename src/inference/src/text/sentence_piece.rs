//! SentencePiece's byte-pair encoding as GGUF files carry it: pieces with scores, and no list of merges.
//!
//! Of all neighbouring symbols whose concatenation is a piece, the pair with the best score merges first, the leftmost
//! of equals. A priority queue and a linked list of symbols keep this at n log n, also for a megabyte without a space.

use std::{cmp::Ordering, collections::BinaryHeap, collections::HashMap};

use super::{TextError, detokenizer::fallback_byte};

/// The pieces of a SentencePiece model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: HashMap<Box<str>, (u32, f32)>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

impl SentencePiece {
    /// Builds the encoder from pieces of plain text and their scores.
    ///
    /// Control tokens must not be among them: they would arise from plain text. Byte pieces are told by their form.
    pub(super) fn new<'a>(pieces: impl IntoIterator<Item = (u32, &'a str, f32)>, unknown: Option<u32>) -> Self {
        let mut model = Self { pieces: HashMap::new(), bytes: [None; 256], unknown };
        for (id, text, score) in pieces {
            match fallback_byte(text) {
                Some(byte) => model.bytes[usize::from(byte)] = Some(id),
                None => {
                    model.pieces.entry(text.into()).or_insert((id, score));
                }
            }
        }
        model
    }

    /// Encodes a text whose spaces are already U+2581.
    ///
    /// # Errors
    /// [`TextError::Tokenize`] if a character is no piece, has no byte pieces and there is no unknown token.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut symbols = Symbols::new(text);
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.list.len() {
            self.consider(&symbols, right - 1, right, &mut queue);
        }
        while let Some(merge) = queue.pop() {
            if symbols.length_of(merge.left) + symbols.length_of(merge.right) != merge.length
                || symbols.length_of(merge.left) == 0
                || symbols.length_of(merge.right) == 0
            {
                // One of the two has merged with something else since.
                continue;
            }
            symbols.merge(merge.left, merge.right);
            let (previous, next) = (symbols.list[merge.left].previous, symbols.list[merge.left].next);
            if let Some(previous) = previous {
                self.consider(&symbols, previous, merge.left, &mut queue);
            }
            if let Some(next) = next {
                self.consider(&symbols, merge.left, next, &mut queue);
            }
        }
        let mut ids = Vec::new();
        for symbol in symbols.list.iter().filter(|symbol| symbol.end > symbol.start) {
            self.push(&text[symbol.start..symbol.end], &mut ids)?;
        }
        Ok(ids)
    }

    fn consider(&self, symbols: &Symbols<'_>, left: usize, right: usize, queue: &mut BinaryHeap<Merge>) {
        let joined = &symbols.text[symbols.list[left].start..symbols.list[right].end];
        if let Some((_, score)) = self.pieces.get(joined) {
            queue.push(Merge { score: *score, left, right, length: joined.len() });
        }
    }

    fn push(&self, symbol: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if let Some((id, _)) = self.pieces.get(symbol) {
            ids.push(*id);
            return Ok(());
        }
        let bytes: Option<Vec<u32>> = symbol.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => ids.extend(bytes),
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => {
                let reason = format!("the vocabulary has no token for {symbol:?} and no unknown token");
                return Err(TextError::Tokenize { reason });
            }
        }
        Ok(())
    }
}

struct Symbols<'a> {
    text: &'a str,
    list: Vec<Symbol>,
}

#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl<'a> Symbols<'a> {
    fn new(text: &'a str) -> Self {
        let mut list: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1),
            })
            .collect();
        if let Some(last) = list.last_mut() {
            last.next = None;
        }
        Self { text, list }
    }

    fn length_of(&self, index: usize) -> usize {
        self.list[index].end - self.list[index].start
    }

    fn merge(&mut self, left: usize, right: usize) {
        let next = self.list[right].next;
        self.list[left].end = self.list[right].end;
        self.list[left].next = next;
        self.list[right].end = self.list[right].start;
        if let Some(next) = next {
            self.list[next].previous = Some(left);
        }
    }
}

struct Merge {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_best_score_merges_first_and_the_leftmost_of_equals() {
        let pieces =
            [(1, "a", 0.0), (2, "b", 0.0), (3, "ab", -2.0), (4, "ba", -1.0), (5, "aa", -3.0), (6, "<0x63>", 0.0)];
        let model = SentencePiece::new(pieces, Some(0));
        assert_eq!(model.encode("abab").unwrap(), [1, 4, 2]);
        assert_eq!(model.encode("aaa").unwrap(), [5, 1]);
        assert_eq!(model.encode("ac").unwrap(), [1, 6]);
        assert_eq!(model.encode("ad").unwrap(), [1, 0]);
        assert_eq!(model.encode("").unwrap(), [0_u32; 0]);
    }
}
