//! What `ampoule-sealing` promises, from outside: one module for each promise.
#![allow(clippy::unwrap_used)]

/// Sealing by the word of a private authority.
mod certified;
/// The command line: results, refusals and exit codes.
mod command_line;
/// A second key signs what the first has sealed.
mod countersigning;
/// One defect each, refused with its own error: the folders of `bundles/fixtures`.
mod defects;
/// The same input gives the same bytes.
mod determinism;
/// Encrypted bundles.
mod encryption;
/// What an export writes.
mod exporting;
/// What is sealed comes out again.
mod identity;
/// Other people's tools read what was sealed.
mod interop;
/// Answers of the model in its statement.
mod known_answers;
/// Model signatures on plain folders.
mod oms;
/// Matrices in fewer bits.
mod quantized;
/// A release of the appliance itself.
mod release;
/// What a thin bundle carries.
mod thin;
/// Roots, revocation lists and downgrade tokens, as a vendor makes them.
mod trust;
/// What is sealed can be used.
mod usable;

mod draft;
mod loose;
mod support;
