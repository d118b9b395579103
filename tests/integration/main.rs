//! All integration tests, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod architecture;
#[cfg(target_os = "linux")]
mod children;
mod cli;
mod eval;
mod formats;
mod hub;
mod page;
mod pictures;
mod previews;
mod serve;
mod serve_media;
mod support;
mod times;
mod train;
