//! What all layers of one forward pass share: positions, rotary tables and masks, each made once.

use candle_core::{Device, Tensor};

use super::rope::{Rope, RopeTable};
use super::{Adapter, AttentionSpan, Gradient, LayerConfig, ModelError};

/// How a pass computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode<'a> {
    pub(super) gradient: Gradient,
    /// What is added to the projections.
    pub(super) adapter: Option<&'a Adapter>,
}

/// One run of `count` tokens through the layers.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    /// Position of the first of them.
    pub(super) position: usize,
    pub(super) mode: Mode<'a>,
    ropes: Vec<RopeTable>,
    views: Vec<(AttentionSpan, LayerView)>,
}

/// Which keys the tokens of a pass see in layers of one span.
#[derive(Debug)]
pub(super) struct LayerView {
    /// The earliest position that any of them sees.
    pub(super) first_key: usize,
    /// `[count, keys]`, zero or minus infinity; none where each token sees every key from `first_key` on.
    pub(super) mask: Option<Tensor>,
}

impl<'a> Pass<'a> {
    /// Prepares `count` tokens from `position` on, of a sequence of `reach` tokens.
    pub(super) fn new(
        position: usize,
        count: usize,
        reach: usize,
        ropes: &[Rope],
        layers: &[LayerConfig],
        mode: Mode<'a>,
    ) -> Result<Self, ModelError> {
        let mut views: Vec<(AttentionSpan, LayerView)> = Vec::new();
        for layer in layers {
            if views.iter().all(|(span, _)| *span != layer.span) {
                views.push((layer.span, LayerView::new(layer.span, position, count)?));
            }
        }
        let ropes = ropes.iter().map(|rope| rope.table(position, count, reach)).collect::<Result<_, _>>()?;
        Ok(Self { position, mode, ropes, views })
    }

    pub(super) fn rope(&self, index: usize) -> &RopeTable {
        &self.ropes[index]
    }

    pub(super) fn view(&self, span: AttentionSpan) -> &LayerView {
        let view = self.views.iter().find(|(other, _)| *other == span);
        &view.expect("the pass has made a view for the span of every layer").1
    }
}

impl LayerView {
    fn new(span: AttentionSpan, position: usize, count: usize) -> Result<Self, ModelError> {
        let window = span.window();
        let first_key = (position + 1).saturating_sub(window);
        if count == 1 {
            return Ok(Self { first_key, mask: None });
        }
        let end = position + count;
        let mask: Vec<f32> = (position..end)
            .flat_map(|query| {
                (first_key..end).map(move |key| if sees(query, key, window) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        Ok(Self { first_key, mask: Some(Tensor::from_vec(mask, (count, end - first_key), &Device::Cpu)?) })
    }
}

/// A token sees itself and what stands before it, `window` tokens in all.
fn sees(query: usize, key: usize, window: usize) -> bool {
    key <= query && query - key < window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(span: AttentionSpan, position: usize, count: usize) -> (usize, Option<Vec<String>>) {
        let view = LayerView::new(span, position, count).expect("a small mask");
        let rows = view.mask.map(|mask| {
            let rows: Vec<Vec<f32>> = mask.to_vec2().expect("two dimensions");
            rows.iter().map(|row| row.iter().map(|&value| if value == 0.0 { 'x' } else { '.' }).collect()).collect()
        });
        (view.first_key, rows)
    }

    #[test]
    fn a_window_of_three_holds_the_token_itself_and_two_before() {
        let (first_key, mask) = rows(AttentionSpan::Sliding(3), 0, 5);
        assert_eq!(first_key, 0);
        assert_eq!(mask.expect("several tokens"), ["x....", "xx...", "xxx..", ".xxx.", "..xxx"]);
    }

    #[test]
    fn keys_before_the_window_of_the_first_token_are_left_out() {
        let (first_key, mask) = rows(AttentionSpan::Sliding(3), 4, 2);
        assert_eq!(first_key, 2);
        assert_eq!(mask.expect("several tokens"), ["xxx.", ".xxx"]);
        assert_eq!(rows(AttentionSpan::Sliding(3), 4, 1), (2, None));
    }

    #[test]
    fn a_full_span_reaches_the_first_token() {
        assert_eq!(rows(AttentionSpan::Full, 4, 1), (0, None));
        let (first_key, mask) = rows(AttentionSpan::Full, 1, 2);
        assert_eq!(first_key, 0);
        assert_eq!(mask.expect("several tokens"), ["xx.", "xxx"]);
    }
}
