//! Fine-tuning a sealed base model at the site: from examples to an adapter.
//!
//! ```text
//! examples.jsonl ─read─► Example* ─tokenise─► Lesson* ─┐
//! base.bundle ─verify, admit, load, prove─► Base ──────┴─tune─► Adapter ─► PEFT folder
//! ```
//!
//! Nothing is guessed: a line that is no example, and a template in which the assistant's words cannot be found, are
//! refused before the first step, with the line and the cure.

pub mod answers;
pub mod base;
pub mod checkpoint;
pub mod examples;
pub mod forecast;
pub mod lessons;
mod lines;
pub mod low_rank;
mod page;
pub mod peft;
pub mod report;
pub mod schedule;
pub mod tune;
