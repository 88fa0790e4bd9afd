//! Products of rows with packed weights.

use std::marker::PhantomData;
use std::ops::Range;

use crate::activations::{Activations, TILE_ROWS};
use crate::format::{PanelFormat, with_format};
use crate::pool::Pieces;
use crate::processor::Processor;
use crate::simd::{Kernel, LANES, Simd};
use crate::weights::Packed;

/// How many pieces of work each thread finds at least, so that one that was held up does not hold up all.
const PIECES_PER_THREAD: usize = 8;
/// The most panels of a piece: their weights stay in the cache while the tiles pass.
const MOST_PANELS: usize = 16;
/// From how many rows on two panels are multiplied at a time.
const ROWS_FOR_TWO_PANELS: usize = 8;

/// `rows · weightsᵀ`.
#[derive(Debug)]
pub struct Product<'a> {
    /// `[outputs, inputs]`.
    pub weights: &'a Packed,
    /// `[rows, outputs]`.
    pub target: Target<'a>,
}

/// What happens to what is there.
#[derive(Debug)]
pub enum Target<'a> {
    /// It is replaced.
    Set(&'a mut [f32]),
    /// The product is added to it.
    Add(&'a mut [f32]),
}

impl Processor {
    /// Multiplies the same rows with several matrices.
    ///
    /// # Panics
    /// When the rows are not as wide as a matrix, were not filled in its form, or a target has another size.
    pub fn multiply(&self, activations: &Activations, products: &mut [Product<'_>]) {
        let panels: usize = products.iter().map(|product| product.weights.panels()).sum();
        let piece = (panels / (self.pool.threads() * PIECES_PER_THREAD)).clamp(1, MOST_PANELS);
        let products: Vec<Prepared<'_>> = products.iter_mut().map(|product| product.prepare(activations)).collect();
        let pieces: Vec<(&Prepared<'_>, usize)> = products
            .iter()
            .flat_map(|product| (0..product.weights.panels()).step_by(piece).map(move |first| (product, first)))
            .collect();
        self.pool.for_each(pieces.len(), |index| {
            let (product, first) = pieces[index];
            let panels = first..(first + piece).min(product.weights.panels());
            for tile in 0..activations.tiles() {
                with_format!(product.weights.format(), F => {
                    self.isa.run(Panels::<F> { product, activations, tile, panels: panels.clone(), format: PhantomData });
                });
            }
        });
    }
}

/// A product whose sizes were checked.
struct Prepared<'a> {
    weights: &'a Packed,
    target: Pieces<f32>,
    adds: bool,
}

impl Product<'_> {
    fn prepare(&mut self, activations: &Activations) -> Prepared<'_> {
        assert_eq!(activations.width(), self.weights.inputs(), "the width of the rows");
        let (target, adds) = match &mut self.target {
            Target::Set(target) => (target, false),
            Target::Add(target) => (target, true),
        };
        assert_eq!(target.len(), activations.rows() * self.weights.outputs(), "the size of the target");
        Prepared { weights: self.weights, target: Pieces(target.as_mut_ptr()), adds }
    }
}

/// Sums of some panels and a tile, each in one cache line.
///
/// A panel's begin half a page from the next one's: the processor takes a load for dependent on an earlier store whose
/// address ends in the same twelve bits.
#[repr(align(64))]
pub(crate) struct Sums<const PANELS: usize>([[[f32; LANES]; TILE_ROWS + TILE_ROWS / 2]; PANELS]);

impl<const PANELS: usize> Sums<PANELS> {
    #[inline(always)]
    pub(crate) fn new() -> Sums<PANELS> {
        Sums([[[0.0; LANES]; TILE_ROWS + TILE_ROWS / 2]; PANELS])
    }

    /// Those of so many rows, for each panel.
    #[inline(always)]
    pub(crate) fn rows(&mut self, rows: usize) -> [&mut [[f32; LANES]]; PANELS] {
        self.0.each_mut().map(|sums| &mut sums[..rows])
    }
}

/// Some panels times one tile.
struct Panels<'a, F> {
    product: &'a Prepared<'a>,
    activations: &'a Activations,
    tile: usize,
    panels: Range<usize>,
    format: PhantomData<F>,
}

impl<F: PanelFormat> Kernel for Panels<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weights = self.product.weights;
        let tile = self.activations.tile(self.tile, F::FORM);
        let mut sums = Sums::new();
        let [first, second] = sums.rows(tile.rows);
        let mut panel = self.panels.start;
        // With few rows memory is the limit, which is faster with one stream than with two.
        while tile.rows >= ROWS_FOR_TWO_PANELS && panel + 1 < self.panels.end {
            F::multiply_two(
                simd,
                [panel, panel + 1].map(|panel| weights.panel(panel)),
                tile,
                [&mut *first, &mut *second],
            );
            self.put(panel, first);
            self.put(panel + 1, second);
            panel += 2;
        }
        for panel in panel..self.panels.end {
            F::multiply(simd, weights.panel(panel), tile, first);
            self.put(panel, first);
        }
    }
}

impl<F> Panels<'_, F> {
    /// Writes the sums of a panel to where they belong.
    #[inline(always)]
    fn put(&self, panel: usize, sums: &[[f32; LANES]]) {
        let outputs = self.product.weights.outputs();
        let output = panel * LANES;
        let lanes = LANES.min(outputs - output);
        for (row, sums) in sums.iter().enumerate() {
            let start = self.product.target.at((self.tile * TILE_ROWS + row) * outputs + output);
            // SAFETY: `prepare` has checked the target's size, and each panel, and so each stretch of outputs, is handed
            // out once.
            let target = unsafe { std::slice::from_raw_parts_mut(start, lanes) };
            if self.product.adds {
                target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum);
            } else {
                target.copy_from_slice(&sums[..lanes]);
            }
        }
    }
}
