//! Tests of the sealed format, from the outside: bundles are written, signed with throw-away keys, spoilt in exactly one
//! way, and must be refused for exactly that reason. Names that begin with `c01` to `c22` answer THREATS.md.

#![allow(clippy::unwrap_used, missing_docs)]

/// A small valid bundle and the means to spoil it.
mod sample;

/// Signatures that look like others.
mod ecdsa;

/// What is written can be read; the same contents give the same bytes; other tools read it too.
mod round_trip;

/// Every bit and every length of a bundle.
mod tampering;

/// Tar entries and layout documents that are not the canonical ones.
mod canonical_form;

/// What another reader of tar files sees in ours.
mod differential;

/// Bundles whose parts do not lie in one file.
mod apart;

/// Manifests that contradict the format.
mod manifests;

/// Signatures, statements and what they bind.
mod attestations;

/// Signatures by whoever a pinned authority certifies.
mod certificates;

/// Trust roots that contradict themselves.
mod trust_roots;

/// From one trust root to the next.
mod root_succession;

/// What was signed and must not be used any more, and what may be used once more.
mod revocations;

/// Weight headers that no model parser may see: safetensors.
mod safetensors_headers;

/// Weight headers that no model parser may see: GGUF.
mod gguf_headers;

/// Whether a verified bundle may run here.
mod admission;

/// Single age files.
mod age;

/// Bundles whose layers are encrypted.
mod encryption;

/// Loading the weights in one pass.
mod loading;

/// The JSON Schemas and FORMAT.md say what the code does.
mod documents;
