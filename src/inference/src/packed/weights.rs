//! The packed tensors of a model by name, and the checks that they are exactly those that the configuration calls for.

use std::collections::BTreeMap;
use std::sync::Arc;

use ampoule_kernels::Packed;

use crate::model::{Config, ModelError, OutputProjection};

/// One tensor.
#[derive(Debug, Clone)]
pub(crate) enum Tensor {
    /// A matrix that rows are multiplied with.
    Matrix(Arc<Packed>),
    /// A norm, a bias or a table.
    Vector(Vec<f32>),
}

/// All tensors of a model, under Hugging Face's names, those that a file fuses taken apart.
#[derive(Debug, Default)]
pub struct PackedWeights {
    tensors: BTreeMap<String, Tensor>,
}

/// The parts of a fused projection, in the order of their rows.
pub(super) const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv_proj", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]),
];

impl PackedWeights {
    pub(crate) fn insert(&mut self, name: String, tensor: Tensor) -> Result<(), ModelError> {
        match self.tensors.insert(name.clone(), tensor) {
            None => Ok(()),
            Some(_) => Err(ModelError::RepeatedTensor { name }),
        }
    }

    /// Refuses weights that lack what `config` calls for, and drops a copy of tied embeddings, which must be equal to them.
    pub(super) fn check(&mut self, config: &Config) -> Result<(), ModelError> {
        if config.output == OutputProjection::TiedToEmbedding
            && let Some(copy) = self.tensors.remove("lm_head.weight")
        {
            let embedding = self.tensors.get("model.embed_tokens.weight");
            if !embedding.is_some_and(|embedding| same(embedding, &copy)) {
                return Err(ModelError::UnknownTensor { name: "lm_head.weight".to_owned() });
            }
        }
        let missing = config.tensors().into_keys().find(|name| !self.has(name));
        missing.map_or(Ok(()), |name| Err(ModelError::MissingTensor { name }))
    }

    fn has(&self, name: &str) -> bool {
        let parts = FUSED.iter().find_map(|(fused, parts)| Some((name.split_once(fused)?, parts)));
        match parts {
            Some(((before, after), parts)) => {
                parts.iter().all(|part| self.tensors.contains_key(&format!("{before}{part}{after}")))
            }
            None => self.tensors.contains_key(name),
        }
    }

    /// Whether a tensor's name begins so.
    pub(crate) fn any_begins(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    pub(crate) fn matrix(&mut self, name: &str) -> Result<Arc<Packed>, ModelError> {
        match self.tensors.remove(name) {
            Some(Tensor::Matrix(matrix)) => Ok(matrix),
            _ => Err(ModelError::MissingTensor { name: name.to_owned() }),
        }
    }

    pub(crate) fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.tensors.remove(name) {
            Some(Tensor::Vector(vector)) => Ok(vector),
            _ => Err(ModelError::MissingTensor { name: name.to_owned() }),
        }
    }
}

fn same(left: &Tensor, right: &Tensor) -> bool {
    let (Tensor::Matrix(left), Tensor::Matrix(right)) = (left, right) else { return false };
    if (left.outputs(), left.inputs()) != (right.outputs(), right.inputs()) {
        return false;
    }
    let (mut of_left, mut of_right) = (vec![0.0; left.inputs()], vec![0.0; right.inputs()]);
    (0..left.outputs()).all(|row| {
        left.row(row, &mut of_left);
        right.row(row, &mut of_right);
        of_left == of_right
    })
}
