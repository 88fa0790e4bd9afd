//! The write side of the sealed format: pack, digest, sign.  Used at the vendor's and, for adapters, at the site.
