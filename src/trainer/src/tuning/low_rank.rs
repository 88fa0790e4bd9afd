//! A new adapter: which modules it has, and what stands in its matrices before the first step.

use std::collections::BTreeMap;

use ampoule_inference::model::{Adapter, Config, LowRank, ModelError, PEFT_DOWN, PEFT_UP};
use candle_core::{Device, Tensor, Var};
use rand::Rng;

use crate::error::TrainerError;
use crate::rows::{Purpose, stream};

use super::schedule::Settings;

/// Which linear layers are adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// All but the output's.
    AllLinear,
    /// Those whose last name is one of these, such as `q_proj`.
    Named(Vec<String>),
}

impl Targets {
    /// The modules of a model, each with `[output, input]`.
    ///
    /// # Errors
    /// A name that no module has, with those that there are.
    pub fn modules(&self, config: &Config) -> Result<BTreeMap<String, [usize; 2]>, TrainerError> {
        let all = config.projections();
        let Targets::Named(names) = self else { return Ok(all) };
        let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_owned();
        if let Some(unknown) = names.iter().find(|name| !all.keys().any(|module| last(module) == **name)) {
            let mut known: Vec<String> = all.keys().map(|module| last(module)).collect();
            known.sort_unstable();
            known.dedup();
            return Err(TrainerError::UnknownTarget { found: unknown.clone(), known: known.join(", ") });
        }
        Ok(all.into_iter().filter(|(module, _)| names.contains(&last(module))).collect())
    }
}

/// The matrices of a new adapter as variables, named as PEFT names them after its prefix.
///
/// `A` is uniform within `±1/√input`, which is PEFT's Kaiming initialisation with a slope of √5, and `B` is zero: the
/// adapter begins by changing nothing.
///
/// # Errors
/// What [`Targets::modules`] and the tensor library refuse.
pub fn initial(config: &Config, targets: &Targets, settings: &Settings) -> Result<BTreeMap<String, Var>, TrainerError> {
    let mut variables = BTreeMap::new();
    for (index, (module, [output, input])) in targets.modules(config)?.into_iter().enumerate() {
        let mut rng = stream(settings.seed, Purpose::Adapter, index as u64);
        let bound = 1.0 / (input as f64).sqrt();
        let values: Vec<f32> =
            (0..settings.rank * input).map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect();
        let down = Tensor::from_vec(values, (settings.rank, input), &Device::Cpu)?;
        let up = Tensor::zeros((output, settings.rank), candle_core::DType::F32, &Device::Cpu)?;
        variables.insert(down_name(&module), Var::from_tensor(&down)?);
        variables.insert(up_name(&module), Var::from_tensor(&up)?);
    }
    Ok(variables)
}

/// The adapter whose matrices are these tensors; variables stay variables.
///
/// # Errors
/// [`ModelError`] when they do not fit the model.
pub fn adapter(config: &Config, matrices: &BTreeMap<String, Tensor>, scale: f64) -> Result<Adapter, ModelError> {
    let modules = config.projections();
    let low_rank = |module: &String| {
        let down = matrices.get(&down_name(module))?.clone();
        let up = matrices.get(&up_name(module))?.clone();
        Some((module.clone(), LowRank { down, up, scale }))
    };
    Adapter::new(config, modules.keys().filter_map(low_rank).collect())
}

/// The name of a module's `A`.
pub fn down_name(module: &str) -> String {
    format!("{module}{PEFT_DOWN}")
}

/// The name of a module's `B`.
pub fn up_name(module: &str) -> String {
    format!("{module}{PEFT_UP}")
}
