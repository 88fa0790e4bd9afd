//! Attention against the plain softmax in double precision over what is kept of keys and values, at odd sizes: within
//! the rounding of single precision, and to the bit the same for any instruction set, number of threads, crowd, cut of
//! the prompt and choice of blocks.

mod common;

use std::num::NonZero;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use ampoule_kernels::{
    Attention, BLOCK_TOKENS, Isa, KvBlocks, KvElement, Pool, Processor, Span, attend, attend_whole, bytes_per_block,
};
use common::{bits, numbers};
use proptest::prelude::*;

const ELEMENTS: [KvElement; 3] = [KvElement::F32, KvElement::F16, KvElement::Q8];
const DIMENSIONS: [usize; 10] = [1, 4, 6, 10, 16, 24, 32, 64, 80, 96];

fn processor(isa: Isa, threads: usize) -> Processor {
    Processor { isa, pool: Pool::new(NonZero::new(threads).expect("at least one")).expect("threads start") }
}

/// Rows of one sequence.
#[derive(Clone)]
struct Sequence {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Sequence {
    fn new(attention: &Attention, length: usize, seed: u64) -> Sequence {
        let Attention { heads, key_value_heads, dimension, .. } = *attention;
        Sequence {
            query: numbers(seed, length * heads * dimension, 3.0),
            key: numbers(seed ^ 1, length * key_value_heads * dimension, 2.0),
            value: numbers(seed ^ 2, length * key_value_heads * dimension, 1.0),
        }
    }
}

/// What is kept of a sequence's keys and values, `[tokens, heads, dimension]`.
struct Kept {
    key: Vec<f64>,
    value: Vec<f64>,
}

impl Kept {
    fn new(element: KvElement, sequence: &Sequence, dimension: usize) -> Kept {
        let of = |rows: &[f32]| rows.chunks(dimension).flat_map(|head| kept(element, head)).collect();
        Kept { key: of(&sequence.key), value: of(&sequence.value) }
    }
}

/// What is kept of one head's numbers.
fn kept(element: KvElement, head: &[f32]) -> Vec<f64> {
    let greatest = head.iter().fold(0.0, |greatest: f32, number| greatest.max(number.abs()));
    let of = |number: &f32| match element {
        KvElement::F32 => f64::from(*number),
        KvElement::F16 => half::f16::from_f32(*number).to_f64(),
        KvElement::Q8 if greatest == 0.0 => 0.0,
        KvElement::Q8 => f64::from((number * (127.0 / greatest)).round_ties_even()) * f64::from(greatest / 127.0),
    };
    head.iter().map(of).collect()
}

/// What a row's attention over some tokens is.
fn exact(attention: &Attention, sequence: &Sequence, kept: &Kept, row: usize, tokens: Range<usize>) -> Vec<f64> {
    let Attention { heads, key_value_heads, dimension, .. } = *attention;
    let mut result = Vec::new();
    for head in 0..heads {
        let query = &sequence.query[(row * heads + head) * dimension..][..dimension];
        let head = head / (heads / key_value_heads);
        let place = |token: usize| (token * key_value_heads + head) * dimension;
        let score = |token: usize| {
            let key = &kept.key[place(token)..][..dimension];
            let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum();
            let score = product * f64::from(attention.scale);
            attention.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = tokens.clone().map(score).collect();
        let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for number in 0..dimension {
            let terms = tokens.clone().zip(&weights).map(|(token, w)| w * kept.value[place(token) + number]);
            result.push(terms.sum::<f64>() / sum);
        }
    }
    result
}

fn close(found: &[f32], exact: &[f64]) -> bool {
    found.len() == exact.len() && found.iter().zip(exact).all(|(found, exact)| (f64::from(*found) - exact).abs() < 2e-5)
}

/// The attention of sequences that are computed side by side, each in pieces of so many rows.
fn served(
    processor: &Processor,
    attention: &Attention,
    element: KvElement,
    sequences: &[Sequence],
    chunk: usize,
    shuffle: usize,
) -> Vec<Vec<f32>> {
    let Attention { heads, key_value_heads, dimension, .. } = *attention;
    let (width, width_kept) = (heads * dimension, key_value_heads * dimension);
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.query.len() / width).collect();
    let blocks_each = lengths.iter().max().expect("a sequence").div_ceil(BLOCK_TOKENS);
    let count = blocks_each * sequences.len();
    let mut blocks = KvBlocks::new(element, 2, key_value_heads, dimension, count);
    // What others have left behind must not be seen.
    let all: Vec<u32> = (0..count as u32).collect();
    let junk = numbers(99, count * BLOCK_TOKENS * width_kept, 1e9);
    let spans = [Span { rows: 0..count * BLOCK_TOKENS, position: 0, blocks: &all }];
    blocks.store(processor, 1, &spans, &junk, &junk);

    let tables: Vec<Vec<u32>> = (0..sequences.len())
        .map(|own| (0..blocks_each).map(|block| ((block * sequences.len() + own + shuffle) % count) as u32).collect())
        .collect();
    let mut results: Vec<Vec<f32>> = vec![Vec::new(); sequences.len()];
    for start in (0..*lengths.iter().max().expect("a sequence")).step_by(chunk) {
        let (mut spans, mut owners, mut rows) = (Vec::new(), Vec::new(), 0);
        let (mut query, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (sequence, &length)) in sequences.iter().zip(&lengths).enumerate() {
            let end = length.min(start + chunk);
            if start < end {
                query.extend_from_slice(&sequence.query[start * width..end * width]);
                key.extend_from_slice(&sequence.key[start * width_kept..end * width_kept]);
                value.extend_from_slice(&sequence.value[start * width_kept..end * width_kept]);
                spans.push(Span { rows: rows..rows + (end - start), position: start, blocks: &tables[index] });
                owners.push(index);
                rows += end - start;
            }
        }
        blocks.store(processor, 1, &spans, &key, &value);
        let mut into = vec![f32::NAN; query.len()];
        attend(processor, attention, 1, &blocks, &query, &spans, &mut into);
        for (span, owner) in spans.iter().zip(owners) {
            results[owner].extend_from_slice(&into[span.rows.start * width..span.rows.end * width]);
        }
    }
    results
}

fn attentions() -> impl Strategy<Value = Attention> {
    let caps = prop::option::of(2.0_f32..60.0);
    let windows = prop_oneof![Just(usize::MAX), 1_usize..150];
    (1_usize..4, 1_usize..6, prop::sample::select(&DIMENSIONS[..]), caps, windows).prop_map(
        |(key_value_heads, group, dimension, softcap, window)| Attention {
            heads: key_value_heads * group,
            key_value_heads,
            dimension,
            scale: 1.0 / (dimension as f32).sqrt(),
            softcap,
            window,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_see_what_stands_before_and_are_the_same_in_any_crowd(
        attention in attentions(),
        lengths in prop::collection::vec(1_usize..180, 1..4),
        element in prop::sample::select(&ELEMENTS[..]),
        seed: u64,
        chunk in 1_usize..100,
    ) {
        let sequences: Vec<Sequence> =
            lengths.iter().map(|&length| Sequence::new(&attention, length, seed ^ (length as u64) << 8)).collect();
        let plain = processor(Isa::available()[0], 1);
        let whole: Vec<Vec<f32>> = sequences
            .iter()
            .map(|sequence| served(&plain, &attention, element, std::slice::from_ref(sequence), 1000, 0).remove(0))
            .collect();
        for (sequence, found) in sequences.iter().zip(&whole) {
            let kept = Kept::new(element, sequence, attention.dimension);
            for (row, found) in found.chunks(attention.heads * attention.dimension).enumerate() {
                let tokens = (row + 1).saturating_sub(attention.window)..row + 1;
                let exact = exact(&attention, sequence, &kept, row, tokens);
                prop_assert!(close(found, &exact), "row {row}: {found:?} for {exact:?}");
            }
        }
        for isa in Isa::available() {
            for (threads, chunk) in [(1, 1000), (2, chunk)] {
                let crowd = served(&processor(isa, threads), &attention, element, &sequences, chunk, 5);
                for (found, expected) in crowd.iter().zip(&whole) {
                    prop_assert_eq!(bits(found), bits(expected), "{}, {} threads, chunks of {}", isa, threads, chunk);
                }
            }
        }
    }

    #[test]
    fn rows_of_whole_sequences_see_all_of_their_own(
        attention in attentions(),
        lengths in prop::collection::vec(0_usize..150, 1..5),
        seed: u64,
    ) {
        let sequences: Vec<Sequence> =
            lengths.iter().map(|&length| Sequence::new(&attention, length, seed ^ (length as u64) << 8)).collect();
        let together = |part: fn(&Sequence) -> &Vec<f32>| -> Vec<f32> { sequences.iter().flat_map(part).copied().collect() };
        let (query, key, value) = (together(|one| &one.query), together(|one| &one.key), together(|one| &one.value));
        let mut into = vec![f32::NAN; query.len()];
        attend_whole(&processor(Isa::best(), 2), &attention, &query, &key, &value, &lengths, &mut into);
        let mut rest = &into[..];
        for (sequence, &length) in sequences.iter().zip(&lengths) {
            let (own, after) = rest.split_at(sequence.query.len());
            rest = after;
            let kept = Kept::new(KvElement::F32, sequence, attention.dimension);
            for (row, found) in own.chunks(attention.heads * attention.dimension).enumerate() {
                let exact = exact(&attention, sequence, &kept, row, 0..length);
                prop_assert!(close(found, &exact), "row {row}: {found:?} for {exact:?}");
            }
            for isa in Isa::available() {
                let Sequence { query, key, value } = sequence;
                let mut alone = vec![f32::NAN; query.len()];
                attend_whole(&processor(isa, 1), &attention, query, key, value, &[length], &mut alone);
                prop_assert_eq!(bits(own), bits(&alone), "{} alone", isa);
            }
        }
    }
}

fn small() -> Attention {
    Attention { heads: 2, key_value_heads: 1, dimension: 10, scale: 0.3, softcap: None, window: usize::MAX }
}

#[test]
fn rows_that_see_much_are_the_same_in_parts() {
    const LENGTH: usize = 2600;
    const ROWS: Range<usize> = 2571..2600;
    let attention = Attention { heads: 3, key_value_heads: 1, dimension: 20, window: usize::MAX, ..small() };
    let sequence = Sequence::new(&attention, LENGTH, 3);
    let table: Vec<u32> = (0..LENGTH.div_ceil(BLOCK_TOKENS) as u32).rev().collect();
    let stored = [Span { rows: 0..LENGTH, position: 0, blocks: &table }];
    for (element, window) in ELEMENTS.into_iter().flat_map(|element| [(element, usize::MAX), (element, 1300)]) {
        let attention = Attention { window, ..attention };
        let mut blocks = KvBlocks::new(element, 1, 1, attention.dimension, table.len());
        blocks.store(&processor(Isa::best(), 2), 0, &stored, &sequence.key, &sequence.value);
        // So many rows at a time, the last ones of the sequence.
        let attended = |isa: Isa, threads: usize, cut: usize| {
            let processor = processor(isa, threads);
            let rows: Vec<usize> = ROWS.collect();
            let attended = rows.chunks(cut).flat_map(|rows| {
                let query = &sequence.query[rows[0] * 60..][..rows.len() * 60];
                let span = [Span { rows: 0..rows.len(), position: rows[0], blocks: &table }];
                let mut into = vec![f32::NAN; query.len()];
                attend(&processor, &attention, 0, &blocks, query, &span, &mut into);
                into
            });
            attended.collect::<Vec<f32>>()
        };
        let together = attended(Isa::available()[0], 1, LENGTH);
        let kept = Kept::new(element, &sequence, attention.dimension);
        for (row, found) in ROWS.zip(together.chunks(60)) {
            let exact = exact(&attention, &sequence, &kept, row, (row + 1).saturating_sub(window)..row + 1);
            assert!(close(found, &exact), "{element:?}, row {row}: {found:?} for {exact:?}");
        }
        for isa in Isa::available() {
            for (threads, cut) in [(1, LENGTH), (1, 1), (3, LENGTH), (3, 7), (3, 1)] {
                let same = bits(&attended(isa, threads, cut)) == bits(&together);
                assert!(same, "{element:?}, {isa}, {threads} threads, {cut} rows at a time, window {window}");
            }
        }
    }
}

#[test]
fn whole_sequences_that_are_long_are_right() {
    const LENGTH: usize = 1100;
    let attention = Attention { heads: 1, key_value_heads: 1, dimension: 20, ..small() };
    let sequence = Sequence::new(&attention, LENGTH, 4);
    let kept = Kept::new(KvElement::F32, &sequence, attention.dimension);
    let attended = |isa: Isa, threads: usize| {
        let Sequence { query, key, value } = &sequence;
        let mut into = vec![f32::NAN; query.len()];
        attend_whole(&processor(isa, threads), &attention, query, key, value, &[LENGTH], &mut into);
        into
    };
    let found = attended(Isa::available()[0], 1);
    for row in [0, 500, 1023, 1024, 1099] {
        let exact = exact(&attention, &sequence, &kept, row, 0..LENGTH);
        assert!(close(&found[row * 20..][..20], &exact), "row {row}");
    }
    assert_eq!(bits(&attended(Isa::best(), 3)), bits(&found));
}

#[test]
fn a_block_that_holds_the_same_is_another_one() {
    for element in ELEMENTS {
        let (attention, processor) = (small(), processor(Isa::best(), 2));
        let sequence = Sequence::new(&attention, 20, 7);
        let mut blocks = KvBlocks::new(element, 1, 1, 10, 4);
        let span = |table| [Span { rows: 0..20, position: 0, blocks: table }];
        blocks.store(&processor, 0, &span(&[2, 0]), &sequence.key, &sequence.value);
        let result = |blocks: &KvBlocks, table| {
            let mut into = vec![0.0; sequence.query.len()];
            attend(&processor, &attention, 0, blocks, &sequence.query, &span(table), &mut into);
            bits(&into)
        };
        let original = result(&blocks, &[2, 0]);
        blocks.store(&processor, 0, &span(&[2, 3]), &sequence.key, &sequence.value);
        assert_eq!(result(&blocks, &[2, 3]), original);
        let other = [Span { rows: 0..1, position: 17, blocks: &[2, 3] }];
        blocks.store(&processor, 0, &other, &sequence.key[..10], &sequence.value[..10]);
        assert_ne!(result(&blocks, &[2, 3]), original);
        assert_eq!(result(&blocks, &[2, 0]), original);
    }
}

#[test]
fn what_an_element_cannot_hold_is_cut_off() {
    // The greatest of eight bits comes back from the quotient and the product with its scale.
    let greatest_of_bytes = f32::MAX / 127.0 * 127.0;
    for (element, greatest) in ELEMENTS.into_iter().zip([f32::MAX, 65504.0, greatest_of_bytes]) {
        let (attention, processor) = (small(), processor(Isa::best(), 1));
        let mut blocks = KvBlocks::new(element, 1, 1, 10, 1);
        let span = [Span { rows: 0..1, position: 0, blocks: &[0] }];
        let infinite = |number: usize| if number.is_multiple_of(2) { f32::INFINITY } else { f32::NEG_INFINITY };
        let values: Vec<f32> = (0..10).map(infinite).collect();
        blocks.store(&processor, 0, &span, &[0.0; 10], &values);
        let mut into = [0.0; 20];
        attend(&processor, &attention, 0, &blocks, &[1.0; 20], &span, &mut into);
        assert!(into.chunks(2).all(|pair| pair == [greatest, -greatest]), "{element:?}: {into:?}");
    }
}

#[test]
fn memory_is_foreseen() {
    for (element, bytes, scales) in [(KvElement::F32, 4, 0), (KvElement::F16, 2, 0), (KvElement::Q8, 1, 2 * 4)] {
        let per_token = |numbers: usize| BLOCK_TOKENS * (numbers * bytes + scales);
        assert_eq!(bytes_per_block(element, 16, 8, 64), 16 * 8 * per_token(2 * 64));
        assert_eq!(bytes_per_block(element, 1, 1, 10), per_token(10 + 16));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (attention, processor) = (small(), processor(Isa::best(), 2));
    let mut blocks = KvBlocks::new(KvElement::F16, 2, 1, 10, 3);
    let mut refused = |layer: usize, rows: usize, spans: &[(Range<usize>, usize, &[u32])]| {
        let spans: Vec<Span<'_>> = spans
            .iter()
            .map(|(rows, position, blocks)| Span { rows: rows.clone(), position: *position, blocks })
            .collect();
        let kept = vec![0.0; rows * 10];
        let store = || blocks.store(&processor, layer, &spans, &kept, &kept);
        let stored = panic::catch_unwind(AssertUnwindSafe(store)).is_ok();
        let (query, mut into) = (vec![0.0; rows * 20], vec![0.0; rows * 20]);
        let attend = || attend(&processor, &attention, layer, &blocks, &query, &spans, &mut into);
        let attended = panic::catch_unwind(AssertUnwindSafe(attend)).is_ok();
        (!stored, !attended)
    };
    let right = [(0..16, 0, &[2][..]), (16..17, 20, &[1, 0])];
    assert_eq!(refused(1, 17, &right), (false, false));
    assert_eq!(refused(2, 17, &right), (true, true), "no such layer");
    assert_eq!(refused(1, 16, &right), (true, true), "no such row");
    assert_eq!(refused(1, 17, &[(0..17, 0, &[2])]), (true, true), "a token without a block");
    assert_eq!(refused(1, 17, &[(0..17, 0, &[2, 3])]), (true, true), "no such block");
    assert_eq!(refused(1, 17, &[(0..9, 0, &[2]), (8..17, 0, &[1])]), (true, true), "a row of two sequences");
    assert_eq!(refused(1, 17, &[(1..2, 0, &[2]), (0..1, 0, &[1])]), (true, true), "rows in no order");
    // To read from one block is what a common beginning is for.
    assert_eq!(refused(1, 2, &[(0..1, 16, &[2, 1]), (1..2, 17, &[2, 1])]), (true, false), "one block for two");
    assert_eq!(refused(1, 32, &[(0..32, 0, &[1, 1])]), (true, false), "one block twice");
}
