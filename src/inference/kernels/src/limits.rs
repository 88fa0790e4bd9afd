//! What a processor can do at most, measured: the figures that the kernels' own are fractions of.

use std::hint::black_box;
use std::time::Instant;

use crate::Processor;
use crate::simd::{Kernel, LANES, Simd};

/// What a piece of work reads of memory: more than the prefetch runs ahead, less than a second cache.
const PIECE_BYTES: usize = 1 << 20;
/// How often a piece of arithmetic goes round its sums.
const ROUNDS: usize = 2_000;
/// As many sums as hide how long one operation takes, and fit into the registers.
const SUMS: usize = 12;

impl Processor {
    /// Operations a second of products of bytes that are all in registers, an addition and a multiplication counted each.
    pub fn peak_of_bytes(&self) -> f64 {
        self.peak(LANES * 8, || _ = black_box(self.isa.run(Dots)))
    }

    /// The same of fused multiplications in single precision.
    pub fn peak_of_floats(&self) -> f64 {
        self.peak(LANES * 2, || _ = black_box(self.isa.run(Fused)))
    }

    /// Bytes a second when memory is read in order and nothing is done with it.
    pub fn read_bandwidth(&self, memory: &[u8]) -> f64 {
        let start = Instant::now();
        self.pool.for_each(memory.len().div_ceil(PIECE_BYTES), |piece| {
            let memory = &memory[piece * PIECE_BYTES..];
            black_box(self.isa.run(Read { memory: &memory[..PIECE_BYTES.min(memory.len())] }));
        });
        memory.len() as f64 / start.elapsed().as_secs_f64()
    }

    /// Operations a second when each round of `piece` does so many on each of its sums.
    fn peak(&self, operations: usize, piece: impl Fn() + Sync) -> f64 {
        let pieces = 16 * self.pool.threads();
        let start = Instant::now();
        self.pool.for_each(pieces, |_| piece());
        (pieces * ROUNDS * SUMS * operations) as f64 / start.elapsed().as_secs_f64()
    }
}

struct Dots;

impl Kernel for Dots {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [i32; LANES] {
        let left = simd.load_bytes(&black_box([1; 64]));
        let right = black_box([1; 4]);
        let mut sums = [simd.splat_int(0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.dot_bytes(*sum, left, right);
            }
        }
        all(simd, &sums)
    }
}

struct Fused;

impl Kernel for Fused {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
        let (left, right) = (simd.load(&black_box([0.999; LANES])), simd.load(&black_box([0.001; LANES])));
        let mut sums = [simd.splat(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.fma(*sum, left, right);
            }
        }
        let mut total = simd.splat(0.0);
        for sum in sums {
            total = simd.add(total, sum);
        }
        let mut lanes = [0.0; LANES];
        simd.store(total, &mut lanes);
        lanes
    }
}

struct Read<'a> {
    memory: &'a [u8],
}

impl Kernel for Read<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [i32; LANES] {
        /// As far as the products ask ahead.
        const AHEAD: isize = 6 << 10;
        let mut sums = [simd.splat_int(0); 4];
        for lines in self.memory.as_chunks::<64>().0.chunks_exact(sums.len()) {
            for (sum, line) in sums.iter_mut().zip(lines) {
                simd.prefetch(line, AHEAD);
                *sum = simd.add_int(*sum, simd.load_bytes(line));
            }
        }
        all(simd, &sums)
    }
}

/// What all sums add up to.
#[inline(always)]
fn all<S: Simd>(simd: S, sums: &[S::I]) -> [i32; LANES] {
    let mut total = simd.splat_int(0);
    for &sum in sums {
        total = simd.add_int(total, sum);
    }
    let mut lanes = [0; LANES];
    simd.store_int(total, &mut lanes);
    lanes
}
