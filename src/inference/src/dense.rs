//! Takes the tensors of an adapter while the bundle reads and hashes them.  Everything becomes f32, which is exact for the
//! half-precision types.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorKind, TensorSink};
use candle_core::{Device, Tensor};

use crate::error::InferenceError;
use crate::numbers::Incoming;

/// A sink for tensors by name.
#[derive(Debug, Default)]
pub(crate) struct DenseTensors {
    tensors: Mutex<HashMap<String, Tensor>>,
}

impl TensorSink for DenseTensors {
    type Output = HashMap<String, Tensor>;
    type Error = InferenceError;
    type Memory = Incoming;

    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<Incoming, InferenceError> {
        match tensor.kind {
            TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => Ok(Incoming::new(tensor.kind, length)),
            // No weights: checkpoints carry such tables as `position_ids`.
            TensorKind::I64 | TensorKind::I32 | TensorKind::U8 => Ok(Incoming::as_they_stand(length)),
            found => {
                let (name, found) = (tensor.name.to_owned(), format!("{found:?}"));
                Err(InferenceError::UnsupportedTensorKind { name, found })
            }
        }
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: Incoming) -> Result<(), InferenceError> {
        let Incoming::Numbers(numbers) = memory else { return Ok(()) };
        let tensor_value = Tensor::from_vec(numbers.into_values(), tensor.shape, &Device::Cpu)?;
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        match tensors.insert(tensor.name.to_owned(), tensor_value) {
            None => Ok(()),
            Some(_) => Err(InferenceError::RepeatedTensor { name: tensor.name.to_owned() }),
        }
    }

    fn finish(self) -> Result<HashMap<String, Tensor>, InferenceError> {
        Ok(self.tensors.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ampoule_bundle::TensorMemory;
    use half::{bf16, f16};

    use super::*;

    /// What a load does with one tensor.
    fn put(sink: &DenseTensors, tensor: TensorEntry<'_>, bytes: &[u8]) -> Result<(), InferenceError> {
        let mut memory = sink.open(tensor, bytes.len())?;
        memory.fill_from(bytes);
        sink.place(tensor, memory)
    }

    #[test]
    fn half_precision_is_widened_exactly_and_integers_are_left_out() {
        let sink = DenseTensors::default();
        let values = [1.5f32, -0.25];
        let entry = |name, kind| TensorEntry { name, kind, shape: &[2] };
        let floats: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        put(&sink, entry("a", TensorKind::F32), &floats).unwrap();
        let halves: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        put(&sink, entry("b", TensorKind::F16), &halves).unwrap();
        let brains: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        put(&sink, entry("c", TensorKind::BF16), &brains).unwrap();
        put(&sink, entry("position_ids", TensorKind::I64), &[0; 16]).unwrap();
        let twice = put(&sink, entry("a", TensorKind::F32), &[0; 8]).unwrap_err();
        assert!(matches!(twice, InferenceError::RepeatedTensor { .. }));
        let quantised = put(&sink, entry("d", TensorKind::Q8_0), &[0; 34]).unwrap_err();
        assert!(matches!(quantised, InferenceError::UnsupportedTensorKind { .. }));
        let tensors = sink.finish().unwrap();
        assert!(!tensors.contains_key("position_ids"));
        for name in ["b", "c"] {
            assert_eq!(tensors[name].to_vec1::<f32>().unwrap(), values);
        }
    }
}
