//! C04 and C05: GGUF headers that no model parser may see; and real ones, which are read.

use std::path::PathBuf;

use ampoule_bundle::{GgufArray, GgufHeader, GgufValue, TensorKind, WeightHeaderError};
use proptest::prelude::*;

/// Writes GGUF headers, right ones and wrong ones.
#[derive(Clone, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn preamble(tensors: u64, entries: u64) -> Self {
        Self::default().raw(b"GGUF").u32(3).u64(tensors).u64(entries)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn string(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).raw(text)
    }

    /// A key, the number of its value's type, and the value's bytes.
    fn entry(self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.string(key.as_bytes()).u32(kind).raw(value)
    }

    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let mut writer = self.string(name.as_bytes()).u32(dimensions.len() as u32);
        for &dimension in dimensions {
            writer = writer.u64(dimension);
        }
        writer.u32(kind).u64(offset)
    }

    /// Zeros up to the alignment, then so many bytes of data.
    fn data(mut self, count: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32), 0);
        self.0.extend((0..count).map(|index| index as u8));
        self.0
    }
}

fn refusal(bytes: &[u8]) -> WeightHeaderError {
    GgufHeader::parse(bytes).expect_err("the header must be refused")
}

#[test]
fn an_alignment_of_another_type_is_named_as_it_is() {
    let number = Writer::preamble(0, 1).entry("general.alignment", 10, &64u64.to_le_bytes()).0;
    assert!(refusal(&number).to_string().contains("64 in another integer type"), "{}", refusal(&number));
    let text = Writer::preamble(0, 1).entry("general.alignment", 8, &Writer::default().string(b"32").0).0;
    assert!(refusal(&text).to_string().contains("no integer"), "{}", refusal(&text));
}

#[test]
fn a_header_is_read_as_written() {
    let writer = Writer::preamble(2, 4)
        .entry("general.architecture", 8, &Writer::default().string(b"llama").0)
        .entry("llama.block_count", 4, &7u32.to_le_bytes())
        .entry("scores", 9, &Writer::default().u32(6).u64(2).raw(&1f32.to_le_bytes()).raw(&2f32.to_le_bytes()).0)
        .entry("tokens", 9, &Writer::default().u32(8).u64(2).string(b"a").string("é".as_bytes()).0)
        .tensor("norm", &[5], 0, 64)
        .tensor("weights", &[32, 3], 2, 0);
    let table_end = writer.0.len();
    let header = GgufHeader::parse(&writer.data(64 + 20)).unwrap();
    assert_eq!(header.length() as usize, table_end.next_multiple_of(32));
    assert_eq!(header.metadata["general.architecture"], GgufValue::String("llama".to_owned()));
    assert_eq!(header.metadata["llama.block_count"].as_u64(), Some(7));
    assert_eq!(header.metadata["scores"], GgufValue::Array(GgufArray::F32(vec![1.0, 2.0])));
    assert_eq!(header.metadata["tokens"].as_strings().unwrap(), ["a", "é"]);
    let tensors: Vec<_> = header
        .tensors
        .iter()
        .map(|tensor| {
            (tensor.name.as_str(), tensor.kind, tensor.shape.clone(), tensor.offset - header.length(), tensor.length)
        })
        .collect();
    let expected = [("weights", TensorKind::Q4_0, vec![3, 32], 0, 3 * 18), ("norm", TensorKind::F32, vec![5], 64, 20)];
    assert_eq!(tensors, expected, "in file order, outermost dimension first");
}

#[test]
fn every_type_of_value_is_read_as_what_it_is() {
    // The number of a type, the bytes of two values, these as integers and as numbers, and both as an array.
    for (kind, bytes, integers, number, array) in [
        (0u32, vec![7, 8], [Some(7), Some(8)], None, GgufArray::U8(vec![7, 8])),
        (1, vec![7, 255], [Some(7), None], None, GgufArray::I8(vec![7, -1])),
        (2, vec![7, 0, 0, 1], [Some(7), Some(256)], None, GgufArray::U16(vec![7, 256])),
        (3, vec![7, 0, 255, 255], [Some(7), None], None, GgufArray::I16(vec![7, -1])),
        (4, [7u32, 8].map(u32::to_le_bytes).concat(), [Some(7), Some(8)], None, GgufArray::U32(vec![7, 8])),
        (5, [7i32, -1].map(i32::to_le_bytes).concat(), [Some(7), None], None, GgufArray::I32(vec![7, -1])),
        (6, [0.5f32, 1.0].map(f32::to_le_bytes).concat(), [None; 2], Some(0.5), GgufArray::F32(vec![0.5, 1.0])),
        (7, vec![1, 0], [None; 2], None, GgufArray::Bool(vec![true, false])),
        (10, [7u64, 8].map(u64::to_le_bytes).concat(), [Some(7), Some(8)], None, GgufArray::U64(vec![7, 8])),
        (11, [7i64, -1].map(i64::to_le_bytes).concat(), [Some(7), None], None, GgufArray::I64(vec![7, -1])),
        (12, [0.5f64, 1.0].map(f64::to_le_bytes).concat(), [None; 2], Some(0.5), GgufArray::F64(vec![0.5, 1.0])),
    ] {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let both = Writer::default().u32(kind).u64(2).raw(&bytes).0;
        let file =
            Writer::preamble(0, 3).entry("first", kind, first).entry("second", kind, second).entry("both", 9, &both);
        let metadata = GgufHeader::parse(&file.data(0)).unwrap().metadata;
        assert_eq!(["first", "second"].map(|key| metadata[key].as_u64()), integers, "type {kind}");
        assert_eq!(metadata["first"].as_f64(), number, "type {kind}");
        assert_eq!(metadata["first"].as_bool(), (kind == 7).then_some(true), "type {kind}");
        assert!(metadata["first"].as_str().is_none() && metadata["first"].as_array().is_none(), "type {kind}");
        assert_eq!(metadata["both"].as_array(), Some(&array));
        assert_eq!((array.len(), array.is_empty()), (2, false), "type {kind}");
        assert!(metadata["both"].as_u64().is_none() && metadata["both"].as_strings().is_none(), "type {kind}");
    }
    let texts = Writer::preamble(0, 2).entry("text", 8, &Writer::default().string(b"a").0).entry(
        "texts",
        9,
        &Writer::default().u32(8).u64(1).string(b"a").0,
    );
    let metadata = GgufHeader::parse(&texts.data(0)).unwrap().metadata;
    assert_eq!((metadata["text"].as_str(), metadata["texts"].as_array().unwrap().len()), (Some("a"), 1));
    assert!(metadata["text"].as_f64().is_none() && metadata["text"].as_bool().is_none());
}

#[test]
fn block_formats_have_the_sizes_of_the_format() {
    // Elements and bytes of one block, as ggml defines them.
    for (number, kind, elements, bytes) in [
        (1, TensorKind::F16, 1, 2),
        (2, TensorKind::Q4_0, 32, 18),
        (3, TensorKind::Q4_1, 32, 20),
        (6, TensorKind::Q5_0, 32, 22),
        (7, TensorKind::Q5_1, 32, 24),
        (8, TensorKind::Q8_0, 32, 34),
        (10, TensorKind::Q2K, 256, 84),
        (11, TensorKind::Q3K, 256, 110),
        (12, TensorKind::Q4K, 256, 144),
        (13, TensorKind::Q5K, 256, 176),
        (14, TensorKind::Q6K, 256, 210),
        (24, TensorKind::I8, 1, 1),
        (25, TensorKind::I16, 1, 2),
        (26, TensorKind::I32, 1, 4),
        (27, TensorKind::I64, 1, 8),
        (28, TensorKind::F64, 1, 8),
        (30, TensorKind::BF16, 1, 2),
    ] {
        let bytes_of_two = 2 * bytes as usize;
        let file = Writer::preamble(1, 0).tensor("t", &[elements, 2], number, 0).data(bytes_of_two);
        let tensor = &GgufHeader::parse(&file).unwrap().tensors[0];
        assert_eq!((tensor.kind, tensor.length), (kind, bytes_of_two as u64));
        assert_eq!((kind.block_elements(), kind.block_bytes()), (elements, bytes));
        if elements > 1 {
            let file = Writer::preamble(1, 0).tensor("t", &[elements + 1, 2], number, 0).data(4096);
            assert!(matches!(refusal(&file), WeightHeaderError::Tensor { .. }), "half a block");
        }
    }
}

#[test]
fn c04_extents_outside_the_file_are_refused() {
    let one = |offset: u64, data_bytes: usize| Writer::preamble(1, 0).tensor("t", &[16], 0, offset).data(data_bytes);
    assert!(GgufHeader::parse(&one(0, 64)).is_ok());
    assert!(refusal(&one(0, 63)).to_string().contains("beyond"));
    assert!(refusal(&one(32, 96)).to_string().contains("hole"));
    assert!(refusal(&one(1, 65)).to_string().contains("aligned"));
    assert!(refusal(&one(u64::MAX - 31, 64)).to_string().contains("overflow"));
    assert!(refusal(&one(1 << 62, 64)).to_string().contains("hole"));
    let two = |offset: u64, data_bytes: usize| {
        Writer::preamble(2, 0).tensor("t", &[9], 0, 0).tensor("u", &[8], 0, offset).data(data_bytes)
    };
    assert!(GgufHeader::parse(&two(64, 96)).is_ok());
    assert!(refusal(&two(32, 96)).to_string().contains("overlap"));
    assert!(refusal(&two(0, 96)).to_string().contains("overlap"));
    assert!(refusal(&two(96, 128)).to_string().contains("hole"));
    assert!(GgufHeader::parse(&one(0, 64 + 31)).is_err() || 64 % 32 != 0, "no padding follows an aligned tensor");
    assert!(matches!(refusal(&two(64, 97)), WeightHeaderError::Unexplained { .. }));
    let mut padding = Writer::preamble(1, 0).tensor("t", &[16], 0, 0);
    padding.0.push(1);
    assert!(matches!(refusal(&padding.data(64)), WeightHeaderError::Unexplained { .. }));
}

#[test]
fn c05_counts_and_products_that_overflow_are_refused() {
    for (tensors, entries) in [(1 << 63, 0), (0, 1 << 63), (u64::MAX, u64::MAX), ((1 << 17) + 1, 0), (0, 4097)] {
        let error = refusal(&Writer::preamble(tensors, entries).0);
        assert!(matches!(error, WeightHeaderError::TooLarge { .. }), "{error}");
    }
    // C07: two dimensions of 2^40 wrap to 0 where products are not checked.
    for dimensions in [&[1 << 40, 1 << 40][..], &[1 << 32, 1 << 32], &[u64::MAX, 2], &[1 << 62, 8], &[u64::MAX]] {
        for kind in [0, 8, 12] {
            let error = refusal(&Writer::preamble(1, 0).tensor("t", dimensions, kind, 0).data(64));
            assert!(matches!(error, WeightHeaderError::Tensor { .. }), "{dimensions:?}: {error}");
        }
    }
    for dimensions in [&[0][..], &[4, 0], &[1, 1, 1, 1, 1]] {
        let error = refusal(&Writer::preamble(1, 0).tensor("t", dimensions, 0, 0).data(64));
        assert!(matches!(error, WeightHeaderError::Tensor { .. }), "{dimensions:?}: {error}");
    }
    let error = refusal(&Writer::preamble(1, 0).string(b"t").u32(u32::MAX).0);
    assert!(matches!(error, WeightHeaderError::Tensor { .. }), "{error}");
}

#[test]
fn c06_lengths_are_checked_before_they_are_allocated() {
    let text = |length: u64| Writer::preamble(0, 1).string(b"k").u32(8).u64(length).raw(b"abc").0;
    for length in [u64::MAX, 1 << 40, (4 << 20) + 1] {
        assert!(matches!(refusal(&text(length)), WeightHeaderError::TooLarge { .. }));
    }
    assert!(matches!(refusal(&text(4)), WeightHeaderError::Truncated { .. }));
    let array =
        |element: u32, length: u64| Writer::preamble(0, 1).string(b"k").u32(9).u32(element).u64(length).raw(&[0; 16]).0;
    for element in 0..13 {
        for length in [u64::MAX, u64::MAX / 8 + 1, (4 << 20) + 1] {
            assert!(GgufHeader::parse(&array(element, length)).is_err());
        }
        if element != 9 {
            assert!(matches!(refusal(&array(element, 17)), WeightHeaderError::Truncated { .. }), "{element}");
        }
    }
    assert!(matches!(refusal(&Writer::preamble(0, 1).u64(1025).0), WeightHeaderError::TooLarge { .. }));
    assert!(matches!(refusal(&Writer::preamble(1, 0).u64(257).0), WeightHeaderError::TooLarge { .. }));
}

#[test]
fn values_outside_the_format_are_refused() {
    for (what, bytes) in [
        ("magic", Writer::default().raw(b"GGML").u32(3).u64(0).u64(0).0),
        ("big-endian", Writer::default().raw(b"GGUF").raw(&3u32.to_be_bytes()).u64(0).u64(0).0),
        ("version 1", Writer::default().raw(b"GGUF").u32(1).u64(0).u64(0).0),
        ("version 4", Writer::default().raw(b"GGUF").u32(4).u64(0).u64(0).0),
        ("array of arrays", Writer::preamble(0, 1).string(b"k").u32(9).u32(9).u64(1).u32(4).u64(0).0),
        ("type 13", Writer::preamble(0, 1).entry("k", 13, &[0; 8]).0),
        ("truth value 2", Writer::preamble(0, 1).entry("k", 7, &[2]).0),
        ("tensor type", Writer::preamble(1, 0).tensor("t", &[32], 4, 0).data(64)),
        ("alignment 0", Writer::preamble(0, 1).entry("general.alignment", 4, &0u32.to_le_bytes()).0),
        ("alignment 33", Writer::preamble(0, 1).entry("general.alignment", 4, &33u32.to_le_bytes()).0),
        ("alignment 2^31", Writer::preamble(0, 1).entry("general.alignment", 4, &(1u32 << 31).to_le_bytes()).0),
        (
            "alignment as text",
            Writer::preamble(0, 1).entry("general.alignment", 8, &Writer::default().string(b"32").0).0,
        ),
    ] {
        assert!(matches!(refusal(&bytes), WeightHeaderError::Unknown { .. }), "{what}");
    }
    let text = Writer::preamble(0, 1).string(b"\xff\xfe").0;
    assert!(matches!(refusal(&text), WeightHeaderError::Text { .. }));
    let twice = Writer::preamble(0, 2).entry("k", 0, &[1]).entry("k", 0, &[1]).0;
    assert!(matches!(refusal(&twice), WeightHeaderError::Repeated { what: "metadata key", .. }));
    let twice = Writer::preamble(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64);
    assert!(matches!(refusal(&twice), WeightHeaderError::Repeated { what: "tensor", .. }));
}

#[test]
fn every_truncation_of_a_header_is_refused() {
    let file = Writer::preamble(1, 2)
        .entry("a", 8, &Writer::default().string(b"text").0)
        .entry("b", 9, &Writer::default().u32(4).u64(3).raw(&[0; 12]).0)
        .tensor("t", &[16], 0, 0)
        .data(64);
    GgufHeader::parse(&file).unwrap();
    for length in 0..file.len() {
        assert!(GgufHeader::parse(&file[..length]).is_err(), "{length}");
    }
}

#[test]
fn real_vocabularies_are_read() {
    const TEST: &str = "real_vocabularies_are_read";
    let shared = std::env::var_os("AMPOULE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let folder = shared.join("fixtures/vocab");
    if !folder.exists() {
        eprintln!("skipped: {TEST}: {} is missing", folder.display());
        return;
    }
    for (name, model, tokens) in [
        ("bert-bge", "bert", 30522),
        ("gpt-2", "gpt2", 50257),
        ("llama-bpe", "gpt2", 128256),
        ("llama-spm", "llama", 32000),
        ("qwen2", "gpt2", 151936),
    ] {
        let bytes = std::fs::read(folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
        let header = GgufHeader::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(header.tensors.is_empty());
        assert_eq!(header.length(), bytes.len() as u64);
        assert_eq!(header.metadata["tokenizer.ggml.model"].as_str(), Some(model), "{name}");
        assert_eq!(header.metadata["tokenizer.ggml.tokens"].as_strings().unwrap().len(), tokens, "{name}");
        // Cut anywhere, it is refused; it never panics and never reads beyond.
        for length in (0..bytes.len()).step_by(bytes.len() / 50) {
            assert!(GgufHeader::parse(&bytes[..length]).is_err(), "{name} cut to {length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_fail_otherwise(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = GgufHeader::parse(&bytes);
        let _ = GgufHeader::parse(&Writer::preamble(3, 3).raw(&bytes).0);
    }

    #[test]
    fn changed_headers_never_reach_beyond_the_file(position in 0usize..300, value: u8) {
        let mut file = Writer::preamble(2, 1)
            .entry("a", 9, &Writer::default().u32(8).u64(2).string(b"x").string(b"y").0)
            .tensor("t", &[16], 0, 0)
            .tensor("u", &[32, 2], 8, 64)
            .data(64 + 68);
        if let Some(byte) = file.get_mut(position) {
            *byte = value;
        }
        if let Ok(header) = GgufHeader::parse(&file) {
            for tensor in header.tensors {
                prop_assert!(tensor.offset + tensor.length <= file.len() as u64);
            }
        }
    }
}
