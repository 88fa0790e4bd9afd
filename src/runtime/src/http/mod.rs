//! The HTTP surface: one server, one model, OpenAI's API.
//!
//! ```text
//! TCP/TLS ─► server: connection and header limits ─► access: request id, panic guard, one log line
//!         ─► auth: deny by default ─► router ─► limits: body cap and deadline ─► openai: wire type
//!         ─► parameters, prompt: validated ─► generation: EngineHandle::submit ─► whole reply | sse
//!         client gone ⇒ Ticket dropped ⇒ the engine cancels at its next step
//! ```
//!
//! Inner layers speak no HTTP: `ampoule_inference` knows requests and refusals as types, and `error` turns those into
//! OpenAI's error bodies.  What is absent: no upload, no model load and no administration over the network, no fetch of
//! anything a request names, no template in a request, no cross-origin permission.  `admin` serves a UNIX socket of its own,
//! where the permissions of a file say who may load and unload adapters.
//!
//! Without a key only `GET /livez` and `GET /readyz` answer, with a status and an empty body, and `GET /`, with the empty
//! shell of the status page: the same bytes at every site.

mod access;
mod admin;
mod auth;
mod chat;
mod completions;
mod connections;
mod defaults;
mod embeddings;
mod error;
mod generation;
mod health;
mod limits;
mod listener;
mod metadata;
mod models;
mod openai;
mod parameters;
mod prompt;
mod reading;
mod request_id;
mod router;
mod server;
mod sse;
mod state;
mod status;
pub use admin::Admin;
pub use defaults::SamplingDefaults;
pub use limits::HttpLimits;
pub use listener::Listener;
pub use router::ENDPOINTS;
pub use server::{ALPN_PROTOCOLS, Ended, Listeners, ServeError, Server};
pub use state::{ServedModel, ServerParts};
