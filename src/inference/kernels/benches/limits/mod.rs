//! What the processor could do at most: arithmetic on registers alone, and reading memory that no cache holds.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::OnceLock;

use ampoule_kernels::{Buffer, Processor};

/// More than any cache holds.
const READ_BYTES: usize = 640 << 20;
/// What a thread reads at a time.
const READ_PIECE: usize = 1 << 20;
/// How far ahead of its reading memory is fetched.
const PREFETCH_BYTES: usize = 4096;
/// How many sums there are that do not wait for one another: as many as hide the arithmetic's latency.
const SUMS: usize = 12;
const STEPS: usize = 20_000;

/// The time: of one thread, what the processor gave it; of several, the wall's.
pub(crate) fn seconds(processor: &Processor) -> f64 {
    let clock = if processor.pool.threads() == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a place that is there.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0, "a clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Operations a second of all threads in single precision and, where there are instructions for it, in bfloat16, a
/// multiplication and an addition counting for one each.
///
/// # Panics
/// When the processor lacks AVX2.
pub(crate) fn peaks(processor: &Processor) -> (f64, Option<f64>) {
    let single = if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor was asked for the instructions.
        peak(processor, 32, || unsafe { single_avx512() })
    } else {
        assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "a processor with AVX2");
        // SAFETY: as above.
        peak(processor, 16, || unsafe { single_avx2() })
    };
    // SAFETY: as above.
    let brain = || peak(processor, 64, || unsafe { brain_avx512() });
    (single, is_x86_feature_detected!("avx512bf16").then(brain))
}

fn peak(processor: &Processor, operations: usize, arithmetic: impl Fn() + Sync) -> f64 {
    let pieces = 8 * processor.pool.threads();
    let start = seconds(processor);
    processor.pool.for_each(pieces, |_| arithmetic());
    (pieces * STEPS * SUMS * operations) as f64 / (seconds(processor) - start)
}

/// Bytes a second of all threads.
///
/// # Panics
/// When the processor lacks AVX2.
pub(crate) fn read(processor: &Processor) -> f64 {
    static MEMORY: OnceLock<Buffer<u8>> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| {
        let mut memory = Buffer::zeroed(READ_BYTES);
        memory.fill(1);
        memory
    });
    assert!(is_x86_feature_detected!("avx2"), "a processor with AVX2");
    let start = seconds(processor);
    processor.pool.for_each(READ_BYTES / READ_PIECE, |piece| {
        let piece = &memory[piece * READ_PIECE..][..READ_PIECE];
        // SAFETY: the processor was asked for the instructions.
        black_box(unsafe { combine(piece) });
    });
    READ_BYTES as f64 / (seconds(processor) - start)
}

/// A function that multiplies and adds [`STEPS`] times in each of [`SUMS`] registers.
macro_rules! arithmetic {
    ($name:ident, $features:literal, $start:expr, $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name() {
            let mut sums = [black_box($start); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $step(*sum);
                }
            }
            black_box(sums);
        }
    };
}

arithmetic!(single_avx2, "avx2,fma", _mm256_setzero_ps(), |sum| _mm256_fmadd_ps(sum, sum, sum));
arithmetic!(single_avx512, "avx512f", _mm512_setzero_ps(), |sum| _mm512_fmadd_ps(sum, sum, sum));
arithmetic!(brain_avx512, "avx512f,avx512bf16", _mm512_setzero_ps(), |sum| {
    // SAFETY: sixty-four bytes either way, of which any is a value.
    let pairs: __m512bh = unsafe { std::mem::transmute(sum) };
    _mm512_dpbf16_ps(sum, pairs, pairs)
});

#[target_feature(enable = "avx2")]
fn combine(bytes: &[u8]) -> __m256i {
    let mut combined = [_mm256_setzero_si256(); 2];
    for line in bytes.as_chunks::<64>().0 {
        // SAFETY: the line has 64 bytes, and an address that is not there may be fetched from.
        let halves = unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH_BYTES).cast());
            let line: *const __m256i = line.as_ptr().cast();
            [_mm256_loadu_si256(line), _mm256_loadu_si256(line.add(1))]
        };
        for (combined, half) in combined.iter_mut().zip(halves) {
            *combined = _mm256_or_si256(*combined, half);
        }
    }
    _mm256_or_si256(combined[0], combined[1])
}
