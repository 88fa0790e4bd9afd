//! Low-rank adapters (LoRA, arXiv 2106.09685): beside an adapted projection `W·x` runs `scale · B·(A·x)`, so that one
//! base model in memory serves, and trains, any number of variants of itself.

use std::collections::BTreeMap;

use candle_core::{D, Tensor};

use super::linear::dense_product;
use super::weights::check_shape;
use super::{Config, ModelError};

/// The low-rank matrices of some projections of one model.
#[derive(Debug, Clone)]
pub struct Adapter {
    modules: BTreeMap<String, LowRank>,
}

/// What is added to one projection.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `A`, `[rank, input]`.
    pub down: Tensor,
    /// `B`, `[output, rank]`.
    pub up: Tensor,
    /// The factor on the product.
    pub scale: f64,
}

impl Config {
    /// The projections that an adapter can belong to: every linear layer but the output's. Name as Hugging Face spells
    /// it, and the shape of its weight, `[output, input]`.
    pub fn projections(&self) -> BTreeMap<String, [usize; 2]> {
        let projection = |(name, shape): (String, Vec<usize>)| {
            let module = name.strip_suffix(".weight").filter(|name| name.starts_with("model.layers."))?.to_owned();
            <[usize; 2]>::try_from(shape).ok().map(|shape| (module, shape))
        };
        self.tensors().into_iter().filter_map(projection).collect()
    }
}

impl Adapter {
    /// An adapter of the model that `config` describes.
    ///
    /// # Errors
    /// [`ModelError::EmptyAdapter`] without a module, [`ModelError::UnknownModule`] for one that the model does not have,
    /// [`ModelError::MisshapenTensor`] for a matrix that does not fit.
    pub fn new(config: &Config, modules: BTreeMap<String, LowRank>) -> Result<Self, ModelError> {
        if modules.is_empty() {
            return Err(ModelError::EmptyAdapter);
        }
        let projections = config.projections();
        for (name, module) in &modules {
            let [output, input] =
                *projections.get(name).ok_or_else(|| ModelError::UnknownModule { name: name.clone() })?;
            let rank = module.down.dims().first().copied().unwrap_or(0);
            check_shape(&format!("{name}.lora_A"), module.down.dims(), &[rank, input])?;
            check_shape(&format!("{name}.lora_B"), module.up.dims(), &[output, rank])?;
        }
        Ok(Self { modules })
    }

    /// The adapted modules by name.
    pub fn modules(&self) -> &BTreeMap<String, LowRank> {
        &self.modules
    }

    /// The same matrices, through which no gradient flows: for passes from which nothing is learnt.
    pub fn detached(&self) -> Self {
        let detached =
            |module: &LowRank| LowRank { down: module.down.detach(), up: module.up.detach(), scale: module.scale };
        Self { modules: self.modules.iter().map(|(name, module)| (name.clone(), detached(module))).collect() }
    }

    pub(crate) fn module(&self, name: &str) -> Option<&LowRank> {
        self.modules.get(name)
    }
}

impl LowRank {
    /// `[.., input]` to `[.., output]`.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        debug_assert_eq!(input.dim(D::Minus1).ok(), self.down.dim(1).ok());
        // The factor goes where the tensor is smallest.
        let inner = (dense_product(input, &self.down)? * self.scale)?;
        dense_product(&inner, &self.up)
    }
}
