//! The search for one scale: `scale q` for whole `q` from `-half` to `half - 1`.

use super::grid::{each, nearest, total};

/// The starting points: the number of the greatest magnitude becomes the end of the range, or so many steps beyond it.
const STEPS_BEYOND: [f32; 5] = [0.0, -0.6, 0.5, 1.1, 2.0];
/// How often quants and scale are taken in turns from each starting point.
const TURNS: usize = 2;

/// The first number of the greatest magnitude.
pub(super) fn furthest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, &value| if value.abs() > most.abs() { value } else { most })
}

/// The numbers of a part, and how much each weighs.
pub(super) struct Part<'a, const N: usize> {
    pub(super) values: &'a [f32; N],
    pub(super) weights: [f32; N],
    /// The quants go from minus this number to one below it.
    pub(super) half: f32,
}

impl<const N: usize> Part<'_, N> {
    /// The nearest quants under a scale.
    #[inline(always)]
    pub(super) fn quants(&self, scale: f32) -> [f32; N] {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        each(|at| nearest(self.values[at] * inverse, -self.half, self.half - 1.0))
    }

    /// The weighted squared error of the nearest quants.
    #[inline(always)]
    pub(super) fn error(&self, scale: f32) -> f32 {
        let quants = self.quants(scale);
        total::<N>(|at| {
            let error = scale * quants[at] - self.values[at];
            self.weights[at] * (error * error)
        })
    }

    /// The products whose quotient is the scale that fits the quants best.
    #[inline(always)]
    pub(super) fn regression(&self, quants: &[f32; N]) -> (f32, f32) {
        let with_values = total::<N>(|at| self.weights[at] * quants[at] * self.values[at]);
        let with_quants = total::<N>(|at| self.weights[at] * quants[at] * quants[at]);
        (with_values, with_quants)
    }

    /// The best scale that was found, once `store` has rounded it as the format will.
    pub(super) fn search(&self, store: impl Fn(f32) -> f32) -> f32 {
        let greatest = furthest(self.values);
        let mut best = (f32::INFINITY, 0.0);
        let mut consider = |scale: f32| {
            let scale = store(scale);
            let error = self.error(scale);
            if error < best.0 {
                best = (error, scale);
            }
            scale
        };
        for end in [-self.half, self.half - 1.0] {
            for beyond in STEPS_BEYOND {
                let mut scale = consider(greatest / (end + beyond * end.signum()));
                for _ in 0..TURNS {
                    let (with_values, with_quants) = self.regression(&self.quants(scale));
                    if with_quants > 0.0 {
                        scale = consider(with_values / with_quants);
                    }
                }
            }
        }
        best.1
    }
}
