//! Who is trusted, and for how long: four signed documents of one form.
//!
//! ```text
//! root.json ─pin─► TrustRoot ─succeed(next root.json)─► TrustRoot
//!                            ─with_revocations(revocations.json)─► ─with_downgrade(token)─► TrustRoot
//! ```
//!
//! A root is **pinned** by whoever installs it, and taken as it is; from then on a root comes only from the one before
//! it, signed by a threshold of both. Each arrow consumes what stands left of it and there is no other constructor, so
//! an unsigned successor or an unverified list cannot be had. A list and a token are part of the root that verified
//! them: whoever verifies or admits a bundle cannot forget to ask them.

mod chain;
mod document;
mod downgrade;
mod revocation;
mod root;
mod summary;

pub use document::{DocumentSignature, SignedPart, TrustDocument};
pub use downgrade::{DowngradeDocument, DowngradePart, DowngradeToken};
pub use revocation::{MinimumCounter, RevocationDocument, RevocationList, RevocationPart};
pub use root::{Role, RoleKeys, RootDocument, RootKey, RootKeyValue, RootRole, TrustRoot};
pub use summary::RootSummary;
