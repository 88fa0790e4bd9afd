//! The HTTP surface: listeners, authentication, OpenAI wire types and error bodies.
