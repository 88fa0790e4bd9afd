//! Exponentials and what is made of them, sixteen numbers at a time.
//!
//! No library is asked: its results differ from one to the next, and a served token must not hang on which one is
//! linked.

use crate::simd::Simd;

/// What a base-two exponent and its fraction are multiplied by to become natural ones, and the other way around.
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// What [`LOG2_E`] lacks.
const LOG2_E_REST: f32 = 1.925_963e-8;

/// Two to the power of each number, within 2 units in the last place; zero below 2^-125.5, and infinite from 2^128.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, exponents: S::F) -> S::F {
    let exponents = simd.max(simd.min(exponents, simd.splat(129.0)), simd.splat(-126.0));
    let whole = simd.round_to_int(exponents);
    scaled(simd, whole, simd.sub(exponents, simd.to_float(whole)))
}

/// e to the power of each number, within 2 units in the last place; zero below 2^-125.5, and infinite from 2^128.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, exponents: S::F) -> S::F {
    let exponents = simd.max(simd.min(exponents, simd.splat(89.5)), simd.splat(-87.5));
    let whole = simd.round_to_int(simd.mul(exponents, simd.splat(LOG2_E)));
    let zero = simd.splat(0.0);
    // The product is exact before the whole part is taken off, so the fraction keeps its last bits.
    let fraction = simd.fma(exponents, simd.splat(LOG2_E), simd.sub(zero, simd.to_float(whole)));
    scaled(simd, whole, simd.fma(exponents, simd.splat(LOG2_E_REST), fraction))
}

/// `2^(whole + fraction)` for fractions of at most a half and whole parts from -126 to 129.
///
/// The polynomial is that of Chebyshev's nodes for `(2^x - 1) / x`, doubled, so that the scale can be half as large and
/// reach infinity just where the result does.
#[inline(always)]
fn scaled<S: Simd>(simd: S, whole: S::I, fraction: S::F) -> S::F {
    const DOUBLED: [f32; 7] =
        [3.090_632_7e-4, 2.678_172_7e-3, 1.923_616_6e-2, 0.111_007_14, 0.480_453, 1.386_294_4, 2.0];
    let mut power = simd.splat(DOUBLED[0]);
    for coefficient in &DOUBLED[1..] {
        power = simd.fma(power, fraction, simd.splat(*coefficient));
    }
    let scale = simd.shift_left::<23>(simd.add_int(whole, simd.splat_int(126)));
    simd.mul(power, simd.of_bits(scale))
}

/// `1 / (1 + e^-x)` times another number, which is what gates are made of.
#[inline(always)]
pub(crate) fn times_logistic<S: Simd>(simd: S, factors: S::F, values: S::F) -> S::F {
    let negative = simd.sub(simd.splat(0.0), values);
    simd.div(factors, simd.add(simd.splat(1.0), exp(simd, negative)))
}

/// The hyperbolic tangent, within 3e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, values: S::F) -> S::F {
    let (one, two) = (simd.splat(1.0), simd.splat(2.0));
    let power = exp(simd, simd.mul(values, two));
    simd.sub(one, simd.div(two, simd.add(power, one)))
}

/// One less the error function, of numbers that are not negative, within 6e-7.
///
/// Abramowitz and Stegun, 7.1.26.
#[inline(always)]
pub(crate) fn erfc<S: Simd>(simd: S, values: S::F) -> S::F {
    const COEFFICIENTS: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let one = simd.splat(1.0);
    let place = simd.div(one, simd.fma(values, simd.splat(0.327_591_1), one));
    let mut polynomial = simd.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = simd.fma(polynomial, place, simd.splat(*coefficient));
    }
    let square = simd.mul(simd.sub(simd.splat(0.0), values), values);
    simd.mul(simd.mul(polynomial, place), exp(simd, square))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, LANES};

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp2,
        Exp,
        Tanh,
        Erfc,
    }

    struct Apply<'a>(Function, &'a mut [[f32; LANES]]);

    impl Kernel for Apply<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for lanes in self.1 {
                let values = simd.load(lanes);
                let results = match self.0 {
                    Function::Exp2 => exp2(simd, values),
                    Function::Exp => exp(simd, values),
                    Function::Tanh => tanh(simd, values),
                    Function::Erfc => erfc(simd, values),
                };
                simd.store(results, lanes);
            }
        }
    }

    /// What every instruction set makes of these numbers, once they have been held to be the same bits.
    fn apply(function: Function, values: &[f32]) -> Vec<f32> {
        let lanes = |isa: Isa| {
            let mut lanes = vec![[0.0; LANES]; values.len().div_ceil(LANES)];
            lanes.as_flattened_mut()[..values.len()].copy_from_slice(values);
            isa.run(Apply(function, &mut lanes));
            lanes.as_flattened()[..values.len()].to_vec()
        };
        let expected = lanes(Isa::available()[0]);
        for isa in Isa::available() {
            let found = lanes(isa);
            let same = found.iter().zip(&expected).all(|(found, expected)| found.to_bits() == expected.to_bits());
            assert!(same, "{function:?} with {isa}");
        }
        expected
    }

    /// So many numbers from one to another, and some near zero.
    fn range(from: f32, to: f32) -> Vec<f32> {
        let mut values: Vec<f32> = (0..=200_000).map(|step| from + (to - from) * (step as f32 / 200_000.0)).collect();
        values.extend([0.0, 1e-30, 1e-8, 1e-4, 1.0]);
        values
    }

    fn units_off(function: Function, exact: fn(f64) -> f64, values: &[f32]) -> f64 {
        let results = apply(function, values);
        let off = values.iter().zip(results).map(|(&value, found)| {
            let exact = exact(f64::from(value));
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            (f64::from(found) - exact).abs() / unit
        });
        off.fold(0.0, f64::max)
    }

    fn greatest_error(function: Function, exact: impl Fn(f64) -> f64, values: &[f32]) -> f64 {
        let results = apply(function, values);
        let errors = values.iter().zip(results).map(|(&value, found)| (f64::from(found) - exact(value.into())).abs());
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_right_to_the_last_places() {
        assert!(units_off(Function::Exp2, f64::exp2, &range(-125.49, 127.99)) <= 2.0);
        assert!(units_off(Function::Exp, f64::exp, &range(-86.98, 88.72)) <= 2.0);
    }

    #[test]
    fn exponentials_end_in_zero_and_infinity() {
        let ends = [f32::NEG_INFINITY, f32::MIN, -200.0, 0.0, 200.0, f32::MAX, f32::INFINITY];
        let expected = [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY];
        for function in [Function::Exp2, Function::Exp] {
            assert_eq!(apply(function, &ends), expected, "{function:?}");
        }
    }

    #[test]
    fn tangents_are_right_everywhere() {
        assert!(greatest_error(Function::Tanh, f64::tanh, &range(-12.0, 12.0)) < 3e-7);
        let ends = [f32::NEG_INFINITY, f32::MIN, 0.0, f32::MAX, f32::INFINITY];
        assert_eq!(apply(Function::Tanh, &ends), [-1.0, -1.0, 0.0, 1.0, 1.0]);
    }

    /// By the series around zero, which converges quickly enough up to 4, where nothing is left.
    fn exact_erfc(value: f64) -> f64 {
        let (mut term, mut sum) = (value, value);
        for step in 1..120 {
            let step = f64::from(step);
            term *= -value * value / step;
            sum += term / (2.0 * step + 1.0);
        }
        1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn errors_are_right_everywhere() {
        assert!((exact_erfc(0.5) - 0.479_500_122_186_953_5).abs() < 1e-15);
        assert!(greatest_error(Function::Erfc, exact_erfc, &range(0.0, 4.0)) < 6e-7);
        assert!(greatest_error(Function::Erfc, |_| 0.0, &range(4.0, 60.0)[..200_000]) < 6e-7);
        assert_eq!(apply(Function::Erfc, &[1e18, f32::MAX]), [0.0, 0.0]);
    }
}
