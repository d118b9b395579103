//! How good are the answers?

pub mod quality;
pub mod retrieval;
