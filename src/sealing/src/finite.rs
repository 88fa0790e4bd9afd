//! Whether a safetensors file holds numbers alone: an adapter with an infinity or a NaN answers nonsense to everything, and
//! nobody sees it in the file. The bytes are looked at as they pass, so what is signed is what was judged.

use ampoule_bundle::{SafetensorsHeader, TensorInfo, TensorKind, WeightHeaderError};

/// Looks at a file's bytes in order and remembers the first tensor that is not finite.
pub(crate) struct FiniteCheck<'a> {
    /// The tensors that are still to come, in the order of their bytes.
    tensors: std::iter::Peekable<std::slice::Iter<'a, TensorInfo>>,
    position: u64,
    /// The byte before `position`: an element's exponent lies in its last two bytes, which may come in two blocks.
    previous: u8,
    not_finite: Option<&'a str>,
}

impl<'a> FiniteCheck<'a> {
    /// `tensors` in the order in which they lie in the file, as its header gives them.
    pub(crate) fn of(tensors: &'a [TensorInfo]) -> FiniteCheck<'a> {
        FiniteCheck { tensors: tensors.iter().peekable(), position: 0, previous: 0, not_finite: None }
    }

    /// Looks at the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len() as u64;
        while let Some(&tensor) = self.tensors.peek().filter(|tensor| tensor.offset < end && self.not_finite.is_none())
        {
            if let Some((element_bytes, exponent)) = form_of(tensor.kind) {
                self.look_at(tensor, bytes, element_bytes, exponent);
            }
            if tensor.offset.saturating_add(tensor.length) > end {
                break;
            }
            self.tensors.next();
        }
        self.previous = bytes.last().copied().unwrap_or(self.previous);
        self.position = end;
    }

    /// The name of the first tensor that is not finite, once all bytes have passed.
    pub(crate) fn finish(self) -> Option<&'a str> {
        self.not_finite
    }

    /// Looks at those elements of `tensor` whose last byte is among `bytes`.
    fn look_at(&mut self, tensor: &'a TensorInfo, bytes: &[u8], element_bytes: u64, exponent: u16) {
        let passed = self.position.saturating_sub(tensor.offset) / element_bytes;
        let last = |element: u64| tensor.offset + (element + 1) * element_bytes - 1;
        for element in passed..tensor.length / element_bytes {
            let Some(at) = last(element).checked_sub(self.position) else { continue };
            let Some(&high) = usize::try_from(at).ok().and_then(|at| bytes.get(at)) else { return };
            let low = usize::try_from(at).ok().and_then(|at| at.checked_sub(1)).map_or(self.previous, |at| bytes[at]);
            if u16::from_le_bytes([low, high]) & exponent == exponent {
                self.not_finite = Some(&tensor.name);
                return;
            }
        }
    }
}

/// The name of the first tensor of a whole safetensors file that is not finite.
///
/// # Errors
/// A header that the runtime would refuse.
pub fn first_not_finite(file: &[u8]) -> Result<Option<String>, WeightHeaderError> {
    let header = SafetensorsHeader::parse(file)?;
    let mut check = FiniteCheck::of(header.tensors());
    check.update(file);
    Ok(check.finish().map(str::to_owned))
}

/// The length of an element, and the bits of its last two bytes that are all set in an infinity and in a NaN.
fn form_of(kind: TensorKind) -> Option<(u64, u16)> {
    match kind {
        TensorKind::F64 => Some((8, 0x7ff0)),
        TensorKind::F32 => Some((4, 0x7f80)),
        TensorKind::BF16 => Some((2, 0x7f80)),
        TensorKind::F16 => Some((2, 0x7c00)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tensor(name: &str, kind: TensorKind, offset: u64, length: u64) -> TensorInfo {
        TensorInfo { name: name.to_owned(), kind, shape: Vec::new(), offset, length }
    }

    #[test]
    fn every_number_of_every_kind_is_looked_at_wherever_the_blocks_end() {
        let (one, three) = (1.5_f32.to_le_bytes(), 3e38_f32.to_le_bytes());
        let mut file = vec![0xff; 7];
        file.extend([one, three].concat());
        file.extend([0x00, 0x3c, 0xff, 0x7b]);
        file.extend([0x80, 0x3f, 0x7f, 0x7f]);
        file.extend([1e300_f64.to_le_bytes(), f64::MIN.to_le_bytes()].concat());
        file.extend([0xff; 4]);
        let tensors = [
            tensor("single", TensorKind::F32, 7, 8),
            tensor("half", TensorKind::F16, 15, 4),
            tensor("brain", TensorKind::BF16, 19, 4),
            tensor("double", TensorKind::F64, 23, 16),
            tensor("none", TensorKind::U8, 39, 4),
        ];
        let first = |file: &[u8], block: usize| {
            let mut check = FiniteCheck::of(&tensors);
            file.chunks(block).for_each(|block| check.update(block));
            check.finish()
        };
        for block in 1..=file.len() {
            assert_eq!(first(&file, block), None, "{block}");
            for (at, bytes, name) in [
                (7, &f32::INFINITY.to_le_bytes()[..], "single"),
                (11, &f32::NAN.to_le_bytes(), "single"),
                (15, &[0x00, 0xfc], "half"),
                (17, &[0x01, 0x7c], "half"),
                (21, &[0x80, 0xff], "brain"),
                (23, &f64::NEG_INFINITY.to_le_bytes(), "double"),
                (31, &f64::NAN.to_le_bytes(), "double"),
            ] {
                let mut spoilt = file.clone();
                spoilt[at..at + bytes.len()].copy_from_slice(bytes);
                assert_eq!(first(&spoilt, block), Some(name), "{name} at {at} in blocks of {block}");
            }
        }
    }
}
