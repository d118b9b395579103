//! Evaluation: how good are the answers?
//!
//! | module | contents |
//! |---|---|
//! | [`task`] | the queries and the gallery of a split, and which videos are relevant |
//! | [`methods`] | methods that map images and videos into one space |
//! | [`retrieval`] | rankings of a task, and validation |
//! | [`pools`], [`ann`] | mAP over candidate pools, and through the HNSW index |
//! | [`ranking`], [`metrics`], [`summary`] | exact ranking, metrics of rankings, means and intervals |
//! | [`table`], [`report`], [`trec`] | the table of methods, the report page, files for trec_eval |
//! | [`quality`], [`looks`], [`kinds`] | the distortion suite, frames with surroundings, the same-kind search |

pub mod ann;
pub mod embedding;
mod error;
pub mod kinds;
pub mod looks;
pub mod methods;
pub mod metrics;
pub mod pools;
pub mod quality;
pub mod ranking;
pub mod report;
pub mod retrieval;
pub mod summary;
pub mod table;
pub mod task;
pub mod trec;

pub use error::{Error, SplitCounts};

/// Least confidence of a confident answer.
const CONFIDENT: f32 = 0.95;
