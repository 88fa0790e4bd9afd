//! What the ModelPack config tells people and other tools about the model. The runtime decides nothing by it.

use std::collections::BTreeMap;

use ampoule_bundle::{BundlePath, LayerKind, ModelDescriptor, ModelProperties, TensorKind};
use serde::Deserialize;

use crate::content::Content;
use crate::seal::SealRequest;
use crate::weights::WeightLayout;

/// The two descriptive halves of a ModelPack config.
pub(crate) struct Description {
    pub(crate) descriptor: ModelDescriptor,
    pub(crate) properties: ModelProperties,
}

/// The one member of `config.json` that is of interest here; the runtime reads the others.
#[derive(Deserialize)]
struct ModelType {
    model_type: Option<String>,
}

/// Describes the model from its request, its weights' headers and its `config.json`, if it has one.
pub(crate) fn model(
    request: &SealRequest,
    layout: &WeightLayout,
    files: &[(BundlePath, LayerKind, Content)],
) -> Description {
    let config = files.iter().find(|(path, _, _)| path.as_str() == "config.json");
    let model_type = config.and_then(|(_, _, content)| serde_json::from_slice::<ModelType>(&content.head).ok());
    let main_kind = main_kind(layout);
    let quantized = main_kind.is_some_and(|kind| kind.block_elements() > 1);
    let main_kind = main_kind.map(|kind| format!("{kind:?}").to_lowercase());
    let (precision, quantization) = if quantized { (None, main_kind) } else { (main_kind, None) };
    Description {
        descriptor: ModelDescriptor {
            // No time of creation: the same input must give the same bytes.
            family: layout.architecture.clone().or_else(|| model_type.and_then(|config| config.model_type)),
            ..ModelDescriptor::new(request.name.clone(), request.version.clone())
        },
        properties: ModelProperties {
            architecture: Some("transformer".to_owned()),
            format: Some(layout.format.to_owned()),
            param_size: Some(rounded(parameters(layout))),
            precision,
            quantization,
            capabilities: None,
        },
    }
}

/// The kind that takes the most bytes.
fn main_kind(layout: &WeightLayout) -> Option<TensorKind> {
    let mut bytes: BTreeMap<String, (u64, TensorKind)> = BTreeMap::new();
    for tensor in layout.layers.iter().flat_map(|layer| &layer.tensors) {
        // Ordered by name, so that a tie is decided the same way every time.
        bytes.entry(format!("{:?}", tensor.kind)).or_insert((0, tensor.kind)).0 += tensor.length;
    }
    bytes.into_values().max_by_key(|(bytes, _)| *bytes).map(|(_, kind)| kind)
}

/// Elements of all floating-point and quantised tensors; integers are positions and the like.
fn parameters(layout: &WeightLayout) -> u64 {
    let integer = |kind: TensorKind| format!("{kind:?}").starts_with(['I', 'U']) || kind == TensorKind::Bool;
    let tensors = layout.layers.iter().flat_map(|layer| &layer.tensors);
    tensors
        .filter(|tensor| !integer(tensor.kind))
        .map(|tensor| tensor.length / tensor.kind.block_bytes() * tensor.kind.block_elements())
        .sum()
}

/// The way model cards write it: `22.6m`, `7b`.
fn rounded(parameters: u64) -> String {
    let (unit, letter) = match parameters {
        0..1_000 => return parameters.to_string(),
        1_000..1_000_000 => (1_000, 'k'),
        1_000_000..1_000_000_000 => (1_000_000, 'm'),
        _ => (1_000_000_000, 'b'),
    };
    let tenths = parameters / (unit / 10);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{letter}"),
        (whole, tenth) => format!("{whole}.{tenth}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn sizes_are_written_as_model_cards_write_them() {
        for (parameters, text) in
            [(999, "999"), (1_000, "1k"), (22_713_216, "22.7m"), (7_000_000_000, "7b"), (8_030_261_248, "8b")]
        {
            assert_eq!(rounded(parameters), text);
        }
    }
}
