//! How fast attention and the functions on rows are, beside what the machine can do: memory read at once for decoding,
//! multiplications at once for prompts.
//!
//! `cargo bench -p ampoule-kernels --bench attention [decode | prefill | whole | rows]`.  Machines are shared: the
//! best of some rounds counts.

use std::hint::black_box;
use std::num::NonZero;
use std::time::{Duration, Instant};

use ampoule_kernels::{
    Attention, BLOCK_TOKENS, Buffer, KvBlocks, KvElement, Processor, Span, attend, attend_whole, bytes_per_block, rows,
};

const HEADS: usize = 32;
const KEY_VALUE_HEADS: usize = 8;
const ROUNDS: usize = 9;
/// More than the second caches hold.
const READ_BYTES: usize = 96 << 20;

fn main() {
    // The first argument, if there is one, names what alone is measured.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let measured = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let all = std::thread::available_parallelism().map_or(1, NonZero::get);
    for threads in if all == 1 { vec![1] } else { vec![1, all] } {
        let processor = Processor::new(NonZero::new(threads).expect("at least one")).expect("threads start");
        println!("{threads} threads, {}", processor.isa);
        let elements = [KvElement::F32, KvElement::F16, KvElement::Q8];
        for (element, dimension) in elements.into_iter().flat_map(|element| [(element, 64), (element, 128)]) {
            if measured("decode") {
                for (heads, group) in [(KEY_VALUE_HEADS, 1), (KEY_VALUE_HEADS, 4), (KEY_VALUE_HEADS, 8), (3, 4)] {
                    decode(&processor, element, dimension, heads, group);
                }
            }
            if measured("prefill") {
                prefill(&processor, element, dimension, 512, 0);
                prefill(&processor, element, dimension, 256, 3840);
            }
        }
        if measured("whole") {
            for (dimension, length) in [(32, 32), (32, 64), (32, 128), (32, 256), (64, 512)] {
                encode(&processor, dimension, length);
            }
        }
    }
    if measured("rows") {
        single_rows(&Processor::new(NonZero::<usize>::MIN).expect("threads start"));
    }
}

/// The least time of some rounds.
fn best(rounds: usize, mut work: impl FnMut()) -> Duration {
    work();
    let mut time = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..rounds).map(|_| time()).min().expect("at least one round")
}

/// The greatest of some rounds, in thousands of millions a second.
fn limit(measure: impl Fn() -> f64) -> f64 {
    (0..ROUNDS).map(|_| measure()).fold(0.0, f64::max) / 1e9
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn attention(dimension: usize, heads: usize, key_value_heads: usize) -> Attention {
    let scale = 1.0 / (dimension as f32).sqrt();
    Attention { heads, key_value_heads, dimension, scale, softcap: None, window: usize::MAX }
}

/// As many layers as pass the caches, the blocks of the sequence in no order, all filled.
fn blocks(
    processor: &Processor,
    element: KvElement,
    dimension: usize,
    heads: usize,
    layers: usize,
    tokens: usize,
) -> (KvBlocks, Vec<u32>) {
    let count = tokens / BLOCK_TOKENS;
    let mut memory = KvBlocks::new(element, layers, heads, dimension, count);
    let table: Vec<u32> = (0..count as u32).map(|block| block * 37 % count as u32).collect();
    let rows = numbers(tokens * heads * dimension);
    for layer in 0..layers {
        memory.store(processor, layer, &[Span { rows: 0..tokens, position: 0, blocks: &table }], &rows, &rows);
    }
    (memory, table)
}

/// One token after 4095 others, in one layer after the other.
fn decode(processor: &Processor, element: KvElement, dimension: usize, heads: usize, group: usize) {
    const LAYERS: usize = 16;
    const TOKENS: usize = 4096;
    let (memory, table) = blocks(processor, element, dimension, heads, LAYERS, TOKENS);
    let attention = attention(dimension, heads * group, heads);
    let query = numbers(attention.heads * dimension);
    let mut into = query.clone();
    let span = [Span { rows: 0..1, position: TOKENS - 1, blocks: &table }];
    let mut memory_read = Buffer::zeroed(READ_BYTES);
    memory_read.fill(1);
    let limit = limit(|| processor.read_bandwidth(&memory_read));
    let time = best(ROUNDS, || {
        for layer in 0..LAYERS {
            attend(processor, &attention, layer, &memory, &query, &span, &mut into);
        }
    });
    let bytes = memory.blocks() * bytes_per_block(element, LAYERS, heads, dimension);
    let rate = bytes as f64 / time.as_secs_f64() / 1e9;
    let part = 100.0 * rate / limit;
    let time = time.as_secs_f64() * 1e3;
    println!(
        "  decode, {element:?}, dimension {dimension}, {heads} groups of {group} heads: {rate:.1} GB/s, {part:.0} % of \
         reading, {time:.2} ms"
    );
}

fn prefill(processor: &Processor, element: KvElement, dimension: usize, rows: usize, position: usize) {
    let (mut memory, table) = blocks(processor, element, dimension, KEY_VALUE_HEADS, 1, position + rows);
    let attention = attention(dimension, HEADS, KEY_VALUE_HEADS);
    let query = numbers(rows * HEADS * dimension);
    let mut into = query.clone();
    let span = [Span { rows: 0..rows, position, blocks: &table }];
    let limit = limit(|| processor.peak_of_floats());
    let time = best(ROUNDS, || attend(processor, &attention, 0, &memory, &query, &span, &mut into));
    let seen: usize = (position + 1..=position + rows).sum();
    let rate = (seen * HEADS * dimension * 4) as f64 / time.as_secs_f64() / 1e9;
    let part = 100.0 * rate / limit;
    let kept = &query[..rows * KEY_VALUE_HEADS * dimension];
    let store = best(ROUNDS, || memory.store(processor, 0, &span, kept, kept)).as_secs_f64() * 1e3;
    println!(
        "  prefill, {element:?}, dimension {dimension}, {rows} rows at {position}: {rate:.0} GFLOP/s, {part:.0} % of the \
         peak, {:.1} ms; {store:.2} ms to store them",
        time.as_secs_f64() * 1e3,
    );
}

/// Eight sequences of one length, as encoders have them.
fn encode(processor: &Processor, dimension: usize, length: usize) {
    let attention = attention(dimension, HEADS, HEADS);
    let lengths = [length; 8];
    let rows = numbers(8 * length * HEADS * dimension);
    let mut into = rows.clone();
    let limit = limit(|| processor.peak_of_floats());
    let work = || attend_whole(processor, &attention, &rows, &rows, &rows, &lengths, &mut into);
    // Short sequences take less than a machine is left alone for: they have as many more rounds.
    let time = best(ROUNDS * 2048 / length, work);
    let rate = (8 * length * length * HEADS * dimension * 4) as f64 / time.as_secs_f64() / 1e9;
    println!(
        "  whole, dimension {dimension}, length {length}: {rate:.0} GFLOP/s, {:.0} % of the peak",
        100.0 * rate / limit
    );
}

/// What the functions on rows read and write in a second, one row of 2048 numbers that stays in the cache.
fn single_rows(processor: &Processor) {
    const WIDTH: usize = 2048;
    const REPEATS: usize = 2000;
    let isa = processor.isa;
    let (mut row, other, weight) = (numbers(WIDTH), numbers(WIDTH), numbers(WIDTH));
    let mut into = numbers(WIDTH);
    let (cosines, sines) = (vec![1.0; 32], vec![0.0; 32]);
    let mut report = |name: &str, passes: usize, work: &mut dyn FnMut(&mut [f32], &mut [f32])| {
        let time = best(ROUNDS, || {
            for _ in 0..REPEATS {
                work(black_box(&mut row), black_box(&mut into));
            }
        });
        let rate = (REPEATS * WIDTH * 4 * passes) as f64 / time.as_secs_f64() / 1e9;
        println!("  {name}: {rate:.0} GB/s, {:.2} us a row", time.as_secs_f64() * 1e6 / REPEATS as f64);
    };
    println!("rows of {WIDTH}, one thread, {isa}");
    report("rms_norm", 3, &mut |row, into| rows::rms_norm(isa, row, &weight, 1e-5, into));
    report("layer_norm", 4, &mut |row, into| rows::layer_norm(isa, row, &weight, &other, 1e-5, into));
    report("add", 3, &mut |row, into| rows::add(isa, into, row));
    report("silu_times", 3, &mut |row, into| rows::silu_times(isa, row, &other, into));
    report("gelu_times", 3, &mut |row, into| rows::gelu_times(isa, row, &other, into));
    report("gelu_tanh_times", 3, &mut |row, into| rows::gelu_tanh_times(isa, row, &other, into));
    report("softcap", 2, &mut |row, _| rows::softcap(isa, row, 30.0));
    report("rotate", 2, &mut |row, _| rows::rotate(isa, row, 64, &cosines, &sines));
}
