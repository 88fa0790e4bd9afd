//! Reads what an encoder is from its own files: `config.json` (the transformer), and sentence-transformers'
//! `modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json` (what is done around it).
//!
//! A field that this runtime does not honour is refused if it would change the result: vectors that are slightly wrong
//! are worse than none, because nobody sees it.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pooling::{Normalisation, Pooling};
use crate::error::InferenceError;

/// What is accepted, in words.
const SUPPORTED_MODEL_TYPES: &str = "bert, roberta, xlm-roberta";

/// What an encoder is.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// The transformer.
    pub transformer: Transformer,
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// The longest input in tokens, specials included.
    pub max_tokens: usize,
    /// What is done to a text before it is tokenised.
    pub case: Case,
    /// How hidden states become a vector.
    pub pooling: Pooling,
    /// What happens to the vector at last.
    pub normalisation: Normalisation,
}

/// The transformer's sizes, and what sets it apart.
#[derive(Debug, Clone, Copy)]
pub struct Transformer {
    /// How positions are counted.
    pub family: Family,
    /// How many token ids there are.
    pub vocabulary_size: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Rows of the table of segments; all tokens are of the first.
    pub segments: usize,
    /// How many layers there are.
    pub layers: usize,
    /// Heads of each layer; divides `hidden_size`.
    pub heads: usize,
    /// Width of the hidden states, and so of a text's vector.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// The feed-forward network's nonlinearity.
    pub activation: HiddenActivation,
    /// Epsilon of every norm.
    pub epsilon: f64,
}

/// How positions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// From 0: BERT and what is built alike, such as MiniLM, BGE and E5.
    Bert,
    /// From the padding id on: RoBERTa and XLM-RoBERTa.
    Roberta {
        /// The token that fills up texts.
        padding: u32,
    },
}

/// The feed-forward network's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenActivation {
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// What is done to a text before it is tokenised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Nothing; the tokenizer decides.
    Kept,
    /// It is put into lower case.
    Lowered,
}

/// The fields of `config.json`, with Transformers' defaults.
#[derive(Deserialize)]
struct TransformerFile {
    model_type: String,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: Option<u32>,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn two() -> usize {
    2
}

fn epsilon() -> f64 {
    1e-12
}

#[derive(Deserialize)]
struct ModuleFile {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct LimitFile {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
struct TokenizerFile {
    /// A number far beyond any length stands for none.
    model_max_length: Option<f64>,
}

impl EncoderConfig {
    /// Whether a `model_type` names an encoder, supported or not, rather than a generator.
    pub fn is_encoder(model_type: &str) -> bool {
        const ENCODERS: [&str; 14] = [
            "albert",
            "bert",
            "camembert",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "modernbert",
            "mpnet",
            "new",
            "nomic_bert",
            "roberta",
            "xlm-roberta",
            "xlm-roberta-xl",
        ];
        ENCODERS.contains(&model_type)
    }

    /// Reads the configuration; `file` gives the content of a file of the model by its path.
    pub fn from_files<'a>(file: impl Fn(&str) -> Option<&'a [u8]>) -> Result<EncoderConfig, InferenceError> {
        let raw: TransformerFile = required(&file, "config.json")?;
        raw.check()?;
        let around = Around::read(&file)?;
        let limits: LimitFile = optional(&file, "sentence_bert_config.json")?.unwrap_or_default();
        let tokenizer: TokenizerFile = optional(&file, "tokenizer_config.json")?.unwrap_or_default();
        let padding = raw.pad_token_id.unwrap_or(if raw.model_type == "bert" { 0 } else { 1 });
        // RoBERTa's first position is the one after the padding id.
        let positions = match raw.model_type.as_str() {
            "bert" => raw.max_position_embeddings,
            _ => raw.max_position_embeddings.saturating_sub(padding as usize + 1),
        };
        // Where sentence-transformers' own file is silent, newer versions leave the limit to the tokenizer.
        let max_tokens = limits.max_seq_length.or(tokenizer.model_max_length.map(|length| length as usize));
        let max_tokens = max_tokens.unwrap_or(positions).min(positions);
        if max_tokens == 0 {
            return Err(unsupported("max_seq_length", "0", "at least 1"));
        }
        Ok(EncoderConfig {
            max_tokens,
            case: if limits.do_lower_case { Case::Lowered } else { Case::Kept },
            pooling: around.pooling,
            normalisation: around.normalisation,
            transformer: raw.transformer(padding)?,
            model_type: raw.model_type,
        })
    }

    /// What stands before the encoder's tensors in a checkpoint that has a head.
    pub(crate) fn tensor_prefix(&self) -> &'static str {
        match self.transformer.family {
            Family::Bert => "bert.",
            Family::Roberta { .. } => "roberta.",
        }
    }
}

impl TransformerFile {
    fn check(&self) -> Result<(), InferenceError> {
        if !["bert", "roberta", "xlm-roberta"].contains(&self.model_type.as_str()) {
            return Err(unsupported("model_type", &self.model_type, SUPPORTED_MODEL_TYPES));
        }
        if let Some(name) = self.architectures.iter().flatten().find(|name| name.ends_with("ForSequenceClassification"))
        {
            return Err(unsupported("architectures", name, "encoders without a classification head"));
        }
        if let Some(kind) = self.position_embedding_type.as_ref().filter(|kind| *kind != "absolute") {
            return Err(unsupported("position_embedding_type", kind, "absolute"));
        }
        if self.is_decoder || self.add_cross_attention {
            return Err(unsupported("is_decoder or add_cross_attention", "true", "false"));
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(unsupported(field, "0", "at least 1"));
        }
        let heads = self.num_attention_heads;
        if !self.hidden_size.is_multiple_of(heads) {
            let found = format!("{heads} for a hidden_size of {}", self.hidden_size);
            return Err(unsupported("num_attention_heads", &found, "a divisor of hidden_size"));
        }
        if self.layer_norm_eps.is_nan() || self.layer_norm_eps < 0.0 {
            return Err(unsupported("layer_norm_eps", &self.layer_norm_eps.to_string(), "0 or above"));
        }
        Ok(())
    }

    fn transformer(&self, padding: u32) -> Result<Transformer, InferenceError> {
        Ok(Transformer {
            family: if self.model_type == "bert" { Family::Bert } else { Family::Roberta { padding } },
            vocabulary_size: self.vocab_size,
            positions: self.max_position_embeddings,
            segments: self.type_vocab_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            activation: self.activation()?,
            epsilon: self.layer_norm_eps,
        })
    }

    fn activation(&self) -> Result<HiddenActivation, InferenceError> {
        match self.hidden_act.as_str() {
            "gelu" => Ok(HiddenActivation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(HiddenActivation::GeluTanh),
            "relu" => Ok(HiddenActivation::Relu),
            other => Err(unsupported("hidden_act", other, "gelu, gelu_new, gelu_pytorch_tanh, relu")),
        }
    }
}

/// What sentence-transformers does after the transformer.
struct Around {
    pooling: Pooling,
    normalisation: Normalisation,
}

impl Around {
    /// Without `modules.json` a plain transformer gets mean pooling, as sentence-transformers treats it.
    fn read<'a>(file: &impl Fn(&str) -> Option<&'a [u8]>) -> Result<Around, InferenceError> {
        let mut around = Around { pooling: Pooling::Mean, normalisation: Normalisation::None };
        let modules: Vec<ModuleFile> = optional(file, "modules.json")?.unwrap_or_default();
        for (place, module) in modules.iter().enumerate() {
            match (place, module.kind.rsplit('.').next().unwrap_or_default()) {
                (0, "Transformer") if module.path.is_empty() => {}
                (0, _) => return Err(unsupported("modules.json[0]", &module.kind, "a Transformer at the top folder")),
                (1, "Pooling") => around.pooling = pooling(file, &format!("{}/config.json", module.path))?,
                (2, "Normalize") => around.normalisation = Normalisation::UnitLength,
                _ => {
                    let found = format!("{} in place {place}", module.kind);
                    return Err(unsupported("modules.json", &found, "Transformer, Pooling, Normalize in this order"));
                }
            }
        }
        Ok(around)
    }
}

/// The one pooling mode that is switched on.
fn pooling<'a>(file: &impl Fn(&str) -> Option<&'a [u8]>, path: &str) -> Result<Pooling, InferenceError> {
    let fields: serde_json::Map<String, serde_json::Value> = required(file, path)?;
    let on = |(name, value): (&String, &serde_json::Value)| {
        // Newer files name the mode, older ones have a switch for each.
        let mode = name.strip_prefix("pooling_mode")?;
        match value {
            serde_json::Value::Bool(true) => Some(mode.trim_start_matches('_').to_owned()),
            serde_json::Value::String(mode) => Some(mode.clone()),
            _ => None,
        }
    };
    let modes: Vec<String> = fields.iter().filter_map(on).collect();
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cls_token" | "cls"] => Ok(Pooling::FirstToken),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["mean_sqrt_len_tokens"] => Ok(Pooling::MeanOverRoot),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        _ => Err(unsupported("pooling mode", &modes.join(" with "), "one of cls, mean, mean_sqrt_len_tokens, max")),
    }
}

fn unsupported(field: &'static str, found: &str, supported: &'static str) -> InferenceError {
    InferenceError::UnsupportedEncoder { field, found: found.chars().take(80).collect(), supported }
}

fn required<'a, T: DeserializeOwned>(
    file: &impl Fn(&str) -> Option<&'a [u8]>,
    path: &str,
) -> Result<T, InferenceError> {
    optional(file, path)?.ok_or_else(|| InferenceError::MissingFile { path: path.to_owned() })
}

fn optional<'a, T: DeserializeOwned>(
    file: &impl Fn(&str) -> Option<&'a [u8]>,
    path: &str,
) -> Result<Option<T>, InferenceError> {
    let malformed = |error: serde_json::Error| InferenceError::MalformedFile { path: path.to_owned(), source: error };
    file(path).map(|bytes| serde_json::from_slice(bytes).map_err(malformed)).transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;

    const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}"#;
    const MODULES: &str = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

    fn read(files: &[(&str, &str)]) -> Result<EncoderConfig, InferenceError> {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        EncoderConfig::from_files(|path| files.get(path).map(|text| text.as_bytes()))
    }

    #[test]
    fn a_plain_transformer_is_pooled_by_the_mean() {
        let config = read(&[("config.json", CONFIG)]).unwrap();
        assert_eq!((config.pooling, config.normalisation), (Pooling::Mean, Normalisation::None));
        assert_eq!((config.max_tokens, config.transformer.hidden_size, config.case), (32, 8, Case::Kept));
    }

    #[test]
    fn the_model_s_own_files_decide() {
        let pooling = r#"{"word_embedding_dimension": 8, "pooling_mode_cls_token": true,
            "pooling_mode_mean_tokens": false}"#;
        let limits = r#"{"max_seq_length": 16, "do_lower_case": true}"#;
        let files = [
            ("config.json", CONFIG),
            ("modules.json", MODULES),
            ("1_Pooling/config.json", pooling),
            ("sentence_bert_config.json", limits),
        ];
        let config = read(&files).unwrap();
        assert_eq!((config.pooling, config.normalisation), (Pooling::FirstToken, Normalisation::UnitLength));
        assert_eq!((config.max_tokens, config.case), (16, Case::Lowered));
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_name() {
        let with = |from: &str, to: &str| CONFIG.replace(from, to);
        let head = r#""model_type": "bert", "architectures": ["BertForSequenceClassification"]"#;
        let refused = [
            (with(r#""bert""#, r#""distilbert""#), "model_type is distilbert"),
            (with(r#""model_type": "bert""#, head), "BertForSequenceClassification"),
            (with(r#""vocab_size""#, r#""hidden_act": "silu", "vocab_size""#), "hidden_act is silu"),
            (with(r#""vocab_size""#, r#""position_embedding_type": "relative_key", "vocab_size""#), "relative_key"),
            (with(r#""num_attention_heads": 2"#, r#""num_attention_heads": 0"#), "num_attention_heads"),
            (with(r#""num_attention_heads": 2"#, r#""num_attention_heads": 3"#), "num_attention_heads"),
            (with(r#""vocab_size""#, r#""is_decoder": true, "vocab_size""#), "is_decoder"),
        ];
        for (config, message) in refused {
            let error = read(&[("config.json", &config)]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn sizes_of_nothing_are_refused_by_name() {
        let sizes = [
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ];
        for name in sizes {
            let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
            config[name] = 0.into();
            let refused = read(&[("config.json", &config.to_string())]);
            let by_name = matches!(&refused, Err(InferenceError::UnsupportedEncoder { field, .. }) if *field == name);
            assert!(by_name, "{name}: {refused:?}");
        }
    }

    #[test]
    fn modules_and_poolings_that_are_not_known_are_refused() {
        let dense = MODULES.replace("models.Normalize", "models.Dense");
        let pooling = r#"{"pooling_mode_mean_tokens": true}"#;
        let files = [("config.json", CONFIG), ("modules.json", &dense), ("1_Pooling/config.json", pooling)];
        assert!(read(&files).unwrap_err().to_string().contains("Dense"));
        for pooling in [
            r#"{"pooling_mode_lasttoken": true}"#,
            "{}",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
        ] {
            let files = [("config.json", CONFIG), ("modules.json", MODULES), ("1_Pooling/config.json", pooling)];
            assert!(matches!(read(&files), Err(InferenceError::UnsupportedEncoder { field: "pooling mode", .. })));
        }
        assert!(matches!(
            read(&[("config.json", CONFIG), ("modules.json", MODULES)]),
            Err(InferenceError::MissingFile { .. })
        ));
    }
}
