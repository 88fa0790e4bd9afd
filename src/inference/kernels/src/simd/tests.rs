//! Every instruction set computes what the portable one does, to the bit.

use proptest::prelude::*;

use super::{Kernel, LANES, Simd};
use crate::Isa;

/// Lanes of whole numbers.
#[inline(always)]
fn integers<S: Simd>(simd: S, lanes: &[i32; LANES]) -> S::I {
    let mut bytes = [0; 64];
    for (bytes, lane) in bytes.as_chunks_mut().0.iter_mut().zip(lanes) {
        *bytes = lane.to_le_bytes();
    }
    simd.load_bytes(&bytes)
}

/// Every operation once, on the same lanes; all results as bits.
struct Everything {
    left: [f32; LANES],
    right: [f32; LANES],
    plus: [f32; LANES],
    bytes: [u8; 64],
    halves: [u16; LANES],
    signed: [i8; 4],
    brains: [u16; 2],
}

impl Kernel for Everything {
    type Output = Vec<(&'static str, Vec<i32>)>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut results = Vec::new();
        let int = |vector: S::I| {
            let mut lanes = [0; LANES];
            s.store_int(vector, &mut lanes);
            lanes.to_vec()
        };
        let float = |vector: S::F| {
            let mut lanes = [0.0; LANES];
            s.store(vector, &mut lanes);
            lanes.map(|lane: f32| lane.to_bits() as i32).to_vec()
        };
        let (left, right, plus) = (s.load(&self.left), s.load(&self.right), s.load(&self.plus));
        results.push(("add", float(s.add(left, right))));
        results.push(("sub", float(s.sub(left, right))));
        results.push(("mul", float(s.mul(left, right))));
        results.push(("div", float(s.div(left, right))));
        results.push(("max", float(s.max(left, right))));
        results.push(("min", float(s.min(left, right))));
        results.push(("fma", float(s.fma(left, right, plus))));
        results.push(("splat", float(s.splat(self.left[3]))));
        // Rows that all differ.
        let mut rows = [left; LANES];
        for (number, row) in rows.iter_mut().enumerate() {
            *row = s.fma(right, s.splat(number as f32), plus);
        }
        let rows = s.transpose(rows);
        results.push(("transpose", rows.into_iter().flat_map(float).collect()));
        results.push(("sum", vec![s.sum(left).to_bits() as i32]));
        results.push(("greatest", vec![s.greatest(left).to_bits() as i32]));
        let (a, b) = (s.bits(left), s.bits(right));
        results.push(("add_int", int(s.add_int(a, b))));
        results.push(("add_bytes", int(s.add_bytes(a, b))));
        results.push(("and", int(s.and(a, b))));
        results.push(("or", int(s.or(a, b))));
        results.push(("shift_left", int(s.shift_left::<5>(a))));
        results.push(("shift_right", int(s.shift_right::<11>(a))));
        results.push(("shift_right_by", int(s.shift_right_by(a, u32::from(self.signed[1].unsigned_abs()) & 31))));
        results.push(("to_float", float(s.to_float(a))));
        results.push(("round_to_int", int(s.round_to_int(left))));
        results.push(("of_bits", float(s.of_bits(integers(s, &[self.signed[0].into(); LANES])))));
        let bytes = s.load_bytes(&self.bytes);
        results.push(("load_bytes", int(bytes)));
        let sixteen: [u8; LANES] = std::array::from_fn(|lane| self.bytes[lane]);
        results.push(("widen_i8", int(s.widen_i8(&sixteen.map(|byte| byte as i8)))));
        let mut narrow = [0; LANES];
        s.narrow_to_bytes(a, &mut narrow);
        results.push(("narrow_to_bytes", narrow.map(i32::from).to_vec()));
        results.push(("load_half", float(s.load_half(&self.halves))));
        results.push(("load_brain", float(s.load_brain(&self.halves))));
        let mut half = [0; LANES];
        s.store_half(left, &mut half);
        results.push(("store_half", half.map(i32::from).to_vec()));
        s.store_brain(left, &mut half);
        results.push(("store_brain", half.map(i32::from).to_vec()));
        results.push(("dot_bytes", int(s.dot_bytes(s.splat_int(-7), bytes, self.signed))));
        let signed = [self.signed[0].into(), i16::from(self.signed[1]) << 7];
        let sums = integers(s, &[7, -7, 1 << 20, 0, -1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -99]);
        results.push(("dot_pairs", int(s.dot_pairs(sums, s.widen_i8(&sixteen.map(|byte| byte as i8)), signed))));
        results.push(("dot_pairs", int(s.dot_pairs(sums, s.shift_right::<2>(bytes), signed))));
        let mut pairs = [0; LANES];
        for (pair, value) in pairs.iter_mut().zip(self.left) {
            *pair = ((value.to_bits() & 0xffff_0000) | (value * 0.75).to_bits() >> 16) as i32;
        }
        results.push(("dot_brain", float(s.dot_brain(plus, integers(s, &pairs), self.brains))));
        results
    }
}

fn lanes() -> impl Strategy<Value = [f32; LANES]> {
    // No subnormal numbers: the instruction for bfloat16 takes them for zero, which no other does.
    prop::array::uniform16((-1e6_f32..1e6).prop_map(|value| if value.abs() < 1e-3 { 1e-3 } else { value }))
}

fn half() -> impl Strategy<Value = u16> {
    (-60_000.0_f32..60_000.0).prop_map(|value| half::f16::from_f32(value).to_bits())
}

proptest! {
    #[test]
    fn all_sets_agree(
        left in lanes(),
        right in lanes(),
        plus in lanes(),
        bytes in prop::collection::vec(any::<u8>(), 64),
        halves in prop::array::uniform16(half()),
        signed in any::<[i8; 4]>(),
        brains in prop::array::uniform2(0x3f00_u16..0x4200),
    ) {
        let everything = || {
            let bytes = std::array::from_fn(|index| bytes[index]);
            Everything { left, right, plus, bytes, halves, signed, brains }
        };
        let expected = everything().run(super::Portable);
        for isa in Isa::available() {
            prop_assert_eq!(&isa.run(everything()), &expected, "{}", isa);
        }
    }
}
