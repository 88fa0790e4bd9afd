//! The write side of the sealed format: pack, digest, sign.  Used at the vendor's and, for adapters, at the site.
//!
//! The modules in reading order: [`seal`] is the straight line; `source` decides what goes in, `links` how far the folder's
//! links may lead, `weights` lays the tensors out, [`conversion`] and
//! [`quantize`] make them smaller before, [`contract`] is what the vendor states beyond identity, `encrypt` makes
//! age files of the layers and [`rewrap`] opens them to others, [`keys`] sign, [`countersign`] adds another key's
//! signatures, [`trust`] says whose count; [`diff`] makes updates small, [`export`] and
//! `inspect` look at the result; [`release`] signs the appliance's own files; [`oms`] signs and verifies plain model
//! folders; [`cli`] is the command line.
//! The format itself, types and bytes, lives in `ampoule-bundle`.

pub mod seal;

mod content;
pub mod contract;
pub mod conversion;
pub mod countersign;
mod describe;
mod encrypt;
mod finite;
mod folder;
mod known_answers;
mod links;
pub mod quantize;
pub mod rewrap;
mod source;
mod weights;

pub mod identities;
pub mod keys;
pub mod password;
pub mod trust;

pub mod diff;
pub mod export;
pub mod oms;
pub mod release;

pub mod cli;
mod clock;
pub mod error;
mod files;
mod progress;

pub use error::SealingError;
pub use finite::first_not_finite;
