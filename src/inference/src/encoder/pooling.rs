//! From one hidden state per token to one vector per text, as sentence-transformers' `Pooling` and `Normalize` do it.

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The state of the first token, which is `[CLS]` or `<s>`.
    FirstToken,
    /// The mean over the text's tokens.
    Mean,
    /// The sum over the text's tokens, divided by the square root of their number.
    MeanOverRoot,
    /// The maximum over the text's tokens, for each component.
    Max,
}

/// What happens to the vector at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalisation {
    /// It stays as it is.
    None,
    /// It is scaled to the Euclidean length 1.
    UnitLength,
}

impl Pooling {
    /// `hidden` is `[tokens, width]`, of at least one token; gives `[width]`.
    pub(crate) fn pool(self, hidden: &[f32], width: usize) -> Vec<f32> {
        let tokens = hidden.len() / width;
        let fold = |with: fn(f32, f32) -> f32| {
            let mut pooled = hidden[..width].to_vec();
            for state in hidden[width..].chunks_exact(width) {
                pooled.iter_mut().zip(state).for_each(|(pooled, &value)| *pooled = with(*pooled, value));
            }
            pooled
        };
        let mean_over = |count: f32| {
            let mut sum = fold(|sum, value| sum + value);
            sum.iter_mut().for_each(|sum| *sum /= count);
            sum
        };
        match self {
            Pooling::FirstToken => hidden[..width].to_vec(),
            Pooling::Mean => mean_over(tokens as f32),
            Pooling::MeanOverRoot => mean_over((tokens as f32).sqrt()),
            Pooling::Max => fold(f32::max),
        }
    }
}

impl Normalisation {
    pub(crate) fn apply(self, vector: &mut [f32]) {
        match self {
            Normalisation::None => {}
            Normalisation::UnitLength => {
                let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|value| *value /= length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_counts_once() {
        let hidden = [1.0, -4.0, 3.0, -2.0];
        let root = 2f32.sqrt();
        let cases = [
            (Pooling::FirstToken, [1.0, -4.0]),
            (Pooling::Mean, [2.0, -3.0]),
            (Pooling::MeanOverRoot, [4.0 / root, -6.0 / root]),
            (Pooling::Max, [3.0, -2.0]),
        ];
        for (pooling, expected) in cases {
            assert_eq!(pooling.pool(&hidden, 2), expected, "{pooling:?}");
        }
    }

    #[test]
    fn unit_length_divides_by_the_length() {
        let (mut vector, mut zero) = ([3.0f32, 4.0], [0.0, 0.0]);
        Normalisation::UnitLength.apply(&mut vector);
        Normalisation::UnitLength.apply(&mut zero);
        assert_eq!((vector, zero), ([0.6, 0.8], [0.0, 0.0]));
    }
}
