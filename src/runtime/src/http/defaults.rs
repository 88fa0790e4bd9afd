//! Sampling where a request says nothing: what the model's own `generation_config.json` recommends, as Transformers and
//! vLLM apply it, else OpenAI's defaults.

use ampoule_inference::Sampling;
use serde::Deserialize;

/// The sampling parameters of a request that names none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingDefaults(Sampling);

impl SamplingDefaults {
    /// Reads the defaults from a `generation_config.json`, a sealed file of the bundle.
    ///
    /// `do_sample: false` is how Transformers writes "greedy"; the other members count only where sampling is on.
    ///
    /// # Errors
    /// The text of the JSON error, or the name of a member that has no meaning.
    pub fn from_generation_config(json: &[u8]) -> Result<SamplingDefaults, String> {
        let written: GenerationConfig = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut sampling = Sampling::default();
        sampling.repetition_penalty = written.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        if written.do_sample == Some(false) {
            sampling.temperature = 0.0;
        } else {
            sampling.temperature = written.temperature.unwrap_or(sampling.temperature);
            sampling.top_k = written.top_k.unwrap_or(sampling.top_k);
            sampling.top_p = written.top_p.unwrap_or(sampling.top_p);
            sampling.min_p = written.min_p.unwrap_or(sampling.min_p);
        }
        sampling.check(0).map_err(|error| error.to_string())?;
        Ok(SamplingDefaults(sampling))
    }

    pub(crate) fn sampling(&self) -> Sampling {
        self.0.clone()
    }
}

/// The members that concern sampling; the file has many others.
#[derive(Debug, Deserialize)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_model_s_own_recommendation_applies() {
        let read = |json: &str| SamplingDefaults::from_generation_config(json.as_bytes()).map(|read| read.sampling());
        assert_eq!(read("{}").unwrap(), Sampling::default());
        assert_eq!(read(r#"{"do_sample":false,"temperature":0.7}"#).unwrap(), Sampling::greedy());
        let sampled =
            read(r#"{"do_sample":true,"temperature":0.7,"top_k":20,"top_p":0.8,"eos_token_id":[1,2]}"#).unwrap();
        assert_eq!((sampled.temperature, sampled.top_k, sampled.top_p), (0.7, 20, 0.8));
        assert!(read(r#"{"temperature":-1}"#).unwrap_err().contains("temperature"));
        assert!(read("[").is_err());
    }
}
