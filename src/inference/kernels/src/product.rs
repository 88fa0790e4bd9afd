//! Products of rows with packed weights.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use crate::activations::{Activations, Form, TILE_ROWS};
use crate::format::{PanelFormat, with_format};
use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::processor::Processor;
use crate::simd::{Kernel, LANES, Simd};
use crate::weights::Packed;

/// How many pieces of work each thread finds at least, so that one that was held up does not hold up all.
const PIECES_PER_THREAD: usize = 8;
/// The most panels of a piece, and of what is multiplied before the sums are written out.
pub(crate) const MOST_PANELS: usize = 16;
/// A piece holds a multiple of so many panels if it can: some formats multiply several at a time.
const PANEL_GROUP: usize = 4;

thread_local! {
    /// The sums of some panels with the rows of a tile.
    static SUMS: RefCell<Buffer<f32>> = RefCell::default();
}

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
        let pieces = self.pool.threads() * PIECES_PER_THREAD;
        // A large matrix is cut by its panels alone, so that their weights pass once; a small one by the rows as well.
        let tiles = activations.tiles().max(1);
        let tile_parts = (pieces / panels.div_ceil(MOST_PANELS).max(1)).clamp(1, tiles);
        let most_tiles = tiles.div_ceil(tile_parts);
        let most_panels = (panels * tile_parts / pieces).next_multiple_of(PANEL_GROUP).clamp(PANEL_GROUP, MOST_PANELS);
        let products: Vec<Prepared<'_>> = products.iter_mut().map(|product| product.prepare(activations)).collect();
        let mut pieces: Vec<(&Prepared<'_>, Range<usize>, Range<usize>)> = Vec::new();
        for product in &products {
            for panels in stretches(product.weights.panels(), most_panels) {
                pieces.extend(stretches(activations.tiles(), most_tiles).map(|tiles| (product, panels.clone(), tiles)));
            }
        }
        self.pool.for_each(pieces.len(), |index| {
            let (product, panels, tiles) = &pieces[index];
            SUMS.with_borrow_mut(|sums| {
                sums.reserve_zeroed(MOST_PANELS * TILE_ROWS * LANES);
                let (sums, _) = sums.as_chunks_mut();
                for tile in tiles.clone() {
                    with_format!(product.weights.format(), F => {
                        let panels = panels.clone();
                        self.isa.run(Panels::<F> { product, activations, tile, panels, sums, format: PhantomData });
                    });
                }
            });
        });
    }
}

/// The numbers below `count` in stretches of so many; the last may be shorter.
fn stretches(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(most).map(move |first| first..count.min(first + most))
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

/// Some panels times one tile.
struct Panels<'a, F> {
    product: &'a Prepared<'a>,
    activations: &'a Activations,
    tile: usize,
    panels: Range<usize>,
    /// Room for [`MOST_PANELS`] panels' sums with a tile.
    sums: &'a mut [[f32; LANES]],
    format: PhantomData<F>,
}

impl<F: PanelFormat> Kernel for Panels<'_, F> {
    type Output = ();
    const DOTS_BYTES: bool = matches!(F::FORM, Form::Bytes32 | Form::Bytes256);
    const DOTS_BRAIN: bool = matches!(F::FORM, Form::Brain);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weights = self.product.weights;
        let first_row = self.tile * TILE_ROWS;
        let tile = self.activations.tile(self.tile, F::FORM);
        for first in self.panels.clone().step_by(F::PANELS_AT_ONCE) {
            let panels = first..self.panels.end.min(first + F::PANELS_AT_ONCE);
            let sums = &mut self.sums[..panels.len() * tile.rows];
            F::multiply(simd, weights.panel_range(panels.clone()), tile, sums);
            for (panel, sums) in panels.zip(sums.chunks_exact(tile.rows)) {
                self.product.write(simd, first_row, panel, sums);
            }
        }
    }
}

impl Prepared<'_> {
    /// Writes what one panel's products with some rows are.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, first_row: usize, panel: usize, sums: &[[f32; LANES]]) {
        let outputs = self.weights.outputs();
        let lanes = LANES.min(outputs - panel * LANES);
        for (row, sums) in sums.iter().enumerate() {
            let start = self.target.at((first_row + row) * outputs + panel * LANES);
            // SAFETY: `prepare` has checked the target's size, and each panel's outputs of each row are handed out once.
            let target = unsafe { std::slice::from_raw_parts_mut(start, lanes) };
            match (target.as_mut_array(), self.adds) {
                (Some(target), true) => simd.store(simd.add(simd.load(target), simd.load(sums)), target),
                (Some(target), false) => *target = *sums,
                (None, true) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
                (None, false) => target.copy_from_slice(&sums[..lanes]),
            }
        }
    }
}
