//! What the process measures about itself, in Prometheus terms.
