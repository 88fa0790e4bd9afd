//! Cosine and sine of every position that was needed so far, computed once.

use crate::model::Rope;

/// The tables of one rotary encoding.
#[derive(Debug, Default)]
pub(super) struct RopeTables {
    /// For sequences within the original context (LongRoPE), or for all.
    short: RopeTable,
    /// For longer ones.
    long: RopeTable,
}

/// `[position, half the rotated dimensions]`.
#[derive(Debug, Default)]
struct RopeTable {
    positions: usize,
    cosine: Vec<f32>,
    sine: Vec<f32>,
}

/// Cosine and sine at one position.
pub(super) type Turn<'a> = (&'a [f32], &'a [f32]);

impl RopeTables {
    /// Makes sure that positions below `end` are there, for a sequence that will have `reach` tokens.
    pub(super) fn extend(&mut self, rope: &Rope, end: usize, reach: usize) {
        let table = if rope.is_beyond(reach) { &mut self.long } else { &mut self.short };
        if table.positions < end {
            let end = end.next_multiple_of(64);
            rope.append(table.positions..end, reach, &mut table.cosine, &mut table.sine);
            table.positions = end;
        }
    }

    /// What [`RopeTables::extend`] has made.
    pub(super) fn turn(&self, rope: &Rope, position: usize, reach: usize) -> Turn<'_> {
        let table = if rope.is_beyond(reach) { &self.long } else { &self.short };
        let half = rope.half();
        let part = position * half..(position + 1) * half;
        (&table.cosine[part.clone()], &table.sine[part])
    }
}
