//! reelseek finds the videos, and the moments in them, that match a picture.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use reelseek::Cancel;
//! use reelseek::ingest::{FileOutcome, IndexEvent, IndexOptions, Indexer};
//! use reelseek::media;
//! use reelseek::search::SearchOptions;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Index a folder. A later run with the same index decodes only new and changed files.
//! let cancel = Cancel::default();
//! let options = IndexOptions::new(["Videos"]).jobs(4);
//! let indexer = Indexer::open(Path::new("Videos/.reelseek"), options, &cancel, |_| {})?;
//! let summary = indexer.run(&cancel, |event| {
//!     if let IndexEvent::File { outcome: FileOutcome::Failed { error, .. }, .. } = event {
//!         eprintln!("{error}");
//!     }
//! })?;
//! println!("{} videos with {} rows", summary.videos, summary.rows);
//!
//! // Search it with a picture.
//! let engine = indexer.into_engine()?;
//! let opened = media::open(Path::new("screenshot.jpg"))?;
//! let answer = engine.search(&opened.picture, &SearchOptions::default().page(0, 3).min_confidence(0.5))?;
//! for result in answer.results {
//!     let seconds = result.moment.at_ms / 1000;
//!     println!("{:.0} % {} at {seconds} s", result.confidence * 100.0, result.video.path);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Cargo features
//!
//! All are on by default: `cli` (the program), `serve` (web page and HTTP API), `research` (training and
//! evaluation), `encoders` (downloaded encoders), `kinds` (the embedded learned encoder) and `onnx`. Without
//! them the library indexes folders and searches them with the embedded encoder.
//!
//! # The tour
//!
//! ```text
//! video ─── media ─ frames ─ encode ─ features ──┐ gmf  ┌── vectors ── index ──┐
//! picture ─ media ─ pixels ─ encode ─ features ──┘      └── vector ─────────────┴── search ── cli │ serve
//! ```
//!
//! An encoder turns a picture into features, and a clip (8 frames) into features of another length. A
//! checkpoint maps both to unit vectors of one length. The index stores one vector (row) per clip and finds
//! the rows nearest to the vector of a picture.
//!
//! The code is split into rooms. Each room answers one question and may use only the rooms listed here. A
//! test compares the code with these rules (`tests/integration/architecture.rs`).
//!
//! | room | question | uses |
//! |---|---|---|
//! | `base` | which helpers need no other room? (files, random numbers, matrix products, ...) | - |
//! | [`media`] | which pictures are in a file, and at which times? | base |
//! | [`encode`] | what are the features of a picture and of a clip? | base, media |
//! | `features` | which feature sets are on disk, with which labels and splits? | base |
//! | [`gmf`] | how do features of different lengths become comparable? | base, features, index |
//! | [`reelseek_index`] | which rows are nearest, among those that match the filter? | - |
//! | [`collection`] | which encoder and checkpoint belong to an index folder? | all above but features |
//! | [`search`] | which videos, and which moments, match a picture? | all above but features |
//! | [`ingest`] | how does an index follow the files in a folder? | all above |
//! | `research` | how good are the answers, and which data trains a checkpoint? | all above |
//! | `serve` | how do browsers and programs search? (web page, HTTP API) | all above but features, research |
//! | `cli` | what does the command line mean? | all |
//!
//! **Indexing.** [`ingest::Indexer`] finds files with [`media::walk`], decodes each with
//! [`media::frames_without_gaps`], describes every frame with an [`encode::Encoder`], joins 8 frames to a
//! clip with an [`ingest::ClipBuilder`], embeds the clip with a [`gmf::Folded`] checkpoint and passes the row
//! to a [`reelseek_index::Writer`]. [`collection::Collection`] records in the index folder which encoder and
//! checkpoint made the rows.
//!
//! **Search.** [`search::Engine`] embeds a picture in several views, fetches the nearest rows, compares the
//! picture with their frames ([`search::align`]), joins neighbouring rows to a [`search::Moment`] and
//! converts the evidence to a confidence ([`collection::Calibration`]). If the whole picture has no sure
//! answer, the same is done with parts of it (`search::parts`).
//!
//! **Server.** `serve` answers the same searches over HTTP. A request passes the guards (host, token,
//! limits), waits in a queue, and then uses one snapshot of the index. The page in `assets/page` is a client
//! of this API.
//!
//! **Training.** The command `train` opens a `features::FeatureSet` or makes one from videos
//! (`research::fit::pairs`). `gmf::train` takes steps with `gmf::CpuStepper`, whose gradients are written by
//! hand. `gmf::AutogradStepper` is its reference and runs on a GPU. `gmf::GmfWeights::fold` reduces the
//! best epoch to the small [`gmf::Folded`] checkpoint that indexing and searching use.
//!
//! **Evaluation.** The command `dataset` draws frames and clips from annotations (`features::benchmark`),
//! `extract` encodes them into a `features::FeatureSet`, and `eval` ranks the videos of the set for each of
//! its images (`research::eval`): `methods` map both into one space, `ranking` ranks exactly, `metrics` and
//! `summary` judge the rankings, and `table`, `report` and `trec` write the results.
//!
//! [`encode::registry`] lists the encoders.

// Only `base/linalg.rs` (matrix products) and `base/allocator.rs` have `unsafe` code. A test checks this.
#![deny(unsafe_code)]

mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod collection;
pub mod encode;
#[cfg(feature = "research")]
pub mod features;
pub mod gmf;
pub mod ingest;
pub mod media;
#[cfg(feature = "research")]
pub mod research;
pub mod search;
#[cfg(feature = "serve")]
pub mod serve;

pub use base::{Cancel, ErrorPaths};
