//! The API keys: their file, their hashes, and how one is added, listed and revoked.
