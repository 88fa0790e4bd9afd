//! Tests of the sealed format, from the outside: bundles are written, signed with throw-away keys, spoilt in exactly one
//! way, and must be refused for exactly that reason. Names that begin with `c01` to `c21` answer THREATS.md.

#![allow(clippy::unwrap_used, missing_docs)]

/// A small valid bundle and the means to spoil it.
mod sample;

/// What is written can be read; the same contents give the same bytes; other tools read it too.
mod round_trip;

/// Every bit and every length of a bundle.
mod tampering;

/// Tar entries and layout documents that are not the canonical ones.
mod canonical_form;

/// Manifests that contradict the format.
mod manifests;

/// Signatures, statements and what they bind.
mod attestations;

/// Trust roots that contradict themselves.
mod trust_roots;

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
