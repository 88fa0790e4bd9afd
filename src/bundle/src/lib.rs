//! Answers one question: may this bundle be used?  Reads and writes the sealed format, verifies it and admits it.
