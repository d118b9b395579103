//! How good are the answers?

pub mod ann;
pub mod embedding;
pub mod kinds;
pub mod methods;
pub mod metrics;
pub mod quality;
pub mod ranking;
pub mod report;
pub mod retrieval;
pub mod summary;
pub mod table;
pub mod trec;
