//! Takes the tensors of an encoder or an adapter while the bundle reads and hashes them.  Everything becomes f32, which is exact for the
//! half-precision types.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorKind, TensorSink};
use candle_core::{Device, Tensor};
use half::{bf16, f16};

use crate::error::InferenceError;

/// A sink for tensors by name.
#[derive(Debug, Default)]
pub(crate) struct DenseTensors {
    tensors: Mutex<HashMap<String, Tensor>>,
}

impl TensorSink for DenseTensors {
    type Output = HashMap<String, Tensor>;
    type Error = InferenceError;

    fn place(&self, tensor: TensorEntry<'_>, data: Vec<u8>) -> Result<(), InferenceError> {
        let Some(values) = widen(tensor, &data)? else { return Ok(()) };
        let tensor_value = Tensor::from_vec(values, tensor.shape, &Device::Cpu)?;
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

/// The values as f32; `None` for integers, which are not weights (checkpoints carry such tables as `position_ids`).
fn widen(tensor: TensorEntry<'_>, data: &[u8]) -> Result<Option<Vec<f32>>, InferenceError> {
    let half = |value: fn([u8; 2]) -> f32| data.as_chunks::<2>().0.iter().map(|bytes| value(*bytes)).collect();
    Ok(Some(match tensor.kind {
        TensorKind::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        TensorKind::F16 => half(|bytes| f16::from_le_bytes(bytes).to_f32()),
        TensorKind::BF16 => half(|bytes| bf16::from_le_bytes(bytes).to_f32()),
        TensorKind::I64 | TensorKind::I32 | TensorKind::U8 => return Ok(None),
        found => {
            let (name, found) = (tensor.name.to_owned(), format!("{found:?}"));
            return Err(InferenceError::UnsupportedTensorKind { name, found });
        }
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn half_precision_is_widened_exactly_and_integers_are_left_out() {
        let sink = DenseTensors::default();
        let values = [1.5f32, -0.25];
        let entry = |name, kind| TensorEntry { name, kind, shape: &[2] };
        sink.place(entry("a", TensorKind::F32), values.iter().flat_map(|v| v.to_le_bytes()).collect()).unwrap();
        let halves = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        sink.place(entry("b", TensorKind::F16), halves).unwrap();
        let brains = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        sink.place(entry("c", TensorKind::BF16), brains).unwrap();
        sink.place(entry("position_ids", TensorKind::I64), vec![0; 16]).unwrap();
        let twice = sink.place(entry("a", TensorKind::F32), vec![0; 8]).unwrap_err();
        assert!(matches!(twice, InferenceError::RepeatedTensor { .. }));
        let quantised = sink.place(entry("d", TensorKind::Q8_0), vec![0; 34]).unwrap_err();
        assert!(matches!(quantised, InferenceError::UnsupportedTensorKind { .. }));
        let tensors = sink.finish().unwrap();
        assert!(!tensors.contains_key("position_ids"));
        for name in ["b", "c"] {
            assert_eq!(tensors[name].to_vec1::<f32>().unwrap(), values);
        }
    }
}
