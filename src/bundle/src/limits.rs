//! The format's limits. Each is checked before the allocation that it bounds; FORMAT.md §10 prints this table.

/// The bundle format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Longest model manifest, 4 MiB: 4096 layers at under 1 KiB each.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest index. An index describes at most [`MAX_ATTESTATIONS`] manifests, so it stays far below.
pub const MAX_INDEX_BYTES: u64 = 1 << 20;
/// Longest referrer manifest: a handful of fixed fields.
pub const MAX_REFERRER_BYTES: u64 = 64 << 10;
/// Longest ModelPack config: one digest for each layer and a little description.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Longest single attestation, 16 MiB.
pub const MAX_ATTESTATION_BYTES: u64 = 16 << 20;
/// Most attestations: three statements by some twenty keys.
pub const MAX_ATTESTATIONS: usize = 64;
/// Longest of all attestations together, so that 64 of the longest do not fill memory before one is verified.
pub const MAX_ATTESTATIONS_TOTAL_BYTES: u64 = 32 << 20;
/// Most layers.
pub const MAX_LAYERS: usize = 4096;
/// Longest layer that is not a weight; the largest tokenizers known are about 35 MB.
pub const MAX_SMALL_LAYER_BYTES: u64 = 128 << 20;
/// Longest of all layers together that are not weights: they are all held in memory.
pub const MAX_SMALL_LAYERS_TOTAL_BYTES: u64 = 512 << 20;
/// Longest weight layer: what the eleven octal digits of a ustar size can say. A writer splits safetensors into shards of
/// about 1 GiB, but a single tensor may be longer than that, and a GGUF file cannot be split without being rewritten.
pub const MAX_WEIGHT_LAYER_BYTES: u64 = (8 << 30) - 1;
/// Longest header of an age file. A recipient takes about 100 bytes: room for all of them, and for kinds that are not ours.
pub const MAX_AGE_HEADER_BYTES: usize = 64 << 10;
/// Most recipients of an age file: each may have to be tried, in every layer.
pub const MAX_AGE_RECIPIENTS: usize = 64;
/// Most tokens of all known answers together: they are computed at each start.
pub const MAX_KNOWN_ANSWER_TOKENS: u64 = 1 << 14;
/// Longest settings schema: each key of it is an option of the configuration, and there are some fifty.
pub const MAX_SETTINGS_SCHEMA_BYTES: u64 = 64 << 10;
/// Longest of all manifests and indexes of an OCI layout together that are looked at to find a bundle.
pub const MAX_LAYOUT_DOCUMENTS_BYTES: u64 = 32 << 20;
/// Longest path of a file in a bundle, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;
/// Longest trust root, revocation list or downgrade token.
pub const MAX_TRUST_ROOT_BYTES: u64 = 1 << 20;
/// Most certificates in a chain, leaf included.
pub const MAX_CERTIFICATES: u64 = 5;
/// Most signatures on one of these: some twenty keys before and after a rotation.
pub const MAX_DOCUMENT_SIGNATURES: u64 = 64;

/// Deepest nesting of a JSON document.
pub const MAX_JSON_DEPTH: usize = 32;
/// Most values in one JSON document: bounds the memory of a short text that holds very many tiny values.
pub const MAX_JSON_VALUES: usize = 1 << 20;
/// Largest integer in a JSON document, 2^53 − 1: the largest that every JSON reader keeps exact (RFC 7493).
pub const MAX_JSON_INTEGER: u64 = (1 << 53) - 1;

/// Longest safetensors header.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 16 << 20;
/// Longest GGUF header; a vocabulary of 256 000 tokens with scores and merges needs about 15 MiB.
pub const MAX_GGUF_HEADER_BYTES: u64 = 64 << 20;
/// Longest of all weight headers together: they are all held in memory before one is parsed, and kept until the weights
/// are loaded. A model of a trillion parameters in a hundred shards has about 20 MiB of them.
pub const MAX_WEIGHT_HEADERS_TOTAL_BYTES: u64 = 128 << 20;
/// Most tensors in one weight file.
pub const MAX_TENSORS: u64 = 1 << 17;
/// Most dimensions of a tensor in a safetensors file.
pub const MAX_DIMENSIONS: usize = 8;
/// Most dimensions of a tensor in a GGUF file (the format's own limit).
pub const MAX_GGUF_DIMENSIONS: u32 = 4;
/// Most metadata entries in a GGUF file.
pub const MAX_GGUF_METADATA_ENTRIES: u64 = 4096;
/// Longest metadata key in a GGUF file.
pub const MAX_GGUF_KEY_BYTES: u64 = 1024;
/// Longest name of a tensor.
pub const MAX_TENSOR_NAME_BYTES: u64 = 256;
/// Longest single string in GGUF metadata: chat templates are the longest.
pub const MAX_GGUF_STRING_BYTES: u64 = 4 << 20;
/// Most elements of a GGUF array.
pub const MAX_GGUF_ARRAY_LENGTH: u64 = 4 << 20;
/// Largest alignment of a GGUF data section.
pub const MAX_GGUF_ALIGNMENT: u64 = 64 << 10;
