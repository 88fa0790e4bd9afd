//! What `ampoule-sealing` promises, from outside: one module for each promise.
#![allow(clippy::unwrap_used)]

/// The command line: results, refusals and exit codes.
mod command_line;
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
/// A release of the appliance itself.
mod release;
/// What is sealed can be used.
mod usable;

mod draft;
mod loose;
mod support;
