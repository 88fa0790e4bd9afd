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

/// Pages of [`PAGE_POSITIONS`] positions, so that nothing is copied when the table grows.
type RopeTable = Vec<Page>;

const PAGE_POSITIONS: usize = 256;

/// `[position, half the rotated dimensions]`.
#[derive(Debug, Default)]
struct Page {
    cosine: Vec<f32>,
    sine: Vec<f32>,
}

/// Cosine and sine at one position.
pub(super) type Turn<'a> = (&'a [f32], &'a [f32]);

impl RopeTables {
    /// Makes sure that positions below `end` are there, for a sequence that will have `reach` tokens.
    pub(super) fn extend(&mut self, rope: &Rope, end: usize, reach: usize) {
        let table = if rope.is_beyond(reach) { &mut self.long } else { &mut self.short };
        while table.len() * PAGE_POSITIONS < end {
            let start = table.len() * PAGE_POSITIONS;
            let mut page = Page::default();
            rope.append(start..start + PAGE_POSITIONS, reach, &mut page.cosine, &mut page.sine);
            table.push(page);
        }
    }

    /// What [`RopeTables::extend`] has made.
    pub(super) fn turn(&self, rope: &Rope, position: usize, reach: usize) -> Turn<'_> {
        let table = if rope.is_beyond(reach) { &self.long } else { &self.short };
        let Page { cosine, sine } = &table[position / PAGE_POSITIONS];
        let (within, half) = (position % PAGE_POSITIONS, rope.half());
        let part = within * half..(within + 1) * half;
        (&cosine[part.clone()], &sine[part])
    }
}
