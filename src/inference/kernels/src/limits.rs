//! What a processor can do at most, measured: the figures that the kernels' own are fractions of.

use std::hint::black_box;
use std::time::Instant;

use crate::Processor;
use crate::simd::{Kernel, LANES, Simd};
use crate::weights::Packed;

/// What a piece of work reads of memory: more than the prefetch runs ahead, less than a second cache.
const PIECE_BYTES: usize = 1 << 20;

impl Processor {
    /// Operations a second of products of bytes that are all in registers, an addition and a multiplication counted each.
    pub fn peak_of_bytes(&self) -> f64 {
        const ROUNDS: usize = 2_000;
        let pieces = 16 * self.pool.threads();
        let start = Instant::now();
        self.pool.for_each(pieces, |_| {
            black_box(self.isa.run(Dots { rounds: ROUNDS }));
        });
        let operations = pieces * ROUNDS * Dots::PER_ROUND * LANES * 8;
        operations as f64 / start.elapsed().as_secs_f64()
    }

    /// Bytes a second when weights are read in order and nothing is done with them.
    pub fn read_bandwidth(&self, weights: &Packed) -> f64 {
        let memory = weights.panel_bytes();
        let start = Instant::now();
        self.pool.for_each(memory.len().div_ceil(PIECE_BYTES), |piece| {
            let memory = &memory[piece * PIECE_BYTES..];
            black_box(self.isa.run(Read { memory: &memory[..PIECE_BYTES.min(memory.len())] }));
        });
        memory.len() as f64 / start.elapsed().as_secs_f64()
    }
}

struct Dots {
    rounds: usize,
}

impl Dots {
    /// As many sums as hide how long one operation takes, and fit into the registers.
    const PER_ROUND: usize = 12;
}

impl Kernel for Dots {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [i32; LANES] {
        let left = simd.load_bytes(&black_box([1; 64]));
        let right = black_box([1; 4]);
        let mut sums = [simd.splat_int(0); Self::PER_ROUND];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.dot_bytes(*sum, left, right);
            }
        }
        let mut lanes = [0; LANES];
        simd.store_int(sums.into_iter().fold(simd.splat_int(0), |left, right| simd.add_int(left, right)), &mut lanes);
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
        let mut lanes = [0; LANES];
        simd.store_int(sums.into_iter().fold(simd.splat_int(0), |left, right| simd.add_int(left, right)), &mut lanes);
        lanes
    }
}
