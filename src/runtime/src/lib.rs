//! The appliance, as a library so that its tests can reach each part: the command line, the configuration, the
//! straight line from a sealed file to a serving process, and the HTTP surface.  The binary only maps an error to its
//! exit code.
//!
//! Modules stand in reading order.

pub mod adapters;
pub mod admin_socket;
pub mod admission;
pub mod bench;
pub mod boot;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod exit;
pub mod expiry;
pub mod host;
pub mod http;
pub mod identity;
pub mod inherited;
pub mod installation;
pub mod keys;
pub mod listen;
pub mod metrics;
mod passing;
mod permissions;
pub mod progress;
mod replace;
pub mod report;
pub mod sandbox;
pub mod signals;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod trust;
