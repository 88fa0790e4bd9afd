//! The header of the GGUF file that is made: tensors under their Hugging Face names, and no description of the model,
//! which its `config.json` and its tokenizer's files give.

/// Tensors begin at multiples of this: a line of the processor's cache, and more than any block asks for.
pub(super) const ALIGNMENT_BYTES: u64 = 64;

/// A tensor of the file that is made.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// GGUF's number of its kind.
    pub(super) number: u32,
    /// Outermost first.
    pub(super) shape: &'a [usize],
    pub(super) length: u64,
}

/// The header, padded to where the tensors' data begins.
///
/// `architecture` names the family, and `file_type` is GGUF's number of the mix.
pub(super) fn header(architecture: &str, file_type: u32, tensors: &[Entry<'_>]) -> Vec<u8> {
    let alignment = u32::try_from(ALIGNMENT_BYTES).expect("a small number");
    let numbers =
        [("general.alignment", alignment), ("general.file_type", file_type), ("general.quantization_version", 2)];
    let mut bytes = b"GGUF".to_vec();
    put_u32(&mut bytes, 3);
    put_u64(&mut bytes, tensors.len() as u64);
    put_u64(&mut bytes, 1 + numbers.len() as u64);
    put_text(&mut bytes, "general.architecture");
    put_u32(&mut bytes, TYPE_STRING);
    put_text(&mut bytes, architecture);
    for (key, number) in numbers {
        put_text(&mut bytes, key);
        put_u32(&mut bytes, TYPE_U32);
        put_u32(&mut bytes, number);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut bytes, tensor.name);
        put_u32(&mut bytes, u32::try_from(tensor.shape.len()).expect("a parsed header has few dimensions"));
        for &dimension in tensor.shape.iter().rev() {
            put_u64(&mut bytes, dimension as u64);
        }
        put_u32(&mut bytes, tensor.number);
        put_u64(&mut bytes, offset);
        offset = offset.saturating_add(tensor.length).next_multiple_of(ALIGNMENT_BYTES);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT_BYTES as usize), 0);
    bytes
}

const TYPE_U32: u32 = 4;
const TYPE_STRING: u32 = 8;

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_le_bytes());
}

fn put_u64(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u64(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}
