//! The HTTP surface from outside: a real server over a real engine on a tiny sealed model, spoken to in raw bytes.

#![allow(clippy::unwrap_used)]

mod client;
mod support;

mod authentication;
mod chat;
mod completions;
mod embeddings;
mod hostile;
mod http2;
mod lifecycle;
mod observability;
mod published_series;
mod refusals;
mod status_page;
mod tls;
