//! Rows of keys and values to their places in a block.

use super::blocks::{BLOCK_TOKENS, head_elements};
use super::element::{Element, narrowed};
use crate::simd::{Kernel, LANES, Simd};

/// Rows into one layer of a block.
pub(super) struct Store<'a, E> {
    pub(super) dimension: usize,
    pub(super) width: usize,
    /// Where the first row stands in the block.
    pub(super) token: usize,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) into: &'a mut [E],
}

impl<E: Element> Kernel for Store<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.keys.chunks_exact(self.width).zip(self.values.chunks_exact(self.width));
        for (token, (keys, values)) in (self.token..).zip(rows) {
            let heads = self.into.chunks_exact_mut(head_elements(E::SCALE_ROWS, self.dimension));
            let rows = keys.chunks_exact(self.dimension).zip(values.chunks_exact(self.dimension));
            for ((key, value), head) in rows.zip(heads) {
                let (keys, values) = head.as_chunks_mut().0.split_at_mut(self.dimension + E::SCALE_ROWS);
                store_key::<S, E>(simd, key, token, keys);
                store_value::<S, E>(simd, value, token, values);
            }
        }
    }
}

/// To keys `[dimension][16 tokens]` and their scales.
#[inline(always)]
fn store_key<S: Simd, E: Element>(simd: S, key: &[f32], token: usize, into: &mut [[E; LANES]]) {
    let (places, scales) = into.split_at_mut(key.len());
    let factor = E::keep_scale(simd, key, scales, token);
    for (part, places) in key.chunks(LANES).zip(places.chunks_mut(LANES)) {
        for (element, place) in narrowed::<S, E>(simd, part, factor).into_iter().zip(places) {
            place[token] = element;
        }
    }
}

/// To values `[16 tokens][vectors]` and their scales.
#[inline(always)]
fn store_value<S: Simd, E: Element>(simd: S, value: &[f32], token: usize, into: &mut [[E; LANES]]) {
    let vectors = value.len().div_ceil(LANES);
    let (places, scales) = into.split_at_mut(BLOCK_TOKENS * vectors);
    let factor = E::keep_scale(simd, value, scales, token);
    for (part, place) in value.chunks(LANES).zip(&mut places[token * vectors..]) {
        *place = narrowed(simd, part, factor);
    }
}
