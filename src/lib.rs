//! reelseek finds the videos, and the moments in them, that match a picture.
//!
//! # The tour
//!
//! ```text
//! video ─── media ── frames ── encode ── features ──┐ gmf  ┌── vectors ── index ──┐
//! picture ─ media ── pixels ── encode ── features ──┘      └── vector ─────────────┴── search ── cli │ serve
//! ```
//!
//! An encoder turns a picture into features and a clip (8 frames) into features of another length. A
//! checkpoint maps both to unit vectors of one length. The index stores one vector (row) per clip and finds
//! the rows nearest to the vector of a picture.
//!
//! The code is split into rooms. Each room answers one question and may use only the rooms named here. A test
//! compares this table with the code (`tests/integration/architecture.rs`).
//!
//! | room | question | uses |
//! |---|---|---|
//! | `base` | which helpers need no other room? (files, random numbers, matrix products, ...) | - |
//! | [`media`] | which pictures are in a file, and at which times? | base |
//! | [`encode`] | what are the features of a picture and of a clip? | base, media |
//! | [`features`] | which feature sets are on disk, with which labels and splits? | base |
//! | [`gmf`] | how do features of different lengths become comparable? (model, training) | base, features |
//! | [`reelseek_index`] | which rows are nearest, among those that match the filter? | - |
//! | [`search`] | which videos, and which moments, match a picture? | base, media, encode, gmf, index |
//! | [`ingest`] | how does an index follow the files in a folder? | all above |
//! | [`research`] | how good are the answers, and which data trains a checkpoint? | all above |
//! | [`serve`] | how do browsers and programs search? (web page, HTTP API) | all but features, research |
//! | [`cli`] | what does the command line mean? | all |
//!
//! **Indexing.** `cli::index` calls [`ingest`]. It finds files with [`media::walk`], decodes each with
//! [`media::frames`], describes every frame with an [`encode::Encoder`], joins 8 frames to a clip in
//! [`ingest::ClipBuilder`], embeds the clip with a [`gmf::Folded`] checkpoint and passes the row to a
//! [`reelseek_index::Writer`].
//!
//! **Search.** `cli::search` reads a picture with [`media::open`] and calls [`search::Engine::search`]. The
//! engine embeds the picture in several views, fetches the nearest rows, compares the picture with their
//! frames ([`search::align`]), joins neighbouring rows to a [`search::Moment`] and converts the evidence to a
//! confidence ([`search::Calibration`]).
//!
//! **Server.** [`serve`] answers the same searches over HTTP. Each request uses one snapshot of the index. It
//! passes the guards (host, token, limits) and waits in a queue. The page in `assets/page` is a client of
//! this API.
//!
//! **Training.** `cli::train` opens a [`features::Set`] or makes one from videos with [`research::pairs`].
//! [`gmf::train()`] trains the model on the CPU with hand-written gradients ([`gmf::Cpu`]; [`gmf::Autograd`]
//! is the reference and the way to a GPU) and keeps the best epoch. [`gmf::Weights::fold`] reduces the model
//! to the [`gmf::Folded`] checkpoint that indexing and searching use.
//!
//! **Evaluation.** `cli::dataset` draws frames and clips from annotations ([`features::benchmark`]),
//! [`research::extract`] encodes them into a [`features::Set`], and `cli::eval` ranks its videos for its
//! pictures ([`research::eval`]).
//!
//! [`encode::registry`] lists the encoders, and [`encode::hub`] downloads their weights.

// Only `base/linalg.rs` has `unsafe` code, for matrix products. A test checks this.
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
