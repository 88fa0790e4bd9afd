//! GGUF's names of tensors, and the order of rows in its query and key projections.
//!
//! For families whose rotation turns neighbouring pairs, llama.cpp's converter interleaves the two halves of each
//! head, `0 h 1 h+1 …` for halves of length `h`.  Undoing that once, while loading, leaves one kind of rotation.

use super::config::{ROPE_DIVISORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS, TensorNaming};
use super::{Config, NormPlacement, Projections};

/// The name that Hugging Face has for a tensor of the file, if the family has such a tensor at all.
pub(crate) fn hugging_face_name(config: &Config, name: &str) -> Option<String> {
    if config.naming == TensorNaming::HuggingFace {
        return Some(name.to_owned());
    }
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        ROPE_DIVISORS | ROPE_LONG_FACTORS | ROPE_SHORT_FACTORS => return Some(name.to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    // Only the spelling that a number prints as, so that no two names of the file mean one tensor.
    let layer = layer.parse::<usize>().ok().filter(|number| number.to_string() == layer)?;
    let (part, kind) = part.rsplit_once('.')?;
    let around = config.norm_placement == NormPlacement::Around;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" if around => "post_attention_layernorm",
        "ffn_norm" if around => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" if around => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if config.projections == Projections::Fused => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

/// How many heads a tensor's rows are interleaved in; `None` where they are in order.
pub(crate) fn paired_rows(config: &Config, name: &str) -> Option<usize> {
    if config.naming != TensorNaming::GgufPairedRows {
        return None;
    }
    if name.contains(".self_attn.q_proj.") {
        Some(config.head_count)
    } else if name.contains(".self_attn.k_proj.") {
        Some(config.key_value_head_count)
    } else {
        None
    }
}

/// Puts interleaved rows back in order.  `rows` is a multiple of `2 * heads`, and each row takes equally many bytes,
/// blocks or not.
pub(super) fn unpair_rows(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row_bytes = data.len() / rows;
    let half = rows / heads / 2;
    let mut ordered = Vec::with_capacity(data.len());
    for head in 0..heads {
        for part in 0..2 {
            for index in 0..half {
                let source = (head * half + index) * 2 + part;
                ordered.extend_from_slice(&data[source * row_bytes..(source + 1) * row_bytes]);
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_head_are_put_back_in_order() {
        // Two heads of four rows of two bytes: 0 2 1 3 in the file for 0 1 2 3.
        let interleaved: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&row| [row, row + 100]).collect();
        let ordered: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        assert_eq!(unpair_rows(&interleaved, 8, 2), ordered);
    }
}
