//! A search index for unit-norm `f32` vectors, grouped into videos.
//!
//! [`Index::create`] or [`Index::open`] returns an [`Index`]. One [`Writer`] at a time puts and removes
//! videos and publishes them with [`Writer::commit`]. Any number of [`Searcher`]s answer queries, each on a
//! snapshot of one commit.
//!
//! Vectors are stored in immutable memory-mapped segment files. Large segments have an HNSW graph. The
//! metadata of the videos is in a tantivy index. tantivy replaces its `meta.json` atomically, and that file
//! carries the manifest of this crate, so that one commit publishes everything. The README of the crate
//! describes all files byte by byte.
//!
//! The crate never prints or logs, and installs no signal handler unless [`install_sigbus_guard`] is called.
//!
//! ```
//! use reelseek_index::{Effort, Index, IndexSettings, Span, Video};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let dir = temporary.path().join("index");
//! let index = Index::create(&dir, &IndexSettings::new(2))?;
//! let mut writer = index.writer()?;
//! let video = Video { id: "a".into(), title: "Surfing at dawn".into(), ..Video::default() };
//! let spans = [Span { start_ms: 0, end_ms: 2_000, at_ms: 1_000 }];
//! writer.put(video, &spans, &[0.6, 0.8], &[])?;
//! writer.commit()?;
//!
//! let searcher = index.searcher()?;
//! let surfing = searcher.filter("title:surfing")?;
//! let hits = searcher.search(&[0.0, 1.0], 10, Some(&surfing), Effort::Default)?;
//! assert_eq!(searcher.video(hits[0].video)?.id, "a");
//! assert!((hits[0].score - 0.8).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("segment files are little-endian and mapped without conversion: big-endian targets are not supported");

mod directory;
mod error;
mod filter;
mod graph;
mod index;
mod io;
mod manifest;
#[allow(unsafe_code)] // maps memory
mod map;
mod names;
mod nearest;
mod packed;
#[cfg(test)]
mod properties;
mod rounding;
mod scan;
mod searcher;
mod segment;
#[allow(unsafe_code)] // SIMD instructions
mod simd;
mod text;
mod types;
mod verify;
mod writer;

pub use error::{Error, Result};
pub use filter::{FILTER_SYNTAX, MAX_FILTER_BYTES, MAX_FILTER_WORDS};
pub use index::Index;
pub use map::install_sigbus_guard;
pub use searcher::Searcher;
pub use simd::{dot, gemv};
pub use types::{
    Effort, GraphBuilder, Hit, HnswSettings, IndexSettings, RowPrecision, RowRef, SegmentCounts, Span, Video,
    VideoNumber, VideoSet,
};
pub use verify::{VerifyProblem, VerifyReport};
pub use writer::Writer;
