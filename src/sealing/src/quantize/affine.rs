//! The search of `Q4_K` and `Q5_K`: eight parts of 32 numbers, each on a grid `scale q - minimum` of its own, whose
//! scales and minima have 6 bits and are multiples of two common numbers of half precision.

use super::grid::{each, half, half_beyond, half_bytes, nearest, total, weights};

const PARTS: usize = 8;
/// The greatest number of 6 bits.
const MOST: f32 = 63.0;
/// The starting points of a part: the range of its numbers is cut into so many steps more than there are.
const MORE_STEPS: [f32; 5] = [0.0, -0.7, -0.3, 0.4, 0.9];
/// How often quants and grid are taken in turns from each starting point.
const TURNS: usize = 2;
/// How often the common numbers are fitted anew to what the parts' became.
const REFITS: usize = 3;

/// A block before its bits are packed.
pub(super) struct Fit {
    common: Grid,
    /// Whole numbers of 6 bits.
    grids: [Grid; PARTS],
    error: f32,
}

/// `scale q - minimum`.
#[derive(Clone, Copy, Default)]
struct Grid {
    scale: f32,
    minimum: f32,
}

/// The numbers of a part, and how much each weighs.
struct Part<'a> {
    values: &'a [f32; 32],
    weights: [f32; 32],
    /// The quants go from 0 to this number.
    most: f32,
}

/// What a regression of numbers on quants is made of; in double precision, since the solution takes differences.
#[derive(Clone, Copy, Default)]
struct Regression {
    weights: f64,
    quants: f64,
    squares: f64,
    values: f64,
    products: f64,
}

/// The best fit of 256 numbers for quants from 0 to `most`, and these.
pub(super) fn search(values: &[f32; 256], most: f32) -> (Fit, [u8; 256]) {
    let values = values.as_chunks::<32>().0;
    let parts: [Part<'_>; PARTS] =
        std::array::from_fn(|at| Part { values: &values[at], weights: weights(&values[at]), most });
    let plain = std::array::from_fn(|at| parts[at].plain(0.0));
    let ideal = std::array::from_fn(|at| parts[at].search());
    let mut best = Fit::under(common_of(&plain, MOST, MOST), &parts, &plain);
    let common = common_of(&ideal, MOST, MOST);
    let beyond = Grid { scale: half_beyond(common.scale), minimum: half_beyond(common.minimum) };
    for common in [common, beyond, common_of(&ideal, 62.0, MOST), common_of(&ideal, MOST, 62.0)] {
        let next = Fit::under(common, &parts, &ideal);
        if next.error < best.error {
            best = next;
        }
    }
    for _ in 0..REFITS {
        let next = Fit::under(best.refitted(&parts), &parts, &ideal);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    let mut quants = [0; 256];
    for ((part, grid), quants) in parts.iter().zip(&best.grids).zip(quants.as_chunks_mut::<32>().0) {
        *quants = part.quants(best.common.times(*grid)).map(|quant| quant as u8);
    }
    (best, quants)
}

/// Common numbers under which the greatest scale and the greatest minimum become these whole ones.
fn common_of(grids: &[Grid; PARTS], scale_end: f32, minimum_end: f32) -> Grid {
    let greatest = |of: fn(&Grid) -> f32| grids.iter().map(of).fold(0.0, f32::max);
    Grid {
        scale: half(greatest(|grid| grid.scale) / scale_end),
        minimum: half(greatest(|grid| grid.minimum) / minimum_end),
    }
}

impl Grid {
    /// The grid that a part's numbers of 6 bits stand for, rounded as decoding does.
    fn times(self, part: Grid) -> Grid {
        Grid { scale: self.scale * part.scale, minimum: self.minimum * part.minimum }
    }
}

impl Part<'_> {
    /// The nearest quants on a grid.
    #[inline(always)]
    fn quants(&self, grid: Grid) -> [f32; 32] {
        let inverse = if grid.scale == 0.0 { 0.0 } else { 1.0 / grid.scale };
        each(|at| nearest((self.values[at] + grid.minimum) * inverse, 0.0, self.most))
    }

    /// The weighted squared error of the nearest quants.
    #[inline(always)]
    fn error(&self, grid: Grid) -> f32 {
        let quants = self.quants(grid);
        total::<32>(|at| {
            let error = grid.scale * quants[at] - grid.minimum - self.values[at];
            self.weights[at] * (error * error)
        })
    }

    #[inline(always)]
    fn regression(&self, quants: &[f32; 32]) -> Regression {
        let (values, weights) = (self.values, &self.weights);
        Regression {
            weights: total::<32>(|at| weights[at]).into(),
            quants: total::<32>(|at| weights[at] * quants[at]).into(),
            squares: total::<32>(|at| weights[at] * quants[at] * quants[at]).into(),
            values: total::<32>(|at| weights[at] * values[at]).into(),
            products: total::<32>(|at| weights[at] * quants[at] * values[at]).into(),
        }
    }

    /// The range of the numbers, and zero, cut into so many steps more than there are.
    fn plain(&self, more_steps: f32) -> Grid {
        let least = self.values.iter().fold(0.0_f32, |least, &value| least.min(value));
        let greatest = self.values.iter().fold(0.0_f32, |greatest, &value| greatest.max(value));
        Grid { scale: (greatest - least) / (self.most + more_steps), minimum: -least }
    }

    /// The best grid that was found, without regard to common numbers.
    fn search(&self) -> Grid {
        let mut best = (f32::INFINITY, Grid::default());
        let mut consider = |grid: Grid| {
            let error = self.error(grid);
            if error < best.0 {
                best = (error, grid);
            }
        };
        for more in MORE_STEPS {
            let mut grid = self.plain(more);
            consider(grid);
            for _ in 0..TURNS {
                grid = self.regression(&self.quants(grid)).solve().unwrap_or(grid);
                consider(grid);
            }
        }
        best.1
    }

    /// The best numbers of 6 bits near those of the ideal grid, and their error.
    fn fit(&self, common: Grid, ideal: Grid) -> (f32, Grid) {
        let whole = |ideal: f32, common: f32| if common == 0.0 { 0.0 } else { nearest(ideal / common, 0.0, MOST) };
        let near = Grid { scale: whole(ideal.scale, common.scale), minimum: whole(ideal.minimum, common.minimum) };
        let mut best = (self.error(common.times(near)), near);
        // Each step is to the best neighbour, until there is no better one; the errors fall, so that this ends.
        loop {
            let centre = best.1;
            for (scale, minimum) in
                [(-1., -1.), (-1., 0.), (-1., 1.), (0., -1.), (0., 1.), (1., -1.), (1., 0.), (1., 1.)]
            {
                let grid = Grid {
                    scale: nearest(centre.scale + scale, 0.0, MOST),
                    minimum: nearest(centre.minimum + minimum, 0.0, MOST),
                };
                let error = self.error(common.times(grid));
                if error < best.0 {
                    best = (error, grid);
                }
            }
            if best.1.scale == centre.scale && best.1.minimum == centre.minimum {
                return best;
            }
        }
    }
}

impl Regression {
    /// The grid of the least squared error for these quants; none if any scale does.
    fn solve(self) -> Option<Grid> {
        let determinant = self.weights * self.squares - self.quants * self.quants;
        let scale = (self.weights * self.products - self.values * self.quants) / determinant;
        let minimum = (self.quants * self.products - self.squares * self.values) / determinant;
        // A minimum is taken off, and never added.
        let (scale, minimum) = if minimum < 0.0 { (self.products / self.squares, 0.0) } else { (scale, minimum) };
        (scale > 0.0 && scale.is_finite()).then_some(Grid { scale: scale as f32, minimum: minimum as f32 })
    }
}

impl Fit {
    fn under(common: Grid, parts: &[Part<'_>; PARTS], ideal: &[Grid; PARTS]) -> Fit {
        let mut fit = Fit { common, grids: [Grid::default(); PARTS], error: 0.0 };
        for ((part, &ideal), grid) in parts.iter().zip(ideal).zip(&mut fit.grids) {
            let (error, best) = part.fit(common, ideal);
            fit.error += error;
            *grid = best;
        }
        fit
    }

    /// The common numbers that suit the parts' numbers and quants best.
    fn refitted(&self, parts: &[Part<'_>; PARTS]) -> Grid {
        let mut sum = Regression::default();
        for (part, &grid) in parts.iter().zip(&self.grids) {
            let of_part = part.regression(&part.quants(self.common.times(grid)));
            let (scale, minimum) = (f64::from(grid.scale), f64::from(grid.minimum));
            sum.weights += minimum * minimum * of_part.weights;
            sum.quants += scale * minimum * of_part.quants;
            sum.squares += scale * scale * of_part.squares;
            sum.values += minimum * of_part.values;
            sum.products += scale * of_part.products;
        }
        let grid = sum.solve().unwrap_or(self.common);
        Grid { scale: half(grid.scale), minimum: half(grid.minimum) }
    }

    /// The first 16 bytes of a block.
    ///
    /// ```text
    /// d f16 | dmin f16 | 12 bytes of scales s and minima m: bytes 0 to 3 hold s0 to s3 and 4 to 7 m0 to m3 in their
    /// lower 6 bits; bytes 8 to 11 the lower 4 bits of s4 to s7 and, above them, of m4 to m7, whose upper 2 bits are in
    /// those that bytes 0 to 7 have left
    /// ```
    pub(super) fn header(&self) -> [u8; 16] {
        let mut header = [0; 16];
        header[..2].copy_from_slice(&half_bytes(self.common.scale));
        header[2..4].copy_from_slice(&half_bytes(self.common.minimum));
        let packed = &mut header[4..];
        for at in 0..4 {
            let [low, high] = [self.grids[at], self.grids[at + 4]].map(|grid| (grid.scale as u8, grid.minimum as u8));
            packed[at] = low.0 | high.0 >> 4 << 6;
            packed[at + 4] = low.1 | high.1 >> 4 << 6;
            packed[at + 8] = high.0 & 15 | (high.1 & 15) << 4;
        }
        header
    }
}
