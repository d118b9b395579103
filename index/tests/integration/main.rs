//! Integration tests: the crate through its public interface.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(unix)]
mod crash;
mod damage;
mod filters;
mod golden;
mod graph;
mod index;
mod rows;
mod sketches;
mod support;
