//! Keys and values of one sequence, kept between passes.

use candle_core::{DType, Device, Tensor};

use super::{Config, ModelError, RopeScaling};

/// What a sequence's earlier tokens left behind in each layer.
///
/// It grows in doublings, so that appending one token costs no copy of the whole.  Made for one [`Config`]; not
/// cloneable, because the tensors are written in place.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Only where a longer sequence makes the earlier tokens be computed anew (LongRoPE).
    history: Option<Vec<u32>>,
    position: usize,
    reach: usize,
}

impl KvCache {
    /// An empty cache; it allocates nothing before the first pass.
    pub fn new(config: &Config) -> Self {
        Self::reaching(config, 0)
    }

    /// An empty cache for a sequence that is known to have `reach` tokens: a prompt that comes in pieces.
    ///
    /// LongRoPE chooses its frequencies by the length of the sequence, so the first piece must know of the last.
    pub fn reaching(config: &Config, reach: usize) -> Self {
        let layer = || LayerCache {
            keys: None,
            values: None,
            heads: config.key_value_head_count,
            head_dimension: config.head_dimension,
            limit: config.context_length,
        };
        let recomputes = config.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. }));
        Self {
            layers: config.layers.iter().map(|_| layer()).collect(),
            history: recomputes.then(Vec::new),
            position: 0,
            reach,
        }
    }

    /// How many tokens the cache holds; the next token stands at this position.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How long the sequence is known to be, at least.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// The sequence will have at least `reach` tokens.
    pub(super) fn extend_reach(&mut self, reach: usize) {
        self.reach = self.reach.max(reach);
    }

    pub(super) fn layer_count(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Counts the tokens of a pass that succeeded in every layer.
    pub(super) fn advance(&mut self, tokens: &[u32]) {
        self.position += tokens.len();
        if let Some(history) = &mut self.history {
            history.extend_from_slice(tokens);
        }
    }

    /// Forgets everything, keeps the memory, and returns the tokens so far.
    pub(super) fn rewind(&mut self) -> Vec<u32> {
        self.position = 0;
        self.history.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Keys and values of one layer, `[key/value heads, capacity, head dimension]` each.
#[derive(Debug)]
pub(super) struct LayerCache {
    keys: Option<Tensor>,
    values: Option<Tensor>,
    heads: usize,
    head_dimension: usize,
    limit: usize,
}

impl LayerCache {
    /// Writes `[heads, t, d]` at `position` and returns views of keys and values over `first..position + t`.
    pub(super) fn append(
        &mut self,
        keys: &Tensor,
        values: &Tensor,
        position: usize,
        first: usize,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let end = position + keys.dim(1)?;
        self.reserve(position, end)?;
        let store = |place: &Option<Tensor>, new: &Tensor| -> Result<Tensor, ModelError> {
            let place = place.as_ref().expect("reserve has just allocated both");
            place.slice_set(new, 1, position)?;
            Ok(place.narrow(1, first, end - first)?)
        };
        Ok((store(&self.keys, keys)?, store(&self.values, values)?))
    }

    fn reserve(&mut self, held: usize, needed: usize) -> Result<(), ModelError> {
        const FIRST_CAPACITY: usize = 64;
        for place in [&mut self.keys, &mut self.values] {
            let capacity = match place {
                Some(tensor) => tensor.dim(1)?,
                None => 0,
            };
            if needed <= capacity {
                continue;
            }
            let larger = needed.max(capacity * 2).max(FIRST_CAPACITY).min(self.limit.max(needed));
            let grown = Tensor::zeros((self.heads, larger, self.head_dimension), DType::F32, &Device::Cpu)?;
            if let (Some(old), true) = (place.as_ref(), held > 0) {
                grown.slice_set(&old.narrow(1, 0, held)?.contiguous()?, 1, 0)?;
            }
            *place = Some(grown);
        }
        Ok(())
    }
}
