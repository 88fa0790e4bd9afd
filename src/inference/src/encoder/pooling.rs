//! From one hidden state per token to one vector per text, as sentence-transformers' `Pooling` and `Normalize` do it.

use candle_core::{D, Result, Tensor};

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
    /// `hidden` is `[batch, tokens, width]`, `mask` is `[batch, tokens]` of 1 and 0; gives `[batch, width]`.
    pub(crate) fn pool(self, hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let mask = mask.unsqueeze(2)?;
        let counts = || mask.sum(1)?.clamp(1e-9, f64::MAX);
        let sum = || hidden.broadcast_mul(&mask)?.sum(1);
        match self {
            Pooling::FirstToken => hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous(),
            Pooling::Mean => sum()?.broadcast_div(&counts()?),
            Pooling::MeanOverRoot => sum()?.broadcast_div(&counts()?.sqrt()?),
            // What is masked moves far below any state of a text.
            Pooling::Max => hidden.broadcast_add(&((mask.clone() - 1.0)? * 1e9)?)?.max(1),
        }
    }
}

impl Normalisation {
    pub(crate) fn apply(self, vectors: &Tensor) -> Result<Tensor> {
        match self {
            Normalisation::None => Ok(vectors.clone()),
            Normalisation::UnitLength => {
                let lengths = vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.clamp(1e-12, f64::MAX)?;
                vectors.broadcast_div(&lengths)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::*;

    #[test]
    fn what_is_masked_does_not_count() {
        let hidden = Tensor::new(&[[[1.0f32, -4.0], [3.0, -2.0], [900.0, 900.0]]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f32, 1.0, 0.0]], &Device::Cpu).unwrap();
        let root = 2f32.sqrt();
        let cases = [
            (Pooling::FirstToken, [1.0, -4.0]),
            (Pooling::Mean, [2.0, -3.0]),
            (Pooling::MeanOverRoot, [4.0 / root, -6.0 / root]),
            (Pooling::Max, [3.0, -2.0]),
        ];
        for (pooling, expected) in cases {
            let pooled = pooling.pool(&hidden, &mask).unwrap();
            assert_eq!(pooled.to_vec2::<f32>().unwrap(), [expected], "{pooling:?}");
        }
    }

    #[test]
    fn unit_length_divides_by_the_length() {
        let vectors = Tensor::new(&[[3.0f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let scaled = Normalisation::UnitLength.apply(&vectors).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(scaled, [[0.6, 0.8], [0.0, 0.0]]);
    }
}
