//! From one trust root to the next: FORMAT.md §7.1.
//!
//! The step is by one version, so that no root in between is skipped: what it took away might otherwise be missed. A
//! root that was stolen from its vendor's past cannot come back, because a version never goes back.

use crate::error::BundleError;

use super::root::{Role, TrustRoot};

impl TrustRoot {
    /// The root that follows this one, if `next` is it: version N+1, signed by a threshold of the `root` keys of this
    /// root and of its own. What this root knew as revoked ends with it: the list is verified anew, against the next
    /// root.
    ///
    /// # Errors
    /// [`BundleError::RootVersion`] for a gap or an older root, [`BundleError::TooFewDocumentSignatures`],
    /// [`BundleError::BadDocumentSignature`] and [`BundleError::MissingRole`] for what is not signed by both, and
    /// whatever a root is refused for.
    pub fn succeed(self, next: &[u8]) -> Result<TrustRoot, BundleError> {
        let next = TrustRoot::read(next)?;
        let expected = self.version().saturating_add(1);
        if next.version() != expected {
            return Err(BundleError::RootVersion { found: next.version(), expected });
        }
        next.document().require(Role::Root, &self, "the root before it")?;
        next.document().require(Role::Root, &next, "the root itself")?;
        Ok(next)
    }
}
