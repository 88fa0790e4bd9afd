//! Which form each tensor of a model takes.
//!
//! | tensor | form |
//! |---|---|
//! | norms and biases, of one dimension | F32 |
//! | a decoder's matrices, embedding and output included | the format that was asked for |
//! | … the output, or the embedding that is the output too | Q6_K under a K format |
//! | … `v_proj` and `down_proj` in half of the layers | Q6_K under a K format |
//! | … a fused `qkv_proj` | Q5_K under Q4_K, Q6_K under Q5_K |
//! | an encoder's linear layers | Q8_0; its tables of embeddings stay as they are |
//!
//! The mix under Q4_K and Q5_K is that of llama.cpp's `Q4_K_M` and `Q5_K_M`: the first and the last eighth of the layers
//! and every third between them.  A row of no whole blocks of 256 takes Q8_0, and one of no whole blocks of 32 stays as
//! it is.

use ampoule_bundle::{TensorInfo, TensorKind};

use crate::quantize::BlockFormat;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Its bytes are not touched.
    AsItStands,
    /// In single precision.
    Single,
    /// In blocks.
    Blocks(BlockFormat),
}

/// What a model's configuration and its tensors' names tell about the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) format: BlockFormat,
    pub(super) is_encoder: bool,
    /// How many layers it has.
    pub(super) layers: usize,
    /// Whether the embedding may be the output too.
    pub(super) may_be_tied: bool,
}

/// The form of a tensor, and what is to be said about it if it is not the one that was asked for.
pub(super) fn form(model: Model, tensor: &TensorInfo) -> (Form, Option<String>) {
    if !matches!(tensor.kind, TensorKind::F32 | TensorKind::F16 | TensorKind::BF16) {
        return (Form::AsItStands, None);
    }
    let row = match tensor.shape[..] {
        [_] => return (Form::Single, None),
        [_, row] if !model.is_encoder || is_linear(&tensor.name) => row,
        _ => return (Form::AsItStands, None),
    };
    let wanted = model.wanted(&tensor.name);
    let name = &tensor.name;
    if row.is_multiple_of(wanted.block_elements()) {
        (Form::Blocks(wanted), None)
    } else if row.is_multiple_of(BlockFormat::Q8_0.block_elements()) {
        let said = format!("{name} is stored as q8_0: its rows of {row} numbers are no whole blocks of 256");
        (Form::Blocks(BlockFormat::Q8_0), Some(said))
    } else {
        let said = format!("{name} is stored as it is: its rows of {row} numbers are no whole blocks of 32");
        (Form::AsItStands, Some(said))
    }
}

impl Model {
    fn wanted(self, name: &str) -> BlockFormat {
        use BlockFormat::{Q4_0, Q4K, Q5K, Q6K, Q8_0};
        let finer = match self.format {
            Q8_0 | Q4_0 => return self.format,
            Q4K => Q5K,
            Q5K | Q6K => Q6K,
        };
        if name == "lm_head.weight" || name.ends_with("embed_tokens.weight") && self.may_be_tied {
            return Q6K;
        }
        if name.ends_with(".qkv_proj.weight") {
            return finer;
        }
        let is_sensitive = name.ends_with(".v_proj.weight") || name.ends_with(".down_proj.weight");
        match layer_of(name) {
            Some(layer) if is_sensitive && self.takes_more_bits(layer) => Q6K,
            _ => self.format,
        }
    }

    fn takes_more_bits(self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// The number after `layers.` in a tensor's name.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split_once('.')?.0.parse().ok()
}

/// An encoder's tables are looked up and never multiplied with.
fn is_linear(name: &str) -> bool {
    !name.contains("embeddings.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model { format: BlockFormat::Q4K, is_encoder: false, layers: 16, may_be_tied: false };

    fn form_of(model: Model, name: &str, kind: TensorKind, shape: &[usize]) -> Form {
        form(model, &TensorInfo { name: name.to_owned(), kind, shape: shape.to_vec(), offset: 0, length: 0 }).0
    }

    fn matrix(model: Model, name: &str) -> Form {
        form_of(model, name, TensorKind::BF16, &[512, 256])
    }

    #[test]
    fn the_mix_is_that_of_q4_k_m() {
        let sensitive = |layer: usize, part: &str| matrix(MODEL, &format!("model.layers.{layer}.{part}.weight"));
        for part in ["self_attn.v_proj", "mlp.down_proj"] {
            let finer: Vec<usize> =
                (0..16).filter(|&layer| sensitive(layer, part) == Form::Blocks(BlockFormat::Q6K)).collect();
            assert_eq!(finer, [0, 1, 4, 7, 10, 13, 14, 15], "{part}");
        }
        for part in ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"] {
            assert!((0..16).all(|layer| sensitive(layer, part) == Form::Blocks(BlockFormat::Q4K)), "{part}");
        }
        assert_eq!(sensitive(3, "self_attn.qkv_proj"), Form::Blocks(BlockFormat::Q5K));
        let embedding = "model.embed_tokens.weight";
        assert_eq!(matrix(MODEL, "lm_head.weight"), Form::Blocks(BlockFormat::Q6K));
        assert_eq!(matrix(MODEL, embedding), Form::Blocks(BlockFormat::Q4K));
        assert_eq!(matrix(Model { may_be_tied: true, ..MODEL }, embedding), Form::Blocks(BlockFormat::Q6K));
        let plain = Model { format: BlockFormat::Q4_0, may_be_tied: true, ..MODEL };
        for name in [embedding, "lm_head.weight", "model.layers.0.mlp.down_proj.weight"] {
            assert_eq!(matrix(plain, name), Form::Blocks(BlockFormat::Q4_0), "{name}");
        }
    }

    #[test]
    fn what_has_no_whole_blocks_falls_back_and_says_so() {
        let name = "model.layers.0.mlp.up_proj.weight";
        for (row, expected, words) in [
            (512, Form::Blocks(BlockFormat::Q4K), None),
            (896, Form::Blocks(BlockFormat::Q8_0), Some("is stored as q8_0: its rows of 896 numbers")),
            (100, Form::AsItStands, Some("is stored as it is: its rows of 100 numbers")),
        ] {
            let info =
                TensorInfo { name: name.to_owned(), kind: TensorKind::F32, shape: vec![4, row], offset: 0, length: 0 };
            let (found, said) = form(MODEL, &info);
            assert_eq!(found, expected, "{row}");
            match (said, words) {
                (None, None) => {}
                (Some(said), Some(words)) => assert!(said.contains(words) && said.contains(name), "{said}"),
                (said, _) => panic!("{row}: {said:?}"),
            }
        }
    }

    #[test]
    fn vectors_tables_and_whole_numbers_are_not_quantised() {
        assert_eq!(form_of(MODEL, "model.norm.weight", TensorKind::BF16, &[256]), Form::Single);
        assert_eq!(form_of(MODEL, "position_ids", TensorKind::I64, &[1, 512]), Form::AsItStands);
        assert_eq!(form_of(MODEL, "cube", TensorKind::F32, &[2, 2, 256]), Form::AsItStands);
        let encoder = Model { format: BlockFormat::Q8_0, is_encoder: true, ..MODEL };
        assert_eq!(matrix(encoder, "embeddings.word_embeddings.weight"), Form::AsItStands);
        assert_eq!(matrix(encoder, "encoder.layer.0.output.dense.weight"), Form::Blocks(BlockFormat::Q8_0));
        assert_eq!(form_of(encoder, "encoder.layer.0.output.dense.bias", TensorKind::F32, &[256]), Form::Single);
    }
}
