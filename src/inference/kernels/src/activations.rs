//! The rows that weights are multiplied with, in the number formats and in the order that the products read.
//!
//! Rows are cut into tiles, and within a tile all rows' numbers at one place of the summed dimension stand together: a
//! product reads a tile from its beginning to its end.

use std::cell::RefCell;

use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::processor::Processor;
use crate::rows;

/// The number format of one side of a product: what the weights of a format are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Single precision.
    Single,
    /// bfloat16.
    Brain,
    /// Bytes with a scale for each 32 inputs.
    Bytes32,
    /// Bytes with a scale for each 256 inputs.
    Bytes256,
}

/// Which forms of the rows are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forms(u8);

impl Forms {
    /// These and one more.
    #[must_use]
    pub fn and(self, form: Form) -> Forms {
        Forms(self.0 | 1 << form as u8)
    }

    /// Whether a form is among them.
    pub fn has(self, form: Form) -> bool {
        self.0 & 1 << form as u8 != 0
    }
}

impl FromIterator<Form> for Forms {
    fn from_iter<T: IntoIterator<Item = Form>>(forms: T) -> Forms {
        forms.into_iter().fold(Forms::default(), Forms::and)
    }
}

/// The most rows of a tile: enough that unpacking weights costs little beside multiplying them.
pub(crate) const TILE_ROWS: usize = 64;

/// How many places of a row stand together in the floating-point forms, a place being a number or a pair: one cache line.
pub(crate) const BLOCK_PLACES: usize = 16;

/// Rows in one or several forms.  Made once and filled anew for each product.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    width: usize,
    forms: Forms,
    /// `[tile][block of 16 inputs][row][16]`; zeros fill up the last block.
    single: Buffer<f32>,
    /// `[tile][block of 32 inputs][row][32]`, where there are instructions for it; zeros fill up the last block.
    brain: Buffer<u16>,
    /// The same numbers in single precision where there are none: `[tile][block of 16 inputs][row][16]`, the second number
    /// of each pair before the first.
    rounded: Buffer<f32>,
    /// Which of the two is filled.
    dots_brain: bool,
    bytes32: Bytes,
    bytes256: Bytes,
    /// What the bytes of each 32 inputs under `bytes256` add up to: `[tile][pair of blocks][row][2]`, see [`Tile::pairs`].
    pairs: Buffer<i16>,
}

/// Numbers as bytes under scales.
#[derive(Debug, Default)]
struct Bytes {
    /// `[tile][block of 32 inputs][row][32]`.
    quants: Buffer<i8>,
    /// `[tile][block][row]`.
    scales: Buffer<f32>,
    /// [`Tile::starts`]: `[tile][block][row]`, in blocks of 32 inputs under 32 and of 16 under 256.
    starts: Buffer<i32>,
}

/// Up to [`TILE_ROWS`] rows in the form that a product wants; the other forms' slices are empty.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    /// `[block of 16 inputs][row]`: single precision, or what bfloat16 is where there are no instructions for it.
    pub(crate) single: &'a [[f32; BLOCK_PLACES]],
    /// `[block of 32 inputs][row]`.
    pub(crate) brain: &'a [[[u16; 2]; BLOCK_PLACES]],
    /// `[block of 32 inputs][row]`.
    pub(crate) quants: &'a [[i8; 32]],
    /// `[block][row]`.
    pub(crate) scales: &'a [f32],
    /// Minus 128 times what the bytes of a block add up to, `[block][row]`: what a sum of products begins with when 128 was
    /// added to each weight, for the product of bytes takes one side as unsigned.
    pub(crate) starts: &'a [i32],
    /// What the bytes of each 32 inputs add up to, `[block of 256 inputs][4 pairs][row]`: of the eight in a block the first
    /// beside the third, the second beside the fourth, and so on with the other four.
    pub(crate) pairs: &'a [[i16; 2]],
}

thread_local! {
    /// One row in single precision, before it is put into the tiles.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Activations {
    /// Fills in `rows` rows of `width` numbers, which `row` writes, in these forms.
    ///
    /// # Panics
    /// When `width` is no multiple of 32 or of 256 and a form needs that.
    pub fn fill(
        &mut self,
        processor: &Processor,
        forms: Forms,
        rows: usize,
        width: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        (self.rows, self.width, self.forms) = (rows, width, forms);
        if forms.has(Form::Single) {
            self.single.reserve_zeroed(rows * width.next_multiple_of(BLOCK_PLACES));
        }
        if forms.has(Form::Brain) {
            self.dots_brain = processor.isa.dots_brain();
            if self.dots_brain {
                self.brain.reserve_zeroed(rows * width.next_multiple_of(2 * BLOCK_PLACES));
            } else {
                self.rounded.reserve_zeroed(rows * width.next_multiple_of(BLOCK_PLACES));
            }
        }
        if forms.has(Form::Bytes32) {
            assert!(width.is_multiple_of(32), "rows of {width} numbers are no whole blocks of 32");
            self.bytes32.reserve(rows, width, 32, 32);
        }
        if forms.has(Form::Bytes256) {
            assert!(width.is_multiple_of(256), "rows of {width} numbers are no whole blocks of 256");
            self.bytes256.reserve(rows, width, 256, 16);
            self.pairs.reserve_zeroed(rows * width / 32);
        }
        let single = Pieces(self.single.as_mut_ptr());
        let (brain, rounded) = (Pieces(self.brain.as_mut_ptr()), Pieces(self.rounded.as_mut_ptr()));
        let dots_brain = self.dots_brain;
        let (bytes32, bytes256) = (self.bytes32.pieces(), self.bytes256.pieces());
        let pairs = Pieces(self.pairs.as_mut_ptr());
        processor.pool.for_each(rows, |index| {
            ROW.with_borrow_mut(|scratch| {
                scratch.clear();
                scratch.resize(width.next_multiple_of(2 * BLOCK_PLACES), 0.0);
                row(index, &mut scratch[..width]);
                let place = Place::of(index, rows);
                // SAFETY: every row is handed out once, its places in the tiles belong to it alone, and the buffers have
                // just been given room for all of them.
                unsafe {
                    if forms.has(Form::Single) {
                        place.write_single(&single, &scratch[..width.next_multiple_of(BLOCK_PLACES)]);
                    }
                    if forms.has(Form::Brain) && dots_brain {
                        place.write_brain(processor.isa, &brain, scratch);
                    } else if forms.has(Form::Brain) {
                        place.write_rounded(processor.isa, &rounded, &scratch[..width.next_multiple_of(BLOCK_PLACES)]);
                    }
                    if forms.has(Form::Bytes32) {
                        place.write_bytes::<32, 32>(processor.isa, &bytes32, &pairs, &scratch[..width]);
                    }
                    if forms.has(Form::Bytes256) {
                        place.write_bytes::<256, 16>(processor.isa, &bytes256, &pairs, &scratch[..width]);
                    }
                }
            });
        });
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// # Panics
    /// When the rows were not filled in this form.
    pub(crate) fn tile(&self, index: usize, form: Form) -> Tile<'_> {
        assert!(self.forms.has(form), "the rows were not filled in as {form:?}");
        let start = index * TILE_ROWS;
        let (rows, inputs) = (TILE_ROWS.min(self.rows - start), self.width);
        let none = Tile { rows, inputs, single: &[], brain: &[], quants: &[], scales: &[], starts: &[], pairs: &[] };
        match form {
            Form::Brain if self.dots_brain => {
                let blocks = inputs.div_ceil(2 * BLOCK_PLACES);
                let (pairs, _) = self.brain.as_chunks::<2>();
                Tile { brain: &pairs.as_chunks().0[start * blocks..][..rows * blocks], ..none }
            }
            Form::Single | Form::Brain => {
                let blocks = inputs.div_ceil(BLOCK_PLACES);
                let numbers = if form == Form::Single { &self.single } else { &self.rounded };
                Tile { single: &numbers.as_chunks().0[start * blocks..][..rows * blocks], ..none }
            }
            Form::Bytes32 => self.bytes32.tile(start, 32, 32, none),
            Form::Bytes256 => {
                let pairs = inputs / 64;
                let pairs = &self.pairs.as_chunks().0[start * pairs..][..rows * pairs];
                Tile { pairs, ..self.bytes256.tile(start, 256, 16, none) }
            }
        }
    }
}

impl Bytes {
    fn reserve(&mut self, rows: usize, width: usize, scaled: usize, summed: usize) {
        self.quants.reserve_zeroed(rows * width);
        self.scales.reserve_zeroed(rows * width / scaled);
        self.starts.reserve_zeroed(rows * width / summed);
    }

    fn pieces(&mut self) -> (Pieces<i8>, Pieces<f32>, Pieces<i32>) {
        (Pieces(self.quants.as_mut_ptr()), Pieces(self.scales.as_mut_ptr()), Pieces(self.starts.as_mut_ptr()))
    }

    fn tile<'a>(&'a self, start: usize, scaled: usize, summed: usize, tile: Tile<'a>) -> Tile<'a> {
        let part = |block: usize| (start * tile.inputs / block, tile.rows * tile.inputs / block);
        let ((quant, quants), (scale, scales), (sum, sums)) = (part(32), part(scaled), part(summed));
        Tile {
            quants: &self.quants.as_chunks().0[quant..][..quants],
            scales: &self.scales[scale..][..scales],
            starts: &self.starts[sum..][..sums],
            ..tile
        }
    }
}

/// Where a row stands: what comes before its tile, and its place in it.
struct Place {
    tile_start: usize,
    tile_rows: usize,
    row: usize,
}

impl Place {
    fn of(index: usize, rows: usize) -> Place {
        let tile_start = index / TILE_ROWS * TILE_ROWS;
        Place { tile_start, tile_rows: TILE_ROWS.min(rows - tile_start), row: index - tile_start }
    }

    /// The number of this row's element at place `at` of `count` in a buffer `[tile][at][row]`.
    fn element(&self, at: usize, count: usize) -> usize {
        self.tile_start * count + at * self.tile_rows + self.row
    }

    /// # Safety
    /// The buffer must have room for the row, and nobody else may use the row's elements.
    unsafe fn write_single(&self, into: &Pieces<f32>, row: &[f32]) {
        let (blocks, _) = row.as_chunks::<BLOCK_PLACES>();
        for (at, values) in blocks.iter().enumerate() {
            let into: *mut [f32; BLOCK_PLACES] = into.at(BLOCK_PLACES * self.element(at, blocks.len())).cast();
            // SAFETY: the caller's.
            unsafe { *into = *values };
        }
    }

    /// # Safety
    /// As [`Place::write_single`].
    unsafe fn write_brain(&self, isa: crate::Isa, into: &Pieces<u16>, row: &[f32]) {
        const NUMBERS: usize = 2 * BLOCK_PLACES;
        let (blocks, _) = row.as_chunks::<NUMBERS>();
        for (at, values) in blocks.iter().enumerate() {
            let into: *mut [u16; NUMBERS] = into.at(NUMBERS * self.element(at, blocks.len())).cast();
            // SAFETY: the caller's.
            rows::narrow(isa, values, unsafe { &mut *into });
        }
    }

    /// # Safety
    /// As [`Place::write_single`].
    unsafe fn write_rounded(&self, isa: crate::Isa, into: &Pieces<f32>, row: &[f32]) {
        let (blocks, _) = row.as_chunks::<BLOCK_PLACES>();
        for (at, values) in blocks.iter().enumerate() {
            let into: *mut [f32; BLOCK_PLACES] = into.at(BLOCK_PLACES * self.element(at, blocks.len())).cast();
            // SAFETY: the caller's.
            rows::round_and_swap(isa, values, unsafe { &mut *into });
        }
    }

    /// # Safety
    /// As [`Place::write_single`].
    unsafe fn write_bytes<const SCALED: usize, const SUMMED: usize>(
        &self,
        isa: crate::Isa,
        (quants, scales, starts): &(Pieces<i8>, Pieces<f32>, Pieces<i32>),
        pairs: &Pieces<i16>,
        row: &[f32],
    ) {
        let width = row.len();
        for (block, values) in row.as_chunks::<SCALED>().0.iter().enumerate() {
            let mut bytes = [0; SCALED];
            let scale = rows::quantize(isa, values, &mut bytes);
            // SAFETY: the caller's.
            unsafe { *scales.at(self.element(block, width / SCALED)) = scale };
            for (part, bytes) in bytes.as_chunks::<32>().0.iter().enumerate() {
                let at = block * (SCALED / 32) + part;
                let into: *mut [i8; 32] = quants.at(32 * self.element(at, width / 32)).cast();
                // SAFETY: the caller's.
                unsafe { *into = *bytes };
            }
            for (part, bytes) in bytes.as_chunks::<SUMMED>().0.iter().enumerate() {
                let at = block * (SCALED / SUMMED) + part;
                // SAFETY: the caller's.
                unsafe { *starts.at(self.element(at, width / SUMMED)) = sum(bytes).wrapping_mul(-128) };
            }
            if SCALED == 256 {
                for (part, bytes) in bytes.as_chunks::<32>().0.iter().enumerate() {
                    let at = 4 * block + PAIR[part][0];
                    // SAFETY: the caller's.
                    unsafe { *pairs.at(2 * self.element(at, width / 64) + PAIR[part][1]) = sum(bytes) as i16 };
                }
            }
        }
    }
}

/// In which pair of sums each 32 inputs of 256 stand, and whether as the first or as the second.
pub(crate) const PAIR: [[usize; 2]; 8] = [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [3, 0], [2, 1], [3, 1]];

/// Of no more than 32 bytes.
fn sum(bytes: &[i8]) -> i32 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte.into()))
}
