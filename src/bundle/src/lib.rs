//! Answers one question: may this bundle be used?  Reads and writes the sealed format, verifies it and admits it.
//!
//! ```text
//! Source ─open─► SealedBundle ─verify─► VerifiedBundle ─admit─► AdmittedBundle ─load_weights─► the model's tensors
//!        canonical form       signatures,     │  ▲     versions, host,          one pass: read, hash, place
//!                             digests, headers└──┘     expiry, rollback
//!                                            unlock: what is encrypted, for who has the key
//! ```
//!
//! Each arrow consumes what stands left of it, and constructors are private, so that a step cannot be skipped. The steps
//! are numbered as in `bundles/FORMAT.md`. This crate knows no network, no clock, no path and no tensor library: bytes come
//! from a [`Source`] that somebody opened, time and host come as values.
//!
//! The write side is here as far as it needs no key: [`Manifest::new`], [`ModelConfig::new`], [`OmsStatement::about`],
//! [`ReleaseStatement::about`], [`pre_authentication_encoding`], [`Attestation::new`] and [`archive::write`].
//!
//! Beside the bundles stands [`release`], the signed list of the appliance's own files.

pub mod age;
pub mod archive;
pub mod attestation;
pub mod certificate;
mod claims;
pub mod config;
mod digest;
mod error;
mod gguf;
pub mod json;
mod key;
pub mod limits;
mod load;
pub mod manifest;
mod memory;
mod names;
mod opening;
mod permissions;
mod policy;
mod reader;
pub mod release;
mod safetensors;
mod sealed;
mod settings;
mod source;
pub mod statement;
mod tensor;
mod timestamp;
pub mod trust;
mod unlock;
mod verified;
mod verify;
mod weights;

pub use attestation::{Attestation, BUNDLE_MEDIA_TYPE, PAYLOAD_TYPE, pre_authentication_encoding};
pub use certificate::{Authority, Certificate};
pub use claims::Claims;
pub use config::{Capabilities, ModelConfig, ModelDescriptor, ModelFileSystem, ModelFileSystemKind, ModelProperties};
pub use digest::{Digest, Hasher};
pub use error::{BundleError, ErrorClass, MaySign, WeightHeaderError};
pub use gguf::{GgufArray, GgufHeader, GgufValue};
pub use key::{Curve, KeyId, PublicKey};
pub use limits::FORMAT_VERSION;
pub use load::{AdmittedBundle, LoadError};
pub use manifest::{
    CONFIG_MEDIA_TYPE, FORMAT_ANNOTATION, Layer, LayerKind, MANIFEST_MEDIA_TYPE, MODEL_ARTIFACT_TYPE, Manifest,
    WeightFormat,
};
pub use memory::TensorBytes;
pub use names::{BundleName, BundlePath, BundleVersion, Channel, Counter, Epoch};
pub use opening::{NotAFile, regular, without_waiting};
pub use permissions::writable_by_all;
pub use policy::{
    AdmissionNotice, Bytes, Examination, Fact, Finding, Footprint, HighWaterMarks, HostFacts, MemoryPart, Origin,
    PolicyViolation, Rule, RuntimePolicy, Verdict, ViolationClass,
};
pub use release::ReleaseManifest;
pub use safetensors::SafetensorsHeader;
pub use sealed::SealedBundle;
pub use settings::{Setting, SettingsSchema};
pub use source::{Source, read_exact};
pub use statement::{CosignStatement, OmsStatement, Predicate, ReleaseStatement, Statement};
pub use tensor::{TensorEntry, TensorInfo, TensorKind, TensorMemory, TensorSink};
pub use timestamp::Timestamp;
pub use trust::{DowngradeToken, RevocationList, Role, RootDocument, TrustRoot};
pub use verified::{BundleIdentity, VerifiedBundle};
pub use weights::{WeightFile, WeightHeader};
