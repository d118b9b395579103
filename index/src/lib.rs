//! A search index for unit-norm `f32` vectors grouped into videos.
//!
//! The way in: [`Index::create`] or [`Index::open`] gives an [`Index`]; one [`Writer`] at a time puts
//! and removes videos and publishes them with [`Writer::commit`]; any number of [`Searcher`]s, each a
//! snapshot of one commit, answer queries. Vectors lie in immutable memory-mapped segment files, large
//! ones with an HNSW graph beside them, the videos' metadata in a tantivy index, and tantivy's atomically replaced `meta.json` carries our
//! manifest: there is a single commit point for both. The files are described byte by byte in this
//! crate's README.
//!
//! ```
//! use reelseek_index::{Effort, Index, Settings, Span, Video};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let dir = place.path().join("index");
//! let index = Index::create(&dir, &Settings::new(2))?;
//! let mut writer = index.writer()?;
//! let video = Video { id: "a".into(), title: "Surfing at dawn".into(), ..Video::default() };
//! let spans = [Span { start_ms: 0, end_ms: 2_000, at_ms: 1_000 }];
//! writer.put(video, &spans, &[0.6, 0.8], &[])?;
//! writer.commit()?;
//!
//! let searcher = index.searcher()?;
//! let only = searcher.filter("title:surfing")?;
//! let hits = searcher.search(&[0.0, 1.0], 10, Some(&only), Effort::Default)?;
//! assert_eq!(searcher.video(hits[0].video)?.id, "a");
//! assert!((hits[0].score - 0.8).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("segment files are little-endian and mapped as they lie: big-endian targets are not supported");

mod directory;
mod error;
mod graph;
mod index;
mod manifest;
#[allow(unsafe_code)] // maps memory
mod map;
mod nearest;
mod packed;
mod rounding;
mod scan;
mod searcher;
mod segment;
#[allow(unsafe_code)] // computes with SIMD
mod simd;
mod text;
mod types;
mod verify;
mod writer;

pub use error::{Error, Result};
pub use index::Index;
pub use searcher::Searcher;
pub use simd::{dot, gemv};
pub use types::{Builder, Effort, Hit, Hnsw, Precision, RowRef, Settings, Span, Video, VideoNumber, VideoSet};
pub use verify::{Problem, Report};
pub use writer::Writer;
