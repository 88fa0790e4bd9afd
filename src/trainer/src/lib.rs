//! Offline training of models that Ampoule serves: from nothing, on text of our own ([`mod@pretrain`]), and of adapters to
//! a sealed base on a site's examples ([`tuning`]).
//!
//! Read in this order: a [`recipe`] names a [`corpus`] of [`pattern`]s, which [`surface`] dresses and [`rows`] lays out
//! as the tokens of a [`vocabulary`]; the [`learner`] moves the weights, [`pretrain`] holds it all together, and
//! [`export`] and [`evaluation`] see to the end.
//!
//! A run is a function of its recipe: every draw comes from a generator keyed by the seed, what it is for and a
//! counter, so that nothing depends on order, time or threads.

pub mod corpus;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod greedy;
pub mod learner;
pub mod memory;
pub mod optimizer;
pub mod pattern;
pub mod pretrain;
pub mod progress;
pub mod recipe;
pub mod rows;
pub mod surface;
pub mod tuning;
pub mod vocabulary;
