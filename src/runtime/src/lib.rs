//! The appliance, as a library so that its tests can reach each part: the command line, the configuration, the
//! straight line from a sealed file to a serving process, and the HTTP surface.  The binary only maps an error to its
//! exit code.
//!
//! Modules stand in reading order.

pub mod exit;

pub mod config;

pub mod http;
pub mod keys;
pub mod metrics;

pub mod client;
pub mod telemetry;
pub mod tls;
